/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little of the CUDA driver API that the stand-in NCCL uses, looked up in the libcuda.so.1 of
 * the process. Real NCCL has cudart inside and loads the driver at run time: this does the same, so
 * that it can be loaded, and fails as NCCL does, where there is no driver.
 */
#include <dlfcn.h>
#include <stddef.h>

#include "../cuda/standin_cuda.h"
#include "standin.h"

typedef unsigned long long cu_ptr;

#define DRIVER(X)                                                                                  \
    X(cuInit, int, (unsigned))                                                                     \
    X(cuDeviceGetCount, int, (int *))                                                              \
    X(cuDevicePrimaryCtxRetain, int, (sn_ctx *, int))                                              \
    X(cuCtxGetCurrent, int, (sn_ctx *))                                                            \
    X(cuCtxSetCurrent, int, (sn_ctx))                                                              \
    X(cuCtxGetDevice, int, (int *))                                                                \
    X(cuEventCreate, int, (sn_event *, unsigned))                                                  \
    X(cuEventDestroy_v2, int, (sn_event))                                                          \
    X(cuEventRecord, int, (sn_event, cudaStream_t))                                                \
    X(cuStreamWaitEvent, int, (cudaStream_t, sn_event, unsigned))                                  \
    X(cuStreamGetCaptureInfo_v2, int,                                                              \
      (cudaStream_t, int *, uint64_t *, void **, const void ***, size_t *))                        \
    X(cuMemcpyAsync, int, (cu_ptr, cu_ptr, size_t, cudaStream_t))                                  \
    X(cuMemAlloc_v2, int, (cu_ptr *, size_t))                                                      \
    X(cuMemFree_v2, int, (cu_ptr))                                                                 \
    X(standin_device_op, int,                                                                      \
      (cudaStream_t, const char *, standin_run_fn, void *, void (*)(void *)))                      \
    X(standin_device_copies, int,                                                                  \
      (cudaStream_t, uint32_t, uint64_t, standin_run_fn, void *, void (*)(void *)))

#define DECLARE(name, ret, args) ret(*name) args;
static struct {
    DRIVER(DECLARE)
} driver;

static pthread_once_t driver_once = PTHREAD_ONCE_INIT;
static const char *driver_error;

static void load_driver(void)
{
    void *handle = dlopen("libcuda.so.1", RTLD_NOW);

    if (!handle) {
        driver_error =
            "no libcuda.so.1: CUDA driver version is insufficient for CUDA runtime version";
        return;
    }
#define LOOK_UP(name, ret, args)                                                                   \
    *(void **)&driver.name = dlsym(handle, #name);                                                 \
    if (!driver.name && !driver_error)                                                             \
        driver_error = "libcuda.so.1 lacks " #name ": it is not skewscope's stand-in driver";
    DRIVER(LOOK_UP)
    if (!driver_error && driver.cuInit(0) != 0)
        driver_error = "cuInit failed";
}

ncclResult_t sn_cu_init(void)
{
    pthread_once(&driver_once, load_driver);
    if (driver_error)
        return sn_fail(ncclUnhandledCudaError, "%s", driver_error);
    return ncclSuccess;
}

static ncclResult_t checked(int error, const char *call)
{
    if (error == 0)
        return ncclSuccess;
    return sn_fail(ncclUnhandledCudaError, "%s failed with CUDA error %d", call, error);
}

#define CU(name, ...) checked(driver.name(__VA_ARGS__), #name)

ncclResult_t sn_cu_set_device(int device)
{
    sn_ctx ctx;
    ncclResult_t result = CU(cuDevicePrimaryCtxRetain, &ctx, device);

    return result ? result : CU(cuCtxSetCurrent, ctx);
}

ncclResult_t sn_cu_current(sn_ctx *ctx, int *device)
{
    ncclResult_t result = sn_cu_init();

    if (!result)
        result = CU(cuCtxGetCurrent, ctx);
    if (!result && !*ctx) {
        result = sn_cu_set_device(0);
        if (!result)
            result = CU(cuCtxGetCurrent, ctx);
    }
    return result ? result : CU(cuCtxGetDevice, device);
}

ncclResult_t sn_cu_device_count(int *count)
{
    ncclResult_t result = sn_cu_init();

    return result ? result : CU(cuDeviceGetCount, count);
}

sn_ctx sn_cu_push(sn_ctx ctx)
{
    sn_ctx before = NULL;

    if (driver.cuCtxGetCurrent(&before) == 0 && before != ctx)
        driver.cuCtxSetCurrent(ctx);
    return before;
}

void sn_cu_pop(sn_ctx before)
{
    sn_ctx now = NULL;

    if (driver.cuCtxGetCurrent(&now) == 0 && now != before)
        driver.cuCtxSetCurrent(before);
}

ncclResult_t sn_cu_event_create(sn_event *event)
{
    return CU(cuEventCreate, event, 2 /* CU_EVENT_DISABLE_TIMING */);
}

void sn_cu_event_destroy(sn_event event)
{
    if (event)
        driver.cuEventDestroy_v2(event);
}

ncclResult_t sn_cu_event_record(sn_event event, cudaStream_t stream)
{
    return CU(cuEventRecord, event, stream);
}

ncclResult_t sn_cu_stream_wait(cudaStream_t stream, sn_event event)
{
    return CU(cuStreamWaitEvent, stream, event, 0);
}

ncclResult_t sn_cu_capture_id(cudaStream_t stream, uint64_t *id)
{
    int status = 0;
    uint64_t capture = 0;
    int error = driver.cuStreamGetCaptureInfo_v2(stream, &status, &capture, NULL, NULL, NULL);

    /* 906, implicit: the legacy stream while another one captures. NCCL fails there as well. */
    *id = error == 0 && status == 1 ? capture : 0;
    return checked(error, "cuStreamGetCaptureInfo");
}

ncclResult_t sn_cu_copy(void *to, const void *from, size_t bytes, cudaStream_t stream)
{
    return CU(cuMemcpyAsync, (cu_ptr)(uintptr_t)to, (cu_ptr)(uintptr_t)from, bytes, stream);
}

ncclResult_t sn_cu_alloc(void **ptr, size_t bytes)
{
    cu_ptr p = 0;
    ncclResult_t result = sn_cu_init();

    if (!result)
        result = CU(cuMemAlloc_v2, &p, bytes);
    if (!result)
        *ptr = (void *)(uintptr_t)p;
    return result;
}

ncclResult_t sn_cu_free(void *ptr)
{
    ncclResult_t result = sn_cu_init();

    return result ? result : CU(cuMemFree_v2, (cu_ptr)(uintptr_t)ptr);
}

ncclResult_t sn_cu_launch(cudaStream_t stream, const char *name,
                          int (*run)(void *, uint64_t *, uint64_t *), void *user,
                          void (*destroy)(void *))
{
    return CU(standin_device_op, stream, name, run, user, destroy);
}

ncclResult_t sn_cu_launch_copies(cudaStream_t stream, uint32_t copies, uint64_t bytes,
                                 int (*run)(void *, uint64_t *, uint64_t *), void *user,
                                 void (*destroy)(void *))
{
    return CU(standin_device_copies, stream, copies, bytes, run, user, destroy);
}
