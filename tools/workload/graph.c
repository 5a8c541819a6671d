/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Captures a step's forward in a CUDA graph and replays it. Where a pattern's sizes follow from the
 * routing they are frozen in the graph, so every replay has the routing of the captured step; where
 * they do not (padded patterns, all-gathers), every replay carries the tokens of the next step. The
 * experts' work is done ahead: a recorded exchange sends what its expert would have made.
 */
#include "cudart.h"
#include "device.h"
#include "exchange.h"
#include "graph.h"
#include "layer.h"
#include "pattern.h"
#include "results.h"
#include "truth.h"

static void record(struct skew_rank *rank, unsigned step,
                   void (*forward)(struct skew_rank *rank, unsigned step))
{
    unsigned before = rank->room_recorded;
    rank->n_recorded = 0;
    forward(rank, step);
    if (before && rank->n_recorded != before)
        skew_rank_fail(rank, "step %u has %u exchanges, the captured one %u", step,
                       rank->n_recorded, before);
}

static cudaGraphExec_t capture(struct skew_rank *rank)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    /* Other threads' CUDA calls would end a capture in global mode, which is PyTorch's default. */
    int mode =
        rank->job->opt->threads ? cudaStreamCaptureModeThreadLocal : cudaStreamCaptureModeGlobal;
    skew_cuda_check(rank, cudaStreamBeginCapture(rank->stream, mode), "cudaStreamBeginCapture");
    for (unsigned i = 0; i < rank->n_recorded; i++)
        skew_exchange_issue(rank, rank->recorded[i]);
    skew_cuda_check(rank, cudaStreamEndCapture(rank->stream, &graph), "cudaStreamEndCapture");
    skew_cuda_check(rank, cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
    skew_cuda_check(rank, cudaGraphDestroy(graph), "cudaGraphDestroy");
    return exec;
}

static void upload(struct skew_rank *rank)
{
    for (unsigned i = 0; i < rank->n_recorded; i++)
        skew_exchange_upload(rank, rank->recorded[i]);
    skew_device_wait(rank);
}

static void replay(struct skew_rank *rank, cudaGraphExec_t exec)
{
    skew_cuda_check(rank, cudaGraphLaunch(exec, rank->stream), "cudaGraphLaunch");
    for (unsigned i = 0; i < rank->n_recorded; i++)
        skew_exchange_download(rank, rank->recorded[i]);
    skew_device_wait(rank);
    for (unsigned i = 0; i < rank->n_recorded; i++) {
        skew_exchange_count(rank, rank->recorded[i]);
        skew_exchange_verify(rank, rank->recorded[i]);
    }
    rank->results->launches++;
}

void skew_graph_run(struct skew_rank *rank, void (*forward)(struct skew_rank *rank, unsigned step))
{
    const struct skew_options *opt = rank->job->opt;
    unsigned step = opt->steps;
    rank->recording = true;
    record(rank, step, forward);
    upload(rank);
    cudaGraphExec_t exec = capture(rank);
    for (unsigned i = 0; i < rank->n_recorded; i++) {
        skew_layer_load(rank, &rank->recorded[i]->at); /* whose tokens the truth tells */
        skew_truth_exchange(rank, rank->recorded[i]);
    }
    for (unsigned n = 0; n < opt->graph; n++) {
        if (n) {
            step += rank->job->pattern->static_sizes;
            record(rank, step, forward);
            upload(rank); /* fresh input, and poison where output is due */
        }
        skew_truth_launch(rank, n, step);
        replay(rank, exec);
    }
    skew_cuda_check(rank, cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
    rank->recording = false;
    for (unsigned i = 0; i < rank->room_recorded; i++)
        skew_exchange_free(rank, &rank->recorded[i]);
    rank->n_recorded = 0;
}
