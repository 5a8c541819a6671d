/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope import: what its files share. A reader (one a format) turns a file into rows of
 * routing, or into matrices; checks look for what is known to go wrong in such files; the writer
 * makes a trace of them. Readers and checks do not touch the database.
 *
 * Every function returns 0, or a negative errno after one sentence on standard error that names
 * the file, what is wrong and what to do. Files are untrusted: sizes are checked before use.
 */
#ifndef SKEW_IMPORT_H
#define SKEW_IMPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#define SKEW_IMPORT_RANKS_MAX   4096u
#define SKEW_IMPORT_EXPERTS_MAX 65535u
#define SKEW_IMPORT_TOPK_MAX    256u

/* ---- options --------------------------------------------------------------------------------- */

/** Which rank a token comes from, where the file does not say and ranks are asked for. */
enum skew_import_assign {
    SKEW_ASSIGN_CONTIGUOUS, /* units in order, as many to each rank */
    SKEW_ASSIGN_ROUND_ROBIN /* unit i to rank i mod R */
};

struct skew_import_where {
    const char *column, *value;
};

struct skew_import_options {
    const char *axes;  /* of .npy; NULL: the format's own */
    const char *stage; /* of every row; NULL: not known */
    uint32_t ranks;    /* 0: none are known */
    enum skew_import_assign assign;
    bool keep_steps, keep_requests; /* both by default */
    bool keep_ids;
    uint32_t experts;    /* 0: the largest id + 1 */
    uint32_t topk;       /* 0: what the file says */
    int64_t step_tokens; /* tokens of one request that make a step; 0: all; −1: 16 where there are
                            requests */
    int64_t prompt_tokens; /* that many first tokens of a request are its prefill; −1: not known */
    int64_t skip_steps, skip_tokens; /* to leave out at the beginning */
    int64_t layer_base;              /* number of the first layer, where the file has none */
    int64_t token_bytes;             /* of matrices in tokens */
    struct skew_import_where where[8];
    size_t wheres;
};

/* ---- rows ------------------------------------------------------------------------------------ */

/** Which row of routing: all of this together. −1 and NULL are "not known" or "all". */
struct skew_import_key {
    int64_t step, layer, microbatch, request;
    int32_t source;    /* rank within the group */
    int32_t group;     /* EP group, 0, 1, … */
    const char *stage; /* a literal, or lives as long as the rows */
};

struct skew_import_row {
    struct skew_import_key key;
    uint32_t topk;  /* 0: not known */
    int64_t tokens; /* −1: not known */
    uint16_t *ids;  /* [id_count], when kept */
    size_t id_count, id_room;
};

struct skew_import_rows {
    struct skew_import_row *row;
    size_t count, room;
    uint64_t *counts;       /* [room][width] */
    uint32_t width;         /* experts there is room for */
    uint32_t experts;       /* largest expert + 1, or as the options say */
    uint32_t ranks, groups; /* largest + 1; 0: none known */
    bool keep_ids;
    size_t *table; /* hash: index + 1 */
    size_t table_size;
};

/** A matrix of bytes: one exchange. */
struct skew_import_matrix {
    int64_t step, layer;
    uint64_t *bytes; /* [ranks][ranks] */
};

/** What a check or a reader noticed; becomes a row of `diagnostic` and is told at the end. */
struct skew_import_note {
    const char *severity, *code;
    char *text;
};

struct skew_import {
    const char *format;
    struct skew_import_options options;
    struct skew_import_rows rows;
    struct skew_import_matrix *matrices;
    size_t matrix_count, matrix_room;
    uint32_t matrix_ranks;
    struct skew_import_note *notes;
    size_t note_count;
    uint32_t request_base; /* requests of files read before this one */
    bool counting;         /* skew_import_ids() only adds up request_total */
    size_t request_total;  /* of all files; 0: of the one that is read */
};

/** Finds or adds; *index of the row. −ENOMEM is told. */
int skew_import_row(struct skew_import_rows *rows, const struct skew_import_key *key,
                    size_t *index);
bool skew_import_row_exists(const struct skew_import_rows *rows, const struct skew_import_key *key);
/** Adds tokens to an expert below SKEW_IMPORT_EXPERTS_MAX, which the caller has checked. */
int skew_import_add(struct skew_import_rows *rows, size_t index, uint32_t expert, uint64_t tokens);
/** Adds one token with the experts that it went to. */
int skew_import_token(struct skew_import_rows *rows, size_t index, const uint32_t *ids, uint32_t k);
/** Rows of sources that had no token in a call of which other sources have some. */
int skew_import_fill(struct skew_import *import);
static inline const uint64_t *skew_import_counts(const struct skew_import_rows *rows, size_t index)
{
    return rows->counts + index * rows->width;
}

/** Takes over `bytes` [ranks][ranks], also when it fails. */
int skew_import_matrix_add(struct skew_import *import, uint32_t ranks, int64_t step, int64_t layer,
                           uint64_t *bytes, const char *file);

__attribute__((format(printf, 4, 5))) int skew_import_note(struct skew_import *import,
                                                           const char *severity, const char *code,
                                                           const char *format, ...);
void skew_import_free(struct skew_import *import);

/* ---- readers --------------------------------------------------------------------------------- */

int skew_import_megatron(struct skew_import *import, const char *file);
int skew_import_vllm(struct skew_import *import, const char *file);
int skew_import_sglang(struct skew_import *import, const char *file);
int skew_import_trtllm(struct skew_import *import, const char *file);
int skew_import_nccl_tests(struct skew_import *import, const char *file);
int skew_import_matrices(struct skew_import *import, const char *file);
int skew_import_topk(struct skew_import *import, const char *file);
int skew_import_counts_csv(struct skew_import *import, const char *file);

/* ---- arrays ---------------------------------------------------------------------------------- */

#define SKEW_NPY_DIMS 8u

/** A NumPy array of numbers, in memory, in C or Fortran order. */
struct skew_npy {
    uint32_t dims;
    size_t shape[SKEW_NPY_DIMS], stride[SKEW_NPY_DIMS]; /* elements */
    size_t count;
    char kind; /* u, i, f, b */
    uint32_t width;
    bool big;            /* endian */
    unsigned char *data; /* within memory */
    void *memory;
};

int skew_npy_read(struct skew_npy *npy, const char *file);
void skew_npy_free(struct skew_npy *npy);
/** "[64, 504, 24, 4]" */
char *skew_npy_shape(const struct skew_npy *npy, char text[160]);
/** A nonnegative whole number at offset `at` (elements); false: it is not one. */
bool skew_npy_at(const struct skew_npy *npy, size_t at, uint64_t *value);

/** A whole file, with a NUL behind it; the caller frees. Told when it cannot be read. */
int skew_import_slurp(char **text, size_t *size, const char *file);

/** Number of the axis `name` in "a,b,c", or −1. */
int skew_import_axis(const char *axes, const char *name);

/**
 * Ids [request][token][layer][k] in any order, by `axes`. Names: request, step, token, layer, rank,
 * k. What has no axis is one of its kind.
 */
int skew_import_ids(struct skew_import *import, const struct skew_npy *npy, const char *axes,
                    const char *file);

/** The source rank of unit i of n. */
int32_t skew_import_source(const struct skew_import_options *options, size_t i, size_t n);

/* ---- after reading --------------------------------------------------------------------------- */

/** Warm-up, copied and degenerate layers: notes. */
int skew_import_check(struct skew_import *import);

struct skew_import_output {
    const char *path;
    const char *const *labels; /* KEY=VALUE */
    size_t label_count;
    int argc;
    char **argv;
};

int skew_import_write(struct skew_import *import, const struct skew_import_output *output);
/** Copies the trace `into` to output->path with the routing rows added, joined where they can be.
 */
int skew_import_join(struct skew_import *import, const struct skew_import_output *output,
                     const char *into);

#endif
