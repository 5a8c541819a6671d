/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts ranks before any CUDA call was made, and waits for them. When one fails the others, which
 * may wait for it inside NCCL for ever, are ended.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch.h"

static bool env_number(const char *name, unsigned *out)
{
    const char *text = getenv(name);
    char *end;
    unsigned long v = text ? strtoul(text, &end, 10) : 0;
    if (!text || end == text || *end || v > 1u << 20)
        return false;
    *out = (unsigned)v;
    return true;
}

/* When the parent started, so that a recycled process id does not find an old launch's files. */
static unsigned long long start_time_of(pid_t pid)
{
    char path[64], text[1024];
    unsigned long long start = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    char *p = strrchr(text, ')'); /* the name may hold anything */
    for (int field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    if (p)
        start = strtoull(p, NULL, 10);
    return start;
}

bool skew_launcher_find(struct skew_launcher *launcher)
{
    const char *tmp = getenv("TMPDIR"), *port = getenv("MASTER_PORT"),
               *restart = getenv("TORCHELASTIC_RESTART_COUNT");
    if (!env_number("RANK", &launcher->rank) || !env_number("WORLD_SIZE", &launcher->world_size))
        return false;
    if (!env_number("LOCAL_RANK", &launcher->local_rank))
        launcher->local_rank = launcher->rank;
    snprintf(launcher->rendezvous, sizeof launcher->rendezvous,
             "%.120s/skewscope-workload-%u-%d-%llu-%.16s-%.8s", tmp ? tmp : "/tmp", getuid(),
             (int)getppid(), start_time_of(getppid()), port ? port : "0", restart ? restart : "0");
    return true;
}

static void set_number(const char *name, unsigned value)
{
    char text[24];
    snprintf(text, sizeof text, "%u", value);
    setenv(name, text, 0);
}

void skew_launch_announce(const struct skew_job *job, unsigned rank, unsigned local_rank)
{
    char host[64];
    set_number("RANK", rank);
    set_number("LOCAL_RANK", local_rank);
    set_number("WORLD_SIZE", job->opt->ranks);
    snprintf(host, sizeof host, "skewscope-workload-%u", rank);
    if (job->opt->share_gpu)
        setenv("NCCL_HOSTID", host, 0); /* up to NCCL 2.29: each rank is a host of its own */
}

void skew_launch_share_gpu(void)
{
    setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0); /* from NCCL 2.30 */
    setenv("NCCL_MNNVL_ENABLE", "0", 0);
    setenv("NCCL_IB_DISABLE", "1", 0);
    setenv("NCCL_NET", "Socket", 0);
    setenv("NCCL_SOCKET_IFNAME", "lo", 0);
}

static void start_child(struct skew_job *job, unsigned rank, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* ranks do not outlive the job */
    if (getppid() != parent)
        _exit(1);
    skew_launch_announce(job, rank, rank);
    skew_rank_run(job, rank, rank);
    exit(0);
}

static void end_others(const pid_t *child, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (child[i] > 0)
            kill(child[i], SIGKILL);
}

static int rank_of(const pid_t *child, unsigned n, pid_t pid)
{
    for (unsigned i = 0; i < n; i++)
        if (child[i] == pid)
            return (int)i;
    return -1;
}

/* Reaps one child; 1 when it failed. A child that is not ours is a fault of whatever made it. */
static int reap(pid_t *child, unsigned n, bool quiet)
{
    int status;
    pid_t pid = waitpid(-1, &status, 0);
    if (pid < 0)
        return errno == EINTR ? 0 : 1;
    int rank = rank_of(child, n, pid);
    if (rank < 0) {
        fprintf(stderr,
                "skewscope-workload: waited for its ranks and met process %d, not its own\n",
                (int)pid);
        return 1;
    }
    child[rank] = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (!quiet && WIFSIGNALED(status))
        fprintf(stderr, "skewscope-workload: rank %d was ended by signal %d\n", rank,
                WTERMSIG(status));
    return 1;
}

int skew_launch_processes(struct skew_job *job)
{
    unsigned n = job->opt->ranks;
    pid_t *child = skew_xrealloc(NULL, n * sizeof *child), parent = getpid();
    int failed = 0;
    memset(child, 0, n * sizeof *child);
    for (unsigned i = 0; i < n && !failed; i++) {
        child[i] = fork();
        if (child[i] == 0)
            start_child(job, i, parent);
        if (child[i] < 0) {
            fprintf(stderr, "skewscope-workload: cannot start rank %u: %s\n", i, strerror(errno));
            failed = 1;
        }
    }
    if (failed)
        end_others(child, n);
    for (unsigned i = 0; i < n; i++) {
        bool waiting = false;
        for (unsigned j = 0; j < n; j++)
            waiting |= child[j] > 0;
        if (!waiting)
            break;
        if (reap(child, n, failed) && !failed) {
            failed = 1;
            end_others(child, n);
        }
    }
    free(child);
    return failed;
}

struct thread {
    struct skew_job *job;
    unsigned rank;
    pthread_t id;
};

static void *run_thread(void *arg)
{
    struct thread *t = arg;
    skew_rank_run(t->job, t->rank, t->rank);
    return NULL;
}

int skew_launch_threads(struct skew_job *job)
{
    unsigned n = job->opt->ranks;
    struct thread *thread = skew_xrealloc(NULL, n * sizeof *thread);
    for (unsigned i = 0; i < n; i++) {
        thread[i].job = job;
        thread[i].rank = i;
        int rc = pthread_create(&thread[i].id, NULL, run_thread, &thread[i]);
        if (rc) {
            fprintf(stderr, "skewscope-workload: cannot start rank %u: %s\n", i, strerror(rc));
            _exit(1);
        }
    }
    for (unsigned i = 0; i < n; i++)
        pthread_join(thread[i].id, NULL);
    free(thread);
    return 0;
}
