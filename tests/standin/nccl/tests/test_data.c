/* SPDX-License-Identifier: Apache-2.0 */
/* Every collective and point-to-point call moves the right bytes, between processes and threads. */
#include "rig.h"

#define N 5003 /* elements: odd, and more than a ring of 8 KiB holds */

/* @param windows of symmetric memory around both buffers, or none */
static void alltoall(struct rig *rig, ncclComm_t comm, bool in_group, bool windows)
{
    int n = rig->nranks, me = rig->rank;
    size_t bytes = (size_t)n * N * 4;
    uint32_t *send = rig_alloc(bytes), *recv = rig_alloc(bytes);
    ncclWindow_t window[2] = {NULL, NULL};

    if (windows) {
        OK(ncclCommWindowRegister(comm, send, bytes, &window[0], NCCL_WIN_COLL_SYMMETRIC));
        OK(ncclCommWindowRegister(comm, recv, bytes, &window[1], NCCL_WIN_COLL_SYMMETRIC));
    }
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < N; i++)
            send[(size_t)r * N + i] = rig_mark(me, r, i);
    if (in_group) {
        OK(ncclGroupStart());
        for (int r = 0; r < n; r++) {
            OK(ncclSend(send + (size_t)r * N, N, ncclUint32, r, comm, rig->stream));
            OK(ncclRecv(recv + (size_t)r * N, N, ncclUint32, r, comm, rig->stream));
        }
        OK(ncclGroupEnd());
    } else {
        OK(ncclAlltoAll(send, recv, N, ncclUint32, comm, rig->stream));
    }
    rig_sync(rig->stream);
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < N; i++)
            CHECK_EQ(recv[(size_t)r * N + i], rig_mark(r, me, i));
    for (int w = 0; windows && w < 2; w++)
        OK(ncclCommWindowDeregister(comm, window[w]));
    rig_free(send);
    rig_free(recv);
}

/* Sizes differ, some are zero, and each pair exchanges three messages in one group, in order. */
static void uneven(struct rig *rig, ncclComm_t comm)
{
    int n = rig->nranks, me = rig->rank;
    size_t most = 3000 * 3;
    uint8_t *send = rig_alloc((size_t)n * most), *recv = rig_alloc((size_t)n * most);
#define COUNT(src, dst, k) ((size_t)(((src)*7 + (dst)*13 + (k)*5) % 4) * 997)

    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < most; i++)
            send[(size_t)r * most + i] = (uint8_t)rig_mark(me, r, i);
    OK(ncclGroupStart());
    for (int r = n - 1; r >= 0; r--) {
        size_t out = 0, in = 0;
        for (int k = 0; k < 3; k++) {
            OK(ncclSend(send + (size_t)r * most + out, COUNT(me, r, k), ncclFloat8e4m3, r, comm,
                        rig->stream));
            out += COUNT(me, r, k);
            OK(ncclRecv(recv + (size_t)r * most + in, COUNT(r, me, k), ncclFloat8e4m3, r, comm,
                        rig->stream));
            in += COUNT(r, me, k);
        }
    }
    OK(ncclGroupEnd());
    rig_sync(rig->stream);
    for (int r = 0; r < n; r++) {
        size_t all = COUNT(r, me, 0) + COUNT(r, me, 1) + COUNT(r, me, 2);
        for (size_t i = 0; i < all; i++)
            CHECK_EQ(recv[(size_t)r * most + i], (uint8_t)rig_mark(r, me, i));
        for (size_t i = all; i < most; i++)
            CHECK_EQ(recv[(size_t)r * most + i], 0);
    }
    rig_free(send);
    rig_free(recv);
}

static void gathers(struct rig *rig, ncclComm_t comm)
{
    int n = rig->nranks, me = rig->rank, root = n - 1;
    uint32_t *one = rig_alloc(N * 4), *all = rig_alloc((size_t)n * N * 4);

    for (size_t i = 0; i < N; i++)
        one[i] = rig_mark(me, 0, i);
    OK(ncclAllGather(one, all, N, ncclUint32, comm, rig->stream));
    rig_sync(rig->stream);
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < N; i++)
            CHECK_EQ(all[(size_t)r * N + i], rig_mark(r, 0, i));
    memset(all, 0, (size_t)n * N * 4);
    OK(ncclGather(one, me == root ? all : NULL, N, ncclUint32, root, comm, rig->stream));
    rig_sync(rig->stream);
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < N; i++)
            CHECK_EQ(all[(size_t)r * N + i], me == root ? rig_mark(r, 0, i) : 0);
    OK(ncclScatter(me == root ? all : NULL, one, N, ncclUint32, root, comm, rig->stream));
    rig_sync(rig->stream);
    for (size_t i = 0; i < N; i++)
        CHECK_EQ(one[i], rig_mark(me, 0, i));
    if (me != 0)
        memset(one, 0, N * 4);
    OK(ncclBcast(one, N, ncclUint32, 0, comm, rig->stream));
    rig_sync(rig->stream);
    for (size_t i = 0; i < N; i++)
        CHECK_EQ(one[i], rig_mark(0, 0, i));
    /* all-gather of different sizes, as vLLM does it: grouped broadcasts */
    OK(ncclGroupStart());
    for (int r = 0; r < n; r++)
        OK(ncclBroadcast(one, all + (size_t)r * N, (size_t)r * 700 + 1, ncclUint32, r, comm,
                         rig->stream));
    OK(ncclGroupEnd());
    rig_sync(rig->stream);
    for (int r = 0; r < n; r++)
        CHECK_EQ(all[(size_t)r * N + (size_t)r * 700], rig_mark(0, 0, (size_t)r * 700));
    rig_free(one);
    rig_free(all);
}

static long long small(int r, size_t i)
{
    return (long long)((i + (size_t)r * 3) % 5) + 1;
}

static void put(void *p, size_t i, ncclDataType_t type, double x)
{
    uint16_t half[8] = {0, 0x3c00, 0x4000, 0x4200, 0x4400, 0x4500};  /* 0 to 5 as fp16 */
    uint16_t brain[8] = {0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0}; /* and as bf16 */
    uint8_t e4m3[8] = {0, 0x38, 0x40, 0x44, 0x48, 0x4a},
            e5m2[8] = {0, 0x3c, 0x40, 0x42, 0x44, 0x45};

    switch (type) {
    case ncclInt8:
    case ncclUint8:
        ((uint8_t *)p)[i] = (uint8_t)x;
        break;
    case ncclInt32:
    case ncclUint32:
        ((uint32_t *)p)[i] = (uint32_t)x;
        break;
    case ncclInt64:
    case ncclUint64:
        ((uint64_t *)p)[i] = (uint64_t)x;
        break;
    case ncclFloat32:
        ((float *)p)[i] = (float)x;
        break;
    case ncclFloat64:
        ((double *)p)[i] = x;
        break;
    case ncclFloat16:
        ((uint16_t *)p)[i] = half[(int)x];
        break;
    case ncclBfloat16:
        ((uint16_t *)p)[i] = brain[(int)x];
        break;
    case ncclFloat8e4m3:
        ((uint8_t *)p)[i] = e4m3[(int)x];
        break;
    default:
        ((uint8_t *)p)[i] = e5m2[(int)x];
    }
}

static double expected(int n, size_t i, int op)
{
    double x = (double)small(0, i);

    for (int r = 1; r < n; r++) {
        double y = (double)small(r, i);
        x = op == ncclSum    ? x + y
            : op == ncclProd ? x * y
            : op == ncclMax  ? (x > y ? x : y)
                             : (x < y ? x : y);
    }
    return x;
}

/* Exact for every type: minima and maxima always, sums and products where they fit. */
static void reductions(struct rig *rig, ncclComm_t comm)
{
    static const ncclRedOp_t ops[] = {ncclMin, ncclMax, ncclSum, ncclProd};
    int n = rig->nranks, me = rig->rank;
    char *in = rig_alloc(N * 8), *out = rig_alloc(N * 8), *want = rig_alloc(N * 8);

    for (int type = 0; type < ncclNumTypes; type++) {
        size_t size = skew_nccl_type_size(type);
        bool coarse = size == 1 || type == ncclFloat16 || type == ncclBfloat16;
        for (int o = 0; o < (coarse ? 2 : 4); o++) {
            for (size_t i = 0; i < N; i++) {
                put(in, i, (ncclDataType_t)type, (double)small(me, i));
                put(want, i, (ncclDataType_t)type, expected(n, i, ops[o]));
            }
            memset(out, 0, N * 8);
            OK(ncclAllReduce(in, out, N, (ncclDataType_t)type, ops[o], comm, rig->stream));
            rig_sync(rig->stream);
            CHECK(memcmp(out, want, N * size) == 0);
            OK(ncclAllReduce(in, in, N, (ncclDataType_t)type, ops[o], comm, rig->stream));
            rig_sync(rig->stream);
            CHECK(memcmp(in, want, N * size) == 0);
        }
    }
    rig_free(in);
    rig_free(out);
    rig_free(want);
}

/* Small floats add and average with the right rounding: 1 to 5 are exact, so is half of them. */
static void sums(struct rig *rig, ncclComm_t comm)
{
    int n = rig->nranks, me = rig->rank, root = n / 2;
    float *in = rig_alloc((size_t)n * N * 4), *out = rig_alloc((size_t)n * N * 4), three = 3;
    ncclRedOp_t triple;

    for (size_t i = 0; i < (size_t)n * N; i++)
        in[i] = (float)small(me, i);
    OK(ncclReduceScatter(in, out, N, ncclFloat32, ncclSum, comm, rig->stream));
    rig_sync(rig->stream);
    for (size_t i = 0; i < N; i++)
        CHECK(out[i] == (float)expected(n, (size_t)me * N + i, ncclSum));
    OK(ncclAllReduce(in, out, N, ncclFloat32, ncclAvg, comm, rig->stream));
    rig_sync(rig->stream);
    for (size_t i = 0; i < N; i++)
        CHECK(out[i] == (float)expected(n, i, ncclSum) / (float)n);
    OK(ncclRedOpCreatePreMulSum(&triple, &three, ncclFloat32, ncclScalarHostImmediate, comm));
    OK(ncclReduce(in, out, N, ncclFloat32, triple, root, comm, rig->stream));
    OK(ncclRedOpDestroy(triple, comm));
    rig_sync(rig->stream);
    for (size_t i = 0; me == root && i < N; i++)
        CHECK(out[i] == 3 * (float)expected(n, i, ncclSum));
    CHECK_EQ(ncclAllReduce(in, out, N, ncclFloat32, triple, comm, rig->stream),
             ncclInvalidArgument);
    /* reduce-scatter in place, the result where NCCL has it */
    OK(ncclReduceScatter(in, in + (size_t)me * N, N, ncclFloat32, ncclSum, comm, rig->stream));
    rig_sync(rig->stream);
    for (size_t i = 0; i < N; i++)
        CHECK(in[(size_t)me * N + i] == (float)expected(n, (size_t)me * N + i, ncclSum));
    rig_free(in);
    rig_free(out);
}

static void small_floats(struct rig *rig, ncclComm_t comm)
{
    /* 1 + 1/1024 + … : in fp16 2048 + 1 rounds to even, 2048 + 3 to 2052 */
    uint16_t a[2] = {0x6800, 0x6800}, b[2] = {0x3c00, 0x4200}, out[2];
    uint16_t *in = rig_alloc(4), *sum = rig_alloc(4);

    if (rig->nranks == 2) {
        memcpy(in, rig->rank ? b : a, 4);
        OK(ncclAllReduce(in, sum, 2, ncclFloat16, ncclSum, comm, rig->stream));
        rig_sync(rig->stream);
        memcpy(out, sum, 4);
        CHECK_EQ(out[0], 0x6800);
        CHECK_EQ(out[1], 0x6802);
    }
    rig_free(in);
    rig_free(sum);
}

static void body(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);

    alltoall(rig, comm, true, false);
    alltoall(rig, comm, false, false);
    uneven(rig, comm);
    gathers(rig, comm);
    reductions(rig, comm);
    sums(rig, comm);
    small_floats(rig, comm);
    OK(ncclCommDestroy(comm));
}

static void one_alltoall(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);

    for (int i = 0; i < 3; i++)
        alltoall(rig, comm, i % 2, false);
    OK(ncclCommDestroy(comm));
}

/* By copy engines, and by kernels on the same communicator. */
static void engines(struct rig *rig)
{
    ncclComm_t comm = rig_comm_zero_ctas(rig, 0);

    for (int i = 0; i < 4; i++)
        alltoall(rig, comm, i == 3, i % 2 == 0);
    OK(ncclCommDestroy(comm));
}

int main(void)
{
    int failed = 0;

    for (int n = 1; n <= 8; n += n < 4 ? 1 : 4)
        failed += rig_processes("all calls", n, body, -1);
    failed += rig_threads("all calls", 4, body);
    setenv("SKEWSCOPE_STANDIN_RING", "8192", 1);
    failed += rig_processes("all calls, small rings", 3, body, -1);
    unsetenv("SKEWSCOPE_STANDIN_RING");
    failed += rig_processes("copy engines", 5, engines, -1);
    failed += rig_threads("copy engines", 3, engines);
    failed += rig_processes("all-to-all", 32, one_alltoall, -1);
    failed += rig_processes("all-to-all", 64, one_alltoall, -1);
    return failed != 0;
}
