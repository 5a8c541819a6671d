/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routing: how many tokens each source of tokens sent to each expert, in each call of each MoE
 * layer (table routing), and what load that is for each rank (table placement).
 *
 * skew_routing_each() hands over row after row. struct skew_routing is the accumulator over one or
 * several databases: read each into one of its own, merge, finish, then ask. Communicators meet
 * across databases by key. Nothing here is shared between threads unless it says so.
 *
 * Counts are tokens × copies: a token that goes to k experts counts k times.
 */
#ifndef SKEW_ROUTING_H
#define SKEW_ROUTING_H

#include "trace.h"

#define SKEW_EXPERTS_MAX 65536u

/* ---- rows ------------------------------------------------------------------------------------ */

/** Which rows. Zero-initialise, then set what is wanted. */
struct skew_routing_filter {
    const char *comm_key; /* NULL: all */
    const char *stage;    /* prefill, decode, train; NULL: all */
    bool by_layer, by_step;
    int64_t layer;
    int64_t step_from, step_to; /* both included; rows without a step never pass */
    bool verified;              /* only what reproduces the payload's sizes */
    int64_t id_from, id_to; /* routing_id, both included, for taking a table in parts; 0, 0: all */
};

/** One row. Pointers are valid until the next one. */
struct skew_routing_row {
    int64_t id;
    int64_t exchange;             /* 0: none is here */
    const struct skew_comm *comm; /* NULL: no ranks are known */
    int32_t source;               /* rank of comm; −1: the tokens of all ranks together */
    int64_t step, layer, microbatch, request; /* −1: not known; request −1: of all requests */
    int64_t ordinal;   /* of the exchange on its communicator: tells calls apart where steps are not
                          known; −1: not known, or not needed */
    const char *stage; /* NULL: not known */
    uint32_t experts;
    uint32_t topk;  /* 0: not known */
    int64_t tokens; /* before they were copied to k experts; −1: not known */
    bool verified;
    bool physical;          /* experts are slots of the table placement, not logical ones */
    const char *how;        /* routing.source */
    const uint64_t *counts; /* [experts] */
    uint64_t total;         /* their sum */
};

/** Takes one row. Anything but 0 ends the pass and is returned from it. */
typedef int skew_routing_fn(void *accumulator, const struct skew_routing_row *row);

/**
 * Step, layer, micro-batch and stage that a row does not have come from the label of its exchange:
 * those attached to the trace (label.h), else the table's. Filters by layer and step are applied to
 * the result.
 * @return 0, what `take` returned, or a negative errno with `error` set.
 */
int skew_routing_each(struct skew_trace *trace, const struct skew_routing_filter *filter,
                      skew_routing_fn *take, void *accumulator, struct skew_error *error);

/** Number of rows, without looking at them; 0 also when the trace has no such table. */
int skew_routing_count(struct skew_trace *trace, int64_t *rows, struct skew_error *error);

/** Of how many rows layer or step can only be had from the label of the dispatch that they explain.
 */
int skew_routing_unlabelled(struct skew_trace *trace, int64_t *rows, struct skew_error *error);

/* ---- accumulator ----------------------------------------------------------------------------- */

struct skew_routing;

enum skew_routing_keep {
    SKEW_ROUTING_CALLS = 0, /* [calls][experts], [requests][experts], [sources][experts] */
    SKEW_ROUTING_CUBE = 1   /* and [calls][sources][experts], which may be large */
};

/** @param keep enum skew_routing_keep. 0 or -ENOMEM. The caller owns *out. */
int skew_routing_create(struct skew_routing **out, unsigned keep);
void skew_routing_free(struct skew_routing **routing);

/** A skew_routing_fn. -ENOMEM, -EOVERFLOW (counts beyond 64 bits). */
int skew_routing_add(void *routing, const struct skew_routing_row *row);

/**
 * Adds what was read from another database and leaves `other` empty. A source's row that both have
 * is counted once when equal (an all-gathered count matrix is in every node's trace); when not
 * equal the first is kept and it counts as a conflict.
 */
int skew_routing_merge(struct skew_routing *routing, struct skew_routing *other);

/**
 * Reads tables routing and placement of one database into `routing`, on up to `threads` threads
 * (each with a connection of its own; 0: as many as there are processors).
 */
int skew_routing_read(struct skew_routing *routing, struct skew_trace *trace,
                      const struct skew_routing_filter *filter, unsigned threads,
                      struct skew_error *error);

/**
 * Sorts and closes: no rows can be added afterwards, and skew_routing_layers() may be called, from
 * any number of threads. 0 or -ENOMEM.
 */
int skew_routing_finish(struct skew_routing *routing);

/** One call of one layer: the rows of all its sources. */
struct skew_routing_call {
    int64_t step, microbatch; /* −1: not known */
    int64_t ordinal;          /* of the exchange, where the step is not known; else −1 */
    const char *stage;        /* "": not known; owned by the accumulator */
    uint32_t sources;         /* how many sources' rows are here */
    bool whole;               /* a row of all ranks together is here */
    bool complete;            /* whole, or every rank of the communicator is here */
    bool of_requests;         /* added up from rows of single requests */
    uint64_t total;           /* tokens × copies */
    uint64_t tokens;          /* 0: not known of all rows */
};

/** A copy of an expert, and where it lies. */
struct skew_slot {
    uint32_t expert, rank;
};

/** One MoE layer of one communicator (or of none). Owned by the accumulator. */
struct skew_routing_layer {
    const char *comm_key; /* "": none */
    int64_t layer;        /* −1: not known */
    uint32_t experts;
    uint32_t topk;  /* 0: not known, or not the same in all rows */
    uint32_t ranks; /* of the communicator; 0: none */
    bool physical;  /* counts are of slots */

    size_t calls; /* ordered by step, microbatch, stage */
    const struct skew_routing_call *call;
    const uint64_t *counts; /* [calls][experts], summed over sources */

    size_t requests;
    const int64_t *request;         /* [requests], ascending */
    const uint64_t *request_counts; /* [requests][experts], summed over calls; 0 of them: NULL */

    uint32_t sources;              /* largest source rank + 1; 0: rows are of all ranks together */
    const uint64_t *source_tokens; /* [calls][sources]: tokens × copies of each source */
    const uint64_t *source_counts; /* [sources][experts], summed over calls; 0 sources: NULL */
    const uint32_t *cube;          /* [calls][sources][experts]; NULL unless SKEW_ROUTING_CUBE */

    /* coverage */
    uint64_t rows, verified_rows;
    uint64_t missing;    /* (call, source) pairs that are not here */
    size_t complete;     /* calls of which every source is here */
    uint64_t duplicates; /* rows that several databases have, counted once */
    uint64_t conflicts;  /* … whose counts differ */
    const char *how;     /* routing.source of the first row; "" none */

    size_t slots; /* of table placement; 0: not there, contiguous */
    const struct skew_slot *slot;
};

/** Ordered by communicator's key, layer, experts. [count] pointers; borrowed. */
const struct skew_routing_layer *const *skew_routing_layers(const struct skew_routing *routing,
                                                            size_t *count);

/* ---- derived --------------------------------------------------------------------------------- */

/** How calls are put together before anything is computed of them. */
enum skew_routing_by {
    SKEW_BY_CALL,   /* not at all: step, microbatch and stage apart: what one dispatch sees */
    SKEW_BY_STEP,   /* a step's microbatches together */
    SKEW_BY_REQUEST /* a request's whole life; only where requests are known */
};

/** Counts of one layer, one row after the other in time (or by request). */
struct skew_series {
    size_t rows;
    uint32_t experts;
    double *counts; /* [rows][experts], tokens × copies */
    double *total;  /* [rows] */
    int64_t *id;    /* [rows]: step (−1: not known), or request */
};

/**
 * @param complete only calls of which every source is here: others would look like imbalance.
 * @return 0; -ENOENT nothing is left; -ENOMEM. On success the caller frees with skew_series_free().
 */
int skew_series_of(struct skew_series *series, const struct skew_routing_layer *layer,
                   enum skew_routing_by by, bool complete);
void skew_series_free(struct skew_series *series);

/**
 * Where experts lie when they are spread over `ranks` ranks: the table placement if it is of that
 * many ranks, else contiguous (expert e on rank e / (E / R)).
 * @param slots [layer->slots or layer->experts], filled. @param count how many.
 * @return 0, or -EINVAL: `ranks` does not divide the experts and no table says otherwise.
 */
int skew_routing_slots(const struct skew_routing_layer *layer, uint32_t ranks,
                       struct skew_slot *slots, size_t *count);

/**
 * loads[ranks] from counts[experts]. An expert with c copies gives 1/c of its tokens to each
 * (EPLB's assumption). `copies` [experts]: as skew_slot_copies() fills it.
 */
void skew_slot_copies(const struct skew_slot *slots, size_t count, uint32_t experts,
                      uint32_t *copies);
void skew_slot_loads(const struct skew_slot *slots, size_t count, const uint32_t *copies,
                     const double *counts, uint32_t ranks, double *loads);

/** One call of one layer. */
struct skew_routing_at {
    const struct skew_routing_layer *layer;
    size_t call;
};

/** All calls of all layers by step, micro-batch and layer. 0 or -ENOMEM; the caller frees *out. */
int skew_routing_in_time(const struct skew_routing *routing, struct skew_routing_at **out,
                         size_t *count);

/**
 * Token copies from each rank to each, a rank's own included: copies[ranks][ranks], row the source.
 * Needs SKEW_ROUTING_CUBE.
 * @return 0; -ENODATA: rows of some sources are missing, or all ranks are put together; -EINVAL as
 *         skew_routing_slots(); -ENOMEM.
 */
int skew_routing_matrix(const struct skew_routing_at *at, double *copies);

#endif
