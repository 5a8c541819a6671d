/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accumulator of volumes: exchanges filed by group and call, loads filled in. See skew.h;
 * reading is skew_read.c's.
 */
#include "skew_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int skew_volume_create(struct skew_volume **out, const struct skew_volume_options *options)
{
    struct skew_volume *v = calloc(1, sizeof *v);

    *out = NULL;
    if (!v)
        return -ENOMEM;
    v->options = *options;
    if (options->comm_key)
        v->options.comm_key = v->comm_key = strdup(options->comm_key);
    if (options->role)
        v->options.role = v->role = strdup(options->role);
    if ((options->comm_key && !v->comm_key) || (options->role && !v->role)) {
        skew_volume_free(&v);
        return -ENOMEM;
    }
    *out = v;
    return 0;
}

void skew_volume_uses_free(struct skew_volume *v)
{
    free(v->uses);
    free(v->use_memory);
    v->uses = NULL;
    v->use_memory = NULL;
}

void skew_volume_free(struct skew_volume **volume)
{
    struct skew_volume *v = *volume;

    *volume = NULL;
    if (!v)
        return;
    for (size_t i = 0; i < v->group_count; i++) {
        struct filing *f = &v->groups[i];
        free(f->comm_key);
        free(f->calls);
        free(f->table);
        free(f->recv);
        free(f->send);
        free(f->matrix);
        free(f->step);
    }
    skew_volume_uses_free(v);
    free(v->groups);
    free(v->shown);
    free(v->comm_key);
    free(v->role);
    free(v);
}

/* ---- groups ---------------------------------------------------------------------------------- */

static bool is_of(const struct filing *f, const struct skew_comm *comm, const struct seen *x)
{
    return f->role == x->role && f->group.layer == x->layer && f->group.ranks == comm->ranks &&
           strcmp(f->comm_key, comm->key) == 0;
}

static int make_group(struct skew_volume *v, const struct skew_comm *comm, const struct seen *x)
{
    struct filing *bigger = realloc(v->groups, (v->group_count + 1) * sizeof *bigger);

    if (!bigger)
        return -ENOMEM;
    v->groups = bigger;
    struct filing *f = &v->groups[v->group_count];
    *f = (struct filing){.comm_key = strdup(comm->key), .role = x->role};
    if (v->options.matrices)
        f->matrix = calloc((size_t)comm->ranks * comm->ranks, sizeof *f->matrix);
    if (!f->comm_key || (v->options.matrices && !f->matrix)) {
        free(f->comm_key);
        free(f->matrix);
        return -ENOMEM;
    }
    const char *role = skew_label_role_name(x->role);
    bool back = x->role == SKEW_LABEL_COMBINE || x->role == SKEW_LABEL_COMBINE_RECOMPUTE ||
                x->role == SKEW_LABEL_DISPATCH_BWD || x->role == SKEW_LABEL_PROBS_BWD;
    f->group = (struct skew_volume_group){.comm_key = f->comm_key,
                                          .role = role ? role : "",
                                          .layer = x->layer,
                                          .ranks = comm->ranks,
                                          .loaded = back ? SKEW_SIDE_SEND : SKEW_SIDE_RECEIVE,
                                          .lowest_confidence = NAN,
                                          .matrix = f->matrix};
    v->group_count++;
    return 0;
}

static int find_group(struct skew_volume *v, const struct skew_comm *comm, const struct seen *x,
                      uint32_t *index)
{
    /* Exchanges come in the order of one rank's calls: the next group is one of the next few. */
    for (size_t k = 0; k < v->group_count; k++) {
        size_t i = v->last_group + k;
        if (i >= v->group_count)
            i -= v->group_count;
        if (is_of(&v->groups[i], comm, x)) {
            v->last_group = i;
            *index = (uint32_t)i;
            return 0;
        }
    }
    *index = (uint32_t)v->group_count;
    v->last_group = v->group_count;
    return make_group(v, comm, x);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static size_t slot_of(const struct filing *f, int64_t step, int32_t microbatch, int32_t occurrence)
{
    uint64_t x = (uint64_t)step * 0x9e3779b97f4a7c15u ^
                 (uint64_t)(uint32_t)microbatch * 0xbf58476d1ce4e5b9u ^
                 (uint64_t)(uint32_t)occurrence << 45;
    size_t slot = (x ^ x >> 31) & (f->table_size - 1);

    while (f->table[slot]) {
        const struct call *c = &f->calls[f->table[slot] - 1];
        if (c->step == step && c->microbatch == microbatch && c->occurrence == occurrence)
            break;
        slot = (slot + 1) & (f->table_size - 1);
    }
    return slot;
}

static int more_calls(struct filing *f)
{
    size_t n = f->call_count, size = f->table_size ? f->table_size * 2 : 64, most = size / 2;
    size_t ranks = f->group.ranks;
    struct call *calls = realloc(f->calls, most * sizeof *calls);
    double *recv = calls ? realloc(f->recv, most * ranks * sizeof *recv) : NULL;
    double *send = recv ? realloc(f->send, most * ranks * sizeof *send) : NULL;
    uint32_t *table = calloc(size, sizeof *table);

    if (calls)
        f->calls = calls;
    if (recv)
        f->recv = recv;
    if (send)
        f->send = send;
    if (!calls || !recv || !send || !table) {
        free(table);
        return -ENOMEM;
    }
    free(f->table);
    f->table = table;
    f->table_size = size;
    for (size_t i = 0; i < n; i++)
        table[slot_of(f, calls[i].step, calls[i].microbatch, calls[i].occurrence)] =
            (uint32_t)i + 1;
    return 0;
}

/* The call that this rank's exchange is part of. Loads of −1 mark ranks that are not here yet. */
static int find_call(struct filing *f, uint32_t rank, struct seen *x)
{
    bool counted = x->step >= 0;
    int64_t step = counted ? x->step : x->seq;
    size_t ranks = f->group.ranks;

    for (int32_t occurrence = 0;; occurrence++) {
        if ((f->call_count + 1) * 2 > f->table_size && more_calls(f) < 0)
            return -ENOMEM;
        size_t slot = slot_of(f, step, x->microbatch, occurrence);
        if (!f->table[slot]) {
            f->calls[f->call_count] = (struct call){.step = step,
                                                    .order = x->seq,
                                                    .microbatch = x->microbatch,
                                                    .occurrence = occurrence};
            for (size_t r = 0; r < ranks; r++)
                f->recv[f->call_count * ranks + r] = f->send[f->call_count * ranks + r] = -1;
            f->table[slot] = (uint32_t)++f->call_count;
        }
        x->call = f->table[slot] - 1;
        if (x->partial && f->recv[x->call * ranks + rank] >= 0)
            return 0;
        if (f->recv[x->call * ranks + rank] < 0) {
            f->recv[x->call * ranks + rank] = f->send[x->call * ranks + rank] = 0;
            f->calls[x->call].ranks++;
            return 0;
        }
    }
}

static void note(struct filing *f, const struct seen *x)
{
    struct skew_volume_group *g = &f->group;

    if (g->exchanges++ == 0)
        g->token_bytes = x->token_bytes > 0 ? (uint64_t)x->token_bytes : 0;
    else if (g->token_bytes != (uint64_t)(x->token_bytes > 0 ? x->token_bytes : 0))
        f->tokens_mixed = true;
    if (x->confidence >= 0 && !(g->lowest_confidence <= x->confidence))
        g->lowest_confidence = x->confidence;
}

int skew_volume_file(struct skew_volume *v, struct part *parts, unsigned count, size_t vectors)
{
    size_t total = 0, used = 0;

    for (unsigned i = 0; i < count; i++)
        total += parts[i].count;
    if (v->options.matrices) {
        v->uses = calloc(vectors + 1, sizeof(struct use *));
        v->use_memory = malloc((total + 1) * sizeof *v->use_memory);
        if (!v->uses || !v->use_memory)
            return -ENOMEM;
    }
    for (unsigned i = 0; i < count; i++) {
        for (size_t k = 0; k < parts[i].count; k++) {
            struct seen *x = seen_at(&parts[i], k);
            const struct skew_member *m = &parts[i].members[x->member];
            if (find_group(v, m->comm, x, &x->group) < 0)
                return -ENOMEM;
            struct filing *f = &v->groups[x->group];
            if (find_call(f, (uint32_t)m->rank, x) < 0)
                return -ENOMEM;
            note(f, x);
            if (!v->uses || x->send < 0)
                continue;
            uint64_t *row = f->matrix + (size_t)m->rank * f->group.ranks;
            struct use *first = v->uses[x->send];
            if (first && first->row == row) { /* the same once more: one addition, of more */
                first->unit += x->send_unit;
                continue;
            }
            v->use_memory[used] = (struct use){first, row, x->send_unit, f->group.ranks};
            v->uses[x->send] = &v->use_memory[used++];
        }
    }
    return 0;
}

static int side(const struct vector_total *totals, int64_t id, uint64_t unit, double *bytes)
{
    uint64_t product;

    *bytes = 0;
    if (id < 0)
        return 0;
    if (!totals[id].known || __builtin_mul_overflow((uint64_t)totals[id].total, unit, &product))
        return -EBADMSG;
    *bytes = (double)product;
    return 0;
}

int skew_volume_fill(struct skew_volume *v, const struct part *parts, unsigned count,
                     const struct vector_total *totals, struct skew_error *error)
{
    for (unsigned i = 0; i < count; i++) {
        for (size_t k = 0; k < parts[i].count; k++) {
            const struct seen *x = seen_at(&parts[i], k);
            struct filing *f = &v->groups[x->group];
            size_t at =
                (size_t)x->call * f->group.ranks + (uint32_t)parts[i].members[x->member].rank;
            double sent, received;
            if (side(totals, x->send, x->send_unit, &sent) < 0 ||
                side(totals, x->recv, x->recv_unit, &received) < 0) {
                skew_error_set(error, "%s: is damaged: a vector of sizes is missing, or too large",
                               skew_trace_path(parts[i].trace));
                return -EBADMSG;
            }
            f->send[at] += sent; /* several, where they are one dispatch together */
            f->recv[at] += received;
            if (x->send >= 0 && totals[x->send].total)
                f->group.unit = skew_gcd(f->group.unit, x->send_unit);
            if (x->send >= 0 && totals[x->send].uniform) {
                uint64_t bytes = totals[x->send].total * x->send_unit;
                if (f->group.uniform++ == 0) {
                    f->first_total = bytes;
                    f->one_total = true;
                }
                f->one_total &= bytes == f->first_total;
            }
        }
    }
    return 0;
}

/* ---- closing --------------------------------------------------------------------------------- */

struct ordered {
    const struct call *call;
    size_t index;
};

static int compare_calls(const void *a, const void *b)
{
    const struct call *x = ((const struct ordered *)a)->call;
    const struct call *y = ((const struct ordered *)b)->call;

    if (x->step != y->step)
        return x->step < y->step ? -1 : 1;
    if (x->microbatch != y->microbatch)
        return x->microbatch < y->microbatch ? -1 : 1;
    return (x->occurrence > y->occurrence) - (x->occurrence < y->occurrence);
}

static int close_group(struct filing *f)
{
    struct skew_volume_group *g = &f->group;
    size_t ranks = g->ranks, n = f->call_count;
    struct ordered *order = malloc((n + 1) * sizeof *order);
    double *recv = malloc((n * ranks + 1) * sizeof *recv);
    double *send = malloc((n * ranks + 1) * sizeof *send);
    int64_t *step = malloc((n + 1) * sizeof *step);

    if (!order || !recv || !send || !step) {
        free(order);
        free(recv);
        free(send);
        free(step);
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++)
        order[i] = (struct ordered){&f->calls[i], i};
    qsort(order, n, sizeof *order, compare_calls);
    for (size_t i = 0; i < n; i++) {
        if (order[i].call->ranks != ranks) {
            g->incomplete++;
            continue;
        }
        memcpy(recv + g->calls * ranks, f->recv + order[i].index * ranks, ranks * sizeof *recv);
        memcpy(send + g->calls * ranks, f->send + order[i].index * ranks, ranks * sizeof *send);
        step[g->calls++] = order[i].call->step;
    }
    free(order);
    free(f->recv);
    free(f->send);
    free(f->step);
    f->recv = recv;
    f->send = send;
    f->step = step;
    g->recv = recv;
    g->send = send;
    g->step = step;
    if (f->tokens_mixed)
        g->token_bytes = 0;
    g->padded = g->exchanges && f->one_total && g->uniform * 100 >= g->exchanges * 99 && ranks > 1;
    return 0;
}

static int compare_groups(const void *a, const void *b)
{
    const struct skew_volume_group *x = *(const struct skew_volume_group *const *)a;
    const struct skew_volume_group *y = *(const struct skew_volume_group *const *)b;
    int key = strcmp(x->comm_key, y->comm_key), role = strcmp(x->role, y->role);

    if (key || role)
        return key ? key : role;
    return (x->layer > y->layer) - (x->layer < y->layer);
}

int skew_volume_finish(struct skew_volume *v)
{
    int result = 0;

    if (v->finished)
        return 0;
    v->shown = calloc(v->group_count + 1, sizeof *v->shown);
    if (!v->shown)
        return -ENOMEM;
    for (size_t i = 0; i < v->group_count && result == 0; i++) {
        result = close_group(&v->groups[i]);
        v->shown[i] = &v->groups[i].group;
    }
    if (result < 0)
        return result;
    qsort(v->shown, v->group_count, sizeof *v->shown, compare_groups);
    v->finished = true;
    return 0;
}

const struct skew_volume_group *const *skew_volume_groups(const struct skew_volume *v,
                                                          size_t *count)
{
    *count = v->finished ? v->group_count : 0;
    return v->shown;
}
