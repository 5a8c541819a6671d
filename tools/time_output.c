/* SPDX-License-Identifier: Apache-2.0 */
/* The Time analyses for people. The numbers and their conventions: docs/time.md. */
#include "time_output.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "analysis_output.h"
#include "term.h"

#define EVENTS_SHOWN 8

/* ---- choosing -------------------------------------------------------------------------------- */

static _Thread_local const struct skew_time_exchange *sorting;

/* Volume and latency are what an exchange is, not what is wrong with it: they come last. */
static double avoidable(const struct skew_time_exchange *x)
{
    bool itself = x->cause == SKEW_CAUSE_VOLUME || x->cause == SKEW_CAUSE_LATENCY;
    return itself ? 0 : x->saves[x->cause];
}

static int by_saving(const void *a, const void *b)
{
    const struct skew_time_exchange *x = &sorting[*(const size_t *)a],
                                    *y = &sorting[*(const size_t *)b];
    double p = avoidable(x), q = avoidable(y);
    return p != q ? (p > q ? -1 : 1) : (x > y) - (x < y);
}

size_t *skew_time_worst(const struct skew_time_result *r, size_t *rows)
{
    size_t *order = malloc((r->complete + 1) * sizeof *order);

    for (size_t i = 0; i < r->complete && order; i++)
        order[i] = i;
    sorting = r->exchanges;
    if (order)
        qsort(order, r->complete, sizeof *order, by_saving);
    *rows = *rows < r->complete ? *rows : r->complete;
    return order;
}

bool skew_time_parts_of(const struct skew_time_result *r, enum skew_time_role role,
                        struct skew_time_parts *p)
{
    *p = (struct skew_time_parts){0};
    for (size_t i = 0; i < r->complete; i++) {
        const struct skew_time_exchange *x = &r->exchanges[i];
        if (x->role != role)
            continue;
        p->exchanges++;
        p->beyond += x->beyond;
        p->wait_mean += x->wait_mean;
        p->wait_max += x->wait_max;
        p->transfer += x->transfer;
        p->latency += x->latency;
        p->balanced += x->balanced;
        p->skew += x->skew;
        p->unexplained += x->unexplained;
        p->exposed += x->exposed;
        p->hidden += x->hidden;
    }
    double *const sums[] = {&p->wait_mean, &p->wait_max,    &p->transfer, &p->latency, &p->balanced,
                            &p->skew,      &p->unexplained, &p->exposed,  &p->hidden};
    for (size_t i = 0; i < sizeof sums / sizeof *sums && p->exchanges; i++)
        *sums[i] /= (double)p->exchanges;
    return p->exchanges > 0;
}

/* ---- pieces ---------------------------------------------------------------------------------- */

/* "1.234 [1.200, 1.270]" of a value in other units. */
static char *scaled(char text[SKEW_ESTIMATE_TEXT], const struct skew_time_estimate *e, double unit,
                    int digits)
{
    if (isnan(e->low))
        snprintf(text, SKEW_ESTIMATE_TEXT, "%.*f (no interval)", digits, e->value / unit);
    else
        snprintf(text, SKEW_ESTIMATE_TEXT, "%.*f [%.*f, %.*f]", digits, e->value / unit, digits,
                 e->low / unit, digits, e->high / unit);
    return text;
}
#define S(estimate, unit, digits) scaled((char[SKEW_ESTIMATE_TEXT]){0}, estimate, unit, digits)

static void print_clocks(const struct skew_time_result *r)
{
    if (r->clocks == SKEW_TIME_FITTED_CLOCKS)
        printf("clocks of several nodes, related to within ±%.1f µs: waits are within twice that\n",
               r->clock_residual_ns / 1e3);
    if (r->clocks == SKEW_TIME_UNRELATED_CLOCKS)
        printf(
            "clocks of several nodes that nothing relates: waits are taken from durations, as if "
            "all ranks were through at once\n");
    if (r->ranks_seen < r->ranks)
        printf("%u of %u ranks are in no database: who came last may be one of them, waits are of "
               "the ranks seen, and port bytes may be larger\n",
               r->ranks - r->ranks_seen, r->ranks);
    if (r->complete < r->all)
        printf("%zu of %zu exchanges lack a rank or its time and are left out\n",
               r->all - r->complete, r->all);
}

static void print_roles(const struct skew_time_result *r)
{
    struct skew_time_parts p;

    printf("\nmean of an exchange, µs; transfer = latency + balanced + skew + unexplained\n"
           " %-13s %9s %9s %9s %9s %9s %9s %9s %11s\n",
           "role", "exchanges", "wait mean", "wait max", "transfer", "latency", "balanced", "skew",
           "unexplained");
    for (int role = 0; role < SKEW_TIME_ROLES; role++)
        if (skew_time_parts_of(r, (enum skew_time_role)role, &p))
            printf(" %-13s %9zu %9.1f %9.1f %9.1f %9.1f %9.1f %8.1f%s %11.1f\n",
                   skew_time_role_name[role], p.exchanges, p.wait_mean / 1e3, p.wait_max / 1e3,
                   p.transfer / 1e3, p.latency / 1e3, p.balanced / 1e3, p.skew / 1e3,
                   p.beyond ? "+" : " ", p.unexplained / 1e3);
    printf("skew: from the busiest port's bytes to the mean port's, chance included; +: at least, "
           "where the mean lies below all sizes seen\n");
}

static void print_fit(const struct skew_time_fit *f)
{
    printf("\ntransfer against the busiest port's bytes: %s\n", f->why);
    if (f->model == SKEW_TIME_LINEAR || f->model == SKEW_TIME_PIECEWISE)
        printf(" %s ns/KiB (%.1f GB/s), intercept %s µs, %zu exchanges in %zu steps, sizes %.1f to "
               "%.1f KiB, quality %.2f\n",
               S(&f->slope, 1 / 1024.0, 3), 1 / f->slope.value, S(&f->intercept, 1e3, 1),
               f->observations, f->clusters, f->least / 1024, f->most / 1024, f->quality);
    if (f->model == SKEW_TIME_PIECEWISE)
        printf(" below %.1f KiB: %s ns/KiB\n", f->knee / 1024, S(&f->slope_below, 1 / 1024.0, 3));
    if (f->with_covariate)
        printf(" and %s ns/KiB of the mean port\n", S(&f->covariate, 1 / 1024.0, 3));
}

static void print_loads(const struct skew_time_result *r)
{
    for (int role = 0; role < SKEW_TIME_ROLES; role++) {
        const struct skew_time_fit *f = &r->load[role];
        if (!f->observations)
            continue;
        printf("\ncomputation before %s against the bytes its rank received: %s\n",
               skew_time_role_name[role], f->why);
        if (f->slope.value > 0)
            printf(" %s ns/KiB", S(&f->slope, 1 / 1024.0, 3));
        if (f->model == SKEW_TIME_PIECEWISE)
            printf(" above %.1f KiB, %s below", f->knee / 1024, S(&f->slope_below, 1 / 1024.0, 3));
        printf("%s", f->slope.value > 0 ? "\n" : "");
    }
}

static void print_stragglers(const struct skew_time_result *r)
{
    if (r->unlabelled) {
        printf("\nstragglers: not looked for, since steps and roles of %zu exchanges are unknown\n",
               r->unlabelled);
        return;
    }
    if (!r->straggler_count)
        printf("\nno rank is late beyond its work and chance (a rank's mean in a step spreads by "
               "%.1f µs)\n",
               r->late_scale_ns / 1e3);
    for (size_t i = 0; i < r->straggler_count; i++) {
        const struct skew_time_straggler *s = &r->stragglers[i];
        printf("%srank %u is late %s: %.1f µs an exchange in the median, and beyond chance in %zu "
               "steps\n",
               i ? "" : "\n", s->rank, s->persistent ? "persistently" : "at times",
               s->median_ns / 1e3, s->late_steps);
    }
    for (size_t i = 0; i < r->event_count && i < EVENTS_SHOWN; i++) {
        const struct skew_time_event *e = &r->events[i];
        printf(" step %" PRId64 ", rank %u: %.1f µs late", e->step, e->rank, e->late_ns / 1e3);
        if (e->layer >= 0)
            printf(" before layer %" PRId64, e->layer);
        printf("\n");
    }
    if (r->event_count > EVENTS_SHOWN)
        printf(" … %zu more: --json\n", r->event_count - EVENTS_SHOWN);
}

/* "-": could not be told. */
static const char *ordinal_text(char text[24], int64_t ordinal)
{
    if (ordinal < 0)
        return "-";
    snprintf(text, 24, "%" PRId64, ordinal);
    return text;
}

static void print_ledger(const struct skew_time_result *r, size_t rows)
{
    size_t *worst = skew_time_worst(r, &rows);

    if (!rows || !worst) {
        free(worst);
        return;
    }
    printf("\nwhat costs most on the critical path: ms sooner without this cause alone (of one "
           "exchange they overlap)\n %6s %6s %-13s %-12s %6s %9s %9s\n",
           "step", "layer", "role", "cause", "rank", "sooner", "exposed");
    for (size_t i = 0; i < rows; i++) {
        const struct skew_time_exchange *x = &r->exchanges[worst[i]];
        bool of_last = x->cause == SKEW_CAUSE_LATE || x->cause == SKEW_CAUSE_LOAD;
        char step[24], layer[24];
        printf(" %6s %6s %-13s %-12s ", ordinal_text(step, x->step), ordinal_text(layer, x->layer),
               skew_time_role_name[x->role], skew_time_cause_name[x->cause]);
        if (of_last || x->cause == SKEW_CAUSE_SKEW)
            printf("%6u", of_last ? x->last_rank : x->busiest_rank);
        else
            printf("%6s", "");
        printf(" %9.4f %9.4f\n", x->saves[x->cause] / 1e6, x->exposed / 1e6);
    }
    if (r->overlap_known < r->complete)
        printf(
            "kernels of the computation are recorded for %zu of %zu exchanges: the others count as "
            "exposed as a whole\n",
            r->overlap_known, r->complete);
    free(worst);
}

static double or_value(double bound, double value)
{
    return isnan(bound) ? value : bound;
}

static void print_headline(const struct skew_time_headline *h)
{
    if (!h->known) {
        printf("\nwhat skew costs a step: not known, since %s\n", h->why_not);
        return;
    }
    printf("\na step takes %s ms, of it exchanges on the critical path %s ms (%zu steps)\n",
           S(&h->step, 1e6, 3), S(&h->exchanges, 1e6, 3), h->steps);
    printf(" with uniform routing of the same tokens %.3f ms: %s ms sooner\n",
           (h->step.value - h->uniform.value) / 1e6, S(&h->uniform, 1e6, 3));
    if (h->uniform.low <= 0 && h->uniform.high >= 0)
        printf("  which cannot be told from 0: no cost of skew beyond chance\n");
    else
        printf("  of it %s in transfers and %s in waiting for loaded ranks\n",
               S(&h->uniform_transfer, 1e6, 3), S(&h->uniform_wait, 1e6, 3));
    if (h->placement_known) {
        printf(" with the best held-out placement %.3f ms: %s ms sooner\n",
               (h->step.value - h->placement.value) / 1e6, S(&h->placement, 1e6, 3));
        printf(" so skew costs %.3f to %.3f ms a step; routing accounts for %.3f to %.3f of it and "
               "placement for %.3f to %.3f, as one or the other comes first\n",
               or_value(h->uniform.low, h->uniform.value) / 1e6,
               or_value(h->uniform.high, h->uniform.value) / 1e6,
               fmin(h->after_placement.value, h->uniform.value) / 1e6,
               fmax(h->after_placement.value, h->uniform.value) / 1e6,
               fmin(0, h->placement.value) / 1e6, fmax(0, h->placement.value) / 1e6);
    } else {
        printf(" with another placement: not known, since %s\n", h->placement_why_not);
    }
    if (h->clamped > 0)
        printf(" %.0f %% of the sizes that this asks for were never seen; the nearest that was is "
               "used, so that savings are at least these\n",
               100 * h->clamped);
}

static void print_host(const struct skew_time_result *r)
{
    printf("\nno times on the device are in this trace: how long exchanges took is not known, nor "
           "how long ranks waited.\n");
    if (!r->host_last) {
        printf("Clocks of several nodes are not one: who came last is not known either.\n");
        return;
    }
    printf("Who enqueued last on the host, which is the order of arrival where the device is not "
           "behind (%zu exchanges):\n %6s %8s %14s\n",
           r->host_exchanges, "rank", "last", "median lag µs");
    for (uint32_t i = 0; i < r->ranks && i < 64; i++)
        printf(" %6u %7.1f%% %14.1f\n", i, 100 * r->host_last[i], r->host_lag_ns[i] / 1e3);
}

void skew_time_print(const struct skew_time_shown *s)
{
    const struct skew_time_result *r = s->result;

    printf("communicator %s, %u ranks: %zu exchanges of tokens, %zu with times of all ranks\n",
           s->comm_key, r->ranks, r->all, r->complete);
    if (s->chosen && *s->chosen)
        printf("%s\n", s->chosen);
    if (s->standin)
        printf("on the stand-ins for NCCL and CUDA: these are times of processes on a CPU, not of "
               "a GPU\n");
    if (r->timed_rows == 0) {
        print_host(r);
    } else {
        print_clocks(r);
        print_headline(&r->headline);
        print_roles(r);
        print_fit(&r->transfer);
        print_loads(r);
        print_stragglers(r);
        print_ledger(r, s->rows);
    }
    skew_coverage_print(&s->coverage);
}
