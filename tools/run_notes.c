/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the watch has seen of a run, in sentences for the trace and for the person: what could not
 * be intercepted, and, when nothing was captured, why. Codes are those of schema/spool.h and, for
 * what only `run` can know, command_failed, preload_not_bound and elsewhere (docs/cli.md).
 */
#include "job.h"

#include <inttypes.h>
#include <string.h>
#include <sys/wait.h>

#include "spool.h"

static const char *exe_of(const struct skew_watched *p)
{
    return p->exe ? p->exe : "?";
}

/* ---- always -------------------------------------------------------------------------------- */

static void note_backends(struct skew_job *job)
{
    size_t count;
    const struct skew_watched_object *const *objects = skew_watch_objects(job->watch, &count);

    for (size_t i = 0; i < count; i++)
        if (objects[i]->backend)
            skew_run_record_note(&job->record, "device_backend", "warning", "%s is loaded (%s): %s",
                                 objects[i]->backend, objects[i]->path, objects[i]->unseen);
}

static void note_static(struct skew_job *job)
{
    size_t count;
    const struct skew_watched_object *const *objects = skew_watch_objects(job->watch, &count);

    for (size_t i = 0; i < count; i++)
        if (objects[i]->static_nccl)
            skew_run_record_note(
                &job->record, "static_nccl", "error",
                "NCCL is linked statically into %s: its calls pass no place where they could be "
                "intercepted; use a build with the shared libnccl.so.2 (the wheels of pip have it)",
                objects[i]->path);
}

/* Processes that use NCCL without our library in them; one note an executable and reason. */
static void note_unbound(struct skew_job *job)
{
    size_t count;
    const struct skew_watched *all = skew_watch_processes(job->watch, &count);

    for (size_t i = 0; i < count; i++)
        if (all[i].unbound != SKEW_BOUND && all[i].nccl)
            skew_run_record_note(&job->record, "preload_not_bound", "error",
                                 "%s uses NCCL (%s), but libskewscope.so is not loaded into it: %s",
                                 exe_of(&all[i]), all[i].nccl, skew_unbound_text(all[i].unbound));
}

void skew_notes_seen(struct skew_job *job)
{
    note_static(job);
    note_unbound(job);
    note_backends(job);
}

/* ---- when nothing was captured ------------------------------------------------------------- */

/* Commands that let something else, somewhere else, start the processes. */
static const char *starts_elsewhere(const char *command)
{
    static const char *const names[] = {"srun",   "sbatch", "mpirun",  "mpiexec", "ssh",     "pdsh",
                                        "docker", "podman", "kubectl", "ray",     "nerdctl", NULL};
    const char *slash = strrchr(command, '/');

    for (int i = 0; names[i]; i++)
        if (strcmp(slash ? slash + 1 : command, names[i]) == 0)
            return names[i];
    return NULL;
}

/* A job that failed is the likeliest reason of all. */
static void note_end(struct skew_job *job)
{
    int status = job->child.status;

    if (WIFSIGNALED(status))
        skew_run_record_note(&job->record, "command_failed", "error",
                             "the command ended by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status))
        skew_run_record_note(&job->record, "command_failed", "error",
                             "the command ended with exit status %d", WEXITSTATUS(status));
}

static void note_command(struct skew_job *job, const struct skew_watched *root)
{
    const char *elsewhere = starts_elsewhere(job->arguments[0]);

    if (elsewhere)
        skew_run_record_note(
            &job->record, "elsewhere", "error",
            "%s starts the job's processes on another node or in another process tree; "
            "put skewscope run there: %s … skewscope run -o DIR -- COMMAND",
            elsewhere, elsewhere);
    if (root && root->unbound != SKEW_BOUND && root->unbound != SKEW_UNSEEN)
        skew_run_record_note(&job->record, "preload_not_bound", "error",
                             "libskewscope.so is not loaded into the command itself, %s: %s",
                             exe_of(root), skew_unbound_text(root->unbound));
}

static void note_no_call(struct skew_job *job, size_t looked_at, size_t with_nccl, const char *nccl)
{
    const struct skew_run_found *found = &job->found;

    if (found->processes)
        skew_run_record_note(&job->record, "no_nccl_call", "error",
                             "%" PRIu64 " process%s made communicators and %" PRIu64 " other NCCL "
                             "operations, but no all-to-all, send or receive",
                             found->processes, found->processes == 1 ? "" : "es",
                             found->operations);
    else if (with_nccl)
        skew_run_record_note(&job->record, "no_nccl_call", "error",
                             "NCCL was loaded by %zu process%s (%s), but no communicator was made",
                             with_nccl, with_nccl == 1 ? "" : "es", nccl);
    else if (looked_at)
        skew_run_record_note(&job->record, "no_nccl_call", "error",
                             "no NCCL was loaded by any of the %zu process%s that were looked at",
                             looked_at, looked_at == 1 ? "" : "es");
    else
        skew_run_record_note(
            &job->record, "no_nccl_call", "error",
            "the command ended before its processes could be looked at, and none of them "
            "made an NCCL communicator");
}

void skew_notes_nothing(struct skew_job *job)
{
    size_t count = 0, looked_at = 0, with_nccl = 0;
    const struct skew_watched *all = job->watch ? skew_watch_processes(job->watch, &count) : NULL;
    const struct skew_watched *root = NULL;
    const char *nccl = NULL;

    if (!skew_setting_on(&job->settings, SKEW_OPT_ENABLE)) {
        skew_run_record_note(&job->record, "no_nccl_call", "info",
                             "recording was switched off (--enable=off)");
        return;
    }
    if (job->exec_error) {
        skew_run_record_note(&job->record, "no_nccl_call", "error",
                             "the command could not be executed");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        root = all[i].root ? &all[i] : root;
        looked_at += all[i].exe != NULL;
        with_nccl += all[i].nccl != NULL;
        nccl = all[i].nccl ? all[i].nccl : nccl;
    }
    note_end(job);
    note_command(job, root);
    note_no_call(job, looked_at, with_nccl, nccl);
}
