/* SPDX-License-Identifier: Apache-2.0 */
/* Streams and events: order, independence, default-stream rules, copies. */
#include "driver_setup.h"
#include "standin_cuda.h"

static void test_order_within_a_stream(void)
{
    static struct order order = {.lock = PTHREAD_MUTEX_INITIALIZER};
    static struct note notes[1000];
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < 1000; i++) {
        notes[i] = (struct note){&order, i};
        OK(cuLaunchHostFunc(stream, write_note, &notes[i]));
    }
    OK(cuStreamSynchronize(stream));
    CHECK_IS(order.count, 1000);
    for (int i = 0; i < 1000; i++)
        CHECK_IS(order.items[i], i);
    OK(cuStreamDestroy_v2(stream));
}

/* A blocked stream holds up neither the caller nor another stream. */
static void test_streams_are_independent(void)
{
    struct gate gate = GATE_INITIALIZER;
    CUstream blocked = new_stream(CU_STREAM_NON_BLOCKING);
    CUstream other = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent done = new_event(0);
    OK(cuLaunchHostFunc(blocked, gate_wait, &gate));
    OK(cuEventRecord(done, blocked));
    struct order order = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct note note = {&order, 7};
    OK(cuLaunchHostFunc(other, write_note, &note));
    OK(cuStreamSynchronize(other));
    CHECK_IS(order.count, 1);
    gate_reached(&gate);
    CHECK_IS(cuStreamQuery(blocked), CUDA_ERROR_NOT_READY);
    CHECK_IS(cuEventQuery(done), CUDA_ERROR_NOT_READY);
    gate_open(&gate);
    OK(cuEventSynchronize(done));
    OK(cuEventQuery(done));
    OK(cuStreamSynchronize(blocked));
    OK(cuStreamQuery(blocked));
}

static void test_event_orders_streams(void)
{
    struct gate gate = GATE_INITIALIZER;
    struct order order = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct note first = {&order, 1}, second = {&order, 2};
    CUstream a = new_stream(CU_STREAM_NON_BLOCKING), b = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = new_event(CU_EVENT_DISABLE_TIMING);
    OK(cuLaunchHostFunc(a, gate_wait, &gate));
    OK(cuLaunchHostFunc(a, write_note, &first));
    OK(cuEventRecord(event, a));
    OK(cuStreamWaitEvent(b, event, 0));
    OK(cuLaunchHostFunc(b, write_note, &second));
    OK(cuEventDestroy_v2(event)); /* what waits for it goes on waiting */
    gate_open(&gate);
    OK(cuStreamSynchronize(b));
    CHECK_IS(order.items[0], 1);
    CHECK_IS(order.items[1], 2);
}

static void test_legacy_stream(void)
{
    struct gate gate = GATE_INITIALIZER;
    struct order order = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct note first = {&order, 1}, second = {&order, 2}, third = {&order, 3}, free = {&order, 9};
    CUstream blocking = new_stream(CU_STREAM_DEFAULT);
    CUstream independent = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuLaunchHostFunc(blocking, gate_wait, &gate));
    OK(cuLaunchHostFunc(blocking, write_note, &first));
    OK(cuLaunchHostFunc(NULL, write_note, &second));
    OK(cuLaunchHostFunc(blocking, write_note, &third));
    CHECK_IS(cuStreamQuery(NULL), CUDA_ERROR_NOT_READY);
    OK(cuLaunchHostFunc(independent, write_note, &free));
    OK(cuStreamSynchronize(independent));
    CHECK_IS(order.items[0], 9);
    gate_open(&gate);
    OK(cuStreamSynchronize(NULL));
    CHECK(order.count >= 3);
    OK(cuCtxSynchronize());
    for (int i = 1; i <= 3; i++)
        CHECK_IS(order.items[i], i);
}

static void test_per_thread_stream(void)
{
    uint32_t legacy, mine;
    unsigned long long id;
    OK(cuStreamGetId(NULL, &id));
    legacy = (uint32_t)id;
    OK(cuStreamGetId_ptsz(NULL, &id));
    mine = (uint32_t)id;
    CHECK(legacy != mine);
    OK(cuStreamGetId((CUstream)2, &id));
    CHECK_IS(id, mine);
    OK(cuStreamGetId((CUstream)1, &id));
    CHECK_IS(id, legacy);
}

static void test_copies(void)
{
    CUdeviceptr device, other;
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    struct gate gate = GATE_INITIALIZER;
    int source[256], back[256] = {0}, *pinned;
    for (int i = 0; i < 256; i++)
        source[i] = i;
    OK(cuMemAlloc_v2(&device, sizeof(source)));
    OK(cuMemAlloc_v2(&other, sizeof(source)));
    OK(cuMemHostAlloc((void **)&pinned, sizeof(source), 0));
    /* Pageable memory may be used again at once, although the copy waits behind the gate. */
    OK(cuLaunchHostFunc(stream, gate_wait, &gate));
    OK(cuMemcpyHtoDAsync_v2(device, source, sizeof(source), stream));
    memset(source, 0, sizeof(source));
    OK(cuMemcpyDtoDAsync_v2(other, device, sizeof(source), stream));
    OK(cuMemcpyDtoHAsync_v2(pinned, other, sizeof(source), stream));
    gate_open(&gate);
    OK(cuStreamSynchronize(stream));
    for (int i = 0; i < 256; i++)
        CHECK_IS(pinned[i], i);
    OK(cuMemsetD32_v2(device, 0x01020304, 256));
    OK(cuMemcpyDtoH_v2(back, device, sizeof(back)));
    CHECK_IS(back[255], 0x01020304);
    CUDA_MEMCPY2D rect = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = other,
                          .srcPitch = 64,
                          .srcXInBytes = 8,
                          .srcY = 1,
                          .dstMemoryType = CU_MEMORYTYPE_HOST,
                          .dstHost = back,
                          .dstPitch = 8,
                          .WidthInBytes = 8,
                          .Height = 3};
    OK(cuMemcpy2D_v2(&rect));
    CHECK_IS(back[0], 18);
    CHECK_IS(back[5], 16 * 3 + 3);
    CUdeviceptr base;
    size_t size;
    OK(cuMemGetAddressRange_v2(&base, &size, device + 100));
    CHECK_IS(base, device);
    CHECK_IS(size, sizeof(source));
    OK(cuMemFree_v2(device));
    OK(cuMemFree_v2(other));
    OK(cuMemFreeHost(pinned));
    CHECK_IS(cuMemFree_v2(device), CUDA_ERROR_INVALID_VALUE);
}

static void test_memory_operations(void)
{
    CUdeviceptr flag;
    CUstream waits = new_stream(CU_STREAM_NON_BLOCKING), writes = new_stream(1);
    struct order order = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct note before = {&order, 1}, after = {&order, 2};
    OK(cuMemAlloc_v2(&flag, 8));
    OK(cuStreamWaitValue32_v2(waits, flag, 5, CU_STREAM_WAIT_VALUE_EQ));
    OK(cuLaunchHostFunc(waits, write_note, &after));
    OK(cuLaunchHostFunc(writes, write_note, &before));
    OK(cuStreamWriteValue32_v2(writes, flag, 5, 0));
    OK(cuStreamSynchronize(waits));
    CHECK_IS(order.items[0], 1);
    CHECK_IS(order.items[1], 2);
}

static void *launch_from_thread(void *arg)
{
    static struct note notes[8][500];
    static struct order orders[8];
    int self = (int)(intptr_t)arg;
    orders[self] = (struct order){.lock = PTHREAD_MUTEX_INITIALIZER};
    use_device(self % 2);
    CUstream stream = new_stream(self % 3 == 0 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING);
    CUevent event = new_event(0);
    for (int i = 0; i < 500; i++) {
        notes[self][i] = (struct note){&orders[self], i};
        OK(cuLaunchHostFunc(stream, write_note, &notes[self][i]));
        OK(cuEventRecord(event, stream));
        if (i % 50 == 0)
            OK(cuEventSynchronize(event));
        if (i % 70 == 0) {
            struct note default_stream = {&orders[self], -1};
            OK(cuLaunchHostFunc(NULL, write_note, &default_stream));
            OK(cuStreamSynchronize(NULL));
        }
    }
    OK(cuStreamSynchronize(stream));
    int last = -1;
    for (int i = 0; i < orders[self].count; i++) {
        if (orders[self].items[i] < 0)
            continue;
        CHECK_IS(orders[self].items[i], last + 1);
        last++;
    }
    CHECK_IS(last, 499);
    OK(cuStreamDestroy_v2(stream));
    return NULL;
}

static void test_many_threads(void)
{
    pthread_t threads[8];
    for (intptr_t i = 0; i < 8; i++)
        CHECK(pthread_create(&threads[i], NULL, launch_from_thread, (void *)i) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
}

/* A destroyed stream finishes what it was given. */
static void test_destroy_with_work_left(void)
{
    struct gate gate = GATE_INITIALIZER;
    struct order order = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct note note = {&order, 1};
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = new_event(0);
    OK(cuLaunchHostFunc(stream, gate_wait, &gate));
    OK(cuLaunchHostFunc(stream, write_note, &note));
    OK(cuEventRecord(event, stream));
    OK(cuStreamDestroy_v2(stream));
    gate_open(&gate);
    OK(cuEventSynchronize(event));
    CHECK_IS(order.count, 1);
}

static void call_cuda(void *arg)
{
    *(CUresult *)arg = cuCtxSynchronize();
}

/* A host function may not call CUDA: a real one can deadlock, here it learns why. */
static void test_host_function_calling_cuda(void)
{
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUresult result = CUDA_SUCCESS;
    OK(cuLaunchHostFunc(stream, call_cuda, &result));
    OK(cuStreamSynchronize(stream));
    CHECK_IS(result, CUDA_ERROR_NOT_PERMITTED);
}

static int failing_op(void *user, uint64_t *start_ns, uint64_t *end_ns)
{
    (void)user;
    (void)start_ns;
    (void)end_ns;
    return CUDA_ERROR_LAUNCH_FAILED;
}

/* A device fault stays with its context, and with no other. */
static void test_sticky_error(void)
{
    CUcontext broken = use_device(3);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    OK(standin_device_op(stream, "_Z5faultv", failing_op, NULL, NULL));
    CHECK_IS(cuStreamSynchronize(stream), CUDA_ERROR_LAUNCH_FAILED);
    CHECK_IS(cuLaunchHostFunc(stream, write_note, NULL), CUDA_ERROR_LAUNCH_FAILED);
    CHECK_IS(cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
    use_device(0);
    OK(cuCtxSynchronize());
    (void)broken;
}

int main(void)
{
    use_device(0);
    test_order_within_a_stream();
    test_streams_are_independent();
    test_event_orders_streams();
    test_legacy_stream();
    test_per_thread_stream();
    test_copies();
    test_memory_operations();
    test_many_threads();
    test_destroy_with_work_left();
    test_host_function_calling_cuda();
    test_sticky_error();
    return 0;
}
