/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of the runtime: launches, attributes, occupancy. */
#include <string.h>

#include "runtime/rt.h"

static cudaError_t launch(const void *func, dim3 grid, dim3 block, size_t shared, void **args,
                          cudaStream_t stream, CUlaunchAttribute *attrs, unsigned count)
{
    cudaError_t err;
    CUfunction function = rt_find_function(func, &err);
    if (err != cudaSuccess)
        return err;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0)
        return cudaErrorInvalidConfiguration;
    CUlaunchConfig config = {.gridDimX = grid.x,
                             .gridDimY = grid.y,
                             .gridDimZ = grid.z,
                             .blockDimX = block.x,
                             .blockDimY = block.y,
                             .blockDimZ = block.z,
                             .sharedMemBytes = (unsigned)shared,
                             .hStream = rt_stream(stream),
                             .attrs = attrs,
                             .numAttrs = count};
    return rt_driver.cuLaunchKernelEx(&config, function, args, NULL);
}

cudaError_t rt_cudaLaunchKernel(const void *func, dim3 gridDim, dim3 blockDim, void **args,
                                size_t sharedMem, cudaStream_t stream)
{
    return launch(func, gridDim, blockDim, sharedMem, args, stream, NULL, 0);
}

cudaError_t rt_cudaLaunchCooperativeKernel(const void *func, dim3 gridDim, dim3 blockDim,
                                           void **args, size_t sharedMem, cudaStream_t stream)
{
    return launch(func, gridDim, blockDim, sharedMem, args, stream, NULL, 0);
}

cudaError_t rt_cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *func, void **args)
{
    if (config == NULL)
        return cudaErrorInvalidValue;
    return launch(func, config->gridDim, config->blockDim, config->dynamicSmemBytes, args,
                  config->stream, config->attrs, config->numAttrs);
}

cudaError_t rt_cudaGetFuncBySymbol(cudaFunction_t *functionPtr, const void *symbolPtr)
{
    cudaError_t err;
    if (functionPtr == NULL)
        return cudaErrorInvalidValue;
    *functionPtr = rt_find_function(symbolPtr, &err);
    return err;
}

cudaError_t rt_cudaGetKernel(cudaKernel_t *kernelPtr, const void *entryFuncAddr)
{
    return rt_cudaGetFuncBySymbol((cudaFunction_t *)kernelPtr, entryFuncAddr);
}

cudaError_t rt_cudaFuncGetName(const char **name, const void *func)
{
    cudaError_t err;
    CUfunction function = rt_find_function(func, &err);
    return err == cudaSuccess ? rt_driver.cuKernelGetName(name, (CUkernel)function) : err;
}

cudaError_t rt_cudaFuncGetAttributes(cudaFuncAttributes *attr, const void *func)
{
    cudaError_t err;
    CUfunction function = rt_find_function(func, &err);
    if (err != cudaSuccess)
        return err;
    int v[CU_FUNC_ATTRIBUTE_MAX];
    for (int i = 0; i < CU_FUNC_ATTRIBUTE_MAX && err == cudaSuccess; i++)
        err = rt_driver.cuFuncGetAttribute(&v[i], i, function);
    if (err != cudaSuccess)
        return err;
    *attr = (cudaFuncAttributes){.maxThreadsPerBlock = v[0],
                                 .sharedSizeBytes = (size_t)v[1],
                                 .constSizeBytes = (size_t)v[2],
                                 .localSizeBytes = (size_t)v[3],
                                 .numRegs = v[4],
                                 .ptxVersion = v[5],
                                 .binaryVersion = v[6],
                                 .cacheModeCA = v[7],
                                 .maxDynamicSharedSizeBytes = v[8],
                                 .preferredShmemCarveout = v[9],
                                 .clusterDimMustBeSet = v[10],
                                 .requiredClusterWidth = v[11],
                                 .requiredClusterHeight = v[12],
                                 .requiredClusterDepth = v[13],
                                 .nonPortableClusterSizeAllowed = v[14],
                                 .clusterSchedulingPolicyPreference = v[15]};
    return cudaSuccess;
}

cudaError_t rt_cudaFuncSetAttribute(const void *func, cudaFuncAttribute attr, int value)
{
    cudaError_t err;
    CUfunction function = rt_find_function(func, &err);
    return err == cudaSuccess ? rt_driver.cuFuncSetAttribute(function, attr, value) : err;
}

cudaError_t rt_cudaKernelSetAttributeForDevice(cudaKernel_t kernel, cudaFuncAttribute attr,
                                               int value, int device)
{
    return rt_driver.cuKernelSetAttribute(attr, value, kernel, device);
}

cudaError_t rt_cudaFuncSetCacheConfig(const void *func, cudaFuncCache cacheConfig)
{
    cudaError_t err;
    CUfunction function = rt_find_function(func, &err);
    return err == cudaSuccess ? rt_driver.cuFuncSetCacheConfig(function, cacheConfig) : err;
}

cudaError_t rt_cudaFuncSetSharedMemConfig(const void *func, cudaSharedMemConfig config)
{
    cudaError_t err;
    (void)config;
    rt_find_function(func, &err);
    return err;
}

cudaError_t rt_cudaLibraryGetGlobal(void **dptr, size_t *bytes, cudaLibrary_t library,
                                    const char *name)
{
    CUdeviceptr pointer = 0;
    cudaError_t err = rt_driver.cuLibraryGetGlobal(&pointer, bytes, library, name);
    if (err == cudaSuccess && dptr != NULL)
        *dptr = (void *)(uintptr_t)pointer;
    return err;
}

cudaError_t rt_cudaLibraryGetManaged(void **dptr, size_t *bytes, cudaLibrary_t library,
                                     const char *name)
{
    CUdeviceptr pointer = 0;
    cudaError_t err = rt_driver.cuLibraryGetManaged(&pointer, bytes, library, name);
    if (err == cudaSuccess && dptr != NULL)
        *dptr = (void *)(uintptr_t)pointer;
    return err;
}

cudaError_t rt_cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *numBlocks, const void *func, int blockSize, size_t dynamicSMemSize, unsigned int flags)
{
    cudaError_t err;
    CUfunction function = rt_find_function(func, &err);
    if (err != cudaSuccess)
        return err;
    return rt_driver.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        numBlocks, function, blockSize, dynamicSMemSize, flags);
}

cudaError_t rt_cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, const void *func,
                                                             int blockSize, size_t dynamicSMemSize)
{
    return rt_cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks, func, blockSize,
                                                                     dynamicSMemSize, 0);
}

cudaError_t rt_cudaOccupancyAvailableDynamicSMemPerBlock(size_t *dynamicSmemSize, const void *func,
                                                         int numBlocks, int blockSize)
{
    cudaError_t err;
    CUfunction function = rt_find_function(func, &err);
    if (err != cudaSuccess)
        return err;
    return rt_driver.cuOccupancyAvailableDynamicSMemPerBlock(dynamicSmemSize, function, numBlocks,
                                                             blockSize);
}

cudaError_t rt_cudaOccupancyMaxPotentialClusterSize(int *clusterSize, const void *func,
                                                    const cudaLaunchConfig_t *launchConfig)
{
    cudaError_t err;
    CUlaunchConfig config = {.numAttrs = 0};
    (void)launchConfig;
    CUfunction function = rt_find_function(func, &err);
    if (err != cudaSuccess)
        return err;
    return rt_driver.cuOccupancyMaxPotentialClusterSize(clusterSize, function, &config);
}

cudaError_t rt_cudaOccupancyMaxActiveClusters(int *numClusters, const void *func,
                                              const cudaLaunchConfig_t *launchConfig)
{
    cudaError_t err;
    CUlaunchConfig config = {.numAttrs = 0};
    (void)launchConfig;
    CUfunction function = rt_find_function(func, &err);
    return err == cudaSuccess
               ? rt_driver.cuOccupancyMaxActiveClusters(numClusters, function, &config)
               : err;
}
