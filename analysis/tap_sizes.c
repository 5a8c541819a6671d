/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FastMoE launches one group for each local expert, so that sizes alone name experts, with no
 * device read. The int64 exchange before tells how many local experts there are. Groups without a
 * byte are not launched: when one is missing nobody can tell which, and the call is left out. That
 * none is missing shows in the combine, whose groups are the same ones transposed, in the same
 * order.
 */
#include "tap_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_abi.h"
#include "spool.h"

/* Local experts, when the exchange is one of equally many int64 to and from each peer; else 0.
 * Negative errno. */
static int64_t local_experts(struct skew_tap_pass *pass, const struct skew_tap_event *e)
{
    const struct skew_vector *v;
    uint32_t ranks = e->member->comm->ranks;
    if (!e->exchange || e->op != SKEW_OP_SEND || e->dtype != ncclInt64 || e->send != e->recv ||
        !e->send)
        return 0;
    int result = skew_vector_get(pass->trace, e->send, &v, pass->error);
    if (result < 0)
        return result;
    if (v->cells != ranks || !v->largest || v->total != v->largest * ranks ||
        v->largest * e->send_unit > 8u * 4096)
        return 0;
    return (int64_t)(v->largest * e->send_unit / 8);
}

static bool is_of(const struct skew_tap_event *e, const struct skew_tap_event *count)
{
    return e->exchange && e->set == count->set && e->member->rank == count->member->rank;
}

static bool is_payload(const struct skew_tap_event *e, const struct skew_tap_event *count)
{
    return is_of(e, count) && e->op == SKEW_OP_SEND && e->dtype <= ncclUint8;
}

/* The first 2g exchanges behind event `count`: their indices. false: there are not so many. */
static bool behind(const struct skew_tap_pass *pass, size_t count, uint32_t g, size_t *at)
{
    uint32_t found = 0;
    for (size_t i = count + 1; i < pass->events && found < 2 * g; i++) {
        const struct skew_tap_event *e = &pass->event[i];
        if (is_payload(e, &pass->event[count]))
            at[found++] = i;
        else if (is_of(e, &pass->event[count]))
            break;
    }
    return found == 2 * g;
}

/* Bytes by expert, [ranks][g] in pass->row, when the groups are dispatch and combine of all g
 * experts.
 * @return 1, 0 or negative errno. */
static int read_groups(struct skew_tap_pass *pass, const size_t *at, uint32_t g, uint32_t ranks)
{
    for (uint32_t i = 0; i < g; i++) {
        const struct skew_tap_event *out = &pass->event[at[i]], *back = &pass->event[at[g + i]];
        int result = skew_tap_bytes(pass, out->recv, out->recv_unit, ranks, pass->recv_bytes);
        if (result == 0)
            result = skew_tap_bytes(pass, back->send, back->send_unit, ranks, pass->bytes);
        if (result || memcmp(pass->bytes, pass->recv_bytes, ranks * sizeof *pass->bytes) != 0)
            return result < 0 ? result : 0;
        result = skew_tap_bytes(pass, back->recv, back->recv_unit, ranks, pass->recv_bytes);
        if (result == 0)
            result = skew_tap_bytes(pass, out->send, out->send_unit, ranks, pass->bytes);
        if (result || memcmp(pass->bytes, pass->recv_bytes, ranks * sizeof *pass->bytes) != 0)
            return result < 0 ? result : 0;
        for (uint32_t p = 0; p < ranks; p++)
            pass->row[(size_t)p * g + i] = pass->bytes[p];
    }
    return 1;
}

/* @param row  unit 0: only the greatest common divisor of all sizes is sought, into *unit. */
static int one_call(struct skew_tap_pass *pass, size_t count, uint32_t g, uint64_t *unit, bool emit)
{
    const struct skew_tap_event *e = &pass->event[count];
    uint32_t ranks = e->member->comm->ranks, experts = ranks * g;
    size_t *at = malloc(2 * (size_t)g * sizeof *at);
    int result = at ? skew_tap_scratch(pass, experts, ranks) : skew_tap_no_memory(pass);
    if (result == 0 && behind(pass, count, g, at))
        result = read_groups(pass, at, g, ranks);
    if (result == 1) {
        result = 0;
        for (uint32_t i = 0; i < experts; i++)
            if (emit)
                pass->row[i] /= *unit;
            else
                *unit = skew_gcd(pass->row[i], *unit);
        struct skew_tap_row row = {.exchange = pass->event[at[0]].id,
                                   .comm = e->member->comm->id,
                                   .source = e->member->rank,
                                   .experts = experts,
                                   .ordinal = -1,
                                   .tokens = -1,
                                   .how = "sizes",
                                   .counts = pass->row,
                                   .unit_bytes = *unit};
        const struct skew_labels *labels = pass->options.labels;
        skew_tap_label(&row, labels ? skew_labels_exchange(labels, row.exchange) : NULL);
        if (emit)
            result = skew_tap_emit(pass, &row);
        if (emit)
            pass->summary->by_sizes++;
        pass->counted[e->set] = true;
    }
    free(at);
    return result;
}

int skew_tap_by_sizes(struct skew_tap_pass *pass)
{
    int result = 0;
    uint64_t unit = 0;
    for (int emit = 0; result == 0 && emit < 2; emit++) {
        for (size_t i = 0; result == 0 && i < pass->events; i++) {
            int64_t g = local_experts(pass, &pass->event[i]);
            if (g < 0)
                return (int)g;
            if (g < 2 || pass->event[i].count_exchange)
                continue; /* one expert a rank is no case of its own; what the tap saw it has judged
                           */
            if (!emit || unit)
                result = one_call(pass, i, (uint32_t)g, &unit, emit);
        }
    }
    return result;
}
