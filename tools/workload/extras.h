/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traffic that is not expert dispatch and must not be taken for it.
 */
#ifndef SKEW_WORKLOAD_EXTRAS_H
#define SKEW_WORKLOAD_EXTRAS_H

#include "workload.h"

/** Ulysses sequence parallelism: one ncclAlltoAll each for query, key, value and output. */
void skew_extra_sequence(struct skew_rank *rank, const struct skew_at *at);
/** Activations (or gradients) to the next and from the previous of a ring, in one group. */
void skew_extra_pipeline(struct skew_rank *rank, const struct skew_at *at);
/** All-reduce of the step's token counts [L][E], as aux-loss-free balancing does once a step. */
void skew_extra_bias(struct skew_rank *rank, unsigned step);

#endif
