/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of options: see option_values.h.
 */
#include "option_values.h"
#include "term.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int64_t skew_option_integer(struct argp_state *state, const char *flag, const char *text,
                            int64_t least, int64_t most)
{
    int64_t value = 0;

    if (!skew_parse_int(text, least, most, &value))
        argp_error(state,
                   "--%s: '%s' is not allowed; it takes a whole number from %" PRId64
                   " to %" PRId64,
                   flag, text, least, most);
    return value;
}

int skew_option_choice(struct argp_state *state, const char *flag, const char *text,
                       const char *const *names)
{
    char all[160] = "";

    for (int i = 0; names[i]; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", names[i]);
    }
    argp_error(state, "--%s: '%s' is not allowed; it takes one of: %s", flag, text, all);
    return 0;
}

double skew_option_real(struct argp_state *state, const char *flag, const char *text, double least,
                        double most)
{
    char *end = NULL;
    double value = strtod(text, &end);

    if (end == text || *end || !(value >= least && value <= most))
        argp_error(state, "--%s: '%s' is not allowed; it takes a number from %g to %g", flag, text,
                   least, most);
    return value;
}
