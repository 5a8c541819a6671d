/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which exchanges of which communicator: the options that all commands on matrices share, and the
 * matrices of what was selected, over all databases of a trace.
 */
#ifndef SKEW_EXCHANGE_SELECT_H
#define SKEW_EXCHANGE_SELECT_H

#include <argp.h>

#include "matrix_select.h"

struct skew_selection {
    const char *comm; /* as given; NULL: the one that moved the most bytes */
    struct skew_filter filter;
    /* filled by skew_selection_resolve() */
    struct skew_candidates candidates;   /* owned; skew_selection_free() */
    const struct skew_candidate *chosen; /* of them */
    bool *here; /* [ranks] of the chosen one: whether the rank is in any of the databases; owned */
    uint32_t absent;                 /* how many are not: their sends are unknown, not zero */
    struct skew_labelling labelling; /* of what the filter asks for */
    char why[160];                   /* why this one; empty: it was asked for, or the only one */
    char nothing[320];               /* what to say when nothing is selected */
};

/** For argp_child; the input is a zeroed struct skew_selection. Its options are of group 1. */
extern const struct argp skew_selection_argp;

/** Finds the communicator; its size is known then. 0, or a negative errno after one sentence. */
int skew_selection_resolve(struct skew_selection *selection, const char *path,
                           const struct skew_reading *reading);
/** Before the traces are closed. */
void skew_selection_free(struct skew_selection *selection, const struct skew_reading *reading);

/** The bytes of exchanges, and their loads kept apart. */
struct skew_exchanged {
    struct skew_matrix *matrix;
    struct skew_loads *loads;
};

int skew_exchanged_create(struct skew_exchanged *exchanged, uint32_t ranks);
void skew_exchanged_free(struct skew_exchanged *exchanged);

/** Adds up all that is selected; -ENOENT, told, when that is nothing. */
int skew_selection_sum(const struct skew_selection *selection, const struct skew_reading *reading,
                       struct skew_exchanged *sum);

/** Takes one exchange of all ranks; 1 ends the series without failure. */
typedef int skew_exchanged_fn(void *context, const struct skew_exchanged *one, int64_t seq);

/** One exchange after the other, in the order of seq; -ENOENT, told, when there is none. */
int skew_selection_each(const struct skew_selection *selection, const struct skew_reading *reading,
                        skew_exchanged_fn *take, void *context);

#endif
