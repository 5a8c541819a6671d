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

#define NONE  UINT32_MAX
#define TAKEN                                                                                      \
    0.25 /* distances are whole numbers: of two equal ones the free column wins, and ends it */
#define FAR   1e300 /* costs of columns that only fill the last vector */

/* Two lanes are what every x86-64 and aarch64 has. Comparing them gives masks of all ones. The
 * loops below go in pairs of vectors that do not wait for each other: what limits them is latency.
 */
typedef double vector __attribute__((vector_size(16)));
typedef int64_t mask __attribute__((vector_size(16)));
#define LANES 2
#define STEP  4 /* columns in one turn of a loop */

static inline vector choose(mask m, vector yes, vector no)
{
    return (vector)(((mask)yes & m) | ((mask)no & ~m));
}

static inline mask choose_index(mask m, mask yes, mask no)
{
    return (yes & m) | (no & ~m);
}

int skew_assign_create(struct skew_assign **out, uint32_t n)
{
    struct skew_assign *a = calloc(1, sizeof *a);
    size_t stride = (n + STEP - 1) / STEP * STEP, cells = (size_t)n * stride;
    size_t size = (cells + 4 * stride) * sizeof(double) + 4 * (size_t)n * sizeof(uint32_t);

    *out = NULL;
    if (a)
        a->memory = aligned_alloc(sizeof(vector), (size + sizeof(vector)) & ~(sizeof(vector) - 1));
    if (!a || !a->memory) {
        free(a);
        return -ENOMEM;
    }
    memset(a->memory, 0, size);
    a->n = n;
    a->stride = stride;
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

struct two_least {
    double first, second; /* of cost − price in a row; equal when two columns are as good */
    uint32_t column;      /* of the first */
};

/* The same for the columns of one lane. */
struct two_lanes {
    vector first, second;
    mask column;
};

static inline void least_of_lanes(struct two_lanes *l, const vector *cost, const vector *price,
                                  mask at)
{
    vector reduced = *cost - *price;
    mask better = reduced < l->first;
    vector beaten = choose(better, l->first, reduced);

    l->second = choose(beaten < l->second, beaten, l->second);
    l->first = choose(better, reduced, l->first);
    l->column = choose_index(better, at, l->column);
}

static struct two_least two_least(const struct skew_assign *a, uint32_t i)
{
    const vector *cost = (const vector *)(a->cost + i * a->stride);
    const vector *price = (const vector *)a->price;
    struct two_lanes l[2] = {{{FAR, FAR}, {FAR, FAR}, {0, 0}}, {{FAR, FAR}, {FAR, FAR}, {0, 0}}};
    struct two_least t = {FAR, FAR, 0};
    mask at = {0, 1};

    for (size_t k = 0; k < a->stride / LANES; k += 2, at += STEP) {
        least_of_lanes(&l[0], &cost[k], &price[k], at);
        least_of_lanes(&l[1], &cost[k + 1], &price[k + 1], at + LANES);
    }
    for (int k = 0; k < STEP; k++) {
        double first = l[k / LANES].first[k % LANES], second = l[k / LANES].second[k % LANES];
        uint32_t column = (uint32_t)l[k / LANES].column[k % LANES];
        if (first < t.first || (first == t.first && column < t.column)) {
            t.second = t.first < second ? t.first : second;
            t.first = first;
            t.column = column;
        } else if (first < t.second) {
            t.second = first;
        }
    }
    return t;
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

struct nearest_lanes {
    vector least;
    mask column;
};

/* Offers an edge to the columns of two lanes, and keeps the nearest that is still open. */
static inline void relax_lanes(struct skew_assign *a, struct nearest_lanes *l, const vector *cost,
                               size_t k, double base, mask self, mask at)
{
    vector *distance = (vector *)a->distance + k;
    mask *from = (mask *)a->reached_from + k;
    vector offer = base + (cost[k] - ((const vector *)a->price)[k]);
    mask shorter = offer < *distance;

    *distance = choose(shorter, offer, *distance);
    *from = choose_index(shorter, self, *from);
    vector open = *distance + ((const vector *)a->closed)[k];
    mask nearer = open < l->least;
    l->least = choose(nearer, open, l->least);
    l->column = choose_index(nearer, at, l->column);
}

/* Offers row i's edges at `base` above its least; returns the nearest column that is still open. */
static uint32_t relax(struct skew_assign *a, uint32_t i, double base)
{
    const vector *cost = (const vector *)(a->cost + i * a->stride);
    struct nearest_lanes l[2] = {{{DBL_MAX, DBL_MAX}, {0, 0}}, {{DBL_MAX, DBL_MAX}, {0, 0}}};
    mask self = {i, i}, at = {0, 1};
    double least = DBL_MAX;
    uint32_t nearest = 0;

    for (size_t k = 0; k < a->stride / LANES; k += 2, at += STEP) {
        relax_lanes(a, &l[0], cost, k, base, self, at);
        relax_lanes(a, &l[1], cost, k + 1, base, self, at + LANES);
    }
    for (int k = 0; k < STEP; k++) {
        double one = l[k / LANES].least[k % LANES];
        uint32_t column = (uint32_t)l[k / LANES].column[k % LANES];
        if (one < least || (one == least && column < nearest)) {
            least = one;
            nearest = column;
        }
    }
    return nearest;
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
