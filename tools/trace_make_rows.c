/* SPDX-License-Identifier: Apache-2.0 */
/* See trace_make.h: exchanges, what they are and when, routing, and what is missing. */
#include "trace_make_private.h"

#include <errno.h>
#include <stdlib.h>

/* ---- exchanges ------------------------------------------------------------------------------- */

int skew_make_vector(struct skew_make *m, size_t cells, const uint64_t *bytes,
                     const uint32_t *peers, int64_t *vector_id, int64_t *unit)
{
    int error = skew_cells_reserve(&m->cells, cells ? cells : 1);

    m->cells.count = 0;
    for (size_t i = 0; !error && i < cells; i++)
        skew_cells_add(&m->cells, bytes[i], peers ? peers[i] : (uint32_t)i);
    if (!error && cells == 0)
        error = -EINVAL; /* a side without cells has no vector */
    if (!error)
        error = skew_vector_encode(&m->vector, &m->cells);
    if (!error)
        error = skew_db_vector(m->db, &m->vector, vector_id);
    *unit = (int64_t)m->vector.unit;
    return skew_make_done(m, error);
}

int skew_make_exchange(struct skew_make *m, const struct skew_make_exchange *e,
                       int64_t *exchange_id)
{
    sqlite3_stmt *stmt = m->db->stmt[SKEW_STMT_EXCHANGE];
    const int64_t values[] = {e->member_id,
                              e->seq,
                              e->op,
                              e->start_ns,
                              e->enqueue_ns,
                              e->dtype,
                              e->send_vector ? e->send_vector : SKEW_BIND_NULL,
                              e->recv_vector ? e->recv_vector : SKEW_BIND_NULL,
                              e->send_vector ? e->send_unit : 1,
                              e->recv_vector ? e->recv_unit : 1,
                              SKEW_BIND_NULL, /* stream, call site */
                              SKEW_BIND_NULL,
                              e->thread,
                              e->group_seq,
                              e->flags,
                              SKEW_BIND_NULL};

    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        skew_bind(stmt, &m->db->exchange, (int)i + 1, values[i]);
    int64_t id = m->db->next_exchange++;
    if (exchange_id)
        *exchange_id = id;
    return skew_make_done(m, skew_db_insert(m->db, stmt, id));
}

int skew_make_operation(struct skew_make *m, const struct skew_make_operation *o)
{
    sqlite3_stmt *stmt = m->db->stmt[SKEW_STMT_OPERATION];
    const int64_t values[] = {o->member_id,   o->seq,    o->op,        o->start_ns, o->enqueue_ns,
                              o->dtype,       o->count,  o->bytes,     o->root,     SKEW_BIND_NULL,
                              SKEW_BIND_NULL, o->thread, o->group_seq, o->flags,    SKEW_BIND_NULL};

    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        skew_bind(stmt, &m->db->operation, (int)i + 1, values[i]);
    return insert(m, stmt, NULL);
}

int skew_make_device_time(struct skew_make *m, int64_t member_id, int64_t thread, int64_t group_seq,
                          int source, int64_t start_ns, int64_t end_ns, int64_t error_ns)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_DEVICE_TIME];
    const int64_t values[] = {member_id, thread, group_seq, source, start_ns, end_ns, error_ns};

    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        sqlite3_bind_int64(stmt, (int)i + 1, values[i]);
    return insert(m, stmt, NULL);
}

int skew_make_label(struct skew_make *m, const struct skew_make_label *l)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_LABEL];
    sqlite3_bind_int64(stmt, 1, l->exchange_id);
    bind_text(stmt, 2, l->role);
    bind_optional(stmt, 3, l->step);
    bind_optional(stmt, 4, l->layer);
    bind_optional(stmt, 5, l->microbatch);
    bind_text(stmt, 6, l->stage);
    bind_optional(stmt, 7, l->token_bytes);
    bind_optional(stmt, 8, l->pair_id);
    sqlite3_bind_double(stmt, 9, l->confidence);
    bind_text(stmt, 10, l->source);
    return insert(m, stmt, NULL);
}

/* ---- routing --------------------------------------------------------------------------------- */

static int make_ids(struct skew_make *m, int64_t routing_id, const uint16_t *ids, size_t count)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_ROUTING_IDS];
    size_t width = 1;

    for (size_t i = 0; i < count; i++)
        if (ids[i] > 255)
            width = 2;
    unsigned char *bytes = malloc(width * count + 1);
    if (!bytes)
        return skew_make_done(m, -ENOMEM);
    for (size_t i = 0; i < count; i++) {
        bytes[i * width] = (unsigned char)(width == 2 ? ids[i] >> 8 : ids[i]);
        bytes[i * width + width - 1] = (unsigned char)ids[i];
    }
    sqlite3_bind_int64(stmt, 1, routing_id);
    sqlite3_bind_int64(stmt, 2, (int64_t)width);
    sqlite3_bind_blob64(stmt, 3, bytes, width * count, SQLITE_TRANSIENT);
    free(bytes);
    return insert(m, stmt, NULL);
}

int skew_make_routing(struct skew_make *m, const struct skew_make_routing *r)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_ROUTING];
    int64_t vector, unit;
    int error = skew_make_vector(m, (size_t)r->experts, r->counts, NULL, &vector, &unit);

    if (error)
        return error;
    bind_optional(stmt, 1, id_or_none(r->exchange_id));
    bind_optional(stmt, 2, id_or_none(r->comm_id));
    bind_optional(stmt, 3, r->source_rank);
    bind_optional(stmt, 4, r->step);
    bind_optional(stmt, 5, r->layer);
    bind_optional(stmt, 6, r->microbatch);
    bind_text(stmt, 7, r->stage);
    bind_optional(stmt, 8, r->request);
    sqlite3_bind_int64(stmt, 9, r->experts);
    bind_optional(stmt, 10, r->topk);
    bind_optional(stmt, 11, r->tokens);
    sqlite3_bind_int64(stmt, 12, vector);
    sqlite3_bind_int64(stmt, 13, unit);
    sqlite3_bind_int64(stmt, 14, r->verified);
    bind_text(stmt, 15, r->source);
    int64_t id = 0;
    error = insert(m, stmt, &id);
    return error || !r->ids ? error : make_ids(m, id, r->ids, r->id_count);
}

int skew_make_placement(struct skew_make *m, int64_t comm_id, int64_t layer, int64_t slot,
                        int64_t rank, int64_t expert)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_PLACEMENT];
    const int64_t values[] = {comm_id, layer, slot, rank, expert};

    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        sqlite3_bind_int64(stmt, (int)i + 1, values[i]);
    return insert(m, stmt, NULL);
}

/* ---- what is not there ----------------------------------------------------------------------- */

int skew_make_loss(struct skew_make *m, int64_t process_id, const char *reason, int64_t groups,
                   int64_t exchanges, int64_t cells)
{
    sqlite3_stmt *stmt = m->db->stmt[SKEW_STMT_LOSS];
    sqlite3_bind_int64(stmt, 1, process_id);
    bind_text(stmt, 2, reason);
    sqlite3_bind_int64(stmt, 3, groups);
    sqlite3_bind_int64(stmt, 4, exchanges);
    sqlite3_bind_int64(stmt, 5, 0);
    sqlite3_bind_int64(stmt, 6, cells);
    return insert(m, stmt, NULL);
}

int skew_make_loss_edge(struct skew_make *m, int64_t member_id, int64_t before_seq, int64_t peer,
                        int64_t sends, int64_t recvs)
{
    sqlite3_stmt *stmt = m->db->stmt[SKEW_STMT_LOSS_EDGE];
    const int64_t values[] = {member_id, before_seq, peer, sends, recvs};

    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        sqlite3_bind_int64(stmt, (int)i + 1, values[i]);
    return insert(m, stmt, NULL);
}

int skew_make_diagnostic(struct skew_make *m, int64_t run_id, int64_t process_id,
                         const char *severity, const char *code, const char *text)
{
    return skew_make_done(m, skew_db_diag(m->db, run_id, process_id, severity, code, 0, text));
}
