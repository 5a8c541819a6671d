/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One way to find any placement from recorded calls, so that all of them are fitted and scored
 * alike; and what remains of their gain as the profile gets older.
 */
#include "placement_score.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"

const char *skew_placement_method_name(enum skew_placement_method method)
{
    static const char *const names[] = {
#define X(id, name, what) name,
        SKEW_PLACEMENT_METHODS(X)
#undef X
    };
    return names[method];
}

static int fit_locality(struct skew_placement *p, const struct skew_calls *calls,
                        const struct skew_fit_options *o, const double *load)
{
    size_t cells = (size_t)p->ranks * p->experts;
    double capacity = o->capacity, *from = calloc(cells, sizeof *from);

    if (!from)
        return -ENOMEM;
    for (size_t c = 0; c < calls->calls; c++)
        for (size_t i = 0; i < cells; i++)
            from[i] += (double)calls->by_source[c * cells + i];
    if (capacity <= 0) {
        skew_placement_lpt(p, load);
        capacity = 1.05 * skew_placement_max_mean(p, load);
    }
    int result =
        skew_placement_locality(p, from, o->domain_ranks, o->groups > 1 ? o->groups : 0, capacity);
    free(from);
    return result;
}

/* What a method needs beyond counts. */
static bool has_data(enum skew_placement_method method, const struct skew_calls *calls,
                     const struct skew_fit_options *o)
{
    bool groups = o->groups > 1 && o->nodes > 0;

    if (method == SKEW_PLACE_LOCALITY)
        return o->domain_ranks > 0 && o->domain_ranks < o->ranks && calls->by_source &&
               calls->sources == o->ranks;
    return (method != SKEW_PLACE_EPLB_GROUPS && method != SKEW_PLACE_LPT_GROUPS) || groups;
}

static int fit(struct skew_placement *p, enum skew_placement_method method,
               const struct skew_calls *calls, const struct skew_fit_options *o, const double *load)
{
    uint64_t seed = o->seed;
    int result;

    switch (method) {
    case SKEW_PLACE_CURRENT:
        return o->current && o->current_slots == p->slots ? skew_placement_set(p, o->current) : 0;
    case SKEW_PLACE_RANDOM:
        if (o->groups > 1 && o->nodes > 0 && p->slots == p->experts)
            return skew_placement_random_groups(p, o->groups, o->nodes, &seed);
        skew_placement_random(p, &seed);
        return 0;
    case SKEW_PLACE_LPT:
        result = skew_placement_lpt(p, load);
        return result < 0 ? result : 0;
    case SKEW_PLACE_EPLB:
        return skew_placement_eplb(p, load, 1, 1);
    case SKEW_PLACE_EPLB_GROUPS:
        return skew_placement_eplb(p, load, o->groups, o->nodes);
    case SKEW_PLACE_LPT_GROUPS:
        return skew_placement_lpt_groups(p, load, o->groups, o->nodes);
    case SKEW_PLACE_LOCALITY:
        return fit_locality(p, calls, o, load);
    case SKEW_PLACE_CONTIGUOUS:
    case SKEW_PLACE_COUNT:
        break;
    }
    return 0;
}

int skew_placement_fit(struct skew_placement **out, enum skew_placement_method method,
                       const struct skew_calls *calls, const struct skew_fit_options *o)
{
    uint32_t slots = calls->experts;

    *out = NULL;
    if (!has_data(method, calls, o))
        return -ENODATA;
    if (method == SKEW_PLACE_EPLB || method == SKEW_PLACE_EPLB_GROUPS)
        slots += o->redundant;
    else if (slots % o->ranks != 0 && method != SKEW_PLACE_LPT)
        slots += o->redundant; /* as frameworks do by default: slot s holds expert s mod E */
    if (method == SKEW_PLACE_CURRENT && o->current)
        slots = o->current_slots;
    int result = skew_placement_create(out, calls->experts, o->ranks, slots);
    if (result < 0)
        return result;
    double *load = calloc(calls->experts, sizeof *load);
    if (!load) {
        skew_placement_free(out);
        return -ENOMEM;
    }
    skew_calls_sum(calls, load);
    result = fit(*out, method, calls, o, load);
    free(load);
    if (result < 0)
        skew_placement_free(out);
    return result;
}

struct skew_estimate skew_placement_gain(const double *before, const double *after, size_t n)
{
    double *saved = malloc((n + 1) * sizeof *saved);
    size_t count = 0;

    if (!saved)
        return skew_estimate_none("out of memory");
    for (size_t i = 0; i < n; i++)
        if (!isnan(before[i] - after[i]))
            saved[count++] = before[i] - after[i];
    struct skew_estimate e = skew_mean(saved, count, 0.95);
    free(saved);
    return e;
}

/* ---- age of a profile -------------------------------------------------------------------------
 */

enum { PERMUTATIONS = 999, RANDOM_DRAWS = 8 };

struct ageing {
    const struct skew_calls *calls;
    const struct skew_fit_options *options;
    size_t blocks;
    double *current, *random; /* [blocks] max/mean */
    double *share;            /* [blocks][experts] */
};

static struct skew_calls block(const struct ageing *a, size_t b)
{
    size_t n = a->calls->calls;

    return skew_calls_slice(a->calls, b * n / a->blocks, (b + 1) * n / a->blocks);
}

static int score_blocks(struct ageing *a)
{
    struct skew_fit_options o = *a->options;
    struct skew_placement *p;
    int result = skew_placement_fit(&p, SKEW_PLACE_CURRENT, a->calls, &o);

    if (result < 0)
        return result;
    for (size_t b = 0; b < a->blocks; b++) {
        struct skew_calls view = block(a, b);
        a->current[b] = skew_placement_mean_max(p, view.counts, view.calls);
    }
    skew_placement_free(&p);
    for (int draw = 0; draw < RANDOM_DRAWS && result == 0; draw++) {
        o.seed = a->options->seed + (uint64_t)draw;
        result = skew_placement_fit(&p, SKEW_PLACE_RANDOM, a->calls, &o);
        for (size_t b = 0; b < a->blocks && result == 0; b++) {
            struct skew_calls view = block(a, b);
            a->random[b] += skew_placement_mean_max(p, view.counts, view.calls) / RANDOM_DRAWS;
        }
        skew_placement_free(&p);
    }
    return result;
}

static int score_lags(struct ageing *a, struct skew_drift *drift)
{
    int result = 0;

    for (size_t from = 0; from < a->blocks && result == 0; from++) {
        struct skew_calls view = block(a, from);
        struct skew_placement *p;
        result = skew_placement_fit(&p, SKEW_PLACE_LPT, &view, a->options);
        for (size_t on = from; on < a->blocks && result == 0; on++) {
            struct skew_lag *lag = &drift->lag[on - from];
            struct skew_calls later = block(a, on);
            lag->max_mean += skew_placement_mean_max(p, later.counts, later.calls);
            lag->current += a->current[on];
            lag->random += a->random[on];
            lag->pairs++;
        }
        skew_placement_free(&p);
    }
    for (size_t l = 0; l < a->blocks && result == 0; l++) {
        struct skew_lag *lag = &drift->lag[l];
        lag->lag = l;
        lag->max_mean /= (double)lag->pairs;
        lag->current /= (double)lag->pairs;
        lag->random /= (double)lag->pairs;
    }
    return result;
}

/* Squared distance of the mean shares of the blocks order[0 … half) and the rest. */
static double apart(const struct ageing *a, const uint32_t *order)
{
    size_t half = a->blocks / 2, experts = a->calls->experts;
    double sum = 0;

    for (size_t e = 0; e < experts; e++) {
        double one = 0, other = 0;
        for (size_t b = 0; b < a->blocks; b++)
            *(b < half ? &one : &other) += a->share[order[b] * experts + e];
        double off = one / (double)half - other / (double)(a->blocks - half);
        sum += off * off;
    }
    return sum;
}

static int permute(struct ageing *a, struct skew_drift *drift)
{
    uint32_t *order = calloc(a->blocks, sizeof *order), reached = 1;
    uint64_t seed = a->options->seed;

    if (!order)
        return -ENOMEM;
    for (size_t b = 0; b < a->blocks; b++) {
        struct skew_calls view = block(a, b);
        double *share = a->share + b * view.experts, sum = 0;
        order[b] = (uint32_t)b;
        skew_calls_sum(&view, share);
        for (uint32_t e = 0; e < view.experts; e++)
            sum += share[e];
        for (uint32_t e = 0; e < view.experts && sum > 0; e++)
            share[e] /= sum;
    }
    drift->statistic = apart(a, order);
    for (int i = 0; i < PERMUTATIONS; i++) {
        for (size_t b = a->blocks; b > 1; b--) {
            uint32_t other = skew_random_below(&seed, (uint32_t)b), kept = order[b - 1];
            order[b - 1] = order[other];
            order[other] = kept;
        }
        reached += apart(a, order) >= drift->statistic;
    }
    drift->p = (double)reached / (PERMUTATIONS + 1);
    drift->permutations = PERMUTATIONS;
    free(order);
    return 0;
}

int skew_placement_drift(struct skew_drift *drift, const struct skew_calls *calls,
                         const struct skew_fit_options *options, size_t blocks)
{
    struct ageing a = {.calls = calls, .options = options, .blocks = blocks};

    memset(drift, 0, sizeof *drift);
    if (blocks > calls->calls)
        a.blocks = calls->calls;
    if (a.blocks < 8)
        return -ENODATA;
    a.current = calloc(a.blocks * (2 + (size_t)calls->experts), sizeof *a.current);
    drift->lag = calloc(a.blocks, sizeof *drift->lag);
    int result = a.current && drift->lag ? 0 : -ENOMEM;
    a.random = a.current + a.blocks;
    a.share = a.random + a.blocks;
    if (result == 0)
        result = score_blocks(&a);
    if (result == 0)
        result = score_lags(&a, drift);
    if (result == 0)
        result = permute(&a, drift);
    drift->blocks = drift->lags = a.blocks;
    drift->calls_a_block = calls->calls / a.blocks;
    /* lags that rest on few pairs of blocks say little: the last quarter is not asked */
    double gain = result == 0 ? drift->lag[1].current - drift->lag[1].max_mean : 0;
    for (size_t l = 2; l < a.blocks * 3 / 4 && result == 0 && gain > 0 && !drift->half_life; l++)
        if (drift->lag[l].current - drift->lag[l].max_mean < gain / 2)
            drift->half_life = l;
    free(a.current);
    if (result < 0) {
        free(drift->lag);
        drift->lag = NULL;
    }
    return result;
}
