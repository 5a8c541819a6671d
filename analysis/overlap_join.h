/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts of experts and kernels of a device-initiated backend of the same run: how long a dispatch,
 * a combine and the experts between them take for the token copies that they move, although no call
 * on the host ever told a size. docs/overlap.md has the conventions. One thread.
 */
#ifndef SKEW_OVERLAP_JOIN_H
#define SKEW_OVERLAP_JOIN_H

#include "overlap.h"
#include "routing.h"
#include "time_analysis.h"

/** One backend. Times are ns, sizes token copies (a token that goes to k experts counts k times).
 */
struct skew_overlap_joined {
    const char *backend; /* static */
    char why[240];       /* why its rounds are not those of the counts; empty: they are */
    size_t rounds;       /* of a rank: from a dispatch to its combine */
    size_t calls;        /* of the counts: layers and steps */
    bool one_clock;      /* all ranks are in one database: else transfers are shortest durations */
    double busiest, received;      /* means: copies of the busiest port, of a rank */
    struct skew_time_fit dispatch; /* transfer by copies of the busiest port, one a call */
    struct skew_time_fit combine;  /* likewise, the same copies backwards */
    struct skew_time_fit experts;  /* kernels by copies received, one a rank and call */
};

/**
 * @param all      [count] of skew_overlap_read(), with their traces
 * @param routing  finished, kept with SKEW_ROUTING_CUBE
 * @return 0 and one result for each backend with rounds (*out, the caller frees), or -ENOMEM or
 *         another negative errno with `error` set. Nothing is guessed: the n-th round of a rank is
 *         the n-th call of the counts only where there are as many of both.
 */
int skew_overlap_join(const struct skew_overlap *all, struct skew_trace *const *traces,
                      size_t count, const struct skew_routing *routing,
                      struct skew_overlap_joined **out, size_t *out_count,
                      struct skew_error *error);

#endif
