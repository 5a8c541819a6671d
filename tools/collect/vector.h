/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Per-peer sizes in the compact form of the table `vector` (schema/trace.sql, docs/schema.md):
 * encoding, and the memory of which vectors the database already has. No SQL here.
 */
#ifndef SKEW_COLLECT_VECTOR_H
#define SKEW_COLLECT_VECTOR_H

#include <stddef.h>
#include <stdint.h>

/* Cells in the order of the calls, as a caller collects them. */
struct skew_cells {
    uint64_t *bytes;
    uint32_t *peers;
    size_t count;
    size_t room;
};

/* One row of `vector`, without its id. `sizes` and `peers` point into `buffer`. */
struct skew_vector {
    uint64_t unit; /* bytes; belongs to the exchange */
    uint64_t total;
    uint64_t largest;
    uint64_t cells;
    uint8_t size_width, size_stride, peer_width, peer_stride;
    const uint8_t *sizes, *peers; /* peers NULL: 0, 1, 2, … */
    size_t sizes_bytes, peers_bytes;
    uint8_t *buffer; /* what is hashed: the four small numbers, cells, sizes, peers */
    size_t used, room;
};

/** Makes room for so many cells in all. @return 0 or −ENOMEM */
int skew_cells_reserve(struct skew_cells *cells, size_t room);

/** Adds a cell to an array with room for it. */
static inline void skew_cells_add(struct skew_cells *cells, uint64_t bytes, uint32_t peer)
{
    cells->bytes[cells->count] = bytes;
    cells->peers[cells->count++] = peer;
}
void skew_cells_free(struct skew_cells *cells);

/** Encodes at least one cell. Reuses out->buffer. @return 0 or −ENOMEM. */
int skew_vector_encode(struct skew_vector *out, const struct skew_cells *cells);

/** Encodes `cells` equal cells of `bytes` to the peers 0, 1, 2, …: an all-to-all. */
int skew_vector_encode_equal(struct skew_vector *out, uint64_t cells, uint64_t bytes);

/** Encodes what a row of `vector` holds, so that the memory below can be filled from a database. */
int skew_vector_encode_row(struct skew_vector *out, const struct skew_vector *row);
void skew_vector_free(struct skew_vector *vector);

/* Which vectors are stored already: 128-bit hash → vector_id. Two generations of bounded size; one
 * that was forgotten is stored twice, which costs space and nothing else. */
struct skew_vector_slot {
    uint64_t low, high;
    int64_t id; /* 0: empty */
};
struct skew_vector_set {
    struct skew_vector_slot *now, *before;
    size_t slots_now, slots_before;
    size_t count, limit;
};

int skew_vector_set_init(struct skew_vector_set *set, size_t limit);
void skew_vector_set_free(struct skew_vector_set *set);

/** @return the id of an equal vector, or 0 after remembering `id` for this one. */
int64_t skew_vector_set_find(struct skew_vector_set *set, const struct skew_vector *vector,
                             int64_t id);

#endif
