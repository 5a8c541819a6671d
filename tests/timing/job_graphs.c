/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exchanges in CUDA graphs, and all that can become of these before they are launched: by which
 * functions is for JOB_ROUTE to say, since each route reaches the library under test in another
 * way.
 *
 *   driver       the driver's functions by dlsym(libcuda)
 *   runtime      the runtime's, of a shared libcudart
 *   static       the driver's by cuGetProcAddress, as a runtime does that is linked statically
 *   per_thread   the same, for programs whose default streams are per thread
 *   entry_point  the driver's by cudaGetDriverEntryPoint
 */
#include <dlfcn.h>

#include "job.h"

typedef struct CUgraph_st *graph;

static struct {
    int (*begin)(cudaStream_t, int);
    int (*end)(cudaStream_t, graph *);
    int (*create)(graph *, unsigned);
    int (*clone)(graph *, graph);
    int (*child)(void **, graph, void *const *, size_t, graph);
    int (*add)(void **, graph, void *const *, const void *, size_t, void *);
    int (*with_flags)(rig_graph *, graph, unsigned long long);
    int (*with_params)(rig_graph *, graph, void *);
    int (*plain)(rig_graph *, graph, uintptr_t, uintptr_t, uintptr_t);
    int (*update)(rig_graph, graph, void *);
    int (*launch)(rig_graph, cudaStream_t);
    int (*destroy)(graph);
    int (*exec_destroy)(rig_graph);
} cu;

static const char *route;

static void *of_library(const char *library, const char *name)
{
    void *handle = dlopen(library, RTLD_NOW), *f = handle ? dlsym(handle, name) : NULL;
    CHECK(f != NULL);
    return f;
}

static void *by_proc_address(const char *name, int version)
{
    static int (*get)(const char *, void **, int, uint64_t, int *);
    static int (*old)(const char *, void **, int, uint64_t);
    uint64_t flags = strcmp(route, "per_thread") == 0 ? 2 : 0;
    void *f = NULL;
    if (!get) {
        get = (__typeof__(get))of_library("libcuda.so.1", "cuGetProcAddress_v2");
        /* asked for itself, as runtimes do */
        CHECK_EQ(get("cuGetProcAddress", (void **)&old, 11030, 0, NULL), 0);
        CHECK_EQ(get("cuGetProcAddress", (void **)&get, 12000, 0, NULL), 0);
        int status = 0;
        CHECK_EQ(get("no_such_function", &f, version, 0, &status), 0);
        CHECK(f == NULL && status == 1); /* CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND */
    }
    if (version < 12000)
        CHECK_EQ(old(name, &f, version, flags), 0);
    else
        CHECK_EQ(get(name, &f, version, flags, NULL), 0);
    CHECK(f != NULL);
    return f;
}

/* @param name of the driver's symbol @param base what cuGetProcAddress calls it, from `version` on
 * @param runtime's */
static void *find(const char *name, const char *base, int version, const char *runtime)
{
    void *f = NULL;
    if (strcmp(route, "driver") == 0)
        return rig_driver(name);
    if (strcmp(route, "runtime") == 0 && runtime)
        return of_library("libcudart.so.13", runtime);
    if (strcmp(route, "entry_point") == 0) {
        int (*get)(const char *, void **, unsigned long long, int *) =
            (__typeof__(get))of_library("libcudart.so.13", "cudaGetDriverEntryPoint");
        CHECK_EQ(get(base, &f, 0, NULL), 0);
        CHECK(f != NULL);
        return f;
    }
    return by_proc_address(base, version);
}

static void resolve(void)
{
    route = getenv("JOB_ROUTE");
    CHECK(route != NULL);
#define FIND(field, ...) cu.field = (__typeof__(cu.field))find(__VA_ARGS__)
    FIND(begin, "cuStreamBeginCapture_v2", "cuStreamBeginCapture", 12000, "cudaStreamBeginCapture");
    FIND(end, "cuStreamEndCapture", "cuStreamEndCapture", 12000, "cudaStreamEndCapture");
    FIND(create, "cuGraphCreate", "cuGraphCreate", 12000, "cudaGraphCreate");
    FIND(clone, "cuGraphClone", "cuGraphClone", 12000, "cudaGraphClone");
    FIND(child, "cuGraphAddChildGraphNode", "cuGraphAddChildGraphNode", 12000,
         "cudaGraphAddChildGraphNode");
    FIND(add, "cuGraphAddNode_v2", "cuGraphAddNode", 13000, NULL);
    FIND(with_flags, "cuGraphInstantiateWithFlags", "cuGraphInstantiateWithFlags", 12000,
         "cudaGraphInstantiateWithFlags");
    FIND(with_params, "cuGraphInstantiateWithParams", "cuGraphInstantiateWithParams", 12000,
         "cudaGraphInstantiateWithParams");
    FIND(plain, "cuGraphInstantiate_v2", "cuGraphInstantiate", 11000, "cudaGraphInstantiate");
    FIND(update, "cuGraphExecUpdate_v2", "cuGraphExecUpdate", 12000, "cudaGraphExecUpdate");
    FIND(launch, "cuGraphLaunch", "cuGraphLaunch", 11000, "cudaGraphLaunch");
    FIND(destroy, "cuGraphDestroy", "cuGraphDestroy", 12000, "cudaGraphDestroy");
    FIND(exec_destroy, "cuGraphExecDestroy", "cuGraphExecDestroy", 12000, "cudaGraphExecDestroy");
#undef FIND
}

/* Two exchanges with computation around them. */
static graph capture(const struct rig *rig, ncclComm_t comm)
{
    graph made;
    CHECK_EQ(cu.begin(rig->stream, 1 /* thread local */), 0);
    job_busy(job_late(rig, job_unique), rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    job_busy(30000, rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    CHECK_EQ(cu.end(rig->stream, &made), 0);
    return made;
}

static void launch(const struct rig *rig, rig_graph exec, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        CHECK_EQ(cu.launch(exec, rig->stream), 0);
}

/* A graph of the same graph twice, one after the other: the second time by the function that adds
 * any kind of node. */
static graph twice(graph inner)
{
    const struct {
        int type, reserved[3];
        graph child;
        char rest[256];
    } params = {.type = 4 /* CU_GRAPH_NODE_TYPE_GRAPH */, .child = inner};
    void *first, *second;
    graph outer;
    CHECK_EQ(cu.create(&outer, 0), 0);
    CHECK_EQ(cu.child(&first, outer, NULL, 0, inner), 0);
    CHECK_EQ(cu.add(&second, outer, &first, NULL, 1, (void *)(uintptr_t)&params), 0);
    return outer;
}

/* Exchanges 2 and 3 run eight times in all, 4 and 5 twice; timing.py holds that against the truth.
 */
void job_graphs(struct rig *rig)
{
    struct {
        uint64_t flags;
        void *upload, *error;
        int result;
    } params = {0};
    struct {
        int result;
        void *node, *from;
    } info;
    rig_graph exec[4];
    graph copied, outer, around;
    resolve();
    ncclComm_t comm = rig_comm(rig, 0);
    job_ahead(rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    graph first = capture(rig, comm);
    CHECK_EQ(cu.with_flags(&exec[0], first, 0), 0);
    launch(rig, exec[0], 2);
    CHECK_EQ(cu.clone(&copied, first), 0);
    CHECK_EQ(cu.destroy(first), 0);
    CHECK_EQ(cu.with_params(&exec[1], copied, &params), 0);
    launch(rig, exec[1], 1);
    graph other = capture(rig, comm);
    CHECK_EQ(cu.update(exec[0], other, &info), 0); /* from now on it is another one */
    launch(rig, exec[0], 2);
    outer = twice(copied);
    CHECK_EQ(cu.plain(&exec[2], outer, 0, 0, 0), 0);
    launch(rig, exec[2], 1);
    OK(job_exchange(rig, comm, rig->stream));
    CHECK_EQ(cu.begin(rig->stream, 1),
             0); /* a launch that is captured runs in the replays, and not now */
    launch(rig, exec[1], 1);
    CHECK_EQ(cu.end(rig->stream, &around), 0);
    CHECK_EQ(cu.with_flags(&exec[3], around, 0), 0);
    launch(rig, exec[3], 3);
    rig_sync(rig->stream);
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(cu.exec_destroy(exec[i]), 0);
    OK(ncclCommDestroy(comm));
}

/* Several streams of one capture in one group: the kernel goes to the last one, and waits for the
 * others. */
void job_graph_streams(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    cudaStream_t s[2] = {rig->stream, rig_stream()};
    job_ahead(s[0]);
    OK(job_exchange(rig, comm, s[0]));
    rig_capture_begin(s[0]);
    rig_stream_join(s[0], s[1]);
    for (unsigned i = 0; i < 2; i++) {
        unsigned number = ++job_unique;
        job_busy(job_late(rig, i), s[i]);
        OK(ncclGroupStart());
        for (int p = 0; p < rig->nranks; p++)
            job_put(rig, number, p, comm, s[p % 2]);
        OK(ncclGroupEnd());
    }
    rig_stream_join(s[1], s[0]);
    rig_graph exec = rig_capture_end(s[0]);
    for (unsigned i = 0; i < 4; i++)
        rig_graph_launch(exec, s[0]);
    rig_sync(s[0]);
    rig_graph_destroy(exec);
    OK(ncclCommDestroy(comm));
}
