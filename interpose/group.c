/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the cells of a group to one record in the spool. Runs on the application's thread. A group's
 * cells are written where they will stay, behind `committed`; the record exists once the outermost
 * End has succeeded and `committed` moves over it. NCCL does nothing before that either.
 */
#include <errno.h>
#include <string.h>

#include "handlers.h"
#include "hot.h"
#include "record.h"

/* All before `end` exists from now on. */
static inline void publish(struct skew_thread *t, uint8_t *end)
{
    t->next = (uintptr_t)end;
    __atomic_store_n(&t->seg->committed, (uint64_t)(end - (uint8_t *)t->seg), __ATOMIC_RELEASE);
}

static void announce_thread(struct skew_process *proc, struct skew_thread *t)
{
    struct skew_rec_thread rec = {.head = {.type = SKEW_REC_THREAD}, .stream = t->stream};
    char path[64];
    rec.tid = (uint32_t)t->tid;
    if (!rec.tid)
        memcpy(rec.name, "(CUPTI)",
               sizeof("(CUPTI)")); /* no thread: what CUPTI tells (timing_records.c) */
    size_t at = skew_text_add(path, sizeof(path), 0, "/proc/self/task/");
    at = skew_text_add_number(path, sizeof(path), at, rec.tid, 10, 1);
    skew_text_add(path, sizeof(path), at, "/comm");
    int n = skew_sys_read_file(path, rec.name, sizeof(rec.name));
    if (n > 0 && rec.name[n - 1] == '\n')
        rec.name[n - 1] = '\0';
    skew_lock(proc);
    skew_defs_put(proc, &rec.head, sizeof(rec), NULL, 0);
    skew_unlock(proc);
}

/* A fresh segment for this thread, which begins with `bytes` copied from its old one: that may be
 * another thread's as soon as it is sealed. 0, or the enum skew_loss + 1. */
static int next_segment(struct skew_process *proc, struct skew_thread *t, const void *from,
                        size_t bytes)
{
    struct skew_seg_head *seg;
    uint32_t index;
    skew_lock(proc);
    int loss = skew_spool_ensure(proc, skew_now());
    skew_unlock(proc);
    if (loss)
        return loss;
    if (!t->stream) {
        t->stream = __atomic_fetch_add(&proc->head->streams, 1, __ATOMIC_ACQ_REL);
        announce_thread(proc, t);
    }
    loss = skew_segment_acquire(proc, t->stream, t->seg_seq, &index, &seg);
    if (loss)
        return loss;
    t->seg_seq++;
    if (bytes)
        memcpy(seg + 1, from, bytes);
    if (t->seg)
        skew_segment_seal(proc, t->seg_index);
    t->seg = seg;
    t->next = (uintptr_t)(seg + 1);
    t->end = (uintptr_t)seg + proc->head->seg_bytes;
    t->limit = skew_limit_closed(t);
    t->seg_index = index;
    t->watch |= SKEW_WATCH_MEASURE;
    return 0;
}

/* Begins a record: in the segment, or in scratch when there is none to be had. */
static void open_record(struct skew_process *proc, struct skew_thread *t)
{
    const size_t least = sizeof(struct skew_rec_group) +
                         SKEW_LEAST_CELLS * sizeof(struct skew_cell) +
                         SKEW_LANES_MAX * sizeof(struct skew_lane);
    size_t ranges = skew_unlikely(t->ranges_news) ? skew_ranges_bytes(t) : 0;
    if (t->next + ranges + least > t->end) {
        int loss = next_segment(proc, t, NULL, 0);
        if (loss) {
            skew_scratch_open(t, loss);
            return;
        }
    }
    if (skew_unlikely(ranges != 0))
        publish(t, skew_ranges_put(proc, t, (uint8_t *)t->next));
    skew_record_open_at(t, (void *)t->next, t->end);
}

/* ---- the slow half of adding a cell -------------------------------------------------------- */

/* A record that fills a whole segment is committed as a part; the rest of the group follows. */
static void commit_part(struct skew_process *proc, struct skew_thread *t)
{
    struct skew_rec_group *rec = t->rec;
    size_t bytes = (size_t)((uint8_t *)t->cell - (uint8_t *)rec);
    *rec = (struct skew_rec_group){
        .head = {.bytes = (uint32_t)bytes, .type = SKEW_REC_GROUP_PART},
        .group = t->groups + 1,
        .cells = (uint32_t)(t->cell - skew_cells_of(rec)),
    };
    publish(t, (uint8_t *)rec + bytes);
    skew_part_hold(proc, t);
}

/* Moves the open record to a fresh segment. */
static void more_room(struct skew_process *proc, struct skew_thread *t)
{
    if (t->loss) {
        skew_part_hold(proc, t);
        return;
    }
    if ((void *)t->rec == (void *)(t->seg + 1))
        commit_part(proc, t);
    size_t bytes = (size_t)((uint8_t *)t->cell - (uint8_t *)t->rec);
    int loss = next_segment(proc, t, t->rec, bytes);
    if (loss) {
        skew_scratch_move(proc, t, loss);
        return;
    }
    uint8_t *to = (uint8_t *)(t->seg + 1);
    skew_record_open_at(t, to, t->end);
    t->cell = (struct skew_cell *)(to + bytes);
}

/* Finds or adds the lane of (handle, stream). */
static void select_lane(struct skew_process *proc, struct skew_thread *t, ncclComm_t handle,
                        cudaStream_t stream)
{
    uint32_t i = 0;
    if (skew_record_is_empty(t))
        t->lanes = 0; /* the guess was wrong */
    while (i < t->lanes && (t->lane[i].handle != handle || t->lane[i].stream != stream))
        i++;
    if (i == SKEW_LANES_MAX) {
        /* One record could not name all lanes: the group is counted as lost, in pieces. */
        if (!t->loss)
            skew_scratch_move(proc, t, SKEW_LOSS_TOO_LARGE + 1);
        skew_lanes_lose(proc, t);
        i = 0;
    }
    if (i == t->lanes) {
        uint32_t seen = __atomic_load_n(&skew_hot.comms_changed, __ATOMIC_ACQUIRE);
        struct skew_comm *comm = skew_comm_need(proc, handle);
        int loss = 0;
        if (!comm) {
            comm = skew_comm_find(proc, handle);
            loss = !comm                           ? SKEW_LOSS_UNKNOWN_COMM + 1
                   : proc->head && proc->defs_loss ? (int)proc->defs_loss
                   : proc->head                    ? SKEW_LOSS_SPOOL_FULL + 1
                                                   : (int)proc->spool_failures;
        }
        t->lane[i] = (struct skew_lane_key){.handle = handle, .stream = stream, .comm = comm};
        if (i == 0) {
            t->comm = comm;
            t->lane_seen = loss ? seen - 1 : seen;
        }
        t->lanes++;
        if (loss && !t->loss)
            skew_scratch_move(proc, t, loss);
    }
    t->last_handle = handle;
    t->last_stream = stream;
    t->last_lane_bits = i << 16; /* of no data type: what comes next is not on the fast way */
    t->last_type = SKEW_NO_TYPE;
}

SKEW_COLD void skew_cell_slow(struct skew_thread *t, ncclComm_t handle, cudaStream_t stream)
{
    struct skew_process *proc = skew_proc;
    int saved = errno;
    if (!skew_record_is_open(t))
        open_record(proc, t);
    if (t->last_handle != handle || t->last_stream != stream || !t->lanes)
        select_lane(proc, t, handle, stream);
    if (t->cell >= t->limit)
        more_room(proc, t);
    errno = saved;
}

/* RCCL's all-to-all with its own size per peer: a send and a receive cell each. */
void skew_put_alltoallv(struct skew_thread *t, const size_t *sends, const size_t *recvs,
                        int datatype, ncclComm_t handle, cudaStream_t stream)
{
    struct skew_process *proc = skew_proc;
    int saved = errno;
    struct skew_comm *comm = skew_comm_need(proc, handle);
    errno = saved;
    if (!comm)
        comm = skew_comm_find(proc, handle); /* known, but the trace has no room for it */
    int ranks = comm ? comm->ranks : 0;
    t->others++;
    if (ranks <= 0) {
        /* How many sizes there are is not known: the exchange is lost, and counted by one cell. */
        skew_cell_room(t, handle, stream);
        if (!t->loss)
            skew_scratch_move(proc, t, SKEW_LOSS_UNKNOWN_COMM + 1);
        skew_cell_put(t, SKEW_OP_ALLTOALLV_SEND, 0, datatype, UINT32_MAX);
    }
    for (int p = 0; p < ranks; p++) {
        skew_cell_room(t, handle, stream);
        skew_cell_put(t, SKEW_OP_ALLTOALLV_SEND, sends[p], datatype, (uint32_t)p);
    }
    for (int p = 0; p < ranks; p++) {
        skew_cell_room(t, handle, stream);
        skew_cell_put(t, SKEW_OP_ALLTOALLV_RECV, recvs[p], datatype, (uint32_t)p);
    }
}

/* ---- the end of a group -------------------------------------------------------------------- */

SKEW_COLD uint32_t skew_site(struct skew_thread *t, uintptr_t address, uintptr_t frame)
{
    uintptr_t hash = (address ^ (frame >> 4)) * 0x9e3779b97f4a7c15u;
    struct skew_site_key *entry = &t->site[(hash >> 32) % SKEW_SITE_CACHE];
    if (entry->address != address || entry->frame != frame)
        return skew_site_slow(t, entry, address, frame);
    t->last_address = address;
    t->last_frame = frame;
    t->last_site = entry->site;
    return entry->site;
}

static inline uint32_t site_of(struct skew_thread *t, uintptr_t address, uintptr_t frame)
{
    if (skew_likely(t->last_address == address && t->last_frame == frame))
        return t->last_site;
    return skew_site(t, address, frame);
}

/* Exchanges and operations of the group on the communicator of lane i, which is its first one. */
static void lane_totals(struct skew_thread *t, uint32_t i, uint32_t *exchanges, uint32_t *ops)
{
    struct skew_lane_key *key = &t->lane[i];
    if (t->lanes == 1 && !t->others) {
        *exchanges = 1;
        return;
    }
    skew_cells_count(t, key);
    *exchanges = key->exchanges + key->p2p;
    *ops = key->ops;
}

/* Writes the lanes behind the cells. @return where the record ends. */
static uint8_t *put_lanes(struct skew_thread *t)
{
    struct skew_lane *lane = (struct skew_lane *)t->cell;
    for (uint32_t i = 0; i < t->lanes; i++) {
        struct skew_comm *comm = t->lane[i].comm;
        uint32_t exchanges = 0, ops = 0, first = 0;
        lane[i].comm = comm->id;
        lane[i].stream = (uintptr_t)t->lane[i].stream;
        skew_capture_query(t->lane[i].stream, &lane[i].flags, &lane[i].capture);
        if (t->others && skew_comm_may_copy(comm))
            lane[i].flags |= SKEW_LANE_MAY_COPY;
        while (t->lane[first].comm != comm)
            first++;
        if (first < i) {
            lane[i].exchange_seq = lane[first].exchange_seq;
            lane[i].op_seq = lane[first].op_seq;
            continue;
        }
        lane_totals(t, i, &exchanges, &ops);
        skew_comm_take(comm, exchanges, ops, &lane[i].exchange_seq, &lane[i].op_seq);
    }
    return (uint8_t *)(lane + t->lanes);
}

/* Behind the group's record, what was lost before it. @return where the last record ends. */
static SKEW_COLD uint8_t *put_losses(struct skew_process *proc, struct skew_thread *t, uint8_t *end)
{
    const struct skew_lane *lane = (const struct skew_lane *)t->cell;
    for (uint32_t i = 0; i < t->lanes; i++)
        if (__atomic_load_n(&t->lane[i].comm->lost_pending, __ATOMIC_RELAXED))
            end = skew_loss_put(proc, t->lane[i].comm, lane[i].exchange_seq, end,
                                (const uint8_t *)t->end);
    return end;
}

/* What found no room there, for more than about a hundred peers, goes to fresh segments. When there
 * are none it waits for the next group, and the exchanges up to there are numbered too low. */
static SKEW_COLD void put_losses_left(struct skew_process *proc, struct skew_thread *t)
{
    uint64_t seq[SKEW_LANES_MAX]; /* the record's segment may be another's once it is sealed */
    for (uint32_t i = 0; i < t->lanes; i++)
        seq[i] = ((struct skew_lane *)t->cell)[i].exchange_seq;
    for (uint32_t i = 0; i < t->lanes; i++) {
        struct skew_comm *comm = t->lane[i].comm;
        while (__atomic_load_n(&comm->lost_pending, __ATOMIC_RELAXED) &&
               next_segment(proc, t, NULL, 0) == 0) {
            uint8_t *at = (uint8_t *)(t->seg + 1);
            publish(t, skew_loss_put(proc, comm, seq[i], at, (const uint8_t *)t->end));
        }
    }
}

static inline void put_head(struct skew_thread *t, uint8_t *end, uint64_t call_ns,
                            uint64_t return_ns, uint32_t site, ncclResult_t result)
{
    struct skew_rec_group *rec = t->rec;
    rec->head = (struct skew_rec){
        .bytes = (uint32_t)(end - (uint8_t *)rec),
        .type = SKEW_REC_GROUP,
    };
    rec->call_ns = call_ns;
    rec->return_ns = return_ns;
    rec->group = ++t->groups;
    rec->cells = (uint32_t)(t->cell - skew_cells_of(rec));
    rec->site = site;
    rec->lanes = (uint16_t)t->lanes;
    rec->result = (int16_t)result;
    rec->reserved = 0;
}

/* Communicators have come or gone since lane 0 was looked up: its pointer may mean another one. */
static void lane_again(struct skew_process *proc, struct skew_thread *t)
{
    struct skew_comm *comm = skew_comm_find(proc, t->lane[0].handle);
    if (comm && comm != t->lane[0].comm && (comm = skew_comm_need(proc, t->lane[0].handle)))
        t->comm = t->lane[0].comm = comm;
}

static SKEW_COLD void commit_slow(struct skew_thread *t, uint64_t call_ns, uint64_t return_ns,
                                  uintptr_t address, uintptr_t frame, ncclResult_t result)
{
    struct skew_process *proc = skew_proc;
    bool lost = false;
    if (t->loss) {
        skew_group_lose(proc, t);
        return;
    }
    if (t->lane_seen != __atomic_load_n(&skew_hot.comms_changed, __ATOMIC_ACQUIRE))
        lane_again(proc, t);
    uint8_t *end = put_lanes(t);
    put_head(t, end, call_ns, return_ns, site_of(t, address, frame), result);
    for (uint32_t i = 0; i < t->lanes; i++)
        lost |= __atomic_load_n(&t->lane[i].comm->lost_pending, __ATOMIC_RELAXED) != 0;
    if (lost)
        end = put_losses(proc, t, end);
    publish(t, end);
    skew_returned_add(proc);
    if (t->part_cells)
        skew_parts_drop(proc, t);
    if (lost)
        put_losses_left(proc, t);
    skew_record_close(t);
}

SKEW_HOT void skew_group_commit(struct skew_thread *t, uint64_t call_ns, uintptr_t address,
                                uintptr_t frame, ncclResult_t result)
{
    struct skew_comm *comm = t->comm;
    uint64_t return_ns = skew_now();
    if (skew_unlikely((t->lanes != 1) | t->others | t->loss | t->part_cells) ||
        skew_unlikely(t->lane_seen != __atomic_load_n(&skew_hot.comms_changed, __ATOMIC_ACQUIRE)) ||
        skew_unlikely(__atomic_load_n(&comm->lost_pending, __ATOMIC_RELAXED))) {
        commit_slow(t, call_ns, return_ns, address, frame, result);
        return;
    }
    struct skew_lane *lane = (struct skew_lane *)t->cell;
    lane->comm = comm->id;
    lane->stream = (uintptr_t)t->last_stream;
    skew_capture_query(t->last_stream, &lane->flags, &lane->capture);
    skew_comm_take(comm, 1, 0, &lane->exchange_seq, &lane->op_seq);
    put_head(t, (uint8_t *)(lane + 1), call_ns, return_ns, site_of(t, address, frame), result);
    publish(t, (uint8_t *)(lane + 1));
    __atomic_store_n(&t->seg->returned, t->seg->returned + 1, __ATOMIC_RELEASE);
    skew_record_close(t);
}

void skew_group_discard(struct skew_thread *t)
{
    t->groups++; /* so that nobody takes its parts for the next group's */
    t->unstored++;
    if (t->part_cells)
        skew_parts_drop(skew_proc, t);
    skew_record_close(t);
}

/* After the real GroupEnd or GroupSimulateEnd. A failed group did nothing: NCCL has dropped it. */
SKEW_HOT void skew_group_ended(struct skew_thread *t, bool simulated, uint64_t call_ns,
                               uintptr_t address, uintptr_t frame, ncclResult_t result)
{
    if (skew_unlikely(!t->depth)) {
        skew_diag_once(SKEW_DIAG_UNBALANCED_GROUP,
                       "ncclGroupEnd was called on a thread whose ncclGroupStart was not seen: the "
                       "calls before "
                       "it are recorded as if each had been made outside a group");
        return;
    }
    if (--t->depth)
        return;
    /* A simulated group of non-blocking communicators is launched all the same: NCCL's background
     * thread does not get the simulation's argument (group.cc, ncclGroupEndInternal, 2.28 to 2.30).
     */
    bool launched = simulated ? result == ncclInProgress : skew_result_ok(result);
    if (skew_unlikely(!skew_record_is_open(t) || skew_record_is_empty(t)))
        skew_record_close(t);
    else if (skew_likely(launched))
        skew_group_commit(t, call_ns, address, frame, result);
    else
        skew_group_discard(t);
    if (skew_unlikely(t->tap_calls)) {
        skew_time_after(t, result); /* its copies come behind the launch, and are not part of it */
        skew_tap_group_ended(t, launched && result == ncclSuccess, result == ncclInProgress);
    } else if (skew_unlikely(__atomic_load_n(&skew_hot.tap_waiting, __ATOMIC_RELAXED))) {
        skew_tap_harvest();
    }
    if (skew_unlikely(__atomic_load_n(&skew_hot.pendings, __ATOMIC_RELAXED)))
        skew_comm_group_ended(t, !simulated && skew_result_ok(result));
}

/* ---- graph launches, end of the thread ----------------------------------------------------- */

/* 0, or −ENOSPC. Inside an open group, and where the thread has no segment, the definitions take
 * it. */
int skew_put(struct skew_thread *t, const struct skew_rec *rec)
{
    struct skew_process *proc = skew_proc;
    int saved = errno, err = 0;
    bool own = t != &skew_nobody && !skew_record_is_open(t);
    if (own && t->next + rec->bytes > t->end)
        next_segment(proc, t, NULL, 0);
    if (own && t->next + rec->bytes <= t->end) {
        memcpy((void *)t->next, rec, rec->bytes);
        publish(t, (uint8_t *)t->next + rec->bytes);
        t->rec = (struct skew_rec_group *)t->next;
    } else {
        skew_lock(proc);
        err = skew_defs_put(proc, rec, rec->bytes, NULL, 0) ? -ENOSPC : 0;
        skew_unlock(proc);
    }
    errno = saved;
    return err;
}

void skew_launch_put(struct skew_thread *t, uint64_t call_ns, void *exec, void *stream)
{
    struct skew_process *proc = skew_proc;
    struct skew_rec_launch rec = {
        .head = {.bytes = sizeof(rec), .type = SKEW_REC_LAUNCH},
        .call_ns = call_ns,
        .exec = (uintptr_t)exec,
        .stream = (uintptr_t)stream,
    };
    if (skew_put(t, &rec.head) == 0 || !proc->head)
        return;
    skew_lock(proc);
    skew_loss_add(proc, proc->defs_loss ? proc->defs_loss - 1 : SKEW_LOSS_SPOOL_FULL,
                  &(struct skew_loss_count){.cells = 1});
    skew_unlock(proc);
}

void skew_thread_seal(struct skew_thread *t)
{
    struct skew_process *proc = skew_proc;
    if (t->seg && proc->head)
        skew_segment_seal(proc, t->seg_index);
    t->seg = NULL;
    t->next = t->end = 0;
    skew_record_close(t);
}
