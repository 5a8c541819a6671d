/* SPDX-License-Identifier: Apache-2.0 */
/* What the drivers of a collector (once.c, tools/cmd_collect.c) call. */
#ifndef SKEW_COLLECT_FOLLOW_H
#define SKEW_COLLECT_FOLLOW_H

#include "node.h"

int skew_node_init(struct skew_node *c, const char *out);
void skew_node_free(struct skew_node *c);

/** @return 0 locked, −EWOULDBLOCK another collector of this node is at work, other negative errno */
int skew_node_lock(struct skew_node *c);

/** One look at everything; after an error all is forgotten and the next round begins anew. */
int skew_node_round(struct skew_node *c);

int skew_node_publish(struct skew_node *c);

/** Processes whose end was not seen. */
uint32_t skew_node_live(const struct skew_node *c);

/** Removes what is no longer needed and lets go of the lock. */
void skew_node_finish(struct skew_node *c);

/* What the collector that holds the lock can be asked for. It answers after a round that began later. */
#define SKEW_ASK_PUBLISH "publish"
#define SKEW_ASK_LOOK    "look" /* at the spools that are there now; it keeps an eye on them from then on */

/** @return 0, or negative errno */
int skew_node_request(struct skew_node *c, const char *what);
/** Whether a request is open. */
bool skew_node_requested(struct skew_node *c, const char *what);
void skew_node_answer(struct skew_node *c, const char *what);

/** The long-running collector. `run_id` may be NULL. @return exit status */
int skew_node_follow(struct skew_node *c, bool until_idle);

#endif
