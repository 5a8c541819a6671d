/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Head of the generated do-nothing NCCL (gen_api.py, kind `null`). It stands for the real library
 * where only the interception matters: it moves no bytes and has no stream. NULL_VERSION (major *
 * 100 + minor) decides which functions exist. A few have to answer something; these are below.
 */
#ifndef NULL_NCCL_H
#define NULL_NCCL_H

#include <stdlib.h>
#include <unistd.h>

#include "nccl_decls.h"

#ifndef NULL_VERSION
#define NULL_VERSION 228
#endif

/* A communicator remembers its size and rank, to answer CommCount and CommUserRank. */
struct ncclComm {
    int ranks, rank, device;
    struct ncclComm *next; /* in a free list */
};

#ifdef NULL_TESTING
#include "null_testing.h"
#else /* does nothing: for benchmarks */

#define NULL_RESULT(name, cls, record) return ncclSuccess;

#define NULL_HAS_ncclGetVersion
ncclResult_t ncclGetVersion(int *version)
{
    *version = NULL_VERSION / 100 * 10000 + NULL_VERSION % 100 * 100;
    return ncclSuccess;
}

#define NULL_HAS_ncclGetUniqueId
ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int calls;
    for (unsigned i = 0; i < sizeof(id->internal); i++)
        id->internal[i] = (char)(getpid() * 31 + (int)i * 7 + calls);
    calls++;
    return ncclSuccess;
}

#define NULL_HAS_ncclCommInitRank
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId commId, int rank)
{
    (void)commId;
    *comm = malloc(sizeof(**comm));
    if (!*comm)
        return ncclSystemError;
    **comm = (struct ncclComm){.ranks = nranks, .rank = rank};
    return ncclSuccess;
}

#define NULL_HAS_ncclCommDestroy
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    free(comm);
    return ncclSuccess;
}

#define NULL_HAS_ncclCommSplit
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *newcomm,
                           ncclConfig_t *config)
{
    (void)config;
    *newcomm = NULL;
    if (color == NCCL_SPLIT_NOCOLOR)
        return ncclSuccess;
    *newcomm = malloc(sizeof(**newcomm));
    if (!*newcomm)
        return ncclSystemError;
    **newcomm = (struct ncclComm){.ranks = comm->ranks, .rank = key, .device = comm->device};
    return ncclSuccess;
}

#define NULL_HAS_ncclCommCount
ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    *count = comm->ranks;
    return ncclSuccess;
}

#define NULL_HAS_ncclCommUserRank
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    *rank = comm->rank;
    return ncclSuccess;
}

#define NULL_HAS_ncclCommCuDevice
ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device)
{
    *device = comm->device;
    return ncclSuccess;
}

/* As the real one: the only self-call of its data functions. */
#define NULL_HAS_ncclBcast
ncclResult_t ncclBcast(void *buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
                       cudaStream_t stream)
{
    return ncclBroadcast(buff, buff, count, datatype, root, comm, stream);
}

#endif /* NULL_TESTING */
#endif
