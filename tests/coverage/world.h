/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routing of a synthetic job (tools/synth) again and again: the same popularity, topics and
 * placement in every draw, fresh tokens, drift and requests. So all draws share one truth.
 */
#ifndef SKEW_COVERAGE_WORLD_H
#define SKEW_COVERAGE_WORLD_H

#include "routing.h"
#include "synth/synth_private.h"

#define WORLD_EXPERTS_MAX 64

/* "key=value" of tools/synth, one after the other. */
#define SETTINGS(...)                                                                              \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

/** Aborts, saying why, when it cannot be. */
void world_set(struct skew_synth_spec *spec, const char *setting);

struct world {
    struct skew_synth_spec spec;
    struct synth_router router;
    double *counts;                  /* [steps][experts] of all sources of a call */
    double *ranks;                   /* [steps][ranks] the same, experts contiguous on ranks */
    double *sources;                 /* [steps][ranks] token copies of each source */
    double share[WORLD_EXPERTS_MAX]; /* sum over calls drawn so far of the shares, mean 1 */
    size_t calls;                    /* how many these are */
};

/** Settings up to a NULL, on top of 8 ranks, 32 experts, top-4, 32 tokens a rank. */
void world_open(struct world *world, const char *const *settings);
void world_draw(struct world *world, int64_t seed);
void world_close(struct world *world);

/** shares[items] of the long run, mean 1, from all draws; items: experts, or ranks. */
void world_shares(const struct world *world, uint32_t items, double *shares);

/** Adds the calls drawn last to `routing`, as those of a layer. */
void world_add(const struct world *world, struct skew_routing *routing, int64_t layer);

#endif
