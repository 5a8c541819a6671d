/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every interval of `skewscope observe`: cells of one run and of several, and what changes between
 * cells (mock over real, batch size, EP at the same and at other tokens). Truth: of a cell the mean
 * over all seeds; of a ratio the ratio of these means; of the cross-fitted maximum the long-run
 * share of the items that were picked.
 */
#include "coverage.h"
#include "observe.h"
#include "world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 2 };

/* A job of two layers, whose popularities differ and whose tokens have nothing in common. */
struct job {
    struct world layer[LAYERS];
};

#define COMMON "experts=16", "topk=2", "steps=120"

static void job_open(struct job *job, const char *const *settings)
{
    for (int l = 0; l < LAYERS; l++) {
        const char *own[16] = {l ? "seed=6" : "seed=5", COMMON};
        int count = 4;
        for (int i = 0; settings[i]; i++)
            own[count++] = settings[i];
        world_open(&job->layer[l], own);
    }
}

static void job_close(struct job *job)
{
    for (int l = 0; l < LAYERS; l++)
        world_close(&job->layer[l]);
}

/* Of one seed: what is stated of the maximum, and the items that were picked, by side and layer. */
struct maximum {
    struct skew_estimate of[SKEW_OBSERVE_SIDES];
    uint32_t pick[SKEW_OBSERVE_SIDES][LAYERS][2];
};

/* Picks of the calls drawn last. The rank side is of `ranks` ranks. */
static void pick(const struct job *job, uint32_t ranks, struct maximum *m)
{
    double loads[200 * WORLD_EXPERTS_MAX];

    for (int l = 0; l < LAYERS; l++) {
        const struct world *w = &job->layer[l];
        size_t rows = (size_t)w->spec.steps;
        uint32_t experts = (uint32_t)w->spec.experts;
        skew_crossfit_max(w->counts, rows, experts, 0.95, m->pick[SKEW_OBSERVE_EXPERT][l]);
        memset(loads, 0, sizeof loads);
        for (size_t t = 0; t < rows; t++)
            for (uint32_t e = 0; e < experts; e++)
                loads[t * ranks + e / (experts / ranks)] += w->counts[t * experts + e];
        skew_crossfit_max(loads, rows, ranks, 0.95, m->pick[SKEW_OBSERVE_RANK][l]);
    }
}

/* Mean over layers of the picked items' shares in the long run. */
static double share_of(const struct job *job, uint32_t ranks, const struct maximum *m, int side)
{
    double sum = 0;

    for (int l = 0; l < LAYERS; l++) {
        const struct world *w = &job->layer[l];
        double shares[WORLD_EXPERTS_MAX];
        world_shares(w, side == SKEW_OBSERVE_RANK ? ranks : (uint32_t)w->spec.experts, shares);
        sum += (shares[m->pick[side][l][0]] + shares[m->pick[side][l][1]]) / 2 / LAYERS;
    }
    return sum;
}

static struct skew_routing *job_draw(struct job *job, int64_t seed)
{
    struct skew_routing *routing;

    if (skew_routing_create(&routing, SKEW_ROUTING_CALLS) < 0)
        abort();
    for (int l = 0; l < LAYERS; l++) {
        world_draw(&job->layer[l], seed * LAYERS + l);
        world_add(&job->layer[l], routing, l);
    }
    if (skew_routing_finish(routing) < 0)
        abort();
    return routing;
}

static struct skew_observe *begin(const char *const *keys, size_t count)
{
    const struct skew_observe_options options = {
        .level = 0.95, .margin = 0.05, .bands = {0.15, 0.24}};
    struct skew_observe *o;

    if (skew_observe_create(&o, &options, keys, count) < 0)
        abort();
    return o;
}

static void put(struct skew_observe *o, const char *const *values,
                const struct skew_routing *routing, uint32_t ranks)
{
    if (skew_observe_add(o, "run", values, routing, ranks, 0, false) < 0)
        abort();
}

/* Without the maximum of what persists, if picks are conditioned on elsewhere. */
static void add_cell(struct cover *c, const char *scenario, const struct skew_observe_cell *cell,
                     bool maximum)
{
    static const char *const sides[] = {"expert", "rank"};
    char name[48];

    for (int side = 0; side < SKEW_OBSERVE_SIDES; side++) {
        const struct skew_observe_side *s = &cell->side[side];
        for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
            const char *metric = skew_metric_name((enum skew_metric)m);
            snprintf(name, sizeof name, "observe %s.%s.observed", sides[side], metric);
            cover_add(c, name, scenario, &s->metric[m].observed, COVER_LATER);
            if (m == SKEW_METRIC_MAX_MEAN && !maximum)
                continue;
            snprintf(name, sizeof name, "observe %s.%s.persistent", sides[side], metric);
            cover_add(c, name, scenario, &s->metric[m].persistent, COVER_LATER);
        }
        snprintf(name, sizeof name, "observe %s.cv2.beyond", sides[side]);
        cover_add(c, name, scenario, &s->cv2_beyond, COVER_LATER);
        snprintf(name, sizeof name, "observe %s.cv2.persistent", sides[side]);
        cover_add(c, name, scenario, &s->cv2_persistent, COVER_LATER);
    }
}

/* Means of both sides of a change, for the truth of their ratio. */
struct means {
    double from[SKEW_METRIC_COUNT], to[SKEW_METRIC_COUNT]; /* observed */
    double persistent_from[SKEW_METRIC_COUNT], persistent_to[SKEW_METRIC_COUNT];
};

static void add_change(struct cover *c, const char *scenario, const struct skew_observe *o,
                       const struct skew_observe_change *change, struct means *means)
{
    const struct skew_observe_metric *from =
        &o->cell[change->from].side[change->side].metric[change->metric];
    const struct skew_observe_metric *to =
        &o->cell[change->to].side[change->side].metric[change->metric];
    const char *metric = skew_metric_name(change->metric);
    char name[48];

    snprintf(name, sizeof name, "observe %s ratio", metric);
    cover_add(c, name, scenario, &change->ratio, COVER_LATER);
    means->from[change->metric] += from->observed.value;
    means->to[change->metric] += to->observed.value;
    if (!change->same_tokens && change->metric != SKEW_METRIC_MAX_MEAN) {
        snprintf(name, sizeof name, "observe %s persistent_ratio", metric);
        cover_add(c, name, scenario, &change->persistent_ratio, COVER_LATER);
        means->persistent_from[change->metric] += from->persistent.value;
        means->persistent_to[change->metric] += to->persistent.value;
    }
    if (change->kind != SKEW_OBSERVE_BATCH)
        return;
    snprintf(name, sizeof name, "observe %s exponent", metric);
    cover_add(c, name, scenario, &change->exponent, COVER_LATER);
    if (change->metric != SKEW_METRIC_GINI)
        return;
    cover_add(c, "observe cv2_change", scenario, &change->cv2_change, COVER_LATER);
    cover_add(c, "observe cv2_beyond_change", scenario, &change->beyond_change, COVER_LATER);
    cover_add(c, "observe cv2_persistent_change", scenario, &change->persistent_change,
              COVER_LATER);
}

static void set_truth(struct cover *c, const char *scenario, const struct means *means,
                      bool persistent, double tokens)
{
    static const enum skew_metric metrics[] = {SKEW_METRIC_GINI, SKEW_METRIC_MAX_MEAN};
    char name[48];

    for (int i = 0; i < 2; i++) {
        enum skew_metric m = metrics[i];
        double ratio = means->to[m] / means->from[m];
        snprintf(name, sizeof name, "observe %s ratio", skew_metric_name(m));
        cover_truth(c, name, scenario, ratio);
        if (persistent && m != SKEW_METRIC_MAX_MEAN) {
            snprintf(name, sizeof name, "observe %s persistent_ratio", skew_metric_name(m));
            cover_truth(c, name, scenario, means->persistent_to[m] / means->persistent_from[m]);
        }
        if (tokens > 0) {
            snprintf(name, sizeof name, "observe %s exponent", skew_metric_name(m));
            cover_truth(c, name, scenario, log(ratio) / log(tokens));
        }
    }
}

/* The changes of `kind` of one seed, on one side. */
static void add_changes(struct cover *c, const char *scenario, struct skew_observe *o,
                        enum skew_observe_kind kind, int side, struct means *means,
                        struct skew_estimate *maximum)
{
    if (skew_observe_finish(o) < 0)
        abort();
    for (size_t i = 0; i < o->changes; i++)
        if (o->change[i].kind == kind && o->change[i].side == side) {
            add_change(c, scenario, o, &o->change[i], means);
            if (o->change[i].metric == SKEW_METRIC_MAX_MEAN)
                *maximum = o->change[i].persistent_ratio;
        }
}

struct pair {
    enum skew_observe_kind kind;
    struct job job[2];
    uint32_t ranks[2];
    struct maximum *maximum[2];  /* [seeds] */
    struct skew_estimate *ratio; /* [seeds] of the persistent maxima */
};

/* Once all draws are known: what was said of the maximum, against the shares of the picks. */
static void add_maxima(struct cover *c, const char *scenario, const struct pair *p, bool cell)
{
    int side = p->kind == SKEW_OBSERVE_EP ? SKEW_OBSERVE_RANK : SKEW_OBSERVE_EXPERT;

    for (size_t s = 0; s < cover_seeds(c); s++) {
        double share[2];
        for (int i = 0; i < 2; i++)
            share[i] = share_of(&p->job[i], p->ranks[i], &p->maximum[i][s], side);
        cover_add(c, "observe max_mean persistent_ratio", scenario, &p->ratio[s],
                  share[1] / share[0]);
        const struct maximum *m = &p->maximum[0][s];
        if (!cell)
            continue;
        cover_add(c, "observe expert.max_mean.persistent", scenario, &m->of[SKEW_OBSERVE_EXPERT],
                  share_of(&p->job[0], p->ranks[0], m, SKEW_OBSERVE_EXPERT));
        cover_add(c, "observe rank.max_mean.persistent", scenario, &m->of[SKEW_OBSERVE_RANK],
                  share_of(&p->job[0], p->ranks[0], m, SKEW_OBSERVE_RANK));
    }
}

static void draw_pair(struct cover *c, const char *scenario, struct pair *p, size_t seed,
                      struct means *means)
{
    static const char *const keys[][2] = {[SKEW_OBSERVE_EP] = {"ep", "model"},
                                          [SKEW_OBSERVE_MOCK] = {"tokens", "data"},
                                          [SKEW_OBSERVE_BATCH] = {"batch", "model"}};
    static const char *const values[][2][2] = {
        [SKEW_OBSERVE_EP] = {{"4", "m"}, {"8", "m"}},
        [SKEW_OBSERVE_MOCK] = {{"real", "text"}, {"mock", ""}},
        [SKEW_OBSERVE_BATCH] = {{"1", "m"}, {"4", "m"}}};
    struct skew_observe *o = begin(keys[p->kind], 2);

    for (int i = 0; i < 2; i++) {
        struct skew_routing *r = job_draw(&p->job[i], 1000 + 2 * (int64_t)seed + i);
        put(o, values[p->kind][i], r, p->ranks[i]);
        pick(&p->job[i], p->ranks[i], &p->maximum[i][seed]);
        skew_routing_free(&r);
    }
    add_changes(c, scenario, o, p->kind, p->kind == SKEW_OBSERVE_EP ? 1 : 0, means,
                &p->ratio[seed]);
    if (p->kind == SKEW_OBSERVE_MOCK) {
        const struct skew_observe_cell *cell = &o->cell[o->change[0].from];
        add_cell(c, scenario, cell, false);
        for (int side = 0; side < SKEW_OBSERVE_SIDES; side++)
            p->maximum[0][seed].of[side] = cell->side[side].metric[SKEW_METRIC_MAX_MEAN].persistent;
    }
    skew_observe_free(&o);
}

/* Two jobs in two cells that differ in one key, each with new tokens every time. */
static void cover_pair(struct cover *c, const char *scenario, enum skew_observe_kind kind,
                       const char *const *from, const char *const *to)
{
    struct pair p = {.kind = kind, .ranks = {kind == SKEW_OBSERVE_EP ? 4 : 8, 8}};
    struct means means = {0};

    job_open(&p.job[0], from);
    job_open(&p.job[1], to);
    for (int i = 0; i < 2; i++)
        p.maximum[i] = calloc(cover_seeds(c), sizeof *p.maximum[i]);
    p.ratio = calloc(cover_seeds(c), sizeof *p.ratio);
    if (!p.maximum[0] || !p.maximum[1] || !p.ratio)
        abort();
    for (size_t s = 0; s < cover_seeds(c); s++)
        draw_pair(c, scenario, &p, s, &means);
    add_maxima(c, scenario, &p, kind == SKEW_OBSERVE_MOCK);
    double tokens = (double)p.job[1].layer[0].spec.tokens / (double)p.job[0].layer[0].spec.tokens;
    set_truth(c, scenario, &means, true, kind == SKEW_OBSERVE_BATCH ? tokens : 0);
    for (int i = 0; i < 2; i++) {
        job_close(&p.job[i]);
        free(p.maximum[i]);
    }
    free(p.ratio);
}

/* The same tokens over 4 and over 8 ranks: differences are paired. */
static void cover_same_tokens(struct cover *c, const char *scenario, const char *const *settings)
{
    static const char *const key[] = {"ep"}, *const four[] = {"4"}, *const eight[] = {"8"};
    struct job job;
    struct means means = {0};
    struct skew_estimate none;

    job_open(&job, settings);
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct skew_observe *o = begin(key, 1);
        struct skew_routing *r = job_draw(&job, 1000 + (int64_t)s);
        put(o, four, r, 4);
        put(o, eight, r, 8);
        skew_routing_free(&r);
        add_changes(c, scenario, o, SKEW_OBSERVE_EP, SKEW_OBSERVE_RANK, &means, &none);
        skew_observe_free(&o);
    }
    set_truth(c, scenario, &means, false, 0);
    job_close(&job);
}

/* Runs as the sample. */
static void cover_runs(struct cover *c, const char *scenario, const char *const *settings)
{
    enum { RUNS = 5 };
    static const char *const key[] = {"model"}, *const value[] = {"m"};
    struct job job;

    job_open(&job, settings);
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct skew_observe *o = begin(key, 1);
        for (int i = 0; i < RUNS; i++) {
            struct skew_routing *r = job_draw(&job, 1000 + RUNS * (int64_t)s + i);
            put(o, value, r, 8);
            skew_routing_free(&r);
        }
        if (skew_observe_finish(o) < 0)
            abort();
        add_cell(c, scenario, &o->cell[0], true);
        skew_observe_free(&o);
    }
    job_close(&job);
}

int cover_observe(void)
{
    struct cover *c = cover_open("Observe", 30);
    const char *const real[] = {"routing=dirichlet", "tokens=8", "correlation=bursts",
                                "design_effect=4", NULL};
    const char *const large[] = {"routing=dirichlet", "tokens=32", "correlation=bursts",
                                 "design_effect=4", NULL};
    const char *const skewed[] = {"routing=zipf", "tokens=8", NULL};
    const char *const moving[] = {"routing=dirichlet", "tokens=8",  "correlation=ar1",
                                  "ar_phi=0.5",        "steps=160", NULL};

    cover_pair(c, "real in bursts of 4, mock zipf", SKEW_OBSERVE_MOCK, real, skewed);
    cover_pair(c, "N = 64 to 256, bursts of 4", SKEW_OBSERVE_BATCH, real, large);
    cover_pair(c, "EP 4 to 8, AR(1) .5, other tokens", SKEW_OBSERVE_EP, moving, moving);
    cover_same_tokens(c, "EP 4 to 8, AR(1) .5, the same tokens", moving);
    cover_runs(c, "5 runs, AR(1) .5", moving);
    return cover_close(c);
}
