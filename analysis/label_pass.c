/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Forward blocks become passes over the layers, and passes are put into stretches of work between
 * moments when no forward pass waits for its backward pass. With several model chunks (interleaved
 * pipeline) the order of backward passes tells which chunk a pass went through.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- layers without a backward pass ------------------------------------------------------------
 */

/* What lies between a forward block and the next one: kinds of calls, not their sizes. */
static uint64_t gap(const struct skew_labelling *lane, const struct skew_block *from,
                    const struct skew_block *to)
{
    const struct skew_rows *rows = lane->rows;
    uint64_t sum = 0;

    for (uint32_t i = from->last + 1; i < to->event; i++) {
        const struct skew_rows_event *e = &lane->events[i];
        const struct skew_rows_exchange *x = skew_lane_exchange(lane, i);
        if (x)
            sum += skew_mix(skew_mix(x->member) ^ (uint64_t)x->op ^ (uint64_t)x->dtype << 8);
        else
            sum += skew_mix(skew_mix(rows->operations[e->first].member) ^
                            (uint64_t)rows->operations[e->first].op << 16 ^
                            (uint64_t)rows->operations[e->first].dtype << 8 ^ 0x6f70u);
    }
    return sum;
}

/* The smallest period of a sequence that holds at least two and a half of them, else 0 (Knuth,
 * Morris and Pratt's failure function). */
static uint32_t period(const uint64_t *values, uint32_t count)
{
    uint32_t *failure = calloc((size_t)count + 1, sizeof *failure), best = 0;

    if (!failure)
        return 0;
    for (uint32_t i = 1, k = 0; i < count; i++) {
        while (k && values[i] != values[k])
            k = failure[k - 1];
        k += values[i] == values[k];
        failure[i] = k;
    }
    if (count) {
        best = count - failure[count - 1];
        if ((uint64_t)best * 5 > (uint64_t)count * 2)
            best = 0;
    }
    free(failure);
    return best;
}

/* All layers of one pass send equally many rows. */
static uint32_t period_of_rows(const struct skew_labelling *lane)
{
    uint64_t common = 0, before = 0;
    uint32_t run = 0, changes = 0;

    for (uint32_t i = 0; i < lane->first_count; i++) {
        uint64_t bytes = lane->blocks[lane->firsts[i]].rows;
        if (i && bytes != before) {
            common = skew_gcd(common, run);
            changes++;
            run = 0;
        }
        before = bytes;
        run++;
    }
    return changes >= 6 && common > 1 ? (uint32_t)common : 0;
}

static int layers_of_inference(struct skew_labelling *lane)
{
    uint32_t n = lane->first_count;
    uint64_t *gaps = calloc((size_t)n + 1, sizeof *gaps);

    if (!gaps)
        return -ENOMEM;
    for (uint32_t i = 0; i + 1 < n; i++)
        gaps[i] = gap(lane, &lane->blocks[lane->firsts[i]], &lane->blocks[lane->firsts[i + 1]]);
    lane->pass_layers = n > 1 ? period(gaps, n - 1) : 0;
    lane->layer_confidence = 0.7f;
    if (lane->pass_layers < 2) {
        lane->pass_layers = period_of_rows(lane);
        lane->layer_confidence = 0.6f;
    }
    free(gaps);
    return 0;
}

/* ---- passes ------------------------------------------------------------------------------------
 */

/* Where whole runs of backward blocks say that a pass begins. */
static void mark_bounds(const struct skew_labelling *lane, uint8_t *bounds)
{
    int32_t before = -2;
    uint32_t length = 0, begin = 0, end = 0;

    for (uint32_t i = 0; i <= lane->block_count; i++) {
        const struct skew_block *b = i < lane->block_count ? &lane->blocks[i] : NULL;
        if (b && b->kind != SKEW_BLOCK_BACK)
            continue;
        int32_t first = b && b->link >= 0 ? lane->blocks[b->link].first : -2;
        if (length == lane->pass_layers && before >= 0 &&
            (!lane->loss_count ||
             (!skew_lane_lost_around(lane, begin, end) &&
              !skew_lane_lost_around(lane, lane->firsts[before],
                                     lane->firsts[(uint32_t)before + length - 1])))) {
            bounds[before] = 2;
            if (!bounds[(uint32_t)before + length])
                bounds[(uint32_t)before + length] = 1;
            length = 0;
        }
        length = first < 0 ? 0 : first == before - 1 && length ? length + 1 : 1;
        begin = length == 1 ? i : begin;
        end = i;
        before = first;
    }
}

static void cut_passes(struct skew_labelling *lane, const uint8_t *bounds)
{
    struct skew_pass_info *p = NULL;

    for (uint32_t i = 0; i < lane->first_count; i++) {
        struct skew_block *b = &lane->blocks[lane->firsts[i]];
        if (!p || bounds[i] || p->count == lane->pass_layers) {
            p = &lane->passes[lane->pass_count++];
            *p = (struct skew_pass_info){.first = i,
                                         .begin = b->event,
                                         .unit = -1,
                                         .back_ordinal = -1,
                                         .sure = bounds[i] == 2};
        }
        p->count++;
        p->end = b->last;
        b->pass = (int32_t)lane->pass_count - 1;
    }
    for (uint32_t i = 0; i < lane->pass_count; i++)
        lane->passes[i].whole = lane->passes[i].count == lane->pass_layers;
}

static void add_backward(struct skew_labelling *lane)
{
    int32_t ordinal = 0;

    for (uint32_t i = 0; i < lane->block_count; i++) {
        struct skew_block *b = &lane->blocks[i];
        if (b->kind == SKEW_BLOCK_FIRST || b->link < 0)
            continue;
        b->pass = lane->blocks[b->link].pass;
        struct skew_pass_info *p = &lane->passes[b->pass];
        if (p->back_ordinal < 0) {
            p->back_ordinal = ordinal++;
            p->back_begin = b->event;
        }
        if (b->kind == SKEW_BLOCK_BACK)
            p->back_end = b->last;
    }
}

/* Stretches: a forward pass opens, the end of its backward pass closes. */
static void cut_units(struct skew_labelling *lane)
{
    uint32_t open = 0;

    for (uint32_t i = 0; i < lane->block_count; i++) {
        struct skew_block *b = &lane->blocks[i];
        struct skew_pass_info *p = b->pass >= 0 ? &lane->passes[b->pass] : NULL;
        if (!p)
            continue;
        if (b->kind == SKEW_BLOCK_FIRST && b->event == p->begin) {
            if (p->back_end && open++ == 0)
                lane->unit_count++;
            p->unit = open ? (int32_t)lane->unit_count - 1 : -1;
        }
        if (b->kind == SKEW_BLOCK_BACK && b->last == p->back_end && open)
            open--;
    }
}

/* ---- layers ------------------------------------------------------------------------------------
 */

/* Chunk and micro-batch of the n-th forward pass of a step with groups of `stages` micro-batches
 * over `chunks` model chunks (Megatron-LM, interleaved schedule; with one chunk every schedule). */
static void place_of(uint32_t n, uint32_t stages, uint32_t chunks, bool backward, uint32_t *chunk,
                     uint32_t *microbatch)
{
    uint32_t within = n % (stages * chunks);
    *chunk = backward ? chunks - 1 - within / stages : within / stages;
    *microbatch = n / (stages * chunks) * stages + within % stages;
}

/* Whether the passes from `from`, `count` in one unit, are in the order of that schedule. */
static bool order_is(const struct skew_labelling *lane, uint32_t from, uint32_t count,
                     uint32_t stages, uint32_t chunks)
{
    int32_t least = INT32_MAX;

    if (count % (stages * chunks))
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (lane->passes[from + i].back_ordinal < least)
            least = lane->passes[from + i].back_ordinal;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t chunk, microbatch, back_chunk, back_microbatch;
        int32_t back = lane->passes[from + i].back_ordinal - least;
        if (back < 0 || (uint32_t)back >= count)
            return false;
        place_of(i, stages, chunks, false, &chunk, &microbatch);
        place_of((uint32_t)back, stages, chunks, true, &back_chunk, &back_microbatch);
        if (chunk != back_chunk || microbatch != back_microbatch)
            return false;
    }
    return true;
}

/* Model chunks and pipeline stages that explain the order of a unit's backward passes; 0: none do.
 */
static uint32_t chunks_of_unit(const struct skew_labelling *lane, uint32_t from, uint32_t count,
                               uint32_t *stages)
{
    uint32_t first_back = 0, run = 1;

    for (uint32_t i = 1; i < count; i++)
        if (lane->passes[from + i].back_ordinal < lane->passes[from + first_back].back_ordinal)
            first_back = i;
    *stages = 1;
    if (first_back == 0)
        return order_is(lane, from, count, 1, 1) ? 1 : 0;
    /* the first backward pass is of the last chunk's first micro-batch: pass stages × (chunks − 1)
     */
    while (first_back + run < count &&
           lane->passes[from + first_back + run].back_ordinal ==
               lane->passes[from + first_back].back_ordinal + (int32_t)run)
        run++;
    for (*stages = run; *stages; (*stages)--)
        if (first_back % *stages == 0 &&
            order_is(lane, from, count, *stages, first_back / *stages + 1))
            return first_back / *stages + 1;
    return 0;
}

struct model {
    uint32_t chunks, stages;
    bool known;
};

/* From all units whose passes all have their backward pass. */
static struct model find_model(const struct skew_labelling *lane)
{
    struct model m = {1, 1, true};
    bool first = true;

    for (uint32_t i = 0, end; i < lane->pass_count && m.known; i = end) {
        int32_t unit = lane->passes[i].unit;
        bool whole = unit >= 0;
        for (end = i; end < lane->pass_count && lane->passes[end].unit == unit; end++)
            whole &= lane->passes[end].back_end != 0;
        if (!whole)
            continue;
        struct model one = {.known = true};
        one.chunks = chunks_of_unit(lane, i, end - i, &one.stages);
        if (first)
            m = one;
        /* with as many micro-batches as stages several numbers explain the order of one unit */
        m.known = one.chunks && one.chunks == m.chunks;
        first = false;
    }
    return m;
}

/* Where records are missing only what a whole backward pass confirms has layers, and after that
 * nothing has a micro-batch. */
static bool before_gap(const struct skew_labelling *lane, const struct skew_pass_info *p)
{
    return p->end < lane->gap && p->back_end < lane->gap;
}

static void number_layers(struct skew_labelling *lane, struct model m)
{
    uint32_t base = 0;
    int32_t unit = -1;

    for (uint32_t i = 0; i < lane->pass_count; i++) {
        struct skew_pass_info *p = &lane->passes[i];
        uint32_t chunk = 0, microbatch = 0;
        if (p->unit != unit || unit < 0)
            base = i;
        unit = p->unit;
        if (m.chunks > 1 && unit < 0)
            continue; /* a forward pass by itself: nothing says which chunk */
        place_of(i - base, m.stages, m.chunks, false, &chunk, &microbatch);
        for (uint32_t k = 0; k < p->count; k++) {
            struct skew_block *b = &lane->blocks[lane->firsts[p->first + k]];
            bool whole = before_gap(lane, p) ? p->whole || i + 1 == lane->pass_count
                                             : p->sure && p->whole && m.chunks == 1;
            b->layer = whole ? (int32_t)(chunk * lane->pass_layers + k) : -1;
            b->microbatch = unit >= 0 && before_gap(lane, p) ? (int32_t)microbatch : -1;
        }
    }
    for (uint32_t i = 0; i < lane->block_count; i++) {
        struct skew_block *b = &lane->blocks[i];
        if (b->kind != SKEW_BLOCK_FIRST && b->link >= 0) {
            b->layer = lane->blocks[b->link].layer;
            b->microbatch = lane->blocks[b->link].microbatch;
        }
    }
}

/* The number of layers that the user gave, against what was found. */
static void apply_option(struct skew_labelling *lane)
{
    uint32_t given = lane->options->layers, found = lane->pass_layers;

    if (!given)
        return;
    if (found && given > found && given % found == 0)
        return; /* model chunks, whose order has to say which is which */
    lane->pass_layers = given;
    lane->layer_confidence = 1;
}

int skew_lane_passes(struct skew_labelling *lane)
{
    uint8_t *bounds = calloc((size_t)lane->first_count + 2, 1);
    int result = 0;

    lane->passes = calloc((size_t)lane->first_count + 1, sizeof *lane->passes);
    if (!bounds || !lane->passes) {
        free(bounds);
        return -ENOMEM;
    }
    result = skew_lane_marked_layers(lane);
    if (result == 0 && !lane->back_count && !lane->options->layers)
        result = layers_of_inference(lane);
    apply_option(lane);
    if (result == 0 && !lane->pass_layers && skew_lane_mark_bounds(lane, bounds))
        lane->pass_layers = lane->marked_layers;
    if (result == 0 && lane->pass_layers) {
        mark_bounds(lane, bounds);
        cut_passes(lane, bounds);
        add_backward(lane);
        cut_units(lane);
        struct model m = find_model(lane);
        bool agrees =
            !lane->options->layers || lane->options->layers == m.chunks * lane->pass_layers;
        if (m.known && agrees) {
            lane->layers = m.chunks * lane->pass_layers;
            number_layers(lane, m);
        } else {
            lane->no_layers =
                m.known ? "the layers that were given do not fit the passes that were found"
                        : "the order of the backward passes fits no schedule that is known, so "
                          "model chunks cannot be told from micro-batches";
        }
    } else if (result == 0 && lane->first_count && !lane->no_layers) {
        lane->no_layers =
            lane->back_count
                ? "no length of a pass explains the backward passes"
                : "without backward passes nothing repeats that would show where a pass "
                  "over the layers begins; give --layers";
    }
    if (result == 0)
        skew_lane_set_layers(lane);
    free(bounds);
    return result;
}
