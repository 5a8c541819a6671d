/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An exchange as data: the NCCL calls to make, the bytes to send and the bytes that must arrive.
 * The patterns fill it; running it uploads, calls NCCL, downloads and compares. When a graph is
 * recorded the same exchange is only prepared, and its calls are made once under capture.
 *
 *   x = skew_exchange_open(…); fill x->send.data and x->expect.data; skew_exchange_call(x, …) …;
 *   skew_exchange_run(rank, x); then skew_exchange_received(x)
 */
#ifndef SKEW_WORKLOAD_EXCHANGE_H
#define SKEW_WORKLOAD_EXCHANGE_H

#include "workload.h"

enum skew_call_kind {
    SKEW_CALL_GROUP_START,
    SKEW_CALL_GROUP_END,
    SKEW_CALL_SEND,
    SKEW_CALL_RECV,
    SKEW_CALL_ALLTOALL,
    SKEW_CALL_ALLGATHER,
    SKEW_CALL_ALLREDUCE,
    SKEW_CALL_REDUCESCATTER,
    SKEW_CALL_BROADCAST,
    SKEW_CALL_REDUCE
};

struct skew_call {
    enum skew_call_kind kind;
    unsigned peer; /* or root */
    ncclDataType_t type;
    ncclRedOp_t redop;
    size_t count;            /* elements, as NCCL takes them */
    size_t send_at, recv_at; /* offsets into the images, in bytes */
};

struct skew_image {
    uint8_t *data;
    size_t size, room;
};

struct skew_exchange {
    enum skew_role role;
    enum skew_comm_role comm;
    struct skew_at at;
    struct skew_call *calls;
    unsigned n_calls, room_calls;
    struct skew_image send, expect, got;
    bool in_place;      /* sends from where it receives */
    bool expert_groups; /* the i-th group is the i-th local expert's */
    size_t row_bytes;   /* the first rows_bytes of `expect` are rows of this size; 0: no rows */
    size_t rows_bytes;
    void *dev_send, *dev_recv;
    size_t dev_send_room, dev_recv_room;
};

struct skew_exchange *skew_exchange_open(struct skew_rank *rank, enum skew_role role,
                                         enum skew_comm_role comm, const struct skew_at *at,
                                         size_t send_bytes, size_t recv_bytes);
void skew_exchange_call(struct skew_exchange *x, enum skew_call_kind kind, unsigned peer,
                        ncclDataType_t type, size_t count, size_t send_at, size_t recv_at);
/** ncclAlltoAll of `count` elements a peer, or under --alltoall sendrecv the group that it
 * replaces. */
void skew_exchange_alltoall(const struct skew_rank *rank, struct skew_exchange *x,
                            ncclDataType_t type, size_t count);
/** Declares that what arrives is rows. */
void skew_exchange_rows(struct skew_exchange *x, size_t row_bytes);
void skew_exchange_run(struct skew_rank *rank, struct skew_exchange *x);

/** What arrived; while recording, what must arrive. Valid until the next exchange is opened. */
const uint8_t *skew_exchange_received(const struct skew_rank *rank, const struct skew_exchange *x);

const char *skew_call_name(enum skew_call_kind kind);

/* The parts of running, for graph.c. */
void skew_exchange_upload(const struct skew_rank *rank, struct skew_exchange *x);
void skew_exchange_issue(const struct skew_rank *rank, const struct skew_exchange *x);
void skew_exchange_download(const struct skew_rank *rank, struct skew_exchange *x);
void skew_exchange_verify(const struct skew_rank *rank, const struct skew_exchange *x);
void skew_exchange_count(const struct skew_rank *rank, const struct skew_exchange *x);

void skew_exchange_free(const struct skew_rank *rank, struct skew_exchange **x);

#endif
