/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Classes of exchanges by their shape, and the keys by which exchanges are recognised again and
 * their way back is found: see label_private.h.
 */
#include "label_private.h"

#include <errno.h>
#include <stdlib.h>

#include "nccl_abi.h"

#define INTEGER_BYTES_MAX (1u << 18) /* of a whole count exchange */
#define P2P_PEERS_MAX     4          /* next and previous stage, of two model chunks */

static const struct skew_rows_vector *side(const struct skew_rows *rows, uint32_t index)
{
    return index ? &rows->vectors[index - 1] : NULL;
}

/* Distinct peers of a vector that lists them, and whether `self` is one. */
static int look_at_peers(struct skew_rows *rows, uint32_t index, int32_t self, uint32_t *peers,
                         bool *with_self, struct skew_error *error)
{
    const struct skew_vector *v;
    uint32_t distinct = 0;
    int result;

    if (!index) {
        *peers = 0;
        *with_self = false;
        return 0;
    }
    if (!rows->vectors[index - 1].listed) {
        *peers = rows->vectors[index - 1].cells;
        *with_self = self >= 0 && (uint32_t)self < *peers;
        return 0;
    }
    result = skew_vector_get(rows->trace, rows->vectors[index - 1].id, &v, error);
    if (result < 0)
        return result;
    *with_self = false;
    for (uint32_t i = 0; i < v->cells; i++) {
        uint32_t j = 0;
        /* lists longer than this hold every peer several times: ragged all-to-alls */
        while (j < i && j < 4096 && v->peers[j] != v->peers[i])
            j++;
        distinct += j == i;
        *with_self |= (int64_t)v->peers[i] == self;
    }
    *peers = distinct;
    return 0;
}

static bool is_integer(int32_t dtype)
{
    return dtype >= ncclInt32 && dtype <= ncclUint64;
}

/* The class of one exchange by itself; UNIFORM and P2P are reconsidered with all others. */
static int first_class(struct skew_rows *rows, struct skew_rows_exchange *x,
                       struct skew_error *error)
{
    const struct skew_member *m = rows->members[x->member].member;
    const struct skew_rows_vector *s = side(rows, x->send), *r = side(rows, x->recv);
    uint32_t ranks = m->comm->ranks, to, from;
    bool self_to, self_from;
    int result = look_at_peers(rows, x->send, m->rank, &to, &self_to, error);

    if (result == 0)
        result = look_at_peers(rows, x->recv, m->rank, &from, &self_from, error);
    if (result < 0)
        return result;
    x->self = self_to || self_from;
    x->class = SKEW_CLASS_NONE;
    if (ranks < 2 || (!s && !r))
        return 0;
    x->class = SKEW_CLASS_SIZES;
    if (to < ranks || from < ranks) {
        if (!x->self && to <= P2P_PEERS_MAX && from <= P2P_PEERS_MAX)
            x->class = SKEW_CLASS_P2P;
    } else if (s->uniform && r->uniform && x->send_bytes == x->recv_bytes && s->total) {
        bool small = x->send_bytes <= INTEGER_BYTES_MAX && is_integer(x->dtype);
        x->class = small ? SKEW_CLASS_INTEGER : SKEW_CLASS_UNIFORM;
    }
    return 0;
}

/* What all exchanges of one communicator, operation and data type have in common. */
struct kind {
    uint32_t comm;
    int32_t op, dtype;
    bool differs; /* one of them has sizes that differ */
    bool whole;   /* one of them goes to all ranks */
};

static struct kind *kind_of(struct kind *kinds, size_t *count, uint32_t comm,
                            const struct skew_rows_exchange *x)
{
    for (size_t i = 0; i < *count; i++)
        if (kinds[i].comm == comm && kinds[i].op == x->op && kinds[i].dtype == x->dtype)
            return &kinds[i];
    kinds[*count] = (struct kind){.comm = comm, .op = x->op, .dtype = x->dtype};
    return &kinds[(*count)++];
}

/* An exchange that happens to be even among others that are not, and a group of few peers among
 * those of experts, are like the others. */
static int reconsider(struct skew_rows *rows)
{
    size_t count = 0, room = rows->comm_count * 64 + 1;
    struct kind *kinds = calloc(room, sizeof *kinds);

    if (!kinds)
        return -ENOMEM;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < rows->exchange_count; i++) {
            struct skew_rows_exchange *x = &rows->exchanges[i];
            uint32_t comm = rows->members[x->member].comm;
            if (x->class == SKEW_CLASS_NONE || count + 1 >= room)
                continue;
            struct kind *kind = kind_of(kinds, &count, comm, x);
            uint32_t ranks = rows->comms[comm].comm->ranks;
            const struct skew_rows_vector *s = side(rows, x->send), *r = side(rows, x->recv);
            bool whole = s && r && s->cells >= ranks && r->cells >= ranks;
            if (round == 0) {
                kind->whole |= whole;
                kind->differs |=
                    x->class == SKEW_CLASS_SIZES && ((s && s->total) || (r && r->total));
                rows->comms[comm].partial |= x->self && !whole;
            } else if (kind->differs && x->class == SKEW_CLASS_UNIFORM) {
                x->class = SKEW_CLASS_SIZES;
            } else if ((kind->whole || rows->comms[comm].partial) && x->class == SKEW_CLASS_P2P) {
                x->class = SKEW_CLASS_SIZES;
                rows->comms[comm].partial = true;
            }
        }
    }
    free(kinds);
    return 0;
}

/* ---- columns -----------------------------------------------------------------------------------
 */

struct place {
    uint32_t comm;
    uint32_t index;
    int64_t seq;
};

static int by_column(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->comm != y->comm)
        return x->comm < y->comm ? -1 : 1;
    if (x->seq != y->seq)
        return x->seq < y->seq ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* One past the last place of the column that begins at `from`. */
static size_t column_end(const struct place *places, size_t count, size_t from)
{
    size_t to = from + 1;
    while (to < count && places[to].comm == places[from].comm && places[to].seq == places[from].seq)
        to++;
    return to;
}

/* Whether the members' exchanges with one seq can be one exchange. */
static bool column_agrees(const struct skew_rows *rows, const struct place *places, size_t count)
{
    const struct skew_rows_exchange *first = &rows->exchanges[places[0].index];
    const struct skew_comm *comm = rows->comms[places[0].comm].comm;
    uint64_t sent = 0, received = 0;

    for (size_t i = 0; i < count; i++) {
        const struct skew_rows_exchange *x = &rows->exchanges[places[i].index];
        sent += x->send_bytes;
        received += x->recv_bytes;
        if (x->op != first->op || x->dtype != first->dtype)
            return false;
    }
    return count > comm->ranks ? false : count < comm->ranks || sent == received;
}

static uint64_t side_key(const struct skew_rows *rows, const struct skew_rows_exchange *x,
                         uint32_t index, uint64_t unit, uint64_t common)
{
    const struct skew_rows_vector *v = side(rows, index);
    uint64_t rank = (uint64_t)(uint32_t)rows->members[x->member].member->rank;

    if (!v)
        return skew_mix(rank ^ 0x6e6f6e65u);
    if (!v->total)
        return skew_mix(skew_mix(rank ^ 0x7a65726fu) ^ v->cells);
    return skew_mix(skew_mix(skew_mix(rank) ^ (uint64_t)v->id) ^ (common ? unit / common : 0));
}

static void make_keys(struct skew_rows *rows, const struct place *places, size_t count,
                      size_t members, int64_t least)
{
    uint64_t common = 0, a = 0, b = 0, sent = 0;

    for (size_t i = 0; i < count; i++) {
        const struct skew_rows_exchange *x = &rows->exchanges[places[i].index];
        if (x->send_bytes)
            common = skew_gcd(common, x->send_unit);
        if (x->recv_bytes)
            common = skew_gcd(common, x->recv_unit);
    }
    for (size_t i = 0; i < count; i++) {
        const struct skew_rows_exchange *x = &rows->exchanges[places[i].index];
        sent += x->send_bytes;
        a += side_key(rows, x, x->send, x->send_unit, common);
        b += side_key(rows, x, x->recv, x->recv_unit, common);
    }
    for (size_t i = 0; i < count; i++) {
        struct skew_rows_exchange *x = &rows->exchanges[places[i].index];
        x->key_a = a;
        x->key_b = b;
        x->unit = common;
        x->column_bytes = sent;
        x->partial = count < members;
        x->hole = x->partial && x->seq <= least;
    }
}

int skew_rows_classify(struct skew_rows *rows, struct skew_error *error)
{
    size_t n = rows->exchange_count;
    struct place *places = calloc(n + 1, sizeof *places);
    uint32_t *largest = calloc(rows->comm_count + 1, sizeof *largest); /* ranks in a column */
    int64_t *last = calloc(rows->member_count + 1, sizeof *last);      /* seq, of each member */
    int64_t *least = calloc(rows->comm_count + 1, sizeof *least);      /* of those */
    int result = places && largest && last && least ? 0 : -ENOMEM;

    for (size_t m = 0; result == 0 && m < rows->member_count; m++)
        last[m] = -1;
    for (size_t c = 0; result == 0 && c < rows->comm_count; c++)
        least[c] = INT64_MAX;

    for (size_t i = 0; i < n && result == 0; i++) {
        result = first_class(rows, &rows->exchanges[i], error);
        if (result < 0)
            goto out; /* explained */
        if (rows->exchanges[i].seq > last[rows->exchanges[i].member])
            last[rows->exchanges[i].member] = rows->exchanges[i].seq;
        places[i] = (struct place){rows->members[rows->exchanges[i].member].comm, (uint32_t)i,
                                   rows->exchanges[i].seq};
    }
    if (result == 0)
        result = reconsider(rows);
    if (result < 0) {
        skew_error_set(error, "%s: out of memory", skew_trace_path(rows->trace));
        goto out;
    }
    qsort(places, n, sizeof *places, by_column);
    for (size_t c = 0; c < rows->comm_count; c++)
        rows->comms[c].aligned = !rows->comms[c].partial;
    for (size_t i = 0, end; i < n; i = end) {
        end = column_end(places, n, i);
        if (!column_agrees(rows, places + i, end - i))
            rows->comms[places[i].comm].aligned = false;
        if (end - i > largest[places[i].comm])
            largest[places[i].comm] = (uint32_t)(end - i);
    }
    for (size_t m = 0; m < rows->member_count; m++)
        if (last[m] >= 0 && last[m] < least[rows->members[m].comm])
            least[rows->members[m].comm] = last[m];
    for (size_t i = 0, end; i < n; i = end) {
        bool aligned = rows->comms[places[i].comm].aligned;
        end = aligned ? column_end(places, n, i) : i + 1;
        make_keys(rows, places + i, end - i, aligned ? largest[places[i].comm] : 1,
                  least[places[i].comm]);
    }
out:
    free(places);
    free(largest);
    free(last);
    free(least);
    return result;
}
