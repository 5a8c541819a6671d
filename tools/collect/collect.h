/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The collector, for the other subcommands: takes what processes left in their spools into the
 * trace of an output directory. One call at a time in a process.
 */
#ifndef SKEW_COLLECT_H
#define SKEW_COLLECT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct skew_collect_result {
    uint32_t processes; /* whose spools were read */
    uint32_t live;      /* of them: still running */
    uint32_t left;      /* spools that could not be read (each was said) */
    uint64_t groups;    /* newly stored */
    uint64_t bytes;     /* of spool read */
    char trace[4096];   /* the database that was published, "" when none was */
};

/**
 * Drains everything that is left for an output directory, once, and publishes. Cheap when nothing
 * is left. When a running collector holds the directory, it is asked to publish and waited for.
 *
 * @param out       output directory, relative or absolute; need not exist
 * @param messages  where sentences for a person go, NULL: nowhere
 * @param progress  show progress there (a terminal)
 * @param result    filled in, may be NULL
 * @return 1 something was collected, 0 nothing was left, negative errno after a sentence in
 * `messages`
 */
int skew_collect_left(const char *out, FILE *messages, bool progress,
                      struct skew_collect_result *result);

/** The subcommand `skewscope collect`. */
int skew_cmd_collect(int argc, char **argv);

#endif
