/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope observe: traces grouped by their labels into a grid. How it looks is observe_text.c's
 * and observe_json.c's.
 */
#include "command.h"
#include "counts.h"
#include "observe_output.h"
#include "option_values.h"
#include "rows.h"
#include "term.h"
#include "trace_arguments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EP_MAX 16

struct arguments {
    struct skew_trace_arguments in;
    struct skew_counts_options counts;
    struct skew_observe_options options;
    uint32_t topk;
    char *by; /* owned; cut into keys */
    const char *keys[SKEW_OBSERVE_KEYS_MAX];
    size_t key_count;
    uint32_t ep[EP_MAX];
    size_t ep_count;
    bool csv, changes;
};

enum {
    KEY_BY = SKEW_KEY_OWN,
    KEY_EP,
    KEY_LAYER,
    KEY_STAGE,
    KEY_INCOMPLETE,
    KEY_TOPK,
    KEY_LEVEL,
    KEY_MARGIN,
    KEY_BANDS,
    KEY_CSV
};

/* clang-format off */
static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Which calls:", 2},
    {"layer", KEY_LAYER, "N", 0, "of this MoE layer", 2},
    {"stage", KEY_STAGE, "STAGE", 0, "prefill, decode or train", 2},
    {"incomplete", KEY_INCOMPLETE, NULL, 0,
     "also calls of which the counts of some ranks are missing (what is missing can look like imbalance)", 2},
    {NULL, 0, NULL, 0, "How to look at them:", 3},
    {"by", KEY_BY, "KEYS", 0, "labels that make the grid (default model,mixer,data,tokens,batch,ep)", 3},
    {"ep", KEY_EP, "R,...", 0, "also as if the experts were spread over R ranks, the same tokens", 3},
    {"topk", KEY_TOPK, "K", 0, "experts a token, where neither a trace nor its label topk says", 3},
    {"level", KEY_LEVEL, "P", 0, "of intervals and tests (default 0.95)", 3},
    {"margin", KEY_MARGIN, "F", 0, "a change of at most this fraction is none (default 0.05)", 3},
    {"bands", KEY_BANDS, "LOW,HIGH", 0, "edges on the observed, uncorrected expert Gini (default 0.15,0.24)", 3},
    {NULL, 0, NULL, 0, "What to do with it:", 4},
    {"json", SKEW_KEY_JSON, NULL, 0, "print JSON (keys: docs/observe.md)", 4},
    {"csv", KEY_CSV, "WHAT", OPTION_ARG_OPTIONAL,
     "print a line a cell, side and metric; --csv=changes: a line a change between cells", 4},
    {"save", SKEW_KEY_SAVE, NULL, 0, "also write it into table metric of the first trace, in place of earlier results", 4},
    {0}};
/* clang-format on */

/* ---- options --------------------------------------------------------------------------------- */

static void parse_by(struct argp_state *state, struct arguments *a, const char *text)
{
    char *rest;

    free(a->by);
    a->key_count = 0;
    a->by = rest = strdup(text);
    if (!rest)
        argp_failure(state, SKEW_EXIT_FAILURE, 0, "out of memory");
    for (char *key; (key = strsep(&rest, ",")) != NULL;) {
        if (!*key)
            argp_error(state, "--by %s: an empty label", text);
        if (a->key_count == SKEW_OBSERVE_KEYS_MAX)
            argp_error(state, "--by takes at most %d labels", SKEW_OBSERVE_KEYS_MAX);
        for (size_t i = 0; i < a->key_count; i++)
            if (strcmp(a->keys[i], key) == 0)
                argp_error(state, "--by %s: %s is there twice", text, key);
        a->keys[a->key_count++] = key;
    }
}

/* Numbers with commas between. */
static void parse_ep(struct argp_state *state, struct arguments *a, const char *text)
{
    char *copy = strdup(text), *rest = copy;

    a->ep_count = 0;
    for (char *one; copy && (one = strsep(&rest, ",")) != NULL;) {
        if (a->ep_count == EP_MAX)
            argp_error(state, "--ep takes at most %d numbers", EP_MAX);
        a->ep[a->ep_count++] = (uint32_t)skew_option_integer(state, "ep", one, 2, 65536);
    }
    free(copy);
}

static void parse_bands(struct argp_state *state, struct arguments *a, const char *text)
{
    char *copy = strdup(text), *rest = copy, *one;

    for (int i = 0; copy && i < 2; i++) {
        if (!(one = strsep(&rest, ",")))
            argp_error(state, "--bands takes two numbers, as 0.15,0.24");
        a->options.bands[i] = skew_option_real(state, "bands", one, 0, 1);
    }
    if (rest || a->options.bands[0] > a->options.bands[1])
        argp_error(state, "--bands takes two numbers, the lower one first");
    free(copy);
}

static error_t parse_how(int key, char *text, struct arguments *a, struct argp_state *state)
{
    static const char *const tables[] = {"cells", "changes", NULL};

    switch (key) {
    case KEY_TOPK:
        a->topk = (uint32_t)skew_option_integer(state, "topk", text, 1, SKEW_EXPERTS_MAX);
        return 0;
    case KEY_LEVEL:
        a->options.level = skew_option_real(state, "level", text, 0.5, 0.9999);
        return 0;
    case KEY_MARGIN:
        a->options.margin = skew_option_real(state, "margin", text, 0.0001, 0.99);
        return 0;
    case KEY_BANDS:
        parse_bands(state, a, text);
        return 0;
    case KEY_CSV:
        a->csv = true;
        a->changes = text && skew_option_choice(state, "csv", text, tables) == 1;
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
    case KEY_BY:
        parse_by(state, a, text);
        return 0;
    case KEY_EP:
        parse_ep(state, a, text);
        return 0;
    case KEY_LAYER:
        a->counts.filter.by_layer = true;
        a->counts.filter.layer = skew_option_integer(state, "layer", text, 0, INT32_MAX);
        return 0;
    case KEY_STAGE:
        a->counts.filter.stage = stages[skew_option_choice(state, "stage", text, stages)];
        return 0;
    case KEY_INCOMPLETE:
        a->options.incomplete = true;
        return 0;
    case ARGP_KEY_END:
        if (a->in.json && a->csv)
            argp_error(state, "--json or --csv, not both");
        return 0;
    default:
        return parse_how(key, text, a, state);
    }
}

const struct argp *skew_argp_observe(void)
{
    static const struct argp_child children[] = {{&skew_label_options_argp, 0, NULL, 1}, {0}};
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR...",
        "Puts runs into a grid by their labels (skewscope run --label, import --label) and tells "
        "of "
        "each cell how imbalanced the router is, what of it chance alone gives and what persists; "
        "and what changes with the EP degree (an equivalence test), from real to mock tokens, and "
        "with the batch size."
        "\vEach TRACE is one run; a directory with the traces of several nodes is one too. Cells "
        "that nobody has run are shown missing. Method, formulas and limits: docs/observe.md. Exit "
        "status: 0, or 1 when a trace cannot be read or none has per-expert counts, or 2 for a "
        "wrong command line.",
        children,
        NULL,
        NULL};
    return &argp;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The values of the keys in all databases of one run. `rows` keeps them: [databases]. */
static int read_labels(const struct arguments *a, const struct skew_reading *reading,
                       const char *path, json_t *rows, const char **values)
{
    struct skew_error error;
    size_t index;
    json_t *row;

    for (size_t i = 0; i < reading->count; i++) {
        json_t *labels =
            skew_rows(reading->traces[i],
                      "SELECT DISTINCT key, value FROM run_label ORDER BY key, value", &error);
        if (!labels || json_array_append_new(rows, labels) < 0) {
            skew_tell("%s: %s", path, labels ? "out of memory" : error.text);
            return -EIO;
        }
        json_array_foreach(labels, index, row) for (size_t k = 0; k < a->key_count; k++)
        {
            const char *value = skew_row_text(row, "value");
            if (strcmp(skew_row_text(row, "key"), a->keys[k]) != 0)
                continue;
            if (values[k] && strcmp(values[k], value) != 0) {
                skew_tell("%s: holds runs with different labels (%s=%s and %s=%s); a run here is a "
                          "trace: record each into a directory of its own, or leave %s out of --by",
                          path, a->keys[k], values[k], a->keys[k], value, a->keys[k]);
                return -EINVAL;
            }
            values[k] = value;
        }
    }
    return 0;
}

/* Of the communicators that have counts, if they agree; else 0. */
static uint32_t ranks_of(const struct skew_routing *routing)
{
    size_t count;
    const struct skew_routing_layer *const *layers = skew_routing_layers(routing, &count);
    uint32_t ranks = count ? layers[0]->ranks : 0;

    for (size_t i = 0; i < count; i++)
        if (layers[i]->ranks != ranks)
            return 0;
    return ranks;
}

/* The run as it was, then over the other numbers of ranks that were asked for. */
static int add_views(const struct arguments *a, struct skew_observe *observe, const char *path,
                     const char **values, const struct skew_routing *routing, uint32_t topk)
{
    int ep = -1, result = 0;
    uint32_t own = ranks_of(routing);
    char text[16];

    for (size_t k = 0; k < a->key_count; k++)
        if (strcmp(a->keys[k], "ep") == 0)
            ep = (int)k;
    /* The ranks side follows the label where there is one: it says what the run was. */
    uint32_t labelled = ep >= 0 && values[ep] ? (uint32_t)strtoul(values[ep], NULL, 10) : 0;
    if (labelled && own && labelled != own)
        skew_tell("warning: %s: label ep=%u, but the communicator with the counts has %u ranks; "
                  "the ranks' numbers are of %u",
                  path, labelled, own, own);
    uint32_t ranks = own ? own : labelled;
    if (ep >= 0 && !values[ep] && ranks) {
        snprintf(text, sizeof text, "%u", ranks);
        values[ep] = text;
    }
    const char *kept = ep >= 0 ? values[ep] : NULL;
    if (ranks || !a->ep_count || ep < 0)
        result = skew_observe_add(observe, path, values, routing, ranks, topk, false);
    for (size_t i = 0; i < a->ep_count && ep >= 0 && result == 0; i++) {
        char number[16];
        snprintf(number, sizeof number, "%u", a->ep[i]);
        if (kept && strcmp(kept, number) == 0)
            continue;
        values[ep] = number;
        result = skew_observe_add(observe, path, values, routing, a->ep[i], topk, true);
    }
    if (result < 0)
        skew_tell("out of memory");
    return result;
}

static int add_trace(const struct arguments *a, struct skew_observe *observe, const char *path,
                     struct skew_coverage *coverage)
{
    const char *values[SKEW_OBSERVE_KEYS_MAX] = {0};
    struct skew_routing *routing = NULL;
    struct skew_reading reading;
    json_t *rows = json_array();
    int result = skew_reading_open(&reading, path);

    if (result < 0) {
        json_decref(rows);
        return result;
    }
    result = skew_coverage_read(coverage, &reading);
    if (result == 0)
        result = read_labels(a, &reading, path, rows, values);
    if (result == 0)
        result = skew_counts_read(&routing, &reading, &a->counts);
    if (result == 0)
        result = add_views(a, observe, path, values, routing,
                           a->topk ? a->topk : skew_counts_topk(&reading));
    skew_routing_free(&routing);
    skew_reading_close(&reading);
    json_decref(rows);
    return result;
}

/* ---- showing --------------------------------------------------------------------------------- */

static int save(const struct arguments *a, const struct skew_observe *observe)
{
    struct skew_trace_list list;
    struct skew_error error;
    json_t *objects;
    int result = skew_trace_list(&list, a->in.paths[0], &error);

    if (result < 0) {
        skew_tell("%s", error.text);
        return result;
    }
    objects = skew_observe_metrics(observe);
    result = skew_metric_save(list.files[0], "observe", objects);
    json_decref(objects);
    skew_trace_list_free(&list);
    return result;
}

static int show(const struct arguments *a, const struct skew_observe *observe,
                const struct skew_coverage *coverage)
{
    int result = a->in.save ? save(a, observe) : 0;
    size_t usable = 0;

    for (size_t i = 0; i < observe->runs; i++)
        usable += observe->run[i].why == NULL;
    if (a->in.json &&
        skew_json_print(skew_json_with_coverage(skew_observe_json(observe), coverage)) < 0)
        result = -ENOMEM;
    else if (a->csv)
        (a->changes ? skew_observe_csv_changes : skew_observe_csv)(observe);
    else if (!a->in.json) {
        skew_observe_print(observe);
        putchar('\n');
        skew_coverage_print(coverage);
    }
    if (!usable) {
        skew_tell("%s: no trace has per-expert counts; skewscope routing --save finds those that "
                  "were tapped, import reads those of others",
                  a->in.paths[0]);
        result = result < 0 ? result : -ENOENT;
    }
    return result;
}

int skew_cmd_observe(int argc, char **argv)
{
    struct arguments a = {.options = {.level = 0.95, .margin = 0.05, .bands = {0.15, 0.24}}};
    struct skew_observe *observe = NULL;
    struct skew_progress progress;
    struct skew_coverage coverage = {0};

    argp_parse(skew_argp_observe(), argc, argv, 0, NULL, &a);
    if (!a.key_count)
        parse_by(NULL, &a, "model,mixer,data,tokens,batch,ep");
    int result = skew_observe_create(&observe, &a.options, a.keys, a.key_count);
    skew_progress_start(&progress, false);
    for (size_t i = 0; i < a.in.count && result == 0; i++) {
        skew_progress_show(&progress, "trace %zu of %zu", i + 1, a.in.count);
        result = add_trace(&a, observe, a.in.paths[i], &coverage);
    }
    skew_progress_end(&progress);
    if (result == 0 && (result = skew_observe_finish(observe)) < 0)
        skew_tell("out of memory");
    if (result == 0)
        result = show(&a, observe, &coverage);
    skew_observe_free(&observe);
    free(a.by);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
