/* SPDX-License-Identifier: Apache-2.0 */
/* Captured operations become nodes; every replay moves the bytes that are in the buffers then. */
#include <unistd.h>

#include "rig.h"

#define N 2003

static void exchange(struct rig *rig, ncclComm_t comm, const uint32_t *send, uint32_t *recv,
                     cudaStream_t stream)
{
    OK(ncclGroupStart());
    for (int r = 0; r < rig->nranks; r++) {
        OK(ncclSend(send + (size_t)r * N, N, ncclUint32, r, comm, stream));
        OK(ncclRecv(recv + (size_t)r * N, N, ncclUint32, r, comm, stream));
    }
    OK(ncclGroupEnd());
}

static void fill(struct rig *rig, uint32_t *send, uint32_t round)
{
    for (int r = 0; r < rig->nranks; r++)
        for (size_t i = 0; i < N; i++)
            send[(size_t)r * N + i] = rig_mark(rig->rank, r, i) + round;
}

static void check(struct rig *rig, const uint32_t *recv, uint32_t round)
{
    for (int r = 0; r < rig->nranks; r++)
        for (size_t i = 0; i < N; i++)
            CHECK_EQ(recv[(size_t)r * N + i], rig_mark(r, rig->rank, i) + round);
}

static void body(struct rig *rig)
{
    ncclComm_t a = rig_comm(rig, 0), b = rig_comm(rig, 1);
    size_t bytes = (size_t)rig->nranks * N * 4;
    uint32_t *send = rig_alloc(bytes), *recv = rig_alloc(bytes), *recv2 = rig_alloc(bytes);
    uint32_t *sum = rig_alloc(4);
    cudaStream_t side = rig_stream();

    rig_capture_begin(rig->stream);
    exchange(rig, a, send, recv, rig->stream);
    OK(ncclAllReduce(sum, sum, 1, ncclUint32, ncclSum, a, rig->stream));
    rig_stream_join(rig->stream, side);
    exchange(rig, b, send, recv2, side); /* another communicator, on a stream that joined */
    exchange(rig, a, send, recv, rig->stream);
    OK(ncclGroupStart());
    OK(ncclSend(send, 1, ncclUint32, 0, a, rig_stream()));
    /* captured and not captured streams do not go together */
    CHECK_EQ(ncclRecv(recv, 1, ncclUint32, 0, a, rig->stream), ncclInvalidUsage);
    CHECK_EQ(ncclGroupEnd(), ncclInvalidUsage);
    rig_stream_join(side, rig->stream);
    rig_graph graph = rig_capture_end(rig->stream);
    usleep(10000);
    CHECK_EQ(recv[N - 1], 0); /* nothing ran yet */

    for (uint32_t round = 0; round < 5; round++) {
        fill(rig, send, round);
        *sum = 1;
        rig_graph_launch(graph, rig->stream);
        rig_sync(rig->stream);
        check(rig, recv, round);
        check(rig, recv2, round);
        CHECK_EQ(*sum, rig->nranks);
        if (round == 2) { /* eager calls between replays */
            exchange(rig, a, send, recv, rig->stream);
            rig_sync(rig->stream);
            check(rig, recv, round);
        }
    }
    for (int i = 0; i < 3; i++) /* replays in a row, without looking in between */
        rig_graph_launch(graph, rig->stream);
    rig_sync(rig->stream);
    rig_graph_destroy(graph);
    OK(ncclCommDestroy(a));
    OK(ncclCommDestroy(b));
}

int main(void)
{
    int failed = 0;

    failed += rig_processes("graphs", 1, body, -1);
    failed += rig_processes("graphs", 2, body, -1);
    failed += rig_processes("graphs", 4, body, -1);
    failed += rig_threads("graphs", 3, body);
    return failed != 0;
}
