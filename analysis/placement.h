/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placements: which rank holds which expert of one MoE layer, how loaded that makes the ranks, and
 * how well any placement could do.
 *
 * Pure computation: no input, no output, no state between calls. One placement belongs to one
 * thread at a time (it carries the scratch that its own functions use); different ones may be used
 * on different threads. A load is any nonnegative number of tokens per expert.
 *
 * Sources: LPT is Graham, SIAM J. Appl. Math. 17 (1969), here with equal cardinality as in EPLB's
 * balanced packing; EPLB is deepseek-ai/EPLB @ d52c72d5 (read, not copied); the bounds are derived
 * beside their functions.
 */
#ifndef SKEW_PLACEMENT_H
#define SKEW_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SKEW_PLACEMENT_EXPERTS_MAX 65536u /* and slots */

/**
 * `slots` physical experts, slots / ranks of them on each rank: slot s lies on rank
 * s / (slots / ranks) and holds the logical expert expert[s]. Without replicas slots = experts and
 * `expert` is a permutation. An expert with c copies gives load / c to each of them (the assumption
 * of EPLB; round robin over copies comes close to it).
 */
struct skew_placement {
    uint32_t experts, ranks, slots;
    uint32_t per_rank; /* slots / ranks, g */
    uint32_t *expert;  /* [slots] */
    uint32_t *copies;  /* [experts], at least 1 each */
    /* private scratch, of the functions that change or score this placement */
    uint32_t *order, *heap, *fill;
    double *sorted, *rank_load;
    void *memory;
};

/**
 * A contiguous placement; the caller owns *out.
 * @param slots experts for no replicas; more for replicas.
 * @return 0; -EINVAL: 0 of anything, ranks do not divide slots, slots below experts, or too many;
 *         -ENOMEM.
 */
int skew_placement_create(struct skew_placement **out, uint32_t experts, uint32_t ranks,
                          uint32_t slots);
void skew_placement_free(struct skew_placement **placement);
/** Takes over what `from`, of the same shape, places where. -EINVAL when the shapes differ. */
int skew_placement_copy(struct skew_placement *placement, const struct skew_placement *from);
/**
 * Takes over [slots] experts; copies are counted. -EINVAL, and nothing changed, when an expert is
 * out of range or missing.
 */
int skew_placement_set(struct skew_placement *placement, const uint32_t *expert);
/** Lowest rank that holds the expert. O(slots). */
uint32_t skew_placement_rank_of(const struct skew_placement *placement, uint32_t expert);
/** rank_of[experts], for placements without replicas (else the last copy's rank). O(slots). */
void skew_placement_ranks(const struct skew_placement *placement, uint32_t *rank_of);

/* ---- without replicas (with them: copies go round robin) --------------------------------------
 */

/** Expert e in slot e: rank e / g. Slots behind the last expert hold 0, 1, 2, … again. */
void skew_placement_contiguous(struct skew_placement *placement);
/** Uniformly random order of the slots' present experts; *seed is advanced (splitmix64). */
void skew_placement_random(struct skew_placement *placement, uint64_t *seed);
/**
 * Longest processing time first with equal cardinality, then swaps between the hottest rank and the
 * others as long as they lower the higher of the two. O(E log E), then O(g (E − g)) a swap. At
 * g = 2 the hottest is paired with the coldest, which is optimal. Needs slots == experts.
 * @return swaps made, or -EINVAL.
 */
int skew_placement_lpt(struct skew_placement *placement, const double *load);
/** The swaps alone, from whatever is placed now. Replicas are allowed. Returns swaps made. */
int skew_placement_improve(struct skew_placement *placement, const double *load);

/* ---- with replicas, and under groups ----------------------------------------------------------
 */

/**
 * EPLB, as deepseek-ai/EPLB @ d52c72d5 does it, ties included (first lightest bin, first hottest
 * expert; equal weights in order of their number) and in single precision like it.
 *
 * Hierarchical when `nodes` divides `groups`: groups of consecutive experts packed onto nodes
 * (heaviest first, into the lightest that has room), copies made inside each node, copies packed
 * onto the node's ranks. Else global: the same with one group and one node. The balance it knows is
 * of one load; locality and change over time are not looked at.
 * @return 0; -EINVAL when groups do not divide experts, or nodes do not divide ranks and slots;
 *         -ENOMEM.
 */
int skew_placement_eplb(struct skew_placement *placement, const double *load, uint32_t groups,
                        uint32_t nodes);

/**
 * Group-limited routing: `groups` of consecutive experts, each kept together on one of `nodes`
 * nodes (R / nodes consecutive ranks). No replicas. The first is uniformly random under that
 * constraint, the second packs groups onto nodes as EPLB does, experts onto ranks by LPT, and then
 * swaps within nodes, and whole groups between nodes, as long as the hottest rank gets cooler.
 * @return 0, or -EINVAL: groups do not divide the experts, nodes not the groups or ranks; -ENOMEM.
 */
int skew_placement_random_groups(struct skew_placement *placement, uint32_t groups, uint32_t nodes,
                                 uint64_t *seed);
int skew_placement_lpt_groups(struct skew_placement *placement, const double *load, uint32_t groups,
                              uint32_t nodes);
/** Whether every group lies on one node. */
bool skew_placement_keeps_groups(const struct skew_placement *placement, uint32_t groups,
                                 uint32_t nodes);

/**
 * Locality: as many tokens as possible stay in the domain (domain_ranks consecutive ranks) that
 * they come from, with no rank above `capacity` × the mean load, where that can be had.
 *
 * Start: experts (or groups, when groups > 1; nodes are then the domains) to domains by the optimal
 * assignment of what stays inside (Jonker and Volgenant), LPT within each domain. Then swaps of two
 * experts: first those that bring the hottest rank under the capacity at the least loss of
 * locality, then those that gain locality and keep it.
 * @param from [sources = ranks][experts], tokens. @return 0; -EINVAL as above, or replicas, or
 * domain_ranks does not divide; -ENOMEM.
 */
int skew_placement_locality(struct skew_placement *placement, const double *from,
                            uint32_t domain_ranks, uint32_t groups, double capacity);

/* ---- loads ------------------------------------------------------------------------------------
 */

/** rank_load[ranks], tokens. */
void skew_placement_rank_loads(const struct skew_placement *placement, const double *load,
                               double *rank_load);
/** max over ranks / mean over ranks; NaN when nothing is loaded. */
double skew_placement_max_mean(struct skew_placement *placement, const double *load);

/**
 * The least max/mean that a placement of this shape can have on this load, as a lower bound.
 *
 * Without replicas: with x sorted downwards and m the mean rank load, the j R + 1 hottest experts
 * cannot be spread with at most j a rank, so some rank holds j + 1 of them and g − j − 1 others:
 *   LB = max(1, max over j < g of (x[jR − j .. jR] + the g − j − 1 smallest of all) / m).
 * j = 0 is the bound (x_max + the g − 1 smallest) / m. At g = 1 and 2 it is exact (at 2 by pairing
 * the hottest with the coldest).
 *
 * With replicas: copies go greedily to argmax x / c (optimal for the largest share), and
 *   LB = max(1, max over e of (x_e / c_e) / m).
 * @return NaN when nothing is loaded.
 */
double skew_placement_bound(struct skew_placement *placement, const double *load);

#endif
