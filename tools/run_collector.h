/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The collector as a child of `run`: in a session of its own, without a terminal and without what
 * the job's environment adds, so that nothing meant for the job reaches it.
 */
#ifndef SKEW_RUN_COLLECTOR_H
#define SKEW_RUN_COLLECTOR_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct skew_run_collector {
    const char *out;
    const char *run_id;
    const sigset_t *mask; /* of signals, to start it with */
    pid_t pid;            /* −1: not running */
    bool ended_well;      /* its last end was exit status 0 */
    int messages;         /* a file in memory: its standard error */
    unsigned restarts;
    uint64_t started_ns;
};

void skew_run_collector_init(struct skew_run_collector *collector, const char *out,
                             const char *run_id, const sigset_t *mask);

/** `skewscope collect --out OUT`, with --follow or once. 0 or a negative errno. */
int skew_run_collector_start(struct skew_run_collector *collector, bool follow);

/** Takes the end of a child; true when it was the collector. */
bool skew_run_collector_ended(struct skew_run_collector *collector, pid_t pid, int status);

/** Starts it again when it has died, at most a few times. */
void skew_run_collector_revive(struct skew_run_collector *collector);

/** What it had to say, at most `size` bytes, one line; "" when nothing. */
void skew_run_collector_message(const struct skew_run_collector *collector, char *text,
                                size_t size);

void skew_run_collector_free(struct skew_run_collector *collector);

#endif
