/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of `skewscope dispatcher`: what a trace says about the dispatcher of its run (facts.c,
 * traffic.c), what the job printed (log.c), which dispatcher was selected and whether it could work
 * (rules.c), and how two runs differ (compare.c). Everything is one JSON object; docs/dispatcher.md
 * describes its keys.
 */
#ifndef SKEW_DISPATCHER_H
#define SKEW_DISPATCHER_H

#include <jansson.h>
#include <stdbool.h>

#include "reading.h"

/** tools/dispatcher/dispatcher.json; owned by the caller. NULL: no memory. */
json_t *skew_dispatcher_table(void);

/**
 * What was recorded: runs, packages, libraries, kernels by what they do, dispatches and combines
 * with bytes and time, parallel degrees.
 * @return a new object, or NULL after one sentence on standard error
 */
json_t *skew_dispatcher_facts(const struct skew_reading *reading);

/** Adds dispatches and combines through NCCL of one database. @return 0, or < 0 after one sentence
 */
int skew_dispatcher_traffic(json_t *facts, struct skew_trace *trace);
/** Once all databases were added: their share of a step. @return 0 or -ENOMEM */
int skew_dispatcher_shares(json_t *facts);

/** Adds to a whole number, and the member of this name, made if it is not there. */
void skew_add_int(json_t *object, const char *key, json_int_t value);
json_t *skew_member(json_t *object, const char *key);

/**
 * What a job printed into the file at `path`, by the lines that the table knows: {path, lines,
 * values}.
 * @return a new object, or NULL after one sentence on standard error
 */
json_t *skew_dispatcher_log(const char *path, const json_t *table);

/** What the run says of itself, printed or by label; NaN: nothing that is a number. */
double skew_dispatcher_reported(const json_t *facts, const char *what);

/** The value of a label of the run; NULL: it has none of this name. Borrowed from the facts. */
const char *skew_dispatcher_label(const json_t *facts, const char *key);

/** Adds selected, working, gate and guidance to the facts. @return 0 or -ENOMEM */
int skew_dispatcher_judge(json_t *facts, const json_t *table);

/** Two judged runs: {comparable, why_not, differs, measured, reported, regressed}. NULL: no memory.
 */
json_t *skew_dispatcher_compare(const json_t *a, const json_t *b);

#endif
