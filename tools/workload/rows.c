/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes and names rows. Pure functions of the routing; used by the sender for what it sends and by
 * the receiver for what it must get.
 */
#include <string.h>

#include "layer.h"
#include "placement.h"
#include "rng.h"
#include "rows.h"

void skew_tag_write(uint8_t *row, size_t row_bytes, const struct skew_tag *tag)
{
    uint64_t word[2];
    memcpy(word, tag, sizeof word);
    uint8_t fill = (uint8_t)skew_mix64(word[0] ^ skew_mix64(word[1]));
    memcpy(row, tag, sizeof *tag);
    for (size_t i = sizeof *tag; i < row_bytes; i++)
        row[i] = (uint8_t)(fill + 13 * i);
}

void skew_tag_describe(const uint8_t *row, char *text, size_t size)
{
    struct skew_tag tag;
    memcpy(&tag, row, sizeof tag);
    snprintf(
        text, size,
        "token %u of rank %u for expert %u (step %u, micro-batch %u, layer %u, choice %u, stage "
        "%u, held by %u)",
        tag.token, tag.source, tag.expert, tag.step, tag.micro_batch, tag.layer, tag.slot,
        tag.stage, tag.holder);
}

size_t skew_rows_write(const struct skew_rank *rank, const struct skew_at *at,
                       enum skew_stage stage, unsigned source, uint32_t first, uint32_t end,
                       uint8_t *to, size_t row_bytes)
{
    const struct skew_placement *p = rank->job->placement;
    const uint16_t *physical = skew_placement_physical(p, at->layer);
    for (uint32_t i = first; i < end; i++) {
        const struct skew_row *row = &rank->layer->row[source][i];
        const struct skew_tag tag = {
            .token = row->token,
            .source = (uint16_t)skew_rank_world_of(rank, source),
            .expert = row->expert,
            .layer = (uint16_t)at->layer,
            .step = (uint16_t)at->step,
            .micro_batch = (uint8_t)at->micro_batch,
            .slot = row->slot,
            .stage = (uint8_t)stage,
            .holder = (uint8_t)(physical[row->expert] / p->per_rank),
        };
        skew_tag_write(to, row_bytes, &tag);
        to += row_bytes;
    }
    return (size_t)(end - first) * row_bytes;
}

float skew_row_prob(unsigned source_world, unsigned layer, uint32_t token, unsigned slot)
{
    uint64_t h = skew_mix64((uint64_t)source_world << 48 | (uint64_t)layer << 40 |
                            (uint64_t)slot << 32 | token);
    return (float)(1 + h % 1023) / 1024.0f;
}

size_t skew_rows_write_probs(const struct skew_rank *rank, const struct skew_at *at,
                             enum skew_stage stage, unsigned source, uint32_t first, uint32_t end,
                             uint8_t *to)
{
    unsigned world = skew_rank_world_of(rank, source);
    for (uint32_t i = first; i < end; i++) {
        const struct skew_row *row = &rank->layer->row[source][i];
        float prob = skew_row_prob(world, at->layer, row->token, row->slot) + (float)stage;
        memcpy(to, &prob, sizeof prob);
        to += sizeof prob;
    }
    return (size_t)(end - first) * sizeof(float);
}
