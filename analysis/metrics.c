/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Imbalance of a set of loads: see metrics.h, which has the formulas.
 */
#include "metrics.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *skew_metric_name(enum skew_metric metric)
{
    static const char *const names[] = {"gini", "max_mean", "cv", "entropy"};
    return (unsigned)metric < SKEW_METRIC_COUNT ? names[metric] : "?";
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#define SORT_RUN  8    /* values sorted by insertion before runs are merged */
#define SORT_MOST 4096 /* values of which a copy fits on the stack */

static void insert(double *values, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        double value = values[i];
        size_t j = i;
        for (; j > 0 && values[j - 1] > value; j--)
            values[j] = values[j - 1];
        values[j] = value;
    }
}

/* Which of the two heads is less cannot be foretold, so nothing is made to jump on it. */
static void merge(double *into, const double *a, size_t a_count, const double *b, size_t b_count)
{
    size_t i = 0, j = 0;

    while (i < a_count && j < b_count) {
        bool second = b[j] < a[i];
        into[i + j] = second ? b[j] : a[i];
        j += second;
        i += !second;
    }
    memcpy(into + i + j, a + i, (a_count - i) * sizeof *a);
    memcpy(into + a_count + j, b + j, (b_count - j) * sizeof *b);
}

/* A row of loads is sorted for each Gini coefficient of each call: several times as fast as
 * qsort(). */
void skew_sort(double *values, size_t n)
{
    double other[SORT_MOST], *from = values, *to = other;

    if (n > SORT_MOST) {
        qsort(values, n, sizeof *values, compare);
        return;
    }
    for (size_t i = 0; i < n; i += SORT_RUN)
        insert(values + i, n - i < SORT_RUN ? n - i : SORT_RUN);
    for (size_t run = SORT_RUN; run < n; run *= 2) {
        for (size_t i = 0; i < n; i += 2 * run) {
            size_t middle = n - i < run ? n : i + run, end = n - i < 2 * run ? n : i + 2 * run;
            merge(to + i, from + i, middle - i, from + middle, end - middle);
        }
        double *sorted = to;
        to = from;
        from = sorted;
    }
    if (from != values)
        memcpy(values, from, n * sizeof *values);
}

double skew_quantile(const double *sorted, size_t n, double p)
{
    if (n == 0)
        return NAN;
    double at = p * (double)(n - 1);
    size_t low = (size_t)at;
    if (low + 1 >= n)
        return sorted[n - 1];
    return sorted[low] + (at - (double)low) * (sorted[low + 1] - sorted[low]);
}

static double gini_of(double *sorted, uint32_t n, double sum)
{
    double weighted = 0;

    skew_sort(sorted, n);
    for (uint32_t i = 0; i < n; i++)
        weighted += (2.0 * i + 1 - n) * sorted[i];
    return weighted / (n * sum);
}

int skew_metrics_of(struct skew_metrics *m, const double *loads, uint32_t n, double *scratch)
{
    double sum = 0, squares = 0, entropy = 0;
    double *own = NULL;

    *m = (struct skew_metrics){.value = {NAN, NAN, NAN, NAN}};
    for (uint32_t i = 0; i < n; i++) {
        sum += loads[i];
        m->zeros += loads[i] == 0;
        if (loads[i] > loads[m->hottest])
            m->hottest = i;
    }
    m->sum = sum;
    if (!(sum > 0))
        return 0;
    if (!scratch && !(scratch = own = malloc(n * sizeof *own)))
        return -ENOMEM;
    double mean = sum / n;
    for (uint32_t i = 0; i < n; i++) {
        squares += (loads[i] - mean) * (loads[i] - mean);
        if (loads[i] > 0)
            entropy -= loads[i] / sum * log(loads[i] / sum);
    }
    memcpy(scratch, loads, n * sizeof *scratch);
    m->value[SKEW_METRIC_GINI] = gini_of(scratch, n, sum);
    m->value[SKEW_METRIC_MAX_MEAN] = loads[m->hottest] / mean;
    m->value[SKEW_METRIC_CV] = sqrt(squares / n) / mean;
    m->value[SKEW_METRIC_ENTROPY] = n > 1 ? entropy / log(n) : 1;
    free(own);
    return 0;
}

struct placed {
    double load;
    uint32_t item;
};

static int compare_placed(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    if (x->load != y->load)
        return x->load < y->load ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

static int gini_gradient(const double *loads, uint32_t n, double sum, double *gradient)
{
    struct placed *order = malloc(n * sizeof *order);
    double weighted = 0;

    if (!order)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        order[i] = (struct placed){loads[i], i};
    qsort(order, n, sizeof *order, compare_placed);
    for (uint32_t i = 0; i < n; i++)
        weighted += (2.0 * i + 1 - n) * order[i].load;
    for (uint32_t i = 0; i < n; i++)
        gradient[order[i].item] = (2.0 * i + 1 - n - weighted / sum) / (n * sum);
    free(order);
    return 0;
}

int skew_metrics_gradient(enum skew_metric metric, const double *loads, uint32_t n,
                          double *gradient)
{
    struct skew_metrics m;
    int result = skew_metrics_of(&m, loads, n, gradient);

    if (result < 0)
        return result;
    double sum = m.sum, mean = sum / n, cv = m.value[SKEW_METRIC_CV];
    if (metric == SKEW_METRIC_GINI)
        return gini_gradient(loads, n, sum, gradient);
    for (uint32_t i = 0; i < n; i++) {
        double value = 0;
        if (metric == SKEW_METRIC_MAX_MEAN)
            value = ((i == m.hottest) - m.value[SKEW_METRIC_MAX_MEAN] / n) / mean;
        else if (metric == SKEW_METRIC_CV) /* of CV = sqrt(n sum x² / (sum x)² − 1) */
            value = cv > 0 ? (loads[i] / mean - 1 - cv * cv) / (n * mean * cv) : 0;
        else if (n > 1) {
            double entropy = m.value[SKEW_METRIC_ENTROPY] * log(n);
            value = loads[i] > 0 ? -(log(loads[i] / sum) + entropy) / (sum * log(n)) : 0;
        }
        gradient[i] = value;
    }
    return 0;
}

const char *skew_balancedness_name(enum skew_balancedness formula)
{
    static const char *const names[] = {"ratio_of_sums", "mean_of_ratios", "sglang",
                                        "summed_first"};
    return (unsigned)formula < SKEW_BALANCE_COUNT ? names[formula] : "?";
}

const char *skew_balancedness_text(enum skew_balancedness formula)
{
    static const char *const texts[] = {
        "sum over layers of the mean rank load / sum over layers of the largest (vLLM, fixed)",
        "mean over layers of mean rank load / largest rank load",
        "mean over layers of (mean + 1e-5) / (max + 1e-5) (SGLang)",
        "loads added up over layers first: hides skew that differs between layers, do not compare"};
    return (unsigned)formula < SKEW_BALANCE_COUNT ? texts[formula] : "?";
}

static void row_of(const double *loads, uint32_t ranks, double *mean, double *max)
{
    *mean = *max = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        *mean += loads[r] / ranks;
        if (loads[r] > *max)
            *max = loads[r];
    }
}

static double summed_first(const double *loads, size_t rows, uint32_t ranks)
{
    double total = 0, max = 0;

    for (uint32_t r = 0; r < ranks; r++) {
        double load = 0;
        for (size_t i = 0; i < rows; i++)
            load += loads[i * ranks + r];
        total += load;
        if (load > max)
            max = load;
    }
    return max > 0 ? total / ranks / max : NAN;
}

double skew_balancedness(enum skew_balancedness formula, const double *loads, size_t rows,
                         uint32_t ranks)
{
    double means = 0, maxima = 0, ratios = 0;
    size_t counted = 0;
    bool sglang = formula == SKEW_BALANCE_SGLANG;

    if (formula == SKEW_BALANCE_SUMMED_FIRST)
        return summed_first(loads, rows, ranks);
    for (size_t i = 0; i < rows; i++) {
        double mean, max;
        row_of(loads + i * ranks, ranks, &mean, &max);
        means += mean;
        maxima += max;
        if (sglang || max > 0) {
            ratios += sglang ? (mean + 1e-5) / (max + 1e-5) : mean / max;
            counted++;
        }
    }
    if (!(maxima > 0))
        return NAN;
    return formula == SKEW_BALANCE_RATIO_OF_SUMS ? means / maxima : ratios / (double)counted;
}
