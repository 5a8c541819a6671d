/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exported data and group calls. Each fills a task and hands it to sn_enqueue(). What a build
 * exports is decided by its version script, so absent functions really are absent.
 */
#include "export.h"
#include "standin.h"

/* ---- groups ---- */

SN_EXPORT(ncclResult_t, ncclGroupStart, (void))
{
    return sn_group_start();
}

SN_EXPORT(ncclResult_t, ncclGroupEnd, (void))
{
    return sn_group_end(NULL);
}

SN_EXPORT(ncclResult_t, ncclGroupSimulateEnd, (ncclSimInfo_t * simInfo))
{
    return sn_group_end(simInfo);
}

/* ---- point to point ---- */

/* Up to 2.23, sends and receives open and close a group through the exported functions. */
static ncclResult_t enqueue_p2p(const char *name, struct sn_task *task, ncclComm_t comm,
                                cudaStream_t stream)
{
    if (sn_options()->version >= 22400)
        return sn_enqueue(name, task, NULL, comm, stream);
    ncclResult_t result = ncclGroupStart();
    if (result)
        return result;
    result = sn_enqueue(name, task, NULL, comm, stream);
    ncclResult_t end = ncclGroupEnd();
    return end && end != ncclInProgress ? end : result;
}

SN_EXPORT(ncclResult_t, ncclSend,
          (const void *sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
           cudaStream_t stream))
{
    struct sn_task task = {
        .func = SN_SEND, .send = sendbuff, .count = count, .type = datatype, .root = peer};

    return enqueue_p2p("Send", &task, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclRecv,
          (void *recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
           cudaStream_t stream))
{
    struct sn_task task = {
        .func = SN_RECV, .recv = recvbuff, .count = count, .type = datatype, .root = peer};

    return enqueue_p2p("Recv", &task, comm, stream);
}

/* ---- collectives; the ...Config forms of 2.31 do the same and do not call the plain ones ---- */

static ncclResult_t collective(enum sn_func func, const char *name, const void *send, void *recv,
                               size_t count, ncclDataType_t type, int op, int root, ncclComm_t comm,
                               cudaStream_t stream)
{
    struct sn_task task = {.func = func,
                           .send = send,
                           .recv = recv,
                           .count = count,
                           .type = type,
                           .op = op,
                           .root = root};

    return sn_enqueue(name, &task, NULL, comm, stream);
}

#define IGNORE(x) ((void)(x))

SN_EXPORT(ncclResult_t, ncclAlltoAll,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_ALLTOALL, "AlltoAll", sendbuff, recvbuff, count, datatype, ncclSum, 0,
                      comm, stream);
}

SN_EXPORT(ncclResult_t, ncclAlltoAllConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    IGNORE(config);
    return collective(SN_ALLTOALL, "AlltoAll", sendbuff, recvbuff, count, datatype, ncclSum, 0,
                      comm, stream);
}

SN_EXPORT(ncclResult_t, ncclAllToAll,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_ALLTOALL, "AllToAll", sendbuff, recvbuff, count, datatype, ncclSum, 0,
                      comm, stream);
}

static ncclResult_t alltoallv(const char *name, const void *sendbuff,
                              const struct sn_vectors *vectors, void *recvbuff,
                              ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream)
{
    struct sn_task task = {
        .func = SN_ALLTOALLV, .send = sendbuff, .recv = recvbuff, .type = datatype};

    return sn_enqueue(name, &task, vectors, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclAllToAllv,
          (const void *sendbuff, const size_t sendcounts[], const size_t sdispls[], void *recvbuff,
           const size_t recvcounts[], const size_t rdispls[], ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream))
{
    struct sn_vectors v = {sendcounts, sdispls, recvcounts, rdispls};

    return alltoallv("AllToAllv", sendbuff, &v, recvbuff, datatype, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclAlltoAllv,
          (const void *sendbuff, const size_t sendcounts[], const size_t sdispls[], void *recvbuff,
           const size_t recvcounts[], const size_t rdispls[], ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream))
{
    struct sn_vectors v = {sendcounts, sdispls, recvcounts, rdispls};

    return alltoallv("AlltoAllv", sendbuff, &v, recvbuff, datatype, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclAllGather,
          (const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_ALLGATHER, "AllGather", sendbuff, recvbuff, sendcount, datatype, ncclSum,
                      0, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclAllGatherConfig,
          (const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    IGNORE(config);
    return collective(SN_ALLGATHER, "AllGather", sendbuff, recvbuff, sendcount, datatype, ncclSum,
                      0, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclReduceScatter,
          (const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_REDUCESCATTER, "ReduceScatter", sendbuff, recvbuff, recvcount, datatype,
                      (int)op, 0, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclReduceScatterConfig,
          (const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    IGNORE(config);
    return collective(SN_REDUCESCATTER, "ReduceScatter", sendbuff, recvbuff, recvcount, datatype,
                      (int)op, 0, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclAllReduce,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_ALLREDUCE, "AllReduce", sendbuff, recvbuff, count, datatype, (int)op, 0,
                      comm, stream);
}

SN_EXPORT(ncclResult_t, ncclAllReduceConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    IGNORE(config);
    return collective(SN_ALLREDUCE, "AllReduce", sendbuff, recvbuff, count, datatype, (int)op, 0,
                      comm, stream);
}

SN_EXPORT(ncclResult_t, ncclBroadcast,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_BROADCAST, "Broadcast", sendbuff, recvbuff, count, datatype, ncclSum, root,
                      comm, stream);
}

SN_EXPORT(ncclResult_t, ncclBroadcastConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    IGNORE(config);
    return collective(SN_BROADCAST, "Broadcast", sendbuff, recvbuff, count, datatype, ncclSum, root,
                      comm, stream);
}

/* NCCL's own: the in-place form calls the exported, preemptible ncclBroadcast. */
SN_EXPORT(ncclResult_t, ncclBcast,
          (void *buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
           cudaStream_t stream))
{
    return ncclBroadcast(buff, buff, count, datatype, root, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclReduce,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_REDUCE, "Reduce", sendbuff, recvbuff, count, datatype, (int)op, root, comm,
                      stream);
}

SN_EXPORT(ncclResult_t, ncclReduceConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream,
           const ncclCollConfig_t *config))
{
    IGNORE(config);
    return collective(SN_REDUCE, "Reduce", sendbuff, recvbuff, count, datatype, (int)op, root, comm,
                      stream);
}

SN_EXPORT(ncclResult_t, ncclGather,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_GATHER, "Gather", sendbuff, recvbuff, count, datatype, ncclSum, root, comm,
                      stream);
}

SN_EXPORT(ncclResult_t, ncclGatherConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    IGNORE(config);
    return collective(SN_GATHER, "Gather", sendbuff, recvbuff, count, datatype, ncclSum, root, comm,
                      stream);
}

SN_EXPORT(ncclResult_t, ncclScatter,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream))
{
    return collective(SN_SCATTER, "Scatter", sendbuff, recvbuff, count, datatype, ncclSum, root,
                      comm, stream);
}

SN_EXPORT(ncclResult_t, ncclScatterConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    IGNORE(config);
    return collective(SN_SCATTER, "Scatter", sendbuff, recvbuff, count, datatype, ncclSum, root,
                      comm, stream);
}
