/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope matrix: the bytes from each rank to each rank of one communicator. Selects, accumulates
 * one database after the other and merges; how it looks is matrix_output.c's.
 */
#include "command.h"
#include "exchange_select.h"
#include "option_values.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *path;
    struct skew_selection selection;
    bool how_given;
    enum skew_colour_when colour;
    struct skew_matrix_output output;
};

/* ---- the command line ---------------------------------------------------------------------- */

enum { KEY_SUM = 0x100, KEY_MEAN, KEY_EACH, KEY_UNIT, KEY_TOKEN, KEY_FORMAT, KEY_COLOUR, KEY_LOG };

/* clang-format off */
static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What to show:", 2},
    {"sum", KEY_SUM, NULL, 0, "their sum (default)", 2},
    {"mean", KEY_MEAN, NULL, 0, "their mean", 2},
    {"each", KEY_EACH, NULL, 0, "each one", 2},
    {"unit", KEY_UNIT, "UNIT", 0, "auto, B, KiB, MiB, GiB or tokens (auto: bytes but in text)", 2},
    {"token-bytes", KEY_TOKEN, "N", 0,
     "size of a token for --unit tokens (default: the greatest common divisor of all sizes shown)", 2},
    {"format", KEY_FORMAT, "FORMAT", 0,
     "text, csv, json, or nccl-tests: a square matrix of bytes, which alltoallv_perf replays when "
     "NCCL_TESTS_ALLTOALLV_MATRIX_FILE names it", 2},
    {"color", KEY_COLOUR, "WHEN", 0, "auto, always or never", 2},
    {"log", KEY_LOG, NULL, 0, "shade by the logarithm", 2},
    {0}};
/* clang-format on */

static void set_how(struct argp_state *state, struct arguments *a, enum skew_matrix_how how)
{
    if (a->how_given && a->output.how != how)
        argp_error(state, "choose one of --sum, --mean and --each");
    a->how_given = true;
    a->output.how = how;
}

static void check(struct argp_state *state, const struct arguments *a)
{
    if (!a->path)
        argp_error(state, "which trace? Give its file or directory");
    if (a->output.format == SKEW_FORMAT_NCCL_TESTS && a->output.how == SKEW_HOW_EACH)
        argp_error(state, "--format nccl-tests holds one matrix: select one exchange with --seq N "
                          "instead of --each");
    if (a->output.format == SKEW_FORMAT_NCCL_TESTS && strcmp(a->output.unit, "auto") != 0 &&
        strcmp(a->output.unit, "B") != 0)
        argp_error(state, "--format nccl-tests is in bytes: leave --unit out");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const units[] = {"auto", "B", "KiB", "MiB", "GiB", "tokens", NULL};
    static const char *const formats[] = {"text", "csv", "json", "nccl-tests", NULL};
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->selection;
        return 0;
    case KEY_SUM:
        set_how(state, a, SKEW_HOW_SUM);
        return 0;
    case KEY_MEAN:
        set_how(state, a, SKEW_HOW_MEAN);
        return 0;
    case KEY_EACH:
        set_how(state, a, SKEW_HOW_EACH);
        return 0;
    case KEY_UNIT:
        a->output.unit = units[skew_option_choice(state, "unit", text, units)];
        return 0;
    case KEY_TOKEN:
        a->output.token_bytes =
            (uint64_t)skew_option_integer(state, "token-bytes", text, 1, INT64_MAX);
        return 0;
    case KEY_FORMAT:
        a->output.format =
            (enum skew_matrix_format)skew_option_choice(state, "format", text, formats);
        return 0;
    case KEY_COLOUR:
        if (!skew_colour_parse(text, &a->colour))
            argp_error(state, "--color: '%s' is not allowed; it takes auto, always or never", text);
        return 0;
    case KEY_LOG:
        a->output.logarithmic = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            argp_error(state, "one trace at a time: '%s' and '%s' are two", a->path, text);
        a->path = text;
        return 0;
    case ARGP_KEY_END:
        check(state, a);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_matrix(void)
{
    static const struct argp_child children[] = {{&skew_selection_argp, 0, NULL, 1}, {0}};
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR",
        "Shows the bytes that each rank of one communicator sent to each other rank (and to "
        "itself): "
        "row, the sender; column, the receiver."
        "\vThe skew is that of each exchange by itself: exchanges are never added up before the "
        "maximum "
        "over ranks is taken. Exit status: 0, or 1 when there is nothing to show, or 2 for a wrong "
        "command line.",
        children,
        NULL,
        NULL};
    return &argp;
}

/* ---- showing ------------------------------------------------------------------------------- */

static int show(void *output, const struct skew_exchanged *exchanged, int64_t seq)
{
    struct skew_matrix_output *o = output;
    struct skew_summary summary;

    if (skew_loads_summary(exchanged->loads, &summary) < 0) {
        skew_tell("out of memory");
        return -ENOMEM;
    }
    int result = o->printed == 0 ? skew_matrix_output_begin(o) : 0;
    if (result < 0)
        return result;
    return skew_matrix_output_add(
        o,
        &(struct skew_matrix_shown){.matrix = exchanged->matrix, .summary = &summary, .seq = seq});
}

static int show_together(struct arguments *a, const struct skew_reading *reading)
{
    struct skew_exchanged all;
    int result = skew_exchanged_create(&all, a->output.comm->ranks);

    if (result == 0)
        result = skew_selection_sum(&a->selection, reading, &all);
    if (result == 0)
        result = show(&a->output, &all, -1);
    skew_exchanged_free(&all);
    return result;
}

static int run(struct arguments *a, const struct skew_reading *reading)
{
    struct skew_selection *selection = &a->selection;
    int result = skew_coverage_read(&a->output.coverage, reading);

    if (result == 0)
        result = skew_selection_resolve(selection, a->path, reading);
    if (result == 0) {
        a->output.comm = &selection->chosen->comm;
        a->output.chosen = *selection->why ? selection->why : NULL;
        a->output.here = selection->here;
        a->output.absent = selection->absent;
        result = a->output.how == SKEW_HOW_EACH
                     ? skew_selection_each(selection, reading, show, &a->output)
                     : show_together(a, reading);
    }
    if (result == 0)
        skew_matrix_output_end(&a->output);
    skew_selection_free(selection, reading);
    return result;
}

int skew_cmd_matrix(int argc, char **argv)
{
    struct arguments arguments = {.output = {.unit = "auto"}};
    struct skew_reading reading;

    argp_parse(skew_argp_matrix(), argc, argv, 0, NULL, &arguments);
    arguments.output.colour =
        arguments.output.format == SKEW_FORMAT_TEXT && skew_colour(stdout, arguments.colour);
    arguments.output.columns = skew_columns(stdout);
    if (skew_reading_open(&reading, arguments.path) < 0)
        return SKEW_EXIT_FAILURE;
    int result = run(&arguments, &reading);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
