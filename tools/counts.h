/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Per-expert counts of all databases of a trace, for commands: from table routing, else from the
 * taps of the trace, with layer and step from labels where rows do not have them.
 */
#ifndef SKEW_COUNTS_H
#define SKEW_COUNTS_H

#include "labelling.h"
#include "routing.h"

struct skew_counts_options {
    struct skew_routing_filter filter;
    struct skew_label_options labels;
    uint32_t experts; /* where taps do not say; 0: not known */
    unsigned keep;    /* enum skew_routing_keep */
};

/** What label `topk` of the runs says, for traces whose counts do not say it (a Megatron count
 * exchange); 0: there is none, or runs differ. */
uint32_t skew_counts_topk(const struct skew_reading *reading);

/**
 * Reads and finishes; without any counts there are no layers.
 * @return 0, or a negative errno after one sentence. The caller owns *out.
 */
int skew_counts_read(struct skew_routing **out, const struct skew_reading *reading,
                     const struct skew_counts_options *options);

#endif
