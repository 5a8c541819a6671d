/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prefill and decode, where there is no backward pass. What is told is told of a forward pass over
 * all ranks: decode passes have few tokens, about as many each time, and many follow one prefill;
 * a pass with at least four times as many is mostly prompt tokens. Passes between the two stay
 * open, and so do those that are filled up to one and the same number: chunks of a budget may carry
 * decode tokens. CUDA graphs are captured for decode; ranges and options say it outright.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>

#define APART     4    /* times as many tokens: no longer of one kind */
#define STEADY    2    /* times as many at most, among decode passes */
#define FEWEST    8    /* blocks to judge by */
#define BY_TOKENS 0.6f /* confidence */
#define BY_GRAPH  0.5f
#define BY_RANGE  0.95f

struct sizes {
    uint64_t *values; /* of blocks that were not captured, in order of size */
    uint32_t count;
    uint64_t captured;        /* largest of those that were; 0: none */
    uint64_t decode, prefill; /* up to, from; 0: not to be told */
    uint64_t budget;          /* more than one pass was filled up to this; 0: no */
};

/* Tokens of all ranks in a block, in a unit that is the communicator's own; 0: not all of it is
 * here. */
static uint64_t tokens_of(const struct skew_labelling *lane, const struct skew_block *b)
{
    uint64_t sum = 0;

    if (b->collective)
        return b->rows;
    const struct skew_item *item = &lane->items[b->there];
    for (uint32_t i = 0; i < item->count; i++) {
        const struct skew_rows_exchange *x =
            skew_lane_exchange(lane, lane->payload[item->first + i]);
        if (x->partial)
            return 0;
        sum += x->column_bytes;
    }
    return sum;
}

static int by_size(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* The FIRST block number `i` if it is one of `comm`, else NULL. */
static struct skew_block *block_of(const struct skew_labelling *lane, uint32_t comm, uint32_t i)
{
    struct skew_block *b = &lane->blocks[lane->firsts[i]];
    return b->comm == comm ? b : NULL;
}

/* How long, in blocks, few and many tokens last on average: a prompt is prefilled once and decoded
 * for many passes. */
static bool few_last_longer(const struct skew_labelling *lane, uint32_t comm, const struct sizes *s)
{
    uint64_t blocks[2] = {0}, runs[2] = {0};
    int before = -1;

    for (uint32_t i = 0; i < lane->first_count; i++) {
        const struct skew_block *b = block_of(lane, comm, i);
        uint64_t tokens = b && !skew_lane_captured(lane, b->event) ? tokens_of(lane, b) : 0;
        if (!tokens)
            continue;
        int many = tokens > s->decode;
        blocks[many]++;
        runs[many] += many != before;
        before = many;
    }
    return runs[0] && runs[1] && blocks[0] * runs[1] >= 2 * blocks[1] * runs[0];
}

/* The shortest stretch of blocks with one number of tokens: a pass has as many blocks, or more. */
static uint32_t blocks_of_pass(const struct skew_labelling *lane, uint32_t comm)
{
    uint64_t before = 0;
    uint32_t run = 0, least = UINT32_MAX;

    if (lane->pass_layers)
        return lane->pass_layers;
    for (uint32_t i = 0; i < lane->first_count; i++) {
        const struct skew_block *b = block_of(lane, comm, i);
        uint64_t tokens = b ? tokens_of(lane, b) : 0;
        if (!tokens)
            continue;
        if (tokens != before && run && run < least)
            least = run;
        run = tokens == before ? run + 1 : 1;
        before = tokens;
    }
    return least;
}

static int collect(const struct skew_labelling *lane, uint32_t comm, struct sizes *s)
{
    *s = (struct sizes){.values = calloc((size_t)lane->first_count + 1, sizeof *s->values)};
    if (!s->values)
        return -ENOMEM;
    for (uint32_t i = 0; i < lane->first_count; i++) {
        const struct skew_block *b = block_of(lane, comm, i);
        uint64_t tokens = b ? tokens_of(lane, b) : 0;
        if (!tokens)
            continue;
        if (!skew_lane_captured(lane, b->event))
            s->values[s->count++] = tokens;
        else if (tokens > s->captured)
            s->captured = tokens;
    }
    qsort(s->values, s->count, sizeof *s->values, by_size);
    return 0;
}

/* Where few tokens end and many begin: at the widest gap. */
static void divide(const struct skew_labelling *lane, uint32_t comm, struct sizes *s)
{
    uint32_t at = 0;

    for (uint32_t i = 1; i < s->count; i++)
        if (s->values[i] / s->values[i - 1] >= APART &&
            (!at || (double)s->values[i] / (double)s->values[i - 1] >
                        (double)s->values[at] / (double)s->values[at - 1]))
            at = i;
    if (!at || s->count < FEWEST || s->values[at - 1] > STEADY * s->values[0])
        return;
    s->decode = s->values[at - 1];
    s->prefill = s->values[at];
    if (!few_last_longer(lane, comm, s)) {
        s->decode = s->prefill = 0;
        return;
    }
    uint64_t most = s->values[s->count - 1];
    uint32_t filled = 0, pass = blocks_of_pass(lane, comm);
    while (filled < s->count && s->values[s->count - 1 - filled] == most)
        filled++;
    if (pass && filled / pass >= 2)
        s->budget = most;
}

static void by_tokens(const struct skew_labelling *lane, const struct sizes *s,
                      struct skew_block *b)
{
    uint64_t tokens = tokens_of(lane, b);
    /* without eager decode passes, the captured ones say what few is */
    uint64_t few = s->decode ? s->decode : s->captured;
    bool graphs = !s->decode && s->captured && (!s->count || s->values[0] / s->captured >= APART);

    if (!tokens || b->stage || (!s->decode && !graphs))
        return;
    b->stage_confidence = s->decode ? BY_TOKENS : BY_GRAPH;
    if (tokens <= few &&
        (s->decode ? tokens * STEADY >= s->values[0] : skew_lane_captured(lane, b->event)))
        b->stage = SKEW_STAGE_DECODE;
    else if (tokens >= (s->decode ? s->prefill : few * APART) && tokens != s->budget)
        b->stage = SKEW_STAGE_PREFILL;
}

/* What the user or a range says. */
static void by_word(const struct skew_labelling *lane, struct skew_block *b)
{
    const struct skew_label_options *o = lane->options;
    struct skew_mark mark;
    bool prefill = skew_lane_marked(lane, b->event, SKEW_MARK_PREFILL, &mark);
    bool decode = skew_lane_marked(lane, b->event, SKEW_MARK_DECODE, &mark);

    if (o->stage) {
        b->stage = o->stage;
        b->stage_confidence = 1;
        b->marked = true;
    } else if (prefill != decode) {
        b->stage = prefill ? SKEW_STAGE_PREFILL : SKEW_STAGE_DECODE;
        b->stage_confidence = o->prefill_marker || o->decode_marker ? 1 : BY_RANGE;
        b->marked = true;
    }
}

int skew_lane_stages(struct skew_labelling *lane)
{
    bool open = false, told = false, budget = false;

    for (uint32_t i = 0; i < lane->first_count && !lane->back_count; i++)
        by_word(lane, &lane->blocks[lane->firsts[i]]);
    for (uint32_t c = 0; c < lane->rows->comm_count && !lane->back_count; c++) {
        struct sizes s;
        if (!lane->uses[c].moe && !lane->uses[c].collective)
            continue;
        if (collect(lane, c, &s) < 0)
            return -ENOMEM;
        divide(lane, c, &s);
        for (uint32_t i = 0; i < lane->first_count; i++) {
            struct skew_block *b = block_of(lane, c, i);
            if (!b)
                continue;
            by_tokens(lane, &s, b);
            told |= b->stage != 0;
            open |= !b->stage;
        }
        budget |= s.budget != 0;
        free(s.values);
    }
    if (open && budget)
        lane->no_stage =
            "several forward passes are filled up to the same number of tokens; chunks of "
            "prompts may carry tokens of decode, so their stage is open";
    else if (open)
        lane->no_stage =
            told ? "some forward passes have neither few nor many tokens; their stage is open"
                 : "the forward passes' numbers of tokens do not tell prefill from decode; give "
                   "--stage-is, --prefill-marker or --decode-marker";
    return 0;
}
