/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Executable graphs. Instantiation copies the graph, flattens its child graphs into steps in an
 * order that respects all dependencies, and deals the steps out to lanes, so that branches that do
 * not depend on each other never wait for each other (two branches may hold two collectives that
 * the peers run in the other order). Lane 0 is the launching stream; the others are streams of the
 * executable graph's own. A launch puts one op for each step on its lane.
 */
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"
#include "trace.h"

/* Indices of steps that something depends on. */
struct step_set {
    unsigned *items;
    unsigned count;
    unsigned room;
};

struct plan {
    struct si_step *steps;
    struct step_set *deps; /* of each step: all of them, before lanes are dealt out */
    unsigned count;
    unsigned room;
};

static int set_add(struct step_set *set, unsigned item)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (set->items[i] == item)
            return 0;
    }
    if (set->count == set->room) {
        unsigned room = set->room == 0 ? 4 : set->room * 2;
        unsigned *more = realloc(set->items, room * sizeof(*more));
        if (more == NULL)
            return -1;
        set->items = more;
        set->room = room;
    }
    set->items[set->count++] = item;
    return 0;
}

static int plan_step(struct plan *plan, CUgraphNode node)
{
    if (plan->count == plan->room) {
        unsigned room = plan->room == 0 ? 16 : plan->room * 2;
        void *steps = realloc(plan->steps, room * sizeof(*plan->steps));
        if (steps == NULL)
            return -1;
        plan->steps = steps;
        void *deps = realloc(plan->deps, room * sizeof(*plan->deps));
        if (deps == NULL)
            return -1;
        plan->deps = deps;
        plan->room = room;
    }
    plan->steps[plan->count] = (struct si_step){.node = node};
    plan->deps[plan->count] = (struct step_set){.items = NULL};
    return (int)plan->count++;
}

/* Nodes in dependency order, of equals the one made first; NULL also for a cycle (*cycle set). */
static CUgraphNode *sorted_nodes(CUgraph graph, bool *cycle)
{
    size_t count = graph->nodes.count, done = 0;
    CUgraphNode *order = malloc((count + 1) * sizeof(*order));
    if (order == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        CUgraphNode node = graph->nodes.items[i];
        node->mark = node->deps.count;
        if (node->mark == 0)
            order[done++] = node;
    }
    for (size_t i = 0; i < done; i++) {
        for (size_t j = 0; j < order[i]->dependents.count; j++) {
            CUgraphNode next = order[i]->dependents.items[j];
            if (--next->mark == 0)
                order[done++] = next;
        }
    }
    if (done == count)
        return order;
    *cycle = true;
    free(order);
    return NULL;
}

static int flatten(struct plan *plan, CUgraph graph, int entry, struct step_set *leaves,
                   bool *cycle);

/* The steps of one node; returns the one that its dependents wait for, or -1. */
static int flatten_node(struct plan *plan, CUgraphNode node, int entry, bool *cycle)
{
    int at = plan_step(plan, node);
    if (at < 0)
        return -1;
    for (size_t i = 0; i < node->deps.count; i++) {
        if (set_add(&plan->deps[at], (unsigned)node->deps.items[i]->mark) < 0)
            return -1;
    }
    if (node->deps.count == 0 && entry >= 0 && set_add(&plan->deps[at], (unsigned)entry) < 0)
        return -1;
    if (node->child == NULL)
        return at;
    /* `at` opens the child graph; another step of the same node closes it. */
    struct step_set leaves = {.items = NULL};
    if (flatten(plan, node->child, at, &leaves, cycle) < 0 || set_add(&leaves, (unsigned)at) < 0) {
        free(leaves.items);
        return -1;
    }
    int close = plan_step(plan, node);
    if (close < 0) {
        free(leaves.items);
        return -1;
    }
    plan->deps[close] = leaves;
    return close;
}

static int flatten(struct plan *plan, CUgraph graph, int entry, struct step_set *leaves,
                   bool *cycle)
{
    CUgraphNode *order = sorted_nodes(graph, cycle);
    int err = order == NULL ? -1 : 0;
    for (size_t i = 0; err == 0 && i < graph->nodes.count; i++) {
        int step = flatten_node(plan, order[i], entry, cycle);
        if (step < 0) {
            err = -1;
            break;
        }
        order[i]->mark = (size_t)step;
        if (order[i]->dependents.count == 0 && leaves != NULL)
            err = set_add(leaves, (unsigned)step);
    }
    free(order);
    return err;
}

/* ---- Lanes ---- */

struct lanes {
    unsigned *last;     /* latest step of each lane */
    unsigned count;
    uint64_t *before;   /* bit j of row i: step j comes before step i; NULL for huge graphs */
    size_t row;
};

static bool comes_before(const struct lanes *lanes, unsigned early, unsigned late)
{
    return lanes->before != NULL &&
           (lanes->before[late * lanes->row + early / 64] >> (early % 64) & 1) != 0;
}

static void note_before(struct lanes *lanes, unsigned step, const struct step_set *deps)
{
    if (lanes->before == NULL)
        return;
    uint64_t *mine = &lanes->before[step * lanes->row];
    for (unsigned i = 0; i < deps->count; i++) {
        unsigned dep = deps->items[i];
        for (size_t w = 0; w < lanes->row; w++)
            mine[w] |= lanes->before[dep * lanes->row + w];
        mine[dep / 64] |= UINT64_C(1) << (dep % 64);
    }
}

/* A lane whose latest step is a dependency, else one whose latest step comes before, else a new. */
static unsigned choose_lane(struct lanes *lanes, unsigned step, const struct step_set *deps)
{
    for (unsigned i = 0; i < deps->count; i++) {
        for (unsigned lane = 0; lane < lanes->count; lane++) {
            if (lanes->last[lane] == deps->items[i])
                return lane;
        }
    }
    for (unsigned lane = 0; lane < lanes->count; lane++) {
        if (comes_before(lanes, lanes->last[lane], step))
            return lane;
    }
    return lanes->count++;
}

/* Keeps of a step's dependencies those that its lane's order does not already give. */
static int deal(struct plan *plan, struct lanes *lanes, unsigned at)
{
    struct si_step *step = &plan->steps[at];
    struct step_set *deps = &plan->deps[at];
    note_before(lanes, at, deps);
    unsigned known = lanes->count;
    step->lane = choose_lane(lanes, at, deps);
    step->first_in_lane = step->lane == known;
    lanes->last[step->lane] = at;
    step->leaf = true;
    step->deps = malloc((deps->count + 1) * sizeof(*step->deps));
    if (step->deps == NULL)
        return -1;
    for (unsigned i = 0; i < deps->count; i++) {
        struct si_step *dep = &plan->steps[deps->items[i]];
        dep->leaf = false;
        if (dep->lane != step->lane)
            step->deps[step->dep_count++] = deps->items[i];
    }
    return 0;
}

static int deal_all(struct plan *plan, unsigned *lane_count)
{
    struct lanes lanes = {.row = plan->count / 64 + 1};
    int err = 0;
    lanes.last = malloc((plan->count + 1) * sizeof(*lanes.last));
    if (lanes.last == NULL)
        return -1;
    if (plan->count <= 16384) /* at most 32 MiB */
        lanes.before = calloc((size_t)plan->count * lanes.row + 1, sizeof(*lanes.before));
    for (unsigned i = 0; i < plan->count && err == 0; i++)
        err = deal(plan, &lanes, i);
    *lane_count = lanes.count > 0 ? lanes.count : 1;
    free(lanes.last);
    free(lanes.before);
    return err;
}

static void plan_free(struct plan *plan, bool steps_too)
{
    for (unsigned i = 0; i < plan->count; i++) {
        free(plan->deps[i].items);
        if (steps_too)
            free(plan->steps[i].deps);
    }
    free(plan->deps);
    if (steps_too)
        free(plan->steps);
}

CUresult si_exec_plan(CUgraphExec exec)
{
    struct plan plan = {.steps = NULL};
    bool cycle = false;
    unsigned lane_count;
    if (flatten(&plan, exec->graph, -1, NULL, &cycle) < 0 || deal_all(&plan, &lane_count) < 0) {
        plan_free(&plan, true);
        return cycle ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    }
    plan_free(&plan, false);
    exec->steps = plan.steps;
    exec->step_count = plan.count;
    exec->lane_count = lane_count;
    return CUDA_SUCCESS;
}

/* ---- Launch ---- */

static struct si_work *step_work(const struct si_step *step)
{
    CUgraphNode node = step->node;
    if (node->work == NULL || node->disabled)
        return si_work_new(SI_WORK_EMPTY);
    return si_work_ref(node->work);
}

static struct si_op *step_op(CUgraphExec exec, const struct si_step *step, struct si_op **ops)
{
    struct si_work *work = step_work(step);
    struct si_op *op = work != NULL ? si_op_new(work) : NULL;
    if (op == NULL)
        return NULL;
    int err = 0;
    for (unsigned i = 0; i < step->dep_count && err == 0; i++)
        err = si_op_add_dep(op, ops[step->deps[i]]);
    if (err == 0 && work->type == SI_WORK_WAIT) {
        struct si_op *recorded = si_event_op(work->event.event);
        err = si_op_add_dep(op, recorded);
        si_op_unref(recorded);
    }
    if (err < 0) {
        si_op_unref(op);
        return NULL;
    }
    op->graph_id = exec->id;
    op->graph_node_id = step->node->id;
    return op;
}

static CUresult make_lanes(CUgraphExec exec, CUcontext context)
{
    if (exec->lanes != NULL)
        return CUDA_SUCCESS;
    CUstream *lanes = calloc(exec->lane_count, sizeof(*lanes));
    if (lanes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 1; i < exec->lane_count; i++)
        lanes[i] = si_stream_new(context, CU_STREAM_NON_BLOCKING, 0, true);
    exec->lanes = lanes;
    return CUDA_SUCCESS;
}

static CUresult put_marker(CUstream stream, struct si_op **deps, unsigned count, struct si_op **out)
{
    struct si_work *work = si_work_new(SI_WORK_EMPTY);
    struct si_op *op = work != NULL ? si_op_new(work) : NULL;
    if (op == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 0; i < count; i++) {
        if (si_op_add_dep(op, deps[i]) < 0) {
            si_op_unref(op);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    *out = si_op_ref(op);
    CUresult err = si_stream_put(stream, op, false);
    if (err != CUDA_SUCCESS) {
        si_op_unref(op);
        *out = NULL;
    }
    return err;
}

static CUresult put_steps(CUgraphExec exec, CUstream stream, struct si_op *start,
                          struct si_op **ops)
{
    for (unsigned i = 0; i < exec->step_count; i++) {
        struct si_step *step = &exec->steps[i];
        struct si_op *op = step_op(exec, step, ops);
        if (op == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        if (step->first_in_lane && step->lane != 0 && si_op_add_dep(op, start) < 0) {
            si_op_unref(op);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        ops[i] = si_op_ref(op);
        CUevent recorded = NULL;
        if (op->work->type == SI_WORK_RECORD) {
            recorded = op->work->event.event;
            si_event_ref(recorded);
        }
        CUstream lane = step->lane == 0 ? stream : exec->lanes[step->lane];
        CUresult err = si_stream_put(lane, op, false);
        if (recorded != NULL) {
            if (err == CUDA_SUCCESS)
                si_event_set(recorded, ops[i]);
            si_event_unref(recorded);
        }
        if (err != CUDA_SUCCESS)
            return err;
    }
    return CUDA_SUCCESS;
}

/* The launch ends, for the stream, when every branch has ended. */
static CUresult put_end(CUgraphExec exec, CUstream stream, struct si_op **ops)
{
    unsigned count = 0;
    struct si_op *end = NULL;
    struct si_op **leaves = calloc(exec->step_count + 1, sizeof(struct si_op *));
    if (leaves == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 0; i < exec->step_count; i++) {
        if (exec->steps[i].leaf && exec->steps[i].lane != 0)
            leaves[count++] = ops[i];
    }
    CUresult err = put_marker(stream, leaves, count, &end);
    free(leaves);
    if (err == CUDA_SUCCESS) {
        si_op_unref(exec->last);
        exec->last = end;
    }
    return err;
}

static CUresult launch(CUgraphExec exec, CUstream stream)
{
    struct si_op *start = NULL;
    CUresult err = make_lanes(exec, stream->context);
    struct si_op **ops = calloc(exec->step_count + 1, sizeof(struct si_op *));
    if (ops == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    /* One launch of an executable graph at a time: the marker waits for the one before. */
    if (err == CUDA_SUCCESS)
        err = put_marker(stream, &exec->last, exec->last != NULL, &start);
    if (err == CUDA_SUCCESS)
        err = put_steps(exec, stream, start, ops);
    if (err == CUDA_SUCCESS)
        err = put_end(exec, stream, ops);
    for (unsigned i = 0; i < exec->step_count; i++)
        si_op_unref(ops[i]);
    si_op_unref(start);
    free(ops);
    return err;
}

CUresult drv_cuGraphLaunch(CUgraphExec hGraph, CUstream hStream)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_legacy(stream);
    if (err != CUDA_SUCCESS)
        return err;
    si_graph_lock();
    err = si_exec_check(hGraph);
    if (err == CUDA_SUCCESS) {
        err = si_capture_launch(stream, hGraph);
        if (err == CUDA_ERROR_NOT_READY)
            err = launch(hGraph, stream);
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
    CUresult err = si_exec_check(hGraph);
    return err == CUDA_SUCCESS ? si_submit(hStream, si_work_new(SI_WORK_EMPTY)) : err;
}

/* ---- Instantiation ---- */

static void exec_free(CUgraphExec exec)
{
    struct standin_resource going = {.cbid = 19, .graph_exec = exec};
    si_trace_resource(&going);
    for (unsigned i = 0; i < exec->step_count; i++)
        free(exec->steps[i].deps);
    free(exec->steps);
    if (exec->lanes != NULL) {
        for (unsigned i = 1; i < exec->lane_count; i++)
            si_stream_close(exec->lanes[i]);
    }
    free(exec->lanes);
    si_op_unref(exec->last);
    if (exec->graph != NULL)
        si_graph_free(exec->graph);
    exec->magic = 0;
    free(exec);
}

static CUresult instantiate(CUgraphExec *out, CUgraph graph, unsigned long long flags)
{
    CUresult err = si_graph_check(graph);
    if (err != CUDA_SUCCESS || out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (graph->capturing)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUgraphExec exec = calloc(1, sizeof(*exec));
    if (exec == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct standin_resource starting = {.cbid = 17, .graph = graph, .graph_exec = exec};
    si_trace_resource(&starting);
    exec->magic = SI_MAGIC_EXEC;
    exec->flags = flags;
    exec->source = graph;
    exec->graph = si_graph_clone(graph);
    err = exec->graph != NULL ? si_exec_plan(exec) : CUDA_ERROR_OUT_OF_MEMORY;
    if (err != CUDA_SUCCESS) {
        exec_free(exec);
        return err;
    }
    exec->id = exec->graph->id;
    struct standin_resource made = {.cbid = 18, .graph = graph, .graph_exec = exec};
    si_trace_resource(&made);
    *out = exec;
    return CUDA_SUCCESS;
}

CUresult drv_cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                                         unsigned long long flags)
{
    si_graph_lock();
    CUresult err = instantiate(phGraphExec, hGraph, flags);
    si_graph_unlock();
    return err;
}

CUresult drv_cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph,
                                   CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
    if (phErrorNode != NULL)
        *phErrorNode = NULL;
    if (logBuffer != NULL && bufferSize > 0)
        *logBuffer = '\0';
    return drv_cuGraphInstantiateWithFlags(phGraphExec, hGraph, 0);
}

CUresult drv_cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                                char *logBuffer, size_t bufferSize)
{
    return drv_cuGraphInstantiate_v2(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

CUresult drv_cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
                                          CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
    if (instantiateParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult err = drv_cuGraphInstantiateWithFlags(phGraphExec, hGraph, instantiateParams->flags);
    instantiateParams->hErrNode_out = NULL;
    instantiateParams->result_out = err == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS
                                    : err == CUDA_ERROR_NOT_SUPPORTED
                                        ? CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED
                                        : CUDA_GRAPH_INSTANTIATE_ERROR;
    return err;
}

CUresult drv_cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
    CUresult err = si_exec_check(hGraphExec);
    if (err == CUDA_SUCCESS)
        *flags = hGraphExec->flags;
    return err;
}

/* Launches under way keep their work; the lanes end once they are empty. */
CUresult drv_cuGraphExecDestroy(CUgraphExec hGraphExec)
{
    si_graph_lock();
    CUresult err = si_exec_check(hGraphExec);
    if (err == CUDA_SUCCESS)
        exec_free(hGraphExec);
    si_graph_unlock();
    return err;
}
