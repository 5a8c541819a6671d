/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statistics of the Time analyses: a robust regression whose observations hang together within
 * steps and from step to step, and the interval of a mean of such a series. docs/time.md has the
 * reasons. Pure computation.
 */
#ifndef SKEW_TIME_STATS_H
#define SKEW_TIME_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** A number with its 95 % interval. */
struct skew_time_estimate {
    double value;
    double low, high; /* NaN: no interval can be stated */
    double se;        /* NaN likewise */
    double df;        /* of Student's t */
    double effective; /* independent steps that these steps are worth */
};

/** Fewer effective steps than this give no interval (facts: science notes, "fixed short blocks").
 */
#define SKEW_TIME_EFFECTIVE_LEAST 20

#define SKEW_TIME_COLUMNS 5

struct skew_time_regression {
    size_t columns, observations, clusters;
    double coefficient[SKEW_TIME_COLUMNS];
    double se[SKEW_TIME_COLUMNS], df[SKEW_TIME_COLUMNS], effective[SKEW_TIME_COLUMNS];
    double scale; /* of the residuals: MAD × 1.4826 */
    double loss;  /* Huber's, in units of scale²: for comparing models at one scale */
};

/** Median of values[n]; reorders them. NaN when n is 0. */
double skew_time_median(double *values, size_t n);
/** Quantile q (0 … 1) by linear interpolation; reorders. */
double skew_time_quantile(double *values, size_t n, double q);
/** Student's t: the quantile of probability p in (0.5, 1). */
double skew_time_t_quantile(double p, double df);
/** Two-sided p of |t|. */
double skew_time_t_p(double t, double df);

/**
 * Variance of the sum of u[n], a series in time whose mean is taken out: skew_mean()'s long-run
 * variance (stats.h).
 * @param df, effective  degrees of freedom of it; independent values that these are worth
 */
double skew_time_long_run(const double *u, size_t n, double *df, double *effective);

/** Mean of a series with its interval. NaN values are left out. -ENOMEM. */
int skew_time_mean(const double *values, size_t n, struct skew_time_estimate *out);

/**
 * Huber regression (k = 1.345, iterated reweighting) of y[n] on x[n][columns], the first of which
 * is the constant 1. Standard errors from the sums of scores of each cluster, as a series.
 * @param cluster  [n], equal and adjacent for observations of one cluster, in order of time; NULL:
 * no standard errors are asked for
 * @param scale    residual scale to hold fixed; 0: estimate it
 * @return 0; -EINVAL: too few, or columns that cannot be told apart; -ENOMEM
 */
int skew_time_regress(const double *x, const double *y, const int64_t *cluster, size_t n,
                      size_t columns, double scale, struct skew_time_regression *out);

/** Coefficient `column` as an estimate with its interval, NaN where none can be stated. */
struct skew_time_estimate skew_time_coefficient(const struct skew_time_regression *regression,
                                                size_t column);

#endif
