/* SPDX-License-Identifier: Apache-2.0 */
/* What trace_make.c (the database, and where it comes from) and trace_make_rows.c share. */
#ifndef SKEW_TRACE_MAKE_PRIVATE_H
#define SKEW_TRACE_MAKE_PRIVATE_H

#include <limits.h>
#include <string.h>

#include "collect/db.h"
#include "trace_make.h"

/* What the collector has no statement for. */
#define MAKE_STMT_LIST(X)                                                                          \
    X(RUN_COMMAND, "UPDATE run SET command = ?2, version = ?3, started_real_ns = ?4, "             \
                   "ended_real_ns = ?5, exit_status = 0 WHERE run_id = ?1")                        \
    X(RUN_LABEL, "REPLACE INTO run_label(run_id, key, value) VALUES(?,?,?)")                       \
    X(PROCESS, "INSERT INTO process(run_id, key, pid, host, world_rank, local_rank, world_size, "  \
               "version, started_ns, started_real_ns, ended) VALUES(?,?,?,?,?,?,?,?,?,?,"          \
               "'exited')")                                                                        \
    X(GROUPS, "UPDATE process SET returned_groups = ?2, stored_groups = ?3, ended_ns = ?4 "        \
              "WHERE process_id = ?1")                                                             \
    X(DEVICE_TIME, "INSERT INTO device_time(member_id, thread, group_seq, launch_id, source, "     \
                   "start_ns, end_ns, error_ns) VALUES(?,?,?,0,?,?,?,?)")                          \
    X(LABEL, "INSERT INTO exchange_label(exchange_id, role, step, layer, microbatch, stage, "      \
             "token_bytes, pair_id, confidence, source) VALUES(?,?,?,?,?,?,?,?,?,?)")              \
    X(ROUTING, "INSERT INTO routing(exchange_id, comm_id, source_rank, step, layer, microbatch, "  \
               "stage, request, experts, topk, tokens, counts, unit, verified, source) "           \
               "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")                                            \
    X(ROUTING_IDS, "INSERT INTO routing_ids(routing_id, width, ids) VALUES(?,?,?)")                \
    X(PLACEMENT, "INSERT INTO placement(comm_id, layer, slot, rank, expert) VALUES(?,?,?,?,?)")

enum make_stmt {
#define X(id, sql) MAKE_##id,
    MAKE_STMT_LIST(X)
#undef X
        MAKE_STMT_COUNT
};

struct skew_make {
    struct skew_db *db;
    sqlite3_stmt *stmt[MAKE_STMT_COUNT];
    char path[PATH_MAX], temporary[PATH_MAX + 32];
    char host[64];
    int64_t created_ns;
    struct skew_cells cells;
    struct skew_vector vector;
    bool finished;
    char why[700];
};

/* Passes an error on, with the sentence that the database left. */
int skew_make_done(struct skew_make *make, int error);

static inline void bind_text(sqlite3_stmt *stmt, int column, const char *text)
{
    if (text)
        skew_db_bind_text(stmt, column, text, strlen(text));
    else
        sqlite3_bind_null(stmt, column);
}

static inline void bind_optional(sqlite3_stmt *stmt, int column, int64_t value)
{
    if (value == SKEW_MAKE_NONE)
        sqlite3_bind_null(stmt, column);
    else
        sqlite3_bind_int64(stmt, column, value);
}

static inline int64_t id_or_none(int64_t id)
{
    return id ? id : SKEW_MAKE_NONE;
}

static inline int insert(struct skew_make *m, sqlite3_stmt *stmt, int64_t *id)
{
    int error = skew_db_run(m->db, stmt);
    if (!error && id)
        *id = sqlite3_last_insert_rowid(m->db->sql);
    return skew_make_done(m, error);
}

#endif
