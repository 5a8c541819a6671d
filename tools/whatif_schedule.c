/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope whatif schedule: the matrices of a trace, or of a file, taken apart in several ways
 * under one cost model. The mathematics is analysis/schedule*.c; what it looks like,
 * whatif_schedule_*.c.
 */
#include "whatif_schedule.h"
#include "command.h"
#include "exchange_select.h"
#include "matrix_file.h"
#include "option_values.h"
#include "term.h"
#include "whatif.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *path, *matrix, *gantt;
    struct skew_selection selection;
    enum skew_matrix_how how;
    bool how_given, methods_given;
    size_t limit;
    struct skew_whatif whatif;
};

/* ---- the command line ------------------------------------------------------------------------ */

enum {
    KEY_MATRIX = 0x100,
    KEY_EACH,
    KEY_SUM,
    KEY_MEAN,
    KEY_LIMIT,
    KEY_METHODS,
    KEY_MAX,
    KEY_DOMAIN,
    KEY_PICK,
    KEY_SWEEP,
    KEY_JSON,
    KEY_GANTT
};

static const struct argp_option options[] = {
    {"matrix", KEY_MATRIX, "FILE", 0,
     "instead of a trace: a square matrix of bytes, row the sender, as skewscope matrix --format "
     "nccl-tests "
     "writes it",
     2},
    {"each", KEY_EACH, NULL, 0, "each exchange by itself (default)", 2},
    {"sum", KEY_SUM, NULL, 0, "their sum, as if it were one exchange", 2},
    {"mean", KEY_MEAN, NULL, 0, "their mean", 2},
    {"limit", KEY_LIMIT, "N", 0, "not more than the first N exchanges (default 256)", 2},
    {NULL, 0, NULL, 0, "Schedules:", 3},
    {"methods", KEY_METHODS, "A,B,…", 0,
     "of greedy, sinkhorn, stuffed, shift, ring, tier (default: all; tier needs --domain-ranks)",
     3},
    {"max-matchings", KEY_MAX, "N", 0,
     "not more than N matchings; what is left goes unscheduled, at its port bound", 3},
    {"domain-ranks", KEY_DOMAIN, "N", 0, "N consecutive ranks share a scale-up (NVLink) domain", 3},
    {"pick", KEY_PICK, "HOW", 0,
     "permutations of sinkhorn, stuffed and tier: largest (smallest entry as large as can be; "
     "default) or "
     "first",
     3},
    {NULL, 0, NULL, 0, "Output:", 5},
    {"sweep", KEY_SWEEP, "A..B", 0,
     "batch sizes at which the order of schedules changes: the matrix times A to B (default "
     "0.015625..64); for one matrix",
     5},
    {"json", KEY_JSON, NULL, 0, "JSON; its keys are in docs/schedules.md", 5},
    {"gantt", KEY_GANTT, "FILE", 0,
     "the phases on the three machines: CSV, or JSON if FILE ends in .json", 5},
    {0}};

static void parse_methods(struct argp_state *state, struct arguments *a, const char *text)
{
    const char *names[SKEW_SCHEDULE_METHOD_COUNT + 1] = {NULL};
    char *copy = strdup(text), *rest = copy, *one;

    for (int m = 0; m < SKEW_SCHEDULE_METHOD_COUNT; m++) {
        names[m] = skew_schedule_name((enum skew_schedule_method)m);
        a->whatif.methods[m] = false;
    }
    while (copy && (one = strsep(&rest, ",")))
        a->whatif.methods[skew_option_choice(state, "methods", one, names)] = true;
    a->methods_given = true;
    free(copy);
}

static void parse_sweep(struct argp_state *state, struct skew_whatif *w, const char *text)
{
    char *copy = strdup(text), *dots = copy ? strstr(copy, "..") : NULL;

    if (!dots)
        argp_error(state,
                   "--sweep: '%s' is not allowed; it takes A..B, factors of the batch, A below B",
                   text);
    *dots = '\0';
    w->sweep_least = skew_option_real(state, "sweep", copy, 1e-6, 1e6);
    w->sweep_most = skew_option_real(state, "sweep", dots + 2, 1e-6, 1e6);
    if (w->sweep_least >= w->sweep_most)
        argp_error(state, "--sweep: '%s' is not allowed; A must be below B", text);
    free(copy);
}

static void set_how(struct argp_state *state, struct arguments *a, enum skew_matrix_how how)
{
    if (a->how_given && a->how != how)
        argp_error(state, "choose one of --each, --sum and --mean");
    a->how_given = true;
    a->how = how;
}

static void check(struct argp_state *state, struct arguments *a)
{
    static const struct skew_filter none;
    struct skew_whatif *w = &a->whatif;

    if (!a->path == !a->matrix)
        argp_error(state,
                   a->path ? "give a trace or --matrix, not both"
                           : "which traffic? Give a trace's file or directory, or --matrix FILE");
    if (a->matrix && (a->selection.comm || memcmp(&a->selection.filter, &none, sizeof none) != 0 ||
                      a->how_given))
        argp_error(state,
                   "--matrix is one matrix already: leave out what selects or adds up exchanges");
    if (a->methods_given && w->methods[SKEW_SCHEDULE_TIER] && w->options.domain_ranks == 0)
        argp_error(state, "--methods tier needs --domain-ranks");
    if (w->options.domain_ranks == 0)
        w->methods[SKEW_SCHEDULE_TIER] = false;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const picks[] = {"largest", "first", NULL};
    struct arguments *a = state->input;
    struct skew_schedule_options *o = &a->whatif.options;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->selection;
        state->child_inputs[1] = &a->whatif;
        return 0;
    case KEY_MATRIX:
        a->matrix = text;
        return 0;
    case KEY_EACH:
        set_how(state, a, SKEW_HOW_EACH);
        return 0;
    case KEY_SUM:
        set_how(state, a, SKEW_HOW_SUM);
        return 0;
    case KEY_MEAN:
        set_how(state, a, SKEW_HOW_MEAN);
        return 0;
    case KEY_LIMIT:
        a->limit = (size_t)skew_option_integer(state, "limit", text, 1, INT32_MAX);
        return 0;
    case KEY_METHODS:
        parse_methods(state, a, text);
        return 0;
    case KEY_MAX:
        o->max_matchings =
            (uint32_t)skew_option_integer(state, "max-matchings", text, 1, INT32_MAX);
        return 0;
    case KEY_DOMAIN:
        o->domain_ranks =
            (uint32_t)skew_option_integer(state, "domain-ranks", text, 1, SKEW_SCHEDULE_RANKS_MAX);
        return 0;
    case KEY_PICK:
        o->pick = (enum skew_birkhoff_pick)skew_option_choice(state, "pick", text, picks);
        return 0;
    case KEY_SWEEP:
        parse_sweep(state, &a->whatif, text);
        return 0;
    case KEY_JSON:
        a->whatif.json = true;
        return 0;
    case KEY_GANTT:
        a->gantt = text;
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

const struct argp *skew_whatif_argp_schedule(void)
{
    static const struct argp_child children[] = {
        {&skew_selection_argp, 0, NULL, 1}, {&skew_whatif_model_argp, 0, NULL, 4}, {0}};
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR|--matrix FILE",
        "Takes an all-to-all apart into phases in which each rank sends to one rank at most, in "
        "several ways, "
        "and computes what each would cost."
        "\vA model over bytes: nothing here was timed. The endpoint imbalance comes from routing "
        "and placement "
        "and no schedule changes it; the schedule loss is all that a better schedule can win. Exit "
        "status: 0, "
        "or 1 when there is nothing to show, or 2 for a wrong command line.",
        children,
        NULL,
        NULL};
    return &argp;
}

/* ---- one matrix ------------------------------------------------------------------------------ */

static void tell_failure(int result, const struct skew_matrix *m, const struct skew_whatif *w)
{
    if (result == -EOVERFLOW)
        skew_tell("%s: all entries together are 2^62 bytes or more, which is no all-to-all; check "
                  "the matrix",
                  w->source);
    else if (result == -ENOMEM)
        skew_tell("out of memory");
    else if (m->ranks > SKEW_SCHEDULE_RANKS_MAX)
        skew_tell("%s: %u ranks; schedules are made for %u at most", w->source, m->ranks,
                  SKEW_SCHEDULE_RANKS_MAX);
    else
        skew_tell("--domain-ranks: %u does not divide the %u ranks", w->options.domain_ranks,
                  m->ranks);
}

/* Where the order of the schedules changes. Maps the indices of the schedules made onto methods. */
static int find_crossings(const struct skew_whatif *w, struct skew_whatif_result *r)
{
    const struct skew_schedule *made[SKEW_SCHEDULE_METHOD_COUNT];
    size_t method[SKEW_SCHEDULE_METHOD_COUNT + 1], count = 0;

    for (size_t m = 0; m < SKEW_SCHEDULE_METHOD_COUNT; m++) {
        if (r->schedules[m]) {
            made[count] = r->schedules[m];
            method[count++] = m;
        }
    }
    method[count] = SKEW_SCHEDULE_METHOD_COUNT;
    int result = skew_schedule_crossings(made, count, &r->demand, &w->cost, w->sweep_least,
                                         w->sweep_most, &r->crossings, &r->crossing_count);
    for (size_t c = 0; c < r->crossing_count; c++) {
        r->crossings[c].below = method[r->crossings[c].below];
        r->crossings[c].above = method[r->crossings[c].above];
    }
    return result;
}

static int compute(const struct skew_whatif *w, const struct skew_matrix *m,
                   struct skew_whatif_result *r)
{
    int result = skew_demand_measure(&r->demand, m->bytes, m->ranks);

    for (int k = 0; k < SKEW_SCHEDULE_METHOD_COUNT && result == 0; k++) {
        if (!w->methods[k])
            continue;
        result = skew_schedule_make(&r->schedules[k], (enum skew_schedule_method)k, m->bytes,
                                    m->ranks, &w->options);
        if (result == 0)
            result = skew_schedule_time(r->schedules[k], &r->demand, &w->cost, 1, &r->timings[k],
                                        NULL, NULL);
    }
    if (result == 0 && !w->series && r->demand.receive_sum)
        result = find_crossings(w, r);
    return result;
}

/* Phases that are smaller than any exchange that the transfer was fitted to. */
static void count_below(struct skew_whatif *w, const struct skew_whatif_result *r)
{
    for (int k = 0; k < SKEW_SCHEDULE_METHOD_COUNT; k++)
        for (size_t p = 0; r->schedules[k] && p < r->schedules[k]->phase_count; p++) {
            w->model.phases++;
            w->model.phases_below +=
                w->model.bandwidth.origin == SKEW_ORIGIN_MEASURED &&
                (double)r->schedules[k]->phases[p].bottleneck < w->model.measured.transfer.least;
        }
}

static int take_matrix(struct skew_whatif *w, const struct skew_matrix *m, int64_t seq,
                       bool incomplete)
{
    struct skew_whatif_result r = {
        .seq = seq,
        .incomplete = incomplete,
        .transfer_s = seq < 0 ? NAN : 1e-9 * skew_measured_transfer(&w->model.measured, seq)};
    int result = compute(w, m, &r);

    count_below(w, &r);

    if (result < 0)
        tell_failure(result, m, w);
    if (result == 0)
        result = skew_whatif_show(w, &r);
    if (result == 0 && w->gantt)
        result = skew_whatif_gantt(w, &r);
    for (int k = 0; k < SKEW_SCHEDULE_METHOD_COUNT; k++)
        skew_schedule_free(&r.schedules[k]);
    free(r.crossings);
    return result;
}

/* ---- from a trace ---------------------------------------------------------------------------- */

static bool sends_missing(const struct skew_exchanged *e)
{
    struct skew_summary summary;

    return skew_loads_summary(e->loads, &summary) == 0 && summary.complete < summary.exchanges;
}

static int take_one(void *context, const struct skew_exchanged *one, int64_t seq)
{
    struct arguments *a = context;

    if (a->whatif.count >= a->limit) {
        a->whatif.skipped++;
        return 0;
    }
    return take_matrix(&a->whatif, one->matrix, seq, sends_missing(one));
}

static int take_together(struct arguments *a, const struct skew_reading *reading)
{
    struct skew_exchanged all;
    struct skew_summary summary;
    int result = skew_exchanged_create(&all, a->selection.chosen->comm.ranks);

    if (result == 0)
        result = skew_selection_sum(&a->selection, reading, &all);
    if (result == 0)
        result = skew_loads_summary(all.loads, &summary);
    if (result == 0 && a->how == SKEW_HOW_MEAN)
        for (size_t i = 0; i < (size_t)all.matrix->ranks * all.matrix->ranks; i++)
            all.matrix->bytes[i] =
                (all.matrix->bytes[i] + summary.exchanges / 2) / summary.exchanges;
    if (result == 0)
        result = take_matrix(&a->whatif, all.matrix, -1, sends_missing(&all));
    skew_exchanged_free(&all);
    return result;
}

/* ---- from counts ------------------------------------------------------------------------------
 */

struct counted {
    struct arguments *a;
    struct skew_matrix *all; /* of --sum and --mean; NULL so far */
    uint64_t calls;
};

static int take_counted(void *context, const struct skew_matrix *matrix, int64_t ordinal)
{
    struct counted *c = context;
    size_t cells = (size_t)matrix->ranks * matrix->ranks;

    c->calls++;
    if (c->a->how == SKEW_HOW_EACH && c->a->whatif.count >= c->a->limit) {
        c->a->whatif.skipped++;
        return 0;
    }
    if (c->a->how == SKEW_HOW_EACH)
        return take_matrix(&c->a->whatif, matrix, ordinal, false);
    int result = c->all ? 0 : skew_matrix_create(&c->all, matrix->ranks);
    for (size_t i = 0; i < cells && result == 0; i++)
        c->all->bytes[i] += matrix->bytes[i];
    return result;
}

/* No exchange was captured, but counts of experts may be here: imported ones. */
static int run_counts(struct arguments *a, const struct skew_reading *reading)
{
    static const char *const hows[] = {[SKEW_HOW_SUM] = "sum of the calls",
                                       [SKEW_HOW_MEAN] = "mean of the calls",
                                       [SKEW_HOW_EACH] = "calls"};
    const struct skew_filter *f = &a->selection.filter;
    struct counted c = {.a = a};

    snprintf(a->whatif.source, sizeof a->whatif.source,
             "%s, made of per-expert counts: no exchange was captured", hows[a->how]);
    a->whatif.series = a->how == SKEW_HOW_EACH && !(f->by_seq && f->seq_from == f->seq_to);
    char key[80];
    uint32_t ranks = skew_whatif_counts_comm(reading, a->selection.comm, key);
    int result = skew_whatif_model_settle(&a->whatif, a->path, ranks ? key : NULL, ranks);
    if (result == 0)
        result = skew_whatif_counts(reading, a->path, a->selection.comm, f,
                                    a->whatif.model.token_bytes, take_counted, &c);
    if (result == 0 && c.calls == 0) {
        skew_tell("%s: no call of its counts is selected", a->path);
        result = -ENOENT;
    }
    if (result == 0 && a->how == SKEW_HOW_MEAN)
        for (size_t i = 0; i < (size_t)c.all->ranks * c.all->ranks; i++)
            c.all->bytes[i] = (c.all->bytes[i] + c.calls / 2) / c.calls;
    if (result == 0 && c.all)
        result = take_matrix(&a->whatif, c.all, -1, false);
    skew_matrix_free(&c.all);
    return result;
}

static int run_trace(struct arguments *a)
{
    static const char *const hows[] = {[SKEW_HOW_SUM] = "sum of the exchanges",
                                       [SKEW_HOW_MEAN] = "mean of the exchanges",
                                       [SKEW_HOW_EACH] = "exchanges"};
    struct skew_reading reading;

    int result = skew_reading_open(&reading, a->path);
    if (result < 0)
        return result;
    a->whatif.traced = true;
    result = skew_coverage_read(&a->whatif.coverage, &reading);
    if (result == 0 && !skew_reading_any(&reading, "SELECT 1 FROM exchange LIMIT 1")) {
        result = run_counts(a, &reading);
        skew_reading_close(&reading);
        return result;
    }
    if (result == 0)
        result = skew_selection_resolve(&a->selection, a->path, &reading);
    if (result == 0)
        result = skew_whatif_model_settle(&a->whatif, a->path, a->selection.chosen->comm.key,
                                          a->selection.chosen->comm.ranks);
    if (result == 0) {
        const struct skew_filter *f = &a->selection.filter;
        const struct skew_comm *comm = &a->selection.chosen->comm;
        bool one = f->by_seq && f->seq_from == f->seq_to;
        snprintf(a->whatif.source, sizeof a->whatif.source,
                 "%s of communicator %" PRId64 " (key %.64s)%s%s", hows[a->how], comm->id,
                 comm->key, *a->selection.why ? ": " : "", a->selection.why);
        a->whatif.series = a->how == SKEW_HOW_EACH && !one;
        result = a->how == SKEW_HOW_EACH ? skew_selection_each(&a->selection, &reading, take_one, a)
                                         : take_together(a, &reading);
    }
    skew_selection_free(&a->selection, &reading);
    skew_reading_close(&reading);
    return result;
}

static int run_file(struct arguments *a)
{
    struct skew_matrix *matrix;
    int result = skew_matrix_file_read(&matrix, a->matrix);

    if (result < 0)
        return result;
    snprintf(a->whatif.source, sizeof a->whatif.source, "matrix %.256s", a->matrix);
    result = skew_whatif_model_settle(&a->whatif, NULL, NULL, 0);
    if (result == 0)
        result = take_matrix(&a->whatif, matrix, -1, false);
    skew_matrix_free(&matrix);
    return result;
}

/* ---- all together ---------------------------------------------------------------------------- */

static int open_gantt(struct skew_whatif *w, const char *path)
{
    size_t length = strlen(path);

    w->gantt = fopen(path, "we");
    w->gantt_json = length >= 5 && strcmp(path + length - 5, ".json") == 0;
    if (w->gantt)
        return 0;
    int result = -errno;
    skew_tell("--gantt: %s cannot be written: %s", path, strerror(errno));
    return result;
}

static void free_tallies(struct skew_whatif *w)
{
    for (int m = 0; m < SKEW_SCHEDULE_METHOD_COUNT; m++)
        free(w->tally[m].losses);
    free(w->imbalances);
    json_decref(w->exchanges);
    json_decref(w->bars);
    skew_measured_free(&w->model.measured);
}

int skew_whatif_schedule(int argc, char **argv)
{
    struct arguments a = {.how = SKEW_HOW_EACH,
                          .limit = 256,
                          .whatif = {.methods = {true, true, true, true, true, true},
                                     .sweep_least = 1.0 / 64,
                                     .sweep_most = 64}};

    skew_whatif_model_defaults(&a.whatif);
    argp_parse(skew_whatif_argp_schedule(), argc, argv, 0, NULL, &a);
    int result = a.gantt ? open_gantt(&a.whatif, a.gantt) : 0;
    if (result == 0)
        result = a.matrix ? run_file(&a) : run_trace(&a);
    if (result == 0)
        result = skew_whatif_show_end(&a.whatif);
    if (result == 0 && a.whatif.gantt)
        result = skew_whatif_gantt_end(&a.whatif);
    if (a.whatif.gantt && fclose(a.whatif.gantt) != 0 && result == 0) {
        skew_tell("--gantt: %s cannot be written: %s", a.gantt, strerror(errno));
        result = -EIO;
    }
    free_tallies(&a.whatif);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
