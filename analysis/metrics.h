/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Imbalance of a set of loads. Pure functions of numbers: no input, no output, no state, any
 * thread.
 *
 * n items, experts or ranks, with loads x ≥ 0 in any unit; only shares matter. All are Schur-convex
 * in the shares (entropy: concave), so that putting experts together on ranks can only lower them.
 *
 *   Gini          sum over i of (2i − n − 1) x_(i) / (n sum x), x_(1) ≤ … ≤ x_(n). 0 … 1 − 1/n: the
 *                 population's, without the factor n / (n − 1) of small samples.
 *   max/mean      n max x / sum x. 1 … n. Equal to 1 / balancedness and to 1 + MaxVio.
 *   CV            standard deviation / mean, the population's (divided by n). 0 … sqrt(n − 1).
 *   entropy       −sum p ln p / ln n, p = x / sum x. 1 balanced … 0 one takes all.
 *
 * Loads that are all zero, or no items, have none of these: NaN. One item alone is balanced.
 */
#ifndef SKEW_METRICS_H
#define SKEW_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum skew_metric {
    SKEW_METRIC_GINI,
    SKEW_METRIC_MAX_MEAN,
    SKEW_METRIC_CV,
    SKEW_METRIC_ENTROPY,
    SKEW_METRIC_COUNT
};

/** gini, max_mean, cv, entropy: as in --json and in the table metric. */
const char *skew_metric_name(enum skew_metric metric);

struct skew_metrics {
    double value[SKEW_METRIC_COUNT];
    double sum;
    uint32_t hottest; /* the item with the largest load; the first of equals */
    uint32_t zeros;   /* items without load */
};

/**
 * All metrics of `loads`[n].
 * @param scratch [n], overwritten; NULL: allocated here.
 * @return 0, or -ENOMEM (never with scratch).
 */
int skew_metrics_of(struct skew_metrics *metrics, const double *loads, uint32_t n, double *scratch);

/**
 * d metric / d load at `loads`[n], for carrying the error of loads over to the metric. Where Gini
 * or max/mean has a kink (equal loads) this is one of its one-sided derivatives.
 * @param gradient [n]. @return 0, or -ENOMEM.
 */
int skew_metrics_gradient(enum skew_metric metric, const double *loads, uint32_t n,
                          double *gradient);

/** Sorts upwards, in place; for metrics and quantiles. */
void skew_sort(double *values, size_t n);

/** The p-quantile (0 … 1) of values that are sorted upwards, by linear interpolation (type 7). */
double skew_quantile(const double *sorted, size_t n, double p);

/* ---- balancedness: three sound formulas, and a trap ------------------------------------------ */

/**
 * "Balancedness" of ranks over several layers or calls, mean load / max load, is computed in
 * different ways by different frameworks; the numbers do not compare. Each is named in all output.
 */
enum skew_balancedness {
    SKEW_BALANCE_RATIO_OF_SUMS,  /* sum over rows of mean / sum over rows of max (vLLM after #51813)
                                  */
    SKEW_BALANCE_MEAN_OF_RATIOS, /* mean over rows of mean / max */
    SKEW_BALANCE_SGLANG, /* the same with 1e-5 added to both, which matters only for empty rows */
    SKEW_BALANCE_SUMMED_FIRST, /* rows added up first: hides skew that differs from row to row;
                                  never shown without saying so */
    SKEW_BALANCE_COUNT
};

/** ratio_of_sums, mean_of_ratios, sglang, summed_first. */
const char *skew_balancedness_name(enum skew_balancedness formula);
/** What is computed, in words; of summed_first with its warning. */
const char *skew_balancedness_text(enum skew_balancedness formula);

/**
 * @param loads [rows][ranks]: a row is one layer, or one call.
 * @return NaN when no row has a load. Rows without load are left out of all but sglang's, where
 *         they count as balanced.
 */
double skew_balancedness(enum skew_balancedness formula, const double *loads, size_t rows,
                         uint32_t ranks);

#endif
