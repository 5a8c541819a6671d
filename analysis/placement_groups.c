/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Group-limited routing as a constraint: the experts of a group stay together on a node, because
 * the router picks a few groups for each token and a token then visits few nodes.
 */
#include "placement.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"

struct grouping {
    struct skew_placement *p;
    const double *load;
    uint32_t groups, nodes, size, per_node,
        node_ranks;  /* experts a group; groups and ranks a node */
    uint32_t *group; /* [groups] groups in the order of the nodes that hold them */
    uint32_t *order; /* [groups] or the experts of one node */
    uint32_t *fill;  /* [nodes] */
    uint32_t *kept;  /* [experts] two nodes' slots, while a swap is tried */
    double *weight;  /* [groups], or the loads of a node's experts */
    double *packed;  /* [nodes] */
};

static int check(const struct skew_placement *p, uint32_t groups, uint32_t nodes)
{
    return groups == 0 || nodes == 0 || p->slots != p->experts || p->experts % groups != 0 ||
                   groups % nodes != 0 || p->ranks % nodes != 0
               ? -EINVAL
               : 0;
}

static int begin(struct grouping *g, struct skew_placement *p, const double *load, uint32_t groups,
                 uint32_t nodes)
{
    size_t words = groups + 2 * (size_t)p->experts + nodes, reals = (size_t)p->experts + nodes;

    if (check(p, groups, nodes) < 0)
        return -EINVAL;
    *g = (struct grouping){.p = p,
                           .load = load,
                           .groups = groups,
                           .nodes = nodes,
                           .size = p->experts / groups,
                           .per_node = groups / nodes,
                           .node_ranks = p->ranks / nodes};
    g->weight = calloc(1, reals * sizeof(double) + words * sizeof(uint32_t));
    if (!g->weight)
        return -ENOMEM;
    g->packed = g->weight + p->experts;
    g->group = (uint32_t *)(g->packed + nodes);
    g->order = g->group + groups;
    g->kept = g->order + p->experts;
    g->fill = g->kept + p->experts;
    for (uint32_t i = 0; i < groups; i++)
        g->group[i] = i;
    return 0;
}

/* The groups of g->group, in order, into consecutive slots. */
static void lay_out(struct grouping *g)
{
    uint32_t slot = 0;

    for (uint32_t i = 0; i < g->groups; i++)
        for (uint32_t e = 0; e < g->size; e++)
            g->p->expert[slot++] = g->group[i] * g->size + e;
    skew_placement_count(g->p);
}

static void shuffle(uint32_t *items, uint32_t count, uint64_t *seed)
{
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = skew_random_below(seed, i), item = items[i - 1];
        items[i - 1] = items[other];
        items[other] = item;
    }
}

int skew_placement_random_groups(struct skew_placement *p, uint32_t groups, uint32_t nodes,
                                 uint64_t *seed)
{
    struct grouping g;
    int result = begin(&g, p, NULL, groups, nodes);

    if (result < 0)
        return result;
    shuffle(g.group, groups, seed);
    lay_out(&g);
    for (uint32_t n = 0; n < nodes; n++)
        shuffle(p->expert + (size_t)n * (p->slots / nodes), p->slots / nodes, seed);
    free(g.weight);
    return 0;
}

/* The experts of node n, hottest first, onto its ranks; the hottest rank's load. */
static double place_node(struct grouping *g, uint32_t n)
{
    struct skew_placement *p = g->p;
    uint32_t count = g->per_node * g->size, first = n * g->node_ranks, *experts = p->order;
    double *load = g->weight;

    for (uint32_t i = 0; i < count; i++) {
        experts[i] = g->group[n * g->per_node + i / g->size] * g->size + i % g->size;
        load[i] = g->load[experts[i]];
    }
    skew_placement_sort(load, count, g->order);
    for (uint32_t i = 0; i < count; i++)
        g->order[i] = experts[g->order[i]];
    skew_placement_pack(p, g->load, g->order, first, g->node_ranks);
    skew_placement_improve_range(p, g->load, first, g->node_ranks);
    return p->rank_load[skew_placement_hottest(p, first, g->node_ranks)];
}

/* Heaviest group first into the lightest node that has room. */
static void pack_groups(struct grouping *g)
{
    uint32_t *place = g->kept;

    for (uint32_t i = 0; i < g->groups; i++) {
        g->weight[i] = 0;
        for (uint32_t e = 0; e < g->size; e++)
            g->weight[i] += g->load[i * g->size + e];
    }
    skew_placement_sort(g->weight, g->groups, g->order);
    for (uint32_t i = 0; i < g->groups; i++) {
        uint32_t lightest = g->nodes;
        for (uint32_t n = 0; n < g->nodes; n++)
            if (g->fill[n] < g->per_node &&
                (lightest == g->nodes || g->packed[n] < g->packed[lightest]))
                lightest = n;
        place[lightest * g->per_node + g->fill[lightest]++] = g->order[i];
        g->packed[lightest] += g->weight[g->order[i]];
    }
    memcpy(g->group, place, g->groups * sizeof *place);
}

/* Tries group i of the hottest node against group j of another; false: nothing became better. */
static bool try_swap(struct grouping *g, uint32_t i, uint32_t j, double *hottest)
{
    uint32_t a = i / g->per_node, b = j / g->per_node, group = g->group[i];
    uint32_t each = g->p->slots / g->nodes;
    size_t bytes = each * sizeof *g->kept;

    memcpy(g->kept, g->p->expert + (size_t)a * each, bytes);
    memcpy(g->kept + each, g->p->expert + (size_t)b * each, bytes);
    g->group[i] = g->group[j];
    g->group[j] = group;
    double first = place_node(g, a), second = place_node(g, b);
    if (fmax(first, second) < hottest[a] * (1 - 1e-12)) {
        hottest[a] = first;
        hottest[b] = second;
        return true;
    }
    g->group[j] = g->group[i];
    g->group[i] = group;
    memcpy(g->p->expert + (size_t)a * each, g->kept, bytes);
    memcpy(g->p->expert + (size_t)b * each, g->kept + each, bytes);
    return false;
}

static bool swap_groups(struct grouping *g)
{
    uint32_t hot = 0;

    for (uint32_t n = 1; n < g->nodes; n++)
        if (g->packed[n] > g->packed[hot])
            hot = n;
    for (uint32_t i = hot * g->per_node; i < (hot + 1) * g->per_node; i++)
        for (uint32_t j = 0; j < g->groups; j++)
            if (j / g->per_node != hot && try_swap(g, i, j, g->packed))
                return true;
    return false;
}

int skew_placement_lpt_groups(struct skew_placement *p, const double *load, uint32_t groups,
                              uint32_t nodes)
{
    struct grouping g;
    int result = begin(&g, p, load, groups, nodes);

    if (result < 0)
        return result;
    pack_groups(&g);
    lay_out(&g);
    for (uint32_t n = 0; n < nodes; n++)
        g.packed[n] = place_node(&g, n);
    for (uint32_t swaps = 0; nodes > 1 && swaps < groups && swap_groups(&g); swaps++)
        ;
    free(g.weight);
    return 0;
}

bool skew_placement_keeps_groups(const struct skew_placement *p, uint32_t groups, uint32_t nodes)
{
    if (check(p, groups, nodes) < 0)
        return false;
    for (uint32_t n = 0; n < nodes; n++) {
        const uint32_t *expert = p->expert + (size_t)n * (p->slots / nodes);
        for (uint32_t g = 0; g < groups; g++) {
            uint32_t here = 0;
            for (uint32_t i = 0; i < p->slots / nodes; i++)
                here += expert[i] / (p->experts / groups) == g;
            if (here != 0 && here != p->experts / groups)
                return false;
        }
    }
    return true;
}
