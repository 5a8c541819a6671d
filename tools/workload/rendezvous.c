/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The meeting place. A slot in the mapping is written once by one rank, which then sets `ready`
 * (release); readers wait for that (acquire). Waiting sleeps: ranks share few cores.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rendezvous.h"

#define WAIT_US 500

struct slot {
    _Atomic int ready;
    ncclUniqueId id;
};

struct skew_rendezvous {
    unsigned ranks, slots;
    size_t results_bytes, mapped;
    const char *prefix; /* NULL: the mapping is shared */
    struct slot *slot;
    uint8_t *results;
};

int skew_rendezvous_open(struct skew_rendezvous **out, unsigned ranks, size_t results_bytes,
                         const char *prefix, char *error, size_t error_size)
{
    struct skew_rendezvous *r = calloc(1, sizeof *r);
    void *page = MAP_FAILED;
    size_t slots = (size_t)SKEW_COMMS * ranks;
    size_t head = (slots * sizeof(struct slot) + 4095) & ~(size_t)4095;
    if (r) {
        r->mapped = head + ranks * results_bytes;
        page = mmap(NULL, r->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    }
    if (page == MAP_FAILED) {
        snprintf(error, error_size, "cannot map memory that the ranks share: %s", strerror(errno));
        free(r);
        return -ENOMEM;
    }
    r->ranks = ranks;
    r->slots = (unsigned)slots;
    r->results_bytes = results_bytes;
    r->prefix = prefix;
    r->slot = page;
    r->results = (uint8_t *)page + head;
    *out = r;
    return 0;
}

void skew_rendezvous_close(struct skew_rendezvous **r)
{
    if (*r) {
        munmap((*r)->slot, (*r)->mapped);
        free(*r);
        *r = NULL;
    }
}

static void file_name(const struct skew_rendezvous *r, const char *what, unsigned number,
                      char *path, size_t size)
{
    snprintf(path, size, "%s.%s.%u", r->prefix, what, number);
}

/* Complete or not there: written beside and renamed. */
static int file_put(const struct skew_rendezvous *r, const char *what, unsigned number,
                    const void *data, size_t size)
{
    char path[4096], fresh[4200];
    file_name(r, what, number, path, sizeof path);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, data, size);
    int rc = n == (ssize_t)size ? 0 : n < 0 ? -errno : -ENOSPC;
    if (close(fd) && !rc)
        rc = -errno;
    if (!rc && rename(fresh, path))
        rc = -errno;
    return rc;
}

static int file_get(const struct skew_rendezvous *r, const char *what, unsigned number, void *data,
                    size_t size)
{
    char path[4096];
    int fd;
    file_name(r, what, number, path, sizeof path);
    while ((fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)) < 0) {
        if (errno != ENOENT)
            return -errno;
        usleep(20 * WAIT_US);
    }
    ssize_t n = read(fd, data, size);
    int rc = n == (ssize_t)size ? 0 : n < 0 ? -errno : -EIO;
    close(fd);
    return rc;
}

void skew_rendezvous_put(const struct skew_rank *rank, unsigned slot, const ncclUniqueId *id)
{
    struct skew_rendezvous *r = rank->job->rendezvous;
    if (r->prefix) {
        int rc = file_put(r, "id", slot, id, sizeof *id);
        if (rc)
            skew_rank_fail(rank, "--rendezvous %s: %s", r->prefix, strerror(-rc));
    }
    r->slot[slot].id = *id;
    atomic_store_explicit(&r->slot[slot].ready, 1, memory_order_release);
}

void skew_rendezvous_get(const struct skew_rank *rank, unsigned slot, ncclUniqueId *id)
{
    struct skew_rendezvous *r = rank->job->rendezvous;
    if (r->prefix) {
        int rc = file_get(r, "id", slot, id, sizeof *id);
        if (rc)
            skew_rank_fail(rank, "--rendezvous %s: %s", r->prefix, strerror(-rc));
        return;
    }
    while (!atomic_load_explicit(&r->slot[slot].ready, memory_order_acquire))
        usleep(WAIT_US);
    *id = r->slot[slot].id;
}

struct skew_results *skew_rendezvous_results(struct skew_rendezvous *r, unsigned rank)
{
    return (struct skew_results *)(void *)(r->results + rank * r->results_bytes);
}

void skew_rendezvous_publish(const struct skew_rank *rank)
{
    struct skew_rendezvous *r = rank->job->rendezvous;
    if (!r->prefix)
        return; /* the end of the process or thread publishes */
    int rc = file_put(r, "results", rank->world_rank, rank->results, r->results_bytes);
    if (rc)
        skew_rank_fail(rank, "--rendezvous %s: %s", r->prefix, strerror(-rc));
}

int skew_rendezvous_collect(struct skew_rendezvous *r)
{
    char path[4096];
    for (unsigned i = 0; r->prefix && i < r->ranks; i++) {
        int rc = file_get(r, "results", i, skew_rendezvous_results(r, i), r->results_bytes);
        if (rc)
            return rc;
        file_name(r, "results", i, path, sizeof path);
        unlink(path);
    }
    for (unsigned i = 0; r->prefix && i < r->slots; i++) {
        file_name(r, "id", i, path, sizeof path);
        unlink(path);
    }
    return 0;
}
