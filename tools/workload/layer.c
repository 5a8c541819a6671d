/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks the routing for every source rank of the EP group and sorts the rows. Belongs to one rank.
 */
#include <stdlib.h>
#include <string.h>

#include "layer.h"
#include "placement.h"
#include "routing.h"

unsigned skew_rank_experts(const struct skew_rank *rank)
{
    return rank->job->placement->per_rank;
}

unsigned skew_rank_world_of(const struct skew_rank *rank, unsigned ep_rank)
{
    return rank->ep_group * rank->job->ep_size + ep_rank;
}

uint32_t skew_layer_start(const struct skew_rank *rank, unsigned source, unsigned physical)
{
    return rank->layer->start[(size_t)source * (rank->job->opt->experts + 1) + physical];
}

uint32_t skew_layer_count(const struct skew_rank *rank, unsigned source, unsigned physical)
{
    return skew_layer_start(rank, source, physical + 1) - skew_layer_start(rank, source, physical);
}

uint32_t skew_layer_rows_between(const struct skew_rank *rank, unsigned source, unsigned dest)
{
    unsigned g = skew_rank_experts(rank);
    return skew_layer_start(rank, source, (dest + 1) * g) -
           skew_layer_start(rank, source, dest * g);
}

static struct skew_layer *layer_new(unsigned sources, unsigned experts)
{
    struct skew_layer *l = skew_xrealloc(NULL, sizeof *l);
    memset(l, 0, sizeof *l);
    l->tokens = skew_xrealloc(NULL, sources * sizeof *l->tokens);
    l->ids = skew_xrealloc(NULL, sources * sizeof *l->ids);
    l->row = skew_xrealloc(NULL, sources * sizeof *l->row);
    memset(l->ids, 0, sources * sizeof *l->ids);
    memset(l->row, 0, sources * sizeof *l->row);
    l->start = skew_xrealloc(NULL, (size_t)sources * (experts + 1) * sizeof *l->start);
    return l;
}

void skew_layer_free(struct skew_rank *rank)
{
    struct skew_layer *l = rank->layer;
    if (!l)
        return;
    for (unsigned s = 0; s < rank->job->ep_size; s++) {
        free(l->ids[s]);
        free(l->row[s]);
    }
    free(l->tokens);
    free(l->ids);
    free(l->row);
    free(l->start);
    free(l);
    rank->layer = NULL;
}

/* A counting sort by physical expert, which keeps the tokens' order. */
static void sort_rows(struct skew_layer *l, unsigned source, const uint16_t *physical,
                      const struct skew_options *opt)
{
    uint32_t *start = l->start + (size_t)source * (opt->experts + 1);
    const uint16_t *ids = l->ids[source];
    size_t n = (size_t)l->tokens[source] * opt->topk;
    memset(start, 0, (opt->experts + 1) * sizeof *start);
    for (size_t i = 0; i < n; i++)
        start[physical[ids[i]] + 1]++;
    for (unsigned p = 0; p < opt->experts; p++)
        start[p + 1] += start[p];
    for (size_t i = 0; i < n; i++) {
        uint32_t at = start[physical[ids[i]]]++;
        l->row[source][at] =
            (struct skew_row){(uint32_t)(i / opt->topk), ids[i], (uint8_t)(i % opt->topk)};
    }
    memmove(start + 1, start, opt->experts * sizeof *start); /* each had moved to its own end */
    start[0] = 0;
}

void skew_layer_load(struct skew_rank *rank, const struct skew_at *at)
{
    const struct skew_options *opt = rank->job->opt;
    unsigned block = at->step * opt->micro_batches + at->micro_batch;
    if (!rank->layer)
        rank->layer = layer_new(rank->job->ep_size, opt->experts);
    struct skew_layer *l = rank->layer;
    if (l->loaded && l->step == at->step && l->micro_batch == at->micro_batch &&
        l->layer == at->layer)
        return;
    for (unsigned s = 0; s < rank->job->ep_size; s++) {
        unsigned world = skew_rank_world_of(rank, s);
        l->tokens[s] = skew_routing_tokens(rank->job->routing, block, world);
        size_t n = (size_t)l->tokens[s] * opt->topk;
        l->ids[s] = skew_xrealloc(l->ids[s], n * sizeof **l->ids);
        l->row[s] = skew_xrealloc(l->row[s], n * sizeof **l->row);
        skew_routing_fill(rank->job->routing, block, at->layer, world, l->ids[s]);
        sort_rows(l, s, skew_placement_physical(rank->job->placement, at->layer), opt);
    }
    l->loaded = true;
    l->step = at->step;
    l->micro_batch = at->micro_batch;
    l->layer = at->layer;
}
