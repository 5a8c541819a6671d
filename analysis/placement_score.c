/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scores of a placement, call by call: nothing is summed over calls before a maximum is taken, but
 * for `persistent`, which says so.
 */
#include "placement_score.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct scoring {
    struct skew_score *score;
    struct skew_placement *p;
    const struct skew_calls *calls;
    const struct skew_links *links;
    uint32_t ranks, domain, domains;
    double *load;           /* [ranks] of this call */
    double *summed;         /* [ranks] over calls */
    double *in[2], *out[2]; /* [ranks] tokens over a port, 0: inside the domain, 1: between */
    double *row, *most;     /* [ranks] from one source: copies to a rank; the most of one expert */
    double *domain_row, *domain_most; /* [domains] */
    double largest;                   /* message, tokens */
};

static enum skew_tier tier_of(const struct scoring *s, uint32_t from, uint32_t to)
{
    if (from == to)
        return SKEW_TIER_RANK;
    return from / s->domain == to / s->domain ? SKEW_TIER_DOMAIN : SKEW_TIER_OTHER;
}

/* row, most: what `weight` [experts] tokens of one source mean for each rank and domain. */
static void spread(struct scoring *s, const uint32_t *counts, const double *reals)
{
    const struct skew_placement *p = s->p;
    uint32_t slot = 0;

    memset(s->domain_row, 0, s->domains * sizeof *s->domain_row);
    memset(s->domain_most, 0, s->domains * sizeof *s->domain_most);
    for (uint32_t r = 0; r < s->ranks; r++) {
        double sum = 0, most = 0;
        for (uint32_t i = 0; i < p->per_rank; i++, slot++) {
            uint32_t e = p->expert[slot];
            double tokens = (counts ? (double)counts[e] : reals[e]) / p->copies[e];
            sum += tokens;
            most = fmax(most, tokens);
        }
        s->row[r] = sum;
        s->most[r] = most;
        s->domain_row[r / s->domain] += sum;
        s->domain_most[r / s->domain] = fmax(s->domain_most[r / s->domain], most);
    }
}

/* One source's messages: `share` of what spread() left, from rank `from`. */
static void send(struct scoring *s, uint32_t from, double share, double tokens)
{
    struct skew_score *score = s->score;

    for (uint32_t r = 0; r < s->ranks; r++) {
        enum skew_tier tier = tier_of(s, from, r);
        double copies = share * s->row[r];
        score->bytes[tier] += copies;
        score->rank_once_low[tier] += share * s->most[r];
        score->rank_once_high[tier] += fmin(copies, tokens);
        s->largest = fmax(s->largest, copies);
        if (tier != SKEW_TIER_RANK) {
            s->out[tier == SKEW_TIER_OTHER][from] += copies;
            s->in[tier == SKEW_TIER_OTHER][r] += copies;
        }
    }
    for (uint32_t d = 0; d < s->domains; d++)
        if (d != from / s->domain) {
            score->domain_once_low += share * s->domain_most[d];
            score->domain_once_high += fmin(share * s->domain_row[d], tokens);
        }
}

static double busiest(const struct scoring *s, int tier)
{
    double most = 0;

    for (uint32_t r = 0; r < s->ranks; r++)
        most = fmax(most, fmax(s->in[tier][r], s->out[tier][r]));
    return most;
}

static double within(double value, double least, double most, bool *outside)
{
    *outside |= value < least || value > most;
    return fmax(least, fmin(most, value));
}

/* Of one call, as exchanges of such sizes took when they were measured. */
static double fitted_time(struct scoring *s)
{
    const struct skew_links_fit *fit = s->links->fit;
    double token = s->links->token_bytes, x = 0, z = 0;
    bool outside = false;

    if (s->domain > 1 && s->domains > 1) {
        x = busiest(s, 1);
        z = busiest(s, 0);
    } else {
        for (uint32_t r = 0; r < s->ranks; r++) {
            x = fmax(x, fmax(s->in[0][r] + s->in[1][r], s->out[0][r] + s->out[1][r]));
            z += (s->in[0][r] + s->in[1][r]) / s->ranks;
        }
    }
    double time = skew_line_at(&fit->line, within(token * x, fit->least, fit->most, &outside));
    if (fit->z_s != 0)
        time += fit->z_s * within(token * z, fit->z_least, fit->z_most, &outside);
    s->score->clamped += outside;
    return fmax(0, time);
}

/* Bytes and time of one call. */
static void score_messages(struct scoring *s, size_t call)
{
    const struct skew_calls *c = s->calls;
    const struct skew_links *l = s->links;
    bool known = s->score->sources_known;

    s->largest = 0;
    memset(s->in[0], 0, 4 * s->ranks * sizeof(double)); /* in and out lie behind each other */
    if (!known)
        spread(s, NULL, c->counts + call * c->experts);
    for (uint32_t from = 0; from < s->ranks; from++) {
        double total = 0;
        if (known)
            spread(s, c->by_source + (call * c->sources + from) * c->experts, NULL);
        for (uint32_t d = 0; d < s->domains; d++)
            total += s->domain_row[d];
        double share = known ? 1 : 1.0 / s->ranks;
        send(s, from, share, c->topk ? share * total / c->topk : INFINITY);
    }
    s->score->padded += s->ranks * s->largest * l->token_bytes;
    s->score->time_s += l->fit
                            ? fitted_time(s)
                            : l->latency_s + l->token_bytes * fmax(busiest(s, 0) / l->up_bandwidth,
                                                                   busiest(s, 1) / l->bandwidth);
}

/* ---- what single tokens say -------------------------------------------------------------------
 */

/* The copy that a token uses: copies take turns, from token to token. */
static uint32_t copy_of(const uint32_t *first, const uint32_t *slots, uint32_t expert, size_t token)
{
    uint32_t copies = first[expert + 1] - first[expert];

    return slots[first[expert] + token % copies];
}

/* Adds a token that goes to distinct ranks and domains, marked with `token` in the arrays. */
static void count_token(struct scoring *s, size_t token, const size_t *ranks, const size_t *domains,
                        double *rank_once, double *domain_once)
{
    int32_t from = s->calls->source ? s->calls->source[token] : -1;
    bool known = from >= 0 && (uint32_t)from < s->ranks;

    for (uint32_t r = 0; r < s->ranks; r++) {
        if (ranks[r] != token + 1)
            continue;
        if (known) {
            rank_once[tier_of(s, (uint32_t)from, r)]++;
            continue;
        }
        rank_once[SKEW_TIER_RANK] += 1.0 / s->ranks;
        rank_once[SKEW_TIER_DOMAIN] += (s->domain - 1.0) / s->ranks;
        rank_once[SKEW_TIER_OTHER] += 1 - (double)s->domain / s->ranks;
    }
    for (uint32_t d = 0; d < s->domains; d++)
        if (domains[d] == token + 1)
            *domain_once +=
                known ? (uint32_t)from / s->domain != d : 1 - (double)s->domain / s->ranks;
}

/* Exact counts of distinct ranks and domains a token; replaces the bounds. */
static int score_tokens(struct scoring *s)
{
    const struct skew_placement *p = s->p;
    const struct skew_calls *c = s->calls;
    size_t *seen = calloc((size_t)s->ranks + s->domains, sizeof *seen);
    uint32_t *first = calloc((size_t)p->experts + 1 + 2 * (size_t)p->slots, sizeof *first);
    double once[SKEW_TIERS] = {0}, domain_once = 0;

    if (!seen || !first) {
        free(seen);
        free(first);
        return -ENOMEM;
    }
    uint32_t *slots = first + p->experts + 1;
    for (uint32_t e = 0; e < p->experts; e++)
        first[e + 1] = first[e] + p->copies[e];
    uint32_t *filled = slots + p->slots; /* [experts] ≤ slots */
    for (uint32_t i = 0; i < p->slots; i++)
        slots[first[p->expert[i]] + filled[p->expert[i]]++] = i;
    for (size_t t = 0; t < c->token_at[c->calls] - c->token_at[0]; t++) {
        for (uint32_t k = 0; k < c->topk; k++) {
            uint32_t rank = copy_of(first, slots, c->ids[t * c->topk + k], t) / p->per_rank;
            seen[rank] = t + 1;
            seen[s->ranks + rank / s->domain] = t + 1;
        }
        count_token(s, t, seen, seen + s->ranks, once, &domain_once);
    }
    for (int tier = 0; tier < SKEW_TIERS; tier++)
        s->score->rank_once_low[tier] = s->score->rank_once_high[tier] = once[tier];
    s->score->domain_once_low = s->score->domain_once_high = domain_once;
    free(seen);
    free(first);
    return 0;
}

/* ---- together ---------------------------------------------------------------------------------
 */

static int scoring_begin(struct scoring *s)
{
    size_t reals = 8 * (size_t)s->ranks + 2 * (size_t)s->domains;
    double *memory = calloc(reals, sizeof *memory);

    if (!memory)
        return -ENOMEM;
    s->load = memory;
    s->summed = s->load + s->ranks;
    s->in[0] = s->summed + s->ranks;
    s->in[1] = s->in[0] + s->ranks;
    s->out[0] = s->in[1] + s->ranks;
    s->out[1] = s->out[0] + s->ranks;
    s->row = s->out[1] + s->ranks;
    s->most = s->row + s->ranks;
    s->domain_row = s->most + s->ranks;
    s->domain_most = s->domain_row + s->domains;
    return 0;
}

/* max/mean of one call, which is added to the sums; NaN: it held nothing. */
static double score_load(struct scoring *s, size_t call)
{
    double max = 0, sum = 0;

    skew_placement_rank_loads(s->p, s->calls->counts + call * s->calls->experts, s->load);
    for (uint32_t r = 0; r < s->ranks; r++) {
        sum += s->load[r];
        s->summed[r] += s->load[r];
        max = fmax(max, s->load[r]);
    }
    return sum > 0 ? max * s->ranks / sum : NAN;
}

static void finish(struct scoring *s)
{
    struct skew_score *score = s->score;
    double n = (double)score->calls, scale = s->links->token_bytes / n, max = 0, sum = 0;

    for (uint32_t r = 0; r < s->ranks; r++) {
        sum += s->summed[r];
        max = fmax(max, s->summed[r]);
    }
    score->persistent = sum > 0 ? max * s->ranks / sum : NAN;
    score->max_mean /= n;
    for (int t = 0; t < SKEW_TIERS; t++) {
        score->bytes[t] *= scale;
        score->rank_once_low[t] *= scale;
        score->rank_once_high[t] *= scale;
    }
    score->domain_once_low *= scale;
    score->domain_once_high *= scale;
    score->padded /= n;
    score->clamped /= n;
    score->time_s /= n;
}

int skew_placement_score(struct skew_score *score, struct skew_placement *p,
                         const struct skew_calls *calls, const struct skew_links *links,
                         double *per_call)
{
    uint32_t domain = links->domain_ranks ? links->domain_ranks : 1;
    struct scoring s = {.score = score,
                        .p = p,
                        .calls = calls,
                        .links = links,
                        .ranks = p->ranks,
                        .domain = domain,
                        .domains = p->ranks / domain};

    memset(score, 0, sizeof *score);
    if (p->experts != calls->experts || p->ranks % domain != 0)
        return -EINVAL;
    score->sources_known = calls->by_source && calls->sources == p->ranks;
    score->ids_known = calls->ids && calls->topk;
    int result = scoring_begin(&s);
    for (size_t call = 0; call < calls->calls && result == 0; call++) {
        double one = score_load(&s, call);
        if (per_call)
            per_call[call] = one;
        if (isnan(one))
            continue;
        score->calls++;
        score->max_mean += one;
        score->worst = fmax(score->worst, one);
        score_messages(&s, call);
    }
    if (result == 0 && score->ids_known)
        result = score_tokens(&s);
    if (result == 0)
        finish(&s);
    free(s.load);
    return result;
}

struct skew_calls skew_calls_slice(const struct skew_calls *calls, size_t from, size_t to)
{
    struct skew_calls view = *calls;

    view.calls = to - from;
    view.counts += from * calls->experts;
    if (view.by_source)
        view.by_source += from * calls->sources * calls->experts;
    if (view.ids) {
        size_t before = calls->token_at[from] - calls->token_at[0];
        view.ids += before * calls->topk;
        view.source = view.source ? view.source + before : NULL;
        view.token_at += from;
    }
    return view;
}

void skew_calls_sum(const struct skew_calls *calls, double *load)
{
    memset(load, 0, calls->experts * sizeof *load);
    for (size_t c = 0; c < calls->calls; c++)
        for (uint32_t e = 0; e < calls->experts; e++)
            load[e] += calls->counts[c * calls->experts + e];
}

double skew_placement_mean_max(struct skew_placement *p, const double *counts, size_t calls)
{
    double sum = 0;
    size_t full = 0;

    for (size_t call = 0; call < calls; call++) {
        double one = skew_placement_max_mean(p, counts + call * p->experts);
        if (isnan(one))
            continue;
        sum += one;
        full++;
    }
    return full ? sum / (double)full : NAN;
}
