/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stream capture: which streams take part in which capture, and what calls break one. The rules are
 * those of the programming guide and of cuThreadExchangeStreamCaptureMode: an operation that a
 * capture forbids fails and invalidates the capture, which its owner learns from EndCapture.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"

static struct si_capture *captures; /* guarded by the graph lock */
static uint64_t next_capture_id = 1;
static atomic_int capture_count; /* for the common case of none; exact under the lock */

static bool none(void)
{
    return SI_LIKELY(atomic_load_explicit(&capture_count, memory_order_acquire) == 0);
}

bool si_capture_active(CUstream stream)
{
    if (none())
        return false;
    si_graph_lock();
    bool active = stream->capture != NULL;
    si_graph_unlock();
    return active;
}

/* Every ongoing capture that the calling thread may not endanger becomes invalid. */
CUresult si_capture_forbid_unsafe(void)
{
    CUresult err = CUDA_SUCCESS;
    if (none() || si_thread.capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_SUCCESS;
    uint64_t me = si_thread_token();
    si_graph_lock();
    for (struct si_capture *c = captures; c != NULL; c = c->next) {
        bool own = c->thread == me && c->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
        bool other = c->thread != me && c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                     si_thread.capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (own || other) {
            c->invalid = true;
            err = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    si_graph_unlock();
    return err;
}

/* A stream being captured can neither be waited for nor asked. */
CUresult si_capture_forbid_stream(CUstream stream)
{
    CUresult err = CUDA_SUCCESS;
    if (none())
        return CUDA_SUCCESS;
    si_graph_lock();
    if (stream->capture != NULL) {
        stream->capture->invalid = true;
        err = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    si_graph_unlock();
    return err;
}

CUresult si_capture_forbid_members(CUcontext context, bool blocking_only, CUresult error,
                                   bool invalidate)
{
    CUresult err = CUDA_SUCCESS;
    if (none())
        return CUDA_SUCCESS;
    si_graph_lock();
    for (struct si_capture *c = captures; c != NULL; c = c->next) {
        for (size_t i = 0; i < c->member_count; i++) {
            CUstream s = c->members[i];
            if (s->context != context || (blocking_only && (s->flags & CU_STREAM_NON_BLOCKING)))
                continue;
            if (invalidate)
                c->invalid = true;
            err = error;
        }
    }
    si_graph_unlock();
    return err;
}

CUresult si_capture_forbid_context(CUcontext context)
{
    return si_capture_forbid_members(context, false, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, true);
}

/* Using the legacy stream would make it depend on the blocking streams that are being captured. */
CUresult si_capture_forbid_legacy(CUstream stream)
{
    if (stream != stream->context->legacy)
        return CUDA_SUCCESS;
    return si_capture_forbid_members(stream->context, true, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                                     true);
}

static struct si_capture *find_capture(uint64_t id)
{
    struct si_capture *c = captures;
    while (c != NULL && c->id != id)
        c = c->next;
    return c;
}

CUresult si_capture_forbid_event(CUevent event)
{
    CUresult err = CUDA_SUCCESS;
    si_graph_lock();
    if (event->capture_id != 0) {
        struct si_capture *c = find_capture(event->capture_id);
        if (c != NULL)
            c->invalid = true;
        err = CUDA_ERROR_CAPTURED_EVENT;
    }
    si_graph_unlock();
    return err;
}

int si_capture_set_deps(CUgraphNode **to, size_t *to_count, const CUgraphNode *from, size_t count)
{
    CUgraphNode *copy = malloc((count + 1) * sizeof(*copy));
    if (copy == NULL)
        return -ENOMEM;
    if (count > 0)
        memcpy(copy, from, count * sizeof(*copy));
    free(*to);
    *to = copy;
    *to_count = count;
    return 0;
}

int si_capture_merge_deps(CUstream stream, const CUgraphNode *more, size_t count)
{
    size_t total = stream->capture_dep_count;
    CUgraphNode *deps = malloc((total + count + 1) * sizeof(*deps));
    if (deps == NULL)
        return -ENOMEM;
    if (total > 0)
        memcpy(deps, stream->capture_deps, total * sizeof(*deps));
    for (size_t i = 0; i < count; i++) {
        size_t j = 0;
        while (j < total && deps[j] != more[i])
            j++;
        if (j == total)
            deps[total++] = more[i];
    }
    free(stream->capture_deps);
    stream->capture_deps = deps;
    stream->capture_dep_count = total;
    return 0;
}

static CUresult join(struct si_capture *c, CUstream stream, const CUgraphNode *deps, size_t count)
{
    void *more = realloc(c->members, (c->member_count + 1) * sizeof(*c->members));
    if (more == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    c->members = more;
    if (si_capture_set_deps(&stream->capture_deps, &stream->capture_dep_count, deps, count) < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    c->members[c->member_count++] = stream;
    stream->capture = c;
    return CUDA_SUCCESS;
}

static void leave_all(struct si_capture *c)
{
    for (size_t i = 0; i < c->member_count; i++) {
        c->members[i]->capture = NULL;
        c->members[i]->capture_dep_count = 0;
    }
    for (struct si_capture **at = &captures; *at != NULL; at = &(*at)->next) {
        if (*at == c) {
            *at = c->next;
            break;
        }
    }
    c->graph->capturing = false;
    atomic_fetch_sub(&capture_count, 1);
    free(c->members);
    free(c);
}

void si_capture_stream_closed(CUstream stream)
{
    if (none())
        return;
    si_graph_lock();
    struct si_capture *c = stream->capture;
    if (c != NULL && c->origin == stream) {
        CUgraph graph = c->graph;
        bool own = c->own_graph;
        leave_all(c);
        if (own)
            si_graph_free(graph);
    } else if (c != NULL) {
        c->invalid = true;
        for (size_t i = 0; i < c->member_count; i++) {
            if (c->members[i] == stream)
                c->members[i] = c->members[--c->member_count];
        }
        stream->capture = NULL;
    }
    si_graph_unlock();
}

CUresult si_capture_work(CUstream stream, struct si_work *work)
{
    CUgraphNode node;
    if (none())
        return CUDA_ERROR_NOT_READY;
    si_graph_lock();
    struct si_capture *c = stream->capture;
    CUresult err = CUDA_ERROR_NOT_READY;
    if (c != NULL && c->invalid) {
        si_graph_drop_work(work);
        err = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (c != NULL) {
        err = si_graph_add_work(c->graph, stream->capture_deps, stream->capture_dep_count, work,
                                &node);
        if (err == CUDA_SUCCESS &&
            si_capture_set_deps(&stream->capture_deps, &stream->capture_dep_count, &node, 1) < 0)
            err = CUDA_ERROR_OUT_OF_MEMORY;
        if (err != CUDA_SUCCESS)
            c->invalid = true;
    }
    si_graph_unlock();
    return err;
}

CUresult si_capture_launch(CUstream stream, CUgraphExec exec)
{
    struct si_capture *c = stream->capture;
    if (c == NULL)
        return CUDA_ERROR_NOT_READY;
    if (c->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    CUgraphNode node =
        si_graph_add_child(c->graph, stream->capture_deps, stream->capture_dep_count, exec->graph);
    if (node == NULL ||
        si_capture_set_deps(&stream->capture_deps, &stream->capture_dep_count, &node, 1) < 0) {
        c->invalid = true;
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

static struct si_work *event_work(enum si_work_type type, CUevent event)
{
    struct si_work *work = si_work_new(type);
    if (work != NULL) {
        si_event_ref(event);
        work->event.event = event;
    }
    return work;
}

CUresult si_capture_record(CUstream stream, CUevent event, bool external)
{
    CUresult err = CUDA_ERROR_NOT_READY;
    if (none() && event->capture_id == 0)
        return CUDA_ERROR_NOT_READY;
    si_graph_lock();
    struct si_capture *c = stream->capture;
    if (c == NULL) {
        event->capture_id = 0;
    } else if (c->invalid) {
        err = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (!external) {
        err = CUDA_SUCCESS;
        if (si_capture_set_deps(&event->capture_deps, &event->capture_dep_count,
                                stream->capture_deps, stream->capture_dep_count) < 0)
            err = CUDA_ERROR_OUT_OF_MEMORY;
        event->capture_id = c->id;
    }
    si_graph_unlock();
    if (external && c != NULL && err == CUDA_ERROR_NOT_READY)
        return si_capture_work(stream, event_work(SI_WORK_RECORD, event));
    return err;
}

/* Both under the lock: the event was recorded in capture `of`; the event was not captured. */
static CUresult wait_captured(CUstream stream, CUevent event, struct si_capture *of)
{
    struct si_capture *c = stream->capture;
    if (of->invalid || (c != NULL && c->invalid))
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (c == of)
        return si_capture_merge_deps(stream, event->capture_deps, event->capture_dep_count) < 0
                   ? CUDA_ERROR_OUT_OF_MEMORY
                   : CUDA_SUCCESS;
    if (c != NULL) {
        c->invalid = of->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    if (stream == stream->context->legacy) {
        of->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    return join(of, stream, event->capture_deps, event->capture_dep_count);
}

static CUresult wait_outside(CUstream stream, CUevent event, bool external)
{
    struct si_capture *c = stream->capture;
    if (c == NULL)
        return CUDA_ERROR_NOT_READY;
    if (c->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    struct si_op *op = si_event_op(event);
    si_op_unref(op);
    if (external || op == NULL)
        return CUDA_SUCCESS;
    c->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
}

CUresult si_capture_wait(CUstream stream, CUevent event, bool external)
{
    CUresult err;
    if (none())
        return event->capture_id != 0 ? CUDA_ERROR_CAPTURED_EVENT : CUDA_ERROR_NOT_READY;
    si_graph_lock();
    struct si_capture *of = event->capture_id != 0 ? find_capture(event->capture_id) : NULL;
    bool captured_stream = stream->capture != NULL;
    if (of != NULL && !external)
        err = wait_captured(stream, event, of);
    else if (event->capture_id != 0)
        err = external ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_CAPTURED_EVENT;
    else
        err = wait_outside(stream, event, external);
    si_graph_unlock();
    if (err == CUDA_SUCCESS && external && captured_stream)
        return si_capture_work(stream, event_work(SI_WORK_WAIT, event));
    return err;
}

static CUresult begin(CUstream handle, int mode, CUgraph graph, const CUgraphNode *deps,
                      size_t count)
{
    CUstream stream;
    CUresult err = si_stream_resolve(handle, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    if (mode < 0 || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream == stream->context->legacy)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    struct si_capture *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    si_graph_lock();
    if (stream->capture != NULL || (graph != NULL && graph->capturing))
        err = CUDA_ERROR_ILLEGAL_STATE;
    else if ((c->graph = graph != NULL ? graph : si_graph_new()) == NULL)
        err = CUDA_ERROR_OUT_OF_MEMORY;
    else
        err = join(c, stream, deps, count);
    if (err == CUDA_SUCCESS) {
        c->id = next_capture_id++;
        c->mode = mode;
        c->origin = stream;
        c->thread = si_thread_token();
        c->own_graph = graph == NULL;
        c->graph->capturing = true;
        c->next = captures;
        captures = c;
        atomic_fetch_add(&capture_count, 1);
    } else {
        if (c->graph != NULL && graph == NULL)
            si_graph_free(c->graph);
        free(c);
    }
    si_graph_unlock();
    return err;
}

CUresult drv_cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
    return begin(hStream, mode, NULL, NULL, 0);
}

CUresult drv_cuStreamBeginCapture(CUstream hStream)
{
    return begin(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL, NULL, 0);
}

CUresult drv_cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph,
                                         const CUgraphNode *dependencies,
                                         const CUgraphEdgeData *dependencyData,
                                         size_t numDependencies, CUstreamCaptureMode mode)
{
    (void)dependencyData;
    CUresult err = si_graph_check(hGraph);
    return err == CUDA_SUCCESS ? begin(hStream, mode, hGraph, dependencies, numDependencies) : err;
}

/* Marks the node and all that it depends on; with a list, since a chain may be very long. */
static int mark_ancestors(CUgraphNode node)
{
    struct si_node_list todo = {.items = NULL};
    int err = si_node_list_add(&todo, node);
    while (err == 0 && todo.count > 0) {
        CUgraphNode next = todo.items[--todo.count];
        if (next->mark == SIZE_MAX)
            continue;
        next->mark = SIZE_MAX;
        for (size_t i = 0; i < next->deps.count && err == 0; i++)
            err = si_node_list_add(&todo, next->deps.items[i]);
    }
    free(todo.items);
    return err;
}

/* Every stream that took part must have been joined again by the one that began. */
static bool joined(struct si_capture *c)
{
    for (size_t i = 0; i < c->graph->nodes.count; i++)
        c->graph->nodes.items[i]->mark = 0;
    for (size_t i = 0; i < c->origin->capture_dep_count; i++) {
        if (mark_ancestors(c->origin->capture_deps[i]) < 0)
            return false;
    }
    for (size_t i = 0; i < c->member_count; i++) {
        for (size_t j = 0; j < c->members[i]->capture_dep_count; j++) {
            if (c->members[i]->capture_deps[j]->mark != SIZE_MAX)
                return false;
        }
    }
    return true;
}

static CUresult end(CUstream stream, CUgraph *graph)
{
    struct si_capture *c = stream->capture;
    if (c == NULL)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (c->origin != stream) {
        c->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    }
    if (c->mode != CU_STREAM_CAPTURE_MODE_RELAXED && c->thread != si_thread_token())
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    CUresult err = CUDA_SUCCESS;
    if (c->invalid)
        err = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (!joined(c))
        err = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    CUgraph made = c->graph;
    bool own = c->own_graph;
    leave_all(c);
    if (err != CUDA_SUCCESS && own)
        si_graph_free(made);
    *graph = err == CUDA_SUCCESS ? made : NULL;
    return err;
}

CUresult drv_cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    if (phGraph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *phGraph = NULL;
    si_graph_lock();
    err = end(stream, phGraph);
    si_graph_unlock();
    return err;
}
