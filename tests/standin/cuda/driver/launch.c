/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Launches: kernels (which only take time), host functions, and the private hook by which the
 * stand-in NCCL puts operations on a stream that really run but are shown as kernels.
 */
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "drv_impl.h"
#include "module.h"

/* The arguments are not looked at: there is no code to hand them to, and their size is not known.
 */
static CUresult launch(CUstream stream, CUfunction func, const unsigned grid[3],
                       const unsigned block[3], unsigned shared)
{
    CUresult err = si_function_check(func);
    if (err != CUDA_SUCCESS)
        return err;
    for (int i = 0; i < 3; i++) {
        if (grid[i] == 0 || block[i] == 0)
            return CUDA_ERROR_INVALID_VALUE;
    }
    struct si_work *work = si_work_new(SI_WORK_KERNEL);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->kernel.func = func;
    work->kernel.name = func->name;
    memcpy(work->kernel.grid, grid, sizeof(work->kernel.grid));
    memcpy(work->kernel.block, block, sizeof(work->kernel.block));
    work->kernel.shared_bytes = shared;
    work->kernel.duration_ns = si_options_kernel_ns(func->name);
    work->kernel.context = si_context_current();
    return si_submit(stream, work);
}

CUresult drv_cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                            unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                            unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                            void **kernelParams, void **extra)
{
    unsigned grid[3] = {gridDimX, gridDimY, gridDimZ};
    unsigned block[3] = {blockDimX, blockDimY, blockDimZ};
    (void)kernelParams;
    (void)extra;
    return launch(hStream, f, grid, block, sharedMemBytes);
}

CUresult drv_cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                       unsigned int gridDimZ, unsigned int blockDimX,
                                       unsigned int blockDimY, unsigned int blockDimZ,
                                       unsigned int sharedMemBytes, CUstream hStream,
                                       void **kernelParams)
{
    return drv_cuLaunchKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                              sharedMemBytes, hStream, kernelParams, NULL);
}

CUresult drv_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
                              void **extra)
{
    if (config == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    unsigned grid[3] = {config->gridDimX, config->gridDimY, config->gridDimZ};
    unsigned block[3] = {config->blockDimX, config->blockDimY, config->blockDimZ};
    (void)kernelParams;
    (void)extra;
    return launch(config->hStream, f, grid, block, config->sharedMemBytes);
}

CUresult drv_cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    if (fn == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct si_work *work = si_work_new(SI_WORK_HOST);
    if (work != NULL) {
        work->host.fn = fn;
        work->host.user = userData;
    }
    return si_submit(hStream, work);
}

/*
 * The hooks. NCCL launches its kernels with cuLaunchKernelEx, and so it is as a call of that
 * function that CUPTI hears of them.
 */
struct hook {
    struct drv_call call;
    CUlaunchConfig config;
    struct {
        const CUlaunchConfig *config;
        CUfunction f;
        void **kernelParams;
        void **extra;
    } params;
};

enum { CBID_LAUNCH_KERNEL_EX = 652 };

static CUresult hook_enter(struct hook *hook, CUstream stream, const char *kernel_name)
{
    *hook = (struct hook){.config = {1, 1, 1, 1, 1, 1, 0, stream, NULL, 0}};
    hook->params.config = &hook->config;
    if (kernel_name != NULL)
        hook->params.f = si_function_named(kernel_name);
    CUresult err =
        drv_enter(&hook->call, CBID_LAUNCH_KERNEL_EX, "cuLaunchKernelEx", &hook->params, 0);
    if (err == CUDA_SUCCESS && hook->params.f == NULL)
        err = kernel_name == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    return err;
}

static void show_as(struct si_kernel *kernel, CUfunction function)
{
    kernel->func = function;
    kernel->name = function->name;
    for (int i = 0; i < 3; i++)
        kernel->grid[i] = kernel->block[i] = 1;
    kernel->context = si_context_current();
}

/* `work`: what it is shown as; NULL: there was no memory. */
static CUresult put_device_op(CUstream stream, struct si_work *work, standin_run_fn run, void *user,
                              void (*destroy)(void *user))
{
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->device_op.run = run;
    work->device_op.user = user;
    /* Until the op is accepted `user` stays the caller's, so it must not be destroyed with work. */
    si_work_ref(work);
    CUresult err = si_submit(stream, work);
    if (err == CUDA_SUCCESS)
        work->device_op.destroy = destroy;
    si_work_unref(work);
    return err;
}

SI_EXPORT int standin_device_op(struct CUstream_st *stream, const char *kernel_name,
                                standin_run_fn run, void *user, void (*destroy)(void *user))
{
    struct hook hook;
    CUresult err = hook_enter(&hook, stream, kernel_name);
    if (err == CUDA_SUCCESS && run == NULL)
        err = CUDA_ERROR_INVALID_VALUE;
    struct si_work *work = err == CUDA_SUCCESS ? si_work_new(SI_WORK_DEVICE_OP) : NULL;
    if (work != NULL)
        show_as(&work->device_op.shown, hook.params.f);
    if (err == CUDA_SUCCESS)
        err = put_device_op(stream, work, run, user, destroy);
    return drv_leave(&hook.call, err);
}

enum { CBID_MEMCPY_BATCH_ASYNC_V2 = 796 };

SI_EXPORT int standin_device_copies(struct CUstream_st *stream, uint32_t copies, uint64_t bytes,
                                    standin_run_fn run, void *user, void (*destroy)(void *user))
{
    struct drv_call call;
    struct {
        CUdeviceptr *dsts, *srcs;
        size_t *sizes, count;
        CUmemcpyAttributes *attrs;
        size_t *attrIdxs, numAttrs;
        CUstream hStream;
    } params = {.count = copies, .hStream = stream};
    CUresult err =
        drv_enter(&call, CBID_MEMCPY_BATCH_ASYNC_V2, "cuMemcpyBatchAsync_v2", &params, 0);
    if (err == CUDA_SUCCESS && (run == NULL || copies == 0))
        err = CUDA_ERROR_INVALID_VALUE;
    struct si_work *work = err == CUDA_SUCCESS ? si_work_new(SI_WORK_DEVICE_OP) : NULL;
    if (work != NULL) {
        work->device_op.copies = copies;
        work->device_op.bytes = bytes;
    }
    if (err == CUDA_SUCCESS)
        err = put_device_op(stream, work, run, user, destroy);
    return drv_leave(&call, err);
}

SI_EXPORT int standin_device_work(struct CUstream_st *stream, const char *kernel_name,
                                  uint64_t duration_ns)
{
    struct hook hook;
    CUresult err = hook_enter(&hook, stream, kernel_name);
    struct si_work *work = err == CUDA_SUCCESS ? si_work_new(SI_WORK_KERNEL) : NULL;
    if (work != NULL) {
        show_as(&work->kernel, hook.params.f);
        work->kernel.duration_ns = duration_ns;
        err = si_submit(stream, work);
    } else if (err == CUDA_SUCCESS) {
        err = CUDA_ERROR_OUT_OF_MEMORY;
    }
    return drv_leave(&hook.call, err);
}
