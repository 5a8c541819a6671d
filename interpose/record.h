/* SPDX-License-Identifier: Apache-2.0 */
/* What group.c and loss.c share: the open record of a thread, in its segment or in scratch. */
#ifndef SKEW_INTERPOSE_RECORD_H
#define SKEW_INTERPOSE_RECORD_H

#include "internal.h"

static inline struct skew_cell *skew_cells_of(struct skew_rec_group *rec)
{
    return (struct skew_cell *)(rec + 1);
}

/* The lanes come behind the cells: keep room for all of them. */
static inline struct skew_cell *skew_limit_before(uintptr_t end)
{
    return (struct skew_cell *)(end - SKEW_LANES_MAX * sizeof(struct skew_lane));
}

/* Between two records. NULL where a RANGES record has to come before the next one: that sends its
 * first cell the slow way, at no cost to any other. */
static inline struct skew_cell *skew_limit_closed(const struct skew_thread *t)
{
    return t->ranges_news || !t->end ? NULL : skew_limit_before(t->end);
}

static inline void skew_record_open_at(struct skew_thread *t, void *at, uintptr_t end)
{
    t->rec = at;
    t->cell = skew_cells_of(t->rec);
    t->limit = skew_limit_before(end);
}

/* An open record to which nothing was added yet. Its lane is a guess (skew_group_open()). */
static inline bool skew_record_is_empty(const struct skew_thread *t)
{
    return t->cell == skew_cells_of(t->rec) && !t->part_cells && !t->loss;
}

/* No record is open any more. The next one will probably begin on the first lane of this one. */
static inline void skew_record_close(struct skew_thread *t)
{
    t->cell = SKEW_NO_CELL;
    t->rec = (struct skew_rec_group *)t->next;
    if (skew_unlikely((t->lanes != 1) | t->loss | t->others | t->part_cells)) {
        struct skew_lane_key *lane = &t->lane[0];
        t->limit = skew_limit_closed(t);
        t->last_handle = lane->handle;
        t->last_stream = lane->stream;
        t->last_lane_bits &= 0xffffu;
        lane->exchanges = lane->ops = lane->p2p = lane->v_open = 0;
    }
    t->lanes = t->loss = 0;
    t->others = t->part_cells = 0;
}

void skew_cells_count(const struct skew_thread *t, struct skew_lane_key *lane);
void skew_comm_take(struct skew_comm *comm, uint32_t exchanges, uint32_t ops,
                    uint64_t *exchange_seq, uint64_t *op_seq);
bool skew_lane_first(const struct skew_thread *t, uint32_t lane);
void skew_part_hold(struct skew_process *proc, struct skew_thread *t);
void skew_parts_drop(struct skew_process *proc, struct skew_thread *t);
void skew_scratch_open(struct skew_thread *t, int loss);
void skew_lanes_lose(struct skew_process *proc, struct skew_thread *t);
void skew_scratch_move(struct skew_process *proc, struct skew_thread *t, int loss);
void skew_group_lose(struct skew_process *proc, struct skew_thread *t);
uint8_t *skew_loss_put(struct skew_process *proc, struct skew_comm *comm, uint64_t before_seq,
                       uint8_t *at, const uint8_t *limit);

#endif
