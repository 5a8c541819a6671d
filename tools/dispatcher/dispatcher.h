/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of `skewscope dispatcher`: what a trace says about the dispatcher of its run
 * (dispatcher_facts.c), which one was selected and whether it could work (dispatcher_rules.c), and
 * how two runs differ (dispatcher_compare.c). Everything is one JSON object; docs/dispatcher.md
 * describes its keys.
 */
#ifndef SKEW_DISPATCHER_H
#define SKEW_DISPATCHER_H

#include <jansson.h>

#include "reading.h"

/** tools/dispatcher/dispatcher.json; owned by the caller. NULL: no memory. */
json_t *skew_dispatcher_table(void);

/**
 * What was recorded: runs, packages, libraries, kernels by what they do, dispatches and combines
 * with bytes and time, parallel degrees.
 * @return a new object, or NULL after one sentence on standard error
 */
json_t *skew_dispatcher_facts(const struct skew_reading *reading);

/** The value of a label of the run; NULL: it has none of this name. Borrowed from the facts. */
const char *skew_dispatcher_label(const json_t *facts, const char *key);

/** Adds selected, working, gate and guidance to the facts. @return 0 or -ENOMEM */
int skew_dispatcher_judge(json_t *facts, const json_t *table);

/** Two judged runs: {comparable, why_not, differs, measured}. NULL: no memory. */
json_t *skew_dispatcher_compare(const json_t *a, const json_t *b);

#endif
