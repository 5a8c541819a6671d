/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See trace_make.h. The collector's database code with durability switched off: the file is thrown
 * away when anything fails, so that neither a journal nor a sync before the end serves anybody.
 */
#include "trace_make_private.h"

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

static const char *const make_sql[MAKE_STMT_COUNT] = {
#define X(id, sql) sql,
    MAKE_STMT_LIST(X)
#undef X
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

int skew_make_done(struct skew_make *m, int error)
{
    if (error && !m->why[0])
        say(m, "%.400s: %s", m->path, m->db && m->db->error[0] ? m->db->error : strerror(-error));
    return error;
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
        skew_make_done(m, error);
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
        return skew_make_done(m, error);
    skew_db_close(&m->db);
    error = sync_file(m->temporary, 0);
    if (!error)
        error = take_name(m);
    if (error == -EEXIST)
        say(m, "%.600s: somebody else made it in the meantime; choose another name", m->path);
    if (error)
        return skew_make_done(m, error);
    m->finished = true;
    snprintf(directory, sizeof directory, "%s", m->path);
    char *slash = strrchr(directory, '/');
    if (slash)
        slash[slash == directory] = 0;
    return skew_make_done(m, sync_file(slash ? directory : ".", O_DIRECTORY));
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
    return skew_make_done(m, skew_db_set_meta(m->db, key, value));
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
    return skew_make_done(m, error);
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
