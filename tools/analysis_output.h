/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What commands on analyses share: several traces at once, numbers with intervals as JSON and as
 * text, results written back into a trace. Keys are documented in docs/router.md.
 */
#ifndef SKEW_ANALYSIS_OUTPUT_H
#define SKEW_ANALYSIS_OUTPUT_H

#include <jansson.h>

#include "coverage.h"
#include "labelling.h"
#include "matrix_output.h"
#include "metrics_level.h"
#include "reading.h"

/* ---- several traces -------------------------------------------------------------------------- */

/**
 * Opens all databases behind all paths, as one reading.
 * @return 0, or a negative errno after one sentence.
 */
int skew_readings_open(struct skew_reading *all, char *const *paths, size_t count);

/**
 * As skew_labelling_open(), but leaves labels that are saved in every trace where they are, for
 * readers of the table: a long trace has millions.
 */
int skew_labelling_if_needed(struct skew_labelling *labelling, const struct skew_reading *reading,
                             const struct skew_label_options *options);

/* ---- JSON ------------------------------------------------------------------------------------ */

/** null for what is not a finite number. */
json_t *skew_json_real(double value);

/** {value, low, high, level, se, effective_n, why}; what is not known is left out. */
json_t *skew_json_estimate(const struct skew_estimate *estimate);

/** Metrics, CV² parts, tests and hottest items of one set of items. */
json_t *skew_json_level(const struct skew_level *level);

/** Prints and frees; 0, or -ENOMEM when there is nothing to print. */
int skew_json_print(json_t *root);

/* ---- saving ---------------------------------------------------------------------------------- */

/**
 * Writes `objects`, an array of objects, into table metric of the database at `path`, in place of
 * earlier rows of `analysis`: a number a row, named by its keys with dots between
 * (expert.gini.call); the keys comm, role and layer of an object go to those columns.
 * @return 0, or a negative errno after one sentence; nothing has changed then.
 */
int skew_metric_save(const char *path, const char *analysis, const json_t *objects);

/* ---- text ------------------------------------------------------------------------------------ */

/** "1.234 [1.200, 1.270]", or without the interval, or "–". Returns `text`. */
#define SKEW_ESTIMATE_TEXT 64
char *skew_estimate_text(char text[SKEW_ESTIMATE_TEXT], const struct skew_estimate *estimate,
                         int digits);

/** "1.234" or "–". Returns `text`. */
char *skew_number_text(char text[SKEW_ESTIMATE_TEXT], double value, int digits);

/** Remarks on the rows of a table: a letter behind the row, the text once, below the table. */
#define SKEW_NOTES_MAX 26
struct skew_notes {
    const char *text[SKEW_NOTES_MAX]; /* borrowed */
    size_t count;
};

/** Prints two spaces and the letter of `text`, which may be NULL: then nothing. */
void skew_note_print(struct skew_notes *notes, const char *text);
/** Prints "  a: text" for each. */
void skew_notes_explain(const struct skew_notes *notes);

#endif
