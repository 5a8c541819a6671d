/* SPDX-License-Identifier: Apache-2.0 */
/* What `skewscope overlap` tells, as JSON (keys: docs/overlap.md) and, from that, as text. */
#ifndef SKEW_OVERLAP_OUTPUT_H
#define SKEW_OVERLAP_OUTPUT_H

#include <jansson.h>

#include "overlap.h"
#include "overlap_join.h"

/** Everything of `count` databases together; at most `rows` single exchanges and rounds. A new
 * object, or NULL: no memory. */
json_t *skew_overlap_json(const struct skew_overlap *all, size_t count, size_t rows);

/** Adds what rounds of device-initiated backends tell together with counts of experts. */
void skew_overlap_json_join(json_t *root, const struct skew_overlap_joined *joined, size_t count);

/** The part of it that goes to table metric: a new array. */
json_t *skew_overlap_saved(const json_t *root);

void skew_overlap_print(const json_t *root);

#endif
