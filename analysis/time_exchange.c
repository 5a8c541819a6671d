/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From rows to exchanges: arrivals on one clock, the fits, and what the transfer consists of.
 */
#include "time_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 16 /* exchanges that stand for a step where steps are not known */

/* ---- clocks ---------------------------------------------------------------------------------- */

/* How well the times are known, against what they are times of. One value a rank and exchange:
 * the median stands for all, whatever single ones are. */
static int look_at_errors(struct skew_time_work *w)
{
    const struct skew_times *t = w->times;
    double *error = malloc((t->timed_rows + 1) * 2 * sizeof *error);
    double *duration = error + t->timed_rows;
    size_t n = 0;

    if (!error)
        return -ENOMEM;
    for (size_t cell = 0; cell < t->count * t->ranks && n < t->timed_rows; cell++)
        if (t->start[cell] != SKEW_TIME_ABSENT) {
            error[n] = (double)t->error[cell];
            duration[n++] = (double)(t->end[cell] - t->start[cell]);
        }
    w->result->error_ns = n ? skew_time_median(error, n) : 0;
    if (n && skew_time_one_axis(w->result->clocks) &&
        w->result->error_ns > skew_time_median(duration, n))
        w->result->clocks = SKEW_TIME_VAGUE_CLOCKS;
    free(error);
    return 0;
}

static void look_at_clocks(struct skew_time_work *w)
{
    const struct skew_times *t = w->times;
    const struct skew_time_clock *first = NULL;
    bool one = true, fitted = true;

    for (uint32_t r = 0; r < t->ranks; r++) {
        if (!t->seen[r])
            continue;
        first = first ? first : &t->clocks[r];
        one = one && t->clocks[r].id == first->id && !t->clocks[r].fitted;
        fitted = fitted && t->clocks[r].fitted;
        w->result->ranks_seen++;
    }
    w->result->clocks = one      ? SKEW_TIME_ONE_CLOCK
                        : fitted ? SKEW_TIME_FITTED_CLOCKS
                                 : SKEW_TIME_UNRELATED_CLOCKS;
    for (uint32_t r = 0; r < t->ranks && fitted; r++)
        if (t->seen[r])
            w->result->clock_residual_ns =
                fmax(w->result->clock_residual_ns, (double)t->clocks[r].residual);
}

/* ns after `base` on the common axis. */
static double related(const struct skew_time_work *w, uint32_t rank, int64_t ns, int64_t base)
{
    const struct skew_time_clock *c = &w->times->clocks[rank];
    double value = (double)(ns - base);

    if (w->result->clocks == SKEW_TIME_FITTED_CLOCKS)
        value += (double)c->offset + c->drift * 1e-9 * (double)(ns - c->at);
    return value;
}

/* ---- one exchange ---------------------------------------------------------------------------- */

/* How long a rank that came at `arrival` waited for the last one; where ranks do not exchange with
 * everybody, the last may be nobody that it waits for. */
static double wait_of(const struct skew_time_slot *slot, double last, double arrival, double end)
{
    return (slot->everybody ? last : fmin(last, end)) - arrival;
}

/* Arrivals and ends on one axis. Without one, all ranks are taken to be through together: durations
 * then say who waited for how long, whatever the clocks show. */
static void fill_times(const struct skew_time_work *w, size_t slot, double *arrival, double *end)
{
    const struct skew_times *t = w->times;
    const int64_t *start = t->start + slot * t->ranks, *stop = t->end + slot * t->ranks;
    int64_t base = SKEW_TIME_ABSENT;

    for (uint32_t r = 0; r < t->ranks; r++) {
        arrival[r] = end[r] = NAN;
        if (start[r] == SKEW_TIME_ABSENT)
            continue;
        if (base == SKEW_TIME_ABSENT)
            base = start[r];
        if (!skew_time_one_axis(w->result->clocks)) {
            arrival[r] = (double)(start[r] - stop[r]);
            end[r] = 0;
        } else {
            arrival[r] = related(w, r, start[r], base);
            end[r] = related(w, r, stop[r], base);
        }
    }
}

static double median_of(const double *values, uint32_t n, double *scratch)
{
    size_t count = 0;
    for (uint32_t r = 0; r < n; r++)
        if (!isnan(values[r]))
            scratch[count++] = values[r];
    return skew_time_median(scratch, count);
}

static void fill_ports(const struct skew_times *t, size_t slot, struct skew_time_exchange *x)
{
    const double *sent = t->sent + slot * t->ranks, *received = t->received + slot * t->ranks;
    double all_sent = 0, all_received = 0;
    uint32_t seen = 0;

    x->busiest = -1;
    for (uint32_t r = 0; r < t->ranks; r++) {
        if (isnan(sent[r]))
            continue;
        seen++;
        all_sent += sent[r];
        all_received += received[r];
        double port = fmax(sent[r], received[r]);
        if (port > x->busiest) {
            x->busiest = port;
            x->busiest_rank = r;
        }
    }
    x->mean = fmax(all_sent, all_received) / fmax(1, seen);
}

/* What computation hides on every rank is not lost. The last rank has the least to hide in. The
 * least of truths that lie between bounds lies between the least of either bounds. */
static void look_at_overlap(const struct skew_time_work *w, size_t slot,
                            struct skew_time_exchange *x)
{
    const struct skew_times *t = w->times;
    double all = x->lag + x->transfer;
    bool known = true;

    x->hidden = (struct skew_time_range){all, all};
    for (uint32_t r = 0; r < t->ranks; r++)
        if (t->start[slot * t->ranks + r] != SKEW_TIME_ABSENT) {
            const struct skew_time_range *hidden = &t->hidden[slot * t->ranks + r];
            known = known && !isnan(hidden->low);
            x->hidden.low = fmin(x->hidden.low, hidden->low);
            x->hidden.high = fmin(x->hidden.high, hidden->high);
        }
    if (!known)
        x->hidden = (struct skew_time_range){NAN, NAN};
    x->exposed = (struct skew_time_range){known ? all - x->hidden.high : all,
                                          known ? all - x->hidden.low : all};
    w->result->overlap_known += known;
}

static void fill_exchange(struct skew_time_work *w, size_t i, double *arrival, double *end,
                          double *scratch)
{
    const struct skew_times *t = w->times;
    struct skew_time_exchange *x = &w->result->exchanges[i];
    const struct skew_time_slot *slot = &t->slots[w->slot[i]];
    double last = -INFINITY, done = -INFINITY, sum = 0;
    uint32_t seen = 0;

    *x = (struct skew_time_exchange){.place = slot->place,
                                     .step = slot->step,
                                     .layer = slot->layer,
                                     .microbatch = slot->microbatch,
                                     .occurrence = slot->occurrence,
                                     .role = slot->role};
    fill_times(w, w->slot[i], arrival, end);
    for (uint32_t r = 0; r < t->ranks; r++) {
        if (isnan(arrival[r]))
            continue;
        seen++;
        done = fmax(done, end[r]);
        if (arrival[r] > last) {
            last = arrival[r];
            x->last_rank = r;
        }
    }
    for (uint32_t r = 0; r < t->ranks; r++)
        if (!isnan(arrival[r])) {
            double wait = wait_of(slot, last, arrival[r], end[r]);
            sum += wait;
            x->wait_max = fmax(x->wait_max, wait);
        }
    x->wait_mean = sum / seen;
    x->lag = last - median_of(arrival, t->ranks, scratch);
    x->transfer = done - last;
    look_at_overlap(w, w->slot[i], x);
    for (uint32_t r = 0; r < t->ranks; r++)
        w->arrival[i * t->ranks + r] = arrival[r] - last;
    fill_ports(t, w->slot[i], x);
    x->last_seq = t->seq[w->slot[i] * t->ranks + x->last_rank];
    x->busiest_seq = t->seq[w->slot[i] * t->ranks + x->busiest_rank];
}

/* ---- all of them ----------------------------------------------------------------------------- */

static bool is_complete(const struct skew_time_work *w, size_t slot)
{
    return skew_time_of_tokens(w->times->slots[slot].role) && skew_time_whole(w->times, slot, true);
}

int skew_time_derive(struct skew_time_work *w)
{
    struct skew_times *t = w->times;
    struct skew_time_result *out = w->result;
    double *scratch = malloc(3 * (size_t)t->ranks * sizeof *scratch);
    int result = skew_times_sort(t);

    look_at_clocks(w);
    if (!result)
        result = look_at_errors(w);
    out->ranks = t->ranks;
    out->rows = t->rows;
    out->timed_rows = t->timed_rows;
    out->cupti_dropped = t->cupti_dropped;
    for (size_t at = 0; at < t->count; at++) {
        out->all += skew_time_of_tokens(t->slots[t->order[at]].role);
        out->complete += is_complete(w, t->order[at]);
    }
    size_t cells = (out->complete + 1) * t->ranks;
    out->exchanges = calloc(out->complete + 1, sizeof *out->exchanges);
    w->slot = malloc((out->complete + 1) * sizeof *w->slot);
    w->arrival = malloc(cells * sizeof(double));
    w->gap = malloc(cells * sizeof(double));
    w->gap_load = malloc(cells * sizeof(double));
    w->residual = malloc(cells * sizeof(double));
    w->late = calloc(cells, 1);
    if (result || !scratch || !out->exchanges || !w->slot || !w->arrival || !w->gap ||
        !w->gap_load || !w->residual || !w->late) {
        free(scratch);
        return -ENOMEM;
    }
    for (size_t at = 0, i = 0; at < t->count; at++)
        if (is_complete(w, t->order[at]))
            w->slot[i++] = t->order[at];
    skew_times_sort_steps(t, w->slot, out->complete);
    for (size_t i = 0; i < out->complete; i++) {
        fill_exchange(w, i, scratch, scratch + t->ranks, scratch + 2 * (size_t)t->ranks);
        out->unlabelled += out->exchanges[i].step < 0;
    }
    free(scratch);
    return skew_time_gaps(w);
}

/* ---- fits ------------------------------------------------------------------------------------ */

static int64_t cluster_of(const struct skew_time_exchange *x)
{
    return x->step >= 0 ? x->step : x->place / BLOCK;
}

static int fit_transfer(struct skew_time_work *w)
{
    struct skew_time_result *out = w->result;
    size_t n = out->complete;
    double *x = malloc((n + 1) * 3 * sizeof *x), *z = x + n, *y = z + n;
    int64_t *cluster = malloc((n + 1) * sizeof *cluster);
    int result = x && cluster ? 0 : -ENOMEM;

    for (size_t i = 0; i < n && !result; i++) {
        const struct skew_time_exchange *e = &out->exchanges[i];
        x[i] = e->busiest;
        z[i] = e->mean;
        y[i] = e->transfer;
        cluster[i] = cluster_of(e);
    }
    if (!result)
        result = skew_time_fit(x, z, y, cluster, n, &out->transfer);
    free(x);
    free(cluster);
    return result;
}

/* The computation before a combine against the load of its rank: an observation a rank, since each
 * computes for itself; the step is still the cluster. */
static int fit_load(struct skew_time_work *w, enum skew_time_role role)
{
    struct skew_time_result *out = w->result;
    uint32_t ranks = w->times->ranks;
    size_t cells = out->complete * ranks, n = 0;
    double *x = malloc((cells + 1) * 2 * sizeof *x), *y = x + cells;
    int64_t *cluster = malloc((cells + 1) * sizeof *cluster);
    int result = x && cluster ? 0 : -ENOMEM;

    for (size_t i = 0; i < out->complete && !result; i++)
        for (uint32_t r = 0; r < ranks && out->exchanges[i].role == role; r++) {
            size_t cell = i * ranks + r;
            if (isnan(w->gap[cell]) || isnan(w->gap_load[cell]))
                continue;
            x[n] = w->gap_load[cell];
            y[n] = w->gap[cell];
            cluster[n++] = cluster_of(&out->exchanges[i]);
        }
    if (!result)
        result = skew_time_fit(x, NULL, y, cluster, n, &out->load[role]);
    free(x);
    free(cluster);
    return result;
}

/* latency + balanced + skew + unexplained = transfer; docs/time.md. */
static void take_apart(const struct skew_time_fit *fit, struct skew_time_exchange *x)
{
    double at_mean = skew_time_fit_at(fit, x->mean, x->mean);
    double expected = skew_time_fit_at(fit, x->busiest, x->mean);

    x->beyond = x->mean < fit->least;
    x->skew = expected - at_mean;
    x->unexplained = x->transfer - expected;
    if (fit->model == SKEW_TIME_LINEAR || fit->model == SKEW_TIME_PIECEWISE) {
        x->latency = fmax(0, fmin(at_mean, fit->intercept.value));
        x->balanced = at_mean - x->latency;
    } else { /* what every transfer takes whatever its size */
        x->latency = at_mean;
        x->balanced = 0;
    }
}

int skew_time_fits(struct skew_time_work *w)
{
    struct skew_time_result *out = w->result;
    int result = fit_transfer(w);

    for (int role = 0; role < SKEW_TIME_ROLES && !result; role++)
        if (skew_time_after_experts((enum skew_time_role)role))
            result = fit_load(w, (enum skew_time_role)role);
    for (size_t i = 0; i < out->complete && !result; i++)
        take_apart(&out->transfer, &out->exchanges[i]);
    return result;
}
