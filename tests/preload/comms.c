/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of communicators. usage: comms CASE RANK     prints the records that this rank of four
 * expects (expect.h), and for each communicator what it is: "same LABEL C1". Across all ranks equal
 * labels mean equal keys, and different labels different ones. comms.py runs each case as four
 * processes and compares.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "expect.h"

#define RANKS 4

static int rank_, created;
static struct null_nccl *null;

/* The next communicator in order of creation is … */
static int named(const char *label, int number)
{
    created++;
    expect("same %s%d C%d", label, number, created);
    return created;
}

static ncclComm_t world(const char *label, int seed)
{
    ncclComm_t comm = make_comm(RANKS, rank_, seed);
    expect("comm C%d init_rank %d/4", named(label, seed), rank_);
    return comm;
}

static void use(ncclComm_t comm, int id, int exchange)
{
    OK(ncclGroupStart());
    OK(ncclSend(NULL, 1, ncclInt8, 0, comm, NULL));
    OK(ncclGroupEnd());
    expect("group C%d/0x0:%d:0 | send 1 int8 0", id, exchange);
}

static struct skew_nccl_config_head config(int blocking)
{
    return (struct skew_nccl_config_head){.size = sizeof(struct skew_nccl_config_head),
                                          .magic = NCCL_CONFIG_MAGIC,
                                          .blocking = blocking};
}

static void init(void)
{
    struct skew_nccl_config_head blocking = config(1), nonblocking = config(0),
                                 undefined = config(NCCL_CONFIG_UNDEF_INT);
    ncclUniqueId id[2];
    ncclComm_t comm;
    use(world("world", 1), 1, 0);
    use(world("world", 2), 2, 0);
    memset(id, 7, sizeof(id));
    OK(ncclCommInitRankConfig(&comm, 4, id[0], rank_, (ncclConfig_t *)&blocking));
    expect("comm C%d init_rank %d/4", named("config", 0), rank_);
    memset(id, 8, sizeof(id));
    OK(ncclCommInitRankConfig(&comm, 4, id[0], rank_, NULL));
    expect("comm C%d init_rank %d/4", named("config", 1), rank_);
    memset(id, 9, sizeof(id));
    MUST(ncclCommInitRankConfig(&comm, 4, id[0], rank_, (ncclConfig_t *)&nonblocking) ==
         ncclInProgress);
    expect("comm C%d init_rank %d/4 nonblocking", named("config", 2), rank_);
    use(comm, created, 0);
    memset(id, 10, sizeof(id));
    OK(ncclCommInitRankConfig(&comm, 4, id[0], rank_, (ncclConfig_t *)&undefined));
    expect("comm C%d init_rank %d/4", named("config", 3), rank_);
    id[1].internal[0] = 3;
    OK(ncclCommInitRankScalable(&comm, 4, rank_, 2, id, NULL));
    expect("comm C%d init_rank_scalable %d/4", named("scalable", 0), rank_);
    use(comm, created, 0);
    id[1].internal[0] = 4;
    OK(ncclCommInitRankScalable(&comm, 4, rank_, 2, id, NULL));
    expect("comm C%d init_rank_scalable %d/4", named("scalable", 1), rank_);
}

/* All members are in one process: such communicators of other processes are never the same. */
static void init_all(void)
{
    ncclComm_t comms[RANKS];
    static const int devices[] = {3, 1, 0, 2};
    char label[32];
    snprintf(label, sizeof(label), "all-of-%d-", rank_);
    for (int n = 0; n < 2; n++) {
        OK(ncclCommInitAll(comms, RANKS, n ? devices : NULL));
        for (int i = 0; i < RANKS; i++)
            expect("comm C%d init_all %d/4", named(label, n), i);
        use(comms[2], created - 1, 0);
    }
    OK(ncclGroupStart()); /* one thread drives all ranks */
    for (int i = 0; i < RANKS; i++)
        OK(ncclAllReduce(NULL, NULL, 1, ncclInt8, ncclSum, comms[i], STREAM(i + 1)));
    OK(ncclGroupEnd());
    expect("group C5/0x1:0:0 C6/0x2:0:0 C7/0x3:1:0 C8/0x4:0:0 | allreduce 1 int8 0, allreduce 1 "
           "int8 0 @1, "
           "allreduce 1 int8 0 @2, allreduce 1 int8 0 @3");
}

static void split_expect(const char *label, int parent, int ordinal, int color)
{
    int id = named(label, color);
    expect("comm C%d split %d/2 of C%d ordinal %d color %d key %d", id, rank_, parent, ordinal,
           color, rank_);
}

static void split(void)
{
    ncclComm_t parent = world("world", 1), comm, inner;
    OK(ncclCommSplit(parent, rank_ % 2, rank_, &comm, NULL));
    split_expect("first", 1, 0, rank_ % 2);
    use(comm, 2, 0);
    OK(ncclCommSplit(parent, rank_ % 2, rank_, &comm, NULL));
    split_expect("second", 1, 1, rank_ % 2);
    use(comm, 3, 0);
    /* Rank 3 stays out, and counts the call all the same. */
    OK(ncclCommSplit(parent, rank_ == 3 ? NCCL_SPLIT_NOCOLOR : 5, rank_, &comm, NULL));
    MUST((comm == NULL) == (rank_ == 3));
    if (rank_ != 3) {
        split_expect("without-3-", 1, 2, 5);
        use(comm, created, 0);
    }
    OK(ncclCommSplit(parent, 0, rank_, &comm, NULL));
    split_expect("all", 1, 3, 0);
    int id = created;
    use(comm, id, 0);
    OK(ncclCommSplit(comm, 6, rank_, &inner, NULL));
    expect("comm C%d split %d/1 of C%d ordinal 0 color 6 key %d", named("inner", 6), rank_, id,
           rank_);
    use(inner, created, 0);
    /* The same colours on another parent. */
    parent = world("other", 2);
    id = created;
    OK(ncclCommSplit(parent, rank_ % 2, rank_, &comm, NULL));
    split_expect("first-of-other", id, 0, rank_ % 2);
    use(comm, created, 0);
}

/* A call that fails for its arguments asks nobody: the retry is the call that the others have made.
 */
static void split_retried(void)
{
    ncclComm_t parent = world("world", 1), comm = NULL;
    if (rank_ == 1) {
        null->fail_name = "ncclCommSplit";
        null->fail_with = ncclInvalidArgument;
        MUST(ncclCommSplit(parent, 0, rank_, &comm, NULL) == ncclInvalidArgument);
    }
    OK(ncclCommSplit(parent, 0, rank_, &comm, NULL));
    split_expect("split", 1, 0, 0);
    use(comm, 2, 0);
    if (rank_ == 1) {
        null->fail_name = "ncclCommInitRank";
        null->fail_with = ncclSystemError;
        ncclUniqueId id = {{0}};
        comm = NULL;
        MUST(ncclCommInitRank(&comm, 2, id, 0) == ncclSystemError && !comm);
    }
    use(world("next", 2), 3, 0);
}

/* Inside a group the pointers come with its end; with the failing end of one they never come. */
static void split_in_group(void)
{
    ncclComm_t parent = world("world", 1), comm[8];
    for (int n = 0; n < 2; n++) {
        OK(ncclGroupStart());
        for (int i = 0; i < 3; i++)
            OK(ncclCommSplit(parent, i, rank_, &comm[i], NULL));
        null->group_result = n ? ncclSuccess : ncclRemoteError;
        MUST(ncclGroupEnd() == (ncclResult_t)null->group_result);
        if (!n)
            memset(comm, 0x5a, sizeof(comm)); /* the place is used for something else */
        created += n ? 0 : 3;                 /* the numbers are gone */
    }
    for (int i = 0; i < 3; i++) {
        int id = named("split", i);
        /* Rank and size are asked for at the first use: before, a question could fail aloud. */
        expect("comm C%d split %d/%d of C1 ordinal %d color %d key %d", id, i == 1 ? -1 : rank_,
               i == 1 ? -1 : 2, 3 + i, i, rank_);
    }
    use(comm[2], created, 0);
    use(comm[0], created - 2, 0);
}

/* Without blocking a thread of NCCL stores the pointer some time after the call. */
static void split_later(void)
{
    struct skew_nccl_config_head nonblocking = config(0);
    ncclComm_t parent = world("world", 1), comm[4], again;
    for (int i = 0; i < 4; i++) {
        MUST(ncclCommSplit(parent, i, rank_, &comm[i], (ncclConfig_t *)&nonblocking) ==
             ncclInProgress);
        MUST(!comm[i]);
        if (i == 1)
            null->finish();
    }
    use(parent, 1, 0); /* nothing to be seen yet of two of them */
    null->finish();
    for (int i = 0; i < 4; i++) {
        expect("comm C%d split %d/2 of C1 ordinal %d color %d key %d nonblocking",
               named("split", i), rank_, i, i, rank_);
        use(comm[i], i + 2, 0);
    }
    /* The same place for one after another, each moved away before the next: none is lost. */
    ncclComm_t kept[4], place;
    for (int i = 0; i < 4; i++) {
        MUST(ncclCommSplit(parent, i, rank_, &place, (ncclConfig_t *)&nonblocking) ==
             ncclInProgress);
        null->finish();
        kept[i] = place;
    }
    for (int i = 0; i < 4; i++) {
        expect("comm C%d split %d/2 of C1 ordinal %d color %d key %d nonblocking",
               named("again", i), rank_, 4 + i, i, rank_);
        use(kept[i], 6 + i, 0);
    }
    /* What a non-blocking parent hands down without a configuration of its own. */
    MUST(ncclCommSplit(kept[0], 0, rank_, &again, (ncclConfig_t *)&nonblocking) == ncclInProgress);
    null->finish();
    use(again, 10, 0);
    expect("comm C%d split %d/1 of C6 ordinal 0 color 0 key %d nonblocking", named("child", 0),
           rank_, rank_);
}

/* The place of a pointer that never comes may be gone when somebody looks. */
static void split_place_unmapped(void)
{
    struct skew_nccl_config_head nonblocking = config(0);
    ncclComm_t parent = world("world", 1);
    ncclComm_t *place =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(place != MAP_FAILED);
    MUST(ncclCommSplit(parent, 0, rank_, place, (ncclConfig_t *)&nonblocking) == ncclInProgress);
    null->forget();
    munmap(place, 4096);
    OK(ncclGroupStart());
    OK(ncclGroupEnd());
    use(parent, 1, 0);
    created++;
    use(world("next", 2), 3, 0);
}

/* Rank 3 is excluded and does not call: ordinals of other constructors stay the same on all ranks.
 */
static void shrink(void)
{
    ncclComm_t parent = world("world", 1), comm;
    int excluded[] = {3};
    if (rank_ != 3) {
        OK(ncclCommShrink(parent, excluded, 1, &comm, NULL, 0));
        expect("comm C%d shrink %d/3 of C1 ordinal 0 color 0 key 0", named("shrunk", 0), rank_);
        use(comm, created, 0);
    }
    OK(ncclCommSplit(parent, 1, rank_, &comm, NULL));
    split_expect("split", 1, 0, 1);
    use(comm, created, 0);
    if (rank_ != 3) {
        OK(ncclCommShrink(parent, excluded, 1, &comm, NULL, 0));
        expect("comm C%d shrink %d/3 of C1 ordinal 1 color 0 key 0", named("shrunk", 1), rank_);
        use(comm, created, 0);
    }
}

/* Ranks 0 to 2 grow their communicator by rank 3, whom only rank 0 has told the id. */
static void grow(void)
{
    ncclUniqueId id;
    ncclComm_t comm;
    memset(&id, 11, sizeof(id));
    if (rank_ == 3) {
        OK(ncclCommGrow(NULL, 4, &id, 3, &comm, NULL));
        expect("comm C%d grow 3/4", named("by-id", 0));
    } else {
        ncclComm_t parent = make_comm(3, rank_, 1);
        expect("comm C%d init_rank %d/3", named("three", 0), rank_);
        OK(ncclCommGrow(parent, 4, rank_ ? NULL : &id, -1, &comm, NULL));
        expect("comm C%d grow %d/4 of C1 ordinal 0 color 0 key 0",
               named(rank_ ? "by-parent" : "by-id", 0), rank_);
    }
    use(comm, created, 0);
}

/* NCCL gives a new communicator the pointer of one that was destroyed or aborted. */
static void pointer_reuse(void)
{
    ncclComm_t first = world("world", 1);
    use(first, 1, 0);
    use(first, 1, 1);
    OK(ncclCommFinalize(first)); /* still valid */
    use(first, 1, 2);
    OK(ncclCommDestroy(first));
    expect("end C1 finalize 0");
    expect("end C1 destroy 0");
    ncclComm_t second = world("world", 2);
    MUST(second == first);
    use(second, 2, 0);
    OK(ncclCommAbort(second));
    expect("end C2 abort 0");
    ncclComm_t third = world("world", 3);
    MUST(third == first);
    use(third, 3, 0);
    /* A destructor that fails leaves the communicator alive. */
    null->fail_name = "ncclCommDestroy";
    null->fail_with = ncclInternalError;
    MUST(ncclCommDestroy(third) == ncclInternalError);
    use(third, 3, 1);
    OK(ncclCommRevoke(third, 0));
    expect("end C3 revoke 0");
    use(third, 3, 2);
    OK(ncclCommDestroy(third));
    expect("end C3 destroy 0");
    OK(ncclCommDestroy(NULL));
    /* Split ones too: the same place, the same pointer, another communicator. */
    ncclComm_t parent = world("world", 4), comm, before;
    OK(ncclCommSplit(parent, 1, rank_, &comm, NULL));
    split_expect("split", 4, 0, 1);
    use(comm, 5, 0);
    before = comm;
    OK(ncclCommDestroy(comm));
    expect("end C5 destroy 0");
    OK(ncclCommSplit(parent, 2, rank_, &comm, NULL));
    MUST(comm == before);
    split_expect("split", 4, 1, 2);
    use(comm, 6, 0);
}

/* More communicators than the table has room for at a time, one after another. */
static void churn(void)
{
    for (int i = 0; i < 20000; i++) {
        ncclComm_t comm = make_comm(4, rank_, 1000 + i);
        OK(ncclCommDestroy(comm));
    }
    created = 20000;
    expect("only C20001");
    use(world("last", 1), 20001, 0);
}

/* A communicator that no constructor of ours has made. */
static void adopted(void)
{
    ncclComm_t comm = null->make(4, rank_, 0), child;
    char label[32];
    snprintf(label, sizeof(label), "stranger-of-%d-", rank_);
    OK(ncclSend(NULL, 1, ncclInt8, 0, comm, NULL));
    expect("group C1/0x0:0:0 | send 1 int8 0");
    expect("comm C%d unknown %d/4 unidentified", named(label, 0), rank_);
    use(comm, 1, 1);
    expect("diag unidentified_comm");
    /* Its children are known by it, so by nobody else either. */
    OK(ncclCommSplit(comm, 1, rank_, &child, NULL));
    snprintf(label, sizeof(label), "child-of-%d-", rank_);
    expect("comm C%d split %d/2 of C1 ordinal 0 color 1 key %d unidentified", named(label, 1),
           rank_, rank_);
    use(child, 2, 0);
}

/* While a non-blocking communicator works it must not be asked anything: NCCL would fail aloud. */
static void busy(void)
{
    struct skew_nccl_config_head nonblocking = config(0);
    ncclComm_t parent = world("world", 1), comm;
    MUST(ncclCommSplit(parent, 0, rank_, &comm, (ncclConfig_t *)&nonblocking) == ncclInProgress);
    null->finish();
    null->data_result = ncclInProgress;
    MUST(ncclAllReduce(NULL, NULL, 1, ncclInt8, ncclSum, comm, NULL) == ncclInProgress);
    expect("group C2/0x0:0:0 result 7 | allreduce 1 int8 0");
    MUST(null_times("ncclCommCount") == 0 && null_times("ncclCommUserRank") == 0);
    null->data_result = ncclSuccess;
    OK(ncclAllReduce(NULL, NULL, 1, ncclInt8, ncclSum, comm, NULL));
    expect("group C2/0x0:0:1 | allreduce 1 int8 0");
    expect("comm C%d split %d/2 of C1 ordinal 0 color 0 key %d nonblocking", named("split", 0),
           rank_, rank_);
    MUST(null_times("ncclCommCount") == 1);
    OK(ncclAllReduce(NULL, NULL, 1, ncclInt8, ncclSum, comm, NULL));
    expect("group C2/0x0:0:2 | allreduce 1 int8 0");
    MUST(null_times("ncclCommCount") == 1); /* once is enough */
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"init", init},
    {"init_all", init_all},
    {"split", split},
    {"split_retried", split_retried},
    {"split_in_group", split_in_group},
    {"split_later", split_later},
    {"split_place_unmapped", split_place_unmapped},
    {"shrink", shrink},
    {"grow", grow},
    {"pointer_reuse", pointer_reuse},
    {"churn", churn},
    {"adopted", adopted},
    {"busy", busy},
};

int main(int argc, char **argv)
{
    null = null_nccl_control();
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (argc < 3) {
            puts(cases[i].name);
            continue;
        }
        if (strcmp(cases[i].name, argv[1]) != 0)
            continue;
        rank_ = atoi(argv[2]);
        cases[i].run();
        return 0;
    }
    return argc < 3 ? 0 : 2;
}
