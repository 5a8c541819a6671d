/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Graph nodes of the runtime. Its parameter structures become the driver's CUgraphNodeParams, and
 * one of the driver's three calls takes them: add a node, set a node's, set an executable one's.
 */
#include <string.h>

#include "runtime/rt.h"

#define NODE_DEPS                                                                                  \
    cudaGraphNode_t *pGraphNode, cudaGraph_t graph, const cudaGraphNode_t *pDependencies,          \
        size_t numDependencies
#define PASS_DEPS pGraphNode, graph, pDependencies, NULL, numDependencies

static CUdeviceptr device_pointer(const void *pointer)
{
    return (CUdeviceptr)(uintptr_t)pointer;
}

/* ---- Parameters ---- */

cudaError_t rt_copy_params(const cudaMemcpy3DParms *from, CUDA_MEMCPY3D *to)
{
    if (from == NULL)
        return cudaErrorInvalidValue;
    if (from->srcArray != NULL || from->dstArray != NULL)
        return cudaErrorNotSupported;
    *to = (CUDA_MEMCPY3D){.srcXInBytes = from->srcPos.x,
                          .srcY = from->srcPos.y,
                          .srcZ = from->srcPos.z,
                          .srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                          .srcDevice = device_pointer(from->srcPtr.ptr),
                          .srcPitch = from->srcPtr.pitch,
                          .srcHeight = from->srcPtr.ysize,
                          .dstXInBytes = from->dstPos.x,
                          .dstY = from->dstPos.y,
                          .dstZ = from->dstPos.z,
                          .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
                          .dstDevice = device_pointer(from->dstPtr.ptr),
                          .dstPitch = from->dstPtr.pitch,
                          .dstHeight = from->dstPtr.ysize,
                          .WidthInBytes = from->extent.width,
                          .Height = from->extent.height,
                          .Depth = from->extent.depth};
    return cudaSuccess;
}

static CUcontext current_context(void)
{
    CUcontext context = NULL;
    rt_driver.cuCtxGetCurrent(&context);
    return context;
}

static cudaError_t kernel_params(const cudaKernelNodeParams *from, CUgraphNodeParams *to)
{
    cudaError_t err = cudaErrorInvalidValue;
    CUfunction function = from != NULL ? rt_find_function(from->func, &err) : NULL;
    if (err != cudaSuccess)
        return err;
    to->type = CU_GRAPH_NODE_TYPE_KERNEL;
    to->kernel = (CUDA_KERNEL_NODE_PARAMS_v2){.func = function,
                                              .gridDimX = from->gridDim.x,
                                              .gridDimY = from->gridDim.y,
                                              .gridDimZ = from->gridDim.z,
                                              .blockDimX = from->blockDim.x,
                                              .blockDimY = from->blockDim.y,
                                              .blockDimZ = from->blockDim.z,
                                              .sharedMemBytes = from->sharedMemBytes,
                                              .kernelParams = from->kernelParams,
                                              .extra = from->extra};
    return cudaSuccess;
}

static cudaError_t memcpy_params(const cudaMemcpy3DParms *from, CUgraphNodeParams *to)
{
    to->type = CU_GRAPH_NODE_TYPE_MEMCPY;
    to->memcpy.copyCtx = current_context();
    return rt_copy_params(from, &to->memcpy.copyParams);
}

static cudaError_t memcpy_1d(void *dst, const void *src, size_t count, CUgraphNodeParams *to)
{
    cudaMemcpy3DParms p = {.srcPtr = {(void *)(uintptr_t)src, count, count, 1},
                           .dstPtr = {dst, count, count, 1},
                           .extent = {count, 1, 1},
                           .kind = cudaMemcpyDefault};
    return memcpy_params(&p, to);
}

static cudaError_t memset_params(const cudaMemsetParams *from, CUgraphNodeParams *to)
{
    if (from == NULL)
        return cudaErrorInvalidValue;
    to->type = CU_GRAPH_NODE_TYPE_MEMSET;
    to->memset = (CUDA_MEMSET_NODE_PARAMS_v2){.dst = device_pointer(from->dst),
                                              .pitch = from->pitch,
                                              .value = from->value,
                                              .elementSize = from->elementSize,
                                              .width = from->width,
                                              .height = from->height,
                                              .ctx = current_context()};
    return cudaSuccess;
}

static cudaError_t host_params(const cudaHostNodeParams *from, CUgraphNodeParams *to)
{
    if (from == NULL)
        return cudaErrorInvalidValue;
    to->type = CU_GRAPH_NODE_TYPE_HOST;
    to->host.fn = from->fn;
    to->host.userData = from->userData;
    return cudaSuccess;
}

_Static_assert(sizeof(CUgraphNodeParams) == sizeof(cudaGraphNodeParams),
               "node parameters of runtime and driver are copied where they are alike");

static cudaError_t node_params(const cudaGraphNodeParams *from, CUgraphNodeParams *to)
{
    if (from == NULL)
        return cudaErrorInvalidValue;
    switch (from->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return kernel_params(&from->kernel, to);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return memcpy_params(&from->memcpy.copyParams, to);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return memset_params(&from->memset, to);
    case CU_GRAPH_NODE_TYPE_HOST:
        return host_params(&from->host, to);
    default: /* the rest is laid out alike */
        memcpy(to, from, sizeof(*to));
        return cudaSuccess;
    }
}

static void event_params(CUgraphNodeType type, cudaEvent_t event, CUgraphNodeParams *to)
{
    to->type = type;
    to->eventRecord.event = event;
}

static cudaError_t symbol_address(const void *symbol, size_t count, size_t offset, char **address)
{
    void *base;
    size_t bytes;
    cudaError_t err = rt_find_symbol(symbol, &base, &bytes);
    if (err == cudaSuccess && (offset > bytes || count > bytes - offset))
        err = cudaErrorInvalidValue;
    if (err == cudaSuccess)
        *address = (char *)base + offset;
    return err;
}

/* ---- Adding ---- */

cudaError_t rt_cudaGraphAddKernelNode(NODE_DEPS, const cudaKernelNodeParams *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    cudaError_t err = kernel_params(pNodeParams, &p);
    return err == cudaSuccess ? rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p) : err;
}

cudaError_t rt_cudaGraphAddMemcpyNode(NODE_DEPS, const cudaMemcpy3DParms *pCopyParams)
{
    CUgraphNodeParams p = {.type = 0};
    cudaError_t err = memcpy_params(pCopyParams, &p);
    return err == cudaSuccess ? rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p) : err;
}

cudaError_t rt_cudaGraphAddMemcpyNode1D(NODE_DEPS, void *dst, const void *src, size_t count,
                                        cudaMemcpyKind kind)
{
    CUgraphNodeParams p = {.type = 0};
    (void)kind;
    cudaError_t err = memcpy_1d(dst, src, count, &p);
    return err == cudaSuccess ? rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p) : err;
}

cudaError_t rt_cudaGraphAddMemcpyNodeToSymbol(NODE_DEPS, const void *symbol, const void *src,
                                              size_t count, size_t offset, cudaMemcpyKind kind)
{
    char *address;
    cudaError_t err = symbol_address(symbol, count, offset, &address);
    if (err != cudaSuccess)
        return err;
    return rt_cudaGraphAddMemcpyNode1D(pGraphNode, graph, pDependencies, numDependencies, address,
                                       src, count, kind);
}

cudaError_t rt_cudaGraphAddMemcpyNodeFromSymbol(NODE_DEPS, void *dst, const void *symbol,
                                                size_t count, size_t offset, cudaMemcpyKind kind)
{
    char *address;
    cudaError_t err = symbol_address(symbol, count, offset, &address);
    if (err != cudaSuccess)
        return err;
    return rt_cudaGraphAddMemcpyNode1D(pGraphNode, graph, pDependencies, numDependencies, dst,
                                       address, count, kind);
}

cudaError_t rt_cudaGraphAddMemsetNode(NODE_DEPS, const cudaMemsetParams *pMemsetParams)
{
    CUgraphNodeParams p = {.type = 0};
    cudaError_t err = memset_params(pMemsetParams, &p);
    return err == cudaSuccess ? rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p) : err;
}

cudaError_t rt_cudaGraphAddHostNode(NODE_DEPS, const cudaHostNodeParams *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    cudaError_t err = host_params(pNodeParams, &p);
    return err == cudaSuccess ? rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p) : err;
}

cudaError_t rt_cudaGraphAddChildGraphNode(NODE_DEPS, cudaGraph_t childGraph)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_GRAPH, .graph = {.graph = childGraph}};
    return rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p);
}

cudaError_t rt_cudaGraphAddEmptyNode(NODE_DEPS)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_EMPTY};
    return rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p);
}

cudaError_t rt_cudaGraphAddEventRecordNode(NODE_DEPS, cudaEvent_t event)
{
    CUgraphNodeParams p = {.type = 0};
    event_params(CU_GRAPH_NODE_TYPE_EVENT_RECORD, event, &p);
    return rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p);
}

cudaError_t rt_cudaGraphAddEventWaitNode(NODE_DEPS, cudaEvent_t event)
{
    CUgraphNodeParams p = {.type = 0};
    event_params(CU_GRAPH_NODE_TYPE_WAIT_EVENT, event, &p);
    return rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p);
}

cudaError_t rt_cudaGraphAddMemAllocNode(NODE_DEPS, cudaMemAllocNodeParams *nodeParams)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    if (nodeParams == NULL)
        return cudaErrorInvalidValue;
    p.alloc = *nodeParams;
    cudaError_t err = rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p);
    nodeParams->dptr = p.alloc.dptr;
    return err;
}

cudaError_t rt_cudaGraphAddMemFreeNode(NODE_DEPS, void *dptr)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE, .free = {device_pointer(dptr)}};
    return rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p);
}

cudaError_t rt_cudaGraphAddNode(cudaGraphNode_t *pGraphNode, cudaGraph_t graph,
                                const cudaGraphNode_t *pDependencies,
                                const cudaGraphEdgeData *dependencyData, size_t numDependencies,
                                cudaGraphNodeParams *nodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    (void)dependencyData;
    cudaError_t err = node_params(nodeParams, &p);
    if (err == cudaSuccess)
        err = rt_driver.cuGraphAddNode_v2(PASS_DEPS, &p);
    if (err == cudaSuccess && p.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        nodeParams->alloc.dptr = p.alloc.dptr;
    return err;
}

/* ---- Setting: exec NULL means the graph's own node ---- */

static cudaError_t set(cudaGraphExec_t exec, cudaGraphNode_t node, CUgraphNodeParams *p,
                       cudaError_t err)
{
    if (err != cudaSuccess)
        return err;
    return exec != NULL ? rt_driver.cuGraphExecNodeSetParams(exec, node, p)
                        : rt_driver.cuGraphNodeSetParams(node, p);
}

cudaError_t rt_cudaGraphKernelNodeSetParams(cudaGraphNode_t node,
                                            const cudaKernelNodeParams *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(NULL, node, &p, kernel_params(pNodeParams, &p));
}

cudaError_t rt_cudaGraphExecKernelNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                                const cudaKernelNodeParams *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(hGraphExec, node, &p, kernel_params(pNodeParams, &p));
}

cudaError_t rt_cudaGraphMemcpyNodeSetParams(cudaGraphNode_t node,
                                            const cudaMemcpy3DParms *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(NULL, node, &p, memcpy_params(pNodeParams, &p));
}

cudaError_t rt_cudaGraphExecMemcpyNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                                const cudaMemcpy3DParms *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(hGraphExec, node, &p, memcpy_params(pNodeParams, &p));
}

cudaError_t rt_cudaGraphMemcpyNodeSetParams1D(cudaGraphNode_t node, void *dst, const void *src,
                                              size_t count, cudaMemcpyKind kind)
{
    CUgraphNodeParams p = {.type = 0};
    (void)kind;
    return set(NULL, node, &p, memcpy_1d(dst, src, count, &p));
}

cudaError_t rt_cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                                  void *dst, const void *src, size_t count,
                                                  cudaMemcpyKind kind)
{
    CUgraphNodeParams p = {.type = 0};
    (void)kind;
    return set(hGraphExec, node, &p, memcpy_1d(dst, src, count, &p));
}

static cudaError_t set_symbol(cudaGraphExec_t exec, cudaGraphNode_t node, const void *symbol,
                              void *to, const void *from, size_t count, size_t offset)
{
    CUgraphNodeParams p = {.type = 0};
    char *address = NULL;
    cudaError_t err = symbol_address(symbol, count, offset, &address);
    if (err == cudaSuccess)
        err = memcpy_1d(to != NULL ? to : address, from != NULL ? from : address, count, &p);
    return set(exec, node, &p, err);
}

cudaError_t rt_cudaGraphMemcpyNodeSetParamsToSymbol(cudaGraphNode_t node, const void *symbol,
                                                    const void *src, size_t count, size_t offset,
                                                    cudaMemcpyKind kind)
{
    (void)kind;
    return set_symbol(NULL, node, symbol, NULL, src, count, offset);
}

cudaError_t rt_cudaGraphMemcpyNodeSetParamsFromSymbol(cudaGraphNode_t node, void *dst,
                                                      const void *symbol, size_t count,
                                                      size_t offset, cudaMemcpyKind kind)
{
    (void)kind;
    return set_symbol(NULL, node, symbol, dst, NULL, count, offset);
}

cudaError_t rt_cudaGraphExecMemcpyNodeSetParamsToSymbol(cudaGraphExec_t hGraphExec,
                                                        cudaGraphNode_t node, const void *symbol,
                                                        const void *src, size_t count,
                                                        size_t offset, cudaMemcpyKind kind)
{
    (void)kind;
    return set_symbol(hGraphExec, node, symbol, NULL, src, count, offset);
}

cudaError_t rt_cudaGraphExecMemcpyNodeSetParamsFromSymbol(cudaGraphExec_t hGraphExec,
                                                          cudaGraphNode_t node, void *dst,
                                                          const void *symbol, size_t count,
                                                          size_t offset, cudaMemcpyKind kind)
{
    (void)kind;
    return set_symbol(hGraphExec, node, symbol, dst, NULL, count, offset);
}

cudaError_t rt_cudaGraphMemsetNodeSetParams(cudaGraphNode_t node,
                                            const cudaMemsetParams *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(NULL, node, &p, memset_params(pNodeParams, &p));
}

cudaError_t rt_cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                                const cudaMemsetParams *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(hGraphExec, node, &p, memset_params(pNodeParams, &p));
}

cudaError_t rt_cudaGraphHostNodeSetParams(cudaGraphNode_t node,
                                          const cudaHostNodeParams *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(NULL, node, &p, host_params(pNodeParams, &p));
}

cudaError_t rt_cudaGraphExecHostNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                              const cudaHostNodeParams *pNodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(hGraphExec, node, &p, host_params(pNodeParams, &p));
}

static cudaError_t set_event(cudaGraphExec_t exec, cudaGraphNode_t node, CUgraphNodeType type,
                             cudaEvent_t event)
{
    CUgraphNodeParams p = {.type = 0};
    event_params(type, event, &p);
    return set(exec, node, &p, cudaSuccess);
}

cudaError_t rt_cudaGraphEventRecordNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event)
{
    return set_event(NULL, node, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event);
}

cudaError_t rt_cudaGraphEventWaitNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event)
{
    return set_event(NULL, node, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event);
}

cudaError_t rt_cudaGraphExecEventRecordNodeSetEvent(cudaGraphExec_t hGraphExec,
                                                    cudaGraphNode_t hNode, cudaEvent_t event)
{
    return set_event(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event);
}

cudaError_t rt_cudaGraphExecEventWaitNodeSetEvent(cudaGraphExec_t hGraphExec, cudaGraphNode_t hNode,
                                                  cudaEvent_t event)
{
    return set_event(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event);
}

cudaError_t rt_cudaGraphNodeSetParams(cudaGraphNode_t node, cudaGraphNodeParams *nodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(NULL, node, &p, node_params(nodeParams, &p));
}

cudaError_t rt_cudaGraphExecNodeSetParams(cudaGraphExec_t graphExec, cudaGraphNode_t node,
                                          cudaGraphNodeParams *nodeParams)
{
    CUgraphNodeParams p = {.type = 0};
    return set(graphExec, node, &p, node_params(nodeParams, &p));
}

/* ---- Getting ---- */

cudaError_t rt_cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams *pNodeParams)
{
    CUDA_KERNEL_NODE_PARAMS_v2 p;
    cudaError_t err = rt_driver.cuGraphKernelNodeGetParams_v2(node, &p);
    if (err == cudaSuccess)
        *pNodeParams = (cudaKernelNodeParams){.func = p.func,
                                              .gridDim = {p.gridDimX, p.gridDimY, p.gridDimZ},
                                              .blockDim = {p.blockDimX, p.blockDimY, p.blockDimZ},
                                              .sharedMemBytes = p.sharedMemBytes,
                                              .kernelParams = p.kernelParams,
                                              .extra = p.extra};
    return err;
}

cudaError_t rt_cudaGraphMemcpyNodeGetParams(cudaGraphNode_t node, cudaMemcpy3DParms *pNodeParams)
{
    CUDA_MEMCPY3D p;
    cudaError_t err = rt_driver.cuGraphMemcpyNodeGetParams(node, &p);
    if (err != cudaSuccess)
        return err;
    const void *src =
        p.srcMemoryType == CU_MEMORYTYPE_HOST ? p.srcHost : (void *)(uintptr_t)p.srcDevice;
    void *dst = p.dstMemoryType == CU_MEMORYTYPE_HOST ? p.dstHost : (void *)(uintptr_t)p.dstDevice;
    *pNodeParams =
        (cudaMemcpy3DParms){.srcPos = {p.srcXInBytes, p.srcY, p.srcZ},
                            .srcPtr = {(void *)(uintptr_t)src, p.srcPitch, p.srcPitch, p.srcHeight},
                            .dstPos = {p.dstXInBytes, p.dstY, p.dstZ},
                            .dstPtr = {dst, p.dstPitch, p.dstPitch, p.dstHeight},
                            .extent = {p.WidthInBytes, p.Height, p.Depth},
                            .kind = cudaMemcpyDefault};
    return cudaSuccess;
}

cudaError_t rt_cudaGraphMemsetNodeGetParams(cudaGraphNode_t node, cudaMemsetParams *pNodeParams)
{
    CUDA_MEMSET_NODE_PARAMS_v1 p;
    cudaError_t err = rt_driver.cuGraphMemsetNodeGetParams(node, &p);
    if (err == cudaSuccess)
        *pNodeParams = (cudaMemsetParams){.dst = (void *)(uintptr_t)p.dst,
                                          .pitch = p.pitch,
                                          .value = p.value,
                                          .elementSize = p.elementSize,
                                          .width = p.width,
                                          .height = p.height};
    return err;
}

cudaError_t rt_cudaGraphHostNodeGetParams(cudaGraphNode_t node, cudaHostNodeParams *pNodeParams)
{
    CUDA_HOST_NODE_PARAMS_v1 p;
    cudaError_t err = rt_driver.cuGraphHostNodeGetParams(node, &p);
    if (err == cudaSuccess)
        *pNodeParams = (cudaHostNodeParams){.fn = p.fn, .userData = p.userData};
    return err;
}

cudaError_t rt_cudaGraphMemFreeNodeGetParams(cudaGraphNode_t node, void *dptr_out)
{
    return rt_driver.cuGraphMemFreeNodeGetParams(node, dptr_out);
}

cudaError_t rt_cudaGraphExecGetFlags(cudaGraphExec_t graphExec, unsigned long long *flags)
{
    cuuint64_t value = 0;
    cudaError_t err = rt_driver.cuGraphExecGetFlags(graphExec, &value);
    if (err == cudaSuccess)
        *flags = value;
    return err;
}
