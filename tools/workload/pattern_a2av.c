/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The patterns that tell each other token counts and then exchange exactly that many tokens:
 * Megatron-LM, torchtitan, DeepSpeed AutoEP, ColossalAI and Tutel's batch_all_to_all_v. They differ
 * in how the counts travel and in what else does; tokens always go as one group of R sends and R
 * receives, self and zero sizes included, as PyTorch's all_to_all_single with split sizes issues
 * them.
 */
#include <stdlib.h>
#include <string.h>

#include "exchange.h"
#include "layer.h"
#include "pattern.h"
#include "rows.h"

/* Rows to and from each peer. */
struct splits {
    uint32_t *to_expert; /* that this rank's tokens need on each peer */
    uint32_t *from_peer; /* that each peer's tokens need here, as the counts told */
};

static unsigned peers(const struct skew_rank *rank)
{
    return rank->job->ep_size;
}

static struct splits splits_new(const struct skew_rank *rank)
{
    struct splits s = {skew_xrealloc(NULL, peers(rank) * sizeof(uint32_t)),
                       skew_xrealloc(NULL, peers(rank) * sizeof(uint32_t))};
    for (unsigned p = 0; p < peers(rank); p++)
        s.to_expert[p] = skew_layer_rows_between(rank, rank->ep_rank, p);
    return s;
}

static void splits_free(struct splits *s)
{
    free(s->to_expert);
    free(s->from_peer);
}

/* Backward has no count exchange: autograd kept the splits of the forward. */
static struct splits splits_kept(const struct skew_rank *rank)
{
    struct splits s = splits_new(rank);
    for (unsigned p = 0; p < peers(rank); p++)
        s.from_peer[p] = skew_layer_rows_between(rank, p, rank->ep_rank);
    return s;
}

static void put(uint8_t *at, ncclDataType_t type, size_t index, uint32_t value)
{
    if (type == ncclInt32)
        memcpy(at + 4 * index, &(int32_t){(int32_t)value}, 4);
    else
        memcpy(at + 8 * index, &(int64_t){value}, 8);
}

static uint32_t get(const uint8_t *at, ncclDataType_t type, size_t index)
{
    int32_t narrow;
    int64_t wide;
    if (type == ncclInt32) {
        memcpy(&narrow, at + 4 * index, 4);
        return (uint32_t)narrow;
    }
    memcpy(&wide, at + 8 * index, 8);
    return (uint32_t)wide;
}

/* The group that PyTorch makes of all_to_all_single: for each peer a send, then a receive. */
static void call_group(struct skew_exchange *x, unsigned n, ncclDataType_t type,
                       const uint32_t *send, const uint32_t *recv, size_t elements)
{
    size_t send_at = 0, recv_at = 0, unit = elements * skew_nccl_type_size(type);
    skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, type, 0, 0, 0);
    for (unsigned p = 0; p < n; p++) {
        skew_exchange_call(x, SKEW_CALL_SEND, p, type, send[p] * elements, send_at, 0);
        skew_exchange_call(x, SKEW_CALL_RECV, p, type, recv[p] * elements, 0, recv_at);
        send_at += send[p] * unit;
        recv_at += recv[p] * unit;
    }
    skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, type, 0, 0, 0);
}

/* ---- counts */

/* Megatron: every rank gets the whole [R][E] matrix. */
static struct splits count_allgather(struct skew_rank *rank, const struct skew_at *at)
{
    unsigned e_total = rank->job->opt->experts, g = skew_rank_experts(rank);
    size_t bytes = e_total * sizeof(int64_t);
    struct splits s = splits_new(rank);
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_COUNT, SKEW_COMM_TP_EP, at, bytes, bytes * peers(rank));
    for (unsigned p = 0; p < peers(rank); p++)
        for (unsigned e = 0; e < e_total; e++)
            put(x->expect.data, ncclInt64, (size_t)p * e_total + e, skew_layer_count(rank, p, e));
    memcpy(x->send.data, x->expect.data + rank->ep_rank * bytes, bytes);
    skew_exchange_call(x, SKEW_CALL_ALLGATHER, 0, ncclInt64, e_total, 0, 0);
    skew_exchange_run(rank, x);
    const uint8_t *got = skew_exchange_received(rank, x);
    for (unsigned p = 0; p < peers(rank); p++) {
        s.from_peer[p] = 0;
        for (unsigned e = 0; e < g; e++)
            s.from_peer[p] += get(got, ncclInt64, (size_t)p * e_total + rank->ep_rank * g + e);
    }
    return s;
}

/* An all-to-all of `width` numbers a peer: each rank learns what is meant for its own experts.
 * Width 1 carries the sum over the experts (Tutel). */
static struct splits count_alltoall(struct skew_rank *rank, const struct skew_at *at,
                                    ncclDataType_t type, unsigned width, bool as_group)
{
    unsigned n = peers(rank), g = skew_rank_experts(rank), me = rank->ep_rank;
    size_t bytes = (size_t)width * skew_nccl_type_size(type) * n;
    struct splits s = splits_new(rank);
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_COUNT, SKEW_COMM_EP, at, bytes, bytes);
    for (unsigned p = 0; p < n; p++) {
        for (unsigned i = 0; i < width; i++) {
            size_t cell = (size_t)p * width + i;
            bool sum = width != g;
            put(x->send.data, type, cell,
                sum ? s.to_expert[p] : skew_layer_count(rank, me, p * g + i));
            put(x->expect.data, type, cell,
                sum ? skew_layer_rows_between(rank, p, me) : skew_layer_count(rank, p, me * g + i));
        }
    }
    if (as_group) {
        uint32_t *ones = skew_xrealloc(NULL, n * sizeof *ones);
        for (unsigned p = 0; p < n; p++)
            ones[p] = 1;
        call_group(x, n, type, ones, ones, width);
        free(ones);
    } else {
        skew_exchange_alltoall(rank, x, type, width);
    }
    skew_exchange_run(rank, x);
    const uint8_t *got = skew_exchange_received(rank, x);
    for (unsigned p = 0; p < n; p++) {
        s.from_peer[p] = 0;
        for (unsigned i = 0; i < width; i++)
            s.from_peer[p] += get(got, type, (size_t)p * width + i);
    }
    return s;
}

/* ---- tokens and probabilities */

struct way {
    enum skew_role role;
    enum skew_stage stage;
    bool to_experts;
    bool probs;
    bool as_bytes; /* Tutel hands NCCL int8 */
};

static uint32_t sum(const uint32_t *v, unsigned n)
{
    uint32_t s = 0;
    for (unsigned i = 0; i < n; i++)
        s += v[i];
    return s;
}

/* One source's rows that have to do with one holder, as they look on this way. */
static size_t write_way(const struct skew_rank *rank, const struct skew_at *at,
                        const struct way *way, unsigned source, unsigned holder, uint8_t *to,
                        size_t row_bytes)
{
    unsigned g = skew_rank_experts(rank);
    uint32_t first = skew_layer_start(rank, source, holder * g);
    uint32_t end = skew_layer_start(rank, source, (holder + 1) * g);
    if (way->probs)
        return skew_rows_write_probs(rank, at, way->stage, source, first, end, to);
    return skew_rows_write(rank, at, way->stage, source, first, end, to, row_bytes);
}

static void exchange_rows(struct skew_rank *rank, const struct skew_at *at, const struct splits *s,
                          const struct way *way)
{
    unsigned n = peers(rank), me = rank->ep_rank;
    const uint32_t *send = way->to_experts ? s->to_expert : s->from_peer;
    const uint32_t *recv = way->to_experts ? s->from_peer : s->to_expert;
    size_t row = way->probs ? sizeof(float) : skew_row_bytes(rank, way->role);
    ncclDataType_t type = way->as_bytes ? ncclInt8
                          : way->probs  ? ncclFloat32
                                        : skew_row_type(rank, way->role);
    struct skew_exchange *x = skew_exchange_open(rank, way->role, SKEW_COMM_EP, at,
                                                 sum(send, n) * row, sum(recv, n) * row);
    uint8_t *out = x->send.data, *in = x->expect.data;
    for (unsigned p = 0; p < n; p++) {
        unsigned out_source = way->to_experts ? me : p, out_holder = way->to_experts ? p : me;
        out += write_way(rank, at, way, out_source, out_holder, out, row);
        in += write_way(rank, at, way, out_holder, out_source, in, row);
    }
    if (!way->probs)
        skew_exchange_rows(x, row);
    call_group(x, n, type, send, recv, row / skew_nccl_type_size(type));
    skew_exchange_run(rank, x);
}

static void exchange_forward(struct skew_rank *rank, const struct skew_at *at,
                             const struct splits *s, bool probs, bool as_bytes)
{
    exchange_rows(rank, at, s,
                  &(struct way){SKEW_ROLE_DISPATCH, SKEW_STAGE_TO_EXPERT, true, false, as_bytes});
    if (probs)
        exchange_rows(
            rank, at, s,
            &(struct way){SKEW_ROLE_DISPATCH_PROBS, SKEW_STAGE_TO_EXPERT, true, true, as_bytes});
    exchange_rows(rank, at, s,
                  &(struct way){SKEW_ROLE_COMBINE, SKEW_STAGE_FROM_EXPERT, false, false, as_bytes});
}

/* _AllToAll.backward issues the same exchange with swapped splits: the combine's gradient goes the
 * dispatch's way. Autograd runs the later forward op's gradient first. */
static void exchange_backward(struct skew_rank *rank, const struct skew_at *at, bool probs,
                              bool as_bytes)
{
    struct splits s = splits_kept(rank);
    exchange_rows(
        rank, at, &s,
        &(struct way){SKEW_ROLE_COMBINE_BWD, SKEW_STAGE_GRAD_TO_EXPERT, true, false, as_bytes});
    if (probs)
        exchange_rows(
            rank, at, &s,
            &(struct way){SKEW_ROLE_PROBS_BWD, SKEW_STAGE_GRAD_FROM_EXPERT, false, true, as_bytes});
    exchange_rows(
        rank, at, &s,
        &(struct way){SKEW_ROLE_DISPATCH_BWD, SKEW_STAGE_GRAD_FROM_EXPERT, false, false, as_bytes});
    splits_free(&s);
}

/* ---- the patterns */

static void megatron_forward(struct skew_rank *rank, const struct skew_at *at)
{
    struct splits s = count_allgather(rank, at);
    exchange_forward(rank, at, &s, true, false);
    splits_free(&s);
}

static void megatron_backward(struct skew_rank *rank, const struct skew_at *at)
{
    exchange_backward(rank, at, true, false);
}

static void torchtitan_forward(struct skew_rank *rank, const struct skew_at *at)
{
    struct splits s = count_alltoall(rank, at, ncclInt64, skew_rank_experts(rank), true);
    exchange_forward(rank, at, &s, false, false);
    splits_free(&s);
}

static void plain_backward(struct skew_rank *rank, const struct skew_at *at)
{
    exchange_backward(rank, at, false, false);
}

static void autoep_forward(struct skew_rank *rank, const struct skew_at *at)
{
    struct splits s = count_alltoall(rank, at, ncclInt32, skew_rank_experts(rank), false);
    exchange_forward(rank, at, &s, false, false);
    splits_free(&s);
}

/* ColossalAI also agrees, over the copies of the experts, on which experts got any token. */
static void activate(struct skew_rank *rank, const struct skew_at *at)
{
    unsigned g = skew_rank_experts(rank), groups = rank->comm[SKEW_COMM_MOE_DP].size;
    if (groups < 2)
        return;
    struct skew_exchange *x = skew_exchange_open(rank, SKEW_ROLE_ACTIVATE, SKEW_COMM_MOE_DP, at,
                                                 g * sizeof(float), g * sizeof(float));
    unsigned own = rank->ep_group;
    memset(x->expect.data, 0, x->expect.size);
    for (unsigned group = 0; group < groups; group++) {
        rank->ep_group = group; /* look at the routing of the other groups too */
        rank->layer->loaded = false;
        skew_layer_load(rank, at);
        for (unsigned e = 0; e < g; e++) {
            uint32_t rows = 0;
            for (unsigned p = 0; p < peers(rank); p++)
                rows += skew_layer_count(rank, p, rank->ep_rank * g + e);
            ((float *)(void *)x->expect.data)[e] += rows ? 1.0f : 0.0f;
            if (group == own)
                ((float *)(void *)x->send.data)[e] = rows ? 1.0f : 0.0f;
        }
    }
    rank->ep_group = own;
    rank->layer->loaded = false;
    skew_layer_load(rank, at);
    x->in_place = true;
    skew_exchange_call(x, SKEW_CALL_ALLREDUCE, 0, ncclFloat32, g, 0, 0);
    skew_exchange_run(rank, x);
}

static void colossalai_forward(struct skew_rank *rank, const struct skew_at *at)
{
    struct splits s = count_alltoall(rank, at, ncclInt64, skew_rank_experts(rank), false);
    activate(rank, at);
    exchange_forward(rank, at, &s, false, false);
    splits_free(&s);
}

static void tutel_forward(struct skew_rank *rank, const struct skew_at *at)
{
    struct splits s = count_alltoall(rank, at, ncclInt64, 1, false);
    exchange_forward(rank, at, &s, true, true);
    splits_free(&s);
}

static void tutel_backward(struct skew_rank *rank, const struct skew_at *at)
{
    exchange_backward(rank, at, true, true);
}

#define EP 1u << SKEW_COMM_EP

const struct skew_pattern skew_pattern_megatron = {
    .name = "megatron",
    .help = "all-gather of int64[E] counts, tokens, probabilities, combine, swapped backward",
    .comms = EP | 1u << SKEW_COMM_TP_EP,
    .train = true,
    .bias = ncclFloat32,
    .forward = megatron_forward,
    .backward = megatron_backward,
};

const struct skew_pattern skew_pattern_torchtitan = {
    .name = "torchtitan",
    .help = "counts as a group of int64[E/R] sends and receives, tokens, combine",
    .comms = EP,
    .train = true,
    .bias = ncclInt64,
    .bias_recomputed = true,
    .forward = torchtitan_forward,
    .backward = plain_backward,
};

const struct skew_pattern skew_pattern_autoep = {
    .name = "autoep",
    .help = "DeepSpeed AutoEP: ncclAlltoAll of int32[E/R] counts, tokens, combine",
    .comms = EP,
    .train = true,
    .bias = ncclFloat32,
    .forward = autoep_forward,
    .backward = plain_backward,
};

const struct skew_pattern skew_pattern_colossalai = {
    .name = "colossalai",
    .help = "ncclAlltoAll of int64[E/R] counts, tokens, combine; activated experts between groups",
    .comms = EP | 1u << SKEW_COMM_MOE_DP,
    .train = true,
    .bias = ncclFloat32,
    .forward = colossalai_forward,
    .backward = plain_backward,
};

const struct skew_pattern skew_pattern_tutel = {
    .name = "tutel",
    .help = "batch_all_to_all_v: ncclAlltoAll of one int64, then int8 groups for tokens and scores",
    .comms = EP,
    .train = true,
    .bias = ncclFloat32,
    .forward = tutel_forward,
    .backward = tutel_backward,
};
