/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope skew` shows, as JSON and as text.
 */
#ifndef SKEW_SKEW_OUTPUT_H
#define SKEW_SKEW_OUTPUT_H

#include "analysis_output.h"
#include "skew.h"

struct skew_volume_shown {
    const struct skew_volume_skew *skew;
    struct skew_coverage coverage;
    double level;
    bool matrices;
    bool all; /* text: every layer of every role, not of dispatches alone */
};

/** A new array: one object a communicator, role and layer. */
json_t *skew_volume_json(const struct skew_volume_shown *shown);
/** The whole answer; takes over `groups`. */
json_t *skew_volume_whole_json(const struct skew_volume_shown *shown, json_t *groups);
void skew_volume_print(const struct skew_volume_shown *shown);

#endif
