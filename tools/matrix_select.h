/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which communicator `skewscope matrix` shows, over all databases of a trace, and whether what was
 * asked for can be told at all.
 */
#ifndef SKEW_MATRIX_SELECT_H
#define SKEW_MATRIX_SELECT_H

#include "labelling.h"
#include "matrix_output.h"
#include "reading.h"

struct skew_candidate {
    struct skew_comm comm; /* of the database where it was met first; strings borrowed from there */
    uint32_t members;      /* in all databases */
    uint64_t bytes;
    uint64_t exchanges;
};

struct skew_candidates {
    struct skew_candidate *all; /* owned; free() it */
    size_t count;
};

/* Each of these explains itself on standard error when it fails. */

int skew_candidates_collect(struct skew_candidates *candidates, const struct skew_reading *reading);

/**
 * The communicator called `name`, or with NULL the one that sent the most bytes; `why` then says so
 * when there was a choice. Borrowed from `candidates`; NULL when there is none.
 */
const struct skew_candidate *skew_candidates_choose(const struct skew_candidates *candidates,
                                                    const char *path, const char *name,
                                                    size_t databases, char *why, size_t size);

/**
 * Labels, when `filter` asks for roles, layers or steps: saved ones, or else found now. -ENOENT
 * when none of those asked for could be told. The caller closes `labelling` (zeroed before).
 */
int skew_labels_prepare(struct skew_labelling *labelling, const struct skew_filter *filter,
                        const char *path, const struct skew_reading *reading);

#endif
