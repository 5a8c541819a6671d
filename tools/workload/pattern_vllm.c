/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vLLM's allgather_reducescatter: every rank gets all tokens, their gate weights and ids (an
 * all-gather with sizes: a group of broadcasts, one root each, nested in one group over the three
 * tensors), computes its own experts' share and the shares are summed back at the tokens' ranks (a
 * group of reduces). No send or receive at all.
 */
#include <string.h>

#include "device.h"
#include "exchange.h"
#include "layer.h"
#include "pattern.h"
#include "placement.h"
#include "rows.h"

enum { HIDDEN, WEIGHTS, IDS, TENSORS };

struct tensor {
    ncclDataType_t type;
    size_t width; /* elements a token */
    size_t send_at, recv_at;
};

static size_t token_bytes(const struct tensor *t)
{
    return t->width * skew_nccl_type_size(t->type);
}

static size_t all_tokens(const struct skew_rank *rank)
{
    size_t n = 0;
    for (unsigned p = 0; p < rank->job->ep_size; p++)
        n += rank->layer->tokens[p];
    return n;
}

/* vLLM drops the sizes when they are all equal. */
static bool with_sizes(const struct skew_rank *rank)
{
    if (rank->job->opt->gatherv == SKEW_GATHERV_ALWAYS)
        return true;
    for (unsigned p = 1; p < rank->job->ep_size; p++)
        if (rank->layer->tokens[p] != rank->layer->tokens[0])
            return true;
    return false;
}

static size_t aligned(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

static void write_tensor(const struct skew_rank *rank, const struct skew_at *at, int which,
                         unsigned source, uint8_t *to, size_t bytes)
{
    unsigned world = skew_rank_world_of(rank, source), k = rank->job->opt->topk;
    const uint16_t *physical = skew_placement_physical(rank->job->placement, at->layer);
    for (uint32_t t = 0; t < rank->layer->tokens[source]; t++, to += bytes) {
        if (which == HIDDEN) {
            const struct skew_tag tag = {.token = t,
                                         .source = (uint16_t)world,
                                         .layer = (uint16_t)at->layer,
                                         .step = (uint16_t)at->step,
                                         .micro_batch = (uint8_t)at->micro_batch,
                                         .stage = SKEW_STAGE_GATHERED};
            skew_tag_write(to, bytes, &tag);
            continue;
        }
        for (unsigned slot = 0; slot < k; slot++) {
            float weight = skew_row_prob(world, at->layer, t, slot);
            int32_t id = physical[rank->layer->ids[source][(size_t)t * k + slot]];
            if (which == WEIGHTS)
                memcpy(to + 4 * slot, &weight, 4);
            else
                memcpy(to + 4 * slot, &id, 4);
        }
    }
}

static void call_gatherv(const struct skew_rank *rank, struct skew_exchange *x,
                         const struct tensor *t)
{
    const unsigned *tokens = rank->layer->tokens;
    if (!with_sizes(rank)) {
        skew_exchange_call(x, SKEW_CALL_ALLGATHER, 0, t->type, tokens[0] * t->width, t->send_at,
                           t->recv_at);
        return;
    }
    size_t at = t->recv_at;
    skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, t->type, 0, 0, 0);
    for (unsigned root = 0; root < rank->job->ep_size; root++) {
        skew_exchange_call(x, SKEW_CALL_BROADCAST, root, t->type, tokens[root] * t->width,
                           t->send_at, at);
        at += tokens[root] * token_bytes(t);
    }
    skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, t->type, 0, 0, 0);
}

static void gather(struct skew_rank *rank, const struct skew_at *at)
{
    struct tensor tensor[TENSORS] = {
        {rank->job->dtype, rank->job->opt->hidden, 0, 0},
        {ncclFloat32, rank->job->opt->topk, 0, 0},
        {ncclInt32, rank->job->opt->topk, 0, 0},
    };
    size_t own = rank->layer->tokens[rank->ep_rank], all = all_tokens(rank), send = 0, recv = 0;
    for (int i = 0; i < TENSORS; i++) {
        tensor[i].send_at = send;
        tensor[i].recv_at = recv;
        send += aligned(own * token_bytes(&tensor[i]));
        recv += aligned(all * token_bytes(&tensor[i]));
    }
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_DISPATCH, SKEW_COMM_EP, at, send, recv);
    /* What lies between the tensors is never written: it keeps the poison of the device buffer. */
    memset(x->send.data, 0, send);
    memset(x->expect.data, SKEW_POISON, recv);
    skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, ncclInt8, 0, 0, 0);
    for (int i = 0; i < TENSORS; i++) {
        uint8_t *to = x->expect.data + tensor[i].recv_at;
        size_t bytes = token_bytes(&tensor[i]);
        for (unsigned p = 0; p < rank->job->ep_size; p++) {
            write_tensor(rank, at, i, p, to, bytes);
            to += rank->layer->tokens[p] * bytes;
        }
        write_tensor(rank, at, i, rank->ep_rank, x->send.data + tensor[i].send_at, bytes);
        call_gatherv(rank, x, &tensor[i]);
    }
    skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, ncclInt8, 0, 0, 0);
    x->row_bytes = token_bytes(&tensor[HIDDEN]);
    x->rows_bytes = all * x->row_bytes;
    skew_exchange_run(rank, x);
}

/* A small whole number in the type that results have; exact in all of them. */
static void put_number(const struct skew_rank *rank, uint8_t *to, unsigned value)
{
    float f = (float)value;
    uint32_t bits;
    uint16_t half = 0;
    memcpy(&bits, &f, 4);
    switch (rank->job->combine_dtype) {
    case ncclFloat32:
        memcpy(to, &bits, 4);
        return;
    case ncclFloat16: /* rebias the exponent; whole numbers below 2048 lose nothing */
        if (value)
            half = (uint16_t)((((bits >> 23) - 112) << 10) | ((bits >> 13) & 0x3ff));
        break;
    default: /* bf16 */
        half = (uint16_t)(bits >> 16);
        break;
    }
    memcpy(to, &half, 2);
}

/* What a rank's experts add to a token: a number for each of its choices that this rank holds. The
 * sum over ranks stays below 2^8, so that it is exact in bf16 in any order. */
static unsigned share_of(const struct skew_rank *rank, const struct skew_at *at, unsigned source,
                         uint32_t token, unsigned holder)
{
    const struct skew_placement *p = rank->job->placement;
    const uint16_t *physical = skew_placement_physical(p, at->layer);
    unsigned k = rank->job->opt->topk, sum = 0;
    for (unsigned slot = 0; slot < k; slot++) {
        unsigned expert = rank->layer->ids[source][(size_t)token * k + slot];
        if (physical[expert] / p->per_rank == holder)
            sum += 1 + (token + expert) % (255 / k);
    }
    return sum;
}

static void write_shares(const struct skew_rank *rank, const struct skew_at *at, uint8_t *to,
                         unsigned source, bool whole)
{
    unsigned hidden = rank->job->opt->hidden, width = rank->job->combine_elem_bytes;
    for (uint32_t t = 0; t < rank->layer->tokens[source]; t++) {
        unsigned sum = 0;
        for (unsigned holder = 0; holder < rank->job->ep_size; holder++)
            if (whole || holder == rank->ep_rank)
                sum += share_of(rank, at, source, t, holder);
        for (unsigned i = 0; i < hidden; i++, to += width)
            put_number(rank, to, sum);
    }
}

static void reduce(struct skew_rank *rank, const struct skew_at *at)
{
    const unsigned *tokens = rank->layer->tokens;
    ncclDataType_t type = rank->job->combine_dtype;
    size_t hidden = rank->job->opt->hidden, row = hidden * rank->job->combine_elem_bytes,
           at_byte = 0;
    struct skew_exchange *x =
        skew_exchange_open(rank, SKEW_ROLE_COMBINE, SKEW_COMM_EP, at, all_tokens(rank) * row,
                           tokens[rank->ep_rank] * row);
    bool sizes = with_sizes(rank);
    if (sizes)
        skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, type, 0, 0, 0);
    else
        skew_exchange_call(x, SKEW_CALL_REDUCESCATTER, 0, type, tokens[0] * hidden, 0, 0);
    for (unsigned p = 0; p < rank->job->ep_size; p++) {
        write_shares(rank, at, x->send.data + at_byte, p, false);
        if (sizes)
            skew_exchange_call(x, SKEW_CALL_REDUCE, p, type, tokens[p] * hidden, at_byte, 0);
        at_byte += tokens[p] * row;
    }
    if (sizes)
        skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, type, 0, 0, 0);
    write_shares(rank, at, x->expect.data, rank->ep_rank, true);
    skew_exchange_run(rank, x);
}

static void vllm_forward(struct skew_rank *rank, const struct skew_at *at)
{
    gather(rank, at);
    reduce(rank, at);
}

const struct skew_pattern skew_pattern_vllm = {
    .name = "vllm",
    .help = "inference: group of broadcasts of hidden, weights and ids; group of reduces back",
    .comms = 1u << SKEW_COMM_EP,
    .static_sizes = true,
    .bias = ncclInt32,
    .forward = vllm_forward,
};
