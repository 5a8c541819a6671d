/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work database and its way to the output directory. A reader of OUT/trace.db sees a whole database at any
 * moment: the new one is written beside it, synced and renamed over it. What is there and not ours
 * (another node's, another program's, damaged, newer) is never touched; the trace gets another name then.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "node.h"
#include "layout.h"

#define NAMES 32u

/* Made in the published copy only: they would slow down every insert. */
static const char indices[] =
    "CREATE INDEX IF NOT EXISTS exchange_by_member ON exchange(member_id, seq);"
    "CREATE INDEX IF NOT EXISTS operation_by_member ON operation(member_id, seq);";
static const char drop_indices[] = "DROP INDEX IF EXISTS exchange_by_member;"
                                   "DROP INDEX IF EXISTS operation_by_member;";

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
        length = snprintf(path, size, "%s/trace-%s-%.8s-%u.db", c->out, c->host, c->node, number - 1);
    return number < NAMES && (size_t)length < size ? 0 : -1;
}

/* ---- copying ---------------------------------------------------------------------------------- */

static int copy_database(sqlite3 *from, sqlite3 *to)
{
    sqlite3_backup *backup = sqlite3_backup_init(to, "main", from, "main");
    if (!backup)
        return sqlite3_errcode(to);
    int code;
    do
        code = sqlite3_backup_step(backup, 16384);
    while (code == SQLITE_OK);
    int finish = sqlite3_backup_finish(backup);
    return finish != SQLITE_OK ? finish : code == SQLITE_DONE ? SQLITE_OK : code;
}

/* A new private file; SQLite gives its own files the same mode. */
static int create_private(const char *path)
{
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static int sync_path(const char *path, int flags)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0)
        return -errno;
    int error = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
    if (close(fd) < 0 && !error)
        error = -errno;
    return error;
}

/* Writes a copy without locks and journals, which network file systems may not have: nobody else knows
 * the file yet, and it is thrown away when anything fails. */
static int write_copy(struct skew_node *c, sqlite3 *from, const char *path, const char *sql)
{
    sqlite3 *to = NULL;
    int error = create_private(path);
    if (error) {
        snprintf(c->db ? c->db->error : (char[512]){0}, 512, "%s: %s", path, strerror(-error));
        return error;
    }
    int code = skew_db_raw_open(&to, path, SQLITE_OPEN_READWRITE, "unix-none");
    if (code == SQLITE_OK)
        code = sqlite3_exec(to, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA mmap_size = 0;"
                                "PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;",
                            NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = copy_database(from, to);
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
        error = sync_path(path, 0);
    if (error)
        unlink(path);
    return error;
}

/* ---- the work database ------------------------------------------------------------------------ */

/*
 * A writer that was killed (an analysis that labels exchanges) leaves a journal, without which the database
 * is not whole and cannot be opened for reading only. Played back if the file itself says it is ours.
 */
static void play_back(struct skew_node *c, const char *path)
{
    char side[PATH_MAX + 16], uri[3 * PATH_MAX + 32], node[64] = "";
    struct stat st;
    sqlite3 *sql = NULL;
    size_t at = (size_t)snprintf(uri, sizeof uri, "file:");
    snprintf(side, sizeof side, "%s-journal", path);
    if (lstat(side, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return;
    for (const char *from = path; *from; from++)
        at += (size_t)snprintf(uri + at, sizeof uri - at, strchr("?#%", *from) ? "%%%02x" : "%c", *from);
    snprintf(uri + at, sizeof uri - at, "?immutable=1");
    if (sqlite3_open_v2(uri, &sql, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK)
        skew_db_get_meta(sql, "node", node, sizeof node);
    sqlite3_close(sql);
    if (strcmp(node, c->node) != 0)
        return;
    if (skew_db_raw_open(&sql, path, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) {
        sqlite3_busy_timeout(sql, 10000);
        sqlite3_exec(sql, "PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; BEGIN IMMEDIATE; ROLLBACK", NULL, NULL, NULL);
    }
    sqlite3_close(sql);
}

/* Whether a published database belongs to this node (and to this line of work, when one is open). */
static bool is_ours(struct skew_node *c, const char *path, char *why, size_t why_size)
{
    sqlite3 *sql = NULL;
    char node[64] = "", line[64] = "", own[64] = "";
    play_back(c, path);
    if (skew_db_check(path, why, why_size))
        return false;
    if (skew_db_raw_open(&sql, path, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK) {
        skew_db_get_meta(sql, "node", node, sizeof node);
        skew_db_get_meta(sql, "trace_id", line, sizeof line);
    }
    sqlite3_close(sql);
    if (c->db)
        skew_db_get_meta(c->db->sql, "trace_id", own, sizeof own);
    if (strcmp(node, c->node) != 0) {
        snprintf(why, why_size, "it is the trace of another node, or of an earlier boot of this one");
        return false;
    }
    if (c->db && strcmp(line, own) != 0) {
        snprintf(why, why_size, "it is another trace");
        return false;
    }
    return true;
}

static int find_published(struct skew_node *c, char *path, size_t size)
{
    char why[256];
    struct stat st;
    for (unsigned i = 0; skew_trace_name(c, i, path, size) == 0; i++) {
        if (lstat(path, &st) < 0)
            continue;
        if (S_ISREG(st.st_mode) && is_ours(c, path, why, sizeof why))
            return 0;
    }
    return -ENOENT;
}

static int continue_published(struct skew_node *c)
{
    char path[PATH_MAX], aside[PATH_MAX];
    sqlite3 *from = NULL;
    int error = find_published(c, path, sizeof path);
    if (error)
        return error == -ENOENT ? 0 : error;
    if ((size_t)snprintf(aside, sizeof aside, "%s.new", c->work) >= sizeof aside)
        return -ENAMETOOLONG;
    if (skew_db_raw_open(&from, path, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK)
        error = -EIO;
    sqlite3_busy_timeout(from, 5000);
    if (!error)
        error = write_copy(c, from, aside, drop_indices);
    sqlite3_close(from);
    if (!error && rename(aside, c->work) < 0)
        error = -errno;
    return error;
}

/* Where the work database lies, or is to be made: one that is there was left with something in it. */
static int choose_work(struct skew_node *c)
{
    char beside[PATH_MAX], local[PATH_MAX], name[32];
    snprintf(name, sizeof name, "work-%.8s.db", c->node);
    if ((size_t)snprintf(beside, sizeof beside, "%s/%s", c->state, name) >= sizeof beside)
        return -ENAMETOOLONG;
    bool writable = access(c->state, W_OK | X_OK) == 0;
    bool begun = access(beside, F_OK) == 0;
    /* What was begun goes on where it is: it holds what is in no spool any more. */
    if (begun && !writable)
        return -EACCES;
    if (!begun && skew_find_existing(c, name, local, sizeof local) == 0) {
        snprintf(c->work, sizeof c->work, "%s", local);
        return 0;
    }
    if (writable && (skew_is_local(c->state) || begun)) {
        snprintf(c->work, sizeof c->work, "%s", beside);
        return 0;
    }
    int error = skew_find_local(c, local, sizeof local);
    if (error && writable) {
        snprintf(c->work, sizeof c->work, "%s", beside); /* a network file system is better than nothing */
        return 0;
    }
    if (!error && (size_t)snprintf(c->work, sizeof c->work, "%s/%s", local, name) >= sizeof c->work)
        error = -ENAMETOOLONG;
    return error;
}

static int set_facts(struct skew_node *c)
{
    char value[64], random[17];
    uint64_t number = 0;
    struct timespec now;
    int error = 0;
    if (skew_db_get_meta(c->db->sql, "node", value, sizeof value) == -ENOENT) {
        FILE *f = fopen("/dev/urandom", "re");
        clock_gettime(CLOCK_REALTIME, &now);
        if (!f || fread(&number, sizeof number, 1, f) != 1)
            number = (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 20 ^ (uint64_t)getpid() << 44;
        if (f)
            fclose(f);
        snprintf(random, sizeof random, "%016" PRIx64, number);
        snprintf(value, sizeof value, "%" PRId64, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
        error = skew_db_begin(c->db);
        if (!error)
            error = skew_db_set_meta(c->db, "node", c->node);
        if (!error)
            error = skew_db_set_meta(c->db, "host", c->host);
        if (!error)
            error = skew_db_set_meta(c->db, "trace_id", random);
        if (!error)
            error = skew_db_set_meta(c->db, "created_real_ns", value);
        if (!error)
            error = skew_db_set_meta(c->db, "min_reader_version", "1");
        if (!error)
            error = skew_db_set_meta(c->db, "version", SKEW_VERSION);
    }
    return error ? error : skew_db_commit(c->db);
}

static int open_work(struct skew_node *c, bool existed)
{
    char why[512], pid[32], before[32] = "";
    int error = skew_db_open(&c->db, c->work, why, sizeof why);
    if (error)
        return skew_node_say(c, "error", NULL, "The collector's database %s cannot be opened: %s. The spools are kept.",
                             c->work, why), error;
    error = set_facts(c);
    skew_db_get_meta(c->db->sql, "collector", before, sizeof before);
    if (!error && existed && before[0])
        error = skew_db_diag(c->db, 0, 0, "info", "collector_restart", 0,
                             "A collector ended without finishing its work; another one went on from there.");
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    return error ? error : skew_db_set_meta(c->db, "collector", pid);
}

int skew_work_open(struct skew_node *c)
{
    struct stat st;
    char aside[PATH_MAX + 32];
    int error = choose_work(c);
    if (error) {
        skew_node_say(c, "error", NULL, "No directory for the collector's database could be written: %s. The spools "
                      "are kept.", strerror(-error));
        return error;
    }
    bool exists = lstat(c->work, &st) == 0 && st.st_size > 0;
    if (!exists)
        error = continue_published(c);
    if (!error && lstat(c->work, &st) < 0)
        error = create_private(c->work);
    if (error) {
        skew_node_say(c, "error", NULL, "The collector's database %s cannot be made: %s. The spools are kept.", c->work,
                      strerror(-error));
        return error;
    }
    error = open_work(c, exists);
    if (error != -EINVAL)
        return error;
    /* Damaged: keep it for whoever wants to look, and begin again from what was published. */
    snprintf(aside, sizeof aside, "%s.damaged-%ld", c->work, (long)time(NULL));
    skew_db_close(&c->db);
    if (!exists || rename(c->work, aside) < 0)
        return error;
    skew_node_say(c, "error", NULL, "It was moved to %s and a new one was begun.", aside);
    error = continue_published(c);
    if (!error && lstat(c->work, &st) < 0)
        error = create_private(c->work);
    return error ? error : open_work(c, false);
}

void skew_work_remove(struct skew_node *c)
{
    char journal[PATH_MAX + 16];
    skew_db_close(&c->db);
    snprintf(journal, sizeof journal, "%s-journal", c->work);
    unlink(c->work);
    unlink(journal); /* empty: truncated at every commit */
}

/* ---- publication ------------------------------------------------------------------------------ */

/*
 * An older trace.db may be in use: a writer (an analysis that labels exchanges) must not be in the middle of a
 * transaction, and a journal that it left behind must be played back into the old file, or SQLite would
 * play it into the new one. Holding the write lock of the old file during the rename does both.
 */
static int hold_old(const char *path, sqlite3 **old)
{
    char side[PATH_MAX + 16];
    int code = skew_db_raw_open(old, path, SQLITE_OPEN_READWRITE, NULL);
    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(*old, 10000);
        code = sqlite3_exec(*old, "PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; BEGIN IMMEDIATE", NULL, NULL, NULL);
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

/* The first name that is free or ours. What was in the way is said in the trace that is about to be copied. */
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
        else if (is_ours(c, path, why, sizeof why))
            return 0;
        skew_node_say(c, "warning", "output_taken", "%s is left as it is (%s); this trace is published beside it.",
                      path, why);
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
        snprintf(c->db->error, sizeof c->db->error, "%.300s is being written by another program", path);
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
    if ((size_t)snprintf(copy, sizeof copy, "%s/publish-%.8s.new", c->state, c->node) >= sizeof copy)
        return -ENAMETOOLONG;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(sql, sizeof sql,
             "%sDELETE FROM meta WHERE key = 'collector'; REPLACE INTO meta VALUES('published_real_ns', '%" PRId64 "');",
             indices, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
    do { /* again when another node took the name in the meantime */
        c->db->error[0] = 0;
        error = choose_name(c, path, sizeof path, &there);
        if (!error)
            error = skew_db_commit(c->db);
        if (!error)
            error = write_copy(c, c->db->sql, copy, sql);
        if (!error)
            error = install(c, copy, path, there);
    } while (error == -EEXIST && !there && skew_trace_name(c, NAMES - 1, path, sizeof path) == 0 && access(path, F_OK) < 0);
    if (!error)
        error = sync_path(c->out, O_DIRECTORY);
    unlink(copy);
    c->published_ns = skew_node_now_ns();
    c->publish_cost_ns = c->published_ns - start;
    if (error)
        skew_node_say(c, "error", NULL, "The trace could not be published in %s (%s): it stays in %s and the spools are "
                      "kept; make room or rights and run `skewscope collect %s`.",
                      c->out, c->db->error[0] ? c->db->error : strerror(-error), c->work, c->out);
    else
        c->changed = false;
    return error;
}
