/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Birkhoff–von Neumann: a matrix with equal row and column sums as a sum of permutations.
 *
 * The matching lives on from one permutation to the next. "Largest" needs the matching whose
 * smallest entry is largest; entries only shrink, so the last answer is an upper bound of the next,
 * and widest paths lower it no further than a free row forces (the threshold method for bottleneck
 * assignment). "First" is the same with the threshold at 1 from the start: then every edge will do.
 */
#include "schedule_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct birkhoff {
    uint64_t *m;
    uint32_t n;
    uint64_t threshold;
    uint32_t *column, *row; /* the matching, both ways */
    uint64_t *width;        /* [n] of the widest path to each column */
    uint32_t *reached_from; /* [n] row */
    unsigned char *closed;  /* [n] */
};

/* Widens by row i; returns the widest column that is open, or one that is wide enough: a free one
 * if there is any, since that ends the search. */
static uint32_t widen(struct birkhoff *f, uint32_t i)
{
    const uint64_t *restrict row = f->m + (size_t)i * f->n;
    uint32_t best = NONE;

    for (uint32_t j = 0; j < f->n; j++) {
        if (f->closed[j])
            continue;
        if (row[j] > f->width[j]) {
            f->width[j] = row[j];
            f->reached_from[j] = i;
        }
        if (f->width[j] >= f->threshold && f->row[j] == NONE)
            return j;
        if (best == NONE || (f->width[j] > f->width[best] && f->width[best] < f->threshold))
            best = j;
    }
    return best;
}

/* A path from a free row to a free column, over entries of at least the threshold, which is lowered
 * as far as needed. There always is one: equal sums have a perfect matching (Hall, König). */
static void augment(struct birkhoff *f, uint32_t start)
{
    uint32_t i = start, j;

    memset(f->width, 0, f->n * sizeof *f->width);
    memset(f->closed, 0, f->n);
    for (;;) {
        j = widen(f, i);
        if (f->width[j] < f->threshold)
            f->threshold = f->width[j];
        if (f->row[j] == NONE)
            break;
        f->closed[j] = 1;
        i = f->row[j];
    }
    do {
        i = f->reached_from[j];
        f->row[j] = i;
        uint32_t before = f->column[i];
        f->column[i] = j;
        j = before;
    } while (i != start);
}

/* Takes one permutation out of the matrix; returns its coefficient. */
static uint64_t take_out(struct birkhoff *f)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < f->n; i++)
        if (f->column[i] == NONE)
            augment(f, i);
    for (uint32_t i = 0; i < f->n; i++) {
        uint64_t entry = f->m[(size_t)i * f->n + f->column[i]];
        least = entry < least ? entry : least;
    }
    for (uint32_t i = 0; i < f->n; i++)
        f->m[(size_t)i * f->n + f->column[i]] -= least;
    return least;
}

/* Frees the rows whose entry fell below the threshold. */
static void release(struct birkhoff *f)
{
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->m[(size_t)i * f->n + f->column[i]] < f->threshold) {
            f->row[f->column[i]] = NONE;
            f->column[i] = NONE;
        }
    }
}

int skew_birkhoff(uint64_t *m, uint32_t n, uint64_t sum, enum skew_birkhoff_pick pick,
                  skew_permutation_fn *take, void *context)
{
    struct birkhoff f = {.m = m, .n = n, .threshold = pick == SKEW_PICK_FIRST ? 1 : UINT64_MAX};
    char *memory = malloc(n * (sizeof(uint64_t) + 3 * sizeof(uint32_t) + 1));
    int result = 0;

    if (!memory)
        return -ENOMEM;
    f.width = (uint64_t *)memory;
    f.column = (uint32_t *)(f.width + n);
    f.row = f.column + n;
    f.reached_from = f.row + n;
    f.closed = (unsigned char *)(f.reached_from + n);
    memset(f.column, 0xff, 2 * n * sizeof *f.column);
    while (sum && result == 0) {
        uint64_t coefficient = take_out(&f);
        sum -= coefficient;
        result = take(context, f.column, coefficient);
        release(&f);
    }
    free(memory);
    return result;
}

/* ---- stuffing ------------------------------------------------------------------------------- */

static void stuff_cells(uint64_t *m, uint32_t n, uint64_t *row, uint64_t *column, bool empty_too)
{
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n && row[i]; j++) {
            uint64_t *cell = &m[(size_t)i * n + j];
            uint64_t dummy = row[i] < column[j] ? row[i] : column[j];
            if (*cell == 0 && !empty_too)
                continue;
            *cell += dummy;
            row[i] -= dummy;
            column[j] -= dummy;
        }
    }
}

uint64_t skew_birkhoff_stuff(uint64_t *m, uint32_t n)
{
    uint64_t *row = calloc(2 * (size_t)n, sizeof *row), most = 0;

    if (!row)
        return 0;
    uint64_t *column = row + n;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n; j++) {
            row[i] += m[(size_t)i * n + j];
            column[j] += m[(size_t)i * n + j];
        }
    }
    for (uint32_t i = 0; i < 2 * n; i++)
        most = row[i] > most ? row[i] : most;
    for (uint32_t i = 0; i < 2 * n; i++)
        row[i] = most - row[i];
    stuff_cells(m, n, row, column, false);
    stuff_cells(m, n, row, column, true);
    free(row);
    return most;
}

/* ---- stuffed: dummy demand up to the port bound --------------------------------------------- */

static int send_real(void *context, const uint32_t *column, uint64_t coefficient)
{
    struct skew_builder *b = context;

    if (skew_build_full(b))
        return 1;
    skew_build_begin(b);
    for (uint32_t i = 0; i < b->n; i++) {
        uint64_t left = b->left[(size_t)i * b->n + column[i]];
        skew_build_send(b, i, column[i], left < coefficient ? left : coefficient);
    }
    skew_build_end(b);
    return b->failed;
}

int skew_build_stuffed(struct skew_builder *b)
{
    size_t size = (size_t)b->n * b->n * sizeof *b->left;
    uint64_t *m = malloc(size);

    if (!m)
        return -ENOMEM;
    memcpy(m, b->left, size);
    uint64_t sum = skew_birkhoff_stuff(m, b->n);
    int result = sum == 0 && b->demand->bound ? -ENOMEM : 0;
    if (result == 0)
        result = skew_birkhoff(m, b->n, sum, b->options->pick, send_real, b);
    free(m);
    return result < 0 ? result : b->failed;
}
