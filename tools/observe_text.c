/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of `skewscope observe`: the grid, a metric after the other with experts and ranks side
 * by side, then what changes between its cells, then what it cannot say. Lines stay within 140
 * columns where names do: an interval is shown as the wider of its halves, and JSON and CSV have
 * its ends.
 */
#include "observe_output.h"
#include "term.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define N(value, digits) skew_number_text((char[SKEW_ESTIMATE_TEXT]){0}, value, digits)
#define E(estimate, digits)                                                                        \
    estimate_text((char[SKEW_ESTIMATE_TEXT]){0}, sizeof(char[SKEW_ESTIMATE_TEXT]), estimate, digits)

#define MISSING_SHOWN 12

/* "1.234 +-0.012", the half that is wider; without it where there is no interval. */
static const char *estimate_text(char *text, size_t size, const struct skew_estimate *e, int digits)
{
    double half = fmax(e->high - e->value, e->value - e->low);

    if (!isfinite(e->value))
        snprintf(text, size, "-");
    else if (!isfinite(e->low) || !isfinite(e->high))
        snprintf(text, size, "%.*f", digits, e->value);
    else
        snprintf(text, size, "%.*f +-%.*f", digits, e->value, digits, half);
    return text;
}

/* ---- names of cells -------------------------------------------------------------------------- */

/* Whether a key tells nothing that the keys of its axis before it do not tell: it then is in no
 * name here. */
static bool key_follows(const struct skew_observe *o, size_t key)
{
    bool alone = true;

    for (size_t i = 0; i < o->runs && alone; i++)
        alone = strcmp(o->run[i].value[key], o->run[0].value[key]) == 0;
    if (alone)
        return true;
    for (size_t k = 0; k < key; k++) {
        bool told = skew_observe_axis(o, k) == skew_observe_axis(o, key);
        for (size_t i = 0; i < o->runs && told; i++)
            for (size_t j = 0; j < i && told; j++)
                told = strcmp(o->run[i].value[k], o->run[j].value[k]) != 0 ||
                       strcmp(o->run[i].value[key], o->run[j].value[key]) == 0;
        if (told)
            return true;
    }
    return false;
}

/* The names of cells: which keys are in them, and how wide they are. */
struct naming {
    bool shown[SKEW_OBSERVE_KEYS_MAX];
    int width;
};

static char *cell_name(char text[SKEW_CELL_TEXT], const struct skew_observe *o,
                       const struct naming *n, size_t cell, int without, int also)
{
    size_t at = 0;

    *text = '\0';
    for (size_t k = 0; k < o->keys && at < SKEW_CELL_TEXT - 1; k++)
        if (n->shown[k] && (int)k != without && (int)k != also)
            at += (size_t)snprintf(text + at, SKEW_CELL_TEXT - at, "%s%s", at ? "/" : "",
                                   *o->cell[cell].value[k] ? o->cell[cell].value[k] : "-");
    skew_term_clean(text);
    return text;
}

static struct naming naming_of(const struct skew_observe *o)
{
    struct naming n = {.width = 4};
    char name[SKEW_CELL_TEXT];
    bool any = false;

    for (size_t k = 0; k < o->keys; k++)
        any |= n.shown[k] = !key_follows(o, k);
    if (!any) /* a single cell is called by all its keys */
        memset(n.shown, true, sizeof n.shown);
    for (size_t i = 0; i < o->cells; i++) {
        int width = (int)strlen(cell_name(name, o, &n, i, -1, -1));
        n.width = o->cell[i].runs && width > n.width ? width : n.width;
    }
    return n;
}

static void print_name(const struct skew_observe *o, const struct naming *n, size_t cell)
{
    char name[SKEW_CELL_TEXT];
    printf("%-*s", n->width, cell_name(name, o, n, cell, -1, -1));
}

/* ---- cells ----------------------------------------------------------------------------------- */

static const char *verdict(const struct skew_observe_cell *c)
{
    if (isnan(c->p_beyond) && isnan(c->p_persistent))
        return "not tested";
    if (!c->beyond_chance)
        return "nothing beyond chance";
    if (c->persists)
        return "persists";
    return isnan(c->p_persistent) ? "beyond chance; persists or not cannot be told"
                                  : "beyond chance; comes and goes";
}

/* Cells that nobody has run, those that differ in the last key alone in one line. */
static void print_missing(const struct skew_observe *o, const struct naming *n)
{
    int last = (int)o->keys - 1;
    size_t lines = 0, shown = 0;
    char name[SKEW_CELL_TEXT], before[SKEW_CELL_TEXT] = "";

    while (last > 0 && !n->shown[last])
        last--;
    for (size_t i = 0; i < o->cells; i++) {
        const char *value = *o->cell[i].value[last] ? o->cell[i].value[last] : "-";
        char clean[SKEW_CELL_TEXT];
        if (o->cell[i].runs)
            continue;
        snprintf(clean, sizeof clean, "%s", value);
        skew_term_clean(clean);
        bool same = strcmp(cell_name(name, o, n, i, last, -1), before) == 0 && lines > 0;
        if (!same && lines++ == MISSING_SHOWN)
            break;
        shown++;
        if (same)
            printf(", %s", clean);
        else if (*name)
            printf("%s%-*s  missing: %s %s", lines > 1 ? "\n" : "", n->width, name, o->key[last],
                   clean);
        else
            printf("%-*s  missing", n->width, clean);
        memcpy(before, name, sizeof before);
    }
    if (lines)
        printf("\n");
    if (o->missing > shown)
        printf("and %zu more cells are missing%s\n", o->missing - shown,
               o->cells > o->runs ? " (--json lists them)" : "");
}

static void print_cells(const struct skew_observe *o, const struct naming *n)
{
    printf("\n%-*s  %4s %5s %6s %6s %8s %6s %5s  %s\n", n->width, "cell", "runs", "ranks", "layers",
           "calls", "tokens", "experts", "n_eff", "verdict");
    for (size_t i = 0; i < o->cells; i++) {
        const struct skew_observe_cell *c = &o->cell[i];
        const struct skew_observe_run *r = &o->run[c->first];
        if (!c->runs)
            continue;
        print_name(o, n, i);
        if (!c->usable) {
            printf("  %s\n", c->why);
            continue;
        }
        printf("  %4zu %5s %6zu %6zu %8s %7u %5s  %s%s\n", c->usable,
               c->side[SKEW_OBSERVE_RANK].items ? N(c->side[SKEW_OBSERVE_RANK].items, 0) : "-",
               r->layers, r->rows, N(c->tokens, 0), c->side[SKEW_OBSERVE_EXPERT].items,
               N(c->side[SKEW_OBSERVE_EXPERT].metric[SKEW_METRIC_GINI].observed.effective, 0),
               verdict(c), skew_observe_mixed(o, c) ? "; LAYERS MIXED" : "");
    }
    print_missing(o, n);
}

/* One metric of all cells: experts and ranks side by side. */
static void print_metric(const struct skew_observe *o, const struct naming *n, enum skew_metric m)
{
    static const char *const names[] = {"Gini", "max/mean", "CV", "Normalised entropy"};
    static const char head[] = "  %-13s %6s %-13s";

    printf("\n%s: mean over layers and calls; chance: uniform routing of as many tokens; persists: "
           "of the long-run mean loads\n%-*s ",
           names[m], n->width, "");
    printf(head, "experts", "chance", "persists");
    printf(head, "ranks", "chance", "persists");
    printf("\n");
    for (size_t i = 0; i < o->cells; i++) {
        const struct skew_observe_cell *c = &o->cell[i];
        if (!c->usable)
            continue;
        print_name(o, n, i);
        printf(" ");
        for (int side = 0; side < SKEW_OBSERVE_SIDES; side++) {
            const struct skew_observe_metric *x = &c->side[side].metric[m];
            if (c->side[side].items)
                printf(head, E(&x->observed, 3), N(x->chance, 3), E(&x->persistent, 3));
            else
                printf("  no ranks are known, or they do not divide the experts");
        }
        printf("\n");
    }
}

static void print_bands(const struct skew_observe *o, const struct naming *n)
{
    bool above = false;

    printf("\nBands of the observed expert Gini, chance included: below %.3g resilient, above %.3g "
           "concentrated, between. Assigned only\nwhere the interval lies inside. The published "
           "edges (0.15, 0.24) are of an unknown number of tokens: they say nothing\nabout "
           "corrected values, which get no band.\n",
           o->options.bands[0], o->options.bands[1]);
    for (size_t i = 0; i < o->cells; i++) {
        const struct skew_observe_cell *c = &o->cell[i];
        const struct skew_observe_metric *m = &c->side[0].metric[SKEW_METRIC_GINI];
        if (!c->usable)
            continue;
        bool over = m->chance > o->options.bands[0];
        print_name(o, n, i);
        printf("  %-13s  N %8s  chance %6s%c  %s%s\n", E(&m->observed, 3), N(c->tokens, 0),
               N(m->chance, 3), over ? '*' : ' ',
               c->band ? skew_observe_band_name(c->band) : "none: ", c->band ? "" : c->band_why);
        above |= over;
    }
    if (above)
        printf("* chance alone is above the lower edge: the band tells of the number of tokens\n");
}

/* ---- changes --------------------------------------------------------------------------------- */

/* The cell's name without what changes, then what changes: "gpt-oss-20b/all  ep 4 -> 8"; of real
 * and mock tokens, what they are of. */
static void print_pair(const struct skew_observe *o, const struct naming *n,
                       const struct skew_observe_change *c)
{
    static const char *const keys[] = {"ep", "tokens", "batch"};
    char from[SKEW_CELL_TEXT], what[2 * SKEW_CELL_TEXT + 32];
    int key = skew_observe_key(o, keys[c->kind]);
    int data = c->kind == SKEW_OBSERVE_MOCK ? skew_observe_key(o, "data") : -1;
    const char *const *a = o->cell[c->from].value, *const *b = o->cell[c->to].value;

    if (data >= 0)
        snprintf(what, sizeof what, "%.60s -> %.60s", *a[data] ? a[data] : "-",
                 *b[data] ? b[data] : "-");
    else
        snprintf(what, sizeof what, "%s %.60s -> %.60s", keys[c->kind], a[key], b[key]);
    skew_term_clean(what);
    printf("%-*s  %-*s", n->width, cell_name(from, o, n, c->from, key, data),
           c->kind == SKEW_OBSERVE_MOCK ? 20 : 16, what);
}

/* The change of the same pair and metric on the rank side; NULL: there is none. */
static const struct skew_observe_change *ranks_of(const struct skew_observe *o,
                                                  const struct skew_observe_change *c)
{
    for (size_t i = 0; i < o->changes; i++) {
        const struct skew_observe_change *r = &o->change[i];
        if (r->kind == c->kind && r->from == c->from && r->to == c->to && r->metric == c->metric &&
            r->side == SKEW_OBSERVE_RANK)
            return r;
    }
    return NULL;
}

static void print_ep(const struct skew_observe *o, const struct naming *n)
{
    static const char *const metrics[] = {"gini", "max/mean"};

    printf(
        "\nEP scan: is the change at most %.3g %%? p is that of \"no\" (two one-sided tests, Holm "
        "over the scan): equivalent below %.3g.\nPer-expert counts do not depend on EP at equal "
        "tokens (\"same\": no finding); ranks are what an exchange waits for.\n%-*s  %-16s %-8s  "
        "%-15s %5s %-10s  %-15s %6s %5s\n",
        100 * o->options.margin, 1 - o->options.level, n->width, "", "", "", "experts: ratio", "p",
        "", "ranks: ratio", "chance", "p");
    for (size_t i = 0; i < o->changes; i++) {
        const struct skew_observe_change *c = &o->change[i], *r = ranks_of(o, c);
        if (c->kind != SKEW_OBSERVE_EP || c->side != SKEW_OBSERVE_EXPERT)
            continue;
        print_pair(o, n, c);
        printf(" %-8s  %-15s %5s %-10s", metrics[c->metric != SKEW_METRIC_GINI], E(&c->ratio, 3),
               N(c->p_adjusted, 3), skew_observe_verdict_name(c->verdict));
        if (r)
            printf("  %-15s %6s %5s %s", E(&r->ratio, 3), N(r->chance_ratio, 2),
                   N(r->p_adjusted, 3), skew_observe_verdict_name(r->verdict));
        printf("\n");
    }
}

static void print_mock(const struct skew_observe *o, const struct naming *n)
{
    static const char *const metrics[] = {"gini", "max/mean"};

    printf(
        "\nMock over real, observed (interval by Fieller), beside what chance makes of it at each "
        "one's own number of tokens N\n%-*s  %-20s %-8s  %-16s %-14s %-15s %6s  %s\n",
        n->width, "", "real -> mock", "", "observed", "N", "ratio", "chance", "persists");
    for (size_t i = 0; i < o->changes; i++) {
        const struct skew_observe_change *c = &o->change[i];
        const struct skew_observe_cell *a = &o->cell[c->from], *b = &o->cell[c->to];
        char values[64], tokens[64];
        if (c->kind != SKEW_OBSERVE_MOCK)
            continue;
        print_pair(o, n, c);
        snprintf(values, sizeof values, "%.3f -> %.3f", a->side[0].metric[c->metric].observed.value,
                 b->side[0].metric[c->metric].observed.value);
        snprintf(tokens, sizeof tokens, "%s -> %s", N(a->tokens, 0), N(b->tokens, 0));
        printf(" %-8s  %-16s %-14s %-15s %6s  %s\n", metrics[c->metric != SKEW_METRIC_GINI], values,
               tokens, E(&c->ratio, 3), N(c->chance_ratio, 3), E(&c->persistent_ratio, 3));
    }
}

static void print_batch(const struct skew_observe *o, const struct naming *n)
{
    printf("\nBatch sizes: Gini observed, as a power of N (chance alone: near -0.5), and CV2 "
           "before and "
           "after chance is taken out\n%-*s  %-16s %-18s %-14s %6s  %-15s %-15s %s\n",
           n->width, "", "", "gini", "N^", "chance", "CV2 changes by", "beyond chance",
           "persistent");
    for (size_t i = 0; i < o->changes; i++) {
        const struct skew_observe_change *c = &o->change[i];
        const struct skew_observe_metric *a = &o->cell[c->from].side[c->side].metric[c->metric];
        const struct skew_observe_metric *b = &o->cell[c->to].side[c->side].metric[c->metric];
        char values[64];
        if (c->kind != SKEW_OBSERVE_BATCH || c->metric != SKEW_METRIC_GINI)
            continue;
        print_pair(o, n, c);
        snprintf(values, sizeof values, "%.3f -> %.3f", a->observed.value, b->observed.value);
        printf(" %-18s %-14s %6s  %-15s %-15s %s\n", values, E(&c->exponent, 2),
               N(c->chance_exponent, 2), E(&c->cv2_change, 3), E(&c->beyond_change, 3),
               E(&c->persistent_change, 3));
    }
}

static void print_changes(const struct skew_observe *o, const struct naming *n)
{
    bool any[3] = {false};

    for (size_t i = 0; i < o->changes; i++)
        any[o->change[i].kind] = true;
    if (any[SKEW_OBSERVE_EP])
        print_ep(o, n);
    else
        printf("\nNo EP scan: no two cells differ in EP alone (label ep, or --ep 4,8,16).\n");
    if (any[SKEW_OBSERVE_MOCK])
        print_mock(o, n);
    else
        printf("\nNo mock against real: no two cells differ in label tokens (mock, real) and data "
               "alone.\n");
    if (any[SKEW_OBSERVE_BATCH])
        print_batch(o, n);
    else
        printf("\nNo batch sizes: no two cells differ in label batch alone.\n");
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void print_head(const struct skew_observe *o, const struct naming *n, size_t used)
{
    size_t index;
    json_t *warnings = skew_observe_warnings(o), *text;

    printf("%zu traces or views of traces; cells of the grid: %zu with numbers, %zu missing\n"
           "cells are named by ",
           o->runs, used, o->missing);
    for (size_t k = 0, shown = 0; k < o->keys; k++)
        if (n->shown[k])
            printf("%s%s", shown++ ? "/" : "", o->key[k]);
    for (size_t k = 0, left = 0; k < o->keys; k++)
        if (!n->shown[k])
            printf("%s%s", left++ ? ", " : "; always the same, or told by the others: ", o->key[k]);
    printf("\n+-: the wider half of the %.3g %% interval (both ends: --json, --csv); none: no "
           "interval\n",
           100 * o->options.level);
    json_array_foreach(warnings, index, text) printf("WARNING: %s\n", json_string_value(text));
    json_decref(warnings);
}

void skew_observe_print(const struct skew_observe *o)
{
    static const enum skew_metric metrics[] = {SKEW_METRIC_GINI, SKEW_METRIC_MAX_MEAN,
                                               SKEW_METRIC_ENTROPY, SKEW_METRIC_CV};
    struct naming n = naming_of(o);
    size_t index, used = 0;
    json_t *limits, *text;

    for (size_t i = 0; i < o->cells; i++)
        used += o->cell[i].usable > 0;
    print_head(o, &n, used);
    print_cells(o, &n);
    for (size_t m = 0; m < sizeof metrics / sizeof *metrics && used; m++)
        print_metric(o, &n, metrics[m]);
    if (used) {
        print_bands(o, &n);
        print_changes(o, &n);
    }
    limits = skew_observe_limits(o);
    if (json_array_size(limits))
        printf("\nWhat these data cannot say:\n");
    json_array_foreach(limits, index, text) printf("- %s\n", json_string_value(text));
    json_decref(limits);
}
