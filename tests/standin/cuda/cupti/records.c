/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Activity records: finished device work, API calls, and the ids that the application pushed around
 * them. Called on the thread that made the call, or on the stream's worker.
 */
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cupti/cupti.h"
#include "cupti/api.h"

enum { STACK_DEPTH = 64 };

/* External ids pushed by this thread, by kind. */
static __thread struct {
    uint64_t ids[CUPTI_EXTERNAL_CORRELATION_KIND_SIZE][STACK_DEPTH];
    unsigned depth[CUPTI_EXTERNAL_CORRELATION_KIND_SIZE];
    uint32_t told; /* the correlation id that they were last recorded for */
} external;

static atomic_uint next_correlation = 1;
static atomic_llong next_grid = 1;
static atomic_int thread_id_type;

bool ct_wants_correlation(void)
{
    return ct_kind(CUPTI_ACTIVITY_KIND_RUNTIME) || ct_kind(CUPTI_ACTIVITY_KIND_DRIVER) ||
           atomic_load_explicit(&ct_enabled.api_record_count, memory_order_relaxed) > 0 ||
           ct_any_callback();
}

uint32_t ct_new_correlation(void)
{
    return atomic_fetch_add(&next_correlation, 1);
}

CUptiResult cuptiActivityPushExternalCorrelationId(CUpti_ExternalCorrelationKind kind, uint64_t id)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (kind < CUPTI_EXTERNAL_CORRELATION_KIND_UNKNOWN ||
        kind >= CUPTI_EXTERNAL_CORRELATION_KIND_SIZE)
        return CUPTI_ERROR_INVALID_PARAMETER;
    if (external.depth[kind] == STACK_DEPTH)
        return CUPTI_ERROR_OUT_OF_MEMORY;
    external.ids[kind][external.depth[kind]++] = id;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityPopExternalCorrelationId(CUpti_ExternalCorrelationKind kind,
                                                  uint64_t *lastId)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (kind < CUPTI_EXTERNAL_CORRELATION_KIND_UNKNOWN ||
        kind >= CUPTI_EXTERNAL_CORRELATION_KIND_SIZE)
        return CUPTI_ERROR_INVALID_PARAMETER;
    if (external.depth[kind] == 0)
        return CUPTI_ERROR_QUEUE_EMPTY;
    external.depth[kind]--;
    if (lastId != NULL)
        *lastId = external.ids[kind][external.depth[kind]];
    return CUPTI_SUCCESS;
}

CUptiResult cuptiSetThreadIdType(CUpti_ActivityThreadIdType type)
{
    if (type != CUPTI_ACTIVITY_THREAD_ID_TYPE_DEFAULT &&
        type != CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM)
        return CUPTI_ERROR_NOT_SUPPORTED;
    atomic_store(&thread_id_type, type);
    return CUPTI_SUCCESS;
}

CUptiResult cuptiGetThreadIdType(CUpti_ActivityThreadIdType *type)
{
    if (type == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    *type = atomic_load(&thread_id_type);
    return CUPTI_SUCCESS;
}

static uint32_t thread_id(void)
{
    if (atomic_load_explicit(&thread_id_type, memory_order_relaxed) ==
        CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM)
        return (uint32_t)syscall(SYS_gettid);
    return (uint32_t)(uintptr_t)pthread_self();
}

static void put(const void *record, size_t bytes)
{
    void *room = ct_buffer_take(bytes);
    if (room == NULL)
        return;
    memcpy(room, record, bytes);
    ct_buffer_give();
}

/* The external ids stand before the first API record of their correlation id. */
static void record_external(uint32_t correlation)
{
    if (correlation == 0 || external.told == correlation ||
        !ct_kind(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION))
        return;
    external.told = correlation;
    for (int kind = 0; kind < CUPTI_EXTERNAL_CORRELATION_KIND_SIZE; kind++) {
        if (external.depth[kind] == 0)
            continue;
        CUpti_ActivityExternalCorrelation r = {.kind = CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
                                               .externalKind = kind,
                                               .externalId =
                                                   external.ids[kind][external.depth[kind] - 1],
                                               .correlationId = correlation};
        put(&r, sizeof(r));
    }
}

void ct_record_api(const struct standin_api_call *call)
{
    CUpti_ActivityKind kind = call->domain == STANDIN_DOMAIN_DRIVER ? CUPTI_ACTIVITY_KIND_DRIVER
                                                                    : CUPTI_ACTIVITY_KIND_RUNTIME;
    bool wanted =
        ct_kind(kind) || (call->cbid < CT_MAX_CBID &&
                          atomic_load_explicit(&ct_enabled.api_records[call->domain][call->cbid],
                                               memory_order_relaxed));
    if (!wanted)
        return;
    record_external(call->correlation);
    CUpti_ActivityAPI r = {.kind = kind,
                           .cbid = call->cbid,
                           .start = ct_clock_record(call->start_ns),
                           .end = ct_clock_now(),
                           .processId = (uint32_t)getpid(),
                           .threadId = thread_id(),
                           .correlationId = call->correlation,
                           .returnValue = (uint32_t) * (const int *)call->result};
    put(&r, sizeof(r));
}

static void record_kernel(const struct standin_activity *a, CUpti_ActivityKind kind)
{
    CUpti_ActivityKernel10 r = {.kind = kind,
                                .registersPerThread = 32,
                                .start = ct_clock_record(a->start_ns),
                                .end = ct_clock_record(a->end_ns),
                                .deviceId = a->device,
                                .contextId = a->context_id,
                                .streamId = a->stream_id,
                                .gridX = (int32_t)a->grid[0],
                                .gridY = (int32_t)a->grid[1],
                                .gridZ = (int32_t)a->grid[2],
                                .blockX = (int32_t)a->block[0],
                                .blockY = (int32_t)a->block[1],
                                .blockZ = (int32_t)a->block[2],
                                .dynamicSharedMemory = (int32_t)a->shared_bytes,
                                .correlationId = a->correlation,
                                .gridId = atomic_fetch_add(&next_grid, 1),
                                .name = a->name,
                                .graphNodeId = a->graph_node_id,
                                .graphId = a->graph_id};
    put(&r, sizeof(r));
}

static void record_copy(const struct standin_activity *a)
{
    if (a->copy_kind == CUPTI_ACTIVITY_MEMCPY_KIND_PTOP) {
        if (!ct_kind(CUPTI_ACTIVITY_KIND_MEMCPY2))
            return;
        CUpti_ActivityMemcpyPtoP4 r = {.kind = CUPTI_ACTIVITY_KIND_MEMCPY2,
                                       .copyKind = a->copy_kind,
                                       .srcKind = a->src_kind,
                                       .dstKind = a->dst_kind,
                                       .flags = CUPTI_ACTIVITY_FLAG_MEMCPY_ASYNC,
                                       .bytes = a->bytes,
                                       .start = ct_clock_record(a->start_ns),
                                       .end = ct_clock_record(a->end_ns),
                                       .deviceId = a->device,
                                       .contextId = a->context_id,
                                       .streamId = a->stream_id,
                                       .srcDeviceId = a->src_device,
                                       .dstDeviceId = a->dst_device,
                                       .correlationId = a->correlation,
                                       .graphNodeId = a->graph_node_id,
                                       .graphId = a->graph_id};
        put(&r, sizeof(r));
        return;
    }
    if (!ct_kind(CUPTI_ACTIVITY_KIND_MEMCPY))
        return;
    CUpti_ActivityMemcpy6 r = {.kind = CUPTI_ACTIVITY_KIND_MEMCPY,
                               .copyKind = a->copy_kind,
                               .srcKind = a->src_kind,
                               .dstKind = a->dst_kind,
                               .flags = CUPTI_ACTIVITY_FLAG_MEMCPY_ASYNC,
                               .bytes = a->bytes,
                               .start = ct_clock_record(a->start_ns),
                               .end = ct_clock_record(a->end_ns),
                               .deviceId = a->device,
                               .contextId = a->context_id,
                               .streamId = a->stream_id,
                               .correlationId = a->correlation,
                               .graphNodeId = a->graph_node_id,
                               .graphId = a->graph_id,
                               .copyCount = a->copy_count};
    put(&r, sizeof(r));
}

static void record_fill(const struct standin_activity *a)
{
    CUpti_ActivityMemset4 r = {.kind = CUPTI_ACTIVITY_KIND_MEMSET,
                               .value = a->value,
                               .bytes = a->bytes,
                               .start = ct_clock_record(a->start_ns),
                               .end = ct_clock_record(a->end_ns),
                               .deviceId = a->device,
                               .contextId = a->context_id,
                               .streamId = a->stream_id,
                               .correlationId = a->correlation,
                               .flags = CUPTI_ACTIVITY_FLAG_MEMSET_ASYNC,
                               .memoryKind = a->dst_kind,
                               .graphNodeId = a->graph_node_id,
                               .graphId = a->graph_id};
    put(&r, sizeof(r));
}

void ct_record_activity(const struct standin_activity *activity)
{
    switch (activity->kind) {
    case STANDIN_ACTIVITY_KERNEL:
        if (ct_kind(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL))
            record_kernel(activity, CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
        else if (ct_kind(CUPTI_ACTIVITY_KIND_KERNEL))
            record_kernel(activity, CUPTI_ACTIVITY_KIND_KERNEL);
        break;
    case STANDIN_ACTIVITY_MEMCPY:
        record_copy(activity);
        break;
    case STANDIN_ACTIVITY_MEMSET:
        if (ct_kind(CUPTI_ACTIVITY_KIND_MEMSET))
            record_fill(activity);
        break;
    }
}
