/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What exchanges say of the difference of two clocks. One that i began at s_i and j ended at e_j,
 * having received bytes from i, bounds it from above: δ ≤ e_j − s_i; and the way back from below.
 * Time is cut into blocks, and of each block the tightest bound of either side is kept: the lower
 * envelope of one-way delays (Paxson 1998; Moon, Skelly and Towsley 1999), from both sides.
 */
#include "clock_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static int pair_for(struct skew_clocks *c, uint32_t lo, uint32_t hi, struct clock_pair **out)
{
    struct clock_pair **place = &c->pairs[(size_t)lo * c->unit_count + hi];

    if (!*place) {
        *place = malloc(sizeof **place);
        if (!*place)
            return -ENOMEM;
        for (uint32_t k = 0; k < SKEW_CLOCK_BLOCKS; k++) {
            (*place)->upper[k] = INFINITY;
            (*place)->lower[k] = -INFINITY;
            (*place)->upper_at[k] = (*place)->lower_at[k] = 0;
        }
    }
    *out = *place;
    return 0;
}

static uint32_t block_of(const struct skew_clocks *c, const struct clock_unit *unit, int64_t ns)
{
    double span = (double)(unit->last - unit->first) + 1;
    uint32_t k = (uint32_t)((double)(ns - unit->first) / span * c->blocks);

    return k < c->blocks ? k : c->blocks - 1;
}

static bool received(const struct skew_clocks *c, const struct clock_row *row, uint32_t from)
{
    return row->senders == ALL_SENDERS || (c->bits[row->senders + from / 64] >> from % 64 & 1);
}

/* `to` received from `from`. */
static int bound(struct skew_clocks *c, const struct clock_row *from, const struct clock_row *to)
{
    const struct clock_unit *uf = &c->units[from->unit], *ut = &c->units[to->unit];
    double delay = skew_clock_map(ut, to->end) - skew_clock_map(uf, from->start);
    bool up = from->unit < to->unit;
    struct clock_pair *p;

    if (pair_for(c, up ? from->unit : to->unit, up ? to->unit : from->unit, &p) < 0)
        return -ENOMEM;
    if (up) {
        uint32_t k = block_of(c, uf, from->start);
        if (delay < p->upper[k]) {
            p->upper[k] = delay;
            p->upper_at[k] = skew_clock_map(uf, from->start);
        }
    } else {
        uint32_t k = block_of(c, ut, to->end);
        if (-delay > p->lower[k]) {
            p->lower[k] = -delay;
            p->lower_at[k] = skew_clock_map(ut, to->end);
        }
    }
    return 0;
}

static void count(struct clock_unit *unit, uintptr_t group)
{
    unit->matches += unit->counted != group;
    unit->counted = group;
}

/* The exchanges rows[0 … n − 1] met. A rank that is there twice (records were lost where sizes
 * are skipped) says that more than one exchange got together: nothing is taken from it. */
static int bound_group(struct skew_clocks *c, const struct clock_row *rows, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (rows[i].rank == rows[i - 1].rank)
            return 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            if (rows[i].unit == rows[j].unit || !received(c, &rows[j], rows[i].rank))
                continue;
            if (bound(c, &rows[i], &rows[j]) < 0)
                return -ENOMEM;
            count(&c->units[rows[i].unit], rows[i].group);
            count(&c->units[rows[j].unit], rows[i].group);
        }
    }
    return 0;
}

int skew_clock_bounds(struct skew_clocks *c)
{
    int result = 0;

    for (size_t i = 0; i < (size_t)c->unit_count * c->unit_count; i++) {
        free(c->pairs[i]);
        c->pairs[i] = NULL;
    }
    for (uint32_t u = 0; u < c->unit_count; u++) {
        c->units[u].matches = 0;
        c->units[u].counted = 0;
    }
    for (size_t i = 0, n; i < c->row_count && result == 0; i += n) {
        for (n = 1; i + n < c->row_count && c->rows[i + n].group == c->rows[i].group; n++)
            ;
        result = bound_group(c, &c->rows[i], n);
    }
    return result;
}

bool skew_clock_middle(const struct clock_pair *p, uint32_t blocks, double *a, double *b)
{
    double narrowest = INFINITY, w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;

    for (uint32_t k = 0; k < blocks; k++)
        narrowest = fmin(narrowest, p->upper[k] - p->lower[k]);
    if (!isfinite(narrowest))
        return false;
    for (uint32_t k = 0; k < blocks; k++) {
        double gap = p->upper[k] - p->lower[k];
        if (!isfinite(gap))
            continue;
        double x = (p->upper_at[k] + p->lower_at[k]) / 2, y = (p->upper[k] + p->lower[k]) / 2;
        double weight = 1 / (1 + pow((gap - narrowest) / (fabs(narrowest) + 1), 2));
        w += weight;
        wx += weight * x;
        wy += weight * y;
        wxx += weight * x * x;
        wxy += weight * x * y;
    }
    double spread = wxx - wx * wx / w;
    *b = spread > 1e6 * w ? (wxy - wx * wy / w) / spread : 0; /* more than 1 µs apart */
    if (fabs(*b) > SKEW_CLOCK_DRIFT_MAX)
        *b = copysign(SKEW_CLOCK_DRIFT_MAX, *b);
    *a = (wy - *b * wx) / w;
    return true;
}

/* A linear programme in two variables. Its optimum is met by one bound and the largest drift, by
 * two bounds of this side around x, or by one of either side and extrapolation: the least of these
 * is it (duality), and each of them holds. */
double skew_clock_extreme(const struct clock_pair *p, uint32_t blocks, double x, int sign)
{
    const double *top = sign > 0 ? p->upper : p->lower, *bottom = sign > 0 ? p->lower : p->upper;
    const double *top_at = sign > 0 ? p->upper_at : p->lower_at;
    const double *bottom_at = sign > 0 ? p->lower_at : p->upper_at;
    double least = INFINITY;

    for (uint32_t i = 0; i < blocks; i++) {
        if (!isfinite(top[i]))
            continue;
        double t = sign * top[i], d = x - top_at[i];
        least = fmin(least, t + SKEW_CLOCK_DRIFT_MAX * fabs(d));
        for (uint32_t j = 0; j < blocks; j++) {
            double e = bottom_at[j] - top_at[i]; /* the other way from x: the slope is bounded */
            if (isfinite(bottom[j]) && e * d < 0)
                least = fmin(least, t + (t - sign * bottom[j]) * fabs(d / e));
            e = top_at[j] - top_at[i]; /* on both sides of x: between them */
            if (j != i && isfinite(top[j]) && e * d > 0 && fabs(e) > fabs(d))
                least = fmin(least, t + (sign * top[j] - t) * d / e);
        }
    }
    return least;
}
