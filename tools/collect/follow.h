/* SPDX-License-Identifier: Apache-2.0 */
/* What the drivers of a collector (once.c, tools/cmd_collect.c) call. */
#ifndef SKEW_COLLECT_FOLLOW_H
#define SKEW_COLLECT_FOLLOW_H

#include "node.h"

int skew_node_init(struct skew_node *c, const char *out);
void skew_node_free(struct skew_node *c);

/** @return 0 locked, −EWOULDBLOCK another collector of this node is at work, other negative errno
 */
int skew_node_lock(struct skew_node *c);

/** One look at everything; after an error all is forgotten and the next round begins anew. */
int skew_node_round(struct skew_node *c);

int skew_node_publish(struct skew_node *c);

/** Processes whose end was not seen. */
uint32_t skew_node_live(const struct skew_node *c);

/** Removes what is no longer needed and lets go of the lock. */
void skew_node_finish(struct skew_node *c);

/* What the collector that holds the lock can be asked for. It answers after a round that began
 * later. */
#define SKEW_ASK_PUBLISH "publish"
#define SKEW_ASK_LOOK                                                                              \
    "look" /* at the spools that are there now; it keeps an eye on them from then on */

#define SKEW_ASK_SECONDS 60 /* without a sign of life of the holder, before it is given up */

/**
 * Asks the collector that has the lock, each asker for itself, and waits until it has done so or
 * has gone.
 *
 * @param pause  called between two looks; sleeps for a moment
 * @return 0 the lock is ours: do it yourself; 1 it is done; −ETIMEDOUT the other shows no sign of
 *         life; other negative errno
 */
int skew_node_ask(struct skew_node *c, const char *what, void (*pause)(const void *user),
                  const void *user);
/** Tells askers that the holder of the lock is at work. */
void skew_node_sign(const struct skew_node *c);

/** Requests of all askers, as the holder of the lock found them before a round. */
#define SKEW_REQUEST_BYTES 64
struct skew_requests {
    char (*names)[SKEW_REQUEST_BYTES];
    size_t count;
};
/** Notes what is asked for now; returns how many. */
size_t skew_requests_open(struct skew_node *c, const char *what, struct skew_requests *requests);
/** Forgets them; with `answer` the askers see that it is done. */
void skew_requests_close(struct skew_node *c, struct skew_requests *requests, bool answer);

/** The long-running collector. `run_id` may be NULL. @return exit status */
int skew_node_follow(struct skew_node *c, bool until_idle);

#endif
