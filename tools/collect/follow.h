/* SPDX-License-Identifier: Apache-2.0 */
/* What the drivers of a collector (once.c, tools/cmd_collect.c) call. */
#ifndef SKEW_COLLECT_FOLLOW_H
#define SKEW_COLLECT_FOLLOW_H

#include "collector.h"

int skew_collector_init(struct skew_collector *c, const char *out);
void skew_collector_free(struct skew_collector *c);

/** @return 0 locked, −EWOULDBLOCK another collector of this node is at work, other negative errno */
int skew_collector_lock(struct skew_collector *c);

/** One look at everything; after an error all is forgotten and the next round begins anew. */
int skew_collector_round(struct skew_collector *c);

int skew_collector_publish(struct skew_collector *c);

/** Processes whose end was not seen. */
uint32_t skew_collector_live(const struct skew_collector *c);

/** Removes what is no longer needed and lets go of the lock. */
void skew_collector_finish(struct skew_collector *c);

/** Asks the collector that holds the lock to publish. @return 0, or negative errno */
int skew_collector_request(struct skew_collector *c);
/** Whether a request is open. */
bool skew_collector_requested(struct skew_collector *c);
void skew_collector_answer(struct skew_collector *c);

/** The long-running collector. `run_id` may be NULL. @return exit status */
int skew_collector_follow(struct skew_collector *c, bool until_idle);

#endif
