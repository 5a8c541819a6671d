/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two loops over a row in which the assignment problem spends its time, for one width of
 * vectors. Only schedule_assign.c includes this, once for each width, with LANES         doubles in
 * a vector LANES_TARGET  an attribute that lets functions use such vectors, or nothing LANES_(name)
 * the name for this width Results do not depend on the width: of equal columns the first is taken,
 * whatever lane it is in. Loops go in pairs of vectors that do not wait for each other: what limits
 * them is latency.
 */

typedef double LANES_(vector) __attribute__((vector_size(LANES * sizeof(double))));
typedef int64_t LANES_(mask) __attribute__((vector_size(LANES * sizeof(int64_t))));
#define VECTOR LANES_(vector)
#define MASK   LANES_(mask)
#define INLINE LANES_TARGET static inline __attribute__((always_inline))

INLINE VECTOR LANES_(choose)(MASK m, VECTOR yes, VECTOR no)
{
    return (VECTOR)(((MASK)yes & m) | ((MASK)no & ~m));
}

INLINE MASK LANES_(choose_index)(MASK m, MASK yes, MASK no)
{
    return (yes & m) | (no & ~m);
}

/* 0, 1, 2, …: the columns of the first vector. */
INLINE MASK LANES_(first_columns)(void)
{
    MASK at = {0};

    for (int k = 0; k < LANES; k++)
        at[k] = k;
    return at;
}

/* Least and second least of cost − price, and the column of the least, of each lane. */
struct LANES_(two_lanes) {
    VECTOR first, second;
    MASK column;
};

INLINE void LANES_(least_of_lanes)(struct LANES_(two_lanes) * l, VECTOR cost, VECTOR price, MASK at)
{
    VECTOR reduced = cost - price;
    MASK better = reduced < l->first;
    VECTOR beaten = LANES_(choose)(better, l->first, reduced);

    l->second = LANES_(choose)(beaten < l->second, beaten, l->second);
    l->first = LANES_(choose)(better, reduced, l->first);
    l->column = LANES_(choose_index)(better, at, l->column);
}

LANES_TARGET static struct two_least LANES_(two_least)(const struct skew_assign *a, uint32_t i)
{
    const VECTOR *cost = (const VECTOR *)(a->cost + i * a->stride);
    const VECTOR *price = (const VECTOR *)a->price;
    VECTOR far = FAR - (VECTOR){0};
    struct LANES_(two_lanes) l[2] = {{far, far, {0}}, {far, far, {0}}}, *x = &l[0], *y = &l[1];
    MASK at = LANES_(first_columns)();

    for (size_t k = 0; k < a->stride / LANES; k += 2, at += 2 * LANES) {
        LANES_(least_of_lanes)(x, cost[k], price[k], at);
        LANES_(least_of_lanes)(y, cost[k + 1], price[k + 1], at + LANES);
    }
    MASK better = (y->first < x->first) | ((y->first == x->first) & (y->column < x->column));
    VECTOR beaten = LANES_(choose)(better, x->first, y->first);
    VECTOR second = LANES_(choose)(better, y->second, x->second);
    x->second = LANES_(choose)(beaten < second, beaten, second);
    x->first = LANES_(choose)(better, y->first, x->first);
    x->column = LANES_(choose_index)(better, y->column, x->column);
    struct two_least t = {x->first[0], x->second[0], (uint32_t)x->column[0]};
    for (int k = 1; k < LANES; k++) {
        double first = x->first[k], other = x->second[k];
        uint32_t column = (uint32_t)x->column[k];
        bool nearer = first < t.first || (first == t.first && column < t.column);
        double worse = nearer ? t.first : first;
        other = nearer ? other : t.second;
        t.second = worse < other ? worse : other;
        t.first = nearer ? first : t.first;
        t.column = nearer ? column : t.column;
    }
    return t;
}

struct LANES_(nearest_lanes) {
    VECTOR least;
    MASK column;
};

/* Offers an edge to the columns of a vector, and keeps the nearest of each lane that is still open.
 */
INLINE void LANES_(relax_lanes)(struct skew_assign *a, struct LANES_(nearest_lanes) * l,
                                VECTOR cost, size_t k, VECTOR base, MASK self, MASK at)
{
    VECTOR *distance = (VECTOR *)a->distance + k;
    MASK *from = (MASK *)a->reached_from + k;
    VECTOR offer = base + (cost - ((const VECTOR *)a->price)[k]);
    MASK shorter = offer < *distance;

    *distance = LANES_(choose)(shorter, offer, *distance);
    *from = LANES_(choose_index)(shorter, self, *from);
    VECTOR open = *distance + ((const VECTOR *)a->closed)[k];
    MASK nearer = open < l->least;
    l->least = LANES_(choose)(nearer, open, l->least);
    l->column = LANES_(choose_index)(nearer, at, l->column);
}

/* Offers row i's edges at `base` above its least; returns the nearest column that is still open. */
LANES_TARGET static uint32_t LANES_(relax)(struct skew_assign *a, uint32_t i, double base)
{
    const VECTOR *cost = (const VECTOR *)(a->cost + i * a->stride);
    VECTOR far = DBL_MAX - (VECTOR){0}, bases = base - (VECTOR){0};
    struct LANES_(nearest_lanes) l[2] = {{far, {0}}, {far, {0}}};
    MASK self = (int64_t)i - (MASK){0}, at = LANES_(first_columns)();

    for (size_t k = 0; k < a->stride / LANES; k += 2, at += 2 * LANES) {
        LANES_(relax_lanes)(a, &l[0], cost[k], k, bases, self, at);
        LANES_(relax_lanes)(a, &l[1], cost[k + 1], k + 1, bases, self, at + LANES);
    }
    MASK nearer =
        (l[1].least < l[0].least) | ((l[1].least == l[0].least) & (l[1].column < l[0].column));
    VECTOR each = LANES_(choose)(nearer, l[1].least, l[0].least);
    MASK columns = LANES_(choose_index)(nearer, l[1].column, l[0].column);
    double least = each[0];
    int64_t nearest = columns[0];
    for (int k = 1; k < LANES; k++) {
        bool before = each[k] < least || (each[k] == least && columns[k] < nearest);
        least = before ? each[k] : least;
        nearest = before ? columns[k] : nearest;
    }
    return (uint32_t)nearest;
}

#undef VECTOR
#undef MASK
#undef INLINE
#undef LANES
#undef LANES_TARGET
#undef LANES_
