/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope run: a command with the library in it and a collector beside it. What the command sees is
 * run_child.c's, what the trace learns of the run is run_record.c's; this file is the order of things.
 */
#include "command.h"
#include "packages.h"
#include "paths.h"
#include "run_child.h"
#include "run_collector.h"
#include "run_record.h"
#include "run_summary.h"
#include "settings.h"
#include "term.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "layout.h"

#define STEP_MS 500

struct run {
    struct skew_settings settings;
    char **labels;
    size_t label_count;
    bool with_standin;
    char **arguments; /* the command, ends with NULL */

    char *library;
    char *standin; /* directory, NULL: not wanted */
    char *out;     /* absolute and canonical */
    char *state;   /* OUT/.skewscope */
    struct skew_run_record record;
    struct skew_child child;
    struct skew_run_collector collector;
};

/* ---- the command line ----------------------------------------------------------------------------- */

enum { KEY_STANDIN = 0x2000 };

static const struct argp_option options[] = {
    {"label", 'l', "KEY=VALUE", 0,
     "name a property of this run in the trace, for comparisons (repeatable): model=…, data=…, ep=8", 1},
    {"standin", KEY_STANDIN, NULL, 0,
     "put the stand-in NCCL, CUDA and CUPTI in front of the command's own: no GPU is used, and the trace "
     "is labelled standin=1", 1},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct run *run = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &run->settings;
        return 0;
    case 'l':
        if (!strchr(text, '=') || *text == '=')
            argp_error(state, "--label: '%s' is not allowed; it takes KEY=VALUE", text);
        run->labels = realloc(run->labels, (run->label_count + 1) * sizeof *run->labels);
        if (!run->labels)
            return ENOMEM;
        run->labels[run->label_count++] = text;
        return 0;
    case KEY_STANDIN:
        run->with_standin = true;
        return 0;
    case ARGP_KEY_ARGS:
        run->arguments = state->argv + state->next;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which command? For example: skewscope run -o trace/ -- torchrun train.py");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_run(void)
{
    static struct argp_child children[] = {{NULL, 0, "Recording (each is also a variable and a key of the "
                                                     "JSON file):", 2}, {0}};
    static const struct argp argp = {
        options, parse, "[--] COMMAND [ARGUMENT...]",
        "Runs a command and traces the all-to-all traffic of every process below it."
        "\vThe command keeps its terminal, its standard streams, its process group and its signals. run "
        "ends as the command ended: with the same status, or by the same signal; with 126 when it could "
        "not be executed, 127 when it was not found, 1 when the trace could not even be begun (nothing was "
        "run then) and 2 for a wrong option. One line on standard error tells where the trace is; nothing "
        "was captured: it tells why.",
        children, NULL, NULL};

    children[0].argp = skew_options_argp();
    return &argp;
}

/* ---- before the command ----------------------------------------------------------------------------- */

static int make_directories(struct run *run)
{
    char *wanted = NULL;
    struct stat info;
    int result = skew_path_out(skew_setting(&run->settings, SKEW_OPT_OUT), &wanted);

    if (result < 0) {
        if (result != -EINVAL)
            skew_tell("--out: %s", strerror(-result));
        return result;
    }
    result = skew_path_make(wanted);
    if (result == 0 && !(run->out = realpath(wanted, NULL)))
        result = -errno;
    if (result == 0 && asprintf(&run->state, "%s/%s", run->out, SKEW_STATE_DIR) < 0)
        result = -ENOMEM;
    if (result == 0)
        result = skew_path_make(run->state);
    if (result == 0 && lstat(run->state, &info) == 0 &&
        (!S_ISDIR(info.st_mode) || info.st_uid != geteuid()))
        result = -EPERM;
    if (result == 0 && access(run->state, W_OK) != 0)
        result = -errno;
    if (result == -EPERM)
        skew_tell("%s/%s: belongs to somebody else, or is a link; choose another --out", wanted,
                 SKEW_STATE_DIR);
    else if (result < 0)
        skew_tell("%s: cannot be used for the trace: %s; choose another --out", wanted,
                 strerror(-result));
    free(wanted);
    return result;
}

static int begin_record(struct run *run)
{
    int result = skew_run_record_create(&run->record, run->state, run->arguments);

    for (size_t i = 0; i < run->label_count && result == 0; i++)
        skew_run_record_label(&run->record, run->labels[i]);
    if (result == 0 && run->with_standin)
        skew_run_record_label(&run->record, "standin=1");
    if (result == 0)
        result = skew_run_record_write(&run->record, false);
    if (result < 0)
        skew_tell("%s: cannot be written: %s; choose another --out", run->state, strerror(-result));
    return result;
}

/* ---- the command's environment ------------------------------------------------------------------------ */

/* Appends to a colon list in the environment, unless it is in it. */
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

/* In the child, before exec. */
static void set_environment(void *user)
{
    const struct run *run = user;

    skew_settings_export(&run->settings);
    setenv(SKEW_ENV_PREFIX "OUT", run->out, 1);
    setenv(SKEW_ENV_PREFIX "RUN_ID", run->record.id, 1);
    if (skew_path_self())
        setenv(SKEW_ENV_PREFIX "HOME", skew_path_self(), 1);
    append("LD_PRELOAD", run->library);
    if (run->standin)
        add_standin(run->standin);
}

/* ---- while it runs ---------------------------------------------------------------------------------------- */

static void other_ended(void *user, pid_t pid, int status)
{
    struct run *run = user;
    skew_run_collector_ended(&run->collector, pid, status);
}

static void take_package(void *user, const char *name, const char *version, const char *path)
{
    struct run *run = user;
    skew_run_record_package(&run->record, name, version, path);
}

static void follow(struct run *run, bool collecting)
{
    skew_packages_find(take_package, run);
    skew_run_record_write(&run->record, false);
    while (!run->child.ended) {
        skew_child_step(&run->child, STEP_MS, other_ended, run);
        if (collecting)
            skew_run_collector_revive(&run->collector);
    }
}

/* ---- after the command --------------------------------------------------------------------------------------- */

/* Waits for the collector, after telling it to finish. False when a person got tired of it. */
static bool wait_for_collector(struct run *run)
{
    struct skew_progress progress;
    bool patient = true;

    skew_progress_start(&progress, skew_setting_on(&run->settings, SKEW_OPT_QUIET));
    while (run->collector.pid > 0 && patient) {
        patient = skew_child_step(&run->child, 100, other_ended, run) == 0;
        skew_progress_show(&progress, "collecting what the command left (%.0f s; Ctrl-C leaves it for later)",
                           (double)(skew_clock_ns() - progress.started_ns) / 1e9);
    }
    skew_progress_end(&progress);
    return patient;
}

static bool drain(struct run *run)
{
    if (run->collector.pid > 0) {
        kill(run->collector.pid, SIGTERM);
        if (!wait_for_collector(run))
            return false;
    }
    if (run->collector.ended_well)
        return true;
    if (skew_run_collector_start(&run->collector, false) < 0)
        return false;
    return wait_for_collector(run) && run->collector.ended_well;
}

static void say_captured(const struct skew_run_found *found)
{
    char a[SKEW_COUNT_TEXT], b[SKEW_COUNT_TEXT], missing[96] = "";
    uint64_t known = found->stored_groups + found->lost_groups;

    if (found->returned_groups > known)
        snprintf(missing, sizeof missing, ", and %" PRIu64 " NCCL groups are missing",
                 found->returned_groups - known);
    skew_tell("captured %s of %s exchanges in %" PRIu64 " process%s%s -> %s",
             skew_count_text(a, found->exchanges),
             skew_count_text(b, found->exchanges + found->lost_exchanges), found->processes,
             found->processes == 1 ? "" : "es", missing, found->path);
}

static void conclude(struct run *run, bool drained)
{
    struct skew_run_found found;
    char message[512];

    if (!drained) {
        skew_run_collector_message(&run->collector, message, sizeof message);
        skew_tell("the trace is not complete%s%s; what is left waits for: skewscope collect --out %s",
                 *message ? ": " : "", message, run->out);
        return;
    }
    if (skew_run_find(&found, run->out, run->record.id) < 0)
        skew_tell("%s: holds no trace that could be read", run->out);
    else if (found.exchanges + found.lost_exchanges > 0)
        say_captured(&found);
    else
        skew_tell("NOTHING WAS CAPTURED -> %s", found.path);
}

static void clean_up(struct run *run)
{
    skew_run_collector_free(&run->collector);
    skew_run_record_free(&run->record);
    skew_settings_free(&run->settings);
    free(run->labels);
    free(run->library);
    free(run->standin);
    free(run->out);
    free(run->state);
}

static void end(struct run *run, bool collecting)
{
    skew_run_record_end(&run->record, run->child.status);
    skew_child_settle(&run->child);
    int written = skew_run_record_write(&run->record, true);
    if (written < 0)
        skew_tell("%s: cannot be written: %s", run->record.path, strerror(-written));
    if (collecting)
        conclude(run, drain(run));
    else
        skew_tell("nothing was collected (--collector=off); do it with: skewscope collect --out %s",
                 run->out);
}

static int begin(struct run *run)
{
    int result = skew_path_library(&run->library);

    if (result == 0 && run->with_standin)
        result = skew_path_standin(&run->standin);
    if (result == 0)
        result = make_directories(run);
    if (result == 0)
        result = begin_record(run);
    if (result == 0 && run->standin && !skew_setting_on(&run->settings, SKEW_OPT_QUIET))
        skew_tell("stand-in libraries are used (%s): no GPU, no real NCCL", run->standin);
    return result;
}

int skew_cmd_run(int argc, char **argv)
{
    struct run run = {0};

    argp_parse(skew_argp_run(), argc, argv, ARGP_IN_ORDER, NULL, &run);
    if (skew_settings_resolve(&run.settings) < 0)
        return SKEW_EXIT_USAGE;
    int result = begin(&run);
    if (result < 0) {
        clean_up(&run);
        return result == -EINVAL ? SKEW_EXIT_USAGE : SKEW_EXIT_FAILURE;
    }
    bool collecting = strcmp(skew_setting(&run.settings, SKEW_OPT_COLLECTOR), "off") != 0;
    result = skew_child_signals(&run.child);
    skew_run_collector_init(&run.collector, run.out, &run.child.old_mask);
    if (result == 0 && collecting)
        skew_run_collector_start(&run.collector, true);
    if (result == 0)
        result = skew_child_start(&run.child, run.arguments, set_environment, &run);
    if (result < 0) {
        skew_tell("the command could not be started: %s", strerror(-result));
        return SKEW_EXIT_FAILURE;
    }
    if (result > 0)
        skew_tell("%s: %s", run.arguments[0],
                 result == ENOENT ? "command not found" : strerror(result));
    follow(&run, collecting);
    end(&run, collecting);
    struct skew_child child = run.child;
    clean_up(&run);
    skew_child_mirror(&child);
}
