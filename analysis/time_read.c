/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a database to rows of the Time analyses: one statement over exchanges with their times on
 * the device and their labels, and one over the routing. Which rows belong together is match.h's,
 * what kernels hide of them overlap.h's.
 */
#include "label.h"
#include "overlap_private.h"
#include "time_private.h"
#include "trace_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What was captured into a graph has a row a launch, in their order. */
static const char rows_sql[] =
    "SELECT e.exchange_id, e.member_id, e.seq, e.start_ns, e.send_vector, e.recv_vector,"
    " e.send_unit, e.recv_unit, t.start_ns, t.end_ns, b.role, b.step, b.layer,"
    " b.microbatch, b.token_bytes, t.source, t.error_ns FROM exchange e"
    " LEFT JOIN device_time t ON t.member_id = e.member_id AND t.thread = e.thread"
    " AND t.group_seq = e.group_seq"
    " LEFT JOIN exchange_label b ON b.exchange_id = e.exchange_id"
    " ORDER BY e.exchange_id, t.launch_id, t.start_ns";

struct reader {
    struct skew_times *times;
    struct skew_trace *trace;
    const struct skew_matches *matches;
    uint32_t index; /* of the trace among those that were matched */
    struct skew_overlap_lanes lanes;
    bool kernels; /* the trace has a place for them */
    sqlite3_stmt *select;
    struct skew_error *error;
    int64_t exchange; /* the one before, for counting its launches */
    uint32_t occurrence;
    uint32_t *peers; /* [peer_count] of the row in hand */
    uint32_t peer_count;
    size_t peer_room;
    bool everybody; /* … are all ranks */
};

static int damaged(struct reader *r, const char *what)
{
    skew_error_set(r->error, "%s: is damaged: exchange %lld has %s", r->trace->path,
                   (long long)sqlite3_column_int64(r->select, 0), what);
    return -EBADMSG;
}

/* Vectors of all ranks in a row, which nearly all are, need no list. */
static int note_peers(struct reader *r, const struct skew_vector *vector)
{
    size_t need = (size_t)r->peer_count + vector->cells;

    if (!vector->peers && vector->cells == r->times->ranks) {
        r->everybody = true;
        return 0;
    }
    if (need > r->peer_room) {
        uint32_t *more = realloc(r->peers, need * sizeof *more);
        if (!more)
            return -ENOMEM;
        r->peers = more;
        r->peer_room = need;
    }
    for (uint32_t i = 0; i < vector->cells; i++)
        r->peers[r->peer_count++] = skew_vector_peer(vector, i);
    return 0;
}

/* Bytes to or from others, and all of them. */
static int side(struct reader *r, int column, uint32_t rank, double *others, double *all)
{
    const struct skew_vector *vector;
    double unit = (double)sqlite3_column_int64(r->select, column + 2);

    *others = *all = 0;
    if (sqlite3_column_type(r->select, column) == SQLITE_NULL)
        return 0;
    int result =
        skew_vector_get(r->trace, sqlite3_column_int64(r->select, column), &vector, r->error);
    if (result < 0)
        return result;
    double own = 0;
    for (uint32_t i = 0; i < vector->cells; i++)
        if (skew_vector_peer(vector, i) == rank)
            own += (double)vector->sizes[i];
    *all = (double)vector->total * unit;
    *others = *all - own * unit;
    return note_peers(r, vector);
}

static enum skew_time_role role_of(sqlite3_stmt *s, int column)
{
    const char *name = (const char *)sqlite3_column_text(s, column);

    if (!name)
        return SKEW_TIME_UNKNOWN;
    for (int i = SKEW_TIME_DISPATCH; i < SKEW_TIME_OTHER; i++)
        if (strcmp(name, skew_time_role_name[i]) == 0)
            return (enum skew_time_role)i;
    return strcmp(name, "dispatch_recompute") == 0  ? SKEW_TIME_DISPATCH
           : strcmp(name, "combine_recompute") == 0 ? SKEW_TIME_COMBINE
                                                    : SKEW_TIME_OTHER;
}

static int64_t ordinal(sqlite3_stmt *s, int column)
{
    int64_t value;
    return skew_sql_between(s, column, 0, INT64_MAX / 2, &value) ? value : -1;
}

/* Labels that were found now and not saved. */
static void take_label(const struct skew_label *label, struct skew_time_row *row)
{
    static const enum skew_time_role roles[SKEW_LABEL_ROLES] = {
        [SKEW_LABEL_UNKNOWN] = SKEW_TIME_UNKNOWN,
        [SKEW_LABEL_DISPATCH] = SKEW_TIME_DISPATCH,
        [SKEW_LABEL_DISPATCH_RECOMPUTE] = SKEW_TIME_DISPATCH,
        [SKEW_LABEL_COMBINE] = SKEW_TIME_COMBINE,
        [SKEW_LABEL_COMBINE_RECOMPUTE] = SKEW_TIME_COMBINE,
        [SKEW_LABEL_COMBINE_BWD] = SKEW_TIME_COMBINE_BWD,
        [SKEW_LABEL_DISPATCH_BWD] = SKEW_TIME_DISPATCH_BWD};

    row->step = row->layer = -1;
    row->microbatch = 0;
    row->role = SKEW_TIME_UNKNOWN;
    row->token_bytes = 0;
    if (!label || !label->id)
        return;
    row->role = roles[label->role] || label->role == SKEW_LABEL_UNKNOWN ? roles[label->role]
                                                                        : SKEW_TIME_OTHER;
    row->step = label->step;
    row->layer = label->layer;
    row->microbatch = label->microbatch > 0 ? label->microbatch : 0;
    row->token_bytes = (double)label->token_bytes;
}

static int add_row(struct reader *r, const struct skew_member *member)
{
    sqlite3_stmt *s = r->select;
    int64_t id = sqlite3_column_int64(s, 0);
    bool timed = sqlite3_column_type(s, 8) == SQLITE_INTEGER;
    struct skew_time_row row = {.rank = (uint32_t)member->rank,
                                .host_ns = sqlite3_column_int64(s, 3),
                                .start_ns = timed ? sqlite3_column_int64(s, 8) : SKEW_TIME_ABSENT,
                                .end_ns = timed ? sqlite3_column_int64(s, 9) : SKEW_TIME_ABSENT,
                                .error_ns = timed ? sqlite3_column_int64(s, 16) : 0,
                                .role = role_of(s, 10),
                                .step = ordinal(s, 11),
                                .layer = ordinal(s, 12),
                                .microbatch = sqlite3_column_int64(s, 13), /* NULL: 0 */
                                .token_bytes = sqlite3_column_double(s, 14),
                                .hidden = {NAN, NAN}};
    const struct skew_match_exchange *group;
    struct skew_between hidden;
    double all_sent;

    if (!skew_sql_between(s, 2, 0, INT64_MAX / 2, &row.seq))
        return damaged(r, "no sensible ordinal");
    if (timed && row.end_ns < row.start_ns)
        return damaged(r, "ended before it began");
    row.occurrence = r->occurrence = id == r->exchange ? r->occurrence + 1 : 0;
    r->exchange = id;
    if (!skew_matches_group(r->matches, r->index, id, &group, &row.place))
        return damaged(r, "a rank that another process has");
    if (timed && r->kernels &&
        skew_overlap_of(&r->lanes, member, sqlite3_column_int(s, 15), row.start_ns, row.end_ns,
                        &hidden))
        row.hidden = (struct skew_time_range){(double)hidden.low, (double)hidden.high};
    if (r->trace->labels)
        take_label(skew_labels_exchange(r->trace->labels, id), &row);
    r->peer_count = 0;
    r->everybody = false;
    int result = side(r, 4, row.rank, &row.sent, &all_sent);
    if (result == 0)
        result = side(r, 5, row.rank, &row.received, &row.load);
    row.peers = r->everybody ? NULL : r->peers;
    row.peer_count = r->peer_count;
    if (result == 0)
        result = skew_times_add(r->times, &row);
    if (result == -EEXIST)
        return damaged(r, "the ordinal of another one of its rank");
    return result;
}

static int read_clocks(struct reader *r, const char *comm_key)
{
    sqlite3_stmt *s;
    int step,
        result = skew_sql_prepare(r->trace, &s,
                                  "SELECT m.rank, f.at_ns, f.offset_ns, f.drift_ppb, f.residual_ns"
                                  " FROM member m JOIN communicator c USING (comm_id)"
                                  " LEFT JOIN clock_fit f USING (process_id) WHERE c.key = ?",
                                  r->error);

    if (result < 0)
        return result;
    sqlite3_bind_text(s, 1, comm_key, -1, SQLITE_STATIC);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t rank;
        if (!skew_sql_between(s, 0, 0, r->times->ranks - 1, &rank))
            continue;
        skew_times_clock(r->times, (uint32_t)rank, r->index);
        if (sqlite3_column_type(s, 1) != SQLITE_NULL)
            skew_times_clock_fit(r->times, (uint32_t)rank, sqlite3_column_int64(s, 1),
                                 sqlite3_column_int64(s, 2), sqlite3_column_double(s, 3),
                                 sqlite3_column_int64(s, 4));
    }
    if (step != SQLITE_DONE)
        result = skew_trace_sql_error(r->trace, r->error);
    sqlite3_finalize(s);
    return result;
}

/* The kernels of the trace; one of before there were any has none of that. */
static int read_kernels(struct reader *r)
{
    uint64_t dropped = 0;
    int result = 0;

    r->kernels = skew_overlap_has_kernels(r->trace);
    if (r->kernels)
        result = skew_overlap_read_lanes(r->trace, &r->lanes, r->error);
    if (r->kernels && result == 0)
        result = skew_overlap_read_dropped(r->trace, &dropped, r->error);
    r->times->cupti_dropped += dropped;
    return result;
}

int skew_times_read(struct skew_times *times, struct skew_trace *trace,
                    const struct skew_matches *matches, uint32_t index, const char *comm_key,
                    struct skew_error *error)
{
    struct reader r = {.times = times,
                       .trace = trace,
                       .matches = matches,
                       .index = index,
                       .error = error,
                       .exchange = INT64_MIN,
                       .peers = malloc(sizeof *r.peers),
                       .peer_room = 1};
    const struct skew_member *members, *member;
    size_t count;
    int step, result = r.peers ? skew_trace_members(trace, &members, &count, error) : -ENOMEM;

    if (result == 0)
        result = read_clocks(&r, comm_key);
    if (result == 0)
        result = read_kernels(&r);
    if (result == 0)
        result = skew_sql_prepare(trace, &r.select, rows_sql, error);
    while (result == 0 && (step = sqlite3_step(r.select)) == SQLITE_ROW) {
        member = skew_trace_member(trace, sqlite3_column_int64(r.select, 1));
        if (!member)
            result = damaged(&r, "no member");
        else if (member->rank >= 0 && strcmp(member->comm->key, comm_key) == 0)
            result = add_row(&r, member);
    }
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    if (result == -ENOMEM)
        skew_error_set(error, "%s: out of memory", trace->path);
    sqlite3_finalize(r.select);
    skew_overlap_lanes_free(&r.lanes);
    free(r.peers);
    return result;
}

/* ---- routing --------------------------------------------------------------------------------- */

static int hand_over(struct skew_trace *trace, sqlite3_stmt *s, double **tokens, size_t *room,
                     skew_time_routing_fn *take, void *taker, struct skew_error *error)
{
    const struct skew_vector *vector;
    int64_t step, layer, source, experts;
    double unit = (double)sqlite3_column_int64(s, 6);

    if (!skew_sql_between(s, 0, 0, INT64_MAX / 2, &step) ||
        !skew_sql_between(s, 1, 0, INT64_MAX / 2, &layer) ||
        !skew_sql_between(s, 2, 0, SKEW_RANKS_MAX, &source) ||
        !skew_sql_between(s, 3, 1, SKEW_CELLS_MAX, &experts))
        return 0; /* says nothing about one call */
    int result = skew_vector_get(trace, sqlite3_column_int64(s, 5), &vector, error);
    if (result < 0)
        return result;
    if ((size_t)experts > *room) {
        double *more = realloc(*tokens, (size_t)experts * sizeof *more);
        if (!more)
            return -ENOMEM;
        *tokens = more;
        *room = (size_t)experts;
    }
    memset(*tokens, 0, (size_t)experts * sizeof **tokens);
    for (uint32_t i = 0; i < vector->cells; i++)
        if (skew_vector_peer(vector, i) < experts)
            (*tokens)[skew_vector_peer(vector, i)] += unit * (double)vector->sizes[i];
    struct skew_time_routing one = {.step = step,
                                    .layer = layer,
                                    .microbatch = sqlite3_column_int64(s, 7),
                                    .source = (uint32_t)source,
                                    .experts = (uint32_t)experts,
                                    .topk = (uint32_t)sqlite3_column_int(s, 4),
                                    .tokens = *tokens};
    return take(taker, &one);
}

int skew_time_routing_each(struct skew_trace *trace, const char *comm_key,
                           skew_time_routing_fn *take, void *taker, struct skew_error *error)
{
    sqlite3_stmt *s;
    double *tokens = NULL;
    size_t room = 0;
    int step = SQLITE_DONE;
    int result = skew_sql_prepare(
        trace, &s,
        "SELECT r.step, r.layer, r.source_rank, r.experts, r.topk, r.counts, r.unit,"
        " coalesce(r.microbatch, 0) FROM routing r JOIN communicator c USING (comm_id)"
        " WHERE c.key = ? AND r.request IS NULL"
        " ORDER BY r.routing_id",
        error);

    if (result < 0)
        return result;
    sqlite3_bind_text(s, 1, comm_key, -1, SQLITE_STATIC);
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW)
        result = hand_over(trace, s, &tokens, &room, take, taker, error);
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    if (result == -ENOMEM)
        skew_error_set(error, "%s: out of memory", trace->path);
    sqlite3_finalize(s);
    free(tokens);
    return result;
}
