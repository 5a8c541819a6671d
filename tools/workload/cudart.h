/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few functions of the CUDA runtime (CUDA 13 ABI, libcudart.so.13) that the workload calls,
 * declared here so that it builds without CUDA's headers. Only device.c and graph.c may include it.
 */
#ifndef SKEW_WORKLOAD_CUDART_H
#define SKEW_WORKLOAD_CUDART_H

#include "nccl_abi.h"

typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

enum {
    cudaSuccess = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaStreamNonBlocking = 1,
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1
};

/* CUDA's enum parameters and results have the size of an int. */
int cudaGetDeviceCount(int *count);
int cudaSetDevice(int device);
int cudaMalloc(void **ptr, size_t size);
int cudaFree(void *ptr);
int cudaMemcpyAsync(void *dst, const void *src, size_t count, int kind, cudaStream_t stream);
int cudaMemsetAsync(void *ptr, int value, size_t count, cudaStream_t stream);
int cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags);
int cudaStreamDestroy(cudaStream_t stream);
int cudaStreamSynchronize(cudaStream_t stream);
int cudaStreamBeginCapture(cudaStream_t stream, int mode);
int cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
int cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
int cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
int cudaGraphExecDestroy(cudaGraphExec_t exec);
int cudaGraphDestroy(cudaGraph_t graph);
const char *cudaGetErrorString(int error);

#endif
