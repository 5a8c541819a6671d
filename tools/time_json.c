/* SPDX-License-Identifier: Apache-2.0 */
/* The Time analyses as JSON and as rows of table metric; the keys are documented in docs/time.md.
 */
#include "time_output.h"

#include <math.h>
#include <stdlib.h>

#include "analysis_output.h"

static json_t *estimate(const struct skew_time_estimate *e)
{
    return json_pack("{s:o, s:o, s:o, s:f, s:o, s:o}", "value", skew_json_real(e->value), "low",
                     skew_json_real(e->low), "high", skew_json_real(e->high), "level", 0.95, "se",
                     skew_json_real(e->se), "effective_n", skew_json_real(e->effective));
}

json_t *skew_time_fit_json(const struct skew_time_fit *f, const char *x)
{
    static const char *const models[] = {"not told", "no relation", "linear", "piecewise"};
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "model", models[f->model],
        "why", f->why, "x", x, "observations", (json_int_t)f->observations, "clusters",
        (json_int_t)f->clusters, "least", skew_json_real(f->least), "most", skew_json_real(f->most),
        "intercept_ns", estimate(&f->intercept), "slope_ns", estimate(&f->slope), "scale_ns",
        skew_json_real(f->scale), "quality", skew_json_real(f->quality), "p", skew_json_real(f->p));

    if (f->model == SKEW_TIME_PIECEWISE) {
        json_object_set_new(o, "knee", skew_json_real(f->knee));
        json_object_set_new(o, "slope_below_ns", estimate(&f->slope_below));
    }
    if (f->with_covariate)
        json_object_set_new(o, "mean_port_ns", estimate(&f->covariate));
    return o;
}

static json_t *range_json(const struct skew_time_range *r)
{
    return isnan(r->low) ? json_null() : json_pack("{s:f, s:f}", "low", r->low, "high", r->high);
}

static json_t *parts_json(const struct skew_time_parts *p)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:I, s:o}",
                     "exchanges", (json_int_t)p->exchanges, "wait_mean_ns", p->wait_mean,
                     "wait_max_ns", p->wait_max, "lag_ns", p->lag, "load_ns", p->by_load,
                     "transfer_ns", p->transfer, "latency_ns", p->latency, "balanced_ns",
                     p->balanced, "skew_ns", p->skew, "unexplained_ns", p->unexplained,
                     "exposed_ns", range_json(&p->exposed), "skew_at_least", (json_int_t)p->beyond,
                     "hidden_ns", range_json(&p->hidden));
}

static json_t *roles_json(const struct skew_time_result *r)
{
    json_t *all = json_object();
    struct skew_time_parts parts;

    for (int role = 0; role < SKEW_TIME_ROLES; role++)
        if (skew_time_parts_of(r, (enum skew_time_role)role, &parts))
            json_object_set_new(all, skew_time_role_name[role], parts_json(&parts));
    return all;
}

static json_t *stragglers_json(const struct skew_time_result *r)
{
    json_t *ranks = json_array(), *events = json_array();

    for (size_t i = 0; i < r->straggler_count; i++) {
        const struct skew_time_straggler *s = &r->stragglers[i];
        json_array_append_new(ranks, json_pack("{s:i, s:b, s:o, s:I, s:f}", "rank", (int)s->rank,
                                               "persistent", s->persistent, "median_ns",
                                               skew_json_real(s->median_ns), "late_steps",
                                               (json_int_t)s->late_steps, "late_ns", s->late_ns));
    }
    for (size_t i = 0; i < r->event_count; i++) {
        const struct skew_time_event *e = &r->events[i];
        json_array_append_new(events, json_pack("{s:I, s:i, s:o, s:f}", "step", (json_int_t)e->step,
                                                "rank", (int)e->rank, "layer",
                                                e->layer < 0 ? json_null() : json_integer(e->layer),
                                                "late_ns", e->late_ns));
    }
    return json_pack("{s:o, s:o, s:o}", "scale_ns", skew_json_real(r->late_scale_ns), "ranks",
                     ranks, "events", events);
}

static json_t *steps_json(const struct skew_time_result *r, size_t rows)
{
    static const char *const causes[SKEW_CAUSES] = {"late_rank", "load",    "skew",
                                                    "volume",    "latency", "unexplained"};
    json_t *all = json_array();
    size_t *worst = skew_time_worst_steps(r, &rows);

    for (size_t i = 0; i < rows && worst; i++) {
        const struct skew_time_step *s = &r->steps[worst[i]];
        const struct skew_time_exchange *x = &r->exchanges[s->worst];
        json_t *saves = json_object();
        for (int cause = 0; cause < SKEW_CAUSES; cause++)
            json_object_set_new(saves, causes[cause], skew_json_real(s->saves[cause]));
        json_array_append_new(
            all, json_pack("{s:I, s:I, s:o, s:o, s:f, s:{s:I, s:s, s:s, s:i, s:f}}", "step",
                           (json_int_t)s->step, "exchanges", (json_int_t)s->count, "exposed_ns",
                           range_json(&s->exposed), "without_ns", saves, "saves_ns", s->avoidable,
                           "worst", "layer", (json_int_t)x->layer, "role",
                           skew_time_role_name[x->role], "cause", skew_time_cause_name[x->cause],
                           "rank", (int)skew_time_rank_of(x), "saves_ns", x->saves[x->cause]));
    }
    free(worst);
    return all;
}

static json_t *ledger_json(const struct skew_time_result *r, size_t rows)
{
    json_t *all = json_array();
    size_t *worst = skew_time_worst(r, &rows);

    for (size_t i = 0; i < rows && worst; i++) {
        const struct skew_time_exchange *x = &r->exchanges[worst[i]];
        uint32_t rank = skew_time_rank_of(x);
        json_array_append_new(
            all, json_pack("{s:I, s:I, s:I, s:I, s:s, s:s, s:i, s:f, s:o, s:f, s:f, s:f, s:f, s:f}",
                           "step", (json_int_t)x->step, "layer", (json_int_t)x->layer, "place",
                           (json_int_t)x->place, "seq",
                           (json_int_t)(rank == x->last_rank ? x->last_seq : x->busiest_seq),
                           "role", skew_time_role_name[x->role], "cause",
                           skew_time_cause_name[x->cause], "rank", (int)rank, "saves_ns",
                           x->saves[x->cause], "exposed_ns", range_json(&x->exposed), "lag_ns",
                           x->lag, "latency_ns", x->latency, "balanced_ns", x->balanced, "skew_ns",
                           x->skew, "unexplained_ns", x->unexplained));
    }
    free(worst);
    return all;
}

static json_t *text_or_null(const char *text)
{
    return *text ? json_string(text) : json_null();
}

static json_t *headline_json(const struct skew_time_headline *h)
{
    if (!h->known)
        return json_pack("{s:b, s:s}", "known", 0, "why", h->why_not);
    json_t *o = json_pack("{s:b, s:I, s:o, s:o, s:o, s:o, s:o, s:f, s:b, s:o}", "known", 1, "steps",
                          (json_int_t)h->steps, "step_ns", estimate(&h->step), "exposed_ns",
                          estimate(&h->exchanges), "uniform_saves_ns", estimate(&h->uniform),
                          "uniform_saves_transfer_ns", estimate(&h->uniform_transfer),
                          "uniform_saves_wait_ns", estimate(&h->uniform_wait), "clamped",
                          h->clamped, "placement_known", h->placement_known, "placement_why",
                          text_or_null(h->placement_why_not));
    if (h->placement_known) {
        json_object_set_new(o, "placement_saves_ns", estimate(&h->placement));
        json_object_set_new(o, "uniform_after_placement_saves_ns", estimate(&h->after_placement));
    }
    return o;
}

static json_t *host_json(const struct skew_time_result *r)
{
    json_t *ranks = json_array();

    for (uint32_t i = 0; i < r->ranks && r->host_last; i++)
        json_array_append_new(ranks, json_pack("{s:i, s:o, s:o}", "rank", (int)i, "last",
                                               skew_json_real(r->host_last[i]), "lag_ns",
                                               skew_json_real(r->host_lag_ns[i])));
    return json_pack("{s:I, s:o}", "exchanges", (json_int_t)r->host_exchanges, "ranks", ranks);
}

json_t *skew_time_json(const struct skew_time_shown *s)
{
    static const char *const clocks[] = {"one", "fitted", "unrelated", "vague"};
    const struct skew_time_result *r = s->result;
    json_t *loads = json_object();

    for (int role = 0; role < SKEW_TIME_ROLES; role++)
        if (r->load[role].observations)
            json_object_set_new(loads, skew_time_role_name[role],
                                skew_time_fit_json(&r->load[role], "bytes received before"));
    json_t *o = json_pack(
        "{s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:o, s:o, s:o, s:o, "
        "s:o, s:o, s:o, s:o, s:o}",
        "comm", s->comm_key, "ranks", (int)r->ranks, "ranks_seen", (int)r->ranks_seen, "rows",
        (json_int_t)r->rows, "timed_rows", (json_int_t)r->timed_rows, "exchanges",
        (json_int_t)r->all, "complete", (json_int_t)r->complete, "overlap_known",
        (json_int_t)r->overlap_known, "cupti_dropped", (json_int_t)r->cupti_dropped, "clocks",
        clocks[r->clocks], "clock_residual_ns", r->clock_residual_ns, "error_ns", r->error_ns,
        "coverage", skew_json_coverage(&s->coverage), "own_cost", skew_json_own_cost(&s->coverage),
        "roles", roles_json(r), "transfer",
        skew_time_fit_json(&r->transfer, "bytes of the busiest port"), "load", loads, "stragglers",
        stragglers_json(r), "steps", steps_json(r, s->rows), "ledger", ledger_json(r, s->rows),
        "headline", headline_json(&r->headline));
    if (r->host_last)
        json_object_set_new(o, "host", host_json(r));
    return o;
}

/* ---- saving ---------------------------------------------------------------------------------- */

json_t *skew_time_saved(const struct skew_time_shown *s)
{
    const struct skew_time_result *r = s->result;
    json_t *all = json_array();
    struct skew_time_parts parts;

    for (int role = 0; role < SKEW_TIME_ROLES; role++)
        if (skew_time_parts_of(r, (enum skew_time_role)role, &parts))
            json_array_append_new(all, json_pack("{s:s, s:s, s:o}", "comm", s->comm_key, "role",
                                                 skew_time_role_name[role], "parts",
                                                 parts_json(&parts)));
    json_array_append_new(all,
                          json_pack("{s:s, s:o, s:o}", "comm", s->comm_key, "transfer",
                                    skew_time_fit_json(&r->transfer, "bytes of the busiest port"),
                                    "headline", headline_json(&r->headline)));
    return all;
}
