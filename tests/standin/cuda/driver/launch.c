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

/* The arguments are not looked at: there is no code to hand them to, and their size is not known. */
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

/* What a hook call checks that a generated wrapper would have checked. */
static CUresult hook_ready(const char *kernel_name, const char **interned)
{
    if (atomic_load(&si_state) != 1)
        return si_state_error();
    if (kernel_name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *interned = si_name_intern(kernel_name);
    return *interned != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static void show_as(struct si_kernel *kernel, const char *name)
{
    kernel->name = name;
    for (int i = 0; i < 3; i++)
        kernel->grid[i] = kernel->block[i] = 1;
    kernel->context = si_context_current();
}

SI_EXPORT int standin_device_op(struct CUstream_st *stream, const char *kernel_name,
                                standin_run_fn run, void *user, void (*destroy)(void *user))
{
    const char *name = NULL;
    CUresult err = run == NULL ? CUDA_ERROR_INVALID_VALUE : hook_ready(kernel_name, &name);
    if (err != CUDA_SUCCESS)
        return err;
    struct si_work *work = si_work_new(SI_WORK_DEVICE_OP);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    show_as(&work->device_op.shown, name);
    work->device_op.run = run;
    work->device_op.user = user;
    /* Until the op is accepted `user` stays the caller's, so it must not be destroyed with work. */
    si_work_ref(work);
    err = si_submit(stream, work);
    if (err == CUDA_SUCCESS)
        work->device_op.destroy = destroy;
    si_work_unref(work);
    return err;
}

SI_EXPORT int standin_device_work(struct CUstream_st *stream, const char *kernel_name,
                                  uint64_t duration_ns)
{
    const char *name = NULL;
    CUresult err = hook_ready(kernel_name, &name);
    if (err != CUDA_SUCCESS)
        return err;
    struct si_work *work = si_work_new(SI_WORK_KERNEL);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    show_as(&work->kernel, name);
    work->kernel.duration_ns = duration_ns;
    return si_submit(stream, work);
}
