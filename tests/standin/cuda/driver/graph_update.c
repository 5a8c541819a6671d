/* SPDX-License-Identifier: Apache-2.0 */
/* Changing an executable graph: a whole new graph of the same shape, a child graph, single nodes.
 */
#include "call.h"
#include "drv_impl.h"
#include "graph.h"

struct update {
    CUgraphExecUpdateResult result;
    CUgraphNode bad; /* in the new graph */
};

static bool same_deps(CUgraphNode a, CUgraphNode b)
{
    if (a->deps.count != b->deps.count)
        return false;
    for (size_t i = 0; i < a->deps.count; i++) {
        if (a->deps.items[i]->mark != b->deps.items[i]->mark)
            return false;
    }
    return true;
}

/* Nodes correspond by order of creation, as they do for graphs captured from the same code. */
static void compare(CUgraph have, CUgraph want, struct update *update)
{
    for (size_t i = 0; i < have->nodes.count; i++)
        have->nodes.items[i]->mark = i;
    for (size_t i = 0; i < want->nodes.count; i++)
        want->nodes.items[i]->mark = i;
    if (have->nodes.count != want->nodes.count) {
        update->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        return;
    }
    for (size_t i = 0; i < have->nodes.count; i++) {
        CUgraphNode a = have->nodes.items[i], b = want->nodes.items[i];
        if (a->type != b->type)
            update->result = CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
        else if (!same_deps(a, b))
            update->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        if (update->result != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
            update->bad = b;
            return;
        }
    }
    for (size_t i = 0; i < have->nodes.count; i++) {
        CUgraphNode a = have->nodes.items[i], b = want->nodes.items[i];
        if (a->child != NULL && update->result == CU_GRAPH_EXEC_UPDATE_SUCCESS)
            compare(a->child, b->child, update);
    }
}

static void take(CUgraph have, CUgraph want)
{
    for (size_t i = 0; i < have->nodes.count; i++) {
        CUgraphNode a = have->nodes.items[i], b = want->nodes.items[i];
        if (a->child != NULL) {
            take(a->child, b->child);
            continue;
        }
        si_graph_drop_work(a->work);
        a->work = b->work != NULL ? si_work_ref(b->work) : NULL;
    }
}

static CUresult update_exec(CUgraphExec exec, CUgraph graph, struct update *update)
{
    *update = (struct update){.result = CU_GRAPH_EXEC_UPDATE_ERROR};
    si_graph_lock();
    CUresult err = si_exec_check(exec);
    if (err == CUDA_SUCCESS)
        err = si_graph_check(graph);
    if (err == CUDA_SUCCESS) {
        update->result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
        compare(exec->graph, graph, update);
        if (update->result == CU_GRAPH_EXEC_UPDATE_SUCCESS)
            take(exec->graph, graph);
        else
            err = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                                  CUgraphExecUpdateResultInfo *resultInfo)
{
    struct update update;
    CUresult err = update_exec(hGraphExec, hGraph, &update);
    if (resultInfo != NULL) {
        resultInfo->result = update.result;
        resultInfo->errorNode = update.bad;
        resultInfo->errorFromNode = NULL;
    }
    return err;
}

CUresult drv_cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
                               CUgraphExecUpdateResult *updateResult_out)
{
    struct update update;
    CUresult err = update_exec(hGraphExec, hGraph, &update);
    if (hErrorNode_out != NULL)
        *hErrorNode_out = update.bad;
    if (updateResult_out != NULL)
        *updateResult_out = update.result;
    return err;
}

CUresult drv_cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                CUgraph childGraph)
{
    struct update update = {.result = CU_GRAPH_EXEC_UPDATE_SUCCESS};
    si_graph_lock();
    CUresult err = si_exec_check(hGraphExec);
    CUgraphNode node = err == CUDA_SUCCESS ? si_graph_find_clone(hGraphExec->graph, hNode) : NULL;
    if (node == NULL || node->child == NULL || si_graph_check(childGraph) != CUDA_SUCCESS) {
        err = CUDA_ERROR_INVALID_VALUE;
    } else {
        compare(node->child, childGraph, &update);
        if (update.result == CU_GRAPH_EXEC_UPDATE_SUCCESS)
            take(node->child, childGraph);
        else
            err = CUDA_ERROR_INVALID_VALUE;
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                                   unsigned int isEnabled)
{
    si_graph_lock();
    CUresult err = si_exec_check(hGraphExec);
    CUgraphNode node = err == CUDA_SUCCESS ? si_graph_find_clone(hGraphExec->graph, hNode) : NULL;
    if (node == NULL || node->type > CU_GRAPH_NODE_TYPE_MEMSET)
        err = CUDA_ERROR_INVALID_VALUE;
    else
        node->disabled = isEnabled == 0;
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                                   unsigned int *isEnabled)
{
    si_graph_lock();
    CUresult err = si_exec_check(hGraphExec);
    CUgraphNode node = err == CUDA_SUCCESS ? si_graph_find_clone(hGraphExec->graph, hNode) : NULL;
    if (node == NULL || node->type > CU_GRAPH_NODE_TYPE_MEMSET)
        err = CUDA_ERROR_INVALID_VALUE;
    else
        *isEnabled = !node->disabled;
    si_graph_unlock();
    return err;
}
