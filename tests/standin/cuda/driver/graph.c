/* SPDX-License-Identifier: Apache-2.0 */
/* Graph and node objects: making, linking, cloning, freeing. All under the graph lock. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "graph.h"
#include "trace.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t next_graph_id = 1; /* guarded by lock */

/* What si_graph_unlock has to release; guarded by lock. */
static struct garbage {
    struct garbage *next;
    struct si_work *work;
    CUuserObject object;
    unsigned count;
} * garbage;

void si_graph_lock(void)
{
    pthread_mutex_lock(&lock);
}

static void user_object_release(CUuserObject object, unsigned count)
{
    if (atomic_fetch_sub(&object->refs, (int)count) != (int)count)
        return;
    object->destroy(object->ptr);
    object->magic = 0;
    free(object);
}

void si_graph_unlock(void)
{
    struct garbage *list = garbage;
    garbage = NULL;
    pthread_mutex_unlock(&lock);
    while (list != NULL) {
        struct garbage *next = list->next;
        if (list->work != NULL)
            si_work_unref(list->work);
        if (list->object != NULL)
            user_object_release(list->object, list->count);
        free(list);
        list = next;
    }
}

static void drop(struct si_work *work, CUuserObject object, unsigned count)
{
    struct garbage *entry = malloc(sizeof(*entry));
    if (entry == NULL)
        return; /* leaks, which harms less than running a destructor under the lock */
    *entry = (struct garbage){.next = garbage, .work = work, .object = object, .count = count};
    garbage = entry;
}

void si_graph_drop_work(struct si_work *work)
{
    if (work != NULL)
        drop(work, NULL, 0);
}

void si_graph_drop_user(CUuserObject object, unsigned count)
{
    drop(NULL, object, count);
}

int si_node_list_add(struct si_node_list *list, CUgraphNode node)
{
    if (list->count == list->room) {
        size_t room = list->room == 0 ? 4 : list->room * 2;
        void *more = realloc(list->items, room * sizeof(*list->items));
        if (more == NULL)
            return -ENOMEM;
        list->items = more;
        list->room = room;
    }
    list->items[list->count++] = node;
    return 0;
}

bool si_node_list_remove(struct si_node_list *list, CUgraphNode node)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i] == node) {
            memmove(&list->items[i], &list->items[i + 1],
                    (list->count - i - 1) * sizeof(*list->items));
            list->count--;
            return true;
        }
    }
    return false;
}

static bool list_has(const struct si_node_list *list, CUgraphNode node)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i] == node)
            return true;
    }
    return false;
}

CUresult si_graph_check(CUgraph graph)
{
    return graph != NULL && graph->magic == SI_MAGIC_GRAPH ? CUDA_SUCCESS
                                                           : CUDA_ERROR_INVALID_VALUE;
}

CUresult si_node_check(CUgraphNode node)
{
    return node != NULL && node->magic == SI_MAGIC_NODE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult si_exec_check(CUgraphExec exec)
{
    return exec != NULL && exec->magic == SI_MAGIC_EXEC ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUgraphNodeType si_work_node_type(const struct si_work *work)
{
    switch (work->type) {
    case SI_WORK_KERNEL:
    case SI_WORK_DEVICE_OP:
        return CU_GRAPH_NODE_TYPE_KERNEL;
    case SI_WORK_COPY:
        return CU_GRAPH_NODE_TYPE_MEMCPY;
    case SI_WORK_FILL:
        return CU_GRAPH_NODE_TYPE_MEMSET;
    case SI_WORK_HOST:
    case SI_WORK_CALLBACK:
        return CU_GRAPH_NODE_TYPE_HOST;
    case SI_WORK_RECORD:
        return CU_GRAPH_NODE_TYPE_EVENT_RECORD;
    case SI_WORK_WAIT:
        return CU_GRAPH_NODE_TYPE_WAIT_EVENT;
    case SI_WORK_MEMOPS:
        return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
    case SI_WORK_ALLOC:
        return CU_GRAPH_NODE_TYPE_MEM_ALLOC;
    case SI_WORK_FREE:
        return CU_GRAPH_NODE_TYPE_MEM_FREE;
    default:
        return CU_GRAPH_NODE_TYPE_EMPTY;
    }
}

CUgraph si_graph_new(void)
{
    CUgraph graph = calloc(1, sizeof(*graph));
    if (graph == NULL)
        return NULL;
    graph->magic = SI_MAGIC_GRAPH;
    graph->id = next_graph_id++;
    return graph;
}

CUresult si_node_link(CUgraphNode from, CUgraphNode to)
{
    if (from->graph != to->graph || from == to)
        return CUDA_ERROR_INVALID_VALUE;
    if (list_has(&to->deps, from))
        return CUDA_ERROR_INVALID_VALUE;
    if (si_node_list_add(&to->deps, from) < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (si_node_list_add(&from->dependents, to) < 0) {
        to->deps.count--;
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

static void report_node(uint32_t cbid, CUgraphNode node)
{
    struct standin_resource what = {
        .cbid = cbid, .graph = node->graph, .node = node, .node_type = node->type};
    if (node->original != NULL) {
        what.original_node = node->original;
        what.original_graph = node->graph->original;
    }
    si_trace_resource(&what);
}

CUgraphNode si_node_new(CUgraph graph, CUgraphNodeType type, const CUgraphNode *deps, size_t count)
{
    CUgraphNode node = calloc(1, sizeof(*node));
    if (node == NULL)
        return NULL;
    node->magic = SI_MAGIC_NODE;
    node->type = type;
    node->graph = graph;
    node->id = (uint64_t)graph->id << 32 | (graph->nodes.count + 1);
    if (si_node_list_add(&graph->nodes, node) < 0) {
        free(node);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        if (list_has(&node->deps, deps[i]))
            continue;
        if (si_node_check(deps[i]) != CUDA_SUCCESS || si_node_link(deps[i], node) != CUDA_SUCCESS) {
            si_node_free(node);
            return NULL;
        }
    }
    return node;
}

void si_node_free(CUgraphNode node)
{
    report_node(14, node); /* GRAPHNODE_DESTROY_STARTING */
    for (size_t i = 0; i < node->deps.count; i++)
        si_node_list_remove(&node->deps.items[i]->dependents, node);
    for (size_t i = 0; i < node->dependents.count; i++)
        si_node_list_remove(&node->dependents.items[i]->deps, node);
    si_node_list_remove(&node->graph->nodes, node);
    if (node->child != NULL)
        si_graph_free(node->child);
    si_graph_drop_work(node->work);
    free(node->deps.items);
    free(node->dependents.items);
    node->magic = 0;
    free(node);
}

void si_graph_free(CUgraph graph)
{
    struct standin_resource going = {.cbid = 10, .graph = graph};
    si_trace_resource(&going);
    while (graph->nodes.count > 0)
        si_node_free(graph->nodes.items[graph->nodes.count - 1]);
    for (size_t i = 0; i < graph->user_count; i++)
        si_graph_drop_user(graph->users[i].object, graph->users[i].count);
    free(graph->users);
    free(graph->nodes.items);
    graph->magic = 0;
    free(graph);
}

CUresult si_graph_add_work(CUgraph graph, const CUgraphNode *deps, size_t count,
                           struct si_work *work, CUgraphNode *out)
{
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUgraphNode node = si_node_new(graph, si_work_node_type(work), deps, count);
    if (node == NULL) {
        si_graph_drop_work(work);
        return CUDA_ERROR_INVALID_VALUE;
    }
    node->work = work;
    report_node(13, node); /* GRAPHNODE_CREATED */
    *out = node;
    return CUDA_SUCCESS;
}

CUgraphNode si_graph_add_child(CUgraph graph, const CUgraphNode *deps, size_t count, CUgraph child)
{
    CUgraphNode node = si_node_new(graph, CU_GRAPH_NODE_TYPE_GRAPH, deps, count);
    if (node == NULL)
        return NULL;
    node->child = si_graph_clone(child);
    if (node->child == NULL) {
        si_node_free(node);
        return NULL;
    }
    node->child->parent = node;
    report_node(13, node);
    return node;
}

static bool clone_users(CUgraph graph, CUgraph clone)
{
    if (graph->user_count == 0)
        return true;
    clone->users = calloc(graph->user_count, sizeof(*clone->users));
    if (clone->users == NULL)
        return false;
    clone->user_count = graph->user_count;
    for (size_t i = 0; i < graph->user_count; i++) {
        clone->users[i] = graph->users[i];
        clone->users[i].count = 1;
        atomic_fetch_add(&graph->users[i].object->refs, 1);
    }
    return true;
}

static CUgraphNode clone_node(CUgraphNode node, CUgraph clone)
{
    CUgraphNode copy = si_node_new(clone, node->type, NULL, 0);
    if (copy == NULL)
        return NULL;
    copy->original = node;
    copy->disabled = node->disabled;
    copy->priority = node->priority;
    copy->work = node->work != NULL ? si_work_ref(node->work) : NULL;
    if (node->child != NULL) {
        copy->child = si_graph_clone(node->child);
        if (copy->child == NULL)
            return NULL;
        copy->child->parent = copy;
    }
    return copy;
}

CUgraph si_graph_clone(CUgraph graph)
{
    CUgraph clone = si_graph_new();
    if (clone == NULL || !clone_users(graph, clone))
        goto fail;
    clone->original = graph;
    for (size_t i = 0; i < graph->nodes.count; i++) {
        graph->nodes.items[i]->mark = i;
        if (clone_node(graph->nodes.items[i], clone) == NULL)
            goto fail;
    }
    for (size_t i = 0; i < graph->nodes.count; i++) {
        struct si_node_list *deps = &graph->nodes.items[i]->deps;
        for (size_t j = 0; j < deps->count; j++) {
            CUgraphNode from = clone->nodes.items[deps->items[j]->mark];
            if (si_node_link(from, clone->nodes.items[i]) != CUDA_SUCCESS)
                goto fail;
        }
    }
    struct standin_resource made = {.cbid = 11, .graph = clone, .original_graph = graph};
    si_trace_resource(&made);
    for (size_t i = 0; i < clone->nodes.count; i++)
        report_node(20, clone->nodes.items[i]); /* GRAPHNODE_CLONED */
    return clone;
fail:
    if (clone != NULL)
        si_graph_free(clone);
    return NULL;
}

CUgraphNode si_graph_find_clone(CUgraph clone, CUgraphNode original)
{
    for (size_t i = 0; i < clone->nodes.count; i++) {
        CUgraphNode node = clone->nodes.items[i];
        if (node->original == original)
            return node;
        if (node->child != NULL) {
            CUgraphNode inside = si_graph_find_clone(node->child, original);
            if (inside != NULL)
                return inside;
        }
    }
    return NULL;
}

SI_EXPORT int standin_graph_id(void *handle, uint32_t *id)
{
    CUgraph graph = handle;
    CUresult err = si_graph_check(graph);
    if (err == CUDA_SUCCESS)
        *id = graph->id;
    return err;
}

SI_EXPORT int standin_graph_exec_id(void *handle, uint32_t *id)
{
    CUgraphExec exec = handle;
    CUresult err = si_exec_check(exec);
    if (err == CUDA_SUCCESS)
        *id = exec->id;
    return err;
}

SI_EXPORT int standin_graph_node_id(void *handle, uint64_t *id)
{
    CUgraphNode node = handle;
    CUresult err = si_node_check(node);
    if (err == CUDA_SUCCESS)
        *id = node->id;
    return err;
}
