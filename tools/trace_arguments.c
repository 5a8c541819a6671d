/* SPDX-License-Identifier: Apache-2.0 */
/* See trace_arguments.h. */
#include "trace_arguments.h"

error_t skew_trace_arguments_parse(int key, struct argp_state *state,
                                   struct skew_trace_arguments *a)
{
    switch (key) {
    case SKEW_KEY_JSON:
        a->json = true;
        return 0;
    case SKEW_KEY_SAVE:
        a->save = true;
        return 0;
    case ARGP_KEY_ARGS:
        a->paths = state->argv + state->next;
        a->count = (size_t)(state->argc - state->next);
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which trace? Give its file or directory");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}
