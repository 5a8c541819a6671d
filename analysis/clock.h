/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the clocks of several nodes relate: offset and drift of each CLOCK_MONOTONIC against a
 * reference, from exchanges that met. docs/clocks.md has the method, its sources and its limits.
 *
 * What is used is causality alone: a rank's exchange cannot end before the ranks that it received
 * bytes from had begun theirs. Traffic both ways bounds the difference of two clocks from both
 * sides; the estimate is the middle, and the residual half the gap at least. Times on the device
 * are needed: the host's say when an exchange was enqueued and not when it was over.
 *
 * Nanoseconds. One thread; nothing is written.
 */
#ifndef SKEW_CLOCK_H
#define SKEW_CLOCK_H

#include "trace.h"

enum skew_clock_state {
    SKEW_CLOCK_REFERENCE, /* its clock is the axis */
    SKEW_CLOCK_SHARED, /* of the reference's node: offset 0 by construction, nothing was fitted */
    SKEW_CLOCK_FITTED,
    SKEW_CLOCK_NO_TIMES, /* none of its exchanges has a time on the device */
    SKEW_CLOCK_NOT_TIED  /* no traffic both ways, even by way of others, to the reference */
};

/** The clock of one process: time on the axis = ns + offset + drift_ppb × (ns − at) / 1e9. */
struct skew_clock {
    enum skew_clock_state state;
    uint32_t trace;  /* index of its database */
    uint32_t node;   /* processes of one node share a clock */
    int64_t process; /* process_id there */
    int32_t rank;    /* of the job, or else of its first communicator; −1: unknown */
    int64_t at_ns, offset_ns, drift_ppb; /* 0 unless fitted */
    int64_t residual_ns;                 /* the error is within ± this while the job ran */
    int64_t spread_ns; /* median disagreement of its pairs: how far it may be off if paths are
                          symmetric */
    int64_t matches;   /* exchanges that tie its node to others */
    bool bent;         /* no straight line fits: the clock was slewed or stepped meanwhile */
};

/** Ranks of a communicator that no database has. */
struct skew_clock_missing {
    const char *comm_key;  /* borrowed from a trace */
    uint32_t ranks, count; /* of the communicator; missing ones */
    const uint32_t *which; /* [count] in order */
};

struct skew_clocks;

struct skew_clock_options {
    bool each_process; /* fit every process, as if those of one node had clocks of their own */
};

/** Fits all clocks of all databases. 0 and *out, which the caller frees, or a negative errno with
 * `error` set. */
int skew_clocks_fit(struct skew_trace *const *traces, size_t count,
                    const struct skew_clock_options *options, struct skew_clocks **out,
                    struct skew_error *error);
void skew_clocks_free(struct skew_clocks **clocks);

/** Of all processes, by database and process_id. Borrowed. */
const struct skew_clock *skew_clocks_all(const struct skew_clocks *clocks, size_t *count);
/** The clock of a process; NULL: no such process. */
const struct skew_clock *skew_clocks_of(const struct skew_clocks *clocks, uint32_t trace,
                                        int64_t process);
/** process.key of the reference. Borrowed. NULL: no process at all. */
const char *skew_clocks_reference(const struct skew_clocks *clocks);
/** Clocks there are: nodes, or with each_process processes. */
uint32_t skew_clocks_nodes(const struct skew_clocks *clocks);
const struct skew_clock_missing *skew_clocks_missing(const struct skew_clocks *clocks,
                                                     size_t *count);

/** Whether the clock has a place on the axis. */
static inline bool skew_clock_tied(const struct skew_clock *clock)
{
    return clock->state <= SKEW_CLOCK_FITTED;
}
/** A time that the process's clock showed, on the reference's axis. */
int64_t skew_clock_apply(const struct skew_clock *clock, int64_t ns);

#endif
