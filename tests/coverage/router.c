/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every interval of `skewscope router` and `skewscope skew`, over routers whose tokens hang
 * together in the ways that tools/synth knows.
 *
 * Truth. Of a mean over calls, a pooled metric and the gain of a held-out placement: their
 * expectation, the mean over all seeds. Of what persists: the metric of the long-run shares, from
 * all seeds' calls together. Of the cross-fitted maximum: the long-run share of the picked items.
 */
#include "coverage.h"
#include "router_private.h"
#include "world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct maximum {
    struct skew_estimate estimate;
    uint32_t pick[2];
};

struct side {
    const char *name;
    uint32_t items;
    struct maximum *maximum; /* [seeds] */
};

static void add_level(struct cover *c, const char *scenario, const struct side *side,
                      const struct skew_level *level)
{
    char name[48];

    for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
        const struct skew_level_metric *metric = &level->metric[m];
        const char *of = skew_metric_name((enum skew_metric)m);
        snprintf(name, sizeof name, "%s.%s.call", side->name, of);
        cover_add(c, name, scenario, &metric->call, COVER_LATER);
        if (m == SKEW_METRIC_MAX_MEAN)
            continue; /* has no pooled interval; the persistent one is added with its truth */
        snprintf(name, sizeof name, "%s.%s.pooled", side->name, of);
        cover_add(c, name, scenario, &metric->pooled, COVER_LATER);
        snprintf(name, sizeof name, "%s.%s.persistent", side->name, of);
        cover_add(c, name, scenario, &metric->persistent, COVER_LATER);
    }
    snprintf(name, sizeof name, "%s.cv2.beyond", side->name);
    cover_add(c, name, scenario, &level->cv2_beyond, COVER_LATER);
    snprintf(name, sizeof name, "%s.cv2.persistent", side->name);
    cover_add(c, name, scenario, &level->cv2_persistent, COVER_LATER);
}

/* What persists, against the shares of all seeds together. */
static void add_truth(struct cover *c, const char *scenario, const struct side *side,
                      const struct world *w)
{
    double shares[WORLD_EXPERTS_MAX], cv2;
    struct skew_metrics truth;
    char name[48];

    world_shares(w, side->items, shares);
    skew_metrics_of(&truth, shares, side->items, NULL);
    cv2 = truth.value[SKEW_METRIC_CV] * truth.value[SKEW_METRIC_CV];
    for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
        if (m == SKEW_METRIC_MAX_MEAN)
            continue;
        snprintf(name, sizeof name, "%s.%s.persistent", side->name,
                 skew_metric_name((enum skew_metric)m));
        cover_truth(c, name, scenario, truth.value[m]);
    }
    snprintf(name, sizeof name, "%s.cv2.persistent", side->name);
    cover_truth(c, name, scenario, cv2);
    snprintf(name, sizeof name, "%s.max_mean.persistent", side->name);
    for (size_t s = 0; s < cover_seeds(c); s++) {
        const struct maximum *of = &side->maximum[s];
        cover_add(c, name, scenario, &of->estimate,
                  (shares[of->pick[0]] + shares[of->pick[1]]) / 2);
    }
}

static void level_of(struct skew_level *level, const struct world *w, const double *loads,
                     uint32_t items, struct skew_floors *floors)
{
    struct skew_level_input in = {.loads = loads,
                                  .rows = (size_t)w->spec.steps,
                                  .items = items,
                                  .experts = (uint32_t)w->spec.experts,
                                  .topk = (uint32_t)w->spec.topk,
                                  .unit = 1,
                                  .level = 0.95};

    if (skew_level_of(level, &in, floors) < 0)
        abort();
}

static struct skew_estimate gain_of(const struct world *w, const struct skew_level *rank)
{
    size_t steps = (size_t)w->spec.steps;
    struct skew_router_layer layer = {.ranks = (uint32_t)w->spec.ranks, .rank = *rank};
    double *total = malloc(steps * sizeof *total);

    for (size_t t = 0; t < steps; t++)
        total[t] = (double)(w->spec.tokens * w->spec.ranks * w->spec.topk);
    struct skew_series series = {
        .rows = steps, .experts = (uint32_t)w->spec.experts, .counts = w->counts, .total = total};
    if (skew_router_split_of(&layer, &series, w->ranks, 0.95) < 0)
        abort();
    free(total);
    return layer.split.gain;
}

static void cover_world(struct cover *c, const char *scenario, const char *const *settings)
{
    struct side side[] = {{"router expert", 0, NULL}, {"router rank", 0, NULL}};
    struct skew_floors *floors;
    size_t persist = 0, beyond = 0;
    struct world w;

    world_open(&w, settings);
    skew_floors_create(&floors);
    side[0].items = (uint32_t)w.spec.experts;
    side[1].items = (uint32_t)w.spec.ranks;
    for (int i = 0; i < 2; i++)
        side[i].maximum = malloc(cover_seeds(c) * sizeof *side[i].maximum);
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct skew_level level;
        world_draw(&w, 1000 + (int64_t)s);
        for (int i = 0; i < 2; i++) {
            const double *loads = i ? w.ranks : w.counts;
            level_of(&level, &w, loads, side[i].items, floors);
            add_level(c, scenario, &side[i], &level);
            persist += level.p_persistent < 0.05;
            beyond += level.p_beyond < 0.05;
            struct maximum *m = &side[i].maximum[s];
            m->estimate =
                skew_crossfit_max(loads, (size_t)w.spec.steps, side[i].items, 0.95, m->pick);
        }
        struct skew_estimate gain = gain_of(&w, &level);
        cover_add(c, "router split.gain", scenario, &gain, COVER_LATER);
    }
    for (int i = 0; i < 2; i++) {
        add_truth(c, scenario, &side[i], &w);
        free(side[i].maximum);
    }
    if (w.spec.routing == SYNTH_UNIFORM) {
        cover_share(c, "p_persistent below 5 %", scenario, persist, 2 * cover_seeds(c), 0, 0.05);
        cover_share(c, "p_beyond below 5 %", scenario, beyond, 2 * cover_seeds(c), 0, 0.06);
    }
    skew_floors_free(&floors);
    world_close(&w);
}

/* Near balance what has a kink there is refused: all of it under uniform routing, but for false
 * alarms, and of the ranks' in most seeds where there is hardly any skew. */
static void expect_refusals(struct cover *c, const char *uniform, const char *hardly)
{
    static const char *const sides[] = {"router expert", "router rank"};
    static const char *const kinked[] = {"gini.pooled",     "cv.pooled",          "entropy.pooled",
                                         "gini.persistent", "entropy.persistent", NULL};
    static const char weak[] = "what persists is hardly more than its error";
    char name[48];

    for (int i = 0; i < 2; i++) {
        for (int k = 0; kinked[k]; k++) {
            snprintf(name, sizeof name, "%s.%s", sides[i], kinked[k]);
            cover_stated(c, name, uniform, 0);
            cover_known(c, name, uniform, 0, 1,
                        "refused: nothing persists; these are false alarms");
            cover_stated(c, name, hardly, i ? 0.2 : 0.9);
        }
        snprintf(name, sizeof name, "%s.cv.persistent", sides[i]);
        cover_known(c, name, uniform, 0.96, 1, "its lower end is 0, which is the truth");
    }
    cover_known(c, "router rank.gini.persistent", hardly, 0.91, 0.97, weak);
    cover_known(c, "router rank.cv.persistent", hardly, 0.92, 0.97, weak);
    cover_known(c, "router rank.cv2.persistent", hardly, 0.92, 0.97, weak);
}

/* Popularity that walks at random has no long run: what is asked is how often that is noticed. */
static void cover_drift(struct cover *c)
{
    static const char scenario[] = "popularity walks, sd .05 a call, 200 calls";
    size_t call = 0, persistent = 0, gain = 0;
    struct world w;

    world_open(&w, SETTINGS("routing=dirichlet", "drift=0.05"));
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct skew_level level;
        world_draw(&w, 1000 + (int64_t)s);
        level_of(&level, &w, w.ranks, (uint32_t)w.spec.ranks, NULL);
        call += level.metric[SKEW_METRIC_MAX_MEAN].call.level > 0;
        persistent += level.cv2_persistent.level > 0;
        gain += gain_of(&w, &level).level > 0;
    }
    cover_share(c, "router rank.max_mean.call is given", scenario, call, cover_seeds(c), 0, 0.5);
    cover_share(c, "router rank.cv2.persistent is given", scenario, persistent, cover_seeds(c), 0,
                0.5);
    cover_share(c, "router split.gain is given", scenario, gain, cover_seeds(c), 0, 0.5);
    world_close(&w);
}

/* Imbalance of the sources: `source_side` of skew, over ranks whose numbers of tokens vary. */
static void cover_sources(struct cover *c)
{
    static const char scenario[] = "tokens a source vary by 20 %";
    struct side side = {"skew source_side", 0, NULL};
    struct world w;

    world_open(&w, SETTINGS("tokens_cv=0.2", "steps=120"));
    side.items = (uint32_t)w.spec.ranks;
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct skew_level level;
        world_draw(&w, 1000 + (int64_t)s);
        level_of(&level, &w, w.sources, side.items, NULL);
        for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
            char name[48];
            snprintf(name, sizeof name, "%s.%s.call", side.name,
                     skew_metric_name((enum skew_metric)m));
            cover_add(c, name, scenario, &level.metric[m].call, COVER_LATER);
        }
    }
    world_close(&w);
}

/* ---- requests -------------------------------------------------------------------------------- */

enum { REQUESTS = 64, REQUEST_STEPS = 60, REQUEST_EXPERTS = 32 };

/* Each request keeps to a popularity of its own; its copies by expert, and the calls'. */
static void draw_requests(struct skew_rng *rng, double *clusters, double *calls)
{
    memset(clusters, 0, (size_t)REQUESTS * REQUEST_EXPERTS * sizeof *clusters);
    memset(calls, 0, (size_t)REQUEST_STEPS * REQUEST_EXPERTS * sizeof *calls);
    for (int q = 0; q < REQUESTS; q++) {
        double sum[REQUEST_EXPERTS], total = 0;
        for (int e = 0; e < REQUEST_EXPERTS; e++)
            sum[e] = total += exp(0.02 * e + 0.7 * skew_rng_normal(rng));
        for (int i = 0; i < REQUEST_STEPS * 4; i++) {
            double u = skew_rng_uniform(rng) * total;
            int e = 0;
            while (sum[e] < u)
                e++;
            clusters[q * REQUEST_EXPERTS + e]++;
            calls[i / 4 * REQUEST_EXPERTS + e]++;
        }
    }
}

/* Pooled metrics with whole requests as units: another set of requests is another draw. */
static void cover_requests(struct cover *c)
{
    static const char scenario[] = "64 requests of their own popularity, by request";
    double *clusters = malloc(REQUESTS * REQUEST_EXPERTS * sizeof *clusters);
    double *calls = malloc(REQUEST_STEPS * REQUEST_EXPERTS * sizeof *calls);
    struct skew_rng rng;

    skew_rng_seed(&rng, 8);
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct skew_level level;
        draw_requests(&rng, clusters, calls);
        if (skew_level_of(&level,
                          &(struct skew_level_input){.loads = calls,
                                                     .rows = REQUEST_STEPS,
                                                     .items = REQUEST_EXPERTS,
                                                     .clusters = clusters,
                                                     .cluster_rows = REQUESTS,
                                                     .level = 0.95},
                          NULL) < 0)
            abort();
        for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
            char name[48];
            if (m == SKEW_METRIC_MAX_MEAN)
                continue;
            snprintf(name, sizeof name, "router expert.%s.pooled",
                     skew_metric_name((enum skew_metric)m));
            cover_add(c, name, scenario, &level.metric[m].pooled, COVER_LATER);
        }
    }
    free(clusters);
    free(calls);
}

/* ---- nothing but chance ---------------------------------------------------------------------- */

/*
 * The whole analysis of 3 layers of a uniform router. Two families of tests at 5 % each: beyond
 * chance in at most 10 % of seeds, persistent in at most 5 %; without it nothing is placement's.
 */
static void cover_uniform(struct cover *c)
{
    static const char scenario[] = "uniform routing, 3 layers, 100 calls";
    size_t beyond = 0, persistent = 0, attributed = 0, said = 0;
    struct world w;

    world_open(&w, SETTINGS("routing=uniform", "experts=16", "topk=2", "tokens=16", "steps=100"));
    for (size_t s = 0; s < cover_seeds(c); s++) {
        struct skew_router_options how = {.ranks = (uint32_t)w.spec.ranks, .threads = 1};
        struct skew_routing *routing;
        struct skew_router *router;
        bool placement = false, sentence = true;
        if (skew_routing_create(&routing, SKEW_ROUTING_CALLS) < 0)
            abort();
        for (int64_t layer = 0; layer < 3; layer++) {
            world_draw(&w, (int64_t)s * 3 + layer + 1);
            world_add(&w, routing, layer);
        }
        if (skew_routing_finish(routing) < 0 || skew_router_analyse(&router, routing, &how) < 0)
            abort();
        for (size_t i = 0; i < router->layers; i++) {
            const struct skew_router_split *split = &router->layer[i].split;
            placement |= split->placement > 0 || split->unfixable > 0;
            sentence &= split->why && strstr(split->why, "no imbalance beyond chance");
        }
        beyond += router->beyond_chance;
        persistent += router->persistent;
        attributed += placement;
        said += sentence;
        if (placement && !router->persistent)
            abort(); /* attributed without a test that says so */
        skew_router_free(&router);
        skew_routing_free(&routing);
    }
    size_t seeds = cover_seeds(c);
    cover_share(c, "said in all layers: no imbalance beyond chance", scenario, said, seeds, 0.9, 1);
    cover_share(c, "called beyond chance", scenario, beyond, seeds, 0, 0.1);
    cover_share(c, "something called persistent", scenario, persistent, seeds, 0, 0.05);
    cover_share(c, "anything attributed to placement", scenario, attributed, seeds, 0, 0.05);
    world_close(&w);
}

int cover_router(void)
{
    struct cover *c = cover_open("Router and skew", 60);

    cover_world(c, "independent", SETTINGS("routing=dirichlet"));
    cover_world(c, "bursts of 8",
                SETTINGS("routing=zipf", "correlation=bursts", "design_effect=8"));
    cover_world(c, "AR(1) .5", SETTINGS("routing=dirichlet", "correlation=ar1", "ar_phi=0.5"));
    cover_world(c, "AR(1) .9, 500 calls",
                SETTINGS("routing=dirichlet", "correlation=ar1", "ar_phi=0.9", "steps=500"));
    cover_world(c, "requests of 8 steps, 500 calls",
                SETTINGS("routing=dirichlet", "correlation=requests", "requests=8",
                         "request_steps=8", "steps=500"));
    cover_world(c, "hardly any skew (CV .03)", SETTINGS("routing=dirichlet", "dirichlet=1000"));
    cover_world(c, "uniform", SETTINGS("routing=uniform"));
    expect_refusals(c, "uniform", "hardly any skew (CV .03)");
    cover_drift(c);
    cover_sources(c);
    cover_requests(c);
    cover_uniform(c);
    return cover_close(c);
}
