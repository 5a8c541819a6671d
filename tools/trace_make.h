/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a trace that no job has written: for `skewscope synth`, `skewscope import` and tests. The
 * schema, the packing of vectors and the statements are the collector's own (tools/collect/), so
 * that what is made here and what is captured cannot drift apart.
 *
 * The database grows under a temporary name beside its place and gets its name in
 * skew_make_finish(), never over an existing file. It says in `meta` (key origin) and in
 * run.command that it was not captured. One thread. Nothing here prints.
 *
 * Every function returns 0 or a negative errno unless it says otherwise; skew_make_why() then holds
 * one sentence. After a failure only skew_make_abandon() and skew_make_why() make sense. Texts are
 * copied; where a struct has a text or an id that is not needed, NULL or 0 is stored as NULL.
 */
#ifndef SKEW_TRACE_MAKE_H
#define SKEW_TRACE_MAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct skew_make;

#define SKEW_MAKE_NONE INT64_MIN /* an optional number that is not known: stored as NULL */

/** What the database says of itself. */
struct skew_make_about {
    const char *origin;      /* meta.origin: "synth", "import FORMAT", …; must be given */
    const char *host;        /* NULL: the origin's first word */
    const char *node;        /* 32 hex digits that tell nodes apart; NULL: random */
    const char *key;         /* 16 hex digits, meta.trace_id; NULL: random */
    int64_t created_real_ns; /* 0: now. Fixed where equal input must give equal files */
};

/**
 * Begins a new database that will be called `path`; its directory must exist.
 * @return 0 with *out owned by the caller; -EEXIST when there is such a file; another negative
 * errno. `why` (of why_size bytes) then holds one sentence.
 */
int skew_make_open(struct skew_make **out, const char *path, const struct skew_make_about *about,
                   char *why, size_t why_size);

/** Indexes, commits, syncs, takes the name. The maker is still to be freed by skew_make_abandon(),
 * which then leaves the database alone. -EEXIST when somebody took the name in the meantime. */
int skew_make_finish(struct skew_make *make);

/** Frees; removes what was not finished. Sets NULL. */
void skew_make_abandon(struct skew_make **make);

/** What went wrong, in one sentence. Borrowed. */
const char *skew_make_why(const struct skew_make *make);

int skew_make_meta(struct skew_make *make, const char *key, const char *value);

/** A run. `command` is the argument list; it is stored as a JSON array. Adds nothing to it. */
struct skew_make_run {
    const char *key; /* NULL: "" */
    int argc;
    const char *const *argv;
    int64_t started_real_ns, ended_real_ns; /* 0: as created */
};
int skew_make_run(struct skew_make *make, const struct skew_make_run *run, int64_t *run_id);
int skew_make_run_label(struct skew_make *make, int64_t run_id, const char *key, const char *value);

/** A process; `key` must be unique over all databases of a job. Ranks of −1 are stored as NULL. */
struct skew_make_process {
    int64_t run_id;
    const char *key;
    const char *host; /* NULL: the database's */
    int64_t pid;
    int32_t world_rank, local_rank, world_size;
    int64_t started_ns, started_real_ns;
};
int skew_make_process(struct skew_make *make, const struct skew_make_process *process,
                      int64_t *process_id);

/** "captured N of M" of a process, at the end. */
int skew_make_process_groups(struct skew_make *make, int64_t process_id, int64_t returned,
                             int64_t stored, int64_t ended_ns);

int skew_make_clock_anchor(struct skew_make *make, int64_t process_id, int64_t monotonic_ns,
                           int64_t real_ns);

/** A communicator; `key` is equal on every node. */
int skew_make_comm(struct skew_make *make, const char *key, const char *kind, uint32_t ranks,
                   int64_t *comm_id);
int skew_make_member(struct skew_make *make, int64_t comm_id, int32_t rank, int64_t process_id,
                     int32_t device, int64_t created_ns, int64_t *member_id);

/**
 * Per-peer sizes, stored once each. `bytes` [cells]; `peers` [cells], NULL: cell i is peer i.
 * @param unit  bytes of one stored unit: what exchange.send_unit or recv_unit must say. For
 *              `routing` the cells are tokens of experts and `unit` is tokens.
 */
int skew_make_vector(struct skew_make *make, size_t cells, const uint64_t *bytes,
                     const uint32_t *peers, int64_t *vector_id, int64_t *unit);

/** One exchange of one rank. Vector 0: nothing on that side. */
struct skew_make_exchange {
    int64_t member_id, seq;
    int32_t op;    /* enum skew_op: 0 sends and receives, 2 alltoall, 3 alltoallv */
    int32_t dtype; /* ncclDataType_t, −1 unknown */
    int64_t start_ns, enqueue_ns;
    int64_t send_vector, recv_vector, send_unit, recv_unit;
    int64_t thread, group_seq;
    int64_t flags;
};
int skew_make_exchange(struct skew_make *make, const struct skew_make_exchange *exchange,
                       int64_t *exchange_id);

struct skew_make_operation {
    int64_t member_id, seq;
    int32_t op, dtype;
    int64_t start_ns, enqueue_ns, count, bytes;
    int64_t root; /* SKEW_MAKE_NONE: none */
    int64_t thread, group_seq, flags;
};
int skew_make_operation(struct skew_make *make, const struct skew_make_operation *operation);

/** Time on the device of one group of one member, not captured. `source`: table time_source. */
int skew_make_device_time(struct skew_make *make, int64_t member_id, int64_t thread,
                          int64_t group_seq, int source, int64_t start_ns, int64_t end_ns,
                          int64_t error_ns);

/** A row of exchange_label; numbers may be SKEW_MAKE_NONE. */
struct skew_make_label {
    int64_t exchange_id;
    const char *role, *stage;
    int64_t step, layer, microbatch, token_bytes, pair_id;
    double confidence;
    const char *source;
};
int skew_make_label(struct skew_make *make, const struct skew_make_label *label);

/** A row of routing; numbers may be SKEW_MAKE_NONE, exchange_id and comm_id 0. */
struct skew_make_routing {
    int64_t exchange_id, comm_id, source_rank, step, layer, microbatch, request;
    const char *stage;
    int64_t experts, topk, tokens;
    const uint64_t *counts; /* [experts] tokens */
    bool verified;
    const char *source;
    const uint16_t *ids; /* [tokens][topk], for routing_ids; NULL: not kept */
    size_t id_count;
};
int skew_make_routing(struct skew_make *make, const struct skew_make_routing *routing);

/** Expert `expert` lies in slot `slot` of `rank`; layer −1: all. */
int skew_make_placement(struct skew_make *make, int64_t comm_id, int64_t layer, int64_t slot,
                        int64_t rank, int64_t expert);

int skew_make_loss(struct skew_make *make, int64_t process_id, const char *reason, int64_t groups,
                   int64_t exchanges, int64_t cells);
int skew_make_loss_edge(struct skew_make *make, int64_t member_id, int64_t before_seq, int64_t peer,
                        int64_t sends, int64_t recvs);

/** Ids of 0 are stored as NULL. `severity`: info, warning, error. */
int skew_make_diagnostic(struct skew_make *make, int64_t run_id, int64_t process_id,
                         const char *severity, const char *code, const char *text);

#endif
