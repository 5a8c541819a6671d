/* SPDX-License-Identifier: Apache-2.0 */
/* See time_calls.h. */
#include "arithmetic.h"
#include "time_calls.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement.h"

/* ---- which calls there are ------------------------------------------------------------------- */

static size_t *place_of(const struct skew_time_calls *c, int64_t step, int64_t layer,
                        int64_t microbatch)
{
    uint64_t x = (uint64_t)step * UINT64_C(0x9e3779b97f4a7c15) ^
                 (uint64_t)layer * UINT64_C(0xc2b2ae3d27d4eb4f) ^ (uint64_t)microbatch << 40;
    x ^= x >> 31;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    size_t at = (size_t)(x ^ x >> 29) & (c->table_size - 1);

    while (c->table[at]) {
        const struct skew_time_call *call = &c->calls[c->table[at] - 1];
        if (call->step == step && call->layer == layer && call->microbatch == microbatch)
            break;
        at = (at + 1) & (c->table_size - 1);
    }
    return &c->table[at];
}

const struct skew_time_call *skew_time_call_of(const struct skew_time_calls *c,
                                               const struct skew_time_exchange *x)
{
    size_t at = *place_of(c, x->step, x->layer, x->microbatch);
    return at ? &c->calls[at - 1] : NULL;
}

static int find_calls(struct skew_time_calls *c, const struct skew_time_work *w)
{
    size_t dispatches = 0;

    for (size_t i = 0; i < w->result->complete; i++)
        dispatches += w->result->exchanges[i].role == SKEW_TIME_DISPATCH;
    c->table_size = 16;
    while (c->table_size < 2 * dispatches + 2)
        c->table_size *= 2;
    size_t cells = (dispatches + 1) * c->ranks;
    c->table = calloc(c->table_size, sizeof *c->table);
    c->calls = calloc(dispatches + 1, sizeof *c->calls);
    c->own = calloc(cells, sizeof(double));
    c->place_load = calloc(cells, sizeof(double));
    c->place_in = calloc(cells, sizeof(double));
    c->place_out = calloc(cells, sizeof(double));
    c->uniform_load = calloc(cells * SKEW_TIME_DRAWS, sizeof(double));
    if (!c->table || !c->calls || !c->own || !c->place_load || !c->place_in || !c->place_out ||
        !c->uniform_load)
        return -ENOMEM;
    for (size_t i = 0; i < w->result->complete; i++) {
        const struct skew_time_exchange *x = &w->result->exchanges[i];
        size_t *place = place_of(c, x->step, x->layer, x->microbatch);
        if (x->role != SKEW_TIME_DISPATCH || *place || x->step < 0)
            continue;
        size_t base = w->slot[i] * c->ranks;
        double token = w->times->slots[w->slot[i]].token_bytes, *own = c->own + c->count * c->ranks;
        struct skew_time_call *call = &c->calls[c->count];
        *call = (struct skew_time_call){x->step, x->layer, x->microbatch, 0, 0, 0, 0, 0, 0, {0}};
        for (uint32_t r = 0; r < c->ranks; r++) { /* bytes for now */
            if (isnan(w->times->sent[base + r]))
                continue; /* took no part */
            own[r] =
                w->times->sent[base + r] + w->times->load[base + r] - w->times->received[base + r];
            call->copies += token > 0 ? own[r] / token : 0;
        }
        *place = ++c->count;
    }
    return 0;
}

/* ---- routing: copies, and loads to fit a placement on ---------------------------------------- */

struct first_pass {
    struct skew_time_calls *calls;
    const struct skew_time_work *work;
    uint32_t experts;
    size_t layers;
    double *load; /* [layers][2 halves][experts] tokens */
    double *sum;  /* [calls] copies */
    bool mixed;
};

static struct skew_time_call *find_call(struct skew_time_calls *c,
                                        const struct skew_time_routing *r)
{
    size_t at = *place_of(c, r->step, r->layer, r->microbatch);
    return at ? &c->calls[at - 1] : NULL;
}

static int grow_layers(struct first_pass *p, const struct skew_time_routing *r)
{
    if (p->experts == 0)
        p->experts = r->experts;
    if (p->experts != r->experts || r->layer > 1 << 20) {
        p->mixed = true;
        return 0;
    }
    if ((size_t)r->layer < p->layers)
        return 0;
    size_t layers = (size_t)r->layer + 1;
    double *load = realloc(p->load, layers * 2 * p->experts * sizeof *load);
    if (!load)
        return -ENOMEM;
    memset(load + p->layers * 2 * p->experts, 0,
           (layers - p->layers) * 2 * p->experts * sizeof *load);
    p->load = load;
    p->layers = layers;
    return 0;
}

static int take_first(void *taker, const struct skew_time_routing *r)
{
    struct first_pass *p = taker;
    struct skew_time_call *call = find_call(p->calls, r);

    if (!call || r->source >= p->calls->ranks)
        return 0;
    if (grow_layers(p, r))
        return -ENOMEM;
    if (p->mixed)
        return 0;
    double *load = p->load + ((size_t)r->layer * 2 + (r->step >= p->calls->middle)) * p->experts;
    for (uint32_t e = 0; e < r->experts; e++) {
        load[e] += r->tokens[e];
        p->sum[call - p->calls->calls] += r->tokens[e];
    }
    call->experts = r->experts;
    call->topk = r->topk;
    call->sources++;
    return 0;
}

struct second_pass {
    struct skew_time_calls *calls;
    uint32_t experts;
    size_t layers;
    uint32_t *rank_of; /* [layers][2][experts]: fitted on the other half */
};

static int take_second(void *taker, const struct skew_time_routing *r)
{
    struct second_pass *p = taker;
    struct skew_time_call *call = find_call(p->calls, r);

    if (!call || call->sources != p->calls->ranks || r->source >= p->calls->ranks ||
        r->experts != p->experts || (size_t)r->layer >= p->layers)
        return 0;
    size_t base = (size_t)(call - p->calls->calls) * p->calls->ranks;
    const uint32_t *rank_of =
        p->rank_of + ((size_t)r->layer * 2 + (r->step >= p->calls->middle)) * p->experts;
    for (uint32_t e = 0; e < r->experts; e++) {
        p->calls->place_load[base + rank_of[e]] += r->tokens[e];
        if (rank_of[e] != r->source) {
            p->calls->place_in[base + rank_of[e]] += r->tokens[e];
            p->calls->place_out[base + r->source] += r->tokens[e];
        }
    }
    call->placed = true;
    return 0;
}

/* LPT and swaps on each half, to be judged on the other one. */
static int fit_placements(struct first_pass *first, struct second_pass *second)
{
    struct skew_placement *placement;
    uint32_t ranks = first->calls->ranks, experts = first->experts;
    int result = skew_placement_create(&placement, experts, ranks, experts);

    if (result == -EINVAL) {
        snprintf(first->calls->why_not, sizeof first->calls->why_not,
                 "%u experts cannot be spread evenly over %u ranks", experts, ranks);
        return 0;
    }
    if (result)
        return result;
    second->rank_of = malloc(first->layers * 2 * experts * sizeof *second->rank_of);
    second->layers = first->layers;
    second->experts = experts;
    if (!second->rank_of)
        result = -ENOMEM;
    for (size_t l = 0; l < first->layers && !result; l++)
        for (size_t half = 0; half < 2; half++) {
            skew_placement_contiguous(placement);
            skew_placement_lpt(placement, first->load + (l * 2 + (1 - half)) * experts);
            skew_placement_ranks(placement, second->rank_of + (l * 2 + half) * experts);
        }
    skew_placement_free(&placement);
    return result;
}

static void finish_placed(struct skew_time_calls *c)
{
    for (size_t i = 0; i < c->count; i++)
        for (uint32_t r = 0; r < c->ranks; r++)
            c->calls[i].place_busiest =
                fmax(c->calls[i].place_busiest,
                     fmax(c->place_in[i * c->ranks + r], c->place_out[i * c->ranks + r]));
}

static int read_routing(struct skew_time_calls *c, const struct skew_time_work *w,
                        const struct skew_time_router *router)
{
    struct first_pass first = {.calls = c, .work = w, .sum = calloc(c->count + 1, sizeof(double))};
    struct second_pass second = {.calls = c};
    int result = first.sum ? router->each(router->context, take_first, &first) : -ENOMEM;
    size_t full = 0;

    for (size_t i = 0; i < c->count && !result; i++) {
        full += c->calls[i].sources == c->ranks;
        if (c->calls[i].sources == c->ranks)
            c->calls[i].copies = first.sum[i];
    }
    if (!result && first.mixed)
        snprintf(c->why_not, sizeof c->why_not, "layers differ in their number of experts");
    else if (!result && !full)
        snprintf(c->why_not, sizeof c->why_not,
                 "no call has the experts' counts of all its ranks (table routing)");
    else if (!result)
        result = fit_placements(&first, &second);
    if (!result && second.rank_of) {
        result = router->each(router->context, take_second, &second);
        finish_placed(c);
    }
    free(first.sum);
    free(first.load);
    free(second.rank_of);
    return result;
}

/* ---- uniform routing ------------------------------------------------------------------------- */

static double next_normal(uint64_t *state)
{
    double u = ((double)(skew_splitmix(state) >> 11) + 0.5) * 0x1p-53;
    double v = ((double)(skew_splitmix(state) >> 11) + 0.5) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

/* Normal draws with mean and covariance of what a uniform router sends to R equal ranks: a token's
 * topk distinct experts of E fall on a rank's E/R as a hypergeometric, of variance
 * k p (1 − p) (E − k) / (E − 1), p = 1/R; where E and k are not known, as a binomial. */
static void draw_uniform(struct skew_time_calls *c, size_t i, uint64_t *state)
{
    struct skew_time_call *call = &c->calls[i];
    double p = 1.0 / c->ranks, shrink = 1;

    if (call->topk > 0 && call->experts > 1)
        shrink = (call->experts - call->topk) / (call->experts - 1);
    for (int d = 0; d < SKEW_TIME_DRAWS; d++) {
        double *load = c->uniform_load + (i * SKEW_TIME_DRAWS + (size_t)d) * c->ranks;
        double centre = 0, variance = call->copies * p * (1 - p) * shrink;
        /* Centering takes 1/R of the variance, and brings the ranks' negative covariance. */
        double stretch = sqrt(variance / (1 - p));
        for (uint32_t r = 0; r < c->ranks; r++)
            centre += (load[r] = next_normal(state)) / c->ranks;
        call->uniform_busiest[d] = 0;
        for (uint32_t r = 0; r < c->ranks; r++) {
            double own = c->own[i * c->ranks + r], share = own / call->copies;
            double deviation = (load[r] - centre) * stretch;
            load[r] = fmax(0, call->copies * p + deviation);
            /* What a rank keeps is part of its load: drawn given the load. */
            double kept = own * p + deviation * share +
                          sqrt(own * p * (1 - p) * shrink * (1 - share)) * next_normal(state);
            kept = fmax(0, fmin(kept, fmin(own, load[r])));
            call->uniform_busiest[d] =
                fmax(call->uniform_busiest[d], fmax(load[r] - kept, own - kept));
        }
    }
}

int skew_time_calls_create(struct skew_time_calls *c, const struct skew_time_work *w,
                           const struct skew_time_router *router)
{
    const struct skew_time_exchange *x = w->result->exchanges;
    uint64_t state = 1;
    int result;

    *c = (struct skew_time_calls){.ranks = w->times->ranks};
    if (w->result->complete)
        c->middle = (x[0].step + x[w->result->complete - 1].step + 1) / 2;
    result = find_calls(c, w);
    if (!result && router)
        result = read_routing(c, w, router);
    else if (!result)
        snprintf(c->why_not, sizeof c->why_not,
                 "the trace has no routing of experts: skewscope routing --save makes it of tapped "
                 "counts");
    /* The same trace gives the same answer; another one draws anew, or all would err alike. */
    for (size_t i = 0; i < w->result->complete; i++)
        state = skew_splitmix(&state) ^ (uint64_t)(x[i].transfer + x[i].busiest);
    for (size_t i = 0; i < c->count && !result; i++) {
        double bytes = 0, *own = c->own + i * c->ranks;
        for (uint32_t r = 0; r < c->ranks; r++)
            bytes += own[r];
        for (uint32_t r = 0; r < c->ranks; r++)
            own[r] *= bytes > 0 ? c->calls[i].copies / bytes : 0;
        if (c->calls[i].copies > 0)
            draw_uniform(c, i, &state);
    }
    return result;
}

void skew_time_calls_free(struct skew_time_calls *c)
{
    free(c->table);
    free(c->calls);
    free(c->own);
    free(c->place_load);
    free(c->place_in);
    free(c->place_out);
    free(c->uniform_load);
    *c = (struct skew_time_calls){0};
}
