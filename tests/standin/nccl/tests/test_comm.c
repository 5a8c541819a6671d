/* SPDX-License-Identifier: Apache-2.0 */
/* Making and ending communicators; what asks for wrong things gets NCCL's error codes. */
#include "rig.h"

#define POISON ((ncclComm_t)0x1234)

/* An all-reduce of one word, to see that a communicator has just these ranks. */
static void expect_sum(ncclComm_t comm, cudaStream_t stream, uint32_t mine, uint32_t sum)
{
    uint32_t *p = rig_alloc(4);

    *p = mine;
    OK(ncclAllReduce(p, p, 1, ncclUint32, ncclSum, comm, stream));
    rig_sync(stream);
    CHECK_EQ(*p, sum);
    rig_free(p);
}

static void splits(struct rig *rig, ncclComm_t comm)
{
    int n = rig->nranks, me = rig->rank, rank, count;
    ncclComm_t half = POISON, back = POISON, none = POISON, one = POISON, two = POISON;
    uint32_t even = 0, odd = 0;

    for (int r = 0; r < n; r++)
        *(r % 2 ? &odd : &even) += (uint32_t)r + 1;
    OK(ncclCommSplit(comm, me % 2, 0, &half, NULL));
    OK(ncclCommCount(half, &count));
    OK(ncclCommUserRank(half, &rank));
    CHECK_EQ(count, (n + 1 - me % 2) / 2);
    CHECK_EQ(rank, me / 2);
    expect_sum(half, rig->stream, (uint32_t)me + 1, me % 2 ? odd : even);

    OK(ncclCommSplit(comm, 7, -me, &back, NULL)); /* the key turns the order round */
    OK(ncclCommUserRank(back, &rank));
    CHECK_EQ(rank, n - 1 - me);

    OK(ncclCommSplit(comm, me == 0 ? -1 : 0, 0, &none, NULL));
    CHECK((none == NULL) == (me == 0));
    CHECK(none != POISON);

    OK(ncclGroupStart());
    OK(ncclCommSplit(comm, 0, 0, &one, NULL));
    OK(ncclCommSplit(half, 0, 0, &two, NULL));
    CHECK(one == NULL && two == NULL); /* stored only when complete */
    OK(ncclGroupEnd());
    CHECK(one != NULL && two != NULL);
    expect_sum(one, rig->stream, 1, (uint32_t)n);

    OK(ncclCommDestroy(one));
    OK(ncclCommDestroy(two));
    OK(ncclCommDestroy(half));
    OK(ncclCommDestroy(back));
    OK(ncclCommDestroy(none)); /* NULL is fine */
}

static void shrinks(struct rig *rig, ncclComm_t comm)
{
    int n = rig->nranks, me = rig->rank, rank, count, exclude[1] = {n / 2};
    ncclComm_t less = POISON;

    if (me == n / 2) {
        if (n > 1)
            CHECK_EQ(ncclCommShrink(comm, exclude, 1, &less, NULL, 0), ncclInvalidArgument);
        return;
    }
    OK(ncclCommShrink(comm, exclude, 1, &less, NULL, 0));
    OK(ncclCommCount(less, &count));
    OK(ncclCommUserRank(less, &rank));
    CHECK_EQ(count, n - 1);
    CHECK_EQ(rank, me > n / 2 ? me - 1 : me);
    expect_sum(less, rig->stream, 1, (uint32_t)n - 1);
    OK(ncclCommDestroy(less));
}

/* Destroyed and aborted communicators are gone, and the next one has the address of the last. */
static void reuse(struct rig *rig, ncclComm_t comm)
{
    ncclComm_t a = NULL, b = NULL, c = NULL;
    ncclResult_t state;
    int count;

    OK(ncclCommSplit(comm, 0, 0, &a, NULL));
    OK(ncclCommFinalize(a));
    OK(ncclCommCount(a, &count)); /* finalized, but still there */
    CHECK_EQ(ncclCommFinalize(a), ncclInvalidArgument);
    OK(ncclCommDestroy(a));
    CHECK_EQ(ncclCommCount(a, &count), ncclInvalidArgument);
    CHECK_EQ(ncclCommGetAsyncError(a, &state), ncclInvalidArgument);
    OK(ncclCommSplit(comm, 0, 0, &b, NULL));
    CHECK(b == a);
    expect_sum(b, rig->stream, 1, (uint32_t)rig->nranks);
    OK(ncclCommAbort(b));
    OK(ncclCommSplit(comm, 0, 0, &c, NULL));
    CHECK(c == b);
    expect_sum(c, rig->stream, 1, (uint32_t)rig->nranks);
    OK(ncclCommDestroy(c));
}

static void revoke(struct rig *rig, ncclComm_t comm)
{
    ncclComm_t a = NULL, b = NULL;
    uint32_t *p = rig_alloc(4);

    OK(ncclCommSplit(comm, 0, 0, &a, NULL));
    OK(ncclCommRevoke(a, 0));
    CHECK_EQ(ncclAllReduce(p, p, 1, ncclUint32, ncclSum, a, rig->stream), ncclInvalidUsage);
    CHECK_EQ(ncclCommRevoke(a, 0), ncclInvalidArgument);
    OK(ncclCommSplit(a, 0, 0, &b, NULL)); /* management goes on */
    expect_sum(b, rig->stream, 1, (uint32_t)rig->nranks);
    OK(ncclCommDestroy(b));
    OK(ncclCommDestroy(a));
    rig_free(p);
}

static void bad_arguments(struct rig *rig, ncclComm_t comm)
{
    ncclComm_t out = POISON;
    int count;
    ncclUniqueId id = rig->ids[7];

    CHECK_EQ(ncclCommInitRank(&out, 0, id, 0), ncclInvalidArgument);
    CHECK_EQ(ncclCommInitRank(&out, 2, id, 2), ncclInvalidArgument);
    CHECK_EQ(ncclCommInitRank(&out, 2, id, -1), ncclInvalidArgument);
    CHECK_EQ(ncclCommInitRankScalable(&out, 2, 0, 0, &id, NULL), ncclInvalidArgument);
    CHECK_EQ(ncclCommSplit(NULL, 0, 0, &out, NULL), ncclInvalidArgument);
    CHECK_EQ(ncclCommSplit(comm, 0, 0, NULL, NULL), ncclInvalidArgument);
    CHECK_EQ(ncclCommCount(NULL, &count), ncclInvalidArgument);
    CHECK_EQ(ncclCommCount(comm, NULL), ncclInvalidArgument);
    CHECK_EQ(ncclAlltoAll(NULL, NULL, 1, ncclInt8, NULL, NULL), ncclInvalidArgument);
    CHECK_EQ(ncclBcast(NULL, 1, ncclInt8, 0, NULL, NULL), ncclInvalidArgument);
    CHECK_EQ(ncclBcast(NULL, 1, ncclInt8, rig->nranks, comm, NULL), ncclInvalidArgument);
    CHECK_EQ(ncclAllReduce(NULL, NULL, 1, ncclInt8, (ncclRedOp_t)99, comm, NULL),
             ncclInvalidArgument);
    OK(ncclCommDestroy(NULL));
    OK(ncclCommAbort(NULL));
    OK(ncclCommFinalize(NULL));
    CHECK(strncmp(ncclGetLastError(NULL), "stand-in NCCL: ", 15) == 0);
    CHECK(strcmp(ncclGetErrorString(ncclInvalidUsage),
                 "invalid usage (run with NCCL_DEBUG=WARN for details)") == 0);
    OK(ncclAllReduce(NULL, NULL, 0, ncclInt8, ncclSum, comm, rig->stream)); /* empty: dropped */
}

static void registrations(struct rig *rig, ncclComm_t comm)
{
    void *p, *handle;
    ncclWindow_t window;

    (void)rig;
    OK(ncclMemAlloc(&p, 8192));
    OK(ncclCommRegister(comm, p, 8192, &handle));
    OK(ncclCommDeregister(comm, handle));
    OK(ncclCommWindowRegister(comm, p, 8192, &window, 1));
    OK(ncclCommWindowDeregister(comm, window));
    OK(ncclMemFree(p));
    CHECK_EQ(ncclCommRegister(NULL, p, 1, &handle), ncclInvalidArgument);
}

static void body(struct rig *rig)
{
    ncclUniqueId ids[2] = {rig->ids[0], rig->ids[1]};
    ncclComm_t comm;
    int device;

    OK(ncclCommInitRankScalable(&comm, rig->nranks, rig->rank, rig->nranks > 1 ? 2 : 1, ids, NULL));
    OK(ncclCommCuDevice(comm, &device));
    CHECK_EQ(device, rig->rank % 8);
    splits(rig, comm);
    if (rig->nranks > 1)
        shrinks(rig, comm);
    reuse(rig, comm);
    revoke(rig, comm);
    bad_arguments(rig, comm);
    registrations(rig, comm);
    OK(ncclCommDestroy(comm));
}

/* One thread, one process, several devices: InitAll, and operations in a group. */
static void init_all(struct rig *rig)
{
    ncclComm_t comms[4];
    cudaStream_t streams[4];
    uint32_t *words[4];
    int devices[4] = {3, 1, 0, 2}, twice[2] = {1, 1}, rank, device;

    (void)rig;
    CHECK_EQ(ncclCommInitAll(comms, 2, twice), ncclInvalidUsage);
    OK(ncclCommInitAll(comms, 4, devices));
    for (int i = 0; i < 4; i++) {
        rig_device(devices[i]);
        streams[i] = rig_stream();
        words[i] = rig_alloc(4);
        *words[i] = (uint32_t)i + 1;
        OK(ncclCommUserRank(comms[i], &rank));
        OK(ncclCommCuDevice(comms[i], &device));
        CHECK_EQ(rank, i);
        CHECK_EQ(device, devices[i]);
    }
    OK(ncclGroupStart());
    for (int i = 0; i < 4; i++)
        OK(ncclAllReduce(words[i], words[i], 1, ncclUint32, ncclSum, comms[i], streams[i]));
    OK(ncclGroupEnd());
    for (int i = 0; i < 4; i++) {
        rig_sync(streams[i]);
        CHECK_EQ(*words[i], 10);
    }
    OK(ncclGroupStart());
    for (int i = 0; i < 4; i++)
        OK(ncclCommDestroy(comms[i]));
    OK(ncclGroupEnd());
}

int main(void)
{
    int failed = 0;

    for (int n = 1; n <= 8; n += n < 3 ? 1 : 5)
        failed += rig_processes("communicators", n, body, -1);
    failed += rig_threads("InitAll", 1, init_all);
    return failed != 0;
}
