/* SPDX-License-Identifier: Apache-2.0 */
/* One drain of everything that is left, by itself or through the collector that is at work already. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "follow.h"

#define WAIT_SECONDS 60

static int request_path(const struct skew_node *c, const char *what, char *path, size_t size)
{
    return (size_t)snprintf(path, size, "%s/%s-%.8s", c->state, what, c->node) < size ? 0 : -ENAMETOOLONG;
}

int skew_node_request(struct skew_node *c, const char *what)
{
    char path[PATH_MAX];
    if (request_path(c, what, path, sizeof path))
        return -ENAMETOOLONG;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

bool skew_node_requested(struct skew_node *c, const char *what)
{
    char path[PATH_MAX];
    return request_path(c, what, path, sizeof path) == 0 && access(path, F_OK) == 0;
}

void skew_node_answer(struct skew_node *c, const char *what)
{
    char path[PATH_MAX];
    if (request_path(c, what, path, sizeof path) == 0)
        unlink(path);
}

/* @return 0 published by the other, 1 the lock is ours now, negative errno */
static int wait_for_other(struct skew_node *c)
{
    int error = skew_node_request(c, SKEW_ASK_PUBLISH);
    uint64_t start = skew_node_now_ns();
    while (!error && skew_node_requested(c, SKEW_ASK_PUBLISH)) {
        struct timespec pause = {0, 50 * 1000000};
        nanosleep(&pause, NULL);
        int locked = skew_node_lock(c);
        if (locked == 0)
            return 1;
        if (locked != -EWOULDBLOCK)
            error = locked;
        else if (skew_node_now_ns() - start > WAIT_SECONDS * 1000000000ull)
            error = -ETIMEDOUT;
    }
    return error;
}

static int drain(struct skew_node *c)
{
    /* Asked of a collector that died since. */
    bool asked = skew_node_requested(c, SKEW_ASK_PUBLISH), look = skew_node_requested(c, SKEW_ASK_LOOK);
    c->last_round = true;
    int error = skew_node_round(c);
    if (!error && c->db && (c->changed || c->proc_count))
        error = skew_node_publish(c);
    if (c->progress && c->messages)
        fprintf(c->messages, "\r\033[K");
    if (asked && !error)
        skew_node_answer(c, SKEW_ASK_PUBLISH);
    if (look)
        skew_node_answer(c, SKEW_ASK_LOOK);
    skew_node_finish(c);
    return error;
}

int skew_collect_left(const char *out, FILE *messages, bool progress, struct skew_collect_result *result)
{
    struct skew_node c;
    int error = skew_node_init(&c, out);
    c.messages = messages;
    c.progress = progress;
    bool anything = !error && skew_find_anything(&c);
    if (!anything)
        goto out;
    error = skew_node_lock(&c);
    if (error == -EWOULDBLOCK) {
        error = wait_for_other(&c);
        if (error <= 0)
            goto out;
        error = 0;
    }
    if (!error)
        error = drain(&c);
    else
        skew_node_say(&c, "error", NULL, "Nobody can be kept from collecting %s at the same time (%s: %s): nothing is done.",
                 c.out, c.lock_path, strerror(-error));
out:
    if (error == -ETIMEDOUT)
        skew_node_say(&c, "error", NULL, "The collector that holds %s has not answered for %d s; look for a "
                 "stopped `skewscope collect`, or a full disk.", c.lock_path, WAIT_SECONDS);
    if (result)
        *result = c.result;
    skew_node_free(&c);
    return error ? error : anything;
}
