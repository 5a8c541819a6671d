/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of `skewscope whatif schedule`: one matrix in full, a series in medians and sums. Also
 * decides between text and JSON (whatif_schedule_json.c).
 */
#include "whatif_schedule_output.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* ---- numbers --------------------------------------------------------------------------------- */

#define short_text skew_whatif_text

struct skew_whatif_text skew_whatif_seconds(double s)
{
    struct skew_whatif_text t;

    if (isnan(s))
        snprintf(t.text, sizeof t.text, "-");
    else if (fabs(s) >= 1)
        snprintf(t.text, sizeof t.text, "%.4g s", s);
    else if (fabs(s) >= 1e-3)
        snprintf(t.text, sizeof t.text, "%.4g ms", s * 1e3);
    else if (fabs(s) >= 1e-6)
        snprintf(t.text, sizeof t.text, "%.4g us", s * 1e6);
    else if (s != 0)
        snprintf(t.text, sizeof t.text, "%.4g ns", s * 1e9);
    else
        snprintf(t.text, sizeof t.text, "0");
    return t;
}
#define seconds skew_whatif_seconds

static struct short_text ratio(double x, const char *format)
{
    struct short_text t;

    if (isfinite(x))
        snprintf(t.text, sizeof t.text, format, x);
    else
        snprintf(t.text, sizeof t.text, "-");
    return t;
}

static struct short_text bytes(uint64_t b)
{
    struct short_text t;
    skew_bytes_text(t.text, b);
    return t;
}

/* The batch at a scale: tokens a rank when their size is known. */
static struct short_text batch(const struct skew_whatif *w, const struct skew_demand *d,
                               double scale)
{
    struct short_text t;
    double mean = scale * skew_whatif_batch(d);

    if (w->model.token_bytes > 0)
        snprintf(t.text, sizeof t.text,
                 mean / w->model.token_bytes < 10 ? "%.3g tokens" : "%.0f tokens",
                 mean / w->model.token_bytes);
    else
        skew_bytes_text(t.text, (uint64_t)mean);
    return t;
}

/* ---- one matrix ------------------------------------------------------------------------------ */

static void print_row(const struct skew_whatif_result *r, size_t m)
{
    const struct skew_schedule *s = r->schedules[m];
    const struct skew_timing *t = &r->timings[m];

    printf("%-9s %9zu  %7s  %6s  %10s  %10s %-8s %10s  %6s  %7s", skew_schedule_name(s->method),
           s->matchings, ratio(skew_schedule_loss(s), "%.4f").text,
           ratio(100 * skew_schedule_idle(s), "%.1f%%").text, seconds(t->dispatch_s).text,
           seconds(t->makespan_s).text, t->johnson ? "johnson" : "natural",
           seconds(t->sequential_s).text, ratio(t->makespan_s / t->ideal_s, "%.3f").text,
           ratio(t->rest, "%.3f").text);
    if (s->remainder)
        printf("  remainder %s", bytes(s->remainder).text);
    putchar('\n');
}

static const char *name_of(size_t method)
{
    return method == SKEW_SCHEDULE_METHOD_COUNT
               ? "the ideal"
               : skew_schedule_name((enum skew_schedule_method)method);
}

static void print_crossings(const struct skew_whatif *w, const struct skew_whatif_result *r)
{
    size_t others = 0;

    printf("\nBatch (mean received by a rank: %s) times %g to %g, where the fastest changes:\n",
           batch(w, &r->demand, 1).text, w->sweep_least, w->sweep_most);
    for (size_t c = 0; c < r->crossing_count; c++) {
        const struct skew_crossing *x = &r->crossings[c];
        if (x->fastest || x->below == SKEW_SCHEDULE_METHOD_COUNT ||
            x->above == SKEW_SCHEDULE_METHOD_COUNT)
            printf("  at %s: below %s, above %s\n", batch(w, &r->demand, x->scale).text,
                   name_of(x->below), name_of(x->above));
        else
            others++;
    }
    if (others == r->crossing_count)
        printf("  nowhere, nor does any overtake the congestion-free ideal\n");
    if (others)
        printf("  (%zu more changes of order behind the fastest: --json)\n", others);
}

static void print_break_even(const struct skew_whatif *w, const struct skew_whatif_result *r)
{
    double cost = skew_whatif_break_even(w, r);
    const struct skew_schedule *s = r->schedules[SKEW_SCHEDULE_STUFFED];

    if (isfinite(cost))
        printf("\nThe port bound (stuffed) saves %s of transfer over greedy and takes %zu more "
               "matchings: without "
               "overlap\nit wins only where a matching costs less than %s.\n",
               bytes(r->schedules[SKEW_SCHEDULE_GREEDY]->bottlenecks - s->bottlenecks).text,
               s->matchings - r->schedules[SKEW_SCHEDULE_GREEDY]->matchings, seconds(cost).text);
}

static void print_one(const struct skew_whatif *w, const struct skew_whatif_result *r)
{
    const struct skew_demand *d = &r->demand;
    char total[SKEW_BYTES_TEXT], local[SKEW_BYTES_TEXT];

    printf("Traffic  %s", w->source);
    if (r->seq >= 0)
        printf(", call %" PRId64, r->seq);
    printf("\n         %u ranks, %s between ranks, %s to themselves%s\n", d->ranks,
           skew_bytes_text(total, d->total), skew_bytes_text(local, d->receive_sum - d->total),
           r->incomplete ? " (NOT COMPLETE: sends of some ranks are not in the trace)" : "");
    if (d->total)
        printf("Bound    busiest port %s = %.3f x balanced: endpoint imbalance, which no schedule "
               "changes\n",
               bytes(d->bound).text, d->imbalance);
    else
        printf("Bound    nothing to schedule: no rank sends to another\n");
    skew_whatif_model_print(w);
    printf("\n%-9s %9s  %7s  %6s  %10s  %10s %-8s %10s  %6s  %7s\n", "schedule", "matchings",
           "loss", "idle", "dispatch", "overlapped", "order", "sequential", "/ideal", "rest");
    for (size_t m = 0; m < SKEW_SCHEDULE_METHOD_COUNT; m++)
        if (r->schedules[m])
            print_row(r, m);
    printf("%-9s %9s  %7s  %6s  %10s  %10s %-8s %10s  %6s\n", "ideal", "-",
           d->total ? "1.0000" : "-", "",
           seconds(skew_cost_bytes(&w->cost, (double)d->bound, (double)d->total / d->ranks)).text,
           "", "", seconds(skew_cost_ideal(&w->cost, d, 1)).text, "1.000");
    if (isfinite(r->transfer_s))
        printf("%-9s %9s  %7s  %6s  %10s  (measured, unscheduled%s)\n", "as it ran", "-", "", "",
               seconds(r->transfer_s).text,
               w->model.measured.standin ? "; on stand-ins, no GPU" : "");
    print_break_even(w, r);
    if (d->receive_sum)
        print_crossings(w, r);
}

/* ---- a series -------------------------------------------------------------------------------- */

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static struct short_text quantile(double *values, size_t count, double where)
{
    if (count == 0)
        return ratio(NAN, "");
    qsort(values, count, sizeof *values, ascending);
    double at = where * (double)(count - 1);
    size_t low = (size_t)at, high = low + 1 < count ? low + 1 : low;
    return ratio(values[low] + (at - (double)low) * (values[high] - values[low]), "%.4f");
}

static void print_series(struct skew_whatif *w)
{
    printf("Traffic  %zu %s\n", w->count, w->source);
    if (w->skipped)
        printf("         the first of %zu; --limit takes more\n", w->count + w->skipped);
    if (w->empty)
        printf("         %zu of them moved nothing between ranks\n", w->empty);
    if (w->incomplete)
        printf("         %zu of them are NOT COMPLETE: sends of some ranks are not in the trace\n",
               w->incomplete);
    printf("Bound    endpoint imbalance, which no schedule changes: median %s, ",
           quantile(w->imbalances, w->imbalance_count, 0.5).text);
    printf("largest %s\n", quantile(w->imbalances, w->imbalance_count, 1).text);
    skew_whatif_model_print(w);
    printf("\n%-9s %9s  %8s  %8s  %6s  %10s  %10s  %10s  %6s\n", "schedule", "matchings", "loss",
           "largest", "idle", "dispatch", "overlapped", "sequential", "/ideal");
    printf("%-9s %9s  %8s  %8s  %6s  %10s  %10s  %10s  %6s\n", "", "mean", "median", "", "mean",
           "sum", "sum", "sum", "of sum");
    for (size_t m = 0; m < SKEW_SCHEDULE_METHOD_COUNT; m++) {
        struct skew_whatif_tally *t = &w->tally[m];
        if (!w->methods[m])
            continue;
        printf("%-9s %9s  %8s  %8s  %6s  %10s  %10s  %10s  %6s\n", name_of(m),
               ratio(t->matchings / (double)w->count, "%.1f").text,
               quantile(t->losses, t->loss_count, 0.5).text,
               quantile(t->losses, t->loss_count, 1).text,
               ratio(100 * t->idle / t->idle_weight, "%.1f%%").text, seconds(t->dispatch_s).text,
               seconds(t->makespan_s).text, seconds(t->sequential_s).text,
               ratio(t->makespan_s / t->ideal_s, "%.3f").text);
    }
    if (w->timed == w->count)
        printf("%-9s %9s  %8s  %8s  %6s  %10s  (measured, unscheduled%s)\n", "as it ran", "-", "",
               "", "", seconds(w->transfer_s).text,
               w->model.measured.standin ? "; on stand-ins, no GPU" : "");
    printf("\nBatch sizes at which the order changes are found for one matrix: --seq N, --mean or "
           "--sum.\n");
}

/* ---- what a series keeps --------------------------------------------------------------------- */

static int keep(double **values, size_t *count, double value)
{
    if (!isfinite(value))
        return 0;
    if ((*count & (*count - 1)) == 0) { /* room is the next power of two */
        double *bigger = realloc(*values, (*count ? 2 * *count : 1) * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        *values = bigger;
    }
    (*values)[(*count)++] = value;
    return 0;
}

static int tally(struct skew_whatif *w, const struct skew_whatif_result *r)
{
    int result = keep(&w->imbalances, &w->imbalance_count, r->demand.imbalance);

    w->count++;
    w->empty += r->demand.total == 0;
    w->incomplete += r->incomplete;
    if (isfinite(r->transfer_s)) {
        w->timed++;
        w->transfer_s += r->transfer_s;
    }
    for (size_t m = 0; m < SKEW_SCHEDULE_METHOD_COUNT && result == 0; m++) {
        struct skew_whatif_tally *t = &w->tally[m];
        const struct skew_schedule *s = r->schedules[m];
        if (!s)
            continue;
        result = keep(&t->losses, &t->loss_count, skew_schedule_loss(s));
        t->matchings += (double)s->matchings;
        t->dispatch_s += r->timings[m].dispatch_s;
        t->makespan_s += r->timings[m].makespan_s;
        t->sequential_s += r->timings[m].sequential_s;
        t->ideal_s += r->timings[m].ideal_s;
        double idle = skew_schedule_idle(s);
        if (isfinite(idle)) {
            t->idle += idle * (double)s->bottlenecks;
            t->idle_weight += (double)s->bottlenecks;
        }
    }
    return result;
}

int skew_whatif_show(struct skew_whatif *w, const struct skew_whatif_result *r)
{
    int result = tally(w, r);

    if (result == 0 && w->json)
        result = skew_whatif_json_add(w, r);
    else if (result == 0 && !w->series)
        print_one(w, r);
    if (result < 0)
        skew_tell("out of memory");
    return result;
}

int skew_whatif_show_end(struct skew_whatif *w)
{
    if (w->json) {
        int result = skew_whatif_json_write(w);
        if (result < 0)
            skew_tell("out of memory");
        return result;
    }
    if (w->series)
        print_series(w);
    if (w->traced)
        skew_coverage_print(&w->coverage);
    return 0;
}
