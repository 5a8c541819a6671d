/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups in every shape that NCCL allows. usage: groups CASE      prints the records it expects
 * (expect.h); groups.py runs each case under the library, on NCCLs of several versions, and
 * compares.
 */
#include <pthread.h>

#include "expect.h"

static ncclComm_t comm; /* C1: rank 0 of 4 */

static void send(size_t count, int peer)
{
    OK(ncclSend(NULL, count, ncclInt32, peer, comm, NULL));
}

static void recv(size_t count, int peer)
{
    OK(ncclRecv(NULL, count, ncclInt32, peer, comm, NULL));
}

static void single(void)
{
    send(5, 1);
    expect("group C1/0x0:0:0 | send 5 int32 1");
    recv(6, 2);
    expect("group C1/0x0:1:0 | recv 6 int32 2");
    OK(ncclAllReduce(NULL, NULL, 7, ncclFloat32, ncclSum, comm, STREAM(16)));
    expect("group C1/0x10:2:0 | allreduce 7 float32 0");
    send(8, 3);
    expect("group C1/0x0:2:1 | send 8 int32 3");
}

static void nested(void)
{
    OK(ncclGroupStart());
    send(1, 1);
    OK(ncclGroupStart());
    recv(2, 2);
    OK(ncclGroupStart());
    OK(ncclGroupEnd());
    OK(ncclGroupEnd());
    send(3, 3);
    OK(ncclGroupEnd());
    expect("group C1/0x0:0:0 | send 1 int32 1, recv 2 int32 2, send 3 int32 3");
    OK(ncclGroupStart());
    OK(ncclGroupEnd()); /* an empty group launches nothing and is no record */
    send(4, 1);
    expect("group C1/0x0:1:0 | send 4 int32 1");
}

static void several_comms(void)
{
    ncclComm_t other = make_comm(2, 1, 2);
    expect("comm C2 init_rank 1/2");
    OK(ncclGroupStart());
    send(1, 1);
    OK(ncclSend(NULL, 2, ncclInt8, 0, other, NULL));
    recv(3, 2);
    OK(ncclRecv(NULL, 4, ncclInt8, 1, other, STREAM(32)));
    OK(ncclAllGather(NULL, NULL, 5, ncclUint8, other, STREAM(32)));
    OK(ncclGroupEnd());
    expect("group C1/0x0:0:0 C2/0x0:0:0 C2/0x20:0:0 | send 1 int32 1, send 2 int8 0 @1, recv 3 "
           "int32 2, "
           "recv 4 int8 1 @2, allgather 5 uint8 0 @2");
    OK(ncclSend(NULL, 6, ncclInt8, 0, other, NULL));
    expect("group C2/0x0:1:1 | send 6 int8 0");
}

static void several_streams(void)
{
    OK(ncclGroupStart());
    for (int i = 0; i < 4; i++)
        OK(ncclSend(NULL, (size_t)i, ncclInt32, i, comm, STREAM(i % 2 ? 48 : 0)));
    OK(ncclGroupEnd());
    expect("group C1/0x0:0:0 C1/0x30:0:0 | send 0 int32 0, send 1 int32 1 @1, send 2 int32 2, send "
           "3 int32 3 @1");
}

/* The group is poisoned by the n-th send that fails: the first goes the slow way, the others the
 * fast one. */
static void failing(void)
{
    struct null_nccl *null = null_nccl_control();
    for (int n = 0; n < 3; n++) {
        null->fail_name = "ncclSend";
        null->fail_skip = n;
        null->fail_with = ncclInvalidArgument;
        OK(ncclGroupStart());
        for (int i = 0; i < 3; i++)
            MUST(ncclSend(NULL, 1, ncclInt32, i, comm, NULL) ==
                 (i == n ? ncclInvalidArgument : ncclSuccess));
        recv(9, 3);
        MUST(ncclGroupEnd() == ncclInvalidArgument);
        OK(ncclGroupStart());
        send(2, 1);
        OK(ncclGroupEnd());
        expect("group C1/0x0:%d:0 | send 2 int32 1", n);
    }
    null->fail_name = "ncclSend"; /* outside a group */
    MUST(ncclSend(NULL, 1, ncclInt32, 1, comm, NULL) == ncclInvalidArgument);
    null->fail_name = "ncclAllReduce";
    MUST(ncclAllReduce(NULL, NULL, 1, ncclInt32, ncclSum, comm, NULL) == ncclInvalidArgument);
    OK(ncclGroupStart());
    send(1, 1);
    null->group_result = ncclRemoteError;
    MUST(ncclGroupEnd() == ncclRemoteError);
    null->group_result = ncclSuccess;
    send(3, 1);
    expect("group C1/0x0:3:0 | send 3 int32 1");
}

static void in_progress(void)
{
    struct null_nccl *null = null_nccl_control();
    OK(ncclGroupStart());
    send(1, 1);
    null->group_result = ncclInProgress;
    MUST(ncclGroupEnd() == ncclInProgress);
    null->group_result = ncclSuccess;
    expect("group C1/0x0:0:0 result 7 | send 1 int32 1");
    null->data_result = ncclInProgress;
    MUST(ncclAllReduce(NULL, NULL, 2, ncclInt8, ncclSum, comm, NULL) == ncclInProgress);
    expect("group C1/0x0:1:0 result 7 | allreduce 2 int8 0");
}

static void simulate(void)
{
    OK(ncclGroupStart());
    send(1, 1);
    OK(ncclGroupSimulateEnd((ncclSimInfo_t *)&comm));
    OK(ncclGroupStart());
    send(2, 1);
    OK(ncclGroupSimulateEnd(NULL)); /* is ncclGroupEnd */
    expect("group C1/0x0:0:0 | send 2 int32 1");
    OK(ncclGroupStart());
    OK(ncclGroupStart());
    send(3, 1);
    OK(ncclGroupSimulateEnd((ncclSimInfo_t *)&comm)); /* an inner end only counts down */
    OK(ncclGroupEnd());
    expect("group C1/0x0:1:0 | send 3 int32 1");
}

/* Of non-blocking communicators: NCCL hands the group to its background thread, which knows nothing
 * of the simulation, and says InProgress. What is launched is recorded. One that fails at once
 * launches nothing. */
static void simulate_in_progress(void)
{
    struct null_nccl *null = null_nccl_control();
    OK(ncclGroupStart());
    send(1, 1);
    recv(2, 3);
    null->group_result = ncclInProgress;
    MUST(ncclGroupSimulateEnd((ncclSimInfo_t *)&comm) == ncclInProgress);
    expect("group C1/0x0:0:0 result 7 | send 1 int32 1, recv 2 int32 3");
    OK(ncclGroupStart());
    send(3, 1);
    null->group_result = ncclInvalidUsage;
    MUST(ncclGroupSimulateEnd((ncclSimInfo_t *)&comm) == ncclInvalidUsage);
    null->group_result = ncclSuccess;
    OK(ncclGroupStart());
    send(4, 1);
    OK(ncclGroupSimulateEnd((ncclSimInfo_t *)&comm)); /* a blocking one: nothing is launched */
    send(5, 1);
    expect("group C1/0x0:1:0 | send 5 int32 1");
}

static void unbalanced(void)
{
    MUST(ncclGroupEnd() == ncclInvalidUsage);
    OK(ncclGroupStart());
    send(1, 1);
    OK(ncclGroupEnd());
    expect("group C1/0x0:0:0 | send 1 int32 1");
    MUST(ncclGroupEnd() == ncclInvalidUsage);
    send(2, 1);
    expect("group C1/0x0:1:0 | send 2 int32 1");
    expect("diag unbalanced_group");
}

static void bcast(void)
{
    OK(ncclBcast(NULL, 5, ncclFloat16, 2, comm, NULL));
    expect("group C1/0x0:0:0 | broadcast 5 float16 2");
    OK(ncclGroupStart());
    OK(ncclBcast(NULL, 6, ncclFloat16, 0, comm, NULL));
    OK(ncclBcast(NULL, 7, ncclFloat16, 1, comm, NULL));
    OK(ncclGroupEnd());
    expect("group C1/0x0:0:1 | broadcast 6 float16 0, broadcast 7 float16 1");
    MUST(null_times("ncclBroadcast") == 3);
}

static void one_peer(void)
{
    OK(ncclGroupStart());
    for (size_t i = 0; i < 3; i++) {
        send(10 - i, 2);
        recv(20 - i, 2);
        send(0, 3);
    }
    OK(ncclGroupEnd());
    expect("group C1/0x0:0:0 | send 10 int32 2, recv 20 int32 2, send 0 int32 3, send 9 int32 2, "
           "recv 19 int32 2, "
           "send 0 int32 3, send 8 int32 2, recv 18 int32 2, send 0 int32 3");
}

static void types(void)
{
    static const char *const names[] = {
        "int8",    "uint8",   "int32",   "uint32",   "int64",      "uint64",
        "float16", "float32", "float64", "bfloat16", "float8e4m3", "float8e5m2",
        "type12",  "type254", "type255", "type255",  "type255"};
    static const int values[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 254, 255, 300, -1};
    struct line line = {0};
    OK(ncclGroupStart());
    line_add(&line, "group C1/0x0:0:0 |");
    for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        OK(ncclSend(NULL, 1, (ncclDataType_t)values[i], 1, comm, NULL));
        line_add(&line, "%s send 1 %s 1", i ? "," : "", names[i]);
    }
    OK(ncclGroupEnd());
    line_print(&line);
    OK(ncclSend(NULL, (size_t)-1, ncclInt8, 1, comm, NULL));
    expect("group C1/0x0:1:0 | send 18446744073709551615 int8 1");
}

static void alltoall(void)
{
    OK(ncclAlltoAll(NULL, NULL, 9, ncclInt64, comm, NULL));
    expect("group C1/0x0:0:0 | alltoall 9 int64 0");
    OK(ncclGroupStart());
    OK(ncclAlltoAll(NULL, NULL, 1, ncclInt64, comm, NULL));
    OK(ncclAlltoAll(NULL, NULL, 2, ncclInt64, comm, NULL));
    send(3, 1);
    recv(4, 1);
    OK(ncclAllReduce(NULL, NULL, 5, ncclInt8, ncclMax, comm, NULL));
    OK(ncclGroupEnd());
    expect("group C1/0x0:1:0 | alltoall 1 int64 0, alltoall 2 int64 0, send 3 int32 1, recv 4 "
           "int32 1, "
           "allreduce 5 int8 0");
    send(6, 1); /* exchanges 1 to 3 were the sends and receives, and the two all-to-alls */
    expect("group C1/0x0:4:1 | send 6 int32 1");
}

static void alltoallv(void)
{
    static const size_t sends[] = {1, 0, 3, 4}, recvs[] = {5, 6, 0, 8}, at[4];
#define V_CELLS                                                                                    \
    "alltoallv_send 1 float16 0, alltoallv_send 0 float16 1, alltoallv_send 3 float16 2, "         \
    "alltoallv_send 4 float16 3, alltoallv_recv 5 float16 0, alltoallv_recv 6 float16 1, "         \
    "alltoallv_recv 0 float16 2, alltoallv_recv 8 float16 3"
    OK(ncclAllToAllv(NULL, sends, at, NULL, recvs, at, ncclFloat16, comm, NULL));
    expect("group C1/0x0:0:0 | " V_CELLS);
    OK(ncclGroupStart());
    OK(ncclAlltoAllv(NULL, sends, at, NULL, recvs, at, ncclFloat16, comm, NULL));
    OK(ncclAllToAllv(NULL, sends, at, NULL, recvs, at, ncclFloat16, comm, NULL));
    OK(ncclAllToAll(NULL, NULL, 7, ncclInt8, comm, NULL));
    OK(ncclGroupEnd());
    expect("group C1/0x0:1:0 | " V_CELLS ", " V_CELLS ", alltoall 7 int8 0");
    send(1, 1);
    expect("group C1/0x0:4:0 | send 1 int32 1");
    OK(ncclAlltoAllConfig(NULL, NULL, 2, ncclInt8, comm, NULL, NULL));
    expect("group C1/0x0:5:0 | alltoall 2 int8 0");
}

/* One of each, outside a group and with the root or peer where there is one. */
static void every_op(void)
{
    int ops = 0;
#define OP(text, call)                                                                             \
    do {                                                                                           \
        OK(call);                                                                                  \
        expect("group C1/0x0:0:%d | " text, ops++);                                                \
    } while (0)
    OP("allgather 1 int8 0", ncclAllGather(NULL, NULL, 1, ncclInt8, comm, NULL));
    OP("allgather 2 int8 0", ncclAllGatherConfig(NULL, NULL, 2, ncclInt8, comm, NULL, NULL));
    OP("reducescatter 3 int8 0", ncclReduceScatter(NULL, NULL, 3, ncclInt8, ncclSum, comm, NULL));
    OP("reducescatter 4 int8 0",
       ncclReduceScatterConfig(NULL, NULL, 4, ncclInt8, ncclSum, comm, NULL, NULL));
    OP("allreduce 5 int8 0", ncclAllReduce(NULL, NULL, 5, ncclInt8, ncclSum, comm, NULL));
    OP("allreduce 6 int8 0",
       ncclAllReduceConfig(NULL, NULL, 6, ncclInt8, ncclSum, comm, NULL, NULL));
    OP("broadcast 7 int8 3", ncclBroadcast(NULL, NULL, 7, ncclInt8, 3, comm, NULL));
    OP("broadcast 8 int8 2", ncclBroadcastConfig(NULL, NULL, 8, ncclInt8, 2, comm, NULL, NULL));
    OP("reduce 9 int8 1", ncclReduce(NULL, NULL, 9, ncclInt8, ncclSum, 1, comm, NULL));
    OP("reduce 10 int8 2",
       ncclReduceConfig(NULL, NULL, 10, ncclInt8, ncclSum, 2, comm, NULL, NULL));
    OP("gather 11 int8 1", ncclGather(NULL, NULL, 11, ncclInt8, 1, comm, NULL));
    OP("gather 12 int8 1", ncclGatherConfig(NULL, NULL, 12, ncclInt8, 1, comm, NULL, NULL));
    OP("scatter 13 int8 2", ncclScatter(NULL, NULL, 13, ncclInt8, 2, comm, NULL));
    OP("scatter 14 int8 2", ncclScatterConfig(NULL, NULL, 14, ncclInt8, 2, comm, NULL, NULL));
    OP("put 15 int8 3", ncclPutSignal(NULL, 15, ncclInt8, 3, NULL, 0, 0, 0, 0, comm, NULL));
    OP("signal 0 int8 2", ncclSignal(2, 0, 0, 0, comm, NULL));
    OP("waitsignal 0 int8 0", ncclWaitSignal(0, NULL, comm, NULL));
}

/* One group on `streams` streams of C1 and on as many other communicators as asked. */
static void lanes(int streams, int comms)
{
    ncclComm_t others[128];
    struct line line = {0};
    for (int i = 0; i < comms; i++) {
        others[i] = make_comm(2, 0, 100 + i);
        expect("comm C%d init_rank 0/2", i + 2);
    }
    OK(ncclGroupStart());
    line_add(&line, "group");
    for (int i = 0; i < streams; i++)
        line_add(&line, " C1/%#x:0:0", i + 1);
    for (int i = 0; i < comms; i++)
        line_add(&line, " C%d/0x0:0:0", i + 2);
    line_add(&line, " |");
    for (int i = 0; i < streams + comms; i++) {
        OK(ncclSend(NULL, 1, ncclInt32, 1, i < streams ? comm : others[i - streams],
                    i < streams ? STREAM(i + 1) : NULL));
        line_add(&line, i ? ", send 1 int32 1 @%d" : " send 1 int32 1", i);
    }
    OK(ncclGroupEnd());
    if (streams + comms <= 64) {
        line_print(&line);
        return;
    }
    free(line.text);
    expect("loss too_large groups 1 exchanges %d ops 0 cells %d", comms + (streams > 0),
           streams + comms);
    for (int i = streams ? -1 : 0; i < comms; i++) {
        int id = i + 2;
        OK(ncclRecv(NULL, 2, ncclInt32, 1, i < 0 ? comm : others[i], NULL));
        expect("group C%d/0x0:1:0 | recv 2 int32 1", id);
        expect("lost C%d before 1 too_large exchanges 1 ops 0 | 1:%d/0", id, i < 0 ? streams : 1);
    }
}

static void lanes_64(void)
{
    lanes(64, 0);
}

static void lanes_65(void)
{
    lanes(65, 0);
}

static void lanes_200(void)
{
    lanes(200, 0);
}

static void lanes_of_70_comms(void)
{
    lanes(0, 70);
}

static void lanes_of_both(void)
{
    lanes(40, 40);
}

/* Groups larger than one segment of 16 KiB, and larger than several. */
static void big(void)
{
    static const int sizes[] = {800, 5000, 1, 3000};
    struct line line = {0};
    for (unsigned n = 0; n < 4; n++) {
        OK(ncclGroupStart());
        line_add(&line, "group C1/0x0:%u:0 C1/0x10:%u:0 |", n, n);
        for (int i = 0; i < sizes[n]; i++) {
            send((size_t)i, i % 4);
            OK(ncclRecv(NULL, (size_t)i + 1, ncclInt32, i % 4, comm, STREAM(16)));
            line_add(&line, "%s send %d int32 %d, recv %d int32 %d @1", i ? "," : "", i, i % 4,
                     i + 1, i % 4);
        }
        OK(ncclGroupEnd());
        line_print(&line);
    }
}

/* A big group fails: its parts are in the spool, and no record takes them. */
static void big_failing(void)
{
    struct null_nccl *null = null_nccl_control();
    OK(ncclGroupStart());
    for (int i = 0; i < 3000; i++)
        send(1, 1);
    null->fail_name = "ncclSend";
    null->fail_with = ncclInternalError;
    MUST(ncclSend(NULL, 1, ncclInt32, 1, comm, NULL) == ncclInternalError);
    MUST(ncclGroupEnd() == ncclInternalError);
    send(2, 2);
    expect("group C1/0x0:0:0 | send 2 int32 2");
    OK(ncclGroupStart());
    send(3, 3);
    OK(ncclGroupEnd());
    expect("group C1/0x0:1:0 | send 3 int32 3");
}

/* A big group is lost, since more lanes come up than a record holds after its first parts were
 * stored: what the parts held counts with the rest, or the other side's receives would meet the
 * wrong sends. */
static void big_lost(void)
{
    OK(ncclGroupStart());
    for (int i = 0; i < 3000; i++)
        send(1, i % 3);
    OK(ncclAlltoAll(NULL, NULL, 1, ncclInt8, comm, NULL));
    OK(ncclAllReduce(NULL, NULL, 1, ncclInt8, ncclSum, comm, NULL));
    for (int i = 0; i < 70; i++)
        OK(ncclRecv(NULL, 1, ncclInt32, 2, comm, STREAM(i + 1)));
    OK(ncclGroupEnd());
    expect("loss too_large groups 1 exchanges 2 ops 1 cells 3072");
    send(2, 2);
    expect("group C1/0x0:2:1 | send 2 int32 2");
    expect("lost C1 before 2 too_large exchanges 2 ops 1 | 0:1001/1, 1:1001/1, 2:1001/71, 3:1/1");
}

#define THREADS       4
#define THREAD_GROUPS 500

static void *exchange(void *user)
{
    (void)user;
    for (int i = 0; i < THREAD_GROUPS; i++) {
        OK(ncclGroupStart());
        send(1, 1);
        recv(1, 1);
        OK(ncclGroupEnd());
    }
    return NULL;
}

/* Each takes ordinals of its own: no two exchanges of one communicator have the same. */
static void threads(void)
{
    pthread_t thread[THREADS];
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_create(&thread[i], NULL, exchange, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
    expect("unordered");
    for (int i = 0; i < THREADS * THREAD_GROUPS; i++)
        expect("group C1/0x0:%d:0 | send 1 int32 1, recv 1 int32 1", i);
}

static const struct {
    const char *name;
    int since; /* the NCCL that has all that the case calls */
    void (*run)(void);
} cases[] = {
    {"single", 218, single},
    {"nested", 218, nested},
    {"several_comms", 218, several_comms},
    {"several_streams", 218, several_streams},
    {"failing", 218, failing},
    {"in_progress", 218, in_progress},
    {"simulate", 222, simulate},
    {"simulate_in_progress", 222, simulate_in_progress},
    {"unbalanced", 218, unbalanced},
    {"bcast", 218, bcast},
    {"one_peer", 218, one_peer},
    {"types", 218, types},
    {"alltoall", 228, alltoall},
    {"alltoallv", 299, alltoallv},
    {"every_op", 299, every_op},
    {"lanes_64", 218, lanes_64},
    {"lanes_65", 218, lanes_65},
    {"lanes_200", 218, lanes_200},
    {"lanes_of_70_comms", 218, lanes_of_70_comms},
    {"lanes_of_both", 218, lanes_of_both},
    {"big", 218, big},
    {"big_failing", 218, big_failing},
    {"big_lost", 228, big_lost},
    {"threads", 218, threads},
};

int main(int argc, char **argv)
{
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (argc < 2) {
            printf("%s %d\n", cases[i].name, cases[i].since);
            continue;
        }
        if (strcmp(cases[i].name, argv[1]) != 0)
            continue;
        comm = make_comm(4, 0, 1);
        expect("comm C1 init_rank 0/4");
        cases[i].run();
        return 0;
    }
    return argc < 2 ? 0 : 2;
}
