/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a schedule costs: seconds of phases, the three-machine flow shop, and the batch sizes at
 * which one schedule overtakes another.
 */
#include "schedule.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define POINTS_AN_OCTAVE 8
#define BISECTIONS       50
#define SAME             1e-9 /* relative difference below which two makespans are equal */

/* One phase on the three machines; phase −1 is the local diagonal, which needs the second alone. */
struct job {
    int64_t phase;
    double dispatch, compute, combine;
    uint64_t bytes;
};

/* What the bytes of a phase take in one direction, `scale` times as many of them. */
static double bytes_seconds(const struct skew_cost *cost, const struct skew_phase *phase,
                            uint32_t ranks, double scale)
{
    /* What only scale-up links carry has its own price, and no port between domains is busy. */
    double mean = phase->bottleneck ? (double)phase->bytes / ranks : 0;

    return skew_cost_bytes(cost, scale * (double)phase->bottleneck, scale * mean) +
           scale * (double)phase->up_bytes * cost->up;
}

static struct job job_of(const struct skew_schedule *s, size_t p, const struct skew_cost *cost,
                         double scale)
{
    const struct skew_phase *phase = &s->phases[p];
    double once = cost->wire.base + (phase->reconfigures ? cost->reconfigure_s : 0);

    return (struct job){
        .phase = (int64_t)p,
        .dispatch = bytes_seconds(cost, phase, s->ranks, scale) + once,
        .compute = skew_cost_compute(cost, scale * (double)phase->receive_max),
        .combine = bytes_seconds(cost, phase, s->ranks, scale * cost->combine_ratio) + once,
        .bytes = (uint64_t)(scale * (double)phase->bottleneck)};
}

/* Johnson's rule on the two machines (dispatch + compute, compute + combine): jobs that are shorter
 * on the first go first, shortest first; the others after them, longest on the second first. */
static int johnson_order(const void *left, const void *right)
{
    const struct job *a = left, *b = right;
    double a1 = a->dispatch + a->compute, a2 = a->compute + a->combine;
    double b1 = b->dispatch + b->compute, b2 = b->compute + b->combine;
    bool a_first = a1 <= a2, b_first = b1 <= b2;

    if (a_first != b_first)
        return a_first ? -1 : 1;
    double key = a_first ? a1 - b1 : b2 - a2;
    if (key != 0)
        return key < 0 ? -1 : 1;
    return a->phase < b->phase ? -1 : a->phase > b->phase;
}

static void put_bar(struct skew_bar *bars, size_t *count, const struct job *job, uint32_t machine,
                    double end, double length)
{
    if (bars && length > 0)
        bars[(*count)++] = (struct skew_bar){machine, job->phase, end - length, end, job->bytes};
}

/* Every job passes the machines in the same order, as early as it can. */
static double flow_shop(const struct job *jobs, size_t count, struct skew_bar *bars,
                        size_t *bar_count)
{
    double dispatched = 0, computed = 0, combined = 0;

    for (size_t i = 0; i < count; i++) {
        const struct job *j = &jobs[i];
        dispatched += j->dispatch;
        put_bar(bars, bar_count, j, 0, dispatched, j->dispatch);
        if (j->phase >= 0)
            computed = fmax(computed, dispatched);
        computed += j->compute;
        put_bar(bars, bar_count, j, 1, computed, j->compute);
        if (j->phase < 0)
            continue;
        combined = fmax(combined, computed) + j->combine;
        put_bar(bars, bar_count, j, 2, combined, j->combine);
    }
    return fmax(combined, computed);
}

double skew_cost_ideal(const struct skew_cost *cost, const struct skew_demand *demand, double scale)
{
    double bound = scale * (double)demand->bound;
    double mean = scale * (double)demand->total / demand->ranks;

    return skew_cost_bytes(cost, bound, mean) +
           skew_cost_bytes(cost, bound * cost->combine_ratio, mean * cost->combine_ratio) +
           skew_cost_compute(cost, scale * (double)demand->receive_max);
}

/* What all phases' bytes take in one direction; scale-up links left out. */
static double transfer_seconds(const struct skew_cost *cost, const struct skew_schedule *s,
                               double scale)
{
    double sum = 0;

    for (size_t p = 0; p < s->phase_count; p++) {
        struct skew_phase phase = s->phases[p];
        phase.up_bytes = 0;
        sum += bytes_seconds(cost, &phase, s->ranks, scale);
    }
    return sum;
}

double skew_cost_transfer(const struct skew_cost *cost, const struct skew_schedule *schedule)
{
    return transfer_seconds(cost, schedule, 1);
}

static void sums(struct skew_timing *t, const struct job *jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        t->dispatch_s += jobs[i].dispatch;
        t->compute_s += jobs[i].compute;
        t->combine_s += jobs[i].combine;
    }
}

int skew_schedule_time(const struct skew_schedule *s, const struct skew_demand *demand,
                       const struct skew_cost *cost, double scale, struct skew_timing *timing,
                       struct skew_bar *bars, size_t *bar_count)
{
    size_t count = s->phase_count + 1;
    struct job *jobs = malloc(2 * count * sizeof *jobs);

    if (!jobs)
        return -ENOMEM;
    struct job *sorted = jobs + count;
    jobs[0] = (struct job){.phase = -1,
                           .compute = skew_cost_compute(cost, scale * (double)demand->local_max)};
    for (size_t p = 0; p < s->phase_count; p++)
        jobs[p + 1] = job_of(s, p, cost, scale);
    for (size_t i = 0; i < count; i++)
        sorted[i] = jobs[i];
    qsort(sorted + 1, count - 1, sizeof *sorted, johnson_order);

    *timing = (struct skew_timing){0};
    sums(timing, jobs, count);
    timing->sequential_s = timing->dispatch_s + timing->combine_s +
                           skew_cost_compute(cost, scale * (double)demand->receive_max);
    timing->natural_s = flow_shop(jobs, count, NULL, NULL);
    timing->johnson_s = flow_shop(sorted, count, NULL, NULL);
    timing->johnson = timing->johnson_s < timing->natural_s;
    timing->makespan_s = fmin(timing->natural_s, timing->johnson_s);
    timing->compute_idle_s = timing->makespan_s - timing->compute_s;
    timing->ideal_s = skew_cost_ideal(cost, demand, scale);
    double transfer =
        transfer_seconds(cost, s, scale) + transfer_seconds(cost, s, scale * cost->combine_ratio);
    timing->rest = s->bottlenecks && transfer > 0 ? timing->makespan_s / transfer : NAN;
    if (bars) {
        *bar_count = 0;
        flow_shop(timing->johnson ? sorted : jobs, count, bars, bar_count);
    }
    free(jobs);
    return 0;
}

/* ---- crossings ------------------------------------------------------------------------------ */

struct sweep {
    const struct skew_schedule *const *schedules;
    size_t count;
    const struct skew_demand *demand;
    const struct skew_cost *cost;
    struct skew_crossing *found;
    size_t found_count, room;
    int failed;
};

static double makespan(struct sweep *w, size_t which, double scale)
{
    struct skew_timing timing = {0};

    if (which == w->count)
        return skew_cost_ideal(w->cost, w->demand, scale);
    int result =
        skew_schedule_time(w->schedules[which], w->demand, w->cost, scale, &timing, NULL, NULL);
    if (result < 0)
        w->failed = result;
    return timing.makespan_s;
}

/* −1: a is faster, 1: b is, 0: as good as equal. */
static int compare(double a, double b)
{
    return fabs(a - b) <= SAME * fmax(a, b) ? 0 : a < b ? -1 : 1;
}

static bool fastest(struct sweep *w, size_t a, size_t b, double scale)
{
    double best = fmin(makespan(w, a, scale), makespan(w, b, scale));

    if (a == w->count || b == w->count)
        return false;
    for (size_t i = 0; i < w->count; i++)
        if (i != a && i != b && makespan(w, i, scale) < best * (1 - 1e-6))
            return false;
    return true;
}

/* The pair changed sign between two scales: halves the distance, by ratio. */
static void close_in(struct sweep *w, size_t a, size_t b, double low, double high, int sign_low)
{
    for (int k = 0; k < BISECTIONS; k++) {
        double middle = sqrt(low * high);
        if (compare(makespan(w, a, middle), makespan(w, b, middle)) == sign_low)
            low = middle;
        else
            high = middle;
    }
    if (w->found_count == w->room) {
        size_t more = w->room ? 2 * w->room : 16;
        void *bigger = realloc(w->found, more * sizeof *w->found);
        if (!bigger) {
            w->failed = -ENOMEM;
            return;
        }
        w->found = bigger;
        w->room = more;
    }
    w->found[w->found_count++] = (struct skew_crossing){.scale = high,
                                                        .below = sign_low < 0 ? a : b,
                                                        .above = sign_low < 0 ? b : a,
                                                        .fastest = fastest(w, a, b, high)};
}

/* Equal stretches belong to whoever was faster before them. */
static void follow_pair(struct sweep *w, const double *scales, size_t points, const double *times,
                        size_t a, size_t b)
{
    size_t width = w->count + 1, last = 0;
    int sign = 0;

    for (size_t p = 0; p < points && w->failed == 0; p++) {
        int now = compare(times[p * width + a], times[p * width + b]);
        if (now && sign && now != sign)
            close_in(w, a, b, scales[last], scales[p], sign);
        if (now) {
            sign = now;
            last = p;
        }
    }
}

static int by_scale(const void *left, const void *right)
{
    const struct skew_crossing *a = left, *b = right;

    if (a->scale != b->scale)
        return a->scale < b->scale ? -1 : 1;
    return a->below != b->below ? (a->below < b->below ? -1 : 1)
                                : (a->above > b->above) - (a->above < b->above);
}

int skew_schedule_crossings(const struct skew_schedule *const *schedules, size_t count,
                            const struct skew_demand *demand, const struct skew_cost *cost,
                            double least, double most, struct skew_crossing **crossings,
                            size_t *crossing_count)
{
    struct sweep w = {.schedules = schedules, .count = count, .demand = demand, .cost = cost};
    size_t points = (size_t)(log2(most / least) * POINTS_AN_OCTAVE) + 1, width = count + 1;
    double *scales = malloc(points * (width + 1) * sizeof *scales);

    *crossings = NULL;
    *crossing_count = 0;
    if (!scales)
        return -ENOMEM;
    double *times = scales + points;
    for (size_t p = 0; p < points; p++) {
        scales[p] = least * exp2((double)p / POINTS_AN_OCTAVE);
        for (size_t i = 0; i < width; i++)
            times[p * width + i] = makespan(&w, i, scales[p]);
    }
    for (size_t a = 0; a < width && w.failed == 0; a++)
        for (size_t b = a + 1; b < width && w.failed == 0; b++)
            follow_pair(&w, scales, points, times, a, b);
    free(scales);
    if (w.failed) {
        free(w.found);
        return w.failed;
    }
    if (w.found_count)
        qsort(w.found, w.found_count, sizeof *w.found, by_scale);
    *crossings = w.found;
    *crossing_count = w.found_count;
    return 0;
}
