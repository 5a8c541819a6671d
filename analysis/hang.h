/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a job stands still: which rank never came, which sizes do not agree, who was killed; from
 * what was called, not from times.
 */
#ifndef SKEW_HANG_H
#define SKEW_HANG_H

#include "match.h"

enum skew_hang_kind {
    SKEW_HANG_SIZE,   /* sender and receiver do not agree on a size */
    SKEW_HANG_ABSENT, /* others wait for a rank that did not come to an exchange */
    SKEW_HANG_BEHIND, /* a rank did not come to a collective that others called */
    SKEW_HANG_DIFFERS /* ranks called different collectives, or with different counts */
};

/** A place in a program and what was called there. */
struct skew_hang_call {
    uint32_t trace;
    int64_t site; /* site_id there; 0: not known */
    int64_t seq;  /* of the exchange or operation on its communicator; −1: none */
    int32_t op;   /* enum skew_op; −1: none */
    int32_t dtype;
    int64_t count; /* of operations */
};

struct skew_hang_finding {
    enum skew_hang_kind kind;
    const struct skew_comm *comm;      /* of a database that has it */
    const struct skew_member *suspect; /* ABSENT, BEHIND, DIFFERS: the rank; SIZE: the receiver */
    const struct skew_member
        *witness;     /* the first rank that waits for it, or differs; SIZE: the sender */
    uint64_t waiting; /* ranks that wait */
    uint64_t sent_bytes,
        expected_bytes; /* SIZE; ABSENT: what the witness sends to it and expects from it */
    uint64_t nth;       /* SIZE: ordinal among the sends of this pair */
    struct skew_hang_call witness_call; /* that nothing answers */
    struct skew_hang_call
        suspect_call; /* SIZE, DIFFERS: its side; else the last it made on this communicator */
    struct skew_hang_call suspect_last; /* the last that its process made on any communicator */
    int64_t suspect_last_comm;          /* comm_id there; 0: none */
    const char
        *suspect_ended; /* process.ended: running, exited, killed, unknown; NULL: not known */
};

struct skew_hang {
    struct skew_hang_finding *findings; /* the most telling first; owned */
    size_t count;
    uint64_t mismatched_edges;
};

/** @return 0 (no findings: everything met), or a negative errno with `error` set. Strings live as
 * long as the traces; free with skew_hang_free(). */
int skew_hang_find(struct skew_hang *hang, struct skew_trace *const *traces, size_t count,
                   struct skew_error *error);
void skew_hang_free(struct skew_hang *hang);

#endif
