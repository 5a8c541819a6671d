/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chance floor: the imbalance that perfectly uniform routing would show, with N tokens that
 * each go to k distinct ones of E experts, over the experts, or grouped E/R at a time into R ranks.
 * (All groupings are alike under uniform routing.) Every imbalance is read against it: a 256-token
 * call of a perfectly uniform 256-expert top-8 router has max/mean 2.1.
 *
 * Tokens are taken to be independent here. Real tokens are not, so this is what chance gives at
 * least; what correlated tokens add comes out as "burst" elsewhere, never as part of the floor.
 *
 * The generator is seeded by the arguments alone: the same question has the same answer everywhere.
 */
#ifndef SKEW_FLOOR_H
#define SKEW_FLOOR_H

#include "metrics.h"

struct skew_floor_case {
    uint32_t experts;
    uint32_t topk;   /* 1 … experts */
    uint64_t tokens; /* before they are copied to k experts */
    uint32_t ranks;  /* divides experts; = experts: expert level */
};

struct skew_floor {
    double mean[SKEW_METRIC_COUNT]; /* over repetitions */
    double p95[SKEW_METRIC_COUNT]; /* 95 % of repetitions are less imbalanced (entropy: above it) */
};

/**
 * Closed forms. CV² = (R − 1)(E − k) / ((E − 1) k N), exact in the mean. From it, as if loads were
 * normal: Gini = CV / sqrt(pi) × sqrt((R − 1) / R); max/mean = 1 + CV × Phi^-1((R − 3/8) / (R +
 * 1/4)) (Blom's approximation of the largest of R); entropy = 1 − CV² / (2 ln R). Gini is good to 3
 * % down to 3 tokens an expert (5 % at 8 experts); max/mean is low below 50 tokens an expert. p95
 * are NaN.
 */
void skew_floor_formula(const struct skew_floor_case *which, struct skew_floor *floor);

/** CV² alone: the expectation under uniform routing, exact. */
double skew_floor_cv2(const struct skew_floor_case *which);

/**
 * By `trials` simulations. With fewer than about 20,000 draws a trial every token is drawn; above,
 * counts are drawn from their limiting normal distribution with its skewness (Cornish-Fisher):
 * exact to well below 1 % there.
 * @return 0, -EINVAL (no case at all) or -ENOMEM.
 */
int skew_floor_simulate(const struct skew_floor_case *which, uint32_t trials, uint64_t seed,
                        struct skew_floor *floor);

/** Floors that have been simulated, for use by several threads at once. */
struct skew_floors;

int skew_floors_create(struct skew_floors **out);
void skew_floors_free(struct skew_floors **floors);

/**
 * The floor of a case. N is interpolated between simulations at sqrt(2) steps, where floors are
 * straight lines in logarithms (they go as N^-1/2), so that calls of ever different sizes cost
 * nothing new.
 * @return 0, -EINVAL or -ENOMEM.
 */
int skew_floors_get(struct skew_floors *floors, const struct skew_floor_case *which,
                    struct skew_floor *floor);

#endif
