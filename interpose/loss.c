/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What cannot be stored is counted: by reason in the spool's head, and per communicator and peer,
 * so that the next stored group can say how many sends and receives went missing before it. The
 * cells of such a group go to private memory (scratch) instead of the spool. Application thread,
 * off the hot path.
 */
#include <string.h>
#include <sys/mman.h>

#include "hot.h"
#include "record.h"

/** Adds the open record's cells on the lane's communicator to the lane's counts. `p2p` becomes 1
 * when there is a send or receive: all of these together are one exchange. */
void skew_cells_count(const struct skew_thread *t, struct skew_lane_key *lane)
{
    for (const struct skew_cell *cell = skew_cells_of(t->rec); cell < t->cell; cell++) {
        if (t->lane[cell->lane].comm != lane->comm)
            continue;
        switch (cell->op) {
        case SKEW_OP_SEND:
        case SKEW_OP_RECV:
            lane->p2p = 1;
            break;
        case SKEW_OP_ALLTOALL:
            lane->exchanges++;
            break;
        case SKEW_OP_ALLTOALLV_SEND:
            lane->exchanges += !lane->v_open; /* a send after a receive begins the next call */
            lane->v_open = 1;
            break;
        case SKEW_OP_ALLTOALLV_RECV:
            lane->v_open = 0;
            break;
        default:
            lane->ops++;
            break;
        }
    }
}

/** Takes ordinals for the exchanges and operations of one group; lost ones take theirs too. */
SKEW_HOT void skew_comm_take(struct skew_comm *comm, uint32_t exchanges, uint32_t ops,
                             uint64_t *exchange_seq, uint64_t *op_seq)
{
    *exchange_seq = __atomic_fetch_add(&comm->exchange_seq, exchanges, __ATOMIC_RELAXED);
    *op_seq = ops ? __atomic_fetch_add(&comm->op_seq, ops, __ATOMIC_RELAXED)
                  : __atomic_load_n(&comm->op_seq, __ATOMIC_RELAXED);
}

bool skew_lane_first(const struct skew_thread *t, uint32_t lane)
{
    for (uint32_t i = 0; i < lane; i++)
        if (t->lane[i].comm == t->lane[lane].comm)
            return false;
    return true;
}

static void count_peer(struct skew_loss_peer *to, uint32_t peers, const struct skew_cell *cell)
{
    bool send = cell->op == SKEW_OP_SEND || cell->op == SKEW_OP_ALLTOALLV_SEND;
    bool recv = cell->op == SKEW_OP_RECV || cell->op == SKEW_OP_ALLTOALLV_RECV;
    if (cell->op == SKEW_OP_ALLTOALL) {
        for (uint32_t p = 0; p < peers; p++) {
            to[p].sends++;
            to[p].recvs++;
        }
    } else if (cell->peer < peers) {
        to[cell->peer].sends += send;
        to[cell->peer].recvs += recv;
    }
}

/* Room for counts by peer, made at the first loss on a communicator. */
static void lost_peers_need(struct skew_comm *comm)
{
    if (comm->lost || comm->ranks <= 0)
        return;
    void *at = mmap(NULL, skew_lost_bytes((uint32_t)comm->ranks), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return;
    comm->lost = at;
    comm->lost_peers = (uint32_t)comm->ranks;
}

/** Remembers the open record's cells, which leave it before the group has ended: by lane, and by
 * peer for the case that the group is lost. */
void skew_part_hold(struct skew_process *proc, struct skew_thread *t)
{
    for (uint32_t i = 0; i < t->lanes; i++)
        if (skew_lane_first(t, i))
            skew_cells_count(t, &t->lane[i]);
    skew_lock(proc);
    for (const struct skew_cell *cell = skew_cells_of(t->rec); cell < t->cell; cell++) {
        struct skew_comm *comm = t->lane[cell->lane].comm;
        if (!comm)
            continue;
        lost_peers_need(comm);
        count_peer(comm->lost + comm->lost_peers, comm->lost_peers, cell);
    }
    skew_unlock(proc);
    t->part_cells += (uint32_t)(t->cell - skew_cells_of(t->rec));
    t->cell = skew_cells_of(t->rec);
}

static void release_parts(struct skew_comm *comm, bool lost)
{
    struct skew_loss_peer *held = comm->lost + comm->lost_peers;
    for (uint32_t p = 0; p < comm->lost_peers; p++) {
        if (lost) {
            comm->lost[p].sends += held[p].sends;
            comm->lost[p].recvs += held[p].recvs;
        }
        held[p] = (struct skew_loss_peer){0};
    }
}

/** At the end of a group that was stored or came to nothing. */
void skew_parts_drop(struct skew_process *proc, struct skew_thread *t)
{
    skew_lock(proc);
    for (uint32_t i = 0; i < t->lanes; i++)
        if (t->lane[i].comm && skew_lane_first(t, i))
            release_parts(t->lane[i].comm, false);
    skew_unlock(proc);
}

/* Charges what one communicator lost. Hold the lock. */
static void lose_on(struct skew_thread *t, struct skew_lane_key *lane, struct skew_loss_count *add)
{
    struct skew_comm *comm = lane->comm;
    skew_cells_count(t, lane);
    /* All sends and receives of a group are one exchange, in however many pieces it is lost. */
    bool counted = comm && comm->lost_group == t->groups + 1 && comm->lost_tid == t->tid;
    uint32_t exchanges = lane->exchanges + (lane->p2p && !counted), ops = lane->ops;
    if (comm && lane->p2p) {
        comm->lost_group = t->groups + 1;
        comm->lost_tid = t->tid;
    }
    add->exchanges += exchanges;
    add->ops += ops;
    if (!comm)
        return; /* a communicator that could not be told apart */
    uint64_t ignored[2];
    skew_comm_take(comm, exchanges, ops, &ignored[0], &ignored[1]);
    lost_peers_need(comm);
    for (const struct skew_cell *cell = skew_cells_of(t->rec); cell < t->cell; cell++)
        if (t->lane[cell->lane].comm == comm)
            count_peer(comm->lost, comm->lost_peers, cell);
    if (t->part_cells)
        release_parts(comm, true);
    comm->lost_exchanges += exchanges;
    comm->lost_ops += ops;
    comm->lost_reason = t->loss - 1;
    __atomic_store_n(&comm->lost_pending, 1, __ATOMIC_RELAXED);
}

/* Charges what the open group asked for so far. `groups`: 1 at its end. */
static void charge(struct skew_process *proc, struct skew_thread *t, uint64_t groups)
{
    struct skew_loss_count add = {
        .groups = groups,
        .cells = (uint64_t)(t->cell - skew_cells_of(t->rec)) + t->part_cells,
    };
    skew_lock(proc);
    for (uint32_t i = 0; i < t->lanes; i++)
        if (skew_lane_first(t, i))
            lose_on(t, &t->lane[i], &add);
    skew_loss_add(proc, t->loss - 1, &add);
    if (groups)
        skew_returned_add(proc); /* under the lock: the spool may be made meanwhile */
    skew_unlock(proc);
    t->part_cells = 0;
    t->cell = skew_cells_of(t->rec);
}

/** Opens a record in scratch: its cells will be counted under `loss` (enum skew_loss + 1). */
void skew_scratch_open(struct skew_thread *t, int loss)
{
    t->loss = (uint16_t)loss;
    skew_record_open_at(t, t->scratch, (uintptr_t)t->scratch + SKEW_SCRATCH_BYTES);
}

/** One record cannot name all lanes of the group: charges those so far, and begins with none. */
void skew_lanes_lose(struct skew_process *proc, struct skew_thread *t)
{
    charge(proc, t, 0);
    t->lanes = 0;
}

/** Takes the open record out of the spool into scratch, where it will be counted as lost. */
void skew_scratch_move(struct skew_process *proc, struct skew_thread *t, int loss)
{
    const struct skew_cell *from = skew_cells_of(t->rec), *end = t->cell;
    skew_scratch_open(t, loss);
    for (; from < end; from++) {
        *t->cell++ = *from;
        if (t->cell >= t->limit)
            skew_part_hold(proc, t);
    }
}

void skew_group_lose(struct skew_process *proc, struct skew_thread *t)
{
    charge(proc, t, 1);
    t->groups++; /* so that nobody takes committed parts for the next group's */
    t->unstored++;
    skew_record_close(t);
}

/* Bytes of a LOSS record for `peers` peers. */
static size_t loss_bytes(uint32_t peers)
{
    return sizeof(struct skew_rec_loss) + peers * sizeof(struct skew_loss_peer);
}

/**
 * Writes at `at`, behind a stored group, what was lost on one of its communicators before it. The
 * caller publishes both together: a kill in between would leave a group whose sends cannot be
 * numbered. What does not fit before `limit` stays with the communicator.
 * @return where the record ends; `at` when not even one peer fits.
 */
uint8_t *skew_loss_put(struct skew_process *proc, struct skew_comm *comm, uint64_t before_seq,
                       uint8_t *at, const uint8_t *limit)
{
    struct skew_rec_loss *rec = (struct skew_rec_loss *)at;
    struct skew_loss_peer *peer = (struct skew_loss_peer *)(rec + 1);
    uint32_t p = 0;
    if (at + loss_bytes(1) > limit)
        return at;
    skew_lock(proc);
    *rec = (struct skew_rec_loss){
        .head = {.type = SKEW_REC_LOSS},
        .comm = comm->id,
        .reason = comm->lost_reason,
        .before_seq = before_seq,
        .exchanges = comm->lost_exchanges,
        .ops = comm->lost_ops,
    };
    for (; p < comm->lost_peers && at + loss_bytes(rec->peers + 1) <= limit; p++) {
        if (!comm->lost[p].sends && !comm->lost[p].recvs)
            continue;
        peer[rec->peers] = comm->lost[p];
        peer[rec->peers++].peer = p;
        comm->lost[p] = (struct skew_loss_peer){0};
    }
    rec->head.bytes = (uint32_t)loss_bytes(rec->peers);
    comm->lost_exchanges = comm->lost_ops = 0;
    __atomic_store_n(&comm->lost_pending, p < comm->lost_peers, __ATOMIC_RELAXED);
    skew_unlock(proc);
    return at + rec->head.bytes;
}
