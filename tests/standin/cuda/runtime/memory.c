/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the runtime: allocation, pointers, copies, fills. */
#include <string.h>

#include "runtime/rt.h"

static CUdeviceptr device_pointer(const void *pointer)
{
    return (CUdeviceptr)(uintptr_t)pointer;
}

static cudaError_t give(void **out, CUdeviceptr pointer, cudaError_t err)
{
    if (err == cudaSuccess)
        *out = (void *)(uintptr_t)pointer;
    return err;
}

/* ---- Allocation ---- */

cudaError_t rt_cudaMalloc(void **devPtr, size_t size)
{
    CUdeviceptr pointer = 0;
    if (devPtr == NULL)
        return cudaErrorInvalidValue;
    *devPtr = NULL;
    if (size == 0)
        return cudaSuccess;
    cudaError_t err = rt_driver.cuMemAlloc_v2(&pointer, size);
    return give(devPtr, pointer, err);
}

cudaError_t rt_cudaMallocHost(void **ptr, size_t size)
{
    return rt_cudaHostAlloc(ptr, size, 0);
}

cudaError_t rt_cudaMallocManaged(void **devPtr, size_t size, unsigned int flags)
{
    CUdeviceptr pointer = 0;
    if (devPtr == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = rt_driver.cuMemAllocManaged(&pointer, size, flags);
    return give(devPtr, pointer, err);
}

cudaError_t rt_cudaMallocPitch(void **devPtr, size_t *pitch, size_t width, size_t height)
{
    CUdeviceptr pointer = 0;
    if (devPtr == NULL || pitch == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = rt_driver.cuMemAllocPitch_v2(&pointer, pitch, width, height, 16);
    return give(devPtr, pointer, err);
}

cudaError_t rt_cudaMalloc3D(cudaPitchedPtr *pitchedDevPtr, cudaExtent extent)
{
    if (pitchedDevPtr == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = rt_cudaMallocPitch(&pitchedDevPtr->ptr, &pitchedDevPtr->pitch, extent.width,
                                         extent.height * extent.depth);
    pitchedDevPtr->xsize = extent.width;
    pitchedDevPtr->ysize = extent.height;
    return err;
}

cudaError_t rt_cudaFree(void *devPtr)
{
    return rt_driver.cuMemFree_v2(device_pointer(devPtr));
}

cudaError_t rt_cudaMallocAsync(void **devPtr, size_t size, cudaStream_t hStream)
{
    CUdeviceptr pointer = 0;
    if (devPtr == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = rt_driver.cuMemAllocAsync(&pointer, size, rt_stream(hStream));
    return give(devPtr, pointer, err);
}

cudaError_t rt_cudaMallocFromPoolAsync(void **ptr, size_t size, cudaMemPool_t memPool,
                                       cudaStream_t stream)
{
    CUdeviceptr pointer = 0;
    if (ptr == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = rt_driver.cuMemAllocFromPoolAsync(&pointer, size, memPool, rt_stream(stream));
    return give(ptr, pointer, err);
}

cudaError_t rt_cudaFreeAsync(void *devPtr, cudaStream_t hStream)
{
    return rt_driver.cuMemFreeAsync(device_pointer(devPtr), rt_stream(hStream));
}

cudaError_t rt_cudaMemAdvise(const void *devPtr, size_t count, cudaMemoryAdvise advice,
                             cudaMemLocation location)
{
    return rt_driver.cuMemAdvise_v2(device_pointer(devPtr), count, advice, location);
}

cudaError_t rt_cudaMemPrefetchAsync(const void *devPtr, size_t count, cudaMemLocation location,
                                    unsigned int flags, cudaStream_t stream)
{
    return rt_driver.cuMemPrefetchAsync_v2(device_pointer(devPtr), count, location, flags,
                                           rt_stream(stream));
}

/* ---- Pointers ---- */

cudaError_t rt_cudaHostGetDevicePointer(void **pDevice, void *pHost, unsigned int flags)
{
    CUdeviceptr pointer = 0;
    if (pDevice == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = rt_driver.cuMemHostGetDevicePointer_v2(&pointer, pHost, flags);
    return give(pDevice, pointer, err);
}

cudaError_t rt_cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *ptr)
{
    CUpointer_attribute which[] = {
        CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
        CU_POINTER_ATTRIBUTE_HOST_POINTER, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
        CU_POINTER_ATTRIBUTE_IS_MANAGED};
    unsigned type = 0, managed = 0;
    CUdeviceptr device = 0;
    void *host = NULL;
    int ordinal = -2;
    void *out[] = {&type, &device, &host, &ordinal, &managed};
    if (attributes == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = rt_driver.cuPointerGetAttributes(5, which, out, device_pointer(ptr));
    if (err != cudaSuccess)
        return err;
    memset(attributes, 0, sizeof(*attributes));
    attributes->type = managed                        ? cudaMemoryTypeManaged
                       : type == CU_MEMORYTYPE_DEVICE ? cudaMemoryTypeDevice
                       : type == CU_MEMORYTYPE_HOST   ? cudaMemoryTypeHost
                                                      : cudaMemoryTypeUnregistered;
    attributes->device = ordinal;
    attributes->devicePointer = (void *)(uintptr_t)device;
    attributes->hostPointer =
        attributes->type == cudaMemoryTypeUnregistered ? (void *)(uintptr_t)ptr : host;
    return cudaSuccess;
}

cudaError_t rt_cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *devPtr)
{
    return rt_driver.cuIpcGetMemHandle(handle, device_pointer(devPtr));
}

cudaError_t rt_cudaIpcOpenMemHandle(void **devPtr, cudaIpcMemHandle_t handle, unsigned int flags)
{
    CUdeviceptr pointer = 0;
    cudaError_t err = rt_driver.cuIpcOpenMemHandle_v2(&pointer, handle, flags);
    return give(devPtr, pointer, err);
}

cudaError_t rt_cudaIpcCloseMemHandle(void *devPtr)
{
    return rt_driver.cuIpcCloseMemHandle(device_pointer(devPtr));
}

/* ---- Copies. The direction is not needed, addresses being unique; a wrong number is refused. ----
 */

static cudaError_t copy(void *dst, const void *src, size_t count, cudaMemcpyKind kind)
{
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    if (!rt_thread.per_thread_default)
        return rt_driver.cuMemcpy(device_pointer(dst), device_pointer(src), count);
    cudaError_t err =
        rt_driver.cuMemcpyAsync(device_pointer(dst), device_pointer(src), count, rt_stream(NULL));
    return err == cudaSuccess ? rt_driver.cuStreamSynchronize(rt_stream(NULL)) : err;
}

static cudaError_t copy_async(void *dst, const void *src, size_t count, cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    return rt_driver.cuMemcpyAsync(device_pointer(dst), device_pointer(src), count,
                                   rt_stream(stream));
}

cudaError_t rt_cudaMemcpy(void *dst, const void *src, size_t count, cudaMemcpyKind kind)
{
    return copy(dst, src, count, kind);
}

cudaError_t rt_cudaMemcpyAsync(void *dst, const void *src, size_t count, cudaMemcpyKind kind,
                               cudaStream_t stream)
{
    return copy_async(dst, src, count, kind, stream);
}

cudaError_t rt_cudaMemcpyPeer(void *dst, int dstDevice, const void *src, int srcDevice,
                              size_t count)
{
    (void)dstDevice;
    (void)srcDevice;
    return copy(dst, src, count, cudaMemcpyDefault);
}

cudaError_t rt_cudaMemcpyPeerAsync(void *dst, int dstDevice, const void *src, int srcDevice,
                                   size_t count, cudaStream_t stream)
{
    (void)dstDevice;
    (void)srcDevice;
    return copy_async(dst, src, count, cudaMemcpyDefault, stream);
}

static cudaError_t symbol_address(const void *symbol, size_t count, size_t offset, char **address)
{
    void *base;
    size_t bytes;
    cudaError_t err = rt_find_symbol(symbol, &base, &bytes);
    if (err != cudaSuccess)
        return err;
    if (offset > bytes || count > bytes - offset)
        return cudaErrorInvalidValue;
    *address = (char *)base + offset;
    return cudaSuccess;
}

cudaError_t rt_cudaMemcpyToSymbol(const void *symbol, const void *src, size_t count, size_t offset,
                                  cudaMemcpyKind kind)
{
    char *address;
    cudaError_t err = symbol_address(symbol, count, offset, &address);
    return err == cudaSuccess ? copy(address, src, count, kind) : err;
}

cudaError_t rt_cudaMemcpyFromSymbol(void *dst, const void *symbol, size_t count, size_t offset,
                                    cudaMemcpyKind kind)
{
    char *address;
    cudaError_t err = symbol_address(symbol, count, offset, &address);
    return err == cudaSuccess ? copy(dst, address, count, kind) : err;
}

cudaError_t rt_cudaMemcpyToSymbolAsync(const void *symbol, const void *src, size_t count,
                                       size_t offset, cudaMemcpyKind kind, cudaStream_t stream)
{
    char *address;
    cudaError_t err = symbol_address(symbol, count, offset, &address);
    return err == cudaSuccess ? copy_async(address, src, count, kind, stream) : err;
}

cudaError_t rt_cudaMemcpyFromSymbolAsync(void *dst, const void *symbol, size_t count, size_t offset,
                                         cudaMemcpyKind kind, cudaStream_t stream)
{
    char *address;
    cudaError_t err = symbol_address(symbol, count, offset, &address);
    return err == cudaSuccess ? copy_async(dst, address, count, kind, stream) : err;
}

cudaError_t rt_cudaGetSymbolAddress(void **devPtr, const void *symbol)
{
    return rt_find_symbol(symbol, devPtr, NULL);
}

cudaError_t rt_cudaGetSymbolSize(size_t *size, const void *symbol)
{
    return rt_find_symbol(symbol, NULL, size);
}

cudaError_t rt_cudaMemcpyBatchAsync(void *const *dsts, const void *const *srcs, const size_t *sizes,
                                    size_t count, cudaMemcpyAttributes *attrs, size_t *attrsIdxs,
                                    size_t numAttrs, cudaStream_t stream)
{
    _Static_assert(sizeof(void *) == sizeof(CUdeviceptr), "pointers are passed as device pointers");
    return rt_driver.cuMemcpyBatchAsync_v2(
        (CUdeviceptr *)(uintptr_t)dsts, (CUdeviceptr *)(uintptr_t)srcs, (size_t *)(uintptr_t)sizes,
        count, attrs, attrsIdxs, numAttrs, rt_stream(stream));
}

static cudaError_t copy_3d(const CUDA_MEMCPY3D *p, bool sync, cudaStream_t stream)
{
    if (sync && !rt_thread.per_thread_default)
        return rt_driver.cuMemcpy3D_v2(p);
    cudaError_t err = rt_driver.cuMemcpy3DAsync_v2(p, rt_stream(stream));
    return err == cudaSuccess && sync ? rt_driver.cuStreamSynchronize(rt_stream(stream)) : err;
}

static cudaError_t copy_2d(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width,
                           size_t height, bool sync, cudaStream_t stream)
{
    CUDA_MEMCPY3D p = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                       .srcDevice = device_pointer(src),
                       .srcPitch = spitch,
                       .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
                       .dstDevice = device_pointer(dst),
                       .dstPitch = dpitch,
                       .WidthInBytes = width,
                       .Height = height,
                       .Depth = 1};
    if (width > dpitch || width > spitch)
        return cudaErrorInvalidValue;
    return copy_3d(&p, sync, stream);
}

cudaError_t rt_cudaMemcpy2D(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width,
                            size_t height, cudaMemcpyKind kind)
{
    (void)kind;
    return copy_2d(dst, dpitch, src, spitch, width, height, true, NULL);
}

cudaError_t rt_cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch,
                                 size_t width, size_t height, cudaMemcpyKind kind,
                                 cudaStream_t stream)
{
    (void)kind;
    return copy_2d(dst, dpitch, src, spitch, width, height, false, stream);
}

cudaError_t rt_cudaMemcpy3D(const cudaMemcpy3DParms *p)
{
    CUDA_MEMCPY3D wide;
    cudaError_t err = rt_copy_params(p, &wide);
    return err == cudaSuccess ? copy_3d(&wide, true, NULL) : err;
}

cudaError_t rt_cudaMemcpy3DAsync(const cudaMemcpy3DParms *p, cudaStream_t stream)
{
    CUDA_MEMCPY3D wide;
    cudaError_t err = rt_copy_params(p, &wide);
    return err == cudaSuccess ? copy_3d(&wide, false, stream) : err;
}

/* ---- Fills ---- */

static cudaError_t fill(void *devPtr, size_t pitch, int value, size_t width, size_t height,
                        bool sync, cudaStream_t stream)
{
    unsigned char byte = (unsigned char)value;
    CUdeviceptr pointer = device_pointer(devPtr);
    if (sync && !rt_thread.per_thread_default)
        return height == 1 ? rt_driver.cuMemsetD8_v2(pointer, byte, width)
                           : rt_driver.cuMemsetD2D8_v2(pointer, pitch, byte, width, height);
    CUstream s = rt_stream(stream);
    cudaError_t err = height == 1
                          ? rt_driver.cuMemsetD8Async(pointer, byte, width, s)
                          : rt_driver.cuMemsetD2D8Async(pointer, pitch, byte, width, height, s);
    return err == cudaSuccess && sync ? rt_driver.cuStreamSynchronize(s) : err;
}

cudaError_t rt_cudaMemset(void *devPtr, int value, size_t count)
{
    return fill(devPtr, count, value, count, 1, true, NULL);
}

cudaError_t rt_cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t stream)
{
    return fill(devPtr, count, value, count, 1, false, stream);
}

cudaError_t rt_cudaMemset2D(void *devPtr, size_t pitch, int value, size_t width, size_t height)
{
    return fill(devPtr, pitch, value, width, height, true, NULL);
}

cudaError_t rt_cudaMemset2DAsync(void *devPtr, size_t pitch, int value, size_t width, size_t height,
                                 cudaStream_t stream)
{
    return fill(devPtr, pitch, value, width, height, false, stream);
}

static cudaError_t fill_3d(cudaPitchedPtr p, int value, cudaExtent extent, bool sync,
                           cudaStream_t stream)
{
    cudaError_t err = cudaSuccess;
    for (size_t z = 0; z < extent.depth && err == cudaSuccess; z++)
        err = fill((char *)p.ptr + z * p.pitch * p.ysize, p.pitch, value, extent.width,
                   extent.height, sync, stream);
    return err;
}

cudaError_t rt_cudaMemset3D(cudaPitchedPtr pitchedDevPtr, int value, cudaExtent extent)
{
    return fill_3d(pitchedDevPtr, value, extent, true, NULL);
}

cudaError_t rt_cudaMemset3DAsync(cudaPitchedPtr pitchedDevPtr, int value, cudaExtent extent,
                                 cudaStream_t stream)
{
    return fill_3d(pitchedDevPtr, value, extent, false, stream);
}
