/* SPDX-License-Identifier: Apache-2.0 */
/* See rig.h. The driver is looked up at run time, as the library under test does it. */
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rig.h"

#define IDS 8

_Noreturn void rig_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: failed: %s (last error: %s)\n", file, line, what,
            ncclGetLastError(NULL));
    fflush(NULL);
    _exit(1);
}

_Noreturn void rig_fail_eq(const char *file, int line, const char *what, long long got,
                           long long wanted)
{
    fprintf(stderr, "%s:%d: %s is %lld, not %lld (last error: %s)\n", file, line, what, got, wanted,
            ncclGetLastError(NULL));
    fflush(NULL);
    _exit(1);
}

static pthread_once_t driver_once = PTHREAD_ONCE_INIT;
static void *driver_handle;

static void open_driver(void)
{
    driver_handle = dlopen("libcuda.so.1", RTLD_NOW);
}

void *rig_driver(const char *name)
{
    pthread_once(&driver_once, open_driver);
    void *f = driver_handle ? dlsym(driver_handle, name) : NULL;
    if (!f) {
        fprintf(stderr, "libcuda.so.1 lacks %s: %s\n", name, dlerror());
        _exit(1);
    }
    return f;
}
/* Calls a driver function that returns a CUresult. */
#define CU(name, types, ...)                                                                       \
    do {                                                                                           \
        int error_ = ((int(*) types)rig_driver(#name))(__VA_ARGS__);                               \
        if (error_)                                                                                \
            rig_fail_eq(__FILE__, __LINE__, #name, error_, 0);                                     \
    } while (0)

void rig_device(int device)
{
    void *ctx;

    CU(cuInit, (unsigned), 0);
    CU(cuDevicePrimaryCtxRetain, (void **, int), &ctx, device);
    CU(cuCtxSetCurrent, (void *), ctx);
}

cudaStream_t rig_stream(void)
{
    cudaStream_t stream;

    CU(cuStreamCreate, (cudaStream_t *, unsigned), &stream, 1 /* non-blocking */);
    return stream;
}

void rig_sync(cudaStream_t stream)
{
    CU(cuStreamSynchronize, (cudaStream_t), stream);
}

bool rig_idle(cudaStream_t stream)
{
    return ((int (*)(cudaStream_t))rig_driver("cuStreamQuery"))(stream) == 0;
}

void *rig_alloc(size_t bytes)
{
    unsigned long long p;

    CU(cuMemAlloc_v2, (unsigned long long *, size_t), &p, bytes ? bytes : 1);
    memset((void *)(uintptr_t)p, 0, bytes);
    return (void *)(uintptr_t)p;
}

void rig_free(void *p)
{
    CU(cuMemFree_v2, (unsigned long long), (unsigned long long)(uintptr_t)p);
}

void rig_capture_begin(cudaStream_t stream)
{
    CU(cuStreamBeginCapture_v2, (cudaStream_t, int), stream, 1 /* thread local */);
}

rig_graph rig_capture_end(cudaStream_t stream)
{
    void *graph;
    rig_graph exec;

    CU(cuStreamEndCapture, (cudaStream_t, void **), stream, &graph);
    CU(cuGraphInstantiateWithFlags, (rig_graph *, void *, unsigned long long), &exec, graph, 0);
    CU(cuGraphDestroy, (void *), graph);
    return exec;
}

void rig_graph_launch(rig_graph graph, cudaStream_t stream)
{
    CU(cuGraphLaunch, (rig_graph, cudaStream_t), graph, stream);
}

void rig_graph_destroy(rig_graph graph)
{
    CU(cuGraphExecDestroy, (rig_graph), graph);
}

void rig_stream_join(cudaStream_t from, cudaStream_t to)
{
    void *event;

    CU(cuEventCreate, (void **, unsigned), &event, 2);
    CU(cuEventRecord, (void *, cudaStream_t), event, from);
    CU(cuStreamWaitEvent, (cudaStream_t, void *, unsigned), to, event, 0);
    CU(cuEventDestroy_v2, (void *), event);
}

ncclComm_t rig_comm(struct rig *rig, int id)
{
    ncclComm_t comm;

    OK(ncclCommInitRank(&comm, rig->nranks, rig->ids[id], rig->rank));
    return comm;
}

ncclComm_t rig_comm_zero_ctas(struct rig *rig, int id)
{
    struct {
        struct skew_nccl_config_policy policy;
        int rest[16];
    } config = {.policy = {.size = sizeof(config),
                           .magic = NCCL_CONFIG_MAGIC,
                           .version = 22809,
                           .blocking = 1,
                           .cta_policy = NCCL_CTA_POLICY_ZERO}};
    ncclComm_t comm;

    OK(ncclCommInitRankConfig(&comm, rig->nranks, rig->ids[id], rig->rank,
                              (ncclConfig_t *)&config));
    return comm;
}

ncclResult_t rig_settle(ncclComm_t comm)
{
    ncclResult_t state;

    do {
        OK(ncclCommGetAsyncError(comm, &state));
        if (state == ncclInProgress)
            usleep(1000);
    } while (state == ncclInProgress);
    return state;
}

/* Asked in a child, so that the ranks load the driver themselves, as applications do. */
static void need_driver(void)
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(dlopen("libcuda.so.1", RTLD_NOW) ? 0 : 77);
    waitpid(pid, &status, 0);
    if (status != 0) {
        printf("skipped: no libcuda.so.1 in LD_LIBRARY_PATH\n");
        exit(77);
    }
}

static struct rig *new_rigs(int n, ncclUniqueId *ids)
{
    struct rig *rigs = calloc((size_t)n, sizeof(*rigs));
    void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    need_driver();
    for (int i = 0; i < IDS; i++)
        OK(ncclGetUniqueId(&ids[i]));
    for (int r = 0; r < n; r++)
        rigs[r] = (struct rig){.rank = r, .nranks = n, .ids = ids, .shared = shared};
    return rigs;
}

static bool write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    bool written = f && fputs(text, f) >= 0;
    return f && fclose(f) == 0 && written;
}

/* RIG_CLOCKS=NS,NS,… : what each rank's CLOCK_MONOTONIC is ahead of the machine's. Only children of
 * the process that asks get such a clock, so this one goes on in one, and its parent passes the end
 * on. */
static void enter_clock(int rank)
{
    const char *at = getenv("RIG_CLOCKS");
    long long ns = 0, second = 1000000000;
    char text[64];
    int status;

    if (!at)
        return;
    for (int r = 0; at && r <= rank; r++) {
        ns = strtoll(at, NULL, 10);
        at = strchr(at, ',');
        at = at ? at + 1 : NULL;
    }
    long long whole = ns / second - (ns % second < 0);
    snprintf(text, sizeof(text), "monotonic %lld %lld", whole, ns - whole * second);
    if (unshare(0x80 /* CLONE_NEWTIME */) != 0 || !write_text("/proc/self/timens_offsets", text)) {
        perror("skipped: no time namespace with an offset of its own");
        _exit(77);
    }
    pid_t pid = fork();
    if (pid == 0)
        return;
    waitpid(pid, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

int rig_processes(const char *name, int n, void (*body)(struct rig *), int killed)
{
    ncclUniqueId ids[IDS];
    struct rig *rigs = new_rigs(n, ids);
    pid_t pids[64];
    int failed = 0;

    fflush(NULL);
    for (int r = 0; r < n; r++) {
        pids[r] = fork();
        if (pids[r] == 0) {
            enter_clock(r);
            alarm(120);
            rig_device(r % 8);
            rigs[r].stream = rig_stream();
            body(&rigs[r]);
            fflush(NULL);
            exit(0);
        }
    }
    for (int r = 0; r < n; r++) {
        int status;
        waitpid(pids[r], &status, 0);
        if (status != 0 && !(r == killed && WIFSIGNALED(status))) {
            fprintf(stderr, "%s: rank %d of %d ended with status 0x%x\n", name, r, n, status);
            failed++;
        }
    }
    printf("%-28s %2d processes: %s\n", name, n, failed ? "FAILED" : "ok");
    munmap((void *)(uintptr_t)rigs[0].shared, 4096);
    free(rigs);
    return failed;
}

struct thread_arg {
    struct rig *rig;
    void (*body)(struct rig *);
};

static void *thread_main(void *arg)
{
    struct thread_arg *a = arg;

    rig_device(a->rig->rank % 8);
    a->rig->stream = rig_stream();
    a->body(a->rig);
    return NULL;
}

int rig_threads(const char *name, int n, void (*body)(struct rig *))
{
    ncclUniqueId ids[IDS];
    struct rig *rigs = new_rigs(n, ids);
    int status;

    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t threads[64];
        struct thread_arg args[64];
        alarm(120);
        for (int r = 0; r < n; r++) {
            args[r] = (struct thread_arg){&rigs[r], body};
            CHECK_EQ(pthread_create(&threads[r], NULL, thread_main, &args[r]), 0);
        }
        for (int r = 0; r < n; r++)
            pthread_join(threads[r], NULL);
        exit(0);
    }
    waitpid(pid, &status, 0);
    printf("%-28s %2d threads: %s\n", name, n, status ? "FAILED" : "ok");
    munmap((void *)(uintptr_t)rigs[0].shared, 4096);
    free(rigs);
    return status != 0;
}
