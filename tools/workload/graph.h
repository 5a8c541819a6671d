/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decode step in a CUDA graph (--graph).
 */
#ifndef SKEW_WORKLOAD_GRAPH_H
#define SKEW_WORKLOAD_GRAPH_H

#include "workload.h"

/** Records one step's exchanges, captures their NCCL calls once and launches the graph N times. */
void skew_graph_run(struct skew_rank *rank, void (*forward)(struct skew_rank *rank, unsigned step));

#endif
