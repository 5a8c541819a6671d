/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A square matrix of bytes as text: rows of whole numbers between white space, as `skewscope matrix
 * --format nccl-tests` writes and alltoallv_perf reads it. Lines that are empty or begin with # are
 * passed over.
 */
#ifndef SKEW_MATRIX_FILE_H
#define SKEW_MATRIX_FILE_H

#include "trace.h"

/** 0, or a negative errno after one sentence; *out is the caller's. */
int skew_matrix_file_read(struct skew_matrix **out, const char *path);

#endif
