/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The router's imbalance, layer by layer on several threads, then over all layers: see router.h.
 */
#include "router_private.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct job {
    struct skew_router *router;
    const struct skew_router_options *options;
    struct skew_floors *floors;
    double **pooled; /* [layers][ranks]: for balancedness */
    double **calls;  /* [layers][calls][ranks] */
    _Atomic size_t next;
    _Atomic int result;
};

/* ---- one layer ------------------------------------------------------------------------------- */

static double *rank_loads(struct skew_router_layer *l, const struct skew_series *s)
{
    const struct skew_routing_layer *r = l->routing;
    size_t most = r->slots > r->experts ? r->slots : r->experts, count = 0;
    struct skew_slot *slots = malloc(most * sizeof *slots);
    uint32_t *copies = malloc(r->experts * sizeof *copies);
    double *loads = malloc((s->rows * l->ranks + 1) * sizeof *loads);

    if (slots && copies && loads && skew_routing_slots(r, l->ranks, slots, &count) == 0) {
        skew_slot_copies(slots, count, r->experts, copies);
        for (size_t t = 0; t < s->rows; t++)
            skew_slot_loads(slots, count, copies, s->counts + t * r->experts, l->ranks,
                            loads + t * l->ranks);
        /* That the table was used is to be said only where it is not the contiguous order. */
        for (size_t i = 0; i < count && r->slots; i++)
            l->placed |= slots[i].expert != i || slots[i].rank != i / (count / l->ranks);
    }
    free(slots);
    free(copies);
    return loads;
}

static bool can_spread(const struct skew_routing_layer *r, uint32_t ranks)
{
    struct skew_slot *slots;
    size_t count, most = r->slots > r->experts ? r->slots : r->experts;

    if (ranks < 2 || !(slots = malloc(most * sizeof *slots)))
        return false;
    int result = skew_routing_slots(r, ranks, slots, &count);
    free(slots);
    return result == 0;
}

static void sources_of(struct skew_router_layer *l, bool incomplete)
{
    const struct skew_routing_layer *r = l->routing;
    size_t calls = 0;

    for (size_t c = 0; c < r->calls && r->sources > 1; c++) {
        const uint64_t *tokens = r->source_tokens + c * r->sources;
        double sum = 0, max = 0;
        if (r->call[c].whole || (!incomplete && !r->call[c].complete))
            continue;
        for (uint32_t i = 0; i < r->sources; i++) {
            sum += (double)tokens[i];
            max = fmax(max, (double)tokens[i]);
        }
        if (!(sum > 0))
            continue;
        double skew = max * r->sources / sum;
        l->source_call += skew;
        l->source_max = fmax(l->source_max, skew);
        calls++;
    }
    l->sources = calls ? r->sources : 0;
    l->source_call = calls ? l->source_call / (double)calls : NAN;
    if (!calls)
        l->source_max = NAN;
}

static int curve_of(struct skew_router_layer *l, const struct skew_series *s,
                    struct skew_floors *floors)
{
    uint32_t experts = l->routing->experts;
    int result = 0;

    l->point = calloc(64, sizeof *l->point); /* more divisors than any sensible number has */
    if (!l->point)
        return -ENOMEM;
    for (uint32_t ranks = 2; ranks <= experts && l->points < 64 && result == 0; ranks++)
        if (experts % ranks == 0)
            result =
                skew_router_point_of(&l->point[l->points++], l->routing, s, ranks, l->topk, floors);
    return result;
}

static int levels_of(struct job *job, struct skew_router_layer *l, const struct skew_series *s,
                     size_t index)
{
    const struct skew_routing_layer *r = l->routing;
    double *clusters = NULL;
    struct skew_level_input in = {.loads = s->counts,
                                  .rows = s->rows,
                                  .items = r->experts,
                                  .experts = r->experts,
                                  .topk = l->topk,
                                  .unit = 1,
                                  .level = job->router->level};

    if (r->requests) {
        clusters = malloc(r->requests * r->experts * sizeof *clusters);
        if (!clusters)
            return -ENOMEM;
        for (size_t i = 0; i < r->requests * r->experts; i++)
            clusters[i] = (double)r->request_counts[i];
        in.clusters = clusters;
        in.cluster_rows = r->requests;
    }
    int result = skew_level_of(&l->expert, &in, job->floors);
    free(clusters);
    if (result < 0 || l->ranks == 0)
        return result;
    double *loads = rank_loads(l, s);
    if (!loads)
        return -ENOMEM;
    in.loads = loads;
    in.items = l->ranks;
    in.clusters = NULL;
    if (r->experts % l->ranks) /* spread with replicas: no floor for that */
        in.topk = 0;
    result = skew_level_of(&l->rank, &in, job->floors);
    if (result == 0 && r->experts % l->ranks == 0)
        result = skew_router_split_of(l, s, loads, job->router->level);
    job->calls[index] = loads;
    job->pooled[index] = calloc(l->ranks, sizeof(double));
    if (!job->pooled[index])
        return -ENOMEM;
    for (size_t t = 0; t < s->rows; t++)
        for (uint32_t i = 0; i < l->ranks; i++)
            job->pooled[index][i] += loads[t * l->ranks + i];
    return result;
}

static int analyse_layer(struct job *job, size_t index)
{
    struct skew_router_layer *l = &job->router->layer[index];
    const struct skew_router_options *o = job->options;
    const struct skew_routing_layer *r = l->routing;
    struct skew_series series;
    int result = skew_series_of(&series, r, o->by, !o->incomplete);

    l->adjusted_beyond = l->adjusted_persistent = NAN;
    if (result == -ENOENT) {
        l->why = o->by == SKEW_BY_REQUEST ? "requests are not known"
                                          : "of every call the counts of some ranks are missing";
        return 0;
    }
    if (result < 0)
        return result;
    l->calls = series.rows;
    l->topk = r->topk ? r->topk : o->topk;
    /* For as many copies of tokens, CV0² = (E − k) / copies: k = 1 gives the most that chance can
     * do. */
    l->topk_assumed = l->topk == 0 && !r->physical;
    if (l->topk_assumed)
        l->topk = 1;
    if (l->topk > r->experts || r->physical)
        l->topk = 0;
    l->ranks = o->ranks ? o->ranks : r->ranks;
    if (!can_spread(r, l->ranks))
        l->ranks = 0;
    result = levels_of(job, l, &series, index);
    if (result == -EINVAL) {
        l->why = "no token was routed";
        result = 0;
    }
    if (result == 0 && !l->why)
        sources_of(l, o->incomplete);
    if (result == 0 && !l->why && o->curve && !r->physical)
        result = curve_of(l, &series, job->floors);
    skew_series_free(&series);
    return result;
}

static void *worker(void *context)
{
    struct job *job = context;
    size_t i;

    while ((i = atomic_fetch_add(&job->next, 1)) < job->router->layers) {
        int result = analyse_layer(job, i);
        if (result < 0)
            atomic_store(&job->result, result);
    }
    return NULL;
}

static int analyse_all(struct job *job, unsigned threads)
{
    enum { THREADS_MAX = 16 };
    pthread_t started[THREADS_MAX];
    unsigned count = 0;

    if (threads == 0)
        threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    while (count + 1 < threads && count < THREADS_MAX && count + 1 < job->router->layers &&
           pthread_create(&started[count], NULL, worker, job) == 0)
        count++;
    worker(job);
    while (count > 0)
        pthread_join(started[--count], NULL);
    return job->result;
}

/* ---- all layers ------------------------------------------------------------------------------ */

static int balance(struct job *job)
{
    struct skew_router *r = job->router;
    uint32_t ranks = 0;
    size_t rows = 0, calls = 0;
    bool alike = true;

    for (size_t i = 0; i < r->layers; i++) {
        if (!job->pooled[i])
            continue;
        alike &= ranks == 0 || ranks == r->layer[i].ranks;
        ranks = r->layer[i].ranks;
        rows++;
        calls += r->layer[i].calls;
    }
    for (int f = 0; f < SKEW_BALANCE_COUNT; f++)
        r->balancedness[f] = r->balancedness_call[f] = NAN;
    if (!rows || !alike)
        return 0;
    double *pooled = malloc(rows * ranks * sizeof *pooled);
    double *each = malloc(calls * ranks * sizeof *each);
    size_t at = 0, call = 0;
    for (size_t i = 0; i < r->layers && pooled && each; i++) {
        if (!job->pooled[i])
            continue;
        memcpy(pooled + at++ * ranks, job->pooled[i], ranks * sizeof *pooled);
        memcpy(each + call * ranks, job->calls[i], r->layer[i].calls * ranks * sizeof *each);
        call += r->layer[i].calls;
    }
    for (int f = 0; f < SKEW_BALANCE_COUNT && pooled && each; f++) {
        r->balancedness[f] = skew_balancedness((enum skew_balancedness)f, pooled, rows, ranks);
        r->balancedness_call[f] = skew_balancedness((enum skew_balancedness)f, each, calls, ranks);
    }
    int result = pooled && each ? 0 : -ENOMEM;
    free(pooled);
    free(each);
    return result;
}

/* Which layers are beyond chance: a family of tests each for "independent tokens, uniform routing"
 * and for "nothing persists". */
static int judge(struct skew_router *r)
{
    double *p = malloc((r->layers + 1) * 4 * sizeof *p);
    double *adjusted = p + (r->layers + 1) * 2;
    int result = p ? 0 : -ENOMEM;

    if (result < 0)
        return result;
    for (size_t i = 0; i < r->layers; i++) {
        struct skew_router_layer *l = &r->layer[i];
        p[i] = l->why ? NAN : l->expert.p_beyond;
        p[r->layers + i] = l->why ? NAN : l->expert.p_persistent;
    }
    result = skew_holm(p, r->layers, adjusted);
    if (result == 0)
        result = skew_holm(p + r->layers, r->layers, adjusted + r->layers);
    for (size_t i = 0; i < r->layers && result == 0; i++) {
        struct skew_router_layer *l = &r->layer[i];
        l->adjusted_beyond = adjusted[i];
        l->adjusted_persistent = adjusted[r->layers + i];
        l->persistent = l->adjusted_persistent < 1 - r->level;
        l->beyond_chance = l->persistent || l->adjusted_beyond < 1 - r->level;
        r->tested |= !isnan(adjusted[i]) || !isnan(adjusted[r->layers + i]);
        r->beyond_chance |= l->beyond_chance;
        r->persistent |= l->persistent;
        skew_router_attribute(l);
    }
    free(p);
    return result;
}

int skew_router_analyse(struct skew_router **out, const struct skew_routing *routing,
                        const struct skew_router_options *options)
{
    size_t count;
    const struct skew_routing_layer *const *layers = skew_routing_layers(routing, &count);
    struct skew_router *r = calloc(1, sizeof *r);
    struct job job = {.router = r, .options = options};
    int result = -ENOMEM;

    *out = NULL;
    if (!r)
        return -ENOMEM;
    r->level = options->level > 0 ? options->level : 0.95;
    r->layer = calloc(count + 1, sizeof *r->layer);
    job.pooled = calloc(count + 1, sizeof *job.pooled);
    job.calls = calloc(count + 1, sizeof *job.calls);
    if (!r->layer || !job.pooled || !job.calls || skew_floors_create(&job.floors) < 0)
        goto out;
    r->layers = count;
    for (size_t i = 0; i < count; i++)
        r->layer[i].routing = layers[i];
    result = analyse_all(&job, options->threads);
    if (result == 0)
        result = balance(&job);
    if (result == 0)
        result = judge(r);

out:
    for (size_t i = 0; i < count; i++) {
        if (job.pooled)
            free(job.pooled[i]);
        if (job.calls)
            free(job.calls[i]);
    }
    free(job.pooled);
    free(job.calls);
    skew_floors_free(&job.floors);
    if (result < 0)
        skew_router_free(&r);
    *out = r;
    return result;
}

void skew_router_free(struct skew_router **router)
{
    struct skew_router *r = *router;

    *router = NULL;
    if (!r)
        return;
    for (size_t i = 0; i < r->layers; i++)
        free(r->layer[i].point);
    free(r->layer);
    free(r);
}
