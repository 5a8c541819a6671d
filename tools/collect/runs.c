/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope run` knows of a run lies in OUT/.skewscope/run-ID.json (keys: schema/layout.h)
 * and goes to the run tables. It is read as untrusted input: what has the wrong type is left out.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "alive.h"
#include "layout.h"
#include "node.h"

#define FILE_MAX (16 << 20)

static bool is_run_file(const char *name)
{
    const char *dot = strrchr(name, '.');
    return strncmp(name, "run-", 4) == 0 && dot && strcmp(dot, ".json") == 0;
}

static json_t *read_run(struct skew_node *c, int dir, const char *name)
{
    struct stat st;
    json_error_t why;
    json_t *json = NULL;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
        st.st_size > FILE_MAX) {
        skew_node_say(c, "warning", NULL, "Run file %s/%s is not ours to read and is left out.",
                      c->state, name);
    } else {
        json = json_loadfd(fd, JSON_REJECT_DUPLICATES, &why);
        if (!json_is_object(json) || !json_is_string(json_object_get(json, "id"))) {
            skew_node_say(
                c, "warning", NULL,
                "Run file %s/%s is not a run's description (line %d: %s) and is left out.",
                c->state, name, json ? 0 : why.line, json ? "no \"id\"" : why.text);
            json_decref(json);
            json = NULL;
        }
    }
    if (fd >= 0)
        close(fd);
    return json;
}

static bool same_node(const struct skew_node *c, const json_t *json)
{
    const char *boot = json_string_value(json_object_get(json, "boot_id"));
    size_t at = 0;
    if (!boot)
        return true;
    for (; *boot; boot++)
        if (*boot != '-' && (at >= sizeof c->node - 1 || c->node[at++] != *boot))
            return false;
    return at == sizeof c->node - 1;
}

/* Over: it says so, or `run` was killed before it could. */
static bool is_over(const json_t *json)
{
    if (json_is_integer(json_object_get(json, "ended_real_ns")))
        return true;
    json_t *pid = json_object_get(json, "pid"), *ns = json_object_get(json, "pid_ns"),
           *start = json_object_get(json, "start_ticks");
    if (!json_is_integer(pid) || !json_is_integer(ns) || !json_is_integer(start))
        return false;
    return skew_pid_alive((uint64_t)json_integer_value(ns), (uint32_t)json_integer_value(pid),
                          (uint64_t)json_integer_value(start)) == SKEW_GONE;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void bind_json(sqlite3_stmt *stmt, int column, const json_t *value)
{
    if (json_is_integer(value))
        sqlite3_bind_int64(stmt, column, json_integer_value(value));
    else if (json_is_string(value))
        skew_db_bind_text(stmt, column, json_string_value(value), json_string_length(value));
    else
        sqlite3_bind_null(stmt, column);
}

static int run_row(struct skew_db *db, int64_t run, const json_t *json)
{
    static const char *const keys[] = {
        "cwd",           "version",     "incarnation", "started_real_ns",
        "ended_real_ns", "exit_status", "exit_signal"};
    sqlite3_stmt *stmt;
    json_t *command = json_object_get(json, "command");
    if (sqlite3_prepare_v2(db->sql,
                           "UPDATE run SET command = ?2, cwd = ?3, version = ?4, incarnation = ?5, "
                           "started_real_ns = ?6, ended_real_ns = ?7, exit_status = ?8, "
                           "exit_signal = ?9 WHERE run_id = ?1",
                           -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(db, "the database");
    sqlite3_bind_int64(stmt, 1, run);
    if (json_is_array(command))
        sqlite3_bind_text(stmt, 2, json_dumps(command, JSON_COMPACT), -1, free);
    else
        sqlite3_bind_null(stmt, 2);
    for (int i = 0; i < (int)(sizeof keys / sizeof *keys); i++)
        bind_json(stmt, i + 3, json_object_get(json, keys[i]));
    int error = skew_db_run(db, stmt);
    sqlite3_finalize(stmt);
    return error;
}

/* {"key": "value", …} → rows of (run_id, key, value). */
static int pair_rows(struct skew_db *db, int64_t run, const char *sql, json_t *pairs)
{
    sqlite3_stmt *stmt;
    const char *key;
    json_t *value;
    int error = 0;
    if (!json_is_object(pairs))
        return 0;
    if (sqlite3_prepare_v2(db->sql, sql, -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(db, "the database");
    json_object_foreach(pairs, key, value)
    {
        if (error || !json_is_string(value))
            continue;
        sqlite3_bind_int64(stmt, 1, run);
        skew_db_bind_text(stmt, 2, key, strlen(key));
        bind_json(stmt, 3, value);
        error = skew_db_run(db, stmt);
    }
    sqlite3_finalize(stmt);
    return error;
}

/* Objects of an array, with members of these names; the first and the `needed`-th have to be texts.
 */
static int object_rows(struct skew_db *db, int64_t run, json_t *objects, const char *sql,
                       const char *const names[3], size_t needed)
{
    sqlite3_stmt *stmt;
    size_t i;
    json_t *one;
    int error = 0;
    if (sqlite3_prepare_v2(db->sql, sql, -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(db, "the database");
    json_array_foreach(objects, i, one)
    {
        if (error || !json_is_string(json_object_get(one, names[0])) ||
            !json_is_string(json_object_get(one, names[needed])))
            continue;
        sqlite3_bind_int64(stmt, 1, run);
        for (int k = 0; k < 3; k++)
            bind_json(stmt, 2 + k, json_object_get(one, names[k]));
        error = skew_db_run(db, stmt);
    }
    sqlite3_finalize(stmt);
    return error;
}

static int note_rows(struct skew_db *db, int64_t run, json_t *notes)
{
    size_t i;
    json_t *note;
    int error = 0;
    json_array_foreach(notes, i, note)
    {
        const char *code = json_string_value(json_object_get(note, "code"));
        const char *severity = json_string_value(json_object_get(note, "severity"));
        const char *text = json_string_value(json_object_get(note, "text"));
        if (!error && code && text)
            error = skew_db_diag(db, run, 0, severity ? severity : "info", code, 0, text);
    }
    return error;
}

static int store_run(struct skew_node *c, const json_t *json)
{
    int64_t run;
    int error = skew_db_begin(c->db);
    if (!error)
        error = skew_db_run_id(c->db, json_string_value(json_object_get(json, "id")), &run);
    if (!error)
        error = run_row(c->db, run, json);
    if (!error)
        error = pair_rows(c->db, run, "REPLACE INTO run_label(run_id, key, value) VALUES(?,?,?)",
                          json_object_get(json, "labels"));
    if (!error)
        error = pair_rows(c->db, run, "REPLACE INTO run_env(run_id, name, value) VALUES(?,?,?)",
                          json_object_get(json, "env"));
    if (!error)
        error = object_rows(c->db, run, json_object_get(json, "packages"),
                            "REPLACE INTO run_package(run_id, name, version, path) VALUES(?,?,?,?)",
                            (const char *const[]){"name", "version", "path"}, 2);
    if (!error)
        error = object_rows(c->db, run, json_object_get(json, "gpus"),
                            "REPLACE INTO run_gpu(run_id, bus, model, driver) VALUES(?,?,?,?)",
                            (const char *const[]){"bus", "model", "driver"}, 1);
    if (!error)
        error = note_rows(c->db, run, json_object_get(json, "notes"));
    return error;
}

/* ---- files ----------------------------------------------------------------------------------- */

/* What a file's current version looks like; 0: it is gone. */
static uint64_t mark_of(int dir, const char *name, uint64_t *inode)
{
    struct stat st;
    uint64_t mark = 1469598103934665603u;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    /* The name too: a file that was replaced leaves its inode to the next one. */
    uint64_t parts[] = {(uint64_t)st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
                        (uint64_t)st.st_mtim.tv_nsec, skew_hash_string(name)};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        mark = (mark ^ parts[i]) * 1099511628211u;
    *inode = parts[0];
    return mark;
}

/* Whether this very version was read before. */
static bool was_read(const struct skew_node *c, uint64_t inode, uint64_t mark)
{
    uint64_t before;
    return skew_map_get(&c->run_files, inode, &before) && before == mark;
}

/* Calls `visit` for each run file, with what it looked like before it was read. */
static int each_file(struct skew_node *c,
                     int (*visit)(struct skew_node *, int, const char *, uint64_t, uint64_t))
{
    struct dirent *entry;
    int error = 0, dir = open(c->state, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *list = dir < 0 ? NULL : fdopendir(dir);
    while (list && !error && (entry = readdir(list))) {
        uint64_t inode, mark = is_run_file(entry->d_name) ? mark_of(dir, entry->d_name, &inode) : 0;
        if (mark)
            error = visit(c, dir, entry->d_name, inode, mark);
    }
    if (list)
        closedir(list);
    return error;
}

static int visit_store(struct skew_node *c, int dir, const char *name, uint64_t inode,
                       uint64_t mark)
{
    if (was_read(c, inode, mark))
        return 0;
    int error = skew_map_put(&c->run_files, inode, mark);
    json_t *json = error ? NULL : read_run(c, dir, name);
    if (json && same_node(c, json)) {
        c->changed = true;
        error = store_run(c, json);
    }
    json_decref(json);
    return error;
}

int skew_runs_store(struct skew_node *c)
{
    return each_file(c, visit_store);
}

static int visit_tidy(struct skew_node *c, int dir, const char *name, uint64_t inode, uint64_t mark)
{
    if (!was_read(c, inode, mark))
        return 0; /* written again after it was stored: not now */
    json_t *json = read_run(c, dir, name);
    if (json && same_node(c, json) && is_over(json) && mark_of(dir, name, &inode) == mark)
        unlinkat(dir, name, 0);
    json_decref(json);
    return 0;
}

void skew_runs_tidy(struct skew_node *c)
{
    each_file(c, visit_tidy);
}
