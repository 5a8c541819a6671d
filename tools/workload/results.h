/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one rank did, in one flat block that can cross a mapping or a file: written by its rank,
 * read by the reporter after that rank has ended.
 */
#ifndef SKEW_WORKLOAD_RESULTS_H
#define SKEW_WORKLOAD_RESULTS_H

#include "workload.h"

struct skew_results {
    uint64_t finished;
    uint64_t rows_sent;    /* token copies that went to an expert and came back to their place */
    uint64_t rows_dropped; /* did not fit into the capacity */
    uint64_t launches;     /* of the graph */
    uint64_t wall_ns;      /* of the steps */
    uint64_t calls[SKEW_ROLES]; /* outermost groups, or single calls */
    uint64_t
        collective_bytes[SKEW_ROLES]; /* what was given to collectives other than all-to-alls */
    uint64_t cell[]; /* bytes[SKEW_ROLES][ranks] sent to each peer; tokens[layers][experts] */
};

size_t skew_results_bytes(const struct skew_options *opt);
uint64_t *skew_results_sent(struct skew_results *r, const struct skew_options *opt, int role);
uint64_t *skew_results_tokens(struct skew_results *r, const struct skew_options *opt,
                              unsigned layer);

const char *skew_role_name(enum skew_role role);
const char *skew_phase_name(enum skew_phase phase);

/** Prints the report of all ranks' results on stdout. */
void skew_report(const struct skew_job *job);

#endif
