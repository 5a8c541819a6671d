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
        *place = calloc(1, sizeof **place);
        if (!*place)
            return -ENOMEM;
        for (uint32_t k = 0; k < SKEW_CLOCK_BLOCKS; k++) {
            (*place)->upper.bound[k] = INFINITY;
            (*place)->lower.bound[k] = -INFINITY;
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

/* Any exchange also says something if all ranks leave it together: their ends then show δ itself.
 * This is trusted more the shorter the exchange, the less the sender waited in it, and, once clocks
 * are on one axis, the less the ends differ. */
static void note_end(struct clock_side *side, uint32_t k, double difference, double waited,
                     double least, bool mapped, double at)
{
    double share = SKEW_CLOCK_SCATTER_SHARE * least;
    double w = 1 / (SKEW_CLOCK_SCATTER * SKEW_CLOCK_SCATTER + share * share + waited * waited +
                    (mapped ? difference * difference : 0));

    side->weight[k] += w;
    side->value[k] += w * difference;
    side->at[k] += w * at;
}

/* `to` received from `from`; the quickest rank of all took `least`. */
static int bound(struct skew_clocks *c, const struct clock_row *from, const struct clock_row *to,
                 double least, bool mapped)
{
    const struct clock_unit *uf = &c->units[from->unit], *ut = &c->units[to->unit];
    double delay = skew_clock_map(ut, to->end) - skew_clock_map(uf, from->start);
    double ends = skew_clock_map(ut, to->end) - skew_clock_map(uf, from->end);
    double waited = (double)from->duration - least;
    int sign = from->unit < to->unit ? 1 : -1;
    struct clock_pair *p;

    if (pair_for(c, sign > 0 ? from->unit : to->unit, sign > 0 ? to->unit : from->unit, &p) < 0)
        return -ENOMEM;
    struct clock_side *side = sign > 0 ? &p->upper : &p->lower;
    const struct clock_unit *lo = sign > 0 ? uf : ut;
    int64_t ns = sign > 0 ? from->start : to->end;
    uint32_t k = block_of(c, lo, ns);
    double at = skew_clock_map(lo, ns);
    if (delay < sign * side->bound[k]) {
        side->bound[k] = sign * delay;
        side->bound_at[k] = at;
    }
    note_end(side, k, sign * ends, waited, least, mapped, at);
    return 0;
}

static void count(struct clock_unit *unit, uintptr_t group)
{
    unit->matches += unit->counted != group;
    unit->counted = group;
}

/* The exchanges rows[0 … n − 1] met. A rank that is there twice (records were lost where sizes
 * are skipped) says that more than one exchange got together: nothing is taken from it. */
static int bound_group(struct skew_clocks *c, const struct clock_row *rows, size_t n, bool mapped)
{
    int64_t least = rows[0].duration;

    for (size_t i = 1; i < n; i++) {
        if (rows[i].rank == rows[i - 1].rank)
            return 0;
        least = rows[i].duration < least ? rows[i].duration : least;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            if (rows[i].unit == rows[j].unit || !received(c, &rows[j], rows[i].rank))
                continue;
            if (bound(c, &rows[i], &rows[j], (double)least, mapped) < 0)
                return -ENOMEM;
            count(&c->units[rows[i].unit], rows[i].group);
            count(&c->units[rows[j].unit], rows[i].group);
        }
    }
    return 0;
}

int skew_clock_bounds(struct skew_clocks *c, bool mapped)
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
        result = bound_group(c, &c->rows[i], n, mapped);
    }
    return result;
}

bool skew_clock_block(const struct clock_pair *p, uint32_t k, double *middle, double *at,
                      double *weight)
{
    const struct clock_side *u = &p->upper, *l = &p->lower;

    if (!(u->weight[k] > 0) || !(l->weight[k] > 0))
        return false;
    *middle = (u->value[k] / u->weight[k] + l->value[k] / l->weight[k]) / 2;
    *at = (u->at[k] / u->weight[k] + l->at[k] / l->weight[k]) / 2;
    *weight = 1 / (1 / u->weight[k] + 1 / l->weight[k]);
    return true;
}

bool skew_clock_middle(const struct clock_pair *p, uint32_t blocks, double *a, double *b)
{
    double x, y, weight, w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;

    for (uint32_t k = 0; k < blocks; k++) {
        if (!skew_clock_block(p, k, &y, &x, &weight))
            continue;
        w += weight;
        wx += weight * x;
        wy += weight * y;
        wxx += weight * x * x;
        wxy += weight * x * y;
    }
    if (!(w > 0))
        return false;
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
    const struct clock_side *near = sign > 0 ? &p->upper : &p->lower,
                            *far = sign > 0 ? &p->lower : &p->upper;
    const double *top = near->bound, *top_at = near->bound_at;
    const double *bottom = far->bound, *bottom_at = far->bound_at;
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
