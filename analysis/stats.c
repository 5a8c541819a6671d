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
#define COSINES   5

static const char too_few[] = "fewer than 20 independent values stand behind it";
static const char no_memory[] = "out of memory";

struct skew_estimate skew_estimate_none(const char *why)
{
    return (struct skew_estimate){
        .value = NAN, .se = NAN, .df = NAN, .low = NAN, .high = NAN, .why = why};
}

/* ---- long-run variance ----------------------------------------------------------------------- */

struct autoregression {
    size_t order;
    double coefficient[ORDER_MAX + 1]; /* from 1 */
    double sum, variance;              /* of the coefficients; of the residuals */
};

/*
 * Burg's autoregressions of orders 1 … ORDER_MAX on a series without its mean; the order with the
 * least AICc.
 */
static void fit(const double *x, size_t n, double *work, struct autoregression *out)
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
            out->order = p;
            out->variance = power * (double)n / ((double)n - (double)p - 1);
            memcpy(out->coefficient, a, sizeof a);
            out->sum = 0;
            for (size_t i = 1; i <= p; i++)
                out->sum += a[i];
        }
    }
}

/* What the autoregression leaves of x, without its mean: residual[n − order]. */
static size_t whiten(const double *x, size_t n, const struct autoregression *ar, double *residual)
{
    size_t count = n - ar->order;
    double mean = 0;

    for (size_t t = 0; t < count; t++) {
        residual[t] = x[t + ar->order];
        for (size_t i = 1; i <= ar->order; i++)
            residual[t] -= ar->coefficient[i] * x[t + ar->order - i];
        mean += residual[t] / (double)count;
    }
    for (size_t t = 0; t < count; t++)
        residual[t] -= mean;
    return count;
}

/*
 * Spectrum at frequency 0: mean square of the projections on the first COSINES cosines of half
 * periods. These are so slow that a drift of n / 20 values is seen whole, be it beneath much noise.
 */
static double slowest(const double *x, size_t n)
{
    double sum = 0;

    for (int j = 1; j <= COSINES; j++) {
        double step = M_PI * j / (double)n, c = cos(step), s = sin(step), projection = 0;
        double re = cos(step / 2), im = sin(step / 2);
        for (size_t t = 0; t < n; t++) {
            double turned = re * c - im * s;
            projection += x[t] * re;
            im = re * s + im * c;
            re = turned;
        }
        sum += projection * projection * 2 / (double)n;
    }
    return sum / COSINES;
}

struct long_run {
    double effective; /* as many independent values; what there are, where that cannot be told */
    double variance;  /* long-run */
    double df;
};

/*
 * Of a series x without mean. How many independent values it is worth is told by the autoregression
 * alone, which is steadier: leaving out series by the same number as makes their interval would
 * keep those whose interval happens to be narrow. The variance is that of the slowest cosines of
 * what the autoregression leaves, coloured again by it. Its relative variance is 2 / COSINES, as
 * chi-square of COSINES has, and up to 4 / effective from the autoregression, of which the cosines
 * undo a part: half of it is counted.
 */
static struct long_run long_run_of(const double *x, size_t n, double variance, double *work)
{
    struct autoregression ar = {.variance = variance};
    struct long_run l = {(double)n, variance, n > 2 ? (double)n - 1 : 1};

    if (n < SKEW_EFFECTIVE_MIN)
        return l;
    fit(x, n, work, &ar);
    /* Coefficients come out too small by (1 + 3 sum) / n (exact to first order for order 1). */
    double sum = fmin(0.995, ar.sum + (1 + 3 * ar.sum) / (double)n);
    double colour = 1 / ((1 - sum) * (1 - sum));
    size_t left = whiten(x, n, &ar, work);
    double slow = slowest(work, left) * colour;
    if (!(ar.variance > 0) || !(slow > 0))
        return l;
    l.effective = (double)n * variance / (ar.variance * colour);
    /* A smooth course leaves an autoregression next to nothing: where the slowest cosines hold
     * more than half of all variance, they tell. */
    double drift = slowest(x, n);
    if (drift * 2 * COSINES > (double)n * variance)
        l.effective = fmin(l.effective, (double)n * variance / drift);
    l.effective = fmax(1, l.effective);
    l.variance = slow;
    l.df = fmax(1, 1 / (1.0 / COSINES + 1 / l.effective));
    return l;
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
    struct long_run l = {(double)n, 0, (double)n - 1};
    if (!constant)
        l = long_run_of(work, n, variance, work + n);
    free(work);
    e.df = l.df;
    e.effective = l.effective;
    e.se = sqrt(l.variance / (double)n);
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

struct skew_estimate skew_mean_independent(double value, const double *x, size_t n, double level)
{
    struct skew_estimate e = {
        .value = value, .n = n, .effective = (double)n, .df = (double)n - 1, .level = level};
    double mean = 0, squares = 0;

    if (n < 2)
        return skew_estimate_none("one value alone does not tell how much it varies");
    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    e.se = sqrt(squares / (double)(n - 1) / (double)n);
    double half = e.se * skew_student_quantile(0.5 + level / 2, e.df);
    e.low = value - half;
    e.high = value + half;
    return e;
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
