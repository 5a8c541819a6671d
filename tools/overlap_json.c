/* SPDX-License-Identifier: Apache-2.0 */
/* See overlap_output.h: means over exchanges of one communicator and role, then of each rank. */
#include "overlap_output.h"

#include "label.h"
#include "time_output.h"

#include <stdlib.h>
#include <string.h>

/* Sums over exchanges, and over the pairs that they begin. */
struct sums {
    uint64_t exchanges, known, pairs, pairs_known, with_tokens;
    double duration, known_duration, low, high;
    double gap, experts_low, experts_high, load, tokens, token_low, token_high;
};

static void add(struct sums *s, const struct skew_overlap_exchange *x)
{
    double duration = (double)(x->end - x->start);
    s->exchanges++;
    s->duration += duration;
    if (x->known) {
        s->known++;
        s->known_duration += duration;
        s->low += (double)x->overlapped.low;
        s->high += (double)x->overlapped.high;
    }
    if (!x->pair)
        return;
    s->pairs++;
    if (!x->experts_known)
        return;
    s->pairs_known++;
    s->gap += (double)x->gap;
    s->experts_low += (double)x->experts.low;
    s->experts_high += (double)x->experts.high;
    s->load += (double)x->load;
    if (x->tokens) {
        s->with_tokens++;
        s->tokens += (double)x->tokens;
        s->token_low += (double)x->experts.low;
        s->token_high += (double)x->experts.high;
    }
}

static void put(json_t *to, const char *key, double sum, uint64_t count)
{
    json_object_set_new(to, key, count ? json_real(sum / (double)count) : json_null());
}

static void put_between(json_t *to, const char *key, double low, double high, uint64_t count)
{
    if (!count)
        json_object_set_new(to, key, json_null());
    else
        json_object_set_new(
            to, key,
            json_pack("{s:f, s:f}", "low", low / (double)count, "high", high / (double)count));
}

static void put_sums(json_t *to, const struct sums *s)
{
    json_object_set_new(to, "exchanges", json_integer((json_int_t)s->exchanges));
    json_object_set_new(to, "known", json_integer((json_int_t)s->known));
    put(to, "duration_ns", s->duration, s->exchanges);
    put_between(to, "overlapped_ns", s->low, s->high, s->known);
    put_between(to, "exposed_ns", s->known_duration - s->high, s->known_duration - s->low,
                s->known);
    if (!s->pairs)
        return;
    json_t *experts =
        json_pack("{s:I, s:I}", "pairs", (json_int_t)s->pairs, "known", (json_int_t)s->pairs_known);
    put(experts, "gap_ns", s->gap, s->pairs_known);
    put_between(experts, "kernels_ns", s->experts_low, s->experts_high, s->pairs_known);
    put(experts, "received_bytes", s->load, s->pairs_known);
    put(experts, "tokens", s->tokens, s->with_tokens);
    put_between(experts, "token_ns", s->token_low, s->token_high, (uint64_t)s->tokens);
    json_object_set_new(to, "experts", experts);
}

/* ---- exchanges ------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    const struct skew_overlap_exchange *x = *(const struct skew_overlap_exchange *const *)a,
                                       *y = *(const struct skew_overlap_exchange *const *)b;
    int by = strcmp(x->member->comm->key, y->member->comm->key);
    by = by ? by : x->role - y->role;
    by = by ? by : (x->member->rank > y->member->rank) - (x->member->rank < y->member->rank);
    by = by ? by : (x->start > y->start) - (x->start < y->start);
    return by ? by : (x->id > y->id) - (x->id < y->id);
}

static json_t *role_name(uint8_t role)
{
    const char *name = skew_label_role_name(role);
    return name ? json_string(name) : json_null();
}

static json_t *group_json(const struct skew_overlap_exchange *const *x, size_t count)
{
    struct sums all = {0}, one = {0};
    json_t *ranks = json_array();
    for (size_t i = 0; i < count; i++) {
        add(&all, x[i]);
        add(&one, x[i]);
        if (i + 1 < count && x[i + 1]->member->rank == x[i]->member->rank)
            continue;
        json_t *rank = json_pack("{s:i}", "rank", x[i]->member->rank);
        put_sums(rank, &one);
        json_array_append_new(ranks, rank);
        one = (struct sums){0};
    }
    json_t *group =
        json_pack("{s:s, s:o}", "comm", x[0]->member->comm->key, "role", role_name(x[0]->role));
    put_sums(group, &all);
    json_object_set_new(group, "ranks", ranks);
    return group;
}

static json_t *groups_json(const struct skew_overlap_exchange *const *x, size_t count)
{
    json_t *groups = json_array();
    for (size_t from = 0, to; from < count; from = to) {
        for (to = from; to < count && x[to]->role == x[from]->role &&
                        strcmp(x[to]->member->comm->key, x[from]->member->comm->key) == 0;)
            to++;
        json_array_append_new(groups, group_json(x + from, to - from));
    }
    return groups;
}

static json_t *exchange_json(const struct skew_overlap_exchange *x)
{
    json_t *o = json_pack("{s:I, s:I, s:s, s:i, s:I, s:o, s:i, s:i, s:I, s:I}", "exchange_id",
                          (json_int_t)x->id, "launch_id", (json_int_t)x->launch, "comm",
                          x->member->comm->key, "rank", x->member->rank, "seq", (json_int_t)x->seq,
                          "role", role_name(x->role), "step", x->step, "layer", x->layer,
                          "start_ns", (json_int_t)x->start, "end_ns", (json_int_t)x->end);
    struct sums s = {0};
    add(&s, x);
    put_between(o, "overlapped_ns", s.low, s.high, s.known);
    put_between(o, "exposed_ns", s.known_duration - s.high, s.known_duration - s.low, s.known);
    if (x->pair) {
        json_object_set_new(o, "pair_id", json_integer((json_int_t)x->pair));
        json_object_set_new(o, "gap_ns", json_integer((json_int_t)x->gap));
        put_between(o, "kernels_ns", s.experts_low, s.experts_high, s.pairs_known);
        json_object_set_new(o, "received_bytes", json_integer((json_int_t)x->load));
        json_object_set_new(o, "tokens",
                            x->tokens ? json_integer((json_int_t)x->tokens) : json_null());
    }
    return o;
}

/* ---- device-initiated backends --------------------------------------------------------------- */

static json_t *backend_json(const struct skew_overlap_backend *b)
{
    static const char *const arguments[] = {"ranks",  "experts",      "topk",
                                            "hidden", "hidden_bytes", "max_tokens"};
    json_t *o = json_pack("{s:s, s:s, s:I, s:i, s:i, s:I, s:I, s:s}", "backend", b->backend, "does",
                          skew_kernel_does_name(b->does), "process_id", (json_int_t)b->process,
                          "world_rank", b->world_rank, "device", b->device, "kernels",
                          (json_int_t)b->kernels, "total_ns", (json_int_t)b->total, "bytes",
                          "not observable");
    if (b->most >= 0) {
        json_object_set_new(o, "least_ns", json_integer((json_int_t)b->least));
        json_object_set_new(o, "most_ns", json_integer((json_int_t)b->most));
    }
    for (unsigned i = 0; i < SKEW_KERNEL_ARGUMENTS; i++)
        if (b->argument[i] > 0)
            json_object_set_new(o, arguments[i], json_integer((json_int_t)b->argument[i]));
    return o;
}

static json_t *round_json(const struct skew_overlap_round *r)
{
    return json_pack("{s:s, s:I, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:{s:I, s:I}}", "backend",
                     r->backend, "process_id", (json_int_t)r->process, "world_rank", r->world_rank,
                     "device", r->device, "dispatches", (int)r->dispatches, "combines",
                     (int)r->combines, "dispatch_start_ns", (json_int_t)r->dispatch_start,
                     "dispatch_end_ns", (json_int_t)r->dispatch_end, "combine_start_ns",
                     (json_int_t)r->combine_start, "combine_end_ns", (json_int_t)r->combine_end,
                     "kernels_ns", "low", (json_int_t)r->experts.low, "high",
                     (json_int_t)r->experts.high);
}

/* Means over rounds of one dispatch and one combine; of others it is not known what belongs
 * together. */
static void add_rounds(json_t *to, const struct skew_overlap *overlap)
{
    for (size_t from = 0, next; from < overlap->round_count; from = next) {
        const struct skew_overlap_round *first = &overlap->rounds[from];
        double gap = 0, low = 0, high = 0;
        uint64_t single = 0, count = 0;
        for (next = from; next < overlap->round_count; next++) {
            const struct skew_overlap_round *r = &overlap->rounds[next];
            if (r->process != first->process || r->device != first->device ||
                strcmp(r->backend, first->backend) != 0)
                break;
            count++;
            if (r->dispatches != 1 || r->combines != 1)
                continue;
            single++;
            gap += (double)(r->combine_start - r->dispatch_end);
            low += (double)r->experts.low;
            high += (double)r->experts.high;
        }
        json_t *o =
            json_pack("{s:s, s:I, s:i, s:i, s:I, s:I}", "backend", first->backend, "process_id",
                      (json_int_t)first->process, "world_rank", first->world_rank, "device",
                      first->device, "rounds", (json_int_t)count, "known", (json_int_t)single);
        put(o, "gap_ns", gap, single);
        put_between(o, "kernels_ns", low, high, single);
        json_array_append_new(to, o);
    }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void add_database(json_t *root, const struct skew_overlap *one, size_t *rows)
{
    static const char *const counts[] = {"untimed", "kernel_rows", "cupti_dropped", "partial"};
    const uint64_t values[] = {one->untimed, one->rows, one->dropped, one->partial};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(root, counts[i],
                            json_integer(json_integer_value(json_object_get(root, counts[i])) +
                                         (json_int_t)values[i]));
    for (size_t i = 0; i < one->backend_count; i++)
        json_array_append_new(json_object_get(root, "backends"), backend_json(&one->backends[i]));
    add_rounds(json_object_get(root, "backend_experts"), one);
    for (size_t i = 0; i < one->round_count && *rows; i++, --*rows)
        json_array_append_new(json_object_get(root, "rounds"), round_json(&one->rounds[i]));
    for (size_t i = 0; i < one->unknown_count; i++)
        json_array_append_new(json_object_get(root, "unknown_kernels"),
                              json_string(one->unknown[i]));
}

json_t *skew_overlap_json(const struct skew_overlap *all, size_t count, size_t rows)
{
    size_t total = 0, at = 0, left = rows;
    for (size_t i = 0; i < count; i++)
        total += all[i].exchange_count;
    const struct skew_overlap_exchange **x = calloc(total + 1, sizeof(*x));
    if (!x)
        return NULL;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < all[i].exchange_count; k++)
            x[at++] = &all[i].exchanges[k];
    qsort(x, total, sizeof(*x), compare);
    json_t *list = json_array();
    for (size_t i = 0; i < total && i < rows; i++)
        json_array_append_new(list, exchange_json(x[i]));
    json_t *root =
        json_pack("{s:o, s:o, s:[], s:[], s:[], s:[]}", "roles", groups_json(x, total), "exchanges",
                  list, "backends", "backend_experts", "rounds", "unknown_kernels");
    for (size_t i = 0; root && i < count; i++)
        add_database(root, &all[i], &left);
    free(x);
    return root;
}

void skew_overlap_json_join(json_t *root, const struct skew_overlap_joined *joined, size_t count)
{
    json_t *all = json_array();

    for (size_t i = 0; i < count; i++) {
        const struct skew_overlap_joined *j = &joined[i];
        json_t *one = json_pack("{s:s, s:I, s:I}", "backend", j->backend, "rounds",
                                (json_int_t)j->rounds, "calls", (json_int_t)j->calls);
        json_object_set_new(one, "why", *j->why ? json_string(j->why) : json_null());
        if (!*j->why) {
            json_object_set_new(one, "one_clock", json_boolean(j->one_clock));
            json_object_set_new(one, "busiest_copies", json_real(j->busiest));
            json_object_set_new(one, "received_copies", json_real(j->received));
            json_object_set_new(
                one, "dispatch",
                skew_time_fit_json(&j->dispatch, "token copies of the busiest port"));
            json_object_set_new(
                one, "combine",
                skew_time_fit_json(&j->combine, "token copies of the busiest port"));
            json_object_set_new(one, "experts",
                                skew_time_fit_json(&j->experts, "token copies received"));
        }
        json_array_append_new(all, one);
    }
    json_object_set_new(root, "joined", all);
}

json_t *skew_overlap_saved(const json_t *root)
{
    json_t *saved = json_deep_copy(json_object_get(root, "roles")), *one;
    size_t i;
    json_array_foreach(saved, i, one)
    {
        json_object_del(one, "ranks");
        if (json_is_null(json_object_get(one, "role")))
            json_object_del(one, "role");
    }
    return saved;
}
