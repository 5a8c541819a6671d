/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies and fills. Every copy is described as a three-dimensional one, which is what graph nodes
 * hold. Arrays and textures do not exist here.
 */
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"

static struct si_work *copy_work(const CUDA_MEMCPY3D *params)
{
    struct si_work *work = si_work_new(SI_WORK_COPY);
    if (work == NULL)
        return NULL;
    work->copy.params = *params;
    work->copy.count = 1;
    work->copy.context = si_context_current();
    return work;
}

static bool is_pageable(uintptr_t address)
{
    struct si_allocation found;
    return !si_memory_find(address, &found);
}

/*
 * From pageable memory the real driver has read the source before an asynchronous copy returns, and
 * programs reuse the buffer at once; to pageable memory it returns when the copy is done. A
 * captured copy does neither: it happens at each replay.
 */
static CUresult copy_async(const CUDA_MEMCPY3D *params, CUstream handle)
{
    CUstream stream;
    CUresult err = si_stream_resolve(handle, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    const CUDA_MEMCPY3D *p = params;
    uintptr_t src = p->srcMemoryType == CU_MEMORYTYPE_HOST ? (uintptr_t)p->srcHost : p->srcDevice;
    uintptr_t dst = p->dstMemoryType == CU_MEMORYTYPE_HOST ? (uintptr_t)p->dstHost : p->dstDevice;
    if (si_capture_active(stream) || (!is_pageable(src) && !is_pageable(dst)))
        return si_submit(handle, copy_work(params));
    if (is_pageable(dst) || p->Height != 1 || p->Depth != 1)
        return si_submit_sync(handle, copy_work(params));
    void *staged = malloc(p->WidthInBytes);
    struct si_work *work = copy_work(params);
    if (staged == NULL || work == NULL) {
        free(staged);
        si_work_unref(work);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    memcpy(staged, (const char *)src + p->srcXInBytes, p->WidthInBytes);
    work->copy.staged = staged;
    work->copy.params.srcMemoryType = CU_MEMORYTYPE_HOST;
    work->copy.params.srcHost = staged;
    work->copy.params.srcXInBytes = 0;
    return si_submit(handle, work);
}

static CUresult copy_3d(const CUDA_MEMCPY3D *params, CUstream stream, bool sync)
{
    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (params->srcMemoryType == CU_MEMORYTYPE_ARRAY ||
        params->dstMemoryType == CU_MEMORYTYPE_ARRAY)
        return CUDA_ERROR_NOT_SUPPORTED;
    return sync ? si_submit_sync(stream, copy_work(params)) : copy_async(params, stream);
}

static CUresult copy_1d(uintptr_t dst, uintptr_t src, size_t bytes, CUstream stream, bool sync)
{
    CUDA_MEMCPY3D p = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                       .srcDevice = src,
                       .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
                       .dstDevice = dst,
                       .WidthInBytes = bytes,
                       .Height = 1,
                       .Depth = 1};
    if (bytes == 0)
        return CUDA_SUCCESS;
    if (dst == 0 || src == 0)
        return CUDA_ERROR_INVALID_VALUE;
    return copy_3d(&p, stream, sync);
}

static CUresult copy_2d(const CUDA_MEMCPY2D *c, CUstream stream, bool sync)
{
    if (c == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_MEMCPY3D p = {
        .srcXInBytes = c->srcXInBytes,
        .srcY = c->srcY,
        .srcMemoryType = c->srcMemoryType,
        .srcHost = c->srcHost,
        .srcDevice = c->srcDevice,
        .srcArray = c->srcArray,
        .srcPitch = c->srcPitch,
        .dstXInBytes = c->dstXInBytes,
        .dstY = c->dstY,
        .dstMemoryType = c->dstMemoryType,
        .dstHost = c->dstHost,
        .dstDevice = c->dstDevice,
        .dstArray = c->dstArray,
        .dstPitch = c->dstPitch,
        .WidthInBytes = c->WidthInBytes,
        .Height = c->Height,
        .Depth = 1,
    };
    return copy_3d(&p, stream, sync);
}

CUresult drv_cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
    return copy_1d(dst, src, ByteCount, NULL, true);
}

CUresult drv_cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                          CUcontext srcContext, size_t ByteCount)
{
    (void)dstContext;
    (void)srcContext;
    return copy_1d(dstDevice, srcDevice, ByteCount, NULL, true);
}

CUresult drv_cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
    return copy_1d(dstDevice, (uintptr_t)srcHost, ByteCount, NULL, true);
}

CUresult drv_cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
    return copy_1d((uintptr_t)dstHost, srcDevice, ByteCount, NULL, true);
}

CUresult drv_cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount)
{
    return copy_1d(dstDevice, srcDevice, ByteCount, NULL, true);
}

CUresult drv_cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
    return copy_2d(pCopy, NULL, true);
}

CUresult drv_cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
    return copy_2d(pCopy, NULL, true);
}

CUresult drv_cuMemcpy3D_v2(const CUDA_MEMCPY3D *pCopy)
{
    return copy_3d(pCopy, NULL, true);
}

CUresult drv_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
    return copy_1d(dst, src, ByteCount, hStream, false);
}

CUresult drv_cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                               CUcontext srcContext, size_t ByteCount, CUstream hStream)
{
    (void)dstContext;
    (void)srcContext;
    return copy_1d(dstDevice, srcDevice, ByteCount, hStream, false);
}

CUresult drv_cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount,
                                  CUstream hStream)
{
    return copy_1d(dstDevice, (uintptr_t)srcHost, ByteCount, hStream, false);
}

CUresult drv_cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                                  CUstream hStream)
{
    return copy_1d((uintptr_t)dstHost, srcDevice, ByteCount, hStream, false);
}

CUresult drv_cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                                  CUstream hStream)
{
    return copy_1d(dstDevice, srcDevice, ByteCount, hStream, false);
}

CUresult drv_cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
    return copy_2d(pCopy, hStream, false);
}

CUresult drv_cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
    return copy_3d(pCopy, hStream, false);
}

CUresult drv_cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes,
                                   size_t count, CUmemcpyAttributes *attrs, size_t *attrIdxs,
                                   size_t numAttrs, CUstream hStream)
{
    (void)attrs;
    (void)attrIdxs;
    (void)numAttrs;
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    if (dsts == NULL || srcs == NULL || sizes == NULL || count == 0 || count > UINT32_MAX ||
        hStream == NULL || hStream == SI_STREAM_LEGACY)
        return CUDA_ERROR_INVALID_VALUE;
    struct si_work *work = si_work_new(SI_WORK_COPY);
    struct si_copy_item *batch = calloc(count, sizeof(*batch));
    if (work == NULL || batch == NULL) {
        si_work_unref(work);
        free(batch);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        batch[i].dst = (void *)(uintptr_t)dsts[i];
        batch[i].src = (const void *)(uintptr_t)srcs[i];
        batch[i].bytes = sizes[i];
    }
    work->copy.count = (uint32_t)count;
    work->copy.batch = batch;
    return si_submit(hStream, work);
}

CUresult drv_cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                                CUmemcpyAttributes *attrs, size_t *attrIdxs, size_t numAttrs,
                                size_t *failIdx, CUstream hStream)
{
    if (failIdx != NULL)
        *failIdx = SIZE_MAX;
    return drv_cuMemcpyBatchAsync_v2(dsts, srcs, sizes, count, attrs, attrIdxs, numAttrs, hStream);
}

static CUresult fill(CUdeviceptr dst, size_t pitch, unsigned value, unsigned element, size_t width,
                     size_t height, CUstream stream, bool sync)
{
    if (width == 0 || height == 0)
        return CUDA_SUCCESS;
    if (dst == 0 || dst % element != 0)
        return CUDA_ERROR_INVALID_VALUE;
    struct si_work *work = si_work_new(SI_WORK_FILL);
    if (work != NULL)
        work->fill.params = (CUDA_MEMSET_NODE_PARAMS_v2){.dst = dst,
                                                         .pitch = pitch,
                                                         .value = value,
                                                         .elementSize = element,
                                                         .width = width,
                                                         .height = height,
                                                         .ctx = si_context_current()};
    return sync ? si_submit_sync(stream, work) : si_submit(stream, work);
}

CUresult drv_cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N)
{
    return fill(dstDevice, N, uc, 1, N, 1, NULL, true);
}

CUresult drv_cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N)
{
    return fill(dstDevice, N * 2, us, 2, N, 1, NULL, true);
}

CUresult drv_cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N)
{
    return fill(dstDevice, N * 4, ui, 4, N, 1, NULL, true);
}

CUresult drv_cuMemsetD2D8_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                             size_t Height)
{
    return fill(dstDevice, dstPitch, uc, 1, Width, Height, NULL, true);
}

CUresult drv_cuMemsetD2D16_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us,
                              size_t Width, size_t Height)
{
    return fill(dstDevice, dstPitch, us, 2, Width, Height, NULL, true);
}

CUresult drv_cuMemsetD2D32_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                              size_t Height)
{
    return fill(dstDevice, dstPitch, ui, 4, Width, Height, NULL, true);
}

CUresult drv_cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
{
    return fill(dstDevice, N, uc, 1, N, 1, hStream, false);
}

CUresult drv_cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream)
{
    return fill(dstDevice, N * 2, us, 2, N, 1, hStream, false);
}

CUresult drv_cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream)
{
    return fill(dstDevice, N * 4, ui, 4, N, 1, hStream, false);
}

CUresult drv_cuMemsetD2D8Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc,
                               size_t Width, size_t Height, CUstream hStream)
{
    return fill(dstDevice, dstPitch, uc, 1, Width, Height, hStream, false);
}

CUresult drv_cuMemsetD2D16Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us,
                                size_t Width, size_t Height, CUstream hStream)
{
    return fill(dstDevice, dstPitch, us, 2, Width, Height, hStream, false);
}

CUresult drv_cuMemsetD2D32Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui,
                                size_t Width, size_t Height, CUstream hStream)
{
    return fill(dstDevice, dstPitch, ui, 4, Width, Height, hStream, false);
}
