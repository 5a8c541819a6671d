/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope whatif ep: the skew of ranks and the tiers of the network at another EP degree and
 * another NVLink domain, from per-expert counts. The same tokens, another spread of the experts:
 * nothing of time is said.
 */
#include "analysis_output.h"
#include "command.h"
#include "counts.h"
#include "option_values.h"
#include "router.h"
#include "term.h"
#include "trace_arguments.h"
#include "whatif.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX 32

struct arguments {
    struct skew_trace_arguments in;
    struct skew_routing_filter filter;
    uint32_t ranks[LIST_MAX], domains[LIST_MAX];
    size_t rank_count, domain_count;
    uint32_t topk;
    double token_bytes;
};

/* One number of ranks, over all layers that it fits: means. */
struct row {
    uint32_t ranks;
    size_t layers;
    struct skew_router_point mean;
    size_t with_chance, with_heldout;
    size_t tiered;
    double tier[LIST_MAX][3];
    double copies; /* token copies a call */
};

enum { KEY_RANKS = SKEW_KEY_OWN, KEY_DOMAIN, KEY_TOPK, KEY_LAYER, KEY_STAGE, KEY_TOKEN };

/* clang-format off */
static const struct argp_option options[] = {
    {"ranks", KEY_RANKS, "R,...", 0, "EP degrees (default: 2, 4, 8, … as far as they divide the experts)", 0},
    {"domain", KEY_DOMAIN, "D,...", 0, "ranks of an NVLink domain, consecutive ones (default 8)", 0},
    {"topk", KEY_TOPK, "K", 0, "experts a token, where the trace does not say", 0},
    {"layer", KEY_LAYER, "N", 0, "of this MoE layer only", 0},
    {"stage", KEY_STAGE, "STAGE", 0, "prefill, decode or train only", 0},
    {"token-bytes", KEY_TOKEN, "N", 0, "size of a token, to show bytes (default: shares only)", 0},
    {"json", SKEW_KEY_JSON, NULL, 0, "print JSON (keys: docs/router.md)", 0},
    {0}};
/* clang-format on */

static void parse_list(struct argp_state *state, const char *flag, const char *text, uint32_t *list,
                       size_t *count)
{
    char *copy = strdup(text), *rest = copy, *part;

    *count = 0;
    while (copy && (part = strsep(&rest, ",")) != NULL) {
        if (*count == LIST_MAX)
            argp_error(state, "--%s: at most %d numbers", flag, LIST_MAX);
        list[(*count)++] = (uint32_t)skew_option_integer(state, flag, part, 1, 65536);
    }
    free(copy);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const stages[] = {"prefill", "decode", "train", NULL};
    struct arguments *a = state->input;

    switch (key) {
    case KEY_RANKS:
        parse_list(state, "ranks", text, a->ranks, &a->rank_count);
        return 0;
    case KEY_DOMAIN:
        parse_list(state, "domain", text, a->domains, &a->domain_count);
        return 0;
    case KEY_TOPK:
        a->topk = (uint32_t)skew_option_integer(state, "topk", text, 1, SKEW_EXPERTS_MAX);
        return 0;
    case KEY_LAYER:
        a->filter.by_layer = true;
        a->filter.layer = skew_option_integer(state, "layer", text, 0, INT32_MAX);
        return 0;
    case KEY_STAGE:
        a->filter.stage = stages[skew_option_choice(state, "stage", text, stages)];
        return 0;
    case KEY_TOKEN:
        a->token_bytes = skew_option_real(state, "token-bytes", text, 1, 1e9);
        return 0;
    default:
        return skew_trace_arguments_parse(key, state, &a->in);
    }
}

const struct argp *skew_whatif_argp_ep(void)
{
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR...",
        "Shows what the same tokens would mean for ranks at another EP degree and NVLink domain: "
        "the largest "
        "load over the mean, what chance alone gives there, what a placement could bring, and the "
        "tiers that "
        "token copies cross. From per-expert counts (skewscope routing, import, synth).",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* ---- computing ------------------------------------------------------------------------------- */

static int add_layer(struct row *row, const struct arguments *a, const struct skew_routing_layer *l,
                     const struct skew_series *s, struct skew_floors *floors)
{
    struct skew_router_point p;
    uint32_t topk = a->topk ? a->topk : l->topk;
    int result = skew_router_point_of(&p, l, s, row->ranks, topk <= l->experts ? topk : 0, floors);

    if (result < 0)
        return result == -EINVAL ? 0 : result;
    row->layers++;
    row->mean.observed += p.observed;
    row->mean.pooled += p.pooled;
    row->mean.random += p.random;
    row->mean.bound += p.bound;
    if (!isnan(p.chance)) {
        row->mean.chance += p.chance;
        row->with_chance++;
    }
    if (!isnan(p.heldout)) {
        row->mean.heldout += p.heldout;
        row->with_heldout++;
    }
    for (size_t t = 0; t < s->rows; t++)
        row->copies += s->total[t] / (double)s->rows;
    double tier[LIST_MAX][3];
    for (size_t d = 0; d < a->domain_count; d++) {
        result = skew_router_tiers(tier[d], l, row->ranks, a->domains[d]);
        if (result < 0)
            return result == -EINVAL ? 0 : result;
    }
    row->tiered++;
    for (size_t d = 0; d < a->domain_count; d++)
        for (int t = 0; t < 3; t++)
            row->tier[d][t] += tier[d][t];
    return 0;
}

static void average(struct row *row, size_t domains)
{
    double n = (double)row->layers;

    row->mean.observed /= n;
    row->mean.pooled /= n;
    row->mean.random /= n;
    row->mean.bound /= n;
    row->copies /= n;
    row->mean.chance = row->with_chance ? row->mean.chance / (double)row->with_chance : NAN;
    row->mean.heldout = row->with_heldout ? row->mean.heldout / (double)row->with_heldout : NAN;
    for (size_t d = 0; d < domains; d++)
        for (int t = 0; t < 3; t++)
            row->tier[d][t] = row->tiered ? row->tier[d][t] / (double)row->tiered : NAN;
}

static int compute(struct arguments *a, const struct skew_routing *routing, struct row *rows,
                   size_t *count)
{
    size_t layers;
    const struct skew_routing_layer *const *layer = skew_routing_layers(routing, &layers);
    struct skew_floors *floors;
    int result = skew_floors_create(&floors);

    if (a->rank_count == 0)
        for (uint32_t r = 2; r <= 4096 && a->rank_count < LIST_MAX; r *= 2)
            a->ranks[a->rank_count++] = r;
    *count = 0;
    for (size_t i = 0; i < a->rank_count && result == 0; i++) {
        struct row *row = &rows[*count];
        *row = (struct row){.ranks = a->ranks[i]};
        for (size_t k = 0; k < layers && result == 0; k++) {
            struct skew_series series;
            int found = skew_series_of(&series, layer[k], SKEW_BY_CALL, true);
            if (found < 0 || layer[k]->physical) {
                result = found == -ENOMEM ? found : 0;
            } else {
                result = add_layer(row, a, layer[k], &series, floors);
            }
            if (found == 0)
                skew_series_free(&series);
        }
        if (row->layers) {
            average(row, a->domain_count);
            ++*count;
        }
    }
    skew_floors_free(&floors);
    return result;
}

/* ---- showing --------------------------------------------------------------------------------- */

static json_t *tiers_json(const struct arguments *a, const struct row *row)
{
    json_t *array = json_array();

    for (size_t d = 0; d < a->domain_count; d++) {
        const double *t = row->tier[d];
        json_t *one = json_pack("{s:i, s:o, s:o, s:o}", "domain", (int)a->domains[d], "same_rank",
                                skew_json_real(t[0]), "same_domain", skew_json_real(t[1]), "other",
                                skew_json_real(t[2]));
        if (a->token_bytes > 0)
            json_object_set_new(one, "other_bytes_call",
                                skew_json_real(t[2] * row->copies * a->token_bytes));
        json_array_append_new(array, one);
    }
    return array;
}

static int show_json(const struct arguments *a, const struct row *rows, size_t count,
                     const struct skew_coverage *coverage)
{
    json_t *array = json_array();

    for (size_t i = 0; i < count; i++) {
        const struct row *r = &rows[i];
        json_array_append_new(
            array,
            json_pack("{s:i, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "ranks", (int)r->ranks,
                      "layers", (json_int_t)r->layers, "observed", skew_json_real(r->mean.observed),
                      "chance", skew_json_real(r->mean.chance), "heldout",
                      skew_json_real(r->mean.heldout), "pooled", skew_json_real(r->mean.pooled),
                      "random", skew_json_real(r->mean.random), "bound",
                      skew_json_real(r->mean.bound), "tiers", tiers_json(a, r)));
    }
    return skew_json_print(skew_json_with_coverage(
        json_pack("{s:s, s:o}", "analysis", "whatif ep", "points", array), coverage));
}

#define N(value, digits) skew_number_text((char[SKEW_ESTIMATE_TEXT]){0}, value, digits)

static void show_text(const struct arguments *a, const struct row *rows, size_t count)
{
    printf(
        "max/mean of ranks, mean over layers. Of each call: as placed now (contiguous on other R), "
        "by chance,\nbest placement held out. Of all calls together: as placed, random placement, "
        "bound. Then copies by tier.\n"
        "    R  layers  per call  chance  held-out   pooled  random   bound  domain  same rank "
        " same domain    other\n");
    for (size_t i = 0; i < count; i++) {
        const struct row *r = &rows[i];
        printf("%5u  %6zu  %8.3f  %6s  %8s  %7.3f  %6.3f  %6.3f", r->ranks, r->layers,
               r->mean.observed, N(r->mean.chance, 3), N(r->mean.heldout, 3), r->mean.pooled,
               r->mean.random, r->mean.bound);
        for (size_t d = 0; d < a->domain_count; d++) {
            const double *t = r->tier[d];
            char bytes[SKEW_BYTES_TEXT];
            printf("%*s%6u  %7s %%  %9s %%  %5s %%", d ? 65 : 2, "", a->domains[d],
                   N(100 * t[0], 1), N(100 * t[1], 1), N(100 * t[2], 1));
            if (a->token_bytes > 0 && isfinite(t[2]))
                printf("  %s a call",
                       skew_bytes_text(bytes, (uint64_t)(t[2] * r->copies * a->token_bytes)));
            printf("\n");
        }
    }
    printf(
        "\nThe same tokens and the same router; sources are put together or spread evenly. A token "
        "that goes to\nseveral experts of one rank counts as often.\n");
}

static int read_counts(const struct arguments *a, const struct skew_reading *reading,
                       struct skew_routing **out)
{
    const struct skew_counts_options options = {.filter = a->filter};
    size_t layers = 0;
    int result = skew_counts_read(out, reading, &options);

    if (result < 0)
        return result;
    skew_routing_layers(*out, &layers);
    if (layers)
        return 0;
    skew_tell(
        "%s: there are no per-expert counts%s: they come from the tap (skewscope run), or from "
        "skewscope import",
        a->in.paths[0], a->filter.by_layer || a->filter.stage ? " that are selected" : "");
    return -ENOENT;
}

int skew_whatif_ep(int argc, char **argv)
{
    struct arguments a = {.domains = {8}, .domain_count = 1};
    struct skew_reading reading;
    struct skew_routing *routing = NULL;
    struct row *rows;
    size_t count = 0;
    struct skew_coverage coverage = {0};

    argp_parse(skew_whatif_argp_ep(), argc, argv, 0, NULL, &a);
    if (skew_readings_open(&reading, a.in.paths, a.in.count) < 0)
        return SKEW_EXIT_FAILURE;
    rows = calloc(LIST_MAX, sizeof *rows);
    int result = rows ? read_counts(&a, &reading, &routing) : -ENOMEM;
    if (result == 0)
        result = compute(&a, routing, rows, &count);
    if (result == -ENOMEM)
        skew_tell("out of memory");
    if (result == 0 && count == 0) {
        skew_tell("%s: none of these numbers of ranks divides the experts of a complete layer",
                  a.in.paths[0]);
        result = -EINVAL;
    }
    if (result == 0)
        result = skew_coverage_read(&coverage, &reading);
    if (result == 0 && a.in.json) {
        result = show_json(&a, rows, count, &coverage);
    } else if (result == 0) {
        show_text(&a, rows, count);
        skew_coverage_print(&coverage);
    }
    free(rows);
    skew_routing_free(&routing);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
