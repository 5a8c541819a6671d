/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The collector of one node for one output directory: the parts that its files share. One thread.
 *
 *   node.c       set-up, lock, the round of work, the end        find.c    where spools lie
 *   work.c       the database while it grows                     publish.c its way to OUT/trace.db
 *   runs.c       what `skewscope run` knows                      symbols.c names for call sites
 */
#ifndef SKEW_COLLECT_NODE_H
#define SKEW_COLLECT_NODE_H

#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "collect.h"
#include "db.h"
#include "proc.h"

/* A directory in which spools lie. The descriptor keeps what is there reachable after its mount
 * namespace has gone. */
struct skew_spool_dir {
    int fd;
    dev_t dev;
    ino_t ino;
    char path[PATH_MAX];
    char pointer[96]; /* name of the pointer file in OUT/.skewscope, "" when found otherwise */
};

struct skew_node {
    char out[PATH_MAX];   /* absolute */
    char state[PATH_MAX]; /* OUT/.skewscope */
    char work[PATH_MAX];  /* the database while it grows */
    char trace[PATH_MAX]; /* what was published, "" before */
    char lock_path[PATH_MAX];
    char host[64];
    char node[33]; /* boot id, hex */
    uint8_t boot_id[16];
    uint64_t mnt_ns;
    int lock;
    struct skew_db *db;
    struct skew_spool_dir *dirs;
    size_t dir_count;
    struct skew_proc **procs;
    size_t proc_count;
    struct {
        dev_t dev;
        ino_t ino;
    } * refused; /* spools that cannot be read: said once */
    size_t refused_count;
    char (*said)[160]; /* sentences already said */
    size_t said_count;
    int64_t symbolised;        /* call sites up to this one were looked at */
    struct skew_map run_files; /* inode → what the stored version looked like */
    uint64_t token;            /* names our requests; 0: none made yet */
    FILE *messages;
    bool progress;
    bool run_stored;
    char run_id[SKEW_RUN_ID_BYTES]; /* the run that started us, "" when none did */
    bool follow;                    /* a live process's spool is drained again later */
    bool last_round;                /* no later look will come: decide with what is known */
    bool changed;                   /* since the last publication */
    size_t tended;                  /* which process is being drained */
    uint64_t moved;                 /* bytes of spool read in the latest round */
    uint64_t published_ns, publish_cost_ns;
    int trouble; /* errno of the latest failure that a person was told of, 0 none */
    struct skew_collect_result result;
};

/* collector.c */
uint64_t skew_node_now_ns(void);
/** Says one sentence to the person, and to the trace when `code` is given. The same one only once.
 */
void skew_node_say(struct skew_node *c, const char *severity, const char *code, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));

/* find.c */
int skew_find_dirs(struct skew_node *c);
/** Removes what is empty: directories, then their pointers (order: schema/layout.h). */
void skew_find_tidy(struct skew_node *c);
/** Whether anything at all waits for this directory: cheap, before anything is opened or made. */
bool skew_find_anything(struct skew_node *c);
/** ROOT/skewscope-UID/H on a local file system that keeps its files; made. */
int skew_find_local(struct skew_node *c, char *path, size_t size);
/** The path of a file that an earlier collector left in such a directory. @return 0 or -ENOENT */
int skew_find_existing(struct skew_node *c, const char *name, char *path, size_t size);
bool skew_is_local(const char *path);

/* work.c */
/** Opens the work database: what is there, else a copy of the published one, else a new one. */
int skew_work_open(struct skew_node *c);
/** Removes the work database once nothing more will come. */
void skew_work_remove(struct skew_node *c);
/** Whether a published database belongs to this node, and to the open trace when there is one. */
bool skew_trace_is_ours(struct skew_node *c, const char *path, char *why, size_t why_size);

/* publish.c */
int skew_publish(struct skew_node *c);
/** What a published database may be called, in the order of trial; -1 behind the last. */
int skew_trace_name(const struct skew_node *c, unsigned number, char *path, size_t size);
/** A whole copy at `path`, which is replaced, with `sql` run in it; synced. */
int skew_copy_write(struct skew_node *c, sqlite3 *from, const char *path, const char *sql);
/** fsync() by name. @param flags  for open(), O_DIRECTORY or 0 */
int skew_path_sync(const char *path, int flags);
/** A new private file; SQLite gives its own files the same mode. */
int skew_file_create(const char *path);

/* runs.c */
/** Stores what new run files say. */
int skew_runs_store(struct skew_node *c);
/** Removes the files of runs that are over (after publication). */
void skew_runs_tidy(struct skew_node *c);

/* symbols.c */
/** Fills in symbols where they are missing; takes seconds at most, and never fails. */
void skew_symbolise(struct skew_node *c);

#endif
