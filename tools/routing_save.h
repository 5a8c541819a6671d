/* SPDX-License-Identifier: Apache-2.0 */
/* Writes rows of table routing into a trace, in one transaction. Knows nothing of analyses. */
#ifndef SKEW_ROUTING_SAVE_H
#define SKEW_ROUTING_SAVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct skew_routing_saver;

struct skew_routing_saved {
    int64_t exchange, comm; /* 0: NULL */
    int64_t source;         /* −1: NULL, and so below */
    int64_t step, layer, microbatch, tokens;
    const char *stage; /* NULL: NULL */
    int64_t ordinal;
    uint32_t experts, topk; /* topk 0: NULL */
    bool verified;
    const char *how;
    const uint64_t *counts; /* [experts] */
};

/**
 * Opens the trace `file` and removes what an earlier saving of taps and sizes left there. Readers
 * may go on reading until skew_routing_save_end(), which needs them gone.
 * @return 0 or a negative errno, told on standard error.
 */
int skew_routing_save_begin(struct skew_routing_saver **out, const char *file);

/** Adds a row. */
int skew_routing_save(struct skew_routing_saver *saver, const struct skew_routing_saved *row);

/** Commits when `keep`, else leaves the file as it was. Frees, sets NULL. @return 0 or negative
 * errno, told. */
int skew_routing_save_end(struct skew_routing_saver **saver, bool keep);

#endif
