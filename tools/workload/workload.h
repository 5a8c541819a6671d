/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The objects that the parts of the workload share: the job (one, read-only once ranks run), a rank
 * (one a process or thread, used by that alone) and where in the training a rank is.
 *
 * A rank that fails says so on stderr and ends its process, as it would under a launcher: nothing
 * in here unwinds errors of a running rank.
 */
#ifndef SKEW_WORKLOAD_H
#define SKEW_WORKLOAD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "nccl_abi.h"
#include "options.h"

struct skew_routing;
struct skew_placement;
struct skew_rendezvous;
struct skew_results;
struct skew_pattern;
struct skew_layer;
struct skew_exchange;
struct skew_truth;

enum skew_phase { SKEW_FORWARD, SKEW_BACKWARD, SKEW_RECOMPUTE };

/* Where in the run something happens. */
struct skew_at {
    unsigned step, micro_batch, layer;
    enum skew_phase phase;
};

/* What an exchange is for; names in results.c. */
enum skew_role {
    SKEW_ROLE_COUNT,
    SKEW_ROLE_CAPACITY, /* the largest count, by an all-reduce (DeepSpeed without dropping) */
    SKEW_ROLE_OFFSETS,  /* where to write (XLA) */
    SKEW_ROLE_DISPATCH,
    SKEW_ROLE_DISPATCH_PROBS,
    SKEW_ROLE_ACTIVATE, /* which experts got tokens (ColossalAI) */
    SKEW_ROLE_COMBINE,
    SKEW_ROLE_COMBINE_BWD,
    SKEW_ROLE_PROBS_BWD,
    SKEW_ROLE_DISPATCH_BWD,
    SKEW_ROLE_SEQUENCE,
    SKEW_ROLE_PIPELINE,
    SKEW_ROLE_BIAS,
    SKEW_ROLES
};

/* Communicators by what they are for; names and members in comms.c. */
enum skew_comm_role {
    SKEW_COMM_WORLD, /* all ranks; only there to be split */
    SKEW_COMM_EP,    /* the EP group's payload */
    SKEW_COMM_TP_EP, /* the same ranks, Megatron's communicator for the counts */
    SKEW_COMM_SP,    /* the same ranks, sequence parallel */
    SKEW_COMM_PP, /* pipeline: equal ranks of all EP groups, or all ranks if there is one group */
    SKEW_COMM_DP, /* all ranks: gradients and expert bias */
    SKEW_COMM_MOE_DP, /* equal ranks of all EP groups: copies of the same experts */
    SKEW_COMMS
};

struct skew_comm {
    ncclComm_t handle; /* NULL: not used in this run */
    unsigned size, rank;
};

struct skew_job {
    const struct skew_options *opt;
    const struct skew_routing *routing;
    const struct skew_placement *placement;
    const struct skew_pattern *pattern;
    struct skew_rendezvous *rendezvous;
    unsigned ep_size; /* ranks of one EP group */
    bool backward;
    ncclDataType_t dtype, combine_dtype;
    unsigned elem_bytes, combine_elem_bytes;
    struct skew_at corrupt; /* where to damage a row, when corrupt_rank is a rank */
    unsigned corrupt_rank;
};

struct skew_rank {
    struct skew_job *job;
    unsigned world_rank, ep_group, ep_rank;
    cudaStream_t stream;
    struct skew_comm comm[SKEW_COMMS];
    struct skew_layer *layer;        /* routing of the EP group where the rank is now */
    struct skew_exchange *eager;     /* reused by every exchange outside a graph */
    struct skew_exchange **recorded; /* exchanges of the step that a graph holds */
    unsigned n_recorded, room_recorded;
    bool recording; /* exchanges are prepared, not run */
    struct skew_results *results;
    struct skew_truth *truth; /* NULL without --truth */
    char range[4][24];        /* NVTX ranges that it is in, outermost first */
    unsigned ranges;
};

/** Says what went wrong, with the rank's number, and ends the process with status 1. */
void skew_rank_fail(const struct skew_rank *rank, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

/** realloc that ends the process when memory is short. */
void *skew_xrealloc(void *p, size_t size);

/** The body of a rank: everything between its start and its results. rank.c. */
void skew_rank_run(struct skew_job *job, unsigned world_rank, unsigned local_rank);

#endif
