/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts a collector when only LD_PRELOAD was set. The application must never meet it: no child to
 * wait for, no SIGCHLD, no descriptor, no environment. So: a clone without an exit signal makes a
 * clone that executes the collector, and ends; it is reaped here with __WCLONE, and the collector
 * belongs to init. Memory is shared until the exec (CLONE_VM | CLONE_VFORK): forking gigabytes
 * would take 100 ms.
 *
 * A host that is PID 1 or a subreaper would inherit the collector, so there none is started: the
 * spool waits for the next `skewscope` command. Runs once, on an application thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "internal.h"

#ifndef __WCLONE
#define __WCLONE 0x80000000
#endif

#ifndef SYS_close_range
#define SYS_close_range                                                                            \
    436 /* since Linux 5.9, on every machine; the collector closes what it finds, too */
#endif

#define STACK_BYTES (64u << 10)
#define ROOM_BYTES  (256u << 10)

extern char **environ;

/* All that the clones need, filled before them: they may call nothing but the kernel. */
struct plan {
    char *argv[8];
    char **envp;
    char tool[SKEW_PATH_BYTES];
    uint8_t *inner_stack; /* top */
    int error;            /* of execve, written by the clone */
};

/* The executable beside this library: in the build tree, or installed. */
static bool find_tool(char *path)
{
    static const char *const beside[] = {"/../tools/skewscope", "/../bin/skewscope",
                                         "/../../bin/skewscope", "/../../../bin/skewscope", NULL};
    const char *home = skew_option_text(SKEW_OPT_HOME);
    struct dl_phdr_info self;
    if (*home) {
        skew_text_add(path, SKEW_PATH_BYTES, 0, home);
        return access(path, X_OK) == 0;
    }
    if (!skew_elf_module_of((void *)find_tool, &self) || !self.dlpi_name)
        return false;
    const char *slash = strrchr(self.dlpi_name, '/');
    for (unsigned i = 0; slash && beside[i]; i++) {
        size_t at = skew_text_add(path, SKEW_PATH_BYTES, 0, self.dlpi_name);
        at -= strlen(slash);
        path[at] = '\0';
        skew_text_add(path, SKEW_PATH_BYTES, at, beside[i]);
        if (access(path, X_OK) == 0)
            return true;
    }
    return false;
}

/* Whether an orphan of ours would come back to this job as a child. `room` may be overwritten. */
static bool would_be_adopted(char *room, size_t bytes)
{
    int subreaper = 0;
    if (getpid() == 1 || prctl(PR_GET_CHILD_SUBREAPER, &subreaper, 0, 0, 0) != 0 || subreaper)
        return true;
    /* In a container the job's launcher may itself be PID 1: then it has our library loaded too. */
    int n = skew_sys_read_file("/proc/1/environ", room, bytes);
    for (const char *at = room; n > 0 && at < room + n; at += strlen(at) + 1)
        if (strncmp(at, "LD_PRELOAD=", 11) == 0 && strstr(at, "skewscope"))
            return true;
    return false;
}

/* The environment without LD_PRELOAD: the collector is not to be profiled. */
static void copy_environment(struct plan *plan, char **room)
{
    unsigned n = 0;
    plan->envp = room;
    for (char **e = environ; e && *e && n < 8000; e++)
        if (strncmp(*e, "LD_PRELOAD=", 11) != 0)
            room[n++] = *e;
    room[n] = NULL;
}

/* What the application set for itself and exec would hand on. All of it is this process's own copy.
 */
static void forget_application(void)
{
    static const int limits[] = {RLIMIT_AS, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_CPU};
    const uint64_t action[4] = {0}; /* SIG_DFL, in the kernel's own layout */
    struct rlimit limit;
    /* The application's handlers would run here, in its memory, once signals are unblocked. */
    for (int number = 1; number <= 64; number++)
        syscall(SYS_rt_sigaction, number, action, NULL, 8);
    /* A pipe held open here would keep its reader waiting after the application has gone. First
     * close 0 to 2, so that there is a descriptor for /dev/null. */
    syscall(SYS_close_range, 0u, ~0u, 0u);
    for (int fd = 0; fd < 3; fd++)
        syscall(SYS_close, fd);
    for (int fd = 0; fd < 3; fd++)
        syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR, 0);
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++)
        if (syscall(SYS_prlimit64, 0, limits[i], NULL, &limit) == 0) {
            limit.rlim_cur = limit.rlim_max;
            syscall(SYS_prlimit64, 0, limits[i], &limit, NULL);
        }
}

static int inner(void *user)
{
    struct plan *plan = user;
    sigset_t none;
    sigemptyset(&none);
    syscall(SYS_setsid);
    forget_application();
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
    syscall(SYS_execve, plan->tool, plan->argv, plan->envp);
    plan->error = errno;
    syscall(SYS_exit, 127);
    return 127;
}

static int outer(void *user)
{
    struct plan *plan = user;
    long pid = clone(inner, plan->inner_stack, CLONE_VM | CLONE_VFORK | SIGCHLD, plan);
    syscall(SYS_exit, pid < 0 ? 1 : 0);
    return 1;
}

/* @return NULL, or why there is no collector */
static const char *start(struct skew_process *proc, uint8_t *room)
{
    struct plan *plan = (struct plan *)room;
    memset(plan, 0, sizeof(*plan));
    if (!find_tool(plan->tool))
        return "no collector could be started, because the skewscope executable was not found "
               "beside the "
               "library (SKEWSCOPE_HOME names it); the spool waits for `skewscope collect`";
    static char *const argv[] = {"skewscope",        "collect", "--follow",
                                 "--exit-when-idle", "--out",   NULL};
    memcpy(plan->argv, argv, sizeof(argv));
    plan->argv[5] = proc->out_dir;
    plan->argv[6] = NULL;
    copy_environment(plan, (char **)(room + 16384));
    plan->inner_stack = room + ROOM_BYTES - STACK_BYTES;
    sigset_t all, before;
    sigfillset(&all);
    /* The raw call takes the kernel's mask: 64 signals. */
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
    int pid = clone(outer, room + ROOM_BYTES, CLONE_VM | CLONE_VFORK, plan);
    int status = 0;
    if (pid > 0)
        while (syscall(SYS_wait4, pid, &status, __WCLONE, NULL) < 0 && errno == EINTR)
            ;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
    if (pid > 0 && status == 0 && !plan->error)
        return NULL;
    return "no collector could be started, because the system refused another process or to run "
           "the skewscope "
           "executable in it; the spool waits for `skewscope collect`";
}

void skew_collector_start(struct skew_process *proc)
{
    const char *why;
    if (*skew_option_text(SKEW_OPT_RUN_ID) || !skew_option_on(proc, SKEW_OPT_COLLECTOR))
        return; /* `skewscope run` has started one, or none is wanted */
    int saved = errno;
    void *room = mmap(NULL, ROOM_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (room == MAP_FAILED)
        why = "no collector could be started, because there was no memory for it; the spool waits "
              "for "
              "`skewscope collect`";
    else if (would_be_adopted(room, ROOM_BYTES))
        why = "no collector was started, because this job would have got it as a child; the spool "
              "waits for "
              "`skewscope collect`";
    else
        why = start(proc, room);
    if (room != MAP_FAILED)
        munmap(room, ROOM_BYTES);
    if (why)
        skew_diag_once(SKEW_DIAG_NO_COLLECTOR, why);
    errno = saved;
}
