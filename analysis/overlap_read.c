/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges with their times on the device, held against the kernels of that device. */
#include "label.h"
#include "overlap_private.h"
#include "trace_private.h"

#include <errno.h>
#include <stdlib.h>

#define SOURCE_CUPTI 2 /* table time_source */

const struct skew_overlap_lane *skew_overlap_lane_of(const struct skew_overlap_lanes *lanes,
                                                     int64_t process, int64_t device)
{
    const struct skew_overlap_lane *found = NULL;
    for (size_t i = 0; i < lanes->count; i++) {
        if (lanes->lane[i].process != process)
            continue;
        if (device >= 0 && lanes->lane[i].device == device)
            return &lanes->lane[i];
        if (device < 0 && found)
            return NULL; /* several devices, and no telling which */
        found = device < 0 ? &lanes->lane[i] : NULL;
    }
    return found;
}

bool skew_overlap_of(const struct skew_overlap_lanes *lanes, const struct skew_member *member,
                     int source, int64_t start, int64_t end, struct skew_between *overlapped)
{
    const struct skew_overlap_lane *lane =
        skew_overlap_lane_of(lanes, member->process, member->device);

    *overlapped = (struct skew_between){0, 0};
    /* Where the exchange itself came from CUPTI, kernels would have come too. */
    if (source != SOURCE_CUPTI && !(lane && lane->first <= start && end <= lane->last))
        return false;
    if (lane)
        *overlapped = skew_overlap_covered(&lane->computation, start, end);
    return true;
}

static int received(struct skew_trace *trace, sqlite3_stmt *s, uint64_t *bytes,
                    struct skew_error *error)
{
    const struct skew_vector *vector;
    *bytes = 0;
    if (sqlite3_column_type(s, 6) == SQLITE_NULL)
        return 0;
    int result = skew_vector_get(trace, sqlite3_column_int64(s, 6), &vector, error);
    if (result == 0)
        *bytes = vector->total * (uint64_t)sqlite3_column_int64(s, 7);
    return result;
}

/* Ways to the experts, which something comes back from. */
static bool goes_there(int role)
{
    return role == SKEW_LABEL_DISPATCH || role == SKEW_LABEL_DISPATCH_RECOMPUTE ||
           role == SKEW_LABEL_COMBINE_BWD;
}

static int add_exchange(struct skew_trace *trace, sqlite3_stmt *s,
                        const struct skew_overlap_lanes *lanes, struct skew_overlap *out,
                        size_t *room, struct skew_error *error)
{
    const struct skew_member *member = skew_trace_member(trace, sqlite3_column_int64(s, 1));
    if (sqlite3_column_type(s, 4) == SQLITE_NULL) {
        out->untimed++;
        return 0;
    }
    int64_t start = sqlite3_column_int64(s, 4), end = sqlite3_column_int64(s, 5);
    if (!member || start < 0 || end < start)
        return 0;
    struct skew_overlap_exchange *x =
        skew_overlap_grow(&out->exchanges, &out->exchange_count, room, sizeof *x);
    if (!x)
        return -ENOMEM;
    x->id = sqlite3_column_int64(s, 0);
    x->member = member;
    x->seq = sqlite3_column_int64(s, 2);
    x->launch = sqlite3_column_int64(s, 3);
    x->start = start;
    x->end = end;
    x->step = x->layer = -1;
    const struct skew_label *label =
        trace->labels ? skew_labels_exchange(trace->labels, x->id) : NULL;
    if (label && label->id) {
        x->role = label->role;
        x->step = label->step;
        x->layer = label->layer;
        if (goes_there(label->role) && label->flags & SKEW_LABEL_PARTIAL)
            out->partial++;
        else if (goes_there(label->role))
            x->pair = label->pair;
    }
    x->known = skew_overlap_of(lanes, member, sqlite3_column_int(s, 8), start, end, &x->overlapped);
    int result = received(trace, s, &x->load, error);
    if (label && label->token_bytes)
        x->tokens = x->load / label->token_bytes;
    return result;
}

static int by_id_and_launch(const void *a, const void *b)
{
    const struct skew_overlap_exchange *x = a, *y = b;
    return x->id != y->id ? (x->id > y->id) - (x->id < y->id)
                          : (x->launch > y->launch) - (x->launch < y->launch);
}

/* The way back of x: of the same replay, and where that runs both several times, the same one of
 * these. */
static const struct skew_overlap_exchange *way_back(const struct skew_overlap *out,
                                                    const struct skew_overlap_exchange *x)
{
    const struct skew_overlap_exchange *all = out->exchanges, *end = all + out->exchange_count;
    const struct skew_overlap_exchange key = {.id = x->pair, .launch = x->launch}, *first = x;
    const struct skew_overlap_exchange *back =
        x->pair ? bsearch(&key, all, out->exchange_count, sizeof key, by_id_and_launch) : NULL;
    if (!back)
        return NULL;
    while (first > all && by_id_and_launch(first - 1, x) == 0)
        first--;
    while (back > all && by_id_and_launch(back - 1, &key) == 0)
        back--;
    back += x - first;
    return back < end && by_id_and_launch(back, &key) == 0 ? back : NULL;
}

/* What lies between each way there and its way back. */
static void fill_gaps(struct skew_overlap *out, const struct skew_overlap_lanes *lanes)
{
    for (size_t i = 0; i < out->exchange_count; i++) {
        struct skew_overlap_exchange *x = &out->exchanges[i];
        const struct skew_overlap_exchange *back = way_back(out, x);
        if (!back || back->member->process != x->member->process) {
            x->pair = 0;
            continue;
        }
        const struct skew_overlap_lane *lane =
            skew_overlap_lane_of(lanes, x->member->process, x->member->device);
        x->gap = back->start - x->end;
        x->experts_known = x->known && back->known;
        if (x->experts_known && lane && x->gap > 0)
            x->experts = skew_overlap_covered(&lane->computation, x->end, back->start);
    }
}

static int read_exchanges(struct skew_trace *trace, const struct skew_overlap_lanes *lanes,
                          struct skew_overlap *out, struct skew_error *error)
{
    sqlite3_stmt *s;
    size_t room = 0;
    int step = SQLITE_DONE;
    int result = skew_sql_prepare(
        trace, &s,
        "SELECT e.exchange_id, e.member_id, e.seq, coalesce(t.launch_id, 0), t.start_ns, t.end_ns,"
        " e.recv_vector, e.recv_unit, t.source FROM exchange e"
        " LEFT JOIN device_time t ON t.member_id = e.member_id AND t.thread = e.thread"
        " AND t.group_seq = e.group_seq ORDER BY e.exchange_id, t.launch_id, t.start_ns",
        error);
    if (result < 0)
        return result;
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW)
        result = add_exchange(trace, s, lanes, out, &room, error);
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

int skew_overlap_read_dropped(struct skew_trace *trace, uint64_t *dropped, struct skew_error *error)
{
    sqlite3_stmt *s;
    int result = skew_sql_prepare(
        trace, &s, "SELECT CAST(total(cupti_dropped) AS INTEGER) FROM overhead", error);
    if (result < 0)
        return result;
    if (sqlite3_step(s) == SQLITE_ROW)
        *dropped = (uint64_t)sqlite3_column_int64(s, 0);
    else
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

bool skew_overlap_has_kernels(struct skew_trace *trace)
{
    return sqlite3_table_column_metadata(trace->db, NULL, "kernel", "busy_ns", NULL, NULL, NULL,
                                         NULL, NULL) == SQLITE_OK;
}

int skew_overlap_read(struct skew_trace *trace, struct skew_overlap *out, struct skew_error *error)
{
    struct skew_overlap_lanes lanes = {0};
    const struct skew_member *members;
    size_t count;
    *out = (struct skew_overlap){0};
    int result = skew_trace_members(trace, &members, &count, error);
    if (result == 0 && !skew_overlap_has_kernels(trace)) {
        skew_error_set(error, "%s: was written before kernels and device times were recorded",
                       trace->path);
        result = -ENODATA;
    }
    if (result == 0)
        result = skew_overlap_read_kernels(trace, &lanes, out, error);
    if (result == 0)
        result = skew_overlap_read_dropped(trace, &out->dropped, error);
    if (result == 0)
        result = read_exchanges(trace, &lanes, out, error);
    if (result == 0 && out->exchange_count)
        fill_gaps(out, &lanes);
    if (result == -ENOMEM)
        skew_error_set(error, "%s: out of memory", trace->path);
    skew_overlap_lanes_free(&lanes);
    return result;
}

int skew_overlap_read_lanes(struct skew_trace *trace, struct skew_overlap_lanes *lanes,
                            struct skew_error *error)
{
    struct skew_overlap backends = {0};
    int result = skew_overlap_read_kernels(trace, lanes, &backends, error);

    skew_overlap_free(&backends);
    return result;
}

void skew_overlap_lanes_free(struct skew_overlap_lanes *lanes)
{
    for (size_t i = 0; i < lanes->count; i++)
        skew_overlap_rows_free(&lanes->lane[i].computation);
    free(lanes->lane);
    *lanes = (struct skew_overlap_lanes){0};
}

void skew_overlap_free(struct skew_overlap *overlap)
{
    for (size_t i = 0; i < overlap->unknown_count; i++)
        free(overlap->unknown[i]);
    free(overlap->unknown);
    free(overlap->exchanges);
    free(overlap->backends);
    free(overlap->rounds);
    *overlap = (struct skew_overlap){0};
}
