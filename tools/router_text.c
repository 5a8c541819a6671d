/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of `skewscope router`: a table of layers, then what it means in sentences.
 */
#include "router_output.h"
#include "term.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define N(value, digits)    skew_number_text((char[SKEW_ESTIMATE_TEXT]){0}, value, digits)
#define E(estimate, digits) skew_estimate_text((char[SKEW_ESTIMATE_TEXT]){0}, estimate, digits)

/* What distinguishes layers gets a column; what all of them share is said once, above the tables.
 */
struct columns {
    bool comm, experts, topk, ranks, calls;
    const struct skew_router_layer *shared; /* the first layer with results; NULL: there is none */
};

static struct columns columns_of(const struct skew_router *r)
{
    struct columns c = {.shared = NULL};

    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        const struct skew_router_layer *first = c.shared;
        c.comm |= strcmp(l->routing->comm_key, r->layer[0].routing->comm_key) != 0;
        if (l->why)
            continue;
        if (!first) {
            c.shared = l;
            continue;
        }
        c.experts |= l->routing->experts != first->routing->experts;
        c.topk |= l->topk != first->topk || l->topk_assumed != first->topk_assumed;
        c.ranks |= l->ranks != first->ranks;
        c.calls |= l->calls != first->calls;
    }
    return c;
}

static void print_name(const char *comm_key, int64_t layer, bool comm)
{
    char key[16];

    if (comm) {
        snprintf(key, sizeof key, "%.8s", comm_key);
        skew_term_clean(key);
        printf("%-9s", key);
    }
    if (layer >= 0)
        printf("%5" PRId64, layer);
    else
        printf("%5s", "-");
}

/* The head of a table's name columns. */
static void print_name_head(bool comm)
{
    printf("%s%5s", comm ? "comm     " : "", "layer");
}

/* ---- from counts ----------------------------------------------------------------------------- */

static void print_shared(const struct skew_router *r, const struct columns *c)
{
    const struct skew_router_layer *l = c->shared;

    printf("%zu layer%s", r->layers, r->layers == 1 ? "" : "s");
    if (l && !c->experts)
        printf(" of %u %s", l->routing->experts, l->routing->physical ? "expert slots" : "experts");
    if (l && !c->topk && l->topk && !l->topk_assumed)
        printf(", top-%u", l->topk);
    if (l && !c->ranks && l->ranks)
        printf(", on %u ranks", l->ranks);
    if (!c->comm && *r->layer[0].routing->comm_key) {
        char key[16];
        snprintf(key, sizeof key, "%.8s", r->layer[0].routing->comm_key);
        skew_term_clean(key);
        printf(" (communicator %s)", key);
    }
    if (l && !c->calls)
        printf(", %zu call%s each", l->calls, l->calls == 1 ? "" : "s");
    printf("\n");
}

static void print_heading(const struct skew_router *r, const struct columns *c)
{
    char text[2][SKEW_COUNT_TEXT];
    uint64_t rows = 0, verified = 0, missing = 0, duplicates = 0, conflicts = 0;
    size_t calls = 0, used = 0;

    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_routing_layer *l = r->layer[i].routing;
        rows += l->rows;
        verified += l->verified_rows;
        missing += l->missing;
        duplicates += l->duplicates;
        conflicts += l->conflicts;
        calls += l->calls;
        used += r->layer[i].calls;
    }
    print_shared(r, c);
    printf("per-expert counts: %s rows, %s of them reproduce the payload's sizes; ",
           skew_count_text(text[0], rows), skew_count_text(text[1], verified));
    printf("%s of %s calls complete and used\n", skew_count_text(text[0], used),
           skew_count_text(text[1], calls));
    if (skew_router_mixed(r))
        printf(
            "WARNING: which layer a call is of could not be told (\"-\" below): layers are taken "
            "together as one, and imbalance\nthat differs between them averages out or looks "
            "like what comes and goes (skewscope label says why; --layers tells)\n");
    if (missing)
        printf("of %" PRIu64 " sources' calls the counts are missing\n", missing);
    if (duplicates)
        printf("%" PRIu64 " rows are in several databases and count once\n", duplicates);
    if (conflicts)
        printf("%" PRIu64 " rows differ between databases: the first one's count\n", conflicts);
}

static void print_assumption(const struct skew_router *r)
{
    for (size_t i = 0; i < r->layers; i++)
        if (r->layer[i].topk_assumed && !r->layer[i].why) {
            printf("k is not in the trace (--topk K): chance is that of k = 1, the most it can be "
                   "for as many copies of tokens\n");
            return;
        }
}

static const char *verdict(const struct skew_router_layer *l)
{
    if (l->persistent)
        return NULL;
    if (!l->beyond_chance)
        return isnan(l->adjusted_beyond) && isnan(l->adjusted_persistent) ? NULL
                                                                          : "no more than chance";
    return isnan(l->adjusted_persistent)
               ? "beyond chance, but too few independent calls to tell whether it persists"
               : "beyond chance, but it comes and goes";
}

static void print_expert_row(const struct skew_router_layer *l, const struct columns *c,
                             struct skew_notes *notes)
{
    const struct skew_level_metric *gini = &l->expert.metric[SKEW_METRIC_GINI];
    const struct skew_level_metric *max = &l->expert.metric[SKEW_METRIC_MAX_MEAN];

    if (c->experts)
        printf(" %5u", l->routing->experts);
    if (c->topk)
        printf(" %3s", N(l->topk && !l->topk_assumed ? l->topk : NAN, 0));
    if (c->calls)
        printf(" %6zu", l->calls);
    printf("  %.3f  %6s  %-22s %8.3f  %6s  %8s ", gini->call.value, N(gini->chance, 3),
           E(&gini->persistent, 3), max->call.value, N(max->chance, 3),
           N(max->persistent.value, 3));
    for (size_t h = 0; h < 2 && h < l->expert.hot_count; h++)
        printf("%s%u (%.2f; %.0f %%)", h ? ", " : " ", l->expert.hot[h].item,
               l->expert.hot[h].share, 100 * l->expert.hot[h].hottest);
    skew_note_print(notes, verdict(l));
    printf("\n");
}

/* The mean over layers of what every metric says of a call; what of it persists is a layer's own.
 */
static void print_means(const struct skew_router *r)
{
    double observed[SKEW_METRIC_COUNT] = {0}, chance[SKEW_METRIC_COUNT] = {0};
    size_t layers = 0;

    for (size_t i = 0; i < r->layers; i++) {
        if (r->layer[i].why)
            continue;
        layers++;
        for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
            observed[m] += r->layer[i].expert.metric[m].call.value;
            chance[m] += r->layer[i].expert.metric[m].chance;
        }
    }
    if (layers < 2)
        return;
    printf("mean over layers (chance):");
    for (int m = 0; m < SKEW_METRIC_COUNT; m++)
        printf("%s %s %.3f (%s)", m ? "," : "", skew_metric_name((enum skew_metric)m),
               observed[m] / (double)layers, N(chance[m] / (double)layers, 3));
    printf("\n");
}

static void print_experts(const struct skew_router *r, const struct columns *c)
{
    struct skew_notes notes = {.count = 0};

    printf("\nexperts: imbalance of a call, mean over calls; chance: uniform routing of as many "
           "tokens\n");
    print_name_head(c->comm);
    printf("%s%s%s   Gini  chance  %-8s [%.0f %%]         max/mean  chance  persists  hottest "
           "(load / mean; in %% of calls)\n",
           c->experts ? "     E" : "", c->topk ? "   k" : "", c->calls ? "  calls" : "", "persists",
           100 * r->level);
    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        print_name(l->routing->comm_key, l->routing->layer, c->comm);
        if (l->why)
            printf("  %s\n", l->why);
        else
            print_expert_row(l, c, &notes);
    }
    print_means(r);
    skew_notes_explain(&notes);
    print_assumption(r);
}

/* A part that cannot be attributed is not known: it is not 0. */
static const char *part(char text[SKEW_ESTIMATE_TEXT], const struct skew_router_split *s,
                        double value)
{
    return skew_number_text(text, s->why ? NAN : value, 3);
}

static void print_rank_row(const struct skew_router_layer *l, const struct columns *c,
                           struct skew_notes *notes)
{
    const struct skew_router_split *s = &l->split;
    char text[4][SKEW_ESTIMATE_TEXT];

    if (c->ranks)
        printf(" %4u", l->ranks);
    printf("  %8.3f   %9s  %10s  %10s  %10s   %-22s  %8s  %7s",
           l->rank.metric[SKEW_METRIC_MAX_MEAN].call.value, N(s->chance, 3),
           part(text[0], s, s->unfixable), part(text[1], s, s->placement), N(s->undecided, 3),
           E(&s->gain, 3), part(text[2], s, s->replicas), N(l->source_call, 3));
    skew_note_print(notes, s->why);
    printf("\n");
}

static void print_ranks(const struct skew_router *r, const struct columns *c)
{
    struct skew_notes notes = {.count = 0};
    bool any = false;

    for (size_t i = 0; i < r->layers; i++)
        any |= r->layer[i].ranks != 0 && !r->layer[i].why;
    if (!any)
        return;
    printf("\nranks: max/mean of a call, mean over calls, and where what is above 1 comes from, in "
           "this order\n");
    print_name_head(c->comm);
    printf(
        "%s  max/mean = 1 + chance + unfixable + placement + undecided   held-out gain [%.0f %%] "
        " replicas  sources\n",
        c->ranks ? "    R" : "", 100 * r->level);
    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        if (l->why || !l->ranks)
            continue;
        print_name(l->routing->comm_key, l->routing->layer, c->comm);
        print_rank_row(l, c, &notes);
    }
    skew_notes_explain(&notes);
}

static void print_curves(const struct skew_router *r, bool comm)
{
    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        if (!l->points)
            continue;
        printf("\n");
        print_name_head(comm);
        printf("    R  a call: now  chance  held-out   pooled: now  random  fitted  bound  "
               "(max/mean over R ranks)\n");
        for (size_t k = 0; k < l->points; k++) {
            const struct skew_router_point *p = &l->point[k];
            print_name(l->routing->comm_key, l->routing->layer, comm);
            printf(" %4u  %11.3f  %6s  %8s  %11.3f  %6.3f  %6.3f  %5.3f\n", p->ranks, p->observed,
                   N(p->chance, 3), N(p->heldout, 3), p->pooled, p->random, p->fitted, p->bound);
        }
    }
}

static void print_balancedness(const struct skew_router *r)
{
    if (!isfinite(r->balancedness[0]))
        return;
    printf("\nBalancedness of ranks, by formula (they do not compare); loads pooled over calls\n");
    for (int f = 0; f < SKEW_BALANCE_COUNT; f++)
        printf("  %-15s %.3f  %s\n", skew_balancedness_name((enum skew_balancedness)f),
               r->balancedness[f], skew_balancedness_text((enum skew_balancedness)f));
}

/* Whether anything persists, in how many layers. */
static void print_persistence(const struct skew_router *r)
{
    size_t persistent = 0, beyond = 0, open = 0, usable = 0;

    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        usable += !l->why;
        persistent += l->persistent;
        beyond += l->beyond_chance;
        open += l->beyond_chance && !l->persistent && isnan(l->adjusted_persistent);
    }
    if (!usable)
        printf("Nothing can be said of the router.\n");
    else if (!r->tested)
        printf("Whether this is more than chance cannot be said: top-k is not known (--topk), and "
               "there are too few calls.\n");
    else if (!r->beyond_chance)
        printf("No imbalance beyond chance: uniform routing of as many tokens would look like "
               "this. Nothing is attributed to router or placement.\n");
    else if (!r->persistent && open < beyond)
        printf("In %zu of %zu layers imbalance is beyond that of independent tokens, but does not "
               "persist: it comes and goes. Nothing is attributed to placement.\n",
               beyond - open, usable);
    else if (!r->persistent)
        printf("Nothing is attributed to placement.\n");
    else
        printf("In %zu of %zu layers imbalance of the router persists (tests adjusted over layers "
               "by Holm).\n",
               persistent, usable);
    if (open)
        printf("In %zu %slayers imbalance is beyond that of independent tokens, but too few "
               "independent calls stand behind it to tell whether it persists.\n",
               open, open < beyond ? "more " : "");
}

/* Of those layers alone to which something is attributed: where it is not known, nothing is not 0.
 */
static void print_attribution(const struct skew_router *r)
{
    double observed = 0, chance = 0, unfixable = 0, placement = 0;
    size_t layers = 0, placed = 0;

    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        placed += l->placed;
        if (l->why || !l->ranks || l->split.why || isnan(l->split.unfixable))
            continue;
        layers++;
        observed += l->split.observed;
        chance += l->split.chance;
        unfixable += l->split.unfixable;
        placement += l->split.placement;
    }
    if (r->persistent && layers && observed > 0)
        printf("Where it persists the ranks' max/mean of a call is %.3f (mean over %zu layers). Of "
               "what is above 1, chance is %.0f %%, what no placement of these experts can fix "
               "%.0f %%, what a placement gains on calls that it was not fitted on %.0f %%.\n",
               1 + observed / (double)layers, layers, 100 * fmin(1, chance / observed),
               100 * unfixable / observed, 100 * placement / observed);
    if (placed)
        printf("Placement is that of table placement.\n");
}

/* ---- from sizes ------------------------------------------------------------------------------ */

static void print_bounds(const struct skew_router_shown *s, const struct skew_volume_result *r)
{
    for (int m = 0; m < 2; m++) { /* Gini, max/mean */
        double low, high;
        if (!s->experts || skew_expert_bounds((enum skew_metric)m, r->loads.metric[m].call.value,
                                              r->group->ranks, s->experts, &low, &high) < 0)
            printf("  %16s", "-");
        else if (high - low < 1e-12)
            printf("  %16.3f", low);
        else
            printf("  %7.3f … %6.3f", low, high);
    }
}

static void print_volume(const struct skew_router_shown *s)
{
    printf(
        "no per-expert counts in this trace: what follows is from the sizes of dispatches, of "
        "ranks, and as intervals of experts\n"
        "\ncomm     layer    R  calls   Gini  max/mean     CV   experts: Gini          max/mean\n");
    for (size_t i = 0; i < s->volume->count; i++) {
        const struct skew_volume_result *r = &s->volume->result[i];
        if (!skew_is_dispatch(r->group))
            continue;
        print_name(r->group->comm_key, r->group->layer, true);
        if (r->why) {
            printf(" %4u  %s\n", r->group->ranks, r->why);
            continue;
        }
        printf(" %4u %6zu  %.3f  %8.3f  %.3f", r->group->ranks, r->group->calls,
               r->loads.metric[SKEW_METRIC_GINI].call.value,
               r->loads.metric[SKEW_METRIC_MAX_MEAN].call.value,
               r->loads.metric[SKEW_METRIC_CV].call.value);
        print_bounds(s, r);
        printf("\n");
    }
    if (!s->experts) {
        printf("\nHow many experts there are is not known: --experts E gives the intervals.\n");
        return;
    }
    uint32_t ranks;
    struct skew_estimate e = skew_volume_moment(s->volume, s->experts, s->level, &ranks);
    if (e.why)
        printf("\nNo moment estimate of the experts' CV: %s.\n", e.why);
    else
        printf("\nMoment estimate of the experts' CV, if load does not depend on rank: %s over %zu "
               "layers of %u ranks.\n",
               E(&e, 3), e.n, ranks);
}

void skew_router_print(const struct skew_router_shown *s)
{
    skew_coverage_print(&s->coverage);
    if (!s->router) {
        print_volume(s);
        return;
    }
    struct columns columns = columns_of(s->router);
    print_heading(s->router, &columns);
    print_experts(s->router, &columns);
    print_ranks(s->router, &columns);
    print_curves(s->router, columns.comm);
    print_balancedness(s->router);
    printf("\n");
    print_persistence(s->router);
    print_attribution(s->router);
}
