/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runtime over the driver: registration as nvcc's code does it, launches, errors, devices,
 * graphs. This program defines cuGraphLaunch and cuLaunchHostFunc itself: the runtime must not call
 * them, since the real one does not find driver functions by symbol.
 */
#include "cuda_decl.h"
#include "cupti_setup.h"

void **__cudaRegisterFatBinary(void *);
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *,
                            dim3 *, dim3 *, int *);
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int);
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, void *);
cudaError_t __cudaPopCallConfiguration(dim3 *, dim3 *, size_t *, void *);

static atomic_int hooked;

__attribute__((visibility("default"))) CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
    (void)exec;
    (void)stream;
    atomic_fetch_add(&hooked, 1);
    return 999;
}

__attribute__((visibility("default"))) CUresult cuLaunchHostFunc(CUstream stream, CUhostFn fn,
                                                                 void *user)
{
    (void)stream;
    (void)fn;
    (void)user;
    atomic_fetch_add(&hooked, 1);
    return 999;
}

static char kernel_shadow;
static int variable_shadow[4];

static void count_up(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void test_errors(void)
{
    void *memory;
    OK(cudaGetLastError());
    CHECK_IS(cudaSetDevice(99), cudaErrorInvalidDevice);
    CHECK_IS(cudaPeekAtLastError(), cudaErrorInvalidDevice);
    OK(cudaMalloc(&memory, 16)); /* success does not clear it */
    CHECK_IS(cudaGetLastError(), cudaErrorInvalidDevice);
    OK(cudaGetLastError());
    CHECK(strcmp(cudaGetErrorName(cudaErrorInvalidDevice), "cudaErrorInvalidDevice") == 0);
    CHECK(strcmp(cudaGetErrorString(0), "no error") == 0);
    OK(cudaFree(memory));
    OK(cudaFree(NULL));
    OK(cudaMalloc(&memory, 0));
    CHECK(memory == NULL);
}

static void test_devices(void)
{
    int device, count;
    cudaDeviceProp prop;
    OK(cudaGetDeviceCount(&count));
    CHECK_IS(count, 8);
    OK(cudaSetDevice(5));
    OK(cudaGetDevice(&device));
    CHECK_IS(device, 5);
    OK(cudaGetDeviceProperties(&prop, 5));
    CHECK(strcmp(prop.name, "skewscope stand-in GPU") == 0);
    CHECK_IS(prop.pciBusID, 6);
    CHECK_IS(prop.maxThreadsPerBlock, 1024);
    void *memory;
    cudaPointerAttributes attributes;
    OK(cudaMalloc(&memory, 64));
    OK(cudaPointerGetAttributes(&attributes, (char *)memory + 8));
    CHECK_IS(attributes.type, cudaMemoryTypeDevice);
    CHECK_IS(attributes.device, 5);
    OK(cudaPointerGetAttributes(&attributes, &count));
    CHECK_IS(attributes.type, cudaMemoryTypeUnregistered);
    OK(cudaDeviceReset());
    OK(cudaMalloc(&memory, 64)); /* a new context appears by itself */
    OK(cudaSetDevice(0));
    int can;
    OK(cudaDeviceCanAccessPeer(&can, 0, 1));
    CHECK_IS(can, 1);
    OK(cudaDeviceEnablePeerAccess(1, 0));
    CHECK(cudaDeviceEnablePeerAccess(1, 0) == 704);
    OK(cudaDeviceDisablePeerAccess(1));
    cudaGetLastError();
    OK(cudaGetDevice(&device));
    CHECK_IS(device, 0);
}

static void test_registered_code(void)
{
    dim3 grid = {2, 1, 1}, block = {64, 1, 1}, got_grid, got_block;
    size_t shared;
    void *stream;
    const char *name;
    int host[4] = {1, 2, 3, 4}, back[4] = {0};
    OK(__cudaPushCallConfiguration(grid, block, 16, NULL));
    OK(__cudaPopCallConfiguration(&got_grid, &got_block, &shared, &stream));
    CHECK_IS(got_grid.x, 2);
    CHECK_IS(got_block.x, 64);
    CHECK_IS(shared, 16);
    OK(cudaLaunchKernel(&kernel_shadow, grid, block, NULL, 0, NULL));
    OK(cudaFuncGetName(&name, &kernel_shadow));
    CHECK(strcmp(name, "_Z6kernelv") == 0);
    grid.x = 0;
    CHECK_IS(cudaLaunchKernel(&kernel_shadow, grid, block, NULL, 0, NULL),
             cudaErrorInvalidConfiguration);
    grid.x = 1;
    CHECK_IS(cudaLaunchKernel(&hooked, grid, block, NULL, 0, NULL), cudaErrorInvalidDeviceFunction);
    cudaGetLastError();
    OK(cudaMemcpyToSymbol(variable_shadow, host, sizeof(host), 0, cudaMemcpyHostToDevice));
    OK(cudaMemcpyFromSymbol(back, variable_shadow, 8, 8, cudaMemcpyDeviceToHost));
    CHECK_IS(back[0], 3);
    CHECK_IS(back[1], 4);
    CHECK_IS(cudaMemcpyToSymbol(variable_shadow, host, 17, 0, cudaMemcpyHostToDevice),
             cudaErrorInvalidValue);
    cudaGetLastError();
}

static void test_streams_and_graphs(void)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    atomic_int count = 0;
    float ms = -1;
    OK(cudaStreamCreateWithFlags(&stream, CU_STREAM_NON_BLOCKING));
    OK(cudaEventCreate(&begin));
    OK(cudaEventCreate(&end));
    OK(cudaStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cudaLaunchHostFunc(stream, count_up, &count));
    cudaStreamCaptureStatus status;
    unsigned long long id = 0;
    OK(cudaStreamGetCaptureInfo(stream, &status, &id, NULL, NULL, NULL, NULL));
    CHECK_IS(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK(id != 0);
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaEventRecord(begin, stream));
    for (int i = 0; i < 10; i++)
        OK(cudaGraphLaunch(exec, stream));
    OK(cudaEventRecord(end, stream));
    OK(cudaStreamSynchronize(stream));
    CHECK_IS(atomic_load(&count), 10);
    OK(cudaEventElapsedTime(&ms, begin, end));
    CHECK(ms >= 0);
    cudaGraphNode_t copy;
    cudaGraph_t built;
    int host[2] = {42, 0}, *device;
    OK(cudaMalloc((void **)&device, 4));
    OK(cudaGraphCreate(&built, 0));
    OK(cudaGraphAddMemcpyNode1D(&copy, built, NULL, 0, device, &host[0], 4,
                                cudaMemcpyHostToDevice));
    OK(cudaGraphAddMemcpyNode1D(&copy, built, &copy, 1, &host[1], device, 4,
                                cudaMemcpyDeviceToHost));
    cudaMemcpy3DParms params;
    OK(cudaGraphMemcpyNodeGetParams(copy, &params));
    CHECK(params.dstPtr.ptr == &host[1]);
    CHECK_IS(params.extent.width, 4);
    OK(cudaGraphInstantiateWithFlags(&exec, built, 0));
    OK(cudaGraphLaunch_ptsz(exec, NULL));
    OK(cudaStreamSynchronize_ptsz(NULL));
    CHECK_IS(host[1], 42);
    CHECK_IS(atomic_load(&hooked), 0);
}

/* CUPTI sees the runtime's call and the driver's inside it, and both lead to the kernel. */
static void test_cupti(void)
{
    enum { CBID_LAUNCH = 211, CBID_DRIVER_LAUNCH = 652 };
    dim3 one = {1, 1, 1};
    OK(cuptiActivityRegisterCallbacks(lend_buffer, take_buffer));
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL));
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_RUNTIME));
    OK(cuptiActivityEnableDriverApi(CBID_DRIVER_LAUNCH, 1));
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION));
    OK(cuptiActivityPushExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2, 5));
    OK(cudaLaunchKernel(&kernel_shadow, one, one, NULL, 0, NULL));
    OK(cuptiActivityPopExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2, NULL));
    record_count = 0;
    OK(cudaDeviceSynchronize());
    OK(cuptiActivityFlushAll(0));
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_RUNTIME), 2); /* launch, synchronise */
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_DRIVER), 1);
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION), 1);
    union record *external = find_record(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION, 0);
    union record *driver = find_record(CUPTI_ACTIVITY_KIND_DRIVER, 0);
    union record *runtime = find_record(CUPTI_ACTIVITY_KIND_RUNTIME, 0);
    union record *kernel = find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 0);
    CHECK(external < driver && driver < runtime);
    CHECK_IS(runtime->api.cbid, CBID_LAUNCH);
    CHECK_IS(external->external.correlationId, kernel->kernel.correlationId);
    CHECK_IS(driver->api.correlationId, kernel->kernel.correlationId);
    CHECK_IS(runtime->api.correlationId, kernel->kernel.correlationId);
    CHECK(strcmp(kernel->kernel.name, "_Z6kernelv") == 0);
    OK(cuptiFinalize());
}

static void test_refused(void)
{
    extern cudaError_t cudaMallocArray(void);
    CHECK_IS(cudaMallocArray(), cudaErrorNotSupported);
    CHECK_IS(cudaGetLastError(), cudaErrorNotSupported);
}

int main(void)
{
    void **binary = __cudaRegisterFatBinary("an image that nobody reads");
    __cudaRegisterFunction(binary, &kernel_shadow, NULL, "_Z6kernelv", -1, NULL, NULL, NULL, NULL,
                           NULL);
    __cudaRegisterVar(binary, (char *)variable_shadow, NULL, "variable", 0, sizeof(variable_shadow),
                      0, 0);
    test_errors();
    test_devices();
    test_registered_code();
    test_streams_and_graphs();
    test_cupti();
    test_refused();
    return 0;
}
