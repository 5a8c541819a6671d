/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope clocks: how the clocks of a job's nodes relate. The computing is analysis/clock.h's,
 * the looks are clocks_output.c's.
 */
#include "analysis_output.h"
#include "clocks_output.h"
#include "command.h"
#include "term.h"

#include <errno.h>

struct arguments {
    char **paths;
    size_t count;
    struct skew_clock_options options;
    bool json, save;
};

enum { KEY_EACH = 0x100, KEY_SAVE };

/* clang-format off */
static const struct argp_option options[] = {
    {"each-process", KEY_EACH, NULL, 0, "fit every process, as if those of one node had clocks of their own (containers with time namespaces do; elsewhere a check: offsets must be 0)", 0},
    {"json", 'j', NULL, 0, "print JSON (keys: docs/clocks.md)", 0},
    {"save", KEY_SAVE, NULL, 0, "also write it into table clock_fit of every trace, in place of what is there", 0},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    (void)text;
    switch (key) {
    case KEY_EACH:
        a->options.each_process = true;
        return 0;
    case 'j':
        a->json = true;
        return 0;
    case KEY_SAVE:
        a->save = true;
        return 0;
    case ARGP_KEY_ARGS:
        a->paths = state->argv + state->next;
        a->count = (size_t)(state->argc - state->next);
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which traces? Give their files or directories");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_clocks(void)
{
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR...",
        "Relates the clocks of a job's nodes to one: offset and drift of each, from exchanges that "
        "met, how far that may be off, and which processes could not be related."
        "\vGive the traces of all nodes. The residual holds for paths of any kind; it is half a "
        "round trip at least, because a path that is longer in one direction looks exactly like an "
        "offset. Exit status: 0, or 1 when the traces cannot be read, or 2 for a wrong command "
        "line.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

int skew_cmd_clocks(int argc, char **argv)
{
    struct arguments a = {0};
    struct skew_reading reading;
    struct skew_clocks *clocks = NULL;
    struct skew_coverage coverage = {0};
    struct skew_error error;

    argp_parse(skew_argp_clocks(), argc, argv, 0, NULL, &a);
    if (skew_readings_open(&reading, a.paths, a.count) < 0)
        return SKEW_EXIT_FAILURE;
    int result = skew_clocks_fit(reading.traces, reading.count, &a.options, &clocks, &error);
    if (result < 0)
        skew_tell("%s", error.text);
    if (result == 0 && !skew_clocks_reference(clocks)) {
        skew_tell("%s: there are no processes in this trace", a.paths[0]);
        result = -ENODATA;
    }
    if (result == 0 && a.save)
        result = skew_clocks_save(clocks, &reading);
    if (result == 0)
        result = skew_coverage_read(&coverage, &reading);
    if (result == 0 && a.json) {
        result = skew_clocks_json(clocks, &reading, &coverage);
    } else if (result == 0) {
        skew_clocks_print(clocks, &reading);
        skew_coverage_print(&coverage);
    }
    skew_clocks_free(&clocks);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
