/* SPDX-License-Identifier: Apache-2.0 */
/* See synth_times.h. */
#include "synth_times.h"
#include "synth/synth_private.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int on_exchange(void *context, const struct skew_synth_exchange *x)
{
    struct synth_times *t = context;
    int64_t ranks = t->spec.ranks;

    for (int64_t i = 0; i < ranks; i++) {
        double sent = 0, received = 0, own = 0;
        for (int64_t j = 0; j < ranks; j++) {
            sent += i == j ? 0 : x->sent[i * ranks + j];
            received += i == j ? 0 : x->received[i * ranks + j];
            own += i == j ? x->sent[i * ranks + j] : 0;
        }
        double token = (double)x->token_bytes;
        struct skew_time_row row = {
            .place = x->seq,
            .seq = x->seq,
            .rank = (uint32_t)i,
            .step = x->step,
            .layer = x->layer,
            .role = (enum skew_time_role)((int)SKEW_TIME_DISPATCH + (int)x->role),
            .start_ns = skew_synth_clock(t->synth, (uint32_t)i, x->arrival_ns[i]),
            .end_ns = skew_synth_clock(t->synth, (uint32_t)i, x->end_ns[i]),
            .host_ns = skew_synth_clock(t->synth, (uint32_t)i, x->host_ns[i]),
            .sent = sent * token,
            .received = received * token,
            .load = (received + own) * token,
            .token_bytes = token,
            .hidden = {NAN, NAN}};
        if (t->spec.no_device_time)
            row.start_ns = row.end_ns = SKEW_TIME_ABSENT;
        if (t->spec.missing && t->spec.missing[i])
            continue;
        assert(skew_times_add(t->times, &row) == 0);
    }
    return 0;
}

static int on_routed(void *context, const struct skew_synth_routed *r)
{
    struct synth_times *t = context;
    size_t cells = (size_t)t->spec.ranks * (size_t)t->spec.experts;

    for (size_t i = 0; i < cells && t->routed; i++)
        t->routed[t->calls * cells + i] = r->counts[i];
    t->calls++;
    return 0;
}

static int on_late(void *context, const struct skew_synth_late *late)
{
    struct synth_times *t = context;
    t->late = realloc(t->late, (t->late_count + 1) * sizeof *t->late);
    assert(t->late);
    t->late[t->late_count++] = *late;
    return 0;
}

static int each(void *context, skew_time_routing_fn *take, void *taker)
{
    struct synth_times *t = context;
    size_t ranks = (size_t)t->spec.ranks, experts = (size_t)t->spec.experts;
    int result = 0;

    for (size_t call = 0; call < t->calls; call++)
        for (size_t i = 0; i < ranks && !result; i++)
            result = take(taker, &(struct skew_time_routing){
                                     .step = (int64_t)call / t->spec.layers,
                                     .layer = (int64_t)call % t->spec.layers,
                                     .source = (uint32_t)i,
                                     .experts = (uint32_t)experts,
                                     .topk = (uint32_t)t->spec.topk,
                                     .tokens = t->routed + (call * ranks + i) * experts});
    return result;
}

void synth_times_run(struct synth_times *t, const struct skew_synth_spec *spec, bool routing)
{
    synth_times_run_as(t, spec, spec->seed, routing);
}

void synth_times_run_as(struct synth_times *t, const struct skew_synth_spec *spec, int64_t seed,
                        bool routing)
{
    struct skew_synth_error error;
    const struct skew_synth_sink sink = {on_routed, on_exchange, on_late, t};
    const struct skew_time_router router = {each, t};

    *t = (struct synth_times){.spec = *spec};
    if (skew_synth_create(&t->synth, spec, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    t->synth->spec.seed = seed;
    if (routing)
        t->routed = malloc(sizeof(double) * (size_t)(spec->steps * spec->layers) *
                           (size_t)(spec->ranks * spec->experts));
    assert(skew_times_create(&t->times, (uint32_t)spec->ranks) == 0);
    for (int64_t i = 0; i < spec->ranks; i++) {
        int64_t per = spec->clock_per == SYNTH_PER_PROCESS ? 1
                      : spec->ranks_per_node               ? spec->ranks_per_node
                                                           : spec->ranks;
        skew_times_clock(t->times, (uint32_t)i, (uint32_t)(i / per));
    }
    assert(skew_synth_run(t->synth, &sink) == 0);
    assert(skew_times_analyse(t->times, routing ? &router : NULL, &t->result) == 0);
}

void synth_times_free(struct synth_times *t)
{
    skew_time_result_free(&t->result);
    skew_times_free(&t->times);
    skew_synth_free(&t->synth);
    free(t->late);
    free(t->routed);
}
