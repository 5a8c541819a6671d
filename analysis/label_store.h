/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where labels are kept, shared by label.c and label_store.c alone.
 */
#ifndef SKEW_LABEL_STORE_H
#define SKEW_LABEL_STORE_H

#include "label.h"

struct skew_labels {
    struct skew_label *exchanges; /* ordered by id */
    size_t exchange_count;
    struct skew_label *operations;
    size_t operation_count;
    struct skew_label_comm *comms;
    size_t comm_count;
};

void skew_label_comm_add(struct skew_label_comm *comm, const struct skew_label *label,
                         bool operation);
void skew_label_comm_finish(struct skew_label_comm *comm);

/* What `--step-marker` means in one trace: operations by number, call sites by id. */
struct skew_label_marker {
    uint32_t ops;        /* bit set */
    int64_t least_bytes; /* of such an operation */
    const char *key;     /* of its communicator, or how it begins; NULL: of any */
    bool ranges;         /* NVTX ranges say it: neither of these */
    int64_t *sites;      /* ordered; owned */
    size_t site_count;
};

/* -ENOENT when an option's text names nothing in this trace. `ranges`: whether it names NVTX
 * ranges. */
int skew_label_marker_find(struct skew_label_marker *marker, struct skew_trace *trace,
                           const char *text, bool ranges, struct skew_error *error);
void skew_label_marker_free(struct skew_label_marker *marker);
bool skew_label_marks(const struct skew_label_marker *marker, int32_t op, int64_t bytes,
                      const char *key, int64_t site);

#endif
