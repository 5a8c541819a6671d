/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changes between cells of the observatory that differ in one thing: EP degree (an equivalence
 * test), mock against real tokens (a ratio), batch size (before and after chance is taken out).
 */
#include "observe_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char same_tokens_why[] = "the same tokens stand behind both";

/* Equal in all keys but `except` and `also` (−1: none). */
static bool alike(const struct skew_observe *o, const struct skew_observe_cell *a,
                  const struct skew_observe_cell *b, int except, int also)
{
    for (size_t k = 0; k < o->keys; k++)
        if ((int)k != except && (int)k != also && strcmp(a->value[k], b->value[k]) != 0)
            return false;
    return true;
}

/* The run behind a cell of one run, with its series; else NULL. */
static const struct skew_observe_run *single(const struct skew_observe *o, size_t cell)
{
    const struct skew_observe_cell *c = &o->cell[cell];
    const struct skew_observe_run *r = &o->run[c->first];

    return c->usable == 1 && r->aligned ? r : NULL;
}

bool skew_observe_same_tokens(const struct skew_observe_run *a, const struct skew_observe_run *b)
{
    if (!a || !b || !a->aligned || !b->aligned || a->rows != b->rows || a->experts != b->experts)
        return false;
    for (size_t t = 0; t < a->rows; t++) {
        if (fabs(a->tokens_call[t] - b->tokens_call[t]) > 1e-9 * a->tokens_call[t])
            return false;
        for (int m = 0; m < SKEW_METRIC_COUNT; m++)
            if (fabs(a->series[SKEW_OBSERVE_EXPERT][m][t] - b->series[SKEW_OBSERVE_EXPERT][m][t]) >
                1e-12)
                return false;
    }
    return true;
}

/* ---- estimates of two cells ------------------------------------------------------------------ */

/* to − factor × from. */
static struct skew_estimate beyond(const struct skew_estimate *to, struct skew_estimate from,
                                   double factor, double level)
{
    from.value *= factor;
    from.se *= factor;
    return skew_difference(to, &from, level);
}

/*
 * Paired series: the ratio of their means, whose error is the mean of (y − ratio x) / mean x, and
 * the two differences of the equivalence test.
 */
static int paired(struct skew_observe_change *c, const double *x, const double *y, size_t n,
                  double margin, double level, struct skew_estimate edge[2])
{
    double *d = malloc((n + 1) * sizeof *d), sx = 0, sy = 0;

    if (!d)
        return -ENOMEM;
    for (size_t t = 0; t < n; t++) {
        sx += x[t] / (double)n;
        sy += y[t] / (double)n;
    }
    for (size_t t = 0; t < n; t++)
        d[t] = (y[t] - sy / sx * x[t]) / sx;
    c->ratio = skew_mean_around(sy / sx, d, n, level);
    for (int side = 0; side < 2; side++) {
        for (size_t t = 0; t < n; t++)
            d[t] = y[t] - (side ? 1 + margin : 1 - margin) * x[t];
        edge[side] = skew_mean(d, n, level);
    }
    free(d);
    return 0;
}

/* Schuirmann's two one-sided tests on a ratio: to − (1 − m) from is above 0, to − (1 + m) from
 * below. */
static double equivalence(const struct skew_estimate edge[2])
{
    double low = skew_estimate_above(&edge[0], 0), high = skew_estimate_above(&edge[1], 0);

    return isnan(low) || isnan(high) ? NAN : fmax(low, 1 - high);
}

static int ratio_of(struct skew_observe *o, struct skew_observe_change *c)
{
    const struct skew_observe_cell *from = &o->cell[c->from], *to = &o->cell[c->to];
    const struct skew_observe_metric *a = &from->side[c->side].metric[c->metric];
    const struct skew_observe_metric *b = &to->side[c->side].metric[c->metric];
    double level = o->options.level, margin = o->options.margin;
    const struct skew_observe_run *x = single(o, c->from), *y = single(o, c->to);
    struct skew_estimate edge[2];
    int result = 0;

    c->same_tokens = skew_observe_same_tokens(x, y);
    if (c->same_tokens) {
        result = paired(c, x->series[c->side][c->metric], y->series[c->side][c->metric], x->rows,
                        margin, level, edge);
        c->persistent_ratio = skew_estimate_none(same_tokens_why);
        c->persistent_ratio.value = b->persistent.value / a->persistent.value;
    } else {
        c->ratio = skew_ratio(&b->observed, &a->observed, level);
        edge[0] = beyond(&b->observed, a->observed, 1 - margin, level);
        edge[1] = beyond(&b->observed, a->observed, 1 + margin, level);
        c->persistent_ratio = skew_ratio(&b->persistent, &a->persistent, level);
    }
    c->chance_ratio = b->chance / a->chance;
    c->p = c->kind == SKEW_OBSERVE_EP && result == 0 ? equivalence(edge) : NAN;
    c->p_adjusted = NAN;
    return result;
}

static void batch_of(const struct skew_observe *o, struct skew_observe_change *c)
{
    const struct skew_observe_cell *from = &o->cell[c->from], *to = &o->cell[c->to];
    const struct skew_observe_side *a = &from->side[c->side], *b = &to->side[c->side];
    double tokens = log(to->tokens / from->tokens);

    c->exponent = c->ratio;
    c->exponent.se = NAN;
    if (!(fabs(tokens) > 0.01)) { /* NaN, too */
        c->exponent = skew_estimate_none("tokens a call do not differ, or are not known");
    } else {
        double low = log(c->ratio.low) / tokens, high = log(c->ratio.high) / tokens;
        c->exponent.value = log(c->ratio.value) / tokens;
        c->exponent.low = fmin(low, high); /* a label's order need not be that of tokens */
        c->exponent.high = fmax(low, high);
    }
    struct skew_estimate before = a->cv2_beyond, after = b->cv2_beyond;
    /* What is beyond chance is the observed less a constant. */
    before.value += a->cv2_chance;
    after.value += b->cv2_chance;
    c->cv2_change = skew_difference(&after, &before, o->options.level);
    c->beyond_change = skew_difference(&b->cv2_beyond, &a->cv2_beyond, o->options.level);
    c->persistent_change =
        skew_difference(&b->cv2_persistent, &a->cv2_persistent, o->options.level);
}

/* ---- pairs of cells -------------------------------------------------------------------------- */

static int put(struct skew_observe *o, enum skew_observe_kind kind, size_t from, size_t to)
{
    static const enum skew_metric metrics[] = {SKEW_METRIC_GINI, SKEW_METRIC_MAX_MEAN};
    int sides = kind == SKEW_OBSERVE_EP ? SKEW_OBSERVE_SIDES : 1;
    int result = 0;

    for (int side = 0; side < sides; side++)
        for (size_t m = 0; m < 2 && result == 0; m++) {
            if (!o->cell[from].side[side].items || !o->cell[to].side[side].items)
                continue;
            struct skew_observe_change *more = realloc(o->change, (o->changes + 1) * sizeof *more);
            if (!more)
                return -ENOMEM;
            o->change = more;
            struct skew_observe_change *c = &o->change[o->changes++];
            *c = (struct skew_observe_change){
                .kind = kind, .from = from, .to = to, .side = side, .metric = metrics[m]};
            result = ratio_of(o, c);
            if (result == 0 && kind == SKEW_OBSERVE_BATCH)
                batch_of(o, c);
        }
    return result;
}

/* From the cell with the least value of `key` among those alike to each of the others. */
static int scan(struct skew_observe *o, enum skew_observe_kind kind, int key)
{
    int result = 0;

    for (size_t i = 0; i < o->cells && key >= 0 && result == 0; i++) {
        size_t least = i;
        if (!o->cell[i].usable || !*o->cell[i].value[key])
            continue;
        for (size_t j = 0; j < o->cells; j++)
            if (o->cell[j].usable && *o->cell[j].value[key] &&
                alike(o, &o->cell[i], &o->cell[j], key, -1) &&
                skew_observe_value_compare(o->cell[j].value[key], o->cell[least].value[key]) < 0)
                least = j;
        if (least != i)
            result = put(o, kind, least, i);
    }
    return result;
}

static int mock_scan(struct skew_observe *o)
{
    int key = skew_observe_key(o, "tokens"), data = skew_observe_key(o, "data"), result = 0;

    for (size_t i = 0; i < o->cells && key >= 0; i++)
        for (size_t j = 0; j < o->cells && result == 0; j++)
            if (o->cell[i].usable && o->cell[j].usable &&
                strcmp(o->cell[i].value[key], "real") == 0 &&
                strcmp(o->cell[j].value[key], "mock") == 0 &&
                alike(o, &o->cell[i], &o->cell[j], key, data))
                result = put(o, SKEW_OBSERVE_MOCK, i, j);
    return result;
}

/* ---- verdicts -------------------------------------------------------------------------------- */

static void judge(const struct skew_observe *o, struct skew_observe_change *c)
{
    bool ep = c->kind == SKEW_OBSERVE_EP;
    double margin = ep ? o->options.margin : 0;
    bool known = isfinite(c->ratio.low);

    c->verdict = SKEW_OBSERVE_UNDECIDED;
    if (ep && c->same_tokens && c->side == SKEW_OBSERVE_EXPERT) {
        c->verdict = SKEW_OBSERVE_SAME;
        c->why = "per-expert counts do not depend on where experts are: the same tokens give the "
                 "same";
    } else if (!known) {
        c->verdict = SKEW_OBSERVE_UNTESTED;
        c->why = c->ratio.why ? c->ratio.why : "there is no interval";
    } else if (c->ratio.low > 1 + margin || c->ratio.high < 1 - margin) {
        c->verdict = SKEW_OBSERVE_DIFFERENT;
    } else if (ep && c->p_adjusted < 1 - o->options.level) {
        c->verdict = SKEW_OBSERVE_EQUIVALENT;
    }
}

int skew_observe_compare(struct skew_observe *o)
{
    int result = scan(o, SKEW_OBSERVE_EP, skew_observe_key(o, "ep"));

    if (result == 0)
        result = mock_scan(o);
    if (result == 0)
        result = scan(o, SKEW_OBSERVE_BATCH, skew_observe_key(o, "batch"));
    double *p = malloc((o->changes + 1) * 2 * sizeof *p);
    if (result == 0 && !p)
        result = -ENOMEM;
    for (size_t i = 0; i < o->changes && result == 0; i++) {
        const struct skew_observe_change *c = &o->change[i];
        bool trivial = c->same_tokens && c->side == SKEW_OBSERVE_EXPERT;
        p[i] = trivial ? NAN : c->p; /* what holds by construction is no test */
    }
    if (result == 0)
        result = skew_holm(p, o->changes, p + o->changes + 1);
    for (size_t i = 0; i < o->changes && result == 0; i++) {
        o->change[i].p_adjusted = p[o->changes + 1 + i];
        judge(o, &o->change[i]);
    }
    free(p);
    return result;
}
