/* SPDX-License-Identifier: Apache-2.0 */
/* Groups: nesting, several communicators and streams, poisoning, simulation, non-blocking. */
#include <unistd.h>

#include "rig.h"

#define N 3001

static void fill(uint32_t *p, int src, int dst)
{
    for (size_t i = 0; i < N; i++)
        p[i] = rig_mark(src, dst, i);
}

static void check(const uint32_t *p, int src, int dst)
{
    for (size_t i = 0; i < N; i++)
        CHECK_EQ(p[i], rig_mark(src, dst, i));
}

/* A ring: to the right, from the left. */
struct hop {
    uint32_t *send, *recv;
    int to, from;
};

static struct hop new_hop(const struct rig *rig)
{
    int n = rig->nranks, me = rig->rank;
    struct hop h = {rig_alloc(N * 4), rig_alloc(N * 4), (me + 1) % n, (me + n - 1) % n};

    fill(h.send, me, h.to);
    return h;
}

static void pass(const struct hop *h, ncclComm_t comm, cudaStream_t stream)
{
    OK(ncclSend(h->send, N, ncclUint32, h->to, comm, stream));
    OK(ncclRecv(h->recv, N, ncclUint32, h->from, comm, stream));
}

static void nested(struct rig *rig, ncclComm_t comm)
{
    struct hop h = new_hop(rig);

    OK(ncclGroupStart());
    OK(ncclGroupStart());
    pass(&h, comm, rig->stream);
    OK(ncclGroupEnd());
    usleep(20000);
    CHECK(rig_idle(rig->stream)); /* nothing reaches the stream before the outermost end */
    CHECK_EQ(h.recv[N - 1], 0);
    OK(ncclGroupEnd());
    rig_sync(rig->stream);
    check(h.recv, h.from, rig->rank);
}

/* One group: two communicators, the first on two streams; both streams wait for the operation. */
static void comms_and_streams(struct rig *rig, ncclComm_t a, ncclComm_t b)
{
    struct hop h1 = new_hop(rig), h2 = new_hop(rig), h3 = new_hop(rig);
    cudaStream_t s2 = rig_stream(), s3 = rig_stream();

    OK(ncclGroupStart());
    pass(&h1, a, rig->stream);
    pass(&h2, b, s3);
    pass(&h3, a, s2);
    OK(ncclGroupEnd());
    rig_sync(rig->stream);
    check(h1.recv, h1.from, rig->rank);
    check(h3.recv, h3.from, rig->rank);
    rig_sync(s3);
    check(h2.recv, h2.from, rig->rank);
    /* Without a group: the second stream runs after the first, because the communicator is one. */
    memset(h3.recv, 0, N * 4);
    OK(ncclAllGather(h1.send, rig_alloc((size_t)rig->nranks * N * 4), N, ncclUint32, a,
                     rig->stream));
    OK(ncclBroadcast(h1.send, h3.recv, N, ncclUint32, 0, a, s2));
    rig_sync(s2);
    check(h3.recv, 0, 1 % rig->nranks);
    rig_sync(rig->stream);
}

static void poisoned(struct rig *rig, ncclComm_t comm)
{
    struct hop h = new_hop(rig);

    OK(ncclGroupStart());
    pass(&h, comm, rig->stream);
    CHECK_EQ(ncclSend(h.send, N, ncclUint32, rig->nranks, comm, rig->stream), ncclInvalidArgument);
    CHECK_EQ(ncclGroupEnd(), ncclInvalidArgument);
    CHECK_EQ(ncclSend(h.send, N, (ncclDataType_t)77, 0, comm, rig->stream), ncclInvalidArgument);
    CHECK_EQ(ncclSend(h.send, N, ncclUint32, -1, comm, rig->stream), ncclInvalidArgument);
    OK(ncclGroupStart());
    CHECK_EQ(ncclSend(h.send, N, ncclUint32, 0, NULL, rig->stream), ncclInvalidArgument);
    CHECK_EQ(ncclGroupEnd(), ncclInvalidArgument);
    OK(ncclGroupStart());
    OK(ncclSend(h.send, N, ncclUint32, rig->rank, comm, rig->stream));
    CHECK_EQ(ncclGroupEnd(), ncclInvalidUsage); /* to self, and nobody receives */
    CHECK_EQ(ncclGroupEnd(), ncclInvalidUsage);
    OK(ncclGroupStart());
    OK(ncclGroupEnd());
    CHECK(rig_idle(rig->stream));
    CHECK_EQ(h.recv[0], 0);
}

struct sim {
    size_t size;
    unsigned magic, version;
    float us;
};

static void simulated(struct rig *rig, ncclComm_t comm)
{
    struct hop h = new_hop(rig);
    struct sim sim = {sizeof(sim), 0x74685283, 22809, -1}, bad = {sizeof(bad), 1, 22809, -1};

    OK(ncclGroupStart());
    pass(&h, comm, rig->stream);
    OK(ncclGroupSimulateEnd((ncclSimInfo_t *)&sim));
    CHECK(sim.us > 0);
    OK(ncclGroupStart());
    pass(&h, comm, rig->stream);
    CHECK_EQ(ncclGroupSimulateEnd((ncclSimInfo_t *)&bad), ncclInvalidArgument);
    usleep(20000);
    CHECK(rig_idle(rig->stream));
    CHECK_EQ(h.recv[0], 0);
    OK(ncclGroupStart());
    pass(&h, comm, rig->stream);
    OK(ncclGroupSimulateEnd(NULL)); /* the same as GroupEnd */
    rig_sync(rig->stream);
    check(h.recv, h.from, rig->rank);
    OK(ncclGroupStart());
    OK(ncclGroupSimulateEnd(NULL));
}

struct config { /* ncclConfig_t of 2.28, of which only the head matters here */
    struct skew_nccl_config_head head;
    int rest[24];
};

static struct config non_blocking_config(void)
{
    struct config c = {.head = {sizeof(c.head), NCCL_CONFIG_MAGIC, 22809, 0}};

    return c;
}

static void non_blocking(struct rig *rig, ncclComm_t blocking)
{
    struct hop h = new_hop(rig), h2 = new_hop(rig), h3 = new_hop(rig);
    struct sim sim = {sizeof(sim), 0x74685283, 22809, -1};
    struct config config = non_blocking_config(), bad = config;
    ncclComm_t comm = NULL, child = NULL;
    int count;

    bad.head.magic = 0;
    CHECK_EQ(
        ncclCommInitRankConfig(&comm, rig->nranks, rig->ids[2], rig->rank, (ncclConfig_t *)&bad),
        ncclInvalidArgument);
    ncclResult_t result =
        ncclCommInitRankConfig(&comm, rig->nranks, rig->ids[2], rig->rank, (ncclConfig_t *)&config);
    CHECK(result == ncclInProgress || result == ncclSuccess);
    CHECK(comm != NULL);
    OK(rig_settle(comm));
    OK(ncclCommCount(comm, &count));
    CHECK_EQ(count, rig->nranks);

    OK(ncclGroupStart());
    pass(&h, comm, rig->stream);
    CHECK_EQ(ncclSend(h.send, N, ncclUint32, h.to, blocking, rig->stream), ncclInvalidArgument);
    CHECK_EQ(ncclGroupEnd(), ncclInvalidArgument); /* the two kinds do not mix */
    OK(ncclGroupStart());
    pass(&h, comm, rig->stream);
    CHECK_EQ(ncclGroupEnd(), ncclInProgress);
    OK(rig_settle(comm));
    rig_sync(rig->stream);
    check(h.recv, h.from, rig->rank);

    /* The background thread is not told that it is a simulation: the group is launched. */
    OK(ncclGroupStart());
    pass(&h3, comm, rig->stream);
    CHECK_EQ(ncclGroupSimulateEnd((ncclSimInfo_t *)&sim), ncclInProgress);
    OK(rig_settle(comm));
    rig_sync(rig->stream);
    check(h3.recv, h3.from, rig->rank);
    CHECK(sim.us == -1);

    OK(ncclCommSplit(comm, rig->rank % 2, 0, &child, NULL));
    OK(rig_settle(comm));
    CHECK(child != NULL);
    result = ncclAllReduce(h2.send, h2.recv, 1, ncclUint32, ncclSum, child, rig->stream);
    CHECK(result == ncclInProgress || result == ncclSuccess);
    OK(rig_settle(child));
    rig_sync(rig->stream);
    result = ncclCommFinalize(child);
    CHECK(result == ncclInProgress || result == ncclSuccess);
    OK(rig_settle(child));
    OK(ncclCommDestroy(child));
    OK(ncclCommDestroy(comm));
}

static void body(struct rig *rig)
{
    ncclComm_t a = rig_comm(rig, 0), b = rig_comm(rig, 1);

    nested(rig, a);
    comms_and_streams(rig, a, b);
    poisoned(rig, a);
    simulated(rig, a);
    non_blocking(rig, a);
    nested(rig, a); /* and everything still works */
    OK(ncclCommDestroy(a));
    OK(ncclCommDestroy(b));
}

int main(void)
{
    int failed = 0;

    failed += rig_processes("groups", 1, body, -1);
    failed += rig_processes("groups", 2, body, -1);
    failed += rig_processes("groups", 5, body, -1);
    failed += rig_threads("groups", 4, body);
    return failed != 0;
}
