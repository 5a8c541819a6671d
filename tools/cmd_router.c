/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope router: the imbalance of the router, from per-expert counts where the trace has them,
 * else as intervals from the sizes of dispatches. How it looks is router_text.c's and
 * router_json.c's.
 */
#include "command.h"
#include "counts.h"
#include "labelling.h"
#include "matrix_select.h"
#include "option_values.h"
#include "router_output.h"
#include "term.h"
#include "trace_arguments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    struct skew_trace_arguments in;
    struct skew_counts_options counts;
    struct skew_router_options options;
    const char *comm;
    bool sizes;
};

enum {
    KEY_COMM = SKEW_KEY_OWN,
    KEY_LAYER,
    KEY_STAGE,
    KEY_RANKS,
    KEY_TOPK,
    KEY_EXPERTS,
    KEY_BY,
    KEY_CURVE,
    KEY_INCOMPLETE,
    KEY_VERIFIED,
    KEY_LEVEL,
    KEY_SIZES
};

/* clang-format off */
static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Which calls:", 2},
    {"comm", KEY_COMM, "KEY", 0, "of this communicator, by its whole key", 2},
    {"layer", KEY_LAYER, "N", 0, "of this MoE layer", 2},
    {"stage", KEY_STAGE, "STAGE", 0, "prefill, decode or train", 2},
    {"verified", KEY_VERIFIED, NULL, 0, "only counts that reproduce the sizes of the payload", 2},
    {"incomplete", KEY_INCOMPLETE, NULL, 0,
     "also calls of which the counts of some ranks are missing (what is missing can look like imbalance)", 2},
    {NULL, 0, NULL, 0, "How to look at them:", 3},
    {"by", KEY_BY, "WHAT", 0, "call (default), step (micro-batches together) or request", 3},
    {"ranks", KEY_RANKS, "R", 0, "as if the experts were spread over R ranks (default: as in the trace)", 3},
    {"topk", KEY_TOPK, "K", 0, "experts a token, where neither the trace nor its label topk says", 3},
    {"experts", KEY_EXPERTS, "E", 0, "experts, where there are no counts: for intervals from sizes", 3},
    {"sizes", KEY_SIZES, NULL, 0, "from sizes even where there are counts", 3},
    {"curve", KEY_CURVE, NULL, 0, "also over R = 2 … E ranks at the same tokens", 3},
    {"level", KEY_LEVEL, "P", 0, "of intervals and tests (default 0.95)", 3},
    {NULL, 0, NULL, 0, "What to do with it:", 4},
    {"json", SKEW_KEY_JSON, NULL, 0, "print JSON (keys: docs/router.md)", 4},
    {"save", SKEW_KEY_SAVE, NULL, 0, "also write it into table metric of the first trace, in place of earlier results", 4},
    {0}};
/* clang-format on */

static error_t parse_how(int key, char *text, struct arguments *a, struct argp_state *state)
{
    static const char *const by[] = {"call", "step", "request", NULL};

    switch (key) {
    case KEY_BY:
        a->options.by = (enum skew_routing_by)skew_option_choice(state, "by", text, by);
        return 0;
    case KEY_RANKS:
        a->options.ranks = (uint32_t)skew_option_integer(state, "ranks", text, 2, 65536);
        return 0;
    case KEY_TOPK:
        a->options.topk = (uint32_t)skew_option_integer(state, "topk", text, 1, SKEW_EXPERTS_MAX);
        return 0;
    case KEY_EXPERTS:
        a->counts.experts =
            (uint32_t)skew_option_integer(state, "experts", text, 2, SKEW_EXPERTS_MAX);
        return 0;
    case KEY_LEVEL:
        a->options.level = skew_option_real(state, "level", text, 0.5, 0.9999);
        return 0;
    case KEY_CURVE:
        a->options.curve = true;
        return 0;
    case KEY_SIZES:
        a->sizes = true;
        return 0;
    default:
        return skew_trace_arguments_parse(key, state, &a->in);
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const stages[] = {"prefill", "decode", "train", NULL};
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->counts.labels;
        return 0;
    case KEY_COMM:
        a->counts.filter.comm_key = a->comm = text;
        return 0;
    case KEY_LAYER:
        a->counts.filter.by_layer = true;
        a->counts.filter.layer = skew_option_integer(state, "layer", text, 0, INT32_MAX);
        return 0;
    case KEY_STAGE:
        a->counts.filter.stage = stages[skew_option_choice(state, "stage", text, stages)];
        return 0;
    case KEY_VERIFIED:
        a->counts.filter.verified = true;
        return 0;
    case KEY_INCOMPLETE:
        a->options.incomplete = true;
        return 0;
    default:
        return parse_how(key, text, a, state);
    }
}

const struct argp *skew_argp_router(void)
{
    static const struct argp_child children[] = {{&skew_label_options_argp, 0, NULL, 1}, {0}};
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR...",
        "Tells how imbalanced the router is over experts and what that does to ranks: observed, "
        "what "
        "chance alone gives, what persists; what no placement of the experts could fix and what "
        "one "
        "could. From per-expert counts where the trace has them, else as intervals from sizes."
        "\vSeveral traces are taken together: those of the nodes of one job. Loads are never added "
        "up "
        "over layers or calls before a maximum is taken, unless it says pooled. Exit status: 0, or "
        "1 "
        "when there is nothing to show, or 2 for a wrong command line.",
        children,
        NULL,
        NULL};
    return &argp;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* -ENOENT, told, when no exchange is there. */
static int read_sizes(const struct arguments *a, const struct skew_reading *reading,
                      struct skew_volume **volume, struct skew_volume_skew **skew)
{
    struct skew_volume_options o = {.comm_key = a->comm,
                                    .by_layer = a->counts.filter.by_layer,
                                    .layer = a->counts.filter.layer};
    struct skew_error error = {"out of memory"};
    struct skew_labelling labelling;
    size_t groups, dispatches = 0;
    int result = skew_labelling_if_needed(&labelling, reading, &a->counts.labels);

    if (result < 0)
        return result;
    result = skew_volume_create(volume, &o);
    for (size_t i = 0; i < reading->count && result == 0; i++)
        result = skew_volume_read(*volume, reading->traces[i], &error);
    if (result == 0)
        result = skew_volume_finish(*volume);
    if (result == 0)
        result = skew_volume_analyse(skew, *volume, a->counts.experts, a->options.topk,
                                     a->options.level, 0);
    skew_labelling_close(&labelling, reading);
    if (result < 0) {
        skew_tell("%s", error.text);
        return result;
    }
    const struct skew_volume_group *const *all = skew_volume_groups(*volume, &groups);
    for (size_t i = 0; i < groups; i++)
        dispatches += skew_is_dispatch(all[i]);
    if (dispatches)
        return 0;
    skew_tell("%s: there are neither per-expert counts nor dispatches in this trace%s",
              a->in.paths[0], a->comm || a->counts.filter.by_layer ? " that were asked for" : "");
    return -ENOENT;
}

/* ---- showing --------------------------------------------------------------------------------- */

static int show(const struct arguments *a, const struct skew_reading *reading,
                struct skew_router_shown *shown)
{
    json_t *layers;
    int result = skew_coverage_read(&shown->coverage, reading);

    if (result < 0)
        return result;
    shown->level = a->options.level;
    shown->experts = a->counts.experts;
    shown->path = a->in.paths[0];
    if (a->in.save) {
        layers = skew_router_layers_json(shown);
        result = skew_metric_save(skew_trace_path(reading->traces[0]), "router", layers);
        json_decref(layers);
    }
    if (a->in.json)
        return skew_json_print(skew_router_json(shown, skew_router_layers_json(shown))) < 0
                   ? -ENOMEM
                   : result;
    skew_router_print(shown);
    return result;
}

static int run(struct arguments *a, const struct skew_reading *reading)
{
    struct skew_routing *routing = NULL;
    struct skew_router *router = NULL;
    struct skew_volume *volume = NULL;
    struct skew_volume_skew *skew = NULL;
    size_t layers = 0;
    int result = a->sizes ? 0 : skew_counts_read(&routing, reading, &a->counts);

    if (result == 0 && routing)
        skew_routing_layers(routing, &layers);
    if (!a->options.topk)
        a->options.topk = skew_counts_topk(reading);
    if (result == 0 && layers)
        result = skew_router_analyse(&router, routing, &a->options);
    else if (result == 0)
        result = read_sizes(a, reading, &volume, &skew);
    if (result == -ENOMEM)
        skew_tell("out of memory");
    if (result == 0)
        result = show(a, reading, &(struct skew_router_shown){.router = router, .volume = skew});
    skew_volume_skew_free(&skew);
    skew_volume_free(&volume);
    skew_router_free(&router);
    skew_routing_free(&routing);
    return result;
}

int skew_cmd_router(int argc, char **argv)
{
    struct arguments a = {.options = {.level = 0.95}};
    struct skew_reading reading;

    argp_parse(skew_argp_router(), argc, argv, 0, NULL, &a);
    if (skew_readings_open(&reading, a.in.paths, a.in.count) < 0)
        return SKEW_EXIT_FAILURE;
    int result = run(&a, &reading);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
