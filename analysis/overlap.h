/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What else the device did: how much of each exchange the kernels of other streams hide, how long
 * the experts computed between a dispatch and its combine, and what device-initiated backends took.
 * From table kernel, which only the CUPTI tier fills. docs/overlap.md has the definitions.
 *
 * Kernels that follow each other closely are one row, of which only the sum of their times is
 * known: times computed from such rows are intervals, low … high, that hold the truth. Times are
 * ns. One thread; nothing is written to the trace.
 */
#ifndef SKEW_OVERLAP_H
#define SKEW_OVERLAP_H

#include "kernels.h"
#include "trace.h"

/** The truth lies between both; ns. */
struct skew_between {
    int64_t low, high;
};

/** One row of table kernel: from start to end, of which kernels ran for `busy`. */
struct skew_overlap_row {
    int64_t start, end, busy;
};

/** Rows of one device, in the order of their starts, with what is needed to look them up. */
struct skew_overlap_rows {
    struct skew_overlap_row *row;
    size_t count, room;
    int64_t *latest; /* [2 × leaves] a tree of the latest ends; row i is leaf i */
    size_t leaves;   /* a power of two */
};

/** Starts must not decrease; rows without length are left out. 0 or -ENOMEM. */
int skew_overlap_rows_add(struct skew_overlap_rows *rows, struct skew_overlap_row row);
/** After the last row, before any question. 0 or -ENOMEM. */
int skew_overlap_rows_index(struct skew_overlap_rows *rows);
void skew_overlap_rows_free(struct skew_overlap_rows *rows);

/**
 * In how many ns of from … to at least one kernel ran: the measure of the union of the rows. With
 * U the union of the rows' spans, o_i what of row i lies in from … to and g_i = span − busy:
 * max(U − Σ min(g_i, o_i), max (o_i − g_i), 0) … min(U, Σ min(o_i, busy_i)).
 */
struct skew_between skew_overlap_covered(const struct skew_overlap_rows *rows, int64_t from,
                                         int64_t to);

/* ---- exchanges ------------------------------------------------------------------------------- */

/** One exchange of one rank, each time that it ran. */
struct skew_overlap_exchange {
    int64_t id, launch; /* exchange_id, launch_id */
    const struct skew_member *member;
    int64_t seq;
    uint8_t role;                   /* enum skew_label_role */
    int32_t step, layer;            /* −1: not told */
    int64_t start, end;             /* on the device */
    bool known;                     /* kernels were recorded meanwhile */
    struct skew_between overlapped; /* … when known; exposed is the rest of end − start */
    /* Of a dispatch (or a gradient's way to the experts) whose way back is known and was timed: */
    int64_t pair;                /* exchange_id of the way back; 0: none */
    int64_t gap;                 /* its start − this end; below 0: it began before */
    bool experts_known;          /* kernels were recorded in the gap */
    struct skew_between experts; /* time with kernels in it */
    uint64_t load;               /* bytes received by this exchange: what the experts worked on */
    uint64_t tokens;             /* … in tokens; 0: the size of a token is not known */
};

/* ---- device-initiated backends --------------------------------------------------------------- */

/** Kernels of one backend and purpose in one process on one device. Their bytes cannot be seen. */
struct skew_overlap_backend {
    const char *backend; /* static */
    enum skew_kernel_does does;
    int64_t process;
    int32_t world_rank, device; /* −1: unknown */
    uint64_t kernels;
    int64_t total, least,
        most; /* ns; least and most of single kernels, −1 where rows hold several */
    int64_t
        argument[SKEW_KERNEL_ARGUMENTS]; /* from template arguments; 0: not told; −1: they differ */
};

/** From the dispatch kernels of a backend to the combine kernels behind them. */
struct skew_overlap_round {
    const char *backend;
    int64_t process;
    int32_t world_rank, device;
    uint32_t dispatches, combines;        /* 1 and 1, or which belong together is not known */
    int64_t dispatch_start, dispatch_end; /* first start, last end */
    int64_t combine_start, combine_end;
    struct skew_between experts; /* time with kernels between both */
};

struct skew_overlap {
    struct skew_overlap_exchange *exchanges; /* [exchange_count] by exchange and launch */
    size_t exchange_count;
    struct skew_overlap_backend
        *backends; /* [backend_count] by process, device, backend, purpose */
    size_t backend_count;
    struct skew_overlap_round *rounds; /* [round_count] by process and device, in order of time */
    size_t round_count;
    uint64_t untimed; /* exchanges without a time on the device */
    uint64_t rows;    /* of table kernel */
    uint64_t dropped; /* CUPTI records that found no room: what is known is then a lower bound */
    uint64_t partial; /* dispatches in several exchanges: no gap is told of these */
    char **unknown;   /* [unknown_count] kernels that sound like communication */
    size_t unknown_count;
};

/**
 * Reads one database. Roles, steps and pairs are those of the labels attached to the trace
 * (label.h), or none. Members are borrowed from the trace. 0, or a negative errno with `error` set;
 * free in any case.
 */
int skew_overlap_read(struct skew_trace *trace, struct skew_overlap *out, struct skew_error *error);
void skew_overlap_free(struct skew_overlap *overlap);

#endif
