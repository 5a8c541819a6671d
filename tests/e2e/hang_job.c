/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job of four ranks that stands still in a known way, for `skewscope hang`. Ranks make STEPS
 * exchanges of all with all, each followed by an all-reduce; in step WHEN rank WHO misbehaves:
 *
 *   missing   does not come to the exchange, nor to anything after it, and lives on
 *   size      sends 512 bytes more to rank 3 than that expects
 *   killed    is killed before the exchange
 *   reduce    does not come to the all-reduce, nor to anything after it
 *   count     reduces twice as many elements as the others
 *   fine      does not misbehave
 *
 * On the stand-ins, which end what can never end with an error after SKEWSCOPE_STANDIN_TIMEOUT;
 * those errors are what is expected here and are passed over. usage: hang_job KIND
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nccl_abi.h"
#include "nccl_decls.h"

int cudaSetDevice(int device);
int cudaMalloc(void **ptr, size_t size);
int cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags);
int cudaStreamSynchronize(cudaStream_t stream);

enum { RANKS = 4, STEPS = 6, WHO = 2, WHEN = 3, BYTES = 4096, EXTRA = 512 };

struct meeting {
    volatile int ready;
    volatile int done; /* ranks that wait for nothing any more */
    ncclUniqueId id;
};

static const char *kind;
static volatile ncclResult_t last; /* written after the call, which therefore is no tail call */

static int misbehaves(int rank, int step, const char *how)
{
    return rank == WHO && step == WHEN && strcmp(kind, how) == 0;
}

/* Two functions that can be told apart in a call site. */
__attribute__((noinline)) static void exchange_tokens(ncclComm_t comm, cudaStream_t stream,
                                                      char *buffer, int rank, int step)
{
    ncclGroupStart();
    for (int peer = 0; peer < RANKS; peer++) {
        size_t extra = misbehaves(rank, step, "size") && peer == 3 ? EXTRA : 0;
        ncclSend(buffer, (size_t)BYTES * (size_t)(peer + 1) + extra, ncclInt8, peer, comm, stream);
        ncclRecv(buffer + 65536, (size_t)BYTES * (size_t)(rank + 1), ncclInt8, peer, comm, stream);
    }
    last = ncclGroupEnd();
}

__attribute__((noinline)) static void reduce_gradients(ncclComm_t comm, cudaStream_t stream,
                                                       char *buffer, int rank, int step)
{
    size_t count = misbehaves(rank, step, "count") ? 512 : 256;
    last = ncclAllReduce(buffer, buffer, count, ncclFloat32, ncclSum, comm, stream);
}

/* Until the others are where they will stay; nothing here depends on how long that takes. */
static void stand_still(struct meeting *m)
{
    while (m->done < RANKS - 1)
        usleep(1000);
}

static void run(struct meeting *m, int rank)
{
    cudaStream_t stream;
    ncclComm_t comm;
    void *buffer;

    if (cudaSetDevice(rank) || cudaMalloc(&buffer, 1 << 18) ||
        cudaStreamCreateWithFlags(&stream, 1))
        _exit(1);
    if (rank == 0) {
        if (ncclGetUniqueId(&m->id) != ncclSuccess)
            _exit(1);
        m->ready = 1;
    }
    while (!m->ready)
        usleep(1000);
    if (ncclCommInitRank(&comm, RANKS, m->id, rank) != ncclSuccess)
        _exit(1);
    for (int step = 0; step < STEPS; step++) {
        if (misbehaves(rank, step, "killed"))
            raise(SIGKILL);
        if (misbehaves(rank, step, "missing"))
            break;
        exchange_tokens(comm, stream, buffer, rank, step);
        if (misbehaves(rank, step, "reduce"))
            break;
        reduce_gradients(comm, stream, buffer, rank, step);
        if (step == WHEN && strcmp(kind, "fine") != 0)
            break; /* with a real NCCL nothing would follow */
        cudaStreamSynchronize(stream);
    }
    if ((strcmp(kind, "missing") == 0 || strcmp(kind, "reduce") == 0) && rank == WHO)
        stand_still(m);
    __atomic_add_fetch(&m->done, 1, __ATOMIC_SEQ_CST);
    exit(0);
}

int main(int argc, char **argv)
{
    struct meeting *m =
        mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    kind = argc > 1 ? argv[1] : "fine";
    if (m == MAP_FAILED)
        return 1;
    for (int rank = 0; rank < RANKS; rank++)
        if (fork() == 0)
            run(m, rank);
    while (wait(NULL) > 0)
        ;
    return 0;
}
