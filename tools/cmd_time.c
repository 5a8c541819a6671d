/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope time: where the time of one communicator's exchanges goes. The computing is
 * analysis/time_analysis.h's, the looks are time_output.c's.
 */
#include "analysis_output.h"
#include "command.h"
#include "matrix_select.h"
#include "option_values.h"
#include "term.h"
#include "time_output.h"
#include "time_reading.h"
#include "trace_arguments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    struct skew_trace_arguments in;
    const char *comm;
    struct skew_label_options labels;
    int64_t rows;
};

enum { KEY_COMM = SKEW_KEY_OWN, KEY_ROWS };

/* clang-format off */
static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Which exchanges:", 2},
    {"comm", KEY_COMM, "N|KEY", 0, "of this communicator: its number, or the beginning of its key (default: the one that moved the most bytes)", 2},
    {NULL, 0, NULL, 0, "What to do with it:", 4},
    {"rows", KEY_ROWS, "N", 0, "of either ledger (default 12)", 4},
    {"json", SKEW_KEY_JSON, NULL, 0, "print JSON (keys: docs/time.md)", 4},
    {"save", SKEW_KEY_SAVE, NULL, 0, "also write it into table metric of the first trace, in place of earlier results", 4},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->labels;
        return 0;
    case KEY_COMM:
        a->comm = text;
        return 0;
    case KEY_ROWS:
        a->rows = skew_option_integer(state, "rows", text, 0, 1000000);
        return 0;
    default:
        return skew_trace_arguments_parse(key, state, &a->in);
    }
}

const struct argp *skew_argp_time(void)
{
    static const struct argp_child children[] = {{&skew_label_options_argp, 0, NULL, 1}, {0}};
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR...",
        "Tells where the time of exchanges goes: waiting for late ranks, latency, a balanced "
        "transfer, what skew adds and what nothing explains; who comes late; what a step would "
        "take with another placement or with uniform routing."
        "\vSeveral traces are taken together: those of the nodes of one job. Exit status: 0, or 1 "
        "when there is nothing to show, or 2 for a wrong command line.",
        children,
        NULL,
        NULL};
    return &argp;
}

static int analyse(struct arguments *a, const struct skew_reading *reading,
                   const struct skew_candidate *chosen, struct skew_time_result *out)
{
    struct skew_error error = {""};
    int result = skew_time_of_reading(out, reading, chosen->comm.key, chosen->comm.ranks,
                                      &a->labels, true, &error);

    if (result == 0 && out->timed_rows == 0 && skew_reading_imported(reading)) {
        skew_tell(
            "%s: is imported: its matrices have no times, only an order; skewscope import --into "
            "joins counts to a trace with times",
            a->in.paths[0]);
        return -ENODATA;
    }
    if (result == -ENODATA)
        skew_tell("%s: %s", a->in.paths[0], error.text);
    else if (result < 0 && *error.text)
        skew_tell("%s", error.text);
    return result;
}

static int show(const struct arguments *a, const struct skew_reading *reading,
                struct skew_time_shown *shown)
{
    int result = skew_coverage_read(&shown->coverage, reading);

    if (result == 0 && a->in.save) {
        json_t *rows = skew_time_saved(shown);
        result = skew_metric_save(skew_trace_path(reading->traces[0]), "time", rows);
        json_decref(rows);
    }
    if (result == 0 && a->in.json)
        result = skew_json_print(skew_time_json(shown));
    else if (result == 0)
        skew_time_print(shown);
    return result;
}

int skew_cmd_time(int argc, char **argv)
{
    struct arguments a = {.rows = 12};
    struct skew_reading reading;
    struct skew_candidates candidates = {0};
    struct skew_time_result time = {0};
    const struct skew_candidate *chosen = NULL;
    char why[160] = "";

    argp_parse(skew_argp_time(), argc, argv, 0, NULL, &a);
    if (skew_readings_open(&reading, a.in.paths, a.in.count) < 0)
        return SKEW_EXIT_FAILURE;
    int result = skew_candidates_collect(&candidates, &reading);
    if (result == 0)
        chosen = skew_candidates_choose(&candidates, a.in.paths[0], a.comm, reading.count, why,
                                        sizeof why);
    if (result == 0 && !chosen)
        result = -ENOENT;
    if (result == 0)
        result = analyse(&a, &reading, chosen, &time);
    if (result == 0)
        result = show(&a, &reading,
                      &(struct skew_time_shown){.result = &time,
                                                .comm_key = chosen->comm.key,
                                                .chosen = why,
                                                .standin = skew_reading_standin(&reading),
                                                .rows = (size_t)a.rows});
    skew_time_result_free(&time);
    free(candidates.all);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
