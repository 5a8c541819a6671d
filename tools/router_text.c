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

static void print_name(const char *comm_key, int64_t layer)
{
    char name[64];

    if (layer >= 0)
        snprintf(name, sizeof name, "%.8s%s%" PRId64, comm_key, *comm_key ? " " : "", layer);
    else
        snprintf(name, sizeof name, "%.8s%s-", comm_key, *comm_key ? " " : "");
    skew_term_clean(name);
    printf("%-13s", name);
}

/* ---- from counts ----------------------------------------------------------------------------- */

static void print_heading(const struct skew_router *r)
{
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
    printf("per-expert counts of %zu layers: %" PRIu64 " rows, %" PRIu64
           " of them reproduce the payload's sizes; %zu of %zu calls complete and used\n",
           r->layers, rows, verified, used, calls);
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
                   "for as many "
                   "copies of tokens\n");
            return;
        }
}

static const char *verdict(const struct skew_router_layer *l)
{
    if (l->persistent)
        return "";
    if (!l->beyond_chance)
        return isnan(l->adjusted_beyond) && isnan(l->adjusted_persistent) ? "" : "  chance";
    return isnan(l->adjusted_persistent) ? "  persists or not: too few independent calls"
                                         : "  comes and goes";
}

static void print_experts(const struct skew_router *r)
{
    printf(
        "\nExperts; per call, mean over calls; chance: uniform routing of as many tokens\n"
        "layer          E  k  calls   Gini chance  persists %.0f %%             max/mean chance  "
        "persists   CV     chance  hottest (share of mean; of calls)\n",
        100 * r->level);
    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        const struct skew_level_metric *gini = &l->expert.metric[SKEW_METRIC_GINI];
        const struct skew_level_metric *max = &l->expert.metric[SKEW_METRIC_MAX_MEAN];
        const struct skew_level_metric *cv = &l->expert.metric[SKEW_METRIC_CV];
        print_name(l->routing->comm_key, l->routing->layer);
        if (l->why) {
            printf(" %s\n", l->why);
            continue;
        }
        printf(" %3u %2s %6zu  %.3f %6s  %-24s  %8.3f %6s  %8s   %.3f %6s", l->routing->experts,
               N(l->topk && !l->topk_assumed ? l->topk : NAN, 0), l->calls, gini->call.value,
               N(gini->chance, 3), E(&gini->persistent, 3), max->call.value, N(max->chance, 3),
               N(max->persistent.value, 3), cv->call.value, N(cv->chance, 3));
        for (size_t h = 0; h < 2 && h < l->expert.hot_count; h++)
            printf("%s%u (%.2f; %.0f %%)", h ? ", " : "  ", l->expert.hot[h].item,
                   l->expert.hot[h].share, 100 * l->expert.hot[h].hottest);
        printf("%s\n", verdict(l));
    }
    print_assumption(r);
}

static void print_ranks(const struct skew_router *r)
{
    bool any = false;

    for (size_t i = 0; i < r->layers; i++)
        any |= r->layer[i].ranks != 0 && !r->layer[i].why;
    if (!any)
        return;
    printf("\nRanks; max/mean per call, and where what is above 1 comes from, in this order\n"
           "layer          R  max/mean  = 1 + chance + unfixable + placement + undecided  "
           "gain of a held-out placement   replicas  sources\n");
    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        const struct skew_router_split *s = &l->split;
        if (l->why || !l->ranks)
            continue;
        print_name(l->routing->comm_key, l->routing->layer);
        printf(" %3u  %8.3f    %9s  %10s   %9s   %9s  %-28s  %8s  %7s", l->ranks,
               l->rank.metric[SKEW_METRIC_MAX_MEAN].call.value, N(s->chance, 3), N(s->unfixable, 3),
               N(s->placement, 3), N(s->undecided, 3), E(&s->gain, 3), N(s->replicas, 3),
               N(l->source_call, 3));
        printf("%s%s\n", s->why ? "  " : "", s->why ? s->why : "");
    }
}

static void print_curves(const struct skew_router *r)
{
    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        if (!l->points)
            continue;
        printf("\n");
        print_name(l->routing->comm_key, l->routing->layer);
        printf(" max/mean over R ranks   per call: now  chance  held-out   pooled: now  random  "
               "fitted  bound\n");
        for (size_t k = 0; k < l->points; k++) {
            const struct skew_router_point *p = &l->point[k];
            printf("%32u  %14.3f  %6s  %8s  %11.3f  %6.3f  %6.3f  %5.3f\n", p->ranks, p->observed,
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

static void print_verdict(const struct skew_router *r)
{
    size_t persistent = 0, beyond = 0, open = 0, ranked = 0, usable = 0, replicated = 0;
    double observed = 0, chance = 0, unfixable = 0, placement = 0;

    for (size_t i = 0; i < r->layers; i++) {
        const struct skew_router_layer *l = &r->layer[i];
        usable += !l->why;
        persistent += l->persistent;
        beyond += l->beyond_chance;
        open += l->beyond_chance && !l->persistent && isnan(l->adjusted_persistent);
        replicated += l->placed;
        if (l->why || !l->ranks || isnan(l->split.unfixable))
            continue;
        ranked++;
        observed += l->split.observed;
        chance += l->split.chance;
        unfixable += l->split.unfixable;
        placement += l->split.placement;
    }
    printf("\n");
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
               "persist: it comes "
               "and goes. Nothing is attributed to placement.\n",
               beyond - open, usable);
    else if (!r->persistent)
        printf("Nothing is attributed to placement.\n");
    else
        printf("In %zu of %zu layers imbalance of the router persists (tests adjusted over layers "
               "by Holm).\n",
               persistent, usable);
    if (open)
        printf("In %zu %slayers imbalance is beyond that of independent tokens, but too few "
               "independent calls "
               "stand behind it to tell whether it persists.\n",
               open, open < beyond ? "more " : "");
    if (r->persistent && ranked && observed > 0)
        printf(
            "Of the ranks' skew per call (max/mean - 1 = %.3f, mean over %zu layers) chance is "
            "%.0f %%, what no placement of these experts can fix %.0f %%, what a placement gains "
            "on calls that it was not fitted on %.0f %%.\n",
            observed / (double)ranked, ranked, 100 * fmin(1, chance / observed),
            100 * unfixable / observed, 100 * placement / observed);
    if (replicated)
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
    printf("no per-expert counts in this trace: what follows is from the sizes of dispatches, of "
           "ranks, and as intervals of experts\n"
           "\nlayer          R  calls  Gini   max/mean  CV     |  experts: Gini      max/mean\n");
    for (size_t i = 0; i < s->volume->count; i++) {
        const struct skew_volume_result *r = &s->volume->result[i];
        if (!skew_is_dispatch(r->group))
            continue;
        print_name(r->group->comm_key, r->group->layer);
        if (r->why) {
            printf(" %3u  %s\n", r->group->ranks, r->why);
            continue;
        }
        printf(" %3u %6zu  %.3f  %8.3f  %.3f  |", r->group->ranks, r->group->calls,
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
    print_heading(s->router);
    print_experts(s->router);
    print_ranks(s->router);
    print_curves(s->router);
    print_balancedness(s->router);
    print_verdict(s->router);
}
