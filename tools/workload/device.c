/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workload's use of the CUDA runtime, but for graphs (graph.c). Called by the rank that owns
 * the stream. The same calls serve a GPU and the stand-in.
 */
#include "cudart.h"
#include "device.h"

#define SMALLEST 256 /* so that a zero-sized send still has an address */

void skew_cuda_check(const struct skew_rank *rank, int error, const char *call)
{
    if (error != cudaSuccess)
        skew_rank_fail(rank, "%s: %s", call, cudaGetErrorString(error));
}

void skew_device_open(struct skew_rank *rank, unsigned local_rank)
{
    int devices = 0;
    skew_cuda_check(rank, cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    if (devices < 1)
        skew_rank_fail(rank, "there is no CUDA device");
    if (local_rank >= (unsigned)devices && !rank->job->opt->share_gpu)
        skew_rank_fail(rank,
                       "%d CUDA devices are too few for local rank %u; --share-gpu lets ranks "
                       "share one",
                       devices, local_rank);
    skew_cuda_check(rank, cudaSetDevice((int)(local_rank % (unsigned)devices)), "cudaSetDevice");
    skew_cuda_check(rank, cudaStreamCreateWithFlags(&rank->stream, cudaStreamNonBlocking),
                    "cudaStreamCreateWithFlags");
}

void skew_device_close(struct skew_rank *rank)
{
    skew_cuda_check(rank, cudaStreamDestroy(rank->stream), "cudaStreamDestroy");
    rank->stream = NULL;
}

void skew_device_reserve(const struct skew_rank *rank, void **buffer, size_t *room, size_t size)
{
    if (*buffer && size <= *room)
        return;
    skew_device_free(rank, buffer, room);
    size = size < SMALLEST ? SMALLEST : size + size / 4;
    skew_cuda_check(rank, cudaMalloc(buffer, size), "cudaMalloc");
    *room = size;
}

void skew_device_free(const struct skew_rank *rank, void **buffer, size_t *room)
{
    if (*buffer)
        skew_cuda_check(rank, cudaFree(*buffer), "cudaFree");
    *buffer = NULL;
    *room = 0;
}

void skew_device_upload(const struct skew_rank *rank, void *to, const void *from, size_t size)
{
    if (size)
        skew_cuda_check(rank, cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice, rank->stream),
                        "cudaMemcpyAsync to the device");
}

void skew_device_download(const struct skew_rank *rank, void *to, const void *from, size_t size)
{
    if (size)
        skew_cuda_check(rank, cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost, rank->stream),
                        "cudaMemcpyAsync from the device");
}

void skew_device_poison(const struct skew_rank *rank, void *buffer, size_t size)
{
    if (size)
        skew_cuda_check(rank, cudaMemsetAsync(buffer, SKEW_POISON, size, rank->stream),
                        "cudaMemsetAsync");
}

void skew_device_wait(const struct skew_rank *rank)
{
    skew_cuda_check(rank, cudaStreamSynchronize(rank->stream), "cudaStreamSynchronize");
}
