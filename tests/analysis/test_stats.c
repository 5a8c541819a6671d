/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics against closed forms, floors against fresh simulation, intervals by their coverage over
 * many seeds. SKEWSCOPE_TEST_LONG=1: 1,000 seeds a case and 4,000 fresh trials a floor everywhere;
 * by default fewer, with bands that a right program leaves once in a thousand runs at most (and
 * never here: the seeds are fixed).
 */
#include "floor.h"
#include "metrics_level.h"
#include "skew.h"
#include "stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
static bool longer;

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            failures++;                                                                            \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                 \
            printf(__VA_ARGS__);                                                                   \
            putchar('\n');                                                                         \
        }                                                                                          \
    } while (0)

static bool near(double a, double b, double tolerance)
{
    return fabs(a - b) <= tolerance;
}

/* ---- closed forms ---------------------------------------------------------------------------- */

static void test_metrics(void)
{
    double ramp[10], one[8] = {0, 0, 0, 5}, even[8] = {3, 3, 3, 3, 3, 3, 3, 3};
    struct skew_metrics m;

    for (int i = 0; i < 10; i++)
        ramp[i] = 10 - i;
    skew_metrics_of(&m, ramp, 10, NULL);
    CHECK(near(m.value[SKEW_METRIC_GINI], 0.3, 1e-12), "%g", m.value[SKEW_METRIC_GINI]);
    CHECK(near(m.value[SKEW_METRIC_MAX_MEAN], 10 / 5.5, 1e-12), "%g", m.value[1]);
    CHECK(near(m.value[SKEW_METRIC_CV], sqrt(8.25) / 5.5, 1e-12), "%g", m.value[2]);
    skew_metrics_of(&m, one, 8, NULL);
    CHECK(near(m.value[SKEW_METRIC_GINI], 1 - 1.0 / 8, 1e-12), "%g", m.value[0]);
    CHECK(near(m.value[SKEW_METRIC_MAX_MEAN], 8, 1e-12), "%g", m.value[1]);
    CHECK(near(m.value[SKEW_METRIC_CV], sqrt(7), 1e-12), "%g", m.value[2]);
    CHECK(near(m.value[SKEW_METRIC_ENTROPY], 0, 1e-12), "%g", m.value[3]);
    CHECK(m.hottest == 3 && m.zeros == 7, "%u %u", m.hottest, m.zeros);
    skew_metrics_of(&m, even, 8, NULL);
    CHECK(near(m.value[SKEW_METRIC_GINI], 0, 1e-12) && near(m.value[SKEW_METRIC_ENTROPY], 1, 1e-12),
          "%g %g", m.value[0], m.value[3]);
    skew_metrics_of(&m, one, 3, NULL);
    CHECK(isnan(m.value[SKEW_METRIC_GINI]) && isnan(m.value[SKEW_METRIC_MAX_MEAN]), "no load");
}

/* Gradients against differences. */
/* Every length of a last run, ties, and more values than are merged. */
static void test_sort(void)
{
    static double values[5000];
    struct skew_rng rng;

    skew_rng_seed(&rng, 8);
    for (size_t n = 0; n <= 5000; n = n < 300 ? n + 1 : n + 470) {
        double sum = 0, again = 0;
        size_t falls = 0;
        for (size_t i = 0; i < n; i++)
            sum += values[i] = (double)skew_rng_below(&rng, n % 2 ? 5 : 1000000) - 2;
        skew_sort(values, n);
        for (size_t i = 0; i < n; i++) {
            again += values[i];
            falls += i > 0 && values[i] < values[i - 1];
        }
        CHECK(falls == 0 && again == sum, "%zu values: %zu falls, sum %g of %g", n, falls, again,
              sum);
    }
}

static void test_gradients(void)
{
    const double loads[] = {4, 9, 1.5, 7, 2, 12, 3.25};
    enum { N = 7 };
    double gradient[N];

    for (int k = 0; k < SKEW_METRIC_COUNT; k++) {
        skew_metrics_gradient((enum skew_metric)k, loads, N, gradient);
        for (int i = 0; i < N; i++) {
            struct skew_metrics up, down;
            double moved[N], h = 1e-5;
            memcpy(moved, loads, sizeof moved);
            moved[i] += h;
            skew_metrics_of(&up, moved, N, NULL);
            moved[i] -= 2 * h;
            skew_metrics_of(&down, moved, N, NULL);
            double slope = (up.value[k] - down.value[k]) / (2 * h);
            CHECK(near(gradient[i], slope, 1e-7), "%s %d: %g, not %g",
                  skew_metric_name((enum skew_metric)k), i, gradient[i], slope);
        }
    }
}

static void test_balancedness(void)
{
    const double loads[] = {100, 200, 100, 200}, mixed[] = {1, 3, 40, 0};

    for (int f = 0; f < SKEW_BALANCE_COUNT; f++)
        CHECK(near(skew_balancedness((enum skew_balancedness)f, loads, 2, 2), 0.75, 1e-7), "%d", f);
    CHECK(near(skew_balancedness(SKEW_BALANCE_RATIO_OF_SUMS, mixed, 2, 2), 22.0 / 43, 1e-12),
          "sums");
    CHECK(near(skew_balancedness(SKEW_BALANCE_MEAN_OF_RATIOS, mixed, 2, 2), (2.0 / 3 + 0.5) / 2,
               1e-12),
          "ratios");
    CHECK(near(skew_balancedness(SKEW_BALANCE_SUMMED_FIRST, mixed, 2, 2), 22.0 / 41, 1e-12),
          "first");
}

static void test_distributions(void)
{
    CHECK(near(skew_normal_quantile(0.975), 1.959963985, 1e-8), "%.9f",
          skew_normal_quantile(0.975));
    CHECK(near(skew_student_quantile(0.975, 5), 2.570581836, 1e-8), "%.9f",
          skew_student_quantile(0.975, 5));
    CHECK(near(skew_student_quantile(0.95, 2.5), 2.5582, 2e-3), "%.9f",
          skew_student_quantile(0.95, 2.5));
    CHECK(near(skew_student_quantile(0.025, 30), -2.042272456, 1e-8), "%.9f",
          skew_student_quantile(0.025, 30));
    CHECK(near(skew_chi2_quantile(0.95, 10), 18.30703805, 1e-6), "%.9f",
          skew_chi2_quantile(0.95, 10));
    CHECK(near(skew_chi2_cdf(2, 2), 1 - exp(-1), 1e-12), "%.12f", skew_chi2_cdf(2, 2));
}

static void test_several(void)
{
    const double p[] = {0.01, 0.04, NAN, 0.03, 0.005};
    double adjusted[5];
    struct skew_estimate a = {.value = 2.35, .se = 0.1, .df = 1e9, .n = 100},
                         b = {.value = 1, .se = 0.2, .df = 1e9, .n = 100}, r;

    skew_holm(p, 5, adjusted);
    CHECK(near(adjusted[0], 0.03, 1e-12) && near(adjusted[1], 0.06, 1e-12) && isnan(adjusted[2]) &&
              near(adjusted[3], 0.06, 1e-12) && near(adjusted[4], 0.02, 1e-12),
          "%g %g %g %g", adjusted[0], adjusted[1], adjusted[3], adjusted[4]);
    r = skew_ratio(&a, &b, 0.95);
    /* Both ends solve (a - r b)² = z² (va + r² vb). */
    for (int end = 0; end < 2; end++) {
        double x = end ? r.high : r.low, z = 1.959963985;
        CHECK(near((2.35 - x) * (2.35 - x), z * z * (0.01 + x * x * 0.04), 1e-6), "%g", x);
    }
    b.se = 0.6;
    r = skew_ratio(&a, &b, 0.95);
    CHECK(r.why && isnan(r.low), "unbounded");
    a = (struct skew_estimate){.value = 0.01, .se = 0.01, .df = 1e9};
    CHECK(near(skew_tost(&a, -0.05, 0.05), 1 - skew_normal_cdf(4), 1e-9), "%g",
          skew_tost(&a, -0.05, 0.05));
    CHECK(skew_tost(&a, -0.02, 0.02) > 0.05, "%g", skew_tost(&a, -0.02, 0.02));
}

/* Bounds: attained, and kept by random loads. */
static void test_bounds(void)
{
    struct skew_rng rng;
    double low, high;

    skew_rng_seed(&rng, 7);
    for (int round = 0; round < 300; round++) {
        double experts[32] = {0}, ranks[8] = {0};
        struct skew_metrics e, r;
        for (int i = 0; i < 32; i++) {
            /* every third time all of a rank's load on one expert: the upper bound */
            experts[i] = round % 3 == 0 && i % 4 ? 0 : exp(2 * skew_rng_normal(&rng));
            ranks[i / 4] += experts[i];
        }
        skew_metrics_of(&e, experts, 32, NULL);
        skew_metrics_of(&r, ranks, 8, NULL);
        for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
            skew_expert_bounds((enum skew_metric)m, r.value[m], 8, 32, &low, &high);
            CHECK(low - 1e-9 <= e.value[m] && e.value[m] <= high + 1e-9, "%d: %g not in %g … %g", m,
                  e.value[m], low, high);
            if (round % 3 == 0 && m != SKEW_METRIC_ENTROPY)
                CHECK(near(e.value[m], high, 1e-9), "%d: %g is attained, not %g", m, high,
                      e.value[m]);
        }
    }
    CHECK(skew_expert_bounds(SKEW_METRIC_GINI, 0.3, 8, 8, &low, &high) == 0 && low == 0.3 &&
              near(high, 0.3, 1e-15),
          "g = 1");
}

/* ---- floors ---------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Fresh trials that share nothing with floor.c but the metrics: k distinct experts by a partial
 * shuffle, and the 95 % point counted off. */
static void fresh_floor(const struct skew_floor_case *c, size_t trials, uint64_t seed,
                        struct skew_floor *floor)
{
    uint32_t *deck = malloc(c->experts * sizeof *deck);
    double *loads = malloc(c->ranks * sizeof *loads);
    double *values = malloc(SKEW_METRIC_COUNT * trials * sizeof *values);
    struct skew_rng rng;

    skew_rng_seed(&rng, seed);
    for (uint32_t e = 0; e < c->experts; e++)
        deck[e] = e;
    for (size_t t = 0; t < trials; t++) {
        struct skew_metrics m;
        memset(loads, 0, c->ranks * sizeof *loads);
        for (uint64_t i = 0; i < c->tokens; i++) {
            for (uint32_t k = 0; k < c->topk; k++) {
                uint32_t at = k + skew_rng_below(&rng, c->experts - k), e = deck[at];
                deck[at] = deck[k];
                deck[k] = e;
                loads[e / (c->experts / c->ranks)]++;
            }
        }
        skew_metrics_of(&m, loads, c->ranks, NULL);
        for (int k = 0; k < SKEW_METRIC_COUNT; k++)
            values[(size_t)k * trials + t] = m.value[k];
    }
    for (int k = 0; k < SKEW_METRIC_COUNT; k++) {
        double *of = values + (size_t)k * trials;
        qsort(of, trials, sizeof *of, compare);
        floor->mean[k] = 0;
        for (size_t t = 0; t < trials; t++)
            floor->mean[k] += of[t] / (double)trials;
        floor->p95[k] = of[k == SKEW_METRIC_ENTROPY ? trials / 20 : trials - 1 - trials / 20];
    }
    free(deck);
    free(loads);
    free(values);
}

static void test_floors(void)
{
    /* The table of facts/science.md §4.2, and what it says at the level of ranks. */
    static const struct skew_floor_case cases[] = {
        {8, 2, 4096, 8},     {64, 6, 256, 64},   {64, 6, 4096, 64},   {128, 8, 256, 128},
        {128, 8, 4096, 128}, {256, 8, 256, 256}, {256, 8, 4096, 256}, {128, 1, 375, 128},
        {64, 6, 300, 8},     {256, 8, 1000, 32}, {8, 6, 100, 8}};
    struct skew_floors *floors;

    skew_floors_create(&floors);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct skew_floor_case *c = &cases[i];
        struct skew_floor have, fresh, formula;
        /* Where a trial is cheap 4,000; the rest only in the long form. */
        bool cheap = c->tokens * c->topk <= 4096;
        skew_floors_get(floors, c, &have);
        fresh_floor(c, longer || cheap ? 4000 : 1500, 4711 + i, &fresh);
        skew_floor_formula(c, &formula);
        CHECK(near(formula.mean[SKEW_METRIC_CV] * formula.mean[SKEW_METRIC_CV], skew_floor_cv2(c),
                   1e-12),
              "CV²");
        double step = (double)c->ranks / ((double)c->tokens * c->topk); /* of max/mean */
        for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
            CHECK(near(have.mean[m], fresh.mean[m], 0.02 * fresh.mean[m]), "%u/%u/%u/%u %s %g %g",
                  c->experts, c->topk, (unsigned)c->tokens, c->ranks,
                  skew_metric_name((enum skew_metric)m), have.mean[m], fresh.mean[m]);
            double slack = 0.03 * fresh.p95[m];
            if (m == SKEW_METRIC_MAX_MEAN && slack < step)
                slack = step;
            if (!longer && !cheap)
                slack *= 1.5;
            CHECK(near(have.p95[m], fresh.p95[m], slack), "%u/%u/%u/%u p95 of %s %g %g", c->experts,
                  c->topk, (unsigned)c->tokens, c->ranks, skew_metric_name((enum skew_metric)m),
                  have.p95[m], fresh.p95[m]);
        }
        CHECK(near(formula.mean[SKEW_METRIC_GINI], fresh.mean[SKEW_METRIC_GINI],
                   0.05 * fresh.mean[SKEW_METRIC_GINI]),
              "formula %g %g", formula.mean[0], fresh.mean[0]);
    }
    skew_floors_free(&floors);
}

/* The normal limit beside tokens drawn one by one, on both sides of where one takes over. */
static void test_floor_seam(void)
{
    struct skew_floor_case below = {64, 8, 2500, 64}, above = {64, 8, 2501, 64};
    struct skew_floor exact, normal;

    skew_floor_simulate(&below, longer ? 4000 : 1500, 1, &exact);
    skew_floor_simulate(&above, 4000, 2, &normal);
    for (int m = 0; m < SKEW_METRIC_COUNT; m++)
        CHECK(near(exact.mean[m], normal.mean[m], 0.015 * exact.mean[m]) &&
                  near(exact.p95[m], normal.p95[m], 0.03 * exact.p95[m]),
              "%d: %g (%g), %g (%g)", m, exact.mean[m], exact.p95[m], normal.mean[m],
              normal.p95[m]);
}

/* ---- coverage -------------------------------------------------------------------------------- */

struct tally {
    const char *name;
    size_t seeds, stated, covered;
    double *widths; /* over that with known parameters */
};

static void tally_begin(struct tally *t, const char *name, size_t seeds)
{
    *t = (struct tally){.name = name, .seeds = seeds, .widths = calloc(seeds, sizeof(double))};
}

static void tally_add(struct tally *t, const struct skew_estimate *e, double truth, double width)
{
    if (!(e->level > 0))
        return;
    t->widths[t->stated++] = (e->high - e->low) / width;
    t->covered += e->low <= truth && truth <= e->high;
}

/* 93 to 97 % over 1,000 seeds; with fewer, wider by 3 standard errors of the smaller sample. */
static void tally_end(struct tally *t, double stated_least, double widest)
{
    double rate = (double)t->covered / (double)t->stated;
    double slack = longer ? 0.005 : 3.1 * sqrt(0.95 * 0.05 / (double)t->stated);

    qsort(t->widths, t->stated, sizeof *t->widths, compare);
    double width = t->widths[t->stated / 2];
    printf("%-46s stated %4zu of %4zu  covers %.3f  median width %.2f\n", t->name, t->stated,
           t->seeds, rate, width);
    CHECK((double)t->stated >= stated_least * (double)t->seeds, "%s", t->name);
    CHECK(rate >= 0.93 - slack && rate <= 0.97 + slack, "%s: %.3f", t->name, rate);
    CHECK(width <= widest, "%s: %.3f", t->name, width);
    free(t->widths);
}

static double mean_error(size_t n, double phi, double noise)
{
    double sum = 1;

    for (size_t h = 1; h < n; h++)
        sum += 2 * (1 - (double)h / (double)n) * pow(phi, (double)h);
    return sqrt((sum + noise * noise) / (double)n);
}

/* Means of autoregressions, with and without sampling noise on top. */
static void test_mean_coverage(void)
{
    static const struct {
        const char *name;
        size_t n;
        double phi, noise, stated;
    } cases[] = {{"mean, independent, 100", 100, 0, 0, 0.99},
                 {"mean, independent, 200", 200, 0, 0, 0.99},
                 {"mean, AR(1) .5, 200", 200, 0.5, 0, 0.99},
                 {"mean, AR(1) .7, 200", 200, 0.7, 0, 0.9},
                 {"mean, AR(1) .8, 500", 500, 0.8, 0, 0.99},
                 {"mean, AR(1) .95, 2000", 2000, 0.95, 0, 0.99},
                 {"mean, AR(1) .5 under noise, 200", 200, 0.5, 2, 0.99},
                 {"mean, AR(1) .8 under noise, 500", 500, 0.8, 1, 0.99}};
    size_t seeds = longer ? 1000 : 400;

    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct skew_rng rng;
        struct tally t;
        double phi = cases[k].phi, noise = cases[k].noise;
        double width = 2 * 1.96 * mean_error(cases[k].n, phi, noise);
        double *x = malloc(cases[k].n * sizeof *x);
        skew_rng_seed(&rng, 100 + k);
        tally_begin(&t, cases[k].name, seeds);
        for (size_t s = 0; s < seeds; s++) {
            double y = skew_rng_normal(&rng);
            for (size_t i = 0; i < cases[k].n; i++) {
                x[i] = 10 + y + noise * skew_rng_normal(&rng);
                y = phi * y + sqrt(1 - phi * phi) * skew_rng_normal(&rng);
            }
            struct skew_estimate e = skew_mean(x, cases[k].n, 0.95);
            tally_add(&t, &e, 10, width);
        }
        tally_end(&t, cases[k].stated, 1.5);
        free(x);
    }
    /* Too little to say anything: no interval. */
    double few[30];
    for (int i = 0; i < 30; i++)
        few[i] = i;
    struct skew_estimate e = skew_mean(few, 30, 0.95);
    CHECK(e.why && isnan(e.low), "a drift of 30 values has %g independent ones", e.effective);
}

/* Routing with known persistent shares, tokens drawn call by call, bursts that are correlated in
 * time. */
struct world {
    uint32_t experts, tokens;
    size_t calls;
    double spread, burst, phi;
};

static double draw_world(const struct world *w, struct skew_rng *rng, const double *share,
                         double *counts)
{
    double *state = malloc(w->experts * sizeof *state), *sum = malloc(w->experts * sizeof *sum);

    for (uint32_t e = 0; e < w->experts; e++)
        state[e] = skew_rng_normal(rng);
    memset(counts, 0, w->calls * w->experts * sizeof *counts);
    for (size_t t = 0; t < w->calls; t++) {
        double total = 0;
        for (uint32_t e = 0; e < w->experts; e++) {
            state[e] = w->phi * state[e] + sqrt(1 - w->phi * w->phi) * skew_rng_normal(rng);
            total += share[e] * (1 + w->burst * fmax(-2.5, fmin(2.5, state[e])));
            sum[e] = total;
        }
        for (uint32_t k = 0; k < w->tokens; k++) {
            double u = skew_rng_uniform(rng) * total;
            uint32_t low = 0, high = w->experts - 1;
            while (low < high) {
                uint32_t middle = (low + high) / 2;
                if (sum[middle] < u)
                    low = middle + 1;
                else
                    high = middle;
            }
            counts[t * w->experts + low]++;
        }
    }
    free(state);
    free(sum);
    return 0;
}

static void shares_of(const struct world *w, struct skew_rng *rng, double *share, double *cv2)
{
    double sum = 0;

    for (uint32_t e = 0; e < w->experts; e++)
        sum += share[e] = fmax(0.05, 1 + w->spread * skew_rng_normal(rng));
    *cv2 = 0;
    for (uint32_t e = 0; e < w->experts; e++) {
        share[e] *= w->experts / sum;
        *cv2 += (share[e] - 1) * (share[e] - 1) / w->experts;
    }
}

/* Persistent CV², Gini of the long run, and the mean CV of a call, in worlds of many seeds. */
static void test_routing_coverage(void)
{
    static const struct world worlds[] = {{32, 256, 200, 0.3, 0, 0},
                                          {32, 256, 200, 0.1, 0.2, 0},
                                          {32, 256, 200, 0.3, 0.2, 0.5},
                                          {16, 128, 400, 0.3, 0.2, 0.7}};
    size_t seeds = longer ? 1000 : 200;

    for (size_t k = 0; k < sizeof worlds / sizeof *worlds; k++) {
        const struct world *w = &worlds[k];
        double *counts = malloc(w->calls * w->experts * sizeof *counts), share[64], cv2;
        double *values = malloc(seeds * sizeof *values), mean = 0, variance = 0;
        double *ginis = malloc(seeds * sizeof *ginis), gini_mean = 0, gini_variance = 0;
        struct skew_estimate *u = malloc(seeds * sizeof *u), *g = malloc(seeds * sizeof *g);
        struct skew_metrics truth;
        struct tally of_cv2, of_gini;
        struct skew_rng rng;
        char name[2][80];

        skew_rng_seed(&rng, 900 + k);
        shares_of(w, &rng, share, &cv2);
        skew_metrics_of(&truth, share, w->experts, NULL);
        snprintf(name[0], sizeof name[0], "persistent CV², burst %.1f, AR %.1f", w->burst, w->phi);
        snprintf(name[1], sizeof name[1], "persistent Gini, burst %.1f, AR %.1f", w->burst, w->phi);
        for (size_t s = 0; s < seeds; s++) {
            struct skew_level level;
            draw_world(w, &rng, share, counts);
            skew_level_of(
                &level,
                &(struct skew_level_input){
                    .loads = counts, .rows = w->calls, .items = w->experts, .level = 0.95},
                NULL);
            u[s] = level.cv2_persistent;
            g[s] = level.metric[SKEW_METRIC_GINI].persistent;
            values[s] = u[s].value;
            ginis[s] = g[s].value;
            mean += values[s] / (double)seeds;
            gini_mean += ginis[s] / (double)seeds;
        }
        for (size_t s = 0; s < seeds; s++) {
            variance += (values[s] - mean) * (values[s] - mean) / (double)(seeds - 1);
            gini_variance += (ginis[s] - gini_mean) * (ginis[s] - gini_mean) / (double)(seeds - 1);
        }
        tally_begin(&of_cv2, name[0], seeds);
        tally_begin(&of_gini, name[1], seeds);
        for (size_t s = 0; s < seeds; s++) {
            tally_add(&of_cv2, &u[s], cv2, 2 * 1.96 * sqrt(variance));
            tally_add(&of_gini, &g[s], truth.value[SKEW_METRIC_GINI],
                      2 * 1.96 * sqrt(gini_variance));
        }
        tally_end(&of_cv2, 0.95, 1.5);
        tally_end(&of_gini, 0.9, 1.5);
        free(counts);
        free(values);
        free(ginis);
        free(u);
        free(g);
    }
}

/* Under uniform routing "something persists" is found no more often than it says. */
static void test_false_alarms(void)
{
    const struct world w = {32, 128, 100, 0, 0, 0};
    size_t seeds = longer ? 1000 : 300, alarms = 0, beyond = 0;
    double *counts = malloc(w.calls * w.experts * sizeof *counts), share[64], cv2;
    struct skew_floors *floors;
    struct skew_rng rng;

    skew_floors_create(&floors);
    skew_rng_seed(&rng, 31);
    shares_of(&w, &rng, share, &cv2);
    for (size_t s = 0; s < seeds; s++) {
        struct skew_level level;
        draw_world(&w, &rng, share, counts);
        skew_level_of(&level,
                      &(struct skew_level_input){.loads = counts,
                                                 .rows = w.calls,
                                                 .items = w.experts,
                                                 .experts = w.experts,
                                                 .topk = 1,
                                                 .unit = 1,
                                                 .level = 0.95},
                      floors);
        alarms += level.p_persistent < 0.05;
        beyond += level.p_beyond < 0.05;
    }
    double most = 0.05 + 3.1 * sqrt(0.05 * 0.95 / (double)seeds);
    printf("false alarms at 5 %%: %.3f persist, %.3f beyond chance\n",
           (double)alarms / (double)seeds, (double)beyond / (double)seeds);
    CHECK((double)alarms <= most * (double)seeds, "%zu of %zu", alarms, seeds);
    CHECK((double)beyond <= most * (double)seeds, "%zu of %zu", beyond, seeds);
    skew_floors_free(&floors);
    free(counts);
}

/* The moment estimate: its interval covers the experts' CV over random placements of one router. */
static void test_moment(void)
{
    enum { LAYERS = 4, EXPERTS = 64, RANKS = 16 };
    size_t seeds = longer ? 1000 : 400;
    struct skew_rng rng;
    struct tally t;

    skew_rng_seed(&rng, 55);
    tally_begin(&t, "moment estimate of CV, 4 layers, R = 16", seeds);
    for (size_t s = 0; s < seeds; s++) {
        double cv2[LAYERS], truth = 0;
        for (int l = 0; l < LAYERS; l++) {
            double x[EXPERTS], ranks[RANKS] = {0};
            struct skew_metrics e, r;
            for (int i = 0; i < EXPERTS; i++)
                ranks[i / (EXPERTS / RANKS)] += x[i] = exp(0.4 * skew_rng_normal(&rng));
            skew_metrics_of(&e, x, EXPERTS, NULL);
            skew_metrics_of(&r, ranks, RANKS, NULL);
            truth += e.value[SKEW_METRIC_CV] * e.value[SKEW_METRIC_CV] / LAYERS;
            cv2[l] = r.value[SKEW_METRIC_CV] * r.value[SKEW_METRIC_CV];
        }
        struct skew_estimate e = skew_expert_moment(cv2, LAYERS, RANKS, EXPERTS, 0.95);
        tally_add(&t, &e, sqrt(truth), sqrt(truth));
    }
    tally_end(&t, 1, 1);
}

int main(void)
{
    longer = getenv("SKEWSCOPE_TEST_LONG") != NULL;
    test_metrics();
    test_sort();
    test_gradients();
    test_balancedness();
    test_distributions();
    test_several();
    test_bounds();
    test_floors();
    test_floor_seam();
    test_mean_coverage();
    test_routing_coverage();
    test_false_alarms();
    test_moment();
    printf("%d failed\n", failures);
    return failures != 0;
}
