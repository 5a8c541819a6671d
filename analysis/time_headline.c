/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a step would take with another placement, and with uniform routing: ordered counterfactuals
 * from the fits, a difference a step, whose mean has an interval. Deviations of the ranks that the
 * fits do not explain stay as they were.
 */
#include "time_calls.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One counterfactual, a step a cell. */
struct series {
    double *all, *transfer, *wait,
        *bytes; /* [steps]; bytes: how much smaller the busiest ports are */
};

struct headline {
    struct skew_time_work *work;
    struct skew_time_calls calls;
    size_t steps;
    size_t *first; /* [steps + 1] index of the first exchange */
    double *span;
    struct skew_time_range *exposed;
    struct series uniform, placement, after;
    size_t clamped, judged;
};

static int make_series(struct series *s, size_t steps)
{
    s->all = calloc((steps + 1) * 4, sizeof(double));
    s->transfer = s->all + steps + 1;
    s->wait = s->transfer + steps + 1;
    s->bytes = s->wait + steps + 1;
    return s->all ? 0 : -ENOMEM;
}

static int group_steps(struct headline *h)
{
    const struct skew_time_result *out = h->work->result;

    h->first = malloc((out->complete + 2) * sizeof *h->first);
    if (!h->first)
        return -ENOMEM;
    for (size_t i = 0; i < out->complete; i++)
        if (i == 0 || out->exchanges[i].step != out->exchanges[i - 1].step)
            h->first[h->steps++] = i;
    h->first[h->steps] = out->complete;
    h->span = calloc(h->steps + 1, sizeof(double));
    h->exposed = calloc(h->steps + 1, sizeof *h->exposed);
    if (!h->span || !h->exposed || make_series(&h->uniform, h->steps) ||
        make_series(&h->placement, h->steps) || make_series(&h->after, h->steps))
        return -ENOMEM;
    return 0;
}

/* ---- what was -------------------------------------------------------------------------------- */

/* First start to last end on each rank's own clock; the median of the ranks. */
static void measure(struct headline *h, double *scratch)
{
    const struct skew_times *t = h->work->times;

    for (size_t s = 0; s < h->steps; s++) {
        size_t count = 0;
        for (uint32_t r = 0; r < t->ranks; r++) {
            size_t first = h->first[s], end = h->first[s + 1];
            while (first < end && t->start[h->work->slot[first] * t->ranks + r] == SKEW_TIME_ABSENT)
                first++; /* it took no part */
            while (first < end &&
                   t->start[h->work->slot[end - 1] * t->ranks + r] == SKEW_TIME_ABSENT)
                end--;
            if (first < end)
                scratch[count++] = (double)(t->end[h->work->slot[end - 1] * t->ranks + r] -
                                            t->start[h->work->slot[first] * t->ranks + r]);
        }
        h->span[s] = skew_time_median(scratch, count);
        for (size_t i = h->first[s]; i < h->first[s + 1]; i++) {
            h->exposed[s].low += h->work->result->exchanges[i].exposed.low;
            h->exposed[s].high += h->work->result->exchanges[i].exposed.high;
        }
    }
}

/* ---- what would be --------------------------------------------------------------------------- */

/* How much sooner the last rank would arrive, had each computed load[r] instead (bytes / `unit`).
 */
static double wait_saved(const struct headline *h, size_t i, const double *load, double unit)
{
    const struct skew_time_work *w = h->work;
    const struct skew_time_fit *fit = &w->result->load[w->result->exchanges[i].role];
    uint32_t ranks = w->times->ranks;
    double last = -INFINITY;

    if (!skew_time_after_experts(w->result->exchanges[i].role) || !(fit->slope.value > 0))
        return 0;
    for (uint32_t r = 0; r < ranks; r++) {
        double was = w->gap_load[i * ranks + r], arrival = w->arrival[i * ranks + r];
        if (isnan(arrival))
            continue; /* took no part */
        if (isnan(was))
            return 0; /* after a lost record nothing is known of what came before */
        last = fmax(last, arrival - skew_time_fit_at(fit, was, 0) +
                              skew_time_fit_at(fit, load[r] * unit, 0));
    }
    return isfinite(last) ? -last : 0;
}

static double bytes_a_copy(const struct headline *h, size_t i, double copies, bool before)
{
    const struct skew_time_work *w = h->work;
    uint32_t ranks = w->times->ranks;
    const double *load =
        before ? w->gap_load + i * ranks : w->times->load + w->slot[i] * (size_t)ranks;
    double bytes = 0;

    for (uint32_t r = 0; r < ranks; r++)
        bytes += isnan(load[r]) ? 0 : load[r];
    return bytes / copies;
}

static double transfer_saved(struct headline *h, const struct skew_time_exchange *x, double busiest)
{
    const struct skew_time_fit *fit = &h->work->result->transfer;

    h->judged++;
    h->clamped += busiest < fit->least || busiest > fit->most;
    return skew_time_fit_at(fit, x->busiest, x->mean) - skew_time_fit_at(fit, busiest, x->mean);
}

static void add(struct series *s, size_t step, double transfer, double wait, double bytes)
{
    s->transfer[step] += transfer;
    s->wait[step] += wait;
    s->all[step] += transfer + wait;
    s->bytes[step] += bytes;
}

static void leave_out(struct series *s, size_t step)
{
    s->all[step] = s->transfer[step] = s->wait[step] = s->bytes[step] = NAN;
}

static void judge_exchange(struct headline *h, size_t step, size_t i)
{
    const struct skew_time_exchange *x = &h->work->result->exchanges[i];
    const struct skew_time_call *call = skew_time_call_of(&h->calls, x);
    uint32_t ranks = h->work->times->ranks;

    if (!call || !(call->copies > 0)) {
        leave_out(&h->uniform, step);
        leave_out(&h->placement, step);
        return;
    }
    size_t at = (size_t)(call - h->calls.calls);
    double unit = bytes_a_copy(h, i, call->copies, false);
    double before = bytes_a_copy(h, i, call->copies, true);
    double transfer = 0, wait = 0, bytes = 0;
    for (int d = 0; d < SKEW_TIME_DRAWS; d++) {
        double busiest = call->uniform_busiest[d] * unit;
        transfer += transfer_saved(h, x, busiest) / SKEW_TIME_DRAWS;
        wait += wait_saved(h, i, h->calls.uniform_load + (at * SKEW_TIME_DRAWS + (size_t)d) * ranks,
                           before) /
                SKEW_TIME_DRAWS;
        bytes += (x->busiest - busiest) / SKEW_TIME_DRAWS;
    }
    add(&h->uniform, step, transfer, wait, bytes);
    if (!call->placed) {
        leave_out(&h->placement, step);
        return;
    }
    double busiest = call->place_busiest * unit;
    add(&h->placement, step, transfer_saved(h, x, busiest),
        wait_saved(h, i, h->calls.place_load + at * ranks, before), x->busiest - busiest);
}

/* ---- intervals ------------------------------------------------------------------------------- */

static double mean_of(const double *values, size_t n)
{
    double sum = 0;
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        if (!isnan(values[i])) {
            sum += values[i];
            count++;
        }
    return count ? sum / (double)count : 0;
}

/* Relative error of a slope: of what it scales, the error is as large a part. */
static double relative(const struct skew_time_estimate *slope)
{
    return slope->value != 0 && isfinite(slope->se) ? slope->se / fabs(slope->value) : 0;
}

/*
 * The mean of a series of savings, whose interval holds the scatter of the steps and the error of
 * the slopes that turned bytes into time; degrees of freedom after Welch and Satterthwaite. Where
 * no slope was found, the one that could have been overlooked counts.
 */
static int estimate(const struct headline *h, const struct series *s,
                    struct skew_time_estimate *out)
{
    const struct skew_time_result *r = h->work->result;
    const struct skew_time_fit *load = &r->load[SKEW_TIME_COMBINE];
    double part[3], df[3], total = 0, spread = 0;
    int result = skew_time_mean(s->all, h->steps, out);

    if (result || isnan(out->se))
        return result;
    part[0] = out->se;
    df[0] = out->df;
    part[1] = mean_of(s->transfer, h->steps) * relative(&r->transfer.slope);
    if (r->transfer.model == SKEW_TIME_NO_RELATION && isfinite(r->transfer.slope.se))
        part[1] = mean_of(s->bytes, h->steps) * r->transfer.slope.se;
    df[1] = fmax(1, r->transfer.slope.df);
    part[2] = mean_of(s->wait, h->steps) * relative(&load->slope);
    df[2] = fmax(1, load->slope.df);
    for (int i = 0; i < 3; i++) {
        total += part[i] * part[i];
        spread += pow(part[i], 4) / df[i];
    }
    out->se = sqrt(total);
    out->df = spread > 0 ? total * total / spread : out->df;
    double reach = skew_time_t_quantile(0.975, fmax(1, out->df)) * out->se;
    out->low = out->value - reach;
    out->high = out->value + reach;
    return 0;
}

/* The mean of a series that is known within bounds: the interval holds either bound's. */
static int estimate_range(const struct skew_time_range *values, size_t n,
                          struct skew_time_estimate *out)
{
    struct skew_time_estimate high = {0};
    double *one = malloc((n + 1) * sizeof *one);
    int result = one ? 0 : -ENOMEM;

    for (size_t i = 0; i < n && !result; i++)
        one[i] = values[i].low;
    if (!result)
        result = skew_time_mean(one, n, out);
    for (size_t i = 0; i < n && !result; i++)
        one[i] = values[i].high;
    if (!result)
        result = skew_time_mean(one, n, &high);
    out->value = (out->value + high.value) / 2;
    out->high = high.high;
    out->se = fmax(out->se, high.se);
    free(one);
    return result;
}

/* The transfers of a series alone, or its waits alone: `nothing` [steps] stands for the rest. */
static int estimate_part(const struct headline *h, const struct series *s, bool transfer,
                         double *nothing, struct skew_time_estimate *out)
{
    struct series part = {.all = transfer ? s->transfer : s->wait,
                          .transfer = transfer ? s->transfer : nothing,
                          .wait = transfer ? nothing : s->wait,
                          .bytes = transfer ? s->bytes : nothing};

    return estimate(h, &part, out);
}

static int estimate_all(struct headline *h)
{
    struct skew_time_headline *out = &h->work->result->headline;
    struct skew_time_estimate *const to[] = {&out->uniform, &out->placement, &out->after_placement};
    const struct series *const from[] = {&h->uniform, &h->placement, &h->after};
    int result = skew_time_mean(h->span, h->steps, &out->step);

    if (!result)
        result = estimate_range(h->exposed, h->steps, &out->exchanges);
    for (int i = 0; i < 3 && !result; i++)
        result = estimate(h, from[i], to[i]);
    double *nothing = calloc(h->steps + 1, sizeof *nothing);
    if (!result)
        result = nothing ? estimate_part(h, &h->uniform, true, nothing, &out->uniform_transfer)
                         : -ENOMEM;
    if (!result)
        result = estimate_part(h, &h->uniform, false, nothing, &out->uniform_wait);
    free(nothing);
    out->steps = h->steps;
    out->clamped = h->judged ? (double)h->clamped / (double)h->judged : 0;
    out->known = isfinite(out->uniform.value);
    if (!out->known)
        snprintf(out->why_not, sizeof out->why_not,
                 "no step has labels and token sizes of all its exchanges");
    out->placement_known = out->known && isfinite(out->placement.value);
    snprintf(out->placement_why_not, sizeof out->placement_why_not, "%s",
             out->placement_known  ? ""
             : h->calls.why_not[0] ? h->calls.why_not
                                   : "no step has the routing of all its calls");
    return result;
}

static bool possible(const struct skew_time_work *w)
{
    struct skew_time_headline *out = &w->result->headline;

    if (w->result->complete == 0)
        snprintf(out->why_not, sizeof out->why_not, "no exchange has times of all its ranks");
    else if (w->result->unlabelled)
        snprintf(out->why_not, sizeof out->why_not,
                 "the steps of %zu of %zu exchanges could not be told (skewscope label says why)",
                 w->result->unlabelled, w->result->complete);
    else if (w->result->in_parts)
        snprintf(
            out->why_not, sizeof out->why_not,
            "a dispatch is several exchanges here, and how uniform routing would spread tokens "
            "over these is not modelled");
    else if (w->result->ranks_seen < w->result->ranks)
        snprintf(out->why_not, sizeof out->why_not, "%u of %u ranks are in no database",
                 w->result->ranks - w->result->ranks_seen, w->result->ranks);
    else if (w->result->transfer.model == SKEW_TIME_NOT_TOLD)
        snprintf(out->why_not, sizeof out->why_not,
                 "how long a transfer of another size takes is not known");
    else
        return true;
    return false;
}

int skew_time_headline(struct skew_time_work *w, const struct skew_time_router *router)
{
    struct headline h = {.work = w};
    double *scratch = malloc((w->times->ranks + 1) * sizeof *scratch);
    int result = scratch ? group_steps(&h) : -ENOMEM;

    if (!result && possible(w)) {
        measure(&h, scratch);
        result = skew_time_calls_create(&h.calls, w, router);
        for (size_t s = 0; s < h.steps && !result; s++) {
            for (size_t i = h.first[s]; i < h.first[s + 1]; i++)
                judge_exchange(&h, s, i);
            h.after.all[s] = h.uniform.all[s] - h.placement.all[s];
            h.after.transfer[s] = h.uniform.transfer[s] - h.placement.transfer[s];
            h.after.wait[s] = h.uniform.wait[s] - h.placement.wait[s];
            h.after.bytes[s] = h.uniform.bytes[s] - h.placement.bytes[s];
        }
        if (!result)
            result = estimate_all(&h);
        skew_time_calls_free(&h.calls);
    }
    free(scratch);
    free(h.first);
    free(h.span);
    free(h.exposed);
    free(h.uniform.all);
    free(h.placement.all);
    free(h.after.all);
    return result;
}
