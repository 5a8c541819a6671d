/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counterfactual sizes of the calls of MoE layers, in token copies: what uniformly random routing
 * of the same tokens would have sent, and what another placement of the experts would have.
 */
#ifndef SKEW_TIME_CALLS_H
#define SKEW_TIME_CALLS_H

#include "time_private.h"

#define SKEW_TIME_DRAWS 4 /* of uniform routing, for each call */

/** One call of one layer: a dispatch and what belongs to it. */
struct skew_time_call {
    int64_t step, layer, microbatch;
    double copies;        /* tokens times experts chosen, of all ranks; 0: not known */
    double experts, topk; /* 0: not known */
    uint32_t sources;     /* whose routing is there */
    bool placed;          /* `place_…` are filled, from all sources */
    double place_busiest; /* copies at the busiest port */
    double uniform_busiest[SKEW_TIME_DRAWS];
};

struct skew_time_calls {
    uint32_t ranks;
    size_t count, table_size;
    size_t *table;
    struct skew_time_call *calls;
    double *own;                  /* [calls][ranks] copies that a rank sends, its own included */
    double *place_load;           /* [calls][ranks] copies, a rank's own included */
    double *place_in, *place_out; /* … without */
    double *uniform_load;         /* [calls][SKEW_TIME_DRAWS][ranks] */
    int64_t middle;               /* first step of the second half */
    char why_not[200];            /* no placement */
};

/** Finds the calls of the work's exchanges and their copies; `router` may be NULL. */
int skew_time_calls_create(struct skew_time_calls *calls, const struct skew_time_work *work,
                           const struct skew_time_router *router);
void skew_time_calls_free(struct skew_time_calls *calls);
/** The call of an exchange, or NULL. */
const struct skew_time_call *skew_time_call_of(const struct skew_time_calls *calls,
                                               const struct skew_time_exchange *exchange);

#endif
