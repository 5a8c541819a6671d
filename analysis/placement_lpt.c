/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Longest processing time first with equal cardinality, and swaps. Runs thousands of times in
 * bootstraps: it allocates nothing.
 */
#include "placement.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"

/* ---- sorting ----------------------------------------------------------------------------------
 */

/* a before b: hotter, or as hot and of lower number. A total order, so the result is one. */
static bool before(const double *load, uint32_t a, uint32_t b)
{
    return load[a] > load[b] || (load[a] == load[b] && a < b);
}

static void sift(const double *load, uint32_t *order, uint32_t at, uint32_t count)
{
    uint32_t moving = order[at];

    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && before(load, order[child], order[child + 1]))
            child++;
        if (!before(load, moving, order[child]))
            break;
        order[at] = order[child];
        at = child;
    }
    order[at] = moving;
}

/* Heapsort: in place, and qsort() has no room for `load` beside its comparison. */
void skew_placement_sort(const double *load, uint32_t count, uint32_t *order)
{
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    for (uint32_t i = count / 2; i-- > 0;)
        sift(load, order, i, count);
    for (uint32_t last = count; last-- > 1;) {
        uint32_t end = order[last];
        order[last] = order[0];
        order[0] = end;
        sift(load, order, 0, last);
    }
}

/* ---- packing ----------------------------------------------------------------------------------
 */

/* The rank at the top became heavier: down it goes. Lighter ranks first, then lower ones. */
static void sink(const struct skew_placement *p, uint32_t count)
{
    uint32_t at = 0, moving = p->heap[0];

    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            break;
        uint32_t other = child + 1;
        if (other < count) {
            uint32_t a = p->heap[child], b = p->heap[other];
            if (p->rank_load[b] < p->rank_load[a] || (p->rank_load[b] == p->rank_load[a] && b < a))
                child = other;
        }
        uint32_t lower = p->heap[child];
        if (p->rank_load[moving] < p->rank_load[lower] ||
            (p->rank_load[moving] == p->rank_load[lower] && moving < lower))
            break;
        p->heap[at] = lower;
        at = child;
    }
    p->heap[at] = moving;
}

void skew_placement_pack(struct skew_placement *p, const double *load, const uint32_t *order,
                         uint32_t first, uint32_t ranks)
{
    uint32_t open = ranks;

    for (uint32_t r = 0; r < ranks; r++) {
        p->heap[r] = first + r;
        p->rank_load[first + r] = 0;
        p->fill[first + r] = 0;
    }
    for (uint32_t i = 0; i < ranks * p->per_rank; i++) {
        uint32_t rank = p->heap[0];
        p->expert[rank * p->per_rank + p->fill[rank]++] = order[i];
        p->rank_load[rank] += load[order[i]];
        if (p->fill[rank] == p->per_rank)
            p->heap[0] = p->heap[--open]; /* full */
        if (open)
            sink(p, open);
    }
}

static void pair(struct skew_placement *p)
{
    for (uint32_t r = 0; r < p->ranks; r++) {
        p->expert[2 * r] = p->order[r];
        p->expert[2 * r + 1] = p->order[p->experts - 1 - r];
    }
}

/* ---- swaps ------------------------------------------------------------------------------------
 */

static double share(const struct skew_placement *p, const double *load, uint32_t slot)
{
    return load[p->expert[slot]] / p->copies[p->expert[slot]];
}

static bool rank_has(const struct skew_placement *p, uint32_t rank, uint32_t expert)
{
    for (uint32_t i = 0; i < p->per_rank; i++)
        if (p->expert[rank * p->per_rank + i] == expert)
            return true;
    return false;
}

/* Two copies of an expert on one rank help nobody: a swap may not bring that about. */
static bool allowed(const struct skew_placement *p, uint32_t a, uint32_t b)
{
    if (p->slots == p->experts)
        return true;
    return !rank_has(p, b / p->per_rank, p->expert[a]) &&
           !rank_has(p, a / p->per_rank, p->expert[b]);
}

uint32_t skew_placement_hottest(const struct skew_placement *p, uint32_t first, uint32_t ranks)
{
    uint32_t hottest = first;

    for (uint32_t r = first + 1; r < first + ranks; r++)
        if (p->rank_load[r] > p->rank_load[hottest])
            hottest = r;
    return hottest;
}

/* The one swap that lowers the hottest rank and its partner most; false: there is none. */
static bool swap_once(struct skew_placement *p, const double *load, uint32_t from, uint32_t ranks)
{
    uint32_t hot = skew_placement_hottest(p, from, ranks), first = hot * p->per_rank;
    uint32_t begin = from * p->per_rank, end = begin + ranks * p->per_rank, best_a = 0, best_b = 0;
    double top = p->rank_load[hot], best = top * (1 - 1e-12), best_gain = 0;

    for (uint32_t a = first; a < first + p->per_rank; a++) {
        double mine = share(p, load, a);
        for (uint32_t b = begin; b < end; b++) {
            double gain = mine - share(p, load, b);
            uint32_t other = b / p->per_rank;
            if (gain <= 0 || other == hot)
                continue;
            double higher = fmax(top - gain, p->rank_load[other] + gain);
            if (higher < best && allowed(p, a, b)) {
                best = higher;
                best_gain = gain;
                best_a = a;
                best_b = b;
            }
        }
    }
    if (best_gain <= 0)
        return false;
    uint32_t expert = p->expert[best_a];
    p->expert[best_a] = p->expert[best_b];
    p->expert[best_b] = expert;
    p->rank_load[hot] -= best_gain;
    p->rank_load[best_b / p->per_rank] += best_gain;
    return true;
}

int skew_placement_improve_range(struct skew_placement *p, const double *load, uint32_t first,
                                 uint32_t ranks)
{
    int swaps = 0, most = 4 * (int)(ranks * p->per_rank);

    skew_placement_rank_loads(p, load, p->rank_load);
    while (swaps < most && swap_once(p, load, first, ranks))
        swaps++;
    return swaps;
}

int skew_placement_improve(struct skew_placement *p, const double *load)
{
    return skew_placement_improve_range(p, load, 0, p->ranks);
}

int skew_placement_lpt(struct skew_placement *p, const double *load)
{
    if (p->slots != p->experts)
        return -EINVAL;
    skew_placement_sort(load, p->experts, p->order);
    for (uint32_t e = 0; e < p->experts; e++)
        p->copies[e] = 1;
    if (p->per_rank == 2) {
        pair(p);
        return 0;
    }
    skew_placement_pack(p, load, p->order, 0, p->ranks);
    return skew_placement_improve(p, load);
}
