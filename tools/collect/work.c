/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database while it grows: where it lies, and what it begins with. One that an earlier
 * collector left goes on; else a copy of what this node published here earlier; else a new one.
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

/* The published copy's own (publish.c): in the way of inserts. */
static const char drop_indices[] = "DROP INDEX IF EXISTS exchange_by_member;"
                                   "DROP INDEX IF EXISTS operation_by_member;";

/*
 * A writer that was killed (an analysis that labels exchanges) leaves a journal, without which the
 * database is not whole and cannot be opened for reading only. Played back if the file itself says
 * it is ours.
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
        at += (size_t)snprintf(uri + at, sizeof uri - at, strchr("?#%", *from) ? "%%%02x" : "%c",
                               *from);
    snprintf(uri + at, sizeof uri - at, "?immutable=1");
    if (sqlite3_open_v2(uri, &sql, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX,
                        NULL) == SQLITE_OK)
        skew_db_get_meta(sql, "node", node, sizeof node);
    sqlite3_close(sql);
    if (strcmp(node, c->node) != 0)
        return;
    if (skew_db_raw_open(&sql, path, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) {
        sqlite3_busy_timeout(sql, 10000);
        sqlite3_exec(sql,
                     "PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; BEGIN IMMEDIATE; ROLLBACK",
                     NULL, NULL, NULL);
    }
    sqlite3_close(sql);
}

/* Whether a published database belongs to this node (and to this line of work, when one is open).
 */
bool skew_trace_is_ours(struct skew_node *c, const char *path, char *why, size_t why_size)
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
        snprintf(why, why_size,
                 "it is the trace of another node, or of an earlier boot of this one");
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
        if (S_ISREG(st.st_mode) && skew_trace_is_ours(c, path, why, sizeof why))
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
        error = skew_copy_write(c, from, aside, drop_indices);
    sqlite3_close(from);
    if (!error && rename(aside, c->work) < 0)
        error = -errno;
    return error;
}

/* Where the work database lies, or is to be made: one that is there was left with something in it.
 */
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
        snprintf(c->work, sizeof c->work, "%s",
                 beside); /* a network file system is better than nothing */
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
        return skew_node_say(
                   c, "error", NULL,
                   "The collector's database %s cannot be opened: %s. The spools are kept.",
                   c->work, why),
               error;
    error = set_facts(c);
    skew_db_get_meta(c->db->sql, "collector", before, sizeof before);
    if (!error && existed && before[0])
        error = skew_db_diag(
            c->db, 0, 0, "info", "collector_restart", 0,
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
        skew_node_say(c, "error", NULL,
                      "No directory for the collector's database could be written: %s. The spools "
                      "are kept.",
                      strerror(-error));
        return error;
    }
    bool exists = lstat(c->work, &st) == 0 && st.st_size > 0;
    if (!exists)
        error = continue_published(c);
    if (!error && lstat(c->work, &st) < 0)
        error = skew_file_create(c->work);
    if (error) {
        skew_node_say(c, "error", NULL,
                      "The collector's database %s cannot be made: %s. The spools are kept.",
                      c->work, strerror(-error));
        return error;
    }
    error = open_work(c, exists);
    if (!error) {
        snprintf(aside, sizeof aside, "%s", c->work);
        *strrchr(aside, '/') = 0;
        skew_path_sync(aside, O_DIRECTORY); /* its name is as durable as its rows */
    }
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
        error = skew_file_create(c->work);
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
