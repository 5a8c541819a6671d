/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See trace_make.h. The collector's database code with durability switched off: the file is thrown
 * away when anything fails, so that neither a journal nor a sync before the end serves anybody.
 */
#include "trace_make.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "collect/db.h"

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

static const char *const make_sql[MAKE_STMT_COUNT] = {
#define X(id, sql) sql,
    MAKE_STMT_LIST(X)
#undef X
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

__attribute__((format(printf, 2, 3))) static void say(struct skew_make *m, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(m->why, sizeof m->why, format, arguments);
    va_end(arguments);
}

const char *skew_make_why(const struct skew_make *m)
{
    return m->why;
}

/* Passes an error on, with the sentence that the database left. */
static int done(struct skew_make *m, int error)
{
    if (error && !m->why[0])
        say(m, "%.400s: %s", m->path, m->db && m->db->error[0] ? m->db->error : strerror(-error));
    return error;
}

static void bind_text(sqlite3_stmt *stmt, int column, const char *text)
{
    if (text)
        skew_db_bind_text(stmt, column, text, strlen(text));
    else
        sqlite3_bind_null(stmt, column);
}

static void bind_optional(sqlite3_stmt *stmt, int column, int64_t value)
{
    if (value == SKEW_MAKE_NONE)
        sqlite3_bind_null(stmt, column);
    else
        sqlite3_bind_int64(stmt, column, value);
}

static int64_t id_or_none(int64_t id)
{
    return id ? id : SKEW_MAKE_NONE;
}

static int insert(struct skew_make *m, sqlite3_stmt *stmt, int64_t *id)
{
    int error = skew_db_run(m->db, stmt);
    if (!error && id)
        *id = sqlite3_last_insert_rowid(m->db->sql);
    return done(m, error);
}

/* ---- opening --------------------------------------------------------------------------------- */

static int random_hex(char *out, size_t bytes)
{
    uint8_t raw[32];
    FILE *f = fopen("/dev/urandom", "re");
    bool read = f && bytes <= sizeof raw && fread(raw, bytes, 1, f) == 1;
    if (f)
        fclose(f);
    for (size_t i = 0; read && i < bytes; i++)
        snprintf(out + 2 * i, 3, "%02x", raw[i]);
    return read ? 0 : -EIO;
}

static int set_facts(struct skew_make *m, const struct skew_make_about *about)
{
    char node[33], key[17], created[32];
    int error = 0;

    snprintf(m->host, sizeof m->host, "%.*s", (int)strcspn(about->origin, " "), about->origin);
    if (about->host)
        snprintf(m->host, sizeof m->host, "%s", about->host);
    if (!about->node)
        error = random_hex(node, 16);
    if (!error && !about->key)
        error = random_hex(key, 8);
    snprintf(created, sizeof created, "%" PRId64, m->created_ns);
    const struct {
        const char *key, *value;
    } facts[] = {
        {"node", about->node ? about->node : node},
        {"host", m->host},
        {"trace_id", about->key ? about->key : key},
        {"created_real_ns", created},
        {"published_real_ns", created},
        {"min_reader_version", "1"},
        {"version", SKEW_VERSION},
        {"origin", about->origin},
    };
    for (size_t i = 0; !error && i < sizeof facts / sizeof *facts; i++)
        error = skew_db_set_meta(m->db, facts[i].key, facts[i].value);
    return error;
}

static int prepare(struct skew_make *m)
{
    for (unsigned i = 0; i < MAKE_STMT_COUNT; i++)
        if (sqlite3_prepare_v3(m->db->sql, make_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &m->stmt[i],
                               NULL) != SQLITE_OK)
            return skew_db_fail(m->db, "the database");
    return 0;
}

static int64_t real_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int name_temporary(struct skew_make *m, const char *path)
{
    char random[17];
    if (strlen(path) >= sizeof m->path)
        return -ENAMETOOLONG;
    strcpy(m->path, path);
    int error = random_hex(random, 8);
    if (error)
        return error;
    snprintf(m->temporary, sizeof m->temporary, "%s.%s.new", path, random);
    if (access(path, F_OK) == 0) {
        say(m, "%.600s: is there already; choose another name or remove it", path);
        return -EEXIST;
    }
    int fd = open(m->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

int skew_make_open(struct skew_make **out, const char *path, const struct skew_make_about *about,
                   char *why, size_t why_size)
{
    struct skew_make *m = calloc(1, sizeof *m);
    int error;

    *out = NULL;
    if (!m) {
        snprintf(why, why_size, "out of memory");
        return -ENOMEM;
    }
    m->created_ns = about->created_real_ns ? about->created_real_ns : real_now_ns();
    error = name_temporary(m, path);
    if (!error)
        error = skew_db_open(&m->db, m->temporary, why, why_size);
    if (!error)
        error = skew_db_exec(m->db, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
                                    "PRAGMA cache_size = -262144;");
    if (!error) {
        char journal[sizeof m->temporary + 16];
        snprintf(journal, sizeof journal, "%s-journal", m->temporary);
        unlink(journal); /* empty: what opening needed */
        error = prepare(m);
    }
    if (!error)
        error = skew_db_begin(m->db);
    if (!error)
        error = set_facts(m, about);
    if (error) {
        done(m, error);
        snprintf(why, why_size, "%s", m->why);
        skew_make_abandon(&m);
    }
    *out = m;
    return error;
}

/* ---- the end --------------------------------------------------------------------------------- */

static void finalize(struct skew_make *m)
{
    for (unsigned i = 0; i < MAKE_STMT_COUNT; i++) {
        sqlite3_finalize(m->stmt[i]);
        m->stmt[i] = NULL;
    }
}

static int sync_file(const char *path, int flags)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0)
        return -errno;
    int error = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
    close(fd);
    return error;
}

/* link() never replaces; where there are no hard links the race that is left is between two people
 * who want the same name at once. */
static int take_name(const struct skew_make *m)
{
    if (link(m->temporary, m->path) == 0)
        return unlink(m->temporary) < 0 ? -errno : 0;
    if (errno == EEXIST || access(m->path, F_OK) == 0)
        return -EEXIST;
    return rename(m->temporary, m->path) < 0 ? -errno : 0;
}

int skew_make_finish(struct skew_make *m)
{
    char directory[PATH_MAX];
    int error = skew_db_exec(m->db, SKEW_TRACE_INDICES);

    if (!error)
        error = skew_db_commit(m->db);
    finalize(m);
    if (error)
        return done(m, error);
    skew_db_close(&m->db);
    error = sync_file(m->temporary, 0);
    if (!error)
        error = take_name(m);
    if (error == -EEXIST)
        say(m, "%.600s: somebody else made it in the meantime; choose another name", m->path);
    if (error)
        return done(m, error);
    m->finished = true;
    snprintf(directory, sizeof directory, "%s", m->path);
    char *slash = strrchr(directory, '/');
    if (slash)
        slash[slash == directory] = 0;
    return done(m, sync_file(slash ? directory : ".", O_DIRECTORY));
}

void skew_make_abandon(struct skew_make **make)
{
    struct skew_make *m = *make;

    *make = NULL;
    if (!m)
        return;
    finalize(m);
    skew_db_close(&m->db);
    if (!m->finished && m->temporary[0])
        unlink(m->temporary);
    skew_cells_free(&m->cells);
    skew_vector_free(&m->vector);
    free(m);
}

/* ---- where it comes from --------------------------------------------------------------------- */

int skew_make_meta(struct skew_make *m, const char *key, const char *value)
{
    return done(m, skew_db_set_meta(m->db, key, value));
}

int skew_make_run(struct skew_make *m, const struct skew_make_run *run, int64_t *run_id)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_RUN_COMMAND];
    json_t *list = json_array();
    int error = skew_db_run_id(m->db, run->key ? run->key : "", run_id);

    for (int i = 0; i < run->argc; i++)
        json_array_append_new(list, json_stringn_nocheck(run->argv[i], strlen(run->argv[i])));
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    if (!error && !text)
        error = -ENOMEM;
    if (!error) {
        sqlite3_bind_int64(stmt, 1, *run_id);
        bind_text(stmt, 2, text);
        bind_text(stmt, 3, SKEW_VERSION);
        sqlite3_bind_int64(stmt, 4, run->started_real_ns ? run->started_real_ns : m->created_ns);
        sqlite3_bind_int64(stmt, 5, run->ended_real_ns ? run->ended_real_ns : m->created_ns);
        error = skew_db_run(m->db, stmt);
    }
    free(text);
    return done(m, error);
}

int skew_make_run_label(struct skew_make *m, int64_t run_id, const char *key, const char *value)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_RUN_LABEL];
    sqlite3_bind_int64(stmt, 1, run_id);
    bind_text(stmt, 2, key);
    bind_text(stmt, 3, value);
    return insert(m, stmt, NULL);
}

static void bind_rank(sqlite3_stmt *stmt, int column, int32_t rank)
{
    bind_optional(stmt, column, rank < 0 ? SKEW_MAKE_NONE : rank);
}

int skew_make_process(struct skew_make *m, const struct skew_make_process *p, int64_t *process_id)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_PROCESS];
    bind_optional(stmt, 1, id_or_none(p->run_id));
    bind_text(stmt, 2, p->key);
    sqlite3_bind_int64(stmt, 3, p->pid);
    bind_text(stmt, 4, p->host ? p->host : m->host);
    bind_rank(stmt, 5, p->world_rank);
    bind_rank(stmt, 6, p->local_rank);
    bind_rank(stmt, 7, p->world_size);
    bind_text(stmt, 8, SKEW_VERSION);
    sqlite3_bind_int64(stmt, 9, p->started_ns);
    sqlite3_bind_int64(stmt, 10, p->started_real_ns ? p->started_real_ns : m->created_ns);
    return insert(m, stmt, process_id);
}

int skew_make_process_groups(struct skew_make *m, int64_t process_id, int64_t returned,
                             int64_t stored, int64_t ended_ns)
{
    sqlite3_stmt *stmt = m->stmt[MAKE_GROUPS];
    sqlite3_bind_int64(stmt, 1, process_id);
    sqlite3_bind_int64(stmt, 2, returned);
    sqlite3_bind_int64(stmt, 3, stored);
    sqlite3_bind_int64(stmt, 4, ended_ns);
    return insert(m, stmt, NULL);
}

int skew_make_clock_anchor(struct skew_make *m, int64_t process_id, int64_t monotonic_ns,
                           int64_t real_ns)
{
    sqlite3_stmt *stmt = m->db->stmt[SKEW_STMT_ANCHOR];
    sqlite3_bind_int64(stmt, 1, process_id);
    sqlite3_bind_int64(stmt, 2, monotonic_ns);
    sqlite3_bind_int64(stmt, 3, real_ns);
    return insert(m, stmt, NULL);
}

int skew_make_comm(struct skew_make *m, const char *key, const char *kind, uint32_t ranks,
                   int64_t *comm_id)
{
    sqlite3_stmt *add = m->db->stmt[SKEW_STMT_COMM_ADD], *know = m->db->stmt[SKEW_STMT_COMM_KNOW];
    bind_text(add, 1, key);
    bind_text(add, 2, kind);
    int error = insert(m, add, comm_id);
    if (error)
        return error;
    sqlite3_bind_int64(know, 1, *comm_id);
    bind_text(know, 2, kind);
    bind_optional(know, 3, ranks ? ranks : SKEW_MAKE_NONE);
    sqlite3_bind_null(know, 4);
    sqlite3_bind_null(know, 5);
    return insert(m, know, NULL);
}

int skew_make_member(struct skew_make *m, int64_t comm_id, int32_t rank, int64_t process_id,
                     int32_t device, int64_t created_ns, int64_t *member_id)
{
    sqlite3_stmt *stmt = m->db->stmt[SKEW_STMT_MEMBER_ADD];
    sqlite3_bind_int64(stmt, 1, comm_id);
    bind_rank(stmt, 2, rank);
    sqlite3_bind_int64(stmt, 3, process_id);
    sqlite3_bind_int64(stmt, 4, comm_id); /* local_comm: unique within the process */
    bind_rank(stmt, 5, device);
    sqlite3_bind_int64(stmt, 6, 0);
    sqlite3_bind_int64(stmt, 7, 0);
    sqlite3_bind_int64(stmt, 8, created_ns);
    return insert(m, stmt, member_id);
}

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
    return done(m, error);
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
    return done(m, skew_db_insert(m->db, stmt, id));
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
        return done(m, -ENOMEM);
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
    return done(m, skew_db_diag(m->db, run_id, process_id, severity, code, 0, text));
}
