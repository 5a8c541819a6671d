/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time against size: no relation, a line, or two lines with a knee. See docs/time.md; the choice is
 * between nested models, each step by a test.
 */
#include "time_analysis.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POINTS_MAX  60000 /* more say nothing new and take long; taken evenly */
#define GRID        17
#define LEVEL       0.05
#define REFINEMENTS 12
/* 1 % of the largest |z| over unknown knees in the inner 70 %: √12.35 (Andrews, Econometrica 61
 * (1993), table I, one parameter), as the probability of a larger |z|. Continuous knees are
 * smoother than breaks, so it is cautious. */
#define KNEE_P 4.42e-4

struct points {
    size_t n;
    double *x, *z, *y; /* z NULL: no covariate */
    int64_t *cluster;
    double *design; /* [n][SKEW_TIME_COLUMNS] */
    double *scratch;
};

static void points_free(struct points *p)
{
    free(p->x);
    free(p->z);
    free(p->y);
    free(p->cluster);
    free(p->design);
    free(p->scratch);
}

static int points_take(struct points *p, const double *x, const double *z, const double *y,
                       const int64_t *cluster, size_t n)
{
    size_t stride = n / POINTS_MAX + 1, room = n / stride + 1;

    *p = (struct points){.x = malloc(room * sizeof(double)),
                         .z = z ? malloc(room * sizeof(double)) : NULL,
                         .y = malloc(room * sizeof(double)),
                         .cluster = malloc(room * sizeof(int64_t)),
                         .design = malloc(room * SKEW_TIME_COLUMNS * sizeof(double)),
                         .scratch = malloc(room * sizeof(double))};
    if (!p->x || (z && !p->z) || !p->y || !p->cluster || !p->design || !p->scratch)
        return -ENOMEM;
    for (size_t i = 0; i < n; i += stride) {
        if (!isfinite(x[i]) || !isfinite(y[i]) || (z && !isfinite(z[i])))
            continue;
        p->x[p->n] = x[i];
        p->y[p->n] = y[i];
        if (z)
            p->z[p->n] = z[i];
        p->cluster[p->n++] = cluster[i];
    }
    return 0;
}

/* Coefficient of variation, and the correlation with x. */
static void spread_of(const struct points *p, const double *v, double *cv, double *correlation)
{
    double mv = 0, mx = 0, vv = 0, xx = 0, vx = 0;

    for (size_t i = 0; i < p->n; i++) {
        mv += v[i] / (double)p->n;
        mx += p->x[i] / (double)p->n;
    }
    for (size_t i = 0; i < p->n; i++) {
        vv += (v[i] - mv) * (v[i] - mv);
        xx += (p->x[i] - mx) * (p->x[i] - mx);
        vx += (v[i] - mv) * (p->x[i] - mx);
    }
    *cv = mv != 0 ? sqrt(vv / (double)p->n) / fabs(mv) : 0;
    *correlation = vv > 0 && xx > 0 ? vx / sqrt(vv * xx) : 0;
}

enum shape {
    LINE,   /* 1, x */
    HALVES, /* 1, min(x, knee), max(0, x − knee) */
    KINK,   /* 1, x, max(0, x − knee): the third coefficient is the change of slope */
    LOOSE   /* as HALVES, then [x > knee]: the knee's own error, to first order */
};

/* The covariate, if there is one, comes last. */
static int regress_on(struct points *p, enum shape shape, double knee, double scale,
                      const int64_t *cluster, struct skew_time_regression *out)
{
    size_t columns = (shape == LINE ? 2 : shape == LOOSE ? 4 : 3) + (p->z != NULL);

    for (size_t i = 0; i < p->n; i++) {
        double *row = p->design + i * columns;
        size_t c = 0;
        row[c++] = 1;
        row[c++] = shape == HALVES || shape == LOOSE ? fmin(p->x[i], knee) : p->x[i];
        if (shape != LINE)
            row[c++] = fmax(0, p->x[i] - knee);
        if (shape == LOOSE)
            row[c++] = p->x[i] > knee;
        if (p->z)
            row[c] = p->z[i];
    }
    return skew_time_regress(p->design, p->y, cluster, p->n, columns, scale, out);
}

static int regress(struct points *p, enum shape shape, double knee, double scale,
                   struct skew_time_regression *out)
{
    return regress_on(p, shape, knee, scale, p->cluster, out);
}

static double quantile_of(struct points *p, double q)
{
    memcpy(p->scratch, p->x, p->n * sizeof *p->scratch);
    return skew_time_quantile(p->scratch, p->n, q);
}

/* The knee with the least loss, on a grid of quantiles of x. 0: none could be fitted. */
static double best_knee(struct points *p, double scale)
{
    double best = INFINITY, knee = 0;

    for (int g = 0; g < GRID; g++) {
        struct skew_time_regression r;
        double at = quantile_of(p, 0.15 + 0.7 * g / (GRID - 1));
        if (at > 0 && regress_on(p, HALVES, at, scale, NULL, &r) == 0 && r.loss < best) {
            best = r.loss;
            knee = at;
        }
    }
    return knee;
}

/*
 * From the grid to the knee itself: a step at the knee of γ says that it lies γ / (change of slope)
 * away (Muggeo, Statistics in Medicine 22 (2003)); of all that are visited that with the least
 * loss. *loose is the regression with such a step there: standard errors of its slopes hold the
 * knee's error.
 */
static double refine_knee(struct points *p, double knee, double scale,
                          struct skew_time_regression *loose)
{
    double least = quantile_of(p, 0.1), most = quantile_of(p, 0.9), at = knee, best = INFINITY;

    for (int i = 0; i < REFINEMENTS; i++) {
        struct skew_time_regression halves, step;
        if (regress(p, HALVES, at, scale, &halves) < 0 || regress(p, LOOSE, at, scale, &step) < 0)
            break;
        if (halves.loss < best) {
            best = halves.loss;
            knee = at;
        }
        double move = step.coefficient[3] / (step.coefficient[1] - step.coefficient[2]);
        if (!isfinite(move) || fabs(move) < 1e-4 * (most - least))
            break;
        at = fmax(least, fmin(most, at + move));
    }
    return regress(p, LOOSE, knee, 0, loose) == 0 ? knee : 0;
}

/* Standard errors as in `loose`, around the value that is there. */
static void widen(struct skew_time_estimate *e, const struct skew_time_regression *loose,
                  size_t column)
{
    double value = e->value;

    *e = skew_time_coefficient(loose, column);
    e->low += value - e->value;
    e->high += value - e->value;
    e->value = value;
}

static void take_line(struct points *p, const struct skew_time_regression *r,
                      struct skew_time_fit *fit)
{
    size_t c = 0;

    fit->intercept = skew_time_coefficient(r, c++);
    if (fit->model == SKEW_TIME_PIECEWISE)
        fit->slope_below = skew_time_coefficient(r, c++);
    fit->slope = skew_time_coefficient(r, c++);
    if (p->z)
        fit->covariate = skew_time_coefficient(r, c);
    fit->with_covariate = p->z != NULL;
    fit->scale = r->scale;
    fit->clusters = r->clusters;
}

static void take_level(struct points *p, struct skew_time_fit *fit)
{
    const struct skew_time_estimate none = {0, NAN, NAN, NAN, 0, 0};
    struct skew_time_regression r;

    for (size_t i = 0; i < p->n; i++)
        p->design[i] = 1;
    fit->slope = fit->slope_below = fit->covariate = none;
    fit->with_covariate = false;
    if (skew_time_regress(p->design, p->y, p->cluster, p->n, 1, 0, &r) == 0) {
        fit->intercept = skew_time_coefficient(&r, 0);
        fit->scale = r.scale;
        fit->clusters = r.clusters;
    }
}

__attribute__((format(printf, 3, 4))) static void
say(struct skew_time_fit *fit, enum skew_time_model model, const char *format, ...)
{
    va_list arguments;
    fit->model = model;
    va_start(arguments, format);
    vsnprintf(fit->why, sizeof fit->why, format, arguments);
    va_end(arguments);
}

static double scale_without_x(struct points *p)
{
    memcpy(p->scratch, p->y, p->n * sizeof *p->scratch);
    double middle = skew_time_median(p->scratch, p->n);
    for (size_t i = 0; i < p->n; i++)
        p->scratch[i] = fabs(p->y[i] - middle);
    return 1.4826 * skew_time_median(p->scratch, p->n);
}

/* Whether the slope may also be none. A knee could hide one: flat first, steep later. */
static void choose(struct points *p, const struct skew_time_regression *line,
                   struct skew_time_fit *fit)
{
    struct skew_time_regression kinked, halves, loose;
    struct skew_time_estimate slope = skew_time_coefficient(line, 1);
    double t = slope.value / slope.se, knee = best_knee(p, line->scale), t_change = 0;
    bool two = false;

    fit->p = skew_time_t_p(t, slope.df);
    if (knee > 0 && regress(p, KINK, knee, line->scale, &kinked) == 0) {
        struct skew_time_estimate change = skew_time_coefficient(&kinked, 2);
        t_change = fabs(change.value / change.se);
        two = skew_time_t_p(t_change, change.df) < KNEE_P;
    }
    if (two)
        knee = refine_knee(p, knee, line->scale, &loose);
    if (two && knee > 0 && regress(p, HALVES, knee, 0, &halves) == 0 && halves.coefficient[2] > 0) {
        fit->knee = knee;
        say(fit, SKEW_TIME_PIECEWISE, "two slopes: their difference is %.1f standard errors",
            t_change);
        take_line(p, &halves, fit);
        widen(&fit->intercept, &loose, 0);
        widen(&fit->slope_below, &loose, 1);
        widen(&fit->slope, &loose, 2);
        fit->p = fmin(fit->p, skew_time_t_p(fit->slope.value / fit->slope.se, fit->slope.df));
        return;
    }
    if (fit->p < LEVEL && slope.value > 0) {
        say(fit, SKEW_TIME_LINEAR, "a line: the slope is %.1f standard errors from 0", t);
        take_line(p, line, fit);
        return;
    }
    take_level(p, fit);
    if (slope.value < 0 && fit->p < LEVEL)
        say(fit, SKEW_TIME_NO_RELATION, "larger sizes do not take longer (the slope is negative)");
    else
        say(fit, SKEW_TIME_NO_RELATION,
            "no relation seen: p = %.2g; the slope may be from %.3g to %.3g", fit->p, slope.low,
            slope.high);
    fit->slope.low = slope.low;
    fit->slope.high = slope.high;
    fit->slope.se = slope.se;
    fit->slope.df = slope.df;
    fit->slope.effective = slope.effective;
}

static int fit_points(struct points *p, struct skew_time_fit *fit)
{
    struct skew_time_regression line;
    double cv = 0, correlation = 0, before;

    for (size_t i = 0; i < p->n; i++) {
        fit->least = fmin(fit->least, p->x[i]);
        fit->most = fmax(fit->most, p->x[i]);
    }
    fit->observations = p->n;
    before = p->n ? scale_without_x(p) : 0;
    take_level(p, fit);
    if (p->n)
        spread_of(p, p->x, &cv, &correlation);
    if (p->n < 20) {
        say(fit, SKEW_TIME_NOT_TOLD, "only %zu observations: at least 20 are needed", p->n);
        return 0;
    }
    if (cv < 0.005) {
        say(fit, SKEW_TIME_NOT_TOLD, "the sizes hardly differ (by %.2g %%): nothing can be told",
            100 * cv);
        return 0;
    }
    if (p->z) { /* one that hardly varies, or goes along with x, only takes precision away */
        spread_of(p, p->z, &cv, &correlation);
        if (cv < 0.01 || fabs(correlation) > 0.99) {
            free(p->z);
            p->z = NULL;
        }
    }
    int result = regress(p, LINE, 0, 0, &line);
    if (result == -ENOMEM)
        return result;
    fit->trend = result < 0 ? 0 : line.coefficient[1];
    if (result < 0 || line.effective[1] < SKEW_TIME_EFFECTIVE_LEAST) {
        say(fit, SKEW_TIME_NOT_TOLD,
            "%zu steps are worth %.0f independent ones: at least %d are needed", fit->clusters,
            result < 0 ? 0 : line.effective[1], SKEW_TIME_EFFECTIVE_LEAST);
        return 0;
    }
    choose(p, &line, fit);
    fit->quality = before > 0 ? fmax(0, 1 - (fit->scale / before) * (fit->scale / before)) : 0;
    return 0;
}

int skew_time_fit(const double *x, const double *z, const double *y, const int64_t *cluster,
                  size_t n, struct skew_time_fit *fit)
{
    struct points p;

    *fit = (struct skew_time_fit){.least = INFINITY, .most = -INFINITY, .p = NAN};
    int result = points_take(&p, x, z, y, cluster, n);
    if (result == 0)
        result = fit_points(&p, fit);
    points_free(&p);
    return result;
}

double skew_time_fit_at(const struct skew_time_fit *fit, double x, double z)
{
    double value = fit->intercept.value;

    x = fmax(fit->least, fmin(fit->most, x));
    if (fit->model == SKEW_TIME_LINEAR)
        value += fit->slope.value * x;
    if (fit->model == SKEW_TIME_PIECEWISE)
        value +=
            fit->slope_below.value * fmin(x, fit->knee) + fit->slope.value * fmax(0, x - fit->knee);
    return fit->with_covariate ? value + fit->covariate.value * z : value;
}
