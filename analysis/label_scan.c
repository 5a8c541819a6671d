/* SPDX-License-Identifier: Apache-2.0 */
/*
 * First look at a lane: which communicators carry what, and which exchange or operation before a
 * payload told its sizes.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_abi.h"
#include "spool.h"

#define GATHERED_MAX 65536u /* experts */

static bool whole_number(int32_t dtype)
{
    return dtype >= ncclInt32 && dtype <= ncclUint64;
}

/* Whether an operation could tell sizes: which kind, or NONE. */
static enum skew_leader candidate(const struct skew_labelling *lane,
                                  const struct skew_rows_event *e)
{
    const struct skew_rows_operation *o = &lane->rows->operations[e->first];
    const struct skew_comm *comm = lane->rows->members[o->member].member->comm;

    if (e->count != 1 || !whole_number(o->dtype) || comm->ranks < 2)
        return SKEW_LEADER_NONE;
    if (o->op == SKEW_OP_ALLREDUCE && o->count == 1)
        return SKEW_LEADER_CAPACITY;
    if (o->op == SKEW_OP_ALLGATHER && o->count > 1 && o->count <= GATHERED_MAX)
        return SKEW_LEADER_GATHER;
    return SKEW_LEADER_NONE;
}

static bool is_payload(const struct skew_rows_exchange *x)
{
    return x->class == SKEW_CLASS_SIZES || x->class == SKEW_CLASS_UNIFORM;
}

static void choose_leader(struct skew_use *use)
{
    static const enum skew_leader order[] = {SKEW_LEADER_GATHER, SKEW_LEADER_INTEGERS,
                                             SKEW_LEADER_CAPACITY};

    use->leader = SKEW_LEADER_NONE;
    for (size_t i = 0; i < 3 && use->leader == SKEW_LEADER_NONE; i++) {
        uint32_t led = use->led[order[i]];
        /* what stands before every single payload does not tell dispatch from combine: offsets */
        if (led && (uint64_t)led * 10 < (uint64_t)use->payload * 9)
            use->leader = order[i];
    }
    /* a single dispatch at the very end of a trace */
    if (use->leader == SKEW_LEADER_NONE && use->payload == 1 && use->led[SKEW_LEADER_GATHER])
        use->leader = SKEW_LEADER_GATHER;
}

int skew_lane_scan(struct skew_labelling *lane)
{
    const struct skew_rows *rows = lane->rows;
    uint32_t pending[SKEW_LEADERS] = {0}, n = lane->event_count, *at;

    lane->uses = calloc(rows->comm_count + 1, sizeof *lane->uses);
    lane->payload = calloc((size_t)n + 1, sizeof *lane->payload);
    lane->leader_of = calloc(((size_t)n + 1) * SKEW_LEADERS, sizeof *lane->leader_of);
    at = calloc(rows->comm_count + 1, sizeof *at);
    if (!lane->uses || !lane->payload || !lane->leader_of || !at) {
        free(at);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct skew_rows_exchange *x = skew_lane_exchange(lane, i);
        if (!x) {
            pending[candidate(lane, &lane->events[i])] = i + 1;
            continue;
        }
        struct skew_use *use = &lane->uses[rows->members[x->member].comm];
        if (x->class == SKEW_CLASS_INTEGER) {
            use->integers++;
            pending[SKEW_LEADER_INTEGERS] = i + 1;
        }
        if (!is_payload(x))
            continue;
        use->payload++;
        use->sizes += x->class == SKEW_CLASS_SIZES;
        for (int k = 1; k < SKEW_LEADERS; k++) {
            use->led[k] += pending[k] != 0;
            lane->leader_of[(size_t)i * SKEW_LEADERS + k] = pending[k];
        }
        memset(pending, 0, sizeof pending);
    }
    for (size_t c = 0, sum = 0; c < rows->comm_count; c++) {
        choose_leader(&lane->uses[c]);
        at[c] = (uint32_t)sum;
        sum += lane->uses[c].payload;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct skew_rows_exchange *x = skew_lane_exchange(lane, i);
        if (x && is_payload(x))
            lane->payload[at[rows->members[x->member].comm]++] = i;
    }
    free(at);
    if (skew_lane_losses(lane) < 0)
        return -ENOMEM;
    return skew_lane_padded(lane);
}
