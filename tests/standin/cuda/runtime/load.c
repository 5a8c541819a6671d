/* SPDX-License-Identifier: Apache-2.0 */
/* Loading the driver, and what happens at the beginning and end of every call of the runtime. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "runtime/rt.h"

struct rt_driver rt_driver;
__thread struct rt_thread rt_thread;

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static cudaError_t load_error;
static atomic_bool loaded;

enum { MAX_DEVICES = 64 };

static pthread_mutex_t primary_lock = PTHREAD_MUTEX_INITIALIZER;
static CUcontext primaries[MAX_DEVICES]; /* retained, one a device; guarded by primary_lock */

static void load(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    load_error = cudaErrorInsufficientDriver; /* what the real one says, also without a driver */
    if (library == NULL)
        return;
    *(void **)&rt_driver.api_enter = dlsym(library, "standin_api_enter");
    *(void **)&rt_driver.api_exit = dlsym(library, "standin_api_exit");
    if (rt_driver.api_enter == NULL || rt_driver.api_exit == NULL)
        return; /* a real driver, which is left alone */
    __typeof__(drv_cuGetProcAddress_v2) *lookup = NULL;
    *(void **)&lookup = dlsym(library, "cuGetProcAddress_v2");
    if (lookup == NULL)
        return;
    rt_driver.cuGetProcAddress_v2 = lookup;
#define RT_LOOKUP(symbol, name, version)                                                           \
    if (lookup(name, (void **)&rt_driver.symbol, version, 0, NULL) != CUDA_SUCCESS)                \
        return;
    RT_DRIVER(RT_LOOKUP)
#undef RT_LOOKUP
    load_error = cudaSuccess;
}

cudaError_t rt_load(void)
{
    pthread_once(&load_once, load);
    if (load_error != cudaSuccess)
        return load_error;
    if (atomic_load_explicit(&loaded, memory_order_relaxed))
        return cudaSuccess;
    cudaError_t err = rt_driver.cuInit(0);
    if (err == cudaSuccess)
        atomic_store(&loaded, true);
    return err;
}

cudaError_t rt_use_device(int device)
{
    cudaError_t err = cudaSuccess;
    if (device < 0 || device >= MAX_DEVICES)
        return cudaErrorInvalidDevice;
    pthread_mutex_lock(&primary_lock);
    if (primaries[device] == NULL)
        err = rt_driver.cuDevicePrimaryCtxRetain(&primaries[device], device);
    CUcontext context = primaries[device];
    pthread_mutex_unlock(&primary_lock);
    if (err == cudaSuccess)
        err = rt_driver.cuCtxSetCurrent(context);
    if (err == cudaSuccess)
        rt_thread.device = device;
    return err;
}

void rt_forget_device(int device)
{
    pthread_mutex_lock(&primary_lock);
    primaries[device] = NULL;
    pthread_mutex_unlock(&primary_lock);
}

cudaError_t rt_context(void)
{
    CUdevice device;
    cudaError_t err = rt_driver.cuCtxGetDevice(&device);
    if (err != cudaErrorDeviceUninitialized && err != cudaErrorContextIsDestroyed)
        return err;
    return rt_use_device(rt_thread.device);
}

cudaError_t rt_enter(struct rt_call *call, uint32_t cbid, const char *name, const void *params,
                     unsigned traits)
{
    call->traced = false;
    call->traits = traits;
    call->outer_per_thread = rt_thread.per_thread_default;
    rt_thread.per_thread_default = (traits & RT_PER_THREAD) != 0;
    if (traits & RT_NOINIT)
        return cudaSuccess;
    cudaError_t err = rt_load();
    if (err != cudaSuccess)
        return err;
    call->result = cudaSuccess;
    call->api.domain = STANDIN_DOMAIN_RUNTIME;
    call->api.cbid = cbid;
    call->api.name = name;
    call->api.params = params;
    call->api.result = &call->result;
    call->traced = rt_driver.api_enter(&call->api) != 0;
    return traits & RT_NOCTX ? cudaSuccess : rt_context();
}

cudaError_t rt_leave(struct rt_call *call, cudaError_t result)
{
    call->result = result;
    if (call->traced)
        rt_driver.api_exit(&call->api);
    rt_thread.per_thread_default = call->outer_per_thread;
    if (result != cudaSuccess && !(call->traits & RT_NOLATCH))
        rt_thread.last_error = result;
    return result;
}

cudaError_t rt_unsupported(void)
{
    rt_thread.last_error = cudaErrorNotSupported;
    return cudaErrorNotSupported;
}
