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

struct costly {
    double costs;
    size_t index;
};

static int by_costs(const void *a, const void *b)
{
    const struct costly *x = a, *y = b;
    if (x->costs != y->costs)
        return x->costs > y->costs ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* The indices of all[n], the costliest first; frees `all`. */
static size_t *by_weight(struct costly *all, size_t n, size_t *rows)
{
    size_t *order = malloc((n + 1) * sizeof *order);

    if (all && order)
        qsort(all, n, sizeof *all, by_costs);
    for (size_t i = 0; i < n && all && order; i++)
        order[i] = all[i].index;
    *rows = !all || !order ? 0 : *rows < n ? *rows : n;
    free(all);
    return order;
}

size_t *skew_time_worst(const struct skew_time_result *r, size_t *rows)
{
    struct costly *all = malloc((r->complete + 1) * sizeof *all);

    for (size_t i = 0; i < r->complete && all; i++)
        all[i] = (struct costly){skew_time_avoidable(&r->exchanges[i]), i};
    return by_weight(all, r->complete, rows);
}

size_t *skew_time_worst_steps(const struct skew_time_result *r, size_t *rows)
{
    struct costly *all = malloc((r->step_count + 1) * sizeof *all);

    for (size_t i = 0; i < r->step_count && all; i++)
        all[i] = (struct costly){r->steps[i].avoidable, i};
    return by_weight(all, r->step_count, rows);
}

static bool of_last(const struct skew_time_exchange *x)
{
    return x->cause == SKEW_CAUSE_LATE || x->cause == SKEW_CAUSE_LOAD;
}

uint32_t skew_time_rank_of(const struct skew_time_exchange *x)
{
    return of_last(x) ? x->last_rank : x->busiest_rank;
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
        p->lag += x->lag;
        p->by_load += x->saves[SKEW_CAUSE_LOAD];
        p->transfer += x->transfer;
        p->latency += x->latency;
        p->balanced += x->balanced;
        p->skew += x->skew;
        p->unexplained += x->unexplained;
        p->exposed.low += x->exposed.low;
        p->exposed.high += x->exposed.high;
        p->hidden.low += x->hidden.low;
        p->hidden.high += x->hidden.high;
    }
    double *const sums[] = {&p->lag,         &p->by_load,     &p->wait_mean,    &p->wait_max,
                            &p->transfer,    &p->latency,     &p->balanced,     &p->skew,
                            &p->unexplained, &p->exposed.low, &p->exposed.high, &p->hidden.low,
                            &p->hidden.high};
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
    if (r->clocks == SKEW_TIME_VAGUE_CLOCKS)
        printf("times on the devices are known to ±%.1f µs only, more than an exchange takes: "
               "waits are "
               "taken from durations, as if all ranks were through at once\n",
               r->error_ns / 1e3);
    else if (r->error_ns >= 50)
        printf("times on the devices are within ±%.1f µs (median) on the clock that ranks share: "
               "waits and "
               "transfers are within twice that\n",
               r->error_ns / 1e3);
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

/* "12.3" or "12.3 – 14.0", in units of `unit` ns. */
static char *range(char text[SKEW_ESTIMATE_TEXT], const struct skew_time_range *r, double unit,
                   int digits)
{
    if (isnan(r->low))
        snprintf(text, SKEW_ESTIMATE_TEXT, "not known");
    else if (r->high - r->low < unit * (digits == 1 ? 0.05 : 0.00005))
        snprintf(text, SKEW_ESTIMATE_TEXT, "%.*f", digits, r->high / unit);
    else
        snprintf(text, SKEW_ESTIMATE_TEXT, "%.*f – %.*f", digits, r->low / unit, digits,
                 r->high / unit);
    return text;
}
#define R(r, unit, digits) range((char[SKEW_ESTIMATE_TEXT]){0}, r, unit, digits)

/* What of it other kernels hide; the definitions are those of skewscope overlap. */
static void print_overlap(const struct skew_time_result *r)
{
    struct skew_time_parts p;

    if (!r->overlap_known) {
        printf("what computation hides of this is not known: its kernels are recorded with "
               "SKEWSCOPE_TIMING=cupti only; all of it counts as on the critical path\n");
        return;
    }
    for (int role = 0; role < SKEW_TIME_ROLES; role++)
        if (skew_time_parts_of(r, (enum skew_time_role)role, &p))
            printf(" %-13s hidden by computation on every rank %s µs, on the critical path %s µs\n",
                   skew_time_role_name[role], R(&p.hidden, 1e3, 1), R(&p.exposed, 1e3, 1));
    if (r->overlap_known < r->complete)
        printf("kernels of the computation are recorded for %zu of %zu exchanges: the others count "
               "as on the critical path as a whole\n",
               r->overlap_known, r->complete);
    if (r->cupti_dropped)
        printf("%" PRIu64 " records of CUPTI found no room: more may be hidden\n",
               r->cupti_dropped);
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
    struct skew_time_parts p;

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
        if (f->slope.value > 0 && skew_time_parts_of(r, (enum skew_time_role)role, &p))
            printf(" with even loads the last rank would come to %s %.1f µs sooner in the mean; it "
                   "comes %.1f µs after the median rank\n",
                   skew_time_role_name[role], p.by_load / 1e3, p.lag / 1e3);
    }
}

static void print_stragglers(const struct skew_time_result *r)
{
    if (r->unlabelled) {
        printf("\nstragglers and what steps cost: not known, since the steps of %zu exchanges "
               "could not "
               "be told: see skewscope label, --microbatches, --step-marker\n",
               r->unlabelled);
        return;
    }
    if (!r->straggler_count)
        printf("\nno rank is late beyond its work and chance (a rank's mean in a step spreads by "
               "%.1f µs)\n",
               r->late_scale_ns / 1e3);
    for (size_t i = 0; i < r->straggler_count; i++) {
        const struct skew_time_straggler *s = &r->stragglers[i];
        printf("%srank %u is late", i ? "" : "\n", s->rank);
        if (s->persistent)
            printf(" persistently: %.1f µs before an exchange in the median of %zu steps%s",
                   s->median_ns / 1e3, r->step_count, s->late_steps ? "; beyond chance" : "");
        if (s->late_steps)
            printf(" in %zu of %zu steps, by %.1f µs a step (median)", s->late_steps, r->step_count,
                   s->late_ns / 1e3);
        printf("\n");
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

static void print_step(const char *step, const struct skew_time_range *exposed,
                       const double saves[SKEW_CAUSES], double share)
{
    struct skew_time_range part = {exposed->low * share, exposed->high * share};

    printf(" %6s %19s %10.4f %10.4f %10.4f %11.4f", step, R(&part, 1e6, 4),
           saves[SKEW_CAUSE_LATE] * share / 1e6, saves[SKEW_CAUSE_LOAD] * share / 1e6,
           saves[SKEW_CAUSE_SKEW] * share / 1e6, saves[SKEW_CAUSE_UNEXPLAINED] * share / 1e6);
}

/* Savings of the exchanges of a step add up; those of its causes do not. */
static void print_steps(const struct skew_time_result *r, size_t rows)
{
    struct skew_time_range exposed = {0, 0};
    double saves[SKEW_CAUSES] = {0};
    size_t *worst = skew_time_worst_steps(r, &rows);

    for (size_t i = 0; i < r->step_count; i++) {
        exposed.low += r->steps[i].exposed.low;
        exposed.high += r->steps[i].exposed.high;
        for (int cause = 0; cause < SKEW_CAUSES; cause++)
            saves[cause] += r->steps[i].saves[cause];
    }
    if (rows && worst) {
        printf("\nledger of steps, ms: exchanges on the critical path, and how much sooner without "
               "one cause alone (causes overlap)\n %6s %19s %10s %10s %10s %11s  %s\n",
               "step", "critical path", "late rank", "load", "skew", "unexplained",
               "the most in one exchange");
        print_step("mean", &exposed, saves, 1 / (double)r->step_count);
        printf("\n");
    }
    for (size_t i = 0; i < rows && worst; i++) {
        const struct skew_time_step *s = &r->steps[worst[i]];
        const struct skew_time_exchange *x = &r->exchanges[s->worst];
        char step[24], layer[24];
        print_step(ordinal_text(step, s->step), &s->exposed, s->saves, 1);
        if (skew_time_avoidable(x) > 0)
            printf("  %s, layer %s: %s, rank %u", skew_time_role_name[x->role],
                   ordinal_text(layer, x->layer), skew_time_cause_name[x->cause],
                   skew_time_rank_of(x));
        printf("\n");
    }
    free(worst);
}

static void print_ledger(const struct skew_time_result *r, size_t rows)
{
    size_t *worst = skew_time_worst(r, &rows);

    if (!rows || !worst) {
        free(worst);
        return;
    }
    printf("\nexchanges that cost most, ms: on the critical path, and how much sooner without this "
           "cause alone\n %6s %6s %-13s %-12s %6s %9s %s\n",
           "step", "layer", "role", "cause", "rank", "sooner", "critical path");
    for (size_t i = 0; i < rows; i++) {
        const struct skew_time_exchange *x = &r->exchanges[worst[i]];
        char step[24], layer[24];
        printf(" %6s %6s %-13s %-12s ", ordinal_text(step, x->step), ordinal_text(layer, x->layer),
               skew_time_role_name[x->role], skew_time_cause_name[x->cause]);
        if (of_last(x) || x->cause == SKEW_CAUSE_SKEW)
            printf("%6u", skew_time_rank_of(x));
        else
            printf("%6s", "");
        printf(" %9.4f %s\n", x->saves[x->cause] / 1e6, R(&x->exposed, 1e6, 4));
    }
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
        print_overlap(r);
        print_fit(&r->transfer);
        print_loads(r);
        print_stragglers(r);
        print_steps(r, s->rows);
        print_ledger(r, s->rows);
    }
    skew_coverage_print(&s->coverage);
}
