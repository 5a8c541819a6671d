/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ground truth: one JSON line for each outermost NCCL group, or single call, that the workload
 * made (docs/workload.md). Every rank writes its own part; the reporter joins them in the order of
 * ranks.
 */
#ifndef SKEW_WORKLOAD_TRUTH_H
#define SKEW_WORKLOAD_TRUTH_H

#include "workload.h"

/** Opens this rank's part, if --truth was given. */
void skew_truth_open(struct skew_rank *rank);
void skew_truth_close(struct skew_rank *rank);

/** Writes an exchange's lines. */
void skew_truth_exchange(const struct skew_rank *rank, const struct skew_exchange *x);
/** Writes that the recorded step was launched once, with the routing of `step`. */
void skew_truth_launch(const struct skew_rank *rank, unsigned launch, unsigned step);

/** Joins the parts of all ranks into FILE and removes them. 0 or a negative errno. */
int skew_truth_join(const char *path, unsigned ranks);

#endif
