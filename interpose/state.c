/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life of the process and thread state: made on first use, wiped by the kernel in forked children,
 * sealed at thread exit. The slow half of skew_enter() lives here. Any thread.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "bind.h"
#include "hot.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* glibc's own, older than every version we may depend on. */
extern int __cxa_thread_atexit_impl(void (*function)(void *), void *argument, void *dso);
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                             void *dso);
extern void *__dso_handle __attribute__((visibility("hidden")));

struct skew_thread skew_nobody;
__thread struct skew_thread *skew_self __attribute__((tls_model("initial-exec"))) = &skew_nobody;
struct skew_process *skew_proc SKEW_EARLY;
struct skew_hot skew_hot = {.clock = clock_gettime, .comms_changed = 1};

void skew_lock(struct skew_process *proc)
{
    while (__atomic_exchange_n(&proc->lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

void skew_unlock(struct skew_process *proc)
{
    __atomic_store_n(&proc->lock, 0, __ATOMIC_RELEASE);
}

/* Kernels before 4.14 cannot wipe: then the C library's fork() does it, and a raw clone() goes
 * unnoticed. */
static void wipe_in_child(void)
{
    if (skew_proc)
        memset(skew_proc, 0, offsetof(struct skew_process, comms));
    if (skew_self != &skew_nobody)
        memset(skew_self, 0, sizeof(*skew_self));
}

/* Memory that a forked child finds empty. */
static void *map_wiped(size_t bytes)
{
    static uint32_t atfork_done;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (madvise(at, bytes, MADV_WIPEONFORK) != 0 &&
        !__atomic_exchange_n(&atfork_done, 1, __ATOMIC_ACQ_REL))
        __register_atfork(NULL, NULL, wipe_in_child, __dso_handle);
    return at;
}

/* The kernel's own function, without the detour through the C library. */
static void clock_bind(void)
{
#if defined(__aarch64__)
    const char *name = "__kernel_clock_gettime";
#else
    const char *name = "__vdso_clock_gettime";
#endif
    const ElfW(Ehdr) *vdso = (const ElfW(Ehdr) *)getauxval(AT_SYSINFO_EHDR);
    if (!vdso)
        return;
    struct dl_phdr_info info = {
        .dlpi_addr = (ElfW(Addr))vdso,
        .dlpi_phdr = (const ElfW(Phdr) *)((const char *)vdso + vdso->e_phoff),
        .dlpi_phnum = vdso->e_phnum,
    };
    struct timespec ts;
    int (*clock)(clockid_t, struct timespec *) =
        (int (*)(clockid_t, struct timespec *))skew_elf_lookup(&info, name);
    if (clock && clock(CLOCK_MONOTONIC, &ts) == 0)
        __atomic_store_n(&skew_hot.clock, clock, __ATOMIC_RELAXED);
}

static void process_start(struct skew_process *proc)
{
    clock_bind();
    skew_options_read(proc);
    bool off = getauxval(AT_SECURE) != 0 || !skew_option_on(proc, SKEW_OPT_ENABLE);
    if (!off)
        skew_tap_start(proc);
    __atomic_store_n(&proc->phase, off ? SKEW_PHASE_OFF : SKEW_PHASE_READY, __ATOMIC_RELEASE);
}

/** The process state, started if need be. NULL: no memory for it, or recording is switched off. */
struct skew_process *skew_process_get(void)
{
    struct skew_process *proc = __atomic_load_n(&skew_proc, __ATOMIC_ACQUIRE);
    if (!proc) {
        struct skew_process *fresh = map_wiped(sizeof(*fresh));
        if (!fresh) {
            skew_stderr_line("this process is not recorded", ENOMEM, "");
            return NULL;
        }
        if (__atomic_compare_exchange_n(&skew_proc, &proc, fresh, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE))
            proc = fresh;
        else
            munmap(fresh, sizeof(*fresh));
    }
    uint32_t phase = __atomic_load_n(&proc->phase, __ATOMIC_ACQUIRE);
    while (skew_unlikely(phase < SKEW_PHASE_READY)) {
        uint32_t expected = SKEW_PHASE_NEW;
        if (__atomic_compare_exchange_n(&proc->phase, &expected, SKEW_PHASE_STARTING, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            process_start(proc);
        else
            sched_yield();
        phase = __atomic_load_n(&proc->phase, __ATOMIC_ACQUIRE);
    }
    return phase == SKEW_PHASE_READY ? proc : NULL;
}

/* Runs when a thread ends, among its other thread-local destructors. */
static void thread_end(void *user)
{
    struct skew_thread *thread = user;
    if (skew_self != thread)
        return;
    skew_self = &skew_nobody;
    if (thread->gate == SKEW_GATE_NEW && !thread->early)
        return; /* wiped by a fork, never used again: not ours to seal */
    skew_ranges_thread_end(thread);
    if (thread->gate == SKEW_GATE_NEW) {
        munmap(thread, sizeof(*thread));
        return;
    }
    skew_time_thread_end(thread);
    skew_thread_seal(thread);
    skew_tap_thread_end(thread);
    munmap(thread, sizeof(*thread));
}

/* NULL: there is no memory. A call to NCCL is counted then, and the next one tries again. */
static struct skew_thread *thread_make(struct skew_process *proc, bool call)
{
    struct skew_thread *thread = map_wiped(sizeof(*thread));
    /* Registering a destructor allocates, and the C library ends the process when it cannot. */
    void *probe = thread ? malloc(256) : NULL;
    if (!probe) {
        if (thread)
            munmap(thread, sizeof(*thread));
        if (!call)
            return NULL;
        skew_lock(proc);
        skew_loss_add(proc, SKEW_LOSS_NO_MEMORY, &(struct skew_loss_count){.cells = 1});
        skew_unlock(proc);
        return NULL;
    }
    free(probe);
    skew_self = thread;
    __cxa_thread_atexit_impl(thread_end, thread, __dso_handle);
    return thread;
}

SKEW_COLD struct skew_thread *skew_thread_early(void)
{
    struct skew_thread *thread = skew_self;
    if (thread != &skew_nobody)
        return thread;
    int saved = errno;
    struct skew_process *proc = skew_process_get();
    thread = proc ? thread_make(proc, false) : NULL;
    if (thread)
        thread->early = true;
    errno = saved;
    return thread;
}

SKEW_COLD struct skew_thread *skew_enter_slow(struct skew_thread *thread)
{
    if (thread->gate == SKEW_GATE_BUSY)
        return NULL;
    int saved = errno;
    skew_loader_guard();
    skew_bind();
    struct skew_process *proc = skew_process_get();
    if (proc && thread == &skew_nobody)
        thread = thread_make(proc, true);
    if (!proc)
        thread = NULL;
    if (thread) {
        /* In a forked child all of it is zero, but for what is set here. */
        thread->tid = skew_sys_tid();
        thread->cell = SKEW_NO_CELL;
        thread->gate = SKEW_GATE_BUSY;
        thread->fast_limit = NULL;
        thread->watch = SKEW_WATCH_TIME;
    }
    errno = saved;
    return thread;
}

static __attribute__((constructor)) void library_loaded(void)
{
    int saved = errno;
    skew_dlsym_at_load();
    skew_options_keep();
    skew_bind_at_load();
    errno = saved;
}

static __attribute__((destructor)) void process_exits(void)
{
    struct skew_process *proc = __atomic_load_n(&skew_proc, __ATOMIC_ACQUIRE);
    if (!proc || __atomic_load_n(&proc->phase, __ATOMIC_ACQUIRE) != SKEW_PHASE_READY || !proc->head)
        return;
    /* Modules that arrived after the last call site: what could have moved bytes unseen. */
    skew_modules_update(proc);
    proc->head->exit_ns = skew_now();
    __atomic_store_n(&proc->head->state, SKEW_SPOOL_EXITED, __ATOMIC_RELEASE);
}
