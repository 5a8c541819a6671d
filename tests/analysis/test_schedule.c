/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every schedule must keep, on random matrices and on the awkward ones: it delivers exactly
 * the matrix, matchings are matchings, bottlenecks are what they say, no schedule is below its
 * bound and stuffing meets it. The assignment is compared with all permutations for n ≤ 6, the flow
 * shop with a recurrence written apart, and Johnson's order with all orders where it must be
 * optimal.
 */
#include "check.h"
#include "schedule.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- schedules ------------------------------------------------------------------------------- */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Transfers of one phase: within it, and against what it says of itself. */
static void check_phase(const struct skew_schedule *s, const struct skew_phase *p, const char *what)
{
    uint64_t *out = calloc(2 * s->ranks, sizeof *out), *in = out + s->ranks;
    uint32_t *sends = calloc(2 * s->ranks, sizeof *sends), *receives = sends + s->ranks;
    uint64_t port = 0, received = 0;

    for (size_t i = 0; i < p->count; i++) {
        const struct skew_transfer *t = &s->transfers[p->first + i];
        CHECK(t->from != t->to && t->bytes && t->from < s->ranks && t->to < s->ranks, "%s", what);
        out[t->from] += t->bytes;
        in[t->to] += t->bytes;
        sends[t->from]++;
        receives[t->to]++;
    }
    for (uint32_t r = 0; r < s->ranks; r++) {
        port = larger(port, larger(out[r], in[r]));
        received = larger(received, in[r]);
        if (p->matching && s->method != SKEW_SCHEDULE_TIER)
            CHECK(sends[r] <= 1 && receives[r] <= 1, "%s: rank %u", what, r);
    }
    CHECK(p->receive_max == received, "%s", what);
    if (s->method != SKEW_SCHEDULE_TIER && s->method != SKEW_SCHEDULE_RING)
        CHECK(p->bottleneck == port, "%s: %lu, %lu", what, (unsigned long)p->bottleneck,
              (unsigned long)port);
    free(out);
    free(sends);
}

static void check_schedule(const struct skew_schedule *s, const uint64_t *bytes, const char *what,
                           uint32_t cap)
{
    uint32_t n = s->ranks;
    uint64_t *sum = calloc((size_t)n * n, sizeof *sum), bottlenecks = 0;
    size_t matchings = 0, at = 0;

    for (size_t p = 0; p < s->phase_count; p++) {
        CHECK(s->phases[p].first == at && s->phases[p].count > 0, "%s", what);
        at += s->phases[p].count;
        bottlenecks += s->phases[p].bottleneck;
        matchings += s->phases[p].matching;
        check_phase(s, &s->phases[p], what);
    }
    CHECK(at == s->transfer_count && matchings == s->matchings, "%s", what);
    CHECK(bottlenecks == s->bottlenecks, "%s", what);
    CHECK(cap == 0 || matchings <= cap, "%s: %zu matchings", what, matchings);
    CHECK(cap || s->remainder == 0, "%s: remainder without a cap", what);
    for (size_t i = 0; i < s->transfer_count; i++)
        sum[(size_t)s->transfers[i].from * n + s->transfers[i].to] += s->transfers[i].bytes;
    for (size_t i = 0; i < (size_t)n * n; i++)
        CHECK(sum[i] == (i % n == i / n ? 0 : bytes[i]), "%s: cell %zu", what, i);
    if (s->method != SKEW_SCHEDULE_TIER || cap == 0) /* a tier's remainder goes by ranks' ports */
        CHECK(s->bottlenecks >= s->bound, "%s: below the bound", what);
    if (s->method == SKEW_SCHEDULE_STUFFED || (s->method == SKEW_SCHEDULE_TIER && cap == 0))
        CHECK(s->bottlenecks == s->bound || cap, "%s: %lu, bound %lu", what,
              (unsigned long)s->bottlenecks, (unsigned long)s->bound);
    if (s->method == SKEW_SCHEDULE_STUFFED)
        CHECK(n < 2 || s->matchings <= (size_t)n * n - 2 * n + 2, "%s: %zu matchings", what,
              s->matchings);
    free(sum);
}

static void check_matrix(const uint64_t *bytes, uint32_t n, const char *what)
{
    static const uint32_t caps[] = {0, 1, 3};
    char text[160];

    for (int m = 0; m < SKEW_SCHEDULE_METHOD_COUNT; m++) {
        for (int k = 0; k < 6; k++) {
            struct skew_schedule_options options = {.max_matchings = caps[k / 2],
                                                    .pick =
                                                        k % 2 ? SKEW_PICK_FIRST : SKEW_PICK_LARGEST,
                                                    .domain_ranks = n % 4 == 0   ? 4
                                                                    : n % 3 == 0 ? 3
                                                                                 : 1};
            struct skew_schedule *s;
            snprintf(text, sizeof text, "%s, %u ranks, %s, cap %u, pick %d", what, n,
                     skew_schedule_name((enum skew_schedule_method)m), options.max_matchings,
                     options.pick);
            int result = skew_schedule_make(&s, (enum skew_schedule_method)m, bytes, n, &options);
            CHECK(result == 0, "%s: %d", text, result);
            if (result == 0)
                check_schedule(s, bytes, text, options.max_matchings);
            skew_schedule_free(&s);
        }
    }
}

static void test_random(void)
{
    static const uint64_t limits[] = {2, 7, 1000, UINT64_C(1) << 30, UINT64_C(1) << 52};

    for (uint32_t n = 1; n <= 17; n++) {
        for (int kind = 0; kind < 10; kind++) {
            uint64_t bytes[17 * 17];
            for (uint32_t i = 0; i < n * n; i++) {
                bytes[i] = random_below(limits[kind % 5]);
                if (kind >= 5 && random_below(4))
                    bytes[i] = 0;
            }
            check_matrix(bytes, n, "random");
        }
    }
}

static void test_awkward(void)
{
    uint64_t bytes[64] = {0};

    check_matrix(bytes, 8, "empty");
    for (int i = 0; i < 8; i++)
        bytes[9 * i] = 100;
    check_matrix(bytes, 8, "diagonal only");
    memset(bytes, 0, sizeof bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = 1000 + (uint64_t)i;
    check_matrix(bytes, 8, "one row");
    memset(bytes, 0, sizeof bytes);
    for (int i = 0; i < 8; i++)
        bytes[8 * i + 3] = 5;
    check_matrix(bytes, 8, "one column");
    memset(bytes, 0, sizeof bytes);
    bytes[1] = (UINT64_C(1) << 62) - 2;
    bytes[8] = 1;
    check_matrix(bytes, 8, "huge");
    for (int i = 0; i < 64; i++)
        bytes[i] = (UINT64_C(1) << 55) - (uint64_t)(i * i);
    check_matrix(bytes, 8, "huge everywhere");
    for (int i = 0; i < 64; i++)
        bytes[i] = i % 9 ? 42 : 0;
    check_matrix(bytes, 8, "uniform, zero diagonal");
}

static void test_refused(void)
{
    uint64_t bytes[36] = {[1] = UINT64_C(1) << 61, [2] = UINT64_C(1) << 61};
    struct skew_schedule_options options = {0};
    struct skew_schedule *s;

    CHECK(skew_schedule_make(&s, SKEW_SCHEDULE_GREEDY, bytes, 6, &options) == -EOVERFLOW && !s,
          "2^62");
    bytes[1] = UINT64_MAX;
    CHECK(skew_schedule_make(&s, SKEW_SCHEDULE_SHIFT, bytes, 6, &options) == -EOVERFLOW,
          "2^64 - 1");
    bytes[1] = bytes[2] = 0;
    CHECK(skew_schedule_make(&s, SKEW_SCHEDULE_GREEDY, bytes, 0, &options) == -EINVAL, "no ranks");
    CHECK(skew_schedule_make(&s, SKEW_SCHEDULE_TIER, bytes, 6, &options) == -EINVAL, "no domain");
    options.domain_ranks = 4;
    CHECK(skew_schedule_make(&s, SKEW_SCHEDULE_TIER, bytes, 6, &options) == -EINVAL, "4 of 6");
}

/* ---- the assignment -------------------------------------------------------------------------- */

static double best_from(const struct skew_assign *a, uint32_t row, unsigned used)
{
    double best = INFINITY;

    if (row == a->n)
        return 0;
    for (uint32_t j = 0; j < a->n; j++)
        if (!(used & 1u << j))
            best = fmin(best, a->cost[row * a->stride + j] + best_from(a, row + 1, used | 1u << j));
    return best;
}

/* Whether the matching is a permutation, and what it costs. */
static double cost_of(const struct skew_assign *a)
{
    unsigned used = 0;
    double sum = 0;

    for (uint32_t i = 0; i < a->n; i++) {
        CHECK(a->column[i] < a->n && !(used & 1u << a->column[i]), "n %u row %u", a->n, i);
        used |= 1u << a->column[i];
        sum += a->cost[i * a->stride + a->column[i]];
    }
    return sum;
}

/* Solved again and again while entries change: the warm start must not matter, whichever way they
 * go. */
static void test_assignment(void)
{
    for (uint32_t n = 1; n <= 6; n++) {
        for (int trial = 0; trial < 60; trial++) {
            struct skew_assign *a;
            uint64_t limit = trial % 3 == 0 ? 3 : trial % 3 == 1 ? 100 : UINT64_C(1) << 45;
            CHECK(skew_assign_create(&a, n) == 0, "no memory");
            bool wide = a->wide;
            for (int change = 0; change < 12; change++) {
                for (uint32_t i = 0; i < n; i++)
                    for (uint32_t j = 0; j < n; j++)
                        if (change == 0 || random_below(3) == 0)
                            a->cost[i * a->stride + j] =
                                change == 7 ? 0 : -(double)random_below(limit);
                a->wide =
                    wide && change % 2; /* both widths are right, and go on from the other's */
                skew_assign_solve(a);
                double found = cost_of(a), best = best_from(a, 0, 0);
                CHECK(found == best, "n %u trial %d change %d: %g, best %g", n, trial, change,
                      found, best);
            }
            skew_assign_free(&a);
        }
    }
}

/* What no assignment can be below: any prices, and what is then the least of each row. */
static double bound_of(const struct skew_assign *a)
{
    double sum = 0;

    for (uint32_t i = 0; i < a->n; i++) {
        double least = INFINITY;
        for (uint32_t j = 0; j < a->n; j++)
            least = fmin(least, a->cost[i * a->stride + j] - a->price[j]);
        sum += least + a->price[i];
    }
    return sum;
}

/* Too large for trying all: the prices prove the solution, and vectors of both widths find the same
 * one, whatever is left over in the last of them, ties and all. */
static void test_widths(void)
{
    static const uint32_t sizes[] = {7, 8, 9, 31, 64, 101};

    for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
        uint32_t n = sizes[z];
        struct skew_assign *a, *b = NULL;
        CHECK(skew_assign_create(&a, n) == 0 && skew_assign_create(&b, n) == 0, "no memory");
        b->wide = false;
        for (int turn = 0; turn < 24; turn++) {
            uint64_t limit = turn < 8 ? 4 : turn < 16 ? 1000 : UINT64_C(1) << 40;
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j < n; j++)
                    if (turn % 8 == 0 || a->column[i] == j)
                        a->cost[i * a->stride + j] = b->cost[i * b->stride + j] =
                            turn % 8 || random_below(4) == 0 ? 0 : -(double)random_below(limit);
            skew_assign_solve(a);
            skew_assign_solve(b);
            double found = 0;
            for (uint32_t i = 0; i < n; i++)
                found += a->cost[i * a->stride + a->column[i]];
            CHECK(found == bound_of(a), "n %u turn %d: %g, bound %g", n, turn, found, bound_of(a));
            CHECK(memcmp(a->column, b->column, n * sizeof *a->column) == 0,
                  "n %u turn %d: the widths differ", n, turn);
        }
        skew_assign_free(&a);
        skew_assign_free(&b);
    }
}

/* ---- the flow shop --------------------------------------------------------------------------- */

/* A second a byte; compute is 8 up to 4 bytes, then in proportion. */
static const struct skew_cost plain = {
    .wire = {.above = 1},
    .up = 1,
    .computes = true,
    .compute = {.base = 8, .knee = 4, .above = 2},
    .combine_ratio = 1,
};

static void test_flow_shop(void)
{
    /* 0 → 1 ten bytes, 1 → 0 three; both keep two: compute is 8 up to 4 tokens, then 2 a token. */
    const uint64_t bytes[4] = {2, 10, 3, 2};
    struct skew_schedule_options options = {0};
    struct skew_schedule *s;
    struct skew_demand d;
    struct skew_timing t;
    struct skew_bar bars[6];
    size_t count;

    CHECK(skew_demand_measure(&d, bytes, 2) == 0 && d.bound == 10 && d.total == 13 &&
              d.receive_max == 12 && d.local_max == 2 && d.receive_sum == 17,
          "demand");
    CHECK(fabs(d.imbalance - 20.0 / 13) < 1e-12, "imbalance %g", d.imbalance);
    CHECK(skew_schedule_make(&s, SKEW_SCHEDULE_GREEDY, bytes, 2, &options) == 0 &&
              s->phase_count == 1,
          "made");
    CHECK(skew_schedule_time(s, &d, &plain, 1, &t, bars, &count) == 0, "timed");
    CHECK(t.dispatch_s == 10 && t.combine_s == 10 && t.compute_s == 8 + 20, "%g %g", t.dispatch_s,
          t.compute_s);
    CHECK(t.sequential_s == 10 + 24 + 10 && t.ideal_s == 44, "%g %g", t.sequential_s, t.ideal_s);
    CHECK(t.makespan_s == 40 && t.compute_idle_s == 12, "%g",
          t.makespan_s); /* 10, then 20, then 10 */
    CHECK(count == 4 && bars[0].machine == 1 && bars[0].phase == -1 && bars[0].end_s == 8 &&
              bars[3].machine == 2 && bars[3].end_s == 40,
          "%zu bars", count);
    CHECK(skew_schedule_idle(s) == 1 - 13 / 20.0, "idle");
    skew_schedule_free(&s);
}

/* A knee, a price of the mean port, and nothing below 0. */
static void test_lines(void)
{
    const uint64_t bytes[4] = {0, 10, 4, 0};
    const struct skew_line falling = {.base = 1, .above = -1};
    struct skew_cost cost = {.wire = {.base = 5, .below = 1, .knee = 6, .above = 3},
                             .mean = 2,
                             .computes = true,
                             .compute = skew_cost_floor(8, 4),
                             .combine_ratio = 0.5};
    struct skew_schedule_options options = {0};
    struct skew_schedule *s;
    struct skew_demand d;
    struct skew_timing t;

    CHECK(skew_line_at(&cost.wire, 6) == 11 && skew_line_at(&cost.wire, 8) == 17, "knee");
    CHECK(skew_line_at(&falling, 3) == 0, "below 0");
    CHECK(skew_cost_compute(&cost, 4) == 8 && skew_cost_compute(&cost, 6) == 12 &&
              skew_cost_compute(&cost, 0) == 0,
          "floor");
    CHECK(skew_demand_measure(&d, bytes, 2) == 0, "demand");
    CHECK(skew_schedule_make(&s, SKEW_SCHEDULE_GREEDY, bytes, 2, &options) == 0, "made");
    CHECK(s->phase_count == 1 && s->phases[0].bytes == 14, "%zu phases", s->phase_count);
    CHECK(skew_schedule_time(s, &d, &cost, 1, &t, NULL, NULL) == 0, "timed");
    /* 6 + 12 for the busiest port, 2 × 7 for the mean one, 5 on top; half of the bytes back. */
    CHECK(t.dispatch_s == 37 && t.combine_s == 5 + 5 + 7, "%g %g", t.dispatch_s, t.combine_s);
    CHECK(t.compute_s == 20 && t.ideal_s == 32 + 12 + 20, "%g %g", t.compute_s, t.ideal_s);
    CHECK(skew_cost_transfer(&cost, s) == 32, "%g", skew_cost_transfer(&cost, s));
    CHECK(fabs(t.rest - t.makespan_s / (32 + 12)) < 1e-12, "%g", t.rest);
    skew_schedule_free(&s);
}

/* The best of all orders of the phases from `from` on. */
static double best_order(struct skew_phase *phases, size_t count, size_t from,
                         const struct skew_schedule *s, const struct skew_demand *d,
                         const struct skew_cost *cost)
{
    struct skew_timing t;
    double best = INFINITY;

    if (from == count) {
        CHECK(skew_schedule_time(s, d, cost, 1, &t, NULL, NULL) == 0, "timed");
        return t.natural_s;
    }
    for (size_t i = from; i < count; i++) {
        struct skew_phase swap = phases[from];
        phases[from] = phases[i];
        phases[i] = swap;
        best = fmin(best, best_order(phases, count, from + 1, s, d, cost));
        phases[i] = phases[from];
        phases[from] = swap;
    }
    return best;
}

/* With no compute at all there are two machines, and Johnson's order is the best of all. */
static void test_johnson(void)
{
    for (int trial = 0; trial < 30; trial++) {
        struct skew_phase phases[6] = {0};
        struct skew_schedule s = {.phases = phases, .phase_count = 6, .ranks = 2};
        struct skew_demand d = {.ranks = 2};
        struct skew_cost cost = plain;
        struct skew_timing t;
        cost.computes = false;
        cost.combine_ratio = 0.25 + (double)random_below(8) / 4;
        cost.wire.base = trial % 2 ? 5 : 0;
        for (int p = 0; p < 6; p++)
            phases[p].bottleneck = 1 + random_below(50);
        CHECK(skew_schedule_time(&s, &d, &cost, 1, &t, NULL, NULL) == 0, "timed");
        double best = best_order(phases, 6, 0, &s, &d, &cost);
        CHECK(fabs(t.johnson_s - best) < 1e-9, "trial %d: %g, best %g", trial, t.johnson_s, best);
        CHECK(t.makespan_s <= t.natural_s, "trial %d", trial);
    }
}

/* Two schedules of known cost: 7 phases of 10 bytes against 1 phase of 100, 30 s a phase. */
static void test_crossing(void)
{
    struct skew_phase many[7], once = {.bottleneck = 100};
    struct skew_schedule a = {.phases = many, .phase_count = 7, .ranks = 2, .bottlenecks = 70};
    struct skew_schedule b = {.phases = &once, .phase_count = 1, .ranks = 2, .bottlenecks = 100};
    const struct skew_schedule *both[] = {&a, &b};
    struct skew_demand d = {.ranks = 2, .bound = 70, .total = 140, .receive_sum = 140};
    struct skew_cost cost = {.wire = {.base = 30, .above = 1}, .up = 1, .combine_ratio = 0};
    struct skew_crossing *found;
    size_t count, pairs = 0;

    for (int p = 0; p < 7; p++)
        many[p] = (struct skew_phase){.bottleneck = 10};
    /* Combines last 30 s each: 70x + 210 + 30 overlapped, against 100x + 60: equal at x = 6. */
    CHECK(skew_schedule_crossings(both, 2, &d, &cost, 1.0 / 64, 64, &found, &count) == 0, "memory");
    for (size_t c = 0; c < count; c++) {
        if (found[c].below > 1 || found[c].above > 1)
            continue;
        pairs++;
        CHECK(found[c].below == 1 && found[c].above == 0 && found[c].fastest &&
                  fabs(found[c].scale - 6) < 1e-3,
              "at %g", found[c].scale);
    }
    CHECK(pairs == 1, "%zu crossings", pairs);
    free(found);
}

int main(void)
{
    test_random();
    test_awkward();
    test_refused();
    test_assignment();
    test_widths();
    test_flow_shop();
    test_lines();
    test_johnson();
    test_crossing();
    if (failures)
        fprintf(stderr, "%d failures\n", failures);
    return failures != 0;
}
