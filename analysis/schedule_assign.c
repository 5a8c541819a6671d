/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The assignment problem by the method of Jonker and Volgenant (Computing 38, 1987), written for
 * many solutions of a matrix that loses a few entries between them: no column reduction, prices
 * kept.
 *
 * Why a warm start is always right: a row's potential is the least of cost − price over columns, so
 * any prices at all are dual feasible, and an empty assignment has no edge that would have to be
 * tight.
 */
#include "schedule.h"

#include <errno.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
#define TAKEN                                                                                      \
    0.25 /* distances are whole numbers: of two equal ones the free column wins, and ends it */
#define FAR 1e300 /* costs of columns that only fill the last vector */

#define ALIGNMENT 64 /* a line of the cache */
#define STEP      8  /* columns in one turn of the loops over a row, at the greatest width */

struct two_least {
    double first, second; /* of cost − price in a row; equal when two columns are as good */
    uint32_t column;      /* of the first */
};

/* Two lanes are what every x86-64 and aarch64 has; four, where the processor says that it has them.
 */
#define LANES        2
#define LANES_TARGET /* the compiler's own */
#define LANES_(name) name##_of_2
#include "schedule_lanes.h"

#ifdef __x86_64__
#define LANES        4
#define LANES_TARGET __attribute__((target("avx2")))
#define LANES_(name) name##_of_4
#include "schedule_lanes.h"

static bool wide_vectors(void)
{
    return __builtin_cpu_supports("avx2");
}

static struct two_least two_least(const struct skew_assign *a, uint32_t i)
{
    return a->wide ? two_least_of_4(a, i) : two_least_of_2(a, i);
}

static uint32_t relax(struct skew_assign *a, uint32_t i, double base)
{
    return a->wide ? relax_of_4(a, i, base) : relax_of_2(a, i, base);
}
#else
static bool wide_vectors(void)
{
    return false;
}

static struct two_least two_least(const struct skew_assign *a, uint32_t i)
{
    return two_least_of_2(a, i);
}

static uint32_t relax(struct skew_assign *a, uint32_t i, double base)
{
    return relax_of_2(a, i, base);
}
#endif

int skew_assign_create(struct skew_assign **out, uint32_t n)
{
    struct skew_assign *a = calloc(1, sizeof *a);
    size_t stride = (n + STEP - 1) / STEP * STEP, cells = (size_t)n * stride;
    size_t size = (cells + 4 * stride) * sizeof(double) + 4 * (size_t)n * sizeof(uint32_t);

    *out = NULL;
    if (a)
        a->memory = aligned_alloc(ALIGNMENT, (size + ALIGNMENT) & ~(size_t)(ALIGNMENT - 1));
    if (!a || !a->memory) {
        free(a);
        return -ENOMEM;
    }
    memset(a->memory, 0, size);
    a->n = n;
    a->stride = stride;
    a->wide = wide_vectors();
    a->cost = a->memory;
    a->price = a->cost + cells;
    a->distance = a->price + stride;
    a->closed = a->distance + stride;
    a->reached_from = (int64_t *)(a->closed + stride);
    a->column = (uint32_t *)(a->reached_from + stride);
    a->row = a->column + n;
    a->free_rows = a->row + n;
    a->scanned = a->free_rows + n;
    for (size_t i = 0; i < n; i++)
        for (size_t j = n; j < stride; j++)
            a->cost[i * stride + j] = FAR;
    *out = a;
    return 0;
}

void skew_assign_free(struct skew_assign **assign)
{
    if (*assign)
        free((*assign)->memory);
    free(*assign);
    *assign = NULL;
}

/* A column as good as `column` is for row i; itself when there is none. */
static uint32_t as_good(const struct skew_assign *a, uint32_t i, uint32_t column)
{
    const double *cost = a->cost + i * a->stride;
    double least = cost[column] - a->price[column];

    for (uint32_t j = 0; j < a->n; j++)
        if (j != column && cost[j] - a->price[j] == least)
            return j;
    return column;
}

/* Each free row takes its best column and lowers its price to where the second best is as good; who
 * held the column is free again. Prices can duel for long, so the number of turns is limited. */
static uint32_t reduce_rows(struct skew_assign *a, uint32_t free_count)
{
    uint32_t next = 0, kept = 0, n = a->n;
    uint32_t turns = n;

    while (next < free_count) {
        uint32_t i = a->free_rows[next++];
        struct two_least t = two_least(a, i);
        uint32_t j = t.column;
        bool gained = t.first < t.second && n > 1;
        if (gained)
            a->price[j] -= t.second - t.first;
        else if (a->row[j] != NONE)
            j = as_good(a, i, j);
        uint32_t loser = a->row[j];
        a->row[j] = i;
        a->column[i] = j;
        if (loser == NONE)
            continue;
        a->column[loser] = NONE;
        if (gained && turns) {
            turns--;
            a->free_rows[--next] = loser;
        } else {
            a->free_rows[kept++] = loser;
        }
    }
    return kept;
}

/* Dijkstra from a free row to the nearest free column; prices of what was passed stay tight. */
static void augment(struct skew_assign *a, uint32_t start)
{
    uint32_t count = 0, i = start, j;
    double base = 0;

    for (j = 0; j < a->stride; j++) {
        a->distance[j] = DBL_MAX;
        a->closed[j] = j < a->n && a->row[j] == NONE ? 0 : TAKEN;
    }
    for (;;) {
        j = relax(a, i, base);
        if (a->row[j] == NONE)
            break;
        a->closed[j] = DBL_MAX;
        a->scanned[count++] = j;
        i = a->row[j];
        base = a->distance[j] - (a->cost[i * a->stride + j] - a->price[j]);
    }
    for (uint32_t k = 0; k < count; k++)
        a->price[a->scanned[k]] += a->distance[a->scanned[k]] - a->distance[j];
    do {
        i = (uint32_t)a->reached_from[j];
        a->row[j] = i;
        uint32_t before = a->column[i];
        a->column[i] = j;
        j = before;
    } while (i != start);
}

void skew_assign_solve(struct skew_assign *a)
{
    uint32_t free_count = a->n;

    for (uint32_t i = 0; i < a->n; i++) {
        a->column[i] = a->row[i] = NONE;
        a->free_rows[i] = i;
    }
    for (int pass = 0; pass < 2 && free_count; pass++)
        free_count = reduce_rows(a, free_count);
    for (uint32_t k = 0; k < free_count; k++)
        augment(a, a->free_rows[k]);
}
