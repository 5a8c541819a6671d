/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files that make placements share.
 */
#ifndef SKEW_PLACEMENT_PRIVATE_H
#define SKEW_PLACEMENT_PRIVATE_H

#include "arithmetic.h"
#include "placement.h"

/** Uniform over 0 … limit − 1, with a bias below limit / 2^32. */
uint32_t skew_random_below(uint64_t *seed, uint32_t limit);

/** Counts p->copies anew. */
void skew_placement_count(struct skew_placement *placement);

/** copies[experts], together `slots`: each further copy to the largest load / copies. */
void skew_placement_replicate(const double *load, uint32_t experts, uint32_t slots,
                              uint32_t *copies);

/** order[count]: 0 … count − 1 by load downwards, lowest index first among equals. */
void skew_placement_sort(const double *load, uint32_t count, uint32_t *order);

/**
 * LPT of order[ranks × per_rank], hottest first, onto ranks first … first + ranks − 1. Afterwards
 * p->rank_load of these is right.
 */
void skew_placement_pack(struct skew_placement *placement, const double *load,
                         const uint32_t *order, uint32_t first, uint32_t ranks);
/** As skew_placement_improve(), among these ranks alone. */
int skew_placement_improve_range(struct skew_placement *placement, const double *load,
                                 uint32_t first, uint32_t ranks);
/** The rank of the range with the largest p->rank_load. */
uint32_t skew_placement_hottest(const struct skew_placement *placement, uint32_t first,
                                uint32_t ranks);

#endif
