/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matching by counting: the n-th send from i to j meets the n-th receive of j from i. Used from the
 * first exchange on that is not plainly the same one on all ranks (match_plain.c).
 */
#include "match_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MISMATCHES_MAX 10000u

/* One send or receive; exchange NOBODY: its record was lost. */
struct cell {
    uint32_t exchange; /* in m->all */
    uint64_t bytes;
};

/* All sends, or all receives, by pair: those of pair p are cells[first[p]] … cells[first[p + 1] −
 * 1]. */
struct side {
    size_t *first; /* [present × present + 1] */
    size_t *fill;  /* [present × present] */
    struct cell *cells;
};

static bool is_here(const struct skew_matching *g, uint64_t peer)
{
    return peer < g->comm->ranks && g->place[peer] != SKEW_NOBODY;
}

static size_t pair_of(const struct skew_matching *g, bool send, uint32_t self, uint32_t peer)
{
    size_t a = g->place[self], b = g->place[peer];
    return send ? a * g->present + b : b * g->present + a;
}

static void put(struct side *s, size_t pair, uint64_t count, struct cell cell)
{
    for (uint64_t i = 0; i < count; i++) {
        if (s->cells)
            s->cells[s->first[pair] + s->fill[pair]] = cell;
        s->fill[pair]++;
    }
}

/* What this rank lost up to exchange `seq`, from its loss *next on. */
static void put_losses(const struct skew_matching *g, struct side *s, bool send, uint32_t rank,
                       int64_t seq, size_t *next)
{
    const struct skew_match_rank *r = &g->ranks[rank];

    for (; *next < r->loss_count; ++*next) {
        const struct skew_loss_edge *l = &g->m->losses[r->first_loss + *next];
        if (l->before_seq > seq)
            return;
        if (is_here(g, l->peer))
            put(s, pair_of(g, send, rank, l->peer), send ? l->sends : l->recvs,
                (struct cell){SKEW_NOBODY, 0});
    }
}

/* All sends or receives of one rank that no column has taken. */
static int put_rank(const struct skew_matching *g, struct side *s, bool send, uint32_t rank,
                    struct skew_error *error)
{
    const struct skew_match_rank *r = &g->ranks[rank];
    const struct skew_rows *rows = &g->m->rows[r->trace];
    size_t next_loss = r->losses_done;

    for (uint32_t i = 0; i < g->present && r->lost_left; i++)
        put(s, pair_of(g, send, rank, g->here[i]), r->lost_left, (struct cell){SKEW_NOBODY, 0});
    for (uint32_t i = r->plain; i < r->count; i++) {
        const struct skew_matched *e = &g->m->all[r->first + i];
        const struct skew_rows_exchange *x = &rows->exchanges[e->row];
        uint32_t index = send ? x->send : x->recv;
        uint64_t unit = send ? x->send_unit : x->recv_unit;
        const struct skew_vector *v;
        put_losses(g, s, send, rank, e->who.seq, &next_loss);
        if (!index)
            continue;
        int result = skew_vector_get(rows->trace, rows->vectors[index - 1].id, &v, error);
        if (result < 0)
            return result;
        for (uint32_t c = 0; c < v->cells; c++) {
            uint32_t peer = skew_vector_peer(v, c);
            if (is_here(g, peer))
                put(s, pair_of(g, send, rank, peer), 1,
                    (struct cell){r->first + i, v->sizes[c] * unit});
        }
    }
    put_losses(g, s, send, rank, INT64_MAX, &next_loss);
    return 0;
}

static int fill_side(const struct skew_matching *g, struct side *s, bool send,
                     struct skew_error *error)
{
    size_t pairs = (size_t)g->present * g->present;
    int result = 0;

    s->first = calloc(pairs + 1, sizeof *s->first);
    s->fill = calloc(pairs + 1, sizeof *s->fill);
    if (!s->first || !s->fill)
        return -ENOMEM;
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < g->present && result == 0; i++)
            result = put_rank(g, s, send, g->here[i], error);
        if (result < 0 || round)
            return result;
        for (size_t p = 0; p < pairs; p++)
            s->first[p + 1] = s->first[p] + s->fill[p];
        s->cells = calloc(s->first[pairs] + 1, sizeof *s->cells);
        if (!s->cells)
            return -ENOMEM;
        memset(s->fill, 0, pairs * sizeof *s->fill);
    }
    return 0;
}

static void free_side(struct side *s)
{
    free(s->first);
    free(s->fill);
    free(s->cells);
}

static int add_mismatch(struct skew_matches *m, const struct skew_mismatch *one)
{
    if (m->mismatch_total++ >= MISMATCHES_MAX)
        return 0;
    if ((m->mismatch_count & (m->mismatch_count - 1)) == 0) {
        size_t room = m->mismatch_count ? m->mismatch_count * 2 : 1;
        void *more = realloc(m->mismatches, room * sizeof *one);
        if (!more)
            return -ENOMEM;
        m->mismatches = more;
    }
    m->mismatches[m->mismatch_count++] = *one;
    return 0;
}

static void note_unmatched(struct skew_matching *g, uint32_t rank, uint32_t exchange, bool send)
{
    struct skew_matches *m = g->m;

    for (size_t i = g->first_member; i < m->member_count; i++) {
        struct skew_match_member *member = &m->members[i];
        if (member->member->rank != (int32_t)rank)
            continue;
        member->unmatched_sends += send;
        member->unmatched_recvs += !send;
        if (!member->first_unmatched.exchange ||
            m->all[exchange].who.seq < member->first_unmatched.seq)
            member->first_unmatched = m->all[exchange].who;
    }
    m->all[exchange].unmatched = true;
}

static void unite(struct skew_matches *m, uint32_t a, uint32_t b)
{
    a = skew_match_root(m, a);
    b = skew_match_root(m, b);
    if (a < b)
        m->all[b].group = a;
    else
        m->all[a].group = b;
}

/* The n-th of a pair, one side or both. */
static int meet(struct skew_matching *g, uint32_t src, uint32_t dst, uint64_t nth,
                const struct cell *send, const struct cell *recv)
{
    struct skew_matches *m = g->m;
    struct skew_mismatch one = {.comm_key = g->comm->key, .src = src, .dst = dst, .nth = nth};
    bool sent = send && send->exchange != SKEW_NOBODY,
         received = recv && recv->exchange != SKEW_NOBODY;

    if (sent) {
        one.send = m->all[send->exchange].who;
        one.sent_bytes = send->bytes;
    }
    if (received) {
        one.recv = m->all[recv->exchange].who;
        one.expected_bytes = recv->bytes;
    }
    if (sent && received) {
        unite(m, send->exchange, recv->exchange);
        one.kind = SKEW_MISMATCH_BYTES;
        if (send->bytes != recv->bytes)
            return add_mismatch(m, &one);
        m->edges++;
        return 0;
    }
    if ((sent && recv) || (received && send))
        return 0; /* the other side was lost */
    if (sent) {
        note_unmatched(g, src, send->exchange, true);
        one.kind = SKEW_MISMATCH_SEND;
        return add_mismatch(m, &one);
    }
    if (received) {
        note_unmatched(g, dst, recv->exchange, false);
        one.kind = SKEW_MISMATCH_RECV;
        return add_mismatch(m, &one);
    }
    return 0;
}

static int meet_all(struct skew_matching *g, const struct side *sends, const struct side *recvs)
{
    int result = 0;

    for (size_t pair = 0; pair < (size_t)g->present * g->present; pair++) {
        uint32_t src = g->here[pair / g->present], dst = g->here[pair % g->present];
        size_t s = sends->fill[pair], r = recvs->fill[pair];
        for (size_t n = 0; result == 0 && (n < s || n < r); n++)
            result = meet(g, src, dst, g->columns + n,
                          n < s ? &sends->cells[sends->first[pair] + n] : NULL,
                          n < r ? &recvs->cells[recvs->first[pair] + n] : NULL);
    }
    return result;
}

int skew_match_fifo(struct skew_matching *g, struct skew_error *error)
{
    struct side sends = {0}, recvs = {0};
    int result = fill_side(g, &sends, true, error);

    if (result == 0)
        result = fill_side(g, &recvs, false, error);
    if (result == 0)
        result = meet_all(g, &sends, &recvs);
    free_side(&sends);
    free_side(&recvs);
    if (result == -ENOMEM)
        skew_error_set(error, "out of memory while exchanges of communicator %s are matched",
                       g->comm->key);
    return result;
}
