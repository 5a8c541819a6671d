/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nvcc's generated code registers before main, and the launches it generates: fat binaries,
 * and the host addresses that stand for kernels and variables. Nothing of it touches the driver
 * until a kernel is launched or a variable is used.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/rt.h"

struct binary {
    const void *image;
    CUlibrary library; /* loaded at the first use; guarded by lock */
    bool closed;
};

enum entry_kind { ENTRY_FUNCTION, ENTRY_VARIABLE };
enum { MAX_DEVICES = 64, BUCKETS = 4096 };

struct entry {
    struct entry *next;
    const void *host; /* the key: address of the host's shadow */
    enum entry_kind kind;
    struct binary *binary;
    char *name;
    CUkernel kernel; /* functions; once looked up */
    size_t bytes;    /* variables */
    void *storage[MAX_DEVICES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry *table[BUCKETS]; /* guarded by lock; entries stay */

/* <<<...>>> arguments between push and pop; of the thread. */
static __thread struct {
    dim3 grid, block;
    size_t shared;
    void *stream;
} configurations[16];
static __thread unsigned configuration_depth;

static struct entry **bucket(const void *host)
{
    return &table[((uintptr_t)host >> 2) % BUCKETS];
}

static struct entry *find(const void *host, enum entry_kind kind)
{
    struct entry *e = *bucket(host);
    while (e != NULL && (e->host != host || e->kind != kind))
        e = e->next;
    return e;
}

static void enter(struct binary *binary, const void *host, enum entry_kind kind, const char *name,
                  size_t bytes)
{
    struct entry *e = calloc(1, sizeof(*e));
    if (e == NULL || (e->name = strdup(name)) == NULL) {
        free(e);
        return; /* its use will say that it is not known */
    }
    e->host = host;
    e->kind = kind;
    e->binary = binary;
    e->bytes = bytes;
    pthread_mutex_lock(&lock);
    e->next = *bucket(host);
    *bucket(host) = e;
    pthread_mutex_unlock(&lock);
}

SI_EXPORT void **__cudaRegisterFatBinary(void *fatCubin);
SI_EXPORT void __cudaRegisterFatBinaryEnd(void **handle);
SI_EXPORT void __cudaUnregisterFatBinary(void **handle);
SI_EXPORT void __cudaRegisterFunction(void **handle, const char *hostFun, char *deviceFun,
                                      const char *deviceName, int thread_limit, void *tid,
                                      void *bid, dim3 *bDim, dim3 *gDim, int *wSize);
SI_EXPORT void __cudaRegisterVar(void **handle, char *hostVar, char *deviceAddress,
                                 const char *deviceName, int ext, size_t size, int constant,
                                 int global);
SI_EXPORT void __cudaRegisterManagedVar(void **handle, void **hostVarPtrAddress,
                                        char *deviceAddress, const char *deviceName, int ext,
                                        size_t size, int constant, int global);
SI_EXPORT char __cudaInitModule(void **handle);
SI_EXPORT unsigned __cudaPushCallConfiguration(dim3 gridDim, dim3 blockDim, size_t sharedMem,
                                               void *stream);
SI_EXPORT cudaError_t __cudaPopCallConfiguration(dim3 *gridDim, dim3 *blockDim, size_t *sharedMem,
                                                 void *stream);
SI_EXPORT cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *func);
SI_EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 gridDim, dim3 blockDim,
                                         void **args, size_t sharedMem, cudaStream_t stream);
SI_EXPORT cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 gridDim, dim3 blockDim,
                                              void **args, size_t sharedMem, cudaStream_t stream);

SI_EXPORT void **__cudaRegisterFatBinary(void *fatCubin)
{
    struct binary *binary = calloc(1, sizeof(*binary));
    if (binary != NULL)
        binary->image = fatCubin;
    return (void **)binary;
}

SI_EXPORT void __cudaRegisterFatBinaryEnd(void **handle)
{
    (void)handle;
}

/* Called from atexit, after which destructors may still launch: only remembered. */
SI_EXPORT void __cudaUnregisterFatBinary(void **handle)
{
    struct binary *binary = (struct binary *)handle;
    if (binary == NULL)
        return;
    pthread_mutex_lock(&lock);
    binary->closed = true;
    pthread_mutex_unlock(&lock);
}

SI_EXPORT void __cudaRegisterFunction(void **handle, const char *hostFun, char *deviceFun,
                                      const char *deviceName, int thread_limit, void *tid,
                                      void *bid, dim3 *bDim, dim3 *gDim, int *wSize)
{
    (void)deviceFun;
    (void)thread_limit;
    (void)tid;
    (void)bid;
    (void)bDim;
    (void)gDim;
    (void)wSize;
    enter((struct binary *)handle, hostFun, ENTRY_FUNCTION, deviceName, 0);
}

SI_EXPORT void __cudaRegisterVar(void **handle, char *hostVar, char *deviceAddress,
                                 const char *deviceName, int ext, size_t size, int constant,
                                 int global)
{
    (void)deviceAddress;
    (void)ext;
    (void)constant;
    (void)global;
    enter((struct binary *)handle, hostVar, ENTRY_VARIABLE, deviceName, size);
}

/* Host code reads managed variables through this pointer without asking the runtime. */
SI_EXPORT void __cudaRegisterManagedVar(void **handle, void **hostVarPtrAddress,
                                        char *deviceAddress, const char *deviceName, int ext,
                                        size_t size, int constant, int global)
{
    (void)deviceAddress;
    (void)ext;
    (void)constant;
    (void)global;
    enter((struct binary *)handle, hostVarPtrAddress, ENTRY_VARIABLE, deviceName, size);
    *hostVarPtrAddress = calloc(1, size);
}

SI_EXPORT char __cudaInitModule(void **handle)
{
    (void)handle;
    return 1;
}

SI_EXPORT unsigned __cudaPushCallConfiguration(dim3 gridDim, dim3 blockDim, size_t sharedMem,
                                               void *stream)
{
    if (configuration_depth == sizeof(configurations) / sizeof(configurations[0]))
        return cudaErrorMissingConfiguration;
    configurations[configuration_depth].grid = gridDim;
    configurations[configuration_depth].block = blockDim;
    configurations[configuration_depth].shared = sharedMem;
    configurations[configuration_depth].stream = stream;
    configuration_depth++;
    return 0;
}

SI_EXPORT cudaError_t __cudaPopCallConfiguration(dim3 *gridDim, dim3 *blockDim, size_t *sharedMem,
                                                 void *stream)
{
    if (configuration_depth == 0)
        return cudaErrorMissingConfiguration;
    configuration_depth--;
    *gridDim = configurations[configuration_depth].grid;
    *blockDim = configurations[configuration_depth].block;
    *sharedMem = configurations[configuration_depth].shared;
    *(void **)stream = configurations[configuration_depth].stream;
    return cudaSuccess;
}

/* The lock is held. */
static CUkernel look_up(struct entry *e, cudaError_t *err)
{
    struct binary *binary = e->binary;
    *err = cudaSuccess;
    if (e->kernel != NULL)
        return e->kernel;
    if (binary->library == NULL)
        *err = rt_driver.cuLibraryLoadData(&binary->library, binary->image, NULL, NULL, 0, NULL,
                                           NULL, 0);
    if (*err == cudaSuccess)
        *err = rt_driver.cuLibraryGetKernel(&e->kernel, binary->library, e->name);
    return e->kernel;
}

CUfunction rt_find_function(const void *func, cudaError_t *err)
{
    CUfunction function = NULL;
    const char *name;
    *err = rt_load();
    if (*err != cudaSuccess || func == NULL) {
        *err = *err == cudaSuccess ? cudaErrorInvalidDeviceFunction : *err;
        return NULL;
    }
    pthread_mutex_lock(&lock);
    struct entry *e = find(func, ENTRY_FUNCTION);
    CUkernel kernel = e != NULL ? look_up(e, err) : NULL;
    pthread_mutex_unlock(&lock);
    /* Instead of a host function, callers may pass a kernel handle. */
    if (e == NULL && rt_driver.cuKernelGetName(&name, (CUkernel)(uintptr_t)func) == cudaSuccess)
        kernel = (CUkernel)(uintptr_t)func;
    if (kernel == NULL)
        *err = cudaErrorInvalidDeviceFunction;
    else
        *err = rt_driver.cuKernelGetFunction(&function, kernel);
    return function;
}

cudaError_t rt_find_symbol(const void *symbol, void **address, size_t *bytes)
{
    CUdevice device;
    CUdeviceptr storage = 0;
    cudaError_t err = rt_driver.cuCtxGetDevice(&device);
    if (err != cudaSuccess || device >= MAX_DEVICES)
        return err != cudaSuccess ? err : cudaErrorInvalidDevice;
    pthread_mutex_lock(&lock);
    struct entry *e = find(symbol, ENTRY_VARIABLE);
    if (e == NULL)
        err = cudaErrorInvalidSymbol;
    else if (e->storage[device] == NULL && address != NULL) {
        err = rt_driver.cuMemAlloc_v2(&storage, e->bytes);
        e->storage[device] = err == cudaSuccess ? (void *)(uintptr_t)storage : NULL;
    }
    if (err == cudaSuccess && address != NULL)
        *address = e->storage[device];
    if (err == cudaSuccess && bytes != NULL)
        *bytes = e->bytes;
    pthread_mutex_unlock(&lock);
    return err;
}

SI_EXPORT cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *func)
{
    cudaError_t err;
    *kernel = (cudaKernel_t)rt_find_function(func, &err);
    return err;
}

static cudaError_t launch(cudaKernel_t kernel, dim3 grid, dim3 block, void **args, size_t shared,
                          cudaStream_t stream, unsigned traits)
{
    /* The compiler's launches count as cudaLaunchKernel to CUPTI. */
    struct {
        const void *func;
        dim3 gridDim;
        dim3 blockDim;
        void **args;
        size_t sharedMem;
        cudaStream_t stream;
    } params = {kernel, grid, block, args, shared, stream};
    struct rt_call call;
    cudaError_t err = rt_enter(
        &call, traits & RT_PER_THREAD ? 214 : 211,
        traits & RT_PER_THREAD ? "cudaLaunchKernel_ptsz" : "cudaLaunchKernel", &params, traits);
    if (err == cudaSuccess)
        err = rt_cudaLaunchKernel(kernel, grid, block, args, shared, stream);
    return rt_leave(&call, err);
}

SI_EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 gridDim, dim3 blockDim,
                                         void **args, size_t sharedMem, cudaStream_t stream)
{
    return launch(kernel, gridDim, blockDim, args, sharedMem, stream, 0);
}

SI_EXPORT cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 gridDim, dim3 blockDim,
                                              void **args, size_t sharedMem, cudaStream_t stream)
{
    return launch(kernel, gridDim, blockDim, args, sharedMem, stream, RT_PER_THREAD);
}
