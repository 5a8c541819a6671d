/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks without a trace: the largest difference that bounds leave against a search over lines, and
 * times brought onto the axis. With traces: tests/synth/test_clocks.py.
 */
#include "clock_private.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

static uint64_t state = 1;

static double draw(double least, double most)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return least + (most - least) * (double)(state >> 40) / (double)(1u << 24);
}

/* For each slope, bounds say how high a line may lie at x; the highest of all that are possible. */
static double searched(const struct clock_pair *p, uint32_t blocks, double x, int sign)
{
    double best = -INFINITY;

    for (int i = -200000; i <= 200000; i++) {
        double b = SKEW_CLOCK_DRIFT_MAX * i / 200000, top = INFINITY, bottom = -INFINITY;
        for (uint32_t k = 0; k < blocks; k++) {
            top = fmin(top, p->upper.bound[k] + b * (x - p->upper.bound_at[k]));
            bottom = fmax(bottom, p->lower.bound[k] + b * (x - p->lower.bound_at[k]));
        }
        if (bottom <= top)
            best = fmax(best, sign > 0 ? top : -bottom);
    }
    return best;
}

static void test_extremes(void)
{
    for (int round = 0; round < 20; round++) {
        struct clock_pair p = {0};
        double slope = draw(-5e-5, 5e-5), offset = draw(-1e4, 1e4);
        for (uint32_t k = 0; k < 5; k++) { /* about a line that is possible */
            p.upper.bound_at[k] = draw(-1e9, 1e9);
            p.lower.bound_at[k] = draw(-1e9, 1e9);
            p.upper.bound[k] = offset + slope * p.upper.bound_at[k] + draw(0, 2e4);
            p.lower.bound[k] = offset + slope * p.lower.bound_at[k] - draw(0, 2e4);
        }
        if (round % 4 == 3)
            p.upper.bound[2] = INFINITY; /* nothing seen in this block */
        for (int at = -1; at <= 1; at++)
            for (int sign = -1; sign <= 1; sign += 2) {
                double x = at * 1.1e9, found = skew_clock_extreme(&p, 5, x, sign);
                double lines = searched(&p, 5, x, sign);
                assert(found >= lines - 1e-3 && found <= lines + 50); /* the search has steps */
                assert(found >= sign * (offset + slope * x));
            }
    }
}

static void test_middle(void)
{
    struct clock_pair p = {0};
    double a, b;

    assert(!skew_clock_middle(&p, 4, &a, &b));
    for (uint32_t k = 0; k < 4; k++) {
        double at = 1e8 * k;
        p.upper.weight[k] = p.lower.weight[k] = k == 1 ? 1e-9 : 1;
        p.upper.at[k] = p.lower.at[k] = p.upper.weight[k] * at;
        p.upper.value[k] = p.upper.weight[k] * (500 + 2e-5 * at + 30);
        p.lower.value[k] = p.lower.weight[k] * (500 + 2e-5 * at - (k == 1 ? 1e6 : 30));
    }
    assert(skew_clock_middle(&p, 4, &a, &b));
    assert(fabs(a - 500) < 1 && fabs(b - 2e-5) < 1e-8);
    p.lower = (struct clock_side){0}; /* one direction says nothing */
    assert(!skew_clock_middle(&p, 4, &a, &b));
}

static void test_apply(void)
{
    const struct skew_clock k = {.state = SKEW_CLOCK_FITTED,
                                 .at_ns = INT64_C(7000000000000),
                                 .offset_ns = -12345678,
                                 .drift_ppb = 50000};
    assert(skew_clock_tied(&k));
    assert(skew_clock_apply(&k, k.at_ns) == k.at_ns - 12345678);
    assert(skew_clock_apply(&k, k.at_ns + 2000000000) == k.at_ns + 2000000000 - 12345678 + 100000);
    assert(skew_clock_apply(&(struct skew_clock){.state = SKEW_CLOCK_SHARED}, 99) == 99);
    assert(!skew_clock_tied(&(struct skew_clock){.state = SKEW_CLOCK_NO_TIMES}));
}

int main(void)
{
    test_extremes();
    test_middle();
    test_apply();
    puts("clock: as expected");
    return 0;
}
