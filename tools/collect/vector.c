/* SPDX-License-Identifier: Apache-2.0 */
/* See vector.h. The encoding is canonical: equal cells give equal bytes, whoever encodes them. */
#include "vector.h"
#include "arithmetic.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define PREFIX 16u /* widths, strides, cells: hashed before the bytes */

int skew_cells_reserve(struct skew_cells *cells, size_t room)
{
    if (room <= cells->room)
        return 0;
    uint64_t *more_bytes = realloc(cells->bytes, room * 2 * sizeof *more_bytes);
    if (!more_bytes)
        return -ENOMEM;
    cells->bytes = more_bytes;
    uint32_t *more_peers = realloc(cells->peers, room * 2 * sizeof *more_peers);
    if (!more_peers)
        return -ENOMEM;
    cells->peers = more_peers;
    cells->room = room * 2;
    return 0;
}

void skew_cells_free(struct skew_cells *cells)
{
    free(cells->bytes);
    free(cells->peers);
    *cells = (struct skew_cells){0};
}

/* The largest number of bytes that divides every cell; 1 when all are zero. */
static uint64_t unit_of(const struct skew_cells *cells)
{
    uint64_t unit = 0;
    for (size_t i = 0; i < cells->count && unit != 1; i++)
        if (!unit || cells->bytes[i] % unit)
            unit = skew_gcd(unit, cells->bytes[i]);
    return unit ? unit : 1;
}

static uint8_t width_of(uint64_t largest)
{
    return largest ? (uint8_t)((71 - __builtin_clzll(largest)) / 8) : 1;
}

static uint8_t *put(uint8_t *to, uint64_t value, uint8_t width)
{
    for (unsigned shift = width * 8u; shift;) {
        shift -= 8;
        *to++ = (uint8_t)(value >> shift);
    }
    return to;
}

static int reserve(struct skew_vector *out, size_t size)
{
    if (size <= out->room)
        return 0;
    uint8_t *buffer = realloc(out->buffer, size * 2);
    if (!buffer)
        return -ENOMEM;
    out->buffer = buffer;
    out->room = size * 2;
    return 0;
}

static void put_prefix(struct skew_vector *out)
{
    memset(out->buffer, 0, PREFIX);
    out->buffer[0] = out->size_width;
    out->buffer[1] = out->size_stride;
    out->buffer[2] = out->peer_width;
    out->buffer[3] = out->peer_stride;
    out->buffer[4] = out->peers != NULL;
    put(out->buffer + 8, out->cells, 8);
}

static void put_sizes(struct skew_vector *out, const struct skew_cells *cells)
{
    uint8_t *at = out->buffer + PREFIX, width = out->size_width;
    out->sizes = at;
    if (!out->size_stride)
        at = put(at, out->largest, width);
    else if (out->unit == 1)
        for (size_t i = 0; i < cells->count; i++)
            at = put(at, cells->bytes[i], width);
    else
        for (size_t i = 0; i < cells->count; i++)
            at = put(at, cells->bytes[i] / out->unit, width);
    out->sizes_bytes = (size_t)(at - out->sizes);
}

static void put_peers(struct skew_vector *out, const struct skew_cells *cells)
{
    uint8_t *at = out->buffer + PREFIX + out->sizes_bytes;
    uint32_t largest = 0;
    bool ordered = true, equal = true;
    for (size_t i = 0; i < cells->count; i++) {
        uint32_t peer = cells->peers[i];
        ordered &= peer == i;
        equal &= peer == cells->peers[0];
        largest = peer > largest ? peer : largest;
    }
    out->peers = NULL;
    out->peers_bytes = 0;
    out->peer_width = out->peer_stride = 0;
    if (ordered)
        return;
    out->peers = at;
    out->peer_width = width_of(largest);
    out->peer_stride = equal ? 0 : out->peer_width;
    for (size_t i = 0; i < (equal ? 1 : cells->count); i++)
        at = put(at, cells->peers[i], out->peer_width);
    out->peers_bytes = (size_t)(at - out->peers);
}

int skew_vector_encode(struct skew_vector *out, const struct skew_cells *cells)
{
    if (reserve(out, PREFIX + cells->count * 12))
        return -ENOMEM;
    uint64_t largest = 0, total = 0, unit = unit_of(cells);
    bool equal = true;
    for (size_t i = 0; i < cells->count; i++) {
        uint64_t bytes = cells->bytes[i];
        equal &= bytes == cells->bytes[0];
        largest = bytes > largest ? bytes : largest;
        if (__builtin_add_overflow(total, bytes, &total) || total > INT64_MAX)
            total = INT64_MAX; /* only a damaged spool gets here */
    }
    out->unit = unit;
    out->cells = cells->count;
    out->largest = largest / unit;
    out->total = total / unit;
    out->size_width = width_of(out->largest);
    out->size_stride = equal ? 0 : out->size_width;
    put_sizes(out, cells);
    put_peers(out, cells);
    put_prefix(out);
    out->used = PREFIX + out->sizes_bytes + out->peers_bytes;
    return 0;
}

int skew_vector_encode_equal(struct skew_vector *out, uint64_t cells, uint64_t bytes)
{
    uint64_t total;
    if (reserve(out, PREFIX + 8))
        return -ENOMEM;
    out->unit = bytes ? bytes : 1;
    out->largest = bytes ? 1 : 0;
    out->cells = cells;
    total = cells * out->largest;
    out->total = total;
    out->size_width = 1;
    out->size_stride = out->peer_width = out->peer_stride = 0;
    out->sizes = out->buffer + PREFIX;
    out->buffer[PREFIX] = (uint8_t)out->largest;
    out->sizes_bytes = 1;
    out->peers = NULL;
    out->peers_bytes = 0;
    put_prefix(out);
    out->used = PREFIX + 1;
    return 0;
}

int skew_vector_encode_row(struct skew_vector *out, const struct skew_vector *row)
{
    if (reserve(out, PREFIX + row->sizes_bytes + row->peers_bytes))
        return -ENOMEM;
    out->cells = row->cells;
    out->size_width = row->size_width;
    out->size_stride = row->size_stride;
    out->peer_width = row->peer_width;
    out->peer_stride = row->peer_stride;
    out->peers = row->peers;
    put_prefix(out);
    memcpy(out->buffer + PREFIX, row->sizes, row->sizes_bytes);
    if (row->peers_bytes)
        memcpy(out->buffer + PREFIX + row->sizes_bytes, row->peers, row->peers_bytes);
    out->used = PREFIX + row->sizes_bytes + row->peers_bytes;
    return 0;
}

void skew_vector_free(struct skew_vector *vector)
{
    free(vector->buffer);
    *vector = (struct skew_vector){0};
}

/* ---- which vectors are stored ---------------------------------------------------------------- */

#define SLOTS_MIN 1024u

int skew_vector_set_init(struct skew_vector_set *set, size_t limit)
{
    *set = (struct skew_vector_set){.limit = limit, .slots_now = SLOTS_MIN};
    set->now = calloc(set->slots_now, sizeof *set->now);
    return set->now ? 0 : -ENOMEM;
}

void skew_vector_set_free(struct skew_vector_set *set)
{
    free(set->now);
    free(set->before);
    *set = (struct skew_vector_set){0};
}

static struct skew_vector_slot *find_slot(struct skew_vector_slot *slots, size_t count,
                                          uint64_t low, uint64_t high)
{
    size_t at = (size_t)low & (count - 1);
    while (slots[at].id && (slots[at].low != low || slots[at].high != high))
        at = (at + 1) & (count - 1);
    return &slots[at];
}

/* Makes room for one more. Without memory the table simply forgets. */
static void make_room(struct skew_vector_set *set)
{
    if (set->count * 2 < set->slots_now)
        return;
    if (set->count < set->limit) {
        size_t slots = set->slots_now * 2;
        struct skew_vector_slot *larger = calloc(slots, sizeof *larger);
        if (larger) {
            for (size_t i = 0; i < set->slots_now; i++)
                if (set->now[i].id)
                    *find_slot(larger, slots, set->now[i].low, set->now[i].high) = set->now[i];
            free(set->now);
            set->now = larger;
            set->slots_now = slots;
            return;
        }
    }
    struct skew_vector_slot *swap = set->slots_before == set->slots_now ? set->before : NULL;
    if (!swap) {
        free(set->before);
        swap = calloc(set->slots_now, sizeof *swap);
    } else {
        memset(swap, 0, set->slots_now * sizeof *swap);
    }
    if (swap) {
        set->before = set->now;
        set->slots_before = set->slots_now;
        set->now = swap;
    } else {
        set->before = NULL;
        set->slots_before = 0;
        memset(set->now, 0, set->slots_now * sizeof *set->now);
    }
    set->count = 0;
}

int64_t skew_vector_set_find(struct skew_vector_set *set, const struct skew_vector *vector,
                             int64_t id)
{
    XXH128_hash_t hash = XXH3_128bits(vector->buffer, vector->used);
    struct skew_vector_slot *slot = find_slot(set->now, set->slots_now, hash.low64, hash.high64);
    int64_t known = slot->id;
    if (known)
        return known;
    if (set->before)
        known = find_slot(set->before, set->slots_before, hash.low64, hash.high64)->id;
    make_room(set);
    slot = find_slot(set->now, set->slots_now, hash.low64, hash.high64);
    *slot = (struct skew_vector_slot){hash.low64, hash.high64, known ? known : id};
    set->count++;
    return known;
}
