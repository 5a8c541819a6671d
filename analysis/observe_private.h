/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the files of the observatory; nothing else includes this.
 */
#ifndef SKEW_OBSERVE_PRIVATE_H
#define SKEW_OBSERVE_PRIVATE_H

#include "observe.h"

/** Fills numbers and series of `run` from counts. 0 or -ENOMEM. */
int skew_observe_run_fill(struct skew_observe_run *run, const struct skew_routing *routing,
                          uint32_t ranks, uint32_t topk,
                          const struct skew_observe_options *options);

/** As strcmp, but whole numbers by size. */
int skew_observe_value_compare(const char *a, const char *b);

/** Whether two runs are of the very same calls: as many tokens, spread over experts alike, in each.
 */
bool skew_observe_same_tokens(const struct skew_observe_run *a, const struct skew_observe_run *b);

/** All changes between cells. 0 or -ENOMEM. */
int skew_observe_compare(struct skew_observe *observe);

#endif
