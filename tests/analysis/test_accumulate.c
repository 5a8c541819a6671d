/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrices and loads: what is added in pieces and merged in any order equals what is added at once,
 * and both equal sums made here.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace.h"

#define RANKS 5
#define SEQS  40

static uint64_t state = 12345;

static uint64_t random_below(uint64_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % n;
}

static uint64_t truth[SEQS][RANKS][RANKS];

/* Exchange `seq` of `rank`, with every second vector in reverse order of the peers. */
struct made {
    struct skew_member member;
    struct skew_vector send, recv;
    struct skew_exchange exchange;
    uint64_t send_sizes[RANKS], recv_sizes[RANKS];
    uint32_t peers[RANKS];
};

static void make(struct made *m, int seq, int rank)
{
    bool reverse = (seq + rank) % 2;

    memset(m, 0, sizeof *m);
    m->member.rank = rank;
    for (int i = 0; i < RANKS; i++) {
        int peer = reverse ? RANKS - 1 - i : i;
        m->peers[i] = (uint32_t)peer;
        m->send_sizes[i] = truth[seq][rank][peer] / 8;
        m->recv_sizes[i] = truth[seq][peer][rank] / 4;
        m->send.total += m->send_sizes[i];
        m->recv.total += m->recv_sizes[i];
        m->send.largest = m->send_sizes[i] > m->send.largest ? m->send_sizes[i] : m->send.largest;
    }
    m->send.cells = m->recv.cells = RANKS;
    m->send.sizes = m->send_sizes;
    m->recv.sizes = m->recv_sizes;
    m->send.peers = m->recv.peers = reverse ? m->peers : NULL;
    m->exchange = (struct skew_exchange){.member = &m->member,
                                         .seq = seq,
                                         .send = &m->send,
                                         .recv = &m->recv,
                                         .send_unit = 8,
                                         .recv_unit = 4};
}

static double truth_skew(int seq)
{
    double most = 0, sum = 0;
    for (int j = 0; j < RANKS; j++) {
        double load = 0;
        for (int i = 0; i < RANKS; i++)
            load += (double)truth[seq][i][j];
        most = fmax(most, load);
        sum += load;
    }
    return most * RANKS / sum;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check_summary(const struct skew_loads *loads)
{
    struct skew_summary summary;
    double skews[SEQS];

    for (int s = 0; s < SEQS; s++)
        skews[s] = truth_skew(s);
    assert(skew_loads_summary(loads, &summary) == 0);
    assert(summary.exchanges == SEQS && summary.complete == SEQS);
    assert(summary.unequal == 0 && summary.empty == 0);
    assert(fabs(summary.max - skews[summary.max_seq]) < 1e-12);
    qsort(skews, SEQS, sizeof *skews, compare);
    assert(fabs(summary.max - skews[SEQS - 1]) < 1e-12);
    assert(fabs(summary.median - (skews[SEQS / 2 - 1] + skews[SEQS / 2]) / 2) < 1e-12);
}

static void test_merge(void)
{
    struct skew_matrix *whole, *parts[3];
    struct skew_loads *all, *pieces[3];

    assert(skew_matrix_create(&whole, RANKS) == 0 && skew_loads_create(&all, RANKS) == 0);
    for (int p = 0; p < 3; p++)
        assert(skew_matrix_create(&parts[p], RANKS) == 0 &&
               skew_loads_create(&pieces[p], RANKS) == 0);
    for (int seq = SEQS - 1; seq >= 0; seq--) {
        for (int rank = 0; rank < RANKS; rank++) {
            struct made made;
            make(&made, seq, rank);
            int p = (int)random_below(3);
            assert(skew_matrix_add(whole, &made.exchange) == 0);
            assert(skew_loads_add(all, &made.exchange) == 0);
            assert(skew_matrix_add(parts[p], &made.exchange) == 0);
            assert(skew_loads_add(pieces[p], &made.exchange) == 0);
        }
    }
    check_summary(all);
    assert(skew_matrix_merge(parts[2], parts[0]) == 0 &&
           skew_matrix_merge(parts[1], parts[2]) == 0);
    assert(skew_loads_merge(pieces[0], pieces[1]) == 0 &&
           skew_loads_merge(pieces[2], pieces[0]) == 0);
    check_summary(pieces[2]);
    assert(parts[1]->exchanges == whole->exchanges && parts[1]->unit_gcd == whole->unit_gcd);
    for (uint32_t i = 0; i < RANKS; i++) {
        for (uint32_t j = 0; j < RANKS; j++) {
            uint64_t sum = 0;
            for (int s = 0; s < SEQS; s++)
                sum += truth[s][i][j];
            assert(skew_matrix_at(whole, i, j) == sum && skew_matrix_at(parts[1], i, j) == sum);
        }
    }
    assert(whole->unit_gcd % 8 == 0 && whole->outside == 0);
    skew_matrix_reset(whole);
    assert(whole->exchanges == 0 && skew_matrix_at(whole, 1, 1) == 0);
    skew_matrix_free(&whole);
    skew_loads_free(&all);
    assert(!whole && !all);
    for (int p = 0; p < 3; p++) {
        skew_matrix_free(&parts[p]);
        skew_loads_free(&pieces[p]);
    }
}

/* One received byte too many, or one rank too few, is noticed. */
static void test_doubts(void)
{
    struct skew_loads *loads;
    struct skew_summary summary;
    struct made made;

    assert(skew_loads_create(&loads, RANKS) == 0);
    for (int rank = 0; rank < RANKS; rank++) {
        make(&made, 3, rank);
        made.recv_sizes[0] += rank == 2;
        assert(skew_loads_add(loads, &made.exchange) == 0);
        make(&made, 4, rank);
        if (rank)
            assert(skew_loads_add(loads, &made.exchange) == 0);
    }
    assert(skew_loads_summary(loads, &summary) == 0);
    assert(summary.exchanges == 2 && summary.complete == 1 && summary.unequal == 1);
    skew_loads_free(&loads);
}

static void test_out_of_range(void)
{
    struct skew_matrix *m, *other;
    struct skew_loads *loads;
    struct made made;

    assert(skew_matrix_create(&m, 0) == -EINVAL && !m);
    assert(skew_matrix_create(&m, 1u << 20) == -EINVAL && !m);
    assert(skew_matrix_create(&m, 3) == 0 && skew_matrix_create(&other, 4) == 0);
    assert(skew_matrix_merge(m, other) == -EINVAL);
    make(&made, 0, 1); /* peers 3 and 4 do not exist here */
    assert(skew_matrix_add(m, &made.exchange) == 0 && m->outside == 2);
    make(&made, 0, 4);
    assert(skew_matrix_add(m, &made.exchange) == 0 && m->outside == 2 + RANKS);
    made.member.rank = -1;
    assert(skew_matrix_add(m, &made.exchange) == 0 && m->outside == 2 + 2 * RANKS);
    assert(skew_loads_create(&loads, 3) == 0);
    assert(skew_loads_add(loads, &made.exchange) == 0);
    /* Sums stay at the top instead of wrapping round. */
    make(&made, 0, 0);
    made.send_sizes[0] = UINT64_MAX / 8;
    skew_matrix_reset(m);
    for (int i = 0; i < 3; i++)
        assert(skew_matrix_add(m, &made.exchange) == 0);
    assert(skew_matrix_at(m, 0, 0) == UINT64_MAX);
    skew_matrix_free(&m);
    skew_matrix_free(&other);
    skew_loads_free(&loads);
}

int main(void)
{
    for (int s = 0; s < SEQS; s++)
        for (int i = 0; i < RANKS; i++)
            for (int j = 0; j < RANKS; j++)
                truth[s][i][j] = 8 * random_below(1000);
    test_merge();
    test_doubts();
    test_out_of_range();
    puts("ok");
    return 0;
}
