/* SPDX-License-Identifier: Apache-2.0 */
/* Occupancy: limited by threads and by blocks of a multiprocessor only, kernels having no code. */
#include "call.h"
#include "device.h"
#include "drv_impl.h"
#include "module.h"

CUresult drv_cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func,
                                                         int blockSize, size_t dynamicSMemSize)
{
    CUresult err = si_function_check(func);
    if (err != CUDA_SUCCESS)
        return err;
    if (numBlocks == NULL || blockSize <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    int threads = si_device_attribute(0, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
    int blocks = si_device_attribute(0, CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR);
    size_t shared =
        (size_t)si_device_attribute(0, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
    int fit = threads / blockSize;
    if (dynamicSMemSize > 0 && shared / dynamicSMemSize < (size_t)fit)
        fit = (int)(shared / dynamicSMemSize);
    *numBlocks = fit < blocks ? fit : blocks;
    return CUDA_SUCCESS;
}

CUresult drv_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *numBlocks, CUfunction func,
                                                                  int blockSize,
                                                                  size_t dynamicSMemSize,
                                                                  unsigned int flags)
{
    (void)flags;
    return drv_cuOccupancyMaxActiveBlocksPerMultiprocessor(numBlocks, func, blockSize,
                                                           dynamicSMemSize);
}

CUresult
drv_cuOccupancyMaxPotentialBlockSizeWithFlags(int *minGridSize, int *blockSize, CUfunction func,
                                              CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                              size_t dynamicSMemSize, int blockSizeLimit,
                                              unsigned int flags)
{
    (void)blockSizeToDynamicSMemSize;
    (void)dynamicSMemSize;
    (void)flags;
    CUresult err = si_function_check(func);
    if (err != CUDA_SUCCESS)
        return err;
    int limit = func->attributes[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK];
    if (blockSizeLimit > 0 && blockSizeLimit < limit)
        limit = blockSizeLimit;
    *blockSize = limit;
    *minGridSize =
        si_device_attribute(0, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) * (2048 / limit);
    return CUDA_SUCCESS;
}

CUresult drv_cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize, CUfunction func,
                                              CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                              size_t dynamicSMemSize, int blockSizeLimit)
{
    return drv_cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize, blockSize, func,
                                                         blockSizeToDynamicSMemSize,
                                                         dynamicSMemSize, blockSizeLimit, 0);
}

CUresult drv_cuOccupancyAvailableDynamicSMemPerBlock(size_t *dynamicSmemSize, CUfunction func,
                                                     int numBlocks, int blockSize)
{
    (void)blockSize;
    CUresult err = si_function_check(func);
    if (err != CUDA_SUCCESS)
        return err;
    if (numBlocks <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    *dynamicSmemSize = (size_t)(49152 / numBlocks);
    return CUDA_SUCCESS;
}

CUresult drv_cuOccupancyMaxPotentialClusterSize(int *clusterSize, CUfunction func,
                                                const CUlaunchConfig *config)
{
    (void)config;
    CUresult err = si_function_check(func);
    if (err == CUDA_SUCCESS)
        *clusterSize = 8;
    return err;
}

CUresult drv_cuOccupancyMaxActiveClusters(int *numClusters, CUfunction func,
                                          const CUlaunchConfig *config)
{
    (void)config;
    CUresult err = si_function_check(func);
    if (err == CUDA_SUCCESS)
        *numClusters = si_device_attribute(0, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) / 8;
    return err;
}
