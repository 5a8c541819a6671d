/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the workload does not do, on the stand-ins: one thread that drives two ranks on two devices,
 * whose count exchanges stand in one group with other calls; the first of them, for which the tap
 * allocates its pool, while another thread captures a graph in global mode; a child forked behind
 * it that ends by exit().
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cudart.h"
#include "nccl_decls.h"

enum { RANKS = 2, EXPERTS = 6, OWN = EXPERTS / RANKS, ROW = 16 };

static void must(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "%s: error %d\n", what, error);
        exit(1);
    }
}
#define MUST(call) must((int)(call), #call)

static pthread_barrier_t barrier;

static void *capture(void *user)
{
    cudaStream_t stream = user;
    cudaGraph_t graph;
    MUST(cudaSetDevice(0));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    MUST(cudaStreamEndCapture(stream, &graph)); /* fails when anybody did what endangers it */
    MUST(cudaGraphDestroy(graph));
    return NULL;
}

/* Tokens of rank r for expert e. */
static int64_t tokens(int r, int e)
{
    return 1 + (r * 7 + e * 5) % 11;
}

static ncclComm_t comm[RANKS];
static cudaStream_t stream[RANKS];
static int64_t *own[RANKS], *all[RANKS];
static char *rows[RANKS], *held[RANKS];
static float *weight[RANKS];

static void set_up(cudaStream_t *side)
{
    int devices[RANKS] = {0, 1};
    MUST(ncclCommInitAll(comm, RANKS, devices));
    for (int r = 0; r < RANKS; r++) {
        int64_t counts[EXPERTS];
        for (int e = 0; e < EXPERTS; e++)
            counts[e] = tokens(r, e);
        MUST(cudaSetDevice(r));
        MUST(cudaStreamCreateWithFlags(&stream[r], cudaStreamNonBlocking));
        MUST(cudaMalloc((void **)&own[r], sizeof counts));
        MUST(cudaMalloc((void **)&all[r], RANKS * sizeof counts));
        MUST(cudaMalloc((void **)&rows[r], 1 << 16));
        MUST(cudaMalloc((void **)&held[r], 1 << 16));
        MUST(cudaMalloc((void **)&weight[r], 1 << 10));
        MUST(cudaMemcpyAsync(own[r], counts, sizeof counts, cudaMemcpyHostToDevice, stream[r]));
        MUST(cudaStreamSynchronize(stream[r]));
    }
    MUST(cudaSetDevice(0));
    MUST(cudaStreamCreateWithFlags(side, cudaStreamNonBlocking));
}

static void count_exchange(void)
{
    MUST(ncclGroupStart());
    for (int r = 0; r < RANKS; r++) {
        MUST(ncclAllReduce(weight[r], weight[r], 4, ncclFloat32, ncclSum, comm[r], stream[r]));
        MUST(ncclAllGather(own[r], all[r], EXPERTS, ncclInt64, comm[r], stream[r]));
    }
    MUST(ncclGroupEnd());
}

static int64_t rows_between(int from, int to)
{
    int64_t n = 0;
    for (int i = 0; i < OWN; i++)
        n += tokens(from, to * OWN + i);
    return n;
}

static void dispatch(void)
{
    MUST(ncclGroupStart());
    for (int r = 0; r < RANKS; r++) {
        for (int p = 0; p < RANKS; p++) {
            MUST(ncclSend(rows[r], (size_t)rows_between(r, p) * ROW, ncclInt8, p, comm[r],
                          stream[r]));
            MUST(ncclRecv(held[r] + p * 4096, (size_t)rows_between(p, r) * ROW, ncclInt8, p,
                          comm[r], stream[r]));
        }
    }
    MUST(ncclGroupEnd());
}

int main(void)
{
    cudaStream_t side;
    pthread_t thread;
    int status;
    set_up(&side);
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, capture, side);
    pthread_barrier_wait(&barrier);
    count_exchange();
    dispatch();
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    pid_t child = fork();
    if (child == 0)
        exit(0);
    if (waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "the child ended with status %d\n", status);
        return 1;
    }
    for (int r = 0; r < RANKS; r++) {
        MUST(cudaSetDevice(r));
        MUST(cudaStreamSynchronize(stream[r]));
        MUST(ncclCommDestroy(comm[r]));
    }
    puts("done");
    return 0;
}
