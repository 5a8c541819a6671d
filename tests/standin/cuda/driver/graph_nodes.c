/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Graph nodes by type: add, get and set their parameters, in graphs and in executable graphs.
 * Setting replaces the node's work, so launches that are under way keep what they were given.
 */
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"
#include "graph_work.h"
#include "module.h"
#include "trace.h"

/* ---- Adding ---- */

static CUresult add(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps, size_t count,
                    struct si_work *work, CUresult err)
{
    if (err != CUDA_SUCCESS)
        return err;
    si_graph_lock();
    err = out == NULL || (deps == NULL && count > 0) ? CUDA_ERROR_INVALID_VALUE
                                                     : si_graph_check(graph);
    if (err == CUDA_SUCCESS)
        err = si_graph_add_work(graph, deps, count, work, out);
    else
        si_graph_drop_work(work);
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                     const CUgraphNode *dependencies, size_t numDependencies,
                                     const CUDA_KERNEL_NODE_PARAMS_v2 *nodeParams)
{
    CUresult err;
    struct si_work *work = si_kernel_work(nodeParams, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies,
                                  const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS_v2 wide;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    si_widen_kernel(nodeParams, &wide);
    return drv_cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &wide);
}

CUresult drv_cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies,
                                  const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    CUresult err;
    struct si_work *work = si_copy_work(copyParams, ctx, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies,
                                  const CUDA_MEMSET_NODE_PARAMS_v1 *memsetParams, CUcontext ctx)
{
    CUresult err;
    struct si_work *work = si_fill_work(memsetParams, ctx, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                const CUgraphNode *dependencies, size_t numDependencies,
                                const CUDA_HOST_NODE_PARAMS_v1 *nodeParams)
{
    CUresult err;
    struct si_work *work = si_host_work(nodeParams, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                 const CUgraphNode *dependencies, size_t numDependencies)
{
    return add(phGraphNode, hGraph, dependencies, numDependencies, si_work_new(SI_WORK_EMPTY),
               CUDA_SUCCESS);
}

CUresult drv_cuGraphAddEventRecordNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                       const CUgraphNode *dependencies, size_t numDependencies,
                                       CUevent event)
{
    CUresult err;
    struct si_work *work = si_event_work(SI_WORK_RECORD, event, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddEventWaitNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                     const CUgraphNode *dependencies, size_t numDependencies,
                                     CUevent event)
{
    CUresult err;
    struct si_work *work = si_event_work(SI_WORK_WAIT, event, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                    const CUgraphNode *dependencies, size_t numDependencies,
                                    CUDA_MEM_ALLOC_NODE_PARAMS_v1 *nodeParams)
{
    CUresult err;
    struct si_work *work = si_alloc_work(nodeParams, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddMemFreeNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                   const CUgraphNode *dependencies, size_t numDependencies,
                                   CUdeviceptr dptr)
{
    CUresult err;
    struct si_work *work = si_free_work(dptr, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                      const CUgraphNode *dependencies, size_t numDependencies,
                                      CUgraph childGraph)
{
    si_graph_lock();
    CUresult err = si_graph_check(hGraph);
    if (err == CUDA_SUCCESS)
        err = si_graph_check(childGraph);
    if (err == CUDA_SUCCESS && (phGraphNode == NULL || hGraph == childGraph))
        err = CUDA_ERROR_INVALID_VALUE;
    if (err == CUDA_SUCCESS) {
        *phGraphNode = si_graph_add_child(hGraph, dependencies, numDependencies, childGraph);
        err = *phGraphNode != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                            const CUgraphNode *dependencies, size_t numDependencies,
                            CUgraphNodeParams *nodeParams)
{
    CUresult err;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (nodeParams->type == CU_GRAPH_NODE_TYPE_GRAPH)
        return drv_cuGraphAddChildGraphNode(phGraphNode, hGraph, dependencies, numDependencies,
                                            nodeParams->graph.graph);
    struct si_work *work = si_work_of(nodeParams, &err);
    return add(phGraphNode, hGraph, dependencies, numDependencies, work, err);
}

CUresult drv_cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                               const CUgraphNode *dependencies,
                               const CUgraphEdgeData *dependencyData, size_t numDependencies,
                               CUgraphNodeParams *nodeParams)
{
    (void)dependencyData;
    return drv_cuGraphAddNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

/* ---- Setting ---- */

static CUresult replace(CUgraphNode node, CUgraphNodeType type, struct si_work *work)
{
    if (node->type != type) {
        si_graph_drop_work(work);
        return CUDA_ERROR_INVALID_VALUE;
    }
    si_graph_drop_work(node->work);
    node->work = work;
    struct standin_resource changed = {
        .cbid = 22, .graph = node->graph, .node = node, .node_type = node->type};
    si_trace_resource(&changed);
    return CUDA_SUCCESS;
}

/* exec is NULL for the graph itself; then node is its node, else that of what exec was made from.
 */
static CUresult set(CUgraphExec exec, CUgraphNode node, struct si_work *work, CUresult err)
{
    if (err != CUDA_SUCCESS)
        return err;
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUgraphNodeType type = si_work_node_type(work);
    si_graph_lock();
    if (exec != NULL) {
        err = si_exec_check(exec);
        node = err == CUDA_SUCCESS ? si_graph_find_clone(exec->graph, node) : NULL;
    }
    if (err == CUDA_SUCCESS)
        err = si_node_check(node);
    if (err == CUDA_SUCCESS)
        err = replace(node, type, work);
    else
        si_graph_drop_work(work);
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                           const CUDA_KERNEL_NODE_PARAMS_v2 *nodeParams)
{
    CUresult err;
    struct si_work *work = si_kernel_work(nodeParams, &err);
    return set(NULL, hNode, work, err);
}

CUresult drv_cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                        const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS_v2 wide;
    si_widen_kernel(nodeParams, &wide);
    return drv_cuGraphKernelNodeSetParams_v2(hNode, &wide);
}

CUresult drv_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                               const CUDA_KERNEL_NODE_PARAMS_v2 *nodeParams)
{
    CUresult err;
    struct si_work *work = si_kernel_work(nodeParams, &err);
    return set(hGraphExec, hNode, work, err);
}

CUresult drv_cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS_v2 wide;
    si_widen_kernel(nodeParams, &wide);
    return drv_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &wide);
}

CUresult drv_cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
    CUresult err;
    struct si_work *work = si_copy_work(nodeParams, si_context_current(), &err);
    return set(NULL, hNode, work, err);
}

CUresult drv_cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    CUresult err;
    struct si_work *work = si_copy_work(copyParams, ctx, &err);
    return set(hGraphExec, hNode, work, err);
}

CUresult drv_cuGraphMemsetNodeSetParams(CUgraphNode hNode,
                                        const CUDA_MEMSET_NODE_PARAMS_v1 *nodeParams)
{
    CUresult err;
    struct si_work *work = si_fill_work(nodeParams, si_context_current(), &err);
    return set(NULL, hNode, work, err);
}

CUresult drv_cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            const CUDA_MEMSET_NODE_PARAMS_v1 *memsetParams,
                                            CUcontext ctx)
{
    CUresult err;
    struct si_work *work = si_fill_work(memsetParams, ctx, &err);
    return set(hGraphExec, hNode, work, err);
}

CUresult drv_cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS_v1 *nodeParams)
{
    CUresult err;
    struct si_work *work = si_host_work(nodeParams, &err);
    return set(NULL, hNode, work, err);
}

CUresult drv_cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                          const CUDA_HOST_NODE_PARAMS_v1 *nodeParams)
{
    CUresult err;
    struct si_work *work = si_host_work(nodeParams, &err);
    return set(hGraphExec, hNode, work, err);
}

CUresult drv_cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    CUresult err;
    struct si_work *work = si_event_work(SI_WORK_RECORD, event, &err);
    return set(NULL, hNode, work, err);
}

CUresult drv_cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                CUevent event)
{
    CUresult err;
    struct si_work *work = si_event_work(SI_WORK_RECORD, event, &err);
    return set(hGraphExec, hNode, work, err);
}

CUresult drv_cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    CUresult err;
    struct si_work *work = si_event_work(SI_WORK_WAIT, event, &err);
    return set(NULL, hNode, work, err);
}

CUresult drv_cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                              CUevent event)
{
    CUresult err;
    struct si_work *work = si_event_work(SI_WORK_WAIT, event, &err);
    return set(hGraphExec, hNode, work, err);
}

CUresult drv_cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    CUresult err;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct si_work *work = si_work_of(nodeParams, &err);
    return set(NULL, hNode, work, err);
}

CUresult drv_cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                      CUgraphNodeParams *nodeParams)
{
    CUresult err;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (nodeParams->type == CU_GRAPH_NODE_TYPE_GRAPH)
        return drv_cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, nodeParams->graph.graph);
    struct si_work *work = si_work_of(nodeParams, &err);
    return set(hGraphExec, hNode, work, err);
}

/* ---- Getting ---- */

static CUresult get(CUgraphNode node, CUgraphNodeType type, const void *out)
{
    CUresult err = si_node_check(node);
    if (err == CUDA_SUCCESS && (node->type != type || out == NULL))
        err = CUDA_ERROR_INVALID_VALUE;
    return err;
}

CUresult drv_cuGraphKernelNodeGetParams_v2(CUgraphNode hNode,
                                           CUDA_KERNEL_NODE_PARAMS_v2 *nodeParams)
{
    si_graph_lock();
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_KERNEL, nodeParams);
    if (err == CUDA_SUCCESS) {
        const struct si_kernel *k = si_work_kernel(hNode->work);
        *nodeParams = (CUDA_KERNEL_NODE_PARAMS_v2){.func = k->func,
                                                   .gridDimX = k->grid[0],
                                                   .gridDimY = k->grid[1],
                                                   .gridDimZ = k->grid[2],
                                                   .blockDimX = k->block[0],
                                                   .blockDimY = k->block[1],
                                                   .blockDimZ = k->block[2],
                                                   .sharedMemBytes = k->shared_bytes,
                                                   .kernelParams = k->params,
                                                   .extra = k->extra,
                                                   .ctx = k->context};
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS_v2 wide;
    CUresult err = drv_cuGraphKernelNodeGetParams_v2(hNode, &wide);
    if (err == CUDA_SUCCESS)
        memcpy(nodeParams, &wide, sizeof(*nodeParams));
    return err;
}

CUresult drv_cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
    si_graph_lock();
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_MEMCPY, nodeParams);
    if (err == CUDA_SUCCESS)
        *nodeParams = hNode->work->copy.params;
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS_v1 *nodeParams)
{
    si_graph_lock();
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_MEMSET, nodeParams);
    if (err == CUDA_SUCCESS)
        memcpy(nodeParams, &hNode->work->fill.params, sizeof(*nodeParams));
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS_v1 *nodeParams)
{
    si_graph_lock();
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_HOST, nodeParams);
    if (err == CUDA_SUCCESS) {
        nodeParams->fn = hNode->work->host.fn;
        nodeParams->userData = hNode->work->host.user;
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    si_graph_lock();
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_GRAPH, phGraph);
    if (err == CUDA_SUCCESS)
        *phGraph = hNode->child;
    si_graph_unlock();
    return err;
}

static CUresult get_event(CUgraphNode node, CUgraphNodeType type, CUevent *event)
{
    si_graph_lock();
    CUresult err = get(node, type, event);
    if (err == CUDA_SUCCESS)
        *event = node->work->event.event;
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    return get_event(hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_out);
}

CUresult drv_cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    return get_event(hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_out);
}

CUresult drv_cuGraphMemAllocNodeGetParams(CUgraphNode hNode,
                                          CUDA_MEM_ALLOC_NODE_PARAMS_v1 *params_out)
{
    si_graph_lock();
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_MEM_ALLOC, params_out);
    if (err == CUDA_SUCCESS)
        *params_out = hNode->work->alloc.params;
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr *dptr_out)
{
    si_graph_lock();
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_MEM_FREE, dptr_out);
    if (err == CUDA_SUCCESS)
        *dptr_out = hNode->work->alloc.params.dptr;
    si_graph_unlock();
    return err;
}

/* ---- Kernel node attributes: the priority is kept, the rest accepted ---- */

enum { ATTRIBUTE_PRIORITY = 8 };

CUresult drv_cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src)
{
    CUresult err = get(dst, CU_GRAPH_NODE_TYPE_KERNEL, dst);
    if (err == CUDA_SUCCESS)
        err = get(src, CU_GRAPH_NODE_TYPE_KERNEL, src);
    if (err == CUDA_SUCCESS)
        dst->priority = src->priority;
    return err;
}

CUresult drv_cuGraphKernelNodeGetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                                           CUkernelNodeAttrValue *value_out)
{
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_KERNEL, value_out);
    if (err != CUDA_SUCCESS)
        return err;
    memset(value_out, 0, sizeof(*value_out));
    if (attr == ATTRIBUTE_PRIORITY)
        *value_out = hNode->priority;
    return CUDA_SUCCESS;
}

CUresult drv_cuGraphKernelNodeSetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                                           const CUkernelNodeAttrValue *value)
{
    CUresult err = get(hNode, CU_GRAPH_NODE_TYPE_KERNEL, value);
    if (err == CUDA_SUCCESS && attr == ATTRIBUTE_PRIORITY)
        hNode->priority = *value;
    return err;
}
