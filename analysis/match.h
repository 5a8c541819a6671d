/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which exchanges of different ranks belong together. NCCL's own rule: the n-th send from i to j on
 * a communicator meets the n-th receive of j from i. Ordinals of exchanges do not agree across
 * ranks where ranks leave out empty groups (FastMoE), and a lost record must not shift the rest:
 * what was lost is known by peer (table loss_edge) and leaves gaps.
 *
 * Matching goes over all databases of a trace at once; communicators meet by key. Ranks that are in
 * none of them are left out, and so is what was sent to them.
 */
#ifndef SKEW_MATCH_H
#define SKEW_MATCH_H

#include "trace.h"

/** An exchange of a rank, in one of the databases. */
struct skew_match_exchange {
    uint32_t trace;   /* index of the database */
    int64_t exchange; /* exchange_id there */
    int32_t rank;
    int64_t seq;
};

enum skew_mismatch_kind {
    SKEW_MISMATCH_BYTES, /* the receiver expects another size than is sent */
    SKEW_MISMATCH_SEND,  /* a send that no receive meets */
    SKEW_MISMATCH_RECV   /* a receive that no send meets */
};

/** One edge on which the two sides do not agree. */
struct skew_mismatch {
    enum skew_mismatch_kind kind;
    const char *comm_key; /* borrowed from the first trace that has it */
    uint32_t src, dst;    /* ranks */
    uint64_t nth; /* ordinal of the send among those from src to dst, from 0, lost ones included */
    uint64_t sent_bytes, expected_bytes;
    struct skew_match_exchange send, recv; /* exchange 0: none */
};

/** How far a rank of a communicator has come. */
struct skew_match_member {
    const char *comm_key;
    uint32_t trace;
    const struct skew_member *member; /* borrowed from the trace */
    uint64_t exchanges;
    struct skew_match_exchange last; /* exchange 0: it made none */
    struct skew_match_exchange
        first_unmatched; /* the first with an edge that nothing met; exchange 0: none */
    uint64_t unmatched_sends, unmatched_recvs;
};

struct skew_matches;

/** Matches all communicators. 0 and *out, which the caller frees, or a negative errno with `error`
 * set. */
int skew_matches_find(struct skew_trace *const *traces, size_t count, struct skew_matches **out,
                      struct skew_error *error);
void skew_matches_free(struct skew_matches **matches);

/**
 * The exchanges, of all ranks, that exchange `exchange_id` of database `trace` belongs with, itself
 * included, ordered by rank. Borrowed. `ordinal` (may be NULL): the place of them all in the order
 * of the communicator, from 0, which agrees with every rank's own order.
 * @return how many; 0: no such exchange.
 */
size_t skew_matches_group(const struct skew_matches *matches, uint32_t trace, int64_t exchange_id,
                          const struct skew_match_exchange **group, int64_t *ordinal);

/** Edges on which both sides do not agree, in order of communicator, source, destination and
 * ordinal; at most 10,000 are kept, `total` (may be NULL) counts all. Borrowed. */
const struct skew_mismatch *skew_matches_mismatches(const struct skew_matches *matches,
                                                    size_t *count, uint64_t *total);

/** All ranks of all communicators that are here. Borrowed. */
const struct skew_match_member *skew_matches_members(const struct skew_matches *matches,
                                                     size_t *count);

/** Edges that were met, with equal bytes. */
uint64_t skew_matches_edges(const struct skew_matches *matches);

#endif
