/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work database and its way to the output directory. A reader of OUT/trace.db sees a whole
 * database at any moment: the new one is written beside it, synced and renamed over it. What is
 * there and not ours (another node's, another program's, damaged, newer) is never touched; the
 * trace gets another name then.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "follow.h"
#include "layout.h"
#include "node.h"

#define NAMES 32u

int skew_trace_name(const struct skew_node *c, unsigned number, char *path, size_t size)
{
    int length;
    if (number == 0)
        length = snprintf(path, size, "%s/" SKEW_TRACE_FILE, c->out);
    else if (number == 1)
        length = snprintf(path, size, "%s/trace-%s.db", c->out, c->host);
    else if (number == 2)
        length = snprintf(path, size, "%s/trace-%s-%.8s.db", c->out, c->host, c->node);
    else
        length =
            snprintf(path, size, "%s/trace-%s-%.8s-%u.db", c->out, c->host, c->node, number - 1);
    return number < NAMES && (size_t)length < size ? 0 : -1;
}

/* ---- copying --------------------------------------------------------------------------------- */

static int copy_database(const struct skew_node *c, sqlite3 *from, sqlite3 *to)
{
    sqlite3_backup *backup = sqlite3_backup_init(to, "main", from, "main");
    if (!backup)
        return sqlite3_errcode(to);
    int code;
    do {
        code = sqlite3_backup_step(backup, 16384);
        skew_node_sign(c);
    } while (code == SQLITE_OK);
    int finish = sqlite3_backup_finish(backup);
    return finish != SQLITE_OK ? finish : code == SQLITE_DONE ? SQLITE_OK : code;
}

/* A new private file; SQLite gives its own files the same mode. */
int skew_file_create(const char *path)
{
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

int skew_path_sync(const char *path, int flags)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0)
        return -errno;
    int error = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
    if (close(fd) < 0 && !error)
        error = -errno;
    return error;
}

/* Writes a copy without locks and journals, which network file systems may not have: nobody else
 * knows the file yet, and it is thrown away when anything fails. */
int skew_copy_write(struct skew_node *c, sqlite3 *from, const char *path, const char *sql)
{
    sqlite3 *to = NULL;
    int error = skew_file_create(path);
    if (error) {
        snprintf(c->db ? c->db->error : (char[512]){0}, 512, "%s: %s", path, strerror(-error));
        return error;
    }
    int code = skew_db_raw_open(&to, path, SQLITE_OPEN_READWRITE, "unix-none");
    if (code == SQLITE_OK)
        code = sqlite3_exec(
            to,
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA mmap_size = 0;"
            "PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;",
            NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = copy_database(c, from, to);
    if (code == SQLITE_OK)
        code = sqlite3_exec(to, sql, NULL, NULL, NULL);
    if (code != SQLITE_OK) {
        error = (code & 0xff) == SQLITE_FULL ? -ENOSPC : -EIO;
        if (c->db)
            snprintf(c->db->error, sizeof c->db->error, "%s: %s", path, sqlite3_errmsg(to));
    }
    if (sqlite3_close(to) != SQLITE_OK && !error)
        error = -EIO;
    if (!error)
        error = skew_path_sync(path, 0);
    if (error)
        unlink(path);
    return error;
}

/* ---- publication ----------------------------------------------------------------------------- */

/*
 * An older trace.db may be in use: a writer (an analysis that labels exchanges) must not be in the
 * middle of a transaction, and a journal that it left behind must be played back into the old file,
 * or SQLite would play it into the new one. Holding the write lock of the old file during the
 * rename does both.
 */
static int hold_old(const char *path, sqlite3 **old)
{
    char side[PATH_MAX + 16];
    int code = skew_db_raw_open(old, path, SQLITE_OPEN_READWRITE, NULL);
    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(*old, 10000);
        code =
            sqlite3_exec(*old, "PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; BEGIN IMMEDIATE",
                         NULL, NULL, NULL);
    }
    if (code == SQLITE_OK)
        return 0;
    snprintf(side, sizeof side, "%s-journal", path);
    if (code == SQLITE_BUSY || access(side, F_OK) == 0)
        return -EBUSY;
    snprintf(side, sizeof side, "%s-wal", path);
    return access(side, F_OK) == 0 ? -EBUSY : 0; /* no locks on this file system, or read-only */
}

/* Gives the copy its name, unless somebody else takes the name first. @return 0, −EEXIST, … */
static int take_name(const char *copy, const char *path, bool replace)
{
    struct stat st;
    if (replace && lstat(path, &st) == 0 && st.st_uid == geteuid())
        chmod(copy, st.st_mode & 0777); /* who shared the trace still shares it */
    if (replace)
        return rename(copy, path) < 0 ? -errno : 0;
    if (link(copy, path) == 0) {
        unlink(copy);
        return 0;
    }
    if (errno == EEXIST)
        return -EEXIST;
    /* No hard links here: the race that is left needs two nodes within microseconds. */
    return access(path, F_OK) == 0 ? -EEXIST : rename(copy, path) < 0 ? -errno : 0;
}

/* The first name that is free or ours. What was in the way is said in the trace that is about to be
 * copied. */
static int choose_name(struct skew_node *c, char *path, size_t size, bool *there)
{
    char why[256];
    struct stat st;
    for (unsigned i = 0; skew_trace_name(c, i, path, size) == 0; i++) {
        *there = lstat(path, &st) == 0;
        if (!*there)
            return 0;
        if (!S_ISREG(st.st_mode))
            snprintf(why, sizeof why, "it is not a regular file");
        else if (skew_trace_is_ours(c, path, why, sizeof why))
            return 0;
        skew_node_say(c, "warning", "output_taken",
                      "%s is left as it is (%s); this trace is published beside it.", path, why);
    }
    return -EEXIST;
}

static int install(struct skew_node *c, const char *copy, const char *path, bool there)
{
    sqlite3 *old = NULL;
    int error = there ? hold_old(path, &old) : 0;
    if (!error)
        error = take_name(copy, path, there);
    sqlite3_close(old);
    if (error == -EBUSY)
        snprintf(c->db->error, sizeof c->db->error, "%.300s is being written by another program",
                 path);
    if (!error)
        snprintf(c->trace, sizeof c->trace, "%s", path);
    return error;
}

int skew_publish(struct skew_node *c)
{
    char copy[PATH_MAX], path[PATH_MAX], sql[400];
    uint64_t start = skew_node_now_ns();
    struct timespec now;
    int error;
    bool there;
    mkdir(c->out, 0777);
    mkdir(c->state, 0700);
    if ((size_t)snprintf(copy, sizeof copy, "%s/publish-%.8s.new", c->state, c->node) >=
        sizeof copy)
        return -ENAMETOOLONG;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(sql, sizeof sql,
             SKEW_TRACE_INDICES "DELETE FROM meta WHERE key = 'collector'; REPLACE INTO meta "
                                "VALUES('published_real_ns', '%" PRId64 "');",
             (int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
    do { /* again when another node took the name in the meantime */
        c->db->error[0] = 0;
        error = choose_name(c, path, sizeof path, &there);
        if (!error)
            error = skew_db_commit(c->db);
        if (!error)
            error = skew_copy_write(c, c->db->sql, copy, sql);
        if (!error)
            error = install(c, copy, path, there);
    } while (error == -EEXIST && !there && skew_trace_name(c, NAMES - 1, path, sizeof path) == 0 &&
             access(path, F_OK) < 0);
    if (!error)
        error = skew_path_sync(c->out, O_DIRECTORY);
    unlink(copy);
    c->published_ns = skew_node_now_ns();
    c->publish_cost_ns = c->published_ns - start;
    if (error)
        skew_node_say(
            c, "error", NULL,
            "The trace could not be published in %s (%s): it stays in %s and the spools are "
            "kept; make room or rights and run `skewscope collect %s`.",
            c->out, c->db->error[0] ? c->db->error : strerror(-error), c->work, c->out);
    else
        c->changed = false;
    return error;
}
