/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The imbalance of one set of items over its calls: see metrics_level.h.
 */
#include "metrics_level.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct work {
    const struct skew_level_input *in;
    struct skew_level *out;
    const double **row; /* [rows] that have load */
    double *dense;      /* [rows][items]: the same, one after the other */
    double *value;      /* [SKEW_METRIC_COUNT][rows] */
    uint32_t *hottest;  /* [rows] */
    double *beyond;     /* [rows] */
    double *pooled;     /* [items] */
    double *scratch;    /* [items] */
    double *series;     /* [max(rows, cluster_rows)] */
    size_t rows;
};

static void release(struct work *w)
{
    free(w->row);
    free(w->dense);
    free(w->value);
    free(w->hottest);
    free(w->beyond);
    free(w->pooled);
    free(w->scratch);
    free(w->series);
}

static int prepare(struct work *w)
{
    const struct skew_level_input *in = w->in;
    size_t most = in->rows > in->cluster_rows ? in->rows : in->cluster_rows;

    w->dense = malloc((in->rows * in->items + 1) * sizeof *w->dense);
    w->value = malloc((in->rows + 1) * SKEW_METRIC_COUNT * sizeof *w->value);
    w->hottest = malloc((in->rows + 1) * sizeof *w->hottest);
    w->beyond = malloc((in->rows + 1) * sizeof *w->beyond);
    w->pooled = calloc(in->items + 1, sizeof *w->pooled);
    w->scratch = malloc((in->items + 1) * sizeof *w->scratch);
    w->series = malloc((most + 1) * sizeof *w->series);
    if (!w->dense || !w->value || !w->hottest || !w->beyond || !w->pooled || !w->scratch ||
        !w->series)
        return -ENOMEM;
    return 0;
}

/* ---- each call ------------------------------------------------------------------------------- */

struct floor_sums {
    struct skew_floor mean; /* sums over calls */
    double cv2, chi2, df;
    bool known;
    uint64_t last_tokens;
    struct skew_floor last;
};

/* The floor of a call with this sum of loads. */
static int add_floor(struct work *w, struct floor_sums *s, double sum, double cv, size_t at,
                     struct skew_floors *floors)
{
    const struct skew_level_input *in = w->in;
    struct skew_floor_case c = {in->experts, in->topk, 0, in->items};
    double tokens = sum / in->unit / in->topk;

    c.tokens = tokens < 1 ? 1 : (uint64_t)llround(tokens);
    if (c.tokens != s->last_tokens) {
        int result = skew_floors_get(floors, &c, &s->last);
        if (result < 0)
            return result;
        s->last_tokens = c.tokens;
    }
    double cv2 = skew_floor_cv2(&c);
    for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
        s->mean.mean[m] += s->last.mean[m];
        s->mean.p95[m] += s->last.p95[m];
    }
    s->cv2 += cv2;
    w->beyond[at] = cv * cv - cv2;
    if (cv2 > 0) { /* (n − 1) CV² / E CV² is about chi-square of n − 1 */
        s->chi2 += (in->items - 1) * cv * cv / cv2;
        s->df += in->items - 1;
    }
    return 0;
}

static int each_call(struct work *w, struct floor_sums *s, struct skew_floors *floors)
{
    const struct skew_level_input *in = w->in;
    size_t stride = in->rows;
    int result = 0;

    for (size_t t = 0; t < in->rows && result == 0; t++) {
        const double *row = in->loads + t * in->items;
        struct skew_metrics m;
        skew_metrics_of(&m, row, in->items, w->scratch);
        if (!(m.sum > 0))
            continue;
        size_t at = w->rows++;
        memcpy(w->dense + at * in->items, row, in->items * sizeof *row);
        for (int k = 0; k < SKEW_METRIC_COUNT; k++)
            w->value[(size_t)k * stride + at] = m.value[k];
        for (uint32_t i = 0; i < in->items; i++)
            w->pooled[i] += row[i];
        w->hottest[at] = m.hottest;
        w->out->cv2_call += m.value[SKEW_METRIC_CV] * m.value[SKEW_METRIC_CV];
        if (s->known)
            result = add_floor(w, s, m.sum, m.value[SKEW_METRIC_CV], at, floors);
    }
    return result < 0 ? result : w->rows ? 0 : -EINVAL;
}

static void spread(struct work *w, const struct floor_sums *s)
{
    double n = (double)w->rows;

    for (int k = 0; k < SKEW_METRIC_COUNT; k++) {
        struct skew_level_metric *m = &w->out->metric[k];
        double *values = w->value + (size_t)k * w->in->rows;
        m->call = skew_mean(values, w->rows, w->in->level);
        memcpy(w->series, values, w->rows * sizeof *values);
        skew_sort(w->series, w->rows);
        m->median = skew_quantile(w->series, w->rows, 0.5);
        /* "Worse than all but 5 %": entropy is worse when lower. */
        bool down = k == SKEW_METRIC_ENTROPY;
        m->p95 = skew_quantile(w->series, w->rows, down ? 0.05 : 0.95);
        m->max = w->series[down ? 0 : w->rows - 1];
        m->chance = s->known ? s->mean.mean[k] / n : NAN;
        m->chance_p95 = s->known ? s->mean.p95[k] / n : NAN;
    }
    w->out->cv2_call /= n;
    w->out->cv2_chance = s->known ? s->cv2 / n : NAN;
    w->out->cv2_beyond = s->known ? skew_mean(w->beyond, w->rows, w->in->level)
                                  : skew_estimate_none("the chance floor is not known");
    w->out->p_beyond = s->known && s->df > 0 ? 1 - skew_chi2_cdf(s->chi2, s->df) : NAN;
}

/* ---- pooled and persistent ------------------------------------------------------------------- */

/*
 * The error of a metric of pooled loads, carried over linearly: a metric of shares does not change
 * with scale, so that the mean of rows × gradient · load is 0, and its error the metric's.
 * series[rows].
 */
static int carry(struct work *w, enum skew_metric metric, const double *loads, size_t rows,
                 double *series)
{
    uint32_t n = w->in->items;

    if (skew_metrics_gradient(metric, w->pooled, n, w->scratch) < 0)
        return -ENOMEM;
    for (size_t t = 0; t < rows; t++) {
        double sum = 0;
        for (uint32_t i = 0; i < n; i++)
            sum += w->scratch[i] * loads[t * n + i];
        series[t] = sum * (double)rows;
    }
    return 0;
}

static bool clustered(const struct work *w)
{
    return w->in->clusters && w->in->cluster_rows >= SKEW_EFFECTIVE_MIN;
}

/* Over requests, which are independent, or over the calls in time. */
static struct skew_estimate carried(struct work *w, enum skew_metric metric, double value)
{
    const struct skew_level_input *in = w->in;
    size_t rows = clustered(w) ? in->cluster_rows : w->rows;

    if (carry(w, metric, clustered(w) ? in->clusters : w->dense, rows, w->series) < 0)
        return skew_estimate_none("out of memory");
    return clustered(w) ? skew_mean_independent(value, w->series, rows, in->level)
                        : skew_mean_around(value, w->series, rows, in->level);
}

static struct skew_estimate shifted(struct skew_estimate e, double value)
{
    e.low += value - e.value;
    e.high += value - e.value;
    e.value = value;
    return e;
}

static double root(double cv2)
{
    return isnan(cv2) ? cv2 : cv2 > 0 ? sqrt(cv2) : 0; /* no interval stays none */
}

static void leave_out(struct skew_estimate *e, const char *why)
{
    e->low = e->high = e->se = NAN;
    e->level = 0;
    e->why = why;
}

static void pool(struct work *w)
{
    const struct skew_level_input *in = w->in;
    struct skew_level *out = w->out;
    struct skew_metrics m;

    out->clustered_by = clustered(w) ? "requests" : "calls";
    skew_metrics_of(&m, w->pooled, in->items, w->scratch);
    for (int k = 0; k < SKEW_METRIC_COUNT; k++) {
        struct skew_estimate *e = &out->metric[k].pooled;
        *e = carried(w, (enum skew_metric)k, m.value[k]);
        if (k == SKEW_METRIC_MAX_MEAN) /* a maximum of noisy loads is biased upwards */
            leave_out(e, "no interval of a maximum: see the cross-fitted one");
    }
}

/* What is carried over linearly at a kink says nothing: at balance Gini, CV and entropy have one.
 */
static void near_balance(struct skew_estimate *e, const struct skew_estimate *cv2)
{
    if (!(cv2->low > 0))
        leave_out(e, cv2->why ? cv2->why : "too near to balance: see the interval of CV");
}

static void persist_metric(struct work *w, int k)
{
    const struct skew_level_input *in = w->in;
    struct skew_level_metric *m = &w->out->metric[k];
    const struct skew_estimate *u = &w->out->cv2_persistent;
    double pooled_cv = w->out->metric[SKEW_METRIC_CV].pooled.value, value = m->pooled.value;
    double sampling = fmax(0, pooled_cv * pooled_cv - u->value);

    if (k == SKEW_METRIC_CV)
        m->persistent = skew_estimate_map(*u, root);
    else if (k == SKEW_METRIC_MAX_MEAN)
        m->persistent = skew_crossfit_max(w->dense, w->rows, in->items, in->level, NULL);
    else if (k == SKEW_METRIC_GINI)
        m->persistent = shifted(m->pooled, root(value * value - sampling / M_PI));
    else
        m->persistent = shifted(
            m->pooled, in->items > 1 ? fmin(1, value + sampling / (2 * log(in->items))) : 1);
    if (k == SKEW_METRIC_GINI || k == SKEW_METRIC_ENTROPY)
        near_balance(&m->persistent, u);
}

static void persist(struct work *w)
{
    const struct skew_level_input *in = w->in;
    struct skew_level *out = w->out;
    struct skew_estimate *u = &out->cv2_persistent, by_request = {0};

    *u = skew_persistent_cv2(w->dense, w->rows, in->items, 0, in->level, &out->gap);
    if (clustered(w)) {
        size_t kept, gap = 0;
        double value = skew_persistent_influence(in->clusters, in->cluster_rows, in->items, &gap,
                                                 w->series, &kept);
        by_request = skew_mean_independent(value, w->series, kept, in->level);
    }
    out->p_persistent = skew_estimate_above(u, 0);
    out->persistent_by = "calls";
    if (isnan(out->p_persistent) && clustered(w)) {
        out->p_persistent = skew_estimate_above(&by_request, 0);
        out->persistent_by = "requests";
    }
    out->cv2_burst = out->cv2_call - out->cv2_chance - u->value;
    for (int k = 0; k < SKEW_METRIC_COUNT; k++) {
        if (isnan(u->value))
            out->metric[k].persistent = skew_estimate_none(u->why);
        else
            persist_metric(w, k);
    }
    for (int k = 0; k < SKEW_METRIC_COUNT; k++) /* after what starts from them */
        if (k != SKEW_METRIC_MAX_MEAN)
            near_balance(&out->metric[k].pooled, clustered(w) ? &by_request : u);
}

/* ---- the hottest ----------------------------------------------------------------------------- */

static void hot(struct work *w)
{
    uint32_t n = w->in->items;
    struct skew_level *out = w->out;
    size_t runs = 0;

    memset(w->scratch, 0, n * sizeof *w->scratch); /* mean shares */
    for (size_t t = 0; t < w->rows; t++) {
        const double *row = w->dense + t * n;
        double sum = 0;
        for (uint32_t i = 0; i < n; i++)
            sum += row[i];
        for (uint32_t i = 0; i < n; i++)
            w->scratch[i] += row[i] * n / sum / (double)w->rows;
        runs += t == 0 || w->hottest[t] != w->hottest[t - 1];
    }
    out->hottest_run = (double)w->rows / (double)runs;
    for (out->hot_count = 0; out->hot_count < SKEW_HOT_MAX && out->hot_count < n;) {
        struct skew_hot *h = &out->hot[out->hot_count++];
        size_t run = 0, times = 0;
        *h = (struct skew_hot){.share = -1};
        for (uint32_t i = 0; i < n; i++)
            if (w->scratch[i] > h->share) {
                h->share = w->scratch[i];
                h->item = i;
            }
        w->scratch[h->item] = -2;
        for (size_t t = 0; t < w->rows; t++) {
            run = w->hottest[t] == h->item ? run + 1 : 0;
            times += run > 0;
            if (run > h->longest_run)
                h->longest_run = run;
        }
        h->hottest = (double)times / (double)w->rows;
    }
}

int skew_level_of(struct skew_level *level, const struct skew_level_input *input,
                  struct skew_floors *floors)
{
    struct work w = {.in = input, .out = level};
    struct floor_sums sums = {.known = floors && input->experts && input->topk &&
                                       input->topk <= input->experts && input->unit > 0 &&
                                       input->experts % input->items == 0};
    int result = prepare(&w);

    *level = (struct skew_level){.items = input->items};
    if (result == 0)
        result = each_call(&w, &sums, floors);
    if (result == 0) {
        level->rows = w.rows;
        spread(&w, &sums);
        pool(&w);
        persist(&w);
        hot(&w);
    }
    release(&w);
    return result;
}

int skew_level_series(double *series, const struct skew_level *level,
                      const struct skew_level_input *input)
{
    struct work w = {.in = input, .out = &(struct skew_level){0}};
    struct floor_sums none = {0};
    double *cv2 = series + (size_t)SKEW_METRIC_COUNT * input->rows;
    const struct skew_estimate *u = &level->cv2_persistent;
    size_t kept, gap = 0;
    int result = prepare(&w);

    for (size_t i = 0; i < SKEW_LEVEL_SERIES * input->rows; i++)
        series[i] = NAN;
    if (result == 0)
        result = each_call(&w, &none, NULL);
    if (result == 0 && w.rows == input->rows && u->level > 0) {
        skew_persistent_influence(w.dense, w.rows, input->items, &gap, cv2, &kept);
        skew_crossfit_series(w.dense, w.rows, input->items, input->level,
                             series + SKEW_METRIC_MAX_MEAN * w.rows, &kept, NULL);
        for (int k = 0; k < SKEW_METRIC_COUNT && u->low > 0 && result == 0; k++) {
            double *of = series + (size_t)k * w.rows;
            if (k == SKEW_METRIC_CV)
                for (size_t t = 0; t < w.rows; t++)
                    of[t] = cv2[t] / (2 * sqrt(u->value)); /* of the root */
            else if (k != SKEW_METRIC_MAX_MEAN)
                result = carry(&w, (enum skew_metric)k, w.dense, w.rows, of);
        }
    }
    release(&w);
    return result;
}
