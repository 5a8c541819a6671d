/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What fitting clocks needs of the databases: processes and the clocks they share, exchanges that
 * met with their times on the device, and ranks that are nowhere.
 */
#include "clock_private.h"
#include "match.h"
#include "trace_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct skew_clocks *clocks;
    struct skew_trace *const *traces;
    size_t count;
    const struct skew_matches *matches;
    struct skew_error *error;
    size_t room, bit_room;
    uint32_t trace; /* in hand */
};

static int out_of_memory(struct reader *r)
{
    skew_error_set(r->error, "out of memory while clocks are fitted");
    return -ENOMEM;
}

/* ---- processes and units --------------------------------------------------------------------- */

/* The first database of this node: databases of one boot id share a clock. */
static int node_name(struct reader *r, char **out)
{
    sqlite3_stmt *s;
    int result = skew_sql_prepare(r->traces[r->trace], &s,
                                  "SELECT value FROM meta WHERE key = 'node'", r->error);

    *out = NULL;
    if (result < 0)
        return result;
    if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_text(s, 0))
        *out = strdup((const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return 0;
}

static int add_process(struct reader *r, sqlite3_stmt *s, uint32_t unit)
{
    struct skew_clocks *c = r->clocks;
    struct skew_clock *all = realloc(c->all, (c->count + 1) * sizeof *all);
    if (all)
        c->all = all;
    const char **keys = realloc(c->keys, (c->count + 1) * sizeof *keys);
    if (keys)
        c->keys = keys;
    const char *key = (const char *)sqlite3_column_text(s, 1);
    char *copy = strdup(key ? key : "");
    if (!all || !keys || !copy) {
        free(copy);
        return out_of_memory(r);
    }
    c->keys[c->count] = copy;
    c->all[c->count++] = (struct skew_clock){.trace = r->trace,
                                             .node = unit,
                                             .process = sqlite3_column_int64(s, 0),
                                             .rank = sqlite3_column_type(s, 2) == SQLITE_NULL
                                                         ? -1
                                                         : (int32_t)sqlite3_column_int64(s, 2)};
    return 0;
}

static int read_processes(struct reader *r, uint32_t unit, bool each)
{
    struct skew_clocks *c = r->clocks;
    sqlite3_stmt *s;
    int step = SQLITE_DONE,
        result = skew_sql_prepare(
            r->traces[r->trace], &s,
            "SELECT process_id, key, coalesce(world_rank, (SELECT min(rank) FROM member m"
            " WHERE m.process_id = p.process_id)) FROM process p ORDER BY process_id",
            r->error);

    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW)
        result = add_process(r, s, each ? c->unit_count++ : unit);
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(r->traces[r->trace], r->error);
    sqlite3_finalize(s);
    return result;
}

static int find_units(struct reader *r, bool each)
{
    struct skew_clocks *c = r->clocks;
    char **names = calloc(r->count + 1, sizeof *names);
    uint32_t *units = calloc(r->count + 1, sizeof *units);
    int result = names && units ? 0 : out_of_memory(r);

    for (r->trace = 0; r->trace < r->count && result == 0; r->trace++) {
        uint32_t t = r->trace, same = 0;
        result = node_name(r, &names[t]);
        while (result == 0 && same < t &&
               !(names[t] && names[same] && strcmp(names[t], names[same]) == 0))
            same++;
        if (result == 0 && !each)
            units[t] = same < t ? units[same] : c->unit_count++;
        if (result == 0)
            result = read_processes(r, units[t], each);
    }
    for (size_t t = 0; names && t < r->count; t++)
        free(names[t]);
    free(names);
    free(units);
    if (result < 0)
        return result;
    c->units = calloc((size_t)c->unit_count + 1, sizeof *c->units);
    c->pairs = calloc((size_t)c->unit_count * c->unit_count + 1, sizeof *c->pairs);
    return c->units && c->pairs ? 0 : out_of_memory(r);
}

/* ---- exchanges ------------------------------------------------------------------------------- */

/* Whom it received bytes from; v NULL: it received nothing. A message of no bytes is none: NCCL
 * does not wait for it. */
static int read_senders(struct reader *r, const struct skew_vector *v, uint32_t ranks,
                        uint32_t self, size_t *out)
{
    struct skew_clocks *c = r->clocks;
    size_t words = (ranks + 63) / 64;
    uint32_t nobody = 0;

    for (uint32_t i = 0; v && i < v->cells; i++)
        nobody += v->sizes[i] == 0 && skew_vector_peer(v, i) != self;
    *out = ALL_SENDERS;
    if (v && !v->peers && v->cells == ranks && nobody == 0)
        return 0;
    if (c->bit_words + words > r->bit_room) {
        size_t room = (c->bit_words + words) * 2;
        uint64_t *more = realloc(c->bits, room * sizeof *more);
        if (!more)
            return out_of_memory(r);
        c->bits = more;
        r->bit_room = room;
    }
    *out = c->bit_words;
    memset(c->bits + c->bit_words, 0, words * sizeof *c->bits);
    for (uint32_t i = 0; v && i < v->cells; i++) {
        uint32_t peer = skew_vector_peer(v, i);
        if (v->sizes[i] && peer < ranks)
            c->bits[*out + peer / 64] |= UINT64_C(1) << peer % 64;
    }
    c->bit_words += words;
    return 0;
}

static int add_row(struct reader *r, const struct clock_row *row)
{
    struct skew_clocks *c = r->clocks;
    struct clock_unit *unit = &c->units[row->unit];

    if (c->row_count == r->room) {
        size_t room = r->room ? r->room * 2 : 1024;
        struct clock_row *more = realloc(c->rows, room * sizeof *more);
        if (!more)
            return out_of_memory(r);
        c->rows = more;
        r->room = room;
    }
    c->rows[c->row_count++] = *row;
    if (!unit->seen || row->start < unit->first)
        unit->first = row->start;
    if (!unit->seen || row->end > unit->last)
        unit->last = row->end;
    unit->seen = true;
    return 0;
}

static int read_row(struct reader *r, sqlite3_stmt *s)
{
    struct skew_trace *trace = r->traces[r->trace];
    const struct skew_member *member = skew_trace_member(trace, sqlite3_column_int64(s, 1));
    const struct skew_match_exchange *group;
    const struct skew_vector *v = NULL;
    int64_t start, end, error, slack;
    int result = 0;

    if (!member || member->rank < 0 || (uint32_t)member->rank >= member->comm->ranks)
        return 0;
    if (!skew_sql_between(s, 3, INT64_MIN / 4, INT64_MAX / 4, &start) ||
        !skew_sql_between(s, 4, start, INT64_MAX / 4, &end) ||
        !skew_sql_between(s, 5, 0, INT64_MAX / 8, &error) ||
        !skew_sql_between(s, 6, 0, INT64_MAX / 8, &slack)) {
        skew_error_set(r->error, "%s: is damaged: the time of exchange %lld makes no sense",
                       trace->path, (long long)sqlite3_column_int64(s, 0));
        return -EBADMSG;
    }
    const struct skew_clock *clock = skew_clocks_of(r->clocks, r->trace, member->process);
    if (!clock ||
        skew_matches_group(r->matches, r->trace, sqlite3_column_int64(s, 0), &group, NULL) < 2)
        return 0;
    if (sqlite3_column_type(s, 2) != SQLITE_NULL)
        result = skew_vector_get(trace, sqlite3_column_int64(s, 2), &v, r->error);
    struct clock_row row = {.group = (uintptr_t)group,
                            .unit = clock->node,
                            .rank = (uint32_t)member->rank,
                            .start = start - slack - error,
                            .end = end + error,
                            .duration = end - start};
    if (result == 0)
        result = read_senders(r, v, member->comm->ranks, row.rank, &row.senders);
    return result < 0 ? result : add_row(r, &row);
}

/* Replays of CUDA graphs are left out: which of one rank meets which of another is only known where
 * none is untimed. */
static int read_rows(struct reader *r)
{
    struct skew_trace *trace = r->traces[r->trace];
    const struct skew_member *members;
    size_t count;
    sqlite3_stmt *s = NULL;
    int step = SQLITE_DONE, result = skew_trace_members(trace, &members, &count, r->error);

    if (result == 0)
        result = skew_sql_prepare(
            trace, &s,
            "SELECT e.exchange_id, e.member_id, e.recv_vector, t.start_ns, t.end_ns, t.error_ns,"
            " t.start_slack_ns FROM exchange e JOIN device_time t ON t.member_id = e.member_id"
            " AND t.thread = e.thread AND t.group_seq = e.group_seq AND t.launch_id = 0"
            " ORDER BY e.exchange_id",
            r->error);
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW)
        result = read_row(r, s);
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, r->error);
    sqlite3_finalize(s);
    return result;
}

static int by_group(const void *a, const void *b)
{
    const struct clock_row *x = a, *y = b;

    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* ---- who is nowhere -------------------------------------------------------------------------- */

static int note_missing(struct reader *r, const struct skew_comm *comm,
                        const struct skew_match_member *members, size_t count)
{
    struct skew_clocks *c = r->clocks;
    bool *here = calloc((size_t)comm->ranks + 1, sizeof *here);
    uint32_t *which = calloc((size_t)comm->ranks + 1, sizeof *which), n = 0;

    for (size_t i = 0; here && i < count; i++) {
        int32_t rank = members[i].member->rank;
        if (strcmp(members[i].comm_key, comm->key) == 0 && rank >= 0 &&
            (uint32_t)rank < comm->ranks)
            here[rank] = true;
    }
    for (uint32_t i = 0; here && which && i < comm->ranks; i++)
        if (!here[i])
            which[n++] = i;
    free(here);
    struct skew_clock_missing *more =
        n ? realloc(c->missing, (c->missing_count + 1) * sizeof *more) : NULL;
    if (!which || (n && !more) || !n) {
        free(which);
        return n || !which ? out_of_memory(r) : 0;
    }
    c->missing = more;
    more[c->missing_count++] = (struct skew_clock_missing){comm->key, comm->ranks, n, which};
    return 0;
}

static int find_missing(struct reader *r)
{
    size_t count;
    const struct skew_match_member *members = skew_matches_members(r->matches, &count);
    int result = 0;

    for (size_t i = 0; i < count && result == 0; i++) {
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++)
            seen = strcmp(members[i].comm_key, members[j].comm_key) == 0;
        if (!seen && members[i].member->comm->ranks_known)
            result = note_missing(r, members[i].member->comm, members, count);
    }
    return result;
}

/* ---- all of it ------------------------------------------------------------------------------- */

int skew_clock_read(struct skew_clocks *c, struct skew_trace *const *traces, size_t count,
                    const struct skew_clock_options *options, struct skew_error *error)
{
    struct reader r = {.clocks = c, .traces = traces, .count = count, .error = error};
    struct skew_matches *matches = NULL;
    int result = skew_matches_find(traces, count, &matches, error);

    r.matches = matches;
    if (result == 0)
        result = find_units(&r, options && options->each_process);
    for (r.trace = 0; r.trace < count && result == 0; r.trace++)
        result = read_rows(&r);
    if (result == 0)
        result = find_missing(&r);
    skew_matches_free(&matches);
    if (result < 0)
        return result;
    if (c->row_count)
        qsort(c->rows, c->row_count, sizeof *c->rows, by_group);
    size_t groups = 0;
    for (size_t i = 0; i < c->row_count; i++)
        groups += i == 0 || c->rows[i].group != c->rows[i - 1].group;
    /* Enough exchanges a block that either side is the last to come in some of them. */
    c->blocks = groups / 20 < 4                   ? 4
                : groups / 20 > SKEW_CLOCK_BLOCKS ? SKEW_CLOCK_BLOCKS
                                                  : (uint32_t)(groups / 20);
    for (uint32_t u = 0; u < c->unit_count; u++)
        c->units[u].at = c->units[u].first + (c->units[u].last - c->units[u].first) / 2;
    return 0;
}
