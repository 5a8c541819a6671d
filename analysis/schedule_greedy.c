/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The schedules that take entries whole: greedy maximum-weight matching ([MW], the algorithm of the
 * paper) and shifted diagonals (SpreadOut), and the static ring, which has no phases to choose.
 */
#include "schedule_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* The power of two that makes sums of 4n weights exact in a double: 1 but for petabytes. */
static double weight_scale(const struct skew_demand *demand)
{
    int exponent = ilogb((double)demand->bound + 1) + 1 + ilogb(4.0 * demand->ranks) + 1;

    return exponent > 53 ? ldexp(1, 53 - exponent) : 1;
}

static void send_matching(struct skew_builder *b, struct skew_assign *a)
{
    skew_build_begin(b);
    for (uint32_t i = 0; i < b->n; i++) {
        uint32_t to = a->column[i];
        skew_build_send(b, i, to, b->left[(size_t)i * b->n + to]);
        a->cost[i * a->stride + to] = 0;
    }
    skew_build_end(b);
}

int skew_build_greedy(struct skew_builder *b)
{
    uint64_t remaining = b->demand->total;
    double scale = weight_scale(b->demand);
    struct skew_assign *a;
    size_t sent = 0;

    if (skew_assign_create(&a, b->n) < 0)
        return -ENOMEM;
    /* Rounded up, so that no entry becomes worthless before it is sent. */
    for (uint32_t i = 0; i < b->n; i++)
        for (uint32_t j = 0; j < b->n; j++)
            a->cost[i * a->stride + j] = -ceil((double)b->left[(size_t)i * b->n + j] * scale);
    while (remaining && !skew_build_full(b)) {
        skew_assign_solve(a);
        send_matching(b, a);
        for (; sent < b->schedule->transfer_count; sent++)
            remaining -= b->schedule->transfers[sent].bytes;
    }
    skew_assign_free(&a);
    return b->failed;
}

int skew_build_shift(struct skew_builder *b)
{
    for (uint32_t k = 1; k < b->n && !skew_build_full(b); k++) {
        skew_build_begin(b);
        for (uint32_t i = 0; i < b->n; i++) {
            uint32_t to = (i + k) % b->n;
            skew_build_send(b, i, to, b->left[(size_t)i * b->n + to]);
        }
        skew_build_end(b);
    }
    return b->failed;
}

/* ---- static ring ---------------------------------------------------------------------------- */

/* Loads a message on the links that it passes, in halves of a byte so that a tie can be split. */
static void load_links(uint64_t *forward, uint64_t *backward, uint32_t n,
                       const struct skew_transfer *t)
{
    uint32_t hops = (t->to + n - t->from) % n;
    uint64_t half = 2 * hops == n ? t->bytes : 0;

    if (2 * hops <= n)
        for (uint32_t h = 0; h < hops; h++)
            forward[(t->from + h) % n] += half ? half : 2 * t->bytes;
    if (2 * hops >= n)
        for (uint32_t h = 0; h < n - hops; h++)
            backward[(t->from + n - h) % n] += half ? half : 2 * t->bytes;
}

int skew_build_ring(struct skew_builder *b)
{
    uint64_t *links = calloc(2 * (size_t)b->n, sizeof *links);
    uint64_t busiest = 0;

    if (!links)
        return -ENOMEM;
    skew_build_begin(b);
    for (uint32_t i = 0; i < b->n; i++)
        for (uint32_t j = 0; j < b->n; j++)
            skew_build_send(b, i, j, b->left[(size_t)i * b->n + j]);
    struct skew_phase *phase = skew_build_end_many(b);
    for (size_t t = 0; phase && t < phase->count; t++)
        load_links(links, links + b->n, b->n, &b->schedule->transfers[t]);
    for (uint32_t l = 0; l < 2 * b->n; l++)
        busiest = links[l] > busiest ? links[l] : busiest;
    /* A link has half of the port's bandwidth, so it costs twice its bytes: its half-bytes. */
    if (phase)
        phase->bottleneck = busiest;
    free(links);
    return b->failed;
}
