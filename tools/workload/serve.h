/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A serving job: which steps are prefill and which decode, and how many tokens a rank has in each.
 * Functions of the options and the step alone.
 */
#ifndef SKEW_WORKLOAD_SERVE_H
#define SKEW_WORKLOAD_SERVE_H

#include "options.h"

/** Reads --serve. @return 0 or -EINVAL. */
int skew_serve_parse(struct skew_options *opt);

/** "prefill", "decode", "mixed"; NULL without --serve. */
const char *skew_serve_stage(const struct skew_options *opt, unsigned step);

/** Tokens of a world rank in every micro-batch of the step; --tokens without --serve. */
unsigned skew_serve_tokens(const struct skew_options *opt, unsigned step, unsigned rank);

#endif
