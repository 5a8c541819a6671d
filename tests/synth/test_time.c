/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Time analyses against synthetic truth, over many seeds: stragglers are found and nobody else
 * is, knees are, and exchanges add up. SKEWSCOPE_TEST_LONG=1 runs 1,000 seeds. How often stated
 * intervals hold the truth, and what is said where nothing is there, is tests/coverage's.
 */
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "synth_times.h"

static bool is_long;

static void set(struct skew_synth_spec *spec, const char *const *settings)
{
    struct skew_synth_error error;
    char key[64];

    for (size_t i = 0; settings[i]; i++) {
        size_t length = strcspn(settings[i], "=");
        snprintf(key, sizeof key, "%.*s", (int)length, settings[i]);
        if (skew_synth_spec_set(spec, key, settings[i] + length + 1, &error)) {
            fprintf(stderr, "%s\n", error.text);
            abort();
        }
    }
}

static void make(struct synth_times *t, int seed, bool routing, const char *const *settings)
{
    struct skew_synth_spec spec;

    skew_synth_spec_init(&spec);
    spec.seed = seed;
    spec.steps = 120;
    spec.layers = 2;
    spec.experts = 32;
    set(&spec, settings);
    synth_times_run(t, &spec, routing);
}
#define SETTINGS(...)                                                                              \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__ __VA_OPT__(, ) NULL                                                            \
    }

/* ---- parameters ------------------------------------------------------------------------------ */

static void test_piecewise(void)
{
    int found = 0, below = 0, above = 0, count = is_long ? 1000 : 12;

    for (int seed = 1; seed <= count; seed++) {
        struct synth_times t;
        make(&t, seed, false,
             SETTINGS("transfer=piecewise", "knee_bytes=8e6", "beta_below=0.005", "correlation=ar1",
                      "ar_phi=0", "ar_sd=0.6", "zipf=0.2"));
        const struct skew_time_fit *f = &t.result.transfer;
        if (f->model == SKEW_TIME_PIECEWISE) {
            found++;
            below += fabs(f->slope_below.value - 0.005) < 0.002;
            above += fabs(f->slope.value - 0.02) < 0.004;
        }
        synth_times_free(&t);
    }
    printf("knee found in %d of %d, slopes right in %d and %d\n", found, count, below, above);
    assert(found >= 0.9 * count && below >= 0.9 * found && above >= 0.9 * found);
}

/* ---- what skew costs ------------------------------------------------------------------------- */

static double mean_span(const struct synth_times *t)
{
    return t->result.headline.step.value;
}

/* Without the experts' counts the tokens are known from sizes, and uniform routing still is. */
static void test_without_routing(void)
{
    struct synth_times t, u;

    make(&t, 2, true, SETTINGS("routing=dirichlet", "dirichlet=2"));
    make(&u, 2, false, SETTINGS("routing=dirichlet", "dirichlet=2"));
    assert(u.result.headline.known && !u.result.headline.placement_known);
    assert(strstr(u.result.headline.placement_why_not, "no routing"));
    double ratio = u.result.headline.uniform.value / t.result.headline.uniform.value;
    assert(ratio > 0.95 && ratio < 1.05);
    synth_times_free(&t);
    synth_times_free(&u);
}

/* The same seed with uniform routing, and with the experts spread well, is the truth. */
static void test_counterfactual(void)
{
    double told = 0, truth = 0, placed = 0;
    int count = is_long ? 60 : 8;

    for (int seed = 1; seed <= count; seed++) {
        struct synth_times t, u;
        /* Popularity moves so much that sizes of even loads are seen too. */
        make(&t, seed, true,
             SETTINGS("routing=dirichlet", "dirichlet=6", "correlation=ar1", "ar_phi=0.3",
                      "ar_sd=0.2"));
        make(&u, seed, true, SETTINGS("routing=uniform"));
        told += t.result.headline.uniform.value;
        truth += mean_span(&t) - mean_span(&u);
        placed += t.result.headline.placement.value;
        assert(t.result.headline.placement.value <= t.result.headline.uniform.value + 5000);
        synth_times_free(&t);
        synth_times_free(&u);
    }
    printf("skew costs %.1f µs a step, said %.1f; placement %.1f\n", truth / count / 1e3,
           told / count / 1e3, placed / count / 1e3);
    assert(told > 0.75 * truth && told < 1.1 * truth);
    assert(placed > 0 && placed < told);
}

/* ---- stragglers ------------------------------------------------------------------------------ */

static void late(const char *what, int count, const char *const *settings)
{
    size_t right = 0, wrong = 0, missed = 0;

    for (int seed = 1; seed <= count; seed++) {
        struct synth_times t;
        make(&t, seed, false, settings);
        uint8_t *truth = calloc((size_t)(t.spec.steps * t.spec.ranks), 1);
        assert(truth);
        for (size_t i = 0; i < t.late_count; i++)
            truth[t.late[i].step * t.spec.ranks + t.late[i].rank] = 1;
        for (size_t i = 0; i < t.result.event_count; i++) {
            uint8_t *cell =
                &truth[t.result.events[i].step * t.spec.ranks + t.result.events[i].rank];
            right += *cell == 1;
            wrong += *cell == 0;
            *cell = *cell ? 2 : 0;
        }
        for (int64_t i = 0; i < t.spec.steps * t.spec.ranks; i++)
            missed += truth[i] == 1;
        free(truth);
        synth_times_free(&t);
    }
    printf("%-46s %zu right, %zu wrong, %zu missed\n", what, right, wrong, missed);
    assert(right > 0 && (double)right >= 0.95 * (double)(right + wrong) &&
           (double)right >= 0.95 * (double)(right + missed));
}

static void test_stragglers(void)
{
    int count = is_long ? 250 : 8;
    late("late at times", count, SETTINGS("straggler=3:20000:0.1", "straggler=5:40000:0.02"));
    late("late at times, uneven loads, backward", count,
         SETTINGS("straggler=3:20000:0.1", "routing=dirichlet", "dirichlet=2", "backward=1"));
    late("late before one layer", count, SETTINGS("straggler=6:50000:0.1:1"));
    late("always late by much", count, SETTINGS("straggler=2:30000"));
}

/* Too little to see in one step, but always there; and nobody when nobody is. */
static void test_persistent(void)
{
    int right = 0, wrong = 0, innocent = 0, count = is_long ? 1000 : 20;

    for (int seed = 1; seed <= count; seed++) {
        struct synth_times t, none;
        make(&t, seed, false, SETTINGS("straggler=2:2500"));
        for (size_t i = 0; i < t.result.straggler_count; i++) {
            const struct skew_time_straggler *s = &t.result.stragglers[i];
            right += s->persistent && s->rank == 2;
            wrong += s->persistent && s->rank != 2;
        }
        make(&none, seed, false, SETTINGS("routing=dirichlet"));
        for (size_t i = 0; i < none.result.straggler_count; i++)
            innocent += none.result.stragglers[i].persistent;
        synth_times_free(&t);
        synth_times_free(&none);
    }
    printf("persistently late: %d of %d found, %d wrong, %d where none is\n", right, count, wrong,
           innocent);
    assert(right >= 0.95 * count && wrong + innocent <= 0.05 * count);
}

/* ---- exchanges ------------------------------------------------------------------------------- */

static void test_exchanges(void)
{
    struct synth_times t, u;
    int late_cause = 0, load_cause = 0;

    make(&t, 7, true, SETTINGS("straggler=3:300000:0.1", "routing=dirichlet", "dirichlet=1"));
    assert(t.result.complete == 480 && t.result.clocks == SKEW_TIME_ONE_CLOCK);
    for (size_t i = 0; i < t.result.complete; i++) {
        const struct skew_time_exchange *x = &t.result.exchanges[i];
        double sum = x->latency + x->balanced + x->skew + x->unexplained;
        assert(fabs(sum - x->transfer) < 1 && x->wait_max >= x->wait_mean && x->skew >= 0);
        assert(x->busiest >= x->mean);
        if (x->cause == SKEW_CAUSE_LATE) {
            late_cause++;
            assert(x->last_rank == 3 && x->saves[SKEW_CAUSE_LATE] > 100000);
        }
        if (x->cause == SKEW_CAUSE_LOAD) {
            load_cause++;
            assert(x->role == SKEW_TIME_COMBINE);
        }
    }
    printf("causes: %d late, %d load\n", late_cause, load_cause);
    assert(late_cause >= 4 * (int)t.late_count - 4 && load_cause > 100);

    /* Clocks that nothing relates: durations still tell the transfer. */
    make(&u, 7, true,
         SETTINGS("straggler=3:300000:0.1", "routing=dirichlet", "dirichlet=1", "clock_per=process",
                  "clock_offset_ns=1e9", "clock_drift_ppb=1000"));
    assert(u.result.clocks == SKEW_TIME_UNRELATED_CLOCKS);
    assert(u.result.event_count == t.result.event_count);
    double gap = u.result.headline.uniform.value / t.result.headline.uniform.value;
    assert(gap > 0.8 && gap < 1.25);
    synth_times_free(&t);
    synth_times_free(&u);
}

static void test_little_is_said(void)
{
    struct skew_synth_spec spec;
    struct synth_times t;

    make(&t, 3, true, SETTINGS("no_device_time=1"));
    assert(t.result.complete == 0 && t.result.timed_rows == 0 && t.result.host_last);
    assert(!t.result.headline.known && t.result.headline.why_not[0]);
    double all = 0;
    for (int i = 0; i < 8; i++)
        all += t.result.host_last[i];
    assert(fabs(all - 1) < 1e-9);
    synth_times_free(&t);

    skew_synth_spec_init(&spec);
    set(&spec, SETTINGS("missing=1,6", "steps=40"));
    synth_times_run(&t, &spec, true);
    assert(t.result.ranks_seen == 6 && t.result.complete == t.result.all);
    assert(!t.result.headline.known && strstr(t.result.headline.why_not, "2 of 8 ranks"));
    synth_times_free(&t);
    skew_synth_spec_free(&spec);

    make(&t, 3, true, SETTINGS("steps=12"));
    assert(t.result.transfer.model == SKEW_TIME_NOT_TOLD && !t.result.headline.known);
    synth_times_free(&t);
}

int main(void)
{
    const char *value = getenv("SKEWSCOPE_TEST_LONG");

    setvbuf(stdout, NULL, _IOLBF, 0);
    is_long = value && strcmp(value, "0") != 0 && *value;
    test_exchanges();
    test_little_is_said();
    test_without_routing();
    test_stragglers();
    test_persistent();
    test_piecewise();
    test_counterfactual();
    return 0;
}
