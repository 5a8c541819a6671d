/* SPDX-License-Identifier: Apache-2.0 */
/* The parameters of a graph node, of each type, made into a piece of work. */
#include <string.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"
#include "graph_work.h"
#include "module.h"

struct si_work *si_kernel_work(const CUDA_KERNEL_NODE_PARAMS_v2 *p, CUresult *err)
{
    if (p == NULL) {
        *err = CUDA_ERROR_INVALID_VALUE;
        return NULL;
    }
    CUfunction function = p->func != NULL ? p->func : (CUfunction)p->kern;
    *err = si_function_check(function);
    if (*err != CUDA_SUCCESS)
        return NULL;
    struct si_work *work = si_work_new(SI_WORK_KERNEL);
    if (work == NULL) {
        *err = CUDA_ERROR_OUT_OF_MEMORY;
        return NULL;
    }
    work->kernel = (struct si_kernel){.func = function,
                                      .name = function->name,
                                      .grid = {p->gridDimX, p->gridDimY, p->gridDimZ},
                                      .block = {p->blockDimX, p->blockDimY, p->blockDimZ},
                                      .shared_bytes = p->sharedMemBytes,
                                      .params = p->kernelParams,
                                      .extra = p->extra,
                                      .duration_ns = si_options_kernel_ns(function->name),
                                      .context = p->ctx != NULL ? p->ctx : si_context_current()};
    return work;
}

void si_widen_kernel(const CUDA_KERNEL_NODE_PARAMS_v1 *from, CUDA_KERNEL_NODE_PARAMS_v2 *to)
{
    memset(to, 0, sizeof(*to));
    memcpy(to, from, sizeof(*from));
}

struct si_work *si_copy_work(const CUDA_MEMCPY3D *p, CUcontext context, CUresult *err)
{
    *err = CUDA_SUCCESS;
    if (p == NULL)
        *err = CUDA_ERROR_INVALID_VALUE;
    else if (p->srcMemoryType == CU_MEMORYTYPE_ARRAY || p->dstMemoryType == CU_MEMORYTYPE_ARRAY)
        *err = CUDA_ERROR_NOT_SUPPORTED;
    struct si_work *work = *err == CUDA_SUCCESS ? si_work_new(SI_WORK_COPY) : NULL;
    if (work == NULL) {
        *err = *err == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : *err;
        return NULL;
    }
    work->copy.params = *p;
    work->copy.count = 1;
    work->copy.context = context;
    return work;
}

struct si_work *si_fill_work(const CUDA_MEMSET_NODE_PARAMS_v1 *p, CUcontext context, CUresult *err)
{
    *err = p == NULL || (p->elementSize != 1 && p->elementSize != 2 && p->elementSize != 4)
               ? CUDA_ERROR_INVALID_VALUE
               : CUDA_SUCCESS;
    struct si_work *work = *err == CUDA_SUCCESS ? si_work_new(SI_WORK_FILL) : NULL;
    if (work == NULL) {
        *err = *err == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : *err;
        return NULL;
    }
    memcpy(&work->fill.params, p, sizeof(*p));
    work->fill.params.ctx = context;
    return work;
}

struct si_work *si_host_work(const CUDA_HOST_NODE_PARAMS_v1 *p, CUresult *err)
{
    *err = p == NULL || p->fn == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    struct si_work *work = *err == CUDA_SUCCESS ? si_work_new(SI_WORK_HOST) : NULL;
    if (work == NULL) {
        *err = *err == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : *err;
        return NULL;
    }
    work->host.fn = p->fn;
    work->host.user = p->userData;
    return work;
}

struct si_work *si_event_work(enum si_work_type type, CUevent event, CUresult *err)
{
    *err = si_event_check(event);
    struct si_work *work = *err == CUDA_SUCCESS ? si_work_new(type) : NULL;
    if (work == NULL) {
        *err = *err == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : *err;
        return NULL;
    }
    si_event_ref(event);
    work->event.event = event;
    return work;
}

struct si_work *si_alloc_work(CUDA_MEM_ALLOC_NODE_PARAMS_v1 *p, CUresult *err)
{
    uintptr_t address;
    CUmemoryPool pool;
    *err = p == NULL ? CUDA_ERROR_INVALID_VALUE
                     : drv_cuDeviceGetMemPool(&pool, p->poolProps.location.id);
    if (*err == CUDA_SUCCESS)
        *err = si_memory_alloc(SI_MEMORY_DEVICE, p->bytesize, 0, pool, &address);
    if (*err != CUDA_SUCCESS)
        return NULL;
    struct si_work *work = si_work_new(SI_WORK_ALLOC);
    if (work == NULL) {
        *err = CUDA_ERROR_OUT_OF_MEMORY;
        return NULL;
    }
    p->dptr = address;
    work->alloc.ptr = address;
    work->alloc.owned_id = si_memory_id(address);
    work->alloc.params = *p;
    return work;
}

struct si_work *si_free_work(CUdeviceptr dptr, CUresult *err)
{
    struct si_work *work = si_work_new(SI_WORK_FREE);
    *err = work != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    if (work != NULL)
        work->alloc.params.dptr = dptr;
    return work;
}

struct si_work *si_work_of(CUgraphNodeParams *p, CUresult *err)
{
    switch (p->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return si_kernel_work(&p->kernel, err);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return si_copy_work(&p->memcpy.copyParams, p->memcpy.copyCtx, err);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return si_fill_work((const CUDA_MEMSET_NODE_PARAMS_v1 *)&p->memset, p->memset.ctx, err);
    case CU_GRAPH_NODE_TYPE_HOST:
        return si_host_work(&p->host, err);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return si_event_work(SI_WORK_RECORD, p->eventRecord.event, err);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return si_event_work(SI_WORK_WAIT, p->eventWait.event, err);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        return si_alloc_work(&p->alloc, err);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return si_free_work(p->free.dptr, err);
    case CU_GRAPH_NODE_TYPE_EMPTY:
        *err = CUDA_SUCCESS;
        return si_work_new(SI_WORK_EMPTY);
    default:
        *err = CUDA_ERROR_NOT_SUPPORTED;
        return NULL;
    }
}
