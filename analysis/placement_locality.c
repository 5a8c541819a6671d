/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placements that keep tokens in the NVLink domain they come from, under a capacity of ranks.
 */
#include "placement.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"
#include "schedule.h"

struct locality {
    struct skew_placement *p;
    uint32_t domain, domains; /* ranks in one, how many */
    double *load;             /* [experts] */
    double *stay;    /* [domains][experts] tokens that stay inside if the expert is there */
    double *sort;    /* [experts] scratch */
    uint32_t *order; /* [experts] scratch */
    double cap;      /* tokens */
};

static int begin(struct locality *l, struct skew_placement *p, const double *from, uint32_t domain)
{
    size_t reals = (size_t)p->experts * (2 + p->ranks / domain);

    *l = (struct locality){.p = p, .domain = domain, .domains = p->ranks / domain};
    l->load = calloc(1, reals * sizeof(double) + p->experts * sizeof(uint32_t));
    if (!l->load)
        return -ENOMEM;
    l->sort = l->load + p->experts;
    l->stay = l->sort + p->experts;
    l->order = (uint32_t *)(l->stay + (size_t)l->domains * p->experts);
    for (uint32_t r = 0; r < p->ranks; r++)
        for (uint32_t e = 0; e < p->experts; e++) {
            double tokens = from[(size_t)r * p->experts + e];
            l->load[e] += tokens;
            l->stay[(size_t)(r / domain) * p->experts + e] += tokens;
        }
    return 0;
}

/* Items of `size` experts each to domains, so that most tokens stay: place[item] = domain. The
 * solver wants whole numbers (with others, rounding can keep it from ending): a power of two brings
 * all to at most 2^40, and what is left behind the point is dropped. */
static int assign(const struct locality *l, uint32_t size, uint32_t *place)
{
    uint32_t items = l->p->experts / size, each = items / l->domains;
    struct skew_assign *solver;
    int result = skew_assign_create(&solver, items);
    double most = 0, scale = 1;

    for (size_t i = 0; i < (size_t)l->domains * l->p->experts; i++)
        most += l->stay[i];
    if (most > 0 && isfinite(most))
        scale = exp2(floor(40 - log2(most)));

    if (result < 0)
        return result;
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t d = 0; d < l->domains; d++) {
            double stays = 0;
            for (uint32_t e = i * size; e < (i + 1) * size; e++)
                stays += l->stay[(size_t)d * l->p->experts + e];
            for (uint32_t k = 0; k < each; k++)
                solver->cost[i * solver->stride + d * each + k] = -floor(scale * stays);
        }
    skew_assign_solve(solver);
    for (uint32_t i = 0; i < items; i++)
        place[i] = solver->column[i] / each;
    skew_assign_free(&solver);
    return 0;
}

/* LPT of each domain's experts onto its ranks, with swaps within the domain. */
static void fill_domains(struct locality *l, uint32_t size, const uint32_t *place)
{
    struct skew_placement *p = l->p;
    uint32_t *mine = p->order;

    for (uint32_t d = 0; d < l->domains; d++) {
        uint32_t count = 0;
        for (uint32_t e = 0; e < p->experts; e++)
            if (place[e / size] == d) {
                l->sort[count] = l->load[e];
                mine[count++] = e;
            }
        skew_placement_sort(l->sort, count, l->order);
        for (uint32_t i = 0; i < count; i++)
            l->order[i] = mine[l->order[i]];
        skew_placement_pack(p, l->load, l->order, d * l->domain, l->domain);
    }
    skew_placement_count(p);
    for (uint32_t d = 0; d < l->domains; d++)
        skew_placement_improve_range(p, l->load, d * l->domain, l->domain);
    skew_placement_rank_loads(p, l->load, p->rank_load);
}

/* ---- swaps ------------------------------------------------------------------------------------
 */

/* Tokens that stay inside in addition when the experts of two slots change places. */
static double gain(const struct locality *l, uint32_t a, uint32_t b)
{
    const struct skew_placement *p = l->p;
    uint32_t da = a / p->per_rank / l->domain, db = b / p->per_rank / l->domain;
    const double *in_a = l->stay + (size_t)da * p->experts;
    const double *in_b = l->stay + (size_t)db * p->experts;

    if (da == db)
        return 0;
    return in_a[p->expert[b]] + in_b[p->expert[a]] - in_a[p->expert[a]] - in_b[p->expert[b]];
}

static void swap(struct locality *l, uint32_t a, uint32_t b)
{
    struct skew_placement *p = l->p;
    uint32_t expert = p->expert[a];
    double moved = l->load[expert] - l->load[p->expert[b]];

    p->expert[a] = p->expert[b];
    p->expert[b] = expert;
    p->rank_load[a / p->per_rank] -= moved;
    p->rank_load[b / p->per_rank] += moved;
}

/* One swap that cools the hottest rank, at the least loss of locality for what it cools. */
static bool cool(struct locality *l)
{
    struct skew_placement *p = l->p;
    uint32_t hot = skew_placement_hottest(p, 0, p->ranks), best_a = 0, best_b = 0;
    double top = p->rank_load[hot], best = INFINITY;

    if (top <= l->cap)
        return false;
    for (uint32_t a = hot * p->per_rank; a < (hot + 1) * p->per_rank; a++)
        for (uint32_t b = 0; b < p->slots; b++) {
            uint32_t other = b / p->per_rank;
            double moved = l->load[p->expert[a]] - l->load[p->expert[b]];
            double higher = fmax(top - moved, p->rank_load[other] + moved);
            if (other == hot || moved <= 0 || higher >= top * (1 - 1e-12))
                continue;
            double price = (1e-9 * top - gain(l, a, b)) / (top - fmax(higher, l->cap));
            if (price < best) {
                best = price;
                best_a = a;
                best_b = b;
            }
        }
    if (best == INFINITY)
        return false;
    swap(l, best_a, best_b);
    return true;
}

/* Swaps that gain locality and heat no rank above the limit; how many. */
static uint32_t gain_pass(struct locality *l, double limit)
{
    struct skew_placement *p = l->p;
    uint32_t swaps = 0;

    for (uint32_t a = 0; a < p->slots; a++)
        for (uint32_t b = a + 1; b < p->slots; b++) {
            uint32_t ra = a / p->per_rank, rb = b / p->per_rank;
            double moved = l->load[p->expert[a]] - l->load[p->expert[b]];
            if (gain(l, a, b) > 1e-9 && p->rank_load[ra] - moved <= limit &&
                p->rank_load[rb] + moved <= limit) {
                swap(l, a, b);
                swaps++;
            }
        }
    return swaps;
}

int skew_placement_locality(struct skew_placement *p, const double *from, uint32_t domain_ranks,
                            uint32_t groups, double capacity)
{
    uint32_t size = groups > 1 ? p->experts / groups : 1;
    struct locality l;
    double total = 0;

    if (domain_ranks == 0 || p->ranks % domain_ranks != 0 || p->slots != p->experts ||
        (groups > 1 && (p->experts % groups != 0 || groups % (p->ranks / domain_ranks) != 0)))
        return -EINVAL;
    int result = begin(&l, p, from, domain_ranks);
    uint32_t *place = calloc(p->experts, sizeof *place);
    if (result == 0 && !place)
        result = -ENOMEM;
    if (result == 0)
        result = assign(&l, size, place);
    if (result == 0) {
        for (uint32_t e = 0; e < p->experts; e++)
            total += l.load[e];
        l.cap = capacity * total / p->ranks;
        fill_domains(&l, size, place);
        for (uint32_t i = 0; size == 1 && i < 4 * p->experts && cool(&l); i++)
            ;
        double limit =
            fmax(l.cap, p->rank_load[skew_placement_hottest(p, 0, p->ranks)]) * (1 + 1e-12);
        for (uint32_t i = 0; size == 1 && i < 16 && gain_pass(&l, limit); i++)
            ;
    }
    free(l.load);
    free(place);
    return result;
}
