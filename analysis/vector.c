/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed per-peer sizes (table vector), decoded. Vectors repeat, so a small cache answers most
 * lookups; it is two-way associative, which is what lets the two vectors of one exchange be held at
 * once. Nothing read here is believed: widths, lengths and sums are checked.
 */
#include "trace_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SETS 512u
#define WAYS 2u

struct entry {
    struct skew_vector vector; /* id 0: unused; its pointers are the arrays below, or NULL */
    uint64_t *sizes;
    uint32_t *peers;
    uint32_t capacity; /* of both arrays */
    uint64_t used;     /* when */
};

struct skew_vector_cache {
    sqlite3_stmt *select;
    uint64_t clock;
    struct entry entries[SETS][WAYS];
};

static int corrupt(const struct skew_trace *trace, int64_t id, const char *what,
                   struct skew_error *error)
{
    skew_error_set(error, "%s: is damaged: vector %lld %s", trace->path, (long long)id, what);
    return -EBADMSG;
}

static int reserve(struct entry *entry, uint32_t cells)
{
    if (cells <= entry->capacity)
        return 0;
    uint64_t *sizes = realloc(entry->sizes, cells * sizeof *sizes);
    if (sizes)
        entry->sizes = sizes;
    uint32_t *peers = realloc(entry->peers, cells * sizeof *peers);
    if (peers)
        entry->peers = peers;
    if (!sizes || !peers)
        return -ENOMEM;
    entry->capacity = cells;
    return 0;
}

/* Where column `blob` holds `cells` values of width and stride, or NULL. */
static const uint8_t *packed(sqlite3_stmt *s, int blob, uint32_t cells, int64_t width,
                             int64_t stride)
{
    if (stride != 0 && stride != width)
        return NULL;
    uint64_t need = cells == 0 ? 0 : (uint64_t)(cells - 1) * (uint64_t)stride + (uint64_t)width;
    const void *bytes = sqlite3_column_blob(s, blob);
    if ((uint64_t)sqlite3_column_bytes(s, blob) < need)
        return NULL;
    return bytes ? bytes : (const uint8_t *)"";
}

static int decode_sizes(struct skew_trace *trace, struct entry *entry, const uint8_t *bytes,
                        int64_t width, int64_t stride, struct skew_error *error)
{
    struct skew_vector *v = &entry->vector;
    uint64_t total = 0, largest = 0;

    for (uint32_t i = 0; i < v->cells; i++) {
        uint64_t size = skew_big_endian(bytes + (size_t)i * (size_t)stride, (uint32_t)width);
        entry->sizes[i] = size;
        if (size > largest)
            largest = size;
        if (__builtin_add_overflow(total, size, &total))
            return corrupt(trace, v->id, "holds sizes beyond 64 bits", error);
    }
    if (total != v->total || largest != v->largest)
        return corrupt(trace, v->id, "does not add up to its own total", error);
    return 0;
}

static int decode(struct skew_trace *trace, sqlite3_stmt *s, struct entry *entry,
                  struct skew_error *error)
{
    struct skew_vector *v = &entry->vector;
    int64_t cells, width, stride, peer_width, peer_stride, total, largest;

    if (!skew_sql_between(s, 0, 0, SKEW_CELLS_MAX, &cells) ||
        !skew_sql_between(s, 1, 0, INT64_MAX, &total) ||
        !skew_sql_between(s, 2, 0, INT64_MAX, &largest) || !skew_sql_between(s, 3, 1, 8, &width) ||
        !skew_sql_between(s, 4, 0, 8, &stride))
        return corrupt(trace, v->id, "has numbers out of range", error);
    v->cells = (uint32_t)cells;
    v->total = (uint64_t)total;
    v->largest = (uint64_t)largest;
    const uint8_t *sizes = packed(s, 7, v->cells, width, stride);
    if (!sizes)
        return corrupt(trace, v->id, "is shorter than it says", error);
    if (reserve(entry, v->cells) < 0) {
        skew_error_set(error, "%s: out of memory", trace->path);
        return -ENOMEM;
    }
    int result = decode_sizes(trace, entry, sizes, width, stride, error);
    if (result < 0)
        return result;
    v->sizes = entry->sizes;
    v->peers = NULL;
    if (sqlite3_column_type(s, 8) == SQLITE_NULL)
        return 0;
    if (!skew_sql_between(s, 5, 1, 8, &peer_width) || !skew_sql_between(s, 6, 0, 8, &peer_stride))
        return corrupt(trace, v->id, "has numbers out of range", error);
    const uint8_t *peers = packed(s, 8, v->cells, peer_width, peer_stride);
    if (!peers)
        return corrupt(trace, v->id, "is shorter than it says", error);
    for (uint32_t i = 0; i < v->cells; i++) {
        uint64_t peer =
            skew_big_endian(peers + (size_t)i * (size_t)peer_stride, (uint32_t)peer_width);
        entry->peers[i] = peer > UINT32_MAX ? UINT32_MAX : (uint32_t)peer;
    }
    v->peers = entry->peers;
    return 0;
}

static int cache_open(struct skew_trace *trace, struct skew_error *error)
{
    if (trace->vectors)
        return 0;
    trace->vectors = calloc(1, sizeof *trace->vectors);
    if (!trace->vectors) {
        skew_error_set(error, "%s: out of memory", trace->path);
        return -ENOMEM;
    }
    int result = skew_sql_prepare(trace, &trace->vectors->select,
                                  "SELECT cells, total, largest, size_width, size_stride, "
                                  "peer_width, peer_stride, sizes, peers"
                                  " FROM vector WHERE vector_id = ?",
                                  error);
    if (result < 0)
        skew_vector_cache_free(&trace->vectors);
    return result;
}

static int fetch(struct skew_trace *trace, struct entry *entry, int64_t id,
                 struct skew_error *error)
{
    sqlite3_stmt *s = trace->vectors->select;
    int result;

    entry->vector = (struct skew_vector){.id = id};
    sqlite3_bind_int64(s, 1, id);
    int step = sqlite3_step(s);
    if (step == SQLITE_ROW)
        result = decode(trace, s, entry, error);
    else if (step == SQLITE_DONE)
        result = corrupt(trace, id, "is missing", error);
    else
        result = skew_trace_sql_error(trace, error);
    sqlite3_reset(s);
    if (result < 0)
        entry->vector.id = 0;
    return result;
}

int skew_vector_get(struct skew_trace *trace, int64_t id, const struct skew_vector **out,
                    struct skew_error *error)
{
    int result = cache_open(trace, error);
    if (result < 0)
        return result;

    struct skew_vector_cache *cache = trace->vectors;
    struct entry *set = cache->entries[(uint64_t)id % SETS];
    struct entry *oldest = &set[0];
    for (uint32_t way = 0; way < WAYS; way++) {
        if (set[way].vector.id == id && id != 0) {
            set[way].used = ++cache->clock;
            *out = &set[way].vector;
            return 0;
        }
        if (set[way].used < oldest->used)
            oldest = &set[way];
    }
    oldest->used = ++cache->clock;
    *out = &oldest->vector;
    return fetch(trace, oldest, id, error);
}

void skew_vector_cache_free(struct skew_vector_cache **cache)
{
    struct skew_vector_cache *c = *cache;

    *cache = NULL;
    if (!c)
        return;
    sqlite3_finalize(c->select);
    for (uint32_t set = 0; set < SETS; set++) {
        for (uint32_t way = 0; way < WAYS; way++) {
            free(c->entries[set][way].sizes);
            free(c->entries[set][way].peers);
        }
    }
    free(c);
}
