/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Selecting exchanges and making matrices of them: see exchange_select.h.
 */
#include "exchange_select.h"
#include "option_values.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "spool.h"

/* ---- the options ----------------------------------------------------------------------------- */

enum { KEY_COMM = 0x1000, KEY_LAYER, KEY_STEP, KEY_LAYERS, KEY_CALLS, KEY_SEQ, KEY_OP, KEY_ROLE };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Which exchanges:", 1},
    {"comm", KEY_COMM, "ID", 0,
     "of this communicator: its number or the beginning of its key, as skewscope info shows them "
     "(default: the one that moved the most bytes)",
     1},
    {"seq", KEY_SEQ, "A[..B]", 0, "the A-th to B-th call on the communicator, counted from 0", 1},
    {"op", KEY_OP, "NAME", 0, "sendrecv, alltoall or alltoallv", 1},
    {"layer", KEY_LAYER, "N", 0, "of this layer", 1},
    {"step", KEY_STEP, "N", 0, "of this step", 1},
    {"role", KEY_ROLE, "NAME", 0, "dispatch, combine, …: as an analysis has labelled them", 1},
    {"layers", KEY_LAYERS, "L", 0,
     "--layer and --step by your own count: the calls on the communicator are layer 0, layer 1, … "
     "and "
     "after L layers a new step begins; a backward pass counts as a step of its own, whose layers "
     "run "
     "backwards",
     1},
    {"calls-per-layer", KEY_CALLS, "C", 0, "with --layers: each layer makes C calls (default 2)",
     1},
    {0}};

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

    filter->ops |= 1u << ops[skew_option_choice(state, "op", text, names)];
}

static void check(struct argp_state *state, const struct skew_filter *f)
{
    if (f->count_calls && !f->count_layers)
        argp_error(state, "--calls-per-layer needs --layers");
    if (f->count_layers && !f->by_layer && !f->by_step)
        argp_error(state, "--layers needs --layer or --step: what to select by the count");
    if (f->count_layers && f->by_layer && f->layer >= f->count_layers)
        argp_error(state, "--layer: %" PRId64 " is not allowed; with --layers %u it takes 0 to %u",
                   f->layer, f->count_layers, f->count_layers - 1);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct skew_selection *selection = state->input;
    struct skew_filter *f = &selection->filter;

    switch (key) {
    case KEY_COMM:
        selection->comm = text;
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
        f->layer = skew_option_integer(state, "layer", text, 0, INT32_MAX);
        return 0;
    case KEY_STEP:
        f->by_step = true;
        f->step = skew_option_integer(state, "step", text, 0, INT64_MAX);
        return 0;
    case KEY_LAYERS:
        f->count_layers = (uint32_t)skew_option_integer(state, "layers", text, 1, 100000);
        return 0;
    case KEY_CALLS:
        f->count_calls = (uint32_t)skew_option_integer(state, "calls-per-layer", text, 1, 100000);
        return 0;
    case ARGP_KEY_END:
        check(state, f);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp skew_selection_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

/* ---- the communicator ------------------------------------------------------------------------ */

/* Which ranks' own records the databases hold; of the others nothing is known, zero neither. */
static int find_ranks(struct skew_selection *s, const struct skew_reading *reading)
{
    const struct skew_member *members;
    uint32_t ranks = s->chosen->comm.ranks;
    struct skew_error error = {"out of memory"};
    size_t count;
    int result = 0;

    s->here = calloc(ranks, sizeof *s->here);
    if (!s->here)
        result = -ENOMEM;
    for (size_t t = 0; t < reading->count && result == 0; t++) {
        result = skew_trace_members(reading->traces[t], &members, &count, &error);
        for (size_t i = 0; i < count && result == 0; i++)
            if (members[i].rank >= 0 && (uint32_t)members[i].rank < ranks &&
                strcmp(members[i].comm->key, s->chosen->comm.key) == 0)
                s->here[members[i].rank] = true;
    }
    s->absent = ranks;
    for (uint32_t i = 0; i < ranks && result == 0; i++)
        s->absent -= s->here[i];
    if (result < 0)
        skew_tell("%s", error.text);
    return result;
}

int skew_selection_resolve(struct skew_selection *s, const char *path,
                           const struct skew_reading *reading)
{
    int result = skew_labels_prepare(&s->labelling, &s->filter, path, reading);

    if (result == 0)
        result = skew_candidates_collect(&s->candidates, reading);
    if (result < 0)
        return result;
    const struct skew_candidate *chosen = skew_candidates_choose(
        &s->candidates, path, s->comm, reading->count, s->why, sizeof s->why);
    if (!chosen)
        return -ENOENT;
    if (chosen->comm.ranks == 0) {
        skew_tell("communicator %" PRId64
                  " (key %s): its size was never learned, so there is no matrix",
                  chosen->comm.id, chosen->comm.key);
        return -ENOENT;
    }
    s->chosen = chosen;
    s->filter.comm_key = chosen->comm.key;
    if (s->filter.count_layers && !s->filter.count_calls)
        s->filter.count_calls = 2;
    snprintf(s->nothing, sizeof s->nothing,
             "no exchange of communicator %" PRId64 " (key %s) is selected; it made %" PRIu64
             " on %u ranks",
             chosen->comm.id, chosen->comm.key, chosen->exchanges, chosen->members);
    return find_ranks(s, reading);
}

void skew_selection_free(struct skew_selection *selection, const struct skew_reading *reading)
{
    skew_labelling_close(&selection->labelling, reading);
    free(selection->candidates.all);
    free(selection->here);
    selection->here = NULL;
    selection->candidates = (struct skew_candidates){0};
    selection->chosen = NULL;
}

/* ---- their sum ------------------------------------------------------------------------------- */

static int take_exchange(void *exchanged, const struct skew_exchange *exchange)
{
    struct skew_exchanged *e = exchanged;
    int result = skew_matrix_add(e->matrix, exchange);
    return result ? result : skew_loads_add(e->loads, exchange);
}

int skew_exchanged_create(struct skew_exchanged *e, uint32_t ranks)
{
    *e = (struct skew_exchanged){0};
    int result = skew_matrix_create(&e->matrix, ranks);
    return result ? result : skew_loads_create(&e->loads, ranks);
}

void skew_exchanged_free(struct skew_exchanged *e)
{
    skew_matrix_free(&e->matrix);
    skew_loads_free(&e->loads);
}

struct watched {
    struct skew_exchanged one;
    struct skew_progress progress;
};

static int take_watched(void *watched, const struct skew_exchange *exchange)
{
    struct watched *w = watched;

    if (w->one.matrix->exchanges % 8192 == 8191)
        skew_progress_show(&w->progress, "%" PRIu64 " exchanges read",
                           w->one.matrix->exchanges + 1);
    return take_exchange(&w->one, exchange);
}

/* The map over one database, and the merge of what came out. */
static int add_database(struct skew_exchanged *all, struct skew_trace *trace,
                        const struct skew_filter *filter)
{
    struct watched w;
    struct skew_error error = {"out of memory"};
    int result = skew_exchanged_create(&w.one, all->matrix->ranks);

    skew_progress_start(&w.progress, false);
    if (result == 0)
        result = skew_trace_each(trace, filter, SKEW_ORDER_STORED, take_watched, &w, &error);
    skew_progress_end(&w.progress);
    if (result == 0)
        result = skew_matrix_merge(all->matrix, w.one.matrix);
    if (result == 0)
        result = skew_loads_merge(all->loads, w.one.loads);
    if (result < 0)
        skew_tell("%s", error.text);
    skew_exchanged_free(&w.one);
    return result;
}

int skew_selection_sum(const struct skew_selection *s, const struct skew_reading *reading,
                       struct skew_exchanged *sum)
{
    int result = 0;

    for (size_t t = 0; t < reading->count && result == 0; t++)
        result = add_database(sum, reading->traces[t], &s->filter);
    if (result == 0 && sum->matrix->exchanges == 0) {
        skew_tell("%s", s->nothing);
        result = -ENOENT;
    }
    return result;
}

/* ---- each: the databases side by side, in the order of seq ----------------------------------- */

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

/* Hands on the next exchange of all ranks; 1, 0 at the end, or a negative errno. */
static int take_next(uint32_t ranks, struct cursor *cursors, size_t count, skew_exchanged_fn *take,
                     void *context)
{
    struct skew_exchanged one = {0};
    int64_t seq = INT64_MAX;
    int result = 0, any = 0;

    for (size_t i = 0; i < count; i++) {
        any |= cursors[i].state;
        if (cursors[i].state && cursors[i].exchange.seq < seq)
            seq = cursors[i].exchange.seq;
    }
    if (!any)
        return 0;
    result = skew_exchanged_create(&one, ranks);
    for (size_t i = 0; i < count && result == 0; i++) {
        while (result == 0 && cursors[i].state && cursors[i].exchange.seq == seq) {
            result = take_exchange(&one, &cursors[i].exchange);
            if (result == 0)
                result = advance(&cursors[i]);
        }
    }
    if (result == 0)
        result = take(context, &one, seq);
    skew_exchanged_free(&one);
    return result < 0 ? result : result == 0;
}

int skew_selection_each(const struct skew_selection *s, const struct skew_reading *reading,
                        skew_exchanged_fn *take, void *context)
{
    struct cursor *cursors = calloc(reading->count, sizeof *cursors);
    struct skew_error error;
    size_t taken = 0;
    int result = cursors ? 0 : -ENOMEM;

    for (size_t i = 0; i < reading->count && result == 0; i++) {
        result = skew_exchange_iter_open(&cursors[i].iter, reading->traces[i], &s->filter,
                                         SKEW_ORDER_SEQ, &error);
        if (result < 0)
            skew_tell("%s", error.text);
        else
            result = advance(&cursors[i]);
        taken += result == 0 && cursors[i].state;
    }
    if (result == 0 && taken == 0) {
        skew_tell("%s", s->nothing);
        result = -ENOENT;
    }
    if (result == 0)
        while ((result =
                    take_next(s->chosen->comm.ranks, cursors, reading->count, take, context)) == 1)
            ;
    for (size_t i = 0; cursors && i < reading->count; i++)
        skew_exchange_iter_close(&cursors[i].iter);
    free(cursors);
    return result;
}
