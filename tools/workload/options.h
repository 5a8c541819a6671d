/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workload's options: filled once by skew_options_parse() from the one table in options.c, and
 * read-only afterwards.
 */
#ifndef SKEW_WORKLOAD_OPTIONS_H
#define SKEW_WORKLOAD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* The order is that of the choice lists in options.c. */
enum skew_mode { SKEW_MODE_AUTO, SKEW_MODE_TRAIN, SKEW_MODE_INFER };
enum skew_recompute { SKEW_RECOMPUTE_NONE, SKEW_RECOMPUTE_SELECTIVE, SKEW_RECOMPUTE_FULL };
enum skew_schedule_kind { SKEW_SCHEDULE_1F1B, SKEW_SCHEDULE_INTERLEAVED, SKEW_SCHEDULE_GPIPE };
enum skew_gatherv { SKEW_GATHERV_ALWAYS, SKEW_GATHERV_AUTO };
enum skew_alltoall { SKEW_ALLTOALL_NATIVE, SKEW_ALLTOALL_SENDRECV };
enum skew_nvtx_kind {
    SKEW_NVTX_OFF,
    SKEW_NVTX_STEP, /* a range a step */
    SKEW_NVTX_LAYER, /* … and in it one a layer, forward; of a serving job one a pass with its stage
                      */
    SKEW_NVTX_MARK   /* a mark before each step */
};
enum skew_comm_init { SKEW_COMM_INIT_ID, SKEW_COMM_INIT_SPLIT };

#define SKEW_STEPS_ALL (~0u)

struct skew_options {
    unsigned ranks; /* processes of the job; 0 on the command line: RANK and WORLD_SIZE tell */
    unsigned ep_groups;
    const char *pattern;

    /* The model. 0: the routing file, or else a fallback, tells (skew_routing_open). */
    unsigned experts, topk, layers, hidden;
    const char *dtype;
    unsigned tokens; /* of a rank in a micro-batch; decode positions of a micro-batch for npy */
    double tokens_spread;
    unsigned steps; /* SKEW_STEPS_ALL: all that the routing file holds */
    unsigned micro_batches;
    uint64_t seed;

    const char *routing, *npy_axes, *counts_select, *placement;

    int mode, recompute, schedule;
    unsigned pp_stages, pp_stage, pp_chunks;
    double capacity_factor;

    bool sequence_parallel, pipeline_p2p, bias_allreduce;
    const char *serve;
    unsigned serve_every, serve_decode, serve_mixed; /* what --serve says; every 0: it does not */
    unsigned graph;                                  /* replays of a captured step; 0: no graph */

    int gatherv, alltoall, comm_init, nvtx;
    bool nonblocking, threads, share_gpu;

    const char *truth, *rendezvous, *corrupt;
    bool brief, timing;
};

/**
 * Reads the command line. A mistake is told on stderr in one sentence.
 * @return 0; 1 when --help or --list was answered and nothing is left to do; -EINVAL.
 */
int skew_options_parse(struct skew_options *opt, int argc, char **argv);

#endif
