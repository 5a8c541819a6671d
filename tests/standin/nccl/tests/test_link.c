/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The link model against its definition, worked out here from the sizes alone: who waits for whom,
 * how long the transfer lasts, and that the driver's events and the truth files say the same.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <math.h>
#include <unistd.h>

#include "rig.h"

#define LATENCY_NS    10000.0
#define BYTES_PER_NS  2.0
#define WORK_NS(rank) (100000ull * ((unsigned)(rank)*3 % 4 + 1))

static size_t bytes(int src, int dst)
{
    return (size_t)((src * 5 + dst * 3) % 7) * 1000;
}

static void *event_new(void)
{
    void *event;
    int (*create)(void **, unsigned) = (int (*)(void **, unsigned))rig_driver("cuEventCreate");

    CHECK_EQ(create(&event, 0), 0);
    return event;
}

static void event_record(void *event, cudaStream_t stream)
{
    int (*record)(void *, cudaStream_t) =
        (int (*)(void *, cudaStream_t))rig_driver("cuEventRecord");

    CHECK_EQ(record(event, stream), 0);
}

static void event_destroy(void *event)
{
    int (*destroy)(void *) = (int (*)(void *))rig_driver("cuEventDestroy_v2");

    CHECK_EQ(destroy(event), 0);
}

static double elapsed_ns(void *from, void *to)
{
    float ms;
    int (*elapsed)(float *, void *, void *) =
        (int (*)(float *, void *, void *))rig_driver("cuEventElapsedTime");

    CHECK_EQ(elapsed(&ms, from, to), 0);
    return (double)ms * 1e6;
}

/* What the model says of rank `me`, relative to the arrival of a rank without work. */
static double model(int n, int me, bool neighbours, double *arrival)
{
    double last = 0, sent = 0, received = 0;

    for (int r = 0; r < n; r++) {
        bool meets = !neighbours || r == (me + 1) % n || r == (me + n - 1) % n || r == me;
        if (meets && (double)WORK_NS(r) > last)
            last = (double)WORK_NS(r);
        if (r == me)
            continue;
        if (!neighbours) {
            sent += (double)bytes(me, r);
            received += (double)bytes(r, me);
        }
    }
    if (neighbours)
        sent = received = 5000;
    *arrival = (double)WORK_NS(me);
    return last + LATENCY_NS + (sent > received ? sent : received) / BYTES_PER_NS;
}

static void busy_for(uint64_t ns, cudaStream_t stream)
{
    int (*work)(cudaStream_t, const char *, uint64_t) =
        (int (*)(cudaStream_t, const char *, uint64_t))rig_driver("standin_device_work");

    CHECK_EQ(work(stream, "expert_gemm", ns), 0);
}

static double run(struct rig *rig, ncclComm_t comm, bool neighbours)
{
    int n = rig->nranks, me = rig->rank;
    char *send = rig_alloc(7000), *recv = rig_alloc((size_t)n * 7000);
    void *before = event_new(), *after = event_new();

    busy_for(WORK_NS(me), rig->stream);
    event_record(before, rig->stream);
    OK(ncclGroupStart());
    for (int r = 0; r < n; r++) {
        if (neighbours && r == (me + 1) % n)
            OK(ncclSend(send, 5000, ncclInt8, r, comm, rig->stream));
        if (neighbours && r == (me + n - 1) % n)
            OK(ncclRecv(recv, 5000, ncclInt8, r, comm, rig->stream));
        if (!neighbours) {
            OK(ncclSend(send, bytes(me, r), ncclInt8, r, comm, rig->stream));
            OK(ncclRecv(recv + (size_t)r * 7000, bytes(r, me), ncclInt8, r, comm, rig->stream));
        }
    }
    OK(ncclGroupEnd());
    event_record(after, rig->stream);
    rig_sync(rig->stream);
    double ns = elapsed_ns(before, after);
    event_destroy(before);
    event_destroy(after);
    rig_free(send);
    rig_free(recv);
    return ns;
}

/* Each rank is a new process, so its model time starts at the common epoch. */
static void check_run(struct rig *rig, bool neighbours)
{
    ncclComm_t comm = rig_comm(rig, 0);
    double arrival, end = model(rig->nranks, rig->rank, neighbours, &arrival);
    double got = run(rig, comm, neighbours);

    if (fabs(got - (end - arrival)) > 1000) {
        fprintf(stderr, "rank %d: the operation lasts %.0f ns, the model says %.0f\n", rig->rank,
                got, end - arrival);
        rig_fail(__FILE__, __LINE__, "model time");
    }
    OK(ncclCommDestroy(comm));
}

static void everybody(struct rig *rig)
{
    check_run(rig, false);
}

static void neighbours(struct rig *rig)
{
    check_run(rig, true);
}

static void real_time(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);

    run(rig, comm, false);
    OK(ncclCommDestroy(comm));
}

static void collectives(struct rig *rig)
{
    ncclComm_t comm = rig_comm(rig, 0);
    char *p = rig_alloc(40000);

    busy_for(WORK_NS(rig->rank), rig->stream);
    OK(ncclAllReduce(p, p, 10000, ncclFloat32, ncclSum, comm, rig->stream));
    busy_for(WORK_NS(rig->rank), rig->stream);
    OK(ncclBroadcast(p, p, 40000, ncclInt8, 0, comm, rig->stream));
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* ---- the truth files ---- */

struct line {
    unsigned long long arrival, start, end, sent, received;
};

static int read_truth(const char *dir, int rank, struct line *lines, int most)
{
    char path[512], text[4096], suffix[16];
    struct line l;
    DIR *d = opendir(dir);
    int count = 0;

    CHECK(d != NULL);
    snprintf(suffix, sizeof(suffix), ".%d", rank);
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name), k = strlen(suffix);
        if (n < k || strcmp(e->d_name + n - k, suffix) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%.200s", dir, e->d_name);
        FILE *f = fopen(path, "r");
        CHECK(f != NULL);
        while (fgets(text, sizeof(text), f)) {
            const char *at = strstr(text, "\"arrival_ns\":");
            if (at && count < most &&
                sscanf(at,
                       "\"arrival_ns\":%llu,\"start_ns\":%llu,\"end_ns\":%llu,\"sent_bytes\":%llu,"
                       "\"received_bytes\":%llu",
                       &l.arrival, &l.start, &l.end, &l.sent, &l.received) == 5)
                lines[count++] = l;
        }
        fclose(f);
        unlink(path);
    }
    closedir(d);
    return count;
}

/* All ranks exchange with all: the start is the last arrival of that operation. */
static int check_truth(const char *dir, int n, int ops, bool modelled)
{
    struct line lines[8][4];
    int failed = 0;

    for (int r = 0; r < n; r++)
        if (read_truth(dir, r, lines[r], 4) != ops) {
            fprintf(stderr, "truth of rank %d: not %d operations\n", r, ops);
            return 1;
        }
    for (int op = 0; op < ops; op++) {
        unsigned long long last = 0;
        for (int r = 0; r < n; r++)
            last = lines[r][op].arrival > last ? lines[r][op].arrival : last;
        for (int r = 0; r < n; r++) {
            struct line *l = &lines[r][op];
            double most = (double)(l->sent > l->received ? l->sent : l->received);
            failed += l->start != last || l->end < l->start;
            if (modelled)
                failed += l->end != l->start + (uint64_t)(LATENCY_NS + most / BYTES_PER_NS);
        }
    }
    if (failed)
        fprintf(stderr, "truth files: %d lines contradict the model\n", failed);
    return failed != 0;
}

int main(void)
{
    char dir[] = "/tmp/standin-nccl-truth-XXXXXX", prefix[64];
    int failed = 0;

    CHECK(mkdtemp(dir) != NULL);
    snprintf(prefix, sizeof(prefix), "%s/t", dir);
    setenv("SKEWSCOPE_STANDIN_TRUTH", prefix, 1);
    failed += rig_processes("truth, real clock", 4, real_time, -1);
    failed += check_truth(dir, 4, 1, false);
    setenv("SKEWSCOPE_STANDIN_CLOCK", "virtual", 1);
    setenv("SKEWSCOPE_STANDIN_LINK", "latency_us=10,bw_gbps=2", 1);
    failed += rig_processes("link model, everybody", 4, everybody, -1);
    failed += check_truth(dir, 4, 1, true);
    failed += rig_processes("link model, everybody", 7, everybody, -1);
    failed += check_truth(dir, 7, 1, true);
    failed += rig_processes("link model, all-reduce", 4, collectives, -1);
    for (int r = 0; r < 4; r++) {
        struct line lines[2];
        CHECK_EQ(read_truth(dir, r, lines, 2), 2);
        CHECK_EQ(lines[0].sent, 2 * 40000 * 3 / 4);
        CHECK_EQ(lines[1].sent, r == 0 ? 40000 : 0);
        CHECK_EQ(lines[1].received, r == 0 ? 0 : 40000);
    }
    unsetenv("SKEWSCOPE_STANDIN_TRUTH");
    failed += rig_processes("link model, neighbours", 5, neighbours, -1);
    CHECK_EQ(rmdir(dir), 0);
    return failed != 0;
}
