/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics against closed forms, floors against 4,000 fresh trials each (their table is printed).
 * How often intervals hold the truth is tests/coverage's.
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
    /* Experts, top-k, tokens; then grouped into ranks. */
    static const struct skew_floor_case cases[] = {
        {8, 2, 4096, 8},     {64, 6, 256, 64},   {64, 6, 4096, 64},   {128, 8, 256, 128},
        {128, 8, 4096, 128}, {256, 8, 256, 256}, {256, 8, 4096, 256}, {128, 1, 375, 128},
        {8, 2, 4096, 4},     {64, 6, 256, 8},    {64, 6, 4096, 16},   {128, 8, 256, 32},
        {128, 8, 4096, 8},   {256, 8, 256, 16},  {256, 8, 4096, 64},  {128, 1, 375, 8},
        {64, 6, 300, 8},     {256, 8, 1000, 32}, {8, 6, 100, 8}};
    struct skew_floors *floors;

    skew_floors_create(&floors);
    printf("| E, k, N | items | Gini, mean (p95) | fresh | max/mean, mean (p95) | fresh |\n"
           "|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct skew_floor_case *c = &cases[i];
        struct skew_floor have, fresh, formula;
        skew_floors_get(floors, c, &have);
        fresh_floor(c, 4000, 4711 + i, &fresh);
        skew_floor_formula(c, &formula);
        CHECK(near(formula.mean[SKEW_METRIC_CV] * formula.mean[SKEW_METRIC_CV], skew_floor_cv2(c),
                   1e-12),
              "CV²");
        double step = (double)c->ranks / ((double)c->tokens * c->topk); /* of max/mean */
        printf("| %u, %u, %u | %u | %.4f (%.4f) | %.4f (%.4f) | %.3f (%.3f) | %.3f (%.3f) |\n",
               c->experts, c->topk, (unsigned)c->tokens, c->ranks, have.mean[SKEW_METRIC_GINI],
               have.p95[SKEW_METRIC_GINI], fresh.mean[SKEW_METRIC_GINI],
               fresh.p95[SKEW_METRIC_GINI], have.mean[SKEW_METRIC_MAX_MEAN],
               have.p95[SKEW_METRIC_MAX_MEAN], fresh.mean[SKEW_METRIC_MAX_MEAN],
               fresh.p95[SKEW_METRIC_MAX_MEAN]);
        for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
            CHECK(near(have.mean[m], fresh.mean[m], 0.02 * fresh.mean[m]), "%u/%u/%u/%u %s %g %g",
                  c->experts, c->topk, (unsigned)c->tokens, c->ranks,
                  skew_metric_name((enum skew_metric)m), have.mean[m], fresh.mean[m]);
            double slack = 0.03 * fresh.p95[m];
            if (m == SKEW_METRIC_MAX_MEAN && slack < step)
                slack = step;
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

    skew_floor_simulate(&below, 4000, 1, &exact);
    skew_floor_simulate(&above, 4000, 2, &normal);
    for (int m = 0; m < SKEW_METRIC_COUNT; m++)
        CHECK(near(exact.mean[m], normal.mean[m], 0.015 * exact.mean[m]) &&
                  near(exact.p95[m], normal.p95[m], 0.03 * exact.p95[m]),
              "%d: %g (%g), %g (%g)", m, exact.mean[m], exact.p95[m], normal.mean[m],
              normal.p95[m]);
}

/* Coverage is tests/coverage's; here what must have no interval, or one of no width. */
static void test_refused(void)
{
    double x[200];

    for (int i = 0; i < 200; i++)
        x[i] = i;
    for (size_t n = 30; n <= 200; n += 170) {
        struct skew_estimate e = skew_mean(x, n, 0.95);
        CHECK(e.why && isnan(e.low) && e.level == 0, "a drift of %zu values is worth %g", n,
              e.effective);
    }
    struct skew_estimate short_one = skew_mean(x, 19, 0.95);
    CHECK(short_one.why && isnan(short_one.low), "19 values are worth %g", short_one.effective);
    for (int i = 0; i < 200; i++)
        x[i] = 3;
    struct skew_estimate e = skew_mean(x, 200, 0.95);
    CHECK(near(e.low, 3, 1e-12) && e.high == e.low && !e.why, "constant: %g … %g", e.low, e.high);
    CHECK(isnan(skew_mean(x, 0, 0.95).value), "no values");
}

/* Means over several sets of items are made of the same series as each one's own. */
static void test_series_of_persistent(void)
{
    enum { ROWS = 60, ITEMS = 8 };
    double loads[ROWS * ITEMS], series[ROWS];
    struct skew_rng rng;
    size_t gap = 0, kept = 0;

    skew_rng_seed(&rng, 12);
    for (int i = 0; i < ROWS * ITEMS; i++)
        loads[i] = 5 + i % ITEMS + skew_rng_uniform(&rng);
    struct skew_estimate e = skew_persistent_cv2(loads, ROWS, ITEMS, 0, 0.95, NULL);
    double value = skew_persistent_influence(loads, ROWS, ITEMS, &gap, series, &kept);
    struct skew_estimate again = skew_mean_around(value, series, kept, 0.95);
    CHECK(kept == ROWS && e.low == again.low && e.high == again.high && e.low > 0, "%g, %g", e.low,
          again.low);
    uint32_t hottest[2];
    e = skew_crossfit_max(loads, ROWS, ITEMS, 0.95, hottest);
    CHECK(hottest[0] == ITEMS - 1 && hottest[1] == ITEMS - 1, "%u %u", hottest[0], hottest[1]);
    value = skew_crossfit_series(loads, ROWS, ITEMS, 0.95, series, &kept, NULL);
    again = skew_mean_around(value, series, kept, 0.95);
    CHECK(e.low == again.low && e.value == again.value, "%g, %g", e.low, again.low);
}

int main(void)
{
    test_metrics();
    test_sort();
    test_gradients();
    test_balancedness();
    test_distributions();
    test_several();
    test_bounds();
    test_floors();
    test_floor_seam();
    test_refused();
    test_series_of_persistent();
    printf("%d failed\n", failures);
    return failures != 0;
}
