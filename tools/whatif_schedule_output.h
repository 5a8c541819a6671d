/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the outputs of `skewscope whatif schedule` share.
 */
#ifndef SKEW_WHATIF_SCHEDULE_OUTPUT_H
#define SKEW_WHATIF_SCHEDULE_OUTPUT_H

#include "whatif_schedule.h"

#include <math.h>

/** 0 or -ENOMEM. */
int skew_whatif_json_add(struct skew_whatif *w, const struct skew_whatif_result *result);
int skew_whatif_json_write(struct skew_whatif *w);

/** Seconds that the busiest rank computes for, all its tokens at once. */
static inline double skew_whatif_ideal_compute(const struct skew_whatif *w,
                                               const struct skew_demand *d)
{
    const struct skew_cost *c = &w->cost;

    if (c->token_bytes <= 0 || d->receive_max == 0)
        return 0;
    return c->knee_s * fmax(1, (double)d->receive_max / c->token_bytes / c->knee_tokens);
}

/**
 * The cost of a matching (d + f, seconds of dispatch) at which stuffed and greedy take the same
 * time to transfer: (M_stuffed − M_greedy)(d + f) = (Σ_greedy − LB) / BW. NaN where one is not
 * there, or stuffed does not trade matchings for transfer.
 */
static inline double skew_whatif_break_even(const struct skew_whatif *w,
                                            const struct skew_whatif_result *r)
{
    const struct skew_schedule *greedy = r->schedules[SKEW_SCHEDULE_GREEDY];
    const struct skew_schedule *stuffed = r->schedules[SKEW_SCHEDULE_STUFFED];

    if (!greedy || !stuffed || stuffed->matchings <= greedy->matchings ||
        stuffed->bottlenecks >= greedy->bottlenecks)
        return NAN;
    return (double)(greedy->bottlenecks - stuffed->bottlenecks) / w->cost.bandwidth /
           (double)(stuffed->matchings - greedy->matchings);
}

#endif
