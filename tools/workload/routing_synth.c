/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Synthetic routings: uniform, balanced, Zipf, one hot expert, one hot rank, bursts. Each token
 * draws its K distinct experts from its own random stream, in whole numbers only
 * (docs/workload.md).
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rng.h"
#include "routing.h"
#include "serve.h"

#define KEY_PERMUTATION 0x7065726dULL /* "perm" */
#define REDRAWS         64

struct synth {
    uint64_t *cumulative; /* [layers][experts + 1] weights; NULL: all equal */
    uint16_t *order;      /* [layers][experts]: each layer's own order of the experts */
    uint64_t hot_below;   /* of 2^53: how often a token takes the hot expert */
    unsigned period, length;
};

static struct synth *synth_of(const struct skew_routing *r)
{
    return r->state;
}

static void synth_close(struct skew_routing *r)
{
    struct synth *s = r->state;
    free(s->cumulative);
    free(s->order);
    free(s);
}

static int out_of_memory(char *error, size_t size)
{
    snprintf(error, size, "out of memory for the routing");
    return -ENOMEM;
}

static struct synth *synth_new(struct skew_routing *r)
{
    const struct skew_options *opt = r->opt;
    struct synth *s = r->state = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->order = malloc(sizeof *s->order * opt->layers * opt->experts);
    if (!s->order)
        return NULL;
    for (unsigned layer = 0; layer < opt->layers; layer++) {
        uint16_t *order = s->order + (size_t)layer * opt->experts;
        const uint64_t key[] = {KEY_PERMUTATION, layer};
        struct skew_rng rng = skew_rng_of(opt->seed, key, 2);
        for (unsigned e = 0; e < opt->experts; e++)
            order[e] = (uint16_t)e;
        for (unsigned i = opt->experts - 1; i > 0; i--) {
            unsigned j = (unsigned)skew_rng_below(&rng, i + 1);
            uint16_t swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
    }
    return s;
}

static int parse_real(const char *arg, double low, double high, double *out, const char *what,
                      char *error, size_t size)
{
    char *end = NULL;
    double v = arg ? strtod(arg, &end) : 0;
    if (arg && end != arg && !*end && v >= low && v <= high) {
        *out = v;
        return 0;
    }
    snprintf(error, size, "--routing: %s needs a number from %g to %g after the colon, as in %s",
             what, low, high, what);
    return -EINVAL;
}

static int uniform_open(struct skew_routing *r, struct skew_options *opt, const char *arg,
                        char *error, size_t size)
{
    (void)opt;
    if (arg) {
        snprintf(error, size, "--routing: uniform and balanced take no argument, not '%s'", arg);
        return -EINVAL;
    }
    return synth_new(r) ? 0 : out_of_memory(error, size);
}

/* Turns weights[layers][experts] into running sums, in place; entry 0 of each layer is 0. */
static void accumulate(struct synth *s, const struct skew_options *opt)
{
    for (unsigned layer = 0; layer < opt->layers; layer++) {
        uint64_t *sum = s->cumulative + (size_t)layer * (opt->experts + 1);
        for (unsigned e = 0; e < opt->experts; e++)
            sum[e + 1] += sum[e];
    }
}

static int weights_new(struct synth *s, const struct skew_options *opt)
{
    s->cumulative = calloc((size_t)opt->layers * (opt->experts + 1), sizeof *s->cumulative);
    return s->cumulative ? 0 : -ENOMEM;
}

static int zipf_open(struct skew_routing *r, struct skew_options *opt, const char *arg, char *error,
                     size_t size)
{
    double exponent;
    int rc = parse_real(arg, 0, 10, &exponent, "zipf:1.2", error, size);
    if (rc)
        return rc;
    struct synth *s = synth_new(r);
    if (!s || weights_new(s, opt))
        return out_of_memory(error, size);
    for (unsigned layer = 0; layer < opt->layers; layer++) {
        uint64_t *weight = s->cumulative + (size_t)layer * (opt->experts + 1) + 1;
        for (unsigned i = 0; i < opt->experts; i++) {
            uint64_t w = (uint64_t)(4294967296.0 * pow(i + 1.0, -exponent));
            weight[s->order[(size_t)layer * opt->experts + i]] = w ? w : 1;
        }
    }
    accumulate(s, opt);
    return 0;
}

static int hot_rank_open(struct skew_routing *r, struct skew_options *opt, const char *arg,
                         char *error, size_t size)
{
    double p;
    int rc = parse_real(arg, 0, 1, &p, "hot-rank:0.5", error, size);
    if (rc)
        return rc;
    struct synth *s = synth_new(r);
    if (!s || weights_new(s, opt))
        return out_of_memory(error, size);
    unsigned ep = opt->ranks / opt->ep_groups, g = opt->experts / ep, others = opt->experts - g;
    unsigned first = (unsigned)(opt->seed % ep) * g;
    uint64_t hot = (uint64_t)(4294967296.0 * p / g);
    uint64_t cold = others ? (uint64_t)(4294967296.0 * (1 - p) / others) : 1;
    for (unsigned layer = 0; layer < opt->layers; layer++) {
        uint64_t *weight = s->cumulative + (size_t)layer * (opt->experts + 1) + 1;
        for (unsigned e = 0; e < opt->experts; e++) {
            uint64_t w = e >= first && e < first + g ? hot : cold;
            weight[e] = w ? w : 1;
        }
    }
    accumulate(s, opt);
    return 0;
}

static int hot_expert_open(struct skew_routing *r, struct skew_options *opt, const char *arg,
                           char *error, size_t size)
{
    double p;
    int rc = parse_real(arg, 0, 1, &p, "hot-expert:0.5", error, size);
    if (rc)
        return rc;
    (void)opt;
    struct synth *s = synth_new(r);
    if (!s)
        return out_of_memory(error, size);
    s->hot_below = (uint64_t)(p * 9007199254740992.0);
    s->period = s->length = 0;
    return 0;
}

static int bursts_open(struct skew_routing *r, struct skew_options *opt, const char *arg,
                       char *error, size_t size)
{
    double p = 0.5;
    unsigned period = 8, length = 2;
    char tail;
    if (arg && (sscanf(arg, "%lf:%u:%u%c", &p, &period, &length, &tail) < 1 || p < 0 || p > 1 ||
                !period || length > period)) {
        snprintf(
            error, size,
            "--routing: bursts takes P:PERIOD:LENGTH (0 <= P <= 1, LENGTH <= PERIOD), not '%s'",
            arg);
        return -EINVAL;
    }
    (void)opt;
    struct synth *s = synth_new(r);
    if (!s)
        return out_of_memory(error, size);
    s->hot_below = (uint64_t)(p * 9007199254740992.0);
    s->period = period;
    s->length = length;
    return 0;
}

static unsigned synth_tokens(const struct skew_routing *r, unsigned block, unsigned rank)
{
    const struct skew_options *opt = r->opt;
    (void)block;
    return skew_serve_tokens(opt, block / opt->micro_batches, rank) -
           (unsigned)(opt->tokens_spread * opt->tokens * rank / opt->ranks);
}

static unsigned draw(const struct synth *s, const struct skew_options *opt, unsigned layer,
                     struct skew_rng *rng)
{
    if (!s->cumulative)
        return (unsigned)skew_rng_below(rng, opt->experts);
    const uint64_t *sum = s->cumulative + (size_t)layer * (opt->experts + 1);
    uint64_t u = skew_rng_below(rng, sum[opt->experts]);
    unsigned low = 0, high = opt->experts - 1; /* the expert e with sum[e] <= u < sum[e + 1] */
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (u < sum[mid + 1])
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

static int is_taken(const uint16_t *ids, unsigned n, unsigned expert)
{
    for (unsigned i = 0; i < n; i++)
        if (ids[i] == expert)
            return 1;
    return 0;
}

/* The hot expert of a micro-batch, or -1. */
static int hot_expert(const struct skew_routing *r, unsigned block, unsigned layer)
{
    const struct synth *s = synth_of(r);
    const struct skew_options *opt = r->opt;
    unsigned step = block / opt->micro_batches;
    const uint16_t *order = s->order + (size_t)layer * opt->experts;
    if (!s->hot_below)
        return -1;
    if (!s->period)
        return order[0];
    return step % s->period < s->length ? order[step / s->period % opt->experts] : -1;
}

static void fill_token(const struct skew_routing *r, unsigned layer, int hot, struct skew_rng *rng,
                       uint16_t *ids)
{
    const struct skew_options *opt = r->opt;
    const struct synth *s = synth_of(r);
    unsigned n = 0;
    if (hot >= 0) {
        int take = skew_rng_next(rng) >> 11 < s->hot_below;
        if (take || opt->topk == opt->experts)
            ids[n++] = (uint16_t)hot;
    }
    while (n < opt->topk) {
        unsigned expert = draw(s, opt, layer, rng);
        for (unsigned i = 0; i < REDRAWS && (is_taken(ids, n, expert) || (int)expert == hot); i++)
            expert = draw(s, opt, layer, rng);
        while (is_taken(ids, n, expert) || (int)expert == hot)
            expert = (expert + 1) % opt->experts;
        ids[n++] = (uint16_t)expert;
    }
}

static void synth_fill(const struct skew_routing *r, unsigned block, unsigned layer, unsigned rank,
                       uint16_t *ids)
{
    unsigned tokens = synth_tokens(r, block, rank);
    int hot = hot_expert(r, block, layer);
    for (unsigned t = 0; t < tokens; t++) {
        const uint64_t key[] = {block, layer, rank, t};
        struct skew_rng rng = skew_rng_of(r->opt->seed, key, 4);
        fill_token(r, layer, hot, &rng, ids + (size_t)t * r->opt->topk);
    }
}

/* Experts in turn, as frameworks route when they are told to balance by force. */
static void balanced_fill(const struct skew_routing *r, unsigned block, unsigned layer,
                          unsigned rank, uint16_t *ids)
{
    size_t choices = (size_t)synth_tokens(r, block, rank) * r->opt->topk;

    (void)layer;
    for (size_t i = 0; i < choices; i++)
        ids[i] = (uint16_t)(i % r->opt->experts);
}

#define SYNTHETIC(variable, text, open)                                                            \
    const struct skew_routing_kind variable = {text, 0, open, synth_close, synth_tokens, synth_fill}

SYNTHETIC(skew_routing_uniform, "uniform", uniform_open);
const struct skew_routing_kind skew_routing_balanced = {
    "balanced", 0, uniform_open, synth_close, synth_tokens, balanced_fill};
SYNTHETIC(skew_routing_zipf, "zipf", zipf_open);
SYNTHETIC(skew_routing_hot_expert, "hot-expert", hot_expert_open);
SYNTHETIC(skew_routing_hot_rank, "hot-rank", hot_rank_open);
SYNTHETIC(skew_routing_bursts, "bursts", bursts_open);
