/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where records are missing. Ordinals on a communicator say that one is, and between which two of
 * its events it was. What it would have been, nobody knows: a dispatch without which its combine
 * looks like a dispatch, a count without which a dispatch looks like an answer. So what stands
 * beside it is told nothing, and neither are the other passes of the same tokens, which are
 * recognised by it.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>

static int add(struct skew_labelling *lane, uint32_t from, uint32_t to, uint32_t comm)
{
    if ((lane->loss_count & (lane->loss_count - 1)) == 0) {
        size_t room = lane->loss_count ? (size_t)lane->loss_count * 2 : 1;
        struct skew_lane_loss *more = realloc(lane->losses, room * sizeof *more);
        if (!more)
            return -ENOMEM;
        lane->losses = more;
    }
    lane->losses[lane->loss_count++] = (struct skew_lane_loss){from, to, comm};
    return 0;
}

static int find(struct skew_labelling *lane, int64_t *next, uint32_t *before)
{
    const struct skew_rows *rows = lane->rows;
    int result = 0;

    for (uint32_t i = 0; i < lane->event_count && result == 0; i++) {
        const struct skew_rows_event *e = &lane->events[i];
        const struct skew_rows_exchange *x = skew_lane_exchange(lane, i);
        const struct skew_rows_operation *o = x ? NULL : &rows->operations[e->first];
        uint32_t member = x ? x->member : o->member, at = 2 * member + !x;
        int64_t seq = x ? x->seq : o->seq;
        bool missing = seq != next[at];
        if (missing)
            result = add(lane, before[at], i, rows->members[member].comm);
        else if (x && x->hole)
            result = add(lane, i ? i - 1 : 0, i + 1, rows->members[member].comm);
        if ((missing || (x && x->hole)) && lane->gap == UINT32_MAX)
            lane->gap = i;
        next[at] = seq + (x ? 1 : e->count);
        before[at] = i;
    }
    return result;
}

int skew_lane_losses(struct skew_labelling *lane)
{
    size_t members = lane->rows->member_count, n = lane->event_count;
    int64_t *next = calloc(2 * members + 1, sizeof *next); /* exchange, operation */
    uint32_t *before = calloc(2 * members + 1, sizeof *before);
    int result = -ENOMEM;

    lane->gap = UINT32_MAX;
    lane->begun = calloc(n + 2, sizeof *lane->begun);
    lane->ended = calloc(n + 2, sizeof *lane->ended);
    if (next && before && lane->begun && lane->ended)
        result = find(lane, next, before);
    for (uint32_t i = 0; result == 0 && i < lane->loss_count; i++) {
        lane->begun[lane->losses[i].from + 1]++;
        lane->ended[lane->losses[i].to]++;
    }
    for (size_t i = 1; result == 0 && i < n + 2; i++) {
        lane->begun[i] += lane->begun[i - 1];
        lane->ended[i] += lane->ended[i - 1];
    }
    free(next);
    free(before);
    return result;
}

bool skew_lane_lost(const struct skew_labelling *lane, uint32_t from, uint32_t to)
{
    return lane->begun[to] > lane->ended[from];
}

bool skew_lane_lost_around(const struct skew_labelling *lane, uint32_t first, uint32_t last)
{
    uint32_t from = first ? lane->blocks[first - 1].last : 0;
    uint32_t to = last + 1 < lane->block_count ? lane->blocks[last + 1].event : lane->event_count;

    /* passes overlap: the block before may end behind this one's begin */
    if (from > lane->blocks[first].event)
        from = lane->blocks[first].event;
    if (to < lane->blocks[last].last)
        to = lane->blocks[last].last;
    return skew_lane_lost(lane, from, to);
}

/* ---- beside losses -----------------------------------------------------------------------------
 */

static void place(uint32_t *block_of, const struct skew_labelling *lane, uint32_t item,
                  uint32_t block)
{
    if (item == SKEW_NO_ITEM)
        return;
    for (uint32_t i = 0; i < lane->items[item].count; i++)
        block_of[lane->payload[lane->items[item].first + i]] = block + 1;
}

/* The nearest event of a block from `at` on, in the direction of `by`, on this communicator or, if
 * it carries no blocks, on any. */
static uint32_t nearest(const struct skew_labelling *lane, const uint32_t *block_of, uint32_t at,
                        int by, uint32_t comm)
{
    bool any = !lane->uses[comm].moe;

    for (; at < lane->event_count; at += (uint32_t)by) /* below 0 it is large, too */
        if (block_of[at] && (any || lane->blocks[block_of[at] - 1].comm == comm))
            return block_of[at];
    return 0;
}

int skew_lane_spoilt(const struct skew_labelling *lane, void (*spoil)(void *user, uint32_t block),
                     void *user)
{
    uint32_t *block_of = calloc((size_t)lane->event_count + 1, sizeof *block_of);

    if (!block_of)
        return -ENOMEM;
    for (uint32_t i = 0; i < lane->block_count; i++) {
        const struct skew_block *b = &lane->blocks[i];
        if (b->collective) {
            block_of[b->there] = block_of[b->back] = i + 1;
            continue;
        }
        place(block_of, lane, b->there, i);
        place(block_of, lane, b->back, i);
        place(block_of, lane, b->weights, i);
    }
    for (uint32_t k = 0; k < lane->loss_count; k++) {
        const struct skew_lane_loss *loss = &lane->losses[k];
        uint32_t before = nearest(lane, block_of, loss->from, -1, loss->comm);
        uint32_t behind = nearest(lane, block_of, loss->to, 1, loss->comm);
        if (before)
            spoil(user, before - 1);
        if (behind)
            spoil(user, behind - 1);
        for (uint32_t i = loss->from; i < loss->to && i < lane->event_count; i++)
            if (block_of[i])
                spoil(user, block_of[i] - 1);
    }
    free(block_of);
    return 0;
}
