/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bounds of pairs to one clock for each unit. A spanning tree of pairs gives a first map; with
 * all times brought onto one axis by it, what is left is small and linear: weighted least squares
 * over the middles of all blocks of all pairs, by conjugate gradients, a few times over. The
 * residual is a shortest path: how far bounds of all pairs together let a unit be off.
 */
#include "clock_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PASSES      4
#define DRIFT_PRIOR 1e-4 /* sd: keeps the drift 0 where one moment is all there is */
#define NOWHERE     UINT32_MAX

/* ---- which units hang together --------------------------------------------------------------- */

static uint32_t root_of(uint32_t *parent, uint32_t u)
{
    while (parent[u] != u)
        u = parent[u] = parent[parent[u]];
    return u;
}

static bool bounded(const struct skew_clocks *c, const struct clock_pair *p)
{
    double a, b;
    return p && skew_clock_middle(p, c->blocks, &a, &b);
}

static int find_components(struct skew_clocks *c)
{
    uint32_t *parent = malloc(((size_t)c->unit_count + 1) * sizeof *parent);

    if (!parent)
        return -ENOMEM;
    for (uint32_t u = 0; u < c->unit_count; u++)
        parent[u] = u;
    for (uint32_t lo = 0; lo < c->unit_count; lo++)
        for (uint32_t hi = lo + 1; hi < c->unit_count; hi++)
            if (bounded(c, skew_clock_pair(c, lo, hi))) {
                uint32_t x = root_of(parent, lo), y = root_of(parent, hi);
                parent[x < y ? y : x] = x < y ? x : y;
            }
    for (uint32_t u = 0; u < c->unit_count; u++)
        c->units[u].component = root_of(parent, u);
    free(parent);
    return 0;
}

/* The reference: of the largest component, the unit of the lowest rank; in it the lowest rank. */
static int choose_reference(struct skew_clocks *c)
{
    uint32_t *size = calloc((size_t)c->unit_count + 1, sizeof *size), best = 0;

    if (!size)
        return -ENOMEM;
    for (size_t i = 0; i < c->count; i++)
        size[c->units[c->all[i].node].component]++;
    for (uint32_t u = 1; u < c->unit_count; u++)
        best = size[u] > size[best] ? u : best;
    free(size);
    c->reference_process = SIZE_MAX;
    for (size_t i = 0; i < c->count; i++) {
        size_t r = c->reference_process;
        if (c->units[c->all[i].node].component != best)
            continue;
        if (r == SIZE_MAX || (uint32_t)c->all[i].rank < (uint32_t)c->all[r].rank)
            c->reference_process = i; /* −1 becomes the largest */
    }
    c->reference = c->all[c->reference_process].node;
    return 0;
}

/* ---- a first map ----------------------------------------------------------------------------- */

/* Brings `to` onto the axis of `from` by their pair. Maps are those of the bounds until then: each
 * unit's own clock from its middle on. */
static bool bring(struct skew_clocks *c, uint32_t from, uint32_t to)
{
    const struct clock_unit *f = &c->units[from];
    struct clock_unit *t = &c->units[to];
    struct clock_pair *p = skew_clock_pair(c, from < to ? from : to, from < to ? to : from);
    double a, b;

    if (!p || !skew_clock_middle(p, c->blocks, &a, &b))
        return false;
    double scale = 1 + b, shift = a; /* what hi shows, of what lo shows */
    if (from < to) {
        scale = 1 / (1 + b);
        shift = -a / (1 + b);
    }
    t->a = f->a + (1 + f->b) * shift;
    t->b = (1 + f->b) * scale - 1;
    return true;
}

static int first_map(struct skew_clocks *c)
{
    uint32_t *queue = malloc(((size_t)c->unit_count + 1) * sizeof *queue), head = 0, tail = 0;
    bool *done = calloc((size_t)c->unit_count + 1, sizeof *done);

    if (queue && done) {
        done[c->reference] = true;
        queue[tail++] = c->reference;
        while (head < tail) {
            uint32_t from = queue[head++];
            for (uint32_t to = 0; to < c->unit_count; to++)
                if (!done[to] && bring(c, from, to)) {
                    done[to] = true;
                    queue[tail++] = to;
                }
        }
    }
    bool failed = !queue || !done;
    free(queue);
    free(done);
    return failed ? -ENOMEM : 0;
}

/* ---- least squares --------------------------------------------------------------------------- */

struct observation {
    uint32_t lo, hi;
    double x, y, weight; /* ε_hi(x) − ε_lo(x) = y; x in half spans */
};

struct system {
    struct observation *all;
    size_t count;
    uint32_t units, reference;
    double prior; /* weight of "no drift" */
};

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static size_t observe(const struct skew_clocks *c, uint32_t lo, uint32_t hi, double half_span,
                      struct observation *out)
{
    const struct clock_pair *p = skew_clock_pair(c, lo, hi);
    size_t n = 0;

    for (uint32_t k = 0; p && k < c->blocks; k++) {
        double y, at, weight;
        if (skew_clock_block(p, k, &y, &at, &weight))
            out[n++] = (struct observation){lo, hi, at / half_span, y, weight};
    }
    return n;
}

/* out = N v, of the normal equations; the reference stays 0. v: [units] offsets, [units] drifts. */
static void multiply(const struct system *s, const double *v, double *out)
{
    uint32_t n = s->units;

    for (uint32_t u = 0; u < n; u++) {
        out[u] = 0;
        out[n + u] = s->prior * v[n + u];
    }
    for (size_t i = 0; i < s->count; i++) {
        const struct observation *o = &s->all[i];
        double r = o->weight * (v[o->hi] - v[o->lo] + o->x * (v[n + o->hi] - v[n + o->lo]));
        out[o->hi] += r;
        out[o->lo] -= r;
        out[n + o->hi] += r * o->x;
        out[n + o->lo] -= r * o->x;
    }
    out[s->reference] = out[n + s->reference] = 0;
}

static void right_side(const struct system *s, double *out)
{
    uint32_t n = s->units;

    memset(out, 0, 2 * (size_t)n * sizeof *out);
    for (size_t i = 0; i < s->count; i++) {
        const struct observation *o = &s->all[i];
        out[o->hi] += o->weight * o->y;
        out[o->lo] -= o->weight * o->y;
        out[n + o->hi] += o->weight * o->y * o->x;
        out[n + o->lo] -= o->weight * o->y * o->x;
    }
    out[s->reference] = out[n + s->reference] = 0;
}

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Conjugate gradients (Hestenes and Stiefel 1952). v: [2 units], from 0. */
static int solve(const struct system *s, double *v)
{
    size_t n = 2 * (size_t)s->units;
    double *r = malloc(3 * n * sizeof *r), *d = r ? r + n : NULL, *nd = r ? r + 2 * n : NULL;

    if (!r)
        return -ENOMEM;
    memset(v, 0, n * sizeof *v);
    right_side(s, r);
    memcpy(d, r, n * sizeof *d);
    double norm = dot(r, r, n), enough = norm * 1e-20;
    for (size_t round = 0; round < 4 * n + 20 && norm > enough; round++) {
        multiply(s, d, nd);
        double curvature = dot(d, nd, n);
        if (!(curvature > 0))
            break;
        double step = norm / curvature;
        for (size_t i = 0; i < n; i++) {
            v[i] += step * d[i];
            r[i] -= step * nd[i];
        }
        double next = dot(r, r, n);
        for (size_t i = 0; i < n; i++)
            d[i] = r[i] + next / norm * d[i];
        norm = next;
    }
    free(r);
    return 0;
}

static bool tied(const struct skew_clocks *c, uint32_t u)
{
    return c->units[u].component == c->units[c->reference].component;
}

static void correct(struct skew_clocks *c, const double *v, double half_span)
{
    for (uint32_t u = 0; u < c->unit_count; u++) {
        struct clock_unit *unit = &c->units[u];
        double offset = v[u], drift = v[c->unit_count + u] / half_span;
        if (!tied(c, u))
            continue;
        unit->a -= offset + drift * unit->a;
        unit->b -= drift * (1 + unit->b);
    }
}

/* The median over pairs of how far the middle of each lies off the fit. */
static int find_spread(struct skew_clocks *c)
{
    double *off = malloc(((size_t)c->unit_count + 1) * sizeof *off);

    if (!off)
        return -ENOMEM;
    for (uint32_t u = 0; u < c->unit_count; u++) {
        size_t n = 0;
        for (uint32_t v = 0; v < c->unit_count; v++) {
            struct clock_pair *p = u == v ? NULL : skew_clock_pair(c, u < v ? u : v, u < v ? v : u);
            double a, b;
            if (p && skew_clock_middle(p, c->blocks, &a, &b))
                off[n++] = fabs(a);
        }
        qsort(off, n, sizeof *off, compare_doubles);
        c->units[u].spread = n ? off[n / 2] : 0;
    }
    free(off);
    return 0;
}

static int least_squares(struct skew_clocks *c, double half_span)
{
    size_t pairs = 0;
    struct system s = {.units = c->unit_count, .reference = c->reference};
    double *v = malloc(2 * (size_t)c->unit_count * sizeof *v), sum = 0;
    int result = -ENOMEM;

    for (size_t i = 0; i < (size_t)c->unit_count * c->unit_count; i++)
        pairs += c->pairs[i] != NULL;
    s.all = malloc((pairs * c->blocks + SKEW_CLOCK_BLOCKS) * sizeof *s.all);
    if (v && s.all) {
        for (uint32_t lo = 0; lo < c->unit_count; lo++)
            for (uint32_t hi = lo + 1; hi < c->unit_count; hi++)
                if (tied(c, lo) && tied(c, hi))
                    s.count += observe(c, lo, hi, half_span, s.all + s.count);
        for (size_t i = 0; i < s.count; i++)
            sum += s.all[i].weight;
        double sd = DRIFT_PRIOR * half_span;
        s.prior = fmin(1 / (sd * sd + 1), 1e-4 * sum / ((double)s.count + 1));
        result = solve(&s, v);
        if (result == 0)
            correct(c, v, half_span);
    }
    free(s.all);
    free(v);
    return result;
}

/* ---- residuals ------------------------------------------------------------------------------- */

/* Whether the fitted clocks keep to the bounds of this pair, or else any line does. */
static bool straight(const struct skew_clocks *c, const struct clock_pair *p)
{
    bool kept = true;

    for (uint32_t k = 0; k < c->blocks; k++)
        kept = kept && p->upper.bound[k] >= 0 && p->lower.bound[k] <= 0;
    for (uint32_t k = 0; !kept && k < c->blocks; k++)
        if (skew_clock_extreme(p, c->blocks, p->lower.bound_at[k], 1) < p->lower.bound[k] ||
            skew_clock_extreme(p, c->blocks, p->upper.bound_at[k], -1) < -p->upper.bound[k])
            return false;
    return true;
}

/* How far ε_hi − ε_lo can be up (sign 1) or down. Where no line fits, each block speaks for itself.
 */
static double reach(const struct skew_clocks *c, const struct clock_pair *p, double x, int sign,
                    bool line)
{
    double most = 0;

    if (line)
        return fmax(0, skew_clock_extreme(p, c->blocks, x, sign));
    for (uint32_t k = 0; k < c->blocks; k++)
        if (isfinite(sign > 0 ? p->upper.bound[k] : p->lower.bound[k]))
            most = fmax(most, sign > 0 ? p->upper.bound[k] : -p->lower.bound[k]);
    return most;
}

/* Distances from the reference, over edges of these lengths (Bellman and Ford); sign −1: downwards.
 */
static void relax(struct skew_clocks *c, const double *length, int sign, double *distance)
{
    uint32_t n = c->unit_count;
    bool changed = true;

    for (uint32_t u = 0; u < n; u++)
        distance[u] = u == c->reference ? 0 : INFINITY;
    for (uint32_t round = 0; round < n && changed; round++) {
        changed = false;
        for (uint32_t u = 0; u < n; u++)
            for (uint32_t v = 0; v < n && isfinite(distance[u]); v++) {
                size_t edge = sign > 0 ? (size_t)u * n + v : (size_t)v * n + u;
                if (distance[u] + length[edge] < distance[v]) {
                    distance[v] = distance[u] + length[edge];
                    changed = true;
                }
            }
    }
}

static void fill_lengths(struct skew_clocks *c, double x, double *length)
{
    uint32_t n = c->unit_count;

    for (size_t i = 0; i < (size_t)n * n; i++)
        length[i] = INFINITY;
    for (uint32_t lo = 0; lo < n; lo++)
        for (uint32_t hi = lo + 1; hi < n; hi++) {
            const struct clock_pair *p = skew_clock_pair(c, lo, hi);
            if (!p || !tied(c, lo) || !tied(c, hi))
                continue;
            bool line = straight(c, p);
            length[(size_t)lo * n + hi] = reach(c, p, x, 1, line);
            length[(size_t)hi * n + lo] = reach(c, p, x, -1, line);
            c->units[lo].bent_pairs += !line;
            c->units[hi].bent_pairs += !line;
            c->units[lo].pairs++;
            c->units[hi].pairs++;
        }
}

/* A bend of one clock shows in its pairs with straight ones too: bent is who bends in most. */
static int find_residuals(struct skew_clocks *c, double from, double to)
{
    uint32_t n = c->unit_count;
    double *length = malloc((size_t)n * n * sizeof *length);
    double *distance = malloc((size_t)n * sizeof *distance);

    for (int end = 0; length && distance && end < 2; end++) {
        fill_lengths(c, end ? to : from, length);
        for (int sign = -1; sign < 2; sign += 2) {
            relax(c, length, sign, distance);
            for (uint32_t u = 0; u < n; u++)
                if (tied(c, u))
                    c->units[u].residual = fmax(c->units[u].residual, distance[u]);
        }
    }
    for (uint32_t u = 0; u < n; u++)
        c->units[u].bent = c->units[u].bent_pairs * 2 >= c->units[u].pairs && c->units[u].pairs;
    bool failed = !length || !distance;
    free(length);
    free(distance);
    return failed ? -ENOMEM : 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void find_span(const struct skew_clocks *c, double *from, double *to)
{
    *from = INFINITY;
    *to = -INFINITY;
    for (uint32_t u = 0; u < c->unit_count; u++) {
        const struct clock_unit *unit = &c->units[u];
        if (!unit->seen || !tied(c, u))
            continue;
        *from = fmin(*from, skew_clock_map(unit, unit->first));
        *to = fmax(*to, skew_clock_map(unit, unit->last));
    }
    if (!(*from <= *to))
        *from = *to = 0;
}

int skew_clock_solve(struct skew_clocks *c)
{
    double from = 0, to = 0;
    int result = skew_clock_bounds(c, false);

    if (result == 0)
        result = find_components(c);
    if (result == 0)
        result = choose_reference(c);
    if (result == 0)
        result = first_map(c);
    for (int pass = 0; pass < PASSES && result == 0; pass++) {
        find_span(c, &from, &to);
        result = skew_clock_bounds(c, true);
        if (result == 0)
            result = least_squares(c, fmax(1e3, (to - from) / 2));
    }
    if (result == 0)
        result = skew_clock_bounds(c, true);
    find_span(c, &from, &to);
    if (result == 0)
        result = find_spread(c);
    if (result == 0)
        result = find_residuals(c, from, to);
    return result;
}
