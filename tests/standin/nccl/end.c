/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exported calls that end communicators: finalize, destroy, abort, revoke.
 */
#include <stdlib.h>

#include "export.h"
#include "standin.h"

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
    result = sn_group_end_with(result);
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
    return sn_group_end_with(result);
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
    result = sn_group_end_with(queue_job(comm, revoke_job, false));
    if (!blocking)
        (void)ncclCommGetAsyncError(comm, &result);
    return result;
}
