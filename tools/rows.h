/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Query results as JSON: an array of objects keyed by column name. What a command tells people and
 * what it tells machines then come from the same place.
 */
#ifndef SKEW_ROWS_H
#define SKEW_ROWS_H

#include <jansson.h>

#include "trace.h"

/**
 * All rows of `sql`. INTEGER, REAL, TEXT and NULL become what they are; text that is not UTF-8, and
 * control characters, become '?', since a trace may come from anybody and is shown on terminals.
 * @return a new array, or NULL with `error` set.
 */
json_t *skew_rows(struct skew_trace *trace, const char *sql, struct skew_error *error);

/** A member of a row, by type; 0, NAN… never fail: "" and 0 for what is missing or NULL. */
const char *skew_row_text(const json_t *row, const char *key);
int64_t skew_row_int(const json_t *row, const char *key);
bool skew_row_null(const json_t *row, const char *key);

#endif
