/* SPDX-License-Identifier: Apache-2.0 */
/* See world.h. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void world_set(struct skew_synth_spec *spec, const char *setting)
{
    struct skew_synth_error error;
    char key[64];
    size_t length = strcspn(setting, "=");

    snprintf(key, sizeof key, "%.*s", (int)length, setting);
    if (skew_synth_spec_set(spec, key, setting + length + 1, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
}

void world_open(struct world *w, const char *const *settings)
{
    static const char *const common[] = {"ranks=8",   "experts=32", "topk=4",
                                         "tokens=32", "layers=1",   "steps=200"};
    struct skew_synth_error error;

    memset(w, 0, sizeof *w);
    skew_synth_spec_init(&w->spec);
    w->spec.seed = 5; /* of what all draws share */
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        world_set(&w->spec, common[i]);
    for (size_t i = 0; settings[i]; i++)
        world_set(&w->spec, settings[i]);
    if (skew_synth_spec_check(&w->spec, &error) ||
        synth_router_create(&w->router, &w->spec, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    size_t steps = (size_t)w->spec.steps, ranks = (size_t)w->spec.ranks;
    w->counts = malloc(steps * (size_t)w->spec.experts * sizeof *w->counts);
    w->ranks = malloc(steps * ranks * sizeof *w->ranks);
    w->sources = malloc(steps * ranks * sizeof *w->sources);
    if (!w->counts || !w->ranks || !w->sources)
        abort();
}

void world_close(struct world *w)
{
    synth_router_free(&w->router);
    skew_synth_spec_free(&w->spec);
    free(w->counts);
    free(w->ranks);
    free(w->sources);
}

static void take(struct world *w, size_t step)
{
    size_t experts = (size_t)w->spec.experts, ranks = (size_t)w->spec.ranks;
    double *counts = w->counts + step * experts, *loads = w->ranks + step * ranks, sum = 0;

    memset(counts, 0, experts * sizeof *counts);
    memset(loads, 0, ranks * sizeof *loads);
    for (size_t i = 0; i < ranks; i++) {
        w->sources[step * ranks + i] = (double)w->router.tokens[i] * (double)w->spec.topk;
        for (size_t e = 0; e < experts; e++)
            counts[e] += w->router.counts[i * experts + e];
    }
    for (size_t e = 0; e < experts; e++) {
        loads[e / (experts / ranks)] += counts[e];
        sum += counts[e];
    }
    for (size_t e = 0; e < experts; e++)
        w->share[e] += counts[e] * (double)experts / sum;
    w->calls++;
}

void world_draw(struct world *w, int64_t seed)
{
    w->spec.seed = seed;
    memset(w->router.drifted, 0, (size_t)w->spec.experts * sizeof *w->router.drifted);
    for (int64_t step = 0; step < w->spec.steps; step++) {
        synth_router_step(&w->router, step);
        synth_router_route(&w->router, step, 0);
        take(w, (size_t)step);
    }
}

void world_shares(const struct world *w, uint32_t items, double *shares)
{
    uint32_t experts = (uint32_t)w->spec.experts, group = experts / items;

    memset(shares, 0, items * sizeof *shares);
    if (w->spec.routing == SYNTH_UNIFORM) {
        for (uint32_t i = 0; i < items; i++)
            shares[i] = 1;
        return;
    }
    for (uint32_t e = 0; e < experts; e++)
        shares[e / group] += w->share[e] / (double)w->calls / group;
}

void world_add(const struct world *w, struct skew_routing *routing, int64_t layer)
{
    uint64_t counts[WORLD_EXPERTS_MAX];
    size_t experts = (size_t)w->spec.experts;

    for (size_t t = 0; t < (size_t)w->spec.steps; t++) {
        struct skew_routing_row row = {.source = -1,
                                       .step = (int64_t)t,
                                       .layer = layer,
                                       .microbatch = -1,
                                       .request = -1,
                                       .ordinal = -1,
                                       .experts = (uint32_t)experts,
                                       .topk = (uint32_t)w->spec.topk,
                                       .tokens = w->spec.tokens * w->spec.ranks,
                                       .how = "synth",
                                       .counts = counts};
        for (size_t e = 0; e < experts; e++)
            row.total += counts[e] = (uint64_t)w->counts[t * experts + e];
        if (skew_routing_add(routing, &row) < 0)
            abort();
    }
}
