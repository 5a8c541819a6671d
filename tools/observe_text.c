/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of `skewscope observe`: the grid, then what changes between its cells, then what it
 * cannot say.
 */
#include "observe_output.h"
#include "term.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define N(value, digits)    skew_number_text((char[SKEW_ESTIMATE_TEXT]){0}, value, digits)
#define E(estimate, digits) skew_estimate_text((char[SKEW_ESTIMATE_TEXT]){0}, estimate, digits)

#define MISSING_SHOWN 12

/* ---- cells ----------------------------------------------------------------------------------- */

static int name_width(const struct skew_observe *o)
{
    char name[SKEW_CELL_TEXT];
    size_t width = 4;

    for (size_t i = 0; i < o->cells; i++)
        if (o->cell[i].runs || o->missing <= MISSING_SHOWN) {
            size_t length = strlen(skew_cell_text(name, o, &o->cell[i]));
            width = length > width ? length : width;
        }
    return (int)width;
}

static void print_name(const struct skew_observe *o, size_t cell, int width)
{
    char name[SKEW_CELL_TEXT];
    printf("%-*s", width, skew_cell_text(name, o, &o->cell[cell]));
}

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

/* Two metrics of one side, a line a cell. */
static void print_side(const struct skew_observe *o, int side, enum skew_metric first, int width)
{
    enum skew_metric second = (enum skew_metric)(first + 1);
    bool last = side == SKEW_OBSERVE_EXPERT && first == SKEW_METRIC_GINI, any = false;
    static const char *const names[] = {"Gini", "max/mean", "CV", "entropy"};
    size_t missing = 0;

    for (size_t i = 0; i < o->cells; i++)
        any |= o->cell[i].side[side].items > 0 || last;
    if (!any)
        return;
    printf(
        "\n%s: mean over layers and calls; chance: uniform routing of as many tokens; persists: "
        "of the long-run mean loads\n%-*s  %5s %6s %8s %6s  %-22s %6s %-22s  %-22s %6s %-22s%s\n",
        side == SKEW_OBSERVE_EXPERT ? "Experts" : "Ranks", width, "cell", "items", "calls",
        "tokens", "n_eff", names[first], "chance", "persists", names[second], "chance", "persists",
        last ? "  verdict" : "");
    for (size_t i = 0; i < o->cells; i++) {
        const struct skew_observe_cell *c = &o->cell[i];
        const struct skew_observe_metric *a = &c->side[side].metric[first];
        const struct skew_observe_metric *b = &c->side[side].metric[second];
        if (!c->usable) {
            if (!last || (!c->runs && ++missing > MISSING_SHOWN))
                continue;
            print_name(o, i, width);
            printf("  %s\n", c->why);
            continue;
        }
        print_name(o, i, width);
        if (!c->side[side].items) {
            printf("  no ranks are known, or they do not divide the experts\n");
            continue;
        }
        printf("  %5u %6zu %8s %6s  %-22s %6s %-22s  %-22s %6s %-22s%s%s\n", c->side[side].items,
               o->run[c->first].rows, N(c->tokens, 0), N(a->observed.effective, 0),
               E(&a->observed, 3), N(a->chance, 3), E(&a->persistent, 3), E(&b->observed, 3),
               N(b->chance, 3), E(&b->persistent, 3), last ? "  " : "", last ? verdict(c) : "");
    }
    if (last && o->missing > MISSING_SHOWN)
        printf("and %zu more cells are missing (--json lists them)\n", o->missing - MISSING_SHOWN);
}

static void print_bands(const struct skew_observe *o, int width)
{
    printf("\nBands of the observed expert Gini, chance included: below %.3g resilient, above %.3g "
           "concentrated, between. Assigned only where\nthe interval lies inside. The published "
           "edges (0.15, 0.24) are of an unknown number of tokens, and chance alone moves a model "
           "across\nthem: they say nothing about corrected values.\n",
           o->options.bands[0], o->options.bands[1]);
    for (size_t i = 0; i < o->cells; i++) {
        const struct skew_observe_cell *c = &o->cell[i];
        const struct skew_observe_metric *m = &c->side[0].metric[SKEW_METRIC_GINI];
        if (!c->usable)
            continue;
        print_name(o, i, width);
        printf("  %-22s at N = %s tokens (chance alone %s)  %s%s%s\n", E(&m->observed, 3),
               N(c->tokens, 0), N(m->chance, 3),
               c->band ? skew_observe_band_name(c->band) : "none: ", c->band ? "" : c->band_why,
               m->chance > o->options.bands[0] ? "  (chance alone is above the lower edge)" : "");
    }
}

/* ---- changes --------------------------------------------------------------------------------- */

static void print_change(const struct skew_observe *o, const struct skew_observe_change *c,
                         int width)
{
    const struct skew_observe_metric *a = &o->cell[c->from].side[c->side].metric[c->metric];
    const struct skew_observe_metric *b = &o->cell[c->to].side[c->side].metric[c->metric];

    print_name(o, c->from, width);
    printf(" -> ");
    print_name(o, c->to, width);
    printf("  %-6s %-8s %7.3f -> %7.3f  x %-22s chance x %s", skew_observe_side_name(c->side),
           skew_metric_name(c->metric), a->observed.value, b->observed.value, E(&c->ratio, 3),
           N(c->chance_ratio, 3));
    if (c->kind == SKEW_OBSERVE_EP)
        printf("  p %-7s", N(c->p_adjusted, 4));
    else if (c->kind == SKEW_OBSERVE_MOCK)
        printf("  persistent x %-20s", E(&c->persistent_ratio, 3));
    printf("  %s%s%s\n", skew_observe_verdict_name(c->verdict), c->why ? ": " : "",
           c->why ? c->why : "");
    if (c->kind == SKEW_OBSERVE_BATCH && c->metric == SKEW_METRIC_GINI)
        printf("%*s  Gini goes as N^%s (chance alone: N^-0.5); CV2 changes by %s, beyond chance by "
               "%s, persistent by %s\n",
               width, "", E(&c->exponent, 2), E(&c->cv2_change, 4), E(&c->beyond_change, 4),
               E(&c->persistent_change, 4));
}

static bool print_kind(const struct skew_observe *o, enum skew_observe_kind kind, int width,
                       const char *heading)
{
    bool any = false;

    for (size_t i = 0; i < o->changes; i++) {
        if (o->change[i].kind != kind)
            continue;
        if (!any)
            printf("\n%s\n", heading);
        any = true;
        print_change(o, &o->change[i], width);
    }
    return any;
}

static void print_changes(const struct skew_observe *o, int width)
{
    char heading[512];

    snprintf(heading, sizeof heading,
             "EP scan: expert and rank level; is the change at most %.3g %%? (p of \"no\": two "
             "one-sided tests, Holm over the scan; equivalent below %.3g)\nPer-expert counts do "
             "not depend on EP at equal tokens; ranks are what an exchange waits for.",
             100 * o->options.margin, 1 - o->options.level);
    if (!print_kind(o, SKEW_OBSERVE_EP, width, heading))
        printf("\nNo EP scan: no two cells differ in EP alone (label ep, or --ep 4,8,16).\n");
    if (!print_kind(o, SKEW_OBSERVE_MOCK, width,
                    "Mock over real, observed (interval by Fieller), beside what chance makes of "
                    "it at each one's own number of tokens"))
        printf("\nNo mock against real: no two cells differ in label tokens (mock, real) and data "
               "alone.\n");
    if (!print_kind(o, SKEW_OBSERVE_BATCH, width,
                    "Batch sizes, before and after chance is taken out"))
        printf("\nNo batch sizes: no two cells differ in label batch alone.\n");
}

void skew_observe_print(const struct skew_observe *o)
{
    int width = name_width(o);
    size_t index, used = 0;
    json_t *limits, *text;

    for (size_t i = 0; i < o->cells; i++)
        used += o->cell[i].usable > 0;
    printf("%zu traces or views of traces in %zu cells, %zu of the grid missing; by ", o->runs,
           o->cells - (o->missing < o->cells ? o->missing : 0), o->missing);
    for (size_t k = 0; k < o->keys; k++)
        printf("%s%s", k ? "/" : "", o->key[k]);
    printf("\n");
    print_side(o, SKEW_OBSERVE_EXPERT, SKEW_METRIC_GINI, width);
    if (used) {
        print_side(o, SKEW_OBSERVE_EXPERT, SKEW_METRIC_CV, width);
        print_side(o, SKEW_OBSERVE_RANK, SKEW_METRIC_GINI, width);
        print_bands(o, width);
        print_changes(o, width);
    }
    limits = skew_observe_limits(o);
    if (json_array_size(limits))
        printf("\nWhat these data cannot say:\n");
    json_array_foreach(limits, index, text) printf("- %s\n", json_string_value(text));
    json_decref(limits);
}
