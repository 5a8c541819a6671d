/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much of what happened is in a trace, and what recording it has cost: said beside the result
 * of every command, as one line of text and as the objects `groups` and `own_cost` of every --json
 * (docs/cli.md).
 */
#ifndef SKEW_COVERAGE_H
#define SKEW_COVERAGE_H

#include <jansson.h>

#include "reading.h"

struct skew_coverage {
    uint64_t returned; /* groups: the M */
    uint64_t stored;   /* the N */
    uint64_t lost;     /* of the rest, those whose reason is known */
    /* What the library measured of itself while it ran (table overhead). */
    uint64_t measured_groups; /* ends of groups of which the cost was taken; 0: it never was */
    uint64_t measured_ns;     /* of the host's time, in them all */
    uint64_t setup_ns;        /* once a process, in all of them */
    uint64_t events;          /* CUDA events on the application's streams */
    uint64_t event_ns;        /* device time of one, at most */
    uint64_t cupti_records, cupti_dropped;
    double share_of_wall; /* of the process with the largest; < 0: no process said when it ended */
    bool event_known;
};

/**
 * Adds what all databases of `reading` say to what is there: begin with zeros.
 * @return 0, or a negative errno after one sentence.
 */
int skew_coverage_read(struct skew_coverage *coverage, const struct skew_reading *reading);

/** {captured, of, lost} */
json_t *skew_json_coverage(const struct skew_coverage *coverage);
/** What recording has cost; null for what was not measured. */
json_t *skew_json_own_cost(const struct skew_coverage *coverage);
/** Both, as keys `groups` and `own_cost` of `root`, which may be NULL. Returns `root`. */
json_t *skew_json_with_coverage(json_t *root, const struct skew_coverage *coverage);

/** One line: "captured N of M groups; own cost: …". */
void skew_coverage_print(const struct skew_coverage *coverage);
/** "own cost: …", without an end of line. */
void skew_own_cost_print(const struct skew_coverage *coverage);

/** One row of sums over a database: section `overhead` of `skewscope info`, too. */
extern const char skew_own_cost_sql[];

#endif
