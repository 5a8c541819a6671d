/* SPDX-License-Identifier: Apache-2.0 */
/* One drain of everything that is left, by itself or through the collector that is at work already.
 */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "follow.h"

static void pause_asking(const void *user)
{
    struct timespec pause = {0, 50 * 1000000};
    (void)user;
    nanosleep(&pause, NULL);
}

static int drain(struct skew_node *c)
{
    /* Asked of a collector that died since. */
    struct skew_requests asked, look;
    skew_requests_open(c, SKEW_ASK_PUBLISH, &asked);
    skew_requests_open(c, SKEW_ASK_LOOK, &look);
    c->last_round = true;
    int error = skew_node_round(c);
    if (!error && c->db && (c->changed || c->proc_count))
        error = skew_node_publish(c);
    if (c->progress && c->messages)
        fprintf(c->messages, "\r\033[K");
    skew_requests_close(c, &asked, !error);
    skew_requests_close(c, &look, true);
    skew_node_finish(c);
    return error;
}

/* One that was killed while it tidied up may have left its lock, and nothing besides. */
static void tidy(struct skew_node *c)
{
    if (access(c->state, F_OK) == 0 && skew_node_lock(c) == 0)
        skew_node_finish(c);
}

int skew_collect_left(const char *out, FILE *messages, bool progress,
                      struct skew_collect_result *result)
{
    struct skew_node c;
    int error = skew_node_init(&c, out);
    c.messages = messages;
    c.progress = progress;
    bool anything = !error && skew_find_anything(&c);
    if (!anything) {
        if (!error)
            tidy(&c);
        goto out;
    }
    error = skew_node_lock(&c);
    if (error == -EWOULDBLOCK) {
        error = skew_node_ask(&c, SKEW_ASK_PUBLISH, pause_asking, NULL);
        if (error == 1) {
            error = 0;
            goto out;
        }
    }
    if (!error)
        error = drain(&c);
    else if (error != -ETIMEDOUT)
        skew_node_say(
            &c, "error", NULL,
            "Nobody can be kept from collecting %s at the same time (%s: %s): nothing is done.",
            c.out, c.lock_path, strerror(-error));
out:
    if (result)
        *result = c.result;
    skew_node_free(&c);
    return error ? error : anything;
}
