/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Imbalance that persists, told from what comes and goes: products across moments, and the hottest
 * item picked where it is not measured. See stats.h.
 */
#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LAGS_MAX  48
#define PAIRS_MAX 2048

/* Shares of a row, minus 1: [rows kept][n]. NULL without memory; *kept may be 0. */
static double *deviations(const double *loads, size_t rows, uint32_t n, size_t *kept)
{
    double *d = malloc((rows * n + 1) * sizeof *d);

    *kept = 0;
    for (size_t t = 0; t < rows && d; t++) {
        double sum = 0;
        for (uint32_t i = 0; i < n; i++)
            sum += loads[t * n + i];
        if (!(sum > 0))
            continue;
        for (uint32_t i = 0; i < n; i++)
            d[*kept * n + i] = loads[t * n + i] * n / sum - 1;
        ++*kept;
    }
    return d;
}

static double product(const double *a, const double *b, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum / n;
}

/* Four products of moments that follow each other, each summed in the order of product(): side by
 * side they need not wait for their sums. `step` is from one first factor to the next: n, or 0 for
 * the same one. */
static void four_products(const double *a, size_t step, const double *b, uint32_t n, double *out)
{
    const double *a1 = a + step, *a2 = a1 + step, *a3 = a2 + step;
    const double *b1 = b + n, *b2 = b1 + n, *b3 = b2 + n;
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;

    for (uint32_t i = 0; i < n; i++) {
        s0 += a[i] * b[i];
        s1 += a1[i] * b1[i];
        s2 += a2[i] * b2[i];
        s3 += a3[i] * b3[i];
    }
    out[0] = s0 / n;
    out[1] = s1 / n;
    out[2] = s2 / n;
    out[3] = s3 / n;
}

/* out[count] = products of `count` pairs of moments; a step of 0 keeps the first factor. */
static void products(const double *a, size_t step, const double *b, size_t count, uint32_t n,
                     double *out)
{
    size_t t = 0;

    for (; t + 4 <= count; t += 4)
        four_products(a + t * step, step, b + t * n, n, out + t);
    for (; t < count; t++)
        out[t] = product(a + t * step, b + t * n, n);
}

/*
 * How far apart moments must be to tell nothing about each other beyond what persists: the first
 * lag at which the mean product is no longer above that of far lags by twice the scatter of those.
 */
static size_t choose_gap(const double *d, size_t rows, uint32_t n, double *scratch)
{
    double at[LAGS_MAX + 1], far = 0, square = 0;
    size_t lags = rows / 4 < LAGS_MAX ? rows / 4 : LAGS_MAX, count = 0;

    if (lags < 2)
        return 0;
    for (size_t h = 1; h <= lags; h++) {
        at[h] = 0;
        products(d, n, d + h * n, rows - h, n, scratch);
        for (size_t t = 0; t + h < rows; t++)
            at[h] += scratch[t] / (double)(rows - h);
    }
    for (size_t h = lags / 2 + 1; h <= lags; h++) {
        far += at[h];
        square += at[h] * at[h];
        count++;
    }
    far /= (double)count;
    double scatter = sqrt(fmax(0, square / (double)count - far * far));
    /* As much scatter as products of independent moments would have, at least. */
    for (size_t h = 1; h <= lags; h++)
        if (at[h] - far <= 2 * scatter || at[h] - far <= 0.02 * fabs(at[h]))
            return h - 1;
    return lags;
}

/*
 * The part of the influences' variance that pairs count twice: with Sigma the covariance of the
 * deviations, 4 tr(Sigma²) / (n² rows). tr(Sigma²) is the mean square of products of moments far
 * apart, their mean removed.
 */
static double counted_twice(const double *d, const double *mean, size_t rows, uint32_t n,
                            size_t gap)
{
    size_t pairs = 0, lag = rows / 2 > gap ? rows / 2 : gap + 1;
    double square = 0, scale = (double)rows / ((double)rows - 1);

    for (; lag < rows && pairs < PAIRS_MAX; lag += 1 + rows / 16)
        for (size_t t = 0; t + lag < rows && pairs < PAIRS_MAX; t++, pairs++) {
            const double *a = d + t * n, *b = d + (t + lag) * n;
            double sum = 0;
            for (uint32_t i = 0; i < n; i++)
                sum += (a[i] - mean[i]) * (b[i] - mean[i]);
            square += sum * sum / ((double)n * n);
        }
    return pairs ? 4 * scale * scale * square / (double)pairs / (double)rows : 0;
}

/* influence[rows] of the mean product over pairs more than `gap` apart; returns that mean. scratch
 * [rows]. */
static double mean_product(const double *d, size_t rows, uint32_t n, size_t gap, double *sums,
                           double *influence, double *scratch)
{
    double total = 0, pairs = 0;

    memset(sums, 0, n * sizeof *sums);
    for (size_t t = 0; t < rows; t++)
        for (uint32_t i = 0; i < n; i++)
            sums[i] += d[t * n + i];
    for (size_t t = 0; t < rows; t++) {
        size_t from = t > gap ? t - gap : 0, to = t + gap < rows ? t + gap : rows - 1;
        double near = 0, others = (double)(rows - (to - from + 1));
        products(d + t * n, 0, d + from * n, to - from + 1, n, scratch);
        for (size_t u = from; u <= to; u++)
            near += scratch[u - from];
        double far = product(d + t * n, sums, n) - near;
        total += far;
        pairs += others;
        influence[t] = others > 0 ? 2 * far / others : 0;
    }
    return total / pairs;
}

/* Deviations of the influences from their mean, shrunk by what pairs count twice. */
static void shrink(double *influence, const double *d, double *sums, size_t rows, uint32_t n,
                   size_t gap)
{
    double mean = 0, variance = 0;

    for (size_t t = 0; t < rows; t++)
        mean += influence[t] / (double)rows;
    for (size_t t = 0; t < rows; t++)
        variance += (influence[t] - mean) * (influence[t] - mean) / (double)(rows - 1);
    for (uint32_t i = 0; i < n; i++)
        sums[i] /= (double)rows;
    if (!(variance > 0) || rows < 8)
        return;
    double twice = counted_twice(d, sums, rows, n, gap) / variance;
    double by = sqrt(1 - fmin(1, twice) / 2);
    for (size_t t = 0; t < rows; t++)
        influence[t] = mean + (influence[t] - mean) * by;
}

double skew_persistent_influence(const double *loads, size_t rows, uint32_t n, size_t *gap,
                                 double *influence, size_t *kept)
{
    double *d = deviations(loads, rows, n, kept), *sums = malloc((n + 1) * sizeof *sums);
    double *scratch = malloc((rows + 1) * sizeof *scratch), value = NAN;

    rows = *kept;
    if (d && sums && scratch) {
        if (*gap == 0)
            *gap = choose_gap(d, rows, n, scratch);
        if (rows >= 2 && rows > 2 * *gap + 1) {
            value = mean_product(d, rows, n, *gap, sums, influence, scratch);
            shrink(influence, d, sums, rows, n, *gap);
        }
    } else {
        *kept = 0;
    }
    free(d);
    free(scratch);
    free(sums);
    return value;
}

struct skew_estimate skew_persistent_cv2(const double *loads, size_t rows, uint32_t n, size_t gap,
                                         double level, size_t *used)
{
    double *influence = malloc((rows + 1) * sizeof *influence);
    struct skew_estimate e = skew_estimate_none("out of memory");
    size_t kept = 0;

    if (influence) {
        double value = skew_persistent_influence(loads, rows, n, &gap, influence, &kept);
        e = isnan(value) ? skew_estimate_none("there are too few moments to compare")
                         : skew_mean_around(value, influence, kept, level);
    }
    if (used)
        *used = gap;
    free(influence);
    return e;
}

/* The hottest of sums[n], but for `without` (n: none). */
static uint32_t hottest_of(const double *sums, uint32_t n, uint32_t without)
{
    uint32_t best = without == 0 ? 1 : 0;

    for (uint32_t i = best + 1; i < n; i++)
        if (i != without && sums[i] > sums[best])
            best = i;
    return best;
}

static void sum_up(const double *d, size_t from, size_t to, uint32_t n, double *sums)
{
    memset(sums, 0, n * sizeof *sums);
    for (size_t t = from; t < to; t++)
        for (uint32_t i = 0; i < n; i++)
            sums[i] += d[t * n + i];
}

/*
 * By how much picking widens the error of a cross-fitted maximum. Where items are alike, one half's
 * pick is likely measured where another was the hottest, or the very same: with m the expected
 * largest of n normal errors, both halves' errors go together by m² / (n − 1) of the variance of
 * one (by symmetry: the same pick with 1 / n, m times m; else another's, m / (n − 1) below). Where
 * one item is hottest without doubt, picking adds nothing.
 */
static double picking(const double *d, size_t rows, uint32_t n, double level, double *sums,
                      double *scratch)
{
    if (n < 2)
        return 1;
    sum_up(d, 0, rows, n, sums);
    uint32_t first = hottest_of(sums, n, n), second = hottest_of(sums, n, first);
    for (size_t t = 0; t < rows; t++)
        scratch[t] = d[t * n + first] - d[t * n + second];
    struct skew_estimate apart = skew_mean(scratch, rows, level);
    double largest = skew_normal_quantile((n - 0.375) / (n + 0.25)); /* Blom's approximation */
    return apart.low > 0 ? 1 : sqrt(1 + largest * largest / (n - 1.0));
}

double skew_crossfit_series(const double *loads, size_t rows, uint32_t n, double level,
                            double *measured, size_t *kept, uint32_t hottest[2])
{
    double *d = deviations(loads, rows, n, kept), *sums = malloc((n + 1) * sizeof *sums);
    double value = NAN;
    uint32_t picks[2] = {0};

    rows = *kept;
    if (d && sums && rows >= 2) {
        double wider = picking(d, rows, n, level, sums, measured);
        /* Halves in time rather than alternating: neighbours in time share their bursts. */
        for (int half = 0; half < 2; half++) {
            sum_up(d, half ? rows / 2 : 0, half ? rows : rows / 2, n, sums);
            picks[half] = hottest_of(sums, n, n);
        }
        value = 0;
        for (size_t t = 0; t < rows; t++) {
            measured[t] = 1 + d[t * n + picks[t < rows / 2]];
            value += measured[t] / (double)rows;
        }
        for (size_t t = 0; t < rows; t++)
            measured[t] = value + (measured[t] - value) * wider;
    }
    if (hottest)
        memcpy(hottest, picks, sizeof picks);
    free(d);
    free(sums);
    return value;
}

struct skew_estimate skew_crossfit_max(const double *loads, size_t rows, uint32_t n, double level,
                                       uint32_t hottest[2])
{
    double *measured = malloc((rows + 1) * sizeof *measured);
    struct skew_estimate e = skew_estimate_none("out of memory");
    size_t kept = 0;

    if (measured) {
        double value = skew_crossfit_series(loads, rows, n, level, measured, &kept, hottest);
        e = isnan(value) ? skew_estimate_none("there are too few moments to compare")
                         : skew_mean_around(value, measured, kept, level);
    }
    free(measured);
    return e;
}
