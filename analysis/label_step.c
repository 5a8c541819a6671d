/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps. Where forward passes overlap (a pipeline), a step ends when all of them have been
 * answered. Where every forward pass is answered at once, a step and a micro-batch look alike, and
 * only what happens once a step tells them apart: the reduction of gradients, of the expert bias,
 * of the gradients' norm.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "spool.h"

/* A kind of reduction in the stretch (unit) where it happened. */
struct reduction {
    uint64_t kind;
    uint32_t unit;
    bool outside; /* after the backward pass, before the next forward pass */
    uint64_t bytes;
};

static int by_kind(const void *a, const void *b)
{
    const struct reduction *x = a, *y = b;

    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    return x->unit < y->unit ? -1 : x->unit > y->unit;
}

static bool reduces(int32_t op)
{
    return op == SKEW_OP_ALLREDUCE || op == SKEW_OP_REDUCESCATTER || op == SKEW_OP_REDUCE;
}

/* Reductions from the first forward pass on. */
static uint32_t collect(const struct skew_labelling *lane, struct reduction *list)
{
    uint32_t n = 0, pass = 0;
    int32_t unit = -1;
    bool outside = true;
    uint32_t end = 0;

    for (uint32_t i = 0; i < lane->event_count; i++) {
        const struct skew_rows_event *e = &lane->events[i];
        while (pass < lane->pass_count && lane->passes[pass].begin <= i) {
            const struct skew_pass_info *p = &lane->passes[pass++];
            if (p->unit >= 0) {
                unit = p->unit;
                end = p->back_end > end ? p->back_end : end;
            }
        }
        outside = i > end;
        for (uint32_t k = 0; k < e->count && unit >= 0; k++) {
            const struct skew_rows_operation *o = &lane->rows->operations[e->first + k];
            if (!reduces(o->op))
                continue;
            uint64_t kind = skew_mix(skew_mix(o->member) ^ (uint64_t)o->count) ^
                            (uint64_t)o->op << 8 ^ (uint64_t)(uint32_t)o->dtype;
            list[n++] = (struct reduction){kind, (uint32_t)unit, outside, (uint64_t)o->bytes};
        }
    }
    qsort(list, n, sizeof *list, by_kind);
    return n;
}

struct kind_facts {
    uint32_t units;  /* stretches that have it */
    uint32_t prefix; /* … from the first on without a gap */
    uint64_t bytes;  /* in one stretch */
    bool inside;
};

/* Facts of the kind that begins at `from`; returns where the next one does. */
static uint32_t facts_of(const struct reduction *list, uint32_t count, uint32_t from,
                         struct kind_facts *f)
{
    uint32_t i = from;
    uint64_t bytes = 0;

    *f = (struct kind_facts){0};
    for (; i < count && list[i].kind == list[from].kind; i++) {
        f->units += i == from || list[i].unit != list[i - 1].unit;
        f->prefix += list[i].unit == f->prefix;
        f->inside |= !list[i].outside;
        bytes += list[i].bytes;
    }
    f->bytes = bytes / f->units;
    return i;
}

/* Marks in `ends` the units after which a step ends. False: nothing tells. */
static bool units_by_reductions(struct skew_labelling *lane, const struct reduction *list,
                                uint32_t count, uint8_t *ends)
{
    uint64_t some = 0, always = 0;
    struct kind_facts f;

    for (uint32_t i = 0, next; i < count; i = next) {
        next = facts_of(list, count, i, &f);
        if (f.units >= 2 && f.units * 10 < lane->unit_count * 9 && f.units + 1 < lane->unit_count)
            some = f.bytes > some ? f.bytes : some;
        else if (!f.inside && f.prefix + 1 >= lane->unit_count)
            always = f.bytes > always ? f.bytes : always;
    }
    if (some && some >= always) {
        for (uint32_t i = 0, next; i < count; i = next) {
            next = facts_of(list, count, i, &f);
            for (uint32_t k = i;
                 f.units >= 2 && f.units + 1 < lane->unit_count && f.bytes * 2 >= some && k < next;
                 k++)
                ends[list[k].unit] = 1;
        }
        lane->step_confidence = 0.85f;
        return true;
    }
    if (always) {
        memset(ends, 1, lane->unit_count);
        lane->step_confidence = 0.7f;
        return true;
    }
    return false;
}

/* ---- what the user says ------------------------------------------------------------------------
 */

/* Steps end at marks; several marks without a forward pass between them are one. */
static void steps_by_marks(struct skew_labelling *lane)
{
    int32_t step = 0, microbatch = 0;
    bool marked = false;
    uint32_t at = 0;

    for (uint32_t p = 0; p < lane->pass_count; p++) {
        struct skew_pass_info *pass = &lane->passes[p];
        for (; at < pass->begin; at++)
            marked |= lane->marks[at] && p > 0;
        if (marked) {
            step++;
            microbatch = 0;
        }
        marked = false;
        for (uint32_t k = 0; k < pass->count; k++) {
            struct skew_block *b = &lane->blocks[lane->firsts[pass->first + k]];
            b->step = step;
            if (lane->layers == lane->pass_layers)
                b->microbatch = microbatch;
        }
        microbatch++;
    }
    lane->step_confidence = 1;
    for (uint32_t i = 0; i < lane->first_count; i++)
        lane->blocks[lane->firsts[i]].marked |= lane->blocks[lane->firsts[i]].step >= 0;
}

/* ---- from passes to blocks ---------------------------------------------------------------------
 */

static void set_step(struct skew_labelling *lane, const struct skew_pass_info *p, int32_t step,
                     int32_t microbatch)
{
    for (uint32_t k = 0; k < p->count; k++) {
        struct skew_block *b = &lane->blocks[lane->firsts[p->first + k]];
        b->step = step;
        if (microbatch >= 0)
            b->microbatch = microbatch;
    }
}

/* One pass at a time: `ends` tells after which units a step ends, or `microbatches` after how many.
 */
static void steps_of_single(struct skew_labelling *lane, const uint8_t *ends, uint32_t microbatches)
{
    int32_t step = 0, microbatch = 0;

    for (uint32_t i = 0; i < lane->pass_count; i++) {
        const struct skew_pass_info *p = &lane->passes[i];
        if (p->unit < 0)
            continue;
        set_step(lane, p, step, microbatch++);
        if (microbatches ? (uint32_t)microbatch == microbatches : ends[p->unit]) {
            step++;
            microbatch = 0;
        }
    }
}

static void steps_of_inference(struct skew_labelling *lane)
{
    uint32_t m = lane->options->microbatches ? lane->options->microbatches : 1, n = 0;

    for (uint32_t i = 0; i < lane->pass_count; i++) {
        if (skew_lane_captured(lane, lane->passes[i].begin))
            continue;
        set_step(lane, &lane->passes[i], (int32_t)(n / m),
                 lane->options->microbatches ? (int32_t)(n % m) : -1);
        n++;
    }
    lane->step_confidence = lane->layer_confidence;
}

/* How many stretches hold several passes: then they overlap. */
static bool overlap(const struct skew_labelling *lane)
{
    uint32_t several = 0, single = 0;

    for (uint32_t i = 0, end; i < lane->pass_count; i = end) {
        for (end = i + 1; end < lane->pass_count && lane->passes[end].unit == lane->passes[i].unit;
             end++)
            ;
        several += lane->passes[i].unit >= 0 && end - i > 1;
        single += lane->passes[i].unit >= 0 && end - i == 1;
    }
    return several > single;
}

static int steps_of_training(struct skew_labelling *lane)
{
    uint32_t operations = 0, count;
    int result = -ENOMEM;

    for (uint32_t i = 0; i < lane->event_count; i++)
        operations += lane->events[i].count;
    struct reduction *list = calloc((size_t)operations + 1, sizeof *list);
    uint8_t *ends = calloc((size_t)lane->unit_count + 1, 1);
    if (!list || !ends)
        goto out;
    result = 0;
    if (lane->options->microbatches) {
        steps_of_single(lane, ends, lane->options->microbatches);
        lane->step_confidence = 1;
        goto out;
    }
    count = collect(lane, list);
    if (lane->unit_count == 1) {
        lane->step_confidence = 0.9f; /* whatever it is, it is the first */
        steps_of_single(lane, ends, 0);
    } else if (units_by_reductions(lane, list, count, ends)) {
        steps_of_single(lane, ends, 0);
    } else {
        for (uint32_t i = 0; i < lane->block_count; i++)
            lane->blocks[i].microbatch = -1;
        lane->no_steps =
            "every forward pass is followed by its backward pass and nothing happens once a "
            "step, so steps cannot be told from micro-batches; give --microbatches or "
            "--step-marker";
    }
out:
    free(list);
    free(ends);
    return result;
}

/* A missing record may have been a whole pass, or what ended a step. */
static void forget_step(struct skew_labelling *lane, const struct skew_pass_info *p, bool marked)
{
    for (uint32_t k = 0; k < p->count; k++) {
        struct skew_block *b = &lane->blocks[lane->firsts[p->first + k]];
        b->microbatch = b->pass = -1;
        if (!marked)
            b->step = -1;
    }
    if (!lane->no_steps)
        lane->no_steps =
            marked
                ? "records were lost, or the trace begins in the middle: from there on "
                  "micro-batches "
                  "cannot be counted"
                : "records were lost, or the trace begins in the middle: from there on steps and "
                  "micro-batches cannot be counted";
}

int skew_lane_steps(struct skew_labelling *lane)
{
    bool marked = false;
    int result = 0;

    if (!lane->pass_count) {
        /* only ranges can tell */
    } else if (lane->marks) {
        steps_by_marks(lane);
    } else if (!lane->back_count) {
        steps_of_inference(lane);
    } else if (overlap(lane)) {
        for (uint32_t i = 0; i < lane->pass_count; i++)
            if (lane->passes[i].unit >= 0)
                set_step(lane, &lane->passes[i], lane->passes[i].unit, -1);
        lane->step_confidence = 0.95f;
    } else {
        result = steps_of_training(lane);
    }
    if (result == 0 && !lane->marks)
        result = skew_lane_marked_steps(lane, &marked);
    for (uint32_t i = 0; lane->gap != UINT32_MAX && i < lane->pass_count; i++)
        if (lane->passes[i].end >= lane->gap || lane->passes[i].back_end >= lane->gap)
            forget_step(lane, &lane->passes[i], marked);
    if (result == 0)
        result = skew_lane_marked_microbatches(lane);
    for (uint32_t i = 0; i < lane->block_count; i++) {
        struct skew_block *b = &lane->blocks[i];
        if (b->kind != SKEW_BLOCK_FIRST && b->link >= 0) {
            b->step = lane->blocks[b->link].step;
            b->microbatch = lane->blocks[b->link].microbatch;
            b->pass = lane->blocks[b->link].pass;
            b->marked |= lane->blocks[b->link].marked;
        }
    }
    return result;
}
