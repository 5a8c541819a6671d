/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tier first, after FAST (arXiv 2505.09764): one phase for what stays inside the scale-up domains,
 * and for moving bytes there so that every port of a domain has the same to send to each other
 * domain; then matchings of whole domains (stuffing + Birkhoff), each followed by handing on inside
 * the receiver.
 *
 * Transfers are told end to end (who has the bytes, who gets them), whichever ports they pass.
 */
#include "schedule_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tier {
    struct skew_builder *b;
    uint32_t size, domains;
    uint64_t *between; /* [domains][domains] not yet sent */
    uint64_t *arrived; /* [size] of one slice of one pair, by receiver */
    uint64_t passed; /* bottlenecks so far, of whole domains: what is divided by the ports, once */
    uint64_t uncharged; /* bytes over scale-up links that the next matching pays for */
};

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static void measure_between(struct tier *t)
{
    const struct skew_builder *b = t->b;

    for (uint32_t i = 0; i < b->n; i++)
        for (uint32_t j = 0; j < b->n; j++)
            if (i / t->size != j / t->size)
                t->between[(size_t)(i / t->size) * t->domains + j / t->size] +=
                    b->left[(size_t)i * b->n + j];
}

/* What rank i has too much or too little of for its port's equal part, over the other domains. */
static void imbalance_of(const struct tier *t, uint32_t i, uint64_t *gives, uint64_t *takes)
{
    uint32_t own = i / t->size;

    *gives = *takes = 0;
    for (uint32_t d = 0; d < t->domains; d++) {
        uint64_t has = 0, equal = t->between[(size_t)own * t->domains + d] / t->size;
        if (d == own)
            continue;
        for (uint32_t j = d * t->size; j < (d + 1) * t->size; j++)
            has += t->b->left[(size_t)i * t->b->n + j];
        *(has > equal ? gives : takes) += has > equal ? has - equal : equal - has;
    }
}

/* The scale-up phase: domain-local traffic and rebalancing share the links. Returns what it did not
 * charge: with nothing to stay inside there is no phase, and rebalancing alone waits for a
 * matching. */
static uint64_t send_inside(struct tier *t)
{
    struct skew_builder *b = t->b;
    uint64_t busiest = 0;

    for (uint32_t i = 0; i < b->n; i++) {
        uint64_t out, in;
        imbalance_of(t, i, &out, &in);
        uint32_t first = i / t->size * t->size;
        for (uint32_t j = first; j < first + t->size; j++) {
            out += b->left[(size_t)i * b->n + j];
            in += b->left[(size_t)j * b->n + i];
        }
        out = out > in ? out : in;
        busiest = out > busiest ? out : busiest;
    }
    skew_build_begin(b);
    for (uint32_t i = 0; i < b->n; i++)
        for (uint32_t j = i / t->size * t->size; j < (i / t->size + 1) * t->size; j++)
            skew_build_send(b, i, j, b->left[(size_t)i * b->n + j]);
    struct skew_phase *phase = skew_build_end_many(b);
    if (!phase)
        return busiest;
    phase->bottleneck = 0;
    phase->up_bytes = busiest;
    return 0;
}

/* One slice from domain to domain: `bytes` of its pairs in order; returns the bytes to hand on
 * inside, by the busiest port: each of the receiver's ports got an equal part, whoever it is for.
 */
static uint64_t send_slice(struct tier *t, uint32_t from, uint32_t to, uint64_t bytes)
{
    struct skew_builder *b = t->b;
    uint64_t most = 0, sum = bytes;

    memset(t->arrived, 0, t->size * sizeof *t->arrived);
    for (uint32_t i = from * t->size; i < (from + 1) * t->size && bytes; i++) {
        for (uint32_t j = to * t->size; j < (to + 1) * t->size && bytes; j++) {
            uint64_t left = b->left[(size_t)i * b->n + j];
            uint64_t now = left < bytes ? left : bytes;
            skew_build_send(b, i, j, now);
            t->arrived[j - to * t->size] += now;
            bytes -= now;
        }
    }
    for (uint32_t r = 0; r < t->size; r++) {
        uint64_t in = t->arrived[r] - t->arrived[r] / t->size;
        uint64_t out = ceil_div(sum - t->arrived[r], t->size);
        in = in > out ? in : out;
        most = in > most ? in : most;
    }
    return t->size > 1 ? most : 0;
}

static int send_domains(void *context, const uint32_t *column, uint64_t coefficient)
{
    struct tier *t = context;
    struct skew_builder *b = t->b;
    uint64_t bottleneck = 0, up = 0;

    if (skew_build_full(b))
        return 1;
    skew_build_begin(b);
    for (uint32_t d = 0; d < t->domains; d++) {
        uint64_t *left = &t->between[(size_t)d * t->domains + column[d]];
        uint64_t now = *left < coefficient ? *left : coefficient;
        uint64_t inside = send_slice(t, d, column[d], now);
        *left -= now;
        bottleneck = now > bottleneck ? now : bottleneck;
        up = inside > up ? inside : up;
    }
    struct skew_phase *phase = skew_build_end_many(b);
    if (phase) {
        phase->bottleneck =
            ceil_div(t->passed + bottleneck, t->size) - ceil_div(t->passed, t->size);
        phase->up_bytes = up + t->uncharged;
        phase->matching = phase->reconfigures = true;
        b->schedule->matchings++;
        t->passed += bottleneck;
        t->uncharged = 0;
    }
    return b->failed;
}

static int schedule_tiers(struct tier *t, uint64_t *work)
{
    struct skew_builder *b = t->b;

    measure_between(t);
    t->uncharged = send_inside(t);
    memcpy(work, t->between, (size_t)t->domains * t->domains * sizeof *work);
    uint64_t sum = skew_birkhoff_stuff(work, t->domains);
    b->schedule->bound = ceil_div(sum, t->size);
    int result = skew_birkhoff(work, t->domains, sum, b->options->pick, send_domains, t);
    return result < 0 ? result : b->failed;
}

int skew_build_tier(struct skew_builder *b)
{
    struct tier t = {.b = b, .size = b->options->domain_ranks};

    if (t.size == 0 || b->n % t.size)
        return -EINVAL;
    t.domains = b->n / t.size;
    size_t cells = (size_t)t.domains * t.domains;
    uint64_t *memory = calloc(2 * cells + t.size, sizeof *memory);
    if (!memory)
        return -ENOMEM;
    t.between = memory;
    t.arrived = memory + 2 * cells;
    int result = schedule_tiers(&t, memory + cells);
    free(memory);
    return result;
}
