/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Schedules of one all-to-all: a matrix of bytes taken apart into phases (mostly matchings, in
 * which each rank sends to at most one rank and receives from at most one), and what each would
 * cost.
 *
 * Everything here is a model over a matrix; nothing was measured. Pure computation: no input, no
 * output, no state between calls; different schedules may be made on different threads.
 *
 * Sources: [MW] "Birkhoff Decompositions and Photonic Interconnects Wait!", arXiv 2605.26845;
 * [FAST] NSDI 2026, arXiv 2505.09764; Jonker and Volgenant, Computing 38 (1987); Sinkhorn, Ann.
 * Math. Stat. 35 (1964); Solstice, CoNEXT 2015; Johnson, Naval Res. Log. Quart. 1 (1954).
 */
#ifndef SKEW_SCHEDULE_H
#define SKEW_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "line.h"

#define SKEW_SCHEDULE_RANKS_MAX 1024u

/*
 * X(name in code, name for people, what it is)
 *
 * greedy    [MW], their algorithm: maximum-weight perfect matching of what is left, entries taken
 *           whole, again and again.
 * sinkhorn  [MW], their baseline: Birkhoff–von Neumann after Sinkhorn. The demand of a pair is
 * spread over the permutations that hold the pair, in proportion to their coefficients. stuffed
 * [FAST], embedding: dummy demand only on light rows and columns, up to the largest row or column
 * sum, then Birkhoff–von Neumann. Meets the port bound exactly. shift     SpreadOut: phase k sends
 * i → (i + k) mod n. ring      one static bidirectional ring 0 – 1 – … – 0, each direction with
 * half of the port's bandwidth, every message the shorter way round (equal ways: half each). [MW]
 * solves the routing by a linear programme; this is an upper bound of theirs. tier      [FAST]:
 * what stays in a domain over the scale-up links; the rest balanced over the domain's ports, sent
 * by matchings of domains (as stuffed), handed on inside.
 */
#define SKEW_SCHEDULE_METHODS(X)                                                                   \
    X(GREEDY, "greedy", "greedy maximum-weight matching")                                          \
    X(SINKHORN, "sinkhorn", "Birkhoff-von Neumann after Sinkhorn")                                 \
    X(STUFFED, "stuffed", "Birkhoff-von Neumann after stuffing")                                   \
    X(SHIFT, "shift", "shifted diagonals (SpreadOut)")                                             \
    X(RING, "ring", "static ring, no reconfiguration")                                             \
    X(TIER, "tier", "scale-up domains first, then matchings of domains")

enum skew_schedule_method {
#define X(id, name, what) SKEW_SCHEDULE_##id,
    SKEW_SCHEDULE_METHODS(X)
#undef X
        SKEW_SCHEDULE_METHOD_COUNT
};

const char *skew_schedule_name(enum skew_schedule_method method);
const char *skew_schedule_what(enum skew_schedule_method method);

/* ---- the matrix by itself ------------------------------------------------------------------- */

/** Facts of a matrix that no schedule can change. The diagonal needs no port and is left out. */
struct skew_demand {
    uint32_t ranks;
    uint64_t total;       /* bytes off the diagonal */
    uint64_t bound;       /* LB: the largest row or column sum, bytes: the busiest port */
    uint64_t local_max;   /* the largest diagonal entry, bytes */
    uint64_t receive_max; /* the most that one rank receives, its own included, bytes */
    uint64_t receive_sum; /* all of the matrix, diagonal included */
    double imbalance;     /* endpoint imbalance LB / (total / n), facts of ports; NaN: no traffic */
};

/**
 * @param bytes [ranks][ranks], row: source.
 * @return 0; -EINVAL for 0 or more than SKEW_SCHEDULE_RANKS_MAX ranks; -EOVERFLOW when all entries
 *         together are 2^62 bytes or more.
 */
int skew_demand_measure(struct skew_demand *demand, const uint64_t *bytes, uint32_t ranks);

/* ---- schedules ------------------------------------------------------------------------------ */

struct skew_transfer {
    uint32_t from, to; /* never equal */
    uint64_t bytes;    /* never 0 */
};

struct skew_phase {
    size_t first, count; /* of skew_schedule.transfers */
    uint64_t bottleneck; /* bytes that the busiest port or link carries */
    uint64_t up_bytes;   /* tier only: bytes over the busiest scale-up port, before or after that */
    uint64_t receive_max; /* the most that one rank receives, bytes */
    uint64_t bytes;       /* of all its transfers */
    bool matching;        /* false: many to many (ring, tier's first, the remainder) */
    bool reconfigures;    /* pays the reconfiguration delay */
};

/** Owned by the caller, who gives it back to skew_schedule_free(). */
struct skew_schedule {
    enum skew_schedule_method method;
    uint32_t ranks;
    struct skew_phase *phases;
    size_t phase_count;
    struct skew_transfer *transfers;
    size_t transfer_count;
    size_t matchings;     /* phases that are matchings */
    uint64_t bound;       /* what `bottlenecks` cannot be below: LB, or that of domains for tier */
    uint64_t bottlenecks; /* sum over phases */
    uint64_t remainder;   /* bytes that the cap on matchings left to one unscheduled phase */
};

enum skew_birkhoff_pick {
    SKEW_PICK_LARGEST, /* the permutation whose smallest entry is largest: few matchings */
    SKEW_PICK_FIRST /* any permutation, lowest ranks first: many matchings, up to n² − 2n + 2 */
};

struct skew_schedule_options {
    uint32_t
        max_matchings; /* 0: no cap. What is left then goes in one last phase, free of congestion */
    uint32_t domain_ranks; /* tier: ranks in a domain, consecutive ones; divides the ranks */
    enum skew_birkhoff_pick pick;
};

/**
 * Makes a schedule that delivers exactly the off-diagonal of `bytes`. Costs O(n³) a matching
 * (greedy), O(n²) for each entry that a permutation uses up (sinkhorn, stuffed).
 * @return 0; -EINVAL, -EOVERFLOW as skew_demand_measure(), or domain_ranks does not divide;
 * -ENOMEM.
 */
int skew_schedule_make(struct skew_schedule **out, enum skew_schedule_method method,
                       const uint64_t *bytes, uint32_t ranks,
                       const struct skew_schedule_options *options);
void skew_schedule_free(struct skew_schedule **schedule);

/** Schedule loss: (sum of bottlenecks) / bound, at least 1; NaN without traffic. */
double skew_schedule_loss(const struct skew_schedule *schedule);

/** Share of the ports' time that they stand idle while phases run: 1 − total / (n Σ bottlenecks).
 * For tier it counts what crosses domains alone. NaN for ring (messages pass through others'
 * ports). */
double skew_schedule_idle(const struct skew_schedule *schedule);

/* ---- maximum-weight perfect matching -------------------------------------------------------- */

/**
 * The assignment problem, after Jonker and Volgenant: augmenting row reduction, then shortest
 * augmenting paths, O(n³). Prices stay from one solution to the next, so that a matrix that changed
 * little is solved fast; any prices are a correct start. Integers up to 2^53 / 4n are exact.
 */
struct skew_assign {
    uint32_t n;
    size_t stride;
    double *cost; /* [n][stride], of which n columns count; what is minimised: minus the weight */
    uint32_t *column; /* [n] the solution: column of each row */
    /* private */
    bool wide; /* vectors of this processor's full width; the solution is the same without */
    double *price, *distance, *closed;
    int64_t *reached_from;
    uint32_t *row, *free_rows, *scanned;
    void *memory;
};

int skew_assign_create(struct skew_assign **out, uint32_t n);
void skew_assign_free(struct skew_assign **assign);
void skew_assign_solve(struct skew_assign *assign);

/* ---- cost ----------------------------------------------------------------------------------- */

/**
 * Seconds of a phase: base and slope of `wire` over the bytes of its busiest port, `mean` over
 * those of the mean port, + up + reconfiguration; with a plain line T = Σ max_k / BW + M (d + f),
 * the science of [MW] §cost model. An expert's compute is a line with a knee too; [MW] has a floor
 * of 250 µs up to 256 tokens, then time in proportion: see skew_cost_floor().
 */
struct skew_cost {
    struct skew_line wire; /* seconds by bytes; `base` is the fixed cost of each phase */
    double mean;           /* seconds a byte of the mean port, beside the busiest one's */
    double up;             /* seconds a byte of scale-up ports */
    double reconfigure_s;
    bool computes;            /* false: no compute is modelled */
    struct skew_line compute; /* seconds by bytes received; nothing received takes nothing */
    double combine_ratio;     /* bytes of a token in the combine / in the dispatch */
};

/** knee_s up to `knee` bytes, in proportion to the bytes beyond. */
static inline struct skew_line skew_cost_floor(double knee_s, double knee)
{
    return (struct skew_line){.base = knee_s, .knee = knee, .above = knee_s / knee};
}

/** Seconds that bytes of the busiest and of the mean port take, without the fixed cost. */
static inline double skew_cost_bytes(const struct skew_cost *cost, double busiest, double mean)
{
    struct skew_line rate = cost->wire;
    rate.base = 0;
    double s = skew_line_at(&rate, busiest) + cost->mean * mean;
    return s > 0 ? s : 0;
}

/** Seconds that a rank computes for what it received. */
static inline double skew_cost_compute(const struct skew_cost *cost, double bytes)
{
    return cost->computes && bytes > 0 ? skew_line_at(&cost->compute, bytes) : 0;
}

/** The congestion-free ideal: the busiest port both ways, all computed at once, no overlap. */
double skew_cost_ideal(const struct skew_cost *cost, const struct skew_demand *demand,
                       double scale);
/** Σ over phases of what their bytes take in the dispatch, fixed costs left out. */
double skew_cost_transfer(const struct skew_cost *cost, const struct skew_schedule *schedule);

/**
 * Phases as jobs of a three-machine flow shop: dispatch (the network), compute (a phase ends with
 * the rank that received most), combine (the phase backwards; the network's other direction: [MW]
 * lets the two not contend). The local diagonal is computed first, from time 0.
 */
struct skew_timing {
    double dispatch_s; /* Σ over phases */
    double combine_s;
    double compute_s;    /* Σ over phases and the local part: small pieces pay the floor each */
    double sequential_s; /* no overlap: dispatch, all tokens computed at once, combine */
    double natural_s;    /* overlapped, phases in their own order */
    double johnson_s; /* overlapped, in the order of Johnson's rule on (d + c, c + b): exact for two
                         machines, a heuristic for three */
    double makespan_s;     /* the lesser of the two */
    bool johnson;          /* which */
    double compute_idle_s; /* of makespan_s, the time in which nothing is computed */
    double ideal_s;        /* skew_cost_ideal() */
    double rest;           /* makespan / (what bytes take, both ways): latency, compute, overlap;
                              NaN without traffic */
};

/** One bar. */
struct skew_bar {
    uint32_t machine; /* 0 dispatch, 1 compute, 2 combine */
    int64_t phase;    /* index, −1: the local diagonal */
    double start_s, end_s;
    uint64_t bytes; /* of the dispatch */
};

/**
 * @param scale the matrix times this: the batch size
 * @param bars  NULL, or room for 3 (phase_count + 1); those of makespan_s; *bar_count is how many
 * @return 0 or -ENOMEM
 */
int skew_schedule_time(const struct skew_schedule *schedule, const struct skew_demand *demand,
                       const struct skew_cost *cost, double scale, struct skew_timing *timing,
                       struct skew_bar *bars, size_t *bar_count);

/** Where two schedules change places as the batch grows. Index `count` is the congestion-free
 * ideal. */
struct skew_crossing {
    double scale;
    size_t below, above; /* faster below this scale; faster above it */
    bool fastest;        /* and they are the fastest of all schedules (the ideal is none) there */
};

/**
 * Compares makespan_s of all pairs over scales from `least` to `most`, 8 an octave, and closes in
 * on every change of sign. Crossings that come and go between two points are not seen.
 * @return 0 or -ENOMEM; *crossings is the caller's to free, ordered by scale.
 */
int skew_schedule_crossings(const struct skew_schedule *const *schedules, size_t count,
                            const struct skew_demand *demand, const struct skew_cost *cost,
                            double least, double most, struct skew_crossing **crossings,
                            size_t *crossing_count);

#endif
