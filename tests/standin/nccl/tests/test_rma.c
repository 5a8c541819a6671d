/* SPDX-License-Identifier: Apache-2.0 */
/* What NCCL 2.29 added: puts and signals into windows, and growing a communicator. */
#include "rig.h"

#define N 1009

struct desc {
    int count, peer, index, context;
};

static void puts_and_signals(struct rig *rig, ncclComm_t comm)
{
    int n = rig->nranks, me = rig->rank, right = (me + 1) % n, left = (me + n - 1) % n;
    uint32_t *window = rig_alloc((size_t)n * N * 4), *mine = rig_alloc(N * 4);
    struct desc wait = {2, left, 0, 0};
    ncclWindow_t win;
    void *base;

    OK(ncclCommWindowRegister(comm, window, (size_t)n * N * 4, &win, 1));
    OK(ncclWinGetUserPtr(comm, win, &base));
    CHECK(base == window);
    for (size_t i = 0; i < N; i++)
        mine[i] = rig_mark(me, right, i);
    OK(ncclPutSignal(mine, N, ncclUint32, right, win, (size_t)me * N * 4, 0, 0, 0, comm,
                     rig->stream));
    OK(ncclSignal(right, 0, 0, 0, comm, rig->stream));
    OK(ncclWaitSignal(1, (ncclWaitSignalDesc_t *)&wait, comm, rig->stream));
    rig_sync(rig->stream);
    for (size_t i = 0; i < N; i++)
        CHECK_EQ(window[(size_t)left * N + i], rig_mark(left, me, i));
    CHECK_EQ(ncclPutSignal(mine, N, ncclUint32, right, win, 0, 1, 0, 0, comm, rig->stream),
             ncclInvalidArgument);
    OK(ncclCommWindowDeregister(comm, win));
}

/* All but the last rank have a communicator; the last one joins. */
static void grows(struct rig *rig)
{
    int n = rig->nranks, me = rig->rank, count, rank;
    ncclComm_t old = NULL, all = NULL;
    uint32_t *p = rig_alloc(4);

    *p = 1;
    if (me < n - 1) {
        OK(ncclCommInitRank(&old, n - 1, rig->ids[1], me));
        OK(ncclCommGrow(old, n, me == 0 ? &rig->ids[2] : NULL, -1, &all, NULL));
    } else {
        OK(ncclCommGrow(NULL, n, &rig->ids[2], me, &all, NULL));
    }
    OK(ncclCommCount(all, &count));
    OK(ncclCommUserRank(all, &rank));
    CHECK_EQ(count, n);
    CHECK_EQ(rank, me);
    OK(ncclAllReduce(p, p, 1, ncclUint32, ncclSum, all, rig->stream));
    rig_sync(rig->stream);
    CHECK_EQ(*p, n);
    OK(ncclCommDestroy(all));
    OK(ncclCommDestroy(old));
}

static void others(struct rig *rig, ncclComm_t comm)
{
    uint32_t *send = rig_alloc((size_t)rig->nranks * 4), *recv = rig_alloc((size_t)rig->nranks * 4);
    uint64_t value;
    ncclParamHandle_t param;
    int32_t number;
    ncclUniqueId id;

    for (int r = 0; r < rig->nranks; r++)
        send[r] = rig_mark(rig->rank, r, 0);
    OK(ncclAlltoAllConfig(send, recv, 1, ncclUint32, comm, rig->stream, NULL));
    rig_sync(rig->stream);
    for (int r = 0; r < rig->nranks; r++)
        CHECK_EQ(recv[r], rig_mark(r, rig->rank, 0));
    OK(ncclCommSuspend(comm, 0));
    OK(ncclCommResume(comm));
    OK(ncclCommMemStats(comm, 0, &value));
    OK(ncclCommGetUniqueId(comm, &id));
    OK(ncclParamBind(&param, "NCCL_CHECK_POINTERS"));
    OK(ncclParamGetI32(param, &number));
    CHECK_EQ(number, 0);
    CHECK_EQ(ncclParamBind(&param, "NO_SUCH"), ncclInvalidArgument);
}

static void body(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);

    puts_and_signals(rig, comm);
    others(rig, comm);
    grows(rig);
    OK(ncclCommDestroy(comm));
}

int main(void)
{
    int failed = 0;

    failed += rig_processes("2.29 to 2.32", 2, body, -1);
    failed += rig_processes("2.29 to 2.32", 5, body, -1);
    return failed != 0;
}
