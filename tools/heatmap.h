/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A matrix of ranks as text: numbers where they fit, else shades, with row and column totals.
 */
#ifndef SKEW_HEATMAP_H
#define SKEW_HEATMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct skew_heatmap {
    uint32_t ranks;
    const double
        *cells; /* [ranks][ranks], in the unit shown; row: source; NaN: unknown, in no total */
    const char *unit; /* of the numbers */
    bool whole;       /* the numbers are integers */
    bool colour;      /* 256 colours; else numbers and a ramp of characters */
    bool logarithmic; /* shades by the logarithm */
    int columns;      /* of the terminal */
};

void skew_heatmap_print(FILE *to, const struct skew_heatmap *map);

#endif
