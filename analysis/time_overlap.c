/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What computation hides of exchanges: table kernel, where CUPTI filled it. Kernels of several
 * streams are united, so that no nanosecond hides anything twice.
 */
#include "time_private.h"
#include "trace_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Device work of one process without overlaps, in order. */
struct segments {
    size_t count, room;
    int64_t *start, *end;
    double *share; /* of the segment in which kernels ran */
};

static void segments_free(struct segments *s)
{
    free(s->start);
    free(s->end);
    free(s->share);
    *s = (struct segments){0};
}

static int add(struct segments *s, int64_t start, int64_t end, int64_t busy)
{
    int64_t covered = s->count ? s->end[s->count - 1] : INT64_MIN;
    double share = end > start ? fmin(1, (double)busy / (double)(end - start)) : 0;

    if (end <= covered || end <= start)
        return 0;
    if (s->count == s->room) {
        size_t room = s->room ? s->room * 2 : 256;
        int64_t *more_start = realloc(s->start, room * sizeof *more_start);
        s->start = more_start ? more_start : s->start;
        int64_t *more_end = realloc(s->end, room * sizeof *more_end);
        s->end = more_end ? more_end : s->end;
        double *more_share = realloc(s->share, room * sizeof *more_share);
        s->share = more_share ? more_share : s->share;
        if (!more_start || !more_end || !more_share)
            return -ENOMEM;
        s->room = room;
    }
    s->start[s->count] = start > covered ? start : covered;
    s->end[s->count] = end;
    s->share[s->count++] = share;
    return 0;
}

/* ns of start … end in which kernels ran. */
static double hidden_in(const struct segments *s, int64_t start, int64_t end)
{
    size_t low = 0, high = s->count;
    double sum = 0;

    while (low < high) { /* the first that ends behind `start` */
        size_t middle = low + (high - low) / 2;
        if (s->end[middle] <= start)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < s->count && s->start[low] < end; low++) {
        int64_t from = s->start[low] > start ? s->start[low] : start;
        int64_t to = s->end[low] < end ? s->end[low] : end;
        sum += s->share[low] * (double)(to - from);
    }
    return sum;
}

static int read_segments(struct skew_trace *trace, sqlite3_stmt *select,
                         const struct skew_member *member, struct segments *s,
                         struct skew_error *error)
{
    int step, result = 0;

    sqlite3_bind_int64(select, 1, member->process);
    sqlite3_bind_int64(select, 2, member->device);
    while (result == 0 && (step = sqlite3_step(select)) == SQLITE_ROW)
        result = add(s, sqlite3_column_int64(select, 0), sqlite3_column_int64(select, 1),
                     sqlite3_column_int64(select, 2));
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    sqlite3_reset(select);
    return result;
}

static void fill(struct skew_times *times, uint32_t rank, const struct segments *s)
{
    for (size_t slot = 0; slot < times->count; slot++) {
        size_t cell = slot * times->ranks + rank;
        if (times->start[cell] != SKEW_TIME_ABSENT)
            times->hidden[cell] = hidden_in(s, times->start[cell], times->end[cell]);
    }
}

int skew_time_read_hidden(struct skew_times *times, struct skew_trace *trace, const char *comm_key,
                          struct skew_error *error)
{
    const struct skew_member *members;
    sqlite3_stmt *select;
    size_t count;

    /* Traces of before this table have none of it. */
    if (sqlite3_table_column_metadata(trace->db, NULL, "kernel", "busy_ns", NULL, NULL, NULL, NULL,
                                      NULL) != SQLITE_OK)
        return 0;
    int result = skew_trace_members(trace, &members, &count, error);
    if (result == 0)
        result =
            skew_sql_prepare(trace, &select,
                             "SELECT start_ns, end_ns, busy_ns FROM kernel WHERE process_id = ?1"
                             " AND (?2 < 0 OR device = ?2) ORDER BY start_ns",
                             error);
    if (result < 0)
        return result;
    for (size_t i = 0; i < count && result == 0; i++) {
        struct segments s = {0};
        if (members[i].rank < 0 || (uint32_t)members[i].rank >= times->ranks ||
            strcmp(members[i].comm->key, comm_key) != 0)
            continue;
        result = read_segments(trace, select, &members[i], &s, error);
        if (result == 0 && s.count)
            fill(times, (uint32_t)members[i].rank, &s);
        segments_free(&s);
    }
    sqlite3_finalize(select);
    return result;
}
