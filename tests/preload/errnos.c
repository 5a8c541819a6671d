/* SPDX-License-Identifier: Apache-2.0 */
/*
 * errno is the application's: each wrapper leaves it as the real function does. Calls every
 * function of the list twice, once with an NCCL that leaves errno alone and once with one that sets
 * it; the first calls go through all that is rare (creating the spool, reading /proc, walking the
 * stack), and meet errors where the driver makes some.
 */
#include <errno.h>

#include "expect.h"

#define MINE   4711
#define THEIRS 815

static struct null_nccl *null;

#define CHECK(call)                                                                                \
    do {                                                                                           \
        for (int set = 0; set < 2; set++) {                                                        \
            null->set_errno = set ? THEIRS : 0;                                                    \
            errno = MINE;                                                                          \
            call;                                                                                  \
            int after = errno;                                                                     \
            if (after != (set ? THEIRS : MINE)) {                                                  \
                fprintf(stderr, "%s: errno is %d, not %d\n", #call, after, set ? THEIRS : MINE);   \
                failed = 1;                                                                        \
            }                                                                                      \
        }                                                                                          \
    } while (0)

int main(void)
{
    static const size_t counts[] = {1, 2, 3, 4};
    int failed = 0, value;
    void *pointer;
    const char *text;
    ncclUniqueId id = {{1}};
    ncclComm_t comm, other, all[2];
    ncclResult_t result;
    struct skew_nccl_config_head later = {sizeof(later), NCCL_CONFIG_MAGIC, 0, 0};
    null = null_nccl_control();
    CHECK(ncclGetVersion(&value));
    CHECK(ncclGetUniqueId(&id));
    CHECK(ncclCommInitRank(&comm, 2, id, 0));
    CHECK(ncclCommInitRankConfig(&other, 2, id, 0, NULL));
    CHECK(ncclCommInitRankScalable(&other, 2, 0, 1, &id, NULL));
    CHECK(ncclCommInitAll(all, 2, NULL));
    CHECK(ncclCommSplit(comm, 0, 0, &other, NULL));
    CHECK(ncclCommSplit(comm, 0, 0, &other, (ncclConfig_t *)&later));
    null->finish();
    CHECK(ncclCommShrink(comm, &value, 1, &other, NULL, 0));
    CHECK(ncclCommGrow(comm, 3, NULL, -1, &other, NULL));
    CHECK(ncclCommGetUniqueId(comm, &id));
    CHECK(ncclCommRegister(comm, NULL, 1, &pointer));
    CHECK(ncclCommDeregister(comm, NULL));
    CHECK(ncclCommWindowRegister(comm, NULL, 1, NULL, 0));
    CHECK(ncclCommWindowDeregister(comm, NULL));
    CHECK(ncclDevCommCreate(comm, NULL, NULL));
    CHECK(ncclDevCommDestroy(comm, NULL));
    CHECK(ncclMemAlloc(&pointer, 1));
    CHECK(ncclMemFree(NULL));
    CHECK(ncclCommGetAsyncError(comm, &result));
    CHECK(ncclCommCount(comm, &value));
    CHECK(ncclCommCuDevice(comm, &value));
    CHECK(ncclCommUserRank(comm, &value));
    CHECK(ncclParamGetAllParameterKeys(NULL, &value));
    CHECK(ncclParamGetStr(NULL, &text));
    CHECK(ncclSend(NULL, 1, ncclInt8, 0, comm, NULL));
    CHECK(ncclRecv(NULL, 1, ncclInt8, 0, comm, NULL));
    CHECK(ncclGroupStart());
    for (int i = 0; i < 4000; i++) { /* into the next segment */
        CHECK(ncclSend(NULL, 1, ncclInt8, 0, comm, NULL));
        CHECK(ncclRecv(NULL, 1, ncclInt8, 0, comm, NULL));
    }
    for (int i = 0; i < 70; i++) /* beyond what a record names */
        CHECK(ncclSend(NULL, 1, ncclInt8, 0, comm, STREAM(i)));
    CHECK(ncclGroupEnd());
    CHECK(ncclGroupStart());
    CHECK(ncclGroupSimulateEnd(NULL));
    CHECK(ncclGroupEnd());
    CHECK(ncclAlltoAll(NULL, NULL, 1, ncclInt8, comm, NULL));
    CHECK(ncclAlltoAllv(NULL, counts, counts, NULL, counts, counts, ncclInt8, comm, NULL));
    CHECK(ncclAllToAllv(NULL, counts, counts, NULL, counts, counts, ncclInt8, other, NULL));
    CHECK(ncclAllGather(NULL, NULL, 1, ncclInt8, comm, NULL));
    CHECK(ncclReduceScatter(NULL, NULL, 1, ncclInt8, ncclSum, comm, NULL));
    CHECK(ncclAllReduce(NULL, NULL, 1, ncclInt8, ncclSum, comm, NULL));
    CHECK(ncclBroadcast(NULL, NULL, 1, ncclInt8, 0, comm, NULL));
    CHECK(ncclReduce(NULL, NULL, 1, ncclInt8, ncclSum, 0, comm, NULL));
    CHECK(ncclGather(NULL, NULL, 1, ncclInt8, 0, comm, NULL));
    CHECK(ncclScatter(NULL, NULL, 1, ncclInt8, 0, comm, NULL));
    CHECK(ncclPutSignal(NULL, 1, ncclInt8, 0, NULL, 0, 0, 0, 0, comm, NULL));
    CHECK(ncclSignal(0, 0, 0, 0, comm, NULL));
    CHECK(ncclWaitSignal(0, NULL, comm, NULL));
    CHECK(ncclCommRevoke(comm, 0));
    CHECK(ncclCommFinalize(comm));
    ncclComm_t gone[] = {all[0], all[1]};
    unsigned next = 0;
    CHECK(ncclCommAbort(gone[next++]));
    gone[0] = comm, gone[1] = null->make(2, 0, 0), next = 0;
    CHECK(ncclCommDestroy(gone[next++]));
    return failed;
}
