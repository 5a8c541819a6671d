/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The routing of one MoE layer in one micro-batch, for all ranks of an EP group, in the order in
 * which frameworks lay tokens out: by physical expert, then by token. A copy of a token on its way
 * to one expert is a row.
 */
#ifndef SKEW_WORKLOAD_LAYER_H
#define SKEW_WORKLOAD_LAYER_H

#include "workload.h"

struct skew_row {
    uint32_t token;  /* of its source rank in the micro-batch */
    uint16_t expert; /* logical id */
    uint8_t slot;    /* which of the token's K choices */
};

struct skew_layer {
    bool loaded;
    unsigned step, micro_batch, layer;
    unsigned *tokens;      /* [sources] */
    uint16_t **ids;        /* [sources]: [tokens][topk] logical ids, as routed */
    struct skew_row **row; /* [sources]: rows sorted by physical expert, then token */
    uint32_t *start;       /* [sources][experts + 1]: first row of each physical expert */
};

/** Makes rank->layer hold the routing at `at`; keeps it when it already does. */
void skew_layer_load(struct skew_rank *rank, const struct skew_at *at);
void skew_layer_free(struct skew_rank *rank);

/** First row of a physical expert, or the end of the last one's rows for expert = E. */
uint32_t skew_layer_start(const struct skew_rank *rank, unsigned source, unsigned physical);

/** Rows that a source sends to a physical expert. */
uint32_t skew_layer_count(const struct skew_rank *rank, unsigned source, unsigned physical);

/** Rows that a source sends to a rank of its EP group. */
uint32_t skew_layer_rows_between(const struct skew_rank *rank, unsigned source, unsigned dest);

/** Experts a rank; the rank of the EP group that a world rank is. */
unsigned skew_rank_experts(const struct skew_rank *rank);
unsigned skew_rank_world_of(const struct skew_rank *rank, unsigned ep_rank);

#endif
