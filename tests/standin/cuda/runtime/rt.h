/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the stand-in runtime, a thin layer over the driver, as the real one is. It loads
 * libcuda.so.1 at the first call that needs it and calls it only through pointers that it got from
 * cuGetProcAddress, so that hooks on driver symbols do not see its calls, as with the real one.
 * The bodies of the API are rt_... functions (generated prototypes, runtime.api).
 */
#ifndef STANDIN_RT_H
#define STANDIN_RT_H

#include <stdbool.h>

#include "abi/runtime.h"
#include "driver/tracer.h"
#include "drv_impl.h"
#include "rt_impl.h"

#define SI_EXPORT __attribute__((visibility("default")))

enum {
    RT_NOINIT = 1,     /* needs no driver */
    RT_NOCTX = 2,      /* needs no context */
    RT_NOLATCH = 4,    /* does not change the thread's last error */
    RT_PER_THREAD = 8, /* the _ptsz or _ptds spelling */
    RT_UNSAFE = 0,
};

/* Driver functions: symbol, its name for cuGetProcAddress, and the version that is meant. */
#define RT_DRIVER(X)                                                                               \
    X(cuInit, "cuInit", 2000)                                                                      \
    X(cuDriverGetVersion, "cuDriverGetVersion", 2020)                                              \
    X(cuGetErrorString, "cuGetErrorString", 6000)                                                  \
    X(cuDeviceGetCount, "cuDeviceGetCount", 2000)                                                  \
    X(cuDeviceGetName, "cuDeviceGetName", 2000)                                                    \
    X(cuDeviceGetUuid_v2, "cuDeviceGetUuid", 11040)                                                \
    X(cuDeviceTotalMem_v2, "cuDeviceTotalMem", 3020)                                               \
    X(cuDeviceGetAttribute, "cuDeviceGetAttribute", 2000)                                          \
    X(cuDeviceGetPCIBusId, "cuDeviceGetPCIBusId", 4010)                                            \
    X(cuDeviceGetByPCIBusId, "cuDeviceGetByPCIBusId", 4010)                                        \
    X(cuDeviceCanAccessPeer, "cuDeviceCanAccessPeer", 4000)                                        \
    X(cuDeviceGetP2PAttribute, "cuDeviceGetP2PAttribute", 8000)                                    \
    X(cuDeviceGetDefaultMemPool, "cuDeviceGetDefaultMemPool", 11020)                               \
    X(cuDeviceGetMemPool, "cuDeviceGetMemPool", 11020)                                             \
    X(cuDeviceSetMemPool, "cuDeviceSetMemPool", 11020)                                             \
    X(cuDeviceGetGraphMemAttribute, "cuDeviceGetGraphMemAttribute", 11040)                         \
    X(cuDeviceSetGraphMemAttribute, "cuDeviceSetGraphMemAttribute", 11040)                         \
    X(cuDeviceGraphMemTrim, "cuDeviceGraphMemTrim", 11040)                                         \
    X(cuFlushGPUDirectRDMAWrites, "cuFlushGPUDirectRDMAWrites", 11030)                             \
    X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", 7000)                                  \
    X(cuDevicePrimaryCtxReset_v2, "cuDevicePrimaryCtxReset", 11000)                                \
    X(cuDevicePrimaryCtxSetFlags_v2, "cuDevicePrimaryCtxSetFlags", 11000)                          \
    X(cuDevicePrimaryCtxGetState, "cuDevicePrimaryCtxGetState", 7000)                              \
    X(cuCtxGetCurrent, "cuCtxGetCurrent", 4000)                                                    \
    X(cuCtxSetCurrent, "cuCtxSetCurrent", 4000)                                                    \
    X(cuCtxGetDevice, "cuCtxGetDevice", 2000)                                                      \
    X(cuCtxSynchronize, "cuCtxSynchronize", 2000)                                                  \
    X(cuCtxSetLimit, "cuCtxSetLimit", 3010)                                                        \
    X(cuCtxGetLimit, "cuCtxGetLimit", 3010)                                                        \
    X(cuCtxGetCacheConfig, "cuCtxGetCacheConfig", 3020)                                            \
    X(cuCtxSetCacheConfig, "cuCtxSetCacheConfig", 3020)                                            \
    X(cuCtxGetStreamPriorityRange, "cuCtxGetStreamPriorityRange", 5050)                            \
    X(cuCtxResetPersistingL2Cache, "cuCtxResetPersistingL2Cache", 11000)                           \
    X(cuCtxEnablePeerAccess, "cuCtxEnablePeerAccess", 4000)                                        \
    X(cuCtxDisablePeerAccess, "cuCtxDisablePeerAccess", 4000)                                      \
    X(cuCtxGetSharedMemConfig, "cuCtxGetSharedMemConfig", 4020)                                    \
    X(cuCtxSetSharedMemConfig, "cuCtxSetSharedMemConfig", 4020)                                    \
    X(cuLibraryLoadData, "cuLibraryLoadData", 12000)                                               \
    X(cuLibraryLoadFromFile, "cuLibraryLoadFromFile", 12000)                                       \
    X(cuLibraryUnload, "cuLibraryUnload", 12000)                                                   \
    X(cuLibraryGetKernel, "cuLibraryGetKernel", 12000)                                             \
    X(cuLibraryGetGlobal, "cuLibraryGetGlobal", 12000)                                             \
    X(cuLibraryGetManaged, "cuLibraryGetManaged", 12000)                                           \
    X(cuKernelGetFunction, "cuKernelGetFunction", 12000)                                           \
    X(cuKernelGetName, "cuKernelGetName", 12030)                                                   \
    X(cuKernelSetAttribute, "cuKernelSetAttribute", 12000)                                         \
    X(cuFuncGetAttribute, "cuFuncGetAttribute", 2020)                                              \
    X(cuFuncSetAttribute, "cuFuncSetAttribute", 9000)                                              \
    X(cuFuncSetCacheConfig, "cuFuncSetCacheConfig", 3000)                                          \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,                                        \
      "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", 7000)                                \
    X(cuOccupancyAvailableDynamicSMemPerBlock, "cuOccupancyAvailableDynamicSMemPerBlock", 10020)   \
    X(cuOccupancyMaxPotentialClusterSize, "cuOccupancyMaxPotentialClusterSize", 11070)             \
    X(cuOccupancyMaxActiveClusters, "cuOccupancyMaxActiveClusters", 11070)                         \
    X(cuMemGetInfo_v2, "cuMemGetInfo", 3020)                                                       \
    X(cuMemAlloc_v2, "cuMemAlloc", 3020)                                                           \
    X(cuMemAllocPitch_v2, "cuMemAllocPitch", 3020)                                                 \
    X(cuMemFree_v2, "cuMemFree", 3020)                                                             \
    X(cuMemFreeHost, "cuMemFreeHost", 2000)                                                        \
    X(cuMemHostAlloc, "cuMemHostAlloc", 2020)                                                      \
    X(cuMemHostGetDevicePointer_v2, "cuMemHostGetDevicePointer", 3020)                             \
    X(cuMemHostGetFlags, "cuMemHostGetFlags", 2030)                                                \
    X(cuMemAllocManaged, "cuMemAllocManaged", 6000)                                                \
    X(cuMemHostRegister_v2, "cuMemHostRegister", 6050)                                             \
    X(cuMemHostUnregister, "cuMemHostUnregister", 4000)                                            \
    X(cuMemAdvise_v2, "cuMemAdvise", 12020)                                                        \
    X(cuMemPrefetchAsync_v2, "cuMemPrefetchAsync", 12020)                                          \
    X(cuMemAllocAsync, "cuMemAllocAsync", 11020)                                                   \
    X(cuMemFreeAsync, "cuMemFreeAsync", 11020)                                                     \
    X(cuMemAllocFromPoolAsync, "cuMemAllocFromPoolAsync", 11020)                                   \
    X(cuMemPoolCreate, "cuMemPoolCreate", 11020)                                                   \
    X(cuMemPoolDestroy, "cuMemPoolDestroy", 11020)                                                 \
    X(cuMemPoolTrimTo, "cuMemPoolTrimTo", 11020)                                                   \
    X(cuMemPoolSetAttribute, "cuMemPoolSetAttribute", 11020)                                       \
    X(cuMemPoolGetAttribute, "cuMemPoolGetAttribute", 11020)                                       \
    X(cuMemPoolSetAccess, "cuMemPoolSetAccess", 11020)                                             \
    X(cuMemPoolGetAccess, "cuMemPoolGetAccess", 11020)                                             \
    X(cuPointerGetAttributes, "cuPointerGetAttributes", 7000)                                      \
    X(cuIpcGetMemHandle, "cuIpcGetMemHandle", 4010)                                                \
    X(cuIpcOpenMemHandle_v2, "cuIpcOpenMemHandle", 11000)                                          \
    X(cuIpcCloseMemHandle, "cuIpcCloseMemHandle", 4010)                                            \
    X(cuIpcGetEventHandle, "cuIpcGetEventHandle", 4010)                                            \
    X(cuIpcOpenEventHandle, "cuIpcOpenEventHandle", 4010)                                          \
    X(cuMemcpy, "cuMemcpy", 4000)                                                                  \
    X(cuMemcpyAsync, "cuMemcpyAsync", 4000)                                                        \
    X(cuMemcpy3D_v2, "cuMemcpy3D", 3020)                                                           \
    X(cuMemcpy3DAsync_v2, "cuMemcpy3DAsync", 3020)                                                 \
    X(cuMemcpyBatchAsync_v2, "cuMemcpyBatchAsync", 13000)                                          \
    X(cuMemsetD8_v2, "cuMemsetD8", 3020)                                                           \
    X(cuMemsetD2D8_v2, "cuMemsetD2D8", 3020)                                                       \
    X(cuMemsetD8Async, "cuMemsetD8Async", 3020)                                                    \
    X(cuMemsetD2D8Async, "cuMemsetD2D8Async", 3020)                                                \
    X(cuStreamCreateWithPriority, "cuStreamCreateWithPriority", 5050)                              \
    X(cuStreamDestroy_v2, "cuStreamDestroy", 4000)                                                 \
    X(cuStreamQuery, "cuStreamQuery", 2000)                                                        \
    X(cuStreamSynchronize, "cuStreamSynchronize", 2000)                                            \
    X(cuStreamWaitEvent, "cuStreamWaitEvent", 3020)                                                \
    X(cuStreamAddCallback, "cuStreamAddCallback", 5000)                                            \
    X(cuStreamGetPriority, "cuStreamGetPriority", 5050)                                            \
    X(cuStreamGetDevice, "cuStreamGetDevice", 12080)                                               \
    X(cuStreamGetFlags, "cuStreamGetFlags", 5050)                                                  \
    X(cuStreamGetId, "cuStreamGetId", 12000)                                                       \
    X(cuStreamGetAttribute, "cuStreamGetAttribute", 11000)                                         \
    X(cuStreamSetAttribute, "cuStreamSetAttribute", 11000)                                         \
    X(cuStreamCopyAttributes, "cuStreamCopyAttributes", 11000)                                     \
    X(cuStreamAttachMemAsync, "cuStreamAttachMemAsync", 6000)                                      \
    X(cuStreamBeginCapture_v2, "cuStreamBeginCapture", 10010)                                      \
    X(cuStreamBeginCaptureToGraph, "cuStreamBeginCaptureToGraph", 12030)                           \
    X(cuStreamEndCapture, "cuStreamEndCapture", 10000)                                             \
    X(cuStreamIsCapturing, "cuStreamIsCapturing", 10000)                                           \
    X(cuStreamGetCaptureInfo_v3, "cuStreamGetCaptureInfo", 12030)                                  \
    X(cuStreamUpdateCaptureDependencies_v2, "cuStreamUpdateCaptureDependencies", 12030)            \
    X(cuThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode", 10010)               \
    X(cuEventCreate, "cuEventCreate", 2000)                                                        \
    X(cuEventRecordWithFlags, "cuEventRecordWithFlags", 11010)                                     \
    X(cuEventQuery, "cuEventQuery", 2000)                                                          \
    X(cuEventSynchronize, "cuEventSynchronize", 2000)                                              \
    X(cuEventDestroy_v2, "cuEventDestroy", 4000)                                                   \
    X(cuEventElapsedTime_v2, "cuEventElapsedTime", 12080)                                          \
    X(cuLaunchKernelEx, "cuLaunchKernelEx", 11060)                                                 \
    X(cuLaunchHostFunc, "cuLaunchHostFunc", 10000)                                                 \
    X(cuGraphCreate, "cuGraphCreate", 10000)                                                       \
    X(cuGraphDestroy, "cuGraphDestroy", 10000)                                                     \
    X(cuGraphClone, "cuGraphClone", 10000)                                                         \
    X(cuGraphNodeFindInClone, "cuGraphNodeFindInClone", 10000)                                     \
    X(cuGraphNodeGetType, "cuGraphNodeGetType", 10000)                                             \
    X(cuGraphGetNodes, "cuGraphGetNodes", 10000)                                                   \
    X(cuGraphGetRootNodes, "cuGraphGetRootNodes", 10000)                                           \
    X(cuGraphGetEdges_v2, "cuGraphGetEdges", 12030)                                                \
    X(cuGraphNodeGetDependencies_v2, "cuGraphNodeGetDependencies", 12030)                          \
    X(cuGraphNodeGetDependentNodes_v2, "cuGraphNodeGetDependentNodes", 12030)                      \
    X(cuGraphAddDependencies_v2, "cuGraphAddDependencies", 12030)                                  \
    X(cuGraphRemoveDependencies_v2, "cuGraphRemoveDependencies", 12030)                            \
    X(cuGraphDestroyNode, "cuGraphDestroyNode", 10000)                                             \
    X(cuGraphDebugDotPrint, "cuGraphDebugDotPrint", 11030)                                         \
    X(cuGraphAddNode_v2, "cuGraphAddNode", 12030)                                                  \
    X(cuGraphNodeSetParams, "cuGraphNodeSetParams", 12020)                                         \
    X(cuGraphExecNodeSetParams, "cuGraphExecNodeSetParams", 12020)                                 \
    X(cuGraphKernelNodeGetParams_v2, "cuGraphKernelNodeGetParams", 12000)                          \
    X(cuGraphKernelNodeCopyAttributes, "cuGraphKernelNodeCopyAttributes", 11000)                   \
    X(cuGraphKernelNodeGetAttribute, "cuGraphKernelNodeGetAttribute", 11000)                       \
    X(cuGraphKernelNodeSetAttribute, "cuGraphKernelNodeSetAttribute", 11000)                       \
    X(cuGraphMemcpyNodeGetParams, "cuGraphMemcpyNodeGetParams", 10000)                             \
    X(cuGraphMemsetNodeGetParams, "cuGraphMemsetNodeGetParams", 10000)                             \
    X(cuGraphHostNodeGetParams, "cuGraphHostNodeGetParams", 10000)                                 \
    X(cuGraphChildGraphNodeGetGraph, "cuGraphChildGraphNodeGetGraph", 10000)                       \
    X(cuGraphEventRecordNodeGetEvent, "cuGraphEventRecordNodeGetEvent", 11010)                     \
    X(cuGraphEventWaitNodeGetEvent, "cuGraphEventWaitNodeGetEvent", 11010)                         \
    X(cuGraphMemAllocNodeGetParams, "cuGraphMemAllocNodeGetParams", 11040)                         \
    X(cuGraphMemFreeNodeGetParams, "cuGraphMemFreeNodeGetParams", 11040)                           \
    X(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags", 11040)                           \
    X(cuGraphInstantiateWithParams, "cuGraphInstantiateWithParams", 12000)                         \
    X(cuGraphExecGetFlags, "cuGraphExecGetFlags", 12000)                                           \
    X(cuGraphExecDestroy, "cuGraphExecDestroy", 10000)                                             \
    X(cuGraphUpload, "cuGraphUpload", 11010)                                                       \
    X(cuGraphLaunch, "cuGraphLaunch", 10000)                                                       \
    X(cuGraphExecUpdate_v2, "cuGraphExecUpdate", 12000)                                            \
    X(cuGraphExecChildGraphNodeSetParams, "cuGraphExecChildGraphNodeSetParams", 11010)             \
    X(cuGraphNodeSetEnabled, "cuGraphNodeSetEnabled", 11060)                                       \
    X(cuGraphNodeGetEnabled, "cuGraphNodeGetEnabled", 11060)                                       \
    X(cuUserObjectCreate, "cuUserObjectCreate", 11030)                                             \
    X(cuUserObjectRetain, "cuUserObjectRetain", 11030)                                             \
    X(cuUserObjectRelease, "cuUserObjectRelease", 11030)                                           \
    X(cuGraphRetainUserObject, "cuGraphRetainUserObject", 11030)                                   \
    X(cuGraphReleaseUserObject, "cuGraphReleaseUserObject", 11030)                                 \
    X(cuProfilerStart, "cuProfilerStart", 4000)                                                    \
    X(cuProfilerStop, "cuProfilerStop", 4000)

/* Filled once, before the first use (load.c). */
struct rt_driver {
#define RT_MEMBER(symbol, name, version) __typeof__(drv_##symbol) *symbol;
    RT_DRIVER(RT_MEMBER)
#undef RT_MEMBER
    __typeof__(drv_cuGetProcAddress_v2) *cuGetProcAddress_v2;
    __typeof__(standin_api_enter) *api_enter; /* by these two it knows the driver for ours */
    __typeof__(standin_api_exit) *api_exit;
};

extern struct rt_driver rt_driver;

struct rt_thread {
    cudaError_t last_error;
    int device; /* the one chosen by cudaSetDevice */
    bool per_thread_default;
};

extern __thread struct rt_thread rt_thread;

struct rt_call {
    struct standin_api_call api;
    cudaError_t result;
    bool traced;
    bool outer_per_thread;
    unsigned traits;
};

cudaError_t rt_enter(struct rt_call *call, uint32_t cbid, const char *name, const void *params,
                     unsigned traits);
cudaError_t rt_leave(struct rt_call *call, cudaError_t result);
cudaError_t rt_unsupported(void);

cudaError_t rt_load(void);    /* the driver; once */
cudaError_t rt_context(void); /* makes a context current if none is */
cudaError_t rt_use_device(int device);
void rt_forget_device(int device); /* after its primary context was reset */

/* The stream that a stream argument means to the driver. */
static inline CUstream rt_stream(cudaStream_t stream)
{
    return stream == NULL && rt_thread.per_thread_default ? (CUstream)2 : stream;
}

/* graph_nodes.c: runtime parameters as the driver's. */
cudaError_t rt_copy_params(const cudaMemcpy3DParms *from, CUDA_MEMCPY3D *to);

/* register.c: what the compiler's start-up code registered. NULL, or 0, if there is no such. */
CUfunction rt_find_function(const void *func, cudaError_t *err);
cudaError_t rt_find_symbol(const void *symbol, void **address, size_t *bytes);

#endif
