/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Findings from what met and what did not: see hang.h. A rank is a suspect when others wait for it
 * and it is not itself waiting earlier: who waits is a victim.
 */
#include "hang.h"
#include "trace_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FINDINGS_MAX 256

static struct skew_hang_finding *add(struct skew_hang *h)
{
    struct skew_hang_finding *more = realloc(h->findings, (h->count + 1) * sizeof *more);

    if (!more)
        return NULL;
    h->findings = more;
    more[h->count] = (struct skew_hang_finding){
        .witness_call = {.seq = -1, .op = -1},
        .suspect_call = {.seq = -1, .op = -1},
        .suspect_last = {.seq = -1, .op = -1},
    };
    return &more[h->count++];
}

/* ---- calls -------------------------------------------------------------------------------------
 */

/* Reads op, site, seq, dtype, count and comm_id of one row. */
static int read_call(struct skew_trace *trace, uint32_t index, const char *sql, int64_t key,
                     struct skew_hang_call *call, int64_t *comm, struct skew_error *error)
{
    sqlite3_stmt *s;
    int result = skew_sql_prepare(trace, &s, sql, error);

    if (result < 0)
        return result;
    sqlite3_bind_int64(s, 1, key);
    if (sqlite3_step(s) == SQLITE_ROW) {
        *call = (struct skew_hang_call){.trace = index,
                                        .op = sqlite3_column_int(s, 0),
                                        .site = sqlite3_column_int64(s, 1),
                                        .seq = sqlite3_column_int64(s, 2),
                                        .dtype = sqlite3_column_int(s, 3),
                                        .count = sqlite3_column_int64(s, 4)};
        if (comm)
            *comm = sqlite3_column_int64(s, 5);
    }
    sqlite3_finalize(s);
    return 0;
}

static int exchange_call(struct skew_trace *const *traces, const struct skew_match_exchange *e,
                         struct skew_hang_call *call, struct skew_error *error)
{
    if (!e->exchange)
        return 0;
    return read_call(traces[e->trace], e->trace,
                     "SELECT op, site_id, seq, dtype, 0 FROM exchange WHERE exchange_id = ?",
                     e->exchange, call, NULL, error);
}

/* The end of a suspect's story: its last call anywhere, and how its process ended. */
static int suspect_end(struct skew_trace *const *traces, uint32_t trace,
                       struct skew_hang_finding *f, struct skew_error *error)
{
    sqlite3_stmt *s;
    int result = read_call(
        traces[trace], trace,
        "SELECT op, site_id, seq, dtype, count, comm_id FROM"
        " (SELECT op, site_id, e.seq, dtype, 0 AS count, comm_id, start_ns FROM exchange e"
        "  JOIN member m USING (member_id) WHERE m.process_id = ?1"
        "  UNION ALL SELECT op, site_id, o.seq, dtype, count, comm_id, start_ns FROM operation o"
        "  JOIN member m USING (member_id) WHERE m.process_id = ?1)"
        " ORDER BY start_ns DESC LIMIT 1",
        f->suspect->process, &f->suspect_last, &f->suspect_last_comm, error);

    if (result == 0)
        result = skew_sql_prepare(traces[trace], &s,
                                  "SELECT ended FROM process WHERE process_id = ?", error);
    if (result < 0)
        return result;
    sqlite3_bind_int64(s, 1, f->suspect->process);
    if (sqlite3_step(s) == SQLITE_ROW) {
        static const char *const ends[] = {"running", "exited", "killed", "unknown"};
        const char *ended = (const char *)sqlite3_column_text(s, 0);
        for (size_t i = 0; ended && i < sizeof ends / sizeof *ends; i++)
            if (strcmp(ended, ends[i]) == 0)
                f->suspect_ended = ends[i];
    }
    sqlite3_finalize(s);
    return 0;
}

/* ---- exchanges ---------------------------------------------------------------------------------
 */

static const struct skew_match_member *member_of(const struct skew_match_member *members,
                                                 size_t count, const char *key, uint32_t rank)
{
    for (size_t i = 0; i < count; i++)
        if (members[i].member->rank == (int32_t)rank && strcmp(members[i].comm_key, key) == 0)
            return &members[i];
    return NULL;
}

static int add_sizes(struct skew_hang *h, struct skew_trace *const *traces,
                     const struct skew_matches *m, struct skew_error *error)
{
    size_t count, member_count;
    uint64_t total;
    const struct skew_mismatch *all = skew_matches_mismatches(m, &count, &total);
    const struct skew_match_member *members = skew_matches_members(m, &member_count);
    int result = 0;

    h->mismatched_edges = total;
    for (size_t i = 0; i < count && h->count < FINDINGS_MAX && result == 0; i++) {
        if (all[i].kind != SKEW_MISMATCH_BYTES)
            continue;
        const struct skew_match_member *from =
            member_of(members, member_count, all[i].comm_key, all[i].src);
        const struct skew_match_member *to =
            member_of(members, member_count, all[i].comm_key, all[i].dst);
        /* one finding a pair: what follows the first disagreement follows from it */
        bool known = false;
        for (size_t k = 0; k < h->count && !known; k++)
            known = h->findings[k].witness == from->member && h->findings[k].suspect == to->member;
        if (known)
            continue;
        struct skew_hang_finding *f = add(h);
        if (!f)
            return -ENOMEM;
        f->kind = SKEW_HANG_SIZE;
        f->comm = from->member->comm;
        f->witness = from->member;
        f->suspect = to->member;
        f->sent_bytes = all[i].sent_bytes;
        f->expected_bytes = all[i].expected_bytes;
        f->nth = all[i].nth;
        result = exchange_call(traces, &all[i].send, &f->witness_call, error);
        if (result == 0)
            result = exchange_call(traces, &all[i].recv, &f->suspect_call, error);
        if (result == 0)
            result = suspect_end(traces, to->trace, f, error);
    }
    return result;
}

/* Whether a finding already says that this rank is missing on this communicator. */
static struct skew_hang_finding *absent(struct skew_hang *h, const struct skew_member *suspect)
{
    for (size_t i = 0; i < h->count; i++)
        if (h->findings[i].kind == SKEW_HANG_ABSENT && h->findings[i].suspect == suspect)
            return &h->findings[i];
    return NULL;
}

/* One edge that nothing met: `waits` waits for `missing`. */
static int add_absent(struct skew_hang *h, struct skew_trace *const *traces,
                      const struct skew_mismatch *edge, const struct skew_match_member *waits,
                      const struct skew_match_member *missing, struct skew_error *error)
{
    bool send = edge->kind == SKEW_MISMATCH_SEND;
    const struct skew_match_exchange *e = send ? &edge->send : &edge->recv;
    struct skew_hang_finding *f = absent(h, missing->member);
    int result = 0;

    /* who is itself without an answer as early is not the one that is missing */
    if (missing->first_unmatched.exchange && missing->first_unmatched.seq <= e->seq)
        return 0;
    if (!f) {
        if (h->count >= FINDINGS_MAX)
            return 0;
        f = add(h);
        if (!f)
            return -ENOMEM;
        f->kind = SKEW_HANG_ABSENT;
        f->comm = missing->member->comm;
        f->suspect = missing->member;
        f->witness = waits->member;
        result = exchange_call(traces, e, &f->witness_call, error);
        if (result == 0)
            result = exchange_call(traces, &missing->last, &f->suspect_call, error);
        if (result == 0)
            result = suspect_end(traces, missing->trace, f, error);
        f->waiting = 1;
    } else if (f->witness != waits->member && send) {
        f->waiting++; /* counted once, by its sends */
    }
    if (f->witness == waits->member && e->seq == f->witness_call.seq) {
        f->sent_bytes += send ? edge->sent_bytes : 0;
        f->expected_bytes += send ? 0 : edge->expected_bytes;
    }
    return result;
}

static int add_absents(struct skew_hang *h, struct skew_trace *const *traces,
                       const struct skew_matches *m, struct skew_error *error)
{
    size_t count, member_count;
    const struct skew_mismatch *all = skew_matches_mismatches(m, &count, NULL);
    const struct skew_match_member *members = skew_matches_members(m, &member_count);
    int result = 0;

    for (size_t i = 0; i < count && result == 0; i++) {
        const struct skew_match_member *from =
            member_of(members, member_count, all[i].comm_key, all[i].src);
        const struct skew_match_member *to =
            member_of(members, member_count, all[i].comm_key, all[i].dst);
        if (all[i].kind == SKEW_MISMATCH_SEND)
            result = add_absent(h, traces, &all[i], from, to, error);
        else if (all[i].kind == SKEW_MISMATCH_RECV)
            result = add_absent(h, traces, &all[i], to, from, error);
    }
    return result;
}

/* ---- collectives -------------------------------------------------------------------------------
 */

/* The operations of one member, in order. */
struct collectives {
    const struct skew_member *member;
    uint32_t trace;
    int64_t *rows; /* op, dtype, count, site for each */
    size_t count;
};

static int load_collectives(struct collectives *c, struct skew_trace *trace,
                            struct skew_error *error)
{
    sqlite3_stmt *s;
    int step = SQLITE_DONE,
        result = skew_sql_prepare(
            trace, &s,
            "SELECT op, dtype, count, site_id FROM operation WHERE member_id = ? ORDER BY seq",
            error);

    if (result < 0)
        return result;
    sqlite3_bind_int64(s, 1, c->member->id);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        if ((c->count & (c->count - 1)) == 0) {
            size_t room = c->count ? c->count * 2 : 1;
            int64_t *more = realloc(c->rows, room * 4 * sizeof *more);
            if (!more) {
                skew_error_set(error, "out of memory");
                sqlite3_finalize(s);
                return -ENOMEM;
            }
            c->rows = more;
        }
        for (int i = 0; i < 4; i++)
            c->rows[c->count * 4 + (size_t)i] = sqlite3_column_int64(s, i);
        c->count++;
    }
    if (step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

static struct skew_hang_call collective_call(const struct collectives *c, size_t i)
{
    const int64_t *row = c->rows + i * 4;
    return (struct skew_hang_call){c->trace,        row[3],          (int64_t)i,
                                   (int32_t)row[0], (int32_t)row[1], row[2]};
}

/* The first `count` calls, as one number. */
static uint64_t calls_hash(const struct collectives *c, size_t count)
{
    uint64_t hash = 0;

    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < 3; k++)
            hash = (hash ^ (uint64_t)c->rows[i * 4 + (size_t)k]) * 0x9e3779b97f4a7c15u;
    return hash;
}

/* The member to compare with: it called what most did, as far as all have come, and has come
 * furthest. NULL when memory is short. */
static const struct collectives *reference(const struct collectives *all, size_t count)
{
    uint64_t *hashes = calloc(count, sizeof *hashes);
    size_t least = SIZE_MAX, best_votes = 0;
    const struct collectives *best = NULL;

    for (size_t i = 0; i < count; i++)
        least = all[i].count < least ? all[i].count : least;
    for (size_t i = 0; hashes && i < count; i++)
        hashes[i] = calls_hash(&all[i], least);
    for (size_t i = 0; hashes && i < count; i++) {
        size_t votes = 0;
        for (size_t k = 0; k < count; k++)
            votes += hashes[i] == hashes[k];
        if (!best || votes > best_votes || (votes == best_votes && all[i].count > best->count)) {
            best_votes = votes;
            best = &all[i];
        }
    }
    free(hashes);
    return best;
}

/* What the members of one communicator called, against what most of them did. */
static int compare_collectives(struct skew_hang *h, struct skew_trace *const *traces,
                               const struct collectives *all, size_t count,
                               struct skew_error *error)
{
    const struct collectives *most = reference(all, count);
    uint64_t ahead = 0;
    int result = 0;

    if (!most)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        ahead += all[i].count == most->count;
    for (size_t i = 0; i < count && h->count < FINDINGS_MAX && result == 0; i++) {
        const struct collectives *c = &all[i];
        size_t n = 0;
        while (n < c->count && memcmp(c->rows + n * 4, most->rows + n * 4, 24) == 0)
            n++;
        if (n == most->count)
            continue;
        struct skew_hang_finding *f = add(h);
        if (!f)
            return -ENOMEM;
        f->kind = n < c->count ? SKEW_HANG_DIFFERS : SKEW_HANG_BEHIND;
        f->comm = c->member->comm;
        f->suspect = c->member;
        f->witness = most->member;
        f->waiting = ahead;
        f->witness_call = collective_call(most, n);
        if (n < c->count)
            f->suspect_call = collective_call(c, n);
        else if (c->count)
            f->suspect_call = collective_call(c, c->count - 1);
        result = suspect_end(traces, c->trace, f, error);
    }
    return result;
}

/* Members of the communicator with this key, in all databases. */
static int comm_collectives(struct skew_hang *h, struct skew_trace *const *traces, size_t count,
                            const char *key, struct skew_error *error)
{
    struct collectives *all = NULL;
    size_t n = 0;
    int result = 0;

    for (uint32_t t = 0; t < count && result == 0; t++) {
        const struct skew_member *members;
        size_t member_count;
        result = skew_trace_members(traces[t], &members, &member_count, error);
        for (size_t i = 0; i < member_count && result == 0; i++) {
            if (strcmp(members[i].comm->key, key) != 0)
                continue;
            struct collectives *more = realloc(all, (n + 1) * sizeof *more);
            if (!more) {
                result = -ENOMEM;
                break;
            }
            all = more;
            all[n] = (struct collectives){.member = &members[i], .trace = t};
            result = load_collectives(&all[n++], traces[t], error);
        }
    }
    if (result == 0 && n)
        result = compare_collectives(h, traces, all, n, error);
    for (size_t i = 0; i < n; i++)
        free(all[i].rows);
    free(all);
    return result;
}

/* Calls lost for a known reason would look like calls that were never made. */
static bool operations_lost(struct skew_trace *trace)
{
    sqlite3_stmt *s;
    bool lost = true;

    if (sqlite3_prepare_v2(trace->db, "SELECT coalesce(sum(operations), 0) FROM loss", -1, &s,
                           NULL) == SQLITE_OK &&
        sqlite3_step(s) == SQLITE_ROW)
        lost = sqlite3_column_int64(s, 0) > 0;
    sqlite3_finalize(s);
    return lost;
}

static int add_collectives(struct skew_hang *h, struct skew_trace *const *traces, size_t count,
                           struct skew_error *error)
{
    int result = 0;

    for (size_t t = 0; t < count; t++)
        if (operations_lost(traces[t]))
            return 0;
    for (size_t t = 0; t < count && result == 0; t++) {
        const struct skew_comm *comms;
        size_t n;
        result = skew_trace_comms(traces[t], &comms, &n, error);
        for (size_t i = 0; i < n && result == 0; i++) {
            bool before = false;
            for (size_t u = 0; u < t && !before; u++) {
                const struct skew_comm *others;
                size_t m;
                skew_trace_comms(traces[u], &others, &m, error);
                for (size_t k = 0; k < m && !before; k++)
                    before = strcmp(others[k].key, comms[i].key) == 0;
            }
            if (!before)
                result = comm_collectives(h, traces, count, comms[i].key, error);
        }
    }
    return result;
}

/* ---- all ---------------------------------------------------------------------------------------
 */

/* Sizes that disagree first, then who is gone or absent, and among those the one most wait for. */
static int by_weight(const void *a, const void *b)
{
    const struct skew_hang_finding *x = a, *y = b;

    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    if (x->waiting != y->waiting)
        return x->waiting > y->waiting ? -1 : 1;
    return x->suspect->id < y->suspect->id ? -1 : x->suspect->id > y->suspect->id;
}

int skew_hang_find(struct skew_hang *hang, struct skew_trace *const *traces, size_t count,
                   struct skew_error *error)
{
    struct skew_matches *matches;
    int result = skew_matches_find(traces, count, &matches, error);

    *hang = (struct skew_hang){0};
    if (result < 0)
        return result;
    result = add_sizes(hang, traces, matches, error);
    if (result == 0)
        result = add_absents(hang, traces, matches, error);
    if (result == 0)
        result = add_collectives(hang, traces, count, error);
    if (result == -ENOMEM)
        skew_error_set(error, "out of memory");
    if (result == 0 && hang->count)
        qsort(hang->findings, hang->count, sizeof *hang->findings, by_weight);
    if (result < 0)
        skew_hang_free(hang);
    skew_matches_free(&matches);
    return result;
}

void skew_hang_free(struct skew_hang *hang)
{
    free(hang->findings);
    *hang = (struct skew_hang){0};
}
