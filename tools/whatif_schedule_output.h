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

struct skew_whatif_text {
    char text[24];
};

/** "1.234 ms"; "-" for NaN. */
struct skew_whatif_text skew_whatif_seconds(double s);

/**
 * The cost of a matching (d + f, seconds of dispatch) at which stuffed and greedy take the same
 * time to transfer: (M_stuffed − M_greedy)(d + f) = Σ_greedy − Σ_stuffed of what bytes take, which
 * is (Σ_greedy − LB) / BW on a plain line. NaN where one is not there, or stuffed does not trade
 * matchings for transfer.
 */
static inline double skew_whatif_break_even(const struct skew_whatif *w,
                                            const struct skew_whatif_result *r)
{
    const struct skew_schedule *greedy = r->schedules[SKEW_SCHEDULE_GREEDY];
    const struct skew_schedule *stuffed = r->schedules[SKEW_SCHEDULE_STUFFED];

    if (!greedy || !stuffed || stuffed->matchings <= greedy->matchings ||
        stuffed->bottlenecks >= greedy->bottlenecks)
        return NAN;
    double saved = skew_cost_transfer(&w->cost, greedy) - skew_cost_transfer(&w->cost, stuffed);
    return saved > 0 ? saved / (double)(stuffed->matchings - greedy->matchings) : NAN;
}

#endif
