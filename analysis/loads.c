/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each rank received in each exchange of one communicator. A hash table from seq to a row of R
 * loads, so that exchanges may come in any order and from any database.
 */
#include "trace_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct row {
    int64_t seq;    /* −1: free */
    uint32_t ranks; /* how many ranks have been added */
    uint64_t
        edges; /* sum of hashes of sent edges minus those of received ones: 0 when they agree */
};

struct skew_loads {
    uint32_t ranks;
    size_t count;
    size_t capacity; /* a power of two, or 0 */
    struct row *rows;
    uint64_t *bytes; /* [capacity][ranks] */
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

int skew_loads_create(struct skew_loads **out, uint32_t ranks)
{
    *out = NULL;
    if (ranks == 0 || ranks > SKEW_RANKS_MAX)
        return -EINVAL;
    *out = calloc(1, sizeof **out);
    if (!*out)
        return -ENOMEM;
    (*out)->ranks = ranks;
    return 0;
}

void skew_loads_free(struct skew_loads **loads)
{
    if (*loads) {
        free((*loads)->rows);
        free((*loads)->bytes);
    }
    free(*loads);
    *loads = NULL;
}

static size_t slot_of(const struct skew_loads *loads, int64_t seq)
{
    size_t slot = mix((uint64_t)seq) & (loads->capacity - 1);

    while (loads->rows[slot].seq != seq && loads->rows[slot].seq != -1)
        slot = (slot + 1) & (loads->capacity - 1);
    return slot;
}

static int enlarge(struct skew_loads *loads)
{
    struct skew_loads bigger = {.ranks = loads->ranks,
                                .count = loads->count,
                                .capacity = loads->capacity ? loads->capacity * 2 : 64};

    bigger.rows = malloc(bigger.capacity * sizeof *bigger.rows);
    bigger.bytes = calloc(bigger.capacity, loads->ranks * sizeof *bigger.bytes);
    if (!bigger.rows || !bigger.bytes) {
        free(bigger.rows);
        free(bigger.bytes);
        return -ENOMEM;
    }
    for (size_t i = 0; i < bigger.capacity; i++)
        bigger.rows[i] = (struct row){.seq = -1};
    for (size_t i = 0; i < loads->capacity; i++) {
        if (loads->rows[i].seq == -1)
            continue;
        size_t slot = slot_of(&bigger, loads->rows[i].seq);
        bigger.rows[slot] = loads->rows[i];
        memcpy(bigger.bytes + slot * loads->ranks, loads->bytes + i * loads->ranks,
               loads->ranks * sizeof *bigger.bytes);
    }
    free(loads->rows);
    free(loads->bytes);
    *loads = bigger;
    return 0;
}

/* The row of `seq`, made when there is none; NULL without memory. */
static struct row *row_of(struct skew_loads *loads, int64_t seq, uint64_t **bytes)
{
    if (loads->count * 4 >= loads->capacity * 3 && enlarge(loads) < 0)
        return NULL;
    size_t slot = slot_of(loads, seq);
    if (loads->rows[slot].seq == -1) {
        loads->rows[slot].seq = seq;
        loads->count++;
    }
    *bytes = loads->bytes + slot * loads->ranks;
    return &loads->rows[slot];
}

static uint64_t edges_hash(const struct skew_vector *v, uint64_t unit, uint32_t rank, bool sending)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; v && i < v->cells; i++) {
        uint64_t peer = skew_vector_peer(v, i);
        uint64_t pair = sending ? (uint64_t)rank << 32 | peer : peer << 32 | rank;
        if (v->sizes[i]) /* zero sizes may be skipped on one side */
            sum += mix(mix(pair + 1) ^ v->sizes[i] * unit);
    }
    return sum;
}

int skew_loads_add(void *accumulator, const struct skew_exchange *exchange)
{
    struct skew_loads *loads = accumulator;
    int32_t rank = exchange->member->rank;
    uint64_t *bytes;

    if (rank < 0 || (uint32_t)rank >= loads->ranks)
        return 0;
    struct row *row = row_of(loads, exchange->seq, &bytes);
    if (!row)
        return -ENOMEM;
    bytes[rank] += skew_exchange_recv_bytes(exchange);
    row->ranks++;
    row->edges += edges_hash(exchange->send, exchange->send_unit, (uint32_t)rank, true) -
                  edges_hash(exchange->recv, exchange->recv_unit, (uint32_t)rank, false);
    return 0;
}

int skew_loads_merge(struct skew_loads *loads, const struct skew_loads *other)
{
    if (loads->ranks != other->ranks)
        return -EINVAL;
    for (size_t i = 0; i < other->capacity; i++) {
        uint64_t *bytes;
        if (other->rows[i].seq == -1)
            continue;
        struct row *row = row_of(loads, other->rows[i].seq, &bytes);
        if (!row)
            return -ENOMEM;
        row->ranks += other->rows[i].ranks;
        row->edges += other->rows[i].edges;
        for (uint32_t r = 0; r < loads->ranks; r++)
            bytes[r] += other->bytes[i * loads->ranks + r];
    }
    return 0;
}

/* max / mean of one row; NaN when it moved nothing. */
static double row_skew(const uint64_t *bytes, uint32_t ranks, uint32_t *max_rank)
{
    double sum = 0;

    *max_rank = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        sum += (double)bytes[r];
        if (bytes[r] > bytes[*max_rank])
            *max_rank = r;
    }
    return sum == 0 ? NAN : (double)bytes[*max_rank] * ranks / sum;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int skew_loads_summary(const struct skew_loads *loads, struct skew_summary *summary)
{
    double *skews = malloc((loads->count + 1) * sizeof *skews);
    size_t count = 0;

    *summary =
        (struct skew_summary){.exchanges = loads->count, .median = NAN, .max = NAN, .max_seq = -1};
    if (!skews)
        return -ENOMEM;
    for (size_t i = 0; i < loads->capacity; i++) {
        const struct row *row = &loads->rows[i];
        uint32_t rank;
        if (row->seq == -1 || row->ranks != loads->ranks)
            continue;
        summary->complete++;
        summary->unequal += row->edges != 0;
        double skew = row_skew(loads->bytes + i * loads->ranks, loads->ranks, &rank);
        if (isnan(skew)) {
            summary->empty++;
            continue;
        }
        skews[count++] = skew;
        /* Among equals the first in time, so that the result does not depend on the table. */
        if (isnan(summary->max) || skew > summary->max ||
            (skew == summary->max && row->seq < summary->max_seq)) {
            summary->max = skew;
            summary->max_seq = row->seq;
            summary->max_rank = rank;
        }
    }
    if (count) {
        qsort(skews, count, sizeof *skews, compare_doubles);
        summary->median =
            count % 2 ? skews[count / 2] : (skews[count / 2 - 1] + skews[count / 2]) / 2;
    }
    free(skews);
    return 0;
}
