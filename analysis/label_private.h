/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files label*.c and match*.c share: exchanges and operations of a whole database in
 * arrays, put into the order in which each rank issued them.
 *
 * A *lane* is what one rank of the job did: one process, or one GPU or thread of a process that
 * drives several. A *column* is the exchange of all members of a communicator with one seq, where
 * their ordinals agree. Keys: two exchanges carry the same tokens the same way when their keys (a,
 * b) are equal, and back when (a, b) of one is (b, a) of the other: hashes of the vectors' ids,
 * which are equal for equal sizes up to a common unit (schema/trace.sql), over all ranks of the
 * column where there is one.
 */
#ifndef SKEW_LABEL_PRIVATE_H
#define SKEW_LABEL_PRIVATE_H

#include "label.h"
#include "trace_private.h"

struct skew_rows_vector {
    int64_t id;
    uint64_t total, largest;
    uint32_t cells;
    uint32_t peers; /* distinct peers; 0: not asked yet (then all of 0 … cells − 1) */
    bool listed;    /* peers are listed, not 0, 1, 2, … */
    bool uniform;   /* all sizes are equal */
};

enum skew_rows_class {
    SKEW_CLASS_NONE,    /* says nothing: a communicator of one rank, a vector that is missing */
    SKEW_CLASS_INTEGER, /* small, whole numbers, as many to every peer */
    SKEW_CLASS_P2P,     /* to and from few peers, never to itself */
    SKEW_CLASS_UNIFORM, /* equal sizes to all, and all of this kind on this communicator are */
    SKEW_CLASS_SIZES    /* sizes that differ */
};

struct skew_rows_exchange {
    int64_t id, seq, start_ns;
    uint64_t key_a, key_b; /* the send and the receive side */
    uint64_t unit; /* bytes: greatest common divisor over the column; 0: nothing but zeros */
    uint64_t send_bytes, recv_bytes; /* of this rank */
    uint64_t column_bytes;           /* sent by all ranks of the column */
    int64_t site;
    int64_t group_seq;
    int64_t capture;
    uint32_t member;     /* index */
    uint32_t send, recv; /* index of the vector + 1; 0: none */
    uint64_t send_unit, recv_unit;
    int32_t op, dtype, thread;
    uint32_t flags;
    uint8_t class;
    bool self;    /* sends to itself */
    bool hole;    /* likewise, and not because the trace ends there: records were lost */
    bool partial; /* of a column that other ranks have no record of: its keys are not those of a
                     whole one */
};

struct skew_rows_operation {
    int64_t id, seq, start_ns, count, bytes, site, group_seq, capture;
    uint32_t member;
    int32_t op, dtype, thread, root;
    uint32_t flags;
};

/* One outermost group on one communicator, as a lane issued it. */
struct skew_rows_event {
    int64_t start_ns;
    uint32_t first; /* index of the exchange, or of the first operation */
    uint32_t count; /* operations in the group; 0: it is an exchange */
};

struct skew_rows_lane {
    size_t first, count; /* events */
    int64_t process;
};

struct skew_rows_member {
    const struct skew_member *member;
    uint32_t comm; /* index */
    uint32_t lane;
};

struct skew_rows_comm {
    const struct skew_comm *comm;
    bool aligned; /* the members' ordinals agree: columns exist */
    bool partial; /* some group does not go to all ranks and yet includes the rank itself: a group
                     an expert */
};

/* What an NVTX range can mark. */
enum skew_mark_kind {
    SKEW_MARK_STEP,
    SKEW_MARK_LAYER,
    SKEW_MARK_MICROBATCH,
    SKEW_MARK_PREFILL,
    SKEW_MARK_DECODE,
    SKEW_MARK_KINDS
};

struct skew_mark {
    int64_t serial; /* tells two ranges of one thread apart */
    int64_t number; /* in its text; −1: none */
};

struct skew_rows_ranges; /* label_range.c */

struct skew_rows {
    struct skew_trace *trace;
    struct skew_rows_ranges *ranges;      /* NULL: none were recorded */
    bool step_ranges;                     /* --step-marker names some of them */
    int64_t least[SKEW_MARK_KINDS];       /* smallest numbers of ranges of each kind */
    struct skew_rows_exchange *exchanges; /* ordered by id */
    size_t exchange_count;
    struct skew_rows_operation *operations;
    size_t operation_count;
    struct skew_rows_vector *vectors; /* ordered by id */
    size_t vector_count;
    struct skew_rows_member *members;
    size_t member_count;
    struct skew_rows_comm *comms;
    size_t comm_count;
    struct skew_rows_event *events; /* lane after lane, each in its order */
    size_t event_count;
    struct skew_rows_lane *lanes;
    size_t lane_count;
};

int skew_rows_load(struct skew_rows *rows, struct skew_trace *trace, struct skew_error *error);
void skew_rows_free(struct skew_rows *rows);

/* label_key.c: classes, columns and keys. */
int skew_rows_classify(struct skew_rows *rows, struct skew_error *error);

/* label_range.c */
int skew_rows_load_ranges(struct skew_rows *rows, const struct skew_label_options *options,
                          struct skew_error *error);
void skew_rows_free_ranges(struct skew_rows *rows);
/** Whether a group of this thread is in a range, or behind a mark, of this kind. */
bool skew_rows_marked(const struct skew_rows *rows, int64_t process, int64_t thread, int64_t group,
                      enum skew_mark_kind kind, struct skew_mark *mark);
/** Whether any range or mark of the trace is of this kind; `numbered`: and has a number. */
bool skew_rows_any_marked(const struct skew_rows *rows, enum skew_mark_kind kind, bool numbered);

static inline const struct skew_rows_comm *skew_rows_comm_of(const struct skew_rows *rows,
                                                             const struct skew_rows_exchange *x)
{
    return &rows->comms[rows->members[x->member].comm];
}

static inline uint64_t skew_mix(uint64_t x)
{
    return skew_splitmix(&x);
}

#endif
