/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From counts of experts to what ranks send each other: calls in the order of time, and each as a
 * matrix of token copies.
 */
#include "routing.h"

#include <errno.h>
#include <stdlib.h>

static int by_time(const void *left, const void *right)
{
    const struct skew_routing_at *a = left, *b = right;
    const struct skew_routing_call *x = &a->layer->call[a->call], *y = &b->layer->call[b->call];

    if (x->step != y->step)
        return x->step < y->step ? -1 : 1;
    if (x->microbatch != y->microbatch)
        return x->microbatch < y->microbatch ? -1 : 1;
    if (x->ordinal != y->ordinal)
        return x->ordinal < y->ordinal ? -1 : 1;
    return (a->layer->layer > b->layer->layer) - (a->layer->layer < b->layer->layer);
}

int skew_routing_in_time(const struct skew_routing *routing, struct skew_routing_at **out,
                         size_t *count)
{
    size_t layers, n = 0;
    const struct skew_routing_layer *const *layer = skew_routing_layers(routing, &layers);

    *count = 0;
    for (size_t i = 0; i < layers; i++)
        *count += layer[i]->calls;
    *out = malloc((*count + 1) * sizeof **out);
    if (!*out)
        return -ENOMEM;
    for (size_t i = 0; i < layers; i++)
        for (size_t c = 0; c < layer[i]->calls; c++)
            (*out)[n++] = (struct skew_routing_at){layer[i], c};
    if (n)
        qsort(*out, n, sizeof **out, by_time);
    return 0;
}

int skew_routing_matrix(const struct skew_routing_at *at, double *copies)
{
    const struct skew_routing_layer *l = at->layer;
    const struct skew_routing_call *call = &l->call[at->call];
    uint32_t ranks = l->ranks;
    size_t room = l->slots > l->experts ? l->slots : l->experts, count = 0;

    if (!l->cube || ranks == 0 || l->sources != ranks || call->whole || !call->complete)
        return -ENODATA;
    struct skew_slot *slot = malloc((room + 1) * sizeof *slot);
    uint32_t *shares = malloc((l->experts + 1) * sizeof *shares);
    double *counts = malloc((l->experts + 1) * sizeof *counts);
    int result = slot && shares && counts ? skew_routing_slots(l, ranks, slot, &count) : -ENOMEM;
    if (result == 0)
        skew_slot_copies(slot, count, l->experts, shares);
    for (uint32_t s = 0; s < ranks && result == 0; s++) {
        const uint32_t *row = l->cube + (at->call * l->sources + s) * l->experts;
        for (uint32_t e = 0; e < l->experts; e++)
            counts[e] = row[e];
        skew_slot_loads(slot, count, shares, counts, ranks, copies + (size_t)s * ranks);
    }
    free(slot);
    free(shares);
    free(counts);
    return result;
}
