/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where tokens go. A routing is a pure function of (step, micro-batch, layer, world rank, token):
 * any rank can ask for any other's, which is what makes checking possible. docs/workload.md says
 * exactly how each source maps these coordinates, so that an independent program can recompute
 * them. Read-only after it is opened: ranks share it without locks.
 */
#ifndef SKEW_WORKLOAD_ROUTING_H
#define SKEW_WORKLOAD_ROUTING_H

#include <stddef.h>
#include <stdint.h>

#include "options.h"

struct skew_routing;

/* A kind of routing. `state` is its own; `open` may fill options left at 0 from what its file says.
 */
struct skew_routing_kind {
    const char *name;
    int from_file; /* opt's sizes may be 0 at open, which must settle them */
    /* `arg`: the text after ':' in --routing, or NULL. 0 or a negative errno with a sentence. */
    int (*open)(struct skew_routing *r, struct skew_options *opt, const char *arg, char *error,
                size_t error_size);
    void (*close)(struct skew_routing *r);
    unsigned (*tokens)(const struct skew_routing *r, unsigned block, unsigned rank);
    void (*fill)(const struct skew_routing *r, unsigned block, unsigned layer, unsigned rank,
                 uint16_t *ids);
};

struct skew_routing {
    const struct skew_routing_kind *kind;
    const struct skew_options *opt; /* borrowed; final once opened */
    unsigned max_blocks;            /* micro-batches that the source holds; 0: no end */
    int ragged_end;   /* the last blocks may be short or empty: all steps use up all */
    char source[256]; /* for the report */
    void *state;      /* the kind's own */
};

/**
 * Opens what --routing names and settles experts, topk, layers and steps in `opt`. `extra_steps`
 * are needed beyond --steps (replays of a graph). On failure *out is untouched and `error` holds
 * one sentence.
 */
int skew_routing_open(struct skew_routing **out, struct skew_options *opt, unsigned extra_steps,
                      char *error, size_t error_size);
void skew_routing_close(struct skew_routing **r);

/** Tokens of a world rank in micro-batch `block` of the job: step * micro_batches + micro_batch. */
unsigned skew_routing_tokens(const struct skew_routing *r, unsigned block, unsigned rank);

/** Expert ids, ids[tokens][topk], distinct within a token. */
void skew_routing_fill(const struct skew_routing *r, unsigned block, unsigned layer, unsigned rank,
                       uint16_t *ids);

extern const struct skew_routing_kind skew_routing_uniform, skew_routing_balanced,
    skew_routing_zipf, skew_routing_hot_expert, skew_routing_hot_rank, skew_routing_bursts,
    skew_routing_npy, skew_routing_counts;

#endif
