/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From taps to routing: which copies of small integer buffers (table tap) really are count
 * exchanges, and how many tokens of which rank they give each expert. docs/tap.md explains the
 * shapes.
 *
 * A matrix of counts is trusted only if it explains the payload that follows it on a communicator
 * of the same ranks: for each peer, the counts of that peer's experts times one unit (the bytes of
 * a token, the same for all peers) are exactly the bytes sent to it, and, where the receiving side
 * is known, the bytes received. Everything else is rejected and counted.
 *
 * One trace at a time; reads only. Not shared between threads.
 */
#ifndef SKEW_TAP_H
#define SKEW_TAP_H

#include "label.h"
#include "trace.h"

/** What cannot be told from a trace alone. 0, NULL: take what the trace says. */
struct skew_tap_options {
    uint32_t experts; /* for top-k ids, routing maps and sums over steps: how many there are */
    /* MoE layers of a rank, where a row has no layer by a label: then the n-th call of top-k ids,
     * or map, of a rank is of layer n mod layers and step n / layers. 0: such rows have neither. */
    uint32_t layers;
    /* Of this trace (skew_labels_get()), for steps and layers, and so that recomputed dispatches
     * give no row; borrowed. NULL: none. */
    const struct skew_labels *labels;
};

/** Tokens of one rank by expert: a row of table routing to be. Valid until the next one. */
struct skew_tap_row {
    int64_t exchange; /* the dispatch that it explains; 0: none is in this trace */
    int64_t comm;     /* comm_id of the payload, or of the tap where there is no payload */
    int32_t source;   /* whose tokens; −1: those of all ranks together */
    /* By the label of the exchange, or of the tapped operation; of sums: their ordinal, and the row
     * of the sum. −1, NULL: not told. */
    int64_t step, layer, microbatch;
    const char *stage;
    int64_t ordinal; /* of ids and maps: how many calls with such the rank made before; else −1 */
    uint32_t experts;
    uint32_t topk;   /* 0: not known */
    int64_t tokens;  /* −1: not known */
    bool verified;   /* explains the payload; false: has none to explain */
    const char *how; /* tap allgather, tap sendrecv, tap alltoall, tap broadcast, tap map, tap sum,
                        sizes */
    const uint64_t *counts; /* [experts] */
    uint64_t unit_bytes;    /* bytes of one token in the payload; 0: none, or nothing was sent */
};

/** Takes one row. @return 0, or a negative errno, which ends the pass and is returned from it. */
typedef int skew_tap_fn(void *user, const struct skew_tap_row *row);

/** What came of the taps: calls, not buffers. */
struct skew_tap_summary {
    uint64_t calls;      /* calls of which something was copied */
    uint64_t verified;   /* … whose counts explain a payload */
    uint64_t unverified; /* … accepted without a payload to explain (ids beside their tokens, maps,
                            sums) */
    uint64_t
        rejected; /* … that explain nothing: they were something else, or the payload is not here */
    uint64_t rank_level; /* … that hold one number a rank (Tutel): known from the payload anyway */
    uint64_t redundant;  /* … sums over steps that single calls tell better */
    uint64_t need_experts; /* … maps and sums, with the number of experts unknown */
    uint64_t by_sizes;     /* dispatches whose sizes alone name experts (FastMoE), with no tap */
    uint64_t recomputed; /* … verified, but of a recomputed dispatch by its label: the same tokens
                            again, no row */
    uint64_t rows;
    uint64_t captured; /* buffers that were not copied because of a stream capture */
    uint64_t skipped;  /* … for any other reason; table tap_count tells which */
    /* All-to-alls of equal sizes on communicators of whose ranks no count exchange was seen:
     * capacity-padded dispatch (or sequence parallelism): nothing about routing can be seen in
     * their sizes. */
    uint64_t padded;
    /* Where ranks agreed on a capacity (an all-reduce with max of one integer): tokens of the
     * fullest expert of any one rank. Then the most loaded expert's share of the mean lies between
     * C·E / (R·T·K) and C·E / (T·K) (facts of DeepSpeed's drop_tokens=False). */
    uint64_t capacities;
    int64_t capacity_min, capacity_max; /* 0 when there are none */
};

/**
 * Hands over every row that the trace's taps give, in no particular order.
 * @param options  NULL: nothing is known beside the trace
 * @param summary  filled in on success
 * @return 0, or a negative errno: what `take` returned, else with `error` set.
 */
int skew_tap_reduce(struct skew_trace *trace, const struct skew_tap_options *options,
                    skew_tap_fn *take, void *user, struct skew_tap_summary *summary,
                    struct skew_error *error);

/* ---- the check itself, for tests and for others who have counts -------------------------------
 */

/**
 * Whether counts explain bytes: bytes[p] == unit × Σ counts[p][…] for every peer p.
 * @param counts  [ranks][width]
 * @param bytes   [ranks]
 * @param unit    in: the unit that it must be, or 0 for any; out, when true: the unit, 0 when all
 * is zero
 */
bool skew_tap_explains(const uint64_t *counts, uint32_t ranks, uint32_t width,
                       const uint64_t *bytes, uint64_t *unit);

/** How many tokens each expert gets by a list of ids. false: an id is not below `experts`. */
bool skew_tap_count_ids(const uint64_t *ids, uint32_t count, uint64_t *counts, uint32_t experts);

/**
 * The largest k, at most 64, that divides `count` and for which no block of k ids names an expert
 * twice: a token's choices are distinct. A guess that never is too small.
 */
uint32_t skew_tap_guess_topk(const uint64_t *ids, uint32_t count);

#endif
