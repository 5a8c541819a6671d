/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which experts the tokens choose. A token takes topk distinct experts by successive sampling from
 * the popularity; docs/synth.md says how tokens hang together and which variance that gives.
 */
#include "synth_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ---------------------------------------------------------------------------------- */

int synth_alias_create(struct synth_alias *a, uint32_t count)
{
    *a = (struct synth_alias){.count = count,
                              .other = calloc(count, sizeof *a->other),
                              .keep = calloc(count, sizeof *a->keep),
                              .small = calloc(count, sizeof *a->small)};
    return a->other && a->keep && a->small ? 0 : -ENOMEM;
}

void synth_alias_free(struct synth_alias *a)
{
    free(a->other);
    free(a->keep);
    free(a->small);
    *a = (struct synth_alias){0};
}

/* Vose's way (1991): small ones from the left of one array, large ones from its right. */
void synth_alias_fill(struct synth_alias *a, const double *weight)
{
    uint32_t small = 0, large = a->count;
    double sum = 0;

    for (uint32_t i = 0; i < a->count; i++)
        sum += weight[i];
    for (uint32_t i = 0; i < a->count; i++) {
        a->keep[i] = (float)(weight[i] / sum * a->count);
        a->other[i] = i;
        if (a->keep[i] < 1)
            a->small[small++] = i;
        else
            a->small[--large] = i;
    }
    while (small > 0 && large < a->count) {
        uint32_t s = a->small[--small], l = a->small[large];
        a->other[s] = l;
        a->keep[l] -= 1 - a->keep[s];
        if (a->keep[l] < 1) {
            large++;
            a->small[small++] = l;
        }
    }
    while (small > 0) /* rounding */
        a->keep[a->small[--small]] = 1;
    while (large < a->count)
        a->keep[a->small[large++]] = 1;
}

static double fill_inclusion(const double *weight, uint32_t experts, double tau, double *inclusion)
{
    double sum = 0;
    for (uint32_t e = 0; e < experts; e++)
        sum += inclusion[e] = -expm1(-weight[e] * tau);
    return sum;
}

/* With exponential clocks of rate weight[e] a token takes the topk that ring first; in the limit of
 * many experts each is in with probability 1 − exp(−weight τ) (Rosén 1972). */
void synth_inclusion(const double *weight, uint32_t experts, uint32_t topk, double *inclusion)
{
    double low = 0, high = 1;

    if (topk == experts) {
        for (uint32_t e = 0; e < experts; e++)
            inclusion[e] = 1;
        return;
    }
    while (high < 1e12 && fill_inclusion(weight, experts, high, inclusion) < topk)
        high *= 2;
    for (int round = 0; round < 80; round++) {
        double middle = (low + high) / 2;
        if (fill_inclusion(weight, experts, middle, inclusion) < topk)
            low = middle;
        else
            high = middle;
    }
}

/* ---- popularity ------------------------------------------------------------------------------ */

struct share_reader {
    struct synth_router *router;
    uint32_t rows;
};

static int take_share(void *context, const double value[3])
{
    struct share_reader *reader = context;
    const struct skew_synth_spec *s = reader->router->spec;
    int64_t layer = (int64_t)value[0], expert = (int64_t)value[1];

    if (layer < -1 || expert < 0 || expert >= s->experts || !(value[2] >= 0))
        return -EINVAL;
    for (int64_t l = layer < 0 ? 0 : layer; l < (layer < 0 ? s->layers : layer + 1); l++)
        if (l < s->layers)
            reader->router->base[l * s->experts + expert] = value[2];
    reader->rows++;
    return 0;
}

static void draw_popularity(struct synth_router *r, int64_t layer)
{
    const struct skew_synth_spec *s = r->spec;
    struct rng rng = rng_keyed((uint64_t)s->seed, SYNTH_RNG_POPULARITY, (uint64_t)layer, 0, 0);
    double *p = r->base + layer * s->experts;

    for (int64_t e = 0; e < s->experts; e++)
        p[e] = s->routing == SYNTH_ZIPF        ? pow((double)e + 1, -s->zipf)
               : s->routing == SYNTH_DIRICHLET ? rng_gamma(&rng, s->dirichlet) + 1e-12
                                               : 1;
    for (uint32_t e = (uint32_t)s->experts - 1; s->routing == SYNTH_ZIPF && e > 0; e--) {
        uint32_t other = rng_below(&rng, e + 1); /* the hot ones lie anywhere */
        double swap = p[e];
        p[e] = p[other];
        p[other] = swap;
    }
}

static int make_popularity(struct synth_router *r, struct skew_synth_error *error)
{
    const struct skew_synth_spec *s = r->spec;
    int result = 0;

    if (s->routing == SYNTH_SHARES) {
        struct share_reader reader = {r, 0};
        result = synth_csv(s->shares, take_share, &reader, error);
        if (result)
            return result;
    }
    for (int64_t l = 0; l < s->layers; l++) {
        double sum = 0, *p = r->base + l * s->experts;
        int64_t chosen = 0;
        if (s->routing != SYNTH_SHARES)
            draw_popularity(r, l);
        if (s->hot_expert >= 0)
            p[s->hot_expert] *= s->hot_factor;
        for (int64_t e = 0; e < s->experts; e++) {
            sum += p[e];
            chosen += p[e] > 0;
        }
        if (chosen < s->topk)
            return skew_synth_fail(error, -EINVAL,
                                   "layer %lld: only %lld experts have a share, and a token takes "
                                   "%lld",
                                   (long long)l, (long long)chosen, (long long)s->topk);
        for (int64_t e = 0; e < s->experts; e++)
            p[e] /= sum;
    }
    return 0;
}

static void make_topics(struct synth_router *r)
{
    const struct skew_synth_spec *s = r->spec;

    for (int64_t l = 0; l < s->layers; l++)
        for (int64_t g = 0; g < s->topics; g++) {
            struct rng rng =
                rng_keyed((uint64_t)s->seed, SYNTH_RNG_TOPICS, (uint64_t)l, (uint64_t)g, 0);
            double *topic = r->topic + (l * s->topics + g) * s->experts, sum = 0;
            for (int64_t e = 0; e < s->experts; e++)
                sum += topic[e] = rng_gamma(&rng, s->topic_concentration * (double)s->experts *
                                                      r->base[l * s->experts + e]) +
                                  1e-9;
            for (int64_t e = 0; e < s->experts; e++)
                topic[e] /= sum;
        }
}

int synth_router_create(struct synth_router *r, const struct skew_synth_spec *s,
                        struct skew_synth_error *error)
{
    size_t experts = (size_t)s->experts, layers = (size_t)s->layers, ranks = (size_t)s->ranks;
    bool requests = s->correlation == SYNTH_REQUESTS;
    int result = 0;

    *r = (struct synth_router){.spec = s,
                               .base = calloc(layers * experts, sizeof *r->base),
                               .drifted = calloc(layers * experts, sizeof *r->drifted),
                               .weight = calloc(experts, sizeof *r->weight),
                               .inclusion = calloc(experts, sizeof *r->inclusion),
                               .counts = calloc(ranks * experts, sizeof *r->counts),
                               .tokens = calloc(ranks, sizeof *r->tokens)};
    if (requests) {
        r->topic = calloc(layers * (size_t)s->topics * experts, sizeof *r->topic);
        r->topic_alias = calloc((size_t)s->topics, sizeof *r->topic_alias);
        r->request_topic = calloc(ranks * (size_t)s->requests, sizeof *r->request_topic);
        for (int64_t g = 0; r->topic_alias && g < s->topics && !result; g++)
            result = synth_alias_create(&r->topic_alias[g], (uint32_t)experts);
    }
    if (!result)
        result = synth_alias_create(&r->alias, (uint32_t)experts);
    if (result || !r->base || !r->drifted || !r->weight || !r->inclusion || !r->counts ||
        !r->tokens || (requests && (!r->topic || !r->topic_alias || !r->request_topic)))
        return skew_synth_fail(error, -ENOMEM, "out of memory");
    result = make_popularity(r, error);
    if (!result && requests)
        make_topics(r);
    return result;
}

void synth_router_free(struct synth_router *r)
{
    for (int64_t g = 0; r->topic_alias && g < r->spec->topics; g++)
        synth_alias_free(&r->topic_alias[g]);
    synth_alias_free(&r->alias);
    free(r->topic_alias);
    free(r->base);
    free(r->drifted);
    free(r->weight);
    free(r->inclusion);
    free(r->topic);
    free(r->request_topic);
    free(r->counts);
    free(r->tokens);
    *r = (struct synth_router){0};
}

/* ---- a step ---------------------------------------------------------------------------------- */

static void draw_sources(struct synth_router *r, int64_t step)
{
    const struct skew_synth_spec *s = r->spec;
    double spread = sqrt(log1p(s->tokens_cv * s->tokens_cv)); /* log-normal of this cv */

    for (int64_t i = 0; i < s->ranks; i++) {
        r->tokens[i] = (uint32_t)s->tokens;
        if (s->tokens_cv > 0) {
            struct rng rng =
                rng_keyed((uint64_t)s->seed, SYNTH_RNG_SOURCES, (uint64_t)step, (uint64_t)i, 0);
            r->tokens[i] = (uint32_t)((double)s->tokens *
                                          exp(spread * rng_normal(&rng) - spread * spread / 2) +
                                      0.5);
        }
    }
}

static void draw_drift(struct synth_router *r, int64_t step)
{
    const struct skew_synth_spec *s = r->spec;
    bool ar = s->correlation == SYNTH_AR1;

    for (int64_t l = 0; l < s->layers; l++) {
        struct rng rng =
            rng_keyed((uint64_t)s->seed, SYNTH_RNG_DRIFT, (uint64_t)step, (uint64_t)l, 0);
        double *z = r->drifted + l * s->experts;
        for (int64_t e = 0; e < s->experts; e++) {
            if (ar) /* stationary from the first step on */
                z[e] = step == 0 ? s->ar_sd * rng_normal(&rng)
                                 : s->ar_phi * z[e] + s->ar_sd * sqrt(1 - s->ar_phi * s->ar_phi) *
                                                          rng_normal(&rng);
            else if (step > 0)
                z[e] += s->drift * rng_normal(&rng);
        }
    }
}

static void draw_requests(struct synth_router *r, int64_t step)
{
    const struct skew_synth_spec *s = r->spec;
    double end = 1.0 / (double)s->request_steps;

    for (int64_t i = 0; i < s->ranks; i++) {
        struct rng rng =
            rng_keyed((uint64_t)s->seed, SYNTH_RNG_REQUESTS, (uint64_t)step, (uint64_t)i, 0);
        for (int64_t q = 0; q < s->requests; q++) {
            double u = rng_unit(&rng);
            uint32_t topic = rng_below(&rng, (uint32_t)s->topics);
            if (step == 0 || u < end)
                r->request_topic[i * s->requests + q] = topic;
        }
    }
}

void synth_router_step(struct synth_router *r, int64_t step)
{
    const struct skew_synth_spec *s = r->spec;

    draw_sources(r, step);
    if (s->drift > 0 || s->correlation == SYNTH_AR1)
        draw_drift(r, step);
    if (s->correlation == SYNTH_REQUESTS)
        draw_requests(r, step);
}

/* ---- tokens of one layer --------------------------------------------------------------------- */

/* One token's experts, `times` times over: repeated draws are drawn again, which is successive
 * sampling without replacement. */
static void choose(const struct synth_alias *alias, struct rng *rng, int64_t topk, uint32_t times,
                   uint32_t *counts)
{
    uint32_t chosen[64];

    for (int64_t k = 0; k < topk; k++) {
        int64_t same;
        do {
            chosen[k] = synth_alias_draw(alias, rng);
            for (same = 0; same < k && chosen[same] != chosen[k]; same++)
                ;
        } while (same < k);
        counts[chosen[k]] += times;
    }
}

/* Bursts of D tokens (of floor and ceiling so that E[m²] / E[m] = D) have D times the variance. */
static void route_bursts(const struct synth_router *r, struct rng *rng, uint32_t tokens,
                         uint32_t *counts)
{
    double d = r->spec->correlation == SYNTH_BURSTS ? r->spec->design_effect : 1, low = floor(d);
    double longer = d > low ? low * (d - low) / (2 * low + 1 - d) : 0;

    for (uint32_t done = 0; done < tokens;) {
        uint32_t length = (uint32_t)low;
        if (longer > 0 && rng_unit(rng) < longer)
            length++;
        length = length < tokens - done ? length : tokens - done;
        choose(&r->alias, rng, r->spec->topk, length, counts);
        done += length;
    }
}

static void route_requests(const struct synth_router *r, struct rng *rng, int64_t rank,
                           uint32_t tokens, uint32_t *counts)
{
    const struct skew_synth_spec *s = r->spec;

    for (uint32_t t = 0; t < tokens; t++)
        choose(&r->topic_alias[r->request_topic[rank * s->requests + t % s->requests]], rng,
               s->topk, 1, counts);
}

/* Binomial counts brought to the exact sum by steps of one, in proportion to the variances. */
static void route_counts(const struct synth_router *r, struct rng *rng, uint32_t tokens,
                         uint32_t *counts)
{
    const struct skew_synth_spec *s = r->spec;
    int64_t missing = (int64_t)tokens * s->topk;
    const double *inclusion = r->inclusion;

    for (int64_t e = 0; e < s->experts; e++)
        missing -= counts[e] = rng_binomial(rng, tokens, inclusion[e]);
    while (missing) {
        uint32_t e = rng_below(rng, (uint32_t)s->experts);
        if (rng_unit(rng) * 0.25 > inclusion[e] * (1 - inclusion[e]))
            continue;
        if (missing > 0 && counts[e] < tokens) {
            counts[e]++;
            missing--;
        } else if (missing < 0 && counts[e] > 0) {
            counts[e]--;
            missing++;
        }
    }
}

void synth_router_route(struct synth_router *r, int64_t step, int64_t layer)
{
    const struct skew_synth_spec *s = r->spec;
    size_t experts = (size_t)s->experts;
    bool by_counts = s->sampling == SYNTH_COUNTS ||
                     (s->sampling == SYNTH_AUTO && s->tokens * s->topk > 16 * s->experts &&
                      (s->correlation == SYNTH_IID || s->correlation == SYNTH_AR1));

    for (size_t e = 0; e < experts; e++)
        r->weight[e] =
            r->base[(size_t)layer * experts + e] * exp(r->drifted[(size_t)layer * experts + e]);
    memset(r->counts, 0, (size_t)s->ranks * experts * sizeof *r->counts);
    if (by_counts)
        synth_inclusion(r->weight, (uint32_t)experts, (uint32_t)s->topk, r->inclusion);
    else if (s->correlation == SYNTH_REQUESTS)
        for (int64_t g = 0; g < s->topics; g++)
            synth_alias_fill(&r->topic_alias[g],
                             r->topic + ((size_t)layer * (size_t)s->topics + (size_t)g) * experts);
    else
        synth_alias_fill(&r->alias, r->weight);
    for (int64_t i = 0; i < s->ranks; i++) {
        struct rng rng = rng_keyed((uint64_t)s->seed, SYNTH_RNG_TOKENS, (uint64_t)step,
                                   (uint64_t)layer, (uint64_t)i);
        uint32_t *counts = r->counts + (size_t)i * experts;
        if (by_counts)
            route_counts(r, &rng, r->tokens[i], counts);
        else if (s->correlation == SYNTH_REQUESTS)
            route_requests(r, &rng, i, r->tokens[i], counts);
        else
            route_bursts(r, &rng, r->tokens[i], counts);
    }
}
