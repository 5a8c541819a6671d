/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Intervals of `skewscope whatif placement`: the gain of a placement found on one half of the calls
 * and scored on the other, and the correlation of prefill and decode over requests. Truth: the mean
 * over all seeds.
 */
#include "coverage.h"
#include "placement_score.h"
#include "request_groups.h"
#include "world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* max/mean of each call with experts contiguous, and under LPT of the half that it is not in. */
static void score(const struct world *w, struct skew_placement *p, double *before, double *after)
{
    size_t calls = (size_t)w->spec.steps, experts = (size_t)w->spec.experts;
    double load[WORLD_EXPERTS_MAX];

    skew_placement_contiguous(p);
    for (size_t t = 0; t < calls; t++)
        before[t] = skew_placement_max_mean(p, w->counts + t * experts);
    for (int side = 0; side < 2; side++) {
        size_t from = side ? calls / 2 : 0, to = side ? calls : calls / 2;
        memset(load, 0, sizeof load);
        for (size_t t = from; t < to; t++)
            for (size_t e = 0; e < experts; e++)
                load[e] += w->counts[t * experts + e];
        if (skew_placement_lpt(p, load) < 0)
            abort();
        from = side ? 0 : calls / 2;
        to = side ? calls / 2 : calls;
        for (size_t t = from; t < to; t++)
            after[t] = skew_placement_max_mean(p, w->counts + t * experts);
    }
}

static void cover_gain(struct cover *c, const char *scenario, const char *const *settings)
{
    struct skew_placement *p;
    struct world w;

    world_open(&w, settings);
    uint32_t experts = (uint32_t)w.spec.experts;
    size_t steps = (size_t)w.spec.steps;
    double *before = malloc(steps * sizeof *before), *after = malloc(steps * sizeof *after);
    if (skew_placement_create(&p, experts, (uint32_t)w.spec.ranks, experts) < 0)
        abort();
    for (size_t s = 0; s < cover_seeds(c); s++) {
        world_draw(&w, 1000 + (int64_t)s);
        score(&w, p, before, after);
        struct skew_estimate e = skew_placement_gain(before, after, steps);
        cover_add(c, "whatif placement gain", scenario, &e, COVER_LATER);
    }
    skew_placement_free(&p);
    free(before);
    free(after);
    world_close(&w);
}

/* ---- requests -------------------------------------------------------------------------------- */

enum { EXPERTS = 32, REQUESTS_MAX = 64 };

static void draw_counts(struct skew_rng *rng, const double *weight, int copies, double *counts)
{
    double sum[EXPERTS], total = 0;

    for (int e = 0; e < EXPERTS; e++)
        sum[e] = total += weight[e];
    memset(counts, 0, EXPERTS * sizeof *counts);
    for (int i = 0; i < copies; i++) {
        double u = skew_rng_uniform(rng) * total;
        int e = 0;
        while (sum[e] < u)
            e++;
        counts[e]++;
    }
}

/* Popularity of an expert: the layer's, the stage's and the request's own part. */
static void cover_correlation(struct cover *c, size_t requests, double stage)
{
    static double prefill[REQUESTS_MAX * EXPERTS], decode[REQUESTS_MAX * EXPERTS];
    double layer[EXPERTS], of_stage[2][EXPERTS];
    struct skew_rng rng;
    char scenario[64];

    snprintf(scenario, sizeof scenario, "%zu requests, stages differ by %.1f", requests, stage);
    skew_rng_seed(&rng, 60 + requests);
    for (int e = 0; e < EXPERTS; e++) {
        layer[e] = 0.4 * skew_rng_normal(&rng);
        for (int i = 0; i < 2; i++)
            of_stage[i][e] = stage * skew_rng_normal(&rng);
    }
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct skew_correlation r;
        for (size_t q = 0; q < requests; q++) {
            double weight[2][EXPERTS];
            for (int e = 0; e < EXPERTS; e++) {
                double own = 0.6 * skew_rng_normal(&rng);
                for (int i = 0; i < 2; i++)
                    weight[i][e] = exp(layer[e] + own + of_stage[i][e]);
            }
            draw_counts(&rng, weight[0], 400, prefill + q * EXPERTS);
            draw_counts(&rng, weight[1], 800, decode + q * EXPERTS);
        }
        if (skew_prefill_decode(&r, prefill, decode, requests, EXPERTS, 200, 9 + s) < 0)
            abort();
        struct skew_estimate e = {
            .value = r.pearson, .low = r.low, .high = r.high, .level = isnan(r.low) ? 0 : 0.95};
        cover_add(c, "whatif placement requests.correlation.pearson", scenario, &e, COVER_LATER);
    }
}

int cover_placement(void)
{
    struct cover *c = cover_open("What if: placement", 60);

    cover_gain(c, "independent", SETTINGS("routing=dirichlet"));
    cover_gain(c, "bursts of 8", SETTINGS("routing=zipf", "correlation=bursts", "design_effect=8"));
    cover_gain(c, "AR(1) .5", SETTINGS("routing=dirichlet", "correlation=ar1", "ar_phi=0.5"));
    cover_gain(c, "AR(1) .9, 500 calls",
               SETTINGS("routing=dirichlet", "correlation=ar1", "ar_phi=0.9", "steps=500"));
    cover_gain(c, "requests of 8 steps, 500 calls",
               SETTINGS("routing=dirichlet", "correlation=requests", "requests=8",
                        "request_steps=8", "steps=500"));
    cover_gain(c, "uniform", SETTINGS("routing=uniform"));
    cover_correlation(c, 16, 0.3);
    cover_correlation(c, 32, 0.3);
    cover_correlation(c, 64, 0.3);
    cover_correlation(c, 64, 0.1);
    return cover_close(c);
}
