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
#include <unistd.h>

#include "follow.h"

static int request_path(struct skew_node *c, const char *what, char *path, size_t size)
{
    if (!c->token && getrandom(&c->token, sizeof c->token, 0) != sizeof c->token)
        c->token = (uint64_t)getpid() << 32 | (uint32_t)skew_node_now_ns();
    return (size_t)snprintf(path, size, "%s/%s-%.8s-%016" PRIx64, c->state, what, c->node,
                            c->token) < size
               ? 0
               : -ENAMETOOLONG;
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

void skew_node_withdraw(struct skew_node *c, const char *what)
{
    char path[PATH_MAX];
    if (request_path(c, what, path, sizeof path) == 0)
        unlink(path);
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
