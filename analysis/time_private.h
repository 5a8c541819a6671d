/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the Time analyses share among themselves. */
#ifndef SKEW_TIME_PRIVATE_H
#define SKEW_TIME_PRIVATE_H

#include "time_analysis.h"

struct skew_time_slot {
    int64_t seq, step, layer, microbatch;
    double token_bytes;
    uint32_t occurrence;
    enum skew_time_role role;
    uint32_t present, timed; /* ranks */
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
    size_t *table; /* hash of (seq, occurrence) → slot + 1 */
    struct skew_time_slot *slots;
    size_t *order; /* [count] slots by occurrence and seq; made by skew_times_sort() */
    /* [room][ranks] */
    int64_t *start, *end, *host;
    double *sent, *received, *load;
    double *hidden; /* ns of start … end in which other kernels ran; NaN: not known */
    struct skew_time_clock *clocks; /* [ranks] */
    bool *seen;                     /* [ranks] */
    size_t rows, timed_rows;
};

/* Looking at all of it: what the parts hand on to each other. Arrays over complete exchanges are in
 * the order of result->exchanges; [complete][ranks] ones hold NaN for ranks that are not there. */
struct skew_time_work {
    struct skew_times *times;
    struct skew_time_result *result;
    size_t *slot;     /* [complete] */
    double *arrival;  /* [complete][ranks] ns after the last arrival: 0 or negative */
    double *gap;      /* [complete][ranks] computation before it: own start − own end before */
    double *gap_load; /* [complete][ranks] bytes received in the exchange before it */
    double *residual; /* [complete][ranks] gap beyond what the load explains, against the median */
    uint8_t *late;    /* [complete][ranks] a straggler here */
};

int skew_times_sort(struct skew_times *times);
size_t skew_times_find(const struct skew_times *times, int64_t seq, uint32_t occurrence);

static inline bool skew_time_of_tokens(enum skew_time_role role)
{
    return role != SKEW_TIME_OTHER;
}
/** Whether expert computation of the forward or backward pass lies before it. */
static inline bool skew_time_after_experts(enum skew_time_role role)
{
    return role == SKEW_TIME_COMBINE || role == SKEW_TIME_DISPATCH_BWD;
}

/** Fills `hidden` of the ranks in this database, where it has kernels. time_overlap.c */
int skew_time_read_hidden(struct skew_times *times, struct skew_trace *trace, const char *comm_key,
                          struct skew_error *error);

int skew_time_derive(struct skew_time_work *work);  /* time_exchange.c */
int skew_time_fits(struct skew_time_work *work);    /* time_exchange.c */
int skew_time_late(struct skew_time_work *work);    /* time_late.c */
void skew_time_ledger(struct skew_time_work *work); /* time_ledger.c */
int skew_time_headline(struct skew_time_work *work, const struct skew_time_router *router);

#endif
