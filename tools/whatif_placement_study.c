/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placements of one layer of one trace, always scored on calls that they were not found from:
 * halves of the calls in time. What no held-out data supports is not called a gain.
 */
#include "whatif_placement.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

json_t *skew_wp_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

bool skew_wp_fitted(enum skew_placement_method method)
{
    return method != SKEW_PLACE_CURRENT && method != SKEW_PLACE_CONTIGUOUS &&
           method != SKEW_PLACE_RANDOM;
}

struct skew_fit_options skew_wp_fit(const struct skew_wp *wp, const struct skew_wp_layer *layer,
                                    uint32_t ranks)
{
    struct skew_fit_options o = wp->fit;

    o.ranks = ranks;
    if (layer->current && layer->current_ranks == ranks) {
        o.current = layer->current;
        o.current_slots = layer->current_slots;
    }
    return o;
}

/* ---- scores -----------------------------------------------------------------------------------
 */

void skew_wp_score_add(struct skew_score *to, const struct skew_score *one, double weight)
{
    to->calls += one->calls;
    to->max_mean += weight * one->max_mean;
    to->worst = fmax(to->worst, one->worst);
    to->persistent += weight * one->persistent;
    to->sources_known = one->sources_known;
    to->ids_known = one->ids_known;
    for (int t = 0; t < SKEW_TIERS; t++) {
        to->bytes[t] += weight * one->bytes[t];
        to->rank_once_low[t] += weight * one->rank_once_low[t];
        to->rank_once_high[t] += weight * one->rank_once_high[t];
    }
    to->domain_once_low += weight * one->domain_once_low;
    to->domain_once_high += weight * one->domain_once_high;
    to->padded += weight * one->padded;
    to->time_s += weight * one->time_s;
    to->clamped += weight * one->clamped;
}

static json_t *range(double low, double high)
{
    return json_pack("[o, o]", skew_wp_real(low), skew_wp_real(high));
}

json_t *skew_wp_score_json(const struct skew_score *s)
{
    if (s->calls == 0)
        return json_null();
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b}", "max_mean",
        skew_wp_real(s->max_mean), "worst", skew_wp_real(s->worst), "persistent",
        skew_wp_real(s->persistent), "rank_bytes", skew_wp_real(s->bytes[SKEW_TIER_RANK]),
        "domain_bytes", skew_wp_real(s->bytes[SKEW_TIER_DOMAIN]), "other_bytes",
        skew_wp_real(s->bytes[SKEW_TIER_OTHER]), "rank_bytes_once",
        range(s->rank_once_low[SKEW_TIER_RANK], s->rank_once_high[SKEW_TIER_RANK]),
        "domain_bytes_once",
        range(s->rank_once_low[SKEW_TIER_DOMAIN], s->rank_once_high[SKEW_TIER_DOMAIN]),
        "other_bytes_once",
        range(s->rank_once_low[SKEW_TIER_OTHER], s->rank_once_high[SKEW_TIER_OTHER]),
        "other_bytes_once_a_domain", range(s->domain_once_low, s->domain_once_high), "padded_bytes",
        skew_wp_real(s->padded), "time_s", skew_wp_real(s->time_s), "clamped",
        skew_wp_real(s->clamped), "sources_known", s->sources_known, "ids_known", s->ids_known);
}

/* ---- halves -----------------------------------------------------------------------------------
 */

struct studying {
    const struct skew_wp *wp;
    const struct skew_calls *calls; /* what is split */
    struct skew_fit_options fit;
    struct skew_links links;
    double *current, *random, *held; /* [calls] max/mean */
};

/* Fitted on the calls from … to, scored on the others or the same ones. */
static int fit_and_score(const struct studying *s, enum skew_placement_method method,
                         const struct skew_calls *on, const struct skew_calls *scored,
                         struct skew_score *score, double weight, double *per_call)
{
    struct skew_placement *p;
    struct skew_score one;
    int result = skew_placement_fit(&p, method, on, &s->fit);

    if (result == 0)
        result = skew_placement_score(&one, p, scored, &s->links, per_call);
    if (result == 0)
        skew_wp_score_add(score, &one, weight);
    skew_placement_free(&p);
    return result;
}

static int score_random(struct studying *s, struct skew_score *score, double *per_call)
{
    uint32_t draws = s->wp->random_draws ? s->wp->random_draws : 32;
    uint64_t seed = s->fit.seed;
    double *one = calloc(s->calls->calls + 1, sizeof *one);
    int result = one ? 0 : -ENOMEM;

    memset(per_call, 0, s->calls->calls * sizeof *per_call);
    for (uint32_t d = 0; d < draws && result == 0; d++) {
        s->fit.seed = seed + d;
        result = fit_and_score(s, SKEW_PLACE_RANDOM, s->calls, s->calls, score, 1.0 / draws, one);
        for (size_t c = 0; c < s->calls->calls; c++)
            per_call[c] += one[c] / draws;
    }
    s->fit.seed = seed;
    score->calls = s->calls->calls;
    free(one);
    return result;
}

static int score_halves(struct studying *s, enum skew_placement_method method,
                        struct skew_score *score)
{
    size_t n = s->calls->calls, half = n / 2;
    struct skew_calls first = skew_calls_slice(s->calls, 0, half);
    struct skew_calls second = skew_calls_slice(s->calls, half, n);
    int result =
        fit_and_score(s, method, &second, &first, score, (double)half / (double)n, s->held);

    if (result < 0)
        return result;
    return fit_and_score(s, method, &first, &second, score, (double)(n - half) / (double)n,
                         s->held + half);
}

/* ---- verdicts ---------------------------------------------------------------------------------
 */

static const char *verdict(const struct skew_estimate *gain)
{
    if (isnan(gain->value))
        return "not scored";
    if (!(gain->level > 0))
        return gain->value > 0 ? "pays, without an interval" : "does not pay";
    if (gain->low > 0)
        return "pays";
    return gain->high < 0 || gain->value <= 0 ? "does not pay" : "not shown to pay";
}

static json_t *gain_json(const struct studying *s, const double *baseline)
{
    struct skew_estimate gain = skew_placement_gain(baseline, s->held, s->calls->calls);

    return json_pack("{s:o, s:o, s:o, s:o, s:s}", "mean", skew_wp_real(gain.value), "low",
                     skew_wp_real(gain.low), "high", skew_wp_real(gain.high), "effective_n",
                     skew_wp_real(gain.effective), "verdict", verdict(&gain));
}

/* One method, NULL when it cannot be had (then *why), or no memory. */
static json_t *method_json(struct studying *s, enum skew_placement_method method)
{
    struct skew_score all = {0}, held = {0};
    const char *name = skew_placement_method_name(method);
    bool fitted = skew_wp_fitted(method), split = s->calls->calls >= 2;
    int result;

    if (method == SKEW_PLACE_RANDOM)
        result = score_random(s, &all, s->held);
    else
        result = fit_and_score(s, method, s->calls, s->calls, &all, 1, s->held);
    if (result == 0 && fitted && split)
        result = score_halves(s, method, &held);
    if (result == -ENOMEM)
        return NULL;
    if (result < 0)
        return json_pack("{s:s, s:s}", "method", name, "not_possible",
                         result == -ENODATA
                             ? (method == SKEW_PLACE_LOCALITY
                                    ? "needs --domain-ranks and the source ranks of tokens"
                                    : "needs --groups and --nodes")
                             : "the ranks, slots, groups and nodes do not divide each other");
    return json_pack("{s:s, s:b, s:o, s:o, s:o, s:o}", "method", name, "fitted", fitted,
                     "in_sample", skew_wp_score_json(&all), "held_out",
                     fitted ? skew_wp_score_json(&held) : skew_wp_score_json(&all),
                     "gain_over_current", fitted && split ? gain_json(s, s->current) : json_null(),
                     "gain_over_random", fitted && split ? gain_json(s, s->random) : json_null());
}

/* ---- one layer --------------------------------------------------------------------------------
 */

static json_t *bounds_json(const struct studying *s)
{
    const struct skew_calls *c = s->calls;
    struct skew_placement *p = NULL, *more = NULL;
    double *load = calloc(c->experts, sizeof *load), sum = 0, replicas = NAN, of_sum = NAN;
    size_t full = 0;

    if (load && skew_placement_create(&p, c->experts, s->fit.ranks, c->experts) == 0) {
        skew_calls_sum(c, load);
        of_sum = skew_placement_bound(p, load);
        for (size_t i = 0; i < c->calls; i++) {
            double one = skew_placement_bound(p, c->counts + i * c->experts);
            if (isnan(one))
                continue;
            sum += one;
            full++;
        }
        if (s->fit.redundant && skew_placement_create(&more, c->experts, s->fit.ranks,
                                                      c->experts + s->fit.redundant) == 0)
            replicas = skew_placement_bound(more, load);
    }
    skew_placement_free(&p);
    skew_placement_free(&more);
    free(load);
    return json_pack("{s:o, s:o, s:o}", "of_sum", skew_wp_real(of_sum), "mean_of_calls",
                     skew_wp_real(full ? sum / (double)full : NAN), "of_sum_with_redundant",
                     skew_wp_real(replicas));
}

static json_t *drift_json(const struct studying *s)
{
    struct skew_drift drift;
    json_t *lags = json_array();
    int result = skew_placement_drift(&drift, s->calls, &s->fit, 16);

    if (result < 0) {
        json_decref(lags);
        return result == -ENOMEM ? NULL : json_null();
    }
    for (size_t l = 0; l < drift.lags; l++)
        json_array_append_new(lags, json_pack("{s:I, s:I, s:I, s:o, s:o, s:o}", "lag_blocks",
                                              (json_int_t)l, "lag_calls",
                                              (json_int_t)(l * drift.calls_a_block), "pairs",
                                              (json_int_t)drift.lag[l].pairs, "max_mean",
                                              skew_wp_real(drift.lag[l].max_mean), "current",
                                              skew_wp_real(drift.lag[l].current), "random",
                                              skew_wp_real(drift.lag[l].random)));
    free(drift.lag);
    return json_pack(
        "{s:I, s:I, s:o, s:o, s:o, s:o, s:i}", "blocks", (json_int_t)drift.blocks, "calls_a_block",
        (json_int_t)drift.calls_a_block, "lags", lags, "half_gain_lag_calls",
        drift.half_life ? json_integer((json_int_t)(drift.half_life * drift.calls_a_block))
                        : json_null(),
        "share_distance", skew_wp_real(drift.statistic), "p_no_drift", skew_wp_real(drift.p),
        "permutations", (int)drift.permutations);
}

static int begin(struct studying *s, const struct skew_wp *wp, const struct skew_wp_layer *layer,
                 const struct skew_calls *calls, uint32_t ranks)
{
    size_t n = calls->calls + 1;
    struct skew_score ignored = {0};

    *s = (struct studying){.wp = wp,
                           .calls = calls,
                           .fit = skew_wp_fit(wp, layer, ranks),
                           .links = skew_wp_links(wp, ranks)};
    s->current = calloc(3 * n, sizeof *s->current);
    if (!s->current)
        return -ENOMEM;
    s->random = s->current + n;
    s->held = s->random + n;
    int result = fit_and_score(s, SKEW_PLACE_CURRENT, calls, calls, &ignored, 1, s->current);
    return result == 0 ? score_random(s, &ignored, s->random) : result;
}

json_t *skew_wp_study(const struct skew_wp *wp, const struct skew_wp_layer *layer, uint32_t ranks,
                      const char **why)
{
    bool halves = layer->halves.calls > 0;
    const struct skew_calls *calls = halves ? &layer->halves : &layer->calls;
    struct studying s;
    json_t *methods = json_array();
    int result = calls->calls ? begin(&s, wp, layer, calls, ranks) : -ENOENT;

    *why = NULL;
    if (result == -ENOENT)
        *why = "no call of it is complete: rows of some ranks are missing";
    else if (result < 0)
        *why = result == -ENOMEM ? "out of memory"
                                 : "the ranks do not divide its experts, or --domain-ranks not "
                                   "the ranks";
    if (result < 0) {
        if (result != -ENOENT)
            free(s.current);
        json_decref(methods);
        return NULL;
    }
    for (int m = 0; m < SKEW_PLACE_COUNT && result == 0; m++)
        if (wp->methods[m] && json_array_append_new(methods, method_json(&s, m)) < 0)
            result = -ENOMEM;
    json_t *one =
        result < 0
            ? NULL
            : json_pack("{s:I, s:i, s:i, s:i, s:I, s:I, s:s, s:s, s:b, s:o, s:o, s:o}", "layer",
                        (json_int_t)layer->layer, "experts", (int)calls->experts, "topk",
                        (int)calls->topk, "ranks", (int)ranks, "calls", (json_int_t)calls->calls,
                        "incomplete_calls", (json_int_t)layer->incomplete, "split",
                        calls->calls < 2 ? "none"
                        : halves         ? "every other request"
                                         : "halves in time",
                        "current", s.fit.current ? "placement of the trace" : "contiguous",
                        "physical", layer->of->physical, "bounds", bounds_json(&s), "methods",
                        methods, "age", drift_json(&s));
    free(s.current);
    if (!one)
        *why = "out of memory";
    return one;
}
