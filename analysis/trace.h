/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading traces: the public face of analysis/.
 *
 * A trace is one SQLite database a node (schema/trace.sql); an output directory holds one or
 * several. It is untrusted input: everything is checked, nothing is ever written, and what is wrong
 * comes back as a negative errno and one sentence in struct skew_error. No function here prints.
 *
 * Analyses are accumulators: `add` takes one exchange, `merge` takes what was accumulated over
 * another database, and the order of either never changes the result. Communicators meet across
 * databases by their `key`; ids are each database's own.
 *
 * Nothing here is shared between threads: one struct skew_trace belongs to one thread at a time.
 */
#ifndef SKEW_TRACE_H
#define SKEW_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sqlite3;
struct skew_trace;

#define SKEW_TRACE_VERSION        1 /* PRAGMA user_version that this code was written for */
#define SKEW_TRACE_APPLICATION_ID 1397442387 /* 'SKWS' */

/** What went wrong, in one sentence without a final full stop or newline. */
struct skew_error {
    char text[640];
};

/* ---- opening ------------------------------------------------------------------------------- */

/** The databases behind a path, sorted by name. */
struct skew_trace_list {
    char **files;
    size_t count;
};

/**
 * Finds the traces that `path` means: the file itself, or those of a directory (trace.db and
 * trace-*.db, as the collectors of several nodes name them).
 * @return 0, -ENOENT when there are none, or another negative errno. On success the caller frees
 *         the list with skew_trace_list_free().
 */
int skew_trace_list(struct skew_trace_list *list, const char *path, struct skew_error *error);
void skew_trace_list_free(struct skew_trace_list *list);

/**
 * Opens one database read-only and checks that it is a trace of a version that can be read.
 * @return 0; -ENOENT no such file; -EINVAL not a trace; -ENOTSUP written by a newer skewscope;
 *         -EBADMSG corrupt or truncated; another negative errno. On success the caller owns *out.
 */
int skew_trace_open(struct skew_trace **out, const char *file, struct skew_error *error);

/** Closes and sets NULL. What was borrowed from the trace is gone. */
void skew_trace_close(struct skew_trace **trace);

/** The database itself, for statements that are one command's own. Borrowed; read-only. */
struct sqlite3 *skew_trace_db(struct skew_trace *trace);

/** The path that it was opened with. Borrowed. */
const char *skew_trace_path(const struct skew_trace *trace);

/** Whether the database has this column of this table (NULL: the table): older traces lack some. */
bool skew_trace_has(struct skew_trace *trace, const char *table, const char *column);

/** Puts what SQLite last complained about into `error`; returns the negative errno that fits. */
int skew_trace_sql_error(struct skew_trace *trace, struct skew_error *error);

/* ---- communicators ------------------------------------------------------------------------- */

/** A communicator. Strings are borrowed from the trace. */
struct skew_comm {
    int64_t id;      /* comm_id, of this database */
    const char *key; /* equal on every rank and node */
    const char *kind;
    uint32_t ranks;   /* as NCCL said, or else the largest rank seen + 1; 0: nothing known */
    bool ranks_known; /* false: `ranks` is only what was seen */
    int64_t parent;   /* comm_id, 0: none */
    uint32_t members; /* how many of its ranks are in this database */
};

/** One rank of a communicator, held by a process of this node. */
struct skew_member {
    int64_t id;
    const struct skew_comm *comm;
    int32_t rank;       /* −1: never learned */
    int32_t world_rank; /* of the job, −1: unknown */
    int32_t device;     /* CUDA ordinal, −1: unknown */
    int64_t process;    /* process_id */
};

/** All communicators, ordered by id. Borrowed. Loaded at the first call. */
int skew_trace_comms(struct skew_trace *trace, const struct skew_comm **comms, size_t *count,
                     struct skew_error *error);

/** All members, ordered by id. Borrowed. */
int skew_trace_members(struct skew_trace *trace, const struct skew_member **members, size_t *count,
                       struct skew_error *error);

/* ---- exchanges ----------------------------------------------------------------------------- */

/** Per-peer sizes of one exchange of one rank, in the order of the calls. */
struct skew_vector {
    int64_t id;
    uint32_t cells;
    const uint64_t *sizes; /* [cells], in units of exchange.send_unit or recv_unit */
    const uint32_t *peers; /* [cells] ranks; NULL: cell i is peer i */
    uint64_t total;        /* units */
    uint64_t largest;      /* units */
};

enum skew_exchange_flags {
    SKEW_EX_CAPTURED = 1,        /* recorded while a CUDA graph was captured */
    SKEW_EX_CAPTURE_UNKNOWN = 2, /* could not be told */
    SKEW_EX_UNKNOWN_TYPE = 4,    /* bytes understated */
    SKEW_EX_NONBLOCKING = 8,
    SKEW_EX_SEVERAL_STREAMS = 16
};

/** One exchange of one rank. All pointers are valid until the next step of the iterator. */
struct skew_exchange {
    int64_t id;
    const struct skew_member *member;
    int64_t seq;      /* ordinal on this communicator in this process */
    int32_t op;       /* enum skew_op of schema/spool.h: 0, 2 or 3 */
    int64_t start_ns; /* CLOCK_MONOTONIC of the node */
    int64_t enqueue_ns;
    const struct skew_vector *send; /* NULL: nothing was sent, not even zero bytes */
    const struct skew_vector *recv;
    uint64_t send_unit; /* bytes; 1 where the table says 0 */
    uint64_t recv_unit;
    uint32_t flags;  /* enum skew_exchange_flags */
    int64_t capture; /* capture_id, 0: none */
    int64_t site;    /* site_id, 0: none */
};

/** What skew_trace_each() passes over. Zero-initialise, then set what is wanted. */
struct skew_filter {
    const char *comm_key; /* NULL: all communicators */
    bool by_seq;          /* seq_from … seq_to only, both included */
    int64_t seq_from, seq_to;
    uint32_t ops;           /* bit set of 1 << op; 0: all */
    bool by_layer, by_step; /* by exchange_label, which only analyses fill */
    int64_t layer, step;
    const char *role; /* of exchange_label; NULL: all */
    /* Ordinals by the caller's own count, when `count_layers` is not 0: the calls on a communicator
     * are layer 0 (count_calls of them), layer 1, …, and after count_layers a new step begins.
     * by_layer and by_step then mean these and not exchange_label. */
    uint32_t count_layers;
    uint32_t count_calls;
};

enum skew_order {
    SKEW_ORDER_STORED, /* as stored: the fastest, one pass over the table */
    SKEW_ORDER_SEQ     /* communicator, seq, rank: one exchange of all ranks after the other */
};

/** Takes one exchange into an accumulator. Anything but 0 ends the pass and is returned from it. */
typedef int skew_exchange_fn(void *accumulator, const struct skew_exchange *exchange);

/**
 * The map: hands every exchange that passes `filter` (NULL: all) to `take`, by one statement.
 * @return 0, what `take` returned, or a negative errno with `error` set.
 */
int skew_trace_each(struct skew_trace *trace, const struct skew_filter *filter,
                    enum skew_order order, skew_exchange_fn *take, void *accumulator,
                    struct skew_error *error);

/** The same as an iterator: open, then step: 1 an exchange, 0 the end, negative errno. */
struct skew_exchange_iter;
int skew_exchange_iter_open(struct skew_exchange_iter **out, struct skew_trace *trace,
                            const struct skew_filter *filter, enum skew_order order,
                            struct skew_error *error);
int skew_exchange_iter_next(struct skew_exchange_iter *iter, struct skew_exchange *exchange,
                            struct skew_error *error);
void skew_exchange_iter_close(struct skew_exchange_iter **iter);

/** Whether any exchange has a label, that is, whether filters by layer, step and role can match. */
int skew_trace_has_labels(struct skew_trace *trace, bool *labels, struct skew_error *error);

static inline uint64_t skew_exchange_send_bytes(const struct skew_exchange *exchange)
{
    return exchange->send ? exchange->send->total * exchange->send_unit : 0;
}

static inline uint64_t skew_exchange_recv_bytes(const struct skew_exchange *exchange)
{
    return exchange->recv ? exchange->recv->total * exchange->recv_unit : 0;
}

static inline uint32_t skew_vector_peer(const struct skew_vector *vector, uint32_t cell)
{
    return vector->peers ? vector->peers[cell] : cell;
}

/* ---- accumulator: matrix ------------------------------------------------------------------- */

/** Bytes from each rank to each rank: the send side, a rank's sends to itself included. */
struct skew_matrix {
    uint32_t ranks;
    uint64_t exchanges; /* exchanges of one rank each that were added */
    uint64_t
        outside; /* cells that named a rank outside 0 … ranks − 1, or came from one: left out */
    uint64_t unit_gcd; /* greatest common divisor of all sizes added, bytes; 0: none but zeros */
    uint64_t *bytes;   /* [ranks][ranks], row: source */
};

/** Zeroes a new matrix of ranks × ranks. 0, -EINVAL (0 ranks, or too many) or -ENOMEM. */
int skew_matrix_create(struct skew_matrix **out, uint32_t ranks);
void skew_matrix_free(struct skew_matrix **matrix);
void skew_matrix_reset(struct skew_matrix *matrix);
/** A skew_exchange_fn; the accumulator is a struct skew_matrix. */
int skew_matrix_add(void *matrix, const struct skew_exchange *exchange);
/** Adds `other`, of the same communicator; -EINVAL when the sizes differ. */
int skew_matrix_merge(struct skew_matrix *matrix, const struct skew_matrix *other);

static inline uint64_t skew_matrix_at(const struct skew_matrix *matrix, uint32_t from, uint32_t to)
{
    return matrix->bytes[(size_t)from * matrix->ranks + to];
}

/* ---- accumulator: loads of each exchange --------------------------------------------------- */

/**
 * For one communicator: what every rank received in every exchange, kept apart by `seq`, so that
 * nothing is summed over exchanges before a maximum is taken.
 */
struct skew_loads;

int skew_loads_create(struct skew_loads **out, uint32_t ranks);
void skew_loads_free(struct skew_loads **loads);
/** A skew_exchange_fn; the accumulator is a struct skew_loads. */
int skew_loads_add(void *loads, const struct skew_exchange *exchange);
int skew_loads_merge(struct skew_loads *loads, const struct skew_loads *other);

/**
 * Skew of one exchange: max over ranks of the bytes received (a rank's own included) divided by the
 * mean over ranks. 1 is balanced, R is everything to one rank. Exchanges that moved nothing have
 * none.
 */
struct skew_summary {
    uint64_t exchanges; /* distinct seq */
    uint64_t complete;  /* … of which every rank is here: the only ones that have a skew */
    uint64_t empty;     /* … of which no rank received a byte */
    uint64_t unequal;   /* complete ones in which sends and receives are not the same edges: the
                           ranks' ordinals have drifted apart, and seq does not name one exchange */
    double median, max; /* of the skew; NaN when no exchange has one */
    int64_t max_seq;    /* where the maximum is, −1 */
    uint32_t max_rank;  /* and whose load it is */
};

int skew_loads_summary(const struct skew_loads *loads, struct skew_summary *summary);

#endif
