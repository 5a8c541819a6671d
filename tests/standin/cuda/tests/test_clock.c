/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device clock. Run under SKEWSCOPE_STANDIN_CLOCK=virtual: every duration is what the model
 * says, to the nanosecond. With the argument `paced`, the same durations take real time as well.
 */
#include <time.h>

#include "cupti_setup.h"
#include "standin_cuda.h"

static CUstream a, b;
static CUevent start, end;

/* Nanoseconds between the events; floats hold these small numbers exactly enough. */
static long long elapsed(void)
{
    float ms;
    OK(cuEventSynchronize(end));
    OK(cuEventElapsedTime(&ms, start, end));
    return (long long)((double)ms * 1e6 + 0.5);
}

static void test_durations_add_up(void)
{
    OK(cuEventRecord(start, a));
    OK(standin_device_work(a, "_Z1kv", 1000));
    OK(standin_device_work(a, "_Z1kv", 500));
    OK(cuEventRecord(end, a));
    CHECK_IS(elapsed(), 1500);
}

/* b waits for a's event, but its own work before that lasts longer. */
static void test_waiting(void)
{
    CUevent middle = new_event(CU_EVENT_DISABLE_TIMING);
    OK(cuCtxSynchronize());
    OK(cuEventRecord(start, a));
    OK(cuStreamWaitEvent(b, start, 0));
    OK(standin_device_work(b, "_Z1kv", 7000));
    OK(standin_device_work(a, "_Z1kv", 3000));
    OK(cuEventRecord(middle, a));
    OK(cuStreamWaitEvent(b, middle, 0));
    OK(standin_device_work(b, "_Z1kv", 100));
    OK(cuEventRecord(end, b));
    CHECK_IS(elapsed(), 7100);
}

/* What the host has seen to end lies before what it submits then, on whatever stream. */
static void test_host_knows(void)
{
    OK(cuEventRecord(start, a));
    OK(standin_device_work(a, "_Z1kv", 5000));
    OK(cuStreamSynchronize(a));
    OK(standin_device_work(b, "_Z1kv", 10));
    OK(cuEventRecord(end, b));
    CHECK_IS(elapsed(), 5010);
}

/* An operation that finds out its own times, as a collective does. */
static int late_peer(void *user, uint64_t *start_ns, uint64_t *end_ns)
{
    *end_ns = *start_ns + *(uint64_t *)user;
    return 0;
}

static void test_own_times(void)
{
    uint64_t ns = 12345;
    OK(cuEventRecord(start, a));
    OK(standin_device_op(a, "_Z1cv", late_peer, &ns, NULL));
    OK(cuEventRecord(end, a));
    CHECK_IS(elapsed(), 12345);
}

/* Kernels by name, as SKEWSCOPE_STANDIN_KERNEL_NS of this test's run says: gemm=9000,700. */
static void test_named_kernels(void)
{
    CUmodule module;
    CUfunction gemm, other;
    OK(cuModuleLoadData(&module, "any image"));
    OK(cuModuleGetFunction(&gemm, module, "_Z10fused_gemmPf"));
    OK(cuModuleGetFunction(&other, module, "_Z4normPf"));
    OK(cuEventRecord(start, a));
    OK(cuLaunchKernel(gemm, 1, 1, 1, 1, 1, 1, 0, a, NULL, NULL));
    OK(cuLaunchKernel(other, 1, 1, 1, 1, 1, 1, 0, a, NULL, NULL));
    OK(cuEventRecord(end, a));
    CHECK_IS(elapsed(), 9700);
}

/* Branches of a graph overlap; the launch lasts as long as the longest path. */
static void test_graph(void)
{
    CUgraph graph;
    CUgraphExec exec;
    CUevent fork = new_event(CU_EVENT_DISABLE_TIMING), join = new_event(CU_EVENT_DISABLE_TIMING);
    OK(cuStreamBeginCapture_v2(a, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(standin_device_work(a, "_Z1kv", 100));
    OK(cuEventRecord(fork, a));
    OK(cuStreamWaitEvent(b, fork, 0));
    OK(standin_device_work(a, "_Z4leftv", 2000));
    OK(standin_device_work(b, "_Z5rightv", 3000));
    OK(cuEventRecord(join, b));
    OK(cuStreamWaitEvent(a, join, 0));
    OK(standin_device_work(a, "_Z1kv", 10));
    OK(cuStreamEndCapture(a, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuEventRecord(start, a));
    for (int i = 0; i < 3; i++)
        OK(cuGraphLaunch(exec, a));
    OK(cuEventRecord(end, a));
    CHECK_IS(elapsed(), 3 * 3110);
    OK(cuGraphExecDestroy(exec));
}

static void test_cupti_times(void)
{
    OK(cuptiActivityRegisterCallbacks(lend_buffer, take_buffer));
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL));
    OK(standin_device_work(a, "_Z1kv", 1111));
    OK(standin_device_work(a, "_Z1kv", 2222));
    flush();
    CUpti_ActivityKernel10 *first = &find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 0)->kernel;
    CUpti_ActivityKernel10 *second = &find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 1)->kernel;
    CHECK_IS(first->end - first->start, 1111);
    CHECK_IS(second->end - second->start, 2222);
    CHECK_IS(second->start, first->end);
    uint64_t now;
    OK(cuptiGetTimestamp(&now));
    CHECK_IS(now, second->end);
    OK(cuptiActivityDisable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL));
}

/* Real time passes too, and the model's time with it. */
static void test_paced(void)
{
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    OK(cuEventRecord(start, a));
    OK(standin_device_work(a, "_Z1kv", 30000000));
    OK(cuEventRecord(end, a));
    OK(cuEventSynchronize(end));
    clock_gettime(CLOCK_MONOTONIC, &after);
    float ms;
    OK(cuEventElapsedTime(&ms, start, end));
    double real = (double)(after.tv_sec - before.tv_sec) * 1e3 +
                  (double)(after.tv_nsec - before.tv_nsec) / 1e6;
    CHECK(ms >= 30.0f);
    CHECK(real >= 30.0);
}

/* A clock that runs fast by a tenth, for a change that shows. */
static void test_drift(void)
{
    OK(cuEventRecord(start, a));
    OK(standin_device_work(a, "_Z1kv", 10000));
    OK(cuEventRecord(end, a));
    long long got = elapsed();
    CHECK(got >= 10999 && got <= 11001);
    CHECK(standin_clock_now(0) > UINT64_C(5000000000000));
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "virtual";
    use_device(0);
    a = new_stream(CU_STREAM_NON_BLOCKING);
    b = new_stream(CU_STREAM_NON_BLOCKING);
    start = new_event(0);
    end = new_event(0);
    if (strcmp(what, "paced") == 0) {
        CHECK_IS(standin_clock_mode(), 2);
        test_paced();
        return 0;
    }
    CHECK_IS(standin_clock_mode(), 1);
    if (strcmp(what, "drift") == 0) {
        test_drift();
        return 0;
    }
    for (int i = 0; i < 20; i++) {
        test_durations_add_up();
        test_waiting();
        test_host_knows();
        test_own_times();
        test_named_kernels();
        test_graph();
    }
    test_cupti_times();
    return 0;
}
