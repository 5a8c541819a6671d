/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exported calls that make communicators from others: split, shrink, grow. What they make is
 * stored for the caller only when it is complete, from a job's thread if there is one.
 */
#include <stdlib.h>
#include <string.h>

#include "export.h"
#include "standin.h"

struct split_word {
    int color, key;
};

/* Splits of one parent talk to the other ranks one after the other, in the order of the calls. */
static void wait_turn(struct ncclComm *parent, int turn)
{
    pthread_mutex_lock(&parent->lock);
    while (parent->boot_turn != turn)
        pthread_cond_wait(&parent->changed, &parent->lock);
    pthread_mutex_unlock(&parent->lock);
}

static void end_turn(struct ncclComm *parent)
{
    pthread_mutex_lock(&parent->lock);
    parent->boot_turn++;
    pthread_cond_broadcast(&parent->changed);
    pthread_mutex_unlock(&parent->lock);
}

static void place_in_split(struct sn_job *job, const struct split_word *all)
{
    struct ncclComm *child = job->child, *parent = job->comm;

    child->rank = child->nranks = 0;
    for (int r = 0; r < parent->nranks; r++) {
        if (all[r].color != job->color)
            continue;
        child->nranks++;
        if (all[r].key < job->key || (all[r].key == job->key && r < parent->rank))
            child->rank++;
    }
}

static ncclResult_t give_child(struct sn_job *job, ncclResult_t result)
{
    if (result)
        sn_comm_free(job->child);
    else /* only now: until the split is complete, NCCL shows NULL */
        __atomic_store_n(job->newcomm, job->child, __ATOMIC_RELEASE);
    job->child = NULL;
    return result;
}

static ncclResult_t split_job(struct sn_job *job)
{
    struct ncclComm *parent = job->comm;
    struct split_word mine = {job->color, job->key};
    struct split_word *all = calloc((size_t)parent->nranks, sizeof(*all));
    ncclResult_t result = all ? ncclSuccess : sn_fail(ncclSystemError, "out of memory");

    wait_turn(parent, job->turn);
    if (!result)
        result = sn_boot_allgather(parent, &mine, all, sizeof(mine));
    end_turn(parent);
    if (job->child) {
        if (!result) {
            int words[] = {job->turn, job->color};
            place_in_split(job, all);
            sn_comm_origin(
                job->child,
                "\"origin\":\"split\",\"parent\":\"%016llx\",\"ordinal\":%d,\"color\":%d",
                (unsigned long long)parent->id.a, job->turn, job->color);
            result = sn_comm_finish(job->child, sn_id_derive(parent->id, "split", words, 2));
        }
        result = give_child(job, result);
    }
    free(all);
    return result;
}

static ncclResult_t shrink_job(struct sn_job *job)
{
    return give_child(job, sn_comm_finish(job->child, job->id));
}

/* A job for a child of `parent`; `child` is wanted unless the rank stays out. */
static ncclResult_t new_child(struct sn_job **out, struct ncclComm *parent, bool wanted,
                              ncclComm_t *newcomm, const ncclConfig_t *config)
{
    struct sn_job *job = calloc(1, sizeof(*job));
    struct ncclComm *child = wanted ? sn_comm_new() : NULL;
    ncclResult_t result = ncclSuccess;

    if (!job || (wanted && !child))
        result = sn_fail(ncclSystemError, "out of memory");
    if (child && !result) {
        child->blocking = parent->blocking;
        child->ctx = parent->ctx;
        child->device = parent->device;
        result = sn_config_read(child, config);
    }
    if (result) {
        free(job);
        if (child)
            sn_comm_free(child);
        return result;
    }
    job->comm = parent;
    job->child = child;
    job->newcomm = newcomm;
    *out = job;
    return ncclSuccess;
}

static ncclResult_t check_parent(struct ncclComm *comm, ncclComm_t *newcomm, const char *call)
{
    ncclResult_t result = sn_comm_check(comm, call, "comm");

    if (!result && !newcomm)
        result = sn_fail(ncclInvalidArgument, "%s : newcomm argument is NULL", call);
    if (!result)
        result = sn_comm_ready(comm);
    return result;
}

static ncclResult_t split(ncclComm_t comm, int color, int key, ncclComm_t *newcomm,
                          const ncclConfig_t *config)
{
    struct sn_job *job;
    ncclResult_t result = check_parent(comm, newcomm, "ncclCommSplit");

    if (result)
        return result;
    *newcomm = NULL;
    result = new_child(&job, comm, color != NCCL_SPLIT_NOCOLOR, newcomm, config);
    if (result)
        return result;
    job->run = split_job;
    job->color = color;
    job->key = key;
    job->turn = comm->split_count++;
    return sn_group_job(job);
}

SN_EXPORT(ncclResult_t, ncclCommSplit,
          (ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config))
{
    sn_group_start();
    return sn_group_end_with(split(comm, color, key, newcomm, config));
}

static int compare_int(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return (x > y) - (x < y);
}

static void stop_operations(struct ncclComm *comm)
{
    atomic_store(&comm->abort, true);
    sn_bell_ring(&comm->seg, comm->rank);
    pthread_mutex_lock(&comm->lock);
    while (comm->pending)
        pthread_cond_wait(&comm->changed, &comm->lock);
    pthread_mutex_unlock(&comm->lock);
    atomic_store(&comm->abort, false);
}

static ncclResult_t shrink(ncclComm_t comm, int *exclude, int count, ncclComm_t *newcomm,
                           const ncclConfig_t *config, int flags)
{
    struct sn_job *job;
    ncclResult_t result = sn_comm_check(comm, "ncclCommShrink", "comm");

    if (result)
        return result;
    if (flags & 1 /* NCCL_SHRINK_ABORT */) {
        stop_operations(comm);
        sn_comm_set_async(comm, ncclSuccess);
    }
    if (!newcomm || !exclude || count <= 0)
        return sn_fail(ncclInvalidArgument, "ncclCommShrink : newcomm and excludeRanksList are "
                                            "needed, and at least one rank in it");
    qsort(exclude, (size_t)count, sizeof(*exclude), compare_int); /* in place, as NCCL does */
    if (bsearch(&comm->rank, exclude, (size_t)count, sizeof(*exclude), compare_int))
        return sn_fail(ncclInvalidArgument, "ncclCommShrink : rank %d excludes itself", comm->rank);
    result = sn_comm_ready(comm);
    if (result)
        return result;
    *newcomm = NULL;
    result = new_child(&job, comm, true, newcomm, config);
    if (result)
        return result;
    int ordinal = comm->shrink_count++, below = 0;
    sn_comm_origin(job->child, "\"origin\":\"shrink\",\"parent\":\"%016llx\",\"ordinal\":%d",
                   (unsigned long long)comm->id.a, ordinal);
    for (int i = 0; i < count; i++)
        below += exclude[i] < comm->rank;
    job->run = shrink_job;
    job->child->rank = comm->rank - below;
    job->child->nranks = comm->nranks - count;
    job->id = sn_id_derive(sn_id_derive(comm->id, "shrink", exclude, count), "", &ordinal, 1);
    return sn_group_job(job);
}

SN_EXPORT(ncclResult_t, ncclCommShrink,
          (ncclComm_t comm, int *excludeRanksList, int excludeRanksCount, ncclComm_t *newcomm,
           ncclConfig_t *config, int shrinkFlags))
{
    sn_group_start();
    return sn_group_end_with(
        shrink(comm, excludeRanksList, excludeRanksCount, newcomm, config, shrinkFlags));
}

/* ---- growing: old ranks learn the unique id from the one that has it ---- */

struct grow_word {
    struct sn_id id;
    bool has_id;
};

static ncclResult_t grow_job(struct sn_job *job)
{
    struct ncclComm *parent = job->comm == job->child ? NULL : job->comm;
    ncclResult_t result = ncclSuccess;

    if (parent) {
        struct grow_word mine = {job->id, job->key != 0};
        struct grow_word *all = calloc((size_t)parent->nranks, sizeof(*all));
        if (!all)
            result = sn_fail(ncclSystemError, "out of memory");
        wait_turn(parent, job->turn);
        if (!result)
            result = sn_boot_allgather(parent, &mine, all, sizeof(mine));
        end_turn(parent);
        int givers = 0;
        for (int r = 0; !result && r < parent->nranks; r++)
            if (all[r].has_id) {
                job->id = all[r].id;
                givers++;
            }
        free(all);
        if (!result && givers != 1)
            result = sn_fail(ncclInvalidUsage,
                             "ncclCommGrow : one old rank must give the unique id, "
                             "%d did",
                             givers);
    }
    if (!result)
        result = sn_comm_finish(job->child, job->id);
    return give_child(job, result);
}

static ncclResult_t grow(ncclComm_t comm, int nranks, const ncclUniqueId *id, int rank,
                         ncclComm_t *newcomm, const ncclConfig_t *config)
{
    struct sn_job *job;
    struct ncclComm outside = {.blocking = 1};
    ncclResult_t result = ncclSuccess;
    struct ncclComm *parent = comm ? comm : &outside;

    if (comm)
        result = check_parent(comm, newcomm, "ncclCommGrow");
    else if (!newcomm || !id || rank < 0 || rank >= nranks)
        result = sn_fail(ncclInvalidArgument, "ncclCommGrow : a new rank needs newcomm, the unique "
                                              "id and its rank");
    else
        result = sn_cu_current(&outside.ctx, &outside.device);
    if (!result && comm && (nranks <= comm->nranks || rank != -1))
        result = sn_fail(ncclInvalidArgument, "ncclCommGrow : an old rank passes rank -1 and more "
                                              "ranks than there are");
    if (result)
        return result;
    *newcomm = NULL;
    result = new_child(&job, parent, true, newcomm, config);
    if (result)
        return result;
    if (!comm)
        job->comm = job->child;
    job->run = grow_job;
    job->turn = comm ? comm->split_count++ : 0;
    job->key = id != NULL;
    sn_comm_origin(job->child, "\"origin\":\"grow\"");
    if (id)
        job->id = sn_id_of_unique(id);
    job->child->rank = comm ? comm->rank : rank;
    job->child->nranks = nranks;
    return sn_group_job(job);
}

SN_EXPORT(ncclResult_t, ncclCommGrow,
          (ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId, int rank, ncclComm_t *newcomm,
           ncclConfig_t *config))
{
    sn_group_start();
    return sn_group_end_with(grow(comm, nRanks, uniqueId, rank, newcomm, config));
}

SN_EXPORT(ncclResult_t, ncclCommGetUniqueId, (ncclComm_t comm, ncclUniqueId *uniqueId))
{
    ncclResult_t result = sn_comm_check(comm, "CommGetUniqueId", "comm");

    if (!result && !uniqueId)
        result = sn_fail(ncclInvalidArgument, "CommGetUniqueId : out argument is NULL");
    if (!result)
        result = sn_comm_ready(comm);
    if (!result)
        sn_id_fill(uniqueId);
    return result;
}
