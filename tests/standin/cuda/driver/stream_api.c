/* SPDX-License-Identifier: Apache-2.0 */
/* The stream functions of the driver API, but for capture. */
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"
#include "trace.h"

static void report(uint32_t cbid, CUstream stream)
{
    struct standin_resource what = {.cbid = cbid, .context = stream->context, .stream = stream};
    si_trace_resource(&what);
}

CUresult drv_cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err != CUDA_SUCCESS)
        return err;
    if (phStream == NULL || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    int clamped = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    CUstream stream = si_stream_new(context, flags, clamped, false);
    if (stream == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *phStream = stream;
    report(3, stream);
    return CUDA_SUCCESS;
}

CUresult drv_cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    return drv_cuStreamCreateWithPriority(phStream, Flags, 0);
}

CUresult drv_cuStreamDestroy_v2(CUstream hStream)
{
    CUstream stream;
    if (hStream == NULL || hStream == SI_STREAM_LEGACY || hStream == SI_STREAM_PER_THREAD)
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    report(4, stream);
    si_stream_close(stream);
    return CUDA_SUCCESS;
}

/* The legacy stream is idle, or done, only when every blocking stream is. */
static CUresult legacy_query(CUstream legacy)
{
    CUcontext context = legacy->context;
    bool idle = si_stream_idle(legacy);
    pthread_mutex_lock(&context->lock);
    for (CUstream s = context->streams; s != NULL && idle; s = s->next) {
        if (!(s->flags & CU_STREAM_NON_BLOCKING))
            idle = si_stream_idle(s);
    }
    pthread_mutex_unlock(&context->lock);
    return idle ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult drv_cuStreamQuery(CUstream hStream)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_legacy(stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_stream(stream);
    if (err != CUDA_SUCCESS)
        return err;
    int sticky = atomic_load(&stream->context->error);
    if (sticky != 0)
        return sticky;
    if (stream == stream->context->legacy)
        return legacy_query(stream);
    return si_stream_idle(stream) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult drv_cuStreamSynchronize(CUstream hStream)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_legacy(stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_stream(stream);
    if (err != CUDA_SUCCESS)
        return err;
    if (stream != stream->context->legacy)
        return si_stream_drain(stream);
    /* An empty op on the legacy stream waits for all that it has to wait for. */
    return si_submit_sync(SI_STREAM_LEGACY, si_work_new(SI_WORK_EMPTY));
}

CUresult drv_cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData,
                                 unsigned int flags)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_stream(stream);
    if (err != CUDA_SUCCESS)
        return err;
    if (callback == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    struct si_work *work = si_work_new(SI_WORK_CALLBACK);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->callback.fn = callback;
    work->callback.user = userData;
    work->callback.stream = hStream;
    return si_submit(hStream, work);
}

CUresult drv_cuStreamGetPriority(CUstream hStream, int *priority)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        *priority = stream->priority;
    return err;
}

CUresult drv_cuStreamGetDevice(CUstream hStream, CUdevice *device)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        *device = stream->context->device;
    return err;
}

CUresult drv_cuStreamGetFlags(CUstream hStream, unsigned int *flags)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        *flags = stream->flags;
    return err;
}

CUresult drv_cuStreamGetId(CUstream hStream, unsigned long long *streamId)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        *streamId = stream->id;
    return err;
}

CUresult drv_cuStreamGetCtx(CUstream hStream, CUcontext *pctx)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        *pctx = stream->context;
    return err;
}

CUresult drv_cuStreamGetCtx_v2(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
    if (pGreenCtx != NULL)
        *pGreenCtx = NULL;
    return drv_cuStreamGetCtx(hStream, pCtx);
}

static CUstreamAttrValue *attribute_slot(CUstream stream, CUstreamAttrID attr)
{
    switch (attr) {
    case 1: /* access policy window */
        return &stream->attributes[0];
    case 3: /* synchronisation policy */
        return &stream->attributes[1];
    case 9: /* memory synchronisation domain map */
        return &stream->attributes[2];
    case 10: /* memory synchronisation domain */
        return &stream->attributes[3];
    default:
        return NULL;
    }
}

enum { ATTRIBUTE_PRIORITY = 8 };

CUresult drv_cuStreamGetAttribute(CUstream hStream, CUstreamAttrID attr,
                                  CUstreamAttrValue *value_out)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    CUstreamAttrValue *slot = attribute_slot(stream, attr);
    if (attr == ATTRIBUTE_PRIORITY)
        value_out->priority = stream->priority;
    else if (slot == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    else
        *value_out = *slot;
    return CUDA_SUCCESS;
}

CUresult drv_cuStreamSetAttribute(CUstream hStream, CUstreamAttrID attr,
                                  const CUstreamAttrValue *value)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    CUstreamAttrValue *slot = attribute_slot(stream, attr);
    if (attr == ATTRIBUTE_PRIORITY)
        stream->priority = value->priority;
    else if (slot == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    else
        *slot = *value;
    return CUDA_SUCCESS;
}

CUresult drv_cuStreamCopyAttributes(CUstream dst, CUstream src)
{
    CUstream to, from;
    CUresult err = si_stream_resolve(dst, &to);
    if (err == CUDA_SUCCESS)
        err = si_stream_resolve(src, &from);
    if (err == CUDA_SUCCESS)
        memcpy(to->attributes, from->attributes, sizeof(to->attributes));
    return err;
}

CUresult drv_cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t length,
                                    unsigned int flags)
{
    (void)dptr;
    (void)length;
    (void)flags;
    return si_submit(hStream, si_work_new(SI_WORK_EMPTY));
}

CUresult drv_cuStreamBatchMemOp_v2(CUstream stream, unsigned int count,
                                   CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    if (count == 0 || count > 256 || paramArray == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    struct si_work *work = si_work_new(SI_WORK_MEMOPS);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->memops.ops = malloc(count * sizeof(*paramArray));
    if (work->memops.ops == NULL) {
        si_work_unref(work);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    memcpy(work->memops.ops, paramArray, count * sizeof(*paramArray));
    work->memops.count = count;
    return si_submit(stream, work);
}

static CUresult one_memop(CUstream stream, CUstreamBatchMemOpType type, CUdeviceptr address,
                          cuuint64_t value, unsigned flags)
{
    CUstreamBatchMemOpParams op = {.pad = {0}};
    op.waitValue.operation = type;
    op.waitValue.address = address;
    op.waitValue.value64 = value;
    op.waitValue.flags = flags;
    return drv_cuStreamBatchMemOp_v2(stream, 1, &op, 0);
}

CUresult drv_cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                    unsigned int flags)
{
    return one_memop(stream, CU_STREAM_MEM_OP_WAIT_VALUE_32, addr, value, flags);
}

CUresult drv_cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                    unsigned int flags)
{
    return one_memop(stream, CU_STREAM_MEM_OP_WAIT_VALUE_64, addr, value, flags);
}

CUresult drv_cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                     unsigned int flags)
{
    return one_memop(stream, CU_STREAM_MEM_OP_WRITE_VALUE_32, addr, value, flags);
}

CUresult drv_cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                     unsigned int flags)
{
    return one_memop(stream, CU_STREAM_MEM_OP_WRITE_VALUE_64, addr, value, flags);
}

SI_EXPORT int standin_stream_id(void *context, void *handle, int per_thread, uint32_t *id)
{
    CUstream stream;
    CUcontext of = context;
    if (handle == NULL && of != NULL && !per_thread) {
        CUresult err = si_context_check(of);
        if (err == CUDA_SUCCESS)
            *id = of->legacy->id;
        return err;
    }
    CUresult err =
        si_stream_resolve(handle == NULL && per_thread ? SI_STREAM_PER_THREAD : handle, &stream);
    if (err == CUDA_SUCCESS)
        *id = stream->id;
    return err;
}
