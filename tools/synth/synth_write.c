/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A synthetic job into databases, one a node, as the collectors of those nodes would leave them,
 * and the truth beside. Processes that lose records count them as libskewscope.so does.
 */
#include "synth_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../trace_make.h"
#include "synth_truth.h"

/* All databases begin at this real time, so that equal specs give equal rows. */
#define EPOCH_NS INT64_C(1700000000000000000)

struct member {
    int64_t id, process_id, lost, pending;
    int64_t sent_vector, sent_unit, received_vector, received_unit; /* of the dispatch in hand */
};

struct node {
    struct skew_make *make;
    int64_t comm_id;
};

struct writer {
    const struct skew_synth_spec *spec;
    const struct skew_synth *synth;
    struct node *nodes;
    size_t node_count;
    int64_t per_node;
    struct member *members; /* [ranks] */
    int64_t *dispatch_id;   /* [ranks] latest dispatch, 0: lost */
    uint64_t *bytes;        /* [max(ranks, experts)] */
    uint32_t *held_counts;  /* [ranks][experts] of the latest routing, stored with its dispatch */
    uint32_t *held_tokens;
    struct synth_truth *truth;
    struct skew_synth_error *error;
    struct skew_synth_written written;
};

static struct node *node_of(const struct writer *w, int64_t rank)
{
    return &w->nodes[rank / w->per_node];
}

static bool absent(const struct writer *w, int64_t rank)
{
    return w->spec->missing && w->spec->missing[rank];
}

static int failed(struct writer *w, const struct node *node, int result)
{
    if (result)
        skew_synth_fail(w->error, result, "%.390s", skew_make_why(node->make));
    return result;
}

/* ---- who takes part -------------------------------------------------------------------------- */

static int add_member(struct writer *w, struct node *node, int64_t run, int64_t rank)
{
    const struct skew_synth_spec *s = w->spec;
    char key[64], host[32];
    struct member *m = &w->members[rank];

    snprintf(key, sizeof key, "synth-%016" PRIx64 "-%" PRId64, (uint64_t)s->seed, rank);
    snprintf(host, sizeof host, "synth%" PRId64, rank / w->per_node);
    int64_t begin = skew_synth_clock(w->synth, (uint32_t)rank, 1000000000);
    int result =
        skew_make_process(node->make,
                          &(struct skew_make_process){.run_id = run,
                                                      .key = key,
                                                      .host = host,
                                                      .pid = 1000 + rank,
                                                      .world_rank = (int32_t)rank,
                                                      .local_rank = (int32_t)(rank % w->per_node),
                                                      .world_size = (int32_t)s->ranks,
                                                      .started_ns = begin,
                                                      .started_real_ns = EPOCH_NS + 1000000000},
                          &m->process_id);
    if (!result)
        result = skew_make_clock_anchor(node->make, m->process_id, begin, EPOCH_NS + 1000000000);
    if (!result)
        result = skew_make_member(node->make, node->comm_id, (int32_t)rank, m->process_id,
                                  (int32_t)(rank % w->per_node), begin, &m->id);
    return failed(w, node, result);
}

static int add_placement(struct writer *w, struct node *node)
{
    const struct skew_synth_spec *s = w->spec;
    uint32_t *filled = calloc((size_t)s->ranks, sizeof *filled);
    int64_t each = s->experts / s->ranks;
    int result = filled ? 0 : -ENOMEM;

    for (int64_t l = 0; l < s->layers && !result; l++) {
        const uint32_t *rank_of = skew_synth_rank_of(w->synth, l);
        memset(filled, 0, (size_t)s->ranks * sizeof *filled);
        for (int64_t e = 0; e < s->experts && !result; e++) {
            int64_t slot = rank_of[e] * each + filled[rank_of[e]]++;
            result = skew_make_placement(node->make, node->comm_id, l, slot, rank_of[e], e);
        }
    }
    free(filled);
    return failed(w, node, result);
}

static int begin_node(struct writer *w, size_t number, int64_t *run)
{
    const struct skew_synth_spec *s = w->spec;
    struct node *node = &w->nodes[number];
    char seed[40], value[32], comm[17];
    const char *argv[] = {"skewscope", "synth", seed};

    snprintf(seed, sizeof seed, "--seed=%" PRId64, s->seed);
    snprintf(comm, sizeof comm, "%016" PRIx64, UINT64_C(0x5e7b) << 48 ^ (uint64_t)s->seed);
    int result = skew_make_run(node->make,
                               &(struct skew_make_run){.key = "synth",
                                                       .argc = 3,
                                                       .argv = argv,
                                                       .started_real_ns = EPOCH_NS,
                                                       .ended_real_ns = EPOCH_NS},
                               run);
    if (!result)
        result = skew_make_run_label(node->make, *run, "synthetic", "1");
    snprintf(value, sizeof value, "%" PRId64, s->ranks);
    if (!result)
        result = skew_make_run_label(node->make, *run, "ep", value);
    for (size_t i = 0; i < s->label_count && !result; i++) {
        const char *equals = strchr(s->labels[i], '=');
        char *key = strndup(s->labels[i], (size_t)(equals - s->labels[i]));
        result = key ? skew_make_run_label(node->make, *run, key, equals + 1) : -ENOMEM;
        free(key);
    }
    if (!result)
        result =
            skew_make_diagnostic(node->make, *run, 0, "info", "synthetic",
                                 "This trace was made by `skewscope synth`: no job ran, and its "
                                 "truth is in the file beside it.");
    if (!result)
        result = skew_make_comm(node->make, comm, "init_rank", (uint32_t)s->ranks, &node->comm_id);
    return failed(w, node, result);
}

static int begin(struct writer *w)
{
    int result = 0;

    for (size_t n = 0; n < w->node_count && !result; n++) {
        int64_t run;
        result = begin_node(w, n, &run);
        for (int64_t i = 0; i < w->spec->ranks && !result; i++)
            if (i / w->per_node == (int64_t)n && !absent(w, i))
                result = add_member(w, &w->nodes[n], run, i);
        if (!result && w->spec->placement && strcmp(w->spec->placement, "contiguous") != 0)
            result = add_placement(w, &w->nodes[n]);
    }
    return result;
}

/* ---- exchanges ------------------------------------------------------------------------------- */

/* Row `rank` of a matrix of tokens as a stored vector. */
static int store_row(struct writer *w, struct node *node, const uint32_t *matrix, int64_t rank,
                     int64_t token_bytes, int64_t *vector, int64_t *unit)
{
    const uint32_t *row = matrix + rank * w->spec->ranks;

    for (int64_t j = 0; j < w->spec->ranks; j++)
        w->bytes[j] = (uint64_t)row[j] * (uint64_t)token_bytes;
    return skew_make_vector(node->make, (size_t)w->spec->ranks, w->bytes, NULL, vector, unit);
}

static int store_routing(struct writer *w, struct node *node, const struct skew_synth_exchange *x,
                         int64_t rank, int64_t exchange_id)
{
    const struct skew_synth_spec *s = w->spec;
    const uint32_t *counts = w->held_counts + rank * s->experts;

    for (int64_t e = 0; e < s->experts; e++)
        w->bytes[e] = counts[e];
    return skew_make_routing(node->make,
                             &(struct skew_make_routing){.exchange_id = exchange_id,
                                                         .comm_id = node->comm_id,
                                                         .source_rank = rank,
                                                         .step = x->step,
                                                         .layer = x->layer,
                                                         .microbatch = SKEW_MAKE_NONE,
                                                         .request = SKEW_MAKE_NONE,
                                                         .stage = s->backward ? "train" : NULL,
                                                         .experts = s->experts,
                                                         .topk = s->topk,
                                                         .tokens = w->held_tokens[rank],
                                                         .counts = w->bytes,
                                                         .verified = true,
                                                         .source = "synth"});
}

/* A record that was lost, told as the target would. */
static bool lose(struct writer *w, const struct skew_synth_exchange *x, int64_t rank)
{
    const struct skew_synth_spec *s = w->spec;
    struct rng rng =
        rng_keyed((uint64_t)s->seed, SYNTH_RNG_LOST, (uint64_t)x->seq, (uint64_t)rank, 0);
    if (s->lost <= 0 || rng_unit(&rng) >= s->lost)
        return false;
    w->members[rank].lost++;
    w->members[rank].pending++;
    return true;
}

static int tell_lost(struct writer *w, struct node *node, int64_t rank, int64_t before_seq)
{
    struct member *m = &w->members[rank];
    int result = 0;

    for (int64_t j = 0; m->pending && j < w->spec->ranks && !result; j++)
        result = skew_make_loss_edge(node->make, m->id, before_seq, j, m->pending, m->pending);
    m->pending = 0;
    return result;
}

static int store_times(struct writer *w, struct node *node, const struct skew_synth_exchange *x,
                       int64_t rank)
{
    const struct skew_synth_spec *s = w->spec;
    int64_t start = skew_synth_clock(w->synth, (uint32_t)rank, x->arrival_ns[rank]);
    int64_t end = skew_synth_clock(w->synth, (uint32_t)rank, x->end_ns[rank]);

    if (s->no_device_time)
        return 0;
    return skew_make_device_time(node->make, w->members[rank].id, 1, x->seq, 3, start, end,
                                 s->error_ns);
}

static int store_label(struct writer *w, struct node *node, const struct skew_synth_exchange *x,
                       int64_t rank, int64_t id)
{
    bool back = x->role != SYNTH_DISPATCH && w->dispatch_id[rank];

    if (w->spec->no_labels)
        return 0;
    return skew_make_label(node->make,
                           &(struct skew_make_label){.exchange_id = id,
                                                     .role = skew_synth_role_name[x->role],
                                                     .stage = w->spec->backward ? "train" : NULL,
                                                     .step = x->step,
                                                     .layer = x->layer,
                                                     .microbatch = SKEW_MAKE_NONE,
                                                     .token_bytes = x->token_bytes,
                                                     .pair_id = back && x->role == SYNTH_COMBINE
                                                                    ? w->dispatch_id[rank]
                                                                    : SKEW_MAKE_NONE,
                                                     .confidence = 1,
                                                     .source = "synth"});
}

static int store_one(struct writer *w, const struct skew_synth_exchange *x, int64_t rank)
{
    static const int dtypes[] = {-1, 10, 9, -1, 7, -1, -1, -1, 8}; /* fp8, bf16, fp32, fp64 */
    struct node *node = node_of(w, rank);
    struct member *m = &w->members[rank];
    bool again = x->role == SYNTH_COMBINE; /* the dispatch's two vectors, the other way round */
    int64_t id = 0;
    int result = 0;

    if (!again)
        result = store_row(w, node, x->sent, rank, x->token_bytes, &m->sent_vector, &m->sent_unit);
    if (!again && !result)
        result = store_row(w, node, x->received, rank, x->token_bytes, &m->received_vector,
                           &m->received_unit);
    struct skew_make_exchange e = {.member_id = m->id,
                                   .seq = x->seq,
                                   .dtype = dtypes[w->spec->element_bytes],
                                   .start_ns =
                                       skew_synth_clock(w->synth, (uint32_t)rank, x->host_ns[rank]),
                                   .enqueue_ns = 5000,
                                   .send_vector = again ? m->received_vector : m->sent_vector,
                                   .recv_vector = again ? m->sent_vector : m->received_vector,
                                   .send_unit = again ? m->received_unit : m->sent_unit,
                                   .recv_unit = again ? m->sent_unit : m->received_unit,
                                   .thread = 1,
                                   .group_seq = x->seq};
    bool lost = lose(w, x, rank);
    if (!result && !lost)
        result = tell_lost(w, node, rank, x->seq);
    if (!result && !lost)
        result = skew_make_exchange(node->make, &e, &id);
    if (!result && !lost)
        result = store_times(w, node, x, rank);
    if (!result && !lost)
        result = store_label(w, node, x, rank, id);
    if (x->role == SYNTH_DISPATCH) {
        w->dispatch_id[rank] = id;
        if (!result && !w->spec->no_routing && !lost)
            result = store_routing(w, node, x, rank, id);
    }
    w->written.exchanges += !lost;
    w->written.edges += lost ? 0 : (uint64_t)w->spec->ranks;
    return failed(w, node, result);
}

static int on_exchange(void *context, const struct skew_synth_exchange *x)
{
    struct writer *w = context;
    int result = synth_truth_exchange(w->truth, x);

    for (int64_t i = 0; i < w->spec->ranks && !result; i++)
        if (!absent(w, i))
            result = store_one(w, x, i);
    return result;
}

static int on_routed(void *context, const struct skew_synth_routed *r)
{
    struct writer *w = context;
    size_t ranks = (size_t)w->spec->ranks, experts = (size_t)w->spec->experts;

    memcpy(w->held_counts, r->counts, ranks * experts * sizeof *w->held_counts);
    memcpy(w->held_tokens, r->tokens, ranks * sizeof *w->held_tokens);
    return 0;
}

static int on_late(void *context, const struct skew_synth_late *late)
{
    struct writer *w = context;
    return synth_truth_late(w->truth, late);
}

/* ---- the end --------------------------------------------------------------------------------- */

static int end_members(struct writer *w, int64_t exchanges)
{
    int result = 0;

    for (int64_t i = 0; i < w->spec->ranks && !result; i++) {
        struct member *m = &w->members[i];
        struct node *node = node_of(w, i);
        if (absent(w, i))
            continue;
        result = tell_lost(w, node, i, exchanges);
        if (!result && m->lost)
            result = skew_make_loss(node->make, m->process_id, "spool_full", m->lost, m->lost,
                                    m->lost * 2 * w->spec->ranks);
        if (!result)
            result = skew_make_process_groups(node->make, m->process_id, exchanges,
                                              exchanges - m->lost, INT64_MAX / 4);
        failed(w, node, result);
    }
    return result;
}

static int finish(struct writer *w)
{
    int64_t each = w->spec->layers * w->spec->steps * (w->spec->backward ? 4 : 2);
    int result = end_members(w, each);

    for (size_t n = 0; n < w->node_count && !result; n++)
        result = failed(w, &w->nodes[n], skew_make_finish(w->nodes[n].make));
    return result;
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool is_file_name(const char *out)
{
    size_t length = strlen(out);
    return length > 3 && strcmp(out + length - 3, ".db") == 0;
}

static int open_nodes(struct writer *w, const char *out)
{
    char path[4096], why[700], node[33];
    int result = 0;

    if (is_file_name(out) && w->node_count > 1)
        return skew_synth_fail(w->error, -EINVAL,
                               "%.300s: several nodes need a directory, not one file", out);
    if (!is_file_name(out) && mkdir(out, 0700) < 0 && errno != EEXIST)
        return skew_synth_fail(w->error, -errno, "%.300s: %s", out, strerror(errno));
    for (size_t n = 0; n < w->node_count && !result; n++) {
        if (is_file_name(out))
            snprintf(path, sizeof path, "%s", out);
        else if (w->node_count == 1)
            snprintf(path, sizeof path, "%s/trace.db", out);
        else
            snprintf(path, sizeof path, "%s/trace-node%04zu.db", out, n);
        snprintf(node, sizeof node, "%016" PRIx64 "%016zx", (uint64_t)w->spec->seed, n);
        result = skew_make_open(
            &w->nodes[n].make, path,
            &(struct skew_make_about){
                .origin = "synth", .node = node, .key = node + 16, .created_real_ns = EPOCH_NS},
            why, sizeof why);
        if (result)
            skew_synth_fail(w->error, result, "%.390s", why);
    }
    return result;
}

static int allocate(struct writer *w)
{
    size_t ranks = (size_t)w->spec->ranks, experts = (size_t)w->spec->experts;

    w->nodes = calloc(w->node_count, sizeof *w->nodes);
    w->members = calloc(ranks, sizeof *w->members);
    w->dispatch_id = calloc(ranks, sizeof *w->dispatch_id);
    w->bytes = calloc(ranks > experts ? ranks : experts, sizeof *w->bytes);
    w->held_counts = calloc(ranks * experts, sizeof *w->held_counts);
    w->held_tokens = calloc(ranks, sizeof *w->held_tokens);
    if (!w->nodes || !w->members || !w->dispatch_id || !w->bytes || !w->held_counts ||
        !w->held_tokens)
        return skew_synth_fail(w->error, -ENOMEM, "out of memory");
    return 0;
}

int skew_synth_write(const struct skew_synth_spec *spec, const char *out,
                     struct skew_synth_written *written, struct skew_synth_error *error)
{
    struct writer w = {.spec = spec, .error = error};

    error->text[0] = 0;
    struct skew_synth *synth = NULL;
    char truth[4096];
    int result = skew_synth_create(&synth, spec, error);

    if (result)
        return result;
    w.synth = synth;
    w.per_node = spec->ranks_per_node ? spec->ranks_per_node : spec->ranks;
    w.node_count = (size_t)(spec->ranks / w.per_node);
    snprintf(truth, sizeof truth, is_file_name(out) ? "%.*s.truth.json" : "%.*s/truth.json",
             (int)strlen(out) - (is_file_name(out) ? 3 : 0), out);
    result = allocate(&w);
    if (!result)
        result = open_nodes(&w, out);
    if (!result)
        result = synth_truth_open(&w.truth, synth, truth, error);
    if (!result)
        result = begin(&w);
    if (!result)
        result =
            skew_synth_run(synth, &(struct skew_synth_sink){on_routed, on_exchange, on_late, &w});
    if (!result)
        result = finish(&w);
    if (!result)
        result = synth_truth_finish(w.truth, error);
    if (result && !error->text[0])
        skew_synth_fail(error, result, "%.300s: %s", out, strerror(-result));
    w.written.files = w.node_count;
    *written = w.written;
    synth_truth_free(&w.truth);
    for (size_t n = 0; w.nodes && n < w.node_count; n++)
        skew_make_abandon(&w.nodes[n].make);
    free(w.nodes);
    free(w.members);
    free(w.dispatch_id);
    free(w.bytes);
    free(w.held_counts);
    free(w.held_tokens);
    skew_synth_free(&synth);
    return result;
}
