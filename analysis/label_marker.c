/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps and layers as NVTX ranges say them, over what sizes and order have said. A range that the
 * user names is believed; one that is only recognised by its words has to look right first: nearly
 * all forward blocks lie in one, and its numbers go up. Backward passes and recomputation take what
 * their forward pass has: autograd runs them on a thread of its own, which is in no range.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RECOGNISED 0.97f /* confidence of what was not named by the user */

/* What the ranges say of each FIRST block. */
struct said {
    struct skew_mark mark;
    bool any;
};

static struct said *ask(const struct skew_labelling *lane, enum skew_mark_kind kind, uint32_t *any)
{
    struct said *said = calloc((size_t)lane->first_count + 1, sizeof *said);

    *any = 0;
    for (uint32_t i = 0; said && i < lane->first_count; i++) {
        uint32_t event = lane->blocks[lane->firsts[i]].event;
        said[i].any = skew_lane_marked(lane, event, kind, &said[i].mark);
        *any += said[i].any;
    }
    return said;
}

bool skew_lane_marked(const struct skew_labelling *lane, uint32_t event, enum skew_mark_kind kind,
                      struct skew_mark *mark)
{
    const struct skew_rows_event *e = &lane->events[event];
    const struct skew_rows_exchange *x = skew_lane_exchange(lane, event);
    const struct skew_rows_operation *o = x ? NULL : &lane->rows->operations[e->first];

    return skew_rows_marked(lane->rows, lane->process, x ? x->thread : o->thread,
                            x ? x->group_seq : o->group_seq, kind, mark);
}

/* ---- steps -------------------------------------------------------------------------------------
 */

/* Numbers that go up, one for each range. */
static bool numbers_rise(const struct said *said, uint32_t count)
{
    const struct skew_mark *before = NULL;

    for (uint32_t i = 0; i < count; i++) {
        const struct skew_mark *m = &said[i].mark;
        if (!said[i].any)
            continue;
        if (m->number < 0 || (before && (m->number < before->number ||
                                         (m->number == before->number &&
                                          m->serial != before->serial && i && said[i - 1].any))))
            return false;
        before = m;
    }
    return before != NULL;
}

/* Ordinals from 0, by number where they have one, else one after the other. */
static void ordinals(const struct said *said, uint32_t count, bool by_number, int64_t least,
                     int32_t *step)
{
    const struct skew_mark *before = NULL;
    int32_t ordinal = -1;

    for (uint32_t i = 0; i < count; i++) {
        const struct skew_mark *m = &said[i].mark;
        step[i] = -1;
        if (!said[i].any)
            continue;
        ordinal += !before || before->serial != m->serial;
        before = m;
        if (!by_number)
            step[i] = ordinal;
        else if (m->number - least <= INT32_MAX)
            step[i] = (int32_t)(m->number - least);
    }
}

/* Whether two blocks that follow each other are of one step to the one and of two to the other. */
static bool disagrees(const struct skew_labelling *lane, const int32_t *step)
{
    for (uint32_t i = 1; i < lane->first_count; i++) {
        const struct skew_block *a = &lane->blocks[lane->firsts[i - 1]],
                                *b = &lane->blocks[lane->firsts[i]];
        if (a->step >= 0 && b->step >= 0 && step[i - 1] >= 0 && step[i] >= 0 &&
            (a->step == b->step) != (step[i - 1] == step[i]))
            return true;
    }
    return false;
}

/* Micro-batches: passes within a step, where passes are known. */
static void number_microbatches(struct skew_labelling *lane)
{
    int32_t step = -1, microbatch = 0;

    for (uint32_t p = 0; p < lane->pass_count; p++) {
        const struct skew_pass_info *pass = &lane->passes[p];
        int32_t own = lane->blocks[lane->firsts[pass->first]].step;
        microbatch = own == step ? microbatch + 1 : 0;
        step = own;
        for (uint32_t k = 0; k < pass->count; k++) {
            struct skew_block *b = &lane->blocks[lane->firsts[pass->first + k]];
            /* model chunks go over one micro-batch several times; without a backward pass
             * nothing says that a pass is not a part of one */
            b->microbatch = own < 0 || (!lane->back_count && !lane->options->microbatches) ? -1
                            : lane->layers == lane->pass_layers ? microbatch
                                                                : b->microbatch;
        }
    }
}

static void set_steps(struct skew_labelling *lane, const int32_t *step)
{
    if (disagrees(lane, step))
        lane->note =
            "NVTX ranges cut steps in another way than the order of the exchanges does; the "
            "ranges were believed";
    for (uint32_t i = 0; i < lane->first_count; i++) {
        struct skew_block *b = &lane->blocks[lane->firsts[i]];
        b->step = step[i];
        b->marked |= step[i] >= 0;
    }
    number_microbatches(lane);
    lane->no_steps = NULL;
    lane->step_confidence = lane->options->step_marker ? 1 : RECOGNISED;
}

int skew_lane_marked_steps(struct skew_labelling *lane, bool *done)
{
    uint32_t any;
    struct said *said = ask(lane, SKEW_MARK_STEP, &any);
    int32_t *step = calloc((size_t)lane->first_count + 1, sizeof *step);
    bool asked = lane->options->step_marker && lane->rows->step_ranges;

    *done = false;
    if (!said || !step) {
        free(said);
        free(step);
        return -ENOMEM;
    }
    bool rise = any && numbers_rise(said, lane->first_count);
    bool wanted = lane->options->step_marker ? asked : !lane->options->microbatches;
    if (wanted && any &&
        (asked || (rise && (uint64_t)any * 10 >= (uint64_t)lane->first_count * 9))) {
        ordinals(said, lane->first_count, rise, lane->rows->least[SKEW_MARK_STEP], step);
        set_steps(lane, step);
        *done = true;
    }
    free(said);
    free(step);
    return 0;
}

/* Recognised only: no option names them. */
int skew_lane_marked_microbatches(struct skew_labelling *lane)
{
    uint32_t any;
    struct said *said = ask(lane, SKEW_MARK_MICROBATCH, &any);

    if (!said)
        return -ENOMEM;
    bool most = any && (uint64_t)any * 10 >= (uint64_t)lane->first_count * 9;
    for (uint32_t i = 0; most && !lane->options->microbatches && i < lane->first_count; i++) {
        struct skew_block *b = &lane->blocks[lane->firsts[i]];
        int64_t ordinal = said[i].mark.number - lane->rows->least[SKEW_MARK_MICROBATCH];
        b->microbatch = said[i].any && ordinal <= INT32_MAX ? (int32_t)ordinal : -1;
        b->marked |= said[i].any;
    }
    free(said);
    return 0;
}

/* ---- layers ------------------------------------------------------------------------------------
 */

static int by_number(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* The MoE layers of this rank are what the numbers of its ranges are, in order. */
static uint32_t distinct_numbers(const struct said *said, uint32_t count, int64_t *numbers)
{
    uint32_t n = 0, distinct = 0;

    for (uint32_t i = 0; i < count; i++)
        if (said[i].any && said[i].mark.number >= 0)
            numbers[n++] = said[i].mark.number;
    qsort(numbers, n, sizeof *numbers, by_number);
    for (uint32_t i = 0; i < n; i++)
        if (!i || numbers[i] != numbers[i - 1])
            numbers[distinct++] = numbers[i];
    return distinct;
}

static int32_t layer_of(const struct said *said, const int64_t *numbers, uint32_t count)
{
    if (!said->any || said->mark.number < 0)
        return -1;
    const int64_t *at = bsearch(&said->mark.number, numbers, count, sizeof *numbers, by_number);
    return at ? (int32_t)(at - numbers) : -1;
}

int skew_lane_marked_layers(struct skew_labelling *lane)
{
    uint32_t any;
    struct said *said = ask(lane, SKEW_MARK_LAYER, &any);
    int64_t *numbers = calloc((size_t)lane->first_count + 1, sizeof *numbers);
    bool asked = lane->options->layer_marker;

    lane->marked_layer = calloc((size_t)lane->first_count + 1, sizeof *lane->marked_layer);
    if (!said || !numbers || !lane->marked_layer) {
        free(said);
        free(numbers);
        return -ENOMEM;
    }
    uint32_t distinct = any ? distinct_numbers(said, lane->first_count, numbers) : 0;
    if (distinct && (asked || (!lane->options->layers && distinct > 1 &&
                               (uint64_t)any * 10 >= (uint64_t)lane->first_count * 9))) {
        lane->marked_layers = distinct;
        for (uint32_t i = 0; i < lane->first_count; i++)
            lane->marked_layer[i] = layer_of(&said[i], numbers, distinct);
    }
    free(said);
    free(numbers);
    return 0;
}

/* Where a pass begins: the layers do not go up any more. */
bool skew_lane_mark_bounds(const struct skew_labelling *lane, uint8_t *bounds)
{
    int32_t before = -1;

    if (!lane->marked_layers)
        return false;
    for (uint32_t i = 0; i < lane->first_count; i++) {
        int32_t layer = lane->marked_layer[i];
        if (layer < 0)
            return false;
        bounds[i] = layer <= before || !i;
        before = layer;
    }
    return true;
}

/* After sizes and order have said what they know. */
void skew_lane_set_layers(struct skew_labelling *lane)
{
    if (!lane->marked_layers)
        return;
    for (uint32_t i = 0; i < lane->first_count; i++) {
        struct skew_block *b = &lane->blocks[lane->firsts[i]];
        int32_t layer = lane->marked_layer[i];
        if (b->layer >= 0 && layer >= 0 && b->layer != layer)
            lane->note = "NVTX ranges number layers in another way than the order of the exchanges "
                         "does; the "
                         "ranges were believed";
        b->layer = layer;
        b->marked |= layer >= 0;
    }
    for (uint32_t i = 0; i < lane->block_count; i++) {
        struct skew_block *b = &lane->blocks[i];
        if (b->kind != SKEW_BLOCK_FIRST && b->link >= 0) {
            b->layer = lane->blocks[b->link].layer;
            b->marked |= lane->blocks[b->link].marked;
        }
    }
    lane->layers = lane->marked_layers;
    lane->no_layers = NULL;
    lane->layer_confidence = lane->options->layer_marker ? 1 : RECOGNISED;
}
