/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the Time analyses share among themselves. */
#ifndef SKEW_TIME_PRIVATE_H
#define SKEW_TIME_PRIVATE_H

#include "time_analysis.h"

struct skew_time_slot {
    int64_t place, step, layer, microbatch;
    double token_bytes;
    uint32_t occurrence;
    enum skew_time_role role;
    bool everybody; /* someone in it exchanges with all ranks */
    bool several;   /* two exchanges of one rank: it groups its calls otherwise than others */
};

struct skew_time_clock {
    uint32_t id;
    bool fitted;
    int64_t at, offset, residual;
    double drift;
};

struct skew_times {
    uint32_t ranks;
    size_t count, room, table_size;
    size_t *table; /* hash of (place, occurrence) → slot + 1 */
    struct skew_time_slot *slots;
    size_t *order; /* [count] slots by occurrence and place; made by skew_times_sort() */
    /* [room][ranks] */
    int64_t *start, *end, *host, *seq, *error;
    double *sent, *received, *load;
    struct skew_time_range *hidden;
    uint8_t *met;                   /* takes part, by what is known of the others */
    struct skew_time_clock *clocks; /* [ranks] */
    bool *seen;                     /* [ranks] */
    size_t rows, timed_rows;
    uint64_t cupti_dropped;
};

/* Looking at all of it: what the parts hand on to each other. Arrays over complete exchanges are in
 * the order of result->exchanges; [complete][ranks] ones hold NaN for ranks that are not there. */
struct skew_time_work {
    struct skew_times *times;
    struct skew_time_result *result;
    size_t *slot;     /* [complete] */
    double *arrival;  /* [complete][ranks] ns after the last arrival: 0 or negative */
    double *gap;      /* [complete][ranks] computation before it: own start − own end before */
    double *gap_load; /* [complete][ranks] bytes received by the call's way to the experts; NaN
                         where no experts come before it */
    double *residual; /* [complete][ranks] gap beyond what the load explains, against the median */
    uint8_t *late;    /* [complete][ranks] a straggler here */
};

int skew_times_sort(struct skew_times *times);
/** Puts slots[count] in the order of steps. */
void skew_times_sort_steps(const struct skew_times *times, size_t *slots, size_t count);
/** Whether all ranks that take part, of those seen, are there; `timed`: with their times. */
bool skew_time_whole(const struct skew_times *times, size_t slot, bool timed);

static inline bool skew_time_of_tokens(enum skew_time_role role)
{
    return role != SKEW_TIME_OTHER;
}
/** Whether times of several ranks compare. */
static inline bool skew_time_one_axis(enum skew_time_clocks clocks)
{
    return clocks == SKEW_TIME_ONE_CLOCK || clocks == SKEW_TIME_FITTED_CLOCKS;
}
/** Whether expert computation of the forward or backward pass lies before it. */
static inline bool skew_time_after_experts(enum skew_time_role role)
{
    return role == SKEW_TIME_COMBINE || role == SKEW_TIME_DISPATCH_BWD;
}

int skew_time_derive(struct skew_time_work *work); /* time_exchange.c */
int skew_time_gaps(struct skew_time_work *work);   /* time_gap.c */
int skew_time_fits(struct skew_time_work *work);   /* time_exchange.c */
int skew_time_late(struct skew_time_work *work);   /* time_late.c */
int skew_time_ledger(struct skew_time_work *work); /* time_ledger.c */
int skew_time_headline(struct skew_time_work *work, const struct skew_time_router *router);

#endif
