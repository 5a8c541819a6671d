/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The n-th round of a rank is the n-th call of the counts. Both sides are brought into one order,
 * compared in number, and only then fitted against each other.
 */
#include "overlap_join.h"
#include "trace_private.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One call of one layer, and what it moves. */
struct call {
    struct skew_routing_at at;
    double busiest;
    double *received; /* [ranks] */
};

struct joining {
    const struct skew_overlap *all;
    struct skew_trace *const *traces;
    size_t databases;
    uint32_t ranks;
    const char *comm_key;
    struct call *calls; /* [count] in order of step, micro-batch and layer */
    size_t count;
    double *memory;                          /* of all `received` */
    const struct skew_overlap_round **round; /* [count][ranks] of the backend looked at */
    size_t *filled;                          /* [ranks] rounds so far */
    struct skew_error *error;
};

__attribute__((format(printf, 2, 3))) static void say(struct skew_overlap_joined *out,
                                                      const char *format, ...)
{
    va_list arguments;

    if (*out->why)
        return; /* the first reason counts */
    va_start(arguments, format);
    vsnprintf(out->why, sizeof out->why, format, arguments);
    va_end(arguments);
}

/* ---- the counts ------------------------------------------------------------------------------ */

/* Bytes of ports of one call, in copies; matrix[ranks][ranks] is room for it. */
static int measure(struct call *c, uint32_t ranks, double *received, double *matrix)
{
    int result = skew_routing_matrix(&c->at, matrix);

    if (result < 0)
        return result;
    c->received = received;
    for (uint32_t r = 0; r < ranks; r++) {
        double out = 0, in = 0, own = matrix[(size_t)r * ranks + r];
        for (uint32_t p = 0; p < ranks; p++) {
            out += matrix[(size_t)r * ranks + p];
            in += matrix[(size_t)p * ranks + r];
        }
        received[r] = in;
        c->busiest = fmax(c->busiest, fmax(out, in) - own);
    }
    return 0;
}

/* Why the counts as a whole cannot meet rounds; NULL: they can. */
static const char *look_at_counts(struct joining *j, const struct skew_routing *routing)
{
    size_t layers;
    const struct skew_routing_layer *const *layer = skew_routing_layers(routing, &layers);

    if (layers == 0)
        return "there are no counts of experts";
    for (size_t i = 0; i < layers; i++) {
        const struct skew_routing_layer *l = layer[i];
        if (strcmp(l->comm_key, layer[0]->comm_key) != 0)
            return "the counts are of several communicators";
        if (l->ranks == 0)
            return "the counts name no ranks: skewscope import --ranks and --into";
        if (!l->cube || l->sources != l->ranks || l->complete != l->calls)
            return "counts of some ranks are missing";
        j->count += l->calls;
    }
    j->ranks = layer[0]->ranks;
    j->comm_key = layer[0]->comm_key;
    return NULL;
}

static int take_calls(struct joining *j, const struct skew_routing *routing)
{
    struct skew_routing_at *at;
    size_t n;
    int result = skew_routing_in_time(routing, &at, &n);
    double *matrix = malloc((size_t)j->ranks * j->ranks * sizeof *matrix);

    j->calls = calloc(j->count + 1, sizeof *j->calls);
    j->memory = calloc(j->count * j->ranks + 1, sizeof *j->memory);
    if (!matrix || !j->calls || !j->memory)
        result = -ENOMEM;
    for (size_t i = 0; i < j->count && result == 0; i++) {
        j->calls[i].at = at[i];
        result = measure(&j->calls[i], j->ranks, j->memory + i * j->ranks, matrix);
    }
    free(matrix);
    free(at);
    return result;
}

/* ---- the rounds ------------------------------------------------------------------------------ */

/* The rank of a process on the communicator of the counts; −1: none. */
static int32_t rank_of(const struct joining *j, size_t database, int64_t process)
{
    const struct skew_member *members;
    size_t count;

    if (skew_trace_members(j->traces[database], &members, &count, j->error) < 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (members[i].process == process && strcmp(members[i].comm->key, j->comm_key) == 0)
            return members[i].rank;
    return -1;
}

static void take_rounds(struct joining *j, struct skew_overlap_joined *out)
{
    memset(j->filled, 0, j->ranks * sizeof *j->filled);
    for (size_t d = 0; d < j->databases; d++)
        for (size_t i = 0; i < j->all[d].round_count; i++) {
            const struct skew_overlap_round *r = &j->all[d].rounds[i];
            if (strcmp(r->backend, out->backend) != 0)
                continue;
            int32_t rank = rank_of(j, d, r->process);
            if (rank < 0 || (uint32_t)rank >= j->ranks)
                say(out, "process %lld has rounds and is no rank of the communicator of the counts",
                    (long long)r->process);
            else if (r->dispatches != 1 || r->combines != 1)
                say(out,
                    "in rank %d several dispatches or combines follow each other: which belong "
                    "together is not known",
                    (int)rank);
            else if (j->filled[rank]++ < j->count)
                j->round[(j->filled[rank] - 1) * j->ranks + (uint32_t)rank] = r;
        }
    for (uint32_t r = 0; r < j->ranks; r++) {
        out->rounds = j->filled[r] > out->rounds ? j->filled[r] : out->rounds;
        if (j->filled[r] != j->count)
            say(out,
                "rank %u has %zu rounds, the counts %zu calls: each call must be one round "
                "(backward passes and warm-up have no counts)",
                r, j->filled[r], j->count);
    }
}

/* From the last arrival to the last end; on clocks that do not meet, the shortest duration. */
static double transfer(const struct joining *j, size_t call, bool combine)
{
    int64_t start = INT64_MIN, end = INT64_MIN;
    double shortest = INFINITY;

    for (uint32_t r = 0; r < j->ranks; r++) {
        const struct skew_overlap_round *one = j->round[call * j->ranks + r];
        int64_t from = combine ? one->combine_start : one->dispatch_start;
        int64_t to = combine ? one->combine_end : one->dispatch_end;
        start = from > start ? from : start;
        end = to > end ? to : end;
        shortest = fmin(shortest, (double)(to - from));
    }
    return j->databases == 1 ? (double)(end - start) : shortest;
}

static int fit(struct joining *j, struct skew_overlap_joined *out)
{
    size_t n = j->count, cells = n * j->ranks;
    double *x = malloc((2 * cells + 3 * n + 1) * sizeof *x);
    int64_t *cluster = malloc((cells + n + 1) * sizeof *cluster);

    if (!x || !cluster) {
        free(x);
        free(cluster);
        return -ENOMEM;
    }
    double *y = x + cells, *busiest = y + cells, *dispatch = busiest + n, *combine = dispatch + n;
    int64_t *of_call = cluster + cells;
    for (size_t c = 0; c < n; c++) {
        const struct call *one = &j->calls[c];
        const struct skew_routing_call *call = &one->at.layer->call[one->at.call];
        of_call[c] = call->step >= 0 ? call->step : (int64_t)c / 16;
        busiest[c] = one->busiest;
        dispatch[c] = transfer(j, c, false);
        combine[c] = transfer(j, c, true);
        out->busiest += one->busiest / (double)n;
        for (uint32_t r = 0; r < j->ranks; r++) {
            const struct skew_between *e = &j->round[c * j->ranks + r]->experts;
            x[c * j->ranks + r] = one->received[r];
            y[c * j->ranks + r] = ((double)e->low + (double)e->high) / 2;
            cluster[c * j->ranks + r] = of_call[c];
            out->received += one->received[r] / (double)cells;
        }
    }
    int result = skew_time_fit(busiest, NULL, dispatch, of_call, n, &out->dispatch);
    if (result == 0)
        result = skew_time_fit(busiest, NULL, combine, of_call, n, &out->combine);
    if (result == 0)
        result = skew_time_fit(x, NULL, y, cluster, cells, &out->experts);
    free(x);
    free(cluster);
    return result;
}

/* ---- together -------------------------------------------------------------------------------- */

/* The backends that have rounds, each once. */
static int list_backends(const struct joining *j, struct skew_overlap_joined **out, size_t *count)
{
    size_t room = 0;

    for (size_t d = 0; d < j->databases; d++)
        for (size_t i = 0; i < j->all[d].round_count; i++) {
            bool known = false;
            for (size_t k = 0; k < *count && !known; k++)
                known = strcmp((*out)[k].backend, j->all[d].rounds[i].backend) == 0;
            if (known)
                continue;
            struct skew_overlap_joined *more = *out;
            if (*count == room) {
                room = room ? 2 * room : 4;
                more = realloc(*out, room * sizeof *more);
            }
            if (!more)
                return -ENOMEM;
            *out = more;
            (*out)[(*count)++] = (struct skew_overlap_joined){
                .backend = j->all[d].rounds[i].backend, .one_clock = j->databases == 1};
        }
    return 0;
}

int skew_overlap_join(const struct skew_overlap *all, struct skew_trace *const *traces,
                      size_t count, const struct skew_routing *routing,
                      struct skew_overlap_joined **out, size_t *out_count, struct skew_error *error)
{
    struct joining j = {.all = all, .traces = traces, .databases = count, .error = error};

    *out = NULL;
    *out_count = 0;
    int result = list_backends(&j, out, out_count);
    if (result < 0 || *out_count == 0)
        goto out;
    const char *why = look_at_counts(&j, routing);
    if (!why) {
        j.round = calloc(j.count * j.ranks + 1, sizeof *j.round);
        j.filled = calloc(j.ranks + 1, sizeof *j.filled);
        result = j.round && j.filled ? take_calls(&j, routing) : -ENOMEM;
        if (result == -EINVAL) {
            why = "the ranks do not divide the experts, and no placement is in the trace";
            result = 0;
        }
    }
    for (size_t i = 0; i < *out_count && result == 0; i++) {
        struct skew_overlap_joined *one = &(*out)[i];
        one->calls = j.count;
        if (why)
            say(one, "%s", why);
        else
            take_rounds(&j, one);
        if (!*one->why)
            result = fit(&j, one);
    }
out:
    if (result == -ENOMEM)
        skew_error_set(error, "out of memory");
    free(j.calls);
    free(j.memory);
    free(j.round);
    free(j.filled);
    return result;
}
