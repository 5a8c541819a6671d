/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Means of series and their intervals, ratios, equivalence, many tests: see stats.h.
 */
#include "stats.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ORDER_MAX 12

static const char too_few[] = "fewer than 20 independent values stand behind it";
static const char no_memory[] = "out of memory";

struct skew_estimate skew_estimate_none(const char *why)
{
    return (struct skew_estimate){
        .value = NAN, .se = NAN, .df = NAN, .low = NAN, .high = NAN, .why = why};
}

/* ---- long-run variance ----------------------------------------------------------------------- */

/*
 * Burg's autoregressions of orders 0 … ORDER_MAX on a series without its mean; the order with the
 * least AICc. Returns the sum of its coefficients and the variance of its residuals.
 */
static void fit(const double *x, size_t n, double *work, double *sum, double *variance,
                size_t *order)
{
    double *forward = work, *backward = work + n, a[ORDER_MAX + 1] = {0}, best = INFINITY;
    double power = 0;
    size_t most = n / 10 < ORDER_MAX ? n / 10 : ORDER_MAX;

    for (size_t t = 0; t < n; t++)
        power += x[t] * x[t] / (double)n;
    memcpy(forward, x, n * sizeof *x);
    memcpy(backward, x, n * sizeof *x);
    for (size_t p = 0; p <= most && power > 0; p++) {
        if (p > 0) {
            double top = 0, bottom = 0, old[ORDER_MAX + 1];
            for (size_t t = p; t < n; t++) {
                top += forward[t] * backward[t - 1];
                bottom += forward[t] * forward[t] + backward[t - 1] * backward[t - 1];
            }
            double k = bottom > 0 ? 2 * top / bottom : 0;
            for (size_t t = n - 1; t >= p; t--) {
                double f = forward[t], b = backward[t - 1];
                forward[t] = f - k * b;
                backward[t] = b - k * f;
            }
            memcpy(old, a, sizeof old);
            a[p] = k;
            for (size_t i = 1; i < p; i++)
                a[i] = old[i] - k * old[p - i];
            power *= 1 - k * k;
        }
        double free = (double)n - (double)p - 2;
        double criterion = (double)n * log(power) + 2 * (double)(p + 1) * (double)n / free;
        if (p > 0 && criterion < best) { /* at least order 1: looking first would flatter */
            best = criterion;
            *order = p;
            *variance = power * (double)n / ((double)n - (double)p - 1);
            *sum = 0;
            for (size_t i = 1; i <= p; i++)
                *sum += a[i];
        }
    }
}

/*
 * Long-run variance from the means of `blocks` blocks of equal length. If these still go together
 * (their lag-1 correlation is beyond two standard errors) blocks are too short for this drift, and
 * the variance grows by what an autoregression of that correlation would have.
 */
static double batch_means(const double *x, size_t n, size_t blocks)
{
    size_t length = n / blocks, from = n - length * blocks;
    double mean = 0, squares = 0, products = 0, before = 0;

    for (size_t t = from; t < n; t++)
        mean += x[t] / (double)(length * blocks);
    for (size_t b = 0; b < blocks; b++) {
        double sum = 0;
        for (size_t t = 0; t < length; t++)
            sum += x[from + b * length + t] - mean;
        squares += sum * sum / (double)length;
        products += sum * before / (double)length;
        before = sum;
    }
    double together = squares > 0 ? products / squares : 0;
    double growth = together > 2 / sqrt((double)blocks) ? (1 + together) / (1 - together) : 1;
    return squares / (double)(blocks - 1) * growth;
}

/*
 * Effective n of the mean of x (whose mean is 0 here), n × variance / long-run variance, and the
 * degrees of freedom of that: the long-run variance of an autoregression has a relative variance of
 * about 4 / effective, as chi-square of effective / 2 has.
 */
static double effective(const double *x, size_t n, double variance, double *work, double *df)
{
    double sum = 0, residual = variance;
    size_t order = 0;

    *df = n > 2 ? (double)n - 1 : 1;
    if (n < SKEW_EFFECTIVE_MIN)
        return (double)n;
    fit(x, n, work, &sum, &residual, &order);
    /* Coefficients come out too small by (1 + 3 sum) / n (exact to first order for order 1). */
    sum += (1 + 3 * sum) / (double)n;
    if (sum > 0.995)
        sum = 0.995;
    double long_run = residual / ((1 - sum) * (1 - sum)), most = INFINITY;
    /* Slow drift under much noise escapes a short autoregression, but not the means of long blocks.
     */
    double blocks = batch_means(x, n, SKEW_EFFECTIVE_MIN);
    if (blocks > long_run) {
        long_run = blocks;
        most = SKEW_EFFECTIVE_MIN - 1;
    }
    if (!(long_run > 0))
        return (double)n;
    double value = (double)n * variance / long_run;
    if (value < 1)
        value = 1;
    *df = value / 2 < most ? value / 2 : most;
    if (*df < 1)
        *df = 1;
    return value;
}

struct skew_estimate skew_mean_around(double value, const double *x, size_t n, double level)
{
    struct skew_estimate e = {.value = value, .level = level, .n = n, .low = NAN, .high = NAN};
    double mean = 0, variance = 0;
    double *work = malloc((3 * n + 1) * sizeof *work);

    if (!work)
        return skew_estimate_none(no_memory);
    for (size_t t = 0; t < n; t++)
        mean += x[t] / (double)n;
    for (size_t t = 0; t < n; t++) {
        work[t] = x[t] - mean;
        variance += work[t] * work[t] / ((double)n - 1);
    }
    if (n < 2)
        variance = NAN;
    bool constant = n >= SKEW_EFFECTIVE_MIN && variance <= 1e-24 * (mean * mean + value * value);
    e.df = (double)n - 1;
    e.effective = constant ? (double)n : effective(work, n, variance, work + n, &e.df);
    free(work);
    e.se = constant ? 0 : sqrt(variance / e.effective);
    if (!(e.effective >= SKEW_EFFECTIVE_MIN)) {
        e.level = 0;
        e.why = too_few;
        return e;
    }
    double half = constant ? 0 : e.se * skew_student_quantile(0.5 + level / 2, e.df);
    e.low = value - half;
    e.high = value + half;
    return e;
}

struct skew_estimate skew_mean(const double *x, size_t n, double level)
{
    double mean = 0;

    if (n == 0)
        return skew_estimate_none("there are no values");
    for (size_t t = 0; t < n; t++)
        mean += x[t] / (double)n;
    return skew_mean_around(mean, x, n, level);
}

struct skew_estimate skew_estimate_map(struct skew_estimate e, double (*map)(double))
{
    e.value = map(e.value);
    e.low = map(e.low);
    e.high = map(e.high);
    e.se = NAN;
    return e;
}

double skew_estimate_above(const struct skew_estimate *e, double null)
{
    if (isnan(e->se) || isnan(e->value) || e->why)
        return NAN;
    if (e->se == 0)
        return e->value > null ? 0 : 1;
    return 1 - skew_student_cdf((e->value - null) / e->se, e->df);
}

/* ---- two estimates --------------------------------------------------------------------------- */

/* Welch–Satterthwaite. */
static double common_df(double va, double dfa, double vb, double dfb)
{
    double both = va + vb;
    return both > 0 ? both * both / (va * va / dfa + vb * vb / dfb) : dfa + dfb;
}

static const char *unusable(const struct skew_estimate *a, const struct skew_estimate *b)
{
    if (a->why || b->why)
        return a->why ? a->why : b->why;
    return isnan(a->se) || isnan(b->se) ? "the error of one of them is not known" : NULL;
}

struct skew_estimate skew_ratio(const struct skew_estimate *a, const struct skew_estimate *b,
                                double level)
{
    struct skew_estimate e = skew_estimate_none(unusable(a, b));

    e.value = a->value / b->value;
    e.n = a->n < b->n ? a->n : b->n;
    e.effective = a->effective < b->effective ? a->effective : b->effective;
    if (e.why)
        return e;
    double va = a->se * a->se, vb = b->se * b->se;
    e.df = common_df(va, a->df, e.value * e.value * vb, b->df);
    double t = skew_student_quantile(0.5 + level / 2, e.df);
    /* The roots of (a − r b)² = t² (va + r² vb). */
    double square = b->value * b->value - t * t * vb;
    if (square <= 0) {
        e.why = "the denominator cannot be told from 0";
        return e;
    }
    double half = sqrt(fmax(0, a->value * a->value * b->value * b->value -
                                   square * (a->value * a->value - t * t * va)));
    e.low = (a->value * b->value - half) / square;
    e.high = (a->value * b->value + half) / square;
    e.se = sqrt(va + e.value * e.value * vb) / fabs(b->value);
    e.level = level;
    return e;
}

struct skew_estimate skew_difference(const struct skew_estimate *a, const struct skew_estimate *b,
                                     double level)
{
    struct skew_estimate e = skew_estimate_none(unusable(a, b));

    e.value = a->value - b->value;
    e.n = a->n < b->n ? a->n : b->n;
    e.effective = a->effective < b->effective ? a->effective : b->effective;
    if (e.why)
        return e;
    double va = a->se * a->se, vb = b->se * b->se;
    e.df = common_df(va, a->df, vb, b->df);
    e.se = sqrt(va + vb);
    e.level = level;
    double half = e.se > 0 ? e.se * skew_student_quantile(0.5 + level / 2, e.df) : 0;
    e.low = e.value - half;
    e.high = e.value + half;
    return e;
}

double skew_tost(const struct skew_estimate *difference, double low, double high)
{
    double not_below = skew_estimate_above(difference, low);
    double above = skew_estimate_above(difference, high);

    if (isnan(not_below))
        return NAN;
    return fmax(not_below, 1 - above);
}

/* ---- many tests ------------------------------------------------------------------------------ */

struct numbered {
    double p;
    size_t at;
};

static int compare_numbered(const void *a, const void *b)
{
    double x = ((const struct numbered *)a)->p, y = ((const struct numbered *)b)->p;
    return (x > y) - (x < y);
}

int skew_holm(const double *p, size_t n, double *adjusted)
{
    struct numbered *order = malloc((n + 1) * sizeof *order);
    size_t tests = 0;
    double largest = 0;

    if (!order)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        adjusted[i] = NAN;
        if (!isnan(p[i]))
            order[tests++] = (struct numbered){p[i], i};
    }
    qsort(order, tests, sizeof *order, compare_numbered);
    for (size_t k = 0; k < tests; k++) {
        double value = fmin(1, order[k].p * (double)(tests - k));
        largest = fmax(largest, value);
        adjusted[order[k].at] = largest;
    }
    free(order);
    return 0;
}
