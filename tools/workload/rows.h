/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What travels: a row is one token's copy, `row_bytes` long, that starts with a tag saying whose
 * token it is and on which way, filled up with bytes that follow from the tag. So a row that
 * arrives in the wrong place, or cut, or at the wrong time, is seen and can be named.
 */
#ifndef SKEW_WORKLOAD_ROWS_H
#define SKEW_WORKLOAD_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "workload.h"

enum skew_stage {
    SKEW_STAGE_TO_EXPERT = 1,
    SKEW_STAGE_FROM_EXPERT,
    SKEW_STAGE_GRAD_TO_EXPERT,
    SKEW_STAGE_GRAD_FROM_EXPERT,
    SKEW_STAGE_GATHERED,
    SKEW_STAGE_ACTIVATION,
    SKEW_STAGE_SEQUENCE
};

struct skew_tag {
    uint32_t token;
    uint16_t source; /* world rank */
    uint16_t expert;
    uint16_t layer;
    uint16_t step;
    uint8_t micro_batch;
    uint8_t slot;
    uint8_t stage;
    uint8_t holder; /* rank of the EP group that the expert is on */
};

_Static_assert(sizeof(struct skew_tag) == 16, "a tag fills 16 bytes of each row");

void skew_tag_write(uint8_t *row, size_t row_bytes, const struct skew_tag *tag);

/** What a received row claims to be, as text for an error. */
void skew_tag_describe(const uint8_t *row, char *text, size_t size);

/**
 * Writes rows [first, end) of a source as they are on the way given by `stage`.
 * @return bytes written: (end - first) * row_bytes
 */
size_t skew_rows_write(const struct skew_rank *rank, const struct skew_at *at,
                       enum skew_stage stage, unsigned source, uint32_t first, uint32_t end,
                       uint8_t *to, size_t row_bytes);

/** Likewise the gate's probability of each row: one fp32. */
size_t skew_rows_write_probs(const struct skew_rank *rank, const struct skew_at *at,
                             enum skew_stage stage, unsigned source, uint32_t first, uint32_t end,
                             uint8_t *to);

/** The gate's probability for one choice of one token. */
float skew_row_prob(unsigned source_world, unsigned layer, uint32_t token, unsigned slot);

#endif
