/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope observe` shows, as text, JSON and CSV.
 */
#ifndef SKEW_OBSERVE_OUTPUT_H
#define SKEW_OBSERVE_OUTPUT_H

#include "analysis_output.h"
#include "observe.h"

/** What a cell is called: the values of its keys, '/' between; "-" for what is not labelled. */
#define SKEW_CELL_TEXT 160
char *skew_cell_text(char text[SKEW_CELL_TEXT], const struct skew_observe *observe,
                     const struct skew_observe_cell *cell);

/** Metrics of experts, or of ranks. */
const char *skew_observe_side_name(int side);
/** ep, mock, batch. */
const char *skew_observe_kind_name(enum skew_observe_kind kind);

/** Whether a run that counts in this cell does not tell its layers apart. */
bool skew_observe_mixed(const struct skew_observe *observe, const struct skew_observe_cell *cell);

/** What makes numbers that are shown mean something else than they seem to: as the limits. */
json_t *skew_observe_warnings(const struct skew_observe *observe);

/** What the data cannot test: a new array of sentences. */
json_t *skew_observe_limits(const struct skew_observe *observe);

json_t *skew_observe_json(const struct skew_observe *observe);
/** The same for table metric: an object whose members are named by cells. */
json_t *skew_observe_metrics(const struct skew_observe *observe);
/** A line a cell, side and metric; a missing cell is a line without numbers. */
void skew_observe_csv(const struct skew_observe *observe);
/** A line a change between two cells, side and metric. */
void skew_observe_csv_changes(const struct skew_observe *observe);
void skew_observe_print(const struct skew_observe *observe);

#endif
