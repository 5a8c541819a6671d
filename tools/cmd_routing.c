/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope routing: what the tap's copies of count exchanges say about tokens and experts, and
 * with --save into the table `routing`, which everything about routers reads.
 */
#include "command.h"
#include "coverage.h"
#include "option_values.h"
#include "reading.h"
#include "routing_save.h"
#include "tap.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *path;
    struct skew_tap_options options;
    bool save, json;
};

enum { KEY_SAVE = 0x100, KEY_EXPERTS, KEY_LAYERS };

/* clang-format off */
static const struct argp_option options[] = {
    {"save", KEY_SAVE, NULL, 0, "write the rows into the trace's table routing, instead of what an earlier --save wrote", 0},
    {"experts", KEY_EXPERTS, "E", 0, "experts of a layer, for what does not say so itself: top-k ids, routing maps, "
     "sums over a step", 0},
    {"layers", KEY_LAYERS, "L", 0, "MoE layers of a rank, for top-k ids whose step and layer no label tells: the n-th call "
     "of a rank is then layer n mod L of step n / L", 0},
    {"json", 'j', NULL, 0, "as JSON, for machines", 0},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case KEY_SAVE:
        a->save = true;
        return 0;
    case KEY_EXPERTS:
        a->options.experts = (uint32_t)skew_option_integer(state, "experts", text, 1, 65536);
        return 0;
    case KEY_LAYERS:
        a->options.layers = (uint32_t)skew_option_integer(state, "layers", text, 1, 65536);
        return 0;
    case 'j':
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            argp_error(state, "one trace at a time: '%s' and '%s' are two", a->path, text);
        a->path = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->path)
            argp_error(state, "which trace? Give its file or directory");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_routing(void)
{
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR",
        "Tells how many tokens each rank sent to each expert, as far as count exchanges that the "
        "tap "
        "copied (SKEWSCOPE_TAP) or sizes that name experts say it, and how sure that is. Counts "
        "are "
        "trusted only if they reproduce the payload's bytes to every peer with one unit."
        "\vExit status: 0, or 1 when the trace cannot be read or written, or 2 for a wrong command "
        "line.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* ---- gathering ------------------------------------------------------------------------------- */

#define FIELDS(X)                                                                                  \
    X(calls)                                                                                       \
    X(verified)                                                                                    \
    X(unverified)                                                                                  \
    X(rejected)                                                                                    \
    X(rank_level)                                                                                  \
    X(redundant)                                                                                   \
    X(need_experts)                                                                                \
    X(by_sizes)                                                                                    \
    X(recomputed)                                                                                  \
    X(rows)                                                                                        \
    X(captured)                                                                                    \
    X(skipped)                                                                                     \
    X(padded)                                                                                      \
    X(capacities)

static void add(struct skew_tap_summary *to, const struct skew_tap_summary *one)
{
    if (one->capacities) {
        if (!to->capacities || one->capacity_min < to->capacity_min)
            to->capacity_min = one->capacity_min;
        if (!to->capacities || one->capacity_max > to->capacity_max)
            to->capacity_max = one->capacity_max;
    }
#define X(field) to->field += one->field;
    FIELDS(X)
#undef X
}

static int take(void *user, const struct skew_tap_row *row)
{
    struct skew_routing_saver *saver = user;
    if (!saver)
        return 0;
    return skew_routing_save(saver, &(struct skew_routing_saved){.exchange = row->exchange,
                                                                 .comm = row->comm,
                                                                 .source = row->source,
                                                                 .step = row->step,
                                                                 .layer = row->layer,
                                                                 .microbatch = row->microbatch,
                                                                 .stage = row->stage,
                                                                 .ordinal = row->ordinal,
                                                                 .tokens = row->tokens,
                                                                 .experts = row->experts,
                                                                 .topk = row->topk,
                                                                 .verified = row->verified,
                                                                 .how = row->how,
                                                                 .counts = row->counts});
}

/* One database; it is closed before its rows are committed. */
static int reduce(const struct arguments *a, struct skew_trace **trace,
                  struct skew_tap_summary *all)
{
    struct skew_routing_saver *saver = NULL;
    struct skew_tap_options how = a->options;
    struct skew_labels *labels = NULL;
    struct skew_tap_summary one;
    struct skew_error error = {""};
    int result = skew_labels_get(*trace, NULL, &labels, &error);
    how.labels = labels;
    if (result == 0 && a->save)
        result = skew_routing_save_begin(&saver, skew_trace_path(*trace));
    if (result == 0)
        result = skew_tap_reduce(*trace, &how, take, saver, &one, &error);
    if (result < 0 && *error.text)
        skew_tell("%s", error.text);
    skew_labels_free(&labels);
    skew_trace_close(trace);
    int saved = skew_routing_save_end(&saver, result == 0);
    if (result == 0)
        add(all, &one);
    return result ? result : saved;
}

/* ---- telling --------------------------------------------------------------------------------- */

static int print_json(const struct skew_tap_summary *s, bool saved,
                      const struct skew_coverage *coverage)
{
    json_t *root = json_object();
#define X(field) json_object_set_new(root, #field, json_integer((json_int_t)s->field));
    FIELDS(X)
#undef X
    json_object_set_new(root, "capacity_min",
                        s->capacities ? json_integer(s->capacity_min) : json_null());
    json_object_set_new(root, "capacity_max",
                        s->capacities ? json_integer(s->capacity_max) : json_null());
    json_object_set_new(root, "saved", json_boolean(saved));
    skew_json_with_coverage(root, coverage);
    int failed = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    putchar('\n');
    json_decref(root);
    return failed ? -EIO : 0;
}

static void line(uint64_t n, const char *what)
{
    if (n)
        printf("%12" PRIu64 "  %s\n", n, what);
}

static void print_text(const struct skew_tap_summary *s, bool saved)
{
    printf("%12" PRIu64 "  calls were tapped\n", s->calls);
    line(s->verified, "hold counts that reproduce their payload exactly");
    line(s->unverified, "hold ids, maps or sums, which have no payload to be compared with");
    line(s->rejected, "explain no payload: something else, or it is not in this trace");
    line(s->recomputed, "of them repeat an earlier one for recomputation, and give no row");
    line(s->rank_level, "hold one number a rank, which the payload says by itself");
    line(s->redundant, "are sums over a step, where single calls say more");
    line(s->need_experts, "need the number of experts: give --experts");
    line(s->by_sizes, "dispatches name experts by their sizes alone");
    line(s->captured, "buffers were not copied, since the call was captured into a CUDA graph");
    line(s->skipped, "buffers were not copied or not kept for other reasons (table tap_count)");
    if (s->padded)
        printf(
            "%12" PRIu64
            "  all-to-alls of equal sizes without any count exchange: if they are dispatches, they "
            "are padded\n              to a capacity, and skew cannot be seen in their sizes "
            "(which is not "
            "balance)\n",
            s->padded);
    if (s->capacities)
        printf("              ranks agreed on capacities of %" PRId64 " to %" PRId64
               ": the fullest expert of any "
               "one rank\n",
               s->capacity_min, s->capacity_max);
    printf("%12" PRIu64 "  rows of tokens by expert%s\n", s->rows,
           saved ? ", saved in table routing" : "");
}

int skew_cmd_routing(int argc, char **argv)
{
    struct arguments a = {0};
    struct skew_reading reading;
    struct skew_tap_summary all = {0};
    struct skew_coverage coverage = {0};

    argp_parse(skew_argp_routing(), argc, argv, 0, NULL, &a);
    if (skew_reading_open(&reading, a.path) < 0)
        return SKEW_EXIT_FAILURE;
    int result = skew_coverage_read(&coverage, &reading);
    for (size_t i = 0; result == 0 && i < reading.count; i++)
        result = reduce(&a, &reading.traces[i], &all);
    skew_reading_close(&reading);
    if (result == 0 && a.json) {
        result = print_json(&all, a.save, &coverage);
    } else if (result == 0) {
        print_text(&all, a.save);
        skew_coverage_print(&coverage);
    }
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
