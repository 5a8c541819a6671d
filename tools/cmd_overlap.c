/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope overlap: what of each exchange other kernels hide, how long the experts computed, and
 * what device-initiated backends took. The computing is analysis/overlap.h's.
 */
#include "analysis_output.h"
#include "command.h"
#include "counts.h"
#include "option_values.h"
#include "overlap_output.h"
#include "term.h"
#include "trace_arguments.h"

#include <errno.h>
#include <stdlib.h>

struct arguments {
    struct skew_trace_arguments in;
    struct skew_label_options labels;
    int64_t rows;
};

enum { KEY_ROWS = SKEW_KEY_OWN };

/* clang-format off */
static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What to do with it:", 4},
    {"json", SKEW_KEY_JSON, NULL, 0, "print JSON (keys: docs/overlap.md)", 4},
    {"rows", KEY_ROWS, "N", 0, "with --json: this many single exchanges and rounds, too (default 0)", 4},
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
    case KEY_ROWS:
        a->rows = skew_option_integer(state, "rows", text, 0, 1000000000);
        return 0;
    default:
        return skew_trace_arguments_parse(key, state, &a->in);
    }
}

const struct argp *skew_argp_overlap(void)
{
    static const struct argp_child children[] = {{&skew_label_options_argp, 0, NULL, 1}, {0}};
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR...",
        "Tells how much of each exchange kernels of other streams hide and how much is exposed, "
        "how "
        "long kernels ran between a dispatch and its combine with the tokens that they worked on, "
        "and how long dispatches and combines of device-initiated backends took."
        "\vNeeds kernels in the trace: SKEWSCOPE_TIMING=cupti. Where none are recorded, it says "
        "that "
        "this is not known. Several traces are taken together. Exit status: 0; 1 when a trace "
        "cannot "
        "be read; 2 for a wrong command line.",
        children,
        NULL,
        NULL};
    return &argp;
}

static int show(const struct arguments *a, const struct skew_reading *reading, json_t *root)
{
    struct skew_coverage coverage = {0};
    int result = skew_coverage_read(&coverage, reading);
    if (result == 0 && a->in.save) {
        json_t *rows = skew_overlap_saved(root);
        result = skew_metric_save(skew_trace_path(reading->traces[0]), "overlap", rows);
        json_decref(rows);
    }
    if (result == 0 && a->in.json)
        return skew_json_print(skew_json_with_coverage(json_incref(root), &coverage));
    if (result == 0) {
        skew_overlap_print(root);
        skew_coverage_print(&coverage);
    }
    return result;
}

/* Kernels of backends whose bytes nobody sees, against counts of experts, where both are here. */
static int join(const struct arguments *a, const struct skew_reading *reading,
                const struct skew_overlap *all, json_t *root)
{
    const struct skew_counts_options options = {.labels = a->labels, .keep = SKEW_ROUTING_CUBE};
    struct skew_overlap_joined *joined = NULL;
    struct skew_routing *routing = NULL;
    struct skew_error error = {""};
    size_t rounds = 0, layers = 0, count = 0;
    int result = 0;

    for (size_t i = 0; i < reading->count; i++)
        rounds += all[i].round_count;
    if (rounds)
        result = skew_counts_read(&routing, reading, &options);
    if (result < 0)
        return result;
    if (routing)
        skew_routing_layers(routing, &layers);
    if (layers && (result = skew_overlap_join(all, reading->traces, reading->count, routing,
                                              &joined, &count, &error)) < 0)
        skew_tell("%s", error.text);
    if (result == 0)
        skew_overlap_json_join(root, joined, count);
    skew_routing_free(&routing);
    free(joined);
    return result;
}

static int overlap(const struct arguments *a, const struct skew_reading *reading)
{
    struct skew_error error;
    struct skew_labelling labelling;
    struct skew_overlap *all = calloc(reading->count, sizeof *all);
    int result = all ? skew_labelling_open(&labelling, reading, &a->labels) : -ENOMEM;

    if (result < 0) {
        if (!all)
            skew_tell("out of memory");
        free(all);
        return result;
    }
    for (size_t i = 0; i < reading->count && result == 0; i++)
        if ((result = skew_overlap_read(reading->traces[i], &all[i], &error)) < 0)
            skew_tell("%s", error.text);
    skew_labelling_close(&labelling, reading);
    if (result == 0) {
        json_t *root = skew_overlap_json(all, reading->count, (size_t)a->rows);
        if (!root)
            skew_tell("out of memory");
        result = root ? join(a, reading, all, root) : -ENOMEM;
        if (result == 0)
            result = show(a, reading, root);
        json_decref(root);
    }
    for (size_t i = 0; i < reading->count; i++)
        skew_overlap_free(&all[i]);
    free(all);
    return result;
}

int skew_cmd_overlap(int argc, char **argv)
{
    struct arguments a = {0};
    struct skew_reading reading;

    argp_parse(skew_argp_overlap(), argc, argv, 0, NULL, &a);
    if (skew_readings_open(&reading, a.in.paths, a.in.count) < 0)
        return SKEW_EXIT_FAILURE;
    int result = overlap(&a, &reading);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
