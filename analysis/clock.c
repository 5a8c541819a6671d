/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks of processes from those of units: see clock.h. Reading is clock_read.c's, the fit
 * clock_bound.c's and clock_fit.c's.
 */
#include "clock_private.h"
#include "trace_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static void fill(struct skew_clocks *c, size_t i)
{
    struct skew_clock *clock = &c->all[i];
    const struct clock_unit *unit = &c->units[clock->node], *ref = &c->units[c->reference];

    if (clock->node == c->reference) {
        clock->state = i == c->reference_process ? SKEW_CLOCK_REFERENCE : SKEW_CLOCK_SHARED;
        clock->matches = unit->matches;
        return;
    }
    if (!unit->seen || unit->component != ref->component) {
        clock->state = unit->seen ? SKEW_CLOCK_NOT_TIED : SKEW_CLOCK_NO_TIMES;
        return;
    }
    clock->state = SKEW_CLOCK_FITTED;
    clock->at_ns = unit->at;
    clock->offset_ns = ref->at - unit->at + (int64_t)llround(unit->a);
    clock->drift_ppb = (int64_t)llround(unit->b * 1e9);
    /* What rounding the drift to whole ppb can do by the ends. */
    double rounding = fabs(unit->b * 1e9 - (double)clock->drift_ppb) * 1e-9 *
                      (double)(unit->last - unit->first) / 2;
    clock->residual_ns = (int64_t)ceil(unit->residual + rounding) + 1;
    clock->spread_ns = (int64_t)llround(unit->spread);
    clock->matches = unit->matches;
    clock->bent = unit->bent;
}

int skew_clocks_fit(struct skew_trace *const *traces, size_t count,
                    const struct skew_clock_options *options, struct skew_clocks **out,
                    struct skew_error *error)
{
    struct skew_clocks *c = calloc(1, sizeof *c);

    *out = NULL;
    if (!c) {
        skew_error_set(error, "out of memory");
        return -ENOMEM;
    }
    int result = skew_clock_read(c, traces, count, options, error);
    if (result == 0 && c->count > 0) {
        result = skew_clock_solve(c);
        if (result == -ENOMEM)
            skew_error_set(error, "out of memory while clocks are fitted");
        for (size_t i = 0; result == 0 && i < c->count; i++)
            fill(c, i);
    }
    if (result < 0)
        skew_clocks_free(&c);
    *out = c;
    return result;
}

void skew_clocks_free(struct skew_clocks **clocks)
{
    struct skew_clocks *c = *clocks;

    *clocks = NULL;
    if (!c)
        return;
    for (size_t i = 0; i < c->count; i++)
        free((void *)(uintptr_t)c->keys[i]);
    for (size_t i = 0; i < c->missing_count; i++)
        free((void *)(uintptr_t)c->missing[i].which);
    for (size_t i = 0; c->pairs && i < (size_t)c->unit_count * c->unit_count; i++)
        free(c->pairs[i]);
    free(c->missing);
    free(c->pairs);
    free(c->keys);
    free(c->all);
    free(c->units);
    free(c->rows);
    free(c->bits);
    free(c);
}

const struct skew_clock *skew_clocks_all(const struct skew_clocks *c, size_t *count)
{
    *count = c->count;
    return c->all;
}

const struct skew_clock *skew_clocks_of(const struct skew_clocks *c, uint32_t trace,
                                        int64_t process)
{
    size_t low = 0, high = c->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct skew_clock *m = &c->all[middle];
        if (m->trace < trace || (m->trace == trace && m->process < process))
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->count && c->all[low].trace == trace && c->all[low].process == process
               ? &c->all[low]
               : NULL;
}

const char *skew_clocks_reference(const struct skew_clocks *c)
{
    return c->count ? c->keys[c->reference_process] : NULL;
}

uint32_t skew_clocks_nodes(const struct skew_clocks *c)
{
    return c->unit_count;
}

const struct skew_clock_missing *skew_clocks_missing(const struct skew_clocks *c, size_t *count)
{
    *count = c->missing_count;
    return c->missing;
}

int64_t skew_clock_apply(const struct skew_clock *clock, int64_t ns)
{
    double drift = (double)clock->drift_ppb * 1e-9 * (double)(ns - clock->at_ns);
    return ns + clock->offset_ns + (int64_t)llround(drift);
}
