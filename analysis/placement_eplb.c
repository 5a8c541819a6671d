/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EPLB: groups onto nodes, copies within a node, copies onto ranks. Written from what
 * deepseek-ai/EPLB does, with its tie-breaks and its single precision, so that both give the same
 * placement; no code of it is here.
 */
#include "placement.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"

/* Everything a run needs, one block: experts are E, slots S, and no pack has more items than S. */
struct room {
    double *key;                                 /* [S] what is sorted */
    float *weight, *per_copy;                    /* [E] tokens by place in a node; [S] */
    float *pack_weight;                          /* [packs] */
    uint32_t *order, *pack_of, *place_of, *fill; /* [S] each */
    uint32_t *from;            /* [E] logical expert by place: nodes one after the other */
    uint32_t *copy_of, *count; /* [S], [E] within one node */
};

/**
 * Heaviest first into the lightest pack that has room, the first of equals; `packs` divides items.
 * With one item a pack, EPLB leaves the order as it is.
 */
static void balanced_packing(struct room *room, const float *weight, uint32_t items, uint32_t packs)
{
    uint32_t each = items / packs;

    for (uint32_t i = 0; i < items; i++) {
        room->key[i] = (double)weight[i];
        room->pack_of[i] = i;
        room->place_of[i] = 0;
    }
    if (each == 1)
        return;
    memset(room->pack_weight, 0, packs * sizeof *room->pack_weight);
    memset(room->fill, 0, packs * sizeof *room->fill);
    skew_placement_sort(room->key, items, room->order);
    for (uint32_t i = 0; i < items; i++) {
        uint32_t item = room->order[i], lightest = packs;
        for (uint32_t k = 0; k < packs; k++)
            if (room->fill[k] < each &&
                (lightest == packs || room->pack_weight[k] < room->pack_weight[lightest]))
                lightest = k;
        room->pack_of[item] = lightest;
        room->place_of[item] = room->fill[lightest]++;
        room->pack_weight[lightest] += weight[item];
    }
}

/* The node's experts, in the order in which its groups were packed, go to room->from. */
static void pack_groups(struct room *room, const double *load, uint32_t experts, uint32_t groups,
                        uint32_t nodes)
{
    uint32_t size = experts / groups, per_node = groups / nodes;

    for (uint32_t g = 0; g < groups; g++) {
        float sum = 0;
        for (uint32_t i = 0; i < size; i++)
            sum += (float)load[g * size + i];
        room->per_copy[g] = sum;
    }
    balanced_packing(room, room->per_copy, groups, nodes);
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t at = (room->pack_of[g] * per_node + room->place_of[g]) * size;
        for (uint32_t i = 0; i < size; i++)
            room->from[at + i] = g * size + i;
    }
    for (uint32_t e = 0; e < experts; e++)
        room->weight[e] = (float)load[room->from[e]];
}

/* copy_of[slots]: the experts themselves, then each further copy to the hottest share. */
static void replicate(struct room *room, const float *weight, uint32_t experts, uint32_t slots)
{
    for (uint32_t s = 0; s < slots; s++) {
        uint32_t hottest = 0;
        if (s < experts) {
            room->copy_of[s] = s;
            room->count[s] = 1;
            continue;
        }
        for (uint32_t e = 1; e < experts; e++)
            if (weight[e] / (float)room->count[e] > weight[hottest] / (float)room->count[hottest])
                hottest = e;
        room->copy_of[s] = hottest;
        room->count[hottest]++;
    }
}

static void place_node(struct skew_placement *p, struct room *room, uint32_t node, uint32_t nodes)
{
    uint32_t experts = p->experts / nodes, slots = p->slots / nodes, first = node * slots;
    const float *weight = room->weight + (size_t)node * experts;

    replicate(room, weight, experts, slots);
    for (uint32_t s = 0; s < slots; s++)
        room->per_copy[s] = weight[room->copy_of[s]] / (float)room->count[room->copy_of[s]];
    balanced_packing(room, room->per_copy, slots, p->ranks / nodes);
    for (uint32_t s = 0; s < slots; s++)
        p->expert[first + room->pack_of[s] * p->per_rank + room->place_of[s]] =
            room->from[node * experts + room->copy_of[s]];
}

static void *carve(char **at, size_t count, size_t size)
{
    void *here = *at;

    *at += (count * size + 7) & ~(size_t)7;
    return here;
}

int skew_placement_eplb(struct skew_placement *p, const double *load, uint32_t groups,
                        uint32_t nodes)
{
    size_t s = p->slots, e = p->experts;
    struct room room;

    if (groups == 0 || nodes == 0 || groups % nodes != 0) {
        groups = 1;
        nodes = 1;
    }
    if (p->experts % groups != 0 || p->ranks % nodes != 0 || p->slots % nodes != 0)
        return -EINVAL;
    char *memory = malloc(s * (8 + 5 * 4 + 2 * 4) + e * (4 + 4 + 4) + 12 * 8), *at = memory;
    if (!memory)
        return -ENOMEM;
    room.key = carve(&at, s, sizeof(double));
    room.per_copy = carve(&at, s, sizeof(float));
    room.pack_weight = carve(&at, s, sizeof(float));
    room.order = carve(&at, s, sizeof(uint32_t));
    room.pack_of = carve(&at, s, sizeof(uint32_t));
    room.place_of = carve(&at, s, sizeof(uint32_t));
    room.fill = carve(&at, s, sizeof(uint32_t));
    room.copy_of = carve(&at, s, sizeof(uint32_t));
    room.weight = carve(&at, e, sizeof(float));
    room.from = carve(&at, e, sizeof(uint32_t));
    room.count = carve(&at, e, sizeof(uint32_t));
    pack_groups(&room, load, p->experts, groups, nodes);
    for (uint32_t node = 0; node < nodes; node++)
        place_node(p, &room, node, nodes);
    free(memory);
    skew_placement_count(p);
    return 0;
}
