/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON of `skewscope whatif schedule` and its Gantt data. Keys are documented in
 * docs/schedules.md.
 */
#include "whatif_schedule_output.h"
#include "term.h"

#include <errno.h>
#include <stdlib.h>

/* What is not a number is null. */
static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static const char *name_of(size_t method)
{
    return method == SKEW_SCHEDULE_METHOD_COUNT
               ? "ideal"
               : skew_schedule_name((enum skew_schedule_method)method);
}

static json_t *schedule_json(const struct skew_schedule *s, const struct skew_timing *t)
{
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o,"
        " s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:f, s:o, s:o}",
        "method", skew_schedule_name(s->method), "matchings", (json_int_t)s->matchings, "phases",
        (json_int_t)s->phase_count, "bottlenecks_bytes", (json_int_t)s->bottlenecks, "bound_bytes",
        (json_int_t)s->bound, "remainder_bytes", (json_int_t)s->remainder, "loss",
        real(skew_schedule_loss(s)), "port_idle", real(skew_schedule_idle(s)), "dispatch_s",
        t->dispatch_s, "compute_s", t->compute_s, "combine_s", t->combine_s, "sequential_s",
        t->sequential_s, "natural_s", t->natural_s, "johnson_s", t->johnson_s, "makespan_s",
        t->makespan_s, "order", t->johnson ? "johnson" : "natural", "compute_idle_s",
        t->compute_idle_s, "makespan_over_ideal", real(t->makespan_s / t->ideal_s), "rest",
        real(t->rest));
}

static json_t *crossings_json(const struct skew_whatif *w, const struct skew_whatif_result *r)
{
    json_t *all = json_array();

    for (size_t c = 0; c < r->crossing_count && all; c++) {
        const struct skew_crossing *x = &r->crossings[c];
        double bytes = x->scale * skew_whatif_batch(&r->demand);
        json_t *one = json_pack(
            "{s:f, s:f, s:o, s:s, s:s, s:b}", "scale", x->scale, "bytes_per_rank", bytes,
            "tokens_per_rank",
            w->model.token_bytes > 0 ? json_real(bytes / w->model.token_bytes) : json_null(),
            "below", name_of(x->below), "above", name_of(x->above), "fastest", x->fastest);
        if (json_array_append_new(all, one) < 0) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

int skew_whatif_json_add(struct skew_whatif *w, const struct skew_whatif_result *r)
{
    const struct skew_demand *d = &r->demand;
    json_t *schedules = json_array();
    double ideal = skew_cost_ideal(&w->cost, d, 1);

    if (!w->exchanges)
        w->exchanges = json_array();
    for (size_t m = 0; m < SKEW_SCHEDULE_METHOD_COUNT; m++)
        if (r->schedules[m] &&
            json_array_append_new(schedules, schedule_json(r->schedules[m], &r->timings[m])) < 0) {
            json_decref(schedules);
            return -ENOMEM;
        }
    json_t *one =
        json_pack("{s:o, s:i, s:b, s:I, s:I, s:I, s:o, s:f, s:o, s:f, s:o, s:o, s:o}", "seq",
                  r->seq < 0 ? json_null() : json_integer(r->seq), "ranks", (int)d->ranks,
                  "complete", !r->incomplete, "total_bytes", (json_int_t)d->total, "local_bytes",
                  (json_int_t)(d->receive_sum - d->total), "bound_bytes", (json_int_t)d->bound,
                  "endpoint_imbalance", real(d->imbalance), "batch_bytes_per_rank",
                  skew_whatif_batch(d), "break_even_s", real(skew_whatif_break_even(w, r)),
                  "ideal_s", ideal, "as_it_ran_s", real(r->transfer_s), "schedules", schedules,
                  "crossings", w->series ? json_null() : crossings_json(w, r));
    return json_array_append_new(w->exchanges, one) < 0 ? -ENOMEM : 0;
}

int skew_whatif_json_write(struct skew_whatif *w)
{
    json_t *all =
        json_pack("{s:s, s:o, s:I, s:o, s:O}", "source", w->source, "model",
                  skew_whatif_model_json(w), "not_looked_at", (json_int_t)w->skipped, "sweep",
                  json_pack("[f, f]", w->sweep_least, w->sweep_most), "exchanges", w->exchanges);

    if (!all)
        return -ENOMEM;
    if (w->traced)
        skew_json_with_coverage(all, &w->coverage);
    json_dumpf(all, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(all);
    return 0;
}

/* ---- Gantt ----------------------------------------------------------------------------------- */

static const char *const machines[] = {"dispatch", "compute", "combine"};

static int put_bar(struct skew_whatif *w, const struct skew_whatif_result *r, size_t method,
                   const struct skew_bar *b)
{
    if (!w->gantt_json) {
        if (r->seq >= 0)
            fprintf(w->gantt, "%lld", (long long)r->seq);
        fprintf(w->gantt, ",%s,%s,", name_of(method), machines[b->machine]);
        if (b->phase >= 0)
            fprintf(w->gantt, "%lld", (long long)b->phase);
        fprintf(w->gantt, ",%.9g,%.9g,%llu\n", b->start_s, b->end_s, (unsigned long long)b->bytes);
        return 0;
    }
    json_t *one = json_pack("{s:o, s:s, s:s, s:o, s:f, s:f, s:I}", "seq",
                            r->seq < 0 ? json_null() : json_integer(r->seq), "method",
                            name_of(method), "machine", machines[b->machine], "phase",
                            b->phase < 0 ? json_null() : json_integer(b->phase), "start_s",
                            b->start_s, "end_s", b->end_s, "bytes", (json_int_t)b->bytes);
    return json_array_append_new(w->bars, one) < 0 ? -ENOMEM : 0;
}

static int put_bars(struct skew_whatif *w, const struct skew_whatif_result *r, size_t method)
{
    const struct skew_schedule *s = r->schedules[method];
    struct skew_bar *bars = malloc(3 * (s->phase_count + 1) * sizeof *bars);
    struct skew_timing timing;
    size_t count = 0;

    int result =
        bars ? skew_schedule_time(s, &r->demand, &w->cost, 1, &timing, bars, &count) : -ENOMEM;
    for (size_t b = 0; b < count && result == 0; b++)
        result = put_bar(w, r, method, &bars[b]);
    free(bars);
    return result;
}

int skew_whatif_gantt(struct skew_whatif *w, const struct skew_whatif_result *r)
{
    int result = 0;

    if (w->count == 1 && !w->gantt_json)
        fputs("seq,method,machine,phase,start_s,end_s,bytes\n", w->gantt);
    if (w->gantt_json && !w->bars)
        w->bars = json_array();
    for (size_t m = 0; m < SKEW_SCHEDULE_METHOD_COUNT && result == 0; m++)
        if (r->schedules[m])
            result = put_bars(w, r, m);
    if (result < 0)
        skew_tell("out of memory");
    return result;
}

int skew_whatif_gantt_end(struct skew_whatif *w)
{
    if (w->gantt_json && json_dumpf(w->bars, w->gantt, JSON_INDENT(1)) == 0)
        fputc('\n', w->gantt);
    if (!ferror(w->gantt))
        return 0;
    skew_tell("--gantt: the file cannot be written");
    return -EIO;
}
