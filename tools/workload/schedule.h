/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order in which a pipeline stage runs the forward and backward passes of a step's
 * micro-batches.
 */
#ifndef SKEW_WORKLOAD_SCHEDULE_H
#define SKEW_WORKLOAD_SCHEDULE_H

#include "workload.h"

struct skew_pass {
    bool backward;
    unsigned micro_batch, chunk;
};

/**
 * Lists the passes of one step. The caller frees *out.
 * @return the number of passes, or a negative errno with a sentence in `error`
 */
int skew_schedule_make(struct skew_pass **out, const struct skew_options *opt, bool backward,
                       char *error, unsigned long error_size);

/** Whether a layer's forward runs again before its backward. */
bool skew_layer_recomputed(const struct skew_job *job, unsigned layer);

#endif
