/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every command that reads a trace does first: drain what is left in spools, find the
 * databases, open them.
 */
#ifndef SKEW_READING_H
#define SKEW_READING_H

#include "trace.h"

struct skew_reading {
    struct skew_trace **traces;
    size_t count;
};

/**
 * Drains, lists and opens all databases behind `path`.
 * @return 0, or a negative errno after one sentence on standard error.
 */
int skew_reading_open(struct skew_reading *reading, const char *path);
/** Whether a query of any of its databases gives a row. */
bool skew_reading_any(const struct skew_reading *reading, const char *sql);
/** Whether any run in it was on the stand-ins for NCCL and CUDA (label standin=1): no GPU was
 * there. */
bool skew_reading_standin(const struct skew_reading *reading);

/** Whether all of it was imported (meta.origin): its processes stand for ranks, and its times only
 * keep the order of matrices. */
bool skew_reading_imported(const struct skew_reading *reading);

void skew_reading_close(struct skew_reading *reading);

#endif
