/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matching over all ranks of all databases: see match.h. Communicator by communicator; as long as
 * every rank makes the same exchanges, which is nearly always, a column is checked and done
 * (match_plain.c); the rest is counted pair by pair (match_fifo.c). Then exchanges that met are put
 * into one order that agrees with every rank's.
 */
#include "match_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint32_t skew_match_root(struct skew_matches *m, uint32_t i)
{
    while (m->all[i].group != i) {
        m->all[i].group = m->all[m->all[i].group].group;
        i = m->all[i].group;
    }
    return i;
}

/* ---- loading -----------------------------------------------------------------------------------
 */

static int load_losses(struct skew_matches *m, uint32_t trace, struct skew_error *error)
{
    const struct skew_rows *rows = &m->rows[trace];
    sqlite3_stmt *s;
    int step = SQLITE_DONE,
        result = skew_sql_prepare(rows->trace, &s,
                                  "SELECT member_id, before_seq, peer, sends, recvs FROM loss_edge"
                                  " ORDER BY member_id, before_seq",
                                  error);

    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
        const struct skew_member *member =
            skew_trace_member(rows->trace, sqlite3_column_int64(s, 0));
        int64_t seq, peer, sends, recvs;
        if (!member || !skew_sql_between(s, 1, 0, INT64_MAX, &seq) ||
            !skew_sql_between(s, 2, 0, UINT32_MAX, &peer) ||
            !skew_sql_between(s, 3, 0, SKEW_CELLS_MAX, &sends) ||
            !skew_sql_between(s, 4, 0, SKEW_CELLS_MAX, &recvs)) {
            skew_error_set(error, "%s: is damaged: a row of loss_edge makes no sense",
                           skew_trace_path(rows->trace));
            result = -EBADMSG;
            break;
        }
        if ((m->loss_count & (m->loss_count - 1)) == 0) {
            size_t room = m->loss_count ? m->loss_count * 2 : 1;
            struct skew_loss_edge *more = realloc(m->losses, room * sizeof *more);
            if (!more) {
                result = -ENOMEM;
                break;
            }
            m->losses = more;
        }
        m->losses[m->loss_count++] =
            (struct skew_loss_edge){trace,
                                    (uint32_t)(member - rows->members[0].member),
                                    seq,
                                    (uint32_t)peer,
                                    (uint64_t)sends,
                                    (uint64_t)recvs};
    }
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(rows->trace, error);
    sqlite3_finalize(s);
    return result;
}

struct ordering {
    const char *key;
    struct skew_matched one;
    uint32_t member;
};

static int by_rank(const void *a, const void *b)
{
    const struct ordering *x = a, *y = b;
    int key = strcmp(x->key, y->key);

    if (key)
        return key;
    if (x->one.who.rank != y->one.who.rank)
        return x->one.who.rank < y->one.who.rank ? -1 : 1;
    if (x->one.who.trace != y->one.who.trace)
        return x->one.who.trace < y->one.who.trace ? -1 : 1;
    if (x->one.who.seq != y->one.who.seq)
        return x->one.who.seq < y->one.who.seq ? -1 : 1;
    return x->one.row < y->one.row ? -1 : x->one.row > y->one.row;
}

static size_t count_rows(const struct skew_matches *m)
{
    size_t n = 0;
    for (size_t t = 0; t < m->trace_count; t++)
        n += m->rows[t].exchange_count;
    return n;
}

/* All exchanges, by communicator, rank and seq. */
static int gather(struct skew_matches *m)
{
    size_t n = count_rows(m), at = 0;
    struct ordering *order = calloc(n + 1, sizeof *order);

    m->all = calloc(n + 1, sizeof *m->all);
    m->group_of = calloc(n + 1, sizeof *m->group_of);
    m->ids = calloc(m->trace_count + 1, sizeof *m->ids);
    m->id_count = calloc(m->trace_count + 1, sizeof *m->id_count);
    m->id_base = calloc(m->trace_count + 1, sizeof *m->id_base);
    if (!order || !m->all || !m->group_of || !m->ids || !m->id_count || !m->id_base ||
        n >= UINT32_MAX) {
        free(order);
        return -ENOMEM;
    }
    for (uint32_t t = 0; t < m->trace_count; t++) {
        const struct skew_rows *rows = &m->rows[t];
        m->id_base[t] = at;
        m->id_count[t] = rows->exchange_count;
        m->ids[t] = calloc(rows->exchange_count + 1, sizeof **m->ids);
        for (uint32_t i = 0; m->ids[t] && i < rows->exchange_count; i++) {
            const struct skew_rows_exchange *x = &rows->exchanges[i];
            const struct skew_member *member = rows->members[x->member].member;
            m->ids[t][i] = x->id;
            order[at++] = (struct ordering){
                member->comm->key, {.who = {t, x->id, member->rank, x->seq}, .row = i}, x->member};
        }
        if (!m->ids[t]) {
            free(order);
            return -ENOMEM;
        }
    }
    qsort(order, n, sizeof *order, by_rank);
    for (size_t i = 0; i < n; i++) {
        m->all[i] = order[i].one;
        m->all[i].group = (uint32_t)i;
    }
    m->all_count = (uint32_t)n;
    free(order);
    return 0;
}

/* ---- one order ---------------------------------------------------------------------------------
 */

/* Takes groups whose exchanges are next on all their ranks; when none is (records were lost), the
 * next of the lowest rank that has one left. */
static int put_in_order(struct skew_matching *g)
{
    struct skew_matches *m = g->m;
    uint32_t ranks = g->comm->ranks, left = 0;
    uint32_t *next = calloc((size_t)ranks + 1, sizeof *next);
    uint32_t first = UINT32_MAX, end = 0;
    int64_t ordinal = 0;

    if (!next)
        return -ENOMEM;
    for (uint32_t r = 0; r < ranks; r++) {
        if (!g->ranks[r].count)
            continue;
        left += g->ranks[r].count;
        first = g->ranks[r].first < first ? g->ranks[r].first : first;
        end = g->ranks[r].first + g->ranks[r].count > end ? g->ranks[r].first + g->ranks[r].count
                                                          : end;
    }
    uint32_t *size = calloc((size_t)(left ? end - first : 0) + 1, sizeof *size);
    uint32_t *seen = calloc((size_t)(left ? end - first : 0) + 1, sizeof *seen);
    if (!size || !seen) {
        free(next);
        free(size);
        free(seen);
        return -ENOMEM;
    }
    for (uint32_t i = first; left && i < end; i++)
        size[skew_match_root(m, i) - first]++;
    for (uint32_t r = 0; r < ranks; r++) /* the heads */
        if (g->ranks[r].count)
            seen[skew_match_root(m, g->ranks[r].first) - first]++;
    while (left) {
        uint32_t chosen = UINT32_MAX, any = UINT32_MAX;
        for (uint32_t r = 0; r < ranks && chosen == UINT32_MAX; r++) {
            if (next[r] == g->ranks[r].count)
                continue;
            uint32_t root = skew_match_root(m, g->ranks[r].first + next[r]);
            any = any == UINT32_MAX ? root : any;
            if (seen[root - first] == size[root - first])
                chosen = root;
        }
        bool forced = chosen == UINT32_MAX;
        chosen = forced ? any : chosen;
        m->group_first[m->group_count] = m->group_count ? m->group_first[m->group_count] : 0;
        uint32_t at = m->group_first[m->group_count];
        for (uint32_t r = 0; r < ranks; r++) {
            while (next[r] < g->ranks[r].count) {
                uint32_t i = g->ranks[r].first + next[r];
                if (skew_match_root(m, i) != chosen)
                    break;
                m->groups[at++] = m->all[i].who;
                next[r]++;
                left--;
                if (next[r] < g->ranks[r].count)
                    seen[skew_match_root(m, i + 1) - first]++;
            }
        }
        m->group_ordinal[m->group_count++] = ordinal++;
        m->group_first[m->group_count] = at;
    }
    free(next);
    free(size);
    free(seen);
    return 0;
}

/* ---- communicators -----------------------------------------------------------------------------
 */

/* Every rank that is here, whether or not it exchanged anything. */
static int find_ranks(struct skew_matching *g, struct skew_error *error)
{
    struct skew_matches *m = g->m;

    g->first_member = (uint32_t)m->member_count;
    for (uint32_t t = 0; t < m->trace_count; t++) {
        const struct skew_rows *rows = &m->rows[t];
        for (uint32_t i = 0; i < rows->member_count; i++) {
            const struct skew_member *member = rows->members[i].member;
            if (member->rank < 0 || (uint32_t)member->rank >= g->comm->ranks ||
                strcmp(member->comm->key, g->comm->key) != 0 ||
                g->ranks[member->rank].member != SKEW_NOBODY)
                continue;
            void *more = realloc(m->members, (m->member_count + 1) * sizeof *m->members);
            if (!more) {
                skew_error_set(error, "out of memory");
                return -ENOMEM;
            }
            m->members = more;
            m->members[m->member_count++] =
                (struct skew_match_member){.comm_key = g->comm->key, .trace = t, .member = member};
            g->ranks[member->rank].trace = t;
            g->ranks[member->rank].member = i;
        }
    }
    return 0;
}

/* They were read in the order of databases and members. */
static void find_losses(struct skew_matching *g)
{
    const struct skew_matches *m = g->m;

    for (size_t i = 0, end; i < m->loss_count; i = end) {
        const struct skew_loss_edge *l = &m->losses[i];
        for (end = i + 1; end < m->loss_count && m->losses[end].trace == l->trace &&
                          m->losses[end].member == l->member;
             end++)
            ;
        for (uint32_t r = 0; r < g->comm->ranks; r++)
            if (g->ranks[r].trace == l->trace && g->ranks[r].member == l->member) {
                g->ranks[r].first_loss = i;
                g->ranks[r].loss_count = end - i;
            }
    }
}

static void find_exchanges(struct skew_matching *g, uint32_t from, uint32_t end)
{
    struct skew_matches *m = g->m;

    for (uint32_t i = from; i < end; i++) {
        int32_t rank = m->all[i].who.rank;
        if (rank < 0 || (uint32_t)rank >= g->comm->ranks)
            continue;
        struct skew_match_rank *r = &g->ranks[rank];
        if (skew_match_row(m, i)->member != r->member || m->all[i].who.trace != r->trace)
            continue; /* a rank that two processes claim: the first one counts */
        if (r->count == 0)
            r->first = i;
        r->count++;
    }
    for (size_t i = g->first_member; i < m->member_count; i++) {
        struct skew_match_member *member = &m->members[i];
        const struct skew_match_rank *r = &g->ranks[member->member->rank];
        member->exchanges = r->count;
        if (r->count)
            member->last = m->all[r->first + r->count - 1].who;
    }
}

/* The exchanges from..end are of communicator `comm`. */
static int match_comm(struct skew_matches *m, const struct skew_comm *comm, uint32_t from,
                      uint32_t end, struct skew_error *error)
{
    struct skew_matching g = {.m = m, .comm = comm};
    bool rest = false;
    int result;

    g.ranks = calloc((size_t)comm->ranks + 1, sizeof *g.ranks);
    g.place = calloc((size_t)comm->ranks + 1, sizeof *g.place);
    g.here = calloc((size_t)comm->ranks + 1, sizeof *g.here);
    if (!g.ranks || !g.place || !g.here) {
        skew_error_set(error, "out of memory");
        result = -ENOMEM;
        goto out;
    }
    for (uint32_t r = 0; r < comm->ranks; r++)
        g.ranks[r].member = SKEW_NOBODY;
    result = find_ranks(&g, error);
    for (uint32_t r = 0; r < comm->ranks; r++) {
        g.place[r] = g.ranks[r].member == SKEW_NOBODY ? SKEW_NOBODY : g.present;
        if (g.place[r] != SKEW_NOBODY)
            g.here[g.present++] = r;
    }
    if (result == 0) {
        find_exchanges(&g, from, end);
        find_losses(&g);
        result = skew_match_plain(&g, error);
    }
    for (uint32_t r = 0; r < comm->ranks; r++)
        rest |= g.ranks[r].plain < g.ranks[r].count;
    if (result == 0 && rest)
        result = skew_match_fifo(&g, error);
    if (result == 0 && put_in_order(&g) < 0) {
        skew_error_set(error, "out of memory");
        result = -ENOMEM;
    }
out:
    free(g.ranks);
    free(g.place);
    free(g.here);
    return result;
}

/* The communicator with this key of the database that knows its size best. */
static const struct skew_comm *comm_called(const struct skew_matches *m, const char *key)
{
    const struct skew_comm *best = NULL;

    for (size_t t = 0; t < m->trace_count; t++)
        for (size_t i = 0; i < m->rows[t].comm_count; i++) {
            const struct skew_comm *comm = m->rows[t].comms[i].comm;
            if (strcmp(comm->key, key) == 0 && (!best || comm->ranks > best->ranks))
                best = comm;
        }
    return best;
}

static const char *key_of(const struct skew_matches *m, uint32_t i)
{
    const struct skew_rows *rows = &m->rows[m->all[i].who.trace];
    return rows->members[rows->exchanges[m->all[i].row].member].member->comm->key;
}

static int match_all(struct skew_matches *m, struct skew_error *error)
{
    int result = 0;

    m->groups = calloc((size_t)m->all_count + 1, sizeof *m->groups);
    m->group_first = calloc((size_t)m->all_count + 2, sizeof *m->group_first);
    m->group_ordinal = calloc((size_t)m->all_count + 1, sizeof *m->group_ordinal);
    if (!m->groups || !m->group_first || !m->group_ordinal) {
        skew_error_set(error, "out of memory");
        return -ENOMEM;
    }
    for (uint32_t i = 0, end; i < m->all_count && result == 0; i = end) {
        const char *key = key_of(m, i);
        for (end = i + 1; end < m->all_count && strcmp(key_of(m, end), key) == 0; end++)
            ;
        result = match_comm(m, comm_called(m, key), i, end, error);
    }
    return result;
}

/* From exchange to group, for looking up when the rows are gone. */
static void index_groups(struct skew_matches *m)
{
    for (size_t i = 0; i < m->all_count; i++)
        m->group_of[i] = SKEW_NOBODY;
    for (uint32_t g = 0; g < m->group_count; g++) {
        for (uint32_t i = m->group_first[g]; i < m->group_first[g + 1]; i++) {
            const struct skew_match_exchange *e = &m->groups[i];
            const int64_t *ids = m->ids[e->trace];
            size_t low = 0, high = m->id_count[e->trace];
            if (e->exchange >= 1 && (size_t)e->exchange <= high &&
                ids[e->exchange - 1] == e->exchange)
                low = (size_t)e->exchange - 1;
            else
                while (low < high) {
                    size_t middle = low + (high - low) / 2;
                    if (ids[middle] < e->exchange)
                        low = middle + 1;
                    else
                        high = middle;
                }
            m->group_of[m->id_base[e->trace] + low] = g;
        }
    }
}

static int by_pair(const void *a, const void *b)
{
    const struct skew_mismatch *x = a, *y = b;
    int key = strcmp(x->comm_key, y->comm_key);

    if (key)
        return key;
    if (x->src != y->src)
        return x->src < y->src ? -1 : 1;
    if (x->dst != y->dst)
        return x->dst < y->dst ? -1 : 1;
    return x->nth < y->nth ? -1 : x->nth > y->nth;
}

int skew_matches_find(struct skew_trace *const *traces, size_t count, struct skew_matches **out,
                      struct skew_error *error)
{
    struct skew_matches *m = calloc(1, sizeof *m);
    int result = m ? 0 : -ENOMEM;

    *out = NULL;
    if (m)
        m->rows = calloc(count + 1, sizeof *m->rows);
    if (!m || !m->rows) {
        skew_error_set(error, "out of memory");
        free(m);
        return -ENOMEM;
    }
    for (uint32_t t = 0; t < count && result == 0; t++) {
        result = skew_rows_load(&m->rows[t], traces[t], error);
        m->trace_count += result == 0;
        if (result == 0)
            result = load_losses(m, t, error);
    }
    if (result == 0 && gather(m) < 0) {
        skew_error_set(error, "out of memory");
        result = -ENOMEM;
    }
    if (result == 0)
        result = match_all(m, error);
    if (result == 0) {
        index_groups(m);
        if (m->mismatch_count)
            qsort(m->mismatches, m->mismatch_count, sizeof *m->mismatches, by_pair);
    }
    for (size_t t = 0; t < m->trace_count; t++)
        skew_rows_free(&m->rows[t]);
    free(m->rows);
    m->rows = NULL;
    if (result < 0)
        skew_matches_free(&m);
    *out = m;
    return result;
}

void skew_matches_free(struct skew_matches **matches)
{
    struct skew_matches *m = *matches;

    *matches = NULL;
    if (!m)
        return;
    for (size_t t = 0; m->ids && t < m->trace_count; t++)
        free(m->ids[t]);
    free(m->ids);
    free(m->id_count);
    free(m->id_base);
    free(m->all);
    free(m->losses);
    free(m->groups);
    free(m->group_first);
    free(m->group_ordinal);
    free(m->group_of);
    free(m->mismatches);
    free(m->members);
    free(m);
}

/* ---- results -----------------------------------------------------------------------------------
 */

size_t skew_matches_group(const struct skew_matches *m, uint32_t trace, int64_t exchange_id,
                          const struct skew_match_exchange **group, int64_t *ordinal)
{
    size_t low = 0, high = trace < m->trace_count ? m->id_count[trace] : 0;

    *group = NULL;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (m->ids[trace][middle] < exchange_id)
            low = middle + 1;
        else
            high = middle;
    }
    if (trace >= m->trace_count || low == m->id_count[trace] || m->ids[trace][low] != exchange_id)
        return 0;
    uint32_t g = m->group_of[m->id_base[trace] + low];
    if (g == SKEW_NOBODY)
        return 0;
    *group = &m->groups[m->group_first[g]];
    if (ordinal)
        *ordinal = m->group_ordinal[g];
    return m->group_first[g + 1] - m->group_first[g];
}

const struct skew_mismatch *skew_matches_mismatches(const struct skew_matches *m, size_t *count,
                                                    uint64_t *total)
{
    *count = m->mismatch_count;
    if (total)
        *total = m->mismatch_total;
    return m->mismatches;
}

const struct skew_match_member *skew_matches_members(const struct skew_matches *m, size_t *count)
{
    *count = m->member_count;
    return m->members;
}

uint64_t skew_matches_edges(const struct skew_matches *m)
{
    return m->edges;
}
