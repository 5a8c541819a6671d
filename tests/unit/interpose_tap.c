/* SPDX-License-Identifier: Apache-2.0 */
/* The recogniser of the tap by itself: shapes of calls, contiguous sends and receives, what can be
 * counts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tap_private.h"

static int failures;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static void check_shapes(void)
{
    static const struct {
        uint32_t op;
        int dtype;
        uint64_t count;
        uint32_t arg;
        int ranks;
        enum skew_tap_shape shape;
    } cases[] = {
        {SKEW_OP_ALLGATHER, ncclInt64, 64, 0, 8, SKEW_TAP_ALLGATHER},  /* Megatron's counts */
        {SKEW_OP_ALLGATHER, ncclInt32, 160, 0, 8, SKEW_TAP_ALLGATHER}, /* ids */
        {SKEW_OP_ALLGATHER, ncclInt32, 1, 0, 8, SKEW_TAP_NONE},        /* a size */
        {SKEW_OP_ALLGATHER, ncclFloat32, 64, 0, 8, SKEW_TAP_NONE},     /* values */
        {SKEW_OP_ALLGATHER, ncclUint8, 4096, 0, 8, SKEW_TAP_MAP},      /* HybridEP's map */
        {SKEW_OP_ALLGATHER, ncclUint8, 8, 0, 8, SKEW_TAP_NONE},
        {SKEW_OP_ALLGATHER, ncclInt64, 64, 0, 1, SKEW_TAP_NONE}, /* nobody to tell */
        {SKEW_OP_ALLGATHER, ncclInt64, 0, 0, 8, SKEW_TAP_NONE},
        {SKEW_OP_ALLGATHER, ncclInt64, 1ull << 33, 0, 8, SKEW_TAP_NONE},
        {SKEW_OP_ALLTOALL, ncclInt32, 8, 0, 8, SKEW_TAP_ALLTOALL},      /* AutoEP */
        {SKEW_OP_ALLTOALL, ncclInt64, 1, 0, 8, SKEW_TAP_ALLTOALL},      /* Tutel */
        {SKEW_OP_ALLTOALL, ncclBfloat16, 4096, 0, 8, SKEW_TAP_NONE},    /* padded dispatch */
        {SKEW_OP_BROADCAST, ncclInt32, 1024, 3, 8, SKEW_TAP_BROADCAST}, /* vLLM's ids */
        {SKEW_OP_BROADCAST, ncclFloat16, 1024, 3, 8, SKEW_TAP_NONE},
        {SKEW_OP_ALLREDUCE, ncclFloat32, 58 * 256, ncclSum, 8, SKEW_TAP_SUM}, /* expert bias */
        {SKEW_OP_ALLREDUCE, ncclInt64, 128, ncclSum, 8, SKEW_TAP_SUM},
        {SKEW_OP_ALLREDUCE, ncclFloat32, 1, ncclSum, 8, SKEW_TAP_NONE}, /* a loss */
        {SKEW_OP_ALLREDUCE, ncclBfloat16, 4096, ncclSum, 8, SKEW_TAP_NONE},
        {SKEW_OP_ALLREDUCE, ncclFloat32, 128, ncclMax, 8, SKEW_TAP_NONE},
        {SKEW_OP_ALLREDUCE, ncclInt64, 1, ncclMax, 8, SKEW_TAP_MAX}, /* capacity */
        {SKEW_OP_REDUCESCATTER, ncclInt64, 64, ncclSum, 8, SKEW_TAP_NONE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        if (skew_tap_shape_of(cases[i].op, cases[i].dtype, cases[i].count, cases[i].arg,
                              cases[i].ranks) != cases[i].shape) {
            fprintf(stderr, "case %zu: another shape\n", i);
            failures++;
        }
}

/* A group of `ranks` sends and receives of `count` int64, with one thing made wrong. */
enum fault { NONE, GAP, ORDER, LENGTH, TYPE, STREAM, NULL_BUFFER, MISSING, TWICE };

static bool pairs_with(enum fault fault)
{
    static int64_t send[4][8], recv[4][8];
    struct skew_tap_pairs pairs = {0};
    ncclComm_t comm = (ncclComm_t)send;
    for (uint32_t p = 0; p < 4; p++) {
        bool hit = p == 2;
        const void *from = hit && fault == GAP           ? (void *)&send[p][1]
                           : hit && fault == NULL_BUFFER ? NULL
                                                         : send[p];
        uint32_t peer = hit && fault == ORDER ? 3 : p;
        uint64_t count = hit && fault == LENGTH ? 7 : 8;
        int type = hit && fault == TYPE ? ncclInt32 : ncclInt64;
        cudaStream_t stream = hit && fault == STREAM ? (cudaStream_t)recv : NULL;
        skew_tap_pairs_add(&pairs, true, from, count, type, peer, comm, stream);
        if (hit && fault == MISSING)
            continue;
        skew_tap_pairs_add(&pairs, false, recv[p], 8, ncclInt64, p, comm, NULL);
    }
    if (fault == TWICE)
        skew_tap_pairs_add(&pairs, true, send[0], 8, ncclInt64, 4, comm, NULL);
    return skew_tap_pairs_whole(&pairs, 4);
}

static void check_pairs(void)
{
    CHECK(pairs_with(NONE));
    for (int fault = GAP; fault <= TWICE; fault++)
        if (pairs_with((enum fault)fault)) {
            fprintf(stderr, "fault %d goes unnoticed\n", fault);
            failures++;
        }
}

static void check_plausible(void)
{
    const int64_t counts[] = {0, 5, 1 << 20}, negative[] = {3, -1}, huge[] = {(int64_t)1 << 50};
    const int32_t ids[] = {31, 0, 7}, bad_ids[] = {31, -1};
    const float sums[] = {0, 12, 4096}, gradients[] = {0.25f, 1}, zeros[] = {0, 0},
                nan[] = {0.0f / 0.0f, 1};
    const uint8_t map[] = {0, 1, 1, 0}, tokens[] = {0, 1, 2, 0};
    CHECK(skew_tap_plausible(SKEW_TAP_ALLGATHER, ncclInt64, counts, 3));
    CHECK(!skew_tap_plausible(SKEW_TAP_ALLGATHER, ncclInt64, negative, 2));
    CHECK(!skew_tap_plausible(SKEW_TAP_ALLGATHER, ncclInt64, huge, 1));
    CHECK(skew_tap_plausible(SKEW_TAP_BROADCAST, ncclInt32, ids, 3));
    CHECK(!skew_tap_plausible(SKEW_TAP_BROADCAST, ncclInt32, bad_ids, 2));
    CHECK(skew_tap_plausible(SKEW_TAP_SUM, ncclFloat32, sums, 3));
    CHECK(!skew_tap_plausible(SKEW_TAP_SUM, ncclFloat32, gradients, 2));
    CHECK(!skew_tap_plausible(SKEW_TAP_SUM, ncclFloat32, zeros, 2));
    CHECK(!skew_tap_plausible(SKEW_TAP_SUM, ncclFloat32, nan, 2));
    CHECK(skew_tap_plausible(SKEW_TAP_MAP, ncclUint8, map, 4));
    CHECK(!skew_tap_plausible(SKEW_TAP_MAP, ncclUint8, tokens, 4));
}

int main(void)
{
    check_shapes();
    check_pairs();
    check_plausible();
    return failures != 0;
}
