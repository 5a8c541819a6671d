/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The patterns that pad every expert to a capacity, so that all sizes are equal and say nothing
 * about the routing: DeepSpeed's MOELayer with and without dropping, and Tutel's default. Buffers
 * are [E][C][H]; an expert's tokens fill its slots from 0 upward and unused slots are zero.
 */
#include <math.h>
#include <string.h>

#include "exchange.h"
#include "layer.h"
#include "pattern.h"
#include "results.h"
#include "rows.h"

struct way {
    enum skew_role role;
    enum skew_stage stage;
    bool to_experts;
};

/* The slots of one expert that one source fills. */
static void write_slots(const struct skew_rank *rank, const struct skew_at *at,
                        enum skew_stage stage, unsigned source, unsigned physical,
                        uint32_t capacity, uint8_t *to, size_t row)
{
    uint32_t first = skew_layer_start(rank, source, physical);
    uint32_t rows = skew_layer_count(rank, source, physical);
    uint32_t kept = rows < capacity ? rows : capacity;
    size_t used = skew_rows_write(rank, at, stage, source, first, first + kept, to, row);
    memset(to + used, 0, capacity * row - used);
}

/* At the source: [E][C]. At the holder: [R][E/R][C]. Peer p's part is the same size on both sides.
 */
static void exchange_padded(struct skew_rank *rank, const struct skew_at *at, uint32_t capacity,
                            const struct way *way)
{
    unsigned n = rank->job->ep_size, g = skew_rank_experts(rank), me = rank->ep_rank;
    size_t row = skew_row_bytes(rank, way->role), slots = capacity * row;
    struct skew_exchange *x =
        skew_exchange_open(rank, way->role, SKEW_COMM_EP, at, n * g * slots, n * g * slots);
    uint8_t *own = way->to_experts ? x->send.data : x->expect.data;
    uint8_t *held = way->to_experts ? x->expect.data : x->send.data;
    for (unsigned p = 0; p < n; p++) {
        for (unsigned e = 0; e < g; e++) {
            size_t at_slot = ((size_t)p * g + e) * slots;
            write_slots(rank, at, way->stage, me, p * g + e, capacity, own + at_slot, row);
            write_slots(rank, at, way->stage, p, me * g + e, capacity, held + at_slot, row);
        }
    }
    skew_exchange_rows(x, row);
    skew_exchange_alltoall(rank, x, skew_row_type(rank, way->role),
                           (size_t)g * capacity * rank->job->opt->hidden);
    skew_exchange_run(rank, x);
}

static void forward(struct skew_rank *rank, const struct skew_at *at, uint32_t capacity)
{
    exchange_padded(rank, at, capacity,
                    &(struct way){SKEW_ROLE_DISPATCH, SKEW_STAGE_TO_EXPERT, true});
    exchange_padded(rank, at, capacity,
                    &(struct way){SKEW_ROLE_COMBINE, SKEW_STAGE_FROM_EXPERT, false});
    for (unsigned e = 0; at->phase == SKEW_FORWARD && e < rank->job->opt->experts; e++) {
        uint32_t rows = skew_layer_count(rank, rank->ep_rank, e);
        rank->results->rows_dropped += rows > capacity ? rows - capacity : 0;
    }
}

static void backward(struct skew_rank *rank, const struct skew_at *at, uint32_t capacity)
{
    exchange_padded(rank, at, capacity,
                    &(struct way){SKEW_ROLE_COMBINE_BWD, SKEW_STAGE_GRAD_TO_EXPERT, true});
    exchange_padded(rank, at, capacity,
                    &(struct way){SKEW_ROLE_DISPATCH_BWD, SKEW_STAGE_GRAD_FROM_EXPERT, false});
}

/* sharded_moe.py _capacity(): ceil(T / E * factor * K), at least 4. */
static uint32_t deepspeed_capacity(const struct skew_rank *rank)
{
    const struct skew_options *opt = rank->job->opt;
    double exact = (double)rank->layer->tokens[rank->ep_rank] / opt->experts *
                   (opt->capacity_factor * opt->topk);
    uint32_t capacity = (uint32_t)ceil(exact);
    return capacity < 4 ? 4 : capacity;
}

static void deepspeed_forward(struct skew_rank *rank, const struct skew_at *at)
{
    forward(rank, at, deepspeed_capacity(rank));
}

static void deepspeed_backward(struct skew_rank *rank, const struct skew_at *at)
{
    backward(rank, at, deepspeed_capacity(rank));
}

/* The largest count of any expert on one source. */
static uint32_t largest(const struct skew_rank *rank, unsigned source)
{
    uint32_t most = 0;
    for (unsigned e = 0; e < rank->job->opt->experts; e++) {
        uint32_t rows = skew_layer_count(rank, source, e);
        most = rows > most ? rows : most;
    }
    return most;
}

static uint32_t largest_of_all(const struct skew_rank *rank)
{
    uint32_t most = 0;
    for (unsigned p = 0; p < rank->job->ep_size; p++) {
        uint32_t one = largest(rank, p);
        most = one > most ? one : most;
    }
    return most;
}

static void nodrop_forward(struct skew_rank *rank, const struct skew_at *at)
{
    int64_t mine = largest(rank, rank->ep_rank), agreed = largest_of_all(rank);
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_CAPACITY, SKEW_COMM_EP, at, sizeof mine, sizeof agreed);
    memcpy(x->send.data, &mine, sizeof mine);
    memcpy(x->expect.data, &agreed, sizeof agreed);
    x->in_place = true;
    skew_exchange_call(x, SKEW_CALL_ALLREDUCE, 0, ncclInt64, 1, 0, 0);
    x->calls[0].redop = ncclMax;
    skew_exchange_run(rank, x);
    memcpy(&agreed, skew_exchange_received(rank, x), sizeof agreed);
    forward(rank, at, (uint32_t)agreed);
}

static void nodrop_backward(struct skew_rank *rank, const struct skew_at *at)
{
    backward(rank, at, largest_of_all(rank));
}

/* fast_dispatch.py: K * int(factor * ceil(T / E)). */
static uint32_t tutel_capacity(const struct skew_rank *rank)
{
    const struct skew_options *opt = rank->job->opt;
    unsigned each = (rank->layer->tokens[rank->ep_rank] + opt->experts - 1) / opt->experts;
    uint32_t capacity = opt->topk * (uint32_t)(opt->capacity_factor * each);
    return capacity ? capacity : 1;
}

static void tutel_forward(struct skew_rank *rank, const struct skew_at *at)
{
    forward(rank, at, tutel_capacity(rank));
}

static void tutel_backward(struct skew_rank *rank, const struct skew_at *at)
{
    backward(rank, at, tutel_capacity(rank));
}

const struct skew_pattern skew_pattern_deepspeed = {
    .name = "deepspeed",
    .help = "capacity padded: uniform ncclAlltoAll there and back; what does not fit is dropped",
    .comms = 1u << SKEW_COMM_EP,
    .train = true,
    .static_sizes = true,
    .even_tokens = true,
    .bias = ncclFloat32,
    .forward = deepspeed_forward,
    .backward = deepspeed_backward,
};

const struct skew_pattern skew_pattern_deepspeed_nodrop = {
    .name = "deepspeed-nodrop",
    .help = "the capacity is the largest count, agreed by an all-reduce (max); then ncclAlltoAll",
    .comms = 1u << SKEW_COMM_EP,
    .train = true,
    .bias = ncclFloat32,
    .forward = nodrop_forward,
    .backward = nodrop_backward,
};

const struct skew_pattern skew_pattern_tutel_padded = {
    .name = "tutel-padded",
    .help = "Tutel's default: capacity padded ncclAlltoAll",
    .comms = 1u << SKEW_COMM_EP,
    .train = true,
    .static_sizes = true,
    .even_tokens = true,
    .bias = ncclFloat32,
    .forward = tutel_forward,
    .backward = tutel_backward,
};
