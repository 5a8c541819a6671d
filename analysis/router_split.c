/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a placement could change: the split of the skew, and the curve over the number of ranks.
 * Every placement is fitted on one half of the calls and scored, call by call, on the other, both
 * ways.
 */
#include "router_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_PLACEMENTS = 20 };

/* Loads of calls from … to, each call with weight 1 (shares), so that none counts for its size. */
static void mean_shares(const struct skew_series *s, size_t from, size_t to, double *mean)
{
    memset(mean, 0, s->experts * sizeof *mean);
    for (size_t t = from; t < to; t++)
        for (uint32_t e = 0; e < s->experts && s->total[t] > 0; e++)
            mean[e] += s->counts[t * s->experts + e] / s->total[t];
}

static double max_mean(const double *loads, uint32_t n)
{
    double sum = 0, max = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += loads[i];
        if (loads[i] > max)
            max = loads[i];
    }
    return sum > 0 ? max * n / sum : NAN;
}

/* Fits `placement` on the mean shares of a half. */
static int fit(struct skew_placement *placement, const struct skew_series *s, size_t from,
               size_t to, double *mean)
{
    mean_shares(s, from, to, mean);
    if (placement->slots == placement->experts)
        return skew_placement_lpt(placement, mean);
    int result = skew_placement_eplb(placement, mean, 1, 1);
    return result < 0 ? result : skew_placement_improve(placement, mean);
}

/*
 * max/mean of every call under a placement fitted on the half that the call is not in: score[rows].
 * The placement is left as fitted on the second half.
 */
static int held_out(struct skew_placement *placement, const struct skew_series *s, double *mean,
                    double *loads, double *score)
{
    size_t half = s->rows / 2;

    for (int side = 0; side < 2; side++) {
        int result =
            side == 0 ? fit(placement, s, 0, half, mean) : fit(placement, s, half, s->rows, mean);
        if (result < 0)
            return result;
        size_t from = side == 0 ? half : 0, to = side == 0 ? s->rows : half;
        for (size_t t = from; t < to; t++) {
            skew_placement_rank_loads(placement, s->counts + t * s->experts, loads);
            score[t] = max_mean(loads, placement->ranks);
        }
    }
    return 0;
}

static double mean_of(const double *x, size_t n)
{
    double sum = 0;
    size_t count = 0;

    for (size_t t = 0; t < n; t++)
        if (!isnan(x[t])) {
            sum += x[t];
            count++;
        }
    return count ? sum / (double)count : NAN;
}

struct scratch {
    struct skew_placement *placement, *replicated;
    double *mean, *loads, *score, *other, *difference;
};

static void release(struct scratch *w)
{
    skew_placement_free(&w->placement);
    skew_placement_free(&w->replicated);
    free(w->mean);
    free(w->loads);
    free(w->score);
    free(w->other);
    free(w->difference);
}

static int prepare(struct scratch *w, const struct skew_series *s, uint32_t ranks)
{
    w->mean = malloc(s->experts * sizeof *w->mean);
    w->loads = malloc(ranks * sizeof *w->loads);
    w->score = malloc((s->rows + 1) * sizeof *w->score);
    w->other = malloc((s->rows + 1) * sizeof *w->other);
    w->difference = malloc((s->rows + 1) * sizeof *w->difference);
    if (!w->mean || !w->loads || !w->score || !w->other || !w->difference)
        return -ENOMEM;
    return skew_placement_create(&w->placement, s->experts, ranks, s->experts);
}

/* ---- the split ------------------------------------------------------------------------------- */

static double within(double value, double most)
{
    return !(value > 0) ? 0 : value < most ? value : most;
}

/* What one spare slot a rank gains beyond the placement: score against w->score. */
static int with_replicas(struct skew_router_split *split, struct scratch *w,
                         const struct skew_series *s, uint32_t ranks)
{
    int result = skew_placement_create(&w->replicated, s->experts, ranks, s->experts + ranks);

    if (result == -EINVAL) /* more slots than there may be: no answer rather than a failure */
        return 0;
    if (result == 0)
        result = held_out(w->replicated, s, w->mean, w->loads, w->other);
    if (result < 0)
        return result;
    split->replicas = within(mean_of(w->score, s->rows) - mean_of(w->other, s->rows), INFINITY);
    mean_shares(s, 0, s->rows, w->mean);
    split->replicas_bound = skew_placement_bound(w->replicated, w->mean);
    return 0;
}

int skew_router_split_of(struct skew_router_layer *layer, const struct skew_series *s,
                         const double *rank_loads, double level)
{
    struct skew_router_split *split = &layer->split;
    const struct skew_level_metric *m = &layer->rank.metric[SKEW_METRIC_MAX_MEAN];
    struct scratch w = {0};
    uint32_t ranks = layer->ranks;
    int result = prepare(&w, s, ranks);

    *split = (struct skew_router_split){.known = true,
                                        .observed = m->call.value - 1,
                                        .chance = m->chance - 1,
                                        .unfixable = NAN,
                                        .placement = NAN,
                                        .undecided = NAN,
                                        .replicas = NAN,
                                        .replicas_bound = NAN};
    split->gain = skew_estimate_none("one call alone cannot be split into halves");
    if (result < 0)
        goto out;
    /* Mean loads of ranks, each call with the same weight. */
    memset(w.loads, 0, ranks * sizeof *w.loads);
    for (size_t t = 0; t < s->rows; t++)
        for (uint32_t r = 0; r < ranks && s->total[t] > 0; r++)
            w.loads[r] += rank_loads[t * ranks + r] / s->total[t];
    split->persistent = max_mean(w.loads, ranks) - 1;
    split->transient = split->observed - split->persistent;
    mean_shares(s, 0, s->rows, w.mean);
    split->bound = skew_placement_bound(w.placement, w.mean);
    if (s->rows < 2) {
        split->why = "one call alone cannot tell what persists";
        goto out;
    }
    result = held_out(w.placement, s, w.mean, w.loads, w.score);
    for (size_t t = 0; t < s->rows && result == 0; t++) {
        w.difference[t] = max_mean(rank_loads + t * ranks, ranks) - w.score[t];
        if (isnan(w.difference[t]))
            w.difference[t] = 0; /* an empty call gains nothing */
    }
    if (result == 0) {
        split->gain = skew_mean(w.difference, s->rows, level);
        result = with_replicas(split, &w, s, ranks);
    }

out:
    release(&w);
    return result < 0 ? result : 0;
}

/* The parts, once it is known over all layers whether anything persists here. */
void skew_router_attribute(struct skew_router_layer *layer)
{
    struct skew_router_split *split = &layer->split;

    if (!split->known || split->why)
        return;
    split->unfixable = split->placement = 0;
    if (isnan(split->chance)) {
        split->why = "the chance floor is not known: top-k is missing";
        split->unfixable = split->placement = NAN;
        return;
    }
    double left = fmax(0, split->observed - split->chance);
    if (isnan(layer->adjusted_persistent)) {
        split->why = "there are too few calls to tell what persists";
    } else if (!layer->persistent) {
        split->why = layer->beyond_chance ? "what is beyond chance comes and goes"
                                          : "there is no imbalance beyond chance";
    } else {

        split->unfixable = within(split->bound - 1 - split->chance, left);
        split->placement = within(split->gain.value, left - split->unfixable);
    }
    if (!layer->persistent)
        split->replicas = 0;
    split->undecided = left - split->unfixable - split->placement;
}

/* ---- the curve ------------------------------------------------------------------------------- */

static int pooled_point(struct skew_router_point *p, struct scratch *w, const struct skew_series *s,
                        const struct skew_slot *slots, size_t slot_count, const uint32_t *copies)
{
    uint64_t seed = 1;

    memset(w->mean, 0, s->experts * sizeof *w->mean);
    for (size_t t = 0; t < s->rows; t++)
        for (uint32_t e = 0; e < s->experts; e++)
            w->mean[e] += s->counts[t * s->experts + e];
    skew_slot_loads(slots, slot_count, copies, w->mean, p->ranks, w->loads);
    p->pooled = max_mean(w->loads, p->ranks);
    p->bound = skew_placement_bound(w->placement, w->mean);
    p->random = 0;
    for (int i = 0; i < RANDOM_PLACEMENTS; i++) {
        skew_placement_random(w->placement, &seed);
        p->random += skew_placement_max_mean(w->placement, w->mean) / RANDOM_PLACEMENTS;
    }
    int result = skew_placement_lpt(w->placement, w->mean);
    p->fitted = skew_placement_max_mean(w->placement, w->mean);
    return result < 0 ? result : 0;
}

static int chance_point(struct skew_router_point *p, const struct skew_series *s, uint32_t topk,
                        struct skew_floors *floors)
{
    double sum = 0;
    size_t calls = 0;

    p->chance = NAN;
    for (size_t t = 0; t < s->rows && topk && floors; t++) {
        struct skew_floor_case c = {s->experts, topk, (uint64_t)llround(s->total[t] / topk),
                                    p->ranks};
        struct skew_floor floor;
        if (c.tokens == 0)
            continue;
        int result = skew_floors_get(floors, &c, &floor);
        if (result == -ENOMEM)
            return result;
        if (result < 0)
            return 0;
        sum += floor.mean[SKEW_METRIC_MAX_MEAN];
        calls++;
    }
    if (calls)
        p->chance = sum / (double)calls;
    return 0;
}

int skew_router_point_of(struct skew_router_point *p, const struct skew_routing_layer *layer,
                         const struct skew_series *s, uint32_t ranks, uint32_t topk,
                         struct skew_floors *floors)
{
    struct scratch w = {0};
    size_t most = layer->slots > layer->experts ? layer->slots : layer->experts, count = 0;
    struct skew_slot *slots = malloc(most * sizeof *slots);
    uint32_t *copies = malloc(layer->experts * sizeof *copies);
    int result = slots && copies ? 0 : -ENOMEM;

    *p = (struct skew_router_point){.ranks = ranks, .heldout = NAN};
    if (result == 0)
        result = skew_routing_slots(layer, ranks, slots, &count);
    if (result == 0)
        result = prepare(&w, s, ranks);
    if (result == 0) {
        skew_slot_copies(slots, count, layer->experts, copies);
        for (size_t t = 0; t < s->rows; t++) {
            skew_slot_loads(slots, count, copies, s->counts + t * s->experts, ranks, w.loads);
            w.score[t] = max_mean(w.loads, ranks);
        }
        p->observed = mean_of(w.score, s->rows);
        result = pooled_point(p, &w, s, slots, count, copies);
    }
    if (result == 0)
        result = chance_point(p, s, topk, floors);
    if (result == 0 && s->rows > 1) {
        result = held_out(w.placement, s, w.mean, w.loads, w.score);
        p->heldout = mean_of(w.score, s->rows);
    }
    release(&w);
    free(slots);
    free(copies);
    return result < 0 ? result : 0;
}
