/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work: what an op or a graph node does when its turn comes. Immutable once it has been submitted,
 * counted by references. si_work_run is called by stream workers, and by callers for instant work.
 */
#include <stdlib.h>
#include <string.h>

#include "call.h"

struct si_work *si_work_new(enum si_work_type type)
{
    struct si_work *work = calloc(1, sizeof(*work));
    if (work == NULL)
        return NULL;
    atomic_init(&work->refs, 1);
    work->type = type;
    return work;
}

struct si_work *si_work_ref(struct si_work *work)
{
    atomic_fetch_add_explicit(&work->refs, 1, memory_order_relaxed);
    return work;
}

void si_work_unref(struct si_work *work)
{
    if (work == NULL || atomic_fetch_sub_explicit(&work->refs, 1, memory_order_acq_rel) != 1)
        return;
    switch (work->type) {
    case SI_WORK_DEVICE_OP:
        if (work->device_op.destroy != NULL)
            work->device_op.destroy(work->device_op.user);
        break;
    case SI_WORK_COPY:
        free(work->copy.batch);
        free(work->copy.staged);
        break;
    case SI_WORK_RECORD:
    case SI_WORK_WAIT:
        if (work->event.event != NULL)
            si_event_unref(work->event.event);
        break;
    case SI_WORK_MEMOPS:
        free(work->memops.ops);
        break;
    case SI_WORK_ALLOC:
        if (work->alloc.owned_id != 0 &&
            si_memory_id((uintptr_t)work->alloc.ptr) == work->alloc.owned_id)
            si_memory_free((uintptr_t)work->alloc.ptr, false);
        break;
    default:
        break;
    }
    free(work);
}

bool si_work_is_kernel(const struct si_work *work)
{
    return work->type == SI_WORK_KERNEL ||
           (work->type == SI_WORK_DEVICE_OP && work->device_op.copies == 0);
}

const struct si_kernel *si_work_kernel(const struct si_work *work)
{
    return work->type == SI_WORK_DEVICE_OP ? &work->device_op.shown : &work->kernel;
}

bool si_work_is_instant(const struct si_work *work)
{
    switch (work->type) {
    case SI_WORK_EMPTY:
    case SI_WORK_RECORD:
    case SI_WORK_WAIT:
    case SI_WORK_ALLOC:
        return true;
    case SI_WORK_KERNEL:
        return si_options.clock == SI_CLOCK_VIRTUAL || work->kernel.duration_ns == 0;
    default:
        return false;
    }
}

/* One row after another; only linear memory exists here. */
static void copy_rows(const CUDA_MEMCPY3D *p)
{
    bool from_host = p->srcMemoryType == CU_MEMORYTYPE_HOST;
    bool to_host = p->dstMemoryType == CU_MEMORYTYPE_HOST;
    const char *src = from_host ? p->srcHost : (const char *)(uintptr_t)p->srcDevice;
    char *dst = to_host ? p->dstHost : (char *)(uintptr_t)p->dstDevice;
    for (size_t z = 0; z < p->Depth; z++) {
        for (size_t y = 0; y < p->Height; y++) {
            size_t src_row = ((p->srcZ + z) * p->srcHeight + p->srcY + y) * p->srcPitch;
            size_t dst_row = ((p->dstZ + z) * p->dstHeight + p->dstY + y) * p->dstPitch;
            memmove(dst + dst_row + p->dstXInBytes, src + src_row + p->srcXInBytes,
                    p->WidthInBytes);
        }
    }
}

static size_t run_copy(const struct si_copy *copy)
{
    if (copy->batch == NULL) {
        copy_rows(&copy->params);
        return copy->params.WidthInBytes * copy->params.Height * copy->params.Depth;
    }
    size_t bytes = 0;
    for (uint32_t i = 0; i < copy->count; i++) {
        memmove(copy->batch[i].dst, copy->batch[i].src, copy->batch[i].bytes);
        bytes += copy->batch[i].bytes;
    }
    return bytes;
}

static size_t run_fill(const CUDA_MEMSET_NODE_PARAMS_v2 *p)
{
    for (size_t y = 0; y < p->height; y++) {
        char *row = (char *)(uintptr_t)p->dst + y * p->pitch;
        if (p->elementSize == 1) {
            memset(row, (int)p->value, p->width);
            continue;
        }
        for (size_t x = 0; x < p->width; x++)
            memcpy(row + x * p->elementSize, &p->value, p->elementSize);
    }
    return p->width * p->height * p->elementSize;
}

static bool memop_holds(const struct CUstreamMemOpWaitValueParams_st *p, bool wide)
{
    uint64_t have, want = wide ? p->value64 : p->value;
    if (wide)
        have = atomic_load((_Atomic(uint64_t) *)(uintptr_t)p->address);
    else
        have = atomic_load((_Atomic(uint32_t) *)(uintptr_t)p->address);
    switch (p->flags & 3) {
    case CU_STREAM_WAIT_VALUE_EQ:
        return have == want;
    case CU_STREAM_WAIT_VALUE_AND:
        return (have & want) != 0;
    case CU_STREAM_WAIT_VALUE_NOR:
        return wide ? ~(have | want) != 0 : (uint32_t) ~(have | want) != 0;
    default:
        return wide ? (int64_t)(have - want) >= 0 : (int32_t)(uint32_t)(have - want) >= 0;
    }
}

/* The writer may be anything that stores to memory, also another process: poll, ever more slowly.
 */
static void memop_wait(const struct CUstreamMemOpWaitValueParams_st *p, bool wide)
{
    uint64_t pause = 2000;
    while (!memop_holds(p, wide)) {
        si_clock_sleep_until(si_clock_monotonic() + pause);
        if (pause < 500000)
            pause *= 2;
    }
}

static void run_memops(const struct si_work *work)
{
    for (unsigned i = 0; i < work->memops.count; i++) {
        const CUstreamBatchMemOpParams *p = &work->memops.ops[i];
        switch (p->operation) {
        case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        case CU_STREAM_MEM_OP_WAIT_VALUE_64:
            memop_wait(&p->waitValue, p->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64);
            break;
        case CU_STREAM_MEM_OP_WRITE_VALUE_32:
            atomic_store((_Atomic(uint32_t) *)(uintptr_t)p->writeValue.address,
                         p->writeValue.value);
            break;
        case CU_STREAM_MEM_OP_WRITE_VALUE_64:
            atomic_store((_Atomic(uint64_t) *)(uintptr_t)p->writeValue.address,
                         p->writeValue.value64);
            break;
        default:
            atomic_thread_fence(memory_order_seq_cst);
            break;
        }
    }
}

/* Model time of moving that many bytes. */
static uint64_t copy_time(size_t bytes)
{
    return si_options.copy_ns +
           (uint64_t)((double)bytes * 1000.0 / (double)si_options.copy_bytes_us);
}

int si_work_run(struct si_work *work, uint64_t *start_ns, uint64_t *end_ns)
{
    int error = 0;
    uint64_t duration = 0;
    switch (work->type) {
    case SI_WORK_KERNEL:
        duration = work->kernel.duration_ns;
        if (si_options.clock == SI_CLOCK_REAL && duration != 0)
            si_clock_sleep_until(*start_ns + duration);
        break;
    case SI_WORK_DEVICE_OP:
        *end_ns = 0;
        si_thread.in_host_work = true;
        error = work->device_op.run(work->device_op.user, start_ns, end_ns);
        si_thread.in_host_work = false;
        if (*end_ns < *start_ns)
            *end_ns = *start_ns;
        return error;
    case SI_WORK_COPY:
        duration = copy_time(run_copy(&work->copy));
        break;
    case SI_WORK_FILL:
        duration = copy_time(run_fill(&work->fill.params));
        break;
    case SI_WORK_HOST:
        si_thread.in_host_work = true;
        work->host.fn(work->host.user);
        si_thread.in_host_work = false;
        break;
    case SI_WORK_CALLBACK:
        si_thread.in_host_work = true;
        work->callback.fn(work->callback.stream, CUDA_SUCCESS, work->callback.user);
        si_thread.in_host_work = false;
        break;
    case SI_WORK_MEMOPS:
        run_memops(work);
        break;
    case SI_WORK_FREE:
        if (work->alloc.ptr != 0)
            error = si_memory_free((uintptr_t)work->alloc.ptr, false);
        break;
    default:
        break;
    }
    *end_ns = *start_ns + duration;
    return error;
}
