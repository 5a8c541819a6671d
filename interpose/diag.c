/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What went differently than planned: into the trace, or, where no trace can carry it, as one line on
 * standard error. Any thread, but not under the process lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
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
    default:
        return "no usable directory";
    }
}

/* One rank of a node speaks for all: the first local one. */
static bool speaks_for_node(void)
{
    static const char *const names[] = {"LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK",
                                        "MPI_LOCALRANKID", "PMI_LOCAL_RANK", NULL};
    for (unsigned i = 0; names[i]; i++) {
        const char *value = secure_getenv(names[i]);
        if (value && *value)
            return strcmp(value, "0") == 0;
    }
    return true;
}

/** The one line: only for what nothing else can carry. */
void skew_stderr_line(const char *what, int err)
{
    struct skew_process *proc = skew_proc;
    char line[512];
    if (__atomic_exchange_n(&proc->said_stderr, 1, __ATOMIC_RELAXED) || !speaks_for_node() ||
        skew_option_on(proc, SKEW_OPT_QUIET))
        return;
    size_t at = skew_text_add(line, sizeof(line) - 1, 0, "skewscope: ");
    at = skew_text_add(line, sizeof(line) - 1, at, what);
    at = skew_text_add(line, sizeof(line) - 1, at, ": ");
    at = skew_text_add(line, sizeof(line) - 1, at, skew_error_text(err));
    at = skew_text_add(line, sizeof(line) - 1, at, " (set SKEWSCOPE_SPOOL to a writable local directory)");
    line[at++] = '\n';
    ssize_t ignored = write(2, line, at);
    (void)ignored;
}
