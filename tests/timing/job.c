/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What exchanges can look like on a device, for timing.py: on the stand-ins, whose link model
 * writes down when each of them began and ended. usage: job CASE RANKS. Every exchange has sizes of
 * its own, by which its line in the truth files is found. Under the real or paced clock ranks are
 * late on purpose, by device work.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "abi/cupti.h"
#include "job.h"

_Thread_local char *job_buffer;
_Thread_local unsigned job_unique;

void job_work(const char *kernel, uint64_t ns, cudaStream_t stream)
{
    int (*launch)(cudaStream_t, const char *, uint64_t) =
        (int (*)(cudaStream_t, const char *, uint64_t))rig_driver("standin_device_work");
    CHECK_EQ(launch(stream, kernel, ns), 0);
}

void job_busy(uint64_t ns, cudaStream_t stream)
{
    job_work("_Z11expert_gemmv", ns, stream);
}

/* Different for every exchange, pair and direction. */
static size_t bytes_of(unsigned exchange, int src, int dst)
{
    return 1000 * (size_t)exchange + (size_t)((src * 7 + dst * 3) % 11) * 4096 + (size_t)src;
}

/* Keeps the device busy while the host issues what is to come, as in training: what is under way
 * then is timed to the event. Under the virtual clock that costs nothing. */
void job_ahead(cudaStream_t stream)
{
    int (*mode)(void) = (int (*)(void))rig_driver("standin_clock_mode");
    job_busy(mode() == 1 ? 10000000000 : 30000000, stream);
}

uint64_t job_late(const struct rig *rig, unsigned exchange)
{
    return ((unsigned)rig->rank * 3 + exchange) % 4 * 120000 + 20000;
}

void job_put(const struct rig *rig, unsigned exchange, int peer, ncclComm_t comm,
             cudaStream_t stream)
{
    OK(ncclSend(job_buffer, bytes_of(exchange, rig->rank, peer), ncclInt8, peer, comm, stream));
    OK(ncclRecv(job_buffer + (1 << 20), bytes_of(exchange, peer, rig->rank), ncclInt8, peer, comm,
                stream));
}

ncclResult_t job_exchange(const struct rig *rig, ncclComm_t comm, cudaStream_t stream)
{
    unsigned number = ++job_unique;
    OK(ncclGroupStart());
    for (int p = 0; p < rig->nranks; p++)
        job_put(rig, number, p, comm, stream);
    return ncclGroupEnd();
}

/* Under the virtual clock a thread that has learned of an end is at that time itself: what is asked
 * about before all is issued would decide when the rest can begin. The library asks from eight on.
 */
unsigned job_rounds(unsigned usual)
{
    int (*mode)(void) = (int (*)(void))rig_driver("standin_clock_mode");
    return mode() == 1 ? 6 : usual;
}

static void plain(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    job_ahead(rig->stream);
    for (unsigned i = 0; i < job_rounds(24); i++) {
        job_busy(job_late(rig, i), rig->stream);
        OK(job_exchange(rig, comm, rig->stream));
    }
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* As FastMoE, which does not call for nothing: who has nothing for anybody makes no group, so that
 * ordinals do not agree. Of four ranks all take part in every third call, in two pieces that share
 * nobody; one stays away from the others. */
static void skipping(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    job_ahead(rig->stream);
    for (unsigned i = 0; i < job_rounds(24); i++) {
        unsigned number = ++job_unique;
        bool any = false;
        job_busy(job_late(rig, i), rig->stream);
        for (int p = 0; p < rig->nranks; p++) {
            if (p == rig->rank || ((unsigned)(p + rig->rank) + i) % 3)
                continue;
            if (!any)
                OK(ncclGroupStart());
            any = true;
            job_put(rig, number, p, comm, rig->stream);
        }
        if (any) {
            job_put(rig, number, rig->rank, comm, rig->stream);
            OK(ncclGroupEnd());
        }
    }
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* The kernel goes to the last stream that was added, and waits for the others. */
static void streams(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    cudaStream_t s[3] = {rig->stream, rig_stream(), rig_stream()};
    for (int i = 0; i < 3; i++)
        job_ahead(s[i]);
    for (unsigned i = 0; i < job_rounds(9); i++) {
        unsigned number = ++job_unique;
        job_busy(job_late(rig, i), s[i % 3]); /* now the last one is late, now another */
        OK(ncclGroupStart());
        for (int p = 0; p < rig->nranks; p++)
            job_put(rig, number, p, comm, s[p % 3]);
        OK(ncclGroupEnd());
    }
    OK(job_exchange(rig, comm, s[0])); /* behind the one before, which was on another stream */
    for (int i = 0; i < 3; i++)
        rig_sync(s[i]);
    OK(ncclCommDestroy(comm));
}

/* Two communicators in one group, each on its own stream; then both on one. */
static void comms(struct rig *rig)
{
    ncclComm_t a = rig_comm(rig, 0), b = rig_comm(rig, 1);
    cudaStream_t other = rig_stream();
    job_ahead(rig->stream);
    job_ahead(other);
    for (unsigned i = 0; i < 6; i++) {
        cudaStream_t second = i < 4 ? other : rig->stream;
        unsigned number = job_unique + 1;
        job_unique += 2;
        job_busy(job_late(rig, i), rig->stream);
        OK(ncclGroupStart());
        for (int p = 0; p < rig->nranks; p++) {
            job_put(rig, number, p, a, rig->stream);
            job_put(rig, number + 1, p, b, second);
        }
        OK(ncclGroupEnd());
    }
    rig_sync(rig->stream);
    rig_sync(other);
    OK(ncclCommDestroy(a));
    OK(ncclCommDestroy(b));
}

/* Calls outside groups: an all-to-all, a collective, and the legacy default stream. */
static void single(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    for (unsigned i = 0; i < 4; i++) {
        cudaStream_t stream = i % 2 ? NULL : rig->stream;
        job_ahead(stream);
        job_busy(job_late(rig, i), stream);
        OK(ncclAlltoAll(job_buffer, job_buffer + (1 << 20), 1000 * ++job_unique, ncclInt8, comm,
                        stream));
        rig_sync(stream);
        OK(ncclAllReduce(job_buffer, job_buffer, 256, ncclFloat32, ncclSum, comm, stream));
        rig_sync(stream);
    }
    OK(ncclCommDestroy(comm));
}

/* Another thread of NCCL's launches; the application asks until it has. */
static void nonblocking(struct rig *rig)
{
    struct {
        struct skew_nccl_config_head head;
        int rest[24];
    } config = {.head = {sizeof(config.head), NCCL_CONFIG_MAGIC, 22809, 0}};
    ncclComm_t comm;
    ncclResult_t result =
        ncclCommInitRankConfig(&comm, rig->nranks, rig->ids[0], rig->rank, (ncclConfig_t *)&config);
    CHECK(result == ncclSuccess || result == ncclInProgress);
    OK(rig_settle(comm));
    job_ahead(rig->stream);
    for (unsigned i = 0; i < job_rounds(8); i++) {
        job_busy(job_late(rig, i), rig->stream);
        CHECK_EQ(job_exchange(rig, comm, rig->stream), ncclInProgress);
        OK(rig_settle(comm));
        job_busy(50000, rig->stream); /* not part of the exchange */
    }
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* Exchanges in a graph, replayed, between such that are not. */
static void graph(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    job_ahead(rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    rig_capture_begin(rig->stream);
    job_busy(job_late(rig, 1), rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    job_busy(30000, rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    rig_graph exec = rig_capture_end(rig->stream);
    for (unsigned i = 0; i < 5; i++) {
        rig_graph_launch(exec, rig->stream);
        if (i == 2)
            OK(job_exchange(rig, comm, rig->stream));
    }
    rig_sync(rig->stream);
    rig_graph_destroy(exec);
    OK(ncclCommDestroy(comm));
}

/* A thread captures in global mode, in which calls that could disturb end it, whoever makes them;
 * meanwhile the rank exchanges, often enough that events are made and asked about. */
static atomic_int capturing, captures_done, captures_broken;

static void *capture_main(void *arg)
{
    struct rig *rig = arg;
    int (*begin)(cudaStream_t, int) =
        (int (*)(cudaStream_t, int))rig_driver("cuStreamBeginCapture_v2");
    int (*end)(cudaStream_t, void **) =
        (int (*)(cudaStream_t, void **))rig_driver("cuStreamEndCapture");
    rig_device(rig->rank % 8);
    cudaStream_t stream = rig_stream();
    while (!atomic_load(&captures_done)) {
        void *made;
        CHECK_EQ(begin(stream, 0 /* global */), 0);
        atomic_store(&capturing, 1);
        job_busy(1000, stream);
        usleep(2000);
        atomic_store(&captures_broken, atomic_load(&captures_broken) + (end(stream, &made) != 0));
    }
    return NULL;
}

static void captures(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, capture_main, rig), 0);
    while (!atomic_load(&capturing))
        usleep(100);
    for (unsigned i = 0; i < 200; i++)
        OK(job_exchange(rig, comm, rig->stream));
    atomic_store(&captures_done, 1);
    pthread_join(thread, NULL);
    rig_sync(rig->stream); /* not before: that would end a capture */
    CHECK_EQ(atomic_load(&captures_broken), 0);
    OK(ncclCommDestroy(comm));
}

/* More under way than there is room for: the device is held up, and the host runs ahead. */
static void ahead(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    job_busy(300000000, rig->stream);
    for (unsigned i = 0; i < 1500; i++)
        OK(job_exchange(rig, comm, rig->stream));
    rig_sync(rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* Threads that come and go, with launches under way. */
static void *one_exchange(void *arg)
{
    struct rig *rig = ((void **)arg)[0];
    job_buffer = ((void **)arg)[2];
    job_unique = *(unsigned *)((void **)arg)[3];
    rig_device(rig->rank % 8);
    OK(job_exchange(rig, ((void **)arg)[1], rig->stream));
    return NULL;
}

static void threads(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    unsigned i = 0;
    void *arg[4] = {rig, comm, job_buffer, &i};
    job_ahead(rig->stream);
    for (; i < job_rounds(40) / 2; i++) { /* what a thread leaves, any other takes over */
        pthread_t thread;
        job_busy(job_late(rig, i) / 4, rig->stream);
        CHECK_EQ(pthread_create(&thread, NULL, one_exchange, arg), 0);
        pthread_join(thread, NULL);
    }
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* Ends with work under way, and after the context has been reset. */
static void unfinished(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    OK(job_exchange(rig, comm, rig->stream));
    rig_sync(rig->stream);
    job_busy(20000000, rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    exit(0);
}

static void reset(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    int (*reset_device)(int) = (int (*)(int))rig_driver("cuDevicePrimaryCtxReset_v2");
    OK(job_exchange(rig, comm, rig->stream));
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
    CHECK_EQ(reset_device(rig->rank % 8), 0);
}

/* Counts what waits for the device, whoever calls it: CUPTI's callbacks tell. */
static atomic_int waits;

static void on_wait(void *user, int domain, uint32_t cbid, const CUpti_CallbackData *data)
{
    (void)user;
    (void)domain;
    (void)cbid;
    atomic_fetch_add(&waits, data->callbackSite == CUPTI_API_ENTER);
}

static void *cupti(const char *name)
{
    void *library = dlopen("libcupti.so.13", RTLD_NOW);
    void *f = library ? dlsym(library, name) : NULL;
    CHECK(f != NULL);
    return f;
}

static void watched(struct rig *rig)
{
    static const uint32_t waiting[] = {17, 121, 126, 440,
                                       800}; /* cu{Ctx,Event,Stream}Synchronize */
    CUpti_SubscriberHandle handle;
    CHECK_EQ(((int (*)(CUpti_SubscriberHandle *, void *, void *))cupti("cuptiSubscribe"))(
                 &handle, (void *)on_wait, NULL),
             0);
    for (unsigned i = 0; i < sizeof(waiting) / sizeof(*waiting); i++)
        CHECK_EQ(((int (*)(uint32_t, CUpti_SubscriberHandle, int, uint32_t))cupti(
                     "cuptiEnableCallback"))(1, handle, CUPTI_CB_DOMAIN_DRIVER_API, waiting[i]),
                 0);
    plain(rig);
    printf("waits %d\n", atomic_load(&waits));
}

/* A profiler that starts in the middle, as torch.profiler does: it subscribes, and lends buffers of
 * its own. */
static atomic_int kernels_seen;

static void lend(uint8_t **data, size_t *size, size_t *most)
{
    *data = malloc(1 << 20);
    *size = 1 << 20;
    *most = 0;
}

static void take_back(void *context, uint32_t stream, uint8_t *data, size_t size, size_t valid)
{
    CUptiResult (*next)(uint8_t *, size_t, CUpti_Activity **) =
        (CUptiResult(*)(uint8_t *, size_t, CUpti_Activity **))cupti("cuptiActivityGetNextRecord");
    CUpti_Activity *record = NULL;
    (void)context;
    (void)stream;
    (void)size;
    while (next(data, valid, &record) == 0)
        atomic_fetch_add(&kernels_seen,
                         record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL &&
                             strstr(((CUpti_ActivityKernel10 *)record)->name, "nccl") != NULL);
    free(data);
}

static void profiled(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    CUpti_SubscriberHandle handle;
    for (unsigned i = 0; i < 10; i++) {
        job_busy(job_late(rig, i), rig->stream);
        OK(job_exchange(rig, comm, rig->stream));
    }
    rig_sync(rig->stream);
    CHECK_EQ(((int (*)(CUpti_SubscriberHandle *, void *, void *))cupti("cuptiSubscribe"))(
                 &handle, (void *)on_wait, NULL),
             0);
    CHECK_EQ(((int (*)(void *, void *))cupti("cuptiActivityRegisterCallbacks"))((void *)lend,
                                                                                (void *)take_back),
             0);
    CHECK_EQ(((int (*)(int))cupti("cuptiActivityEnable"))(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL),
             0);
    for (unsigned i = 0; i < 10; i++) {
        job_busy(job_late(rig, i), rig->stream);
        OK(job_exchange(rig, comm, rig->stream));
    }
    rig_sync(rig->stream);
    CHECK_EQ(((int (*)(uint32_t))cupti("cuptiActivityFlushAll"))(1), 0);
    printf("profiler saw %d kernels\n", atomic_load(&kernels_seen));
    OK(ncclCommDestroy(comm));
}

/* Collectives that have no kernel: NCCL makes one of a single rank a copy, as it does on its
 * copy-engine path. */
static void copies(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    job_ahead(rig->stream);
    for (unsigned i = 1; i <= 6; i++)
        OK(ncclAllGather(job_buffer, job_buffer + (1 << 20), 100000 * i, ncclInt8, comm,
                         rig->stream));
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* More records than the buffers hold. */
static void flood(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    for (unsigned i = 0; i < 3000; i++) {
        for (int k = 0; k < 8; k++)
            job_busy(100, rig->stream);
        OK(ncclAlltoAll(job_buffer, job_buffer + (1 << 20), 1 + i, ncclInt8, comm, rig->stream));
    }
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* Dispatch, experts on the same stream, combine; meanwhile rank 0 computes on a second stream, with
 * gaps that are filled by something that is no computation. timing.py knows the lengths. */
static void overlap(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    cudaStream_t second = rig_stream();
    job_ahead(rig->stream);
    job_ahead(second);
    OK(job_exchange(rig, comm, rig->stream));            /* opens CUPTI */
    job_work("some_all_to_all_of_others", 1000, second); /* ends the row of what was ahead */
    for (unsigned i = 0; rig->rank == 0 && i < 60; i++) {
        job_work("_Z11second_gemmv", 7000 + 1000 * (i % 5), second);
        job_work("some_all_to_all_of_others", 3000 + 2000 * (i % 3), second);
    }
    for (unsigned i = 0; i < 3; i++) {
        OK(job_exchange(rig, comm, rig->stream));
        job_work("_Z11expert_gemmv", 15000 + 5000 * i + 1000 * (unsigned)rig->rank, rig->stream);
        OK(job_exchange(rig, comm, rig->stream));
    }
    rig_sync(rig->stream);
    rig_sync(second);
    OK(ncclCommDestroy(comm));
}

/* Kernels with the names in a file, each between two others, all close together. */
static void named(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    FILE *file = fopen(getenv("KERNEL_NAMES"), "re");
    static char names[200][400];
    unsigned count = 0;
    CHECK(file != NULL);
    while (count < 200 && fgets(names[count], sizeof(names[count]), file))
        count++;
    fclose(file);
    job_ahead(rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    for (unsigned i = 0; i < count; i++) {
        names[i][strcspn(names[i], "\n")] = '\0';
        job_busy(2000, rig->stream);
        job_busy(2000, rig->stream);
        job_work(names[i], 1000 + i, rig->stream);
    }
    job_busy(2000, rig->stream);
    OK(job_exchange(rig, comm, rig->stream));
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

static const struct {
    const char *name;
    void (*body)(struct rig *);
} cases[] = {{"plain", plain},           {"skipping", skipping},
             {"streams", streams},       {"comms", comms},
             {"single", single},         {"nonblocking", nonblocking},
             {"graph", graph},           {"captures", captures},
             {"ahead", ahead},           {"threads", threads},
             {"unfinished", unfinished}, {"reset", reset},
             {"watched", watched},       {"profiled", profiled},
             {"flood", flood},           {"copies", copies},
             {"overlap", overlap},       {"named", named},
             {"graphs", job_graphs},     {"graph_streams", job_graph_streams},
             {"engines", job_engines},   {"engine_graphs", job_engine_graphs}};

static void (*body)(struct rig *);

static void alone(struct rig *rig)
{
    job_buffer = rig_alloc(4 << 20);
    body(rig);
}

/* Ranks that are threads, all on the first device: one clock. */
static void together(struct rig *rig)
{
    rig_device(0);
    rig->stream = rig_stream();
    alone(rig);
}

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 3 && i < sizeof(cases) / sizeof(*cases); i++)
        if (strcmp(argv[1], cases[i].name) == 0)
            body = cases[i].body;
    if (!body) {
        fprintf(stderr, "usage: job CASE RANKS      RANKS: processes, or as -RANKS threads\n");
        return 2;
    }
    int ranks = atoi(argv[2]);
    return (ranks < 0 ? rig_threads(argv[1], -ranks, together)
                      : rig_processes(argv[1], ranks, alone, -1)) != 0;
}
