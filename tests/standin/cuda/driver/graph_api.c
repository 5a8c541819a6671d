/* SPDX-License-Identifier: Apache-2.0 */
/* Graph functions of the driver API that concern structure: make, ask, link, destroy. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"
#include "trace.h"

CUresult drv_cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
    if (phGraph == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    si_graph_lock();
    CUgraph graph = si_graph_new();
    si_graph_unlock();
    if (graph == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct standin_resource made = {.cbid = 9, .graph = graph};
    si_trace_resource(&made);
    *phGraph = graph;
    return CUDA_SUCCESS;
}

CUresult drv_cuGraphDestroy(CUgraph hGraph)
{
    si_graph_lock();
    CUresult err = si_graph_check(hGraph);
    if (err == CUDA_SUCCESS && (hGraph->parent != NULL || hGraph->capturing))
        err = CUDA_ERROR_INVALID_VALUE;
    if (err == CUDA_SUCCESS)
        si_graph_free(hGraph);
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
    si_graph_lock();
    CUresult err = si_graph_check(originalGraph);
    if (err == CUDA_SUCCESS) {
        *phGraphClone = si_graph_clone(originalGraph);
        err = *phGraphClone != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode,
                                    CUgraph hClonedGraph)
{
    si_graph_lock();
    CUresult err = si_graph_check(hClonedGraph);
    if (err == CUDA_SUCCESS) {
        *phNode = si_graph_find_clone(hClonedGraph, hOriginalNode);
        err = *phNode != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    CUresult err = si_node_check(hNode);
    if (err == CUDA_SUCCESS)
        *type = hNode->type;
    return err;
}

/* CUDA's way of returning a list: no array, only the count; a larger array gets NULLs behind. */
static void give(const struct si_node_list *list, bool roots_only, CUgraphNode *out, size_t *count)
{
    size_t found = 0, room = out != NULL ? *count : 0;
    for (size_t i = 0; i < list->count; i++) {
        if (roots_only && list->items[i]->deps.count > 0)
            continue;
        if (found < room)
            out[found] = list->items[i];
        found++;
    }
    for (size_t i = found; i < room; i++)
        out[i] = NULL;
    *count = out == NULL || found < room ? found : room;
}

static CUresult give_nodes(CUgraph graph, bool roots_only, CUgraphNode *nodes, size_t *count)
{
    si_graph_lock();
    CUresult err = si_graph_check(graph);
    if (err == CUDA_SUCCESS && count != NULL)
        give(&graph->nodes, roots_only, nodes, count);
    si_graph_unlock();
    return count != NULL ? err : CUDA_ERROR_INVALID_VALUE;
}

CUresult drv_cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
    return give_nodes(hGraph, false, nodes, numNodes);
}

CUresult drv_cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)
{
    return give_nodes(hGraph, true, rootNodes, numRootNodes);
}

static void plain(CUgraphEdgeData *edges, size_t count)
{
    if (edges != NULL)
        memset(edges, 0, count * sizeof(*edges));
}

CUresult drv_cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to,
                                CUgraphEdgeData *edgeData, size_t *numEdges)
{
    if (numEdges == NULL || (from == NULL) != (to == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    si_graph_lock();
    CUresult err = si_graph_check(hGraph);
    size_t found = 0, room = from != NULL ? *numEdges : 0;
    for (size_t i = 0; err == CUDA_SUCCESS && i < hGraph->nodes.count; i++) {
        CUgraphNode node = hGraph->nodes.items[i];
        for (size_t j = 0; j < node->deps.count; j++, found++) {
            if (found < room) {
                from[found] = node->deps.items[j];
                to[found] = node;
            }
        }
    }
    si_graph_unlock();
    if (err != CUDA_SUCCESS)
        return err;
    for (size_t i = found; i < room; i++)
        from[i] = to[i] = NULL;
    plain(edgeData, room);
    *numEdges = from == NULL || found < room ? found : room;
    return CUDA_SUCCESS;
}

CUresult drv_cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges)
{
    return drv_cuGraphGetEdges_v2(hGraph, from, to, NULL, numEdges);
}

static CUresult give_neighbours(CUgraphNode node, bool dependents, CUgraphNode *out,
                                CUgraphEdgeData *edges, size_t *count)
{
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    si_graph_lock();
    CUresult err = si_node_check(node);
    if (err == CUDA_SUCCESS) {
        plain(edges, out != NULL ? *count : 0);
        give(dependents ? &node->dependents : &node->deps, false, out, count);
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies,
                                        size_t *numDependencies)
{
    return give_neighbours(hNode, false, dependencies, NULL, numDependencies);
}

CUresult drv_cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode *dependencies,
                                           CUgraphEdgeData *edgeData, size_t *numDependencies)
{
    return give_neighbours(hNode, false, dependencies, edgeData, numDependencies);
}

CUresult drv_cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                          size_t *numDependentNodes)
{
    return give_neighbours(hNode, true, dependentNodes, NULL, numDependentNodes);
}

CUresult drv_cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                             CUgraphEdgeData *edgeData, size_t *numDependentNodes)
{
    return give_neighbours(hNode, true, dependentNodes, edgeData, numDependentNodes);
}

CUresult drv_cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                    size_t numDependencies)
{
    si_graph_lock();
    CUresult err = si_graph_check(hGraph);
    for (size_t i = 0; err == CUDA_SUCCESS && i < numDependencies; i++) {
        err = si_node_check(from[i]);
        if (err == CUDA_SUCCESS)
            err = si_node_check(to[i]);
        if (err == CUDA_SUCCESS && from[i]->graph != hGraph)
            err = CUDA_ERROR_INVALID_VALUE;
        if (err == CUDA_SUCCESS)
            err = si_node_link(from[i], to[i]);
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                                       const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                                       size_t numDependencies)
{
    (void)edgeData;
    return drv_cuGraphAddDependencies(hGraph, from, to, numDependencies);
}

CUresult drv_cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode *from,
                                       const CUgraphNode *to, size_t numDependencies)
{
    si_graph_lock();
    CUresult err = si_graph_check(hGraph);
    for (size_t i = 0; err == CUDA_SUCCESS && i < numDependencies; i++) {
        if (si_node_check(from[i]) != CUDA_SUCCESS || si_node_check(to[i]) != CUDA_SUCCESS ||
            !si_node_list_remove(&to[i]->deps, from[i]))
            err = CUDA_ERROR_INVALID_VALUE;
        else
            si_node_list_remove(&from[i]->dependents, to[i]);
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                                          const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                                          size_t numDependencies)
{
    (void)edgeData;
    return drv_cuGraphRemoveDependencies(hGraph, from, to, numDependencies);
}

CUresult drv_cuGraphDestroyNode(CUgraphNode hNode)
{
    si_graph_lock();
    CUresult err = si_node_check(hNode);
    if (err == CUDA_SUCCESS)
        si_node_free(hNode);
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphDebugDotPrint(CUgraph hGraph, const char *path, unsigned int flags)
{
    (void)flags;
    if (path == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    si_graph_lock();
    CUresult err = si_graph_check(hGraph);
    FILE *file = err == CUDA_SUCCESS ? fopen(path, "w") : NULL;
    if (file != NULL) {
        fprintf(file, "digraph standin {\n");
        for (size_t i = 0; i < hGraph->nodes.count; i++) {
            CUgraphNode node = hGraph->nodes.items[i];
            bool kernel = node->work != NULL && si_work_is_kernel(node->work);
            fprintf(file, "\"%llx\" [label=\"type %d %s\"];\n", (unsigned long long)node->id,
                    node->type, kernel ? si_work_kernel(node->work)->name : "");
            for (size_t j = 0; j < node->deps.count; j++)
                fprintf(file, "\"%llx\" -> \"%llx\";\n",
                        (unsigned long long)node->deps.items[j]->id, (unsigned long long)node->id);
        }
        fprintf(file, "}\n");
        fclose(file);
    }
    si_graph_unlock();
    if (err != CUDA_SUCCESS)
        return err;
    return file != NULL ? CUDA_SUCCESS : CUDA_ERROR_FILE_NOT_FOUND;
}

CUresult drv_cuUserObjectCreate(CUuserObject *object_out, void *ptr, CUhostFn destroy,
                                unsigned int initialRefcount, unsigned int flags)
{
    if (object_out == NULL || destroy == NULL || initialRefcount == 0 || flags != 1)
        return CUDA_ERROR_INVALID_VALUE;
    CUuserObject object = calloc(1, sizeof(*object));
    if (object == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    object->magic = SI_MAGIC_USER_OBJECT;
    atomic_init(&object->refs, (int)initialRefcount);
    object->ptr = ptr;
    object->destroy = destroy;
    *object_out = object;
    return CUDA_SUCCESS;
}

static CUresult user_check(CUuserObject object, unsigned count)
{
    return object == NULL || object->magic != SI_MAGIC_USER_OBJECT || count == 0
               ? CUDA_ERROR_INVALID_VALUE
               : CUDA_SUCCESS;
}

CUresult drv_cuUserObjectRetain(CUuserObject object, unsigned int count)
{
    CUresult err = user_check(object, count);
    if (err == CUDA_SUCCESS)
        atomic_fetch_add(&object->refs, (int)count);
    return err;
}

CUresult drv_cuUserObjectRelease(CUuserObject object, unsigned int count)
{
    CUresult err = user_check(object, count);
    if (err != CUDA_SUCCESS)
        return err;
    si_graph_lock();
    si_graph_drop_user(object, count);
    si_graph_unlock();
    return CUDA_SUCCESS;
}

CUresult drv_cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count,
                                     unsigned int flags)
{
    CUresult err = user_check(object, count);
    if (err != CUDA_SUCCESS)
        return err;
    si_graph_lock();
    err = si_graph_check(graph);
    void *more = NULL;
    if (err == CUDA_SUCCESS)
        more = realloc(graph->users, (graph->user_count + 1) * sizeof(*graph->users));
    if (err == CUDA_SUCCESS && more == NULL)
        err = CUDA_ERROR_OUT_OF_MEMORY;
    if (err == CUDA_SUCCESS) {
        graph->users = more;
        graph->users[graph->user_count++] = (struct si_user_ref){object, count};
        if (!(flags & CU_GRAPH_USER_OBJECT_MOVE))
            atomic_fetch_add(&object->refs, (int)count);
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int count)
{
    CUresult err = user_check(object, count);
    if (err != CUDA_SUCCESS)
        return err;
    si_graph_lock();
    err = si_graph_check(graph) == CUDA_SUCCESS ? CUDA_ERROR_INVALID_VALUE
                                                : CUDA_ERROR_INVALID_HANDLE;
    for (size_t i = 0; err == CUDA_ERROR_INVALID_VALUE && i < graph->user_count; i++) {
        if (graph->users[i].object != object || graph->users[i].count < count)
            continue;
        graph->users[i].count -= count;
        if (graph->users[i].count == 0)
            graph->users[i] = graph->users[--graph->user_count];
        si_graph_drop_user(object, count);
        err = CUDA_SUCCESS;
    }
    si_graph_unlock();
    return err;
}
