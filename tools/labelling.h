/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Labels of all databases of a trace, for commands: found or read, attached, saved.
 */
#ifndef SKEW_LABELLING_H
#define SKEW_LABELLING_H

#include <argp.h>

#include "label.h"
#include "reading.h"

struct skew_labelling {
    struct skew_labels **labels; /* one a database of the reading */
    size_t count;
};

/** --layers, --microbatches, the markers, --stage; the input is a zeroed struct skew_label_options.
 * Group 1. */
extern const struct argp skew_label_options_argp;

/**
 * Reads saved labels, or finds them where there are none or `options` (may be NULL) asks for it,
 * and attaches them to the traces, so that filters by role, layer and step use them.
 * @return 0, or a negative errno after one sentence on standard error.
 */
int skew_labelling_open(struct skew_labelling *labelling, const struct skew_reading *reading,
                        const struct skew_label_options *options);
/** Before the traces are closed. */
void skew_labelling_close(struct skew_labelling *labelling, const struct skew_reading *reading);

/**
 * Writes labels into the database at `path`, in place of those that a labelling has saved before.
 * @return 0, or a negative errno after one sentence.
 */
int skew_labels_save(const char *path, const struct skew_labels *labels);

#endif
