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
        if (!more)
            return -ENOMEM;
        rows->row = more;
        rows->room = room;
    }
    row.busy = most(0, least(row.busy, row.end - row.start));
    rows->row[rows->count++] = row;
    return 0;
}

void skew_overlap_rows_free(struct skew_overlap_rows *rows)
{
    free(rows->row);
    free(rows->latest);
    *rows = (struct skew_overlap_rows){0};
}

int skew_overlap_rows_index(struct skew_overlap_rows *rows)
{
    size_t leaves = 1;
    while (leaves < rows->count)
        leaves *= 2;
    free(rows->latest);
    rows->latest = malloc(2 * leaves * sizeof *rows->latest);
    rows->leaves = rows->latest ? leaves : 0;
    if (!rows->latest)
        return -ENOMEM;
    for (size_t i = 0; i < leaves; i++)
        rows->latest[leaves + i] = i < rows->count ? rows->row[i].end : INT64_MIN;
    for (size_t i = leaves; --i > 0;)
        rows->latest[i] = most(rows->latest[2 * i], rows->latest[2 * i + 1]);
    return 0;
}

/* The first row from `i` on that ends behind `from`; `count` or more: none. One long row among many
 * short ones must not make every question a walk over all of them. */
static size_t next_beyond(const struct skew_overlap_rows *rows, size_t i, int64_t from)
{
    size_t at = rows->leaves + i;
    if (i >= rows->count)
        return rows->count;
    while (rows->latest[at] <= from) {
        while (at & 1)
            at >>= 1;
        if (at == 0)
            return rows->count;
        at++;
    }
    while (at < rows->leaves) {
        at *= 2;
        at += rows->latest[at] <= from;
    }
    return at - rows->leaves;
}

struct skew_between skew_overlap_covered(const struct skew_overlap_rows *rows, int64_t from,
                                         int64_t to)
{
    int64_t spans = 0, gaps = 0, busy = 0, surely = 0, covered = from;

    for (size_t i = next_beyond(rows, 0, from); i < rows->count && rows->row[i].start < to;
         i = next_beyond(rows, i + 1, from)) {
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
