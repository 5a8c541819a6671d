/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must not hang: a killed rank, an aborted one, one that never comes, sizes and collectives
 * that do not agree, and file systems that are full.
 */
#include <dirent.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"

#define BIG (1 << 20) /* more than a ring holds */

/* The survivors make a communicator of their own, as an elastic job does. */
static void go_on_without(struct rig *rig, ncclComm_t comm)
{
    int dead[1] = {1};
    ncclComm_t alive;
    uint32_t *one = rig_alloc(4);

    *one = 1;
    OK(ncclCommShrink(comm, dead, 1, &alive, NULL, 1 /* NCCL_SHRINK_ABORT */));
    OK(ncclAllReduce(one, one, 1, ncclUint32, ncclSum, alive, rig->stream));
    rig_sync(rig->stream);
    CHECK_EQ(*one, rig->nranks - 1);
    OK(ncclCommDestroy(alive));
}

/* Rank 1 is killed while the others wait for it: they get an error, not silence. */
static void killed(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    char *buf = rig_alloc(BIG);
    ncclResult_t state;

    if (rig->rank == 1) {
        while (atomic_load(rig->shared) < (uint32_t)rig->nranks - 1)
            usleep(1000);
        raise(SIGKILL);
    }
    OK(ncclAllReduce(buf, buf, BIG, ncclInt8, ncclSum, comm, rig->stream));
    atomic_fetch_add(rig->shared, 1);
    rig_sync(rig->stream);
    OK(ncclCommGetAsyncError(comm, &state));
    CHECK(state == ncclRemoteError || state == ncclSystemError);
    CHECK_EQ(ncclAllReduce(buf, buf, BIG, ncclInt8, ncclSum, comm, rig->stream), state);
    go_on_without(rig, comm);
    OK(ncclCommAbort(comm));
}

/* Rank 0 waits for a message that never comes, until another thread of it aborts. */
static void aborted(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    char *buf = rig_alloc(BIG);

    if (rig->rank == 0) {
        OK(ncclRecv(buf, BIG, ncclInt8, 1, comm, rig->stream));
        usleep(50000);
        CHECK(!rig_idle(rig->stream));
        OK(ncclCommAbort(comm));
        rig_sync(rig->stream);
        atomic_store(rig->shared, 1);
    } else {
        while (!atomic_load(rig->shared))
            usleep(1000);
        OK(ncclCommDestroy(comm));
    }
}

/* The message is short; nobody hangs, and the receiver's communicator tells. */
static void mismatched(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    uint8_t *buf = rig_alloc(BIG);
    ncclResult_t state;

    memset(buf, rig->rank + 1, BIG);
    OK(ncclGroupStart());
    if (rig->rank == 0) {
        OK(ncclSend(buf, BIG - 1, ncclInt8, 1, comm, rig->stream));
        OK(ncclSend(buf, BIG, ncclInt8, 1, comm, rig->stream));
    } else {
        OK(ncclRecv(buf, BIG, ncclInt8, 0, comm, rig->stream));
        OK(ncclRecv(buf, 10, ncclInt8, 0, comm, rig->stream));
    }
    OK(ncclGroupEnd());
    rig_sync(rig->stream);
    OK(ncclCommGetAsyncError(comm, &state));
    CHECK_EQ(state, rig->rank ? ncclInvalidUsage : ncclSuccess);
    if (rig->rank) {
        CHECK_EQ(buf[BIG - 2], 1);
        CHECK_EQ(buf[BIG - 1], 2);
    }
    OK(ncclCommAbort(comm));
}

static void disagreeing(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    char *buf = rig_alloc(BIG * 2);
    ncclResult_t state;

    if (rig->rank == 0)
        OK(ncclAllReduce(buf, buf, 1000, ncclInt8, ncclSum, comm, rig->stream));
    else
        OK(ncclAllGather(buf, buf, 1000, ncclInt8, comm, rig->stream));
    rig_sync(rig->stream);
    OK(ncclCommGetAsyncError(comm, &state));
    CHECK(state == ncclInvalidUsage || state == ncclRemoteError);
    OK(ncclCommAbort(comm));
}

static void meet(struct rig *rig, int word)
{
    atomic_fetch_add(&rig->shared[word], 1);
    while (atomic_load(&rig->shared[word]) < (uint32_t)rig->nranks)
        usleep(1000);
}

/* With a short timeout: a rank that does not come to the initialisation, a message without sender.
 */
static void late(struct rig *rig)
{
    ncclComm_t comm, never;
    ncclResult_t state;
    char *buf = rig_alloc(10);

    meet(rig, 0);
    comm = rig_comm(rig, 0);
    if (rig->rank == 0) {
        for (int i = 1; i < 3; i++) { /* as rank 0, which makes the file, and as another */
            CHECK_EQ(ncclCommInitRank(&never, 3, rig->ids[i], i - 1), ncclRemoteError);
            OK(ncclCommAbort(never));
        }
        OK(ncclRecv(buf, 10, ncclInt8, 1, comm, rig->stream));
        rig_sync(rig->stream);
        OK(ncclCommGetAsyncError(comm, &state));
        CHECK_EQ(state, ncclSystemError);
    }
    meet(rig, 1);
    OK(ncclCommAbort(comm));
}

static void simple(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    uint32_t *p = rig_alloc(4);

    *p = 1;
    OK(ncclAllReduce(p, p, 1, ncclUint32, ncclSum, comm, rig->stream));
    rig_sync(rig->stream);
    CHECK_EQ(*p, rig->nranks);
    OK(ncclCommDestroy(comm));
}

static int files_left(const char *dir)
{
    DIR *d = opendir(dir);
    char uid[64];
    int count = 0;

    if (!d)
        return 0;
    snprintf(uid, sizeof(uid), "skewscope-standin-nccl.%u.", (unsigned)getuid());
    for (struct dirent *e; (e = readdir(d));)
        count += strncmp(e->d_name, uid, strlen(uid)) == 0;
    closedir(d);
    return count;
}

int main(void)
{
    char dir[] = "/tmp/standin-nccl-test-XXXXXX";
    int failed = 0;

    CHECK(mkdtemp(dir) != NULL);
    setenv("SKEWSCOPE_STANDIN_SHM_DIR", dir, 1); /* of our own, to see what is left in it */
    failed += rig_processes("a rank is killed", 4, killed, 1);
    failed += rig_processes("abort", 2, aborted, -1);
    failed += rig_processes("sizes do not agree", 2, mismatched, -1);
    failed += rig_processes("collectives do not agree", 2, disagreeing, -1);
    setenv("SKEWSCOPE_STANDIN_TIMEOUT", "2", 1);
    failed += rig_processes("nobody comes", 2, late, -1);
    unsetenv("SKEWSCOPE_STANDIN_TIMEOUT");
    CHECK_EQ(files_left(dir), 0);

    setenv("TMPDIR", dir, 1);
    setenv("SKEWSCOPE_STANDIN_SHM_DIR", "/nonexistent", 1);
    failed += rig_processes("no /dev/shm: TMPDIR", 3, simple, -1);
    CHECK_EQ(files_left(dir), 0);
    CHECK_EQ(rmdir(dir), 0);
    return failed != 0;
}
