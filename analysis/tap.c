/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reducer of taps (tap.h). Process after process: counts against payload first; what has no
 * payload to be held against (top-k ids, routing maps, sums over steps) in a second pass, when the
 * number of experts is known.
 */
#include "tap_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_abi.h"
#include "spool.h"

#define FIRST_FLOAT 6 /* ncclFloat16; what lies below are integers */

static bool is_float(int dtype)
{
    return dtype >= FIRST_FLOAT || dtype < 0;
}

/* ---- ids beside their tokens ---------------------------------------------------------------- */

static uint64_t largest(const struct skew_tap_buffer *b)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < b->elements; i++)
        most = b->values[i] > most ? b->values[i] : most;
    return most;
}

/* Whether the calls beside this one gather a token's weights (as many as ids) and the tokens
 * (more): the same member's operations of the same kind and root in the same group, or right before
 * and after. */
static bool beside_tokens(const struct skew_tap_pass *pass, const struct skew_tap_call *call)
{
    size_t at = call->event;
    bool weights = false, tokens = false;
    int op = call->shape == SKEW_TAP_BROADCAST ? SKEW_OP_BROADCAST : SKEW_OP_ALLGATHER;
    if (call->event == UINT32_MAX)
        return false;
    size_t from = at > 4 ? at - 4 : 0;
    for (size_t i = from; i < pass->events; i++) {
        const struct skew_tap_event *e = &pass->event[i];
        bool grouped = e->thread == call->thread && e->group == call->group;
        if (i > at + 4 && !grouped)
            break;
        if (e->exchange || e->member != call->member || e->op != op || !is_float(e->dtype) ||
            (op == SKEW_OP_BROADCAST && (!grouped || e->root != call->member->rank)))
            continue;
        weights |= e->count == call->count;
        tokens |= e->count > call->count;
    }
    return weights && tokens;
}

static bool may_be_ids(const struct skew_tap_call *call)
{
    return call->shape == SKEW_TAP_BROADCAST || call->shape == SKEW_TAP_ALLGATHER;
}

/* That of the first of the group's operations: they are one dispatch together. */
static const struct skew_label *label_of(const struct skew_tap_pass *pass,
                                         const struct skew_tap_call *call)
{
    const struct skew_labels *labels = pass->options.labels;
    if (!labels || call->event == UINT32_MAX || pass->event[call->event].exchange)
        return NULL;
    return skew_labels_operation(labels, pass->event[call->event].id);
}

/* Step and layer: by label, else by order where the number of layers is given. */
static void place_row(struct skew_tap_pass *pass, const struct skew_tap_call *call,
                      struct skew_tap_row *row)
{
    uint64_t n = pass->calls_of[call->member - pass->members]++;
    skew_tap_label(row, label_of(pass, call));
    row->ordinal = (int64_t)n;
    if (row->layer < 0 && pass->options.layers) {
        row->layer = (int64_t)(n % pass->options.layers);
        row->step = (int64_t)(n / pass->options.layers);
    }
}

static const uint64_t *own_ids(const struct skew_tap_call *call)
{
    if (call->own.values && call->own.elements == call->count)
        return call->own.values;
    if (call->whole.values && call->whole.elements / call->member->comm->ranks == call->count)
        return call->whole.values + (size_t)call->member->rank * call->count;
    return NULL;
}

static int emit_ids(struct skew_tap_pass *pass, const struct skew_tap_call *call)
{
    const struct skew_comm *comm = call->member->comm;
    const uint64_t *ids = own_ids(call);
    uint64_t experts = pass->options.experts;
    if (!experts)
        experts = (pass->max_id / comm->ranks + 1) * comm->ranks;
    int result = skew_tap_scratch(pass, experts, comm->ranks);
    if (result < 0)
        return result;
    if (!ids || !skew_tap_count_ids(ids, call->count, pass->row, (uint32_t)experts)) {
        pass->summary->rejected++;
        return 0;
    }
    uint32_t k = skew_tap_guess_topk(ids, call->count);
    struct skew_tap_row row = {
        .comm = comm->id,
        .source = call->member->rank,
        .experts = (uint32_t)experts,
        .topk = k,
        .tokens = k ? (int64_t)(call->count / k) : -1,
        .how = call->shape == SKEW_TAP_BROADCAST ? "tap broadcast" : "tap allgather",
        .counts = pass->row,
    };
    place_row(pass, call, &row);
    pass->summary->unverified++;
    return skew_tap_emit(pass, &row);
}

/* ---- maps and sums -------------------------------------------------------------------------- */

static int emit_map(struct skew_tap_pass *pass, const struct skew_tap_call *call)
{
    uint32_t experts = pass->options.experts ? pass->options.experts : pass->experts;
    const uint64_t *map = own_ids(call);
    uint64_t total = 0;
    if (!experts || (!pass->options.experts && pass->experts_differ)) {
        pass->summary->need_experts++;
        return 0;
    }
    int result = skew_tap_scratch(pass, experts, call->member->comm->ranks);
    if (result < 0)
        return result;
    if (!map || call->count % experts) {
        pass->summary->rejected++;
        return 0;
    }
    memset(pass->row, 0, experts * sizeof *pass->row);
    for (uint32_t i = 0; i < call->count; i++) {
        pass->row[i % experts] += map[i];
        total += map[i];
    }
    uint32_t tokens = call->count / experts;
    struct skew_tap_row row = {
        .comm = call->member->comm->id,
        .source = call->member->rank,
        .experts = experts,
        .topk = total % tokens ? 0 : (uint32_t)(total / tokens),
        .tokens = tokens,
        .how = "tap map",
        .counts = pass->row,
    };
    place_row(pass, call, &row);
    pass->summary->unverified++;
    return skew_tap_emit(pass, &row);
}

static bool is_lowest_rank(const struct skew_tap_pass *pass, const struct skew_member *member)
{
    for (size_t i = 0; i < pass->member_count; i++)
        if (pass->members[i].comm == member->comm && pass->members[i].rank < member->rank)
            return false;
    return true;
}

/* Every rank has the same sum: one of them tells it. */
static int emit_sum(struct skew_tap_pass *pass, const struct skew_tap_call *call, int64_t step)
{
    uint32_t experts = pass->options.experts;
    int result = 0;
    if (!experts || call->count % experts || call->result.elements != call->count) {
        pass->summary->need_experts += !experts;
        pass->summary->rejected += experts != 0;
        return 0;
    }
    pass->summary->unverified++;
    for (uint32_t layer = 0; result == 0 && layer < call->count / experts; layer++)
        result = skew_tap_emit(pass, &(struct skew_tap_row){
                                         .comm = call->member->comm->id,
                                         .source = -1,
                                         .step = step,
                                         .layer = layer,
                                         .microbatch = -1,
                                         .ordinal = -1,
                                         .experts = experts,
                                         .tokens = -1,
                                         .how = "tap sum",
                                         .counts = call->result.values + (size_t)layer * experts,
                                     });
    return result;
}

/* How many like it the same communicator saw before. */
static int64_t ordinal_of(const struct skew_tap_pass *pass, size_t index)
{
    const struct skew_tap_call *call = &pass->call[index];
    int64_t before = 0;
    for (size_t i = 0; i < index; i++)
        before += pass->call[i].member == call->member && pass->call[i].shape == call->shape &&
                  pass->call[i].count == call->count;
    return before;
}

/* ---- the passes ----------------------------------------------------------------------------- */

static void note_capacity(struct skew_tap_summary *s, const struct skew_tap_call *call)
{
    int64_t c = call->result.values ? (int64_t)call->result.values[0] : 0;
    s->capacity_min = !s->capacities || c < s->capacity_min ? c : s->capacity_min;
    s->capacity_max = !s->capacities || c > s->capacity_max ? c : s->capacity_max;
    s->capacities++;
}

static int first_pass(struct skew_tap_pass *pass, bool *more)
{
    int result = 0;
    for (size_t i = 0; result >= 0 && i < pass->calls; i++) {
        struct skew_tap_call *call = &pass->call[i];
        pass->summary->calls++;
        switch (call->shape) {
        case SKEW_TAP_ALLGATHER:
        case SKEW_TAP_SENDRECV:
        case SKEW_TAP_ALLTOALL:
            result = skew_tap_match(pass, call);
            if (result == 0 && !(may_be_ids(call) && beside_tokens(pass, call)))
                pass->summary->rejected++;
            if (result != 0 || !may_be_ids(call) || !beside_tokens(pass, call))
                break;
            /* fall through */
        case SKEW_TAP_BROADCAST:
            *more = true;
            if (beside_tokens(pass, call)) {
                const struct skew_tap_buffer *b = call->own.values ? &call->own : &call->whole;
                uint64_t id = largest(b);
                pass->max_id = id > pass->max_id && id < UINT32_MAX ? id : pass->max_id;
                pass->counted[call->set] = true;
            }
            break;
        case SKEW_TAP_MAX:
            note_capacity(pass->summary, call);
            break;
        default:
            *more = true;
            break;
        }
    }
    if (result >= 0)
        result = skew_tap_by_sizes(pass);
    return result;
}

static int second_pass(struct skew_tap_pass *pass, bool calls_are_known)
{
    int result = 0;
    for (size_t i = 0; result == 0 && i < pass->calls; i++) {
        struct skew_tap_call *call = &pass->call[i];
        bool ids = may_be_ids(call) && beside_tokens(pass, call);
        if (ids)
            result = emit_ids(pass, call);
        else if (call->shape == SKEW_TAP_BROADCAST)
            pass->summary->rejected++;
        else if (call->shape == SKEW_TAP_MAP)
            result = emit_map(pass, call);
        else if (call->shape == SKEW_TAP_SUM &&
                 (calls_are_known || !is_lowest_rank(pass, call->member)))
            pass->summary->redundant++;
        else if (call->shape == SKEW_TAP_SUM)
            result = emit_sum(pass, call, ordinal_of(pass, i));
    }
    return result;
}

static void count_padded(const struct skew_tap_pass *pass, uint64_t *padded_of)
{
    for (size_t i = 0; i < pass->events; i++)
        if (pass->event[i].exchange && pass->event[i].op == SKEW_OP_ALLTOALL &&
            is_float(pass->event[i].dtype))
            padded_of[pass->event[i].set]++;
}

static int read_outcomes(struct skew_tap_pass *pass)
{
    sqlite3_stmt *s;
    int result = skew_sql_prepare(
        pass->trace, &s,
        "SELECT outcome, sum(buffers) FROM tap_count WHERE outcome NOT IN ('queued', "
        "'stored') GROUP BY outcome",
        pass->error);
    if (result < 0)
        return result;
    while (sqlite3_step(s) == SQLITE_ROW) {
        const char *outcome = (const char *)sqlite3_column_text(s, 0);
        int64_t n = sqlite3_column_int64(s, 1);
        if (!outcome || n < 0)
            continue;
        if (strcmp(outcome, "captured") == 0)
            pass->summary->captured += (uint64_t)n;
        else
            pass->summary->skipped += (uint64_t)n;
    }
    sqlite3_finalize(s);
    return 0;
}

static bool is_new_process(const struct skew_tap_pass *pass, size_t index)
{
    for (size_t i = 0; i < index; i++)
        if (pass->members[i].process == pass->members[index].process)
            return false;
    return true;
}

static int run(struct skew_tap_pass *pass, uint64_t *padded_of)
{
    bool more = false;
    int result = 0;
    for (int round = 0; round < 2; round++) {
        bool known = pass->summary->rows > 0 || pass->max_id > 0;
        for (size_t i = 0; result == 0 && i < pass->member_count; i++) {
            if (!is_new_process(pass, i))
                continue;
            result = skew_tap_load(pass, pass->members[i].process);
            if (result == 0)
                result = round ? second_pass(pass, known) : first_pass(pass, &more);
            if (result == 0 && !round)
                count_padded(pass, padded_of);
            skew_tap_unload(pass);
        }
        if (result || !more)
            break;
    }
    for (size_t i = 0; i < pass->comm_count; i++)
        pass->summary->padded += pass->counted[i] ? 0 : padded_of[i];
    return result;
}

/* Traces of before the tap have no such tables. */
static int has_taps(struct skew_trace *trace, bool *has, struct skew_error *error)
{
    sqlite3_stmt *s;
    int result = skew_sql_prepare(
        trace, &s, "SELECT count(*) FROM sqlite_schema WHERE name IN ('tap', 'tap_count')", error);
    if (result < 0)
        return result;
    *has = sqlite3_step(s) == SQLITE_ROW && sqlite3_column_int(s, 0) == 2;
    sqlite3_finalize(s);
    return 0;
}

int skew_tap_reduce(struct skew_trace *trace, const struct skew_tap_options *options,
                    skew_tap_fn *take, void *user, struct skew_tap_summary *summary,
                    struct skew_error *error)
{
    struct skew_tap_pass pass = {
        .trace = trace, .take = take, .user = user, .summary = summary, .error = error};
    uint64_t *padded_of = NULL;
    bool has = false;
    *summary = (struct skew_tap_summary){0};
    if (options)
        pass.options = *options;
    int result = has_taps(trace, &has, error);
    if (result < 0 || !has)
        return result;
    result = skew_tap_sets(&pass);
    if (result == 0 && !(padded_of = calloc(pass.comm_count + 1, sizeof *padded_of)))
        result = skew_tap_no_memory(&pass);
    if (result == 0)
        result = run(&pass, padded_of);
    if (result == 0)
        result = read_outcomes(&pass);
    free(padded_of);
    free(pass.set_of);
    free(pass.counted);
    free(pass.calls_of);
    free(pass.event);
    free(pass.call);
    free(pass.row);
    free(pass.bytes);
    free(pass.recv_bytes);
    return result;
}
