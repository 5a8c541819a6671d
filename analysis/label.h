/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each exchange is for: role, step, layer, micro-batch, stage, size of a token, and which
 * exchange brings the tokens back. Rules, confidence and limits: docs/labels.md.
 *
 * Labels are found for one database, rank by rank, from shapes, order and equality of per-peer
 * sizes. What could not be told is said: SKEW_LABEL_UNKNOWN, −1 or 0, never a guess. Everything
 * here belongs to one thread at a time, as the trace does. Nothing is written to the trace.
 *
 *     struct skew_labels *labels;
 *     skew_labels_get(trace, NULL, &labels, &error);      // saved ones, or else found now
 *     const struct skew_label *l = skew_labels_exchange(labels, exchange_id);
 *     if (l && l->role == SKEW_LABEL_DISPATCH && l->layer == 3) …
 */
#ifndef SKEW_LABEL_H
#define SKEW_LABEL_H

#include "trace.h"

/** The names that tables, options and JSON use are those of skew_label_role_name(). */
enum skew_label_role {
    SKEW_LABEL_UNKNOWN,            /* could not be told */
    SKEW_LABEL_DISPATCH,           /* tokens to the experts, forward */
    SKEW_LABEL_COMBINE,            /* results back to the tokens' ranks, forward */
    SKEW_LABEL_PROBS,              /* gate weights, along with a dispatch */
    SKEW_LABEL_COMBINE_BWD,        /* gradient of a combine: goes to the experts */
    SKEW_LABEL_DISPATCH_BWD,       /* gradient of a dispatch: goes back */
    SKEW_LABEL_PROBS_BWD,          /* gradient of the gate weights: goes back */
    SKEW_LABEL_DISPATCH_RECOMPUTE, /* the same again by activation recomputation, before the
                                      backward pass */
    SKEW_LABEL_COMBINE_RECOMPUTE,
    SKEW_LABEL_PROBS_RECOMPUTE,
    SKEW_LABEL_COUNT, /* token counts, by which ranks tell each other sizes; an agreed capacity too
                       */
    SKEW_LABEL_PIPELINE, /* point to point between pipeline stages */
    SKEW_LABEL_SEQUENCE, /* sequence-parallel all-to-all */
    SKEW_LABEL_OTHER,    /* known to be none of these */
    SKEW_LABEL_ROLES
};

enum skew_label_stage {
    SKEW_STAGE_UNKNOWN,
    SKEW_STAGE_TRAIN,
    SKEW_STAGE_PREFILL,
    SKEW_STAGE_DECODE
};

enum skew_label_flags {
    SKEW_LABEL_UNIFORM =
        1, /* capacity-padded: all sizes are equal, so the routing's skew cannot be seen in them */
    SKEW_LABEL_PARTIAL = 2, /* one of several exchanges that are the dispatch together (FastMoE: one
                               a local expert) */
    SKEW_LABEL_REPEATED =
        4, /* captured in a CUDA graph: it stands for several steps, so `step` is not told */
    SKEW_LABEL_MARKED =
        8 /* step, layer or stage is what an NVTX range or an option says, not what was found */
};

/** Of one exchange of one rank, or of one operation. */
struct skew_label {
    int64_t id;   /* exchange_id or operation_id; 0: no label */
    int64_t pair; /* the exchange that brings these tokens back, or took them away; 0: none known */
    int32_t step; /* ordinals from 0; −1: could not be told */
    int32_t layer; /* of the MoE layers of this rank, in the order of its forward passes; not of the
                      model */
    int32_t microbatch; /* within the step */
    int32_t pass; /* ordinal of the forward pass over the layers that these tokens went through; it
                     can often be told where `step` cannot */
    int32_t expert; /* with SKEW_LABEL_PARTIAL: which of the groups, from 0, empty ones not counted;
                       else −1 */
    uint8_t role;   /* enum skew_label_role */
    uint8_t stage;  /* enum skew_label_stage */
    uint8_t flags;  /* enum skew_label_flags */
    float confidence;     /* 0 … 1, of the least certain part that was told */
    uint64_t token_bytes; /* bytes of one token (row) in this exchange; 0: could not be told */
};

/** What a user knows better. Zero-initialise, then set. */
struct skew_label_options {
    uint32_t layers;       /* MoE layers of a rank; 0: find out */
    uint32_t microbatches; /* forward passes of a step; 0: find out */
    /* What marks a step; NULL: find out. Of these, the first that the trace has: an operation,
     * which ends one ("allreduce", "allreduce>=BYTES", "allreduce>=BYTES@KEY" of a communicator);
     * an NVTX range or mark whose text begins so, or is like it where it holds a *; part of a
     * function's name in a call site, which ends one. */
    const char *step_marker;
    const char *layer_marker; /* NVTX ranges with a number, likewise, that are a layer each */
    const char *prefill_marker, *decode_marker; /* NVTX ranges or marks of those stages */
    uint8_t stage; /* enum skew_label_stage of all forward passes of inference; 0: find out */
};

/** What was found on one communicator by the ranks in this database. */
struct skew_label_comm {
    const struct skew_comm *comm; /* borrowed from the trace */
    uint64_t exchanges;           /* … and operations that were looked at */
    uint64_t operations;
    uint64_t roles[SKEW_LABEL_ROLES];           /* exchanges by role */
    uint64_t operation_roles[SKEW_LABEL_ROLES]; /* operations by role */
    uint64_t stages[SKEW_STAGE_DECODE + 1]; /* exchanges and operations of MoE layers by stage */
    uint64_t without_step, without_layer,
        without_microbatch;              /* exchanges with a role of an MoE layer, but … */
    int32_t layers, steps, microbatches; /* largest + 1; 0: none told */
    uint64_t token_bytes;                /* of its dispatches; 0: not told or not one size */
    float confidence;                    /* mean over exchanges with a role; 0: none has */
    bool uniform;                        /* capacity-padded */
    char note[256]; /* what could not be told and why, in one sentence or more; may be empty */
};

struct skew_labels;

/**
 * Finds labels. `options` may be NULL.
 * @return 0 and *out, which the caller frees, or a negative errno with `error` set.
 */
int skew_label_trace(struct skew_trace *trace, const struct skew_label_options *options,
                     struct skew_labels **out, struct skew_error *error);

/** Reads those that were saved in the trace; -ENOENT when there are none. */
int skew_labels_load(struct skew_trace *trace, struct skew_labels **out, struct skew_error *error);

/** Saved ones, unless there are none or an option is set; else finds them. */
int skew_labels_get(struct skew_trace *trace, const struct skew_label_options *options,
                    struct skew_labels **out, struct skew_error *error);

void skew_labels_free(struct skew_labels **labels);

/** The label of an exchange or operation; NULL when it is not in this database. Borrowed; constant
 * time. */
const struct skew_label *skew_labels_exchange(const struct skew_labels *labels,
                                              int64_t exchange_id);
const struct skew_label *skew_labels_operation(const struct skew_labels *labels,
                                               int64_t operation_id);

/** All of them, ordered by id. Borrowed. */
const struct skew_label *skew_labels_exchanges(const struct skew_labels *labels, size_t *count);
const struct skew_label *skew_labels_operations(const struct skew_labels *labels, size_t *count);

/** One row a communicator, in the order of their ids. Borrowed. */
const struct skew_label_comm *skew_labels_comms(const struct skew_labels *labels, size_t *count);

/** "dispatch", …; NULL for SKEW_LABEL_UNKNOWN. */
const char *skew_label_role_name(int role);
/** The role called so, or −1. */
int skew_label_role_of(const char *name);
/** "train", "prefill", "decode"; NULL for SKEW_STAGE_UNKNOWN. */
const char *skew_label_stage_name(int stage);

/**
 * Lets filters by role, layer and step on this trace (struct skew_filter) use `labels` instead of
 * the table exchange_label. Borrowed: they must live until the trace is closed or others are
 * attached; NULL detaches.
 */
void skew_trace_attach_labels(struct skew_trace *trace, const struct skew_labels *labels);

#endif
