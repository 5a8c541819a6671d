/* SPDX-License-Identifier: Apache-2.0 */
/* The truth file of a synthetic job; its keys are documented in docs/synth.md. */
#ifndef SKEW_SYNTH_TRUTH_H
#define SKEW_SYNTH_TRUTH_H

#include "synth.h"

struct synth_truth;

/** Refuses (−EEXIST) when there is such a file. */
int synth_truth_open(struct synth_truth **out, const struct skew_synth *synth, const char *path,
                     struct skew_synth_error *error);
int synth_truth_exchange(struct synth_truth *truth, const struct skew_synth_exchange *exchange);
int synth_truth_late(struct synth_truth *truth, const struct skew_synth_late *late);
/** Writes the file. */
int synth_truth_finish(struct synth_truth *truth, struct skew_synth_error *error);
void synth_truth_free(struct synth_truth **truth);

#endif
