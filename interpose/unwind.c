/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Call stacks by libunwind. It is opened (local to us) at the first stack: it must never be a
 * dependency, for it exports symbols that C++ hosts need for themselves. Application thread, under
 * no lock.
 *
 * libunwind keeps a pipe by which it tries whether memory may be read. The pipe must not become the
 * host's standard output, nor may libunwind go on when the host has closed it and uses the numbers
 * for something else; and reading and writing are points where a thread can be cancelled.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/* libunwind's pipe, where it has been seen. Not in the process state: a forked child inherits it.
 * Written once, by the thread that walks first. */
static struct {
    uint64_t inode; /* 0: not known */
    int fd[2];
} own_pipe;

/* The inode of a pipe; 0: this descriptor is none. */
static uint64_t pipe_of(int fd)
{
    struct statx info;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_INO, &info) != 0 ||
        !S_ISFIFO(info.stx_mode))
        return 0;
    return info.stx_ino;
}

/* The first walk of the process, which makes libunwind open its pipe: where, is seen by what was
 * free before. Descriptors 0 to 2 are kept occupied meanwhile. */
static int first_walk(struct skew_process *proc, void **frames, int count)
{
    int fd[5], opened = 0;
    for (int high = 0; opened < 5 && high < 2; opened++) {
        fd[opened] = (int)syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
        if (fd[opened] < 0)
            break;
        high += fd[opened] > 2;
    }
    for (int i = 0; i < opened; i++)
        if (fd[i] > 2)
            skew_sys_close(fd[i]);
    int n = proc->unwind(frames, count);
    for (int i = 0; i < opened; i++)
        if (fd[i] < 3)
            skew_sys_close(fd[i]);
    if (opened < 2 || own_pipe.inode)
        return n;
    uint64_t inode = pipe_of(fd[opened - 2]);
    if (inode && pipe_of(fd[opened - 1]) == inode) {
        own_pipe.fd[0] = fd[opened - 2];
        own_pipe.fd[1] = fd[opened - 1];
        own_pipe.inode = inode;
    }
    return n;
}

static void unwind_open(struct skew_process *proc)
{
    static const char *const names[] = {"libunwind.so.8", "libunwind.so.1", "libunwind.so", NULL};
    void *(*open_library)(const char *, int) =
        (void *(*)(const char *, int))skew_dlsym_in("dlopen");
    for (unsigned i = 0; names[i] && open_library && !proc->unwind; i++) {
        void *handle = open_library(names[i], RTLD_LAZY | RTLD_LOCAL);
        void *found = handle ? skew_dlsym(handle, "unw_backtrace") : NULL;
        proc->unwind = (int (*)(void **, int))found;
    }
    skew_dlerror_clear();
    if (!proc->unwind)
        skew_diag_once(SKEW_DIAG_NO_UNWIND, "libunwind was not found: call sites show the caller "
                                            "of NCCL only, not the stack above it");
}

static bool pipe_is_lost(void)
{
    return own_pipe.inode &&
           (pipe_of(own_pipe.fd[0]) != own_pipe.inode || pipe_of(own_pipe.fd[1]) != own_pipe.inode);
}

/**
 * Return addresses, innermost first, our own frames included.
 * @return how many; 0: stacks cannot be walked; -EAGAIN: another thread is just finding that out
 */
int skew_unwind(struct skew_process *proc, void **frames, int count)
{
    enum { NEW, OPENING, READY, OFF };
    uint32_t state = NEW;
    int before, n = 0;
    if (pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before) != 0)
        return 0;
    __atomic_compare_exchange_n(&proc->unwind_state, &state, OPENING, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    /* libunwind has locks of its own, and goes to the loader's list. */
    bool may = (state == NEW || state == READY) && skew_loader_enter();
    if (state == NEW) {
        if (skew_option_on(proc, SKEW_OPT_STACKS) && may)
            unwind_open(proc);
        else if (skew_option_on(proc, SKEW_OPT_STACKS))
            skew_diag_once(
                SKEW_DIAG_NO_UNWIND,
                "this process was forked while another thread was in the loader, which cannot be "
                "entered "
                "since: call sites show the caller of NCCL only, not the stack above it");
        bool can = proc->unwind && !pipe_is_lost();
        n = can ? first_walk(proc, frames, count) : 0;
        __atomic_store_n(&proc->unwind_state, can ? READY : OFF, __ATOMIC_RELEASE);
    } else if (state == OPENING) {
        n = -EAGAIN;
    } else if (state == READY && (!may || pipe_is_lost())) {
        __atomic_store_n(&proc->unwind_state, OFF, __ATOMIC_RELEASE);
    } else if (state == READY) {
        n = proc->unwind(frames, count);
    }
    if (may)
        skew_loader_leave();
    pthread_setcancelstate(before, NULL);
    return n < 0 && n != -EAGAIN ? 0 : n;
}
