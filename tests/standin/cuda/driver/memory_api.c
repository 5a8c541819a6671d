/* SPDX-License-Identifier: Apache-2.0 */
/* What programs ask about memory: pools and stream-ordered allocation, pointer attributes, IPC. */
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "device.h"
#include "drv_impl.h"
#include "graph.h"

static CUresult pool_check(CUmemoryPool pool)
{
    return pool != NULL && pool->magic == SI_MAGIC_POOL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult drv_cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
    struct si_device *device = si_device_get(dev);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    *pool_out = device->default_pool;
    return CUDA_SUCCESS;
}

CUresult drv_cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
    struct si_device *device = si_device_get(dev);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&device->lock);
    *pool = device->pool;
    pthread_mutex_unlock(&device->lock);
    return CUDA_SUCCESS;
}

CUresult drv_cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool)
{
    struct si_device *device = si_device_get(dev);
    CUresult err = pool_check(pool);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (err != CUDA_SUCCESS || pool->device != dev)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&device->lock);
    device->pool = pool;
    pthread_mutex_unlock(&device->lock);
    return CUDA_SUCCESS;
}

/* Graph memory is ordinary memory here, held by its graph: nothing is cached, nothing to trim. */
CUresult drv_cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
    if (si_device_get(device) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (value == NULL || attr < 0 || attr > 3)
        return CUDA_ERROR_INVALID_VALUE;
    *(cuuint64_t *)value = 0;
    return CUDA_SUCCESS;
}

CUresult drv_cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
    cuuint64_t now;
    return value == NULL ? CUDA_ERROR_INVALID_VALUE
                         : drv_cuDeviceGetGraphMemAttribute(device, attr, &now);
}

CUresult drv_cuDeviceGraphMemTrim(CUdevice device)
{
    return si_device_get(device) == NULL ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult drv_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
    if (pool == NULL || poolProps == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE || poolProps->handleTypes != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (si_device_get(poolProps->location.id) == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUmemoryPool made = calloc(1, sizeof(*made));
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->magic = SI_MAGIC_POOL;
    made->device = poolProps->location.id;
    made->props = *poolProps;
    for (int i = 1; i <= 3; i++)
        made->attributes[i] = 1;
    *pool = made;
    return CUDA_SUCCESS;
}

/* Allocations may outlive their pool, so the pool's few bytes stay; only the handle dies. */
CUresult drv_cuMemPoolDestroy(CUmemoryPool pool)
{
    CUresult err = pool_check(pool);
    if (err != CUDA_SUCCESS || pool->owned_by_device)
        return CUDA_ERROR_INVALID_VALUE;
    struct si_device *device = si_device_get(pool->device);
    pthread_mutex_lock(&device->lock);
    if (device->pool == pool)
        device->pool = device->default_pool;
    pthread_mutex_unlock(&device->lock);
    pool->magic = 0;
    return CUDA_SUCCESS;
}

CUresult drv_cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
    (void)minBytesToKeep;
    return pool_check(pool);
}

CUresult drv_cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
    CUresult err = pool_check(pool);
    if (err != CUDA_SUCCESS)
        return err;
    if (value == NULL || attr < 1 || attr > CU_MEMPOOL_ATTR_USED_MEM_HIGH)
        return CUDA_ERROR_INVALID_VALUE;
    if (attr < CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        pool->attributes[attr] = (uint64_t) * (int *)value;
    else if (attr == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        pool->attributes[attr] = *(cuuint64_t *)value;
    else
        atomic_store(&pool->high_bytes, atomic_load(&pool->used_bytes));
    return CUDA_SUCCESS;
}

CUresult drv_cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
    CUresult err = pool_check(pool);
    if (err != CUDA_SUCCESS)
        return err;
    if (value == NULL || attr < 1 || attr > CU_MEMPOOL_ATTR_USED_MEM_HIGH)
        return CUDA_ERROR_INVALID_VALUE;
    if (attr < CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        *(int *)value = (int)pool->attributes[attr];
    else if (attr == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        *(cuuint64_t *)value = pool->attributes[attr];
    else if (((attr - CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) & 1) == 0)
        *(cuuint64_t *)value = atomic_load(&pool->used_bytes);
    else
        *(cuuint64_t *)value = atomic_load(&pool->high_bytes);
    return CUDA_SUCCESS;
}

CUresult drv_cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count)
{
    return map == NULL && count != 0 ? CUDA_ERROR_INVALID_VALUE : pool_check(pool);
}

CUresult drv_cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool memPool,
                                CUmemLocation *location)
{
    CUresult err = pool_check(memPool);
    if (err != CUDA_SUCCESS || flags == NULL || location == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return CUDA_SUCCESS;
}

/* The address is known at once, as in CUDA; the stream only has to know that it is in use. */
CUresult drv_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                     CUstream hStream)
{
    uintptr_t address;
    CUstream stream;
    CUresult err = pool_check(pool);
    if (err != CUDA_SUCCESS || dptr == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    err = si_stream_resolve(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    err = si_memory_alloc(SI_MEMORY_DEVICE, bytesize, 0, pool, &address);
    if (err != CUDA_SUCCESS)
        return err;
    struct si_work *work = si_work_new(SI_WORK_ALLOC);
    if (work != NULL) {
        work->alloc.ptr = work->alloc.params.dptr = address;
        work->alloc.params.bytesize = bytesize;
        work->alloc.params.poolProps = pool->props;
        work->alloc.owned_id = si_capture_active(stream) ? si_memory_id(address) : 0;
    }
    err = si_submit(hStream, work);
    if (err != CUDA_SUCCESS) {
        if (!si_capture_active(stream))
            si_memory_free(address, false);
        return err;
    }
    *dptr = address;
    return CUDA_SUCCESS;
}

CUresult drv_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    CUstream stream;
    CUmemoryPool pool;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        err = drv_cuDeviceGetMemPool(&pool, stream->context->device);
    return err == CUDA_SUCCESS ? drv_cuMemAllocFromPoolAsync(dptr, bytesize, pool, hStream) : err;
}

CUresult drv_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
    struct si_allocation found;
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    if (!si_memory_find((uintptr_t)dptr, &found) || found.start != (uintptr_t)dptr)
        return CUDA_ERROR_INVALID_VALUE;
    /* A captured free is undone by the next replay's alloc, so the node must not really free. */
    struct si_work *work = si_work_new(SI_WORK_FREE);
    if (work != NULL)
        work->alloc.ptr = si_capture_active(stream) ? 0 : dptr;
    if (work != NULL)
        work->alloc.params.dptr = dptr;
    return si_submit(hStream, work);
}

CUresult drv_cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
    (void)count;
    (void)advice;
    (void)device;
    return devPtr != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult drv_cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice,
                            CUmemLocation location)
{
    return drv_cuMemAdvise(devPtr, count, advice, location.id);
}

CUresult drv_cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice,
                                CUstream hStream)
{
    (void)count;
    (void)dstDevice;
    if (devPtr == 0)
        return CUDA_ERROR_INVALID_VALUE;
    return si_submit(hStream, si_work_new(SI_WORK_EMPTY));
}

CUresult drv_cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location,
                                   unsigned int flags, CUstream hStream)
{
    (void)flags;
    return drv_cuMemPrefetchAsync(devPtr, count, location.id, hStream);
}

static CUresult attribute_of(const struct si_allocation *a, CUpointer_attribute attribute,
                             CUdeviceptr ptr, void *data)
{
    bool device = a->kind == SI_MEMORY_DEVICE || a->kind == SI_MEMORY_MANAGED;
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = a->context;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = ptr;
        break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (a->kind == SI_MEMORY_DEVICE)
            return CUDA_ERROR_INVALID_VALUE;
        *(void **)data = (void *)(uintptr_t)ptr;
        break;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        *(unsigned long long *)data = a->id;
        break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned *)data = a->kind == SI_MEMORY_MANAGED;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = a->device;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = a->start;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = a->bytes;
        break;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned *)data = 1;
        break;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned long long *)data = 0;
        break;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        *(unsigned *)data = 0;
        break;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)data = a->pool;
        break;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult drv_cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
    struct si_allocation found;
    if (data == NULL || !si_memory_find((uintptr_t)ptr, &found))
        return CUDA_ERROR_INVALID_VALUE;
    return attribute_of(&found, attribute, ptr, data);
}

/* Unlike the single form, answers zeros for memory it does not know. */
CUresult drv_cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes,
                                    void **data, CUdeviceptr ptr)
{
    struct si_allocation found;
    bool known = si_memory_find((uintptr_t)ptr, &found);
    for (unsigned i = 0; i < numAttributes; i++) {
        CUpointer_attribute a = attributes[i];
        if (known && attribute_of(&found, a, ptr, data[i]) == CUDA_SUCCESS)
            continue;
        if (a == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
            *(int *)data[i] = -2;
        else if (a == CU_POINTER_ATTRIBUTE_MEMORY_TYPE || a == CU_POINTER_ATTRIBUTE_IS_MANAGED ||
                 a == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS || a == CU_POINTER_ATTRIBUTE_MAPPED ||
                 a == CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE ||
                 a == CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE)
            *(unsigned *)data[i] = 0;
        else
            *(unsigned long long *)data[i] = 0;
    }
    return CUDA_SUCCESS;
}

CUresult drv_cuPointerSetAttribute(const void *value, CUpointer_attribute attribute,
                                   CUdeviceptr ptr)
{
    struct si_allocation found;
    if (value == NULL || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS ||
        !si_memory_find((uintptr_t)ptr, &found))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

/* Memory is private to the process, so handles to it cannot be handed out. */
CUresult drv_cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
    (void)pHandle;
    (void)dptr;
    return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult drv_cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
    (void)pdptr;
    (void)handle;
    (void)Flags;
    return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult drv_cuIpcCloseMemHandle(CUdeviceptr dptr)
{
    (void)dptr;
    return CUDA_ERROR_INVALID_VALUE;
}
