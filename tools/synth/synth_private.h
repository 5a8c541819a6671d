/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of tools/synth/ share among themselves. */
#ifndef SKEW_SYNTH_PRIVATE_H
#define SKEW_SYNTH_PRIVATE_H

#include "random.h"
#include "synth.h"

/* Which random stream: the purposes of rng_keyed(). Only added to, so that seeds keep their jobs.
 */
enum synth_purpose {
    SYNTH_RNG_POPULARITY,
    SYNTH_RNG_PLACEMENT,
    SYNTH_RNG_DRIFT,
    SYNTH_RNG_TOKENS,
    SYNTH_RNG_SOURCES,
    SYNTH_RNG_TOPICS,
    SYNTH_RNG_REQUESTS,
    SYNTH_RNG_CLOCK,
    SYNTH_RNG_NOISE,
    SYNTH_RNG_STEP_NOISE,
    SYNTH_RNG_JITTER,
    SYNTH_RNG_STRAGGLER,
    SYNTH_RNG_LOST
};

/* Walker's table: one draw from a distribution in constant time. */
struct synth_alias {
    uint32_t count;
    uint32_t *other; /* [count] */
    float *keep;     /* [count] */
    uint32_t *small; /* scratch [count] */
};
int synth_alias_create(struct synth_alias *alias, uint32_t count);
void synth_alias_free(struct synth_alias *alias);
void synth_alias_fill(struct synth_alias *alias, const double *weight);

static inline uint32_t synth_alias_draw(const struct synth_alias *alias, struct rng *rng)
{
    uint64_t x = rng_next(rng);
    uint32_t at = (uint32_t)((x >> 32) * alias->count >> 32);
    return (float)(uint32_t)x * 0x1p-32f < alias->keep[at] ? at : alias->other[at];
}

/* The router: experts' popularity and tokens. router.c */
struct synth_router {
    const struct skew_synth_spec *spec;
    double *base;               /* [layers][experts], sum 1 */
    double *drifted;            /* [layers][experts]: log of what drift and ar1 multiply it by */
    double *weight, *inclusion; /* of the layer in hand [experts] */
    double *topic;              /* [layers][topics][experts], NULL */
    struct synth_alias alias;
    struct synth_alias *topic_alias; /* [topics], of the layer in hand */
    uint32_t *request_topic;         /* [ranks][requests] */
    uint32_t *counts;                /* [ranks][experts] */
    uint32_t *tokens;                /* [ranks] */
};
int synth_router_create(struct synth_router *router, const struct skew_synth_spec *spec,
                        struct skew_synth_error *error);
void synth_router_free(struct synth_router *router);
/** Draws tokens of a rank, drift and requests of a new step. */
void synth_router_step(struct synth_router *router, int64_t step);
/** Fills counts for one layer of the step. */
void synth_router_route(struct synth_router *router, int64_t step, int64_t layer);
/** Share of tokens that choose each expert, times topk: [experts], sum topk (docs/synth.md). */
void synth_inclusion(const double *weight, uint32_t experts, uint32_t topk, double *inclusion);

struct skew_synth {
    struct skew_synth_spec spec; /* texts borrowed from the caller's */
    struct synth_router router;
    uint32_t *rank_of;                  /* [layers][experts] */
    double *factor;                     /* [ranks][ranks], NULL: all 1 */
    double *clock_offset, *clock_drift; /* [ranks] */
};

__attribute__((format(printf, 3, 4))) int skew_synth_fail(struct skew_synth_error *error, int code,
                                                          const char *format, ...);

/** Hands each line "a,b,c" of a CSV to `take`; lines that begin with a letter or # are passed over.
 */
int synth_csv(const char *file, int (*take)(void *context, const double value[3]), void *context,
              struct skew_synth_error *error);

#endif
