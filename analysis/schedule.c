/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Schedules: the facts of a matrix, the growing of a schedule phase by phase, and the choice of
 * method.
 */
#include "schedule_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOTAL_LIMIT (UINT64_C(1) << 62)

const char *skew_schedule_name(enum skew_schedule_method method)
{
    static const char *const names[] = {
#define X(id, name, what) name,
        SKEW_SCHEDULE_METHODS(X)
#undef X
    };
    return names[method];
}

const char *skew_schedule_what(enum skew_schedule_method method)
{
    static const char *const names[] = {
#define X(id, name, what) what,
        SKEW_SCHEDULE_METHODS(X)
#undef X
    };
    return names[method];
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

int skew_demand_measure(struct skew_demand *demand, const uint64_t *bytes, uint32_t n)
{
    *demand = (struct skew_demand){.ranks = n, .imbalance = NAN};
    if (n == 0 || n > SKEW_SCHEDULE_RANKS_MAX)
        return -EINVAL;
    for (size_t i = 0; i < (size_t)n * n; i++) {
        if (bytes[i] >= TOTAL_LIMIT || demand->receive_sum + bytes[i] >= TOTAL_LIMIT)
            return -EOVERFLOW;
        demand->receive_sum += bytes[i];
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t self = bytes[(size_t)i * n + i], row = 0, column = 0;
        for (uint32_t j = 0; j < n; j++) {
            row += bytes[(size_t)i * n + j];
            column += bytes[(size_t)j * n + i];
        }
        demand->local_max = larger(demand->local_max, self);
        demand->receive_max = larger(demand->receive_max, column);
        demand->bound = larger(demand->bound, larger(row, column) - self);
        demand->total += row - self;
    }
    if (demand->total)
        demand->imbalance = (double)demand->bound * n / (double)demand->total;
    return 0;
}

/* ---- phase by phase ------------------------------------------------------------------------- */

/* Doubles the room of an array when it is full; false when there is no memory. */
static bool room(struct skew_builder *b, void **array, size_t *have, size_t count, size_t size)
{
    if (b->failed)
        return false;
    if (count < *have)
        return true;
    size_t more = *have ? 2 * *have : 64;
    void *bigger = realloc(*array, more * size);
    if (!bigger) {
        b->failed = -ENOMEM;
        return false;
    }
    *array = bigger;
    *have = more;
    return true;
}

void skew_build_begin(struct skew_builder *b)
{
    struct skew_schedule *s = b->schedule;
    void *phases = s->phases;

    if (room(b, &phases, &b->phase_room, s->phase_count, sizeof *s->phases)) {
        s->phases = phases;
        s->phases[s->phase_count] = (struct skew_phase){.first = s->transfer_count};
    }
}

void skew_build_send(struct skew_builder *b, uint32_t from, uint32_t to, uint64_t bytes)
{
    struct skew_schedule *s = b->schedule;
    void *transfers = s->transfers;

    if (from == to || bytes == 0 ||
        !room(b, &transfers, &b->transfer_room, s->transfer_count, sizeof *s->transfers))
        return;
    s->transfers = transfers;
    s->transfers[s->transfer_count++] = (struct skew_transfer){from, to, bytes};
    b->left[(size_t)from * b->n + to] -= bytes;
}

static struct skew_phase *end(struct skew_builder *b)
{
    struct skew_schedule *s = b->schedule;

    if (b->failed)
        return NULL;
    struct skew_phase *phase = &s->phases[s->phase_count];
    phase->count = s->transfer_count - phase->first;
    if (phase->count == 0)
        return NULL;
    s->phase_count++;
    return phase;
}

struct skew_phase *skew_build_end(struct skew_builder *b)
{
    struct skew_phase *phase = end(b);

    if (!phase)
        return NULL;
    for (size_t i = 0; i < phase->count; i++)
        phase->bottleneck =
            larger(phase->bottleneck, b->schedule->transfers[phase->first + i].bytes);
    phase->receive_max = phase->bottleneck;
    phase->matching = phase->reconfigures = true;
    b->schedule->matchings++;
    return phase;
}

struct skew_phase *skew_build_end_many(struct skew_builder *b)
{
    struct skew_phase *phase = end(b);

    if (!phase)
        return NULL;
    memset(b->in, 0, b->n * sizeof *b->in);
    memset(b->out, 0, b->n * sizeof *b->out);
    for (size_t i = 0; i < phase->count; i++) {
        const struct skew_transfer *t = &b->schedule->transfers[phase->first + i];
        b->out[t->from] += t->bytes;
        b->in[t->to] += t->bytes;
    }
    for (uint32_t r = 0; r < b->n; r++) {
        phase->receive_max = larger(phase->receive_max, b->in[r]);
        phase->bottleneck = larger(phase->bottleneck, larger(b->in[r], b->out[r]));
    }
    return phase;
}

bool skew_build_full(const struct skew_builder *b)
{
    return b->failed ||
           (b->options->max_matchings && b->schedule->matchings >= b->options->max_matchings);
}

/* What a cap left over goes in one phase of its own, by packets: its port bound is what it
 * costs. */
static void send_remainder(struct skew_builder *b)
{
    skew_build_begin(b);
    for (uint32_t i = 0; i < b->n; i++) {
        for (uint32_t j = 0; j < b->n; j++) {
            uint64_t bytes = b->left[(size_t)i * b->n + j];
            skew_build_send(b, i, j, bytes);
            b->schedule->remainder += bytes;
        }
    }
    skew_build_end_many(b);
}

/* ---- all together --------------------------------------------------------------------------- */

static int build(struct skew_builder *b)
{
    static int (*const builders[])(struct skew_builder *) = {
        [SKEW_SCHEDULE_GREEDY] = skew_build_greedy,
        [SKEW_SCHEDULE_SINKHORN] = skew_build_sinkhorn,
        [SKEW_SCHEDULE_STUFFED] = skew_build_stuffed,
        [SKEW_SCHEDULE_SHIFT] = skew_build_shift,
        [SKEW_SCHEDULE_RING] = skew_build_ring,
        [SKEW_SCHEDULE_TIER] = skew_build_tier,
    };
    struct skew_schedule *s = b->schedule;

    int result = builders[s->method](b);
    if (result < 0)
        return result;
    send_remainder(b);
    for (size_t p = 0; p < s->phase_count; p++) {
        struct skew_phase *phase = &s->phases[p];
        s->bottlenecks += phase->bottleneck;
        for (size_t i = 0; i < phase->count; i++)
            phase->bytes += s->transfers[phase->first + i].bytes;
    }
    return b->failed;
}

int skew_schedule_make(struct skew_schedule **out, enum skew_schedule_method method,
                       const uint64_t *bytes, uint32_t n,
                       const struct skew_schedule_options *options)
{
    struct skew_demand demand;
    struct skew_builder b = {.options = options, .demand = &demand, .n = n};

    *out = NULL;
    int result = skew_demand_measure(&demand, bytes, n);
    if (result < 0)
        return result;
    b.schedule = calloc(1, sizeof *b.schedule);
    b.left = malloc((size_t)n * n * sizeof *b.left);
    b.in = malloc(2 * (size_t)n * sizeof *b.in);
    if (!b.schedule || !b.left || !b.in) {
        result = -ENOMEM;
        goto out;
    }
    b.out = b.in + n;
    memcpy(b.left, bytes, (size_t)n * n * sizeof *b.left);
    for (uint32_t i = 0; i < n; i++)
        b.left[(size_t)i * n + i] = 0;
    b.schedule->method = method;
    b.schedule->ranks = n;
    b.schedule->bound = demand.bound;
    result = build(&b);
out:
    if (result == 0)
        *out = b.schedule;
    else
        skew_schedule_free(&b.schedule);
    free(b.left);
    free(b.in);
    return result;
}

void skew_schedule_free(struct skew_schedule **schedule)
{
    if (*schedule) {
        free((*schedule)->phases);
        free((*schedule)->transfers);
    }
    free(*schedule);
    *schedule = NULL;
}

double skew_schedule_loss(const struct skew_schedule *s)
{
    return s->bound ? (double)s->bottlenecks / (double)s->bound : NAN;
}

double skew_schedule_idle(const struct skew_schedule *s)
{
    double moved = 0;

    if (s->method == SKEW_SCHEDULE_RING || s->bottlenecks == 0)
        return NAN;
    for (size_t p = 0; p < s->phase_count; p++)
        for (size_t i = 0; s->phases[p].bottleneck && i < s->phases[p].count; i++)
            moved += (double)s->transfers[s->phases[p].first + i].bytes;
    return 1 - moved / ((double)s->bottlenecks * s->ranks);
}
