/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts against payload (tap.h): finds the exchange that a matrix of counts explains. Interleaved
 * micro-batches put other exchanges in between, so a few are tried; what is explained once is not
 * explained again.
 */
#include "tap_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_abi.h"
#include "spool.h"

#define TRIED 32 /* exchanges behind a count exchange */

int skew_tap_scratch(struct skew_tap_pass *pass, size_t row, size_t ranks)
{
    if (row > pass->row_room) {
        void *more = realloc(pass->row, row * sizeof *pass->row);
        if (!more)
            return skew_tap_no_memory(pass);
        pass->row = more;
        pass->row_room = row;
    }
    if (ranks > pass->bytes_room) {
        void *more = realloc(pass->bytes, ranks * sizeof *pass->bytes);
        if (!more)
            return skew_tap_no_memory(pass);
        pass->bytes = more;
        more = realloc(pass->recv_bytes, ranks * sizeof *pass->recv_bytes);
        if (!more)
            return skew_tap_no_memory(pass);
        pass->recv_bytes = more;
        pass->bytes_room = ranks;
    }
    return 0;
}

int skew_tap_bytes(struct skew_tap_pass *pass, int64_t id, uint64_t unit, uint32_t ranks,
                   uint64_t *bytes)
{
    const struct skew_vector *v;
    memset(bytes, 0, ranks * sizeof *bytes);
    if (!id)
        return 0;
    int result = skew_vector_get(pass->trace, id, &v, pass->error);
    if (result < 0)
        return result;
    for (uint32_t i = 0; i < v->cells; i++) {
        uint32_t peer = skew_vector_peer(v, i);
        uint64_t size;
        if (peer >= ranks || __builtin_mul_overflow(v->sizes[i], unit, &size) ||
            __builtin_add_overflow(bytes[peer], size, &bytes[peer]))
            return 1;
    }
    return 0;
}

/* What a call says: to each peer's experts, and from each peer to this rank's; [ranks][width]. */
struct counts {
    uint32_t ranks, width;
    const uint64_t *sent;
    uint64_t *heard; /* NULL: not known */
    bool heard_owned;
};

static bool is_integer(int dtype)
{
    return dtype == ncclInt32 || dtype == ncclInt64;
}

/* @return 1, 0 when the call holds no such matrix, or negative errno. */
static int counts_of(struct skew_tap_pass *pass, const struct skew_tap_call *call, struct counts *c)
{
    uint32_t ranks = call->member->comm->ranks, rank = (uint32_t)call->member->rank;
    *c = (struct counts){.ranks = ranks, .width = call->count};
    if (call->shape != SKEW_TAP_ALLGATHER) {
        if (!call->sent.values || call->sent.elements / ranks != call->count)
            return 0;
        c->sent = call->sent.values;
        if (call->heard.values && call->heard.elements == call->sent.elements)
            c->heard = call->heard.values;
        return 1;
    }
    if (call->count % ranks != 0)
        return 0;
    c->width = call->count / ranks;
    if (call->whole.values && call->whole.elements / ranks == call->count) {
        c->sent = call->whole.values + (size_t)rank * call->count;
        c->heard = malloc(call->count * sizeof *c->heard);
        if (!c->heard)
            return skew_tap_no_memory(pass);
        c->heard_owned = true;
        for (uint32_t p = 0; p < ranks; p++)
            memcpy(c->heard + (size_t)p * c->width,
                   call->whole.values + (size_t)p * call->count + (size_t)rank * c->width,
                   c->width * sizeof *c->heard);
        return 1;
    }
    if (!call->own.values || call->own.elements != call->count)
        return 0;
    c->sent = call->own.values;
    return 1;
}

/* An exchange of the same rank of the same ranks: threads of one process may hold several. */
static bool is_payload(const struct skew_tap_event *e, const struct skew_tap_call *call)
{
    return e->exchange && e->set == call->set && e->member->rank == call->member->rank &&
           !e->claimed && !e->count_exchange && e->op != SKEW_OP_ALLTOALL && !is_integer(e->dtype);
}

/* Whether one exchange is explained. *unit as in skew_tap_explains(). @return 1, 0 or negative
 * errno. */
static int explains(struct skew_tap_pass *pass, const struct counts *c,
                    const struct skew_tap_event *e, uint64_t *unit)
{
    int result = skew_tap_bytes(pass, e->send, e->send_unit, c->ranks, pass->bytes);
    if (result)
        return result < 0 ? result : 0;
    if (!skew_tap_explains(c->sent, c->ranks, c->width, pass->bytes, unit))
        return 0;
    if (!c->heard)
        return 1;
    result = skew_tap_bytes(pass, e->recv, e->recv_unit, c->ranks, pass->recv_bytes);
    if (result)
        return result < 0 ? result : 0;
    return skew_tap_explains(c->heard, c->ranks, c->width, pass->recv_bytes, unit);
}

/* Column i of [ranks][width] against the bytes of one local expert's group. */
static bool column_explains(const uint64_t *counts, const struct counts *c, uint32_t i,
                            const uint64_t *bytes, uint64_t *unit)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        uint64_t tokens = counts[(size_t)p * c->width + i];
        if (!skew_tap_explains(&tokens, 1, 1, &bytes[p], unit))
            return false;
    }
    return true;
}

static bool column_is_zero(const uint64_t *counts, const struct counts *c, uint32_t i)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (counts[(size_t)p * c->width + i])
            return false;
    return true;
}

/* FastMoE: from event `from` on, one group for each local expert; groups without a byte were not
 * launched. *last: the last of them. @return 1, 0 or negative errno. */
static int explains_groups(struct skew_tap_pass *pass, const struct counts *c, size_t from,
                           size_t *last, const struct skew_tap_call *call, uint64_t *unit)
{
    size_t at = from;
    for (uint32_t i = 0; i < c->width; i++) {
        if (column_is_zero(c->sent, c, i) && column_is_zero(c->heard, c, i))
            continue;
        while (at < pass->events && !is_payload(&pass->event[at], call))
            at++;
        if (at == pass->events)
            return 0;
        const struct skew_tap_event *e = &pass->event[at];
        int result = skew_tap_bytes(pass, e->send, e->send_unit, c->ranks, pass->bytes);
        if (result == 0)
            result = skew_tap_bytes(pass, e->recv, e->recv_unit, c->ranks, pass->recv_bytes);
        if (result)
            return result < 0 ? result : 0;
        if (!column_explains(c->sent, c, i, pass->bytes, unit) ||
            !column_explains(c->heard, c, i, pass->recv_bytes, unit))
            return 0;
        *last = at++;
    }
    return *unit != 0;
}

void skew_tap_label(struct skew_tap_row *row, const struct skew_label *label)
{
    row->step = label ? label->step : -1;
    row->layer = label ? label->layer : -1;
    row->microbatch = label ? label->microbatch : -1;
    row->stage = label ? skew_label_stage_name(label->stage) : NULL;
}

static const struct skew_label *label_of(const struct skew_tap_pass *pass, int64_t exchange)
{
    return pass->options.labels ? skew_labels_exchange(pass->options.labels, exchange) : NULL;
}

int skew_tap_emit(struct skew_tap_pass *pass, struct skew_tap_row *row)
{
    pass->summary->rows++;
    return pass->take(pass->user, row);
}

static bool has_rank(const struct skew_tap_pass *pass, const struct skew_comm *comm, uint32_t rank)
{
    for (size_t i = 0; i < pass->member_count; i++)
        if (pass->members[i].comm == comm && pass->members[i].rank == (int32_t)rank)
            return true;
    return false;
}

static int emit_rows(struct skew_tap_pass *pass, const struct skew_tap_call *call,
                     const struct counts *c, const struct skew_tap_event *e, uint64_t unit)
{
    static const char *const how[SKEW_TAP_SHAPES] = {[SKEW_TAP_ALLGATHER] = "tap allgather",
                                                     [SKEW_TAP_SENDRECV] = "tap sendrecv",
                                                     [SKEW_TAP_ALLTOALL] = "tap alltoall"};
    uint32_t experts = c->ranks * c->width;
    struct skew_tap_row row = {.exchange = e->id,
                               .comm = e->member->comm->id,
                               .source = e->member->rank,
                               .experts = experts,
                               .ordinal = -1,
                               .tokens = -1,
                               .verified = true,
                               .how = how[call->shape],
                               .counts = c->sent,
                               .unit_bytes = unit};
    const struct skew_label *label = label_of(pass, e->id);
    if (label && label->role == SKEW_LABEL_DISPATCH_RECOMPUTE) {
        pass->summary->recomputed++;
        return 0;
    }
    skew_tap_label(&row, label);
    int result = skew_tap_emit(pass, &row);
    pass->experts_differ |= pass->experts && pass->experts != experts;
    pass->experts = experts;
    /* Ranks that no process of this trace holds: the matrix tells of them too. */
    for (uint32_t p = 0; result == 0 && call->whole.values && p < c->ranks; p++) {
        if (has_rank(pass, e->member->comm, p))
            continue;
        row.exchange = 0;
        row.source = (int32_t)p;
        row.counts = call->whole.values + (size_t)p * call->count;
        result = skew_tap_emit(pass, &row);
    }
    return result;
}

/* Tutel tells each peer one number, and it is the number of rows that goes there. */
static bool is_rank_level(const struct skew_tap_call *call, const struct skew_tap_event *e)
{
    return call->shape == SKEW_TAP_ALLTOALL && call->count == 1 && e->dtype <= ncclUint8;
}

static int accept(struct skew_tap_pass *pass, const struct skew_tap_call *call,
                  const struct counts *c, size_t first, size_t last, uint64_t unit)
{
    const struct skew_tap_event *e = &pass->event[first];
    for (size_t i = first; i <= last; i++)
        if (is_payload(&pass->event[i], call))
            pass->event[i].claimed = true;
    pass->counted[call->set] = true;
    if (is_rank_level(call, e)) {
        pass->summary->rank_level++;
        return 1;
    }
    pass->summary->verified++;
    int result = emit_rows(pass, call, c, e, unit);
    return result ? result : 1;
}

static int match(struct skew_tap_pass *pass, const struct skew_tap_call *call,
                 const struct counts *c)
{
    unsigned tried = 0;
    for (size_t i = (size_t)call->event + 1; i < pass->events && tried < TRIED; i++) {
        uint64_t unit = 0;
        size_t last = i;
        if (!is_payload(&pass->event[i], call))
            continue;
        int result = explains(pass, c, &pass->event[i], &unit);
        /* One group for each expert comes right behind its counts. */
        if (result == 0 && tried == 0 && c->heard && call->shape == SKEW_TAP_SENDRECV) {
            unit = 0;
            result = explains_groups(pass, c, i, &last, call, &unit);
        }
        if (result)
            return result < 0 ? result : accept(pass, call, c, i, last, unit);
        tried++;
    }
    return 0;
}

int skew_tap_match(struct skew_tap_pass *pass, struct skew_tap_call *call)
{
    struct counts c;
    int result = counts_of(pass, call, &c);
    if (result > 0 && call->event != UINT32_MAX) {
        result = skew_tap_scratch(pass, 1, c.ranks);
        if (result == 0)
            result = match(pass, call, &c);
    } else if (result > 0) {
        result = 0;
    }
    if (c.heard_owned)
        free(c.heard);
    return result;
}
