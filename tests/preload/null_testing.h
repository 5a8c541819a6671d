/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the do-nothing NCCL does in tests beyond doing nothing (built with NULL_TESTING): it counts
 * its calls, keeps NCCL's group rules, fails on demand, and stores pointers of new communicators as
 * late as the real one does. A test steers it through null_nccl_control() of the copy that it
 * means. Included by null_nccl.h; any thread, like NCCL itself.
 */
#ifndef NULL_TESTING_H
#define NULL_TESTING_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "null_control.h"

#define NULL_LATE_MAX 64

static void null_finish(void);
static void null_forget(void);
static ncclComm_t null_make(int ranks, int rank, int device);

static struct null_nccl null_nccl = {
    .version = NULL_VERSION, .finish = null_finish, .forget = null_forget, .make = null_make};

struct null_nccl *null_nccl_control(void)
{
    return &null_nccl;
}

/* The group of this thread, as in NCCL's group.cc. */
static __thread int null_depth, null_group_error;

/* Constructors whose pointer is stored at the end of the group, or when the test says so. */
static struct null_late {
    ncclComm_t *where;
    ncclComm_t comm;
} null_late[NULL_LATE_MAX];
static int null_lates;
static pthread_mutex_t null_lock = PTHREAD_MUTEX_INITIALIZER;

/* Freed communicators, last one first: a new one gets the pointer of the one that was freed last.
 */
static ncclComm_t null_free;

static unsigned null_count(const char *name)
{
    unsigned i = 0;
    for (; i < NULL_NAMES_MAX - 1; i++) {
        const char *there = __atomic_load_n(&null_nccl.calls[i].name, __ATOMIC_ACQUIRE);
        if (!there && __atomic_compare_exchange_n(&null_nccl.calls[i].name, &there, name, false,
                                                  __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            break;
        if (strcmp(there, name) == 0)
            break;
    }
    return __atomic_fetch_add(&null_nccl.calls[i].times, 1, __ATOMIC_RELAXED);
}

/* Every function comes by here. */
static ncclResult_t null_called(const char *name)
{
    null_count(name);
    if (null_nccl.hook)
        null_nccl.hook(name);
    if (null_nccl.fail_name && strcmp(null_nccl.fail_name, name) == 0 &&
        null_nccl.fail_skip-- == 0) {
        null_nccl.fail_name = NULL;
        null_nccl.fail_skip = 0;
        errno = EPROTO;
        return (ncclResult_t)null_nccl.fail_with;
    }
    if (null_nccl.set_errno)
        errno = null_nccl.set_errno;
    return ncclSuccess;
}

/* A data call that fails makes the group fail (ncclGroupErrCheck). */
static ncclResult_t null_data(const char *name)
{
    ncclResult_t result = null_called(name);
    if (result == ncclSuccess && null_nccl.data_result)
        result = (ncclResult_t)null_nccl.data_result;
    if (result != ncclSuccess && result != ncclInProgress && null_depth)
        null_group_error = result;
    return result;
}

static void null_store_late(void)
{
    if (!__atomic_load_n(&null_lates, __ATOMIC_ACQUIRE))
        return; /* without the lock, which a forked child might find taken */
    pthread_mutex_lock(&null_lock);
    for (int i = 0; i < null_lates; i++)
        __atomic_store_n(null_late[i].where, null_late[i].comm, __ATOMIC_SEQ_CST);
    __atomic_store_n(&null_lates, 0, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&null_lock);
}

static void *null_store_thread(void *unused)
{
    null_store_late();
    return unused;
}

/* What the helper thread of a non-blocking communicator does some time after the call. */
static void null_finish(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, null_store_thread, NULL) == 0)
        pthread_join(thread, NULL);
}

static void null_forget(void)
{
    if (!__atomic_load_n(&null_lates, __ATOMIC_ACQUIRE))
        return;
    pthread_mutex_lock(&null_lock);
    __atomic_store_n(&null_lates, 0, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&null_lock);
}

static ncclComm_t null_make(int ranks, int rank, int device)
{
    pthread_mutex_lock(&null_lock);
    ncclComm_t comm = null_free;
    if (comm)
        null_free = comm->next;
    pthread_mutex_unlock(&null_lock);
    if (!comm)
        comm = malloc(sizeof(*comm));
    if (comm)
        *comm = (struct ncclComm){.ranks = ranks, .rank = rank, .device = device};
    return comm;
}

static void null_drop(ncclComm_t comm)
{
    pthread_mutex_lock(&null_lock);
    comm->next = null_free;
    null_free = comm;
    pthread_mutex_unlock(&null_lock);
}

static bool null_nonblocking(const ncclConfig_t *config)
{
    const struct skew_nccl_config_head *head = (const struct skew_nccl_config_head *)config;
    return head && head->magic == NCCL_CONFIG_MAGIC && head->blocking == 0;
}

/* Split, Shrink and Grow: the pointer comes last, from whoever finishes the work. */
static ncclResult_t null_derive(const char *name, ncclComm_t *where, bool member, int ranks,
                                int rank, const ncclConfig_t *config)
{
    ncclResult_t result = null_called(name);
    if (result != ncclSuccess) {
        if (null_depth)
            null_group_error = result;
        return result;
    }
    *where = NULL;
    if (!member)
        return ncclSuccess;
    ncclComm_t comm = null_make(ranks, rank, 0);
    bool later = null_nonblocking(config);
    if (!comm)
        return ncclSystemError;
    if (!later && !null_depth) {
        *where = comm;
        return ncclSuccess;
    }
    pthread_mutex_lock(&null_lock);
    if (null_lates < NULL_LATE_MAX) {
        null_late[null_lates] = (struct null_late){where, comm};
        __atomic_store_n(&null_lates, null_lates + 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&null_lock);
    return later ? ncclInProgress : ncclSuccess;
}

static ncclResult_t null_init(const char *name, ncclComm_t *where, int ranks, int rank,
                              const ncclConfig_t *config)
{
    ncclResult_t result = null_called(name);
    if (result != ncclSuccess)
        return result; /* *where stays as it was, as the real one leaves it */
    *where = null_make(ranks, rank, rank);
    return null_nonblocking(config) ? ncclInProgress : ncclSuccess;
}

static ncclResult_t null_leave(const char *name, ncclComm_t comm)
{
    ncclResult_t result = null_called(name);
    if (result == ncclSuccess && comm)
        null_drop(comm);
    return result;
}

static ncclResult_t null_ask(const char *name, int *value, int answer)
{
    ncclResult_t result = null_called(name);
    if (result == ncclSuccess && !null_nccl.data_result)
        *value = answer;
    /* A communicator that is still busy must not be asked: ncclCommEnsureReady fails, and says so
     * aloud. */
    return null_nccl.data_result == ncclInProgress ? ncclInvalidArgument : result;
}

static ncclResult_t null_group_ended(const char *name, bool simulated)
{
    ncclResult_t result = null_called(name);
    if (!null_depth)
        return ncclInvalidUsage;
    if (--null_depth)
        return result;
    ncclResult_t failed = null_group_error ? (ncclResult_t)null_group_error : result;
    null_group_error = 0;
    if (!failed && null_nccl.group_result != ncclInProgress)
        failed = (ncclResult_t)null_nccl.group_result;
    if (failed)
        null_forget();
    else if (!simulated)
        null_store_late();
    return failed ? failed : (ncclResult_t)null_nccl.group_result;
}

/* ---- the functions that have to do something ------------------------------------------------- */

#define NULL_HAS_ncclGetVersion
ncclResult_t ncclGetVersion(int *version)
{
    *version = null_nccl.version / 100 * 10000 + null_nccl.version % 100 * 100;
    return null_called("ncclGetVersion");
}

#define NULL_HAS_ncclGetUniqueId
ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int ids;
    memset(id, 0, sizeof(*id));
    int words[2] = {getpid(), ++ids};
    memcpy(id->internal, words, sizeof(words));
    return null_called("ncclGetUniqueId");
}

#define NULL_HAS_ncclGroupStart
ncclResult_t ncclGroupStart(void)
{
    null_depth++;
    return null_called("ncclGroupStart");
}

#define NULL_HAS_ncclGroupEnd
ncclResult_t ncclGroupEnd(void)
{
    return null_group_ended("ncclGroupEnd", false);
}

#define NULL_HAS_ncclGroupSimulateEnd
#if NULL_VERSION >= 222
ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t *info)
{
    return null_group_ended("ncclGroupSimulateEnd", info != NULL);
}
#endif

/* The self-calls of the real ones through exported names: Bcast always, the others in old releases.
 */
#define NULL_HAS_ncclBcast
ncclResult_t ncclBcast(void *buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
                       cudaStream_t stream)
{
    ncclResult_t result = null_called("ncclBcast");
    return result ? result : ncclBroadcast(buff, buff, count, datatype, root, comm, stream);
}

#if NULL_VERSION < 224
static ncclResult_t null_p2p(const char *name)
{
    ncclGroupStart();
    ncclResult_t result = null_data(name), end = ncclGroupEnd();
    return result ? result : end;
}

#define NULL_HAS_ncclSend
ncclResult_t ncclSend(const void *sendbuff, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    (void)sendbuff, (void)count, (void)datatype, (void)peer, (void)comm, (void)stream;
    return null_p2p("ncclSend");
}

#define NULL_HAS_ncclRecv
ncclResult_t ncclRecv(void *recvbuff, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    (void)recvbuff, (void)count, (void)datatype, (void)peer, (void)comm, (void)stream;
    return null_p2p("ncclRecv");
}
#endif

#define NULL_HAS_ncclCommInitRank
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId commId, int rank)
{
    (void)commId;
    return null_init("ncclCommInitRank", comm, nranks, rank, NULL);
}

#define NULL_HAS_ncclCommInitRankConfig
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId commId, int rank,
                                    ncclConfig_t *config)
{
    (void)commId;
    return null_init("ncclCommInitRankConfig", comm, nranks, rank, config);
}

#define NULL_HAS_ncclCommInitRankScalable
#if NULL_VERSION >= 223
ncclResult_t ncclCommInitRankScalable(ncclComm_t *newcomm, int nranks, int myrank, int nId,
                                      ncclUniqueId *commIds, ncclConfig_t *config)
{
    (void)nId, (void)commIds;
    return null_init("ncclCommInitRankScalable", newcomm, nranks, myrank, config);
}
#endif

#define NULL_HAS_ncclCommInitAll
ncclResult_t ncclCommInitAll(ncclComm_t *comm, int ndev, const int *devlist)
{
    ncclResult_t result = null_called("ncclCommInitAll");
    for (int i = 0; i < ndev && !result; i++)
        comm[i] = null_make(ndev, i, devlist ? devlist[i] : i);
    return result;
}

#define NULL_HAS_ncclCommSplit
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *newcomm,
                           ncclConfig_t *config)
{
    return null_derive("ncclCommSplit", newcomm, color != NCCL_SPLIT_NOCOLOR, comm->ranks / 2, key,
                       config);
}

#define NULL_HAS_ncclCommShrink
#if NULL_VERSION >= 227
ncclResult_t ncclCommShrink(ncclComm_t comm, int *excludeRanksList, int excludeRanksCount,
                            ncclComm_t *newcomm, ncclConfig_t *config, int shrinkFlags)
{
    (void)excludeRanksList, (void)shrinkFlags;
    return null_derive("ncclCommShrink", newcomm, true, comm->ranks - excludeRanksCount, comm->rank,
                       config);
}
#endif

#define NULL_HAS_ncclCommGrow
#if NULL_VERSION >= 229
ncclResult_t ncclCommGrow(ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId, int rank,
                          ncclComm_t *newcomm, ncclConfig_t *config)
{
    (void)uniqueId;
    return null_derive("ncclCommGrow", newcomm, true, nRanks, comm ? comm->rank : rank, config);
}
#endif

#define NULL_HAS_ncclCommDestroy
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    return null_leave("ncclCommDestroy", comm);
}

#define NULL_HAS_ncclCommAbort
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    return null_leave("ncclCommAbort", comm);
}

#define NULL_HAS_ncclCommCount
ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    return null_ask("ncclCommCount", count, comm->ranks);
}

#define NULL_HAS_ncclCommUserRank
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    return null_ask("ncclCommUserRank", rank, comm->rank);
}

#define NULL_HAS_ncclCommCuDevice
ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device)
{
    return null_ask("ncclCommCuDevice", device, comm->device);
}

#define NULL_HAS_ncclCommGetAsyncError
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *asyncError)
{
    (void)comm;
    *asyncError = null_nccl.data_result == ncclInProgress ? ncclInProgress : ncclSuccess;
    return null_called("ncclCommGetAsyncError");
}

/* ---- all others
 * ---------------------------------------------------------------------------------- */

#define NULL_RESULT(name, cls, record) NULL_RESULT_##cls(#name)
#define NULL_RESULT_data(name)         return null_data(name);
#define NULL_RESULT_reg(name)          return null_called(name);
#define NULL_RESULT_query(name)        return null_called(name);
#define NULL_RESULT_dtor(name)         return null_called(name);

#endif
