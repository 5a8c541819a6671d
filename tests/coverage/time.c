/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every interval of `skewscope time`, over synthetic jobs (tools/synth) of one popularity, with
 * fresh tokens and noise for each seed.
 *
 * Truth. Of latency, slopes and computation a byte: what the job was made with. Of a step and of
 * its exposed part: the mean over all seeds. Of what uniform routing saves: the difference to the
 * same job with uniform routing and the same noise, mean over seeds, in all, in the transfers and
 * in the waits. Of what a placement saves: the mean over seeds, since every seed finds another
 * placement.
 */
#include "coverage.h"
#include "synth_times.h"
#include "world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct skew_time_estimate none = {NAN, NAN, NAN, NAN, NAN, NAN};

static void settle(struct skew_synth_spec *spec, const char *const *settings)
{
    skew_synth_spec_init(spec);
    spec->seed = 3; /* of what all seeds share */
    spec->steps = 120;
    spec->layers = 1;
    spec->experts = 32;
    spec->topk = 4;
    spec->tokens = 64;
    spec->expert_knee = 0;
    for (size_t i = 0; settings[i]; i++)
        world_set(spec, settings[i]);
}

static void make(struct synth_times *t, int64_t seed, bool routing, const char *const *settings)
{
    struct skew_synth_spec spec;

    settle(&spec, settings);
    synth_times_run_as(t, &spec, seed, routing);
}

/* ---- a job's own course, without any analysis ------------------------------------------------ */

struct course {
    int64_t step, first, last;
    double span, transfer; /* sums over steps, ns */
};

static int follow(void *context, const struct skew_synth_exchange *x)
{
    struct course *c = context;
    int64_t ranks = 8, arrival = INT64_MIN, end = INT64_MIN;

    if (x->step != c->step)
        c->first = INT64_MAX;
    else
        c->span -= (double)(c->last - c->first); /* this step goes on */
    c->step = x->step;
    for (int64_t i = 0; i < ranks; i++) {
        arrival = x->arrival_ns[i] > arrival ? x->arrival_ns[i] : arrival;
        end = x->end_ns[i] > end ? x->end_ns[i] : end;
        c->first = x->arrival_ns[i] < c->first ? x->arrival_ns[i] : c->first;
    }
    c->last = end;
    c->span += (double)(c->last - c->first);
    c->transfer += (double)(end - arrival);
    return 0;
}

/* Adds to span and transfer those of a step: `uniform`: with uniform routing of independent tokens
 * and all else as it was. */
static void follow_job(int64_t seed, const char *const *settings, bool uniform, double *span,
                       double *transfer)
{
    struct course c = {.step = -1};
    const struct skew_synth_sink sink = {.exchange = follow, .context = &c};
    struct skew_synth_spec spec;
    struct skew_synth_error error;
    struct skew_synth *synth;

    settle(&spec, settings);
    if (uniform) {
        world_set(&spec, "routing=uniform");
        world_set(&spec, "correlation=iid");
    }
    if (skew_synth_create(&synth, &spec, &error))
        abort();
    synth->spec.seed = seed;
    if (skew_synth_run(synth, &sink))
        abort();
    skew_synth_free(&synth);
    *span += c.span / (double)spec.steps;
    *transfer += c.transfer / (double)spec.steps;
}

/* ---- fits ------------------------------------------------------------------------------------ */

static void add_fits(struct cover *c, const char *scenario, const struct synth_times *t)
{
    const struct skew_time_fit *f = &t->result.transfer, *g = &t->result.load[SKEW_TIME_COMBINE];
    double bytes = (double)(t->spec.hidden * t->spec.element_bytes);
    bool line = f->model == SKEW_TIME_LINEAR, load = g->model == SKEW_TIME_LINEAR;

    cover_add_time(c, "time transfer.slope_ns", scenario, line ? &f->slope : &none, t->spec.beta);
    cover_add_time(c, "time transfer.intercept_ns", scenario, line ? &f->intercept : &none,
                   t->spec.alpha_ns);
    cover_add_time(c, "time load.combine.slope_ns", scenario, load ? &g->slope : &none,
                   t->spec.expert_ns / bytes);
    cover_add_time(c, "time load.combine.intercept_ns", scenario, load ? &g->intercept : &none,
                   t->spec.expert_floor_ns - t->spec.expert_ns * t->spec.expert_knee);
}

static void cover_fits(struct cover *c, const char *scenario, const char *const *settings)
{
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct synth_times t;
        make(&t, 1000 + (int64_t)s, false, settings);
        add_fits(c, scenario, &t);
        const struct skew_time_headline *h = &t.result.headline;
        cover_add_time(c, "time headline.step_ns", scenario, h->known ? &h->step : &none,
                       COVER_LATER);
        cover_add_time(c, "time headline.exposed_ns", scenario, h->known ? &h->exchanges : &none,
                       COVER_LATER);
        synth_times_free(&t);
    }
}

/* Where there is a knee: both slopes. */
static void cover_knee(struct cover *c)
{
    static const char scenario[] = "knee at 8 MB";
    size_t found = 0;

    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct synth_times t;
        make(&t, 1000 + (int64_t)s, false,
             SETTINGS("transfer=piecewise", "knee_bytes=8e6", "beta_below=0.005", "correlation=ar1",
                      "ar_phi=0", "ar_sd=0.6", "zipf=0.2", "tokens=256", "topk=6"));
        const struct skew_time_fit *f = &t.result.transfer;
        bool two = f->model == SKEW_TIME_PIECEWISE;
        found += two;
        cover_add_time(c, "time transfer.slope_below_ns", scenario, two ? &f->slope_below : &none,
                       0.005);
        cover_add_time(c, "time transfer.slope_ns", scenario, two ? &f->slope : &none, t.spec.beta);
        synth_times_free(&t);
    }
    cover_share(c, "two slopes found", scenario, found, cover_seeds(c), 0.95, 1);
}

/* ---- the headline ---------------------------------------------------------------------------- */

static void cover_headline(struct cover *c, const char *scenario, const char *const *settings)
{
    double span[2] = {0}, transfer[2] = {0}, n = (double)cover_seeds(c);

    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct synth_times t;
        make(&t, 1000 + (int64_t)s, true, settings);
        const struct skew_time_headline *h = &t.result.headline;
        cover_add_time(c, "time headline.uniform_saves_ns", scenario, &h->uniform, COVER_LATER);
        cover_add_time(c, "time headline.uniform_saves_transfer_ns", scenario, &h->uniform_transfer,
                       COVER_LATER);
        cover_add_time(c, "time headline.uniform_saves_wait_ns", scenario, &h->uniform_wait,
                       COVER_LATER);
        cover_add_time(c, "time headline.placement_saves_ns", scenario, &h->placement, COVER_LATER);
        cover_add_time(c, "time headline.uniform_after_placement_saves_ns", scenario,
                       &h->after_placement, COVER_LATER);
        synth_times_free(&t);
        for (int uniform = 0; uniform < 2; uniform++)
            follow_job(1000 + (int64_t)s, settings, uniform, &span[uniform], &transfer[uniform]);
    }
    double saved = (span[0] - span[1]) / n, in_transfers = (transfer[0] - transfer[1]) / n;
    cover_truth(c, "time headline.uniform_saves_ns", scenario, saved);
    cover_truth(c, "time headline.uniform_saves_transfer_ns", scenario, in_transfers);
    cover_truth(c, "time headline.uniform_saves_wait_ns", scenario, saved - in_transfers);
    cover_known(c, "time headline.uniform_saves_wait_ns", scenario, 0.93, 0.98,
                "a little wide: the load is fitted on the same steps");
}

/* Uniform routing: what it and a placement would save is 0. */
static void cover_nothing(struct cover *c)
{
    static const char scenario[] = "uniform routing";

    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct synth_times t;
        make(&t, 1000 + (int64_t)s, true, SETTINGS("routing=uniform"));
        const struct skew_time_headline *h = &t.result.headline;
        cover_add_time(c, "time headline.uniform_saves_ns", scenario, &h->uniform, 0);
        cover_add_time(c, "time headline.placement_saves_ns", scenario, &h->placement, 0);
        cover_add_time(c, "time headline.uniform_after_placement_saves_ns", scenario,
                       &h->after_placement, 0);
        synth_times_free(&t);
    }
}

/* No relation between bytes and time: said, and then skew costs nothing. */
static void cover_no_relation(struct cover *c)
{
    static const char scenario[] = "transfers take what they take";
    size_t said = 0;

    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct synth_times t;
        make(&t, 1000 + (int64_t)s, true,
             SETTINGS("transfer=none", "noise_ns=3000", "expert_ns=0", "routing=zipf"));
        bool no = t.result.transfer.model == SKEW_TIME_NO_RELATION;
        said += no;
        cover_add_time(c, "time headline.uniform_saves_ns", scenario,
                       no ? &t.result.headline.uniform : &none, 0);
        for (size_t i = 0; no && i < t.result.complete; i++)
            if (t.result.exchanges[i].skew != 0)
                abort();
        synth_times_free(&t);
    }
    cover_known(c, "time headline.uniform_saves_ns", scenario, 0.93, 1,
                "0 itself; the width is what an overlooked slope could do");
    /* One in twenty finds a slope, half of them of the wrong sign, which counts as none. */
    cover_share(c, "no relation is said", scenario, said, cover_seeds(c), 0.95, 1);
}

int cover_time(void)
{
    struct cover *c = cover_open("Time", 16);

    cover_fits(c, "independent", SETTINGS("routing=zipf"));
    cover_fits(c, "AR(1) .5: noise of steps, popularity",
               SETTINGS("noise_step_ns=2000", "noise_phi=0.5", "correlation=ar1", "ar_phi=0.5"));
    cover_fits(c, "AR(1) .9: noise of steps, popularity, 500 steps",
               SETTINGS("noise_step_ns=2000", "noise_phi=0.9", "correlation=ar1", "ar_phi=0.9",
                        "steps=500"));
    cover_fits(c, "bursts of 8, outliers",
               SETTINGS("correlation=bursts", "design_effect=8", "tail=0.03"));
    cover_fits(c, "requests of 8 steps, 400 steps",
               SETTINGS("correlation=requests", "requests=8", "request_steps=8", "steps=400"));
    cover_knee(c);
    cover_headline(c, "little skew, independent",
                   SETTINGS("routing=dirichlet", "dirichlet=100", "tokens=32"));
    cover_headline(c, "little skew, AR(1) .5",
                   SETTINGS("routing=dirichlet", "dirichlet=100", "tokens=32", "correlation=ar1",
                            "ar_phi=0.5", "ar_sd=0.2"));
    cover_nothing(c);
    cover_no_relation(c);
    return cover_close(c);
}
