/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The formats of `skewscope matrix`. One result is begun, given one or more matrices, and ended.
 */
#ifndef SKEW_MATRIX_OUTPUT_H
#define SKEW_MATRIX_OUTPUT_H

#include "coverage.h"
#include "term.h"
#include "trace.h"

enum skew_matrix_format {
    SKEW_FORMAT_TEXT,
    SKEW_FORMAT_CSV,
    SKEW_FORMAT_JSON,
    SKEW_FORMAT_NCCL_TESTS
};

/* How several exchanges become what is shown. */
enum skew_matrix_how { SKEW_HOW_SUM, SKEW_HOW_MEAN, SKEW_HOW_EACH };

struct skew_matrix_output {
    enum skew_matrix_format format;
    enum skew_matrix_how how;
    bool colour;
    bool logarithmic;
    int columns;
    const char *unit;     /* "auto", "B", "KiB", "MiB", "GiB", "tokens" */
    uint64_t token_bytes; /* 0: by the greatest common divisor of what is shown */
    const struct skew_comm *comm;
    const char *chosen; /* why this communicator; NULL: it was asked for */
    const bool *
        here; /* [ranks] whether the rank is in a database that was read: else its row is unknown */
    uint32_t absent; /* ranks that are not */
    struct skew_coverage coverage;
    uint64_t printed; /* matrices so far */
};

/** What one matrix is about. */
struct skew_matrix_shown {
    const struct skew_matrix *matrix;
    const struct skew_summary *summary;
    int64_t seq; /* of --each, else −1 */
};

/* Each 0 or a negative errno after one sentence. */
int skew_matrix_output_begin(struct skew_matrix_output *output);
int skew_matrix_output_add(struct skew_matrix_output *output,
                           const struct skew_matrix_shown *shown);
void skew_matrix_output_end(struct skew_matrix_output *output);

#define SKEW_SKEW_FORMULA "max over ranks of bytes received / mean over ranks"

#endif
