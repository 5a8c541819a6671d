/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of routing share: a row as the table has it, still packed, so that an accumulator
 * can keep it at a byte or two a cell and decode each cell once.
 */
#ifndef SKEW_ROUTING_PRIVATE_H
#define SKEW_ROUTING_PRIVATE_H

#include "routing.h"
#include "trace_private.h"

/* Big-endian unsigned integers: `width` bytes each, `stride` from one to the next (0: all equal).
 */
struct skew_packed {
    const uint8_t *bytes;
    uint32_t cells, width, stride;
    uint64_t unit;
};

struct skew_packed_row {
    struct skew_routing_row row; /* counts and total are not set */
    struct skew_packed sizes;    /* cell e: expert e. Valid until the next row */
};

typedef int skew_packed_fn(void *accumulator, const struct skew_packed_row *row);

int skew_routing_each_packed(struct skew_trace *trace, const struct skew_routing_filter *filter,
                             skew_packed_fn *take, void *accumulator, struct skew_error *error);

/* 1 or 0; older traces lack tables. */
int skew_routing_has_table(struct skew_trace *trace, const char *name, struct skew_error *error);
/* The one number that `sql` on table routing gives; 0 when there is no such table. */
int skew_routing_number(struct skew_trace *trace, const char *sql, int64_t *value,
                        struct skew_error *error);

/* into[cells] += sizes × unit; false when that goes beyond 64 bits. */
bool skew_packed_add(const struct skew_packed *packed, uint64_t *into);

/* As skew_routing_add, without decoding. `database` tells rows of different databases apart. */
int skew_routing_add_packed(struct skew_routing *routing, const struct skew_packed_row *row,
                            uint32_t database);

/* Adds rows that another thread has read from the same database; `other` becomes empty. */
int skew_routing_join(struct skew_routing *routing, struct skew_routing *other);

/* The table placement of one database, for the layers that are here. */
int skew_routing_placement(struct skew_routing *routing, struct skew_trace *trace,
                           struct skew_error *error);

/* Of routing.c, for finishing. */
struct stored_row {
    uint32_t layer, call;
    int32_t source;
    int64_t request;
    uint32_t database;
    uint32_t verified;
    int64_t tokens;
    struct skew_packed sizes; /* in the accumulator's own memory */
};

struct placed_slot {
    char *comm_key;
    int64_t layer;
    uint32_t slot;
    struct skew_slot at;
};

struct call_key {
    int64_t step, microbatch, ordinal;
    uint32_t stage; /* index into stages */
    bool of_requests;
};

struct building {
    struct skew_routing_layer layer; /* what is shown, once finished */
    char *comm_key, *how;
    struct call_key *calls;
    size_t call_count, call_capacity;
    uint32_t *table; /* hash of calls: index + 1 */
    size_t table_size;
    bool topk_mixed;
    struct skew_slot *slots;
};

struct skew_routing {
    unsigned keep;
    bool finished;
    uint32_t databases; /* that have been read */
    struct building *layers;
    size_t layer_count, last_layer;
    struct stored_row *rows;
    size_t row_count, row_capacity;
    char **stages; /* [0] is "" */
    size_t stage_count;
    uint8_t **blocks; /* memory of packed sizes */
    size_t block_count, block_used, block_size;
    struct placed_slot *placed;
    size_t placed_count;
    const struct skew_routing_layer **shown; /* [layer_count] */
};

#endif
