/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sequence parallel all-to-alls, pipeline sends and the expert-bias all-reduce. Belongs to one
 * rank.
 */
#include <stdlib.h>
#include <string.h>

#include "exchange.h"
#include "extras.h"
#include "layer.h"
#include "pattern.h"
#include "placement.h"
#include "routing.h"
#include "rows.h"
#include "schedule.h"

/* One block of bytes from one rank to another, told apart by `which`. */
static void write_block(const struct skew_at *at, enum skew_stage stage, unsigned from, unsigned to,
                        unsigned which, uint8_t *data, size_t bytes)
{
    uint8_t head[sizeof(struct skew_tag)];
    const struct skew_tag tag = {.token = which,
                                 .source = (uint16_t)from,
                                 .expert = (uint16_t)to,
                                 .layer = (uint16_t)at->layer,
                                 .step = (uint16_t)at->step,
                                 .micro_batch = (uint8_t)at->micro_batch,
                                 .slot = (uint8_t)at->phase,
                                 .stage = (uint8_t)stage};
    if (bytes >= sizeof head) {
        skew_tag_write(data, bytes, &tag);
        return;
    }
    skew_tag_write(head, sizeof head, &tag);
    memcpy(data, head, bytes);
}

void skew_extra_sequence(struct skew_rank *rank, const struct skew_at *at)
{
    const struct skew_job *job = rank->job;
    const struct skew_comm *comm = &rank->comm[SKEW_COMM_SP];
    size_t elements = (size_t)job->opt->tokens * job->opt->hidden / comm->size;
    size_t bytes = elements * job->combine_elem_bytes;
    for (unsigned which = 0; which < 4; which++) {
        struct skew_exchange *x = skew_exchange_open(rank, SKEW_ROLE_SEQUENCE, SKEW_COMM_SP, at,
                                                     comm->size * bytes, comm->size * bytes);
        for (unsigned p = 0; p < comm->size; p++) {
            write_block(at, SKEW_STAGE_SEQUENCE, comm->rank, p, which, x->send.data + p * bytes,
                        bytes);
            write_block(at, SKEW_STAGE_SEQUENCE, p, comm->rank, which, x->expect.data + p * bytes,
                        bytes);
        }
        skew_exchange_alltoall(rank, x, job->combine_dtype, elements);
        skew_exchange_run(rank, x);
    }
}

void skew_extra_pipeline(struct skew_rank *rank, const struct skew_at *at)
{
    const struct skew_job *job = rank->job;
    const struct skew_comm *comm = &rank->comm[SKEW_COMM_PP];
    unsigned up = (comm->rank + 1) % comm->size, down = (comm->rank + comm->size - 1) % comm->size;
    unsigned to = at->phase == SKEW_BACKWARD ? down : up;
    unsigned from = at->phase == SKEW_BACKWARD ? up : down;
    size_t elements = (size_t)job->opt->tokens * job->opt->hidden;
    size_t bytes = elements * job->combine_elem_bytes;
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_PIPELINE, SKEW_COMM_PP, at, bytes, bytes);
    write_block(at, SKEW_STAGE_ACTIVATION, comm->rank, to, 0, x->send.data, bytes);
    write_block(at, SKEW_STAGE_ACTIVATION, from, comm->rank, 0, x->expect.data, bytes);
    skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, job->combine_dtype, 0, 0, 0);
    skew_exchange_call(x, SKEW_CALL_SEND, to, job->combine_dtype, elements, 0, 0);
    skew_exchange_call(x, SKEW_CALL_RECV, from, job->combine_dtype, elements, 0, 0);
    skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, job->combine_dtype, 0, 0, 0);
    skew_exchange_run(rank, x);
}

static void put_count(ncclDataType_t type, uint8_t *at, size_t index, uint64_t value)
{
    if (type == ncclInt64)
        memcpy(at + 8 * index, &(int64_t){(int64_t)value}, 8);
    else if (type == ncclInt32)
        memcpy(at + 4 * index, &(int32_t){(int32_t)value}, 4);
    else
        memcpy(at + 4 * index, &(float){(float)value}, 4);
}

/* Adds one world rank's tokens of the step to tokens[L][E], by physical expert. */
static void add_tokens(const struct skew_rank *rank, unsigned step, unsigned world,
                       uint64_t *tokens)
{
    const struct skew_job *job = rank->job;
    const struct skew_options *opt = job->opt;
    for (unsigned m = 0; m < opt->micro_batches; m++) {
        unsigned block = step * opt->micro_batches + m;
        size_t n = (size_t)skew_routing_tokens(job->routing, block, world) * opt->topk;
        uint16_t *ids = skew_xrealloc(NULL, n * sizeof *ids);
        for (unsigned l = 0; l < opt->layers; l++) {
            const uint16_t *physical = skew_placement_physical(job->placement, l);
            unsigned times = job->pattern->bias_recomputed && skew_layer_recomputed(job, l) ? 2 : 1;
            skew_routing_fill(job->routing, block, l, world, ids);
            for (size_t i = 0; i < n; i++)
                tokens[(size_t)l * opt->experts + physical[ids[i]]] += times;
        }
        free(ids);
    }
}

void skew_extra_bias(struct skew_rank *rank, unsigned step)
{
    const struct skew_options *opt = rank->job->opt;
    ncclDataType_t type = rank->job->pattern->bias;
    size_t cells = (size_t)opt->layers * opt->experts, bytes = cells * skew_nccl_type_size(type);
    const struct skew_at at = {.step = step, .phase = SKEW_BACKWARD};
    uint64_t *tokens = skew_xrealloc(NULL, cells * sizeof *tokens);
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_BIAS, SKEW_COMM_DP, &at, bytes, bytes);
    memset(tokens, 0, cells * sizeof *tokens);
    add_tokens(rank, step, rank->world_rank, tokens);
    for (size_t i = 0; i < cells; i++)
        put_count(type, x->send.data, i, tokens[i]);
    for (unsigned w = 0; w < opt->ranks; w++)
        if (w != rank->world_rank)
            add_tokens(rank, step, w, tokens);
    for (size_t i = 0; i < cells; i++)
        put_count(type, x->expect.data, i, tokens[i]);
    free(tokens);
    x->in_place = true;
    skew_exchange_call(x, SKEW_CALL_ALLREDUCE, 0, type, cells, 0, 0);
    skew_exchange_run(rank, x);
}
