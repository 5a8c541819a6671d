/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grid of the observatory: runs into cells, cells that nobody has run, bands. See observe.h.
 */
#include "observe_private.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define CELLS_MAX 4096 /* beyond, missing cells are counted but not listed */

const char *skew_observe_band_name(enum skew_observe_band band)
{
    static const char *const names[] = {"", "resilient", "between", "concentrated"};
    return names[band];
}

const char *skew_observe_verdict_name(enum skew_observe_verdict verdict)
{
    static const char *const names[] = {"untested", "same", "equivalent", "different", "undecided"};
    return names[verdict];
}

int skew_observe_key(const struct skew_observe *o, const char *name)
{
    for (size_t k = 0; k < o->keys; k++)
        if (strcmp(o->key[k], name) == 0)
            return (int)k;
    return -1;
}

int skew_observe_value_compare(const char *a, const char *b)
{
    char *enda, *endb;
    long long x = strtoll(a, &enda, 10), y = strtoll(b, &endb, 10);

    if (*a && *b && *enda == '\0' && *endb == '\0' && x != y)
        return x < y ? -1 : 1;
    return strcmp(a, b);
}

/* ---- life ------------------------------------------------------------------------------------ */

int skew_observe_create(struct skew_observe **out, const struct skew_observe_options *options,
                        const char *const *keys, size_t count)
{
    struct skew_observe *o = calloc(1, sizeof *o);
    int result = o ? 0 : -ENOMEM;

    *out = NULL;
    if (count > SKEW_OBSERVE_KEYS_MAX)
        result = -EINVAL;
    for (size_t k = 0; k < count && result == 0; k++, o->keys++)
        if (!(o->key[k] = strdup(keys[k])))
            result = -ENOMEM;
    if (result < 0) {
        skew_observe_free(&o);
        return result;
    }
    o->options = *options;
    *out = o;
    return 0;
}

static void run_free(struct skew_observe_run *run)
{
    free(run->name);
    free(run->tokens_call);
    for (int k = 0; k < SKEW_OBSERVE_KEYS_MAX; k++)
        free(run->value[k]);
    for (int side = 0; side < SKEW_OBSERVE_SIDES; side++)
        for (int m = 0; m < SKEW_METRIC_COUNT; m++)
            free(run->series[side][m]);
}

void skew_observe_free(struct skew_observe **observe)
{
    struct skew_observe *o = *observe;

    *observe = NULL;
    if (!o)
        return;
    for (size_t i = 0; i < o->runs; i++)
        run_free(&o->run[i]);
    for (size_t k = 0; k < o->keys; k++)
        free(o->key[k]);
    free(o->run);
    free(o->cell);
    free(o->change);
    free(o);
}

int skew_observe_add(struct skew_observe *o, const char *name, const char *const *values,
                     const struct skew_routing *routing, uint32_t ranks, uint32_t topk,
                     bool derived)
{
    struct skew_observe_run *more = realloc(o->run, (o->runs + 1) * sizeof *more);
    struct skew_observe_run *run;

    if (!more)
        return -ENOMEM;
    o->run = more;
    run = &o->run[o->runs++];
    *run = (struct skew_observe_run){.derived = derived, .name = strdup(name)};
    if (!run->name)
        return -ENOMEM;
    for (size_t k = 0; k < o->keys; k++)
        if (!(run->value[k] = strdup(values[k] ? values[k] : "")))
            return -ENOMEM;
    return skew_observe_run_fill(run, routing, ranks, topk, &o->options);
}

/* ---- the grid -------------------------------------------------------------------------------- */

size_t skew_observe_axis(const struct skew_observe *o, size_t key)
{
    static const char *const together[][2] = {{"model", "mixer"}, {"data", "tokens"}};

    for (size_t i = 0; i < 2; i++)
        if (strcmp(o->key[key], together[i][0]) == 0 || strcmp(o->key[key], together[i][1]) == 0) {
            int a = skew_observe_key(o, together[i][0]), b = skew_observe_key(o, together[i][1]);
            return (size_t)(a < 0 ? b : b < 0 ? a : a < b ? a : b);
        }
    return key;
}

static int compare_on(const struct skew_observe *o, size_t axis, size_t a, size_t b)
{
    int order = 0;

    for (size_t k = 0; k < o->keys && order == 0; k++)
        if (skew_observe_axis(o, k) == axis)
            order = skew_observe_value_compare(o->run[a].value[k], o->run[b].value[k]);
    return order;
}

/* One run for each value on an axis, in order. */
static size_t distinct(const struct skew_observe *o, size_t axis, size_t *runs)
{
    size_t count = 0;

    for (size_t i = 0; i < o->runs; i++) {
        size_t at = 0;
        while (at < count && compare_on(o, axis, runs[at], i) < 0)
            at++;
        if (at < count && compare_on(o, axis, runs[at], i) == 0)
            continue;
        memmove(runs + at + 1, runs + at, (count - at) * sizeof *runs);
        runs[at] = i;
        count++;
    }
    return count;
}

/* Mean over runs, each one value: Student with runs − 1 degrees of freedom. */
static struct skew_estimate over_runs(const double *x, size_t n, double level)
{
    double mean = 0;

    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    if (!isfinite(mean))
        return skew_estimate_none("one of the runs has no value");
    return skew_mean_independent(mean, x, n, level);
}

/* An estimate of the runs of a cell, at this place in struct skew_observe_side. */
static struct skew_estimate estimate_of(const struct skew_observe *o, size_t cell, int side,
                                        size_t offset, double *values)
{
    size_t n = 0;

    for (size_t i = 0; i < o->runs; i++)
        if (o->run[i].cell == cell && o->run[i].counted) {
            const char *at = (const char *)&o->run[i].side[side] + offset;
            values[n++] = ((const struct skew_estimate *)(const void *)at)->value;
        }
    return over_runs(values, n, o->options.level);
}

#define PLACE(member) offsetof(struct skew_observe_side, member)

/* Several runs are a sample of runs: their own intervals are left behind. */
static void join_runs(struct skew_observe *o, size_t index, double *values)
{
    struct skew_observe_cell *c = &o->cell[index];

    c->between_runs = true;
    c->tokens = 0;
    for (int side = 0; side < SKEW_OBSERVE_SIDES; side++) {
        struct skew_observe_side *s = &c->side[side];
        size_t with = 0;
        double share = 1.0 / (double)c->usable;
        *s = (struct skew_observe_side){0};
        for (size_t i = 0; i < o->runs; i++) {
            const struct skew_observe_run *r = &o->run[i];
            if (r->cell != index || !r->counted)
                continue;
            with += r->side[side].items > 0;
            c->tokens += r->tokens * share / SKEW_OBSERVE_SIDES;
            s->items = r->side[side].items;
            s->cv2_call += r->side[side].cv2_call * share;
            s->cv2_chance += r->side[side].cv2_chance * share;
            for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
                s->metric[m].chance += r->side[side].metric[m].chance * share;
                s->metric[m].chance_p95 += r->side[side].metric[m].chance_p95 * share;
            }
        }
        if (with < c->usable) {
            s->items = 0;
            continue;
        }
        for (size_t m = 0; m < SKEW_METRIC_COUNT; m++) {
            size_t at = PLACE(metric) + m * sizeof s->metric[0];
            s->metric[m].observed = estimate_of(
                o, index, side, at + offsetof(struct skew_observe_metric, observed), values);
            s->metric[m].persistent = estimate_of(
                o, index, side, at + offsetof(struct skew_observe_metric, persistent), values);
        }
        s->cv2_beyond = estimate_of(o, index, side, PLACE(cv2_beyond), values);
        s->cv2_persistent = estimate_of(o, index, side, PLACE(cv2_persistent), values);
    }
}

/* Only where the whole interval lies inside; on the observed value, as the edges were published. */
static void assign_band(const struct skew_observe *o, struct skew_observe_cell *c)
{
    const struct skew_estimate *e = &c->side[SKEW_OBSERVE_EXPERT].metric[SKEW_METRIC_GINI].observed;
    double low = o->options.bands[0], high = o->options.bands[1];

    c->band = SKEW_BAND_NONE;
    if (!isfinite(e->low))
        c->band_why = e->why ? e->why : "there is no interval";
    else if (isnan(c->tokens))
        c->band_why = "tokens a call are not known (--topk)";
    else if (e->high < low)
        c->band = SKEW_BAND_LOW;
    else if (e->low > high)
        c->band = SKEW_BAND_HIGH;
    else if (e->low > low && e->high < high)
        c->band = SKEW_BAND_MIDDLE;
    else
        c->band_why = "the interval crosses an edge";
}

/*
 * A trace that is given twice, or seen over a number of ranks that another run really had, is no
 * second run: the same tokens would make intervals of no width.
 */
static void count_runs(struct skew_observe *o, size_t index)
{
    bool real = false;

    for (size_t i = 0; i < o->runs; i++)
        real |= o->run[i].cell == index && !o->run[i].why && !o->run[i].derived;
    for (size_t i = 0; i < o->runs; i++) {
        struct skew_observe_run *r = &o->run[i];
        if (r->cell != index)
            continue;
        r->counted = !r->why && !(real && r->derived);
        for (size_t j = 0; j < i && r->counted; j++)
            r->counted = !(o->run[j].cell == index && o->run[j].counted &&
                           skew_observe_same_tokens(&o->run[j], r));
    }
}

/* Bonferroni over the runs of a cell; NaN stays. */
static double adjusted(double p, size_t runs)
{
    return isnan(p) ? p : fmin(1, p * (double)runs);
}

static void fill_cell(struct skew_observe *o, size_t index, double *values)
{
    struct skew_observe_cell *c = &o->cell[index];

    c->p_beyond = c->p_persistent = NAN;
    count_runs(o, index);
    for (size_t i = 0; i < o->runs; i++) {
        const struct skew_observe_run *r = &o->run[i];
        if (r->cell != index)
            continue;
        if (c->runs++ == 0 || (r->counted && c->usable == 0))
            c->first = i;
        c->usable += r->counted;
        if (!r->counted)
            continue;
        c->p_beyond = fmin(c->p_beyond, r->p_beyond);
        c->p_persistent = fmin(c->p_persistent, r->p_persistent);
    }
    c->p_beyond = adjusted(c->p_beyond, c->usable);
    c->p_persistent = adjusted(c->p_persistent, c->usable);
    c->tokens = NAN;
    if (!c->usable) {
        c->why = c->runs ? o->run[c->first].why : "missing";
        return;
    }
    memcpy(c->side, o->run[c->first].side, sizeof c->side);
    c->tokens = o->run[c->first].tokens;
    if (c->usable > 1)
        join_runs(o, index, values);
    assign_band(o, c);
}

struct axes {
    size_t count, key[SKEW_OBSERVE_KEYS_MAX], sizes[SKEW_OBSERVE_KEYS_MAX];
    size_t *runs[SKEW_OBSERVE_KEYS_MAX]; /* [sizes] */
};

/* Appends the cell at `at`[axes]; `all`: also when nobody has run it. */
static void make_cell(struct skew_observe *o, const struct axes *a, const size_t *at, bool all)
{
    bool any = false;

    for (size_t i = 0; i < o->runs; i++) {
        bool here = true;
        for (size_t x = 0; x < a->count && here; x++)
            here = compare_on(o, a->key[x], a->runs[x][at[x]], i) == 0;
        if (here)
            o->run[i].cell = o->cells;
        any |= here;
    }
    o->missing += !any;
    if (!any && !all)
        return;
    struct skew_observe_cell *c = &o->cell[o->cells++];
    for (size_t k = 0; k < o->keys; k++)
        for (size_t x = 0; x < a->count; x++)
            if (skew_observe_axis(o, k) == a->key[x])
                c->value[k] = o->run[a->runs[x][at[x]]].value[k];
}

static int make_cells(struct skew_observe *o, const struct axes *a)
{
    size_t at[SKEW_OBSERVE_KEYS_MAX] = {0}, total = 1;

    for (size_t x = 0; x < a->count; x++)
        total = total > SIZE_MAX / (a->sizes[x] + 1) ? SIZE_MAX / 2 : total * a->sizes[x];
    bool all = total <= CELLS_MAX;
    o->cell = calloc((all ? total : o->runs) + 1, sizeof *o->cell);
    if (!o->cell)
        return -ENOMEM;
    for (size_t i = 0; i < total && (all || i < (size_t)1 << 24); i++) {
        make_cell(o, a, at, all);
        for (size_t x = a->count; x-- > 0 && ++at[x] == a->sizes[x];)
            at[x] = 0;
    }
    return 0;
}

/* Which cells are beyond chance: families of tests over all cells, as the router's over layers. */
static int judge_cells(struct skew_observe *o)
{
    double *p = malloc((o->cells + 1) * 2 * sizeof *p), *after = p + o->cells + 1;
    int result = p ? 0 : -ENOMEM;

    for (size_t i = 0; i < o->cells && result == 0; i++)
        p[i] = o->cell[i].p_beyond;
    if (result == 0)
        result = skew_holm(p, o->cells, after);
    for (size_t i = 0; i < o->cells && result == 0; i++) {
        o->cell[i].p_beyond = after[i];
        p[i] = o->cell[i].p_persistent;
    }
    if (result == 0)
        result = skew_holm(p, o->cells, after);
    for (size_t i = 0; i < o->cells && result == 0; i++) {
        struct skew_observe_cell *c = &o->cell[i];
        c->p_persistent = after[i];
        c->persists = c->p_persistent < 1 - o->options.level;
        c->beyond_chance = c->persists || c->p_beyond < 1 - o->options.level;
    }
    free(p);
    return result;
}

int skew_observe_finish(struct skew_observe *o)
{
    struct axes a = {0};
    double *values = malloc((o->runs + 1) * sizeof *values);
    int result = values ? 0 : -ENOMEM;

    for (size_t k = 0; k < o->keys && result == 0; k++) {
        if (skew_observe_axis(o, k) != k)
            continue;
        a.runs[a.count] = malloc((o->runs + 1) * sizeof **a.runs);
        if (!a.runs[a.count]) {
            result = -ENOMEM;
            break;
        }
        a.key[a.count] = k;
        a.sizes[a.count] = distinct(o, k, a.runs[a.count]);
        a.count++;
    }
    if (result == 0)
        result = make_cells(o, &a);
    for (size_t i = 0; i < o->cells && result == 0; i++)
        fill_cell(o, i, values);
    if (result == 0)
        result = judge_cells(o);
    if (result == 0)
        result = skew_observe_compare(o);
    for (size_t x = 0; x < a.count; x++)
        free(a.runs[x]);
    free(values);
    return result;
}
