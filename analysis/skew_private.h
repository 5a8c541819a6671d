/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the volume's analysis share.
 */
#ifndef SKEW_SKEW_PRIVATE_H
#define SKEW_SKEW_PRIVATE_H

#include "skew.h"
#include "label.h"
#include "trace_private.h"

#include <pthread.h>

#define SKEW_PARTS_MAX 16
#define SKEW_LOCKS     64 /* of rows of matrices, by address */

/* One exchange of one rank, as the table has it. */
struct seen {
    int64_t seq, step, token_bytes, send, recv; /* −1: none */
    uint64_t send_unit, recv_unit;
    int32_t layer, microbatch;
    uint32_t member;      /* index into the trace's members */
    uint32_t group, call; /* filled by filing */
    float confidence;     /* −1: no label */
    uint8_t role;         /* enum skew_label_role */
    bool partial;         /* one of several that are the dispatch together */
    bool by_pass;         /* step is the ordinal of the pass over the layers */
};

struct vector_total {
    uint64_t total : 62;
    uint64_t known : 1, uniform : 1;
};

/* Who sent a vector: where its cells are to be added. */
struct use {
    struct use *next;
    uint64_t *row; /* [ranks] of a matrix */
    uint64_t unit;
    uint32_t ranks;
};

/* One thread's share of a pass. */
struct part {
    struct skew_trace *trace;
    const struct skew_labels *labels; /* of the caller; NULL: the table's */
    const struct skew_member *members;
    size_t member_count, next_member;
    const struct skew_volume_options *options;
    int64_t from, to, last_vector;
    struct seen **seen; /* blocks of SEEN_BLOCK: seen_at() */
    size_t count, capacity;
    uint8_t last_role; /* what most rows have that follow one with it */
    struct vector_total *totals;
    struct use *const *uses; /* [last_vector + 1], or NULL: matrices are not wanted */
    pthread_mutex_t *locks;  /* [SKEW_LOCKS] */
    struct skew_error error;
    int result;
};

#define SEEN_BLOCK 8192

static inline struct seen *seen_at(const struct part *p, size_t k)
{
    return &p->seen[k / SEEN_BLOCK][k % SEEN_BLOCK];
}

struct call {
    int64_t step, order; /* order: seq of the first rank that was met; for calls without a step */
    int32_t microbatch, occurrence;
    uint32_t ranks; /* that are here */
};

struct filing {
    struct skew_volume_group group;
    char *comm_key;
    uint8_t role;
    struct call *calls;
    size_t call_count;
    uint32_t *table; /* hash of calls: index + 1 */
    size_t table_size;
    double *recv, *send; /* [call capacity][ranks] */
    uint64_t *matrix;
    uint64_t first_total; /* bytes of the first uniform exchange */
    bool one_total, tokens_mixed;
    int64_t *step;
};

struct skew_volume {
    struct skew_volume_options options;
    char *comm_key, *role;
    struct filing *groups;
    size_t group_count, last_group;
    uint32_t databases;
    struct use **uses; /* while a database is read */
    struct use *use_memory;
    const struct skew_volume_group **shown;
    bool finished;
};

/* Groups and calls of what the parts have seen, and, for matrices, who sent which vector. */
int skew_volume_file(struct skew_volume *volume, struct part *parts, unsigned count,
                     size_t vectors);
/* Loads, once the vectors' totals are known. */
int skew_volume_fill(struct skew_volume *volume, const struct part *parts, unsigned count,
                     const struct vector_total *totals, struct skew_error *error);
void skew_volume_uses_free(struct skew_volume *volume);

#endif
