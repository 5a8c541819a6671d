/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dispatch without sends and receives (vLLM, TensorRT-LLM): every rank gathers all tokens with the
 * experts that they chose, and the results are summed back. One group gathers hidden states beside
 * whole numbers (ids; the gate weights have as many), as groups of broadcasts or all-gathers; the
 * next reduces as many elements as the hidden states had. Gathering and scattering without ids is
 * tensor parallelism's too and is not taken for it.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>

#include "nccl_abi.h"
#include "spool.h"

static bool gathers(int32_t op)
{
    return op == SKEW_OP_BROADCAST || op == SKEW_OP_ALLGATHER;
}

static bool scatters(int32_t op)
{
    return op == SKEW_OP_REDUCE || op == SKEW_OP_REDUCESCATTER;
}

static const struct skew_rows_operation *operations(const struct skew_labelling *lane,
                                                    uint32_t event)
{
    return &lane->rows->operations[lane->events[event].first];
}

/* Where the tensor that begins with call `i` of a group ends: an all-gather is one, broadcasts of
 * one are of ascending roots. */
static uint32_t tensor_end(const struct skew_rows_operation *o, uint32_t count, uint32_t i)
{
    uint32_t end = i + 1;

    if (o[i].op == SKEW_OP_BROADCAST)
        while (end < count && o[end].op == SKEW_OP_BROADCAST && o[end].dtype == o[i].dtype &&
               o[end].root > o[end - 1].root)
            end++;
    return end;
}

/* Elements of the largest tensor of a gathering group; 0: it is not one with ids. */
static int64_t gathered(const struct skew_labelling *lane, uint32_t event)
{
    const struct skew_rows_operation *o = operations(lane, event);
    uint32_t count = lane->events[event].count;
    int64_t elements = 0, largest = 0;
    bool ids = false;

    for (uint32_t i = 0, end; i < count; i = end) {
        int64_t sum = 0, bytes = 0;
        end = tensor_end(o, count, i);
        for (uint32_t k = i; k < end; k++) {
            if (!gathers(o[k].op))
                return 0;
            sum += o[k].count;
            bytes += o[k].bytes;
        }
        if (o[i].dtype == ncclInt32 || o[i].dtype == ncclInt64) {
            ids = true;
        } else if (bytes > largest) {
            largest = bytes;
            elements = sum;
        }
    }
    return ids ? elements : 0;
}

/* Elements that a reducing group sums; 0: it is not one. */
static int64_t reduced(const struct skew_labelling *lane, uint32_t event)
{
    const struct skew_rows_operation *o = operations(lane, event);
    int64_t sum = 0;

    for (uint32_t i = 0; i < lane->events[event].count; i++) {
        if (!scatters(o[i].op))
            return 0;
        sum += o[i].count;
    }
    return sum;
}

int skew_lane_collectives(struct skew_labelling *lane)
{
    struct open {
        int64_t elements;
        uint32_t event;
    } *open = calloc(lane->rows->comm_count + 1, sizeof *open);

    if (!open)
        return -ENOMEM;
    for (uint32_t i = 0; i < lane->event_count; i++) {
        if (!lane->events[i].count)
            continue;
        uint32_t comm = lane->rows->members[operations(lane, i)->member].comm;
        int64_t there = gathered(lane, i), back = reduced(lane, i);
        if (there) {
            open[comm] = (struct open){there, i};
        } else if (back && back == open[comm].elements) {
            uint32_t event = open[comm].event;
            lane->uses[comm].collective = true;
            lane->blocks[lane->block_count++] = (struct skew_block){.a = event,
                                                                    .b = i,
                                                                    .there = event,
                                                                    .back = i,
                                                                    .weights = SKEW_NO_ITEM,
                                                                    .rows = (uint64_t)back,
                                                                    .collective = true,
                                                                    .comm = comm,
                                                                    .event = event,
                                                                    .last = i,
                                                                    .counted = true,
                                                                    .kind = SKEW_BLOCK_FIRST,
                                                                    .link = -1,
                                                                    .first = -1,
                                                                    .pass = -1,
                                                                    .layer = -1,
                                                                    .step = -1,
                                                                    .microbatch = -1};
            open[comm].elements = 0;
        }
    }
    free(open);
    return 0;
}

static void write_group(struct skew_labelling *lane, const struct skew_block *b, uint32_t event,
                        uint32_t other, uint8_t role)
{
    const struct skew_rows_event *e = &lane->events[event];

    for (uint32_t i = 0; i < e->count; i++) {
        struct skew_label *l = &lane->operation_labels[e->first + i];
        l->role = role;
        l->confidence = 0.9f;
        l->pair = operations(lane, other)->id;
        skew_label_place(lane, b, l);
        if (skew_lane_captured(lane, event)) {
            l->flags |= SKEW_LABEL_REPEATED;
            l->step = -1;
        }
    }
}

void skew_lane_write_collectives(struct skew_labelling *lane)
{
    for (uint32_t i = 0; i < lane->block_count; i++) {
        const struct skew_block *b = &lane->blocks[i];
        if (!b->collective)
            continue;
        write_group(lane, b, b->there, b->back, SKEW_LABEL_DISPATCH);
        write_group(lane, b, b->back, b->there, SKEW_LABEL_COMBINE);
    }
}
