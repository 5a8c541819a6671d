/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The patterns that send each expert's tokens apart, so that the wire shows per-expert sizes:
 * FastMoE (a group for each local expert, zero sizes skipped) and XLA's ragged all-to-all (one
 * group, E/R sends to each peer). Both lay received tokens out expert by expert.
 */
#include <stdlib.h>
#include <string.h>

#include "exchange.h"
#include "layer.h"
#include "pattern.h"
#include "rows.h"

struct way {
    enum skew_role role;
    enum skew_stage stage;
    bool to_experts;
};

static const struct way dispatch = {SKEW_ROLE_DISPATCH, SKEW_STAGE_TO_EXPERT, true},
                        combine = {SKEW_ROLE_COMBINE, SKEW_STAGE_FROM_EXPERT, false},
                        combine_bwd = {SKEW_ROLE_COMBINE_BWD, SKEW_STAGE_GRAD_TO_EXPERT, true},
                        dispatch_bwd = {SKEW_ROLE_DISPATCH_BWD, SKEW_STAGE_GRAD_FROM_EXPERT, false};

/* First row, in the expert-major layout of the holder, of what `source` sends to its `local`
 * expert. */
static uint32_t held_start(const struct skew_rank *rank, unsigned holder, unsigned source,
                           unsigned local)
{
    unsigned g = skew_rank_experts(rank);
    uint32_t at = 0;
    for (unsigned e = 0; e <= local; e++)
        for (unsigned p = 0; p < (e < local ? rank->job->ep_size : source); p++)
            at += skew_layer_count(rank, p, holder * g + e);
    return at;
}

/* Rows of this rank's tokens, sorted by physical expert. */
static void write_own(const struct skew_rank *rank, const struct skew_at *at, enum skew_stage stage,
                      uint8_t *to, size_t row)
{
    skew_rows_write(rank, at, stage, rank->ep_rank, 0,
                    skew_layer_start(rank, rank->ep_rank, rank->job->opt->experts), to, row);
}

/* Rows that this rank's experts hold, expert by expert, source by source. */
static void write_held(const struct skew_rank *rank, const struct skew_at *at,
                       enum skew_stage stage, uint8_t *to, size_t row)
{
    unsigned g = skew_rank_experts(rank);
    for (unsigned e = 0; e < g; e++) {
        unsigned physical = rank->ep_rank * g + e;
        for (unsigned p = 0; p < rank->job->ep_size; p++)
            to += skew_rows_write(rank, at, stage, p, skew_layer_start(rank, p, physical),
                                  skew_layer_start(rank, p, physical + 1), to, row);
    }
}

static struct skew_exchange *open_way(struct skew_rank *rank, const struct skew_at *at,
                                      const struct way *way)
{
    size_t row = skew_row_bytes(rank, way->role);
    size_t own = skew_layer_start(rank, rank->ep_rank, rank->job->opt->experts) * row;
    size_t held =
        held_start(rank, rank->ep_rank, rank->job->ep_size, skew_rank_experts(rank) - 1) * row;
    struct skew_exchange *x =
        skew_exchange_open(rank, way->role, SKEW_COMM_EP, at, way->to_experts ? own : held,
                           way->to_experts ? held : own);
    write_own(rank, at, way->stage, way->to_experts ? x->send.data : x->expect.data, row);
    write_held(rank, at, way->stage, way->to_experts ? x->expect.data : x->send.data, row);
    skew_exchange_rows(x, row);
    return x;
}

/* Both sides of what this rank and `peer` exchange for local expert `e` of whoever holds it. */
struct pair {
    uint32_t send, recv;       /* rows */
    uint32_t send_at, recv_at; /* first row in the image */
};

static struct pair pair_of(const struct skew_rank *rank, const struct way *way, unsigned peer,
                           unsigned e)
{
    unsigned g = skew_rank_experts(rank), me = rank->ep_rank;
    uint32_t out = skew_layer_count(rank, me, peer * g + e);
    uint32_t held = skew_layer_count(rank, peer, me * g + e);
    uint32_t out_at = skew_layer_start(rank, me, peer * g + e);
    uint32_t held_at = held_start(rank, me, peer, e);
    return way->to_experts ? (struct pair){out, held, out_at, held_at}
                           : (struct pair){held, out, held_at, out_at};
}

/* ---- FastMoE: global_scatter and global_gather, bytes as ncclChar */

static void fastmoe_counts(struct skew_rank *rank, const struct skew_at *at)
{
    unsigned n = rank->job->ep_size, g = skew_rank_experts(rank), me = rank->ep_rank;
    size_t bytes = (size_t)n * g * sizeof(int64_t);
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_COUNT, SKEW_COMM_EP, at, bytes, bytes);
    int64_t *out = (int64_t *)(void *)x->send.data, *in = (int64_t *)(void *)x->expect.data;
    skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, ncclInt64, 0, 0, 0);
    for (unsigned p = 0; p < n; p++) {
        for (unsigned e = 0; e < g; e++) {
            out[p * g + e] = skew_layer_count(rank, me, p * g + e);
            in[p * g + e] = skew_layer_count(rank, p, me * g + e);
        }
        skew_exchange_call(x, SKEW_CALL_SEND, p, ncclInt64, g, p * g * sizeof(int64_t), 0);
        skew_exchange_call(x, SKEW_CALL_RECV, p, ncclInt64, g, 0, p * g * sizeof(int64_t));
    }
    skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, ncclInt64, 0, 0, 0);
    skew_exchange_run(rank, x);
}

static void fastmoe_rows(struct skew_rank *rank, const struct skew_at *at, const struct way *way)
{
    size_t row = skew_row_bytes(rank, way->role);
    struct skew_exchange *x = open_way(rank, at, way);
    x->expert_groups = true;
    for (unsigned e = 0; e < skew_rank_experts(rank); e++) {
        skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, ncclInt8, 0, 0, 0);
        for (unsigned p = 0; p < rank->job->ep_size; p++) {
            struct pair pair = pair_of(rank, way, p, e);
            if (pair.send)
                skew_exchange_call(x, SKEW_CALL_SEND, p, ncclInt8, pair.send * row,
                                   pair.send_at * row, 0);
            if (pair.recv)
                skew_exchange_call(x, SKEW_CALL_RECV, p, ncclInt8, pair.recv * row, 0,
                                   pair.recv_at * row);
        }
        skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, ncclInt8, 0, 0, 0);
    }
    skew_exchange_run(rank, x);
}

static void fastmoe_forward(struct skew_rank *rank, const struct skew_at *at)
{
    fastmoe_counts(rank, at);
    fastmoe_rows(rank, at, &dispatch);
    fastmoe_rows(rank, at, &combine);
}

static void fastmoe_backward(struct skew_rank *rank, const struct skew_at *at)
{
    fastmoe_rows(rank, at, &combine_bwd);
    fastmoe_rows(rank, at, &dispatch_bwd);
}

/* ---- XLA ragged all-to-all, as MaxText uses it */

/* All ranks learn all counts: jax.lax.all_gather of int32[E]. */
static void xla_counts(struct skew_rank *rank, const struct skew_at *at)
{
    unsigned n = rank->job->ep_size, experts = rank->job->opt->experts;
    size_t bytes = experts * sizeof(int32_t);
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_COUNT, SKEW_COMM_EP, at, bytes, bytes * n);
    int32_t *all = (int32_t *)(void *)x->expect.data;
    for (unsigned p = 0; p < n; p++)
        for (unsigned e = 0; e < experts; e++)
            all[p * experts + e] = (int32_t)skew_layer_count(rank, p, e);
    memcpy(x->send.data, all + (size_t)rank->ep_rank * experts, bytes);
    skew_exchange_call(x, SKEW_CALL_ALLGATHER, 0, ncclInt32, experts, 0, 0);
    skew_exchange_run(rank, x);
}

/* Where rows land at their destination: one number an update, exchanged before the rows. */
static void xla_offsets(struct skew_rank *rank, const struct skew_at *at, const struct way *way)
{
    unsigned n = rank->job->ep_size, g = skew_rank_experts(rank), me = rank->ep_rank;
    size_t bytes = (size_t)n * g * sizeof(int64_t);
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_OFFSETS, SKEW_COMM_EP, at, bytes, bytes);
    int64_t *out = (int64_t *)(void *)x->send.data, *in = (int64_t *)(void *)x->expect.data;
    skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, ncclInt64, 0, 0, 0);
    for (unsigned p = 0; p < n; p++) {
        for (unsigned e = 0; e < g; e++) {
            out[p * g + e] = way->to_experts ? held_start(rank, p, me, e)
                                             : skew_layer_start(rank, p, me * g + e);
            in[p * g + e] = pair_of(rank, way, p, e).recv_at;
        }
        skew_exchange_call(x, SKEW_CALL_SEND, p, ncclInt64, g, p * g * sizeof(int64_t), 0);
        skew_exchange_call(x, SKEW_CALL_RECV, p, ncclInt64, g, 0, p * g * sizeof(int64_t));
    }
    skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, ncclInt64, 0, 0, 0);
    skew_exchange_run(rank, x);
}

static void xla_rows(struct skew_rank *rank, const struct skew_at *at, const struct way *way)
{
    size_t row = skew_row_bytes(rank, way->role), hidden = rank->job->opt->hidden;
    ncclDataType_t type = skew_row_type(rank, way->role);
    xla_offsets(rank, at, way);
    struct skew_exchange *x = open_way(rank, at, way);
    skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, type, 0, 0, 0);
    for (unsigned e = 0; e < skew_rank_experts(rank); e++) {
        for (unsigned p = 0; p < rank->job->ep_size; p++) {
            struct pair pair = pair_of(rank, way, p, e);
            skew_exchange_call(x, SKEW_CALL_SEND, p, type, pair.send * hidden, pair.send_at * row,
                               0);
            skew_exchange_call(x, SKEW_CALL_RECV, p, type, pair.recv * hidden, 0,
                               pair.recv_at * row);
        }
    }
    skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, type, 0, 0, 0);
    skew_exchange_run(rank, x);
}

static void xla_forward(struct skew_rank *rank, const struct skew_at *at)
{
    xla_counts(rank, at);
    xla_rows(rank, at, &dispatch);
    xla_rows(rank, at, &combine);
}

static void xla_backward(struct skew_rank *rank, const struct skew_at *at)
{
    xla_rows(rank, at, &combine_bwd);
    xla_rows(rank, at, &dispatch_bwd);
}

const struct skew_pattern skew_pattern_fastmoe = {
    .name = "fastmoe",
    .help = "counts as a group of int64[E/R], then a group for each local expert, no zero sizes",
    .comms = 1u << SKEW_COMM_EP,
    .train = true,
    .bias = ncclFloat32,
    .forward = fastmoe_forward,
    .backward = fastmoe_backward,
};

const struct skew_pattern skew_pattern_xla_ragged = {
    .name = "xla-ragged",
    .help =
        "all-gather of int32[E], a group of int64 offsets, then E/R sends to each peer in a group",
    .comms = 1u << SKEW_COMM_EP,
    .train = true,
    .bias = ncclFloat32,
    .forward = xla_forward,
    .backward = xla_backward,
};
