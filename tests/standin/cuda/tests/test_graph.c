/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs built by hand: nodes, child graphs, clones, updates, user objects, launches of launches.
 */
#include "driver_setup.h"

static struct order order = {.lock = PTHREAD_MUTEX_INITIALIZER};
static struct note notes[64];

static CUgraphNode host_node(CUgraph graph, int number, const CUgraphNode *deps, size_t count)
{
    CUgraphNode node;
    notes[number] = (struct note){&order, number};
    CUDA_HOST_NODE_PARAMS_v1 params = {write_note, &notes[number]};
    OK(cuGraphAddHostNode(&node, graph, deps, count, &params));
    return node;
}

static void run(CUgraphExec exec, CUstream stream)
{
    order.count = 0;
    OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
}

/* 1 -> {2, 3} -> child{10 -> 11} -> 4 */
static void test_child_graph(void)
{
    CUstream stream = new_stream(1);
    CUgraph graph, child, inside;
    CUgraphExec exec;
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphCreate(&child, 0));
    CUgraphNode ten = host_node(child, 10, NULL, 0);
    host_node(child, 11, &ten, 1);
    CUgraphNode one = host_node(graph, 1, NULL, 0);
    CUgraphNode both[2] = {host_node(graph, 2, &one, 1), host_node(graph, 3, &one, 1)};
    CUgraphNode nested;
    OK(cuGraphAddChildGraphNode(&nested, graph, both, 2, child));
    host_node(graph, 4, &nested, 1);
    OK(cuGraphChildGraphNodeGetGraph(nested, &inside));
    CHECK(inside != child); /* a copy */
    CUgraphNode ten_inside;
    OK(cuGraphNodeFindInClone(&ten_inside, ten, inside));
    OK(cuGraphDestroy(child));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int round = 0; round < 20; round++) {
        run(exec, stream);
        CHECK_IS(order.count, 6);
        CHECK_IS(order.items[0], 1);
        CHECK_IS(order.items[1] + order.items[2], 5);
        CHECK_IS(order.items[3], 10);
        CHECK_IS(order.items[4], 11);
        CHECK_IS(order.items[5], 4);
    }
    /* A node of the child graph can be changed through its handle in the graph. */
    notes[20] = (struct note){&order, 20};
    CUDA_HOST_NODE_PARAMS_v1 changed = {write_note, &notes[20]};
    OK(cuGraphExecHostNodeSetParams(exec, ten_inside, &changed));
    run(exec, stream);
    CHECK_IS(order.items[3], 20);
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

static void test_update(void)
{
    CUstream stream = new_stream(1);
    CUgraph graph, same, other;
    CUgraphExec exec;
    CUgraphExecUpdateResultInfo info;
    OK(cuGraphCreate(&graph, 0));
    CUgraphNode first = host_node(graph, 1, NULL, 0);
    host_node(graph, 2, &first, 1);
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphCreate(&same, 0));
    CUgraphNode third = host_node(same, 3, NULL, 0);
    host_node(same, 4, &third, 1);
    OK(cuGraphExecUpdate_v2(exec, same, &info));
    CHECK_IS(info.result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
    run(exec, stream);
    CHECK_IS(order.items[0], 3);
    CHECK_IS(order.items[1], 4);
    OK(cuGraphCreate(&other, 0));
    host_node(other, 5, NULL, 0);
    host_node(other, 6, NULL, 0);
    CHECK_IS(cuGraphExecUpdate_v2(exec, other, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    CHECK_IS(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    run(exec, stream);
    CHECK_IS(order.items[1], 4);
}

static void test_cycle_is_refused(void)
{
    CUgraph graph;
    CUgraphExec exec;
    OK(cuGraphCreate(&graph, 0));
    CUgraphNode one = host_node(graph, 1, NULL, 0);
    CUgraphNode two = host_node(graph, 2, &one, 1);
    OK(cuGraphAddDependencies(graph, &two, &one, 1));
    CHECK_IS(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_ERROR_INVALID_VALUE);
    OK(cuGraphRemoveDependencies(graph, &two, &one, 1));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
}

static void count_up(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void test_user_object(void)
{
    CUgraph graph;
    CUgraphExec exec;
    CUuserObject object;
    atomic_int destroyed = 0;
    OK(cuGraphCreate(&graph, 0));
    OK(cuUserObjectCreate(&object, &destroyed, count_up, 1, 1));
    OK(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    CHECK_IS(atomic_load(&destroyed), 0);
    OK(cuGraphExecDestroy(exec));
    CHECK_IS(atomic_load(&destroyed), 1);
}

/* Event nodes tie a graph to streams outside of it. */
static void test_event_nodes(void)
{
    CUstream stream = new_stream(1), other = new_stream(1);
    CUevent go = new_event(0), done = new_event(0);
    CUgraph graph;
    CUgraphExec exec;
    struct gate gate = GATE_INITIALIZER;
    CUgraphNode wait, record;
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddEventWaitNode(&wait, graph, NULL, 0, go));
    CUgraphNode note = host_node(graph, 1, &wait, 1);
    OK(cuGraphAddEventRecordNode(&record, graph, &note, 1, done));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    order.count = 0;
    OK(cuLaunchHostFunc(other, gate_wait, &gate));
    OK(cuEventRecord(go, other));
    OK(cuGraphLaunch(exec, stream));
    CHECK_IS(cuEventQuery(done), CUDA_ERROR_NOT_READY);
    CHECK_IS(order.count, 0);
    gate_open(&gate);
    OK(cuEventSynchronize(done));
    CHECK_IS(order.count, 1);
    OK(cuStreamSynchronize(stream));
    OK(cuGraphExecDestroy(exec));
}

static void test_memset_kernel_and_disabled_nodes(void)
{
    CUstream stream = new_stream(1);
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode fill, kernel;
    CUmodule module;
    CUfunction function;
    CUdeviceptr memory;
    int value = 0;
    const char *name;
    CUcontext context;
    OK(cuCtxGetCurrent(&context));
    OK(cuMemAlloc_v2(&memory, 4));
    OK(cuModuleLoadData(&module, "any image"));
    OK(cuModuleGetFunction(&function, module, "_Z3gemPf"));
    OK(cuFuncGetName(&name, function));
    CHECK(strcmp(name, "_Z3gemPf") == 0);
    OK(cuGraphCreate(&graph, 0));
    CUDA_MEMSET_NODE_PARAMS_v1 params = {memory, 0, 9, 4, 1, 1};
    OK(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &params, context));
    CUDA_KERNEL_NODE_PARAMS_v2 launch = {function, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL, NULL};
    OK(cuGraphAddKernelNode_v2(&kernel, graph, &fill, 1, &launch));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphNodeSetEnabled(exec, fill, 0));
    OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemcpyDtoH_v2(&value, memory, 4));
    CHECK_IS(value, 0);
    OK(cuGraphNodeSetEnabled(exec, fill, 1));
    OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemcpyDtoH_v2(&value, memory, 4));
    CHECK_IS(value, 9);
}

/* A launch captured into another graph becomes its child graph. */
static void test_captured_launch(void)
{
    CUstream stream = new_stream(1);
    CUgraph inner, outer;
    CUgraphExec inner_exec, outer_exec;
    OK(cuGraphCreate(&inner, 0));
    host_node(inner, 1, NULL, 0);
    OK(cuGraphInstantiateWithFlags(&inner_exec, inner, 0));
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuGraphLaunch(inner_exec, stream));
    OK(cuGraphLaunch(inner_exec, stream));
    OK(cuStreamEndCapture(stream, &outer));
    OK(cuGraphInstantiateWithFlags(&outer_exec, outer, 0));
    run(outer_exec, stream);
    CHECK_IS(order.count, 2);
}

/* Memory allocated in a graph keeps its address for every replay. */
static void test_graph_memory(void)
{
    CUstream stream = new_stream(1);
    CUgraph graph;
    CUgraphExec exec;
    CUdeviceptr memory;
    int *pinned;
    OK(cuMemHostAlloc((void **)&pinned, 4, 0));
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuMemAllocAsync(&memory, 4, stream));
    OK(cuMemsetD32Async(memory, 77, 1, stream));
    OK(cuMemcpyDtoHAsync_v2(pinned, memory, 4, stream));
    OK(cuMemFreeAsync(memory, stream));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int i = 0; i < 3; i++) {
        *pinned = 0;
        OK(cuGraphLaunch(exec, stream));
        OK(cuStreamSynchronize(stream));
        CHECK_IS(*pinned, 77);
    }
    OK(cuGraphExecDestroy(exec));
    CUdeviceptr base;
    size_t size;
    OK(cuMemGetAddressRange_v2(&base, &size, memory));
    OK(cuGraphDestroy(graph));
    CHECK_IS(cuMemGetAddressRange_v2(&base, &size, memory), CUDA_ERROR_NOT_FOUND);
}

/* Many forks and joins, launched on two streams in turn. */
static void test_long_graph(void)
{
    CUstream stream = new_stream(1), side = new_stream(1);
    CUevent fork = new_event(CU_EVENT_DISABLE_TIMING), join = new_event(CU_EVENT_DISABLE_TIMING);
    CUgraph graph;
    CUgraphExec exec;
    atomic_int count = 0;
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    for (int i = 0; i < 200; i++) {
        OK(cuLaunchHostFunc(stream, count_up, &count));
        OK(cuEventRecord(fork, stream));
        OK(cuStreamWaitEvent(side, fork, 0));
        OK(cuLaunchHostFunc(stream, count_up, &count));
        OK(cuLaunchHostFunc(side, count_up, &count));
        OK(cuEventRecord(join, side));
        OK(cuStreamWaitEvent(stream, join, 0));
    }
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int i = 0; i < 10; i++)
        OK(cuGraphLaunch(exec, i % 2 ? stream : side));
    OK(cuStreamSynchronize(stream));
    OK(cuStreamSynchronize(side));
    CHECK_IS(atomic_load(&count), 6000);
}

int main(void)
{
    use_device(0);
    test_child_graph();
    test_update();
    test_cycle_is_refused();
    test_user_object();
    test_event_nodes();
    test_memset_kernel_and_disabled_nodes();
    test_captured_launch();
    test_graph_memory();
    test_long_graph();
    return 0;
}
