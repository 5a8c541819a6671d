/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the scheduler share: a schedule while it is being made.
 */
#ifndef SKEW_SCHEDULE_PRIVATE_H
#define SKEW_SCHEDULE_PRIVATE_H

#include "schedule.h"

struct skew_builder {
    struct skew_schedule *schedule;
    const struct skew_schedule_options *options;
    const struct skew_demand *demand;
    uint32_t n;
    uint64_t *left; /* [n][n], what is not yet sent; the diagonal is 0 */
    size_t phase_room, transfer_room;
    uint64_t *in, *out; /* [n], of many-to-many phases */
    int failed;         /* the first negative errno; later calls do nothing */
};

/** Begins a phase; the transfers that follow belong to it. */
void skew_build_begin(struct skew_builder *b);
/** Takes `bytes` (not more than are left) from one rank to another; 0 and the diagonal do
 * nothing. */
void skew_build_send(struct skew_builder *b, uint32_t from, uint32_t to, uint64_t bytes);
/** Ends a matching; one that sent nothing is dropped. Returns it, NULL when dropped or failed. */
struct skew_phase *skew_build_end(struct skew_builder *b);
/** Ends a many-to-many phase: the bottleneck is the busiest port. */
struct skew_phase *skew_build_end_many(struct skew_builder *b);
/** Whether the cap on matchings, or a failure, forbids another. */
bool skew_build_full(const struct skew_builder *b);

int skew_build_greedy(struct skew_builder *b);
int skew_build_sinkhorn(struct skew_builder *b);
int skew_build_stuffed(struct skew_builder *b);
int skew_build_shift(struct skew_builder *b);
int skew_build_ring(struct skew_builder *b);
int skew_build_tier(struct skew_builder *b);

/** Takes one permutation (column of each row) with its coefficient; other than 0 ends it. */
typedef int skew_permutation_fn(void *context, const uint32_t *column, uint64_t coefficient);

/**
 * Adds the dummy demand that brings every row and column sum of m [n][n] to the largest of them,
 * first on entries that are there already, as Solstice's QuickStuff does: that makes no new
 * entries.
 * @return the common sum.
 */
uint64_t skew_birkhoff_stuff(uint64_t *m, uint32_t n);

/** Birkhoff–von Neumann of a matrix whose rows and columns all have the sum `sum`; m ends as
 * zero. */
int skew_birkhoff(uint64_t *m, uint32_t n, uint64_t sum, enum skew_birkhoff_pick pick,
                  skew_permutation_fn *take, void *context);

#endif
