/* SPDX-License-Identifier: Apache-2.0 */
/* Events: each points to the op of its latest record, whose end is its time. */
#include <stdlib.h>

#include "call.h"
#include "drv_impl.h"
#include "graph.h"

CUresult si_event_check(CUevent event)
{
    if (event == NULL || event->magic != SI_MAGIC_EVENT)
        return CUDA_ERROR_INVALID_HANDLE;
    return CUDA_SUCCESS;
}

void si_event_ref(CUevent event)
{
    atomic_fetch_add_explicit(&event->refs, 1, memory_order_relaxed);
}

void si_event_unref(CUevent event)
{
    if (atomic_fetch_sub_explicit(&event->refs, 1, memory_order_acq_rel) != 1)
        return;
    si_op_unref(event->op);
    free(event->capture_deps);
    pthread_mutex_destroy(&event->lock);
    event->magic = 0;
    free(event);
}

void si_event_set(CUevent event, struct si_op *op)
{
    pthread_mutex_lock(&event->lock);
    struct si_op *before = event->op;
    event->op = si_op_ref(op);
    pthread_mutex_unlock(&event->lock);
    si_op_unref(before);
}

struct si_op *si_event_op(CUevent event)
{
    pthread_mutex_lock(&event->lock);
    struct si_op *op = event->op != NULL ? si_op_ref(event->op) : NULL;
    pthread_mutex_unlock(&event->lock);
    return op;
}

CUresult drv_cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err != CUDA_SUCCESS)
        return err;
    if (phEvent == NULL || (Flags & ~7u) != 0 ||
        ((Flags & CU_EVENT_INTERPROCESS) && !(Flags & CU_EVENT_DISABLE_TIMING)))
        return CUDA_ERROR_INVALID_VALUE;
    if (Flags & CU_EVENT_INTERPROCESS)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUevent event = calloc(1, sizeof(*event));
    if (event == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    event->magic = SI_MAGIC_EVENT;
    atomic_init(&event->refs, 1);
    event->flags = Flags;
    event->context = context;
    pthread_mutex_init(&event->lock, NULL);
    *phEvent = event;
    return CUDA_SUCCESS;
}

CUresult drv_cuEventDestroy_v2(CUevent hEvent)
{
    CUresult err = si_event_check(hEvent);
    if (err == CUDA_SUCCESS)
        si_event_unref(hEvent);
    return err;
}

CUresult drv_cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
    CUstream stream;
    CUresult err = si_event_check(hEvent);
    if (err == CUDA_SUCCESS)
        err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_legacy(stream);
    if (err != CUDA_SUCCESS)
        return err;
    if ((flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (hEvent->context->device != stream->context->device)
        return CUDA_ERROR_INVALID_HANDLE;
    err = si_capture_record(stream, hEvent, (flags & CU_EVENT_RECORD_EXTERNAL) != 0);
    if (err != CUDA_ERROR_NOT_READY)
        return err;
    struct si_work *work = si_work_new(SI_WORK_RECORD);
    struct si_op *op = work != NULL ? si_op_new(work) : NULL;
    if (op == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    si_op_ref(op);
    err = si_stream_put(stream, op, false);
    if (err == CUDA_SUCCESS)
        si_event_set(hEvent, op);
    si_op_unref(op);
    return err;
}

CUresult drv_cuEventRecord(CUevent hEvent, CUstream hStream)
{
    return drv_cuEventRecordWithFlags(hEvent, hStream, 0);
}

CUresult drv_cuEventQuery(CUevent hEvent)
{
    CUresult err = si_event_check(hEvent);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_event(hEvent);
    if (err != CUDA_SUCCESS)
        return err;
    struct si_op *op = si_event_op(hEvent);
    if (op != NULL)
        err = si_op_is_done(op) ? si_op_wait_host(op) : CUDA_ERROR_NOT_READY;
    si_op_unref(op);
    int sticky = atomic_load(&hEvent->context->error);
    return sticky != 0 ? sticky : err;
}

CUresult drv_cuEventSynchronize(CUevent hEvent)
{
    CUresult err = si_event_check(hEvent);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_event(hEvent);
    if (err != CUDA_SUCCESS)
        return err;
    struct si_op *op = si_event_op(hEvent);
    if (op != NULL)
        err = si_op_wait_host(op);
    si_op_unref(op);
    int sticky = atomic_load(&hEvent->context->error);
    return sticky != 0 ? sticky : err;
}

CUresult drv_cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    CUresult err = si_event_check(hStart);
    if (err == CUDA_SUCCESS)
        err = si_event_check(hEnd);
    if (err != CUDA_SUCCESS)
        return err;
    if (pMilliseconds == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if ((hStart->flags | hEnd->flags) & CU_EVENT_DISABLE_TIMING)
        return CUDA_ERROR_INVALID_HANDLE;
    struct si_op *start = si_event_op(hStart), *end = si_event_op(hEnd);
    if (start == NULL || end == NULL)
        err = CUDA_ERROR_INVALID_HANDLE;
    else if (!si_op_is_done(start) || !si_op_is_done(end))
        err = CUDA_ERROR_NOT_READY;
    else
        *pMilliseconds = (float)((double)(int64_t)(si_clock_device(end->end_ns) -
                                                   si_clock_device(start->end_ns)) /
                                 1e6);
    si_op_unref(start);
    si_op_unref(end);
    return err;
}

CUresult drv_cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    return drv_cuEventElapsedTime(pMilliseconds, hStart, hEnd);
}

CUresult drv_cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    CUstream stream;
    CUresult err = si_event_check(hEvent);
    if (err == CUDA_SUCCESS)
        err = si_stream_resolve(hStream, &stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_legacy(stream);
    if (err != CUDA_SUCCESS)
        return err;
    if ((Flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    err = si_capture_wait(stream, hEvent, (Flags & CU_EVENT_WAIT_EXTERNAL) != 0);
    if (err != CUDA_ERROR_NOT_READY)
        return err;
    struct si_op *recorded = si_event_op(hEvent);
    if (recorded == NULL)
        return CUDA_SUCCESS;
    struct si_work *work = si_work_new(SI_WORK_WAIT);
    struct si_op *op = work != NULL ? si_op_new(work) : NULL;
    if (op == NULL || si_op_add_dep(op, recorded) < 0) {
        si_op_unref(op);
        err = CUDA_ERROR_OUT_OF_MEMORY;
    } else {
        err = si_stream_put(stream, op, false);
    }
    si_op_unref(recorded);
    return err;
}

CUresult drv_cuIpcGetEventHandle(CUipcEventHandle *pHandle, CUevent event)
{
    (void)pHandle;
    (void)event;
    return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult drv_cuIpcOpenEventHandle(CUevent *phEvent, CUipcEventHandle handle)
{
    (void)phEvent;
    (void)handle;
    return CUDA_ERROR_NOT_SUPPORTED;
}
