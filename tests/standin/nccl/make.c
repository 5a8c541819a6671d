/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exported calls that make and end communicators. All go through jobs: at once, or at the end
 * of the open group, or in the background for non-blocking communicators. Calls of exported
 * functions from in here are NCCL's own and wanted (README.md).
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "export.h"
#include "standin.h"

/* ---- making ---- */

void sn_comm_origin(struct ncclComm *comm, const char *format, ...)
{
    va_list args;

    if (!sn_options()->truth || comm->origin)
        return;
    va_start(args, format);
    if (vasprintf(&comm->origin, format, args) < 0)
        comm->origin = NULL;
    va_end(args);
}

static void set_init_origin(struct ncclComm *comm, const ncclUniqueId *id)
{
    char hex[2 * NCCL_UNIQUE_ID_BYTES + 1];

    for (int i = 0; i < NCCL_UNIQUE_ID_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)id->internal[i]);
    sn_comm_origin(comm, "\"origin\":\"init\",\"unique_id\":\"%s\"", hex);
}

ncclResult_t sn_comm_finish(struct ncclComm *comm, struct sn_id id)
{
    sn_ctx before = sn_cu_push(comm->ctx);
    ncclResult_t result = sn_cu_event_create(&comm->event);
    int version;

    comm->clock_offset_ns = sn_clock_offset_ns();
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
    ncclResult_t result = sn_comm_finish(job->comm, job->id);

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
    set_init_origin(comm, &ids[0]);
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
