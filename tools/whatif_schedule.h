/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope whatif schedule` computes and what its output shows: see docs/schedules.md.
 */
#ifndef SKEW_WHATIF_SCHEDULE_H
#define SKEW_WHATIF_SCHEDULE_H

#include <jansson.h>
#include <stdio.h>

#include "coverage.h"
#include "schedule.h"

/** One way to schedule, in sum over a series. */
struct skew_whatif_tally {
    double *losses;      /* [exchanges with traffic] */
    size_t loss_count;
    double matchings, dispatch_s, makespan_s, sequential_s, ideal_s, idle, idle_weight;
};

/** The run: what was asked, and what is written where. */
struct skew_whatif {
    bool methods[SKEW_SCHEDULE_METHOD_COUNT];
    struct skew_schedule_options options;
    struct skew_cost cost;
    double sweep_least, sweep_most;
    bool json;
    char source[320];     /* of the matrix, one line */
    bool traced;          /* from a trace: else a file, which says nothing of capture */
    struct skew_coverage coverage;
    bool series;          /* several exchanges: text shows them together */
    FILE *gantt;          /* NULL: not wanted */
    bool gantt_json;
    /* grows with each matrix */
    json_t *exchanges;
    json_t *bars;         /* with gantt_json */
    size_t count, empty, incomplete, skipped;
    double *imbalances;
    size_t imbalance_count;
    struct skew_whatif_tally tally[SKEW_SCHEDULE_METHOD_COUNT];
};

/** One matrix: all its schedules. Indices are methods; NULL: not asked for. */
struct skew_whatif_result {
    int64_t seq;          /* −1: no single exchange */
    bool incomplete;      /* not every rank's sends are here */
    struct skew_demand demand;
    struct skew_schedule *schedules[SKEW_SCHEDULE_METHOD_COUNT];
    struct skew_timing timings[SKEW_SCHEDULE_METHOD_COUNT];
    struct skew_crossing *crossings; /* below, above: methods, or METHOD_COUNT for the ideal */
    size_t crossing_count;
};

/* Each 0 or a negative errno, told. */
int skew_whatif_show(struct skew_whatif *w, const struct skew_whatif_result *result);
int skew_whatif_show_end(struct skew_whatif *w);
int skew_whatif_gantt(struct skew_whatif *w, const struct skew_whatif_result *result);
int skew_whatif_gantt_end(struct skew_whatif *w);

/** Mean bytes a rank receives, its own included: the batch, at scale 1. */
static inline double skew_whatif_batch(const struct skew_demand *demand)
{
    return (double)demand->receive_sum / demand->ranks;
}

#endif
