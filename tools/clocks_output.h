/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks of several nodes: as text, as JSON (docs/clocks.md), into table clock_fit.
 */
#ifndef SKEW_CLOCKS_OUTPUT_H
#define SKEW_CLOCKS_OUTPUT_H

#include "clock.h"
#include "coverage.h"

void skew_clocks_print(const struct skew_clocks *clocks, const struct skew_reading *reading);
/** Prints it; 0 or -ENOMEM after a sentence. */
int skew_clocks_json(const struct skew_clocks *clocks, const struct skew_reading *reading,
                     const struct skew_coverage *coverage);
/**
 * Puts the clocks that are tied into table clock_fit of each database, in place of earlier rows.
 * @return 0, or a negative errno after one sentence; databases before that one have changed then.
 */
int skew_clocks_save(const struct skew_clocks *clocks, const struct skew_reading *reading);

#endif
