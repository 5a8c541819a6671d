/* SPDX-License-Identifier: Apache-2.0 */
/* How `skewscope time` shows and saves what analysis/time_analysis.h computes. Keys: docs/time.md.
 */
#ifndef SKEW_TIME_OUTPUT_H
#define SKEW_TIME_OUTPUT_H

#include <jansson.h>

#include "matrix_output.h"
#include "time_analysis.h"

struct skew_time_shown {
    const struct skew_time_result *result;
    const char *comm_key;
    const char *chosen; /* why this communicator; NULL: it was asked for, or the only one */
    struct skew_coverage coverage;
    size_t rows;  /* of the ledger */
    bool standin; /* times of the stand-ins */
};

void skew_time_print(const struct skew_time_shown *shown);
/** The whole answer. New reference. */
json_t *skew_time_json(const struct skew_time_shown *shown);
/** One fit; `x` says what its sizes are. New reference. */
json_t *skew_time_fit_json(const struct skew_time_fit *fit, const char *x);
/** Its numbers for table metric: an array of objects. New reference. */
json_t *skew_time_saved(const struct skew_time_shown *shown);

/** The `rows` exchanges whose cause costs most: indices into result->exchanges; free(). */
size_t *skew_time_worst(const struct skew_time_result *result, size_t *rows);
/** The `rows` steps whose causes cost most: indices into result->steps; free(). */
size_t *skew_time_worst_steps(const struct skew_time_result *result, size_t *rows);
/** The rank that its cause is about: the last, or that of the busiest port. */
uint32_t skew_time_rank_of(const struct skew_time_exchange *exchange);

/** Mean over exchanges of one role of the parts. False: there is none. */
struct skew_time_parts {
    size_t exchanges, beyond;
    double wait_mean, wait_max, lag, by_load, transfer, latency, balanced, skew, unexplained;
    struct skew_time_range exposed, hidden; /* hidden: NaN where it is not known of all */
};
bool skew_time_parts_of(const struct skew_time_result *result, enum skew_time_role role,
                        struct skew_time_parts *parts);

#endif
