/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command in the foreground, as if `run` were not there: see run_child.h.
 *
 * What the terminal or `kill -- -PGID` sends goes to the command as well as to us; passing it on
 * would deliver it twice, and a second SIGTERM ends the clean-up of torchrun. siginfo cannot tell a
 * signal for us alone from one for the group. So a second process of the group, the sentinel, does
 * nothing but count signals: what it got too was for everybody.
 */
#include "run_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How long a signal to the whole group may take to reach all of it: `timeout` and slurmstepd send
 * to one process after the other. */
#define GROUP_NS 20000000

#define SIGNALS SKEW_CHILD_SIGNALS

static void all_signals(sigset_t *set)
{
    static const int synchronous[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};

    sigfillset(set);
    for (size_t i = 0; i < sizeof synchronous / sizeof *synchronous; i++)
        sigdelset(set, synchronous[i]);
}

/* ---- the sentinel -------------------------------------------------------------------------- */

/* Counts signals as they come, and answers every byte with the counts since the last one. */
static _Noreturn void sentinel(int fd, int signals, pid_t parent)
{
    struct pollfd polled[] = {{.fd = fd, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    uint8_t counts[SIGNALS] = {0};
    struct signalfd_siginfo info;
    char byte;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "skewscope-sig");
    if (getppid() != parent)
        _exit(0);
    for (int other = 0; other < 3; other++)
        if (other != fd && other != signals)
            close(other);
    while (poll(polled, 2, -1) > 0) {
        while (read(signals, &info, sizeof info) == sizeof info)
            if (info.ssi_signo < SIGNALS && counts[info.ssi_signo] < UINT8_MAX)
                counts[info.ssi_signo]++;
        if (!polled[0].revents)
            continue;
        if (read(fd, &byte, 1) != 1 || write(fd, counts, sizeof counts) != sizeof counts)
            break; /* `run` is gone */
        memset(counts, 0, sizeof counts);
    }
    _exit(0);
}

/* Whether the whole group got this signal; each such signal is told once. */
static bool group_got(struct skew_child *child, int number)
{
    uint8_t counts[SIGNALS];
    struct timespec now;
    ssize_t got;

    if (child->sentinel_fd < 0 || number >= SIGNALS || write(child->sentinel_fd, "", 1) != 1)
        return false;
    while ((got = read(child->sentinel_fd, counts, sizeof counts)) < 0 && errno == EINTR)
        ;
    if (got != sizeof counts)
        return false;
    /* Signals merge, so some may never be met here: after a second they say nothing any more. */
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - child->group_second > 1)
        memset(child->group_counts, 0, sizeof child->group_counts);
    child->group_second = now.tv_sec;
    for (int i = 0; i < SIGNALS; i++)
        child->group_counts[i] = (uint16_t)(child->group_counts[i] + counts[i]);
    if (child->group_counts[number] == 0)
        return false;
    child->group_counts[number]--;
    return true;
}

int skew_child_signals(struct skew_child *child)
{
    sigset_t set;
    int fds[2];
    pid_t self = getpid();

    *child = (struct skew_child){.pid = -1, .signal_fd = -1, .sentinel_fd = -1, .sentinel = -1};
    all_signals(&set);
    if (sigprocmask(SIG_BLOCK, &set, &child->old_mask) != 0)
        return -errno;
    /* An inherited SIG_IGN would make our children vanish unseen. The command gets it back. */
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL}, &child->old_chld);
    child->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (child->signal_fd < 0)
        return -errno;
    /* Without the sentinel everything works, but signals to the group arrive twice. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return 0;
    child->sentinel = fork();
    if (child->sentinel == 0) {
        close(fds[0]);
        sentinel(fds[1], child->signal_fd, self);
    }
    close(fds[1]);
    if (child->sentinel < 0)
        close(fds[0]);
    else
        child->sentinel_fd = fds[0];
    return 0;
}

/* ---- starting ------------------------------------------------------------------------------ */

static _Noreturn void become(struct skew_child *child, char **arguments, skew_child_setup *setup,
                             void *user, int report)
{
    setup(user);
    sigaction(SIGCHLD, &child->old_chld, NULL);
    sigprocmask(SIG_SETMASK, &child->old_mask, NULL);
    execvp(arguments[0], arguments);
    int error = errno;
    if (write(report, &error, sizeof error) < 0)
        _exit(126);
    _exit(error == ENOENT ? 127 : 126);
}

int skew_child_start(struct skew_child *child, char **arguments, skew_child_setup *setup,
                     void *user)
{
    int report[2], error = 0, status;

    if (pipe2(report, O_CLOEXEC) != 0)
        return -errno;
    child->pid = fork();
    if (child->pid < 0) {
        error = -errno;
        close(report[0]);
        close(report[1]);
        return error;
    }
    if (child->pid == 0) {
        close(report[0]);
        become(child, arguments, setup, user, report[1]);
    }
    close(report[1]);
    ssize_t got = read(report[0], &error, sizeof error);
    close(report[0]);
    if (got != sizeof error)
        return 0;
    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
        ;
    child->ended = true;
    child->status = status;
    return error;
}

void skew_child_own_streams(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0)
        return;
    for (int fd = STDIN_FILENO; fd <= STDOUT_FILENO; fd++)
        if (fd != null)
            dup2(null, fd);
    if (null > STDERR_FILENO)
        close(null);
}

/* ---- stopping and continuing --------------------------------------------------------------- */

/* Both we and the command got a stop signal, and the command has stopped: stop too, so that the
 * shell sees its job stopped. Comes back when somebody continues us. */
static void stop_too(struct skew_child *child)
{
    struct sigaction old;
    sigset_t one;
    int number = child->pending_stop;

    child->pending_stop = 0;
    sigemptyset(&one);
    sigaddset(&one, number);
    sigaction(number, &(struct sigaction){.sa_handler = SIG_DFL}, &old);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &one, NULL); /* here we stop */
    sigprocmask(SIG_BLOCK, &one, NULL);
    sigaction(number, &old, NULL);
    kill(child->pid, SIGCONT);
}

static void reap(struct skew_child *child, skew_child_other *other, void *user)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED)) > 0) {
        bool gone = WIFEXITED(status) || WIFSIGNALED(status);
        if (pid == child->pid && gone) {
            child->ended = true;
            child->status = status;
        } else if (pid == child->pid) {
            child->stopped = WIFSTOPPED(status);
        } else if (gone && other) {
            other(user, pid, status);
        }
    }
    if (child->stopped && child->pending_stop && !child->ended)
        stop_too(child);
}

/* ---- signals ------------------------------------------------------------------------------- */

static bool is_stop(int number)
{
    return number == SIGTSTP || number == SIGTTIN || number == SIGTTOU;
}

/* Passes one signal on, unless the command got it already. */
static void pass_on(struct skew_child *child, const struct signalfd_siginfo *info)
{
    int number = (int)info->ssi_signo;
    const struct timespec moment = {0, GROUP_NS};

    if (number == SIGCHLD)
        return;
    if (number == SIGCONT) {
        child->pending_stop = 0;
        if (child->stopped)
            kill(child->pid, SIGCONT);
        return;
    }
    if (is_stop(number))
        child->pending_stop = number;
    nanosleep(&moment, NULL);
    bool group = group_got(child, number);
    bool terminal =
        info->ssi_code > 0; /* SI_KERNEL: the terminal's signals go to the whole group */
    bool own = (pid_t)info->ssi_pid == child->pid; /* the command's message to its parent */
    if (!group && !terminal && !own)
        kill(child->pid, number);
}

int skew_child_step(struct skew_child *child, int timeout_ms, skew_child_other *other, void *user)
{
    struct pollfd poll_fd = {.fd = child->signal_fd, .events = POLLIN};
    struct signalfd_siginfo info;
    int asked = 0;

    if (poll(&poll_fd, 1, timeout_ms) < 0)
        return 0;
    while (read(child->signal_fd, &info, sizeof info) == sizeof info) {
        int number = (int)info.ssi_signo;
        if (!child->ended)
            reap(child, other, user);
        if (!child->ended)
            pass_on(child, &info);
        else if (!asked &&
                 (number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT))
            asked = number;
    }
    reap(child, other, user);
    return asked;
}

void skew_child_settle(struct skew_child *child)
{
    const struct timespec moment = {0, GROUP_NS};
    struct signalfd_siginfo info;

    nanosleep(&moment, NULL);
    while (read(child->signal_fd, &info, sizeof info) == sizeof info)
        ;
    if (child->sentinel_fd >= 0)
        close(child->sentinel_fd);
    child->sentinel_fd = -1;
}

void skew_child_mirror(struct skew_child *child)
{
    if (WIFEXITED(child->status))
        exit(WEXITSTATUS(child->status));

    int number = WTERMSIG(child->status);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, number);
    /* The command has dumped its core if it was to; ours would only hide it. */
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    prctl(PR_SET_DUMPABLE, 0);
    sigaction(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    _exit(128 + number); /* as PID 1, which signals do not end */
}
