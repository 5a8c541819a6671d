/* SPDX-License-Identifier: Apache-2.0 */
/* See time_stats.h. */
#include "time_stats.h"
#include "stats.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HUBER      1.345
#define ITERATIONS 60

/* ---- order statistics ------------------------------------------------------------------------ */

/* Hoare's quickselect: afterwards values[k] is the k-th smallest and nothing before it is larger.
 */
static double select_kth(double *v, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;

    while (low < high) {
        double pivot = v[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;;) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i >= j)
                break;
            double swap = v[i];
            v[i++] = v[j];
            v[j--] = swap;
        }
        if (k <= j)
            high = j;
        else
            low = j + 1;
    }
    return v[k];
}

double skew_time_quantile(double *v, size_t n, double q)
{
    if (n == 0)
        return NAN;
    double at = q * (double)(n - 1);
    size_t k = (size_t)at;
    double below = select_kth(v, n, k), above = INFINITY;
    if (at == (double)k || k + 1 == n)
        return below;
    for (size_t i = k + 1; i < n; i++)
        above = fmin(above, v[i]);
    return below + (at - (double)k) * (above - below);
}

double skew_time_median(double *v, size_t n)
{
    return skew_time_quantile(v, n, 0.5);
}

/* ---- Student's t ----------------------------------------------------------------------------- */

double skew_time_t_p(double t, double df)
{
    return isnan(t) || !(df > 0) ? NAN : 2 * skew_student_cdf(-fabs(t), df);
}

double skew_time_t_quantile(double p, double df)
{
    return df > 0 ? skew_student_quantile(p, df) : NAN;
}

/* ---- series ---------------------------------------------------------------------------------- */

double skew_time_long_run(const double *u, size_t n, double *df, double *effective)
{
    struct skew_estimate e = skew_mean(u, n, 0.95);

    *df = e.df;
    *effective = e.effective;
    return e.se * e.se * (double)n * (double)n;
}

int skew_time_mean(const double *values, size_t n, struct skew_time_estimate *out)
{
    double *kept = malloc((n + 1) * sizeof *kept), sum = 0;
    size_t count = 0;

    *out = (struct skew_time_estimate){NAN, NAN, NAN, NAN, 0, 0};
    if (!kept)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (isfinite(values[i])) {
            kept[count++] = values[i];
            sum += values[i];
        }
    if (count) {
        double variance = skew_time_long_run(kept, count, &out->df, &out->effective);
        out->value = sum / (double)count;
        if (out->effective >= SKEW_TIME_EFFECTIVE_LEAST) {
            out->se = sqrt(variance) / (double)count;
            double reach = skew_time_t_quantile(0.975, out->df) * out->se;
            out->low = out->value - reach;
            out->high = out->value + reach;
        }
    }
    free(kept);
    return 0;
}

/* ---- regression ------------------------------------------------------------------------------ */

/* Inverts a symmetric positive matrix in place, by Gauss and Jordan. False: singular. */
static bool invert(double a[SKEW_TIME_COLUMNS][SKEW_TIME_COLUMNS], size_t p)
{
    double out[SKEW_TIME_COLUMNS][SKEW_TIME_COLUMNS] = {{0}}, before[SKEW_TIME_COLUMNS];

    for (size_t i = 0; i < p; i++) {
        out[i][i] = 1;
        before[i] = a[i][i];
    }
    for (size_t i = 0; i < p; i++) {
        double pivot = a[i][i];
        if (!(pivot > 1e-10 * before[i])) /* what is left of it after the columns before */
            return false;
        for (size_t j = 0; j < p; j++) {
            a[i][j] /= pivot;
            out[i][j] /= pivot;
        }
        for (size_t k = 0; k < p; k++) {
            double factor = a[k][i];
            for (size_t j = 0; j < p && k != i; j++) {
                a[k][j] -= factor * a[i][j];
                out[k][j] -= factor * out[i][j];
            }
        }
    }
    memcpy(a, out, sizeof out);
    return true;
}

struct work {
    const double *x, *y;
    size_t n, p;
    double unit[SKEW_TIME_COLUMNS]; /* columns are divided by their largest value */
    double beta[SKEW_TIME_COLUMNS]; /* in those units */
    double bread[SKEW_TIME_COLUMNS][SKEW_TIME_COLUMNS];
    double *residual, *scratch;
};

/* One weighted least squares; weights from the residuals there are, 1 when `scale` is infinite. */
static bool solve(struct work *w, double scale)
{
    double right[SKEW_TIME_COLUMNS] = {0};

    memset(w->bread, 0, sizeof w->bread);
    for (size_t i = 0; i < w->n; i++) {
        double row[SKEW_TIME_COLUMNS], size = fabs(w->residual[i]) / scale;
        double weight = size > HUBER ? HUBER / size : 1;
        for (size_t a = 0; a < w->p; a++)
            row[a] = w->x[i * w->p + a] / w->unit[a];
        for (size_t a = 0; a < w->p; a++) {
            right[a] += weight * row[a] * w->y[i];
            for (size_t b = 0; b < w->p; b++)
                w->bread[a][b] += weight * row[a] * row[b];
        }
    }
    if (!invert(w->bread, w->p))
        return false;
    for (size_t a = 0; a < w->p; a++) {
        w->beta[a] = 0;
        for (size_t b = 0; b < w->p; b++)
            w->beta[a] += w->bread[a][b] * right[b];
    }
    for (size_t i = 0; i < w->n; i++) {
        w->residual[i] = w->y[i];
        for (size_t a = 0; a < w->p; a++)
            w->residual[i] -= w->beta[a] * w->x[i * w->p + a] / w->unit[a];
    }
    return true;
}

static double mad(struct work *w)
{
    for (size_t i = 0; i < w->n; i++)
        w->scratch[i] = fabs(w->residual[i]);
    return 1.4826 * skew_time_median(w->scratch, w->n);
}

static int iterate(struct work *w, double fixed, double *scale)
{
    double before[SKEW_TIME_COLUMNS];

    if (!solve(w, INFINITY))
        return -EINVAL;
    for (int i = 0; i < ITERATIONS; i++) {
        double change = 0, size = 0;
        *scale = fixed > 0 ? fixed : mad(w);
        if (!(*scale > 0)) /* more than half fit exactly */
            *scale = 1e-9;
        memcpy(before, w->beta, sizeof before);
        if (!solve(w, *scale))
            return -EINVAL;
        for (size_t a = 0; a < w->p; a++) {
            change += fabs(w->beta[a] - before[a]);
            size += fabs(w->beta[a]);
        }
        if (change <= 1e-9 * size)
            break;
    }
    return 0;
}

/* Residuals are smaller than errors by what the cluster itself drew the line towards it: its leave-
 * one-out influence (the jackknife's, HC3 of MacKinnon and White 1985, with the cluster's trace).
 */
static void finish_cluster(double *series, size_t clusters, double leverage)
{
    if (clusters)
        series[clusters - 1] /= fmax(0.2, 1 - leverage);
}

/* Influence of each cluster on coefficient `column`, as a series; then its long-run variance. */
static void infer(const struct work *w, const int64_t *cluster, double scale, size_t column,
                  double *series, struct skew_time_regression *out)
{
    double hessian[SKEW_TIME_COLUMNS][SKEW_TIME_COLUMNS] = {{0}}, leverage = 0;
    size_t clusters = 0;

    for (size_t i = 0; i < w->n; i++) /* derivative of psi: 1 inside, 0 outside */
        for (size_t a = 0; a < w->p && fabs(w->residual[i]) <= HUBER * scale; a++)
            for (size_t b = 0; b < w->p; b++)
                hessian[a][b] += w->x[i * w->p + a] / w->unit[a] * w->x[i * w->p + b] / w->unit[b];
    out->se[column] = NAN;
    if (!invert(hessian, w->p))
        return;
    for (size_t i = 0; i < w->n; i++) {
        double psi = fmax(-HUBER * scale, fmin(HUBER * scale, w->residual[i])), score = 0;
        if (i == 0 || cluster[i] != cluster[i - 1]) {
            finish_cluster(series, clusters, leverage);
            series[clusters++] = leverage = 0;
        }
        for (size_t a = 0; a < w->p; a++) {
            double x = w->x[i * w->p + a] / w->unit[a];
            score += hessian[column][a] * x;
            for (size_t b = 0; b < w->p; b++)
                leverage += x * hessian[a][b] * w->x[i * w->p + b] / w->unit[b];
        }
        series[clusters - 1] += psi * score;
    }
    finish_cluster(series, clusters, leverage);
    double variance =
        skew_time_long_run(series, clusters, &out->df[column], &out->effective[column]);
    out->se[column] = sqrt(variance) / w->unit[column];
    out->clusters = clusters;
}

static void finish(const struct work *w, double scale, struct skew_time_regression *out)
{
    out->scale = scale;
    out->loss = 0;
    for (size_t a = 0; a < w->p; a++)
        out->coefficient[a] = w->beta[a] / w->unit[a];
    for (size_t i = 0; i < w->n; i++) {
        double r = fabs(w->residual[i]) / scale;
        out->loss += r <= HUBER ? r * r / 2 : HUBER * r - HUBER * HUBER / 2;
    }
}

int skew_time_regress(const double *x, const double *y, const int64_t *cluster, size_t n,
                      size_t columns, double scale, struct skew_time_regression *out)
{
    struct work w = {.x = x, .y = y, .n = n, .p = columns};
    double found = 0;
    int result = 0;

    *out = (struct skew_time_regression){.columns = columns, .observations = n};
    if (n < columns + 2 || columns > SKEW_TIME_COLUMNS)
        return -EINVAL;
    w.residual = calloc(n, sizeof *w.residual);
    w.scratch = malloc(n * sizeof *w.scratch);
    if (!w.residual || !w.scratch)
        result = -ENOMEM;
    for (size_t a = 0; a < columns && !result; a++) {
        for (size_t i = 0; i < n; i++)
            w.unit[a] = fmax(w.unit[a], fabs(x[i * columns + a]));
        if (!(w.unit[a] > 0))
            result = -EINVAL;
    }
    if (!result)
        result = iterate(&w, scale, &found);
    if (!result) {
        finish(&w, found, out);
        for (size_t a = 0; a < columns && cluster; a++)
            infer(&w, cluster, found, a, w.scratch, out);
    }
    free(w.residual);
    free(w.scratch);
    return result;
}

struct skew_time_estimate skew_time_coefficient(const struct skew_time_regression *r, size_t column)
{
    struct skew_time_estimate e = {.value = r->coefficient[column],
                                   .low = NAN,
                                   .high = NAN,
                                   .se = r->se[column],
                                   .df = r->df[column],
                                   .effective = r->effective[column]};

    if (e.effective >= SKEW_TIME_EFFECTIVE_LEAST && isfinite(e.se)) {
        double reach = skew_time_t_quantile(0.975, e.df) * e.se;
        e.low = e.value - reach;
        e.high = e.value + reach;
    } else {
        e.se = NAN;
    }
    return e;
}
