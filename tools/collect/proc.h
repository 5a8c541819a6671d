/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process of the target and what the collector remembers of it: which numbers of the spool are
 * which rows. All of it can be loaded from the database again (skew_proc_open), which is what
 * happens after any error.
 *
 * proc.c drains a spool; defs.c, comms.c, sites.c, groups.c and graphs.c turn its records into
 * rows. One thread.
 */
#ifndef SKEW_COLLECT_PROC_H
#define SKEW_COLLECT_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "db.h"
#include "map.h"
#include "spool.h"
#include "spoolfile.h"
#include "vector.h"

/* exchange.flags and operation.flags (schema/trace.sql) */
enum skew_exchange_flags {
    SKEW_EX_CAPTURED = 1,
    SKEW_EX_CAPTURE_UNKNOWN = 2,
    SKEW_EX_UNKNOWN_TYPE = 4,
    SKEW_EX_NONBLOCKING = 8,
    SKEW_EX_STREAMS = 16,
    SKEW_EX_RANKS_UNKNOWN =
        32, /* an all-to-all whose vector has one cell until the ranks are known */
    SKEW_EX_MAY_COPY = 64
};

/* A communicator with more ranks than this is damage: `ordinal` would have to reach that far. */
#define SKEW_RANKS_MAX (1 << 20)

struct skew_local_comm {
    uint32_t local;
    int64_t member, comm;
    int32_t ranks, rank; /* −1: not known */
    bool nonblocking;
    int64_t pending; /* no exchange before this one waits for `ranks`; 0: none waits */
    uint64_t stamp;  /* group being stored, with its slot there */
    uint32_t slot;
};

/* A position is a segment of the stream and a byte in it. */
struct skew_stream {
    uint32_t stream;
    uint64_t seq, offset;    /* read up to here; stored too, once the transaction is durable */
    struct skew_cell *parts; /* of the group whose end has not come yet */
    size_t part_count, part_room;
    uint64_t part_group;
    bool parts_wait; /* from here on nothing may be given back: */
    uint64_t parts_seq, parts_offset;
    bool replay; /* after a restart, while the parts are read again up to here: */
    uint64_t replay_seq, replay_offset;
    bool dirty;
    bool stuck; /* the open segment is damaged; wait until it is sealed, then go on behind it */
    uint64_t gap_seq, gap_snapshot; /* where a segment was missing first, and in which snapshot */
};

struct skew_module {
    int64_t id;
    uint64_t start, end;
    char *path;
};

struct skew_graphs; /* graphs.c */

struct skew_proc {
    struct skew_db *db;
    struct skew_spool_file *file;
    int dir;        /* borrowed: the directory that holds it */
    char name[160]; /* file name there */
    char key[144];  /* process.key */
    int64_t id, run;
    struct skew_map streams;      /* stream → struct skew_stream * */
    struct skew_map comms;        /* local comm → struct skew_local_comm * */
    struct skew_map sites;        /* local site → site_id */
    struct skew_map cuda_streams; /* handle → stream_id */
    struct skew_map captures;     /* driver id → capture_id */
    struct skew_map range_names;  /* local name → char *, owned (ranges.c) */
    struct skew_map captured;     /* driver id → what was captured (graphs.c) */
    char *exe;
    struct skew_module *modules;
    size_t module_count;
    uint64_t orphans; /* frames without a module, perhaps */
    struct skew_graphs *graphs;
    struct skew_loss_count loss[SKEW_LOSS_SLOTS];    /* as stored */
    struct skew_tap_count taps[SKEW_TAP_COUNTS];     /* as stored */
    uint64_t returned;                               /* as stored */
    struct skew_time_totals time;                    /* as stored */
    uint64_t backend_calls[SKEW_BACKEND_CALL_SLOTS]; /* as stored */
    struct skew_launches *launches;                  /* the latest, for their times (graphs.c) */
    uint64_t stored; /* groups not yet added to process.stored_groups */
    uint64_t group_stamp;
    uint64_t unknown_records;
    uint64_t snapshots; /* taken so far */
    bool in_doubt;      /* a segment was not in this one: nothing is given back before the next */
    uint32_t bad_heads; /* in the snapshot before */
    bool damaged;       /* from now on the file is only read, and kept at the end */
    bool touched;       /* rows of it were written; whoever publishes clears it */
    bool ended;         /* process.ended is final */
    bool said_type, said_device;
    char *buffer;        /* one segment */
    uint64_t checked_ns; /* when it was last looked for */
    bool gone;           /* the process is no more: what it wrote is final */
    bool unreadable;     /* the file has become too short to be read at all */
    dev_t dev;
    ino_t ino;
    void (*on_batch)(void *user,
                     int64_t bytes); /* after every commit, with what it stored; may be NULL */
    void *user;
};

/* Why a spool cannot be read further, for the message of the collector. */
const char *skew_proc_where(const struct skew_proc *proc, char *buffer, size_t size);

/** Takes `file` over, also on failure. Finds the process in the database or adds it. */
int skew_proc_open(struct skew_proc **out, struct skew_db *db, struct skew_spool_file *file,
                   int dir, const char *name);
void skew_proc_close(struct skew_proc **proc);

/**
 * Stores what the spool holds beyond what is stored, committing in batches, and gives segments
 * back.
 * @return bytes stored, or negative errno: the caller then closes everything and starts over
 */
int64_t skew_proc_drain(struct skew_proc *proc);

/** Writes how the process ended (after a last drain). */
int skew_proc_end(struct skew_proc *proc, const char *how);

/** Notes damage once, in the trace; from then on the file is left as it is. */
int skew_proc_damage(struct skew_proc *proc, const char *text);

/** One query about this process (parameter 1), whose rows go to `row`. */
int skew_proc_load(struct skew_proc *proc, const char *sql,
                   int (*row)(struct skew_proc *, sqlite3_stmt *));
void skew_bind_known(sqlite3_stmt *stmt, int column, int64_t value, bool known);

/* defs.c */
int skew_defs_record(struct skew_proc *proc, const struct skew_rec *rec);
int skew_defs_load(struct skew_proc *proc);
void skew_defs_free(struct skew_proc *proc);

/* comms.c */
int skew_comm_record(struct skew_proc *proc, const struct skew_rec_comm *rec);
int skew_comm_end_record(struct skew_proc *proc, const struct skew_rec_comm_end *rec);
/** The communicator of that number; one that was never defined is made up, and said. */
int skew_comm_find(struct skew_proc *proc, uint32_t local, struct skew_local_comm **out);
/** Asks for ranks that other processes may have told, for all-to-alls that wait for them. */
int skew_comm_settle(struct skew_proc *proc);
int skew_comm_load(struct skew_proc *proc);
void skew_comm_free(struct skew_proc *proc);

/* sites.c */
int skew_site_record(struct skew_proc *proc, const struct skew_rec_site *rec);
int skew_module_record(struct skew_proc *proc, const struct skew_rec_module *rec);
int skew_site_load(struct skew_proc *proc);
void skew_site_free(struct skew_proc *proc);

/* groups.c */
int skew_group_record(struct skew_proc *proc, struct skew_stream *stream,
                      const struct skew_rec *rec);
int skew_loss_record(struct skew_proc *proc, const struct skew_rec *rec);
int skew_stream_id(struct skew_proc *proc, uint64_t handle, int64_t *id);
/** Gives exchanges that waited for the number of ranks their vector. */
int skew_group_settle(struct skew_proc *proc, struct skew_local_comm *comm);

/* ranges.c */
int skew_range_name_record(struct skew_proc *proc, const struct skew_rec *rec);
int skew_ranges_record(struct skew_proc *proc, struct skew_stream *stream,
                       const struct skew_rec *rec);
int skew_ranges_load(struct skew_proc *proc);
void skew_ranges_free(struct skew_proc *proc);

/* times.c */
int skew_time_record(struct skew_proc *proc, const struct skew_rec *rec);
int skew_time_store(struct skew_proc *proc); /* the counters in the head, if they have changed */

/* calls.c */
int skew_backend_call_record(struct skew_proc *proc, const struct skew_rec *rec);
int skew_backend_call_counters(
    struct skew_proc *proc); /* those in the head, as far as they are news */

/* taps.c */
int skew_tap_record(struct skew_proc *proc, const struct skew_rec *rec);
/** Stores what became of the buffers, as far as it is news. */
int skew_tap_counters(struct skew_proc *proc);

/* graphs.c */
int skew_graph_record(struct skew_proc *proc, const struct skew_rec *rec);
int skew_launch_record(struct skew_proc *proc, const struct skew_rec *rec);
struct skew_captured {
    int64_t member, thread, group;
    bool may_copy; /* it may have no kernel */
    int64_t place; /* which time in this launch, from 0 */
};
/** The ordinal-th of all `count` launches of NCCL work that an executable graph held at `ns`, in
 * the order in which they were captured. @param launches how many it held. @return 1, 0 when that
 * is another number, or when some may have been without a kernel; negative errno */
int skew_graph_captured(struct skew_proc *proc, uint64_t exec, uint64_t ns, uint32_t ordinal,
                        uint32_t count, struct skew_captured *out, uint64_t *launches);
/** The row of a graph's launch, made when it is not there: its own record may come later. `stream`:
 * a row of `stream`, 0 when it is not known. */
int skew_launch_id(struct skew_proc *proc, uint64_t ns, uint64_t exec, int64_t stream, int64_t *id);
int skew_capture_id(struct skew_proc *proc, uint64_t driver_id, int64_t *id);
int skew_graph_load(struct skew_proc *proc);
void skew_graph_forget_old(struct skew_proc *proc);
void skew_graph_free(struct skew_proc *proc);

#endif
