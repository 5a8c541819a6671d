/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a placement would have meant for routing that was recorded: loads of ranks call by call,
 * bytes by tier, padded bytes, and the time of the exchange under a simple model.
 *
 * Nothing here is measured: counts are, the rest is arithmetic on them. Pure computation.
 */
#ifndef SKEW_PLACEMENT_SCORE_H
#define SKEW_PLACEMENT_SCORE_H

#include "placement.h"

/**
 * Calls of one MoE layer. Counts are tokens × copies. `by_source` and the ids are borrowed views of
 * the same calls; where sources are not known, tokens are taken to be spread evenly over the ranks.
 */
struct skew_calls {
    size_t calls;
    uint32_t experts;
    uint32_t topk;             /* 0: not known */
    const double *counts;      /* [calls][experts] */
    const uint32_t *by_source; /* [calls][sources][experts]; NULL: not known */
    uint32_t sources;          /* equals the ranks wherever by_source is used, else it is ignored */
    /* which experts single tokens went to, over all of the calls; NULL: only counts are known */
    size_t tokens;
    const uint16_t *ids;   /* [tokens][topk] */
    const int32_t *source; /* [tokens] rank, −1: not known; NULL: none is known */
};

/** The machine of the model. Consecutive ranks share a domain. */
struct skew_links {
    uint32_t domain_ranks; /* ranks in an NVLink domain; 0: every rank is its own */
    double token_bytes;    /* of one copy of a token */
    double bandwidth;      /* bytes a second and direction, of a rank's port between domains */
    double up_bandwidth;   /* … of its port inside the domain */
    double latency_s;      /* α of each exchange */
};

/** Where bytes go. */
enum skew_tier { SKEW_TIER_RANK, SKEW_TIER_DOMAIN, SKEW_TIER_OTHER, SKEW_TIERS };

/**
 * Means over calls, of one exchange each. Copies of a token to several experts of one rank (or
 * domain) can be sent once: `once` is what then remains, exact where ids are known (low = high),
 * else bounds: at least the most that one expert there gets, at most the sum and at most all
 * tokens.
 */
struct skew_score {
    size_t calls;      /* that held tokens; 0: all else is NaN */
    double max_mean;   /* mean over calls of (max over ranks / mean over ranks) */
    double worst;      /* largest of them */
    double persistent; /* of loads summed over the calls: no barrier ever sees it */
    bool sources_known;
    bool ids_known;
    double bytes[SKEW_TIERS];                                     /* every copy sent */
    double rank_once_low[SKEW_TIERS], rank_once_high[SKEW_TIERS]; /* once a rank */
    double domain_once_low, domain_once_high;                     /* tier other, once a domain */
    double padded; /* R × the largest message, of one rank: what a pad-to-max kernel sends */
    double time_s; /* the larger of busiest port / bandwidth, in the domain and out, + latency */
};

/**
 * @param per_call [calls] max/mean of each call (NaN: empty), or NULL.
 * @return 0; -EINVAL: experts differ, domain_ranks does not divide the ranks; -ENOMEM.
 */
int skew_placement_score(struct skew_score *score, struct skew_placement *placement,
                         const struct skew_calls *calls, const struct skew_links *links,
                         double *per_call);

/** Mean over calls of max/mean alone: nothing else is computed. NaN when all calls are empty. */
double skew_placement_mean_max(struct skew_placement *placement, const double *counts,
                               size_t calls);

#endif
