/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope doctor: can this command be traced, how, and what will not be seen? Looks at the
 * machine and at the command's file, then runs the command like `run` does, for a while, into a
 * directory that is thrown away, and tells what was seen.
 */
#include "command.h"
#include "doctor.h"
#include "job.h"
#include "reading.h"
#include "rows.h"
#include "term.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct arguments {
    struct skew_job job;
    bool static_only, json;
    int64_t seconds;
};

enum { KEY_STATIC = 0x3000, KEY_FOR, KEY_STANDIN };

/* clang-format off */
static const struct argp_option options[] = {
    {"static-only", KEY_STATIC, NULL, 0, "look at files only; the command is not run", 1},
    {"for", KEY_FOR, "SECONDS", 0,
     "let the command run this long, then ask it to end (default 30; 0: until it ends by "
     "itself)", 1},
    {"standin", KEY_STANDIN, NULL, 0, "run it on the stand-in NCCL, CUDA and CUPTI", 1},
    {"json", 'j', NULL, 0, "as JSON, for machines", 1},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->job.settings;
        return 0;
    case KEY_STATIC:
        a->static_only = true;
        return 0;
    case KEY_FOR:
        if (!skew_parse_int(text, 0, 1000000, &a->seconds))
            argp_error(state,
                       "--for: '%s' is not allowed; it takes a whole number from 0 to 1000000 "
                       "(seconds)",
                       text);
        return 0;
    case KEY_STANDIN:
        a->job.with_standin = true;
        return 0;
    case 'j':
        a->json = true;
        return 0;
    case ARGP_KEY_ARGS:
        a->job.arguments = state->argv + state->next;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_doctor(void)
{
    static struct argp_child children[] = {{NULL, 0, "Recording (as in skewscope run):", 2}, {0}};
    static const struct argp argp = {options,
                                     parse,
                                     "[--] [COMMAND [ARGUMENT...]]",
                                     "Tells whether a command can be traced: whether "
                                     "libskewscope.so gets into its processes, which NCCL "
                                     "they use and by which route, which device-initiated backends "
                                     "are loaded, and what will not be seen. "
                                     "Without a command it looks at this machine only."
                                     ""
                                     "\vThe command is run for a while, its standard output goes "
                                     "to standard error, and what is recorded "
                                     "goes to a directory that is removed again (but for --out). "
                                     "Exit status: 0 when the command can be "
                                     "traced, 1 when not, 2 for a wrong command line.",
                                     children,
                                     NULL,
                                     NULL};

    children[0].argp = skew_options_argp();
    return &argp;
}

/* ---- what was seen from outside ------------------------------------------------------------ */

/* How many processes share an executable and a state; counted at the first of them. */
static size_t alike(const struct skew_watched *all, size_t count, size_t which, bool *first)
{
    size_t same = 0;

    *first = true;
    for (size_t i = 0; i < count; i++) {
        if (!all[i].exe || all[i].unbound != all[which].unbound ||
            strcmp(all[i].exe, all[which].exe) != 0 || !all[i].nccl != !all[which].nccl)
            continue;
        same++;
        *first &= i >= which;
    }
    return same;
}

static void report_watched(struct skew_doctor *doctor, const struct skew_watch *watch)
{
    size_t count, objects;
    const struct skew_watched *all = skew_watch_processes(watch, &count);
    const struct skew_watched_object *const *object = skew_watch_objects(watch, &objects);

    for (size_t i = 0; i < count; i++) {
        bool first;
        if (!all[i].exe)
            continue;
        size_t same = alike(all, count, i, &first);
        if (!first)
            continue;
        if (all[i].unbound == SKEW_BOUND)
            skew_doctor_add(doctor, SKEW_OK, "bound", NULL,
                            "libskewscope.so is in %zu process%s of %s%s%s", same,
                            same == 1 ? "" : "es", all[i].exe, all[i].nccl ? ", with " : "",
                            all[i].nccl ? all[i].nccl : "");
        else if (all[i].unbound != SKEW_UNSEEN || all[i].nccl)
            skew_doctor_add(doctor, all[i].nccl ? SKEW_FAIL : SKEW_WARN, "not_bound",
                            all[i].nccl ? NULL : "nothing, unless it is to use NCCL",
                            "libskewscope.so is not in %zu process%s of %s%s: %s", same,
                            same == 1 ? "" : "es", all[i].exe,
                            all[i].nccl ? ", which uses NCCL" : "",
                            skew_unbound_text(all[i].unbound));
    }
    for (size_t i = 0; i < objects; i++) {
        if (object[i]->static_nccl)
            skew_doctor_add(doctor, SKEW_FAIL, "static_nccl",
                            "use a build with the shared libnccl.so.2",
                            "NCCL is linked statically into %s: its calls cannot be intercepted",
                            object[i]->path);
        if (object[i]->backend)
            skew_doctor_add(doctor, SKEW_WARN, "device_backend", NULL, "%s is loaded (%s): %s",
                            object[i]->backend, object[i]->path, object[i]->unseen);
    }
}

/* ---- what was recorded --------------------------------------------------------------------- */

static void report_trace(struct skew_doctor *doctor, const char *path)
{
    struct skew_trace *trace;
    struct skew_error error;
    size_t i;
    json_t *row;

    if (skew_trace_open(&trace, path, &error) < 0) {
        skew_doctor_add(doctor, SKEW_FAIL, "trace", NULL, "%s", error.text);
        return;
    }
    json_t *nccl =
        skew_rows(trace,
                  "SELECT printf('%d.%d.%d', nccl_version / 10000, nccl_version / 100 % 100,"
                  " nccl_version % 100) AS version, nccl_path, nccl_route, count(*) AS n"
                  " FROM process GROUP BY nccl_version, nccl_path, nccl_route",
                  &error);
    json_t *diagnostics = skew_rows(trace,
                                    "SELECT DISTINCT severity, code, text FROM diagnostic WHERE"
                                    " process_id IS NOT NULL AND severity <> 'info'",
                                    &error);
    json_array_foreach(nccl, i, row) skew_doctor_add(
        doctor, SKEW_OK, "nccl", NULL,
        "NCCL %s is used by %" PRId64 " process%s, intercepted by the route \"%s\": %s",
        skew_row_text(row, "version"), skew_row_int(row, "n"),
        skew_row_int(row, "n") == 1 ? "" : "es", skew_row_text(row, "nccl_route"),
        skew_row_text(row, "nccl_path"));
    json_array_foreach(diagnostics, i, row) skew_doctor_add(
        doctor, SKEW_WARN, skew_row_text(row, "code"), NULL, "%s", skew_row_text(row, "text"));
    json_decref(nccl);
    json_decref(diagnostics);
    skew_trace_close(&trace);
}

static void report_captured(struct skew_doctor *doctor, const struct skew_job *job)
{
    const struct skew_run_found *f = &job->found;

    if (f->processes == 0)
        skew_doctor_add(doctor, SKEW_WARN, "nothing_captured",
                        "give it more time (--for), or see the lines above",
                        "no communicator was made while it ran: nothing was captured");
    else if (f->stored_groups < f->returned_groups)
        skew_doctor_add(doctor, SKEW_WARN, "captured",
                        "raise --spool-mb, or give /dev/shm more room",
                        "captured %" PRIu64 " of %" PRIu64 " NCCL groups", f->stored_groups,
                        f->returned_groups);
    else
        skew_doctor_add(doctor, SKEW_OK, "captured", NULL,
                        "captured all %" PRIu64 " NCCL groups: %" PRIu64
                        " all-to-all exchanges, %" PRIu64 " other operations",
                        f->returned_groups, f->exchanges, f->operations);
}

static void report_end(struct skew_doctor *doctor, const struct skew_job *job, uint64_t limit_ms,
                       uint64_t took_ms)
{
    int status = job->child.status;

    if (limit_ms && took_ms >= limit_ms)
        skew_doctor_add(doctor, SKEW_OK, "ended", NULL,
                        "the command was asked to end after %" PRIu64 " s", limit_ms / 1000);
    else if (WIFSIGNALED(status))
        skew_doctor_add(doctor, SKEW_WARN, "ended", "try it without skewscope",
                        "the command ended by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status))
        skew_doctor_add(doctor, SKEW_WARN, "ended", "try it without skewscope",
                        "the command ended with exit status %d", WEXITSTATUS(status));
}

/* ---- running it ---------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *where)
{
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

static int run_command(struct skew_doctor *doctor, struct arguments *a)
{
    struct skew_job *job = &a->job;
    const char *root = getenv("TMPDIR");
    char *scratch = NULL;
    bool keep = *skew_setting(&job->settings, SKEW_OPT_OUT);

    if (!keep &&
        (asprintf(&scratch, "%s/skewscope-doctor-XXXXXX", root && *root == '/' ? root : "/tmp") <
             0 ||
         !mkdtemp(scratch) || skew_settings_set(&job->settings, SKEW_OPT_OUT, scratch) < 0)) {
        skew_doctor_add(doctor, SKEW_FAIL, "scratch", "set TMPDIR or --out",
                        "no directory could be made for what is "
                        "recorded: %s",
                        strerror(errno));
        free(scratch);
        return -errno;
    }
    job->stdout_to_stderr = true;
    uint64_t started = skew_clock_ns(), limit_ms = (uint64_t)a->seconds * 1000;
    int result = skew_job_begin(job);
    if (result == 0 && job->exec_error) {
        skew_doctor_add(doctor, SKEW_FAIL, "command", NULL, "%s: %s", job->arguments[0],
                        strerror(job->exec_error));
    }
    if (result == 0) {
        skew_job_follow(job, limit_ms);
        uint64_t took_ms = (skew_clock_ns() - started) / 1000000;
        result = skew_job_end(job);
        if (job->watch)
            report_watched(doctor, job->watch);
        report_end(doctor, job, limit_ms, took_ms);
        if (result < 0) {
            char message[512];
            skew_run_collector_message(&job->collector, message, sizeof message);
            skew_doctor_add(doctor, SKEW_FAIL, "collector", "skewscope collect --out tells more",
                            "what was recorded could not be collected: %s",
                            *message ? message : strerror(-result));
        } else if (result == 0) {
            report_trace(doctor, job->found.path);
            report_captured(doctor, job);
        }
    } else {
        skew_doctor_add(doctor, SKEW_FAIL, "start", NULL,
                        "the command could not be started under the profiler");
    }
    if (scratch)
        nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(scratch);
    return result;
}

/* ---- telling ------------------------------------------------------------------------------- */

static void print_text(const struct skew_doctor *doctor, bool command)
{
    static const char *const paint[][2] = {
        {"OK", "\033[32m"}, {"WARN", "\033[33m"}, {"FAIL", "\033[31m"}};
    bool colour = skew_colour(stdout, SKEW_COLOUR_AUTO);
    size_t i;
    json_t *check;

    json_array_foreach(doctor->checks, i, check)
    {
        const char *level = skew_row_text(check, "level");
        for (size_t p = 0; colour && p < 3; p++)
            if (strcmp(level, paint[p][0]) == 0)
                fputs(paint[p][1], stdout);
        printf("%-4s%s %s\n", level, colour ? "\033[0m" : "", skew_row_text(check, "text"));
        if (!skew_row_null(check, "advice") && strcmp(level, "OK") != 0)
            printf("     do: %s\n", skew_row_text(check, "advice"));
    }
    if (command)
        printf("\n%s\n", doctor->failed ? "This command cannot be traced as it is."
                                        : "This command can be traced.");
    else
        printf("\n%s\n", doctor->failed
                             ? "Nothing can be traced here as it is."
                             : "Commands can be traced here; give one to look at it too.");
}

int skew_cmd_doctor(int argc, char **argv)
{
    struct arguments a = {.seconds = 30};
    struct skew_doctor doctor = {.checks = json_array(), .settings = &a.job.settings};

    argp_parse(skew_argp_doctor(), argc, argv, ARGP_IN_ORDER, NULL, &a);
    if (skew_settings_resolve(&a.job.settings) < 0)
        return SKEW_EXIT_USAGE;
    skew_doctor_machine(&doctor);
    if (a.job.arguments)
        skew_doctor_file(&doctor, a.job.arguments[0]);
    if (a.job.arguments && !a.static_only && doctor.library)
        run_command(&doctor, &a);
    if (a.json) {
        json_t *all = json_pack("{s:b, s:O}", "binds", !doctor.failed, "checks", doctor.checks);
        json_dumpf(all, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        putchar('\n');
        json_decref(all);
    } else {
        print_text(&doctor, a.job.arguments != NULL);
    }
    bool failed = doctor.failed;
    json_decref(doctor.checks);
    free(doctor.library);
    skew_job_free(&a.job);
    return failed ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
