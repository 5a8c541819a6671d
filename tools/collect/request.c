/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How one collector asks the one that holds the lock for something: an empty file of its own in the
 * state directory, which the holder removes when it has done so. Every asker has its own file: the
 * holder answers those that were there when its round began, and whoever asks during the round is
 * answered after the next.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "follow.h"

#define VAIN_MOST 50

static int request_path(struct skew_node *c, const char *what, char *path, size_t size)
{
    if (!c->token && getrandom(&c->token, sizeof c->token, 0) != sizeof c->token)
        c->token = (uint64_t)getpid() << 32 | (uint32_t)skew_node_now_ns();
    return (size_t)snprintf(path, size, "%s/%s-%.8s-%016" PRIx64, c->state, what, c->node,
                            c->token) < size
               ? 0
               : -ENAMETOOLONG;
}

static int request(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

/* When the holder of the lock last showed that it is at work. */
static struct timespec sign_of_life(const struct skew_node *c)
{
    struct stat st;
    return stat(c->lock_path, &st) == 0 ? st.st_mtim : (struct timespec){0};
}

void skew_node_sign(const struct skew_node *c)
{
    if (c->lock >= 0)
        futimens(c->lock, NULL);
}

int skew_node_ask(struct skew_node *c, const char *what, void (*pause)(const void *user),
                  const void *user)
{
    char path[PATH_MAX];
    bool asked = false;
    unsigned vain = 0;
    int error = request_path(c, what, path, sizeof path);
    uint64_t since = skew_node_now_ns();
    struct timespec sign = {0};
    while (!error) {
        if (asked && access(path, F_OK) < 0)
            return 1;
        error = skew_node_lock(c);
        if (error != -EWOULDBLOCK)
            break;
        error = 0;
        if (!asked) {
            error = request(path);
            asked = !error;
            /* The one before took the directory with it when it ended, and another has the lock
             * already; the next attempt to lock makes it again. */
            if (error == -ENOENT && ++vain < VAIN_MOST)
                error = 0;
        }
        struct timespec now = sign_of_life(c);
        if (now.tv_sec != sign.tv_sec || now.tv_nsec != sign.tv_nsec)
            since = skew_node_now_ns();
        sign = now;
        if (!error && skew_node_now_ns() - since > SKEW_ASK_SECONDS * 1000000000ull)
            error = -ETIMEDOUT;
        if (!error)
            pause(user);
    }
    if (asked)
        unlink(path);
    if (error == -ETIMEDOUT)
        skew_node_say(c, "error", NULL,
                      "The collector that holds %s has not answered for %d s; look for a "
                      "stopped `skewscope collect`, or a full disk.",
                      c->lock_path, SKEW_ASK_SECONDS);
    return error;
}

size_t skew_requests_open(struct skew_node *c, const char *what, struct skew_requests *requests)
{
    char prefix[32];
    struct dirent *entry;
    DIR *list = opendir(c->state);
    *requests = (struct skew_requests){0};
    snprintf(prefix, sizeof prefix, "%s-%.8s-", what, c->node);
    while (list && (entry = readdir(list))) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0 ||
            strlen(entry->d_name) >= SKEW_REQUEST_BYTES)
            continue;
        char(*more)[SKEW_REQUEST_BYTES] =
            realloc(requests->names, (requests->count + 1) * sizeof *more);
        if (!more)
            break; /* what is not noted now is answered after a later round */
        requests->names = more;
        strcpy(more[requests->count++], entry->d_name);
    }
    if (list)
        closedir(list);
    return requests->count;
}

void skew_requests_close(struct skew_node *c, struct skew_requests *requests, bool answer)
{
    char path[PATH_MAX];
    for (size_t i = 0; answer && i < requests->count; i++)
        if ((size_t)snprintf(path, sizeof path, "%s/%s", c->state, requests->names[i]) <
            sizeof path)
            unlink(path);
    free(requests->names);
    *requests = (struct skew_requests){0};
}
