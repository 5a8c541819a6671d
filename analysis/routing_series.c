/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What analyses ask of a finished routing: counts in time, and the loads of ranks. See routing.h.
 */
#include "routing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int series_create(struct skew_series *s, size_t rows, uint32_t experts)
{
    *s = (struct skew_series){.experts = experts};
    s->counts = calloc(rows + 1, experts * sizeof *s->counts);
    s->total = calloc(rows + 1, sizeof *s->total);
    s->id = calloc(rows + 1, sizeof *s->id);
    if (s->counts && s->total && s->id)
        return 0;
    skew_series_free(s);
    return -ENOMEM;
}

void skew_series_free(struct skew_series *s)
{
    free(s->counts);
    free(s->total);
    free(s->id);
    *s = (struct skew_series){0};
}

static void add_row(struct skew_series *s, const uint64_t *counts, int64_t id, bool together)
{
    if (!together || s->rows == 0 || s->id[s->rows - 1] != id)
        s->id[s->rows++] = id;
    double *into = s->counts + (s->rows - 1) * s->experts;
    for (uint32_t e = 0; e < s->experts; e++) {
        into[e] += (double)counts[e];
        s->total[s->rows - 1] += (double)counts[e];
    }
}

/* Whether all calls of the step that call i belongs to are complete. */
static bool step_complete(const struct skew_routing_layer *l, size_t i)
{
    size_t from = i, to = i;

    while (from > 0 && l->call[from - 1].step == l->call[i].step)
        from--;
    while (to < l->calls && l->call[to].step == l->call[i].step)
        if (!l->call[to++].complete)
            return false;
    return from < to;
}

int skew_series_of(struct skew_series *s, const struct skew_routing_layer *l,
                   enum skew_routing_by by, bool complete)
{
    bool requests = by == SKEW_BY_REQUEST;
    int result = series_create(s, requests ? l->requests : l->calls, l->experts);

    if (result < 0)
        return result;
    for (size_t i = 0; requests && i < l->requests; i++)
        add_row(s, l->request_counts + i * l->experts, l->request[i], false);
    for (size_t i = 0; !requests && i < l->calls; i++) {
        /* Steps that are not known cannot be put together. */
        bool together = by == SKEW_BY_STEP && l->call[i].step >= 0;
        if (complete && !(together ? step_complete(l, i) : l->call[i].complete))
            continue;
        add_row(s, l->counts + i * l->experts, l->call[i].step, together);
    }
    if (s->rows)
        return 0;
    skew_series_free(s);
    return -ENOENT;
}

static bool fits(const struct skew_routing_layer *l, uint32_t ranks)
{
    uint32_t most = 0;

    for (size_t i = 0; i < l->slots; i++)
        if (l->slot[i].rank > most)
            most = l->slot[i].rank;
    return l->slots && l->slots % ranks == 0 && most == ranks - 1;
}

int skew_routing_slots(const struct skew_routing_layer *l, uint32_t ranks, struct skew_slot *slots,
                       size_t *count)
{
    if (ranks && fits(l, ranks)) {
        memcpy(slots, l->slot, l->slots * sizeof *slots);
        /* Counts of slots: slot i is what counts[i] is about. */
        for (size_t i = 0; l->physical && i < l->slots; i++)
            slots[i].expert = (uint32_t)i;
        *count = l->slots;
        return 0;
    }
    if (ranks == 0 || l->experts % ranks)
        return -EINVAL;
    for (uint32_t e = 0; e < l->experts; e++)
        slots[e] = (struct skew_slot){e, e / (l->experts / ranks)};
    *count = l->experts;
    return 0;
}

void skew_slot_copies(const struct skew_slot *slots, size_t count, uint32_t experts,
                      uint32_t *copies)
{
    memset(copies, 0, experts * sizeof *copies);
    for (size_t i = 0; i < count; i++)
        if (slots[i].expert < experts)
            copies[slots[i].expert]++;
}

void skew_slot_loads(const struct skew_slot *slots, size_t count, const uint32_t *copies,
                     const double *counts, uint32_t ranks, double *loads)
{
    memset(loads, 0, ranks * sizeof *loads);
    for (size_t i = 0; i < count; i++)
        if (copies[slots[i].expert])
            loads[slots[i].rank] += counts[slots[i].expert] / copies[slots[i].expert];
}
