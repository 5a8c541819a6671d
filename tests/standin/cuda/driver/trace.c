/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tracer hears: API calls as they begin and end, on the calling thread; finished kernels,
 * copies and fills, on the thread that ran them; resources. No lock of the engine that the tracer's
 * own calls into it could need is held.
 */
#include <string.h>

#include "call.h"
#include "trace.h"

/* CUpti_ActivityMemcpyKind and CUpti_ActivityMemoryKind. */
enum { COPY_HTOD = 1, COPY_DTOH = 2, COPY_DTOD = 8, COPY_HTOH = 9, COPY_PTOP = 10 };
enum { KIND_PAGEABLE = 1, KIND_PINNED = 2, KIND_DEVICE = 3, KIND_MANAGED = 5 };

_Atomic(const struct standin_tracer *) si_tracer;

SI_EXPORT void standin_tracer_set(const struct standin_tracer *tracer)
{
    atomic_store(&si_tracer, tracer);
}

uint32_t si_trace_correlation(void)
{
    for (struct standin_api_call *call = si_thread.call; call != NULL; call = call->outer) {
        if (call->correlation != 0)
            return call->correlation;
    }
    return 0;
}

SI_EXPORT int standin_api_enter(struct standin_api_call *call)
{
    const struct standin_tracer *tracer = atomic_load(&si_tracer);
    if (tracer == NULL)
        return 0;
    call->correlation = 0;
    call->outer = si_thread.call;
    call->start_ns = si_clock_latest();
    si_thread.call = call;
    tracer->api_enter(call);
    return 1;
}

SI_EXPORT void standin_api_exit(struct standin_api_call *call)
{
    const struct standin_tracer *tracer = atomic_load(&si_tracer);
    si_thread.call = call->outer;
    if (tracer != NULL)
        tracer->api_exit(call);
}

void si_call_trace_enter(struct drv_call *call)
{
    call->api.domain = STANDIN_DOMAIN_DRIVER;
    call->api.result = &call->result;
    call->result = CUDA_SUCCESS;
    call->traced = standin_api_enter(&call->api) != 0;
}

void si_call_trace_exit(struct drv_call *call)
{
    standin_api_exit(&call->api);
}

void si_trace_resource(const struct standin_resource *resource)
{
    const struct standin_tracer *tracer = atomic_load(&si_tracer);
    if (tracer != NULL)
        tracer->resource(resource);
}

static uint8_t memory_kind(uintptr_t address, uint32_t *device)
{
    struct si_allocation found;
    if (!si_memory_find(address, &found))
        return KIND_PAGEABLE;
    if (found.kind == SI_MEMORY_DEVICE || found.kind == SI_MEMORY_MANAGED)
        *device = (uint32_t)found.device;
    switch (found.kind) {
    case SI_MEMORY_DEVICE:
        return KIND_DEVICE;
    case SI_MEMORY_MANAGED:
        return KIND_MANAGED;
    default:
        return KIND_PINNED;
    }
}

static void describe_copy(const struct si_copy *copy, struct standin_activity *a)
{
    const CUDA_MEMCPY3D *p = &copy->params;
    uintptr_t src = p->srcMemoryType == CU_MEMORYTYPE_HOST ? (uintptr_t)p->srcHost : p->srcDevice;
    uintptr_t dst = p->dstMemoryType == CU_MEMORYTYPE_HOST ? (uintptr_t)p->dstHost : p->dstDevice;
    a->bytes = p->WidthInBytes * p->Height * p->Depth;
    if (copy->batch != NULL) {
        a->bytes = 0;
        for (uint32_t i = 0; i < copy->count; i++)
            a->bytes += copy->batch[i].bytes;
        src = (uintptr_t)copy->batch[0].src;
        dst = (uintptr_t)copy->batch[0].dst;
    }
    a->copy_count = copy->count;
    a->src_device = a->dst_device = a->device;
    a->src_kind = memory_kind(src, &a->src_device);
    a->dst_kind = memory_kind(dst, &a->dst_device);
    bool from_device = a->src_kind == KIND_DEVICE || a->src_kind == KIND_MANAGED;
    bool to_device = a->dst_kind == KIND_DEVICE || a->dst_kind == KIND_MANAGED;
    if (from_device && to_device)
        a->copy_kind = a->src_device == a->dst_device ? COPY_DTOD : COPY_PTOP;
    else if (from_device)
        a->copy_kind = COPY_DTOH;
    else
        a->copy_kind = to_device ? COPY_HTOD : COPY_HTOH;
}

static void describe_kernel(const struct si_kernel *kernel, struct standin_activity *a)
{
    a->name = kernel->name;
    memcpy(a->grid, kernel->grid, sizeof(a->grid));
    memcpy(a->block, kernel->block, sizeof(a->block));
    a->shared_bytes = kernel->shared_bytes;
}

/* Copies that are one operation: a batch is one record that counts them; in a graph each is a node
 * of its own, and they follow each other. */
static void trace_copies(const struct standin_tracer *tracer, struct standin_activity *a,
                         const struct si_work *work, uint64_t start_ns, uint64_t end_ns)
{
    uint32_t records = a->graph_id != 0 ? work->device_op.copies : 1;
    a->kind = STANDIN_ACTIVITY_MEMCPY;
    a->copy_kind = COPY_DTOD;
    a->src_kind = a->dst_kind = KIND_DEVICE;
    a->src_device = a->dst_device = a->device;
    a->copy_count = work->device_op.copies / records;
    a->bytes = work->device_op.bytes / records;
    for (uint32_t i = 0; i < records; i++) {
        a->start_ns = si_clock_device(start_ns + (end_ns - start_ns) * i / records);
        a->end_ns = si_clock_device(start_ns + (end_ns - start_ns) * (i + 1) / records);
        tracer->activity(a);
    }
}

void si_trace_op(CUstream stream, struct si_op *op, uint64_t start_ns, uint64_t end_ns)
{
    const struct standin_tracer *tracer = atomic_load(&si_tracer);
    struct standin_activity a = {.kind = STANDIN_ACTIVITY_KERNEL};
    if (tracer == NULL)
        return;
    a.device = (uint32_t)stream->context->device;
    if (si_work_is_kernel(op->work)) {
        describe_kernel(si_work_kernel(op->work), &a);
    } else if (op->work->type == SI_WORK_COPY) {
        a.kind = STANDIN_ACTIVITY_MEMCPY;
        describe_copy(&op->work->copy, &a);
    } else if (op->work->type == SI_WORK_FILL) {
        const CUDA_MEMSET_NODE_PARAMS_v2 *p = &op->work->fill.params;
        a.kind = STANDIN_ACTIVITY_MEMSET;
        a.bytes = p->width * p->height * p->elementSize;
        a.value = p->value;
        a.dst_kind = memory_kind((uintptr_t)p->dst, &a.dst_device);
    } else if (op->work->type != SI_WORK_DEVICE_OP) {
        return;
    }
    a.start_ns = si_clock_device(start_ns);
    a.end_ns = si_clock_device(end_ns);
    a.context_id = stream->context->id;
    a.stream_id = stream->id;
    a.correlation = op->correlation;
    a.graph_id = op->graph_id;
    a.graph_node_id = op->graph_node_id;
    if (op->work->type == SI_WORK_DEVICE_OP && op->work->device_op.copies != 0)
        trace_copies(tracer, &a, op->work, start_ns, end_ns);
    else
        tracer->activity(&a);
}
