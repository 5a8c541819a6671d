/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pattern is one framework's way of exchanging tokens. Its forward and backward run on a rank
 * whose layer (layer.h) is loaded; they open, fill and run exchanges in the order of the
 * framework's calls.
 */
#ifndef SKEW_WORKLOAD_PATTERN_H
#define SKEW_WORKLOAD_PATTERN_H

#include "workload.h"

struct skew_pattern {
    const char *name, *help;
    unsigned comms;       /* 1 << enum skew_comm_role */
    bool train;           /* has a backward, which --mode auto runs */
    bool static_sizes;    /* sizes do not follow from the routing: a graph can be replayed on other
                             tokens */
    bool even_tokens;     /* needs equally many tokens on all ranks */
    ncclDataType_t bias;  /* of the all-reduced expert counts */
    bool bias_recomputed; /* recomputation counts its tokens again, as torchtitan's buffer does */
    void (*forward)(struct skew_rank *rank, const struct skew_at *at);
    void (*backward)(struct skew_rank *rank, const struct skew_at *at);
};

/** All patterns, ended by NULL. */
extern const struct skew_pattern *const skew_patterns[];

const struct skew_pattern *skew_pattern_find(const char *name);

extern const struct skew_pattern skew_pattern_megatron, skew_pattern_torchtitan,
    skew_pattern_autoep, skew_pattern_colossalai, skew_pattern_tutel, skew_pattern_tutel_padded,
    skew_pattern_fastmoe, skew_pattern_deepspeed, skew_pattern_deepspeed_nodrop, skew_pattern_vllm,
    skew_pattern_xla_ragged;

/** Bytes of a row on its way to (or as a gradient from) an expert, and back. */
size_t skew_row_bytes(const struct skew_rank *rank, enum skew_role role);
/** NCCL's type for those rows. */
ncclDataType_t skew_row_type(const struct skew_rank *rank, enum skew_role role);

#endif
