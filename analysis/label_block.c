/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payload exchanges become items, items become blocks: a dispatch and what answers it. They find
 * each other by transposed sizes, whatever lies between them: other micro-batches, backward passes,
 * other communicators.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_abi.h"

#define OPEN_MAX   64 /* blocks of one communicator that wait for their answer */
#define RATIOS_MAX 16
#define RATIO_LEAST                                                                                \
    8 /* below it, tokens in one type and results in another: fp8 and bf16 are 2 apart */
#define RATIO_LEAST_UNEVEN 4 /* as RATIO_LEAST, where it cannot be a dispatch and its combine */

static const struct skew_rows_exchange *payload(const struct skew_labelling *lane, uint32_t place)
{
    return skew_lane_exchange(lane, lane->payload[place]);
}

static uint32_t leader(const struct skew_labelling *lane, const struct skew_use *use,
                       uint32_t place)
{
    return use->leader ? lane->leader_of[(size_t)lane->payload[place] * SKEW_LEADERS + use->leader]
                       : 0;
}

static bool answers(const struct skew_rows_exchange *x, const struct skew_rows_exchange *y)
{
    return x->key_a == y->key_b && x->key_b == y->key_a;
}

static bool repeats(const struct skew_rows_exchange *x, const struct skew_rows_exchange *y)
{
    return x->key_a == y->key_a && x->key_b == y->key_b;
}

/* ---- a group for each local expert -------------------------------------------------------------
 */

/* How many exchanges from `from` on are a dispatch that as many after them answer, in the same
 * order; 0: no number does. The largest is right: a part of the answer never answers a part of the
 * dispatch alone. */
static uint32_t group_length(const struct skew_labelling *lane, uint32_t from, uint32_t end,
                             uint32_t most)
{
    for (uint32_t m = most < (end - from) / 2 ? most : (end - from) / 2; m; m--) {
        uint32_t i = 0;
        while (i < m && answers(payload(lane, from + i), payload(lane, from + m + i)))
            i++;
        if (i == m)
            return m;
    }
    return 0;
}

/* Local experts, as the exchange of counts tells: whole numbers to each peer. */
static uint32_t experts_told(const struct skew_labelling *lane, uint32_t leader_event)
{
    const struct skew_rows_exchange *x = skew_lane_exchange(lane, leader_event - 1);
    uint32_t width;

    if (!x)
        return 0;
    width = x->dtype >= 4 ? 8 : 4; /* ncclInt64, ncclUint64; else 32 bits */
    return (uint32_t)(x->send_bytes / width / lane->rows->members[x->member].member->comm->ranks);
}

/* Whether dispatches of this communicator come as groups: the next exchange does not answer the
 * first. */
static bool comes_in_groups(const struct skew_labelling *lane, const struct skew_use *use,
                            uint32_t from, uint32_t end)
{
    uint32_t led = 0, single = 0, several = 0, apart = UINT32_MAX, before = UINT32_MAX, most = 0;
    bool cut = false;

    if (use->leader != SKEW_LEADER_INTEGERS)
        return false;
    for (uint32_t i = from; i + 1 < end; i++) {
        uint32_t by = leader(lane, use, i), told = by ? experts_told(lane, by) : 0;
        const struct skew_rows_exchange *x = payload(lane, i), *y = payload(lane, i + 1);
        if (!by || told < 2)
            continue;
        led++;
        if (before != UINT32_MAX && i - before < apart)
            apart = i - before;
        before = i;
        most = told > most ? told : most;
        bool one =
            answers(x, y) || (repeats(x, y) && i + 2 < end && answers(x, payload(lane, i + 2)));
        bool group = group_length(lane, i, end, told) > 1;
        single += one;
        several += group;
        cut = !one && !group; /* of the last one the answer may be beyond the end of the trace */
    }
    led -= cut;
    if (lane->rows->comms[lane->rows->members[payload(lane, from)->member].comm].partial)
        return several > 0;
    if (!single && !several) /* too little to tell: then nothing is told */
        return payload(lane, from)->dtype == ncclInt8 && most >= 2;
    /* where all sizes are alike both are true: then bytes in groups far enough apart are FastMoE's
     */
    if (several * 2 > led && single * 2 > led)
        return payload(lane, from)->dtype == ncclInt8 && apart != UINT32_MAX && apart >= 2 * most;
    return several * 2 > led && several > single;
}

/* ---- items -------------------------------------------------------------------------------------
 */

static struct skew_item *add_item(struct skew_labelling *lane, uint32_t comm, uint32_t first,
                                  uint32_t count)
{
    struct skew_item *item = &lane->items[lane->item_count++];
    const struct skew_rows_exchange *x = payload(lane, first);

    *item = (struct skew_item){.first = first,
                               .count = count,
                               .comm = comm,
                               .event = lane->payload[first],
                               .leader = leader(lane, &lane->uses[comm], first),
                               .a = x->key_a,
                               .b = x->key_b,
                               .unit = x->unit};
    for (uint32_t i = 1; i < count; i++) {
        const struct skew_rows_exchange *y = payload(lane, first + i);
        item->a = skew_mix(item->a ^ i) + y->key_a;
        item->b = skew_mix(item->b ^ i) + y->key_b;
        item->unit = skew_gcd(item->unit, y->unit);
    }
    return item;
}

static uint64_t list_key(const struct skew_labelling *lane, uint32_t first, uint32_t count)
{
    uint64_t key = count;
    for (uint32_t i = 0; i < count; i++)
        key = skew_mix(skew_mix(key ^ payload(lane, first + i)->key_a) ^
                       payload(lane, first + i)->key_b);
    return key;
}

/* Lists seen in forward passes, by which backward passes are cut the same way. */
struct known {
    uint64_t first_a, first_b; /* of the first exchange */
    uint64_t key;              /* of all 2 × length */
    uint32_t length;
};

/* The known list that continues at `from`: of those, the last one that was seen. */
static uint32_t known_length(const struct skew_labelling *lane, const struct known *known,
                             uint32_t count, uint32_t from, uint32_t end)
{
    const struct skew_rows_exchange *x = payload(lane, from);
    for (uint32_t k = count; k-- > 0;)
        if (known[k].first_a == x->key_a && known[k].first_b == x->key_b &&
            2 * known[k].length <= end - from &&
            list_key(lane, from, 2 * known[k].length) == known[k].key)
            return known[k].length;
    return 0;
}

static int group_items(struct skew_labelling *lane, uint32_t comm, uint32_t from, uint32_t end)
{
    struct skew_use *use = &lane->uses[comm];
    struct known *known = calloc((size_t)(end - from) + 1, sizeof *known);
    uint32_t count = 0, stop, length;

    if (!known)
        return -ENOMEM;
    for (uint32_t i = from; i < end;) {
        uint32_t by = leader(lane, use, i);
        for (stop = i + 1; stop < end && !leader(lane, use, stop); stop++)
            ;
        length = known_length(lane, known, count, i, stop);
        if (by) {
            uint32_t told = experts_told(lane, by);
            length = group_length(lane, i, stop, told ? told : 1);
            if (length)
                known[count++] = (struct known){payload(lane, i)->key_a, payload(lane, i)->key_b,
                                                list_key(lane, i, 2 * length), length};
        }
        if (!length) { /* cut off, or records are missing: which group is which cannot be said */
            i = by ? stop : i + 1;
            continue;
        }
        add_item(lane, comm, i, length);
        add_item(lane, comm, i + length, length);
        i += 2 * length;
    }
    free(known);
    return 0;
}

/* ---- gate weights ------------------------------------------------------------------------------
 */

/* Two exchanges next to each other with the same sizes but for a factor that comes back again and
 * again: tokens and their gate weights. There may be two such factors, when tokens are dispatched
 * in another type than results. */
struct ratios {
    uint64_t ratio[RATIOS_MAX], votes[RATIOS_MAX];
};

static uint64_t ratio_of(const struct skew_item *x, const struct skew_item *y)
{
    uint64_t more = x->unit > y->unit ? x->unit : y->unit;
    uint64_t less = x->unit > y->unit ? y->unit : x->unit;

    /* Where what is sent and what is received differ, two in the same direction are no dispatch and
     * its combine, which may be of other types. */
    uint64_t least = x->a == x->b ? RATIO_LEAST : RATIO_LEAST_UNEVEN;
    return less && more % less == 0 && more / less >= least ? more / less : 0;
}

static bool same_sizes(const struct skew_item *x, const struct skew_item *y)
{
    return x->a == y->a && x->b == y->b;
}

static void find_ratios(struct ratios *r, const struct skew_item *items, uint32_t count)
{
    for (uint32_t i = 0; i + 1 < count; i++) {
        uint64_t ratio =
            same_sizes(&items[i], &items[i + 1]) ? ratio_of(&items[i], &items[i + 1]) : 0;
        for (uint32_t k = 0; ratio && k < RATIOS_MAX; k++) {
            if (r->votes[k] && r->ratio[k] != ratio)
                continue;
            r->ratio[k] = ratio;
            r->votes[k]++;
            break;
        }
    }
    for (uint32_t k = 0; k < RATIOS_MAX; k++) /* a pair in six when forward and backward differ */
        if (r->votes[k] * 12 <= count)
            r->ratio[k] = 0;
}

static void mark_small(struct skew_item *items, uint32_t count, const struct ratios *r)
{
    for (uint32_t i = 0; i + 1 < count; i++) {
        struct skew_item *x = &items[i], *y = &items[i + 1];
        bool returned = x->a == y->b && x->b == y->a; /* a gradient of weights after a combine's */
        uint64_t ratio = same_sizes(x, y) || returned ? ratio_of(x, y) : 0;
        for (uint32_t k = 0; ratio && k < RATIOS_MAX; k++)
            if (r->ratio[k] == ratio)
                (x->unit < y->unit ? x : y)->small = true;
    }
}

/* Sizes that are equal but for a factor are told apart by the factor, in tokens, where it is known:
 * as long as all tokens are of one data type. */
static void tell_scales_apart(const struct skew_labelling *lane, struct skew_item *items,
                              uint32_t count)
{
    uint64_t unit[2] = {0};
    int32_t dtype = count ? payload(lane, items[0].first)->dtype : 0;

    if (dtype == ncclInt8 || dtype == ncclUint8)
        return;
    for (uint32_t i = 0; i < count; i++) {
        unit[items[i].small] = skew_gcd(unit[items[i].small], items[i].unit);
        if (!items[i].small && payload(lane, items[i].first)->dtype != dtype)
            return;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint64_t scale = unit[items[i].small] ? items[i].unit / unit[items[i].small] : 0;
        items[i].a = skew_mix(items[i].a ^ skew_mix(scale));
        items[i].b = skew_mix(items[i].b ^ skew_mix(scale));
    }
}

/* ---- blocks ------------------------------------------------------------------------------------
 */

struct open_blocks {
    uint32_t block[OPEN_MAX];
    uint32_t count;
};

static void forget(struct open_blocks *open, uint32_t at)
{
    memmove(&open->block[at], &open->block[at + 1], (--open->count - at) * sizeof *open->block);
}

static bool close_block(struct skew_labelling *lane, struct open_blocks *open, uint32_t i)
{
    const struct skew_item *item = &lane->items[i];

    for (uint32_t k = 0; k < open->count; k++) {
        struct skew_block *b = &lane->blocks[open->block[k]];
        if (b->a != item->b || b->b != item->a)
            continue;
        b->back = i;
        b->last = item->event;
        lane->uses[b->comm].paired++;
        forget(open, k);
        return true;
    }
    return false;
}

static void open_block(struct skew_labelling *lane, struct open_blocks *open, uint32_t i)
{
    const struct skew_item *item = &lane->items[i];

    /* the same sizes on the same way again: where records are missing, the answer is one of them */
    for (uint32_t k = open->count; lane->gap != UINT32_MAX && k-- > 0;)
        if (lane->blocks[open->block[k]].a == item->a && lane->blocks[open->block[k]].b == item->b)
            forget(open, k);
    if (open->count == OPEN_MAX)
        forget(open, 0);
    open->block[open->count++] = lane->block_count;
    lane->uses[item->comm].blocks++;
    uint64_t rows = 0;
    for (uint32_t k = 0; k < item->count; k++)
        rows += payload(lane, item->first + k)->send_bytes;
    lane->blocks[lane->block_count++] = (struct skew_block){.a = item->a,
                                                            .b = item->b,
                                                            .there = i,
                                                            .back = SKEW_NO_ITEM,
                                                            .weights = SKEW_NO_ITEM,
                                                            .rows = rows,
                                                            .comm = item->comm,
                                                            .event = item->event,
                                                            .last = item->event,
                                                            .counted = item->leader != 0,
                                                            .link = -1,
                                                            .first = -1,
                                                            .pass = -1,
                                                            .layer = -1,
                                                            .step = -1,
                                                            .microbatch = -1};
}

/* Gate weights belong to the latest block with these sizes, either way round, that has none. */
static void give_weights(struct skew_labelling *lane, uint32_t from, uint32_t i)
{
    const struct skew_item *item = &lane->items[i];

    for (uint32_t k = lane->block_count; k-- > from && k + 8 >= lane->block_count;) {
        struct skew_block *b = &lane->blocks[k];
        if (b->weights == SKEW_NO_ITEM &&
            ((b->a == item->a && b->b == item->b) || (b->a == item->b && b->b == item->a))) {
            b->weights = i;
            if (item->event > b->last)
                b->last = item->event;
            return;
        }
    }
}

static void make_blocks(struct skew_labelling *lane, uint32_t from_item)
{
    struct open_blocks open = {.count = 0};
    uint32_t from = lane->block_count;

    for (uint32_t i = from_item; i < lane->item_count; i++) {
        struct skew_item *item = &lane->items[i];
        if (item->small)
            give_weights(lane, from, i);
        else if (item->leader || !close_block(lane, &open, i))
            open_block(lane, &open, i);
    }
}

static int by_event(const void *a, const void *b)
{
    const struct skew_block *x = a, *y = b;
    return x->event < y->event ? -1 : x->event > y->event;
}

/* One communicator's payload, from `from` to before `end`. */
static int use_blocks(struct skew_labelling *lane, uint32_t comm, uint32_t from, uint32_t end)
{
    struct skew_use *use = &lane->uses[comm];
    uint32_t first_item = lane->item_count;
    int result = 0;

    use->groups = comes_in_groups(lane, use, from, end);
    if (use->groups)
        result = group_items(lane, comm, from, end);
    else
        for (uint32_t i = from; i < end; i++)
            add_item(lane, comm, i, 1);
    if (result < 0)
        return result;
    if (!use->groups) {
        struct ratios ratios = {0};
        find_ratios(&ratios, lane->items + first_item, lane->item_count - first_item);
        mark_small(lane->items + first_item, lane->item_count - first_item, &ratios);
    }
    tell_scales_apart(lane, lane->items + first_item, lane->item_count - first_item);
    uint32_t first_block = lane->block_count;
    make_blocks(lane, first_item);
    for (uint32_t i = first_item; i < lane->item_count; i++)
        if (!lane->items[i].small)
            use->unit = skew_gcd(use->unit, lane->items[i].unit);
    /* sizes that differ and come back transposed are tokens, counts or no counts */
    use->moe = use->leader || (use->sizes * 2 > use->payload && use->paired * 3 > use->blocks * 2);
    use->role_confidence = use->leader == SKEW_LEADER_SITE ? 0.5f : use->leader ? 0.99f : 0.8f;
    if (!use->moe)
        lane->block_count = first_block;
    return 0;
}

int skew_lane_blocks(struct skew_labelling *lane)
{
    uint32_t from = 0;

    lane->items = calloc((size_t)lane->event_count + 1, sizeof *lane->items);
    lane->blocks = calloc((size_t)lane->event_count + 1, sizeof *lane->blocks);
    if (!lane->items || !lane->blocks)
        return -ENOMEM;
    for (uint32_t c = 0; c < lane->rows->comm_count; c++) {
        uint32_t end = from + lane->uses[c].payload;
        int result = from < end ? use_blocks(lane, c, from, end) : 0;
        if (result < 0)
            return result;
        from = end;
    }
    int result = skew_lane_collectives(lane);
    if (result < 0)
        return result;
    qsort(lane->blocks, lane->block_count, sizeof *lane->blocks, by_event);
    return 0;
}
