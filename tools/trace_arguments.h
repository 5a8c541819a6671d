/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the command lines of analyses have in common: traces, --json and --save.
 */
#ifndef SKEW_TRACE_ARGUMENTS_H
#define SKEW_TRACE_ARGUMENTS_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

struct skew_trace_arguments {
    char **paths; /* [count], at least one */
    size_t count;
    bool json, save;
};

/** Keys of these options, in the command's own table; keys of its own begin at the last. */
enum { SKEW_KEY_JSON = 'j', SKEW_KEY_SAVE = 0x100, SKEW_KEY_OWN };

/** For keys that a command's parser does not know itself. */
error_t skew_trace_arguments_parse(int key, struct argp_state *state,
                                   struct skew_trace_arguments *arguments);

#endif
