/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How ranks meet (the file named by the unique id) and exchange a few bytes while communicators are
 * made. Runs in the caller's thread or in a group's job threads; every wait ends at the timeout,
 * with an abort of the communicator, or with the death of a rank that had joined.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "standin.h"

#define SLICE_NS 20000000u /* how long one sleep lasts at most before looking around */

static const char id_mark[16] = "skew-standin-id";

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static struct sn_id id_of_bytes(struct sn_id id, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;

    for (size_t i = 0; i < n; i++) {
        id.a = mix(id.a * 31 + p[i] + 1);
        id.b = mix(id.b * 37 + p[i] + 2);
    }
    return id;
}

void sn_id_fill(ncclUniqueId *id)
{
    static _Atomic uint64_t count;
    uint64_t noise[4] = {(uint64_t)getpid(), sn_now_ns(), atomic_fetch_add(&count, 1), 0};

    if (getrandom(noise, sizeof(noise), GRND_NONBLOCK) != (ssize_t)sizeof(noise))
        noise[3] = (uint64_t)(uintptr_t)id; /* pid, time and count still tell ids apart */
    memset(id, 0, sizeof(*id));
    memcpy(id->internal, id_mark, sizeof(id_mark));
    memcpy(id->internal + sizeof(id_mark), noise, sizeof(noise));
}

/* Any 128 bytes will do: applications also make ids up (NCCL_COMM_ID and the like). */
struct sn_id sn_id_of_unique(const ncclUniqueId *id)
{
    return id_of_bytes((struct sn_id){1, 2}, id->internal, sizeof(id->internal));
}

struct sn_id sn_id_derive(struct sn_id parent, const char *how, const int *words, int count)
{
    parent = id_of_bytes(parent, how, strlen(how));
    return id_of_bytes(parent, words, (size_t)count * sizeof(*words));
}

static uint64_t deadline_from_now(void)
{
    uint64_t timeout = sn_options()->timeout_ns;

    return timeout == UINT64_MAX ? UINT64_MAX : sn_now_ns() + timeout;
}

static ncclResult_t open_segment(struct ncclComm *comm, struct sn_id id, uint64_t deadline)
{
    uint64_t pause_ns = 200000;

    for (;;) {
        int error = comm->rank == 0 ? sn_segment_create(&comm->seg, id, comm->nranks)
                                    : sn_segment_open(&comm->seg, id, comm->nranks);
        if (!error)
            return ncclSuccess;
        if (error == -EINVAL)
            return sn_fail(ncclInvalidArgument,
                           "rank 0 of this unique id was given another number of ranks than %d",
                           comm->nranks);
        if (comm->rank == 0 || error != -ENOENT)
            return sn_fail(ncclSystemError, "no shared segment in %s nor %s: %s",
                           sn_options()->shm_dir, sn_options()->tmp_dir, strerror(-error));
        if (atomic_load(&comm->abort))
            return sn_fail(ncclInternalError, "aborted while waiting for rank 0");
        if (sn_now_ns() > deadline)
            return sn_fail(ncclRemoteError, "rank 0 did not appear within the timeout");
        usleep((useconds_t)(pause_ns / 1000));
        pause_ns = pause_ns < 5000000 ? pause_ns * 2 : pause_ns;
    }
}

/* Waits for peers until arrived() says so. */
static ncclResult_t wait_for(struct ncclComm *comm, uint64_t deadline, const char *what,
                             bool (*arrived)(struct ncclComm *, uint32_t), uint32_t arg)
{
    struct sn_slot *mine = &comm->seg.head->slot[comm->rank];

    for (;;) {
        uint32_t seen = atomic_load(&mine->boot_bell);
        if (arrived(comm, arg))
            return ncclSuccess;
        if (atomic_load(&comm->abort))
            return sn_fail(ncclInternalError, "aborted during %s", what);
        for (int r = 0; r < comm->nranks; r++)
            if (atomic_load(&comm->seg.head->slot[r].state) != SN_SLOT_EMPTY &&
                !sn_rank_alive(&comm->seg, r) && !arrived(comm, arg))
                return sn_fail(ncclRemoteError, "rank %d went away during %s", r, what);
        if (sn_now_ns() > deadline)
            return sn_fail(ncclRemoteError, "timeout during %s", what);
        sn_futex_wait(&mine->boot_bell, seen, SLICE_NS);
    }
}

static bool all_joined(struct ncclComm *comm, uint32_t unused)
{
    (void)unused;
    return atomic_load(&comm->seg.head->joined) == (uint32_t)comm->nranks;
}

ncclResult_t sn_boot_join(struct ncclComm *comm, struct sn_id id)
{
    uint64_t deadline = deadline_from_now();
    ncclResult_t result = open_segment(comm, id, deadline);

    if (result)
        return result;
    comm->id = id;
    int error = sn_segment_join(&comm->seg, comm->rank);
    if (error) {
        comm->seg.rank = comm->rank;
        result = error == -EEXIST ? sn_fail(ncclInvalidUsage, "rank %d is taken", comm->rank)
                                  : sn_fail(ncclSystemError, "cannot join: %s", strerror(-error));
        close(comm->seg.fd);
        return result;
    }
    comm->seg_open = true;
    result = wait_for(comm, deadline, "initialisation", all_joined, 0);
    if (result && comm->rank == 0)
        unlink(comm->seg.path); /* the communicator may never be aborted */
    return result;
}

/* Sequence numbers wrap after 2^32 rounds; differences stay small. */
static bool all_contributed(struct ncclComm *comm, uint32_t round)
{
    for (int r = 0; r < comm->nranks; r++)
        if ((int32_t)(atomic_load(&comm->seg.head->slot[r].boot_seq) - round) < 0)
            return false;
    return true;
}

ncclResult_t sn_boot_allgather(struct ncclComm *comm, const void *mine, void *all, size_t bytes)
{
    struct sn_segment_head *head = comm->seg.head;
    struct sn_slot *slot = &head->slot[comm->rank];
    uint32_t round = atomic_load(&slot->boot_seq) + 1;

    /*
     * Two places are enough: this one was last read in round - 2, and nobody reaches round before
     * all have contributed to, so have finished reading before, round - 1.
     */
    memcpy(slot->boot[round & 1], mine, bytes);
    atomic_store(&slot->boot_seq, round);
    for (int r = 0; r < comm->nranks; r++) {
        atomic_fetch_add(&head->slot[r].boot_bell, 1);
        sn_futex_wake(&head->slot[r].boot_bell);
    }
    ncclResult_t result =
        wait_for(comm, deadline_from_now(), "an exchange among the ranks", all_contributed, round);
    for (int r = 0; !result && r < comm->nranks; r++)
        memcpy((char *)all + (size_t)r * bytes, head->slot[r].boot[round & 1], bytes);
    return result;
}
