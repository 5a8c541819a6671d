/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One traced command from beginning to end: see job.h.
 */
#include "job.h"
#include "gpus.h"
#include "paths.h"
#include "term.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "layout.h"

#define NVTX_TOOL "NVTX_INJECTION64_PATH" /* NVTX 3 loads what it names */
#define STEP_MS   500
#define MERCY_MS  10000 /* from asking the command to end until it is killed */

/* ---- before the command -------------------------------------------------------------------- */

/* The library in the target accepts no state directory that others could write into. */
static int check_state(const char *state)
{
    struct stat info;

    if (lstat(state, &info) != 0)
        return -errno;
    if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077)) {
        skew_tell(
            "%s: must be a directory of your own with mode 0700; remove it or choose another --out",
            state);
        return -EPERM;
    }
    return access(state, W_OK | X_OK) == 0 ? 0 : -errno;
}

static int make_directories(struct skew_job *job)
{
    char *wanted = NULL;
    int result = skew_path_out(skew_setting(&job->settings, SKEW_OPT_OUT), &wanted);

    if (result < 0) {
        if (result != -EINVAL)
            skew_tell("--out: %s", strerror(-result));
        return result;
    }
    result = skew_path_make(wanted);
    if (result == 0 && !(job->out = realpath(wanted, NULL)))
        result = -errno;
    if (result == 0 && asprintf(&job->state, "%s/%s", job->out, SKEW_STATE_DIR) < 0)
        result = -ENOMEM;
    if (result == 0 && mkdir(job->state, 0700) != 0 && errno != EEXIST)
        result = -errno;
    if (result == 0)
        result = check_state(job->state);
    if (result < 0 && result != -EPERM)
        skew_tell("%s: cannot be used for the trace: %s; choose another --out", wanted,
                  strerror(-result));
    free(wanted);
    return result;
}

static int begin_record(struct skew_job *job)
{
    int result = skew_run_record_create(&job->record, job->state, job->arguments);

    for (size_t i = 0; i < job->label_count && result == 0; i++)
        skew_run_record_label(&job->record, job->labels[i]);
    if (result == 0 && job->with_standin)
        skew_run_record_label(&job->record, "standin=1");
    if (result == 0)
        result = skew_run_record_write(&job->record, false);
    if (result < 0)
        skew_tell("%s: cannot be written: %s; choose another --out", job->state, strerror(-result));
    return result;
}

/* ---- the command's environment ------------------------------------------------------------- */

/* Appends to a list in the environment, unless it is in it. */
static void append(const char *name, const char *what)
{
    const char *old = getenv(name);
    char *list = NULL;

    if (!old || !*old) {
        setenv(name, what, 1);
        return;
    }
    char *copy = strdup(old), *rest = copy, *one;
    bool there = false;
    while (copy && (one = strsep(&rest, ": ")))
        there |= strcmp(one, what) == 0;
    free(copy);
    if (!there && asprintf(&list, "%s:%s", old, what) >= 0)
        setenv(name, list, 1);
    free(list);
}

static void add_standin(const char *directory)
{
    static const char *const names[] = {"libnccl.so.2", "libcudart.so.13", "libcuda.so.1",
                                        "libcupti.so.13"};
    const char *old = getenv("LD_LIBRARY_PATH");
    char *text = NULL;

    if (asprintf(&text, "%s%s%s", directory, old && *old ? ":" : "", old ? old : "") >= 0)
        setenv("LD_LIBRARY_PATH", text, 1);
    free(text);
    /* An old DT_RPATH wins over LD_LIBRARY_PATH, but not over what is loaded already. */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (asprintf(&text, "%s/%s", directory, names[i]) < 0)
            continue;
        if (access(text, R_OK) == 0)
            append("LD_PRELOAD", text);
        free(text);
    }
}

/* The directory as a template that means just it: the library expands %h, %p and %r in it. */
static void export_out(const char *out)
{
    char *text = malloc(strlen(out) * 2 + 1), *at = text;

    for (; text && *out; out++) {
        if (*out == '%')
            *at++ = '%';
        *at++ = *out;
    }
    if (!text)
        return;
    *at = '\0';
    setenv(SKEW_ENV_PREFIX "OUT", text, 1);
    free(text);
}

/* Whether this library becomes the tool that NVTX 3 looks for, which only one can be; if not, why.
 */
static void decide_nvtx(struct skew_job *job)
{
    const char *tool = getenv(NVTX_TOOL), *other = getenv("CUDA_INJECTION64_PATH");

    if (!skew_setting_on(&job->settings, SKEW_OPT_NVTX) ||
        !skew_setting_on(&job->settings, SKEW_OPT_ENABLE))
        return;
    if (tool && *tool && strcmp(tool, job->library) != 0)
        skew_run_record_note(&job->record, "nvtx", "info",
                             "NVTX ranges are not recorded: " NVTX_TOOL
                             " names another tool (%s); unset it to have them",
                             tool);
    else if (other && *other)
        skew_run_record_note(&job->record, "nvtx", "info",
                             "NVTX ranges are not recorded: CUDA_INJECTION64_PATH announces "
                             "another tool (%s), which may want them; set " NVTX_TOOL
                             "=%s to have them all the same",
                             other, job->library);
    else
        job->takes_nvtx = true;
}

/* In the child, before exec. */
static void set_up(void *user)
{
    const struct skew_job *job = user;

    if (job->stdout_to_stderr)
        dup2(STDERR_FILENO, STDOUT_FILENO);
    skew_settings_export(&job->settings);
    export_out(job->out);
    setenv(SKEW_ENV_PREFIX "RUN_ID", job->record.id, 1);
    if (skew_path_self())
        setenv(SKEW_ENV_PREFIX "HOME", skew_path_self(), 1);
    append("LD_PRELOAD", job->library);
    if (job->takes_nvtx)
        setenv(NVTX_TOOL, job->library, 1);
    if (job->standin)
        add_standin(job->standin);
}

static void take_gpu(void *user, const char *bus, const char *model, const char *driver)
{
    skew_run_record_gpu(user, bus, model, driver);
}

int skew_job_begin(struct skew_job *job)
{
    int result = skew_path_library(&job->library);

    if (result == 0 && job->with_standin)
        result = skew_path_standin(&job->standin);
    if (result == 0)
        result = make_directories(job);
    if (result == 0)
        result = begin_record(job);
    if (result < 0)
        return result;
    decide_nvtx(job);
    if (!job->standin)
        skew_gpus_find(SKEW_GPUS_ROOT, take_gpu, &job->record);
    if (job->standin && !skew_setting_on(&job->settings, SKEW_OPT_QUIET))
        skew_tell("stand-in libraries are used (%s): no GPU, no real NCCL", job->standin);
    job->collecting = strcmp(skew_setting(&job->settings, SKEW_OPT_COLLECTOR), "off") != 0;
    result = skew_child_signals(&job->child);
    skew_run_collector_init(&job->collector, job->out, job->record.id, &job->child.old_mask);
    if (result == 0 && job->collecting)
        skew_run_collector_start(&job->collector, true);
    if (result == 0)
        result = skew_child_start(&job->child, job->arguments, set_up, job);
    if (result < 0) {
        skew_tell("the command could not be started: %s", strerror(-result));
        return result == -EINVAL ? -EIO : result;
    }
    job->exec_error = result;
    skew_watch_start(&job->watch, job->child.pid, job->record.id, job->library);
    return 0;
}

/* ---- while it runs ------------------------------------------------------------------------- */

static void other_ended(void *user, pid_t pid, int status)
{
    struct skew_job *job = user;
    skew_run_collector_ended(&job->collector, pid, status);
}

static bool take_packages(struct skew_job *job)
{
    const struct skew_watched_package *all;
    size_t count;

    if (job->packages_taken || !job->watch || !skew_watch_packages(job->watch, &all, &count))
        return false;
    for (size_t i = 0; i < count; i++)
        skew_run_record_package(&job->record, all[i].name, all[i].version, all[i].path);
    return job->packages_taken = true;
}

/* Past the limit: first asks, then makes. Returns the milliseconds until there is more to do. */
static int press(struct skew_job *job, uint64_t started, uint64_t limit_ms, int *pressed)
{
    uint64_t now = (skew_clock_ns() - started) / 1000000;
    uint64_t due = limit_ms + (*pressed ? MERCY_MS : 0);

    if (limit_ms == 0 || *pressed > 1)
        return STEP_MS;
    if (now >= due) {
        kill(job->child.pid, *pressed ? SIGKILL : SIGTERM);
        ++*pressed;
        return STEP_MS;
    }
    return due - now < STEP_MS ? (int)(due - now) + 1 : STEP_MS;
}

void skew_job_follow(struct skew_job *job, uint64_t limit_ms)
{
    uint64_t started = skew_clock_ns();
    int pressed = 0;

    while (!job->child.ended) {
        skew_child_step(&job->child, press(job, started, limit_ms, &pressed), other_ended, job);
        if (job->collecting)
            skew_run_collector_revive(&job->collector);
        if (take_packages(job)) /* already here, in case `run` itself is killed */
            skew_run_record_write(&job->record, false);
    }
}

/* ---- after the command --------------------------------------------------------------------- */

/* Waits for the collector, after it was told to finish. False when a person got tired of it. */
static bool wait_for_collector(struct skew_job *job)
{
    struct skew_progress progress;
    bool patient = true;

    skew_progress_start(&progress, skew_setting_on(&job->settings, SKEW_OPT_QUIET));
    while (job->collector.pid > 0 && patient) {
        patient = skew_child_step(&job->child, 100, other_ended, job) == 0;
        skew_progress_show(&progress,
                           "collecting what the command left (%.0f s; Ctrl-C leaves it for later)",
                           (double)(skew_clock_ns() - progress.started_ns) / 1e9);
    }
    skew_progress_end(&progress);
    return patient;
}

static int drain(struct skew_job *job)
{
    if (job->collector.pid > 0) {
        kill(job->collector.pid, SIGTERM);
        if (!wait_for_collector(job))
            return -EINTR;
    }
    if (job->collector.ended_well)
        return 0;
    int result = skew_run_collector_start(&job->collector, false);
    if (result < 0)
        return result;
    if (!wait_for_collector(job))
        return -EINTR;
    return job->collector.ended_well ? 0 : -EIO;
}

int skew_job_end(struct skew_job *job)
{
    skew_run_record_end(&job->record, job->child.status);
    skew_child_settle(&job->child);
    if (job->watch) {
        skew_watch_stop(job->watch);
        take_packages(job);
        skew_notes_seen(job);
    }
    int result = skew_run_record_write(&job->record, true);
    if (result < 0)
        skew_tell("%s: cannot be written: %s", job->record.path, strerror(-result));
    if (!job->collecting)
        return 1;
    result = drain(job);
    if (result == 0)
        result = skew_run_find(&job->found, job->out, job->record.id);
    return result;
}

void skew_job_explain(struct skew_job *job)
{
    int result = -ENOENT;

    skew_notes_nothing(job);
    /* The collector has tidied it away, and that of another run may do so again. */
    for (unsigned i = 0; result == -ENOENT && i < 8; i++) {
        mkdir(job->state, 0700);
        result = skew_run_record_write(&job->record, true);
    }
    if (result == 0 && skew_run_collector_start(&job->collector, false) == 0)
        wait_for_collector(job);
}

void skew_job_free(struct skew_job *job)
{
    skew_watch_free(&job->watch);
    skew_run_collector_free(&job->collector);
    skew_run_record_free(&job->record);
    skew_settings_free(&job->settings);
    free(job->labels);
    free(job->library);
    free(job->standin);
    free(job->out);
    free(job->state);
}
