/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which blocks are forward, recomputed and backward, and which belong to the same tokens.
 *
 * Where something tells sizes before a dispatch (a count exchange), it does so in the forward pass
 * and when that is computed again, never backward. The rest follows from equal keys: the first of
 * them is the forward pass, the last the backward pass. Where keys repeat (routing that is forced
 * to be balanced, no tokens at all), the order of neighbours decides: a backward pass goes through
 * the layers downwards.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Blocks with equal keys, in order. */
struct group {
    uint32_t from, to; /* in `order` */
    uint32_t head;     /* the first that may be without a link */
    uint32_t counted, back;
    int32_t waiting; /* forward blocks without a backward block yet, while kinds are found */
    bool spoilt; /* a record is missing beside one of these, or of those that go the other way */
};

struct linking {
    struct skew_labelling *lane;
    uint32_t *order;    /* [blocks] by key, then event */
    uint32_t *group_of; /* [blocks] */
    struct group *groups;
    uint32_t group_count;
};

static __thread const struct skew_block *sorting; /* of the qsort that runs in this thread */

static int by_key(const void *a, const void *b)
{
    const struct skew_block *x = &sorting[*(const uint32_t *)a],
                            *y = &sorting[*(const uint32_t *)b];

    if (x->comm != y->comm)
        return x->comm < y->comm ? -1 : 1;
    if (x->a != y->a)
        return x->a < y->a ? -1 : 1;
    if (x->b != y->b)
        return x->b < y->b ? -1 : 1;
    return x->event < y->event ? -1 : x->event > y->event;
}

static int make_groups(struct linking *l)
{
    struct skew_labelling *lane = l->lane;
    uint32_t n = lane->block_count;

    l->order = calloc((size_t)n + 1, sizeof *l->order);
    l->group_of = calloc((size_t)n + 1, sizeof *l->group_of);
    l->groups = calloc((size_t)n + 1, sizeof *l->groups);
    if (!l->order || !l->group_of || !l->groups)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        l->order[i] = i;
    sorting = lane->blocks;
    qsort(l->order, n, sizeof *l->order, by_key);
    for (uint32_t i = 0; i < n; i++) {
        const struct skew_block *b = &lane->blocks[l->order[i]];
        const struct skew_block *before = i ? &lane->blocks[l->order[i - 1]] : NULL;
        if (!before || before->comm != b->comm || before->a != b->a || before->b != b->b)
            l->groups[l->group_count++] = (struct group){.from = i, .to = i, .head = i};
        struct group *g = &l->groups[l->group_count - 1];
        g->to = i + 1;
        g->counted += b->counted;
        g->back += !b->counted;
        l->group_of[l->order[i]] = l->group_count - 1;
    }
    return 0;
}

/* ---- what losses spoil -------------------------------------------------------------------------
 */

static int compare_keys(const struct skew_block *x, uint32_t comm, uint64_t a, uint64_t b)
{
    if (x->comm != comm)
        return x->comm < comm ? -1 : 1;
    if (x->a != a)
        return x->a < a ? -1 : 1;
    return x->b < b ? -1 : x->b > b;
}

/* All blocks with these keys. */
static void spoil_keys(struct linking *l, uint32_t comm, uint64_t a, uint64_t b)
{
    uint32_t low = 0, high = l->group_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct skew_block *at = &l->lane->blocks[l->order[l->groups[middle].from]];
        if (compare_keys(at, comm, a, b) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == l->group_count ||
        compare_keys(&l->lane->blocks[l->order[l->groups[low].from]], comm, a, b) != 0)
        return;
    l->groups[low].spoilt = true;
    for (uint32_t i = l->groups[low].from; i < l->groups[low].to; i++)
        l->lane->blocks[l->order[i]].doubtful = true;
}

static void spoil(void *user, uint32_t block)
{
    struct linking *l = user;
    const struct skew_block *b = &l->lane->blocks[block];

    spoil_keys(l, b->comm, b->a, b->b);
    spoil_keys(l, b->comm, b->b, b->a);
}

/* ---- kinds -------------------------------------------------------------------------------------
 */

/* Without anything that tells sizes only the number of blocks with equal keys speaks. */
static void kinds_by_number(struct linking *l, uint32_t comm)
{
    struct skew_block *blocks = l->lane->blocks;
    uint32_t alone = 0, groups = 0;

    for (uint32_t k = 0; k < l->group_count; k++) {
        const struct group *g = &l->groups[k];
        if (blocks[l->order[g->from]].comm != comm)
            continue;
        groups++;
        alone += g->to - g->from == 1;
    }
    for (uint32_t k = 0; k < l->group_count; k++) {
        const struct group *g = &l->groups[k];
        uint32_t n = g->to - g->from;
        if (blocks[l->order[g->from]].comm != comm)
            continue;
        for (uint32_t i = 0; i < n; i++) {
            struct skew_block *b = &blocks[l->order[g->from + i]];
            if (alone * 2 > groups || i == 0)
                b->kind = SKEW_BLOCK_FIRST;
            else if (n > 3)
                b->kind = SKEW_BLOCK_UNKNOWN;
            else
                b->kind = i == n - 1 ? SKEW_BLOCK_BACK : SKEW_BLOCK_AGAIN;
        }
        if (n > 3 && alone * 2 <= groups)
            blocks[l->order[g->from]].kind = SKEW_BLOCK_UNKNOWN;
    }
}

struct evidence {
    uint32_t counted, back; /* blocks */
    uint32_t once, twice;   /* groups of one backward and one, or two, counted blocks */
};

/* Among many blocks with equal keys, whether counted block `i` is a recomputation: it stands right
 * before its backward block, as it does when layers are recomputed one by one, and is not simply
 * the end of a forward pass. UNKNOWN: nothing says which. */
static enum skew_block_kind among_many(const struct linking *l, const struct evidence *e,
                                       uint32_t i, uint32_t pass_layers)
{
    const struct skew_block *blocks = l->lane->blocks;
    bool before_back = i + 1 < l->lane->block_count && l->group_of[i + 1] == l->group_of[i] &&
                       !blocks[i + 1].counted;
    uint32_t run = 0;

    if (!before_back || e->counted <= e->back || (e->once && !e->twice))
        return SKEW_BLOCK_FIRST;
    for (uint32_t k = i + 1; k-- > 0 && blocks[k].counted; run++)
        ;
    if ((e->twice && !e->once) || (!e->once && (uint64_t)e->counted * 4 >= (uint64_t)e->back * 7))
        return SKEW_BLOCK_AGAIN; /* as good as every layer is recomputed */
    if (pass_layers)
        return run % pass_layers == 1 || pass_layers == 1 ? SKEW_BLOCK_AGAIN : SKEW_BLOCK_FIRST;
    return e->twice && run == 1 ? SKEW_BLOCK_AGAIN : SKEW_BLOCK_UNKNOWN;
}

/* Of counted block `i`, whose sizes an earlier one had that still waits for its backward pass: the
 * same layer once more, or another one. */
static enum skew_block_kind same_again(const struct linking *l, const struct evidence *e,
                                       uint32_t i, uint32_t pass_layers)
{
    const struct group *g = &l->groups[l->group_of[i]];

    if (g->counted == 2 && g->back == 1)
        return SKEW_BLOCK_AGAIN;
    if (g->counted == 2 && g->back == 0 && e->back) /* the trace ends before the backward block */
        return e->twice ? SKEW_BLOCK_AGAIN : SKEW_BLOCK_UNKNOWN;
    if (g->counted == 2 && !e->back && i + 1 == l->lane->block_count)
        return SKEW_BLOCK_UNKNOWN; /* … before any: another forward pass, or the first of this one
                                    */
    return among_many(l, e, i, pass_layers);
}

/* Not all of it is here: the end of a trace. Its key equals no other. */
static bool is_partial(const struct skew_labelling *lane, const struct skew_block *b)
{
    return skew_lane_exchange(lane, b->event)->partial ||
           (lane->uses[b->comm].groups && b->back == SKEW_NO_ITEM);
}

static void kinds_by_counts(struct linking *l, uint32_t comm, uint32_t pass_layers)
{
    struct skew_block *blocks = l->lane->blocks;
    struct evidence e = {0};

    for (uint32_t k = 0; k < l->group_count; k++) {
        struct group *g = &l->groups[k];
        if (blocks[l->order[g->from]].comm != comm)
            continue;
        g->waiting = 0;
        if (g->spoilt)
            continue;
        e.counted += g->counted;
        e.back += g->back;
        e.once += g->back == 1 && g->counted == 1;
        e.twice += g->back == 1 && g->counted == 2;
    }
    for (uint32_t i = 0; i < l->lane->block_count; i++) {
        struct group *g = &l->groups[l->group_of[i]];
        struct skew_block *b = &blocks[i];
        if (b->comm != comm)
            continue;
        b->kind = b->counted ? SKEW_BLOCK_FIRST : SKEW_BLOCK_BACK;
        if (b->counted && g->waiting > 0)
            b->kind = same_again(l, &e, i, pass_layers);
        else if (b->counted && is_partial(l->lane, b)) /* forward, or a layer once more */
            b->kind = SKEW_BLOCK_UNKNOWN;
        g->waiting += b->kind == SKEW_BLOCK_FIRST;
        g->waiting -= b->kind == SKEW_BLOCK_BACK;
    }
}

/* ---- links -------------------------------------------------------------------------------------
 */

static void number_firsts(struct skew_labelling *lane)
{
    lane->first_count = lane->back_count = lane->again_count = 0;
    for (uint32_t i = 0; i < lane->block_count; i++) {
        struct skew_block *b = &lane->blocks[i];
        b->link = b->first = -1;
        lane->back_count += b->kind == SKEW_BLOCK_BACK;
        lane->again_count += b->kind == SKEW_BLOCK_AGAIN;
        if (b->kind == SKEW_BLOCK_FIRST) {
            b->first = (int32_t)lane->first_count;
            lane->firsts[lane->first_count++] = i;
        }
    }
}

static bool free_first(const struct skew_block *b)
{
    return b->kind == SKEW_BLOCK_FIRST && b->link < 0;
}

/* The forward block of backward block `i`: the one below the last one's, else the only one, else
 * the oldest that ends a pass; −1. `previous` is the forward ordinal of the backward block before.
 */
static int32_t find_first(struct linking *l, uint32_t i, int32_t previous, uint32_t pass_layers)
{
    const struct skew_labelling *lane = l->lane;
    struct group *g = &l->groups[l->group_of[i]];
    uint32_t candidates = 0;
    int32_t only = -1, ends = -1;

    if (previous > 0 && !(pass_layers && (uint32_t)previous % pass_layers == 0)) {
        uint32_t below = lane->firsts[previous - 1];
        if (l->group_of[below] == l->group_of[i] && free_first(&lane->blocks[below]))
            return (int32_t)below;
    }
    while (g->head < g->to && !free_first(&lane->blocks[l->order[g->head]]))
        g->head++;
    for (uint32_t k = g->head; k < g->to && l->order[k] < i; k++) {
        const struct skew_block *b = &lane->blocks[l->order[k]];
        if (!free_first(b))
            continue;
        candidates++;
        only = (int32_t)l->order[k];
        if (ends < 0 && pass_layers && ((uint32_t)b->first + 1) % pass_layers == 0)
            ends = only;
    }
    return candidates == 1 ? only : ends;
}

static void link_backward(struct linking *l, uint32_t pass_layers)
{
    struct skew_labelling *lane = l->lane;
    int32_t previous = -1;

    for (uint32_t k = 0; k < l->group_count; k++)
        l->groups[k].head = l->groups[k].from;
    for (uint32_t i = 0; i < lane->block_count; i++) {
        struct skew_block *b = &lane->blocks[i];
        if (b->kind != SKEW_BLOCK_BACK)
            continue;
        b->link = find_first(l, i, previous, pass_layers);
        previous = -1;
        if (b->link >= 0) {
            lane->blocks[b->link].link = (int32_t)i;
            previous = lane->blocks[b->link].first;
        }
    }
    /* what is computed again belongs to the forward block of the backward block that follows */
    for (uint32_t i = lane->block_count; i-- > 0;) {
        struct skew_block *b = &lane->blocks[i];
        const struct group *g = &l->groups[l->group_of[i]];
        for (uint32_t k = g->from; b->kind == SKEW_BLOCK_AGAIN && b->link < 0 && k < g->to; k++) {
            const struct skew_block *back = &lane->blocks[l->order[k]];
            if (l->order[k] > i && back->kind == SKEW_BLOCK_BACK) {
                b->link = back->link;
                break;
            }
        }
    }
}

/* ---- layers of a pass --------------------------------------------------------------------------
 */

/* Whether records are missing beside the backward blocks from `begin` to `end`, or beside their
 * `length` forward blocks from ordinal `first` on. */
static bool lost_in_chain(const struct skew_labelling *lane, uint32_t begin, uint32_t end,
                          uint32_t first, uint32_t length)
{
    return lane->loss_count &&
           (skew_lane_lost_around(lane, begin, end) ||
            skew_lane_lost_around(lane, lane->firsts[first], lane->firsts[first + length - 1]));
}

/* The most frequent length of a run of backward blocks whose forward blocks go down by one. */
static uint32_t length_of_chains(const struct skew_labelling *lane, uint32_t *seen)
{
    enum { MOST = 1024 };
    uint32_t votes[MOST] = {0}, length = 0, best = 0, total = 0, begin = 0, end = 0;
    int32_t before = -2;

    for (uint32_t i = 0; i <= lane->block_count; i++) {
        const struct skew_block *b = i < lane->block_count ? &lane->blocks[i] : NULL;
        if (b && b->kind != SKEW_BLOCK_BACK)
            continue;
        int32_t first = b && b->link >= 0 ? lane->blocks[b->link].first : -2;
        /* a run that the end of the trace, or a lost record, may have cut off says nothing */
        if (length && first < 0 && before != 0)
            length = 0;
        if (length && first != before - 1) {
            if (!lost_in_chain(lane, begin, end, (uint32_t)before, length)) {
                votes[length < MOST ? length : 0]++;
                total++;
            }
            length = 0;
        }
        begin = length ? begin : i;
        end = i;
        length = first >= 0 ? length + 1 : 0;
        before = first;
    }
    for (uint32_t k = 1; k < MOST; k++)
        if (votes[k] > votes[best] || best == 0)
            best = k;
    *seen = votes[best];
    /* where records are missing, what was seen once may be what they have left over */
    if (lane->loss_count && (best == 1 || votes[best] < 2))
        return 0;
    return total && votes[best] * 4 >= total * 3 ? best : 0;
}

static void find_kinds(struct linking *l, uint32_t pass_layers)
{
    for (uint32_t c = 0; c < l->lane->rows->comm_count; c++) {
        if (!l->lane->uses[c].moe)
            continue;
        if (l->lane->uses[c].leader)
            kinds_by_counts(l, c, pass_layers);
        else
            kinds_by_number(l, c);
    }
    number_firsts(l->lane);
}

/* A block of which nobody knows what it is, but for the last one: the trace may end in the middle
 * of what would tell, which says nothing of those before it. */
static bool spoils(const struct skew_labelling *lane, const struct skew_block *b)
{
    return b->kind == SKEW_BLOCK_UNKNOWN && !is_partial(lane, b) &&
           b != &lane->blocks[lane->block_count - 1];
}

/* Whether some forward blocks with equal keys wait for the same backward blocks, so that order
 * decides. */
static bool keys_repeat(const struct linking *l)
{
    for (uint32_t k = 0; k < l->group_count; k++) {
        uint32_t first = 0, back = 0, unknown = 0;
        for (uint32_t i = l->groups[k].from; i < l->groups[k].to; i++) {
            uint8_t kind = l->lane->blocks[l->order[i]].kind;
            first += kind == SKEW_BLOCK_FIRST;
            back += kind == SKEW_BLOCK_BACK;
            unknown += spoils(l->lane, &l->lane->blocks[l->order[i]]);
        }
        if (unknown || (first > 1 && back))
            return true;
    }
    return false;
}

/* Whether passes over `layers` layers, answered one after the other from the last layer down, agree
 * with every key. */
static bool length_agrees(const struct linking *l, uint32_t layers)
{
    const struct skew_labelling *lane = l->lane;
    uint32_t j = 0;

    if (lane->first_count % layers && lane->first_count < layers)
        return false;
    for (uint32_t i = 0; i < lane->block_count; i++) {
        if (spoils(lane, &lane->blocks[i]))
            return false;
        if (lane->blocks[i].kind != SKEW_BLOCK_BACK)
            continue;
        uint32_t first = j / layers * layers + layers - 1 - j % layers;
        j++;
        if (first >= lane->first_count || lane->firsts[first] > i ||
            l->group_of[lane->firsts[first]] != l->group_of[i])
            return false;
    }
    return j > 0;
}

/* The one length of a pass that agrees; 0: none does. `several` tells that there are more. */
static uint32_t find_length(struct linking *l, bool *several)
{
    enum { MOST = 256 };
    uint32_t given = l->lane->options->layers, found = 0;

    *several = false;
    for (uint32_t k = given ? given : 1; k <= (given ? given : MOST); k++) {
        find_kinds(l, k);
        if (l->lane->first_count < k)
            break;
        if (!length_agrees(l, k))
            continue;
        *several = found != 0;
        if (found)
            break;
        found = k;
    }
    return found;
}

/* Keys that repeat: only the order of all blocks together tells. */
static uint32_t link_by_order(struct linking *l)
{
    bool several;
    uint32_t length = find_length(l, &several), seen;

    if (several) {
        find_kinds(l, 0);
        l->lane->no_layers =
            "the sizes of different layers are all alike, and more than one number of layers "
            "explains their order; give --layers";
        return 0;
    }
    find_kinds(l, length);
    link_backward(l, length);
    if (length)
        return length;
    length = length_of_chains(l->lane, &seen);
    for (uint32_t i = 0; i < l->lane->block_count; i++)
        if (spoils(l->lane, &l->lane->blocks[i]))
            length = 0;
    if (length) { /* and again, now that the end of a pass is known */
        find_kinds(l, length);
        link_backward(l, length);
        length = length_of_chains(l->lane, &seen);
    }
    return length;
}

/* With records missing: two backward blocks for one forward block, one of which is something else.
 */
static void doubt(struct linking *l)
{
    for (uint32_t k = 0; k < l->group_count; k++) {
        uint32_t first = 0, back = 0;
        for (uint32_t i = l->groups[k].from; i < l->groups[k].to; i++) {
            first += l->lane->blocks[l->order[i]].kind == SKEW_BLOCK_FIRST;
            back += l->lane->blocks[l->order[i]].kind == SKEW_BLOCK_BACK;
        }
        for (uint32_t i = l->groups[k].from; back > first && i < l->groups[k].to; i++) {
            struct skew_block *b = &l->lane->blocks[l->order[i]];
            if (b->last < l->lane->gap || b->kind != SKEW_BLOCK_BACK)
                continue;
            if (b->link >= 0)
                l->lane->blocks[b->link].link = -1;
            b->kind = SKEW_BLOCK_UNKNOWN;
            b->link = -1;
        }
    }
}

int skew_lane_links(struct skew_labelling *lane)
{
    struct linking l = {.lane = lane};
    uint32_t seen = 0;
    int result = -ENOMEM;

    lane->firsts = calloc((size_t)lane->block_count + 1, sizeof *lane->firsts);
    if (!lane->firsts || make_groups(&l) < 0 || skew_lane_spoilt(lane, spoil, &l) < 0)
        goto out;
    find_kinds(&l, 0);
    if (keys_repeat(&l)) {
        lane->pass_layers = link_by_order(&l);
    } else {
        link_backward(&l, 0);
        lane->pass_layers = length_of_chains(lane, &seen);
    }
    if (lane->gap != UINT32_MAX)
        doubt(&l);
    length_of_chains(lane, &seen);
    lane->layer_confidence = seen >= 2 ? 0.95f : 0.8f;
    result = 0;
out:
    free(l.order);
    free(l.group_of);
    free(l.groups);
    return result;
}
