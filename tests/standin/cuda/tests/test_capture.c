/* SPDX-License-Identifier: Apache-2.0 */
/* Stream capture: what is recorded, what replays do, and what breaks a capture. */
#include "driver_setup.h"
#include "standin_cuda.h"

static void count_up(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static CUgraphExec instantiate(CUgraph graph)
{
    CUgraphExec exec;
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    return exec;
}

static void test_host_functions_replay(void)
{
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUgraph graph;
    atomic_int count = 0;
    CUstreamCaptureStatus status;
    cuuint64_t id = 0;
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuStreamGetCaptureInfo(stream, &status, &id));
    CHECK_IS(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK(id != 0);
    for (int i = 0; i < 10; i++)
        OK(cuLaunchHostFunc(stream, count_up, &count));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuStreamIsCapturing(stream, &status));
    CHECK_IS(status, CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK_IS(atomic_load(&count), 0);
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphDestroy(graph)); /* the executable graph stands for itself */
    for (int i = 0; i < 100; i++)
        OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
    CHECK_IS(atomic_load(&count), 1000);
    OK(cuGraphExecDestroy(exec));
}

static void test_copies_replay(void)
{
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    CUgraph graph;
    CUdeviceptr device;
    int *pinned;
    OK(cuMemAlloc_v2(&device, 8));
    OK(cuMemHostAlloc((void **)&pinned, 8, 0));
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuMemcpyHtoDAsync_v2(device, &pinned[0], 4, stream));
    OK(cuMemcpyDtoHAsync_v2(&pinned[1], device, 4, stream));
    OK(cuStreamEndCapture(stream, &graph));
    CUgraphExec exec = instantiate(graph);
    for (int i = 1; i <= 3; i++) {
        pinned[0] = i;
        OK(cuGraphLaunch(exec, stream));
        OK(cuStreamSynchronize(stream));
        CHECK_IS(pinned[1], i);
    }
}

/* Two streams forked from one and joined again; the branches run side by side. */
static void test_fork_and_join(void)
{
    CUstream main_stream = new_stream(CU_STREAM_NON_BLOCKING), side = new_stream(1);
    CUevent fork = new_event(CU_EVENT_DISABLE_TIMING), join = new_event(CU_EVENT_DISABLE_TIMING);
    struct gate gate = GATE_INITIALIZER;
    CUgraph graph;
    OK(cuStreamBeginCapture_v2(main_stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuEventRecord(fork, main_stream));
    OK(cuStreamWaitEvent(side, fork, 0));
    CUstreamCaptureStatus status;
    OK(cuStreamIsCapturing(side, &status));
    CHECK_IS(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    /* Captured first, waits for what was captured second, on the other branch. */
    OK(cuLaunchHostFunc(side, gate_wait, &gate));
    OK(cuLaunchHostFunc(main_stream, (CUhostFn)gate_open, &gate));
    OK(cuEventRecord(join, side));
    OK(cuStreamWaitEvent(main_stream, join, 0));
    OK(cuStreamEndCapture(main_stream, &graph));
    size_t nodes = 0, edges = 0;
    OK(cuGraphGetNodes(graph, NULL, &nodes));
    OK(cuGraphGetEdges(graph, NULL, NULL, &edges));
    CHECK_IS(nodes, 2);
    CHECK_IS(edges, 0);
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphLaunch(exec, main_stream));
    OK(cuStreamSynchronize(main_stream));
    OK(cuGraphExecDestroy(exec));
}

static void test_unjoined(void)
{
    CUstream main_stream = new_stream(1), side = new_stream(1);
    CUevent fork = new_event(CU_EVENT_DISABLE_TIMING);
    CUgraph graph = (CUgraph)&main_stream;
    atomic_int count = 0;
    OK(cuStreamBeginCapture_v2(main_stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuLaunchHostFunc(main_stream, count_up, &count));
    OK(cuEventRecord(fork, main_stream));
    OK(cuStreamWaitEvent(side, fork, 0));
    OK(cuLaunchHostFunc(side, count_up, &count));
    CHECK_IS(cuStreamEndCapture(main_stream, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    CHECK(graph == NULL);
    OK(cuLaunchHostFunc(side, count_up, &count)); /* both streams are free again */
    OK(cuStreamSynchronize(side));
    CHECK_IS(atomic_load(&count), 1);
}

static void test_isolation_and_captured_events(void)
{
    CUstream captured = new_stream(1), outside = new_stream(1);
    CUevent event = new_event(CU_EVENT_DISABLE_TIMING);
    CUgraph graph;
    OK(cuEventRecord(event, outside));
    OK(cuStreamBeginCapture_v2(captured, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_IS(cuStreamWaitEvent(captured, event, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    CHECK_IS(cuLaunchHostFunc(captured, count_up, NULL), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_IS(cuStreamEndCapture(captured, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    OK(cuStreamBeginCapture_v2(captured, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(event, captured));
    CHECK_IS(cuStreamEndCapture(captured, &graph), CUDA_SUCCESS);
    CHECK_IS(cuEventQuery(event), CUDA_ERROR_CAPTURED_EVENT);
    OK(cuEventRecord(event, outside));
    OK(cuEventSynchronize(event));
}

static void test_synchronising_breaks(void)
{
    CUstream stream = new_stream(1);
    CUgraph graph;
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_IS(cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_IS(cuCtxSynchronize(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_IS(cuStreamBeginCapture_v2(NULL, CU_STREAM_CAPTURE_MODE_RELAXED),
             CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

static void test_legacy_stream_breaks(void)
{
    CUstream blocking = new_stream(CU_STREAM_DEFAULT), independent = new_stream(1);
    CUgraph graph;
    CUstreamCaptureStatus status;
    OK(cuStreamBeginCapture_v2(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_IS(cuStreamIsCapturing(NULL, &status), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    OK(cuStreamIsCapturing(blocking, &status));
    CHECK_IS(status, CU_STREAM_CAPTURE_STATUS_ACTIVE); /* asking does no harm */
    CHECK_IS(cuLaunchHostFunc(NULL, count_up, NULL), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CHECK_IS(cuStreamEndCapture(blocking, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    atomic_int count = 0;
    OK(cuStreamBeginCapture_v2(independent, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuLaunchHostFunc(NULL, count_up, &count));
    OK(cuStreamSynchronize(NULL));
    OK(cuStreamEndCapture(independent, &graph));
    CHECK_IS(atomic_load(&count), 1);
}

/* What another thread does while this one captures in some mode. */
struct intruder {
    int mode;        /* of the intruding thread */
    CUresult wanted; /* of its calls */
    CUevent event;
};

static void *intrude(void *arg)
{
    struct intruder *intruder = arg;
    CUdeviceptr memory;
    CUstreamCaptureMode mode = intruder->mode;
    use_device(0);
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    CHECK_IS(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
    CHECK_IS(cuEventQuery(intruder->event), intruder->wanted);
    CHECK_IS(cuEventSynchronize(intruder->event), intruder->wanted);
    CHECK_IS(cuMemAlloc_v2(&memory, 64), intruder->wanted);
    return NULL;
}

static void capture_with_intruder(int capture_mode, int thread_mode, CUresult wanted)
{
    CUstream stream = new_stream(1), other = new_stream(1);
    CUevent event = new_event(CU_EVENT_DISABLE_TIMING);
    CUgraph graph;
    pthread_t thread;
    struct intruder intruder = {thread_mode, wanted, event};
    OK(cuEventRecord(event, other));
    OK(cuStreamSynchronize(other));
    OK(cuStreamBeginCapture_v2(stream, capture_mode));
    CHECK(pthread_create(&thread, NULL, intrude, &intruder) == 0);
    pthread_join(thread, NULL);
    CHECK_IS(cuStreamEndCapture(stream, &graph),
             wanted == CUDA_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

/* The rule of cuThreadExchangeStreamCaptureMode, as a table. */
static void test_unsafe_calls_of_other_threads(void)
{
    enum {
        GLOBAL = CU_STREAM_CAPTURE_MODE_GLOBAL,
        LOCAL = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        RELAXED = CU_STREAM_CAPTURE_MODE_RELAXED,
        REFUSED = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    };
    capture_with_intruder(GLOBAL, GLOBAL, REFUSED);
    capture_with_intruder(GLOBAL, LOCAL, CUDA_SUCCESS);
    capture_with_intruder(GLOBAL, RELAXED, CUDA_SUCCESS);
    capture_with_intruder(LOCAL, GLOBAL, CUDA_SUCCESS);
    capture_with_intruder(RELAXED, GLOBAL, CUDA_SUCCESS);
}

static void test_unsafe_calls_of_the_capturing_thread(void)
{
    CUstream stream = new_stream(1);
    CUgraph graph;
    CUdeviceptr memory;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    OK(cuMemAlloc_v2(&memory, 64));
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    CHECK_IS(mode, CU_STREAM_CAPTURE_MODE_RELAXED);
    CHECK_IS(cuMemAlloc_v2(&memory, 64), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

static void *end_elsewhere(void *arg)
{
    CUgraph graph;
    use_device(0);
    CHECK_IS(cuStreamEndCapture(arg, &graph), CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    return NULL;
}

static void test_wrong_thread(void)
{
    CUstream stream = new_stream(1);
    CUgraph graph;
    pthread_t thread;
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(pthread_create(&thread, NULL, end_elsewhere, stream) == 0);
    pthread_join(thread, NULL);
    OK(cuStreamEndCapture(stream, &graph));
}

/* Nodes added by hand to the graph under capture, as frameworks do. */
static void test_update_dependencies(void)
{
    CUstream stream = new_stream(1);
    CUgraph under, graph;
    CUstreamCaptureStatus status;
    const CUgraphNode *deps;
    size_t count;
    atomic_int calls = 0;
    CUgraphNode mine;
    CUDA_HOST_NODE_PARAMS_v1 host = {count_up, &calls};
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuLaunchHostFunc(stream, count_up, &calls));
    OK(cuStreamGetCaptureInfo_v2(stream, &status, NULL, &under, &deps, &count));
    CHECK_IS(count, 1);
    OK(cuGraphAddHostNode(&mine, under, deps, count, &host));
    OK(cuStreamUpdateCaptureDependencies(stream, &mine, 1, CU_STREAM_SET_CAPTURE_DEPENDENCIES));
    OK(cuLaunchHostFunc(stream, count_up, &calls));
    OK(cuStreamEndCapture(stream, &graph));
    CHECK(graph == under);
    size_t edges;
    OK(cuGraphGetEdges(graph, NULL, NULL, &edges));
    CHECK_IS(edges, 2);
    OK(cuGraphLaunch(instantiate(graph), stream));
    OK(cuStreamSynchronize(stream));
    CHECK_IS(atomic_load(&calls), 3);
}

static int run_op(void *user, uint64_t *start_ns, uint64_t *end_ns)
{
    (void)start_ns;
    (void)end_ns;
    count_up(user);
    return 0;
}

static void destroy_op(void *user)
{
    atomic_fetch_add((atomic_int *)user, 1000);
}

/* A captured device operation is a kernel node; it is destroyed with the last graph that has it. */
static void test_device_op(void)
{
    CUstream stream = new_stream(1);
    CUgraph graph, clone;
    atomic_int count = 0;
    size_t nodes = 1;
    CUgraphNode node;
    CUgraphNodeType type;
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(standin_device_op(stream, "_Z4testv", run_op, &count, destroy_op));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphGetNodes(graph, &node, &nodes));
    OK(cuGraphNodeGetType(node, &type));
    CHECK_IS(type, CU_GRAPH_NODE_TYPE_KERNEL);
    OK(cuGraphClone(&clone, graph));
    CUgraphExec exec = instantiate(clone);
    OK(cuGraphDestroy(graph));
    OK(cuGraphDestroy(clone));
    for (int i = 0; i < 5; i++)
        OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
    CHECK_IS(atomic_load(&count), 5);
    OK(cuGraphExecDestroy(exec));
    CHECK_IS(atomic_load(&count), 1005);
    /* Refused: stays the caller's. */
    CHECK(standin_device_op(stream, NULL, run_op, &count, destroy_op) != 0);
    CHECK_IS(atomic_load(&count), 1005);
    /* Eager: destroyed once it has run. */
    OK(standin_device_op(stream, "_Z4testv", run_op, &count, destroy_op));
    OK(cuStreamSynchronize(stream));
    CHECK_IS(atomic_load(&count), 2006);
}

int main(void)
{
    use_device(0);
    test_host_functions_replay();
    test_copies_replay();
    test_fork_and_join();
    test_unjoined();
    test_isolation_and_captured_events();
    test_synchronising_breaks();
    test_legacy_stream_breaks();
    test_unsafe_calls_of_other_threads();
    test_unsafe_calls_of_the_capturing_thread();
    test_wrong_thread();
    test_update_dependencies();
    test_device_op();
    return 0;
}
