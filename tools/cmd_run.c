/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope run: its command line, and what it tells at the end. The work is job.c's.
 */
#include "command.h"
#include "job.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- the command line ---------------------------------------------------------------------- */

enum { KEY_STANDIN = 0x2000 };

/* clang-format off */
static const struct argp_option options[] = {
    {"label", 'l', "KEY=VALUE", 0,
     "name a property of this run in the trace, for comparisons (repeatable): model=…, "
     "data=…, ep=8", 1},
    {"standin", KEY_STANDIN, NULL, 0,
     "put the stand-in NCCL, CUDA and CUPTI in front of the command's own: no GPU is used, "
     "and the trace is labelled standin=1", 1},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct skew_job *run = state->input;

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
        argp_error(state,
                   "which command? For example: skewscope run -o trace/ -- torchrun train.py");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_run(void)
{
    static struct argp_child children[] = {
        {NULL, 0, "Recording (each is also a variable and a key of the JSON file):", 2}, {0}};
    static const struct argp argp = {
        options,
        parse,
        "[--] COMMAND [ARGUMENT...]",
        "Runs a command and traces the all-to-all traffic of every process below it."
        "\vThe command "
        "keeps its terminal, its standard streams, its process group and its signals. run ends as "
        "the command ended: with the same status, or by the same signal; with 126 when it could "
        "not be executed, 127 when it was not found, 1 when the trace could not even be begun "
        "(nothing was run then) and 2 for a wrong option. One line on standard error tells where "
        "the trace is; nothing was captured: it tells why.",
        children,
        NULL,
        NULL};

    children[0].argp = skew_options_argp();
    return &argp;
}

/* ---- the end ------------------------------------------------------------------------------- */

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

/* All reasons in one line, errors first: it may be the only thing that is read of a long log. */
static void say_nothing(const struct skew_job *job)
{
    static const char *const severities[] = {"error", "info", "warning"};
    const json_t *notes = json_object_get(job->record.root, "notes");
    char text[1800] = "";
    const char *lead = ": ";
    json_t *note;
    size_t i;

    for (size_t s = 0; s < 3; s++) {
        json_array_foreach(notes, i, note)
        {
            size_t used = strlen(text);
            if (strcmp(json_string_value(json_object_get(note, "severity")), severities[s]) != 0)
                continue;
            snprintf(text + used, sizeof text - used, "%s%s", lead,
                     json_string_value(json_object_get(note, "text")));
            lead = "; also: ";
        }
    }
    skew_tell("NOTHING WAS CAPTURED%s (-> %s)", text, job->found.path);
}

static void conclude(struct skew_job *job, int result)
{
    bool quiet = skew_setting_on(&job->settings, SKEW_OPT_QUIET);
    char message[512] = "";

    if (result == 1) {
        if (!quiet)
            skew_tell(
                "nothing was collected (--collector=off); do it with: skewscope collect --out %s",
                job->out);
    } else if (result < 0) {
        skew_run_collector_message(&job->collector, message, sizeof message);
        skew_tell(
            "the trace is not complete: %s; what is left waits for: skewscope collect --out %s",
            result == -EINTR ? "interrupted"
            : *message       ? message
                             : strerror(-result),
            job->out);
    } else if (job->found.exchanges + job->found.lost_exchanges > 0) {
        if (!quiet)
            say_captured(&job->found);
    } else {
        skew_job_explain(job);
        if (!quiet)
            say_nothing(job);
    }
}

int skew_cmd_run(int argc, char **argv)
{
    struct skew_job job = {0};

    argp_parse(skew_argp_run(), argc, argv, ARGP_IN_ORDER, NULL, &job);
    if (skew_settings_resolve(&job.settings) < 0)
        return SKEW_EXIT_USAGE;
    int result = skew_job_begin(&job);
    if (result < 0) {
        skew_job_free(&job);
        return result == -EINVAL ? SKEW_EXIT_USAGE : SKEW_EXIT_FAILURE;
    }
    if (job.exec_error)
        skew_tell("%s: %s", job.arguments[0],
                  job.exec_error == ENOENT ? "command not found" : strerror(job.exec_error));
    skew_child_own_streams();
    skew_job_follow(&job, 0);
    conclude(&job, skew_job_end(&job));
    struct skew_child child = job.child;
    skew_job_free(&job);
    skew_child_mirror(&child);
}
