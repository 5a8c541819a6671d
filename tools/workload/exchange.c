/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs exchanges: the only file that calls NCCL's data functions. Belongs to one rank.
 */
#include <stdlib.h>
#include <string.h>

#include "comms.h"
#include "device.h"
#include "exchange.h"
#include "nccl_decls.h"
#include "results.h"
#include "rows.h"
#include "truth.h"

static void image_resize(struct skew_image *image, size_t size)
{
    if (size > image->room || !image->data) {
        image->room = size + size / 4 + 64;
        image->data = skew_xrealloc(image->data, image->room);
    }
    image->size = size;
}

/* The next exchange of the step that is being recorded: a new one at first, then the same again. */
static struct skew_exchange *next_recorded(struct skew_rank *rank)
{
    unsigned n = rank->n_recorded++;
    if (n == rank->room_recorded) {
        rank->room_recorded++;
        rank->recorded = skew_xrealloc(rank->recorded, rank->room_recorded * sizeof(void *));
        rank->recorded[n] = skew_xrealloc(NULL, sizeof(struct skew_exchange));
        memset(rank->recorded[n], 0, sizeof(struct skew_exchange));
    }
    return rank->recorded[n];
}

struct skew_exchange *skew_exchange_open(struct skew_rank *rank, enum skew_role role,
                                         enum skew_comm_role comm, const struct skew_at *at,
                                         size_t send_bytes, size_t recv_bytes)
{
    struct skew_exchange *x;
    if (rank->recording) {
        x = next_recorded(rank);
    } else {
        if (!rank->eager) {
            rank->eager = skew_xrealloc(NULL, sizeof *rank->eager);
            memset(rank->eager, 0, sizeof *rank->eager);
        }
        x = rank->eager;
    }
    x->role = role;
    x->comm = comm;
    x->at = *at;
    x->n_calls = 0;
    x->in_place = x->expert_groups = false;
    x->row_bytes = x->rows_bytes = 0;
    image_resize(&x->send, send_bytes);
    image_resize(&x->expect, recv_bytes);
    image_resize(&x->got, recv_bytes);
    return x;
}

void skew_exchange_call(struct skew_exchange *x, enum skew_call_kind kind, unsigned peer,
                        ncclDataType_t type, size_t count, size_t send_at, size_t recv_at)
{
    if (x->n_calls == x->room_calls) {
        x->room_calls = x->room_calls ? 2 * x->room_calls : 64;
        x->calls = skew_xrealloc(x->calls, x->room_calls * sizeof *x->calls);
    }
    x->calls[x->n_calls++] = (struct skew_call){kind, peer, type, ncclSum, count, send_at, recv_at};
}

void skew_exchange_alltoall(const struct skew_rank *rank, struct skew_exchange *x,
                            ncclDataType_t type, size_t count)
{
    size_t bytes = count * skew_nccl_type_size(type);
    if (rank->job->opt->alltoall == SKEW_ALLTOALL_NATIVE) {
        skew_exchange_call(x, SKEW_CALL_ALLTOALL, 0, type, count, 0, 0);
        return;
    }
    skew_exchange_call(x, SKEW_CALL_GROUP_START, 0, type, 0, 0, 0);
    for (unsigned p = 0; p < rank->comm[x->comm].size; p++) {
        skew_exchange_call(x, SKEW_CALL_SEND, p, type, count, p * bytes, 0);
        skew_exchange_call(x, SKEW_CALL_RECV, p, type, count, 0, p * bytes);
    }
    skew_exchange_call(x, SKEW_CALL_GROUP_END, 0, type, 0, 0, 0);
}

void skew_exchange_rows(struct skew_exchange *x, size_t row_bytes)
{
    x->row_bytes = row_bytes;
    x->rows_bytes = x->expect.size;
}

static ncclResult_t issue_call(const struct skew_rank *rank, const struct skew_exchange *x,
                               const struct skew_call *c)
{
    ncclComm_t comm = rank->comm[x->comm].handle;
    uint8_t *recv = (uint8_t *)x->dev_recv + c->recv_at;
    const uint8_t *send = x->in_place ? recv : (uint8_t *)x->dev_send + c->send_at;
    switch (c->kind) {
    case SKEW_CALL_GROUP_START:
        return ncclGroupStart();
    case SKEW_CALL_GROUP_END:
        return ncclGroupEnd();
    case SKEW_CALL_SEND:
        return ncclSend(send, c->count, c->type, (int)c->peer, comm, rank->stream);
    case SKEW_CALL_RECV:
        return ncclRecv(recv, c->count, c->type, (int)c->peer, comm, rank->stream);
    case SKEW_CALL_ALLTOALL:
        return ncclAlltoAll(send, recv, c->count, c->type, comm, rank->stream);
    case SKEW_CALL_ALLGATHER:
        return ncclAllGather(send, recv, c->count, c->type, comm, rank->stream);
    case SKEW_CALL_ALLREDUCE:
        return ncclAllReduce(send, recv, c->count, c->type, c->redop, comm, rank->stream);
    case SKEW_CALL_REDUCESCATTER:
        return ncclReduceScatter(send, recv, c->count, c->type, c->redop, comm, rank->stream);
    case SKEW_CALL_BROADCAST:
        return ncclBroadcast(send, recv, c->count, c->type, (int)c->peer, comm, rank->stream);
    case SKEW_CALL_REDUCE:
        return ncclReduce(send, recv, c->count, c->type, c->redop, (int)c->peer, comm,
                          rank->stream);
    }
    return ncclInvalidUsage;
}

static const char *const call_names[] = {
    "ncclGroupStart", "ncclGroupEnd",  "ncclSend",          "ncclRecv",      "ncclAlltoAll",
    "ncclAllGather",  "ncclAllReduce", "ncclReduceScatter", "ncclBroadcast", "ncclReduce",
};

const char *skew_call_name(enum skew_call_kind kind)
{
    return call_names[kind];
}

void skew_exchange_issue(const struct skew_rank *rank, const struct skew_exchange *x)
{
    int depth = 0;
    for (unsigned i = 0; i < x->n_calls; i++) {
        const struct skew_call *c = &x->calls[i];
        depth += (c->kind == SKEW_CALL_GROUP_START) - (c->kind == SKEW_CALL_GROUP_END);
        ncclResult_t result = issue_call(rank, x, c);
        if (result != ncclSuccess && result != ncclInProgress)
            skew_rank_fail(rank, "step %u, micro-batch %u, layer %u, %s: %s: %s", x->at.step,
                           x->at.micro_batch, x->at.layer, skew_role_name(x->role),
                           skew_call_name(c->kind), ncclGetErrorString(result));
        if (!depth)
            skew_comm_settle(rank, rank->comm[x->comm].handle, skew_call_name(c->kind));
    }
}

void skew_exchange_upload(const struct skew_rank *rank, struct skew_exchange *x)
{
    skew_device_reserve(rank, &x->dev_send, &x->dev_send_room, x->send.size);
    skew_device_reserve(rank, &x->dev_recv, &x->dev_recv_room, x->expect.size);
    if (!x->in_place)
        skew_device_poison(rank, x->dev_recv, x->expect.size);
    skew_device_upload(rank, x->in_place ? x->dev_recv : x->dev_send, x->send.data, x->send.size);
}

void skew_exchange_download(const struct skew_rank *rank, struct skew_exchange *x)
{
    skew_device_download(rank, x->got.data, x->dev_recv, x->got.size);
}

static void describe(const uint8_t *row, size_t row_bytes, char *text, size_t size)
{
    size_t i = 0;
    while (i < row_bytes && !row[i])
        i++;
    if (i == row_bytes)
        snprintf(text, size, "an empty row");
    else
        skew_tag_describe(row, text, size);
}

void skew_exchange_verify(const struct skew_rank *rank, const struct skew_exchange *x)
{
    char expected[200], got[200], what[640];
    size_t at = 0;
    if (!x->expect.size || !memcmp(x->got.data, x->expect.data, x->expect.size))
        return;
    while (x->got.data[at] == x->expect.data[at])
        at++;
    if (at < x->rows_bytes) {
        size_t row = at / x->row_bytes;
        describe(x->expect.data + row * x->row_bytes, x->row_bytes, expected, sizeof expected);
        describe(x->got.data + row * x->row_bytes, x->row_bytes, got, sizeof got);
        snprintf(what, sizeof what, "row %zu of %zu, byte %zu: expected %s, got %s", row,
                 x->rows_bytes / x->row_bytes, at % x->row_bytes, expected, got);
    } else {
        snprintf(what, sizeof what, "byte %zu of %zu is 0x%02x, not 0x%02x", at, x->expect.size,
                 x->got.data[at], x->expect.data[at]);
    }
    skew_rank_fail(rank, "step %u, micro-batch %u, layer %u, %s (%s): %s", x->at.step,
                   x->at.micro_batch, x->at.layer, skew_role_name(x->role),
                   skew_phase_name(x->at.phase), what);
}

void skew_exchange_count(const struct skew_rank *rank, const struct skew_exchange *x)
{
    const struct skew_options *opt = rank->job->opt;
    uint64_t *sent = skew_results_sent(rank->results, opt, (int)x->role);
    unsigned depth = 0;
    for (unsigned i = 0; i < x->n_calls; i++) {
        const struct skew_call *c = &x->calls[i];
        uint64_t bytes = c->count * skew_nccl_type_size(c->type);
        rank->results->calls[x->role] += !depth;
        depth += c->kind == SKEW_CALL_GROUP_START;
        depth -= c->kind == SKEW_CALL_GROUP_END;
        if (c->kind == SKEW_CALL_SEND)
            sent[c->peer] += bytes;
        else if (c->kind == SKEW_CALL_ALLTOALL)
            for (unsigned p = 0; p < rank->comm[x->comm].size; p++)
                sent[p] += bytes;
        else if (c->kind > SKEW_CALL_ALLTOALL)
            rank->results->collective_bytes[x->role] += bytes;
    }
}

/* --corrupt: damages the first dispatched row that leaves this rank at the named step and layer. */
static void damage(const struct skew_rank *rank, struct skew_exchange *x)
{
    const struct skew_job *job = rank->job;
    if (job->corrupt_rank == rank->world_rank && x->role == SKEW_ROLE_DISPATCH &&
        x->at.phase == SKEW_FORWARD && x->at.step == job->corrupt.step &&
        x->at.layer == job->corrupt.layer && x->send.size)
        x->send.data[0] ^= 0x40;
}

void skew_exchange_run(struct skew_rank *rank, struct skew_exchange *x)
{
    damage(rank, x);
    if (rank->recording)
        return;
    skew_exchange_upload(rank, x);
    skew_exchange_issue(rank, x);
    skew_exchange_download(rank, x);
    skew_device_wait(rank);
    skew_exchange_count(rank, x);
    skew_truth_exchange(rank, x);
    skew_exchange_verify(rank, x);
}

const uint8_t *skew_exchange_received(const struct skew_rank *rank, const struct skew_exchange *x)
{
    return rank->recording ? x->expect.data : x->got.data;
}

void skew_exchange_free(const struct skew_rank *rank, struct skew_exchange **x)
{
    if (!*x)
        return;
    skew_device_free(rank, &(*x)->dev_send, &(*x)->dev_send_room);
    skew_device_free(rank, &(*x)->dev_recv, &(*x)->dev_recv_room);
    free((*x)->send.data);
    free((*x)->expect.data);
    free((*x)->got.data);
    free((*x)->calls);
    free(*x);
    *x = NULL;
}
