/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes and threads in every way that hosts have. usage: processes CASE [ARGUMENT]
 * Prints the records that each process image expects, as in expect.h but after "PID: ";
 * processes.py compares.
 */
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "expect.h"

extern char **environ;

static char **arguments;

static __attribute__((format(printf, 1, 2))) void tell(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    printf("%d: %s\n", (int)getpid(), text);
    fflush(stdout); /* nothing may be left in a buffer that a fork copies */
}

static ncclComm_t begin(int seed)
{
    ncclComm_t comm = make_comm(2, 0, seed);
    tell("comm C1 init_rank 0/2");
    return comm;
}

static void exchange(ncclComm_t comm)
{
    OK(ncclGroupStart());
    OK(ncclSend(NULL, 1, ncclInt8, 1, comm, NULL));
    OK(ncclRecv(NULL, 1, ncclInt8, 1, comm, NULL));
    OK(ncclGroupEnd());
}

static void exchanges(ncclComm_t comm, int first, int count)
{
    for (int i = 0; i < count; i++) {
        exchange(comm);
        tell("group C1/0x0:%d:0 | send 1 int8 1, recv 1 int8 1", first + i);
    }
}

static void wait_for(pid_t pid)
{
    int status;
    MUST(waitpid(pid, &status, 0) == pid);
    MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    MUST(waitpid(-1, &status, 0) < 0 && errno == ECHILD); /* no child of anybody else's */
}

/* ---- forks -------------------------------------------------------------------------------------
 */

/* A child without NCCL, that ends by exit() with all its handlers, and by _exit(). */
static void fork_plain(void)
{
    ncclComm_t comm = begin(1);
    exchanges(comm, 0, 2);
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0 && i)
            _exit(0);
        if (pid == 0)
            exit(0);
        wait_for(pid);
        exchanges(comm, 2 + i, 1);
    }
}

static void child_uses_nccl(void)
{
    ncclComm_t comm = begin(2);
    exchanges(comm, 0, 3);
    exit(0);
}

static void fork_nccl(void)
{
    ncclComm_t comm = begin(1);
    exchanges(comm, 0, 2);
    pid_t pid = fork();
    if (pid == 0)
        child_uses_nccl();
    wait_for(pid);
    exchanges(comm, 2, 2);
}

/* Past the C library: no atfork handler runs. */
static void raw_clone(void)
{
    ncclComm_t comm = begin(1);
    exchanges(comm, 0, 2);
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        child_uses_nccl();
    wait_for(pid);
    exchanges(comm, 2, 2);
}

/* Before the first communicator, as data loaders and launchers do. */
static void fork_before(void)
{
    pid_t pid = fork();
    if (pid == 0)
        child_uses_nccl();
    wait_for(pid);
    exchanges(begin(1), 0, 2);
}

/* So much a fork, however slow that is under a tool: no more than the spool holds. */
#define BUSY_EXCHANGES 1000
#define BUSY_FORKS     20

static void *busy_thread(void *user)
{
    ncclComm_t comm = make_comm(2, 1, 3);
    int *forks = user;
    int now, done = 0;
    while ((now = __atomic_load_n(forks, __ATOMIC_ACQUIRE)) <= BUSY_FORKS) {
        if (done < now * BUSY_EXCHANGES) {
            exchange(comm);
            done++;
        } else {
            sched_yield();
        }
    }
    return NULL;
}

/* While other threads hold whatever they may hold. The children must neither wait for these nor
 * inherit them. */
static void fork_busy(void)
{
    pthread_t thread[3];
    int forks = 0;
    tell("any");
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&thread[i], NULL, busy_thread, &forks) == 0);
    for (int i = 0; i < BUSY_FORKS; i++) {
        __atomic_store_n(&forks, i + 1, __ATOMIC_RELEASE);
        pid_t pid = fork();
        if (pid == 0)
            child_uses_nccl();
        int status;
        MUST(waitpid(pid, &status, 0) == pid && status == 0);
    }
    __atomic_store_n(&forks, BUSY_FORKS + 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 3; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
}

static struct {
    int entered, leave, tid;
} loader;

static int stay_inside(struct dl_phdr_info *info, size_t size, void *user)
{
    (void)info;
    (void)size;
    (void)user;
    __atomic_store_n(&loader.entered, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&loader.leave, __ATOMIC_ACQUIRE))
        usleep(1000);
    return 1;
}

static void *hold_loader(void *user)
{
    dl_iterate_phdr(stay_inside, user);
    return NULL;
}

static void *want_loader(void *user)
{
    (void)user;
    __atomic_store_n(&loader.tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
    exchange(make_comm(2, 1, 3));
    return NULL;
}

/* Whether a thread waits for a lock. */
static bool is_waiting(int tid)
{
    char path[64], text[64] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0 && read(fd, text, sizeof(text) - 1) >= 0);
    close(fd);
    return atoi(text) == SYS_futex && text[0] != 'r';
}

/* While a thread is in the loader for us, which holds the one lock that fork() does not reset. It
 * cannot get out soon, so fork() does not wait for it, and the child must do without. */
static void fork_stuck(void)
{
    pthread_t holder, wanter;
    tell("any");
    if (access("/proc/self/syscall", R_OK) != 0)
        return;
    MUST(pthread_create(&holder, NULL, hold_loader, NULL) == 0);
    while (!__atomic_load_n(&loader.entered, __ATOMIC_ACQUIRE))
        usleep(1000);
    MUST(pthread_create(&wanter, NULL, want_loader, NULL) == 0);
    while (!__atomic_load_n(&loader.tid, __ATOMIC_ACQUIRE) || !is_waiting(loader.tid))
        usleep(1000);
    pid_t pid = fork();
    if (pid == 0)
        child_uses_nccl();
    __atomic_store_n(&loader.leave, 1, __ATOMIC_RELEASE);
    MUST(pthread_join(holder, NULL) == 0 && pthread_join(wanter, NULL) == 0);
    wait_for(pid);
}

static void vforked(void)
{
    ncclComm_t comm = begin(1);
    exchanges(comm, 0, 1);
    pid_t pid = vfork();
    if (pid == 0)
        _exit(0);
    wait_for(pid);
    exchanges(comm, 1, 1);
    pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    wait_for(pid);
    exchanges(comm, 2, 1);
}

static void spawned(void)
{
    ncclComm_t comm = begin(1);
    pid_t pid;
    char *other[] = {arguments[0], (char *)"fork_before", NULL};
    exchanges(comm, 0, 1);
    MUST(posix_spawnp(&pid, arguments[0], NULL, NULL, other, environ) == 0);
    wait_for(pid);
    exchanges(comm, 1, 1);
}

/* The same process id and start time, another image: another spool, and the first one is complete.
 */
static void exec_in_place(void)
{
    exchanges(begin(1), 0, 3);
    if (arguments[2]) {
        char *next[] = {arguments[0], arguments[1], NULL};
        tell("image");
        execv(arguments[0], next);
        MUST(!"exec");
    }
}

/* ---- threads -----------------------------------------------------------------------------------
 */

static void *one_exchange(void *user)
{
    exchange(user);
    return NULL;
}

/* Each thread hands its segment back; the driver frees those, as the collector does. */
static void come_and_go(void)
{
    ncclComm_t comm = begin(1);
    char line[16];
    tell("any");
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 6; i++) {
            pthread_t thread;
            MUST(pthread_create(&thread, NULL, one_exchange, comm) == 0);
            MUST(pthread_join(thread, NULL) == 0);
        }
        tell("round");
        MUST(fgets(line, sizeof(line), stdin));
    }
}

static void *forever(void *comm)
{
    for (;;)
        exchange(comm);
    return NULL;
}

static void exit_while_busy(void)
{
    pthread_t thread[3];
    ncclComm_t comm = begin(1);
    tell("any");
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&thread[i], NULL, forever, comm) == 0);
    for (int i = 0; i < 200; i++)
        exchange(comm);
}

#define CANCELLED_EXCHANGES 4000

static void *cancelled(void *comm)
{
    /* From here on each cancellation point ends the thread. There is none in NCCL, and none may
     * come from us. */
    pthread_cancel(pthread_self());
    for (int i = 0; i < CANCELLED_EXCHANGES; i++)
        exchange(comm);
    pthread_testcancel();
    return NULL;
}

static void cancel(void)
{
    pthread_t thread;
    void *result;
    ncclComm_t comm = NULL;
    ncclUniqueId id = {{1}};
    OK(ncclGetUniqueId(&id));
    for (int i = 0; i < 3; i++) {
        if (!comm)
            OK(ncclCommInitRank(&comm, 2, id, 0));
        MUST(pthread_create(&thread, NULL, cancelled, comm) == 0);
        MUST(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    }
    exchange(comm);
    tell("total %d", 3 * CANCELLED_EXCHANGES + 1);
}

/* The very first call of a process, made by a thread that is being cancelled. */
static void *cancelled_at_once(void *user)
{
    pthread_cancel(pthread_self());
    *(ncclComm_t *)user = make_comm(2, 0, 1);
    exchange(*(ncclComm_t *)user);
    pthread_testcancel();
    return NULL;
}

static void cancel_first(void)
{
    pthread_t thread;
    void *result;
    ncclComm_t comm;
    MUST(pthread_create(&thread, NULL, cancelled_at_once, &comm) == 0);
    MUST(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    exchange(comm);
    tell("total 2");
}

static void *leaves(void *comm)
{
    OK(ncclGroupStart());
    OK(ncclSend(NULL, 1, ncclInt8, 1, comm, NULL));
    pthread_exit(NULL);
}

/* A thread that ends in the middle of a group. */
static void leave_in_group(void)
{
    pthread_t thread;
    ncclComm_t comm = begin(1);
    MUST(pthread_create(&thread, NULL, leaves, comm) == 0);
    MUST(pthread_join(thread, NULL) == 0);
    exchanges(comm, 0, 1);
}

static ncclComm_t key_comm;

static void key_destructor(void *unused)
{
    (void)unused;
    exchange(key_comm);
}

static void *with_key(void *user)
{
    pthread_setspecific(*(pthread_key_t *)user, user);
    exchange(key_comm);
    return NULL;
}

/* Thread-local destructors that still call NCCL after ours has run. */
static void late_destructors(void)
{
    pthread_key_t key;
    pthread_t thread;
    key_comm = begin(1);
    tell("any");
    MUST(pthread_key_create(&key, key_destructor) == 0);
    for (int i = 0; i < 3; i++) {
        MUST(pthread_create(&thread, NULL, with_key, &key) == 0);
        MUST(pthread_join(thread, NULL) == 0);
    }
    tell("total 6");
}

static void at_exit(void)
{
    exchange(key_comm);
    ncclCommDestroy(key_comm);
}

/* After main() has returned: static destructors of frameworks destroy their communicators there. */
static void exit_handlers(void)
{
    MUST(atexit(at_exit) == 0);
    key_comm = begin(1);
    exchange(key_comm);
    tell("any");
    tell("total 2");
}

/* ---- signals -----------------------------------------------------------------------------------
 */

static volatile sig_atomic_t ticks;

static void on_tick(int signal)
{
    (void)signal;
    ticks++;
}

/* Timers interrupt every system call that we make. */
static void timers(void)
{
    struct sigaction action = {.sa_handler = on_tick};
    struct itimerval often = {{0, 200}, {0, 200}};
    MUST(sigaction(SIGALRM, &action, NULL) == 0);
    MUST(setitimer(ITIMER_REAL, &often, NULL) == 0);
    ncclComm_t comm = begin(1);
    for (int i = 0; i < 20000; i++)
        exchange(comm);
    memset(&often, 0, sizeof(often));
    setitimer(ITIMER_REAL, &often, NULL);
    tell("total 20000");
}

static void raise_inside(const char *name)
{
    if (strcmp(name, "ncclAllReduce") == 0)
        raise(SIGUSR1);
}

static void on_usr1(int signal)
{
    (void)signal;
    ticks++;
}

static void no_hook(const char *name)
{
    (void)name;
}

/* A handler that runs in the middle of a call; and the signal mask is what it was. */
static void handler_inside(void)
{
    struct sigaction action = {.sa_handler = on_usr1};
    sigset_t mask, after;
    ncclComm_t comm = begin(1);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    MUST(sigaction(SIGUSR1, &action, NULL) == 0);
    MUST(pthread_sigmask(SIG_BLOCK, &mask, NULL) == 0);
    null_nccl_control()->hook = raise_inside;
    OK(ncclAllReduce(NULL, NULL, 1, ncclInt8, ncclSum, comm, NULL));
    null_nccl_control()->hook = no_hook;
    tell("group C1/0x0:0:0 | allreduce 1 int8 0");
    MUST(ticks == 1);
    MUST(pthread_sigmask(SIG_BLOCK, NULL, &after) == 0);
    MUST(sigismember(&after, SIGUSR2) && !sigismember(&after, SIGUSR1) &&
         !sigismember(&after, SIGCHLD));
}

/* ---- what the host may have done before
 * -------------------------------------------------------------- */

static void change_directory(void)
{
    MUST(chdir("/") == 0);
    exchanges(begin(1), 0, 1);
}

static void clear_environment(void)
{
    /* As programs do that set a title: the strings are overwritten, too. */
    for (char **e = environ; *e; e++)
        memset(*e, 'x', strlen(*e));
    clearenv();
    exchanges(begin(1), 0, 1);
}

static void odd_umask(void)
{
    umask(0777);
    ncclComm_t comm = begin(1);
    for (int i = 0; i < 6000; i++)
        exchange(comm);
    MUST(umask(0) == 0777);
    tell("total 6000");
}

/* Standard descriptors are closed: they stay so, and what is written to them goes nowhere. `tell`
 * writes to the file that ARGUMENT names, by a descriptor that is high enough. */
static void closed_descriptors(void)
{
    int fd = open(arguments[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int high = fcntl(fd, F_DUPFD, 100);
    for (int i = 0; i < 100; i++)
        close(i);
    FILE *out = fdopen(high, "w");
    MUST(out);
    ncclComm_t comm = make_comm(2, 0, 1);
    for (int i = 0; i < 6000; i++)
        exchange(comm);
    for (int i = 0; i < 3; i++)
        MUST(fcntl(i, F_GETFD) < 0);
    MUST(write(1, "x", 1) < 0 && write(2, "x", 1) < 0);
    fprintf(out, "%d: total 6000\n", (int)getpid());
    fclose(out);
}

static int descriptors(void)
{
    int count = 0;
    for (int i = 0; i < 1000; i++)
        count += fcntl(i, F_GETFD) >= 0;
    return count;
}

static void no_descriptors_kept(void)
{
    int before = descriptors();
    ncclComm_t comm = begin(1);
    for (int i = 0; i < 6000; i++)
        exchange(comm);
    MUST(descriptors() == before);
    tell("total 6000");
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"fork_plain", fork_plain},
    {"fork_nccl", fork_nccl},
    {"raw_clone", raw_clone},
    {"fork_before", fork_before},
    {"fork_busy", fork_busy},
    {"fork_stuck", fork_stuck},
    {"vforked", vforked},
    {"spawned", spawned},
    {"exec_in_place", exec_in_place},
    {"come_and_go", come_and_go},
    {"exit_while_busy", exit_while_busy},
    {"cancel", cancel},
    {"cancel_first", cancel_first},
    {"leave_in_group", leave_in_group},
    {"late_destructors", late_destructors},
    {"exit_handlers", exit_handlers},
    {"timers", timers},
    {"handler_inside", handler_inside},
    {"change_directory", change_directory},
    {"clear_environment", clear_environment},
    {"odd_umask", odd_umask},
    {"closed_descriptors", closed_descriptors},
    {"no_descriptors_kept", no_descriptors_kept},
};

int main(int argc, char **argv)
{
    arguments = argv;
    for (unsigned i = 0; argc > 1 && i < sizeof(cases) / sizeof(cases[0]); i++)
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            return 0;
        }
    fprintf(stderr, "usage: processes CASE [ARGUMENT]\n");
    return 2;
}
