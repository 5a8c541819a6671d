/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The collector's database: opening, the prepared statements, and the one boundary where SQLite's
 * codes become negative errno. One connection, one thread. After any error the connection is closed
 * and everything in memory is forgotten and loaded again, so that memory never knows more than the
 * disk.
 */
#ifndef SKEW_COLLECT_DB_H
#define SKEW_COLLECT_DB_H

#include <stdbool.h>
#include <stdint.h>
#include <limits.h>
#include <sqlite3.h>

#include "vector.h"

/* Everything the collector asks of the database while it stores. */
#define SKEW_STMT_LIST(X)                                                                          \
    X(VECTOR, "INSERT INTO vector(cells, total, largest, size_width, size_stride, peer_width, "    \
              "peer_stride, sizes, peers) VALUES(?,?,?,?,?,?,?,?,?)")                              \
    X(EXCHANGE, "INSERT INTO exchange(member_id, seq, op, start_ns, enqueue_ns, dtype, "           \
                "send_vector, recv_vector, send_unit, recv_unit, stream_id, site_id, thread, "     \
                "group_seq, flags, capture_id) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")           \
    X(OPERATION, "INSERT INTO operation(member_id, seq, op, start_ns, enqueue_ns, dtype, count, "  \
                 "bytes, root, stream_id, site_id, thread, group_seq, flags, capture_id) "         \
                 "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")                                          \
    X(PROGRESS, "REPLACE INTO spool_progress(process_id, stream, seq, offset, parts_seq, "         \
                "parts_offset) VALUES(?,?,?,?,?,?)")                                               \
    X(STORED, "UPDATE process SET stored_groups = stored_groups + ?2, returned_groups = ?3 "       \
              "WHERE process_id = ?1")                                                             \
    X(ENDED, "UPDATE process SET ended = ?2, ended_ns = ?3 WHERE process_id = ?1")                 \
    X(LOSS, "REPLACE INTO loss(process_id, reason, groups, exchanges, operations, cells) "         \
            "VALUES(?,?,?,?,?,?)")                                                                 \
    X(LOSS_EDGE, "INSERT INTO loss_edge(member_id, before_seq, peer, sends, recvs) "               \
                 "VALUES(?,?,?,?,?)")                                                              \
    X(TAP, "INSERT INTO tap(member_id, thread, group_seq, place, shape, side, dtype, count, "      \
           "elements, width, data) VALUES(?,?,?,?,?,?,?,?,?,?,?)")                                 \
    X(RANGE_NAME, "REPLACE INTO nvtx_name(process_id, local_name, text) VALUES(?,?,?)")            \
    X(RANGE_FIND, "SELECT range_id FROM nvtx_range WHERE process_id = ? AND thread = ? AND "       \
                  "serial = ?")                                                                    \
    X(RANGE, "INSERT INTO nvtx_range(process_id, thread, serial, kind, depth, parent_id, domain, " \
             "text, from_group) VALUES(?,?,?,?,?,?,?,?,?)")                                        \
    X(RANGE_CHANGE, "REPLACE INTO nvtx_change(process_id, thread, from_group, range_id, deeper, "  \
                    "marks_lost) VALUES(?,?,?,?,?,?)")                                             \
    X(TAP_COUNT, "REPLACE INTO tap_count(process_id, outcome, buffers, bytes) VALUES(?,?,?,?)")    \
    X(ANCHOR, "INSERT INTO clock_anchor(process_id, monotonic_ns, real_ns) VALUES(?,?,?)")         \
    X(STREAM, "INSERT INTO stream(process_id, handle) VALUES(?,?)")                                \
    X(THREAD, "REPLACE INTO thread(process_id, stream, tid, name) VALUES(?,?,?,?)")                \
    X(SITE, "INSERT INTO callsite(process_id, local_site) VALUES(?,?)")                            \
    X(FRAME, "INSERT INTO frame(site_id, depth, address, module_id) VALUES(?,?,?,?)")              \
    X(SYMBOL,                                                                                      \
      "UPDATE frame SET symbol = ?3, offset = ?4, file = ?5, line = ?6 WHERE site_id = ?1 "        \
      "AND depth = ?2")                                                                            \
    X(MODULE, "INSERT INTO module(process_id, path, build_id, base, start, end, role) "            \
              "VALUES(?,?,?,?,?,?,?)")                                                             \
    X(COMM_FIND, "SELECT comm_id FROM communicator WHERE key = ?")                                 \
    X(COMM_ADD, "INSERT INTO communicator(key, kind) VALUES(?,?)")                                 \
    X(COMM_KNOW, "UPDATE communicator SET kind = CASE WHEN ?2 = 'unknown' THEN kind ELSE ?2 END, " \
                 "ranks = coalesce(?3, ranks), parent_id = coalesce(?4, parent_id), "              \
                 "color = coalesce(?5, color) WHERE comm_id = ?1")                                 \
    X(COMM_RANKS, "SELECT ranks FROM communicator WHERE comm_id = ? AND ranks IS NOT NULL")        \
    X(COMM_DROP, "DELETE FROM communicator WHERE comm_id = ?1 AND NOT EXISTS (SELECT 1 FROM "      \
                 "member WHERE comm_id = ?1) AND NOT EXISTS (SELECT 1 FROM communicator "          \
                 "WHERE parent_id = ?1)")                                                          \
    X(MEMBER_ADD, "INSERT INTO member(comm_id, rank, process_id, local_comm, device, handle, "     \
                  "nonblocking, created_ns) VALUES(?,?,?,?,?,?,?,?)")                              \
    X(MEMBER_KNOW, "UPDATE member SET comm_id = ?2, rank = ?3, device = ?4, handle = ?5, "         \
                   "nonblocking = ?6, created_ns = ?7 WHERE member_id = ?1")                       \
    X(MEMBER_END, "UPDATE member SET ended_ns = ?2, ended = ?3 WHERE member_id = ?1")              \
    X(PENDING, "SELECT exchange_id, send_unit, send_vector FROM exchange WHERE member_id = ? "     \
               "AND flags & 32 AND exchange_id >= ?")                                              \
    X(SETTLE, "UPDATE exchange SET send_vector = ?2, recv_vector = ?2, flags = flags & ~32 "       \
              "WHERE exchange_id = ?1")                                                            \
    X(CAPTURE, "INSERT INTO graph_capture(process_id, driver_id) VALUES(?,?)")                     \
    X(GRAPH_EVENT, "INSERT INTO graph_event(process_id, ns, event, driver_id, graph, source, "     \
                   "exec) VALUES(?,?,?,?,?,?,?)")                                                  \
    X(LAUNCH, "INSERT INTO graph_launch(process_id, ns, exec, stream_id) VALUES(?,?,?,?)")         \
    X(CAPTURED, "SELECT member_id, thread, group_seq, min(start_ns), max(flags & 64) FROM "        \
                "(SELECT member_id, "                                                              \
                "thread, group_seq, start_ns, flags FROM exchange WHERE capture_id = ?1 "          \
                "UNION ALL SELECT member_id, thread, group_seq, start_ns, flags FROM "             \
                "operation WHERE capture_id = ?1) GROUP BY 1, 2, 3 ORDER BY 4, 3")                 \
    X(LAUNCH_KNOW, "UPDATE graph_launch SET stream_id = ?2 WHERE launch_id = ?1")                  \
    X(TIME,                                                                                        \
      "REPLACE INTO device_time(member_id, thread, group_seq, launch_id, source, start_ns, "       \
      "end_ns, error_ns, start_slack_ns, end_slack_ns, place) VALUES(?,?,?,?,?,?,?,?,?,?,?)")      \
    X(CLOCK, "INSERT INTO device_clock(process_id, clock, source, device_ns, low_ns, high_ns) "    \
             "VALUES(?,?,?,?,?,?)")                                                                \
    X(TIER, "INSERT INTO timing(process_id, ns, tier, why) VALUES(?,?,?,?)")                       \
    X(UNTIMED, "REPLACE INTO untimed(process_id, reason, launches) VALUES(?,?,?)")                 \
    X(UNTIMED_ADD, "INSERT INTO untimed(process_id, reason, launches) VALUES(?1, ?2, ?3) "         \
                   "ON CONFLICT DO UPDATE SET launches = launches + ?3")                           \
    X(OVERHEAD, "REPLACE INTO overhead(process_id, measured_groups, measured_ns, setup_ns, "       \
                "events, event_ns, cupti_records, cupti_dropped) VALUES(?,?,?,?,?,?,?,?)")         \
    X(KERNEL_NAME,                                                                                 \
      "REPLACE INTO kernel_name(process_id, name_id, name, does, backend) VALUES(?,?,?,?,?)")      \
    X(KERNEL, "INSERT INTO kernel(process_id, device, stream, start_ns, end_ns, busy_ns, "         \
              "kernels, name_id) VALUES(?,?,?,?,?,?,?,?)")                                         \
    X(BACKEND_CALL, "INSERT INTO backend_call(process_id, start_ns, backend, does, function, "     \
                    "object, tid, site_id) VALUES(?,?,?,?,?,?,?,?)")                               \
    X(BACKEND_CALL_COUNT, "REPLACE INTO backend_call_count(process_id, function, backend, does, "  \
                          "calls) VALUES(?,?,?,?,?)")                                              \
    X(LAUNCHES, "INSERT INTO capture_launches(capture_id, launches) VALUES(?1, ?2) "               \
                "ON CONFLICT(capture_id) DO UPDATE SET launches = launches + ?2")                  \
    X(ENV, "REPLACE INTO process_env(process_id, name, value) VALUES(?,?,?)")                      \
    X(DIAG, "INSERT INTO diagnostic(run_id, process_id, severity, code, ns, text) "                \
            "SELECT ?1,?2,?3,?4,?5,?6 WHERE NOT EXISTS (SELECT 1 FROM diagnostic WHERE "           \
            "run_id IS ?1 AND process_id IS ?2 AND code = ?4 AND text = ?6)")                      \
    X(RUN_FIND, "SELECT run_id FROM run WHERE key = ?")                                            \
    X(RUN_ADD, "INSERT INTO run(key) VALUES(?)")                                                   \
    X(META, "REPLACE INTO meta(key, value) VALUES(?,?)")                                           \
    X(ORDINAL, "INSERT OR IGNORE INTO ordinal(n) VALUES(?)")

enum skew_stmt {
#define X(id, sql) SKEW_STMT_##id,
    SKEW_STMT_LIST(X)
#undef X
        SKEW_STMT_COUNT
};

/* Made once a database is whole: they would slow down every insert. */
#define SKEW_TRACE_INDICES                                                                         \
    "CREATE INDEX IF NOT EXISTS exchange_by_member ON exchange(member_id, seq);"                   \
    "CREATE INDEX IF NOT EXISTS operation_by_member ON operation(member_id, seq);"

/* What a statement's parameters hold, since binding the same again costs as much as anything else.
 */
#define SKEW_PARAMETERS 20
#define SKEW_BIND_NULL  INT64_MIN
struct skew_bound {
    int64_t value[SKEW_PARAMETERS];
    bool known[SKEW_PARAMETERS];
};

/** Binds a number, or NULL for SKEW_BIND_NULL, unless it is bound already. */
static inline void skew_bind(sqlite3_stmt *stmt, struct skew_bound *bound, int column,
                             int64_t value)
{
    if (bound->known[column] && bound->value[column] == value)
        return;
    bound->known[column] = true;
    bound->value[column] = value;
    if (value == SKEW_BIND_NULL)
        sqlite3_bind_null(stmt, column);
    else
        sqlite3_bind_int64(stmt, column, value);
}

struct skew_db {
    sqlite3 *sql;
    sqlite3_stmt *stmt[SKEW_STMT_COUNT];
    char path[PATH_MAX];
    char error[512];                               /* of the latest failure, for a person */
    struct skew_bound exchange, operation, vector; /* parameters of these three statements */
    int64_t next_exchange, next_vector;            /* ids that SQLite will give */
    int64_t ordinals;                              /* rows of `ordinal`: 0 … ordinals − 1 */
    bool in_transaction;
    struct skew_vector_set vectors;
};

/** Makes SQLite faster in a process that uses it from one thread only. Before anything else of
 * SQLite. */
void skew_db_one_thread(void);

/** Opens for writing an existing database of ours at `path`, or makes a new one. The caller owns
 * *out. */
int skew_db_open(struct skew_db **out, const char *path, char *why, size_t why_size);
void skew_db_close(struct skew_db **db);

/** sqlite3_open_v2() that follows no link in the last part of the path. @return SQLite's code */
int skew_db_raw_open(sqlite3 **sql, const char *path, int flags, const char *vfs);

/**
 * Whether a database is a whole trace of this schema that rows can be added to. Changes nothing.
 * @return 0; −EINVAL not a trace, or damaged; −ENOTSUP of a newer version; other negative errno
 */
int skew_db_check(const char *path, char *why, size_t why_size);

int skew_db_begin(struct skew_db *db);
int skew_db_commit(struct skew_db *db);
int skew_db_exec(struct skew_db *db, const char *sql);

/** Runs a statement that returns no row, and resets it. @return 0 or negative errno, text in
 * db->error. */
int skew_db_run(struct skew_db *db, sqlite3_stmt *stmt);

/** Runs an INSERT that leaves the id to SQLite, which is faster than giving it, and must choose
 * `id`. */
int skew_db_insert(struct skew_db *db, sqlite3_stmt *stmt, int64_t id);

/** Runs a statement that may return one row. @return 1 a row (reset it yourself), 0 none, negative
 * errno. */
int skew_db_row(struct skew_db *db, sqlite3_stmt *stmt);

/** Notes SQLite's latest error in db->error. @return its negative errno. */
int skew_db_fail(struct skew_db *db, const char *what);

/** A fact about the database (table meta). `value` NULL: not there. */
int skew_db_set_meta(struct skew_db *db, const char *key, const char *value);
int skew_db_get_meta(sqlite3 *sql, const char *key, char *value, size_t size);

/** Stores a vector unless an equal one is there; its id in *id. Extends `ordinal` as needed. */
int skew_db_vector(struct skew_db *db, const struct skew_vector *vector, int64_t *id);

/** Stores a diagnostic once. Ids of 0 are stored as NULL; `text` may be any bytes. */
int skew_db_diag(struct skew_db *db, int64_t run, int64_t process, const char *severity,
                 const char *code, int64_t ns, const char *text);

/** The row of a run, made when it is not there. */
int skew_db_run_id(struct skew_db *db, const char *key, int64_t *run);

/** Binds text of any bytes as valid UTF-8 (what is not becomes U+FFFD), up to the first NUL. */
int skew_db_bind_text(sqlite3_stmt *stmt, int column, const char *text, size_t length);

#endif
