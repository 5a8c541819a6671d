/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every interval of `skewscope time`, over synthetic jobs (tools/synth) of one popularity, with fresh
 * tokens and noise for each seed.
 *
 * Truth. Of latency, slopes and computation a byte: what the job was made with. Of a step and of its
 * exposed part: the mean over all seeds. Of what uniform routing saves: the difference to the same
 * job with uniform routing and the same noise, mean over seeds, in all, in the transfers and in the
 * waits. Of what a placement saves: the mean over seeds, since every seed finds another placement.
 */
#include "coverage.h"
#include "synth_times.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTINGS(...)                                                                              \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static const struct skew_time_estimate none = {NAN, NAN, NAN, NAN, NAN, NAN};

static void set(struct skew_synth_spec *spec, const char *setting)
{
    size_t length = strcspn(setting, "=");
    struct skew_synth_error error;
    char key[64];

    snprintf(key, sizeof key, "%.*s", (int)length, setting);
    if (skew_synth_spec_set(spec, key, setting + length + 1, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
}

/* `uniform`: the same job with uniform routing of independent tokens. */
static void make(struct synth_times *t, int64_t seed, bool routing, const char *const *settings,
                 bool uniform)
{
    struct skew_synth_spec spec;

    skew_synth_spec_init(&spec);
    spec.seed = 3; /* of what all seeds share */
    spec.steps = 120;
    spec.layers = 2;
    spec.experts = 32;
    for (size_t i = 0; settings[i]; i++)
        set(&spec, settings[i]);
    if (uniform) {
        set(&spec, "routing=uniform");
        set(&spec, "correlation=iid");
    }
    synth_times_run_as(t, &spec, seed, routing);
}

/* Mean over steps of all transfers of a step. */
static double transfer_of(const struct synth_times *t)
{
    double sum = 0;

    for (size_t i = 0; i < t->result.complete; i++)
        sum += t->result.exchanges[i].transfer;
    return sum / (double)t->spec.steps;
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
        make(&t, 1000 + (int64_t)s, false, settings, false);
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
                      "ar_phi=0", "ar_sd=0.6", "zipf=0.2"),
             false);
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
    double span = 0, transfer = 0;

    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct synth_times t, u;
        make(&t, 1000 + (int64_t)s, true, settings, false);
        make(&u, 1000 + (int64_t)s, false, settings, true);
        const struct skew_time_headline *h = &t.result.headline;
        cover_add_time(c, "time headline.uniform_saves_ns", scenario, &h->uniform, COVER_LATER);
        cover_add_time(c, "time headline.uniform_saves_transfer_ns", scenario, &h->uniform_transfer,
                       COVER_LATER);
        cover_add_time(c, "time headline.uniform_saves_wait_ns", scenario, &h->uniform_wait,
                       COVER_LATER);
        cover_add_time(c, "time headline.placement_saves_ns", scenario, &h->placement, COVER_LATER);
        cover_add_time(c, "time headline.uniform_after_placement_saves_ns", scenario,
                       &h->after_placement, COVER_LATER);
        span += (h->step.value - u.result.headline.step.value) / (double)cover_seeds(c);
        transfer += (transfer_of(&t) - transfer_of(&u)) / (double)cover_seeds(c);
        synth_times_free(&t);
        synth_times_free(&u);
    }
    cover_truth(c, "time headline.uniform_saves_ns", scenario, span);
    cover_truth(c, "time headline.uniform_saves_transfer_ns", scenario, transfer);
    cover_truth(c, "time headline.uniform_saves_wait_ns", scenario, span - transfer);
    printf("%s: truth %.0f + %.0f ns; means %.0f, %.0f, %.0f\n", scenario, transfer, span - transfer,
           cover_mean(c, "time headline.uniform_saves_ns", scenario),
           cover_mean(c, "time headline.uniform_saves_transfer_ns", scenario),
           cover_mean(c, "time headline.uniform_saves_wait_ns", scenario));
}

/* Uniform routing: what it and a placement would save is 0. */
static void cover_nothing(struct cover *c)
{
    static const char scenario[] = "uniform routing";

    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct synth_times t;
        make(&t, 1000 + (int64_t)s, true, SETTINGS("routing=uniform"), false);
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
             SETTINGS("transfer=none", "noise_ns=3000", "expert_ns=0", "routing=zipf"), false);
        bool no = t.result.transfer.model == SKEW_TIME_NO_RELATION;
        said += no;
        cover_add_time(c, "time headline.uniform_saves_ns", scenario,
                       no ? &t.result.headline.uniform : &none, 0);
        for (size_t i = 0; no && i < t.result.complete; i++)
            if (t.result.exchanges[i].skew != 0)
                abort();
        synth_times_free(&t);
    }
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
                   SETTINGS("routing=dirichlet", "dirichlet=100", "tokens=32", "expert_knee=0"));
    cover_headline(c, "little skew, AR(1) .5",
                   SETTINGS("routing=dirichlet", "dirichlet=100", "tokens=32", "expert_knee=0",
                            "correlation=ar1", "ar_phi=0.5", "ar_sd=0.2"));
    cover_nothing(c);
    cover_no_relation(c);
    return cover_close(c);
}
