/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory. "Device" memory is private anonymous host memory, counted against its device; pinned and
 * managed memory is the same without the count. A sorted table of allocations answers what a
 * pointer is. Called from any thread, and from stream workers (asynchronous frees, CUPTI's copy
 * kinds).
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "call.h"
#include "device.h"
#include "drv_impl.h"

static pthread_rwlock_t table_lock = PTHREAD_RWLOCK_INITIALIZER;
static struct si_allocation *table; /* by start; guarded by table_lock, as are the next three */
static size_t table_count;
static size_t table_room;
static uint64_t next_id = 1;

/* Index of the last allocation that starts at or before address, or -1. */
static ptrdiff_t locate(uintptr_t address)
{
    size_t low = 0, high = table_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return (ptrdiff_t)low - 1;
}

bool si_memory_find(uintptr_t address, struct si_allocation *found)
{
    bool hit = false;
    pthread_rwlock_rdlock(&table_lock);
    ptrdiff_t at = locate(address);
    if (at >= 0 && address - table[at].start < table[at].bytes) {
        *found = table[at];
        hit = true;
    }
    pthread_rwlock_unlock(&table_lock);
    return hit;
}

static CUresult table_add(struct si_allocation *allocation)
{
    CUresult err = CUDA_SUCCESS;
    pthread_rwlock_wrlock(&table_lock);
    ptrdiff_t at = locate(allocation->start);
    if (at >= 0 && allocation->start - table[at].start < table[at].bytes) {
        err = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
        goto out;
    }
    if (table_count == table_room) {
        size_t room = table_room == 0 ? 64 : table_room * 2;
        void *more = realloc(table, room * sizeof(*table));
        if (more == NULL) {
            err = CUDA_ERROR_OUT_OF_MEMORY;
            goto out;
        }
        table = more;
        table_room = room;
    }
    allocation->id = next_id++;
    memmove(&table[at + 2], &table[at + 1], (table_count - (size_t)(at + 1)) * sizeof(*table));
    table[at + 1] = *allocation;
    table_count++;
out:
    pthread_rwlock_unlock(&table_lock);
    return err;
}

static bool table_take(uintptr_t start, struct si_allocation *taken)
{
    bool hit = false;
    pthread_rwlock_wrlock(&table_lock);
    ptrdiff_t at = locate(start);
    if (at >= 0 && table[at].start == start) {
        *taken = table[at];
        memmove(&table[at], &table[at + 1], (table_count - (size_t)at - 1) * sizeof(*table));
        table_count--;
        hit = true;
    }
    pthread_rwlock_unlock(&table_lock);
    return hit;
}

static size_t mapped_size(size_t bytes)
{
    return (bytes + 4095) & ~(size_t)4095;
}

static bool reserve(struct si_device *device, size_t bytes)
{
    size_t used = atomic_fetch_add(&device->used_bytes, bytes);
    if (used + bytes <= si_options.memory_bytes)
        return true;
    atomic_fetch_sub(&device->used_bytes, bytes);
    return false;
}

CUresult si_memory_alloc(enum si_memory_kind kind, size_t bytes, unsigned flags, CUmemoryPool pool,
                         uintptr_t *address)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err != CUDA_SUCCESS)
        return err;
    if (bytes == 0 || bytes > (size_t)1 << 46)
        return CUDA_ERROR_INVALID_VALUE;
    int ordinal = pool != NULL ? pool->device : context->device;
    struct si_device *device = si_device_get(ordinal);
    if (kind == SI_MEMORY_DEVICE && !reserve(device, mapped_size(bytes)))
        return CUDA_ERROR_OUT_OF_MEMORY;
    void *memory = mmap(NULL, mapped_size(bytes), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct si_allocation allocation = {.start = (uintptr_t)memory,
                                       .bytes = bytes,
                                       .kind = kind,
                                       .device = ordinal,
                                       .flags = flags,
                                       .context = context,
                                       .pool = pool};
    err = memory == MAP_FAILED ? CUDA_ERROR_OUT_OF_MEMORY : table_add(&allocation);
    if (err != CUDA_SUCCESS) {
        if (memory != MAP_FAILED)
            munmap(memory, mapped_size(bytes));
        if (kind == SI_MEMORY_DEVICE)
            atomic_fetch_sub(&device->used_bytes, mapped_size(bytes));
        return err;
    }
    if (pool != NULL) {
        size_t used = atomic_fetch_add(&pool->used_bytes, bytes) + bytes;
        size_t high = atomic_load(&pool->high_bytes);
        while (high < used && !atomic_compare_exchange_weak(&pool->high_bytes, &high, used))
            ;
    }
    *address = allocation.start;
    return CUDA_SUCCESS;
}

CUresult si_memory_free(uintptr_t address, bool host)
{
    struct si_allocation gone;
    if (!si_memory_find(address, &gone) || gone.start != address ||
        gone.kind == SI_MEMORY_REGISTERED || (gone.kind == SI_MEMORY_PINNED) != host)
        return CUDA_ERROR_INVALID_VALUE;
    if (!table_take(address, &gone))
        return CUDA_ERROR_INVALID_VALUE;
    munmap((void *)address, mapped_size(gone.bytes));
    if (gone.kind == SI_MEMORY_DEVICE)
        atomic_fetch_sub(&si_device_get(gone.device)->used_bytes, mapped_size(gone.bytes));
    if (gone.pool != NULL)
        atomic_fetch_sub(&gone.pool->used_bytes, gone.bytes);
    return CUDA_SUCCESS;
}

uint64_t si_memory_id(uintptr_t address)
{
    struct si_allocation found;
    return si_memory_find(address, &found) ? found.id : 0;
}

static CUresult alloc_device(enum si_memory_kind kind, CUdeviceptr *dptr, size_t bytes)
{
    uintptr_t address;
    if (dptr == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult err = si_memory_alloc(kind, bytes, 0, NULL, &address);
    if (err == CUDA_SUCCESS)
        *dptr = address;
    return err;
}

CUresult drv_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    return alloc_device(SI_MEMORY_DEVICE, dptr, bytesize);
}

CUresult drv_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
    (void)flags;
    return alloc_device(SI_MEMORY_MANAGED, dptr, bytesize);
}

CUresult drv_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
                                size_t Height, unsigned int ElementSizeBytes)
{
    (void)ElementSizeBytes;
    if (pPitch == NULL || WidthInBytes == 0 || Height == 0 || WidthInBytes > (size_t)1 << 40)
        return CUDA_ERROR_INVALID_VALUE;
    size_t pitch = (WidthInBytes + 511) & ~(size_t)511;
    if (Height > SIZE_MAX / pitch)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult err = alloc_device(SI_MEMORY_DEVICE, dptr, pitch * Height);
    if (err == CUDA_SUCCESS)
        *pPitch = pitch;
    return err;
}

/* Like the real one, waits for the device: work under way may use the memory. */
CUresult drv_cuMemFree_v2(CUdeviceptr dptr)
{
    struct si_allocation found;
    if (dptr == 0)
        return CUDA_SUCCESS;
    if (!si_memory_find((uintptr_t)dptr, &found))
        return CUDA_ERROR_INVALID_VALUE;
    if (si_context_check(found.context) == CUDA_SUCCESS) {
        CUresult err = si_context_drain(found.context);
        if (err != CUDA_SUCCESS)
            return err;
    }
    return si_memory_free((uintptr_t)dptr, false);
}

CUresult drv_cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err != CUDA_SUCCESS)
        return err;
    size_t used = atomic_load(&si_device_get(context->device)->used_bytes);
    if (total != NULL)
        *total = si_options.memory_bytes;
    if (free_bytes != NULL)
        *free_bytes = si_options.memory_bytes - used;
    return CUDA_SUCCESS;
}

CUresult drv_cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
    struct si_allocation found;
    if (!si_memory_find((uintptr_t)dptr, &found))
        return CUDA_ERROR_NOT_FOUND;
    if (pbase != NULL)
        *pbase = found.start;
    if (psize != NULL)
        *psize = found.bytes;
    return CUDA_SUCCESS;
}

CUresult drv_cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    uintptr_t address;
    if (pp == NULL || (Flags & ~7u) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult err = si_memory_alloc(SI_MEMORY_PINNED, bytesize, Flags, NULL, &address);
    if (err == CUDA_SUCCESS)
        *pp = (void *)address;
    return err;
}

CUresult drv_cuMemAllocHost_v2(void **pp, size_t bytesize)
{
    return drv_cuMemHostAlloc(pp, bytesize, 0);
}

CUresult drv_cuMemFreeHost(void *p)
{
    struct si_allocation found;
    if (p == NULL)
        return CUDA_SUCCESS;
    if (!si_memory_find((uintptr_t)p, &found) || found.kind != SI_MEMORY_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (si_context_check(found.context) == CUDA_SUCCESS)
        si_context_drain(found.context);
    return si_memory_free((uintptr_t)p, true);
}

CUresult drv_cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
    struct si_allocation found;
    if (pdptr == NULL || Flags != 0 || !si_memory_find((uintptr_t)p, &found) ||
        found.kind == SI_MEMORY_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    *pdptr = (uintptr_t)p;
    return CUDA_SUCCESS;
}

CUresult drv_cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
    struct si_allocation found;
    if (pFlags == NULL || !si_memory_find((uintptr_t)p, &found) || found.kind != SI_MEMORY_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    *pFlags = found.flags;
    return CUDA_SUCCESS;
}

CUresult drv_cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err != CUDA_SUCCESS)
        return err;
    if (p == NULL || bytesize == 0)
        return CUDA_ERROR_INVALID_VALUE;
    struct si_allocation allocation = {.start = (uintptr_t)p,
                                       .bytes = bytesize,
                                       .flags = Flags,
                                       .kind = SI_MEMORY_REGISTERED,
                                       .device = context->device,
                                       .context = context};
    return table_add(&allocation);
}

CUresult drv_cuMemHostUnregister(void *p)
{
    struct si_allocation found;
    if (!si_memory_find((uintptr_t)p, &found) || found.start != (uintptr_t)p ||
        found.kind != SI_MEMORY_REGISTERED)
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    table_take((uintptr_t)p, &found);
    return CUDA_SUCCESS;
}
