/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of one rank, in its own process or thread: device, communicators, steps, graph, results.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comms.h"
#include "device.h"
#include "exchange.h"
#include "extras.h"
#include "graph.h"
#include "layer.h"
#include "nvtx.h"
#include "pattern.h"
#include "placement.h"
#include "rendezvous.h"
#include "results.h"
#include "schedule.h"
#include "serve.h"
#include "truth.h"

void skew_rank_fail(const struct skew_rank *rank, const char *format, ...)
{
    char what[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    fprintf(stderr, "skewscope-workload: rank %u: %s\n", rank->world_rank, what);
    _exit(1); /* other ranks may be threads in the middle of NCCL: run no destructors under them */
}

void *skew_xrealloc(void *p, size_t size)
{
    void *q = realloc(p, size ? size : 1);
    if (!q) {
        fprintf(stderr, "skewscope-workload: out of memory (%zu bytes)\n", size);
        _exit(1);
    }
    return q;
}

static unsigned wanted_comms(const struct skew_job *job)
{
    const struct skew_options *opt = job->opt;
    unsigned mask = job->pattern->comms;
    if (opt->sequence_parallel)
        mask |= 1u << SKEW_COMM_SP;
    if (opt->pipeline_p2p)
        mask |= 1u << SKEW_COMM_PP;
    if (opt->bias_allreduce)
        mask |= 1u << SKEW_COMM_DP;
    if (opt->ep_groups == 1)
        mask &= ~(1u << SKEW_COMM_MOE_DP); /* there are no copies of the experts */
    return mask;
}

/* Adds this layer's rows to the report: what was routed, wherever it went. */
static void note_tokens(struct skew_rank *rank, const struct skew_at *at)
{
    const struct skew_options *opt = rank->job->opt;
    uint64_t *tokens = skew_results_tokens(rank->results, opt, at->layer);
    uint32_t rows = skew_layer_start(rank, rank->ep_rank, opt->experts);
    for (uint32_t i = 0; i < rows; i++)
        tokens[rank->layer->row[rank->ep_rank][i].expert]++;
    rank->results->rows_sent += rows;
}

/* ---- NVTX ---------------------------------------------------------------------------------- */

static void enter(struct skew_rank *rank, enum skew_nvtx_kind from, const char *what, int number)
{
    char *text = rank->range[rank->ranges];
    int kind = rank->job->opt->nvtx;

    if (kind < (int)from || kind == SKEW_NVTX_MARK)
        return;
    if (number < 0)
        snprintf(text, sizeof rank->range[0], "%s", what);
    else
        snprintf(text, sizeof rank->range[0], "%s %d", what, number);
    rank->ranges++;
    skew_nvtx_begin("%s", text);
}

static void leave(struct skew_rank *rank, enum skew_nvtx_kind from)
{
    int kind = rank->job->opt->nvtx;

    if (kind < (int)from || kind == SKEW_NVTX_MARK)
        return;
    rank->ranges--;
    skew_nvtx_end();
}

/* ---- passes -------------------------------------------------------------------------------- */

static void forward_layer(struct skew_rank *rank, const struct skew_at *at)
{
    if (rank->job->opt->sequence_parallel)
        skew_extra_sequence(rank, at);
    skew_layer_load(rank, at);
    rank->job->pattern->forward(rank, at);
    if (at->phase == SKEW_FORWARD)
        note_tokens(rank, at);
}

static void backward_layer(struct skew_rank *rank, struct skew_at at)
{
    if (skew_layer_recomputed(rank->job, at.layer)) {
        at.phase = SKEW_RECOMPUTE;
        forward_layer(rank, &at);
        at.phase = SKEW_BACKWARD;
    }
    skew_layer_load(rank, &at);
    rank->job->pattern->backward(rank, &at);
    if (rank->job->opt->sequence_parallel)
        skew_extra_sequence(rank, &at);
}

static void run_pass(struct skew_rank *rank, unsigned step, const struct skew_pass *pass)
{
    const struct skew_options *opt = rank->job->opt;
    unsigned layers = opt->layers / opt->pp_chunks, first = pass->chunk * layers;
    struct skew_at at = {step, pass->micro_batch, pass->backward ? first + layers - 1 : first,
                         pass->backward ? SKEW_BACKWARD : SKEW_FORWARD};
    bool marked = opt->micro_batches > 1 && !pass->backward;
    if (marked)
        enter(rank, SKEW_NVTX_LAYER, "micro-batch", (int)pass->micro_batch);
    if (opt->pipeline_p2p)
        skew_extra_pipeline(rank, &at);
    for (unsigned i = 0; i < layers; i++) {
        at.layer = pass->backward ? first + layers - 1 - i : first + i;
        if (pass->backward) {
            backward_layer(rank, at);
            continue;
        }
        enter(rank, SKEW_NVTX_LAYER, "layer", (int)at.layer);
        forward_layer(rank, &at);
        leave(rank, SKEW_NVTX_LAYER);
    }
    if (marked)
        leave(rank, SKEW_NVTX_LAYER);
}

static void run_step(struct skew_rank *rank, unsigned step, const struct skew_pass *pass,
                     int passes)
{
    const char *stage = skew_serve_stage(rank->job->opt, step);

    if (rank->job->opt->nvtx == SKEW_NVTX_MARK)
        skew_nvtx_note("step %u", step);
    enter(rank, SKEW_NVTX_STEP, "step", (int)step);
    if (stage)
        enter(rank, SKEW_NVTX_LAYER, stage, -1);
    for (int i = 0; i < passes; i++)
        run_pass(rank, step, &pass[i]);
    if (stage)
        leave(rank, SKEW_NVTX_LAYER);
    if (rank->job->opt->bias_allreduce)
        skew_extra_bias(rank, step);
    leave(rank, SKEW_NVTX_STEP);
}

/* The forward of one step, as a graph holds it. */
static void forward_step(struct skew_rank *rank, unsigned step)
{
    for (unsigned m = 0; m < rank->job->opt->micro_batches; m++)
        for (unsigned c = 0; c < rank->job->opt->pp_chunks; c++)
            run_pass(rank, step, &(struct skew_pass){false, m, c});
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void skew_rank_run(struct skew_job *job, unsigned world_rank, unsigned local_rank)
{
    char error[256];
    struct skew_pass *pass = NULL;
    struct skew_rank rank = {
        .job = job,
        .world_rank = world_rank,
        .ep_group = world_rank / job->ep_size,
        .ep_rank = world_rank % job->ep_size,
        .results = skew_rendezvous_results(job->rendezvous, world_rank),
    };
    int passes = skew_schedule_make(&pass, job->opt, job->backward, error, sizeof error);
    if (passes < 0)
        skew_rank_fail(&rank, "%s", error);
    skew_device_open(&rank, local_rank);
    skew_comms_open(&rank, wanted_comms(job));
    skew_truth_open(&rank);
    uint64_t begun = now_ns();
    for (unsigned step = 0; step < job->opt->steps; step++)
        run_step(&rank, step, pass, passes);
    if (job->opt->graph)
        skew_graph_run(&rank, forward_step);
    rank.results->wall_ns = now_ns() - begun;
    skew_truth_close(&rank);
    skew_comms_close(&rank);
    skew_exchange_free(&rank, &rank.eager);
    skew_layer_free(&rank);
    skew_device_close(&rank);
    free(rank.recorded);
    free(pass);
    rank.results->finished = 1;
    skew_rendezvous_publish(&rank);
}
