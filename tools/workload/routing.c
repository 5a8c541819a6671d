/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens a routing by name and settles the sizes that it and the command line have to agree on. Runs
 * in the launching process before any rank starts.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "routing.h"

static const struct skew_routing_kind *const kinds[] = {
    &skew_routing_uniform,  &skew_routing_balanced, &skew_routing_zipf, &skew_routing_hot_expert,
    &skew_routing_hot_rank, &skew_routing_bursts,   &skew_routing_npy,  &skew_routing_counts,
};

static int find_kind(const struct skew_options *opt, const struct skew_routing_kind **kind,
                     const char **arg, char *error, size_t error_size)
{
    size_t len = strcspn(opt->routing, ":");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strlen(kinds[i]->name) == len && !strncmp(kinds[i]->name, opt->routing, len)) {
            *kind = kinds[i];
            *arg = opt->routing[len] ? opt->routing + len + 1 : NULL;
            return 0;
        }
    }
    snprintf(error, error_size,
             "--routing: '%s' is none of uniform, zipf:S, hot-expert:P, hot-rank:P, bursts, "
             "npy:FILE, counts:FILE",
             opt->routing);
    return -EINVAL;
}

static int settle_steps(const struct skew_routing *r, struct skew_options *opt, unsigned extra,
                        char *error, size_t size)
{
    unsigned m = opt->micro_batches;
    if (!r->max_blocks) {
        if (opt->steps != SKEW_STEPS_ALL)
            return 0;
        snprintf(error, size, "--steps: 'all' needs a routing file; %s has no end", opt->routing);
        return -EINVAL;
    }
    unsigned most = r->ragged_end ? (r->max_blocks + m - 1) / m : r->max_blocks / m;
    if (opt->steps == SKEW_STEPS_ALL && most >= extra)
        opt->steps = most - extra;
    if (opt->steps > most || opt->steps + extra > most || !most) {
        snprintf(error, size,
                 "--steps: %s holds %u steps of %u micro-batch(es) with --tokens %u; --steps and "
                 "--graph ask for more",
                 r->source, most, m, opt->tokens);
        return -EINVAL;
    }
    return 0;
}

static int settle_sizes(struct skew_options *opt, char *error, size_t size)
{
    opt->experts = opt->experts ? opt->experts : 8;
    opt->topk = opt->topk ? opt->topk : 2;
    opt->layers = opt->layers ? opt->layers : 2;
    if (opt->topk <= opt->experts)
        return 0;
    snprintf(error, size, "--topk: a token cannot have %u distinct experts of %u", opt->topk,
             opt->experts);
    return -EINVAL;
}

int skew_routing_open(struct skew_routing **out, struct skew_options *opt, unsigned extra_steps,
                      char *error, size_t error_size)
{
    const char *arg = NULL;
    struct skew_routing *r = calloc(1, sizeof *r);
    if (!r) {
        snprintf(error, error_size, "out of memory");
        return -ENOMEM;
    }
    int rc = find_kind(opt, &r->kind, &arg, error, error_size);
    if (!rc) {
        r->opt = opt;
        snprintf(r->source, sizeof r->source, "%s", opt->routing);
        rc = r->kind->from_file ? 0 : settle_sizes(opt, error, error_size);
        if (!rc)
            rc = r->kind->open(r, opt, arg, error, error_size);
    }
    if (!rc)
        rc = settle_steps(r, opt, extra_steps, error, error_size);
    if (rc) {
        skew_routing_close(&r);
        return rc;
    }
    *out = r;
    return 0;
}

void skew_routing_close(struct skew_routing **r)
{
    if (!*r)
        return;
    if ((*r)->kind && (*r)->kind->close && (*r)->state)
        (*r)->kind->close(*r);
    free(*r);
    *r = NULL;
}

unsigned skew_routing_tokens(const struct skew_routing *r, unsigned block, unsigned rank)
{
    return r->kind->tokens(r, block, rank);
}

void skew_routing_fill(const struct skew_routing *r, unsigned block, unsigned layer, unsigned rank,
                       uint16_t *ids)
{
    r->kind->fill(r, block, layer, rank, ids);
}
