/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope whatif schedule` computes and what its output shows: see docs/schedules.md.
 */
#ifndef SKEW_WHATIF_SCHEDULE_H
#define SKEW_WHATIF_SCHEDULE_H

#include <jansson.h>
#include <stdio.h>

#include "coverage.h"
#include "measured.h"
#include "schedule.h"

/** One way to schedule, in sum over a series. */
struct skew_whatif_tally {
    double *losses; /* [exchanges with traffic] */
    size_t loss_count;
    double matchings, dispatch_s, makespan_s, sequential_s, ideal_s, idle, idle_weight;
};

/** Where the numbers of the cost model are from. */
struct skew_whatif_model {
    enum skew_wish bandwidth_wish, fixed_wish;
    enum skew_whatif_compute {
        SKEW_COMPUTE_AUTO,
        SKEW_COMPUTE_MEASURED,
        SKEW_COMPUTE_MODEL,
        SKEW_COMPUTE_NONE
    } compute_wish,
        compute; /* as asked; as used, never AUTO */
    double knee_tokens, knee_s;
    bool knee_given;
    struct skew_parameter bandwidth, fixed; /* bytes a second; seconds */
    double up_bandwidth;
    double token_bytes; /* 0: not known */
    enum skew_origin token_origin, ratio_origin;
    char compute_why[240];
    struct skew_measured measured;
    size_t phases, phases_below; /* of matrices so far; of them smaller than any exchange seen */
};

/** The run: what was asked, and what is written where. */
struct skew_whatif {
    struct skew_whatif_model model;
    bool methods[SKEW_SCHEDULE_METHOD_COUNT];
    struct skew_schedule_options options;
    struct skew_cost cost;
    double sweep_least, sweep_most;
    bool json;
    char source[320]; /* of the matrix, one line */
    bool traced;      /* from a trace: else a file, which says nothing of capture */
    struct skew_coverage coverage;
    bool series; /* several exchanges: text shows them together */
    FILE *gantt; /* NULL: not wanted */
    bool gantt_json;
    /* grows with each matrix */
    json_t *exchanges;
    json_t *bars; /* with gantt_json */
    size_t count, empty, incomplete, skipped;
    double *imbalances;
    size_t imbalance_count;
    size_t timed;      /* exchanges whose own transfer was timed */
    double transfer_s; /* … and their transfers */
    struct skew_whatif_tally tally[SKEW_SCHEDULE_METHOD_COUNT];
};

/** One matrix: all its schedules. Indices are methods; NULL: not asked for. */
struct skew_whatif_result {
    int64_t seq;     /* −1: no single exchange */
    bool incomplete; /* not every rank's sends are here */
    struct skew_demand demand;
    double transfer_s; /* as it ran, unscheduled; NaN: not timed */
    struct skew_schedule *schedules[SKEW_SCHEDULE_METHOD_COUNT];
    struct skew_timing timings[SKEW_SCHEDULE_METHOD_COUNT];
    struct skew_crossing *crossings; /* below, above: methods, or METHOD_COUNT for the ideal */
    size_t crossing_count;
};

/* ---- whatif_schedule_model.c ------------------------------------------------------------------
 */

/** The options of the cost model; their keys do not meet others'. Input: struct skew_whatif. */
extern const struct argp skew_whatif_model_argp;
void skew_whatif_model_defaults(struct skew_whatif *w);
/** Measured where the trace tells and nothing else was asked for. `comm_key` NULL: there is no
 * trace. 0 or a negative errno, told. */
int skew_whatif_model_settle(struct skew_whatif *w, const char *path, const char *comm_key,
                             uint32_t ranks);
void skew_whatif_model_print(const struct skew_whatif *w);
json_t *skew_whatif_model_json(const struct skew_whatif *w);

/* ---- whatif_schedule_counts.c -----------------------------------------------------------------
 */

/** The communicator that counts belong to, `asked` or the first: its ranks, 0: none. */
uint32_t skew_whatif_counts_comm(const struct skew_reading *reading, const char *asked,
                                 char key[80]);
/** Takes one matrix, the ordinal-th call; anything but 0 ends the series. */
typedef int skew_whatif_matrix_fn(void *context, const struct skew_matrix *matrix, int64_t ordinal);
/** Matrices of the calls that pass `filter` (layer and step), in order of step and layer. 0, what
 * `take` returned, or a negative errno, told. */
int skew_whatif_counts(const struct skew_reading *reading, const char *path, const char *comm_key,
                       const struct skew_filter *filter, double token_bytes,
                       skew_whatif_matrix_fn *take, void *context);

/* ---- output -----------------------------------------------------------------------------------
 */

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
