/* SPDX-License-Identifier: Apache-2.0 */
/* What the files clock*.c share. A *unit* is what has a clock of its own: a node, or a process. */
#ifndef SKEW_CLOCK_PRIVATE_H
#define SKEW_CLOCK_PRIVATE_H

#include "clock.h"

#define SKEW_CLOCK_BLOCKS 32 /* at most */
/* Linux slews a clock by 500 ppm at most (adjtimex(2)), so two of them differ by twice that. */
#define SKEW_CLOCK_DRIFT_MAX 1e-3
/* How far ends of one exchange differ between ranks: by this, and by this share of its time. Only
 * weights depend on it. */
#define SKEW_CLOCK_SCATTER       1e3 /* ns */
#define SKEW_CLOCK_SCATTER_SHARE 0.1

/* One exchange of one rank, with its time. */
struct clock_row {
    uintptr_t group; /* equal for exchanges that met */
    uint32_t unit, rank;
    int64_t start, end; /* the earliest and the latest that they can have been */
    int64_t duration;
    size_t senders; /* in `bits`: whom it received bytes from; ALL_SENDERS: all */
};
#define ALL_SENDERS SIZE_MAX

/* One side of the bounds, block by block. */
struct clock_side {
    double bound[SKEW_CLOCK_BLOCKS], bound_at[SKEW_CLOCK_BLOCKS]; /* of δ, and when; ±INFINITY */
    /* The mean of ends of `hi` − ends of `lo`, each exchange with a weight; sums. */
    double weight[SKEW_CLOCK_BLOCKS], value[SKEW_CLOCK_BLOCKS], at[SKEW_CLOCK_BLOCKS];
};

/* What is known of the difference δ of two clocks: that of `hi` − that of `lo`. */
struct clock_pair {
    struct clock_side upper, lower;
};

struct clock_unit {
    int64_t at, first, last; /* own clock: middle, and what it was seen to show */
    bool seen;
    double a, b; /* on the axis: a + (1 + b) (ns − at), from the reference's `at` on */
    uint32_t component;
    int64_t matches;
    uintptr_t counted; /* the group that was last counted in `matches` */
    double residual, spread;
    uint32_t pairs, bent_pairs; /* looked at; that no line fits */
    bool bent;
};

struct skew_clocks {
    struct skew_clock *all;
    const char **keys; /* [count] process.key, owned */
    size_t count;
    struct clock_unit *units;
    uint32_t unit_count, reference; /* unit */
    size_t reference_process;       /* in `all` */
    struct clock_row *rows;         /* by group and rank */
    size_t row_count;
    uint64_t *bits;
    size_t bit_words;
    struct clock_pair **pairs; /* [unit_count × unit_count], lo × unit_count + hi; NULL: none */
    uint32_t blocks;
    struct skew_clock_missing *missing;
    size_t missing_count;
};

/* clock_read.c: processes, units, rows, missing ranks. */
int skew_clock_read(struct skew_clocks *clocks, struct skew_trace *const *traces, size_t count,
                    const struct skew_clock_options *options, struct skew_error *error);

/* clock_bound.c */
/** The bounds of all pairs, with times as the units' present maps say; `mapped`: these are on one
 * axis already. 0 or −ENOMEM. */
int skew_clock_bounds(struct skew_clocks *clocks, bool mapped);
/** The middle of one block of a pair, when, and its weight (1 / ns²). False: not bounded from both
 * sides. */
bool skew_clock_block(const struct clock_pair *pair, uint32_t block, double *middle, double *at,
                      double *weight);
/** A line through the middle between the bounds of one pair: δ(x) = a + b x. False: not bounded
 * from both sides. */
bool skew_clock_middle(const struct clock_pair *pair, uint32_t blocks, double *a, double *b);
/** The largest δ(x) (sign 1), or −δ(x) (sign −1), of all lines that keep to the bounds. */
double skew_clock_extreme(const struct clock_pair *pair, uint32_t blocks, double x, int sign);

/* clock_fit.c: maps of all units that can be tied to the reference. 0 or −ENOMEM. */
int skew_clock_solve(struct skew_clocks *clocks);

static inline double skew_clock_map(const struct clock_unit *unit, int64_t ns)
{
    return unit->a + (1 + unit->b) * (double)(ns - unit->at);
}

static inline struct clock_pair *skew_clock_pair(const struct skew_clocks *c, uint32_t lo,
                                                 uint32_t hi)
{
    return c->pairs[(size_t)lo * c->unit_count + hi];
}

#endif
