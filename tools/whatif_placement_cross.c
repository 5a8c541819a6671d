/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cross table of placements: found on each trace, scored on every other, against the current
 * one and random ones there.
 */
#include "whatif_placement.h"

#include <math.h>
#include <stdlib.h>

enum { FEW = 8, SCORED = 32 }; /* calls; random placements whose bytes are scored */

struct crossing {
    const struct skew_wp *wp;
    const struct skew_wp_layer **layer; /* [traces], NULL: not there */
    uint32_t ranks;
    double *current, *random; /* [traces] */
};

/* Mean over calls of max/mean; with `score` also all else, added to it with `weight`. */
static double mean_max(const struct crossing *x, enum skew_placement_method method,
                       const struct skew_wp_layer *on, const struct skew_wp_layer *scored,
                       uint64_t seed, struct skew_score *score, double weight)
{
    struct skew_fit_options o = skew_wp_fit(x->wp, on, x->ranks);
    struct skew_links links = skew_wp_links(x->wp, x->ranks);
    struct skew_placement *p;
    struct skew_score one;
    double value = NAN;

    o.seed += seed;
    if (skew_placement_fit(&p, method, &on->calls, &o) == 0)
        value = skew_placement_mean_max(p, scored->calls.counts, scored->calls.calls);
    if (isfinite(value) && score &&
        skew_placement_score(&one, p, &scored->calls, &links, NULL) == 0 && one.calls)
        skew_wp_score_add(score, &one, weight);
    skew_placement_free(&p);
    return value;
}

static json_t *cross_method(const struct crossing *x, enum skew_placement_method method)
{
    const struct skew_wp *wp = x->wp;
    json_t *rows = json_array(), *scores = json_array();
    struct skew_score other = {0};
    int off = 0, worse = 0, worse_random = 0;

    for (size_t a = 0; a < wp->traces; a++) {
        json_t *row = json_array(), *score_row = json_array();
        for (size_t b = 0; b < wp->traces; b++) {
            if (!wp->trace[a].train || !wp->trace[b].test || !x->layer[a] || !x->layer[b])
                continue;
            struct skew_score score = {0};
            double value = mean_max(x, method, x->layer[a], x->layer[b], 0, &score, 1);
            json_array_append_new(row, skew_wp_real(value));
            json_array_append_new(score_row, skew_wp_score_json(&score));
            if (a == b || isnan(value))
                continue;
            off++;
            worse += value > x->current[b];
            worse_random += value > x->random[b];
            skew_wp_score_add(&other, &score, 1);
        }
        if (wp->trace[a].train && x->layer[a]) {
            json_array_append(rows, row);
            json_array_append(scores, score_row);
        }
        json_decref(row);
        json_decref(score_row);
    }
    struct skew_score mean = {0};
    if (off)
        skew_wp_score_add(&mean, &other, 1.0 / off);
    return json_pack("{s:s, s:o, s:o, s:o, s:i, s:i, s:i, s:s}", "method",
                     skew_placement_method_name(method), "max_mean", rows, "scores", scores,
                     "mean_off_diagonal", skew_wp_score_json(&mean), "off_diagonal", off,
                     "worse_than_current", worse, "worse_than_random", worse_random, "verdict",
                     off == 0          ? "not scored"
                     : 2 * worse > off ? "does not pay on other data"
                     : worse           ? "does not always pay on other data"
                                       : "pays on all of the other data");
}

/* What is not fitted: its scores on each test trace, and its mean max/mean there. */
static int cross_unfitted(const struct crossing *x, enum skew_placement_method method, size_t i,
                          double *max_mean, json_t *all)
{
    const struct skew_wp_layer *layer = x->layer[i];
    uint32_t draws = 1;
    struct skew_score score = {0};

    if (method == SKEW_PLACE_RANDOM)
        draws = x->wp->random_draws         ? x->wp->random_draws
                : layer->calls.calls <= FEW ? 2000
                                            : SCORED;
    uint32_t scored = draws < SCORED ? draws : SCORED; /* bytes and time: of the first ones */
    for (uint32_t d = 0; d < draws; d++)
        *max_mean +=
            mean_max(x, method, layer, layer, d, d < scored ? &score : NULL, 1.0 / scored) / draws;
    if (!x->wp->trace[i].test)
        return 0;
    score.calls = layer->calls.calls;
    if (isfinite(*max_mean))
        score.max_mean = *max_mean;
    return json_array_append_new(all, skew_wp_score_json(&score));
}

static json_t *max_means(const struct crossing *x, const double *values)
{
    json_t *all = json_array();

    for (size_t i = 0; i < x->wp->traces; i++)
        if (x->layer[i] && x->wp->trace[i].test)
            json_array_append_new(all, skew_wp_real(values[i]));
    return all;
}

static json_t *names_json(const struct crossing *x, bool train)
{
    json_t *names = json_array();

    for (size_t i = 0; i < x->wp->traces; i++)
        if (x->layer[i] && (train ? x->wp->trace[i].train : x->wp->trace[i].test))
            json_array_append_new(names, json_string(x->wp->trace[i].name));
    return names;
}

json_t *skew_wp_cross(const struct skew_wp *wp, int64_t layer, uint32_t experts, uint32_t ranks,
                      const char **why)
{
    struct crossing x = {.wp = wp, .ranks = ranks};
    json_t *methods = json_array(), *current = json_array(), *random = json_array(), *one = NULL;
    int result = 0;

    *why = "out of memory";
    x.layer = calloc(wp->traces, sizeof *x.layer);
    x.current = calloc(2 * wp->traces, sizeof *x.current);
    if (!x.layer || !x.current)
        goto out;
    x.random = x.current + wp->traces;
    for (size_t i = 0; i < wp->traces && result == 0; i++) {
        x.layer[i] = skew_wp_find(&wp->trace[i], layer, experts);
        if (!x.layer[i])
            continue;
        result = cross_unfitted(&x, SKEW_PLACE_CURRENT, i, &x.current[i], current);
        if (result == 0)
            result = cross_unfitted(&x, SKEW_PLACE_RANDOM, i, &x.random[i], random);
    }
    for (int m = 0; m < SKEW_PLACE_COUNT && result == 0; m++)
        if (wp->methods[m] && skew_wp_fitted(m))
            result = json_array_append_new(methods, cross_method(&x, m));
    if (result == 0)
        one = json_pack("{s:I, s:i, s:i, s:o, s:o, s:o, s:o, s:O, s:O, s:O}", "layer",
                        (json_int_t)layer, "experts", (int)experts, "ranks", (int)ranks, "train",
                        names_json(&x, true), "test", names_json(&x, false), "current",
                        max_means(&x, x.current), "random", max_means(&x, x.random),
                        "current_scores", current, "random_scores", random, "methods", methods);
out:
    free(x.layer);
    free(x.current);
    json_decref(methods);
    json_decref(current);
    json_decref(random);
    return one;
}
