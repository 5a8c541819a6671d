/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of options, for argp parsers: each is checked, and a bad one ends the command with a
 * sentence that names the option and what it takes.
 */
#ifndef SKEW_OPTION_VALUES_H
#define SKEW_OPTION_VALUES_H

#include <argp.h>
#include <stdint.h>

int64_t skew_option_integer(struct argp_state *state, const char *flag, const char *text,
                            int64_t least, int64_t most);

/** The index of `text` in `names`, which ends with NULL. */
int skew_option_choice(struct argp_state *state, const char *flag, const char *text,
                       const char *const *names);

/** A finite number of the range. */
double skew_option_real(struct argp_state *state, const char *flag, const char *text, double least,
                        double most);

#endif
