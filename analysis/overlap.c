/* SPDX-License-Identifier: Apache-2.0 */
/* See overlap.h: intervals. Pure arithmetic on rows that are sorted already. */
#include "overlap.h"

#include <errno.h>
#include <stdlib.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Rows come from anybody: what does not fit stays at the largest. */
static int64_t plus(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

int skew_overlap_rows_add(struct skew_overlap_rows *rows, struct skew_overlap_row row)
{
    if (row.end <= row.start)
        return 0;
    if (rows->count == rows->room) {
        size_t room = rows->room ? rows->room * 2 : 256;
        struct skew_overlap_row *more = realloc(rows->row, room * sizeof *more);
        rows->row = more ? more : rows->row;
        int64_t *latest = realloc(rows->latest, room * sizeof *latest);
        rows->latest = latest ? latest : rows->latest;
        if (!more || !latest)
            return -ENOMEM;
        rows->room = room;
    }
    row.busy = most(0, least(row.busy, row.end - row.start));
    rows->latest[rows->count] =
        rows->count ? most(rows->latest[rows->count - 1], row.end) : row.end;
    rows->row[rows->count++] = row;
    return 0;
}

void skew_overlap_rows_free(struct skew_overlap_rows *rows)
{
    free(rows->row);
    free(rows->latest);
    *rows = (struct skew_overlap_rows){0};
}

/* The first row that can reach beyond `from`: none before it does. */
static size_t first_beyond(const struct skew_overlap_rows *rows, int64_t from)
{
    size_t low = 0, high = rows->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (rows->latest[middle] <= from)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct skew_between skew_overlap_covered(const struct skew_overlap_rows *rows, int64_t from,
                                         int64_t to)
{
    int64_t spans = 0, gaps = 0, busy = 0, surely = 0, covered = from;

    for (size_t i = first_beyond(rows, from); i < rows->count && rows->row[i].start < to; i++) {
        const struct skew_overlap_row *row = &rows->row[i];
        int64_t start = most(row->start, from), end = least(row->end, to);
        int64_t gap = row->end - row->start - row->busy;
        if (end <= start)
            continue;
        spans += most(0, end - most(start, covered));
        covered = most(covered, end);
        gaps = plus(gaps, least(gap, end - start));
        busy = plus(busy, least(row->busy, end - start));
        surely = most(surely, end - start - gap);
    }
    return (struct skew_between){most(surely, most(0, spans - gaps)), least(spans, busy)};
}
