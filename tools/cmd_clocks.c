/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope clocks: how the clocks of a job's nodes relate. The computing is analysis/clock.h's,
 * the looks are clocks_output.c's.
 */
#include "analysis_output.h"
#include "clocks_output.h"
#include "command.h"
#include "term.h"
#include "trace_arguments.h"

#include <errno.h>

struct arguments {
    struct skew_trace_arguments in;
    struct skew_clock_options options;
};

enum { KEY_EACH = SKEW_KEY_OWN };

/* clang-format off */
static const struct argp_option options[] = {
    {"each-process", KEY_EACH, NULL, 0, "fit every process, as if those of one node had clocks of their own (containers with time namespaces do; elsewhere a check: offsets must be 0)", 0},
    {"json", SKEW_KEY_JSON, NULL, 0, "print JSON (keys: docs/clocks.md)", 0},
    {"save", SKEW_KEY_SAVE, NULL, 0, "also write it into table clock_fit of every trace, in place of what is there", 0},
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
    default:
        return skew_trace_arguments_parse(key, state, &a->in);
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
    if (skew_readings_open(&reading, a.in.paths, a.in.count) < 0)
        return SKEW_EXIT_FAILURE;
    int result = skew_clocks_fit(reading.traces, reading.count, &a.options, &clocks, &error);
    if (result < 0)
        skew_tell("%s", error.text);
    if (result == 0 && !skew_clocks_reference(clocks)) {
        skew_tell("%s: there are no processes in this trace", a.in.paths[0]);
        result = -ENODATA;
    }
    if (result == 0 && a.in.save)
        result = skew_clocks_save(clocks, &reading);
    if (result == 0)
        result = skew_coverage_read(&coverage, &reading);
    if (result == 0 && a.in.json) {
        result = skew_clocks_json(clocks, &reading, &coverage);
    } else if (result == 0) {
        skew_clocks_print(clocks, &reading);
        skew_coverage_print(&coverage);
    }
    skew_clocks_free(&clocks);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
