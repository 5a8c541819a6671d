/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups become exchanges and operations. All cells of one communicator in one group belong
 * together, whatever stream they were given; the ordinals follow the rule in schema/spool.h (struct
 * skew_rec_group), by which the target counted them too. This is the collector's hot path: no
 * allocation once its scratch has grown.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_abi.h"
#include "proc.h"

/* One communicator of the group that is being stored. */
struct slot {
    struct skew_local_comm *comm;
    uint64_t exchange_seq, op_seq;
    uint32_t cells; /* in `order`, before `end` */
    uint32_t end;
};

/* Scratch, one for the whole collector: it has a single thread. */
static struct {
    struct slot *slots;
    size_t slot_room;
    uint32_t *lane_slot;
    size_t lane_room;
    uint32_t *order; /* cells sorted by slot */
    size_t order_room;
    struct skew_cells send, recv;
    struct skew_vector send_vector, recv_vector;
} scratch;

/* What is common to all rows of one group. */
struct group {
    const struct skew_rec_group *rec;
    const struct skew_cell *cells;
    const struct skew_lane *lanes;
    uint32_t stream;
    int64_t site;
};

/* A row of `exchange` while it is put together. */
struct exchange {
    struct skew_cells *send, *recv;
    int op, dtype;
    unsigned flags;
    uint32_t first_lane, last_lane;
    bool any, multi_dtype;
    uint8_t cell_dtype, element; /* of the latest cell, with its bytes an element */
    uint16_t cell_lane;
};

static int ensure(void **array, size_t *room, size_t need, size_t size)
{
    if (need <= *room)
        return 0;
    void *more = realloc(*array, need * 2 * size);
    if (!more)
        return -ENOMEM;
    *array = more;
    *room = need * 2;
    return 0;
}

int skew_stream_id(struct skew_proc *proc, uint64_t handle, int64_t *id)
{
    uint64_t known;
    if (skew_map_get(&proc->cuda_streams, handle, &known)) {
        *id = (int64_t)known;
        return 0;
    }
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_STREAM];
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, (int64_t)handle);
    int error = skew_db_run(proc->db, stmt);
    if (error)
        return error;
    *id = sqlite3_last_insert_rowid(proc->db->sql);
    return skew_map_put(&proc->cuda_streams, handle, (uint64_t)*id);
}

/* Bytes of `count` elements; what no 63-bit number holds is cut off and flagged like an unknown
 * type. */
static uint64_t bytes_of(struct skew_proc *proc, const struct skew_cell *cell, unsigned *flags)
{
    uint64_t bytes;
    unsigned size = cell->dtype == 255 ? 0 : skew_nccl_type_size(cell->dtype);
    if (size && !__builtin_mul_overflow(cell->count, (uint64_t)size, &bytes) && bytes <= INT64_MAX)
        return bytes;
    *flags |= SKEW_EX_UNKNOWN_TYPE;
    if (!proc->said_type) {
        char text[160];
        proc->said_type = true;
        if (size)
            snprintf(text, sizeof text, "A call asked for more bytes than 63 bits can count.");
        else
            snprintf(
                text, sizeof text,
                "ncclDataType_t %u is not known to this version: bytes of such calls are stored "
                "as 0 and flagged (flags & 4).",
                cell->dtype);
        skew_db_diag(proc->db, 0, proc->id, "warning", "unknown_type", 0, text);
    }
    return size ? INT64_MAX : 0;
}

static unsigned lane_flags(const struct skew_lane *lane)
{
    return (lane->flags & SKEW_LANE_CAPTURED ? SKEW_EX_CAPTURED : 0) |
           (lane->flags & SKEW_LANE_CAPTURE_UNKNOWN ? SKEW_EX_CAPTURE_UNKNOWN : 0) |
           (lane->flags & SKEW_LANE_MAY_COPY ? SKEW_EX_MAY_COPY : 0);
}

static unsigned group_flags(const struct group *group, const struct skew_local_comm *comm)
{
    return comm->nonblocking || group->rec->result != ncclSuccess ? SKEW_EX_NONBLOCKING : 0;
}

static int64_t or_null(int64_t id)
{
    return id ? id : SKEW_BIND_NULL;
}

/* Columns stream_id … capture_id, alike in `exchange` and `operation`. */
static int bind_tail(struct skew_proc *proc, sqlite3_stmt *stmt, struct skew_bound *bound,
                     int column, const struct group *group, const struct skew_lane *lane,
                     unsigned flags)
{
    int64_t stream, capture = 0;
    int error = skew_stream_id(proc, lane->stream, &stream);
    if (!error && lane->flags & SKEW_LANE_CAPTURED && lane->capture)
        error = skew_capture_id(proc, lane->capture, &capture);
    if (error)
        return error;
    skew_bind(stmt, bound, column, stream);
    skew_bind(stmt, bound, column + 1, or_null(group->site));
    skew_bind(stmt, bound, column + 2, group->stream);
    skew_bind(stmt, bound, column + 3, (int64_t)group->rec->group);
    skew_bind(stmt, bound, column + 4, flags);
    skew_bind(stmt, bound, column + 5, or_null(capture));
    return 0;
}

static int insert_exchange(struct skew_proc *proc, const struct group *group, struct slot *slot,
                           const struct exchange *ex, int64_t send, int64_t recv)
{
    struct skew_db *db = proc->db;
    sqlite3_stmt *stmt = db->stmt[SKEW_STMT_EXCHANGE];
    struct skew_bound *bound = &db->exchange;
    const struct skew_rec_group *rec = group->rec;
    int64_t id = db->next_exchange++;
    if (ex->flags & SKEW_EX_RANKS_UNKNOWN && !slot->comm->pending)
        slot->comm->pending = id;
    skew_bind(stmt, bound, 1, slot->comm->member);
    skew_bind(stmt, bound, 2, (int64_t)slot->exchange_seq++);
    skew_bind(stmt, bound, 3, ex->op);
    skew_bind(stmt, bound, 4, (int64_t)rec->call_ns);
    skew_bind(stmt, bound, 5, (int64_t)(rec->return_ns - rec->call_ns));
    skew_bind(stmt, bound, 6, ex->multi_dtype ? -2 : ex->dtype);
    skew_bind(stmt, bound, 7, or_null(send));
    skew_bind(stmt, bound, 8, or_null(recv));
    skew_bind(stmt, bound, 9, send ? (int64_t)scratch.send_vector.unit : 1);
    skew_bind(stmt, bound, 10, recv ? (int64_t)scratch.recv_vector.unit : 1);
    int error = bind_tail(proc, stmt, bound, 11, group, &group->lanes[ex->last_lane], ex->flags);
    return error ? error : skew_db_insert(db, stmt, id);
}

static int store_exchange(struct skew_proc *proc, const struct group *group, struct slot *slot,
                          struct exchange *ex)
{
    int64_t send = 0, recv = 0;
    int error = 0;
    ex->flags |= group_flags(group, slot->comm);
    if (ex->first_lane != ex->last_lane)
        ex->flags |= SKEW_EX_STREAMS;
    if (ex->send->count)
        error = skew_vector_encode(&scratch.send_vector, ex->send);
    if (!error && ex->send->count)
        error = skew_db_vector(proc->db, &scratch.send_vector, &send);
    if (!error && ex->recv->count)
        error = skew_vector_encode(&scratch.recv_vector, ex->recv);
    if (!error && ex->recv->count)
        error = skew_db_vector(proc->db, &scratch.recv_vector, &recv);
    return error ? error : insert_exchange(proc, group, slot, ex, send, recv);
}

static int store_alltoall(struct skew_proc *proc, const struct group *group, struct slot *slot,
                          const struct skew_cell *cell)
{
    struct exchange ex = {.op = SKEW_OP_ALLTOALL,
                          .dtype = cell->dtype == 255 ? -1 : cell->dtype,
                          .first_lane = cell->lane,
                          .last_lane = cell->lane};
    int64_t vector;
    uint64_t bytes = bytes_of(proc, cell, &ex.flags);
    ex.flags |= lane_flags(&group->lanes[cell->lane]) | group_flags(group, slot->comm);
    if (slot->comm->ranks < 0)
        ex.flags |= SKEW_EX_RANKS_UNKNOWN;
    int error = skew_vector_encode_equal(
        &scratch.send_vector, slot->comm->ranks < 0 ? 1 : (uint64_t)slot->comm->ranks, bytes);
    if (error)
        return error;
    scratch.recv_vector.unit = scratch.send_vector.unit;
    error = skew_db_vector(proc->db, &scratch.send_vector, &vector);
    return error ? error : insert_exchange(proc, group, slot, &ex, vector, vector);
}

int skew_group_settle(struct skew_proc *proc, struct skew_local_comm *comm)
{
    struct skew_db *db = proc->db;
    sqlite3_stmt *find = db->stmt[SKEW_STMT_PENDING], *settle = db->stmt[SKEW_STMT_SETTLE];
    int error = 0, row;
    if (!comm->pending || comm->ranks < 0)
        return 0;
    sqlite3_bind_int64(find, 1, comm->member);
    sqlite3_bind_int64(find, 2, comm->pending);
    while (!error && (row = skew_db_row(db, find)) == 1) {
        int64_t vector, id = sqlite3_column_int64(find, 0);
        /* A vector of zeros has unit 1 too, so ask the size itself. */
        sqlite3_blob *blob = NULL;
        uint8_t one = 1;
        if (sqlite3_blob_open(db->sql, "main", "vector", "sizes", sqlite3_column_int64(find, 2), 0,
                              &blob) == SQLITE_OK)
            sqlite3_blob_read(blob, &one, 1, 0);
        sqlite3_blob_close(blob);
        error = skew_vector_encode_equal(&scratch.send_vector, (uint64_t)comm->ranks, one);
        if (!error)
            error = skew_db_vector(db, &scratch.send_vector, &vector);
        if (error)
            break;
        sqlite3_bind_int64(settle, 1, id);
        sqlite3_bind_int64(settle, 2, vector);
        error = skew_db_run(db, settle);
    }
    sqlite3_reset(find);
    comm->pending = 0;
    return error ? error : row < 0 ? row : 0;
}

static bool has_root(uint8_t op)
{
    return op == SKEW_OP_BROADCAST || op == SKEW_OP_REDUCE || op == SKEW_OP_GATHER ||
           op == SKEW_OP_SCATTER || op == SKEW_OP_PUT || op == SKEW_OP_SIGNAL ||
           op == SKEW_OP_WAITSIGNAL;
}

static int store_operation(struct skew_proc *proc, const struct group *group, struct slot *slot,
                           const struct skew_cell *cell)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_OPERATION];
    struct skew_bound *bound = &proc->db->operation;
    const struct skew_lane *lane = &group->lanes[cell->lane];
    unsigned flags = lane_flags(lane) | group_flags(group, slot->comm);
    bool sized = cell->op != SKEW_OP_SIGNAL && cell->op != SKEW_OP_WAITSIGNAL;
    uint64_t bytes = sized ? bytes_of(proc, cell, &flags) : 0;
    if (cell->op >= SKEW_OP_COUNT) { /* of a newer library: keep it under its number */
        char sql[96];
        snprintf(sql, sizeof sql, "INSERT OR IGNORE INTO op_name VALUES(%u, 'op_%u')", cell->op,
                 cell->op);
        skew_db_exec(proc->db, sql);
    }
    skew_bind(stmt, bound, 1, slot->comm->member);
    skew_bind(stmt, bound, 2, (int64_t)slot->op_seq++);
    skew_bind(stmt, bound, 3, cell->op);
    skew_bind(stmt, bound, 4, (int64_t)group->rec->call_ns);
    skew_bind(stmt, bound, 5, (int64_t)(group->rec->return_ns - group->rec->call_ns));
    skew_bind(stmt, bound, 6, cell->dtype == 255 ? -1 : cell->dtype);
    skew_bind(stmt, bound, 7, cell->count < INT64_MAX ? (int64_t)cell->count : INT64_MAX);
    skew_bind(stmt, bound, 8, (int64_t)bytes);
    skew_bind(stmt, bound, 9, has_root(cell->op) ? cell->peer : SKEW_BIND_NULL);
    int error = bind_tail(proc, stmt, bound, 10, group, lane, flags);
    return error ? error : skew_db_run(proc->db, stmt);
}

/* The first cell of an exchange, one of another data type or stream than the one before, or one
 * whose bytes cannot be told: what the fast way below does not do. */
static void add_cell_slow(struct skew_proc *proc, const struct group *group, struct exchange *ex,
                          const struct skew_cell *cell)
{
    int dtype = cell->dtype == 255 ? -1 : cell->dtype;
    if (!ex->any) {
        ex->dtype = dtype;
        ex->first_lane = ex->last_lane = cell->lane;
    }
    ex->any = true;
    ex->multi_dtype |= dtype != ex->dtype;
    ex->first_lane = cell->lane < ex->first_lane ? cell->lane : ex->first_lane;
    ex->last_lane = cell->lane > ex->last_lane ? cell->lane : ex->last_lane;
    ex->flags |= lane_flags(&group->lanes[cell->lane]);
    ex->cell_dtype = cell->dtype;
    ex->cell_lane = cell->lane;
    ex->element = cell->dtype == 255 ? 0 : skew_nccl_type_size(cell->dtype);
    skew_cells_add(cell->op == SKEW_OP_SEND || cell->op == SKEW_OP_ALLTOALLV_SEND ? ex->send
                                                                                  : ex->recv,
                   bytes_of(proc, cell, &ex->flags), cell->peer);
}

static inline void add_cell(struct skew_proc *proc, const struct group *group, struct exchange *ex,
                            const struct skew_cell *cell, bool send)
{
    if (ex->any && cell->dtype == ex->cell_dtype && cell->lane == ex->cell_lane && ex->element &&
        cell->count < 1ull << 59)
        skew_cells_add(send ? ex->send : ex->recv, cell->count * ex->element, cell->peer);
    else
        add_cell_slow(proc, group, ex, cell);
}

/* Each call is an exchange: its sends come before its receives, so a send after a receive is the
 * next. */
static int store_alltoallv(struct skew_proc *proc, const struct group *group, struct slot *slot,
                           const uint32_t *order, uint32_t from, uint32_t to)
{
    const struct exchange fresh = {
        .op = SKEW_OP_ALLTOALLV_SEND, .send = &scratch.send, .recv = &scratch.recv};
    struct exchange ex = fresh;
    int error = 0;
    scratch.send.count = scratch.recv.count = 0;
    for (uint32_t i = from; !error && i < to; i++) {
        const struct skew_cell *cell = &group->cells[order ? order[i] : i];
        bool send = cell->op == SKEW_OP_ALLTOALLV_SEND;
        if (!send && cell->op != SKEW_OP_ALLTOALLV_RECV)
            continue;
        if (send && scratch.recv.count) {
            error = store_exchange(proc, group, slot, &ex);
            ex = fresh;
            scratch.send.count = scratch.recv.count = 0;
        }
        add_cell(proc, group, &ex, cell, send);
    }
    return error ? error : store_exchange(proc, group, slot, &ex);
}

/* One communicator's cells: those numbered order[from … to), or all when `order` is NULL. */
static int store_cells(struct skew_proc *proc, const struct group *group, struct slot *slot,
                       const uint32_t *order, uint32_t from, uint32_t to)
{
    struct exchange ex = {.op = SKEW_OP_SEND, .send = &scratch.send, .recv = &scratch.recv};
    bool alltoall = false, alltoallv = false;
    int error = skew_cells_reserve(&scratch.send, to - from);
    if (!error)
        error = skew_cells_reserve(&scratch.recv, to - from);
    scratch.send.count = scratch.recv.count = 0;
    for (uint32_t i = from; !error && i < to; i++) {
        const struct skew_cell *cell = &group->cells[order ? order[i] : i];
        if (cell->op <= SKEW_OP_RECV)
            add_cell(proc, group, &ex, cell, cell->op == SKEW_OP_SEND);
        else if (cell->op == SKEW_OP_ALLTOALL)
            alltoall = true;
        else if (cell->op == SKEW_OP_ALLTOALLV_SEND || cell->op == SKEW_OP_ALLTOALLV_RECV)
            alltoallv = true;
        else
            error = store_operation(proc, group, slot, cell);
    }
    if (!error && ex.any)
        error = store_exchange(proc, group, slot, &ex);
    for (uint32_t i = from; alltoall && !error && i < to; i++) {
        const struct skew_cell *cell = &group->cells[order ? order[i] : i];
        if (cell->op == SKEW_OP_ALLTOALL)
            error = store_alltoall(proc, group, slot, cell);
    }
    if (error || !alltoallv)
        return error;
    return store_alltoallv(proc, group, slot, order, from, to);
}

/* Gives every lane the slot of its communicator. */
static int find_slots(struct skew_proc *proc, const struct group *group, uint32_t *count)
{
    uint32_t lanes = group->rec->lanes;
    int error = ensure((void **)&scratch.lane_slot, &scratch.lane_room, lanes, sizeof(uint32_t));
    if (!error)
        error = ensure((void **)&scratch.slots, &scratch.slot_room, lanes, sizeof *scratch.slots);
    proc->group_stamp++;
    *count = 0;
    for (uint32_t i = 0; !error && i < lanes; i++) {
        const struct skew_lane *lane = &group->lanes[i];
        struct skew_local_comm *comm;
        error = skew_comm_find(proc, lane->comm, &comm);
        if (error)
            break;
        if (comm->stamp != proc->group_stamp) {
            comm->stamp = proc->group_stamp;
            comm->slot = (*count)++;
            scratch.slots[comm->slot] = (struct slot){comm, lane->exchange_seq, lane->op_seq, 0, 0};
        }
        scratch.lane_slot[i] = comm->slot;
    }
    return error;
}

static int store_group(struct skew_proc *proc, const struct group *group, uint32_t cells)
{
    uint32_t count;
    int error = find_slots(proc, group, &count);
    if (error || !count)
        return error;
    if (count == 1)
        return store_cells(proc, group, &scratch.slots[0], NULL, 0, cells);
    error = ensure((void **)&scratch.order, &scratch.order_room, cells, sizeof(uint32_t));
    if (error)
        return error;
    for (uint32_t i = 0; i < cells; i++)
        scratch.slots[scratch.lane_slot[group->cells[i].lane]].cells++;
    for (uint32_t i = 0, at = 0; i < count; i++) {
        scratch.slots[i].end = at;
        at += scratch.slots[i].cells;
    }
    for (uint32_t i = 0; i < cells; i++)
        scratch.order[scratch.slots[scratch.lane_slot[group->cells[i].lane]].end++] = i;
    for (uint32_t i = 0; !error && i < count; i++) {
        struct slot *slot = &scratch.slots[i];
        error = store_cells(proc, group, slot, scratch.order, slot->end - slot->cells, slot->end);
    }
    return error;
}

static int keep_part(struct skew_stream *stream, const struct skew_rec_group *rec)
{
    if (stream->part_count && stream->part_group != rec->group)
        stream->part_count = 0; /* its group was lost */
    stream->part_group = rec->group;
    if (!rec->cells)
        return 0;
    int error = ensure((void **)&stream->parts, &stream->part_room, stream->part_count + rec->cells,
                       sizeof *stream->parts);
    if (!error)
        memcpy(stream->parts + stream->part_count, rec + 1, rec->cells * sizeof *stream->parts);
    if (!error)
        stream->part_count += rec->cells;
    return error;
}

int skew_group_record(struct skew_proc *proc, struct skew_stream *stream,
                      const struct skew_rec *head)
{
    const struct skew_rec_group *rec = (const void *)head;
    uint64_t need = sizeof *rec + (uint64_t)rec->cells * sizeof(struct skew_cell) +
                    (uint64_t)rec->lanes * sizeof(struct skew_lane);
    uint64_t known, cells = rec->cells;
    if (head->bytes < sizeof *rec || head->bytes < need || rec->return_ns < rec->call_ns ||
        rec->return_ns > INT64_MAX || rec->group > INT64_MAX)
        return -EBADMSG;
    if (head->type == SKEW_REC_GROUP_PART)
        return rec->lanes ? -EBADMSG : keep_part(stream, rec);
    if (stream->part_count && stream->part_group != rec->group)
        stream->part_count = 0; /* their own GROUP was lost */
    struct group group = {rec, (const void *)(rec + 1), NULL, stream->stream, 0};
    group.lanes = (const void *)(group.cells + rec->cells);
    if (skew_map_get(&proc->sites, rec->site, &known))
        group.site = (int64_t)known;
    if (stream->part_count) {
        int error = keep_part(stream, rec);
        if (error)
            return error;
        group.cells = stream->parts;
        cells = stream->part_count;
        stream->part_count = 0;
    }
    for (uint64_t i = 0; i < cells; i++)
        if (group.cells[i].lane >= rec->lanes)
            return -EBADMSG;
    for (uint32_t i = 0; i < rec->lanes; i++)
        if (group.lanes[i].exchange_seq > INT64_MAX - cells ||
            group.lanes[i].op_seq > INT64_MAX - cells)
            return -EBADMSG;
    proc->stored++;
    return store_group(proc, &group, (uint32_t)cells);
}

int skew_loss_record(struct skew_proc *proc, const struct skew_rec *head)
{
    const struct skew_rec_loss *rec = (const void *)head;
    const struct skew_loss_peer *peer = (const void *)(rec + 1);
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_LOSS_EDGE];
    struct skew_local_comm *comm;
    if (head->bytes < sizeof *rec ||
        head->bytes < sizeof *rec + (uint64_t)rec->peers * sizeof *peer)
        return -EBADMSG;
    int error = skew_comm_find(proc, rec->comm, &comm);
    for (uint32_t i = 0; !error && i < rec->peers; i++) {
        sqlite3_bind_int64(stmt, 1, comm->member);
        sqlite3_bind_int64(stmt, 2, (int64_t)rec->before_seq);
        sqlite3_bind_int64(stmt, 3, peer[i].peer);
        sqlite3_bind_int64(stmt, 4, (int64_t)peer[i].sends);
        sqlite3_bind_int64(stmt, 5, (int64_t)peer[i].recvs);
        error = skew_db_run(proc->db, stmt);
    }
    return error;
}
