/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stragglers: ranks that come later than their work explains. Lateness is the rank's own
 * computation before an exchange (its own start − its own end before, so that no clock but its own
 * matters, and a delay counts where it arises and not where others wait for it), less what its load
 * explains, less the median of all ranks.
 */
#include "time_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_Z    5.5 /* one in 5e7 of a normal: a false event in a thousand long traces */
#define EXCHANGE_Z 7.0 /* single exchanges are more, and their tails longer */
#define RANK_Z     5.0
#define LEAST_NS   1000.0 /* below a microsecond nothing on a GPU's timeline is late */

struct steps {
    size_t count;
    int64_t *step;    /* [count] */
    size_t *first;    /* [count + 1] index of its first exchange */
    double *lateness; /* [count][ranks] mean residual of the step, NaN: none */
    double *scratch;  /* [max(count, exchanges) * ranks] */
};

static void free_steps(struct steps *s)
{
    free(s->step);
    free(s->first);
    free(s->lateness);
    free(s->scratch);
}

/* ---- residuals ------------------------------------------------------------------------------- */

/* What the load explains. Where its slope has no interval it is still better taken out than left
 * in: a heavy rank is no straggler. */
static double by_load(const struct skew_time_fit *fit, double load)
{
    if (fit->model == SKEW_TIME_NOT_TOLD)
        return fmax(0, fit->trend) * load;
    return fit->slope.value > 0 ? skew_time_fit_at(fit, load, 0) : 0;
}

static void fill_residuals(struct skew_time_work *w, double *scratch)
{
    uint32_t ranks = w->times->ranks;

    for (size_t i = 0; i < w->result->complete; i++) {
        enum skew_time_role role = w->result->exchanges[i].role;
        double *residual = w->residual + i * ranks;
        size_t count = 0;
        for (uint32_t r = 0; r < ranks; r++) {
            residual[r] = w->gap[i * ranks + r];
            if (skew_time_after_experts(role))
                residual[r] -= by_load(&w->result->load[role], w->gap_load[i * ranks + r]);
            if (!isnan(residual[r]))
                scratch[count++] = residual[r];
        }
        /* Of one or two ranks the median is no reference. */
        bool tells =
            count > 2 && role != SKEW_TIME_UNKNOWN; /* what unknown ones follow is unknown */
        double median = tells ? skew_time_median(scratch, count) : NAN;
        for (uint32_t r = 0; r < ranks; r++)
            residual[r] -= median;
    }
}

static int group_steps(const struct skew_time_work *w, struct steps *s)
{
    const struct skew_time_exchange *x = w->result->exchanges;
    size_t n = w->result->complete, ranks = w->times->ranks;

    *s = (struct steps){.step = malloc((n + 1) * sizeof(int64_t)),
                        .first = malloc((n + 2) * sizeof(size_t)),
                        .scratch = malloc((n + 1) * ranks * sizeof(double))};
    if (!s->step || !s->first || !s->scratch)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || x[i].step != x[i - 1].step || x[i].step < 0) {
            s->step[s->count] = x[i].step;
            s->first[s->count++] = i;
        }
    s->first[s->count] = n;
    s->lateness = calloc((s->count + 1) * ranks, sizeof(double));
    if (!s->lateness)
        return -ENOMEM;
    for (size_t t = 0; t < s->count; t++)
        for (size_t r = 0; r < ranks; r++) {
            double sum = 0;
            size_t count = 0;
            for (size_t i = s->first[t]; i < s->first[t + 1]; i++)
                if (!isnan(w->residual[i * ranks + r])) {
                    sum += w->residual[i * ranks + r];
                    count++;
                }
            s->lateness[t * ranks + r] = count ? sum / (double)count : NAN;
        }
    return 0;
}

/* Spread of values[n][ranks]: the median over ranks of each rank's MAD, so that few stragglers do
 * not count, nor ranks that are late throughout. */
static double spread(const double *values, size_t n, size_t ranks, double *scratch)
{
    double *of_rank = scratch + n, middle;
    size_t counted = 0;

    for (size_t r = 0; r < ranks; r++) {
        size_t count = 0;
        for (size_t t = 0; t < n; t++)
            if (!isnan(values[t * ranks + r]))
                scratch[count++] = values[t * ranks + r];
        if (count < 3)
            continue;
        middle = skew_time_median(scratch, count);
        for (size_t t = 0; t < count; t++)
            scratch[t] = fabs(scratch[t] - middle);
        of_rank[counted++] = 1.4826 * skew_time_median(scratch, count);
    }
    return skew_time_median(of_rank, counted);
}

/* ---- events ---------------------------------------------------------------------------------- */

static int add_event(struct skew_time_result *out, const struct skew_time_event *event)
{
    if (!(out->event_count & (out->event_count - 1))) {
        struct skew_time_event *more =
            realloc(out->events, (out->event_count ? out->event_count * 2 : 1) * sizeof *more);
        if (!more)
            return -ENOMEM;
        out->events = more;
    }
    out->events[out->event_count++] = *event;
    return 0;
}

/* One step of one rank: late as a whole, or before some of its exchanges. */
static int look_at_step(struct skew_time_work *w, const struct steps *s, size_t t, size_t r,
                        double of_step, double of_exchange)
{
    size_t ranks = w->times->ranks, single = 0, exchanges = s->first[t + 1] - s->first[t];
    double lateness = s->lateness[t * ranks + r], sum = 0, worst = 0;
    bool whole = lateness > fmax(EVENT_Z * of_step, LEAST_NS);
    struct skew_time_event event = {.step = s->step[t], .layer = -1, .rank = (uint32_t)r};

    for (size_t i = s->first[t]; i < s->first[t + 1]; i++) {
        double one = w->residual[i * ranks + r];
        if (!(one > fmax(EXCHANGE_Z * of_exchange, LEAST_NS)))
            continue;
        single++;
        w->late[i * ranks + r] = 1;
        event.late_ns += one;
        if (one > worst) {
            worst = one;
            event.layer = w->result->exchanges[i].layer;
        }
        sum += one;
    }
    if (!whole && !single)
        return 0;
    if (whole && single < exchanges) { /* little by little: all of the step's lateness counts */
        event.late_ns = 0;
        for (size_t i = s->first[t]; i < s->first[t + 1]; i++) {
            double one = w->residual[i * ranks + r];
            event.late_ns += isnan(one) ? 0 : one;
            if (one > of_exchange)
                w->late[i * ranks + r] = 1;
        }
    }
    if (worst < 0.7 * sum || (whole && !single))
        event.layer = -1; /* of several layers */
    return add_event(w->result, &event);
}

/* ---- ranks ----------------------------------------------------------------------------------- */

/* The median over steps against what its own noise allows; asymptotic error of a median is 1.2533
 * times that of a mean, and steps count as many as they are worth. */
static int look_at_rank(struct skew_time_work *w, const struct steps *s, size_t r, double of_step)
{
    struct skew_time_result *out = w->result;
    size_t ranks = w->times->ranks, count = 0;
    double df, effective;
    struct skew_time_straggler one = {.rank = (uint32_t)r};

    for (size_t e = 0; e < out->event_count; e++)
        if (out->events[e].rank == r)
            s->scratch[one.late_steps++] = out->events[e].late_ns;
    one.late_ns = one.late_steps ? skew_time_median(s->scratch, one.late_steps) : 0;
    for (size_t t = 0; t < s->count; t++)
        if (!isnan(s->lateness[t * ranks + r]))
            s->scratch[count++] = s->lateness[t * ranks + r];
    skew_time_long_run(s->scratch, count, &df, &effective);
    one.median_ns = skew_time_median(s->scratch, count);
    double error = 1.2533 * of_step / sqrt(fmax(1, effective));
    one.persistent = effective >= SKEW_TIME_EFFECTIVE_LEAST && one.median_ns > RANK_Z * error &&
                     one.median_ns > LEAST_NS;
    if (!one.persistent && !one.late_steps)
        return 0;
    if (!(out->straggler_count & (out->straggler_count - 1))) {
        struct skew_time_straggler *more = realloc(
            out->stragglers, (out->straggler_count ? out->straggler_count * 2 : 1) * sizeof *more);
        if (!more)
            return -ENOMEM;
        out->stragglers = more;
    }
    out->stragglers[out->straggler_count++] = one;
    return 0;
}

static int by_weight(const void *a, const void *b)
{
    const struct skew_time_straggler *x = a, *y = b;
    if (x->persistent != y->persistent)
        return x->persistent ? -1 : 1;
    if (x->late_steps != y->late_steps)
        return x->late_steps > y->late_steps ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

int skew_time_late(struct skew_time_work *w)
{
    struct skew_time_result *out = w->result;
    size_t ranks = w->times->ranks;
    double *scratch = malloc((out->complete + 1 + ranks) * sizeof *scratch);
    struct steps s = {0};
    int result = scratch ? 0 : -ENOMEM;

    if (!result) {
        fill_residuals(w, scratch);
        result = group_steps(w, &s);
    }
    if (!result) {
        double of_exchange = spread(w->residual, out->complete, ranks, scratch);
        out->late_scale_ns = spread(s.lateness, s.count, ranks, scratch);
        bool enough = out->unlabelled == 0 && !isnan(out->late_scale_ns) && !isnan(of_exchange);
        for (size_t t = 0; t < s.count && !result && enough; t++)
            for (size_t r = 0; r < ranks && !result; r++)
                result = look_at_step(w, &s, t, r, out->late_scale_ns, of_exchange);
        for (size_t r = 0; r < ranks && !result && enough; r++)
            result = look_at_rank(w, &s, r, out->late_scale_ns);
    }
    if (!result && out->straggler_count)
        qsort(out->stragglers, out->straggler_count, sizeof *out->stragglers, by_weight);
    free_steps(&s);
    free(scratch);
    return result;
}
