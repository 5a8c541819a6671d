/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run left in the trace, for the one line at its end.
 */
#ifndef SKEW_RUN_SUMMARY_H
#define SKEW_RUN_SUMMARY_H

#include <stdbool.h>
#include <stdint.h>

struct skew_run_found {
    bool in_trace;   /* the run is in one of the databases */
    char path[4200]; /* the database that holds it, or the output directory */
    uint64_t processes;
    uint64_t exchanges;  /* stored */
    uint64_t operations; /* stored, that are no exchanges */
    uint64_t lost_exchanges;
    uint64_t returned_groups, stored_groups, lost_groups;
};

/** Looks the run `id` up in all databases of `out`; 0 or a negative errno (nothing to read). */
int skew_run_find(struct skew_run_found *found, const char *out, const char *id);

#endif
