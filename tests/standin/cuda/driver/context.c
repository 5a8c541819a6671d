/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts: primary ones, counted, and those made by cuCtxCreate; the calling thread's stack. */
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "device.h"
#include "drv_impl.h"
#include "graph.h"
#include "trace.h"

static atomic_uint next_context_id = 1;

struct CUctx_st *si_context_new(int device, unsigned flags, bool primary)
{
    struct CUctx_st *context = calloc(1, sizeof(*context));
    if (context == NULL)
        return NULL;
    context->magic = SI_MAGIC_CONTEXT;
    context->id = atomic_fetch_add(&next_context_id, 1);
    context->device = device;
    context->flags = flags;
    context->primary = primary;
    context->limits[CU_LIMIT_STACK_SIZE] = 1024;
    context->limits[CU_LIMIT_PRINTF_FIFO_SIZE] = 1 << 20;
    context->limits[CU_LIMIT_MALLOC_HEAP_SIZE] = 8 << 20;
    pthread_mutex_init(&context->lock, NULL);
    context->next_stream_id = 7; /* CUPTI's number for the default stream */
    context->legacy = si_stream_new(context, CU_STREAM_DEFAULT, 0, false);
    context->next_stream_id = 13; /* and the first of the others */
    if (context->legacy == NULL) {
        free(context);
        return NULL;
    }
    struct standin_resource made = {.cbid = 1, .context = context};
    si_trace_resource(&made);
    return context;
}

/*
 * Ends its streams once they are empty. The context itself stays in memory: handles of it may be in
 * other threads' stacks, and using them must give an error, not a crash.
 */
void si_context_close(CUcontext context)
{
    struct standin_resource going = {.cbid = 2, .context = context};
    si_trace_resource(&going);
    si_context_drain(context);
    atomic_store(&context->destroyed, true);
    while (context->streams != NULL)
        si_stream_close(context->streams);
    context->legacy = NULL;
    context->per_thread = NULL;
}

CUresult si_context_check(CUcontext context)
{
    if (context == NULL || context->magic != SI_MAGIC_CONTEXT)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (atomic_load_explicit(&context->destroyed, memory_order_relaxed))
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return CUDA_SUCCESS;
}

CUcontext si_context_current(void)
{
    return si_thread.depth > 0 ? si_thread.contexts[si_thread.depth - 1] : NULL;
}

CUresult si_context_of_thread(CUcontext *context)
{
    *context = si_context_current();
    return si_context_check(*context);
}

CUcontext si_device_any_context(int device)
{
    struct si_device *d = si_device_get(device);
    return d != NULL ? d->primary : NULL;
}

/* Streams may come and go meanwhile: gather the ops first, wait without the lock. */
CUresult si_context_drain(CUcontext context)
{
    size_t count = 0, room = 0;
    struct si_op **ops = NULL;
    CUresult err = CUDA_SUCCESS;
    pthread_mutex_lock(&context->lock);
    for (CUstream s = context->streams; s != NULL; s = s->next)
        room++;
    ops = calloc(room + 1, sizeof(struct si_op *));
    for (CUstream s = context->streams; s != NULL && ops != NULL; s = s->next) {
        ops[count] = si_stream_last(s);
        if (ops[count] != NULL)
            count++;
    }
    pthread_mutex_unlock(&context->lock);
    if (ops == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) {
        CUresult one = si_op_wait_host(ops[i]);
        if (err == CUDA_SUCCESS)
            err = one;
        si_op_unref(ops[i]);
    }
    free(ops);
    int sticky = atomic_load(&context->error);
    return sticky != 0 ? sticky : err;
}

CUresult drv_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    struct si_device *device = si_device_get(dev);
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&device->lock);
    if (device->primary == NULL)
        device->primary = si_context_new(dev, device->primary_flags, true);
    if (device->primary != NULL)
        device->primary_refs++;
    *pctx = device->primary;
    pthread_mutex_unlock(&device->lock);
    return *pctx != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult primary_release(CUdevice dev, bool all)
{
    struct si_device *device = si_device_get(dev);
    CUcontext gone = NULL;
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&device->lock);
    if (device->primary == NULL && !all) {
        pthread_mutex_unlock(&device->lock);
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    if (all || --device->primary_refs == 0) {
        gone = device->primary;
        device->primary = NULL;
        device->primary_refs = 0;
    }
    pthread_mutex_unlock(&device->lock);
    if (gone != NULL)
        si_context_close(gone);
    return CUDA_SUCCESS;
}

CUresult drv_cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    return primary_release(dev, false);
}

CUresult drv_cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    return primary_release(dev, true);
}

CUresult drv_cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
{
    struct si_device *device = si_device_get(dev);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if ((flags & ~(unsigned)CU_CTX_FLAGS_MASK) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&device->lock);
    device->primary_flags = flags;
    if (device->primary != NULL)
        device->primary->flags = flags;
    pthread_mutex_unlock(&device->lock);
    return CUDA_SUCCESS;
}

CUresult drv_cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
    struct si_device *device = si_device_get(dev);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (flags == NULL || active == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&device->lock);
    *flags = device->primary_flags;
    *active = device->primary != NULL;
    pthread_mutex_unlock(&device->lock);
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (si_device_get(dev) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    CUcontext context = si_context_new(dev, flags, false);
    if (context == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *pctx = context;
    return drv_cuCtxPushCurrent_v2(context);
}

CUresult drv_cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *params, unsigned int flags,
                            CUdevice dev)
{
    if (params != NULL && (params->numExecAffinityParams != 0 || params->cigParams != NULL))
        return CUDA_ERROR_NOT_SUPPORTED;
    return drv_cuCtxCreate_v2(pctx, flags, dev);
}

CUresult drv_cuCtxDestroy_v2(CUcontext ctx)
{
    CUresult err = si_context_check(ctx);
    if (err != CUDA_SUCCESS)
        return err;
    if (ctx->primary)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (si_context_current() == ctx)
        si_thread.depth--;
    si_context_close(ctx);
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxPushCurrent_v2(CUcontext ctx)
{
    CUresult err = si_context_check(ctx);
    if (err != CUDA_SUCCESS)
        return err;
    if (si_thread.depth == SI_CONTEXT_DEPTH)
        return CUDA_ERROR_OUT_OF_MEMORY;
    si_thread.contexts[si_thread.depth++] = ctx;
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxPopCurrent_v2(CUcontext *pctx)
{
    if (si_thread.depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    CUcontext top = si_thread.contexts[--si_thread.depth];
    if (pctx != NULL)
        *pctx = top;
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxSetCurrent(CUcontext ctx)
{
    if (ctx == NULL) {
        if (si_thread.depth > 0)
            si_thread.depth--;
        return CUDA_SUCCESS;
    }
    CUresult err = si_context_check(ctx);
    if (err != CUDA_SUCCESS)
        return err;
    if (si_thread.depth == 0)
        si_thread.depth = 1;
    si_thread.contexts[si_thread.depth - 1] = ctx;
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxGetCurrent(CUcontext *pctx)
{
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pctx = si_context_current();
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx)
{
    CUresult err = ctx != NULL ? si_context_check(ctx) : si_context_of_thread(&ctx);
    if (err != CUDA_SUCCESS)
        return err;
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *device = ctx->device;
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxGetDevice(CUdevice *device)
{
    return drv_cuCtxGetDevice_v2(device, NULL);
}

CUresult drv_cuCtxGetFlags(unsigned int *flags)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err == CUDA_SUCCESS)
        *flags = context->flags;
    return err;
}

CUresult drv_cuCtxSetFlags(unsigned int flags)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err == CUDA_SUCCESS)
        context->flags = flags;
    return err;
}

CUresult drv_cuCtxGetId(CUcontext ctx, unsigned long long *ctxId)
{
    CUresult err = ctx != NULL ? si_context_check(ctx) : si_context_of_thread(&ctx);
    if (err == CUDA_SUCCESS)
        *ctxId = ctx->id;
    return err;
}

CUresult drv_cuCtxSynchronize_v2(CUcontext ctx)
{
    CUresult err = ctx != NULL ? si_context_check(ctx) : si_context_of_thread(&ctx);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_context(ctx);
    return err == CUDA_SUCCESS ? si_context_drain(ctx) : err;
}

CUresult drv_cuCtxSynchronize(void)
{
    return drv_cuCtxSynchronize_v2(NULL);
}

CUresult drv_cuCtxSetLimit(CUlimit limit, size_t value)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err != CUDA_SUCCESS)
        return err;
    if (limit < 0 || limit >= (int)(sizeof(context->limits) / sizeof(context->limits[0])))
        return CUDA_ERROR_INVALID_VALUE;
    context->limits[limit] = value;
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err != CUDA_SUCCESS)
        return err;
    if (limit < 0 || limit >= (int)(sizeof(context->limits) / sizeof(context->limits[0])))
        return CUDA_ERROR_INVALID_VALUE;
    *pvalue = context->limits[limit];
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err == CUDA_SUCCESS)
        *pconfig = context->cache_config;
    return err;
}

CUresult drv_cuCtxSetCacheConfig(CUfunc_cache config)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err == CUDA_SUCCESS)
        context->cache_config = config;
    return err;
}

CUresult drv_cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
    (void)ctx;
    *version = 3020; /* what the real driver has said since contexts of that version */
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    if (leastPriority != NULL)
        *leastPriority = 0;
    if (greatestPriority != NULL)
        *greatestPriority = -5;
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxResetPersistingL2Cache(void)
{
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxGetSharedMemConfig(CUsharedconfig *pConfig)
{
    *pConfig = 1; /* four-byte banks */
    return CUDA_SUCCESS;
}

CUresult drv_cuCtxSetSharedMemConfig(CUsharedconfig config)
{
    (void)config;
    return CUDA_SUCCESS;
}

static CUresult change_peer(CUcontext peer, bool enable)
{
    CUcontext context;
    CUresult err = si_context_of_thread(&context);
    if (err == CUDA_SUCCESS)
        err = si_context_check(peer);
    if (err != CUDA_SUCCESS)
        return err;
    if (peer->device == context->device)
        return enable ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    uint64_t bit = UINT64_C(1) << peer->device;
    pthread_mutex_lock(&context->lock);
    bool had = (context->peers & bit) != 0;
    context->peers = enable ? context->peers | bit : context->peers & ~bit;
    pthread_mutex_unlock(&context->lock);
    if (enable)
        return had ? CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED : CUDA_SUCCESS;
    return had ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}

CUresult drv_cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
    return Flags != 0 ? CUDA_ERROR_INVALID_VALUE : change_peer(peerContext, true);
}

CUresult drv_cuCtxDisablePeerAccess(CUcontext peerContext)
{
    return change_peer(peerContext, false);
}

SI_EXPORT int standin_context_id(void *handle, uint32_t *id)
{
    CUcontext context = handle != NULL ? handle : si_context_current();
    CUresult err = si_context_check(context);
    if (err == CUDA_SUCCESS)
        *id = context->id;
    return err;
}

SI_EXPORT int standin_context_device(void *handle, uint32_t *device)
{
    CUcontext context = handle;
    CUresult err = si_context_check(context);
    if (err == CUDA_SUCCESS)
        *device = (uint32_t)context->device;
    return err;
}
