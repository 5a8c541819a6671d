/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matching by columns: where every exchange goes once to and once from every rank, the n-th of one
 * rank meets the n-th of all others, those that were lost counted. From the first column on that is
 * not so, match_fifo.c counts pair by pair, which takes the memory of every edge.
 */
#include "match_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Adds one side's edges with the ranks whose record is there to a sum that is 0 in the end when
 * both sides are the same edges; `whole` stays true as long as there is one size for every rank. */
static int add_side(const struct skew_matching *g, const struct skew_rows *rows, uint32_t index,
                    uint64_t unit, bool send, uint32_t rank, uint64_t *sum, bool *whole,
                    struct skew_error *error)
{
    const struct skew_vector *v;

    if (!index || rows->vectors[index - 1].listed ||
        rows->vectors[index - 1].cells != g->comm->ranks) {
        *whole = false;
        return 0;
    }
    int result = skew_vector_get(rows->trace, rows->vectors[index - 1].id, &v, error);
    for (uint32_t c = 0; result == 0 && c < v->cells; c++) {
        if (!g->ranks[c].in_column)
            continue;
        uint64_t edge = send ? (uint64_t)rank << 32 | c : (uint64_t)c << 32 | rank;
        uint64_t hash = skew_mix(skew_mix(edge) ^ v->sizes[c] * unit);
        *sum += send ? hash : -hash;
    }
    return result;
}

/* What a rank lost before its next exchange, in whole columns: as many sends to each rank as
 * receives from each. False: in something else. `counts`: [2 × ranks], 0 before and after. */
static bool whole_losses(const struct skew_matching *g, struct skew_match_rank *rank,
                         uint64_t *counts)
{
    const struct skew_loss_edge *loss = &g->m->losses[rank->first_loss];
    int64_t seq = g->m->all[rank->first + rank->plain].who.seq;
    size_t end = rank->losses_done;
    bool whole = true;

    while (end < rank->loss_count && loss[end].before_seq <= seq)
        end++;
    if (end == rank->losses_done)
        return true;
    for (size_t i = rank->losses_done; i < end; i++)
        if (loss[i].peer < g->comm->ranks) {
            counts[loss[i].peer] += loss[i].sends;
            counts[g->comm->ranks + loss[i].peer] += loss[i].recvs;
        }
    for (uint32_t i = 0; i < g->present; i++) {
        const uint64_t *of = counts + g->here[i];
        whole = whole && of[0] == counts[g->here[0]] && of[g->comm->ranks] == of[0];
    }
    if (whole) {
        rank->lost_left = counts[g->here[0]];
        rank->losses_done = end;
    }
    memset(counts, 0, 2 * (size_t)g->comm->ranks * sizeof *counts);
    return whole;
}

/* Who is in the next column with a record; false: not every rank here has one, or lost one. */
static bool find_column(struct skew_matching *g, uint64_t *counts)
{
    for (uint32_t i = 0; i < g->present; i++) {
        struct skew_match_rank *rank = &g->ranks[g->here[i]];
        if (!rank->lost_left && (rank->plain == rank->count || !whole_losses(g, rank, counts)))
            return false;
        rank->in_column = !rank->lost_left;
    }
    return true;
}

static int check_column(const struct skew_matching *g, bool *plain, struct skew_error *error)
{
    const struct skew_matches *m = g->m;
    uint64_t sum = 0;
    bool whole = true;
    int result = 0;

    for (uint32_t i = 0; i < g->present && whole && result == 0; i++) {
        const struct skew_match_rank *rank = &g->ranks[g->here[i]];
        if (!rank->in_column)
            continue;
        const struct skew_rows *rows = &m->rows[rank->trace];
        const struct skew_rows_exchange *x = skew_match_row(m, rank->first + rank->plain);
        result = add_side(g, rows, x->send, x->send_unit, true, g->here[i], &sum, &whole, error);
        if (whole && result == 0)
            result =
                add_side(g, rows, x->recv, x->recv_unit, false, g->here[i], &sum, &whole, error);
    }
    *plain = whole && !sum;
    return result;
}

static void take_column(struct skew_matching *g)
{
    uint32_t root = SKEW_NOBODY, there = 0;

    for (uint32_t i = 0; i < g->present; i++) {
        struct skew_match_rank *rank = &g->ranks[g->here[i]];
        if (!rank->in_column) {
            rank->lost_left--;
            continue;
        }
        uint32_t exchange = rank->first + rank->plain++;
        root = root == SKEW_NOBODY ? exchange : root;
        g->m->all[exchange].group = root;
        there++;
    }
    g->m->edges += (uint64_t)there * there;
    g->columns++;
}

int skew_match_plain(struct skew_matching *g, struct skew_error *error)
{
    uint64_t *counts = calloc(2 * (size_t)g->comm->ranks + 1, sizeof *counts);
    int result = 0;

    if (!counts) {
        skew_error_set(error, "out of memory");
        return -ENOMEM;
    }
    while (result == 0 && g->present && find_column(g, counts)) {
        bool plain;
        result = check_column(g, &plain, error);
        if (result < 0 || !plain)
            break;
        take_column(g);
    }
    free(counts);
    return result;
}
