/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the stand-in driver tells the stand-in CUPTI, and how the stand-in runtime reports its own
 * calls. Private to tests/standin/cuda; looked up by name in libcuda.so.1, as CUPTI and the runtime
 * of the real stack use private tables of the driver.
 *
 * All times are device time in ns (see README.md). Everything pointed to is borrowed for the call.
 */
#ifndef STANDIN_TRACER_H
#define STANDIN_TRACER_H

#include <stdint.h>

/* Domains as CUPTI numbers them. */
enum { STANDIN_DOMAIN_DRIVER = 1, STANDIN_DOMAIN_RUNTIME = 2, STANDIN_DOMAIN_RESOURCE = 3 };

struct standin_api_call {
    int domain;
    uint32_t cbid;
    const char *name;
    const void *params; /* laid out as CUPTI's ..._params structures */
    const void *result; /* where the CUresult or cudaError_t stands; valid at exit */
    uint64_t start_ns;
    uint32_t correlation;           /* set by the tracer at enter, 0 none */
    uint64_t user_data;             /* CUPTI's correlationData */
    uint64_t subscriber_generation; /* the tracer's own */
    struct standin_api_call *outer; /* the call of this thread that this one is inside of */
};

enum standin_activity_kind {
    STANDIN_ACTIVITY_KERNEL,
    STANDIN_ACTIVITY_MEMCPY,
    STANDIN_ACTIVITY_MEMSET,
};

struct standin_activity {
    enum standin_activity_kind kind;
    uint64_t start_ns;
    uint64_t end_ns;
    uint32_t device;
    uint32_t context_id;
    uint32_t stream_id;
    uint32_t correlation;
    uint32_t graph_id;      /* of the executable graph, 0 when not in a graph */
    uint64_t graph_node_id; /* of the node in the executable graph */
    const char *name;       /* kernels; lives as long as the process */
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared_bytes;
    uint64_t bytes;      /* copies and fills */
    uint32_t copy_count; /* copies in one record */
    uint8_t copy_kind;   /* as CUpti_ActivityMemcpyKind */
    uint8_t src_kind;    /* as CUpti_ActivityMemoryKind */
    uint8_t dst_kind;
    uint32_t src_device;
    uint32_t dst_device;
    uint32_t value; /* fills */
};

/* Resource events, numbered as CUPTI_CBID_RESOURCE_*. */
struct standin_resource {
    uint32_t cbid;
    void *context;
    void *stream;
    void *graph;
    void *original_graph;
    void *node;
    void *original_node;
    int node_type;
    void *dependency;
    void *graph_exec;
};

struct standin_tracer {
    void (*api_enter)(struct standin_api_call *call);
    void (*api_exit)(struct standin_api_call *call);
    void (*activity)(const struct standin_activity *activity);
    void (*resource)(const struct standin_resource *resource);
};

/* One tracer at a time; NULL takes it away. It must stay loaded for ever: calls may be under way.
 */
void standin_tracer_set(const struct standin_tracer *tracer);

/* For the runtime: brackets one of its calls. Returns 0 when nobody listens; then no exit is due.
 */
int standin_api_enter(struct standin_api_call *call);
void standin_api_exit(struct standin_api_call *call);

/* Identities for CUPTI. Return 0, or a CUresult where the handle is none of ours. */
int standin_stream_id(void *context, void *stream, int per_thread, uint32_t *id);
int standin_context_id(void *context, uint32_t *id);
int standin_context_device(void *context, uint32_t *device);
int standin_graph_id(void *graph, uint32_t *id);
int standin_graph_exec_id(void *graph_exec, uint32_t *id);
int standin_graph_node_id(void *node, uint64_t *id);

#endif
