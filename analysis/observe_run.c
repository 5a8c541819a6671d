/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The numbers of one run of the observatory: means over layers of what router.h says of each, with
 * the series in time of these means for intervals. Pure computation.
 */
#include "observe_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char no_layers[] =
    "no per-expert counts (skewscope router gives intervals from sizes)";

/* ---- means over layers ----------------------------------------------------------------------- */

/*
 * The mean of estimates that may hang together in any way: standard error and ends are the means of
 * theirs, which is never too small (Minkowski). One without an interval takes it from all.
 */
static void mean_add(struct skew_estimate *sum, const struct skew_estimate *e, size_t n)
{
    double share = 1.0 / (double)n;

    sum->value += e->value * share;
    sum->se += e->se * share;
    sum->low += e->low * share;
    sum->high += e->high * share;
    sum->df = fmin(sum->df, e->df);
    sum->level = fmin(sum->level, e->level);
    sum->n = e->n < sum->n ? e->n : sum->n;
    sum->effective = fmin(sum->effective, e->effective);
    if (e->why || !isfinite(e->low)) {
        sum->why = sum->why ? sum->why : e->why;
        sum->level = 0;
    }
}

static const struct skew_estimate mean_start = {
    .df = INFINITY, .level = 1, .n = SIZE_MAX, .effective = INFINITY};

static void add_side(struct skew_observe_side *side, const struct skew_level *level, size_t n)
{
    double share = 1.0 / (double)n;

    if (side->items == 0) {
        side->cv2_beyond = side->cv2_persistent = mean_start;
        for (int m = 0; m < SKEW_METRIC_COUNT; m++)
            side->metric[m].observed = side->metric[m].persistent = mean_start;
    }
    side->items = level->items > side->items ? level->items : side->items;
    for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
        mean_add(&side->metric[m].observed, &level->metric[m].call, n);
        mean_add(&side->metric[m].persistent, &level->metric[m].persistent, n);
        side->metric[m].chance += level->metric[m].chance * share;
        side->metric[m].chance_p95 += level->metric[m].chance_p95 * share;
    }
    side->cv2_call += level->cv2_call * share;
    side->cv2_chance += level->cv2_chance * share;
    mean_add(&side->cv2_beyond, &level->cv2_beyond, n);
    mean_add(&side->cv2_persistent, &level->cv2_persistent, n);
}

/* ---- series ---------------------------------------------------------------------------------- */

struct summing {
    struct skew_observe_run *run;
    double *beyond[SKEW_OBSERVE_SIDES];     /* [rows]: mean over layers of CV² − chance */
    double *persistent[SKEW_OBSERVE_SIDES]; /* [SKEW_LEVEL_SERIES][rows]: means over layers */
    int64_t *id;                            /* of the first layer's calls */
    uint32_t topk;
    size_t layers;
};

static int series_start(struct summing *s, const struct skew_series *first)
{
    struct skew_observe_run *run = s->run;

    run->rows = first->rows;
    s->id = malloc((first->rows + 1) * sizeof *s->id);
    run->tokens_call = calloc(first->rows + 1, sizeof *run->tokens_call);
    for (int side = 0; side < SKEW_OBSERVE_SIDES; side++) {
        s->beyond[side] = calloc(first->rows + 1, sizeof **s->beyond);
        s->persistent[side] = calloc(SKEW_LEVEL_SERIES * first->rows + 1, sizeof **s->persistent);
        if (!s->beyond[side] || !s->persistent[side])
            return -ENOMEM;
        for (int m = 0; m < SKEW_METRIC_COUNT; m++)
            if (!(run->series[side][m] = calloc(first->rows + 1, sizeof(double))))
                return -ENOMEM;
    }
    if (!s->id || !run->tokens_call)
        return -ENOMEM;
    memcpy(s->id, first->id, first->rows * sizeof *s->id);
    return 0;
}

/* One call's items into the series. False: no load, and the series ends here. */
static bool series_put(struct summing *s, int side, size_t t, const double *loads, uint32_t items,
                       const struct skew_routing_layer *layer, double total)
{
    struct skew_metrics m;
    double share = 1.0 / (double)s->layers;

    if (skew_metrics_of(&m, loads, items, NULL) < 0 || !(m.sum > 0))
        return false;
    for (int k = 0; k < SKEW_METRIC_COUNT; k++)
        s->run->series[side][k][t] += m.value[k] * share;
    double tokens = s->topk ? round(total / s->topk) : NAN;
    struct skew_floor_case c = {layer->experts, s->topk, tokens >= 1 ? (uint64_t)tokens : 1, items};
    double cv = m.value[SKEW_METRIC_CV];
    s->beyond[side][t] +=
        (s->topk && layer->experts % items == 0 ? cv * cv - skew_floor_cv2(&c) : NAN) * share;
    return true;
}

/* What persists of one layer, into the series of means. */
static int persistent_put(struct summing *s, int side, const struct skew_level *level,
                          const double *loads, uint32_t items, double confidence)
{
    struct skew_level_input in = {
        .loads = loads, .rows = s->run->rows, .items = items, .level = confidence};
    size_t count = SKEW_LEVEL_SERIES * in.rows;
    double *series = malloc((count + 1) * sizeof *series);
    int result = series ? skew_level_series(series, level, &in) : -ENOMEM;

    for (size_t i = 0; i < count && result == 0; i++)
        s->persistent[side][i] += series[i] / (double)s->layers;
    free(series);
    return result;
}

struct spread { /* experts over ranks */
    struct skew_slot *slots;
    uint32_t *copies;
    double *loads;
    size_t count;
};

static int spread_of(struct spread *p, const struct skew_routing_layer *l, uint32_t ranks)
{
    size_t most = l->slots > l->experts ? l->slots : l->experts;

    p->slots = malloc(most * sizeof *p->slots);
    p->copies = malloc(l->experts * sizeof *p->copies);
    p->loads = malloc((ranks + 1) * sizeof *p->loads);
    if (!p->slots || !p->copies || !p->loads)
        return -ENOMEM;
    int result = skew_routing_slots(l, ranks, p->slots, &p->count);
    if (result == 0)
        skew_slot_copies(p->slots, p->count, l->experts, p->copies);
    return result;
}

static void spread_free(struct spread *p)
{
    free(p->slots);
    free(p->copies);
    free(p->loads);
}

static int series_add(struct summing *s, const struct skew_router_layer *l,
                      const struct skew_series *series, double confidence)
{
    struct skew_observe_run *run = s->run;
    struct spread p = {0};
    double *ranks = malloc((series->rows * l->ranks + 1) * sizeof *ranks);
    int result = !ranks ? -ENOMEM : l->ranks ? spread_of(&p, l->routing, l->ranks) : 0;

    s->topk = l->topk;
    for (size_t t = 0; t < series->rows && result == 0; t++) {
        const double *counts = series->counts + t * series->experts;
        run->aligned &= series_put(s, SKEW_OBSERVE_EXPERT, t, counts, series->experts, l->routing,
                                   series->total[t]);
        run->tokens_call[t] += series->total[t] / (l->topk ? l->topk : 1) / (double)s->layers;
        if (!l->ranks)
            continue;
        skew_slot_loads(p.slots, p.count, p.copies, counts, l->ranks, ranks + t * l->ranks);
        run->aligned &= series_put(s, SKEW_OBSERVE_RANK, t, ranks + t * l->ranks, l->ranks,
                                   l->routing, series->total[t]);
    }
    if (result == 0 && run->aligned)
        result = persistent_put(s, SKEW_OBSERVE_EXPERT, &l->expert, series->counts, series->experts,
                                confidence);
    if (result == 0 && run->aligned && l->ranks)
        result = persistent_put(s, SKEW_OBSERVE_RANK, &l->rank, ranks, l->ranks, confidence);
    spread_free(&p);
    free(ranks);
    return result == -EINVAL ? 0 : result;
}

static int read_series(struct summing *s, const struct skew_router *router, bool incomplete)
{
    struct skew_observe_run *run = s->run;
    int result = 0;

    run->aligned = true;
    for (size_t i = 0; i < router->layers && run->aligned && result == 0; i++) {
        const struct skew_router_layer *l = &router->layer[i];
        struct skew_series series;
        if (l->why)
            continue;
        result = skew_series_of(&series, l->routing, SKEW_BY_CALL, !incomplete);
        if (result < 0)
            return result;
        if (!s->id)
            result = series_start(s, &series);
        if (result == 0) {
            run->aligned = series.rows == run->rows &&
                           memcmp(s->id, series.id, series.rows * sizeof *s->id) == 0;
            if (run->aligned)
                result = series_add(s, l, &series, router->level);
        }
        skew_series_free(&series);
    }
    return result;
}

/* Where layers have the same calls, their means' own series says more than Minkowski's bound. */
static void use_series(struct summing *s, double level)
{
    struct skew_observe_run *run = s->run;

    for (int side = 0; side < SKEW_OBSERVE_SIDES; side++) {
        struct skew_observe_side *numbers = &run->side[side];
        if (!numbers->items)
            continue;
        for (int m = 0; m < SKEW_METRIC_COUNT; m++)
            numbers->metric[m].observed = skew_mean(run->series[side][m], run->rows, level);
        if (isfinite(s->beyond[side][0]))
            numbers->cv2_beyond = skew_mean(s->beyond[side], run->rows, level);
        for (size_t m = 0; m < SKEW_LEVEL_SERIES; m++) {
            const double *series = s->persistent[side] + m * run->rows;
            struct skew_estimate *e =
                m < SKEW_METRIC_COUNT ? &numbers->metric[m].persistent : &numbers->cv2_persistent;
            if (isfinite(series[0]))
                *e = skew_mean_around(e->value, series, run->rows, level);
        }
    }
}

static void drop_series(struct skew_observe_run *run)
{
    for (int side = 0; side < SKEW_OBSERVE_SIDES; side++)
        for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
            free(run->series[side][m]);
            run->series[side][m] = NULL;
        }
    free(run->tokens_call);
    run->tokens_call = NULL;
}

/* ---- a run ----------------------------------------------------------------------------------- */

/* Mean over the calls that were used. */
static double tokens_of(const struct skew_router_layer *l, bool incomplete)
{
    double total = 0;
    size_t calls = 0;

    for (size_t c = 0; c < l->routing->calls; c++)
        if (incomplete || l->routing->call[c].complete) {
            total += (double)l->routing->call[c].total;
            calls++;
        }
    return calls && l->topk ? total / (double)calls / l->topk : NAN;
}

/* The rank side is there only if every layer has one. */
static void add_layers(struct skew_observe_run *run, const struct skew_router *router,
                       bool incomplete)
{
    bool ranks = true;
    double tokens = 0;

    for (size_t i = 0; i < router->layers; i++)
        if (!router->layer[i].why && router->layer[i].ranks < 2)
            ranks = false;
    for (size_t i = 0; i < router->layers; i++) {
        const struct skew_router_layer *l = &router->layer[i];
        if (l->why)
            continue;
        if (!run->experts) {
            run->experts = l->routing->experts;
            run->topk = l->topk;
            run->ranks = ranks ? l->ranks : 0;
        }
        if (l->calls > run->rows)
            run->rows = l->calls;
        tokens += tokens_of(l, incomplete) / (double)run->layers;
        add_side(&run->side[SKEW_OBSERVE_EXPERT], &l->expert, run->layers);
        if (ranks)
            add_side(&run->side[SKEW_OBSERVE_RANK], &l->rank, run->layers);
        run->unlayered |= l->routing->layer < 0;
        run->topk_assumed |= l->topk_assumed;
        run->layers_beyond += l->beyond_chance;
        run->layers_persistent += l->persistent;
        run->layers_untested += isnan(l->adjusted_persistent);
        run->p_beyond = fmin(run->p_beyond, l->adjusted_beyond); /* fmin passes NaN over */
        run->p_persistent = fmin(run->p_persistent, l->adjusted_persistent);
    }
    run->tokens = tokens;
}

int skew_observe_run_fill(struct skew_observe_run *run, const struct skew_routing *routing,
                          uint32_t ranks, uint32_t topk, const struct skew_observe_options *options)
{
    struct skew_router_options how = {
        .level = options->level, .ranks = ranks, .topk = topk, .incomplete = options->incomplete};
    struct summing s = {.run = run};
    struct skew_router *router = NULL;
    size_t layers = 0;

    run->tokens = run->p_beyond = run->p_persistent = NAN;
    if (routing)
        skew_routing_layers(routing, &layers);
    if (!layers) {
        run->why = no_layers;
        return 0;
    }
    int result = skew_router_analyse(&router, routing, &how);
    if (result < 0)
        return result;
    for (size_t i = 0; i < router->layers; i++) {
        const struct skew_router_layer *l = &router->layer[i];
        run->layers += !l->why;
        run->layers_unusable += l->why != NULL;
        if (l->why)
            run->why = l->why;
    }
    if (run->layers) {
        run->why = NULL;
        add_layers(run, router, options->incomplete);
        s.layers = run->layers;
        result = read_series(&s, router, options->incomplete);
        if (result == 0 && run->aligned)
            use_series(&s, options->level);
    }
    if (result < 0 || !run->aligned)
        drop_series(run);
    for (int side = 0; side < SKEW_OBSERVE_SIDES; side++) {
        free(s.beyond[side]);
        free(s.persistent[side]);
    }
    free(s.id);
    skew_router_free(&router);
    return result;
}
