/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exported calls that make and end communicators. All go through jobs: at once, or at the end
 * of the open group, or in the background for non-blocking communicators. Calls of exported
 * functions from in here are NCCL's own and wanted (README.md).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "export.h"
#include "standin.h"

/* ---- making ---- */

static ncclResult_t finish_making(struct ncclComm *comm, struct sn_id id)
{
    sn_ctx before = sn_cu_push(comm->ctx);
    ncclResult_t result = sn_cu_event_create(&comm->event);
    int version;

    if (!result)
        result = sn_cu_event_create(&comm->capture_event);
    if (!result)
        result =
            ncclGetVersion(&version); /* ranks compare versions: through the exported function */
    comm->signals = calloc((size_t)comm->nranks, sizeof(*comm->signals));
    comm->signals_taken = calloc((size_t)comm->nranks, sizeof(*comm->signals_taken));
    if (!comm->signals || !comm->signals_taken)
        result = sn_fail(ncclSystemError, "out of memory");
    if (!result)
        result = sn_boot_join(comm, id);
    sn_cu_pop(before);
    return result;
}

static ncclResult_t init_job(struct sn_job *job)
{
    ncclResult_t result = finish_making(job->comm, job->id);

    sn_comm_set_async(job->comm, result);
    return result;
}

/* The part of InitRank and its kin that happens in the call. */
static ncclResult_t init_rank(ncclComm_t *newcomm, int nranks, int nids, const ncclUniqueId *ids,
                              int rank, const ncclConfig_t *config)
{
    struct ncclComm *comm = NULL;
    struct sn_job *job = NULL;
    ncclResult_t result;
    sn_ctx ctx;
    int device;

    if (nids <= 0 || nids > nranks)
        return sn_fail(ncclInvalidArgument,
                       "improper usage of ncclCommInitRank: nId = %d, "
                       "nranks=%d",
                       nids, nranks);
    if (rank == 0)
        sn_show_version();
    result = sn_cu_current(&ctx, &device);
    if (result)
        return sn_group_error(result);
    if (!newcomm)
        return sn_group_error(sn_fail(ncclInvalidArgument, "CommInitRank : newcomm is NULL"));
    if (nranks < 1 || rank < 0 || rank >= nranks)
        result = sn_fail(ncclInvalidArgument, "Invalid rank requested : %d/%d", rank, nranks);
    if (!result) {
        comm = sn_comm_new();
        job = calloc(1, sizeof(*job));
        if (!comm || !job)
            result = sn_fail(ncclSystemError, "out of memory");
    }
    if (!result)
        result = sn_config_read(comm, config);
    if (result) {
        free(job);
        if (comm)
            sn_comm_free(comm);
        *newcomm = NULL;
        return sn_group_error(result);
    }
    comm->rank = rank;
    comm->nranks = nranks;
    comm->ctx = ctx;
    comm->device = device;
    *newcomm = comm; /* before it is ready, as NCCL does */
    job->run = init_job;
    job->comm = comm;
    job->id = sn_id_of_unique(&ids[0]);
    return sn_group_error(sn_group_job(job));
}

SN_EXPORT(ncclResult_t, ncclGetUniqueId, (ncclUniqueId * uniqueId))
{
    if (!uniqueId)
        return sn_fail(ncclInvalidArgument, "GetUniqueId : out argument is NULL");
    sn_id_fill(uniqueId);
    return ncclSuccess;
}

SN_EXPORT(ncclResult_t, ncclCommInitRank,
          (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank))
{
    return init_rank(comm, nranks, 1, &commId, rank, NULL);
}

/* With a configuration, the call is a group of its own, so that it can go to the background. */
static ncclResult_t init_configured(ncclComm_t *comm, int nranks, int nids, const ncclUniqueId *ids,
                                    int rank, const ncclConfig_t *config)
{
    sn_group_start();
    ncclResult_t result = init_rank(comm, nranks, nids, ids, rank, config);
    sn_group_error(result);
    ncclResult_t end = sn_group_end(NULL);
    if (end && end != ncclInProgress)
        return end;
    if (!result && comm && *comm && !(*comm)->blocking)
        (void)ncclCommGetAsyncError(*comm, &result);
    return result;
}

SN_EXPORT(ncclResult_t, ncclCommInitRankConfig,
          (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank, ncclConfig_t *config))
{
    return init_configured(comm, nranks, 1, &commId, rank, config);
}

SN_EXPORT(ncclResult_t, ncclCommInitRankScalable,
          (ncclComm_t * newcomm, int nranks, int myrank, int nId, ncclUniqueId *commIds,
           ncclConfig_t *config))
{
    return init_configured(newcomm, nranks, nId, commIds, myrank, config);
}

static ncclResult_t check_devices(int ndev, const int *devlist)
{
    int total;
    ncclResult_t result = sn_cu_device_count(&total);

    for (int i = 0; !result && devlist && i < ndev; i++) {
        if (devlist[i] < 0 || devlist[i] >= total)
            result =
                sn_fail(ncclInvalidArgument, "Invalid device %d (totalnDev=%d)", devlist[i], total);
        for (int j = 0; !result && j < i; j++)
            if (devlist[j] == devlist[i])
                result = sn_fail(ncclInvalidUsage, "device %d is listed twice", devlist[i]);
    }
    return result;
}

SN_EXPORT(ncclResult_t, ncclCommInitAll, (ncclComm_t * comm, int ndev, const int *devlist))
{
    bool old = sn_options()->version < 22500; /* these use the exported group functions */
    sn_ctx before;
    int device;
    ncclUniqueId id;
    ncclResult_t result = sn_cu_current(&before, &device);

    if (result)
        return result;
    if (!comm)
        return sn_fail(ncclInvalidArgument, "CommInitAll : comms argument is NULL");
    if (ndev < 0)
        return sn_fail(ncclInvalidArgument, "Invalid device count requested : %d", ndev);
    result = check_devices(ndev, devlist);
    if (!result)
        result = ncclGetUniqueId(&id);
    if (!result)
        result = old ? ncclGroupStart() : sn_group_start();
    if (result)
        return result;
    for (int i = 0; i < ndev; i++) {
        result = sn_group_error(sn_cu_set_device(devlist ? devlist[i] : i));
        if (!result)
            (void)init_rank(comm + i, ndev, 1, &id, i, NULL); /* GroupEnd tells */
    }
    result = old ? ncclGroupEnd() : sn_group_end(NULL);
    sn_cu_pop(before);
    return result;
}

/* ---- children ---- */

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
            result = finish_making(job->child, sn_id_derive(parent->id, "split", words, 2));
        }
        result = give_child(job, result);
    }
    free(all);
    return result;
}

static ncclResult_t shrink_job(struct sn_job *job)
{
    return give_child(job, finish_making(job->child, job->id));
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

static ncclResult_t end_group_with(ncclResult_t result)
{
    sn_group_error(result);
    ncclResult_t end = sn_group_end(NULL);
    /* Real NCCL returns Success here even when the work went to the background. */
    return end && end != ncclInProgress ? end : result;
}

SN_EXPORT(ncclResult_t, ncclCommSplit,
          (ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config))
{
    sn_group_start();
    return end_group_with(split(comm, color, key, newcomm, config));
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
    return end_group_with(
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
        result = finish_making(job->child, job->id);
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
    return end_group_with(grow(comm, nRanks, uniqueId, rank, newcomm, config));
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

/* ---- ending ---- */

/* Waits for background threads, then for the operations on the streams. */
static void drain(struct ncclComm *comm, bool with_background)
{
    pthread_mutex_lock(&comm->lock);
    while (comm->pending || (with_background && comm->busy))
        pthread_cond_wait(&comm->changed, &comm->lock);
    pthread_mutex_unlock(&comm->lock);
}

static ncclResult_t finalize_job(struct sn_job *job)
{
    drain(job->comm, false);
    return ncclSuccess;
}

static ncclResult_t destroy_job(struct sn_job *job)
{
    sn_ctx before = sn_cu_push(job->comm->ctx);

    drain(job->comm, true);
    sn_comm_free_sync(job->comm);
    sn_cu_pop(before);
    sn_comm_free(job->comm);
    return ncclSuccess;
}

static ncclResult_t queue_job(struct ncclComm *comm, ncclResult_t (*run)(struct sn_job *),
                              bool ends)
{
    struct sn_job *job = calloc(1, sizeof(*job));

    if (!job)
        return sn_fail(ncclSystemError, "out of memory");
    job->run = run;
    job->comm = comm;
    job->ends_comm = ends;
    return sn_group_job(job);
}

SN_EXPORT(ncclResult_t, ncclCommFinalize, (ncclComm_t comm))
{
    ncclResult_t result = ncclSuccess;
    int blocking = comm ? comm->blocking : 1;

    sn_group_start();
    if (comm) {
        result = sn_comm_ready(comm);
        if (!result && comm->finalize_called)
            result = sn_fail(ncclInvalidArgument, "ncclCommFinalize was called before");
        if (!result) {
            comm->finalize_called = true;
            result = queue_job(comm, finalize_job, false);
        }
    }
    result = end_group_with(result);
    if (!blocking)
        (void)ncclCommGetAsyncError(comm, &result);
    return result;
}

static ncclResult_t end_comm(ncclComm_t comm, bool abort)
{
    if (!comm)
        return ncclSuccess;
    ncclResult_t result = sn_comm_check(comm, abort ? "CommAbort" : "CommDestroy", "comm");
    if (result)
        return result;
    sn_group_start();
    if (abort) {
        atomic_store(&comm->abort, true);
        if (comm->seg_open)
            sn_bell_ring(&comm->seg, comm->rank);
    }
    comm->destroying = true;
    if (!abort)
        result = sn_comm_ready(comm);
    /* A destroyed communicator that had an error is gone all the same. */
    result = result == ncclInvalidArgument ? result : queue_job(comm, destroy_job, true);
    return end_group_with(result);
}

SN_EXPORT(ncclResult_t, ncclCommDestroy, (ncclComm_t comm))
{
    return end_comm(comm, false);
}

SN_EXPORT(ncclResult_t, ncclCommAbort, (ncclComm_t comm))
{
    return end_comm(comm, true);
}

static ncclResult_t revoke_job(struct sn_job *job)
{
    drain(job->comm, false);
    return ncclSuccess;
}

SN_EXPORT(ncclResult_t, ncclCommRevoke, (ncclComm_t comm, int revokeFlags))
{
    ncclResult_t result = ncclSuccess;

    if (!comm)
        return ncclSuccess;
    if (revokeFlags != 0 || comm->destroying || comm->finalize_called ||
        atomic_load(&comm->revoked))
        return ncclInvalidArgument;
    sn_group_start();
    atomic_store(&comm->revoked, true);
    if (comm->seg_open)
        sn_bell_ring(&comm->seg, comm->rank);
    comm->finalize_called = true;
    int blocking = comm->blocking;
    result = end_group_with(queue_job(comm, revoke_job, false));
    if (!blocking)
        (void)ncclCommGetAsyncError(comm, &result);
    return result;
}
