/* SPDX-License-Identifier: Apache-2.0 */
/* Devices of the runtime: the current one, properties, peers, reset; lookup of driver functions. */
#include <string.h>

#include "runtime/rt.h"

#define STANDIN_RUNTIME_VERSION 13000

cudaError_t rt_cudaRuntimeGetVersion(int *runtimeVersion)
{
    if (runtimeVersion == NULL)
        return cudaErrorInvalidValue;
    *runtimeVersion = STANDIN_RUNTIME_VERSION;
    return cudaSuccess;
}

static cudaError_t check_device(int device)
{
    int count;
    cudaError_t err = rt_driver.cuDeviceGetCount(&count);
    if (err == cudaSuccess && (device < 0 || device >= count))
        err = cudaErrorInvalidDevice;
    return err;
}

cudaError_t rt_cudaGetDevice(int *device)
{
    CUdevice current;
    if (device == NULL)
        return cudaErrorInvalidValue;
    *device = rt_driver.cuCtxGetDevice(&current) == CUDA_SUCCESS ? current : rt_thread.device;
    return cudaSuccess;
}

cudaError_t rt_cudaSetDevice(int device)
{
    cudaError_t err = check_device(device);
    return err == cudaSuccess ? rt_use_device(device) : err;
}

cudaError_t rt_cudaInitDevice(int device, unsigned int deviceFlags, unsigned int flags)
{
    cudaError_t err = check_device(device);
    if (err != cudaSuccess || flags == 0)
        return err;
    return rt_driver.cuDevicePrimaryCtxSetFlags_v2(device, deviceFlags & 0x1f);
}

/* Mapping of host memory is always on; the runtime says so in the flags. */
cudaError_t rt_cudaGetDeviceFlags(unsigned int *flags)
{
    int device, active;
    if (flags == NULL)
        return cudaErrorInvalidValue;
    rt_cudaGetDevice(&device);
    cudaError_t err = rt_driver.cuDevicePrimaryCtxGetState(device, flags, &active);
    *flags |= CU_CTX_MAP_HOST;
    return err;
}

cudaError_t rt_cudaSetDeviceFlags(unsigned int flags)
{
    int device;
    rt_cudaGetDevice(&device);
    return rt_driver.cuDevicePrimaryCtxSetFlags_v2(device, flags & ~(unsigned)CU_CTX_MAP_HOST);
}

cudaError_t rt_cudaDeviceReset(void)
{
    int device;
    rt_cudaGetDevice(&device);
    cudaError_t err = rt_driver.cuDevicePrimaryCtxReset_v2(device);
    rt_forget_device(device);
    return err;
}

cudaError_t rt_cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device)
{
    if (value == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = check_device(device);
    return err == cudaSuccess ? rt_driver.cuDeviceGetAttribute(value, attr, device) : err;
}

static cudaError_t change_peer(int peer, bool enable, unsigned flags)
{
    CUcontext here = NULL, there = NULL;
    cudaError_t err = check_device(peer);
    if (err == cudaSuccess)
        err = rt_driver.cuCtxGetCurrent(&here);
    if (err != cudaSuccess)
        return err;
    int device = rt_thread.device;
    if (err == cudaSuccess)
        rt_cudaGetDevice(&device);
    if (err == cudaSuccess)
        err = rt_use_device(peer);
    if (err == cudaSuccess)
        err = rt_driver.cuCtxGetCurrent(&there);
    rt_driver.cuCtxSetCurrent(here);
    rt_thread.device = device;
    if (err != cudaSuccess)
        return err;
    return enable ? rt_driver.cuCtxEnablePeerAccess(there, flags)
                  : rt_driver.cuCtxDisablePeerAccess(there);
}

cudaError_t rt_cudaDeviceEnablePeerAccess(int peerDevice, unsigned int flags)
{
    return change_peer(peerDevice, true, flags);
}

cudaError_t rt_cudaDeviceDisablePeerAccess(int peerDevice)
{
    return change_peer(peerDevice, false, 0);
}

static int attribute(int device, CUdevice_attribute which)
{
    int value = 0;
    rt_driver.cuDeviceGetAttribute(&value, which, device);
    return value;
}

#define ATTRIBUTE(name) attribute(device, CU_DEVICE_ATTRIBUTE_##name)

static void limits(cudaDeviceProp *p, int device)
{
    p->sharedMemPerBlock = (size_t)ATTRIBUTE(MAX_SHARED_MEMORY_PER_BLOCK);
    p->regsPerBlock = ATTRIBUTE(MAX_REGISTERS_PER_BLOCK);
    p->warpSize = ATTRIBUTE(WARP_SIZE);
    p->memPitch = (size_t)ATTRIBUTE(MAX_PITCH);
    p->maxThreadsPerBlock = ATTRIBUTE(MAX_THREADS_PER_BLOCK);
    p->maxThreadsDim[0] = ATTRIBUTE(MAX_BLOCK_DIM_X);
    p->maxThreadsDim[1] = ATTRIBUTE(MAX_BLOCK_DIM_Y);
    p->maxThreadsDim[2] = ATTRIBUTE(MAX_BLOCK_DIM_Z);
    p->maxGridSize[0] = ATTRIBUTE(MAX_GRID_DIM_X);
    p->maxGridSize[1] = ATTRIBUTE(MAX_GRID_DIM_Y);
    p->maxGridSize[2] = ATTRIBUTE(MAX_GRID_DIM_Z);
    p->totalConstMem = (size_t)ATTRIBUTE(TOTAL_CONSTANT_MEMORY);
    p->textureAlignment = (size_t)ATTRIBUTE(TEXTURE_ALIGNMENT);
    p->texturePitchAlignment = (size_t)ATTRIBUTE(TEXTURE_PITCH_ALIGNMENT);
    p->surfaceAlignment = p->textureAlignment;
    p->multiProcessorCount = ATTRIBUTE(MULTIPROCESSOR_COUNT);
    p->maxThreadsPerMultiProcessor = ATTRIBUTE(MAX_THREADS_PER_MULTIPROCESSOR);
    p->sharedMemPerMultiprocessor = (size_t)ATTRIBUTE(MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
    p->regsPerMultiprocessor = ATTRIBUTE(MAX_REGISTERS_PER_MULTIPROCESSOR);
    p->sharedMemPerBlockOptin = (size_t)ATTRIBUTE(MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    p->reservedSharedMemPerBlock = (size_t)ATTRIBUTE(RESERVED_SHARED_MEMORY_PER_BLOCK);
    p->maxBlocksPerMultiProcessor = ATTRIBUTE(MAX_BLOCKS_PER_MULTIPROCESSOR);
}

static void features(cudaDeviceProp *p, int device)
{
    p->major = ATTRIBUTE(COMPUTE_CAPABILITY_MAJOR);
    p->minor = ATTRIBUTE(COMPUTE_CAPABILITY_MINOR);
    p->canMapHostMemory = ATTRIBUTE(CAN_MAP_HOST_MEMORY);
    p->concurrentKernels = ATTRIBUTE(CONCURRENT_KERNELS);
    p->pciBusID = ATTRIBUTE(PCI_BUS_ID);
    p->pciDeviceID = ATTRIBUTE(PCI_DEVICE_ID);
    p->asyncEngineCount = ATTRIBUTE(ASYNC_ENGINE_COUNT);
    p->unifiedAddressing = ATTRIBUTE(UNIFIED_ADDRESSING);
    p->memoryBusWidth = ATTRIBUTE(GLOBAL_MEMORY_BUS_WIDTH);
    p->l2CacheSize = ATTRIBUTE(L2_CACHE_SIZE);
    p->streamPrioritiesSupported = ATTRIBUTE(STREAM_PRIORITIES_SUPPORTED);
    p->globalL1CacheSupported = ATTRIBUTE(GLOBAL_L1_CACHE_SUPPORTED);
    p->localL1CacheSupported = ATTRIBUTE(LOCAL_L1_CACHE_SUPPORTED);
    p->managedMemory = ATTRIBUTE(MANAGED_MEMORY);
    p->concurrentManagedAccess = ATTRIBUTE(CONCURRENT_MANAGED_ACCESS);
    p->computePreemptionSupported = ATTRIBUTE(COMPUTE_PREEMPTION_SUPPORTED);
    p->canUseHostPointerForRegisteredMem = ATTRIBUTE(CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM);
    p->cooperativeLaunch = ATTRIBUTE(COOPERATIVE_LAUNCH);
    p->hostRegisterSupported = ATTRIBUTE(HOST_REGISTER_SUPPORTED);
    p->memoryPoolsSupported = ATTRIBUTE(MEMORY_POOLS_SUPPORTED);
    p->clusterLaunch = ATTRIBUTE(CLUSTER_LAUNCH);
    p->deviceNumaId = ATTRIBUTE(NUMA_ID);
    p->hostNumaId = ATTRIBUTE(HOST_NUMA_ID);
}

cudaError_t rt_cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
    if (prop == NULL)
        return cudaErrorInvalidValue;
    cudaError_t err = check_device(device);
    if (err != cudaSuccess)
        return err;
    memset(prop, 0, sizeof(*prop));
    rt_driver.cuDeviceGetName(prop->name, sizeof(prop->name), device);
    rt_driver.cuDeviceGetUuid_v2(&prop->uuid, device);
    rt_driver.cuDeviceTotalMem_v2(&prop->totalGlobalMem, device);
    limits(prop, device);
    features(prop, device);
    return cudaSuccess;
}

cudaError_t rt_cudaGetDriverEntryPointByVersion(const char *symbol, void **funcPtr,
                                                unsigned int cudaVersion, unsigned long long flags,
                                                cudaDriverEntryPointQueryResult *driverStatus)
{
    CUdriverProcAddressQueryResult found;
    if (rt_thread.per_thread_default && flags == 0)
        flags = CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
    cudaError_t err =
        rt_driver.cuGetProcAddress_v2(symbol, funcPtr, (int)cudaVersion, flags, &found);
    if (driverStatus != NULL)
        *driverStatus = found;
    else if (err == cudaSuccess && found != CU_GET_PROC_ADDRESS_SUCCESS)
        err = cudaErrorSymbolNotFound;
    return err;
}

cudaError_t rt_cudaGetDriverEntryPoint(const char *symbol, void **funcPtr, unsigned long long flags,
                                       cudaDriverEntryPointQueryResult *driverStatus)
{
    return rt_cudaGetDriverEntryPointByVersion(symbol, funcPtr, STANDIN_RUNTIME_VERSION, flags,
                                               driverStatus);
}

cudaError_t rt_cudaGetExportTable(const void **ppExportTable, const cudaUUID_t *pExportTableId)
{
    (void)pExportTableId;
    if (ppExportTable == NULL)
        return cudaErrorInvalidValue;
    *ppExportTable = NULL;
    return cudaErrorSymbolNotFound;
}
