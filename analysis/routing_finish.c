/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a bag of rows to counts by call, request and source: one layer at a time, layers on several
 * threads. Here rows that several databases have are told from rows that belong together.
 */
#include "routing_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What one layer is being made of. */
struct making {
    const struct skew_routing *routing;
    struct building *building;
    const struct stored_row **rows; /* [count], by call, source, database */
    size_t count;
    uint32_t *position; /* [call_count] where a call comes in order; UINT32_MAX: left out */
    /* results, as in struct skew_routing_layer but writable */
    struct skew_routing_call *call;
    uint64_t *counts, *source_tokens, *source_counts, *request_counts;
    int64_t *request;
    uint32_t *cube;
    uint64_t *one, *other; /* [experts] */
};

static int by_call(const void *a, const void *b)
{
    const struct stored_row *x = *(const struct stored_row *const *)a;
    const struct stored_row *y = *(const struct stored_row *const *)b;

    if (x->call != y->call)
        return x->call < y->call ? -1 : 1;
    if (x->source != y->source)
        return x->source < y->source ? -1 : 1;
    if (x->database != y->database)
        return x->database < y->database ? -1 : 1;
    return 0;
}

/* Rows mostly come in the order that is wanted: ranks of a call one after the other. */
static void sort_rows(struct making *m)
{
    for (size_t i = 1; i < m->count; i++)
        if (by_call(&m->rows[i - 1], &m->rows[i]) > 0) {
            qsort(m->rows, m->count, sizeof *m->rows, by_call);
            return;
        }
}

static int compare_ids(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* ---- the order of calls ---------------------------------------------------------------------- */

struct ordered {
    const struct making *m;
    uint32_t index;
};

static int compare_calls(const void *a, const void *b)
{
    const struct ordered *p = a, *q = b;
    const struct call_key *x = &p->m->building->calls[p->index];
    const struct call_key *y = &q->m->building->calls[q->index];
    int stage = strcmp(p->m->routing->stages[x->stage], q->m->routing->stages[y->stage]);

    if (x->step != y->step)
        return x->step < y->step ? -1 : 1;
    if (x->ordinal != y->ordinal)
        return x->ordinal < y->ordinal ? -1 : 1;
    if (x->microbatch != y->microbatch)
        return x->microbatch < y->microbatch ? -1 : 1;
    if (stage)
        return stage;
    return x->of_requests - y->of_requests;
}

static bool same_moment(const struct call_key *a, const struct call_key *b)
{
    return a->step == b->step && a->microbatch == b->microbatch && a->ordinal == b->ordinal &&
           a->stage == b->stage;
}

static int order_calls(struct making *m)
{
    struct building *b = m->building;
    size_t n = b->call_count, used = 0;
    struct ordered *order = malloc((n + 1) * sizeof *order);

    m->position = malloc((n + 1) * sizeof *m->position);
    m->call = calloc(n + 1, sizeof *m->call);
    if (!order || !m->position || !m->call) {
        free(order);
        return -ENOMEM;
    }
    bool others = false;
    for (size_t i = 0; i < n; i++) {
        order[i] = (struct ordered){m, (uint32_t)i};
        others |= !b->calls[i].of_requests || b->calls[i].step >= 0;
    }
    qsort(order, n, sizeof *order, compare_calls);
    for (size_t i = 0; i < n; i++) {
        const struct call_key *k = &b->calls[order[i].index];
        /* Rows of single requests say again what a row of all of them says; and those of requests'
         * whole lives what the calls say. */
        bool again = i > 0 && same_moment(k, &b->calls[order[i - 1].index]);
        if (k->of_requests && (again || (k->step < 0 && k->ordinal < 0 && others))) {
            m->position[order[i].index] = UINT32_MAX;
            continue;
        }
        m->position[order[i].index] = (uint32_t)used;
        m->call[used++] = (struct skew_routing_call){.step = k->step,
                                                     .microbatch = k->microbatch,
                                                     .ordinal = k->ordinal,
                                                     .stage = m->routing->stages[k->stage],
                                                     .of_requests = k->of_requests};
    }
    free(order);
    b->layer.calls = used;
    return 0;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void *zeroed(size_t a, size_t b, size_t c, size_t size, bool *failed)
{
    size_t n;

    if (__builtin_mul_overflow(a ? a : 1, b ? b : 1, &n) ||
        __builtin_mul_overflow(n, c ? c : 1, &n)) {
        *failed = true;
        return NULL;
    }
    void *memory = calloc(n, size);
    if (!memory)
        *failed = true;
    return memory;
}

static int make_room(struct making *m)
{
    struct skew_routing_layer *l = &m->building->layer;
    size_t requests = 0;
    bool failed = false;

    l->sources = 0;
    for (size_t i = 0; i < m->count; i++)
        if (m->rows[i]->source >= (int32_t)l->sources)
            l->sources = (uint32_t)m->rows[i]->source + 1;
    if (l->sources && l->sources < l->ranks)
        l->sources = l->ranks;
    m->request = zeroed(m->count, 1, 1, sizeof *m->request, &failed);
    m->counts = zeroed(l->calls, l->experts, 1, sizeof *m->counts, &failed);
    if (l->sources) {
        m->source_tokens = zeroed(l->calls, l->sources, 1, sizeof *m->source_tokens, &failed);
        m->source_counts = zeroed(l->sources, l->experts, 1, sizeof *m->source_counts, &failed);
    }
    m->one = zeroed(l->experts, 1, 1, sizeof *m->one, &failed);
    m->other = zeroed(l->experts, 1, 1, sizeof *m->other, &failed);
    if (l->sources && (m->routing->keep & SKEW_ROUTING_CUBE))
        m->cube = zeroed(l->calls, l->sources, l->experts, sizeof *m->cube, &failed);
    if (failed)
        return -ENOMEM;
    for (size_t i = 0; i < m->count; i++)
        if (m->rows[i]->request >= 0)
            m->request[requests++] = m->rows[i]->request;
    qsort(m->request, requests, sizeof *m->request, compare_ids);
    for (size_t i = 0; i < requests; i++)
        if (i == 0 || m->request[i] != m->request[i - 1])
            m->request[l->requests++] = m->request[i];
    if (l->requests)
        m->request_counts = zeroed(l->requests, l->experts, 1, sizeof *m->request_counts, &failed);
    return failed ? -ENOMEM : 0;
}

/* ---- adding up ------------------------------------------------------------------------------- */

static bool sum_of(const struct making *m, size_t from, size_t to, uint64_t *into)
{
    memset(into, 0, m->building->layer.experts * sizeof *into);
    for (size_t i = from; i < to; i++)
        if (!skew_packed_add(&m->rows[i]->sizes, into))
            return false;
    return true;
}

static size_t end_of(const struct making *m, size_t from, size_t limit, bool database)
{
    size_t to = from + 1;

    while (to < limit && m->rows[to]->call == m->rows[from]->call &&
           m->rows[to]->source == m->rows[from]->source &&
           (!database || m->rows[to]->database == m->rows[from]->database))
        to++;
    return to;
}

static int add_requests(struct making *m, size_t from, size_t to)
{
    const struct skew_routing_layer *l = &m->building->layer;

    for (size_t i = from; i < to; i++) {
        const struct stored_row *row = m->rows[i];
        if (row->request < 0)
            continue;
        const int64_t *at =
            bsearch(&row->request, m->request, l->requests, sizeof *at, compare_ids);
        if (!skew_packed_add(&row->sizes,
                             m->request_counts + (size_t)(at - m->request) * l->experts))
            return -EOVERFLOW;
    }
    return 0;
}

/* The rows of one source in one call, of one database: m->one holds their sum. */
static int add_source(struct making *m, size_t from, size_t to)
{
    struct skew_routing_layer *l = &m->building->layer;
    const struct stored_row *first = m->rows[from];
    size_t at = m->position[first->call];
    struct skew_routing_call *call = &m->call[at];
    uint64_t *counts = m->counts + at * l->experts, total = 0;

    for (uint32_t e = 0; e < l->experts; e++) {
        counts[e] += m->one[e];
        total += m->one[e];
    }
    call->total += total;
    for (size_t i = from; i < to; i++) {
        call->tokens = m->rows[i]->tokens < 0 || call->tokens == UINT64_MAX
                           ? UINT64_MAX
                           : call->tokens + (uint64_t)m->rows[i]->tokens;
        l->verified_rows += m->rows[i]->verified != 0;
        l->rows++;
    }
    if (first->source < 0) {
        call->whole = true;
        return 0;
    }
    call->sources++;
    uint32_t source = (uint32_t)first->source;
    uint64_t *by_source = m->source_counts + (size_t)source * l->experts;
    m->source_tokens[at * l->sources + source] = total;
    for (uint32_t e = 0; e < l->experts; e++)
        by_source[e] += m->one[e];
    if (m->cube) {
        uint32_t *cube = m->cube + (at * l->sources + source) * l->experts;
        for (uint32_t e = 0; e < l->experts; e++) {
            if (m->one[e] > UINT32_MAX)
                return -EOVERFLOW;
            cube[e] = (uint32_t)m->one[e];
        }
    }
    return 0;
}

/* One source of one call: the first database's rows count, those of others are compared. */
static int add_group(struct making *m, size_t from, size_t to)
{
    struct skew_routing_layer *l = &m->building->layer;
    size_t end = end_of(m, from, to, true);

    if (!sum_of(m, from, end, m->one))
        return -EOVERFLOW;
    int result = add_source(m, from, end);
    if (result == 0)
        result = add_requests(m, from, end);
    while (result == 0 && end < to) {
        size_t next = end_of(m, end, to, true);
        if (!sum_of(m, end, next, m->other))
            return -EOVERFLOW;
        if (memcmp(m->one, m->other, l->experts * sizeof *m->one) == 0)
            l->duplicates += next - end;
        else
            l->conflicts += next - end;
        end = next;
    }
    return result;
}

static size_t sources_in(const struct making *m, size_t from, size_t to)
{
    size_t count = 0;

    for (size_t i = from; i < to; i = end_of(m, i, to, false))
        count += m->rows[i]->source >= 0;
    return count;
}

/* A call: either its row of all ranks together (source −1, which sorts first) or its sources. */
static int add_call(struct making *m, size_t from, size_t to)
{
    struct skew_routing_layer *l = &m->building->layer;
    size_t sources = sources_in(m, from, to), expected = l->ranks ? l->ranks : l->sources;
    int result = 0;

    if (m->rows[from]->source < 0 && sources) {
        size_t end = end_of(m, from, to, false);
        if (sources == expected) {
            l->duplicates += end - from;
            from = end;
        } else {
            l->duplicates += to - end;
            to = end;
        }
    }
    struct skew_routing_call *call = &m->call[m->position[m->rows[from]->call]];
    for (size_t i = from; i < to && result == 0;) {
        size_t end = end_of(m, i, to, false);
        result = add_group(m, i, end);
        i = end;
    }
    if (call->tokens == UINT64_MAX)
        call->tokens = 0;
    call->complete = call->whole || (expected && call->sources >= expected);
    l->complete += call->complete;
    if (!call->whole && expected > call->sources)
        l->missing += expected - call->sources;
    return result;
}

/* ---- a layer --------------------------------------------------------------------------------- */

static int take_placement(const struct skew_routing *r, struct building *b)
{
    size_t count = 0;
    int64_t wanted = -2;

    /* The layer's own rows before those of all layers (−1); equal rows of several databases once.
     */
    for (size_t i = 0; i < r->placed_count; i++) {
        const struct placed_slot *p = &r->placed[i];
        if (strcmp(p->comm_key, b->comm_key) == 0 && (p->layer == b->layer.layer || p->layer == -1))
            if (wanted < p->layer)
                wanted = p->layer;
    }
    if (wanted == -2)
        return 0;
    for (size_t i = 0; i < r->placed_count; i++) {
        const struct placed_slot *p = &r->placed[i];
        if (strcmp(p->comm_key, b->comm_key) == 0 && p->layer == wanted && p->slot >= count)
            count = p->slot + 1;
    }
    struct skew_slot *slots = malloc(count * sizeof *slots);
    if (!slots)
        return -ENOMEM;
    memset(slots, 0xff, count * sizeof *slots);
    for (size_t i = 0; i < r->placed_count; i++) {
        const struct placed_slot *p = &r->placed[i];
        if (strcmp(p->comm_key, b->comm_key) == 0 && p->layer == wanted)
            slots[p->slot] = p->at;
    }
    size_t used = 0;
    for (size_t i = 0; i < count; i++) /* slots that nobody describes are no slots */
        if (slots[i].rank != UINT32_MAX &&
            (b->layer.physical || slots[i].expert < b->layer.experts))
            slots[used++] = slots[i];
    b->slots = slots;
    b->layer.slot = slots;
    b->layer.slots = used;
    return 0;
}

static int make_layer(struct making *m)
{
    struct building *b = m->building;
    struct skew_routing_layer *l = &b->layer;
    int result = order_calls(m);

    if (b->topk_mixed)
        l->topk = 0;
    if (result == 0)
        result = make_room(m);
    if (result == 0) {
        sort_rows(m);
        for (size_t i = 0; i < m->count && result == 0;) {
            size_t end = i;
            while (end < m->count && m->rows[end]->call == m->rows[i]->call)
                end++;
            if (m->position[m->rows[i]->call] != UINT32_MAX)
                result = add_call(m, i, end);
            else
                result = add_requests(m, i, end);
            i = end;
        }
    }
    if (result == 0)
        result = take_placement(m->routing, b);
    l->call = m->call;
    l->counts = m->counts;
    l->request = m->request;
    l->request_counts = m->request_counts;
    l->source_tokens = m->source_tokens;
    l->source_counts = m->source_counts;
    l->cube = m->cube;
    free(m->position);
    free(m->one);
    free(m->other);
    return result;
}

/* ---- all layers ------------------------------------------------------------------------------ */

struct work {
    struct making *making;
    size_t count;
    _Atomic size_t next;
    _Atomic int result;
};

static void *worker(void *context)
{
    struct work *w = context;
    size_t i;

    while ((i = atomic_fetch_add(&w->next, 1)) < w->count) {
        int result = make_layer(&w->making[i]);
        if (result < 0)
            atomic_store(&w->result, result);
    }
    return NULL;
}

static int make_all(struct making *making, size_t count, size_t rows)
{
    enum { THREADS_MAX = 16, ROWS_WORTH_A_THREAD = 5000 };
    pthread_t threads[THREADS_MAX];
    struct work w = {.making = making, .count = count};
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int started = 0;

    while (started < processors - 1 && started < THREADS_MAX && rows > ROWS_WORTH_A_THREAD &&
           (size_t)started + 1 < count && pthread_create(&threads[started], NULL, worker, &w) == 0)
        started++;
    worker(&w);
    while (started > 0)
        pthread_join(threads[--started], NULL);
    return w.result;
}

static int compare_layers(const void *a, const void *b)
{
    const struct skew_routing_layer *x = *(const struct skew_routing_layer *const *)a;
    const struct skew_routing_layer *y = *(const struct skew_routing_layer *const *)b;
    int key = strcmp(x->comm_key, y->comm_key);

    if (key)
        return key;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return (x->experts > y->experts) - (x->experts < y->experts);
}

int skew_routing_finish(struct skew_routing *r)
{
    const struct stored_row **rows = malloc((r->row_count + 1) * sizeof *rows);
    struct making *making = calloc(r->layer_count + 1, sizeof *making);
    int result = 0;

    if (r->finished) {
        free(rows);
        free(making);
        return 0;
    }
    r->shown = calloc(r->layer_count + 1, sizeof *r->shown);
    if (!rows || !making || !r->shown) {
        result = -ENOMEM;
        goto out;
    }
    for (size_t i = 0; i < r->row_count; i++)
        making[r->rows[i].layer].count++;
    for (size_t i = 0, at = 0; i < r->layer_count; i++) {
        making[i].routing = r;
        making[i].building = &r->layers[i];
        making[i].rows = rows + at;
        at += making[i].count;
        making[i].count = 0;
        r->shown[i] = &r->layers[i].layer;
    }
    for (size_t i = 0; i < r->row_count; i++) {
        struct making *m = &making[r->rows[i].layer];
        m->rows[m->count++] = &r->rows[i];
    }
    result = make_all(making, r->layer_count, r->row_count);
    qsort(r->shown, r->layer_count, sizeof *r->shown, compare_layers);
    r->finished = true;
    /* What was counted is in the layers now. */
    free(r->rows);
    r->rows = NULL;
    for (size_t i = 0; i < r->block_count; i++)
        free(r->blocks[i]);
    r->block_count = r->row_count = r->row_capacity = 0;

out:
    free(rows);
    free(making);
    return result;
}

const struct skew_routing_layer *const *skew_routing_layers(const struct skew_routing *r,
                                                            size_t *count)
{
    *count = r->finished ? r->layer_count : 0;
    return r->shown;
}
