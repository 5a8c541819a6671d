/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A line, or two that meet at a knee: how models say what so many bytes take. Pure computation.
 */
#ifndef SKEW_LINE_H
#define SKEW_LINE_H

/** base + below · min(x, knee) + above · max(0, x − knee); without a knee (0) base + above · x. */
struct skew_line {
    double base, below, knee, above;
};

/** The line at x, not below 0. */
static inline double skew_line_at(const struct skew_line *l, double x)
{
    double low = l->knee > 0 && x > l->knee ? l->knee : x;
    double y = l->base + (l->knee > 0 ? l->below * low + l->above * (x - low) : l->above * x);

    return y > 0 ? y : 0;
}

#endif
