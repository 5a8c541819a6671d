/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What went differently than planned: into the trace, or, where no trace can carry it, as one line
 * on standard error. Any thread, but not under the process lock.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/* Hold the lock. */
static void put(struct skew_process *proc, enum skew_diag code, const char *text)
{
    struct skew_rec_text rec = {
        .head = {.type = SKEW_REC_DIAG},
        .what = code,
        .length = (uint32_t)strlen(text),
        .ns = skew_now(),
    };
    skew_defs_put(proc, &rec.head, sizeof(rec), text, rec.length);
}

void skew_diag(enum skew_diag code, const char *text)
{
    struct skew_process *proc = __atomic_load_n(&skew_proc, __ATOMIC_ACQUIRE);
    if (!proc)
        return;
    skew_lock(proc);
    put(proc, code, text);
    skew_unlock(proc);
}

void skew_diag_once(enum skew_diag code, const char *text)
{
    struct skew_process *proc = skew_process_get();
    uint32_t bit = 1u << (code % 32);
    if (!proc || (__atomic_fetch_or(&proc->told[code / 32], bit, __ATOMIC_RELAXED) & bit))
        return;
    skew_lock(proc);
    if (proc->head)
        put(proc, code, text);
    else
        proc->tell_later[code] = text;
    skew_unlock(proc);
}

/** Says what could not be said before there was a spool. Hold the lock. */
void skew_diag_flush(struct skew_process *proc)
{
    for (unsigned code = 0; code < SKEW_DIAG_COUNT; code++)
        if (proc->tell_later[code])
            put(proc, (enum skew_diag)code, proc->tell_later[code]);
    memset(proc->tell_later, 0, sizeof(proc->tell_later));
}

/** The few errors that a user can do something about, in words; strerror() may allocate. */
const char *skew_error_text(int err)
{
    switch (err) {
    case ENOSPC:
    case EDQUOT:
        return "no space left";
    case EACCES:
    case EPERM:
        return "permission denied";
    case EMFILE:
    case ENFILE:
        return "too many open files";
    case EROFS:
        return "read-only file system";
    case EXDEV:
        return "only network file systems";
    case ENOMEM:
        return "out of memory";
    case ELIBACC:
        return "no such library";
    default:
        return "no usable directory";
    }
}

/* One rank of a node speaks for all: the first local one. */
static bool speaks_for_node(void)
{
    static const char *const names[] = {
        "LOCAL_RANK",      "SLURM_LOCALID",  "OMPI_COMM_WORLD_LOCAL_RANK",
        "MPI_LOCALRANKID", "PMI_LOCAL_RANK", NULL};
    for (unsigned i = 0; names[i]; i++) {
        const char *value = secure_getenv(names[i]);
        if (value && *value)
            return strcmp(value, "0") == 0;
    }
    return true;
}

/* Writes to standard error without harm: a full pipe would block the host, a closed one raise
 * SIGPIPE, a file at its size limit SIGXFSZ, a terminal in the background SIGTTOU. */
static void write_stderr(const char *line, size_t bytes)
{
    struct pollfd out = {.fd = 2, .events = POLLOUT};
    const uint64_t set = 1ull << (SIGPIPE - 1) | 1ull << (SIGXFSZ - 1) | 1ull << (SIGTTOU - 1);
    struct timespec now = {0, 0};
    uint64_t before, pending = 0;
    if (syscall(SYS_ppoll, &out, 1, &now, NULL, 8) != 1 || out.revents != POLLOUT)
        return;
    /* The raw calls take the kernel's mask: 64 signals. */
    if (syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, &before, 8) != 0)
        return;
    syscall(SYS_rt_sigpending, &pending, 8);
    if (skew_sys_write(2, line, bytes) < 0 && (errno == EPIPE || errno == EFBIG)) {
        uint64_t ours = set & ~pending;
        syscall(SYS_rt_sigtimedwait, &ours, NULL, &now, 8);
    }
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
}

/** The one line: only for what nothing else can carry. `what` and `advice` stand around the reason.
 * Works without the process state too. */
void skew_stderr_line(const char *what, int err, const char *advice)
{
    static uint32_t said; /* shared with forked children: they have nothing new to tell */
    const char *quiet = skew_option_text(SKEW_OPT_QUIET);
    char line[SKEW_PATH_BYTES + 512];
    if (__atomic_exchange_n(&said, 1, __ATOMIC_RELAXED) || !speaks_for_node() ||
        strcmp(quiet, "on") == 0)
        return;
    size_t at = skew_text_add(line, sizeof(line) - 1, 0, "skewscope: ");
    at = skew_text_add(line, sizeof(line) - 1, at, what);
    at = skew_text_add(line, sizeof(line) - 1, at, ": ");
    at = skew_text_add(line, sizeof(line) - 1, at, skew_error_text(err));
    at = skew_text_add(line, sizeof(line) - 1, at, advice);
    line[at++] = '\n';
    write_stderr(line, at);
}
