/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The router's imbalance, from per-expert counts: what each layer's experts and ranks get, how much
 * of it chance explains, what persists, what no placement of the experts could fix and what one
 * could, and how all of that would look on another number of ranks.
 *
 * The order of the split matters and is fixed: chance first, then what no placement can fix, then
 * what a placement fitted on one half of the calls gains on the other half. Nothing is attributed
 * to placement unless something is shown to persist. Layers are analysed on several threads.
 */
#ifndef SKEW_ROUTER_H
#define SKEW_ROUTER_H

#include "metrics_level.h"
#include "routing.h"

struct skew_router_options {
    double level;   /* of intervals; 0: 0.95 */
    uint32_t ranks; /* over which experts are spread; 0: of the communicator, else none */
    uint32_t topk;  /* 0: as the trace says */
    enum skew_routing_by by;
    bool incomplete;  /* also calls of which sources are missing */
    bool curve;       /* over R = 2 … E */
    unsigned threads; /* 0: as many as processors */
};

/** What the rank level would be on `ranks` ranks, at the same tokens. All are max/mean. */
struct skew_router_point {
    uint32_t ranks;
    double observed; /* mean over calls, experts where they are (contiguous on other rank counts) */
    double chance;   /* mean over calls of the floor; NaN: not known */
    double
        heldout;   /* mean over calls of a placement fitted on the other half; NaN: one call only */
    double pooled; /* of loads summed over calls, experts where they are */
    double random; /* … mean of 20 random placements */
    double fitted; /* … of LPT + swaps fitted to these very loads: optimistic */
    double bound;  /* … below which no placement can go */
};

/** Where the rank level's mean max/mean per call comes from. Parts of (observed − 1), in this
 * order. */
struct skew_router_split {
    bool known;      /* false: no ranks, or one */
    const char *why; /* why nothing is attributed; NULL: it is */
    double observed; /* mean over calls of max/mean, minus 1 */
    double chance;   /* floor − 1 */
    double
        unfixable; /* beyond chance: lower bound of any placement of the mean loads − 1 − chance */
    double placement; /* what a placement gains on calls that it was not fitted on; never below 0 */
    double undecided; /* the rest: comes and goes, or a placement that was not found */
    /* beside the sum */
    struct skew_estimate
        gain;        /* current − held-out, per call: may be negative, with its interval */
    double replicas; /* what one spare slot a rank gains further (EPLB), held out; never below 0 */
    double replicas_bound; /* max/mean below which no placement with these replicas can go */
    double bound;          /* max/mean below which no placement can go */
    double persistent;     /* max over ranks of the mean load / mean, minus 1 */
    double transient;      /* observed − persistent: comes and goes over calls, chance included */
};

struct skew_router_layer {
    const struct skew_routing_layer *routing; /* borrowed */
    const char *why;                          /* why nothing could be computed; NULL: it was */
    size_t calls;                             /* that were used */
    uint32_t topk;                            /* that was used; 0: none, slots are physical */
    bool topk_assumed;                        /* nobody said it: 1, for which chance is largest */
    uint32_t ranks;                           /* 0: no rank level */
    bool placed;                              /* by the table placement, not contiguous */
    struct skew_level expert, rank;           /* rank: only with ranks > 1 */
    struct skew_router_split split;
    size_t points;
    struct skew_router_point *point;
    /* Imbalance of the sources: neither router nor placement. 0 sources: not known. */
    uint32_t sources;
    double source_call, source_max; /* max/mean of tokens a source: mean and maximum over calls */
    double adjusted_beyond, adjusted_persistent; /* Holm over layers; NaN: no test */
    bool beyond_chance;                          /* adjusted p of either below 1 − level */
    bool persistent; /* adjusted p of "nothing persists" below 1 − level */
};

struct skew_router {
    size_t layers;
    struct skew_router_layer *layer; /* in the order of skew_routing_layers() */
    double level;
    /* over all layers with ranks, rows are (layer, pooled over calls); NaN: no ranks, or not alike
     */
    double balancedness[SKEW_BALANCE_COUNT];
    double balancedness_call[SKEW_BALANCE_COUNT]; /* rows are (layer, call) */
    bool beyond_chance, persistent;               /* of any layer */
    bool tested;                                  /* false: nothing could be compared with chance */
};

/**
 * @param routing finished, and kept as long as the result.
 * @return 0 or -ENOMEM. The caller owns *out.
 */
int skew_router_analyse(struct skew_router **out, const struct skew_routing *routing,
                        const struct skew_router_options *options);
void skew_router_free(struct skew_router **router);

/**
 * The curve at one number of ranks, for one layer's counts in time.
 * @return 0, -EINVAL (`ranks` does not divide the experts) or -ENOMEM.
 */
int skew_router_point_of(struct skew_router_point *point, const struct skew_routing_layer *layer,
                         const struct skew_series *series, uint32_t ranks, uint32_t topk,
                         struct skew_floors *floors);

/**
 * Which share of the token copies would stay on their rank (tier[0]), in their domain of `domain`
 * consecutive ranks (tier[1]) or leave it (tier[2]), with the experts over `ranks` ranks (as
 * skew_router_point_of places them). Tokens of several source ranks are put together, or those of
 * one spread evenly, where there are fewer or more ranks than sources; where sources are not known,
 * every rank is taken to have as many of each.
 * @return 0; -EINVAL: ranks do not divide the experts, or neither do sources divide ranks nor ranks
 * sources; -ENOMEM.
 */
int skew_router_tiers(double tier[3], const struct skew_routing_layer *layer, uint32_t ranks,
                      uint32_t domain);

#endif
