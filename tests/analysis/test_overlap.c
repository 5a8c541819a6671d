/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time covered by kernels, against counting each ns: rows at random, of which some stand for
 * several kernels whose places within the row are drawn too. The truth must lie in the interval
 * that is told, and where every row is full the interval must be that one number.
 */
#undef NDEBUG
#include "overlap.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AXIS 400

static uint64_t seed = 1;

static int64_t below(int64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((seed >> 33) % (uint64_t)n);
}

/* Draws rows with the ns in which kernels ran; `full`: rows without gaps. */
static void draw(struct skew_overlap_rows *rows, char *ran, bool full)
{
    memset(ran, 0, AXIS);
    int64_t at = 0;
    for (int64_t i = below(12); i-- > 0;) {
        struct skew_overlap_row row;
        at += below(40);
        row.start = at;
        row.end = at + below(60);
        if (row.end > AXIS)
            break;
        row.busy = 0;
        for (int64_t ns = row.start; ns < row.end; ns++)
            if (full || below(3)) {
                ran[ns] = 1;
                row.busy++;
            }
        assert(skew_overlap_rows_add(rows, row) == 0);
    }
}

int main(void)
{
    char ran[AXIS];
    uint64_t exact = 0, total = 0;

    for (int i = 0; i < 20000; i++) {
        struct skew_overlap_rows rows = {0};
        draw(&rows, ran, i % 2);
        assert(skew_overlap_rows_index(&rows) == 0);
        int64_t from = below(AXIS), to = from + below(AXIS - from), wanted = 0;
        for (int64_t ns = from; ns < to; ns++)
            wanted += ran[ns];
        struct skew_between got = skew_overlap_covered(&rows, from, to);
        assert(got.low <= wanted && wanted <= got.high);
        assert(i % 2 == 0 || got.low == got.high);
        exact += got.low == got.high;
        total++;
        skew_overlap_rows_free(&rows);
    }

    /* One row that is half full: all of its work may lie in the first half, or none. */
    struct skew_overlap_rows rows = {0};
    assert(skew_overlap_rows_add(&rows, (struct skew_overlap_row){100, 200, 50}) == 0);
    assert(skew_overlap_rows_index(&rows) == 0);
    struct skew_between half = skew_overlap_covered(&rows, 0, 150);
    assert(half.low == 0 && half.high == 50);
    half = skew_overlap_covered(&rows, 110, 200);
    assert(half.low == 40 && half.high == 50);
    half = skew_overlap_covered(&rows, 200, 300);
    assert(half.low == 0 && half.high == 0);
    /* What comes from a damaged trace must not overflow. */
    for (int i = 0; i < 4; i++)
        assert(skew_overlap_rows_add(&rows, (struct skew_overlap_row){200, INT64_MAX, INT64_MAX}) ==
               0);
    assert(skew_overlap_rows_index(&rows) == 0);
    half = skew_overlap_covered(&rows, 0, INT64_MAX);
    assert(half.low <= half.high && half.high <= INT64_MAX - 100);
    skew_overlap_rows_free(&rows);

    /* One long kernel among very many short ones: as many questions as rows, in no time. */
    assert(skew_overlap_rows_add(&rows, (struct skew_overlap_row){0, 1000000000, 1000000000}) == 0);
    for (int64_t i = 1; i < 200000; i++)
        assert(skew_overlap_rows_add(&rows, (struct skew_overlap_row){i * 10, i * 10 + 5, 5}) == 0);
    assert(skew_overlap_rows_index(&rows) == 0);
    for (int64_t i = 1; i < 200000; i++) {
        half = skew_overlap_covered(&rows, i * 10 + 2, i * 10 + 12);
        assert(half.low == 10 && half.high == 10);
    }
    skew_overlap_rows_free(&rows);
    printf("%llu of %llu exact\n", (unsigned long long)exact, (unsigned long long)total);
    return 0;
}
