/* SPDX-License-Identifier: Apache-2.0 */
/* See node.h: set-up, the lock that elects one collector a node, the round of work, the end. */
#include "node.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "alive.h"
#include "follow.h"
#include "layout.h"

#define SECOND 1000000000ull

uint64_t skew_node_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* Whether a collector before us has told the trace the same. */
static bool is_told(struct skew_node *c, const char *code, const char *text)
{
    sqlite3_stmt *stmt;
    bool told = false;
    if (sqlite3_prepare_v2(
            c->db->sql,
            "SELECT 1 FROM diagnostic WHERE process_id IS NULL AND code = ? AND text = ?", -1,
            &stmt, NULL) != SQLITE_OK)
        return false;
    sqlite3_bind_text(stmt, 1, code, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, text, -1, SQLITE_STATIC);
    told = sqlite3_step(stmt) == SQLITE_ROW;
    sqlite3_finalize(stmt);
    return told;
}

void skew_node_say(struct skew_node *c, const char *severity, const char *code, const char *format,
                   ...)
{
    char text[PATH_MAX * 2] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (size_t i = 0; i < c->said_count; i++)
        if (strncmp(c->said[i], text, sizeof *c->said - 1) == 0)
            return;
    void *more = realloc(c->said, (c->said_count + 1) * sizeof *c->said);
    if (more) {
        c->said = more;
        memcpy(c->said[c->said_count], text, sizeof *c->said - 1);
        c->said[c->said_count++][sizeof *c->said - 1] = 0;
    }
    if (c->messages && (!c->follow || strcmp(severity, "error") == 0))
        fprintf(c->messages, "skewscope: %s\n", text);
    if (code && c->db && !is_told(c, code, text) &&
        skew_db_diag(c->db, 0, 0, severity, code, (int64_t)skew_node_now_ns(), text) == 0)
        c->changed = true;
}

/* ---- set-up ---------------------------------------------------------------------------------- */

static void read_boot_id(struct skew_node *c)
{
    char text[64] = "";
    size_t digits = 0;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f) {
        if (!fgets(text, sizeof text, f))
            text[0] = 0;
        fclose(f);
    }
    memset(c->node, '0', sizeof c->node - 1);
    for (char *at = text; *at && digits < sizeof c->node - 1; at++)
        if (isxdigit((unsigned char)*at))
            c->node[digits++] = (char)tolower((unsigned char)*at);
    for (size_t i = 0; i < sizeof c->boot_id; i++) {
        char pair[3] = {c->node[2 * i], c->node[2 * i + 1], 0};
        c->boot_id[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
}

/* Removes "//", "/./" and a trailing "/"; ".." is left to the file system. */
static void clean_path(char *path)
{
    char *to = path;
    for (const char *at = path; *at;) {
        if (at[0] == '/' && (at[1] == '/' || at[1] == 0))
            at++;
        else if (at[0] == '/' && at[1] == '.' && (at[2] == '/' || at[2] == 0))
            at += 2;
        else
            *to++ = *at++;
    }
    if (to == path)
        *to++ = '/';
    *to = 0;
}

int skew_node_init(struct skew_node *c, const char *out)
{
    char cwd[PATH_MAX];
    *c = (struct skew_node){.lock = -1};
    int length = out[0] == '/'             ? snprintf(c->out, sizeof c->out, "%s", out)
                 : getcwd(cwd, sizeof cwd) ? snprintf(c->out, sizeof c->out, "%s/%s", cwd, out)
                                           : -1;
    if (length < 0)
        return -errno;
    if ((size_t)length >= sizeof c->out)
        return -ENAMETOOLONG;
    clean_path(c->out);
    if ((size_t)snprintf(c->state, sizeof c->state, "%s/" SKEW_STATE_DIR, c->out) >=
        sizeof c->state)
        return -ENAMETOOLONG;
    read_boot_id(c);
    c->mnt_ns = skew_namespace_of(0, "mnt");
    if (gethostname(c->host, sizeof c->host - 1) < 0 || !c->host[0])
        snprintf(c->host, sizeof c->host, "unknown");
    for (char *at = c->host; *at; at++)
        if (!isalnum((unsigned char)*at) && *at != '-' && *at != '.' && *at != '_')
            *at = '_';
    return 0;
}

static void forget(struct skew_node *c)
{
    for (size_t i = 0; i < c->proc_count; i++)
        skew_proc_close(&c->procs[i]);
    c->proc_count = 0;
    skew_map_free(&c->run_files);
    c->symbolised = 0;
    c->run_stored = false;
    skew_db_close(&c->db);
}

void skew_node_free(struct skew_node *c)
{
    forget(c);
    for (size_t i = 0; i < c->dir_count; i++)
        close(c->dirs[i].fd);
    if (c->lock >= 0)
        close(c->lock);
    free(c->dirs);
    free(c->procs);
    free(c->refused);
    free(c->said);
    *c = (struct skew_node){.lock = -1};
}

/* ---- the lock -------------------------------------------------------------------------------- */

static int try_lock(struct skew_node *c)
{
    struct stat held, named;
    for (;;) {
        int fd = open(c->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0 && errno == ENOENT && (mkdir(c->out, 0777) == 0 || mkdir(c->state, 0700) == 0))
            continue; /* the one before us has just removed the directory too */
        if (fd < 0)
            return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            int error = -errno;
            close(fd);
            return error;
        }
        /* The one before us removes the file when it ends: what we locked may have no name any
         * more. */
        if (fstat(fd, &held) == 0 && stat(c->lock_path, &named) == 0 &&
            held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
            c->lock = fd;
            return 0;
        }
        close(fd);
    }
}

static int try_lock_at(struct skew_node *c, const char *directory)
{
    if ((size_t)snprintf(c->lock_path, sizeof c->lock_path, "%s/collector-%.8s.lock", directory,
                         c->node) >= sizeof c->lock_path)
        return -ENAMETOOLONG;
    return try_lock(c);
}

int skew_node_lock(struct skew_node *c)
{
    char local[PATH_MAX], name[32];
    mkdir(c->out, 0777);
    mkdir(c->state, 0700);
    /* One that began when the output directory could not be written has its lock elsewhere. */
    snprintf(name, sizeof name, "collector-%.8s.lock", c->node);
    if (skew_find_existing(c, name, c->lock_path, sizeof c->lock_path) == 0)
        return try_lock(c);
    int error = try_lock_at(c, c->state);
    if (!error || error == -EWOULDBLOCK)
        return error;
    /* Not writable, or a file system without locks. */
    return skew_find_local(c, local, sizeof local) ? error : try_lock_at(c, local);
}

/* ---- the round ------------------------------------------------------------------------------- */

/* Called after every batch. */
static void show_progress(void *user, int64_t bytes)
{
    struct skew_node *c = user;
    c->result.bytes += (uint64_t)bytes;
    skew_node_sign(c);
    if (c->progress && c->messages)
        fprintf(c->messages, "\rcollecting: process %zu of %zu, %.1f MiB\033[K", c->tended + 1,
                c->proc_count, (double)c->result.bytes / (1 << 20));
}

static bool is_known(struct skew_node *c, int dir, const char *name, struct stat *st)
{
    if (fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW) < 0)
        return true; /* gone again */
    for (size_t i = 0; i < c->refused_count; i++)
        if (c->refused[i].ino == st->st_ino && c->refused[i].dev == st->st_dev)
            return true;
    for (size_t i = 0; i < c->proc_count; i++)
        if (c->procs[i]->dev == st->st_dev && c->procs[i]->ino == st->st_ino)
            return true;
    return false;
}

static void refuse(struct skew_node *c, const struct skew_spool_dir *dir, const char *name,
                   const struct stat *st, const char *why)
{
    void *more = realloc(c->refused, (c->refused_count + 1) * sizeof *c->refused);
    if (more) {
        c->refused = more;
        c->refused[c->refused_count].dev = st->st_dev;
        c->refused[c->refused_count++].ino = st->st_ino;
    }
    c->result.left++;
    skew_node_say(c, "error", "corrupt_spool",
                  "Spool %s/%s on host %s cannot be read: %s. It is kept as it is.", dir->path,
                  name, c->host, why);
}

static int open_spool(struct skew_node *c, const struct skew_spool_dir *dir, const char *name)
{
    char why[256];
    struct stat st;
    struct skew_spool_file *file;
    struct skew_proc *proc;
    if (is_known(c, dir->fd, name, &st))
        return 0;
    int error = skew_spool_file_open(&file, dir->fd, name, why, sizeof why);
    if (error == -ENOENT)
        return 0;
    if (error) {
        refuse(c, dir, name, &st, why);
        return 0;
    }
    if (memcmp(file->head.boot_id, c->boot_id, sizeof c->boot_id) != 0) {
        skew_spool_file_close(&file);
        if (!c->follow)
            skew_node_say(
                c, "info", NULL,
                "Spool %s/%s of another node (or of an earlier boot of this one) is left for it.",
                dir->path, name);
        return 0;
    }
    struct skew_proc **more = realloc(c->procs, (c->proc_count + 1) * sizeof *more);
    if (!more) {
        skew_spool_file_close(&file);
        return -ENOMEM;
    }
    c->procs = more;
    error = skew_proc_open(&proc, c->db, file, dir->fd, name);
    if (error)
        return error;
    proc->dev = st.st_dev;
    proc->ino = st.st_ino;
    proc->on_batch = show_progress;
    proc->user = c;
    c->procs[c->proc_count++] = proc;
    c->changed = true;
    c->result.processes++;
    return 0;
}

static int scan_dir(struct skew_node *c, const struct skew_spool_dir *dir)
{
    struct dirent *entry;
    int error = 0, fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    while (list && !error && (entry = readdir(list))) {
        const char *dot = strrchr(entry->d_name, '.');
        if (entry->d_name[0] != '.' && dot && strcmp(dot, SKEW_SPOOL_SUFFIX) == 0)
            error = open_spool(c, dir, entry->d_name);
    }
    if (list)
        closedir(list);
    return error;
}

/* Drains one process and finds out whether it has ended. @return 0 or negative errno (of the
 * database). */
static int tend(struct skew_node *c, struct skew_proc *proc, uint64_t now)
{
    int64_t bytes = skew_proc_drain(proc);
    if (bytes < 0)
        return (int)bytes;
    c->moved += (uint64_t)bytes;
    c->changed |= proc->touched;
    proc->touched = false;
    bool exited = proc->file->head.state == SKEW_SPOOL_EXITED;
    if (proc->gone || (c->follow && !c->last_round && !exited && now - proc->checked_ns < SECOND))
        return 0;
    proc->checked_ns = now;
    enum skew_alive alive = skew_process_alive(&proc->file->head, proc->dir, proc->name);
    proc->gone = alive == SKEW_GONE;
    if (!proc->gone && (proc->ended || !(exited || (alive == SKEW_UNKNOWN && c->last_round))))
        return 0;
    /* What it wrote between our look and its end, also after its exit handlers: threads may go on.
     */
    bytes = skew_proc_drain(proc);
    if (bytes < 0)
        return (int)bytes;
    c->changed = true;
    if (proc->ended)
        return 0;
    exited = proc->file->head.state == SKEW_SPOOL_EXITED;
    return skew_proc_end(proc, exited ? "exited" : proc->gone ? "killed" : "unknown");
}

/* The run that started us is in the trace even when its file could not be written. */
static int ensure_run(struct skew_node *c)
{
    int64_t run;
    if (!c->run_id[0] || c->run_stored)
        return 0;
    int error = skew_db_begin(c->db);
    if (!error)
        error = skew_db_run_id(c->db, c->run_id, &run);
    c->run_stored = c->changed = true;
    return error;
}

/* One look at everything. @return 0 or the negative errno of the database. */
static int try_round(struct skew_node *c)
{
    uint64_t now = skew_node_now_ns();
    int error = 0;
    c->moved = 0;
    if (!c->db)
        error = skew_work_open(c);
    if (!error)
        skew_find_dirs(c); /* after the database: it may have something to say to the trace */
    for (size_t i = 0; !error && i < c->dir_count; i++)
        error = scan_dir(c, &c->dirs[i]);
    for (c->tended = 0; !error && c->tended < c->proc_count; c->tended++)
        error = tend(c, c->procs[c->tended], now);
    if (!error)
        error = skew_runs_store(c);
    if (!error)
        error = ensure_run(c);
    if (!error && c->db)
        error = skew_db_commit(c->db);
    return error;
}

int skew_node_round(struct skew_node *c)
{
    int error = try_round(c);
    if (!error) {
        c->trouble = 0;
        return 0;
    }
    if (!c->trouble && c->db)
        skew_node_say(c, "error", NULL,
                      "%s (%s): the spools are kept, and collecting goes on when that is mended.",
                      c->db->error[0] ? c->db->error : strerror(-error), c->db->path);
    c->trouble = error;
    forget(c); /* what memory knows may be ahead of the disk */
    return error;
}

/* ---- the end --------------------------------------------------------------------------------- */

static void remove_spools(struct skew_node *c)
{
    for (size_t i = 0; i < c->proc_count;) {
        struct skew_proc *proc = c->procs[i];
        struct stat st;
        if (!proc->gone || !proc->ended || proc->damaged) {
            i++;
            continue;
        }
        if (fstatat(proc->dir, proc->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            st.st_ino == proc->ino && st.st_dev == proc->dev)
            unlinkat(proc->dir, proc->name, 0);
        skew_proc_close(&c->procs[i]);
        c->procs[i] = c->procs[--c->proc_count];
    }
}

uint32_t skew_node_live(const struct skew_node *c)
{
    uint32_t live = 0;
    for (size_t i = 0; i < c->proc_count; i++)
        live += !c->procs[i]->gone;
    return live;
}

int skew_node_publish(struct skew_node *c)
{
    int error = 0;
    for (size_t i = 0; !error && i < c->proc_count; i++)
        error = skew_comm_settle(c->procs[i]);
    if (c->progress && c->messages)
        fprintf(c->messages, "\rpublishing …\033[K");
    skew_symbolise(c);
    if (!error)
        error = skew_publish(c);
    if (error) {
        c->trouble = error;
        return error;
    }
    remove_spools(c);
    skew_runs_tidy(c);
    return 0;
}

void skew_node_finish(struct skew_node *c)
{
    c->result.live = skew_node_live(c);
    if (c->result.live == 0 && !c->trouble && !c->changed && c->db)
        skew_work_remove(c);
    else if (c->db)
        skew_db_set_meta(c->db, "collector", "");
    forget(c);
    skew_find_tidy(c);
    if (c->lock >= 0) {
        unlink(c->lock_path);
        close(c->lock);
        c->lock = -1;
    }
    rmdir(c->state);
    snprintf(c->result.trace, sizeof c->result.trace, "%s", c->trace);
}
