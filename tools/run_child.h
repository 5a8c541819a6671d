/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command in the foreground, as if `run` were not there: same process group and terminal, signals
 * that only `run` got are passed on, ones that the command got too are not, stops and continues are
 * shared, and the command's end becomes our own.
 *
 * One thread only: signals are blocked in all of `run` and read by the loop here.
 */
#ifndef SKEW_RUN_CHILD_H
#define SKEW_RUN_CHILD_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define SKEW_CHILD_SIGNALS 65 /* signal numbers */

struct skew_child {
    pid_t pid;
    int signal_fd;   /* all signals that can be waited for */
    int sentinel_fd; /* see skew_child_signals() */
    pid_t sentinel;
    uint16_t
        group_counts[SKEW_CHILD_SIGNALS]; /* signals that the whole group got, not yet met here */
    time_t group_second;                  /* when they were last asked for */
    sigset_t old_mask;                    /* what the command starts with */
    struct sigaction old_chld;
    int pending_stop; /* a stop signal that came to us, until the command stops too; 0: none */
    bool stopped;     /* the command is */
    bool ended;
    int status; /* of waitpid, when it has ended */
};

/** Blocks signals and prepares to read them. Call before any thread or child. 0 or negative errno.
 */
int skew_child_signals(struct skew_child *child);

/** Runs first thing in the child, before exec: puts its environment in place. */
typedef void skew_child_setup(void *user);

/**
 * Starts the command.
 * @return 0; a positive errno when it could not be executed (the child is gone); a negative errno
 *         when no process could be made.
 */
int skew_child_start(struct skew_child *child, char **arguments, skew_child_setup *setup,
                     void *user);

/** Lets go of standard input and output, so that they are the command's alone: whoever reads what
 * it writes sees its end when it closes it. */
void skew_child_own_streams(void);

/** Told of any other child of ours that ended. */
typedef void skew_child_other(void *user, pid_t pid, int status);

/**
 * Handles signals and ended children for at most `timeout_ms`, or until something happened.
 * While the command lives, signals go to it; once it has ended, the number of the first one that
 * asks to end (INT, TERM, HUP, QUIT) is returned, else 0.
 */
int skew_child_step(struct skew_child *child, int timeout_ms, skew_child_other *other, void *user);

/** Lets go of signals that arrived together with the command's end. */
void skew_child_settle(struct skew_child *child);

/** Ends this process as the command ended: same status, or same signal without a core. */
_Noreturn void skew_child_mirror(struct skew_child *child);

#endif
