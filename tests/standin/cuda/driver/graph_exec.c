/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Executable graphs: a private copy of a graph and its plan (graph_plan.c). A launch puts one op
 * for each step on its lane; lane 0 is the launching stream, the others are streams of the
 * executable graph's own.
 */
#include <stdlib.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"
#include "trace.h"

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
