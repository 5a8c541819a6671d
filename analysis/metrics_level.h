/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that is said of the imbalance of one set of items, the experts or the ranks of one
 * layer, over its calls in time: each metric of each call and how it spreads, of all calls pooled,
 * of chance, and what persists. Pure computation; any thread.
 *
 * CV² is the scale on which parts add up:
 *   mean over calls of CV²  =  chance (independent tokens)  +  burst (comes and goes)  +
 * persistent. On no other scale is anything subtracted, but Gini in quadrature.
 */
#ifndef SKEW_METRICS_LEVEL_H
#define SKEW_METRICS_LEVEL_H

#include "floor.h"
#include "stats.h"

struct skew_level_input {
    const double *loads; /* [rows][items], one row a call, in time order; any unit */
    size_t rows;
    uint32_t items;
    const double *clusters; /* [cluster_rows][items]: the same loads by request; NULL: not known */
    size_t cluster_rows;
    /* For chance: assignments (tokens × k) of a row = its sum / unit. */
    uint32_t experts, topk; /* 0: chance is not known */
    double unit;            /* load of one assignment: 1 for counts, token bytes for bytes */
    double level;           /* of intervals, as 0.95 */
};

struct skew_level_metric {
    struct skew_estimate call;       /* mean over calls of the metric of each call */
    double median, p95, max;         /* over calls; no interval */
    struct skew_estimate pooled;     /* of the loads summed over calls: another estimand */
    double chance;                   /* mean over calls of the floor's mean; NaN: not known */
    double chance_p95;               /* mean over calls of the floor's p95 */
    struct skew_estimate persistent; /* of the long-run mean loads, chance taken out:
        CV: sqrt(max(0, persistent CV²)); Gini: pooled Gini and the sampling CV² of the pooled
        shares in quadrature; entropy: pooled, likewise; max/mean: cross-fitted, the interval is
        that of the picked items' shares */
};

#define SKEW_HOT_MAX 5

struct skew_hot {
    uint32_t item;
    double share;       /* mean over calls of load / mean load */
    double hottest;     /* in which share of the calls it is the hottest */
    size_t longest_run; /* of calls in which it is, one after the other */
};

struct skew_level {
    uint32_t items;
    size_t rows; /* with any load */
    struct skew_level_metric metric[SKEW_METRIC_COUNT];
    double cv2_call, cv2_chance;         /* means over calls; chance NaN: not known */
    struct skew_estimate cv2_beyond;     /* mean over calls of CV² − floor's CV² */
    struct skew_estimate cv2_persistent; /* may be negative */
    double cv2_burst;                    /* call − chance − persistent; NaN: chance not known */
    size_t gap;                          /* calls apart at which what comes and goes has gone */
    double p_beyond;     /* of "independent tokens, uniform routing": chi-square over calls; NaN: no
                            floor */
    double p_persistent; /* of "nothing persists"; NaN: too few independent calls, and requests, to
                            say */
    const char *persistent_by; /* what p_persistent rests on: "calls", or "requests" where calls are
                                  too few */
    size_t hot_count;
    struct skew_hot hot[SKEW_HOT_MAX]; /* by share, downwards */
    double hottest_run;       /* mean number of calls in a row with the same hottest item */
    const char *clustered_by; /* what the interval of `pooled` rests on: "calls" or "requests" */
};

/** @return 0, -EINVAL (no rows with load) or -ENOMEM. */
int skew_level_of(struct skew_level *level, const struct skew_level_input *input,
                  struct skew_floors *floors);

#define SKEW_LEVEL_SERIES (SKEW_METRIC_COUNT + 1)

/**
 * For means over several levels of the same calls: series over the calls with whose means' errors
 * `persistent` of each metric comes, then `cv2_persistent`: [SKEW_LEVEL_SERIES][rows]. NaN where
 * that has no interval, near balance, or where a call had no load.
 * @param level what skew_level_of() has said of `input`.
 * @return 0, -EINVAL (no rows with load) or -ENOMEM.
 */
int skew_level_series(double *series, const struct skew_level *level,
                      const struct skew_level_input *input);

#endif
