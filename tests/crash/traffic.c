/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One rank of a job that exchanges as fast as it can, and tells in a file of its own how far it
 * came, so that a test can kill it at any moment and knows what must be in the trace. It also looks
 * at itself the way a suspicious host would: no child, no signal, no descriptor, nothing of its own
 * changed. What it finds goes to standard output, which must be the same with and without
 * skewscope.
 *
 * usage: traffic NAME=VALUE ...
 *   file=PATH       counters (struct shared below), made by the test; all zero but `gate` and
 * `limit`. Once nobody has it locked any more, the test is gone, and so does this process tag=TEXT
 * ignored: names this process in the trace, by its command line rank=R ranks=N threads=T    thread
 * t uses the job's communicator t pattern=dense|sparse        sparse: some peers get nothing, some
 * get two sends fds=early|late  no descriptor is free before the first communicator | after it,
 * until the test writes `relief` while thread 0 waits at the gate as_kb=K         likewise: only K
 * KiB of address space are left, from before the first communicator subreaper=1     orphans of this
 * process become its children end=exit        the main thread calls exit() while the others still
 * exchange end=thread      the main thread ends by itself, and the process with its last thread
 *   late=N          N more exchanges on communicator 0 by a destructor that runs after skewscope's
 * own
 *
 * The sizes follow from (communicator, exchange, source, destination); facts.py computes the same.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "late.h"
#include "nccl_decls.h"

#define THREADS_MAX 16
#define ERRNO_MARK  12345

/* The counters' file: 64 words of state, then 8 words for each thread. The program writes with
 * plain stores, in order; each word has one writer. */
struct shared {
    uint64_t phase; /* 1 started, 2 communicators exist, 3 all threads are done */
    uint64_t pid;
    uint64_t failed;  /* NCCL calls with another result than ncclSuccess */
    uint64_t signals; /* bit s: signal s arrived */
    uint64_t gate;    /* written by the test: exchange i begins when i < gate; ~0: at once */
    uint64_t limit;   /* written by the test: threads end before exchange i >= limit */
    uint64_t relief;  /* written by the test: 1: take the shortage away; the program answers 2 */
    uint64_t errno_changed;
    uint64_t unused[56];
    struct {
        uint64_t begun, returned, unused[6];
    } thread[THREADS_MAX];
};

static volatile struct shared *shared;
static const char *counters; /* the file */
static int rank, ranks = 2, threads = 1, late;
static bool sparse, exit_early, leave_early;
static ncclComm_t comms[THREADS_MAX];
static int hoard[65536], hoarded;
static struct rlimit as_before;

static void pause_us(long us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

/* ---- shortages ----------------------------------------------------------------------------------
 */

static void take_all_descriptors(void)
{
    struct rlimit limit = {256, 256};
    int fd;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_cur < 256 ? limit.rlim_cur : 256;
    setrlimit(RLIMIT_NOFILE, &limit);
    while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        hoard[hoarded++] = fd;
}

static void take_address_space(size_t left_kb)
{
    char text[4096] = "";
    int fd = open("/proc/self/statm", O_RDONLY);
    ssize_t got = read(fd, text, sizeof(text) - 1);
    close(fd);
    unsigned long long pages = got > 0 ? strtoull(text, NULL, 10) : 0;
    getrlimit(RLIMIT_AS, &as_before);
    struct rlimit limit = as_before;
    limit.rlim_cur = pages * (rlim_t)sysconf(_SC_PAGESIZE) + left_kb * 1024;
    setrlimit(RLIMIT_AS, &limit);
}

static void relieve(void)
{
    while (hoarded)
        close(hoard[--hoarded]);
    if (as_before.rlim_max)
        setrlimit(RLIMIT_AS, &as_before);
    shared->relief = 2;
}

/* ---- the traffic ------------------------------------------------------------------------------
 */

/* Any shift by one exchange changes the size. */
static size_t size_of(uint64_t comm, uint64_t i, int src, int dst)
{
    return (size_t)((i * 7 + (uint64_t)src * 3 + (uint64_t)dst * 11 + comm * 13) % 509);
}

static int sends_of(uint64_t i, int src, int dst)
{
    if (!sparse)
        return 1;
    uint64_t key = i + (uint64_t)src * 5 + (uint64_t)dst * 3;
    return key % 4 == 0 ? 0 : key % 7 == 0 ? 2 : 1;
}

static void check(ncclResult_t result)
{
    if (result != ncclSuccess)
        shared->failed++;
    if (errno != ERRNO_MARK)
        shared->errno_changed++;
    errno = ERRNO_MARK;
}

static void exchange(int t, uint64_t i)
{
    errno = ERRNO_MARK;
    check(ncclGroupStart());
    for (int p = 0; p < ranks; p++) {
        for (int n = sends_of(i, rank, p); n > 0; n--)
            check(ncclSend(NULL, size_of((uint64_t)t, i, rank, p), ncclInt32, p, comms[t], NULL));
        for (int n = sends_of(i, p, rank); n > 0; n--)
            check(ncclRecv(NULL, size_of((uint64_t)t, i, p, rank), ncclInt32, p, comms[t], NULL));
    }
    check(ncclGroupEnd());
}

/* The test holds a lock on the counters' file. Where nothing can be opened (which is what some
 * tests are about) it is asked again later. */
static void end_with_the_test(void)
{
    int fd = open(counters, O_RDONLY | O_CLOEXEC);
    if (fd < 0 ? errno == ENOENT : flock(fd, LOCK_SH | LOCK_NB) == 0)
        _exit(3);
    if (fd >= 0)
        close(fd);
}

static void *exchange_all(void *user)
{
    int t = (int)(intptr_t)user;
    for (uint64_t i = shared->thread[t].begun; i < shared->limit; i++) {
        for (unsigned waited = 1; i >= shared->gate && i < shared->limit; waited++)
            if (t == 0 && shared->relief == 1)
                relieve();
            else if (t == 0 && waited % 1000 == 0)
                end_with_the_test();
            else
                pause_us(200);
        if (t == 0 && i % 1000000 == 999999)
            end_with_the_test();
        if (i >= shared->limit)
            break;
        shared->thread[t].begun = i + 1;
        exchange(t, i);
        shared->thread[t].returned = i + 1;
    }
    return NULL;
}

/* Called by liblate's destructor. */
static void exchange_late(void)
{
    for (int n = 0; n < late; n++) {
        uint64_t i = shared->thread[0].begun;
        shared->thread[0].begun = i + 1;
        exchange(0, i);
        shared->thread[0].returned = i + 1;
    }
}

/* ---- looking at itself
 * ---------------------------------------------------------------------------- */

static void on_signal(int number)
{
    shared->signals |= 1ull << number;
}

static void watch_signals(void)
{
    for (int s = 1; s < 32; s++)
        if (s != SIGKILL && s != SIGSTOP && s != SIGSEGV && s != SIGBUS && s != SIGABRT &&
            s != SIGTERM && s != SIGALRM)
            sigaction(s, &(struct sigaction){.sa_handler = on_signal, .sa_flags = SA_RESTART},
                      NULL);
}

static int by_name(const void *a, const void *b)
{
    return atoi(*(char *const *)a) - atoi(*(char *const *)b);
}

/* Names in a directory of /proc, sorted, with the target of those that are links. */
static void say_directory(const char *title, const char *path, bool links)
{
    char *names[1024], where[512], target[512];
    int count = 0;
    DIR *list = opendir(path);
    struct dirent *entry;
    while (list && (entry = readdir(list)) && count < 1024)
        if (entry->d_name[0] != '.' && !(links && atoi(entry->d_name) == dirfd(list)))
            names[count++] = strdup(entry->d_name);
    if (list)
        closedir(list);
    qsort(names, (size_t)count, sizeof(*names), by_name);
    printf("%s %d\n", title, count);
    for (int i = 0; links && i < count; i++) {
        snprintf(where, sizeof(where), "%s/%s", path, names[i]);
        ssize_t n = readlink(where, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        printf("  %s %s\n", names[i], target);
    }
}

static void say_children(void)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    if (f && !fgets(text, sizeof(text), f))
        text[0] = '\0';
    if (f)
        fclose(f);
    errno = 0;
    int any = waitpid(-1, NULL, WNOHANG | __WALL);
    printf("children '%s', waitpid(-1) %d %s\n", text, any, strerror(errno));
}

static void say_state(void)
{
    sigset_t mask;
    char cwd[4096];
    mode_t mode = umask(0);
    umask(mode);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    printf("blocked");
    for (int s = 1; s < 65; s++)
        if (sigismember(&mask, s) == 1)
            printf(" %d", s);
    printf("\nhandled");
    for (int s = 1; s < 65; s++) {
        struct sigaction action;
        if (sigaction(s, NULL, &action) == 0)
            printf(" %s", action.sa_handler == SIG_DFL     ? "d"
                          : action.sa_handler == SIG_IGN   ? "i"
                          : action.sa_handler == on_signal ? "h"
                                                           : "?");
    }
    printf("\nsignals %#llx umask %o cwd %s priority %d\n", (unsigned long long)shared->signals,
           (unsigned)mode, getcwd(cwd, sizeof(cwd)) ? cwd : "?", getpriority(PRIO_PROCESS, 0));
    printf("failed %llu errno changed %llu\n", (unsigned long long)shared->failed,
           (unsigned long long)shared->errno_changed);
}

static void look_at_self(void)
{
    say_children();
    say_state();
    say_directory("descriptors", "/proc/self/fd", true);
    say_directory("threads", "/proc/self/task", false);
    fflush(stdout);
}

/* ---- main
 * ------------------------------------------------------------------------------------------- */

struct options {
    const char *file, *id, *fds;
    int as_kb, subreaper;
};

static void take_option(struct options *options, const char *name, const char *value)
{
    int number = atoi(value);
    if (!strcmp(name, "file"))
        options->file = value;
    else if (!strcmp(name, "tag"))
        options->id = value;
    else if (!strcmp(name, "rank"))
        rank = number;
    else if (!strcmp(name, "ranks"))
        ranks = number;
    else if (!strcmp(name, "threads"))
        threads = number;
    else if (!strcmp(name, "pattern"))
        sparse = !strcmp(value, "sparse");
    else if (!strcmp(name, "fds"))
        options->fds = value;
    else if (!strcmp(name, "as_kb"))
        options->as_kb = number;
    else if (!strcmp(name, "subreaper"))
        options->subreaper = number;
    else if (!strcmp(name, "end"))
        exit_early = !strcmp(value, "exit"), leave_early = !strcmp(value, "thread");
    else if (!strcmp(name, "late"))
        late = number;
    else {
        fprintf(stderr, "traffic: what is %s=%s?\n", name, value);
        exit(2);
    }
}

static void map_counters(const char *path)
{
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED
                      : mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "traffic: %s: %s\n", path ? path : "file=", strerror(errno));
        exit(2);
    }
    close(fd);
    shared = at;
}

static void make_communicators(const char *job)
{
    for (int t = 0; t < threads; t++) {
        ncclUniqueId id;
        memset(&id, t + 1, sizeof(id));
        snprintf(id.internal, sizeof(id.internal), "%s", job ? job : "");
        errno = ERRNO_MARK;
        check(ncclCommInitRank(&comms[t], ranks, id, rank));
    }
}

int main(int argc, char **argv)
{
    struct options options = {.fds = ""};
    pthread_t running[THREADS_MAX];
    for (int i = 1; i < argc; i++) {
        char name[32] = "";
        const char *equals = strchr(argv[i], '=');
        if (equals && (size_t)(equals - argv[i]) < sizeof(name))
            memcpy(name, argv[i], (size_t)(equals - argv[i]));
        take_option(&options, name, equals ? equals + 1 : argv[i]);
    }
    map_counters(options.file);
    shared->pid = (uint64_t)getpid();
    shared->phase = 1;
    watch_signals();
    counters = options.file;
    alarm(900); /* for the case that it cannot find out */
    if (options.subreaper)
        prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (!strcmp(options.fds, "early"))
        take_all_descriptors();
    if (options.as_kb)
        take_address_space((size_t)options.as_kb);
    /* A job's name without the rank: what stands before the last dash of the tag. */
    char job[100];
    snprintf(job, sizeof(job), "%s", options.id ? options.id : "");
    if (strrchr(job, '-'))
        *strrchr(job, '-') = '\0';
    make_communicators(job);
    late_call = exchange_late;
    if (!strcmp(options.fds, "late"))
        take_all_descriptors();
    shared->phase = 2;
    for (intptr_t t = 1; t < threads; t++)
        if (pthread_create(&running[t], NULL, exchange_all, (void *)t))
            return 4;
    if (exit_early || leave_early) {
        for (unsigned waited = 1; exit_early && shared->gate != UINT64_MAX; waited++)
            if (waited % 1000 == 0)
                end_with_the_test();
            else
                pause_us(200);
        exit_early ? exit(0) : pthread_exit(NULL);
    }
    exchange_all((void *)0);
    for (int t = 1; t < threads; t++)
        pthread_join(running[t], NULL);
    shared->phase = 3;
    look_at_self();
    return shared->failed ? 1 : 0;
}
