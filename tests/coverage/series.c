/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Means of series with known parameters, and the moment estimate. The series are what any mean over
 * calls or steps is taken of: autoregressions, with and without sampling noise on top.
 */
#include "coverage.h"
#include "metrics.h"
#include "skew.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct series_case {
    const char *name;
    size_t n;
    double phi, noise; /* of the autoregression, variance 1; sd of what is independent on top */
    double stated;     /* least share of seeds with an interval */
    double least;      /* of coverage; NaN: as for all */
    const char *why;
};

static const char few[] = "fewer than 20 independent values are behind it: most are refused";

static const struct series_case cases[] = {
    {"independent, 40", 40, 0, 0, 0.9, NAN, NULL},
    {"independent, 100", 100, 0, 0, 0.99, NAN, NULL},
    {"independent, 200", 200, 0, 0, 0.99, NAN, NULL},
    {"AR(1) −.5, 200", 200, -0.5, 0, 0.99, NAN, NULL},
    {"AR(1) .5, 200", 200, 0.5, 0, 0.99, NAN, NULL},
    {"AR(1) .7, 200", 200, 0.7, 0, 0.9, NAN, NULL},
    {"AR(1) .8, 500", 500, 0.8, 0, 0.99, NAN, NULL},
    {"AR(1) .95, 2,000", 2000, 0.95, 0, 0.99, NAN, NULL},
    {"AR(1) .5 under 4 × noise, 200", 200, 0.5, 2, 0.99, NAN, NULL},
    {"AR(1) .8 under 1 × noise, 500", 500, 0.8, 1, 0.99, NAN, NULL},
    {"AR(1) .9 under 4 × noise, 200", 200, 0.9, 2, 0.9, NAN, NULL},
    {"AR(1) .9 under 4 × noise, 500", 500, 0.9, 2, 0.99, NAN, NULL},
    {"AR(1) .95 under 4 × noise, 500", 500, 0.95, 2, 0.99, NAN, NULL},
    {"AR(1) .98 under 4 × noise, 2,000", 2000, 0.98, 2, 0.99, NAN, NULL},
    {"AR(1) .9, 200 (11 independent)", 200, 0.9, 0, 0, 0.6, few},
    {"AR(1) .95, 500 (13 independent)", 500, 0.95, 0, 0, 0.6, few},
    {"AR(1) .98 under 4 × noise, 200 (13 independent)", 200, 0.98, 2, 0, 0.7,
     "a drift longer than the series looks like none"},
};

static void cover_case(struct cover *c, const struct series_case *one, uint64_t seed)
{
    double *x = malloc(one->n * sizeof *x), step = sqrt(1 - one->phi * one->phi);
    struct skew_rng rng;

    skew_rng_seed(&rng, seed);
    for (size_t s = 0; s < cover_seeds(c); s++) {
        double y = skew_rng_normal(&rng);
        for (size_t i = 0; i < one->n; i++) {
            x[i] = 10 + y + one->noise * skew_rng_normal(&rng);
            y = one->phi * y + step * skew_rng_normal(&rng);
        }
        struct skew_estimate e = skew_mean(x, one->n, 0.95);
        cover_add(c, "mean of a series", one->name, &e, 10);
    }
    cover_stated(c, "mean of a series", one->name, one->stated);
    if (one->why)
        cover_known(c, "mean of a series", one->name, one->least, 1, one->why);
    free(x);
}

/* A random walk under noise has no mean: what is asked is that it is mostly refused. */
static void random_walk(struct cover *c)
{
    enum { N = 200 };
    size_t given = 0;
    struct skew_rng rng;

    skew_rng_seed(&rng, 77);
    for (size_t s = 0; s < cover_seeds(c); s++) {
        double x[N], y = 0;
        for (int i = 0; i < N; i++) {
            x[i] = y + skew_rng_normal(&rng);
            y += 0.3 * skew_rng_normal(&rng);
        }
        struct skew_estimate e = skew_mean(x, N, 0.95);
        given += e.level > 0;
    }
    cover_share(c, "an interval is given", "random walk, sd .3 a step under noise of 1, 200", given,
                cover_seeds(c), 0, 0.1);
}

/* The experts' CV from that of ranks, over routers of 4 layers. */
static void moment(struct cover *c, uint32_t ranks)
{
    enum { LAYERS = 4, EXPERTS = 64 };
    struct skew_rng rng;
    char name[48];

    snprintf(name, sizeof name, "4 layers, E = 64, R = %u", ranks);
    skew_rng_seed(&rng, 55 + ranks);
    for (size_t s = 0; s < cover_seeds(c); s++) {
        double cv2[LAYERS], truth = 0;
        for (int l = 0; l < LAYERS; l++) {
            double x[EXPERTS], load[EXPERTS] = {0};
            struct skew_metrics e, r;
            for (uint32_t i = 0; i < EXPERTS; i++)
                load[i / (EXPERTS / ranks)] += x[i] = exp(0.4 * skew_rng_normal(&rng));
            skew_metrics_of(&e, x, EXPERTS, NULL);
            skew_metrics_of(&r, load, ranks, NULL);
            truth += e.value[SKEW_METRIC_CV] * e.value[SKEW_METRIC_CV] / LAYERS;
            cv2[l] = r.value[SKEW_METRIC_CV] * r.value[SKEW_METRIC_CV];
        }
        struct skew_estimate e = skew_expert_moment(cv2, LAYERS, ranks, EXPERTS, 0.95);
        cover_add(c, "router expert_cv_moment", name, &e, sqrt(truth));
    }
}

int cover_series(void)
{
    struct cover *c = cover_open("Series", 400);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cover_case(c, &cases[i], 100 + i);
    random_walk(c);
    moment(c, 8);
    moment(c, 16);
    moment(c, 32);
    return cover_close(c);
}
