/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope skew: how the bytes of each exchange are spread over ranks, by communicator, role and
 * layer. How it looks is skew_output.c's.
 */
#include "command.h"
#include "labelling.h"
#include "matrix_select.h"
#include "option_values.h"
#include "skew_output.h"
#include "term.h"
#include "trace_arguments.h"

#include <errno.h>
#include <stdlib.h>

struct arguments {
    struct skew_trace_arguments in;
    struct skew_volume_options options;
    struct skew_label_options labels;
    uint32_t experts, topk;
    double level;
    bool all;
};

enum {
    KEY_COMM = SKEW_KEY_OWN,
    KEY_LAYER,
    KEY_ROLE,
    KEY_TOPK,
    KEY_EXPERTS,
    KEY_LEVEL,
    KEY_MATRICES,
    KEY_ALL
};

/* clang-format off */
static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Which exchanges:", 2},
    {"comm", KEY_COMM, "KEY", 0, "of this communicator, by its whole key", 2},
    {"layer", KEY_LAYER, "N", 0, "of this MoE layer", 2},
    {"role", KEY_ROLE, "NAME", 0, "dispatch, combine, …", 2},
    {NULL, 0, NULL, 0, "How to look at them:", 3},
    {"experts", KEY_EXPERTS, "E", 0, "with --topk: experts of a layer, for what chance alone gives", 3},
    {"topk", KEY_TOPK, "K", 0, "with --experts: experts a token", 3},
    {"level", KEY_LEVEL, "P", 0, "of intervals and tests (default 0.95)", 3},
    {"all", KEY_ALL, NULL, 0, "every layer of every role as text; otherwise of dispatches, or of the role asked for", 3},
    {"matrices", KEY_MATRICES, NULL, 0, "with --json: also the bytes from each rank to each rank, summed over calls", 3},
    {NULL, 0, NULL, 0, "What to do with it:", 4},
    {"json", SKEW_KEY_JSON, NULL, 0, "print JSON (keys: docs/router.md)", 4},
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
        a->options.comm_key = text;
        return 0;
    case KEY_ROLE:
        if (skew_label_role_of(text) < 0)
            argp_error(state, "--role: there is no role '%s'; see skewscope label", text);
        a->options.role = text;
        return 0;
    case KEY_LAYER:
        a->options.by_layer = true;
        a->options.layer = skew_option_integer(state, "layer", text, 0, INT32_MAX);
        return 0;
    case KEY_EXPERTS:
        a->experts = (uint32_t)skew_option_integer(state, "experts", text, 2, 65536);
        return 0;
    case KEY_TOPK:
        a->topk = (uint32_t)skew_option_integer(state, "topk", text, 1, 65536);
        return 0;
    case KEY_LEVEL:
        a->level = skew_option_real(state, "level", text, 0.5, 0.9999);
        return 0;
    case KEY_ALL:
        a->all = true;
        return 0;
    case KEY_MATRICES:
        a->options.matrices = true;
        return 0;
    case ARGP_KEY_END:
        if (!a->experts != !a->topk)
            argp_error(state, "--experts and --topk go together");
        if (a->options.matrices && !a->in.json)
            argp_error(state, "--matrices goes with --json; skewscope matrix draws one");
        return 0;
    default:
        return skew_trace_arguments_parse(key, state, &a->in);
    }
}

const struct argp *skew_argp_skew(void)
{
    static const struct argp_child children[] = {{&skew_label_options_argp, 0, NULL, 1}, {0}};
    static const struct argp argp = {options,
                                     parse,
                                     "TRACE|DIR...",
                                     "Tells how the bytes of each exchange are spread over ranks, "
                                     "by communicator, role and layer: the "
                                     "largest over the mean, of each call by itself, and how that "
                                     "is distributed over calls; the "
                                     "sources' side apart."
                                     "\vSeveral traces are taken together: those of the nodes of "
                                     "one job. Exit status: 0, or 1 when there "
                                     "is nothing to show, or 2 for a wrong command line.",
                                     children,
                                     NULL,
                                     NULL};
    return &argp;
}

static int read_all(struct arguments *a, const struct skew_reading *reading,
                    struct skew_volume *volume, struct skew_volume_skew **skew)
{
    struct skew_error error = {"out of memory"};
    struct skew_labelling labelling;
    size_t groups;
    int result = skew_labelling_if_needed(&labelling, reading, &a->labels);

    if (result < 0)
        return result;
    for (size_t i = 0; i < reading->count && result == 0; i++)
        result = skew_volume_read(volume, reading->traces[i], &error);
    skew_labelling_close(&labelling, reading);
    if (result == 0)
        result = skew_volume_finish(volume);
    if (result == 0)
        result = skew_volume_analyse(skew, volume, a->experts, a->topk, a->level, 0);
    if (result < 0) {
        skew_tell("%s", error.text);
        return result;
    }
    skew_volume_groups(volume, &groups);
    if (groups == 0) {
        skew_tell("%s: there are no exchanges%s in this trace", a->in.paths[0],
                  a->options.comm_key || a->options.role || a->options.by_layer
                      ? " that were asked for"
                      : "");
        return -ENOENT;
    }
    return 0;
}

static int show(const struct arguments *a, const struct skew_reading *reading,
                const struct skew_volume_skew *skew)
{
    struct skew_volume_shown shown = {.skew = skew,
                                      .level = a->level,
                                      .matrices = a->options.matrices,
                                      .all = a->all || a->options.role};
    int result = skew_coverage_read(&shown.coverage, reading);

    if (result == 0 && a->in.save) {
        json_t *groups = skew_volume_json(&shown);
        result = skew_metric_save(skew_trace_path(reading->traces[0]), "skew", groups);
        json_decref(groups);
    }
    if (a->in.json) {
        int printed = skew_json_print(skew_volume_whole_json(&shown, skew_volume_json(&shown)));
        return printed < 0 ? printed : result;
    }
    skew_volume_print(&shown);
    return result;
}

int skew_cmd_skew(int argc, char **argv)
{
    struct arguments a = {.level = 0.95};
    struct skew_reading reading;
    struct skew_volume *volume;
    struct skew_volume_skew *skew = NULL;

    argp_parse(skew_argp_skew(), argc, argv, 0, NULL, &a);
    if (skew_readings_open(&reading, a.in.paths, a.in.count) < 0)
        return SKEW_EXIT_FAILURE;
    int result = skew_volume_create(&volume, &a.options);
    if (result == 0)
        result = read_all(&a, &reading, volume, &skew);
    else
        skew_tell("out of memory");
    if (result == 0)
        result = show(&a, &reading, skew);
    skew_volume_skew_free(&skew);
    skew_volume_free(&volume);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
