/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routing of single requests, from imports: prefill against decode, and groups of requests kept in
 * one domain. NCCL carries no request ids, so that captured traces have none of it.
 */
#include "whatif_placement.h"
#include "request_groups.h"
#include "term.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DRAWS = 400, SPLITS = 40 };

/* Tokens of the requests of one stage, or of some steps. */
struct part {
    struct skew_routing *routing;
    const struct skew_routing_layer *const *layer;
    size_t layers;
};

static int read_part(struct part *part, const struct skew_wp *wp, const struct skew_wp_trace *t,
                     const char *stage, int64_t from, int64_t to)
{
    struct skew_routing_filter filter = {.stage = stage,
                                         .comm_key = wp->comm,
                                         .by_layer = wp->by_layer,
                                         .layer = wp->layer,
                                         .by_step = to >= 0,
                                         .step_from = from,
                                         .step_to = to};
    struct skew_error error = {""};
    int result = skew_routing_create(&part->routing, SKEW_ROUTING_CALLS);

    for (size_t i = 0; i < t->reading.count && result == 0; i++)
        result = skew_routing_read(part->routing, t->reading.traces[i], &filter, 1, &error);
    if (result == 0)
        result = skew_routing_finish(part->routing);
    if (result == 0)
        part->layer = skew_routing_layers(part->routing, &part->layers);
    return result;
}

/* Counts of one request in one layer; NULL: none. */
static const uint64_t *counts_of(const struct part *part, int64_t layer, uint32_t experts,
                                 int64_t request)
{
    for (size_t l = 0; l < part->layers; l++) {
        const struct skew_routing_layer *one = part->layer[l];
        size_t low = 0, high = one->requests;
        if (one->layer != layer || one->experts != experts)
            continue;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (one->request[middle] < request)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < one->requests && one->request[low] == request)
            return one->request_counts + low * experts;
    }
    return NULL;
}

/* ---- dense vectors ----------------------------------------------------------------------------
 */

struct vectors {
    size_t requests;
    uint32_t layers, experts;
    double *early, *decode; /* [requests][layers × experts] */
};

static double sum_of(const uint64_t *counts, uint32_t experts)
{
    double sum = 0;

    for (uint32_t e = 0; counts && e < experts; e++)
        sum += (double)counts[e];
    return sum;
}

/* Requests that have both parts in every layer of the trace. */
static int gather(struct vectors *v, const struct skew_wp_trace *t, const struct part *early,
                  const struct part *decode)
{
    const struct skew_routing_layer *first = t->layer[0].of;
    size_t width;

    *v = (struct vectors){.layers = (uint32_t)t->layers, .experts = first->experts};
    width = (size_t)v->layers * v->experts;
    v->early = calloc(2 * first->requests * width + 1, sizeof *v->early);
    if (!v->early)
        return -ENOMEM;
    v->decode = v->early + first->requests * width;
    for (size_t r = 0; r < first->requests; r++) {
        bool whole = true;
        for (uint32_t l = 0; l < v->layers && whole; l++) {
            int64_t layer = t->layer[l].layer;
            const uint64_t *a = counts_of(early, layer, v->experts, first->request[r]);
            const uint64_t *b = counts_of(decode, layer, v->experts, first->request[r]);
            size_t at = v->requests * width + (size_t)l * v->experts;
            whole = sum_of(a, v->experts) > 0 && sum_of(b, v->experts) > 0;
            for (uint32_t e = 0; e < v->experts && whole; e++) {
                v->early[at + e] = (double)a[e];
                v->decode[at + e] = (double)b[e];
            }
        }
        v->requests += whole;
    }
    return 0;
}

/* ---- results ----------------------------------------------------------------------------------
 */

static json_t *correlations(const struct skew_wp *wp, const struct skew_wp_trace *t,
                            const struct vectors *v)
{
    size_t width = (size_t)v->layers * v->experts;
    json_t *all = json_array();
    double *one = calloc(2 * v->requests * v->experts + 1, sizeof *one);

    for (uint32_t l = 0; one && l < v->layers; l++) {
        struct skew_correlation c;
        double *decode = one + v->requests * v->experts;
        for (size_t r = 0; r < v->requests; r++) {
            memcpy(one + r * v->experts, v->early + r * width + (size_t)l * v->experts,
                   v->experts * sizeof *one);
            memcpy(decode + r * v->experts, v->decode + r * width + (size_t)l * v->experts,
                   v->experts * sizeof *one);
        }
        if (skew_prefill_decode(&c, one, decode, v->requests, v->experts, DRAWS, wp->fit.seed + l) <
            0)
            break;
        json_array_append_new(
            all, json_pack("{s:I, s:o, s:o, s:o, s:o}", "layer", (json_int_t)t->layer[l].layer,
                           "pearson", skew_wp_real(c.pearson), "low", skew_wp_real(c.low), "high",
                           skew_wp_real(c.high), "corrected", skew_wp_real(c.corrected)));
    }
    free(one);
    return all;
}

static json_t *grouping(const struct skew_wp *wp, const struct vectors *v, uint32_t ranks)
{
    struct skew_request_set set = {.requests = v->requests,
                                   .layers = v->layers,
                                   .experts = v->experts,
                                   .early = v->early,
                                   .decode = v->decode};
    uint32_t groups = wp->request_groups, domain = wp->links.domain_ranks;
    struct skew_grouping g;

    if (groups == 0)
        groups = domain && ranks / domain > 1 ? ranks / domain : 2;
    int result = skew_request_grouping(&g, &set, groups, SPLITS, wp->fit.seed);
    if (result < 0)
        return json_pack("{s:i, s:s}", "groups", (int)groups, "note",
                         result == -ENODATA ? "needs 5 requests a group, and groups that divide "
                                              "the experts"
                                            : "out of memory");
    const char *verdict = g.won >= 0.95  ? "grouping keeps more in its domain, on requests not used"
                          : g.won <= 0.5 ? "grouping does not pay on requests not used"
                                         : "grouping is not shown to pay on requests not used";
    return json_pack("{s:i, s:i, s:I, s:o, s:[o,o], s:o, s:o, s:[o,o], s:o, s:o, s:o, s:o, s:s}",
                     "groups", (int)g.groups, "splits", (int)g.splits, "held_out",
                     (json_int_t)g.held_out, "leaving", skew_wp_real(g.grouped), "leaving_range",
                     skew_wp_real(g.grouped_low), skew_wp_real(g.grouped_high),
                     "leaving_classified_by_decode", skew_wp_real(g.informed), "leaving_random",
                     skew_wp_real(g.random), "leaving_random_range", skew_wp_real(g.random_low),
                     skew_wp_real(g.random_high), "leaving_by_chance", skew_wp_real(g.uniform),
                     "splits_won", skew_wp_real(g.won), "max_mean_of_groups",
                     skew_wp_real(g.imbalance), "max_mean_of_random_groups",
                     skew_wp_real(g.imbalance_random), "verdict", verdict);
}

/* The last step that has requests, −1 none. */
static int64_t last_step(const struct skew_wp_trace *t)
{
    const struct skew_routing_layer *of = t->layer[0].of;
    int64_t last = -1;

    for (size_t c = 0; c < of->calls; c++)
        if (of->call[c].of_requests && of->call[c].step > last)
            last = of->call[c].step;
    return last;
}

json_t *skew_wp_requests(const struct skew_wp *wp, struct skew_wp_trace *t, uint32_t ranks)
{
    struct part early = {0}, decode = {0};
    struct vectors v = {0};
    json_t *one = NULL;
    bool prefill = false;
    int64_t steps = last_step(t) + 1, first = wp->early_steps >= 0 ? wp->early_steps : steps / 4;

    if (t->layer[0].of->requests == 0)
        return json_pack("{s:s}", "note",
                         "NCCL carries no request ids;\n  skewscope import brings routing of "
                         "single requests from "
                         "vLLM's routed experts or top-k ids");
    int result = read_part(&early, wp, t, "prefill", 0, -1);
    if (result == 0)
        result = read_part(&decode, wp, t, "decode", 0, -1);
    for (size_t l = 0; l < early.layers; l++)
        prefill |= early.layer[l]->requests > 0;
    if (result == 0 && !prefill && first > 0 && first < steps) {
        skew_routing_free(&early.routing);
        skew_routing_free(&decode.routing);
        early = decode = (struct part){0};
        result = read_part(&early, wp, t, wp->stage, 0, first - 1);
        if (result == 0)
            result = read_part(&decode, wp, t, wp->stage, first, INT64_MAX);
    }
    if (result == 0)
        result = gather(&v, t, &early, &decode);
    if (result == 0 && v.requests < 2)
        one = json_pack("{s:s}", "note",
                        "no two requests have both a prefill and a decode (import with "
                        "--prompt-tokens), nor several steps of decode, in every layer");
    else if (result == 0)
        one = json_pack("{s:I, s:s, s:I, s:o, s:o}", "requests", (json_int_t)v.requests,
                        "classified_by", prefill ? "prefill" : "first steps of decode",
                        "first_steps", (json_int_t)(prefill ? 0 : first), "correlation",
                        correlations(wp, t, &v), "grouping", grouping(wp, &v, ranks));
    skew_routing_free(&early.routing);
    skew_routing_free(&decode.routing);
    free(v.early);
    return one ? one : json_pack("{s:s}", "note", "out of memory");
}
