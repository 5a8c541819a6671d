/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exported calls that ask, configure and register. Memory registration has nothing to do in
 * host memory but to hand out handles and to check them; windows also name the target of a put.
 */
#include <stdlib.h>
#include <string.h>

#include "export.h"
#include "standin.h"

SN_EXPORT(ncclResult_t, ncclGetVersion, (int *version))
{
    if (!version)
        return ncclInvalidArgument;
    *version = sn_options()->version;
    return ncclSuccess;
}

SN_EXPORT(const char *, ncclGetErrorString, (ncclResult_t result))
{
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclUnhandledCudaError:
        return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
        return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
        return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument:
        return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
        return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "NCCL operation in progress";
    default:
        return "unknown result code";
    }
}

SN_EXPORT(const char *, ncclGetLastError, (ncclComm_t comm))
{
    (void)comm;
    return sn_last_error();
}

SN_EXPORT(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t *asyncError))
{
    ncclResult_t result = sn_comm_check(comm, "ncclGetAsyncError", "comm");

    if (!result && !asyncError)
        result = sn_fail(ncclInvalidArgument, "ncclGetAsyncError : asyncError argument is NULL");
    if (!result)
        *asyncError = (ncclResult_t)atomic_load(&comm->async_result);
    return result;
}

static ncclResult_t ask(ncclComm_t comm, int *out, const char *call)
{
    ncclResult_t result = sn_comm_check(comm, call, "comm");

    if (!result && !out)
        result = sn_fail(ncclInvalidArgument, "%s : out argument is NULL", call);
    return result ? result : sn_comm_ready(comm);
}

SN_EXPORT(ncclResult_t, ncclCommCount, (const ncclComm_t comm, int *count))
{
    ncclResult_t result = ask(comm, count, "CommCount");

    if (!result)
        *count = comm->nranks;
    return result;
}

SN_EXPORT(ncclResult_t, ncclCommCuDevice, (const ncclComm_t comm, int *device))
{
    ncclResult_t result = ask(comm, device, "CommCuDevice");

    if (!result)
        *device = comm->device;
    return result;
}

SN_EXPORT(ncclResult_t, ncclCommUserRank, (const ncclComm_t comm, int *rank))
{
    ncclResult_t result = ask(comm, rank, "CommUserRank");

    if (!result)
        *rank = comm->rank;
    return result;
}

/* ---- reduction operators ---- */

SN_EXPORT(ncclResult_t, ncclRedOpCreatePreMulSum,
          (ncclRedOp_t * op, void *scalar, ncclDataType_t datatype, ncclScalarResidence_t residence,
           ncclComm_t comm))
{
    ncclResult_t result = sn_comm_check(comm, "ncclRedOpCreatePreMulSum", "comm");
    int i = 0;

    if (!result)
        result = sn_comm_ready(comm);
    if (result)
        return result;
    if (!op || !scalar || skew_nccl_type_size((int)datatype) == 0)
        return sn_fail(ncclInvalidArgument, "ncclRedOpCreatePreMulSum : op, scalar or type");
    while (i < comm->redop_capacity && comm->redops[i].used)
        i++;
    if (i == comm->redop_capacity) {
        struct sn_redop *grown = realloc(comm->redops, (size_t)(i + 4) * sizeof(*grown));
        if (!grown)
            return sn_fail(ncclSystemError, "out of memory");
        memset(grown + i, 0, 4 * sizeof(*grown));
        comm->redops = grown;
        comm->redop_capacity = i + 4;
    }
    struct sn_redop *r = &comm->redops[i];
    *r = (struct sn_redop){.used = true, .type = datatype, .pointer = scalar};
    r->by_pointer = residence == ncclScalarDevice;
    if (!r->by_pointer)
        memcpy(&r->scalar, scalar, skew_nccl_type_size((int)datatype));
    *op = (ncclRedOp_t)(ncclNumOps + i);
    return ncclSuccess;
}

SN_EXPORT(ncclResult_t, ncclRedOpDestroy, (ncclRedOp_t op, ncclComm_t comm))
{
    int i = (int)op - ncclNumOps;

    if ((int)op >= 0 && i < 0)
        return sn_fail(ncclInvalidArgument, "ncclRedOpDestroy : operator is a NCCL builtin.");
    ncclResult_t result = sn_comm_check(comm, "ncclRedOpDestroy", "comm");
    if (result)
        return result;
    if (i < 0 || i >= comm->redop_capacity || !comm->redops[i].used)
        return sn_fail(ncclInvalidArgument, "ncclRedOpDestroy : operator unknown to this "
                                            "communicator.");
    comm->redops[i].used = false;
    return ncclSuccess;
}

/* ---- memory ---- */

SN_EXPORT(ncclResult_t, ncclMemAlloc, (void **ptr, size_t size))
{
    if (!ptr)
        return sn_fail(ncclInvalidArgument, "invalid argument to ncclMemAlloc");
    *ptr = NULL;
    return size ? sn_cu_alloc(ptr, size) : ncclSuccess; /* as cudaMalloc(0) */
}

SN_EXPORT(ncclResult_t, ncclMemFree, (void *ptr))
{
    return ptr ? sn_cu_free(ptr) : ncclSuccess;
}

struct registration {
    uint64_t magic;
    void *base;
    size_t bytes;
};
#define REGISTRATION_MAGIC 0x7265676973746572ULL

SN_EXPORT(ncclResult_t, ncclCommRegister,
          (const ncclComm_t comm, void *buff, size_t size, void **handle))
{
    ncclResult_t result = sn_comm_check(comm, "ncclCommRegister", "comm");

    if (result)
        return result;
    if (!handle || !buff || size == 0)
        return sn_fail(ncclInvalidArgument, "ncclCommRegister : buff, size and handle are needed");
    struct registration *r = malloc(sizeof(*r));
    if (!r)
        return sn_fail(ncclSystemError, "out of memory");
    *r = (struct registration){REGISTRATION_MAGIC, buff, size};
    *handle = r;
    return ncclSuccess;
}

SN_EXPORT(ncclResult_t, ncclCommDeregister, (const ncclComm_t comm, void *handle))
{
    struct registration *r = handle;
    ncclResult_t result = sn_comm_check(comm, "ncclCommRegister", "comm");

    if (result || !r)
        return result;
    if (r->magic != REGISTRATION_MAGIC)
        return sn_fail(ncclInvalidUsage, "ncclCommDeregister : not a registration");
    r->magic = 0;
    free(r);
    return ncclSuccess;
}

/*
 * What NCCL needs for copy-engine collectives, made with the first symmetric window: memory from
 * the exported ncclMemAlloc, a window of its own, and at the end the exported calls that undo them.
 */
static ncclResult_t add_window(ncclComm_t comm, void *buff, size_t size, ncclWindow_t *win);

#define SYNC_BYTES 4096

static ncclResult_t make_sync_memory(ncclComm_t comm)
{
    if (comm->sync_memory)
        return ncclSuccess;
    ncclResult_t result = ncclMemAlloc(&comm->sync_memory, SYNC_BYTES);
    return result ? result : add_window(comm, comm->sync_memory, SYNC_BYTES, &comm->sync_window);
}

void sn_comm_free_sync(struct ncclComm *comm)
{
    if (!comm->sync_memory)
        return;
    (void)ncclCommWindowDeregister(comm, comm->sync_window);
    (void)ncclMemFree(comm->sync_memory);
    comm->sync_memory = NULL;
}

/* Every rank registers its windows in the same order: the ordinal names a window everywhere. */
static ncclResult_t add_window(ncclComm_t comm, void *buff, size_t size, ncclWindow_t *win)
{
    struct sn_window *w = calloc(1, sizeof(*w));

    if (!w)
        return sn_fail(ncclSystemError, "out of memory");
    ncclResult_t result = ncclCommRegister(comm, buff, size, &w->registration);
    if (result) {
        free(w);
        return result;
    }
    w->base = buff;
    w->bytes = size;
    pthread_mutex_lock(&comm->lock);
    w->id = (uint32_t)comm->window_count++;
    w->next = comm->windows;
    comm->windows = w;
    pthread_mutex_unlock(&comm->lock);
    *win = (ncclWindow_t)w;
    return ncclSuccess;
}

SN_EXPORT(ncclResult_t, ncclCommWindowRegister,
          (ncclComm_t comm, void *buff, size_t size, ncclWindow_t *win, int winFlags))
{
    ncclResult_t result = sn_comm_check(comm, "ncclCommWindowRegister", "comm");

    if (!result && (!buff || size == 0 || !win))
        result = sn_fail(ncclInvalidArgument, "ncclCommWindowRegister : buff, size and win are "
                                              "needed");
    if (!result)
        result = sn_comm_ready(comm);
    bool symmetric = winFlags & NCCL_WIN_COLL_SYMMETRIC;
    if (!result && symmetric)
        result = make_sync_memory(comm);
    if (!result)
        result = add_window(comm, buff, size, win);
    if (!result)
        ((struct sn_window *)*win)->symmetric = symmetric;
    return result;
}

bool sn_in_symmetric_window(struct ncclComm *comm, const void *buff, size_t bytes)
{
    uintptr_t at = (uintptr_t)buff;
    bool found = false;

    pthread_mutex_lock(&comm->lock);
    for (const struct sn_window *w = comm->windows; w && !found; w = w->next)
        found = w->symmetric && at >= (uintptr_t)w->base && at - (uintptr_t)w->base <= w->bytes &&
                bytes <= w->bytes - (at - (uintptr_t)w->base);
    pthread_mutex_unlock(&comm->lock);
    return found;
}

static struct sn_window *take_window(ncclComm_t comm, ncclWindow_t win)
{
    struct sn_window **at, *w;

    pthread_mutex_lock(&comm->lock);
    for (at = &comm->windows; *at && *at != (struct sn_window *)win; at = &(*at)->next)
        ;
    w = *at;
    if (w)
        *at = w->next;
    pthread_mutex_unlock(&comm->lock);
    return w;
}

SN_EXPORT(ncclResult_t, ncclCommWindowDeregister, (ncclComm_t comm, ncclWindow_t win))
{
    ncclResult_t result = sn_comm_check(comm, "ncclCommWindowDeregister", "comm");

    if (result || !win)
        return result;
    struct sn_window *w = take_window(comm, win);
    if (!w)
        return sn_fail(ncclInvalidArgument, "ncclCommWindowDeregister : unknown window");
    result = ncclCommDeregister(comm, w->registration);
    free(w);
    return result;
}

SN_EXPORT(ncclResult_t, ncclWinGetUserPtr, (ncclComm_t comm, ncclWindow_t win, void **outUserPtr))
{
    ncclResult_t result = sn_comm_check(comm, "ncclWinGetUserPtr", "comm");

    if (!result && (!win || !outUserPtr))
        result = sn_fail(ncclInvalidArgument, "ncclWinGetUserPtr : win and outUserPtr are needed");
    if (!result)
        *outUserPtr = ((struct sn_window *)win)->base;
    return result;
}

/* ---- device communicators: there is no device code here, so they are refused ---- */

SN_EXPORT(ncclResult_t, ncclDevCommCreate,
          (ncclComm_t comm, const void *requirements, void *outDevComm))
{
    ncclResult_t result = sn_comm_check(comm, "ncclDevCommCreate", "comm");

    (void)requirements;
    (void)outDevComm;
    return result ? result
                  : sn_fail(ncclInvalidUsage, "ncclDevCommCreate : the device API needs a GPU");
}

SN_EXPORT(ncclResult_t, ncclDevCommDestroy, (ncclComm_t comm, const void *devComm))
{
    (void)devComm;
    return sn_comm_check(comm, "ncclDevCommDestroy", "comm");
}

/* ---- 2.29 ---- */

SN_EXPORT(ncclResult_t, ncclCommSuspend, (ncclComm_t comm, int flags))
{
    (void)flags;
    return sn_comm_check(comm, "ncclCommSuspend", "comm");
}

SN_EXPORT(ncclResult_t, ncclCommResume, (ncclComm_t comm))
{
    return sn_comm_check(comm, "ncclCommResume", "comm");
}

SN_EXPORT(ncclResult_t, ncclCommMemStats,
          (ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value))
{
    ncclResult_t result = sn_comm_check(comm, "ncclCommMemStats", "comm");

    (void)stat;
    if (!result && !value)
        result = sn_fail(ncclInvalidArgument, "ncclCommMemStats : value argument is NULL");
    if (!result)
        *value = comm->seg_open ? comm->seg.head->total_bytes : 0;
    return result;
}
