/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the tap share: tap.c (which calls, in which group), tap_shape.c (what looks
 * like a count exchange, and like counts), tap_copy.c (pinned memory, copies behind the call, their
 * arrival).
 */
#ifndef SKEW_INTERPOSE_TAP_PRIVATE_H
#define SKEW_INTERPOSE_TAP_PRIVATE_H

#include "internal.h"

#define SKEW_TAP_CALLS_MAX 64u /* candidates of one group */

/* A call that looked like a count exchange by its arguments alone. */
struct skew_tap_call {
    ncclComm_t handle;
    cudaStream_t stream;
    const void *send, *recv;
    uint64_t count;
    uint32_t op, arg, place;
    int32_t dtype;
};

/* The sends and receives of one group, as long as they are one contiguous array each way with a
 * cell of `count` elements for each peer in order. */
struct skew_tap_pairs {
    ncclComm_t handle;
    cudaStream_t stream;
    const uint8_t *send, *recv; /* of peer 0 */
    uint64_t count;
    uint32_t sends, recvs;
    int32_t dtype;
    bool broken; /* they are not */
};

/* What the open group of a thread holds for the tap. Belongs to the thread. */
struct skew_tap_group {
    uint32_t calls;
    struct skew_tap_pairs pairs;
    struct skew_tap_call call[SKEW_TAP_CALLS_MAX];
};

/* One buffer to copy, and what its record will say. `rec.elements` of `rec.dtype` at `source`. */
struct skew_tap_request {
    struct skew_rec_tap rec;
    const void *source;
    cudaStream_t stream;
    uint32_t
        op; /* with comm, dtype and count: the shape by which implausible ones are remembered */
    int32_t device; /* of the communicator; negative: not known */
};

#pragma GCC visibility push(hidden)

/* ---- tap_shape.c: no state ---- */
unsigned skew_tap_element(int dtype); /* bytes; 0: not one of the tap's */
/** @param arg  root or reduction. @return enum skew_tap_shape: what kind of count exchange a
 * collective may be. */
enum skew_tap_shape skew_tap_shape_of(uint32_t op, int dtype, uint64_t count, uint32_t arg,
                                      int ranks);
/** Adds a send or receive. */
void skew_tap_pairs_add(struct skew_tap_pairs *pairs, bool send, const void *buffer, uint64_t count,
                        int dtype, uint32_t peer, ncclComm_t handle, cudaStream_t stream);
bool skew_tap_pairs_whole(const struct skew_tap_pairs *pairs, int ranks);
/** Whether values can be what their shape says: whole numbers from 0 to 2^40; a map of zeros and
 * ones. */
bool skew_tap_plausible(enum skew_tap_shape shape, int dtype, const void *values,
                        uint32_t elements);

/* ---- tap_copy.c ---- */
void skew_tap_copy(struct skew_process *proc, const struct skew_tap_request *request);
void skew_tap_count(struct skew_process *proc, enum skew_tap_count_what what, uint64_t bytes);

#pragma GCC visibility pop

#endif
