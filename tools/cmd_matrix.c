/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope matrix: the bytes from each rank to each rank of one communicator. Selects, accumulates
 * one database after the other and merges; how it looks is matrix_output.c's.
 */
#include "command.h"
#include "matrix_select.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "spool.h"

struct arguments {
    const char *path;
    const char *comm;
    struct skew_filter filter;
    bool how_given;
    enum skew_colour_when colour;
    struct skew_matrix_output output;
};

/* ---- the command line ---------------------------------------------------------------------- */

enum {
    KEY_COMM = 0x100,
    KEY_LAYER,
    KEY_STEP,
    KEY_LAYERS,
    KEY_CALLS,
    KEY_SEQ,
    KEY_OP,
    KEY_ROLE,
    KEY_SUM,
    KEY_MEAN,
    KEY_EACH,
    KEY_UNIT,
    KEY_TOKEN,
    KEY_FORMAT,
    KEY_COLOUR,
    KEY_LOG
};

/* clang-format off */
static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Which exchanges:", 1},
    {"comm", KEY_COMM, "ID", 0,
     "of this communicator: its number or the beginning of its key, as skewscope info shows them "
     "(default: the one that moved the most bytes)", 1},
    {"seq", KEY_SEQ, "A[..B]", 0, "the A-th to B-th call on the communicator, counted from 0", 1},
    {"op", KEY_OP, "NAME", 0, "sendrecv, alltoall or alltoallv", 1},
    {"layer", KEY_LAYER, "N", 0, "of this layer", 1},
    {"step", KEY_STEP, "N", 0, "of this step", 1},
    {"role", KEY_ROLE, "NAME", 0, "dispatch, combine, …: as an analysis has labelled them", 1},
    {"layers", KEY_LAYERS, "L", 0,
     "--layer and --step by your own count: the calls on the communicator are layer 0, layer 1, "
     "… and after L layers a new step begins; a backward pass counts as a step of its own, whose "
     "layers run backwards", 1},
    {"calls-per-layer", KEY_CALLS, "C", 0,
     "with --layers: each layer makes C calls (default 2)", 1},
    {NULL, 0, NULL, 0, "What to show:", 2},
    {"sum", KEY_SUM, NULL, 0, "their sum (default)", 2},
    {"mean", KEY_MEAN, NULL, 0, "their mean", 2},
    {"each", KEY_EACH, NULL, 0, "each one", 2},
    {"unit", KEY_UNIT, "UNIT", 0, "auto, B, KiB, MiB, GiB or tokens (auto: bytes but in text)", 2},
    {"token-bytes", KEY_TOKEN, "N", 0,
     "size of a token for --unit tokens (default: the greatest common divisor of all sizes "
     "shown)", 2},
    {"format", KEY_FORMAT, "FORMAT", 0,
     "text, csv, json, or nccl-tests: a square matrix of bytes, which alltoallv_perf replays when "
     "NCCL_TESTS_ALLTOALLV_MATRIX_FILE names it", 2},
    {"color", KEY_COLOUR, "WHEN", 0, "auto, always or never", 2},
    {"log", KEY_LOG, NULL, 0, "shade by the logarithm", 2},
    {0}};
/* clang-format on */

static int64_t number(struct argp_state *state, const char *flag, const char *text, int64_t least,
                      int64_t most)
{
    int64_t value = 0;

    if (!skew_parse_int(text, least, most, &value))
        argp_error(state,
                   "--%s: '%s' is not allowed; it takes a whole number from %" PRId64
                   " to %" PRId64,
                   flag, text, least, most);
    return value;
}

static int choice(struct argp_state *state, const char *flag, const char *text,
                  const char *const *names)
{
    char all[160] = "";

    for (int i = 0; names[i]; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", names[i]);
    }
    argp_error(state, "--%s: '%s' is not allowed; it takes one of: %s", flag, text, all);
    return 0;
}

static void parse_seq(struct argp_state *state, struct skew_filter *filter, const char *text)
{
    char *copy = strdup(text ? text : "");
    char *dots = copy ? strstr(copy, "..") : NULL;

    if (dots)
        *dots = '\0';
    filter->by_seq = true;
    if (!copy || !skew_parse_int(copy, 0, INT64_MAX, &filter->seq_from) ||
        (dots && !skew_parse_int(dots + 2, filter->seq_from, INT64_MAX, &filter->seq_to)))
        argp_error(state,
                   "--seq: '%s' is not allowed; it takes A or A..B, counted from 0, A not after "
                   "B",
                   text);
    if (!dots)
        filter->seq_to = filter->seq_from;
    free(copy);
}

static void parse_op(struct argp_state *state, struct skew_filter *filter, const char *text)
{
    static const char *const names[] = {"sendrecv", "alltoall", "alltoallv", NULL};
    static const int ops[] = {SKEW_OP_SEND, SKEW_OP_ALLTOALL, SKEW_OP_ALLTOALLV_SEND};

    filter->ops |= 1u << ops[choice(state, "op", text, names)];
}

static void set_how(struct argp_state *state, struct arguments *a, enum skew_matrix_how how)
{
    if (a->how_given && a->output.how != how)
        argp_error(state, "choose one of --sum, --mean and --each");
    a->how_given = true;
    a->output.how = how;
}

static void check(struct argp_state *state, const struct arguments *a)
{
    const struct skew_filter *f = &a->filter;

    if (!a->path)
        argp_error(state, "which trace? Give its file or directory");
    if (f->count_calls && !f->count_layers)
        argp_error(state, "--calls-per-layer needs --layers");
    if (f->count_layers && !f->by_layer && !f->by_step)
        argp_error(state, "--layers needs --layer or --step: what to select by the count");
    if (f->count_layers && f->by_layer && f->layer >= f->count_layers)
        argp_error(state, "--layer: %" PRId64 " is not allowed; with --layers %u it takes 0 to %u",
                   f->layer, f->count_layers, f->count_layers - 1);
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
    struct skew_filter *f = &a->filter;

    switch (key) {
    case KEY_COMM:
        a->comm = text;
        return 0;
    case KEY_SEQ:
        parse_seq(state, f, text);
        return 0;
    case KEY_OP:
        parse_op(state, f, text);
        return 0;
    case KEY_ROLE:
        f->role = text;
        return 0;
    case KEY_LAYER:
        f->by_layer = true;
        f->layer = number(state, "layer", text, 0, INT32_MAX);
        return 0;
    case KEY_STEP:
        f->by_step = true;
        f->step = number(state, "step", text, 0, INT64_MAX);
        return 0;
    case KEY_LAYERS:
        f->count_layers = (uint32_t)number(state, "layers", text, 1, 100000);
        return 0;
    case KEY_CALLS:
        f->count_calls = (uint32_t)number(state, "calls-per-layer", text, 1, 100000);
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
        a->output.unit = units[choice(state, "unit", text, units)];
        return 0;
    case KEY_TOKEN:
        a->output.token_bytes = (uint64_t)number(state, "token-bytes", text, 1, INT64_MAX);
        return 0;
    case KEY_FORMAT:
        a->output.format = (enum skew_matrix_format)choice(state, "format", text, formats);
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
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR",
        "Shows the bytes that each rank of one communicator sent to each other rank (and to "
        "itself): "
        "row, the sender; column, the receiver."
        ""
        "\vThe skew is that of each exchange by itself: exchanges are never added up before the "
        "maximum "
        "over ranks is taken. Exit status: 0, or 1 when there is nothing to show, or 2 for a wrong "
        "command line.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* ---- accumulating -------------------------------------------------------------------------- */

struct accumulator {
    struct skew_matrix *matrix;
    struct skew_loads *loads;
};

static int take(void *accumulator, const struct skew_exchange *exchange)
{
    struct accumulator *a = accumulator;
    int result = skew_matrix_add(a->matrix, exchange);
    return result ? result : skew_loads_add(a->loads, exchange);
}

static int create(struct accumulator *a, uint32_t ranks)
{
    int result = skew_matrix_create(&a->matrix, ranks);
    return result ? result : skew_loads_create(&a->loads, ranks);
}

static void destroy(struct accumulator *a)
{
    skew_matrix_free(&a->matrix);
    skew_loads_free(&a->loads);
}

/* The map over one database, and the merge of what came out. */
static int add_database(struct accumulator *all, struct skew_trace *trace,
                        const struct skew_filter *filter)
{
    struct accumulator one = {0};
    struct skew_error error = {"out of memory"};
    int result = create(&one, all->matrix->ranks);

    if (result == 0)
        result = skew_trace_each(trace, filter, SKEW_ORDER_STORED, take, &one, &error);
    if (result == 0)
        result = skew_matrix_merge(all->matrix, one.matrix);
    if (result == 0)
        result = skew_loads_merge(all->loads, one.loads);
    if (result < 0)
        skew_tell("%s", error.text);
    destroy(&one);
    return result;
}

static int show(struct skew_matrix_output *output, const struct accumulator *a, int64_t seq)
{
    struct skew_summary summary;

    if (skew_loads_summary(a->loads, &summary) < 0) {
        skew_tell("out of memory");
        return -ENOMEM;
    }
    return skew_matrix_output_add(
        output, &(struct skew_matrix_shown){.matrix = a->matrix, .summary = &summary, .seq = seq});
}

static int show_together(struct arguments *a, const struct skew_reading *reading,
                         const char *nothing)
{
    struct accumulator all = {0};
    int result = create(&all, a->output.comm->ranks);

    for (size_t t = 0; t < reading->count && result == 0; t++)
        result = add_database(&all, reading->traces[t], &a->filter);
    if (result == 0 && all.matrix->exchanges == 0) {
        skew_tell("%s", nothing);
        result = -ENOENT;
    }
    if (result == 0)
        result = skew_matrix_output_begin(&a->output);
    if (result == 0)
        result = show(&a->output, &all, -1);
    if (result == 0)
        skew_matrix_output_end(&a->output);
    destroy(&all);
    return result;
}

/* ---- --each: the databases side by side, in the order of seq ------------------------------- */

struct cursor {
    struct skew_exchange_iter *iter;
    struct skew_exchange exchange;
    int state; /* 1: `exchange` waits; 0: the end */
};

static int advance(struct cursor *cursor)
{
    struct skew_error error;

    cursor->state = skew_exchange_iter_next(cursor->iter, &cursor->exchange, &error);
    if (cursor->state < 0)
        skew_tell("%s", error.text);
    return cursor->state < 0 ? cursor->state : 0;
}

/* Shows the next exchange of all ranks; 1, 0 at the end, or a negative errno. */
static int show_next(struct arguments *a, struct cursor *cursors, size_t count)
{
    struct accumulator one = {0};
    int64_t seq = INT64_MAX;
    int result = 0, any = 0;

    for (size_t i = 0; i < count; i++) {
        any |= cursors[i].state;
        if (cursors[i].state && cursors[i].exchange.seq < seq)
            seq = cursors[i].exchange.seq;
    }
    if (!any)
        return 0;
    result = create(&one, a->output.comm->ranks);
    for (size_t i = 0; i < count && result == 0; i++) {
        while (result == 0 && cursors[i].state && cursors[i].exchange.seq == seq) {
            result = take(&one, &cursors[i].exchange);
            if (result == 0)
                result = advance(&cursors[i]);
        }
    }
    if (result == 0 && a->output.printed == 0)
        result = skew_matrix_output_begin(&a->output);
    if (result == 0)
        result = show(&a->output, &one, seq);
    destroy(&one);
    return result < 0 ? result : 1;
}

static int show_each(struct arguments *a, const struct skew_reading *reading, const char *nothing)
{
    struct cursor *cursors = calloc(reading->count, sizeof *cursors);
    struct skew_error error;
    int result = cursors ? 0 : -ENOMEM;

    for (size_t i = 0; i < reading->count && result == 0; i++) {
        result = skew_exchange_iter_open(&cursors[i].iter, reading->traces[i], &a->filter,
                                         SKEW_ORDER_SEQ, &error);
        if (result < 0)
            skew_tell("%s", error.text);
        else
            result = advance(&cursors[i]);
    }
    if (result == 0)
        while ((result = show_next(a, cursors, reading->count)) == 1)
            ;
    if (result == 0 && a->output.printed == 0) {
        skew_tell("%s", nothing);
        result = -ENOENT;
    }
    if (result == 0)
        skew_matrix_output_end(&a->output);
    for (size_t i = 0; cursors && i < reading->count; i++)
        skew_exchange_iter_close(&cursors[i].iter);
    free(cursors);
    return result;
}

/* ---- all together -------------------------------------------------------------------------- */

static int run(struct arguments *a, const struct skew_reading *reading)
{
    struct skew_candidates candidates = {0};
    char why[160] = "", nothing[320];
    int result = skew_labels_check(&a->filter, a->path, reading);

    if (result == 0)
        result = skew_coverage_read(&a->output.coverage, reading);
    if (result == 0)
        result = skew_candidates_collect(&candidates, reading);
    const struct skew_candidate *chosen =
        result == 0
            ? skew_candidates_choose(&candidates, a->path, a->comm, reading->count, why, sizeof why)
            : NULL;
    if (chosen && chosen->comm.ranks == 0) {
        skew_tell("communicator %" PRId64
                  " (key %s): its size was never learned, so there is no matrix",
                  chosen->comm.id, chosen->comm.key);
        chosen = NULL;
    }
    if (!chosen) {
        free(candidates.all);
        return -ENOENT;
    }
    a->output.comm = &chosen->comm;
    a->output.chosen = *why ? why : NULL;
    a->output.members = chosen->members;
    a->filter.comm_key = chosen->comm.key;
    if (a->filter.count_layers && !a->filter.count_calls)
        a->filter.count_calls = 2;
    snprintf(nothing, sizeof nothing,
             "no exchange of communicator %" PRId64 " (key %s) is selected; it "
             "made %" PRIu64 " on %u ranks",
             chosen->comm.id, chosen->comm.key, chosen->exchanges, chosen->members);
    result = a->output.how == SKEW_HOW_EACH ? show_each(a, reading, nothing)
                                            : show_together(a, reading, nothing);
    free(candidates.all);
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
