/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From blocks to the labels of exchanges and operations of one lane.
 */
#include "label_lane.h"

#include "nccl_abi.h"

#define DTYPES 16

static struct skew_label *exchange_label(struct skew_labelling *lane, uint32_t event)
{
    return &lane->exchange_labels[lane->events[event].first];
}

/* ---- size of a token ---------------------------------------------------------------------------
 */

static uint64_t element_bytes(int32_t dtype)
{
    switch (dtype) {
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclFloat64:
        return 8;
    case ncclFloat32:
        return 4;
    default:
        return 0; /* bytes of unknown meaning */
    }
}

struct token_sizes {
    uint64_t bytes[DTYPES];  /* greatest common divisor of what one token can be */
    uint32_t uneven[DTYPES]; /* exchanges whose sizes differ: only those tell */
    bool exact[DTYPES];
};

static const struct skew_rows_exchange *first_of(const struct skew_labelling *lane, uint32_t item)
{
    return skew_lane_exchange(lane, lane->payload[lane->items[item].first]);
}

static bool uneven(const struct skew_labelling *lane, const struct skew_rows_exchange *x)
{
    const struct skew_rows_vector *v = lane->rows->vectors;
    return (x->send && !v[x->send - 1].uniform) || (x->recv && !v[x->recv - 1].uniform);
}

static void add_item(const struct skew_labelling *lane, struct token_sizes *t, uint32_t item,
                     uint64_t tokens)
{
    if (item == SKEW_NO_ITEM || !lane->items[item].unit)
        return;
    const struct skew_rows_exchange *x = first_of(lane, item);
    uint64_t unit = lane->items[item].unit;
    if (x->dtype < 0 || x->dtype >= DTYPES)
        return;
    if (tokens && unit % tokens == 0) {
        unit /= tokens;
        t->exact[x->dtype] = true;
    }
    t->bytes[x->dtype] = skew_gcd(t->bytes[x->dtype], unit);
    t->uneven[x->dtype] += uneven(lane, x);
}

/* Bytes of a token by data type on one communicator: exact from gate weights (one element a token,
 * with the same sizes), else the greatest common divisor. */
static void find_token_sizes(const struct skew_labelling *lane, uint32_t comm,
                             struct token_sizes *t)
{
    for (uint32_t i = 0; i < lane->block_count; i++) {
        const struct skew_block *b = &lane->blocks[i];
        uint64_t tokens = 0;
        if (b->comm != comm)
            continue;
        if (b->weights != SKEW_NO_ITEM) {
            uint64_t element = element_bytes(first_of(lane, b->weights)->dtype);
            tokens = element ? lane->items[b->weights].unit / element : 0;
        }
        add_item(lane, t, b->there, tokens);
        add_item(lane, t, b->back, tokens);
    }
}

static uint64_t token_bytes(const struct skew_labelling *lane, const struct token_sizes *t,
                            uint32_t item)
{
    const struct skew_rows_exchange *x = first_of(lane, item);

    if (x->dtype < 0 || x->dtype >= DTYPES)
        return 0;
    return t->exact[x->dtype] || t->uneven[x->dtype] >= 8 ? t->bytes[x->dtype] : 0;
}

/* ---- blocks ------------------------------------------------------------------------------------
 */

static float least(float a, float b)
{
    return a < b ? a : b;
}

void skew_label_place(const struct skew_labelling *lane, const struct skew_block *b,
                      struct skew_label *l)
{
    l->step = b->step;
    l->layer = b->layer;
    l->microbatch = b->microbatch;
    l->pass = b->pass;
    if (b->last >= lane->gap)
        l->confidence = least(l->confidence, 0.5f); /* records are missing before it */
    if (l->layer >= 0)
        l->confidence = least(l->confidence, lane->layer_confidence);
    if (l->step >= 0)
        l->confidence = least(l->confidence, lane->step_confidence);
    if (b->kind == SKEW_BLOCK_FIRST ? b->link >= 0 : lane->back_count > 0)
        l->stage = SKEW_STAGE_TRAIN;
    else if (!lane->back_count && b->kind == SKEW_BLOCK_FIRST)
        l->stage = b->stage;
    if (b->marked)
        l->flags |= SKEW_LABEL_MARKED;
    if (l->stage == SKEW_STAGE_PREFILL || l->stage == SKEW_STAGE_DECODE)
        l->confidence = least(l->confidence, b->stage_confidence);
}

static void write_item(struct skew_labelling *lane, const struct skew_block *b, uint32_t item,
                       uint32_t other, uint8_t role, const struct token_sizes *t)
{
    const struct skew_item *it = &lane->items[item];

    for (uint32_t i = 0; i < it->count; i++) {
        uint32_t event = lane->payload[it->first + i];
        const struct skew_rows_exchange *x = skew_lane_exchange(lane, event);
        struct skew_label *l = exchange_label(lane, event);
        l->role = role;
        l->confidence = lane->uses[b->comm].role_confidence;
        if (other != SKEW_NO_ITEM && lane->items[other].count == it->count)
            l->pair = skew_lane_exchange(lane, lane->payload[lane->items[other].first + i])->id;
        else if (!it->small)
            l->confidence = least(l->confidence, 0.7f);
        if (it->small)
            l->token_bytes = element_bytes(x->dtype);
        else
            l->token_bytes = token_bytes(lane, t, item);
        if (it->count > 1 || lane->uses[b->comm].groups) {
            l->flags |= SKEW_LABEL_PARTIAL;
            l->expert = (int32_t)i;
        }
        if (x->class == SKEW_CLASS_UNIFORM && lane->uses[b->comm].leader != SKEW_LEADER_GATHER &&
            lane->uses[b->comm].leader != SKEW_LEADER_INTEGERS)
            l->flags |= SKEW_LABEL_UNIFORM;
        if (role)
            skew_label_place(lane, b, l);
        if (x->flags & SKEW_EX_CAPTURED) {
            l->flags |= SKEW_LABEL_REPEATED;
            l->step = -1;
        }
    }
}

static void write_leader(struct skew_labelling *lane, const struct skew_block *b, bool doubtful)
{
    uint32_t leader = lane->items[b->there].leader;

    if (!leader || lane->uses[b->comm].leader == SKEW_LEADER_SITE)
        return;
    const struct skew_rows_event *e = &lane->events[leader - 1];
    struct skew_label *l =
        e->count ? &lane->operation_labels[e->first] : exchange_label(lane, leader - 1);
    l->role = SKEW_LABEL_COUNT;
    l->confidence = lane->uses[b->comm].role_confidence;
    if (!doubtful)
        skew_label_place(lane, b, l);
    if (lane->exchange_labels[lane->events[b->event].first].flags & SKEW_LABEL_REPEATED)
        l->step = -1;
}

/* After a missing record: what belongs to no other pass may be the rest of a block; a forward block
 * right before its backward block may have been computed again, if anything was. */
static bool is_doubtful(const struct skew_labelling *lane, const struct skew_block *b)
{
    if (b->doubtful)
        return true;
    if (b->last < lane->gap || !lane->uses[b->comm].leader || !lane->back_count)
        return false;
    if (b->kind == SKEW_BLOCK_FIRST && b->link >= 0)
        return lane->again_count && &lane->blocks[b->link] == b + 1;
    return b->link < 0;
}

static void write_block(struct skew_labelling *lane, const struct skew_block *b,
                        const struct token_sizes *t)
{
    static const uint8_t roles[4][3] = {
        [SKEW_BLOCK_FIRST] = {SKEW_LABEL_DISPATCH, SKEW_LABEL_COMBINE, SKEW_LABEL_PROBS},
        [SKEW_BLOCK_AGAIN] = {SKEW_LABEL_DISPATCH_RECOMPUTE, SKEW_LABEL_COMBINE_RECOMPUTE,
                              SKEW_LABEL_PROBS_RECOMPUTE},
        [SKEW_BLOCK_BACK] = {SKEW_LABEL_COMBINE_BWD, SKEW_LABEL_DISPATCH_BWD,
                             SKEW_LABEL_PROBS_BWD}};
    bool doubtful = is_doubtful(lane, b);
    const uint8_t *role = roles[doubtful ? SKEW_BLOCK_UNKNOWN : b->kind];
    /* what nothing announced and nothing answered may be anything */
    bool alone = b->back == SKEW_NO_ITEM && !b->counted && b->link < 0;

    uint32_t back = doubtful ? SKEW_NO_ITEM : b->back, there = doubtful ? SKEW_NO_ITEM : b->there;
    write_item(lane, b, b->there, back, alone ? SKEW_LABEL_UNKNOWN : role[0], t);
    if (b->back != SKEW_NO_ITEM)
        write_item(lane, b, b->back, there, role[1], t);
    if (b->weights != SKEW_NO_ITEM)
        write_item(lane, b, b->weights, SKEW_NO_ITEM, role[2], t);
    write_leader(lane, b, doubtful);
}

/* ---- what is not an MoE layer's ----------------------------------------------------------------
 */

static void write_others(struct skew_labelling *lane)
{
    bool moe = false, padded = false;

    for (uint32_t c = 0; c < lane->rows->comm_count; c++) {
        moe |= lane->uses[c].moe || lane->uses[c].collective;
        padded |= lane->uses[c].leader == SKEW_LEADER_SITE;
    }
    for (uint32_t i = 0; i < lane->event_count; i++) {
        const struct skew_rows_exchange *x = skew_lane_exchange(lane, i);
        struct skew_label *l = x ? exchange_label(lane, i) : NULL;
        const struct skew_use *use = x ? &lane->uses[lane->rows->members[x->member].comm] : NULL;
        if (!l || l->role)
            continue;
        if (x->class == SKEW_CLASS_P2P) {
            l->role = SKEW_LABEL_PIPELINE;
            l->confidence = 0.9f;
        } else if (x->class == SKEW_CLASS_INTEGER && use->leader == SKEW_LEADER_INTEGERS) {
            l->role = SKEW_LABEL_COUNT; /* whose dispatch is not here: the end of a trace */
            l->confidence = 0.9f;
        } else if (x->class == SKEW_CLASS_INTEGER && use->moe &&
                   (uint64_t)use->led[SKEW_LEADER_INTEGERS] * 10 >= (uint64_t)use->payload * 9) {
            l->role = SKEW_LABEL_OTHER; /* before every payload: offsets */
            l->confidence = 0.8f;
        } else if (x->class == SKEW_CLASS_UNIFORM && moe && !use->moe && x->dtype >= ncclFloat16) {
            l->role = SKEW_LABEL_SEQUENCE; /* beside experts' exchanges on another communicator */
            l->confidence = padded ? 0.5f : 0.8f;
        }
    }
}

void skew_lane_write(struct skew_labelling *lane)
{
    for (uint32_t c = 0; c < lane->rows->comm_count; c++) {
        struct token_sizes t = {0};
        if (!lane->uses[c].moe)
            continue;
        find_token_sizes(lane, c, &t);
        for (uint32_t i = 0; i < lane->block_count; i++)
            if (lane->blocks[i].comm == c && !lane->blocks[i].collective)
                write_block(lane, &lane->blocks[i], &t);
    }
    skew_lane_write_collectives(lane);
    write_others(lane);
}
