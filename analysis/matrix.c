/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix of bytes from each rank to each rank: the send side of exchanges, added up.
 */
#include "trace_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Corrupt input must not wrap round to something that looks sane. */
static void add_saturating(uint64_t *to, uint64_t more)
{
    if (__builtin_add_overflow(*to, more, to))
        *to = UINT64_MAX;
}

int skew_matrix_create(struct skew_matrix **out, uint32_t ranks)
{
    struct skew_matrix *m;

    *out = NULL;
    if (ranks == 0 || ranks > SKEW_RANKS_MAX)
        return -EINVAL;
    m = calloc(1, sizeof *m);
    if (m)
        m->bytes = calloc((size_t)ranks * ranks, sizeof *m->bytes);
    if (!m || !m->bytes) {
        free(m);
        return -ENOMEM;
    }
    m->ranks = ranks;
    *out = m;
    return 0;
}

void skew_matrix_free(struct skew_matrix **matrix)
{
    if (*matrix)
        free((*matrix)->bytes);
    free(*matrix);
    *matrix = NULL;
}

void skew_matrix_reset(struct skew_matrix *m)
{
    memset(m->bytes, 0, (size_t)m->ranks * m->ranks * sizeof *m->bytes);
    m->exchanges = m->outside = m->unit_gcd = 0;
}

int skew_matrix_add(void *matrix, const struct skew_exchange *exchange)
{
    struct skew_matrix *m = matrix;
    const struct skew_vector *v = exchange->send;
    int32_t from = exchange->member->rank;

    m->exchanges++;
    if (!v)
        return 0;
    if (from < 0 || (uint32_t)from >= m->ranks) {
        m->outside += v->cells;
        return 0;
    }
    uint64_t *row = m->bytes + (size_t)from * m->ranks;
    uint64_t unit = exchange->send_unit, units = 0;
    for (uint32_t i = 0; i < v->cells; i++) {
        uint32_t to = skew_vector_peer(v, i);
        if (to >= m->ranks) {
            m->outside++;
            continue;
        }
        add_saturating(&row[to], v->sizes[i] * unit);
        if (units != 1 && v->sizes[i] != v->largest)
            units = skew_gcd(units, v->sizes[i]);
    }
    m->unit_gcd = skew_gcd(m->unit_gcd, skew_gcd(units, v->largest) * unit);
    return 0;
}

int skew_matrix_merge(struct skew_matrix *m, const struct skew_matrix *other)
{
    if (m->ranks != other->ranks)
        return -EINVAL;
    for (size_t i = 0; i < (size_t)m->ranks * m->ranks; i++)
        add_saturating(&m->bytes[i], other->bytes[i]);
    m->exchanges += other->exchanges;
    m->outside += other->outside;
    m->unit_gcd = skew_gcd(m->unit_gcd, other->unit_gcd);
    return 0;
}
