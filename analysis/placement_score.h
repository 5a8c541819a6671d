/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a placement would have meant for routing that was recorded: loads of ranks call by call,
 * bytes by tier, padded bytes, and the time of the exchange under a simple model.
 *
 * Nothing here is measured: counts are, the rest is arithmetic on them. Pure computation.
 */
#ifndef SKEW_PLACEMENT_SCORE_H
#define SKEW_PLACEMENT_SCORE_H

#include "line.h"
#include "placement.h"
#include "stats.h"

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
    const size_t *token_at; /* [calls + 1] tokens before each call */
    const uint16_t *ids;    /* [tokens][topk] */
    const int32_t *source;  /* [tokens] rank, −1: not known; NULL: none is known */
};

/** A view of calls from … to − 1. */
struct skew_calls skew_calls_slice(const struct skew_calls *calls, size_t from, size_t to);
/** load[experts]: their sum. */
void skew_calls_sum(const struct skew_calls *calls, double *load);

/**
 * What was measured of exchanges: seconds by x, the bytes of the busiest port (with domains of
 * several ranks: to other domains), + z_s × z, the bytes of the mean port (the busiest port within
 * the domain). Nothing is evaluated outside x and z that were seen.
 */
struct skew_links_fit {
    struct skew_line line;
    double least, most;
    double z_s, z_least, z_most; /* z_s 0: x tells all */
};

/** The machine of the model. Consecutive ranks share a domain. */
struct skew_links {
    uint32_t domain_ranks; /* ranks in an NVLink domain; 0: every rank is its own */
    double token_bytes;    /* of one copy of a token */
    double bandwidth;      /* bytes a second and direction, of a rank's port between domains */
    double up_bandwidth;   /* … of its port inside the domain */
    double latency_s;      /* α of each exchange */
    const struct skew_links_fit *fit; /* instead of the three; NULL: nothing was measured */
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
    double padded;  /* R × the largest message, of one rank: what a pad-to-max kernel sends */
    double time_s;  /* as measured; else the larger of busiest port / bandwidth, in the domain and
                       out, + latency */
    double clamped; /* share of the calls whose sizes `fit` has never seen: the nearest count */
};

/**
 * @param per_call [calls] max/mean of each call (NaN: empty), or NULL.
 * @return 0; -EINVAL: experts differ, domain_ranks does not divide the ranks; -ENOMEM.
 */
int skew_placement_score(struct skew_score *score, struct skew_placement *placement,
                         const struct skew_calls *calls, const struct skew_links *links,
                         double *per_call);

/* ---- finding placements ---------------------------------------------------------------------- */

/*
 * X(name in code, name for people, what it is)
 */
#define SKEW_PLACEMENT_METHODS(X)                                                                  \
    X(CURRENT, "current", "as the trace says, else contiguous")                                    \
    X(CONTIGUOUS, "contiguous", "expert e on rank e / (E / R)")                                    \
    X(RANDOM, "random", "mean of random placements")                                               \
    X(LPT, "lpt", "longest first, equal cardinality, swaps")                                       \
    X(EPLB, "eplb", "EPLB, global, with redundant experts where asked for")                        \
    X(EPLB_GROUPS, "eplb-groups", "EPLB, hierarchical: groups of experts stay on a node")          \
    X(LPT_GROUPS, "lpt-groups", "longest first with swaps, groups of experts stay on a node")      \
    X(LOCALITY, "locality", "tokens stay in their NVLink domain, under a capacity")

enum skew_placement_method {
#define X(id, name, what) SKEW_PLACE_##id,
    SKEW_PLACEMENT_METHODS(X)
#undef X
        SKEW_PLACE_COUNT
};

const char *skew_placement_method_name(enum skew_placement_method method);

struct skew_fit_options {
    uint32_t ranks;
    uint32_t redundant;      /* slots beyond the experts, of EPLB */
    uint32_t groups, nodes;  /* 0: no groups */
    uint32_t domain_ranks;   /* 0: none */
    double capacity;         /* of locality: max/mean; 0: 1.05 × what LPT reaches */
    uint64_t seed;           /* of RANDOM */
    const uint32_t *current; /* [current_slots] experts; NULL: contiguous */
    uint32_t current_slots;
};

/**
 * A placement found from these calls (their sum). The caller owns *out. Redundant experts are used
 * by EPLB, and by current, contiguous and random where the ranks do not divide the experts alone.
 * @return 0; -ENODATA: the method needs what is not here (groups, domains, sources); -EINVAL: the
 * shape does not allow it; -ENOMEM.
 */
int skew_placement_fit(struct skew_placement **out, enum skew_placement_method method,
                       const struct skew_calls *calls, const struct skew_fit_options *options);

/**
 * What a placement gains over another: mean over calls of before[n] − after[n], in time order, NaN
 * left out, with its 95 % interval (stats.h).
 */
struct skew_estimate skew_placement_gain(const double *before, const double *after, size_t n);

/* ---- age of a profile ------------------------------------------------------------------------ */

struct skew_lag {
    size_t lag; /* blocks between the profile and what it is used on; 0: the same (in sample) */
    double max_mean; /* of the placement found from the earlier block, mean over pairs */
    double current;  /* of the current one on the same blocks */
    double random;   /* of random ones */
    size_t pairs;
};

struct skew_drift {
    size_t blocks, calls_a_block;
    struct skew_lag *lag; /* [lags]; the caller frees */
    size_t lags;
    size_t half_life; /* first lag at which less than half of the gain at lag 1 is left; 0: none */
    double statistic; /* squared distance of expert shares, first half of blocks to second */
    double p;         /* share of permutations of the blocks that reach it; NaN: not tested */
    uint32_t permutations;
};

/**
 * Gain of LPT against the age of its profile, and whether shares drift: under no drift, blocks are
 * exchangeable. Blocks must be longer than what correlates neighbouring calls, or the test cries
 * wolf. -ENODATA: fewer than 8 blocks of calls; -ENOMEM.
 */
int skew_placement_drift(struct skew_drift *drift, const struct skew_calls *calls,
                         const struct skew_fit_options *options, size_t blocks);

/** Mean over calls of max/mean alone: nothing else is computed. NaN when all calls are empty. */
double skew_placement_mean_max(struct skew_placement *placement, const double *counts,
                               size_t calls);

#endif
