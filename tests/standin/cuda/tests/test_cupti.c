/* SPDX-License-Identifier: Apache-2.0 */
/* CUPTI: what it records of launches, copies and replays, how records are tied to calls, callbacks.
 */
#include "cupti_setup.h"
#include "standin_cuda.h"

#include <time.h>

#define NCCL_KERNEL "_Z22ncclDevKernel_SendRecv24ncclDevKernelArgsStorageILm4096EE"

enum { CBID_LAUNCH_KERNEL = 307, CBID_LAUNCH_KERNEL_EX = 652, CBID_GRAPH_LAUNCH = 514 };

static CUstream stream;
static CUfunction function;
static CUcontext context;

static void launch(void)
{
    OK(cuLaunchKernel(function, 4, 2, 1, 128, 1, 1, 256, stream, NULL, NULL));
}

static int do_nothing(void *user, uint64_t *start_ns, uint64_t *end_ns)
{
    (void)user;
    (void)start_ns;
    (void)end_ns;
    return 0;
}

static void test_kernel_record(void)
{
    uint64_t before, after;
    unsigned long long id;
    OK(cuptiGetTimestamp(&before));
    launch();
    flush();
    OK(cuptiGetTimestamp(&after));
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), 1);
    CUpti_ActivityKernel10 *k = &find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 0)->kernel;
    CHECK(strcmp(k->name, "_Z4gemmPf") == 0);
    CHECK_IS(k->gridX, 4);
    CHECK_IS(k->gridY, 2);
    CHECK_IS(k->blockX, 128);
    CHECK_IS(k->dynamicSharedMemory, 256);
    CHECK_IS(k->deviceId, 0);
    CHECK_IS(k->graphId, 0);
    CHECK_IS(k->correlationId, 0); /* no API kind is enabled, so there are no ids */
    CHECK(k->start >= before && k->end >= k->start && k->end <= after);
    OK(cuStreamGetId(stream, &id));
    CHECK_IS(k->streamId, id);
    uint32_t from_cupti;
    OK(cuptiGetStreamIdEx(context, stream, 0, &from_cupti));
    CHECK_IS(from_cupti, id);
    OK(cuptiGetStreamId(context, NULL, &from_cupti));
    CHECK_IS(from_cupti, 7);
    OK(cuptiGetContextId(context, &from_cupti));
    CHECK_IS(k->contextId, from_cupti);
}

/* push(id) ... launch ... pop: external record -> correlation id -> API record and kernel. */
static void test_external_correlation(void)
{
    uint64_t popped = 0;
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION));
    OK(cuptiActivityEnableDriverApi(CBID_LAUNCH_KERNEL_EX, 1));
    OK(cuptiActivityPushExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2, 4711));
    OK(standin_device_op(stream, NCCL_KERNEL, do_nothing, NULL, NULL));
    launch(); /* another call: the cbid is not enabled, so it has no record */
    OK(cuptiActivityPopExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2, &popped));
    CHECK_IS(popped, 4711);
    CHECK_IS(cuptiActivityPopExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2, NULL),
             CUPTI_ERROR_QUEUE_EMPTY);
    flush();
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION), 1);
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_DRIVER), 1);
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), 2);
    union record *external = find_record(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION, 0);
    union record *api = find_record(CUPTI_ACTIVITY_KIND_DRIVER, 0);
    CHECK(external < api);
    CHECK_IS(external->external.externalId, 4711);
    CHECK_IS(external->external.externalKind, CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2);
    CHECK_IS(api->api.cbid, CBID_LAUNCH_KERNEL_EX);
    CHECK_IS(api->api.correlationId, external->external.correlationId);
    CHECK_IS(api->api.processId, getpid());
    int matched = 0;
    for (int i = 0; i < 2; i++) {
        CUpti_ActivityKernel10 *k = &find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, i)->kernel;
        if (strcmp(k->name, NCCL_KERNEL) == 0) {
            CHECK_IS(k->correlationId, api->api.correlationId);
            matched++;
        }
    }
    CHECK_IS(matched, 1);
    OK(cuptiActivityEnableDriverApi(CBID_LAUNCH_KERNEL_EX, 0));
    OK(cuptiActivityDisable(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION));
}

static void test_copies_and_fills(void)
{
    CUdeviceptr here, there;
    static char pageable[4096];
    CUcontext other;
    OK(cuMemAlloc_v2(&here, 4096));
    OK(cuDevicePrimaryCtxRetain(&other, 1));
    OK(cuCtxPushCurrent_v2(other));
    OK(cuMemAlloc_v2(&there, 4096));
    OK(cuCtxPopCurrent_v2(NULL));
    OK(cuMemcpyHtoDAsync_v2(here, pageable, 4096, stream));
    OK(cuMemcpyDtoDAsync_v2(here, here + 2048, 100, stream));
    OK(cuMemcpyDtoDAsync_v2(there, here, 300, stream));
    OK(cuMemsetD8Async(here, 3, 500, stream));
    CUdeviceptr dsts[2] = {here, here + 64}, srcs[2] = {here + 128, here + 192};
    size_t sizes[2] = {10, 20};
    OK(cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 2, NULL, NULL, 0, stream));
    flush();
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_MEMCPY), 3);
    CUpti_ActivityMemcpy6 *c = &find_record(CUPTI_ACTIVITY_KIND_MEMCPY, 0)->copy;
    CHECK_IS(c->copyKind, CUPTI_ACTIVITY_MEMCPY_KIND_HTOD);
    CHECK_IS(c->srcKind, CUPTI_ACTIVITY_MEMORY_KIND_PAGEABLE);
    CHECK_IS(c->bytes, 4096);
    c = &find_record(CUPTI_ACTIVITY_KIND_MEMCPY, 1)->copy;
    CHECK_IS(c->copyKind, CUPTI_ACTIVITY_MEMCPY_KIND_DTOD);
    CHECK_IS(c->bytes, 100);
    c = &find_record(CUPTI_ACTIVITY_KIND_MEMCPY, 2)->copy;
    CHECK_IS(c->copyCount, 2);
    CHECK_IS(c->bytes, 30);
    CUpti_ActivityMemcpyPtoP4 *p = &find_record(CUPTI_ACTIVITY_KIND_MEMCPY2, 0)->peer;
    CHECK_IS(p->bytes, 300);
    CHECK_IS(p->srcDeviceId, 0);
    CHECK_IS(p->dstDeviceId, 1);
    CHECK_IS(find_record(CUPTI_ACTIVITY_KIND_MEMSET, 0)->fill.bytes, 500);
    OK(cuMemFree_v2(here));
}

/* Replayed kernels carry the ids of the executable graph and of its node, and the launch's call. */
static void test_graph_replay(void)
{
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode node;
    size_t count = 1;
    uint64_t captured_id;
    uint32_t graph_id, exec_id;
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(standin_device_op(stream, NCCL_KERNEL, do_nothing, NULL, NULL));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphGetNodes(graph, &node, &count));
    OK(cuptiGetGraphNodeId(node, &captured_id));
    OK(cuptiGetGraphId(graph, &graph_id));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuptiGetGraphExecId(exec, &exec_id));
    CHECK(exec_id != graph_id);
    OK(cuptiActivityEnableDriverApi(CBID_GRAPH_LAUNCH, 1));
    for (int i = 0; i < 3; i++)
        OK(cuGraphLaunch(exec, stream));
    flush();
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), 3);
    uint64_t node_id = find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 0)->kernel.graphNodeId;
    CHECK(node_id != 0 && node_id != captured_id);
    for (int i = 0; i < 3; i++) {
        CUpti_ActivityKernel10 *k = &find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, i)->kernel;
        CHECK_IS(k->graphId, exec_id);
        CHECK_IS(k->graphNodeId, node_id);
        CHECK_IS(k->correlationId, find_record(CUPTI_ACTIVITY_KIND_DRIVER, i)->api.correlationId);
    }
    OK(cuptiActivityEnableDriverApi(CBID_GRAPH_LAUNCH, 0));
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

static struct {
    int enters, exits, created, cloned;
    uint32_t correlation;
    const char *symbol;
    uint64_t original_id, cloned_id;
    CUstream stream_param;
} seen;

static void callback(void *user, CUpti_CallbackDomain domain, CUpti_CallbackId cbid,
                     const void *data)
{
    CHECK(user == &seen);
    if (domain == CUPTI_CB_DOMAIN_DRIVER_API && cbid == CBID_LAUNCH_KERNEL_EX) {
        const CUpti_CallbackData *d = data;
        if (d->callbackSite == CUPTI_API_ENTER) {
            seen.enters++;
            *d->correlationData = 99;
        } else {
            seen.exits++;
            CHECK_IS(*d->correlationData, 99);
            CHECK_IS(*(CUresult *)d->functionReturnValue, 0);
        }
        CHECK(strcmp(d->functionName, "cuLaunchKernelEx") == 0);
        seen.correlation = d->correlationId;
        seen.symbol = d->symbolName;
        seen.stream_param = (*(const CUlaunchConfig *const *)d->functionParams)->hStream;
    } else if (domain == CUPTI_CB_DOMAIN_RESOURCE) {
        const CUpti_GraphData *g = ((const CUpti_ResourceData *)data)->resourceDescriptor;
        if (cbid == CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED) {
            seen.created++;
            OK(cuptiGetGraphNodeId(g->node, &seen.original_id));
        } else if (cbid == CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED) {
            uint64_t original;
            seen.cloned++;
            OK(cuptiGetGraphNodeId(g->originalNode, &original));
            CHECK_IS(original, seen.original_id);
            OK(cuptiGetGraphNodeId(g->node, &seen.cloned_id));
        }
    }
}

static void test_callbacks(void)
{
    CUpti_SubscriberHandle first, second;
    char name[16] = "";
    CUpti_SubscriberParams mine = {sizeof(mine), "the first", NULL, 0};
    CUpti_SubscriberParams other = {sizeof(other), "other", name, sizeof(name)};
    CUgraph graph;
    CUgraphExec exec;
    OK(cuptiSubscribe_v2(&first, callback, &seen, &mine));
    CHECK_IS(cuptiSubscribe(&second, callback, NULL), 39);
    CHECK_IS(cuptiSubscribe_v2(&second, callback, NULL, &other), 39);
    CHECK(strcmp(name, "the first") == 0);
    OK(cuptiEnableCallback(1, first, CUPTI_CB_DOMAIN_DRIVER_API, CBID_LAUNCH_KERNEL_EX));
    OK(standin_device_op(stream, NCCL_KERNEL, do_nothing, NULL, NULL));
    CHECK_IS(seen.enters, 1);
    CHECK_IS(seen.exits, 1);
    CHECK(seen.correlation != 0);
    CHECK(seen.symbol != NULL && strcmp(seen.symbol, NCCL_KERNEL) == 0);
    CHECK(seen.stream_param == stream);
    flush();
    CHECK_IS(find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 0)->kernel.correlationId,
             seen.correlation);
    OK(cuptiEnableDomain(1, first, CUPTI_CB_DOMAIN_RESOURCE));
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(standin_device_op(stream, NCCL_KERNEL, do_nothing, NULL, NULL));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK_IS(seen.created, 1);
    CHECK_IS(seen.cloned, 1);
    OK(cuGraphLaunch(exec, stream));
    flush();
    CHECK_IS(find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 0)->kernel.graphNodeId,
             seen.cloned_id);
    OK(cuptiUnsubscribe(first));
    OK(cuptiSubscribe(&second, callback, &seen)); /* free again */
    OK(cuptiUnsubscribe(second));
    OK(cuGraphExecDestroy(exec));
}

/* Without buffers, records are dropped and counted; nothing else happens. */
static void test_dropped_records(void)
{
    size_t dropped = 1;
    flush();
    OK(cuptiActivityGetNumDroppedRecords(NULL, 0, &dropped));
    lend_bytes = 0;
    for (int i = 0; i < 5; i++)
        launch();
    flush();
    CHECK_IS(record_count, 0);
    OK(cuptiActivityGetNumDroppedRecords(NULL, 0, &dropped));
    CHECK_IS(dropped, 5);
    lend_bytes = BUFFER_BYTES;
}

/* Small buffers fill up and are delivered in order, none lost. */
static void test_small_buffers(void)
{
    lend_bytes = 3 * sizeof(CUpti_ActivityKernel10);
    record_count = 0;
    for (int i = 0; i < 100; i++)
        launch();
    OK(cuCtxSynchronize());
    OK(cuptiActivityFlushAll(1));
    CHECK_IS(count_records(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), 100);
    lend_bytes = BUFFER_BYTES;
}

static uint64_t monotonic(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void test_own_clock(void)
{
    uint64_t before = monotonic(), now;
    OK(cuptiActivityRegisterTimestampCallback(monotonic));
    OK(cuptiGetTimestamp(&now));
    CHECK(now + 1000000 >= before && now <= monotonic() + 1000000);
    launch();
    flush();
    CUpti_ActivityKernel10 *k = &find_record(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 0)->kernel;
    CHECK(k->start + 1000000 >= before && k->end <= monotonic() + 1000000);
}

int main(void)
{
    uint32_t version;
    const char *text;
    CUmodule module;
    OK(cuptiGetVersion(&version));
    CHECK_IS(version, 130001);
    OK(cuptiGetResultString(39, &text));
    CHECK(strcmp(text, "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED") == 0);
    OK(cuptiActivityRegisterCallbacks(lend_buffer, take_buffer));
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL));
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY));
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY2));
    OK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET));
    context = use_device(0);
    stream = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuModuleLoadData(&module, "any image"));
    OK(cuModuleGetFunction(&function, module, "_Z4gemmPf"));
    test_kernel_record();
    test_external_correlation();
    test_copies_and_fills();
    test_graph_replay();
    test_callbacks();
    test_dropped_records();
    test_small_buffers();
    test_own_clock();
    OK(cuptiFinalize());
    return 0;
}
