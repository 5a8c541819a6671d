/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placements as objects: made, copied, scored, bounded. How good ones are found is in
 * placement_lpt.c and placement_eplb.c.
 */
#include "placement.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"

int skew_placement_create(struct skew_placement **out, uint32_t experts, uint32_t ranks,
                          uint32_t slots)
{
    *out = NULL;
    if (experts == 0 || ranks == 0 || slots < experts || slots > SKEW_PLACEMENT_EXPERTS_MAX ||
        slots % ranks != 0)
        return -EINVAL;
    struct skew_placement *p = calloc(1, sizeof *p);
    size_t words = (size_t)slots * 2 + experts + 2 * (size_t)ranks;
    size_t reals = (size_t)slots + ranks;
    void *memory = calloc(1, words * sizeof(uint32_t) + reals * sizeof(double));
    if (!p || !memory) {
        free(p);
        free(memory);
        return -ENOMEM;
    }
    p->experts = experts;
    p->ranks = ranks;
    p->slots = slots;
    p->per_rank = slots / ranks;
    p->memory = memory;
    p->sorted = memory; /* doubles first: they need the alignment */
    p->rank_load = p->sorted + slots;
    p->expert = (uint32_t *)(p->rank_load + ranks);
    p->order = p->expert + slots;
    p->copies = p->order + slots;
    p->heap = p->copies + experts;
    p->fill = p->heap + ranks;
    skew_placement_contiguous(p);
    *out = p;
    return 0;
}

void skew_placement_free(struct skew_placement **placement)
{
    if (!*placement)
        return;
    free((*placement)->memory);
    free(*placement);
    *placement = NULL;
}

int skew_placement_copy(struct skew_placement *p, const struct skew_placement *from)
{
    if (p->experts != from->experts || p->ranks != from->ranks || p->slots != from->slots)
        return -EINVAL;
    memcpy(p->expert, from->expert, p->slots * sizeof *p->expert);
    memcpy(p->copies, from->copies, p->experts * sizeof *p->copies);
    return 0;
}

void skew_placement_count(struct skew_placement *p)
{
    memset(p->copies, 0, p->experts * sizeof *p->copies);
    for (uint32_t s = 0; s < p->slots; s++)
        p->copies[p->expert[s]]++;
}

int skew_placement_set(struct skew_placement *p, const uint32_t *expert)
{
    uint32_t distinct = 0;

    for (uint32_t s = 0; s < p->slots; s++)
        if (expert[s] >= p->experts)
            return -EINVAL;
    memset(p->order, 0, p->experts * sizeof *p->order); /* scratch: seen */
    for (uint32_t s = 0; s < p->slots; s++)
        distinct += !p->order[expert[s]]++;
    if (distinct != p->experts)
        return -EINVAL;
    memcpy(p->expert, expert, p->slots * sizeof *p->expert);
    skew_placement_count(p);
    return 0;
}

uint32_t skew_placement_rank_of(const struct skew_placement *p, uint32_t expert)
{
    for (uint32_t s = 0; s < p->slots; s++)
        if (p->expert[s] == expert)
            return s / p->per_rank;
    return 0;
}

void skew_placement_ranks(const struct skew_placement *p, uint32_t *rank_of)
{
    for (uint32_t s = 0; s < p->slots; s++)
        rank_of[p->expert[s]] = s / p->per_rank;
}

void skew_placement_contiguous(struct skew_placement *p)
{
    for (uint32_t s = 0; s < p->slots; s++)
        p->expert[s] = s % p->experts;
    skew_placement_count(p);
}

uint32_t skew_random_below(uint64_t *seed, uint32_t limit)
{
    return (uint32_t)(((skew_splitmix(seed) >> 32) * limit) >> 32);
}

void skew_placement_random(struct skew_placement *p, uint64_t *seed)
{
    for (uint32_t s = p->slots; s > 1; s--) {
        uint32_t other = skew_random_below(seed, s), expert = p->expert[s - 1];
        p->expert[s - 1] = p->expert[other];
        p->expert[other] = expert;
    }
}

/* ---- loads ------------------------------------------------------------------------------------
 */

void skew_placement_rank_loads(const struct skew_placement *p, const double *load,
                               double *rank_load)
{
    const uint32_t *expert = p->expert;

    for (uint32_t r = 0; r < p->ranks; r++) {
        double sum = 0;
        for (uint32_t i = 0; i < p->per_rank; i++, expert++)
            sum += p->slots == p->experts ? load[*expert] : load[*expert] / p->copies[*expert];
        rank_load[r] = sum;
    }
}

double skew_placement_max_mean(struct skew_placement *p, const double *load)
{
    double max = 0, sum = 0;

    skew_placement_rank_loads(p, load, p->rank_load);
    for (uint32_t r = 0; r < p->ranks; r++) {
        sum += p->rank_load[r];
        if (p->rank_load[r] > max)
            max = p->rank_load[r];
    }
    return sum > 0 ? max * p->ranks / sum : NAN;
}

/* ---- bounds -----------------------------------------------------------------------------------
 */

static int descending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a < b) - (a > b);
}

/* x sorted downwards, slots == experts. */
static double bound_plain(const struct skew_placement *p, const double *x)
{
    uint32_t g = p->per_rank, e = p->experts, r = p->ranks;
    double most = 0;

    if (g == 2) {
        for (uint32_t i = 0; i < r; i++)
            most = fmax(most, x[i] + x[e - 1 - i]);
        return most;
    }
    for (uint32_t j = 0; j < g; j++) {
        double least = 0;
        for (uint32_t i = j * r - j; i <= j * r; i++)
            least += x[i];
        for (uint32_t i = e - (g - j - 1); i < e; i++)
            least += x[i];
        most = fmax(most, least);
    }
    return most;
}

/* Greedy: a copy more to the largest share, the lowest expert among equals. O(spare slots × E). */
void skew_placement_replicate(const double *load, uint32_t experts, uint32_t slots,
                              uint32_t *copies)
{
    for (uint32_t e = 0; e < experts; e++)
        copies[e] = 1;
    for (uint32_t s = experts; s < slots; s++) {
        uint32_t hottest = 0;
        for (uint32_t e = 1; e < experts; e++)
            if (load[e] / copies[e] > load[hottest] / copies[hottest])
                hottest = e;
        copies[hottest]++;
    }
}

double skew_placement_bound(struct skew_placement *p, const double *load)
{
    double sum = 0, most = 0;

    for (uint32_t e = 0; e < p->experts; e++)
        sum += load[e];
    if (!(sum > 0))
        return NAN;
    if (p->slots == p->experts) {
        memcpy(p->sorted, load, p->experts * sizeof *load);
        qsort(p->sorted, p->experts, sizeof *p->sorted, descending);
        most = bound_plain(p, p->sorted);
    } else {
        uint32_t *copies = p->order; /* scratch: [slots] */
        skew_placement_replicate(load, p->experts, p->slots, copies);
        for (uint32_t e = 0; e < p->experts; e++)
            most = fmax(most, load[e] / copies[e]);
    }
    return fmax(1, most * p->ranks / sum);
}
