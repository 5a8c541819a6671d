/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statistics of series in time: seeded random numbers, intervals that survive correlation, ratios,
 * equivalence, many tests at once. Pure functions, any thread; what draws random numbers takes its
 * generator as an argument, so that every result can be repeated.
 *
 * Tokens of a step are not independent, nor are steps. The interval of a mean over n steps rests on
 * the long-run variance: an autoregression (order by AICc) takes out what correlates neighbours
 * (prewhitening: Andrews & Monahan, Econometrica 60 (1992); the estimate's own bias, Shaman &
 * Stine, JASA 83 (1988), taken out to first order), and the variance of what is left comes from its
 * 5 slowest cosines alone (Müller, J. Econometrics 141 (2007); Sun, Econometrics J. 16 (2013);
 * Lazarus, Lewis, Stock & Watson, JBES 36 (2018)), which a slow drift beneath much noise cannot
 * escape. So few make intervals a quarter wider than a known variance would, by Student quantiles
 * of 5 degrees of freedom or fewer, and leave them honest. Where fewer than SKEW_EFFECTIVE_MIN
 * independent values stand behind a mean there is no interval, and `why` says so.
 */
#ifndef SKEW_STATS_H
#define SKEW_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SKEW_EFFECTIVE_MIN 20

/* ---- random numbers -------------------------------------------------------------------------- */

/** xoshiro256** (Blackman & Vigna, ACM TOMS 47 (2021)), seeded by splitmix64. */
struct skew_rng {
    uint64_t state[4];
};

void skew_rng_seed(struct skew_rng *rng, uint64_t seed);
uint64_t skew_rng_next(struct skew_rng *rng);
double skew_rng_uniform(struct skew_rng *rng); /* [0, 1) */
double skew_rng_normal(struct skew_rng *rng);  /* mean 0, variance 1 */

/** Uniform in 0 … n − 1, n > 0; off by less than n / 2^32. */
static inline uint32_t skew_rng_below(struct skew_rng *rng, uint32_t n)
{
    return (uint32_t)((skew_rng_next(rng) >> 32) * n >> 32);
}

/* ---- distributions --------------------------------------------------------------------------- */

double skew_normal_cdf(double x);
double skew_normal_quantile(double p);
double skew_student_cdf(double x, double df);
/** df > 0, not only whole numbers. Infinite df: normal. */
double skew_student_quantile(double p, double df);
double skew_chi2_cdf(double x, double df);
double skew_chi2_quantile(double p, double df);

/* ---- mean of a series ------------------------------------------------------------------------ */

/** A number with its interval. */
struct skew_estimate {
    double value;     /* NaN: there is none */
    double se;        /* NaN: not known */
    double df;        /* degrees of freedom of se */
    double low, high; /* NaN: no interval, and `why` says why not */
    double level;     /* of the interval, as 0.95; 0: none */
    size_t n;         /* values */
    double effective; /* as many independent values would say as much, by the autoregression */
    const char *why;  /* static text; NULL: nothing is wrong */
};

/** No value at all, and why. */
struct skew_estimate skew_estimate_none(const char *why);

/**
 * The mean of x[n], in time order, and its interval at `level`.
 * A constant series has an interval of no width.
 */
struct skew_estimate skew_mean(const double *x, size_t n, double level);

/** The same for a given value whose error is the mean of the influences x[n] (any mean). */
struct skew_estimate skew_mean_around(double value, const double *x, size_t n, double level);

/**
 * The same where x[n] are independent, in whatever order: requests, runs. Student with n − 1
 * degrees of freedom, from 2 values on.
 */
struct skew_estimate skew_mean_independent(double value, const double *x, size_t n, double level);

/** `estimate` with its interval mapped by an increasing function of value, low and high. */
struct skew_estimate skew_estimate_map(struct skew_estimate estimate, double (*map)(double));

/** Probability, under H0 "the true value is `null`", of an estimate as large or larger. NaN: no se.
 */
double skew_estimate_above(const struct skew_estimate *estimate, double null);

/* ---- ratios, equivalence, many tests --------------------------------------------------------- */

/**
 * a / b by Fieller's theorem, for independent a and b (covariance 0). When b cannot be told from 0
 * the set is unbounded: no interval, with the reason.
 */
struct skew_estimate skew_ratio(const struct skew_estimate *a, const struct skew_estimate *b,
                                double level);

/**
 * Two one-sided tests (Schuirmann, 1987): the larger of the p-values of "difference <= low" and
 * "difference >= high"; small: equivalent within (low, high).
 */
double skew_tost(const struct skew_estimate *difference, double low, double high);

/** Difference a − b of independent estimates; Welch's degrees of freedom. */
struct skew_estimate skew_difference(const struct skew_estimate *a, const struct skew_estimate *b,
                                     double level);

/**
 * Holm's adjustment (Scand. J. Statist. 6 (1979)): adjusted[n] from p[n]; NaN stay NaN and do not
 * count.
 * @return 0 or -ENOMEM.
 */
int skew_holm(const double *p, size_t n, double *adjusted);

/* ---- imbalance that persists ----------------------------------------------------------------- */

/**
 * Loads of n items in `rows` moments, [rows][n]. share = load × n / sum of its row, mean 1; rows
 * without load are left out.
 *
 * Persistent CV²: the mean over pairs of moments t ≠ u, at least `gap` apart, of
 * (1/n) sum over items of (share_t − 1)(share_u − 1). What is independent between moments, sampling
 * of tokens above all, has expectation 0 in it; the CV² of the mean shares has not.
 * @param gap 0: chosen from the correlation of the series: the lag at which it has died out.
 * @param used NULL, or the gap that was used.
 * The interval is of CV², may reach below 0, and is not cut off.
 */
struct skew_estimate skew_persistent_cv2(const double *loads, size_t rows, uint32_t n, size_t gap,
                                         double level, size_t *used);

/**
 * The hottest item's mean share (its long-run max/mean), cross-fitted: the item is picked on the
 * other half of the moments than that on which it is measured, so that picking does not flatter it.
 * Its expectation is at most the true maximum. The interval is that of the picked items' shares,
 * wider where it is not clear which item is the hottest; it is none of the maximum itself.
 * @param hottest NULL, or the two picks.
 */
struct skew_estimate skew_crossfit_max(const double *loads, size_t rows, uint32_t n, double level,
                                       uint32_t hottest[2]);

/**
 * The values of both, NaN where they cannot be had, and series[*kept] in time with whose mean's
 * error they come, rows without load left out: skew_mean_around() of them is what the functions
 * above return, and of their means over several sets of items what is to be said of these together.
 * @param gap as above; replaced by the one that was used.
 */
double skew_persistent_influence(const double *loads, size_t rows, uint32_t n, size_t *gap,
                                 double *series, size_t *kept);
double skew_crossfit_series(const double *loads, size_t rows, uint32_t n, double level,
                            double *series, size_t *kept, uint32_t hottest[2]);

#endif
