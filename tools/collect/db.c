/* SPDX-License-Identifier: Apache-2.0 */
/* See db.h. */
#include "db.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "spool.h"
#include "utf8.h"
#include "trace_sql.h"

#define VECTORS_REMEMBERED (1u << 19) /* 50 MB at most */
#define STRINGIFY_(x)      #x
#define STRINGIFY(x)       STRINGIFY_(x)
#define SCHEMA_VERSION     1
#define APPLICATION_ID     1397442387

/* The database is read by nobody else while it grows, hence the exclusive lock. FULL: a commit is on
 * the disk before a segment is given back to its process. */
static const char pragmas[] = "PRAGMA page_size = 8192;"
                              "PRAGMA locking_mode = EXCLUSIVE;"
                              "PRAGMA journal_mode = TRUNCATE;"
                              "PRAGMA synchronous = FULL;"
                              "PRAGMA cache_size = -65536;"
                              "PRAGMA mmap_size = 0;"
                              "PRAGMA temp_store = MEMORY;"
                              "PRAGMA trusted_schema = OFF;";

static const char *const statements[SKEW_STMT_COUNT] = {
#define X(id, sql) [SKEW_STMT_##id] = sql,
    SKEW_STMT_LIST(X)
#undef X
};

static int to_errno(int code)
{
    switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EINVAL;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
        return -EACCES;
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
        return -EBADMSG; /* content that no process can have written */
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    default:
        return -EIO;
    }
}

int skew_db_fail(struct skew_db *db, const char *what)
{
    int error = to_errno(sqlite3_extended_errcode(db->sql));
    snprintf(db->error, sizeof db->error, "%s: %s", what, sqlite3_errmsg(db->sql));
    return error ? error : -EIO;
}

int skew_db_exec(struct skew_db *db, const char *sql)
{
    if (sqlite3_exec(db->sql, sql, NULL, NULL, NULL) != SQLITE_OK)
        return skew_db_fail(db, "the database");
    return 0;
}

int skew_db_run(struct skew_db *db, sqlite3_stmt *stmt)
{
    int code = sqlite3_step(stmt);
    int error = code == SQLITE_DONE ? 0 : skew_db_fail(db, "the database");
    sqlite3_reset(stmt);
    return error;
}

int skew_db_insert(struct skew_db *db, sqlite3_stmt *stmt, int64_t id)
{
    int error = skew_db_run(db, stmt);
    if (!error && sqlite3_last_insert_rowid(db->sql) != id) {
        snprintf(db->error, sizeof db->error, "somebody else writes to the collector's database");
        error = -EIO;
    }
    return error;
}

int skew_db_row(struct skew_db *db, sqlite3_stmt *stmt)
{
    int code = sqlite3_step(stmt);
    if (code == SQLITE_ROW)
        return 1;
    int error = code == SQLITE_DONE ? 0 : skew_db_fail(db, "the database");
    sqlite3_reset(stmt);
    return error;
}

int skew_db_begin(struct skew_db *db)
{
    if (db->in_transaction)
        return 0;
    int error = skew_db_exec(db, "BEGIN IMMEDIATE");
    db->in_transaction = !error;
    return error;
}

int skew_db_commit(struct skew_db *db)
{
    if (!db->in_transaction)
        return 0;
    int error = skew_db_exec(db, "COMMIT");
    if (!error)
        db->in_transaction = false;
    return error;
}

int skew_db_bind_text(sqlite3_stmt *stmt, int column, const char *text, size_t length)
{
    if (skew_utf8_valid(text, length))
        return sqlite3_bind_text64(stmt, column, text, length, SQLITE_TRANSIENT, SQLITE_UTF8);
    char *clean = skew_utf8_clean(text, length);
    if (!clean)
        return SQLITE_NOMEM;
    return sqlite3_bind_text(stmt, column, clean, -1, free);
}

static void bind_id(sqlite3_stmt *stmt, int column, int64_t id)
{
    if (id)
        sqlite3_bind_int64(stmt, column, id);
    else
        sqlite3_bind_null(stmt, column);
}

int skew_db_set_meta(struct skew_db *db, const char *key, const char *value)
{
    sqlite3_stmt *stmt = db->stmt[SKEW_STMT_META];
    skew_db_bind_text(stmt, 1, key, strlen(key));
    skew_db_bind_text(stmt, 2, value, strlen(value));
    return skew_db_run(db, stmt);
}

int skew_db_get_meta(sqlite3 *sql, const char *key, char *value, size_t size)
{
    sqlite3_stmt *stmt;
    int found = -ENOENT;
    if (sqlite3_prepare_v2(sql, "SELECT value FROM meta WHERE key = ?", -1, &stmt, NULL) != SQLITE_OK)
        return to_errno(sqlite3_errcode(sql));
    sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
    if (sqlite3_step(stmt) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        snprintf(value, size, "%s", text ? text : "");
        found = 0;
    }
    sqlite3_finalize(stmt);
    return found;
}

int skew_db_diag(struct skew_db *db, int64_t run, int64_t process, const char *severity,
                 const char *code, int64_t ns, const char *text)
{
    sqlite3_stmt *stmt = db->stmt[SKEW_STMT_DIAG];
    bind_id(stmt, 1, run);
    bind_id(stmt, 2, process);
    skew_db_bind_text(stmt, 3, severity, strlen(severity));
    skew_db_bind_text(stmt, 4, code, strlen(code));
    bind_id(stmt, 5, ns);
    skew_db_bind_text(stmt, 6, text, strlen(text));
    return skew_db_run(db, stmt);
}

int skew_db_run_id(struct skew_db *db, const char *key, int64_t *run)
{
    sqlite3_stmt *find = db->stmt[SKEW_STMT_RUN_FIND], *add = db->stmt[SKEW_STMT_RUN_ADD];
    skew_db_bind_text(find, 1, key, strlen(key));
    int found = skew_db_row(db, find);
    if (found == 1) {
        *run = sqlite3_column_int64(find, 0);
        sqlite3_reset(find);
    }
    if (found)
        return found < 0 ? found : 0;
    skew_db_bind_text(add, 1, key, strlen(key));
    int error = skew_db_run(db, add);
    *run = sqlite3_last_insert_rowid(db->sql);
    return error;
}

/* The views count with `ordinal`, so it must reach the longest vector. */
static int extend_ordinals(struct skew_db *db, int64_t cells)
{
    sqlite3_stmt *stmt = db->stmt[SKEW_STMT_ORDINAL];
    int error = 0;
    for (; !error && db->ordinals < cells; db->ordinals++) {
        sqlite3_bind_int64(stmt, 1, db->ordinals);
        error = skew_db_run(db, stmt);
    }
    return error;
}

int skew_db_vector(struct skew_db *db, const struct skew_vector *v, int64_t *id)
{
    sqlite3_stmt *stmt = db->stmt[SKEW_STMT_VECTOR];
    int error = 0;
    *id = skew_vector_set_find(&db->vectors, v, db->next_vector);
    if (*id)
        return 0;
    *id = db->next_vector++;
    if ((int64_t)v->cells > db->ordinals)
        error = extend_ordinals(db, (int64_t)v->cells);
    if (error)
        return error;
    struct skew_bound *bound = &db->vector;
    skew_bind(stmt, bound, 1, (int64_t)v->cells);
    skew_bind(stmt, bound, 2, (int64_t)v->total);
    skew_bind(stmt, bound, 3, (int64_t)v->largest);
    skew_bind(stmt, bound, 4, v->size_width);
    skew_bind(stmt, bound, 5, v->size_stride);
    skew_bind(stmt, bound, 6, v->peer_width);
    skew_bind(stmt, bound, 7, v->peer_stride);
    sqlite3_bind_blob(stmt, 8, v->sizes, (int)v->sizes_bytes, SQLITE_STATIC);
    if (v->peers) {
        bound->known[9] = false;
        sqlite3_bind_blob(stmt, 9, v->peers, (int)v->peers_bytes, SQLITE_STATIC);
    } else {
        skew_bind(stmt, bound, 9, SKEW_BIND_NULL);
    }
    return skew_db_insert(db, stmt, *id);
}

void skew_db_one_thread(void)
{
    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

/* ---- opening ---------------------------------------------------------------------------------- */

static int scalar(sqlite3 *sql, const char *query, int64_t *value)
{
    sqlite3_stmt *stmt;
    int code = sqlite3_prepare_v2(sql, query, -1, &stmt, NULL);
    if (code == SQLITE_OK) {
        code = sqlite3_step(stmt);
        if (code == SQLITE_ROW)
            *value = sqlite3_column_int64(stmt, 0);
    }
    sqlite3_finalize(stmt);
    return code == SQLITE_ROW ? 0 : code == SQLITE_DONE ? -ENOENT : to_errno(code);
}

int skew_db_raw_open(sqlite3 **sql, const char *path, int flags, const char *vfs)
{
    /* SQLite refuses links anywhere in the path; those on the way to the directory are the user's own. */
    char real[PATH_MAX], full[2 * PATH_MAX];
    const char *slash = strrchr(path, '/');
    *sql = NULL;
    if (strcmp(path, ":memory:") == 0)
        return sqlite3_open_v2(path, sql, flags | SQLITE_OPEN_NOMUTEX, vfs);
    snprintf(full, sizeof full, "%.*s", slash ? (int)(slash - path) + 1 : 2, slash ? path : "./");
    if (!realpath(full, real))
        return SQLITE_CANTOPEN;
    snprintf(full, sizeof full, "%s/%s", real, slash ? slash + 1 : path);
    return sqlite3_open_v2(full, sql, flags | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX, vfs);
}

/* Every table of the schema must be there with every column; nothing may run by itself. */
static int check_tables(sqlite3 *sql, char *why, size_t why_size)
{
    sqlite3 *model = NULL;
    sqlite3_stmt *stmt = NULL;
    int error = -EIO;
    int64_t value;
    if (sqlite3_open(":memory:", &model) != SQLITE_OK ||
        sqlite3_exec(model, trace_sql, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(model,
                           "SELECT s.name, c.name FROM sqlite_schema s JOIN pragma_table_info(s.name) c "
                           "WHERE s.type = 'table'",
                           -1, &stmt, NULL) != SQLITE_OK) {
        snprintf(why, why_size, "%s", sqlite3_errmsg(model));
        goto out;
    }
    error = 0;
    while (!error && sqlite3_step(stmt) == SQLITE_ROW) {
        const char *table = (const char *)sqlite3_column_text(stmt, 0);
        const char *column = (const char *)sqlite3_column_text(stmt, 1);
        int code = sqlite3_table_column_metadata(sql, NULL, table, column, NULL, NULL, NULL, NULL, NULL);
        if (code != SQLITE_OK) {
            snprintf(why, why_size, "it lacks column %s of table %s", column, table);
            error = -EINVAL;
        }
    }
    if (!error && !scalar(sql, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'", &value) &&
        value) {
        snprintf(why, why_size, "it holds triggers, which no trace has");
        error = -EINVAL;
    }
out:
    sqlite3_finalize(stmt);
    sqlite3_close(model);
    return error;
}

int skew_db_check(const char *path, char *why, size_t why_size)
{
    sqlite3 *sql = NULL;
    int64_t application = 0, version = 0, damage = 0;
    int code = skew_db_raw_open(&sql, path, SQLITE_OPEN_READONLY, NULL);
    int error = to_errno(code);
    if (!error) {
        sqlite3_db_config(sql, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        sqlite3_db_config(sql, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
        sqlite3_busy_timeout(sql, 2000);
        error = scalar(sql, "PRAGMA application_id", &application);
    }
    if (!error)
        error = scalar(sql, "PRAGMA user_version", &version);
    if (error) {
        snprintf(why, why_size, "it cannot be read as an SQLite database (%s)", sqlite3_errmsg(sql));
    } else if (application != APPLICATION_ID) {
        snprintf(why, why_size, "it is an SQLite database, but not a skewscope trace");
        error = -EINVAL;
    } else if (version != SCHEMA_VERSION) {
        snprintf(why, why_size,
                 "it has schema version %" PRId64 " and this skewscope writes version %d", version,
                 SCHEMA_VERSION);
        error = -ENOTSUP;
    } else {
        error = check_tables(sql, why, why_size);
    }
    if (!error) {
        error = scalar(sql, "SELECT count(*) FROM pragma_quick_check(1) WHERE quick_check <> 'ok'", &damage);
        if (error || damage) {
            snprintf(why, why_size, "it is damaged; see `sqlite3 FILE 'PRAGMA integrity_check'`");
            error = -EINVAL;
        }
    }
    sqlite3_close(sql);
    return error;
}

static int create_schema(struct skew_db *db)
{
    static const char *const ops[] = {
#define X(id, name) name,
        SKEW_OP_LIST(X)
#undef X
    };
    char sql[128];
    int64_t version = 0;
    int error = scalar(db->sql, "PRAGMA user_version", &version);
    if (error)
        return skew_db_fail(db, "the database");
    if (version)
        return 0;
    error = skew_db_begin(db);
    if (!error)
        error = skew_db_exec(db, trace_sql);
    for (unsigned i = 0; !error && i < SKEW_OP_COUNT; i++) {
        /* Both directions of an all-to-all-v are one operation to a reader. */
        const char *name = i == SKEW_OP_ALLTOALLV_SEND ? "alltoallv" : i == SKEW_OP_SEND ? "sendrecv" : ops[i];
        snprintf(sql, sizeof sql, "INSERT INTO op_name VALUES(%u, '%s')", i, name);
        error = skew_db_exec(db, sql);
    }
    return error ? error : skew_db_commit(db);
}

/* Fills the memory of stored vectors with the latest ones. */
static int load_vectors(struct skew_db *db)
{
    sqlite3_stmt *stmt;
    struct skew_vector row = {0}, encoded = {0};
    int error = 0, code;
    if (sqlite3_prepare_v2(db->sql,
                           "SELECT vector_id, cells, size_width, size_stride, peer_width, "
                           "peer_stride, sizes, peers FROM vector ORDER BY vector_id DESC LIMIT ?",
                           -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(db, "the stored vectors");
    sqlite3_bind_int64(stmt, 1, VECTORS_REMEMBERED);
    while (!error && (code = sqlite3_step(stmt)) == SQLITE_ROW) {
        row.cells = (uint64_t)sqlite3_column_int64(stmt, 1);
        row.size_width = (uint8_t)sqlite3_column_int(stmt, 2);
        row.size_stride = (uint8_t)sqlite3_column_int(stmt, 3);
        row.peer_width = (uint8_t)sqlite3_column_int(stmt, 4);
        row.peer_stride = (uint8_t)sqlite3_column_int(stmt, 5);
        row.sizes = sqlite3_column_blob(stmt, 6);
        row.sizes_bytes = (size_t)sqlite3_column_bytes(stmt, 6);
        row.peers = sqlite3_column_blob(stmt, 7);
        row.peers_bytes = (size_t)sqlite3_column_bytes(stmt, 7);
        error = skew_vector_encode_row(&encoded, &row);
        if (!error)
            skew_vector_set_find(&db->vectors, &encoded, sqlite3_column_int64(stmt, 0));
    }
    if (!error && code != SQLITE_DONE)
        error = skew_db_fail(db, "the stored vectors");
    sqlite3_finalize(stmt);
    skew_vector_free(&encoded);
    return error;
}

static int load_counters(struct skew_db *db)
{
    int error = scalar(db->sql, "SELECT coalesce(max(exchange_id), 0) + 1 FROM exchange",
                       &db->next_exchange);
    if (!error)
        error = scalar(db->sql, "SELECT coalesce(max(vector_id), 0) + 1 FROM vector", &db->next_vector);
    if (!error)
        error = scalar(db->sql, "SELECT coalesce(max(n), -1) + 1 FROM ordinal", &db->ordinals);
    if (error)
        return skew_db_fail(db, "the database");
    return load_vectors(db);
}

int skew_db_open(struct skew_db **out, const char *path, char *why, size_t why_size)
{
    struct skew_db *db = calloc(1, sizeof *db);
    int error = -ENOMEM;
    *out = NULL;
    if (!db)
        return -ENOMEM;
    snprintf(db->path, sizeof db->path, "%s", path);
    if (skew_vector_set_init(&db->vectors, VECTORS_REMEMBERED))
        goto out;
    if (skew_db_raw_open(&db->sql, path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK) {
        error = skew_db_fail(db, "the database");
        goto out;
    }
    sqlite3_busy_timeout(db->sql, 2000);
    error = skew_db_exec(db, pragmas);
    if (!error)
        error = create_schema(db);
    for (unsigned i = 0; !error && i < SKEW_STMT_COUNT; i++)
        if (sqlite3_prepare_v3(db->sql, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &db->stmt[i],
                               NULL) != SQLITE_OK)
            error = skew_db_fail(db, "the database");
    if (!error)
        error = load_counters(db);
out:
    if (error) {
        snprintf(why, why_size, "%s", db->error[0] ? db->error : strerror(-error));
        skew_db_close(&db);
    }
    *out = db;
    return error;
}

void skew_db_close(struct skew_db **db)
{
    if (!*db)
        return;
    for (unsigned i = 0; i < SKEW_STMT_COUNT; i++)
        sqlite3_finalize((*db)->stmt[i]);
    sqlite3_close((*db)->sql); /* rolls back what was not committed */
    skew_vector_set_free(&(*db)->vectors);
    free(*db);
    *db = NULL;
}
