/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A synthetic job straight into the Time analyses, without a database: for tests over many seeds.
 */
#ifndef SYNTH_TIMES_H
#define SYNTH_TIMES_H

#include "synth/synth.h"
#include "time_analysis.h"

struct synth_times {
    struct skew_synth_spec spec;
    struct skew_synth *synth;
    struct skew_times *times;
    struct skew_time_result result;
    struct skew_synth_late *late; /* what stragglers did */
    size_t late_count;
    double *routed; /* [calls][ranks][experts], in order of step and layer; NULL: not kept */
    size_t calls;
};

/** Runs the job of `spec` and analyses it. Asserts on failure. */
void synth_times_run(struct synth_times *out, const struct skew_synth_spec *spec, bool routing);
/** The same with tokens, noise and all else that is drawn later from another seed: `spec`'s own
 * gives what jobs then have in common, popularity, topics and placement. */
void synth_times_run_as(struct synth_times *out, const struct skew_synth_spec *spec, int64_t seed,
                        bool routing);
void synth_times_free(struct synth_times *times);

#endif
