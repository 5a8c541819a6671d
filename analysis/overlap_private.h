/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of overlap.h share among themselves. */
#ifndef SKEW_OVERLAP_PRIVATE_H
#define SKEW_OVERLAP_PRIVATE_H

#include "overlap.h"

/* All kernels of one device of one process. */
struct skew_overlap_lane {
    int64_t process, device;
    int32_t world_rank;                   /* −1: unknown */
    struct skew_overlap_rows computation; /* what hides, or is what experts do */
    int64_t first, last;                  /* of all rows */
};

struct skew_overlap_lanes {
    struct skew_overlap_lane *lane; /* [count] */
    size_t count, room;
};

/* The next element of a growing array, zeroed; NULL: no memory. */
void *skew_overlap_grow(void *array, size_t *count, size_t *room, size_t size);

/* The lane of a member; NULL: no kernels of its device, or which device is not known. */
const struct skew_overlap_lane *skew_overlap_lane_of(const struct skew_overlap_lanes *lanes,
                                                     int64_t process, int64_t device);

/* Fills the lanes, and what `out` tells of backends. overlap_backend.c */
int skew_overlap_read_kernels(struct skew_trace *trace, struct skew_overlap_lanes *lanes,
                              struct skew_overlap *out, struct skew_error *error);

/* ---- for whoever has exchanges of his own (time_read.c) -------------------------------------- */

/* Whether the trace is of a version that has table kernel. */
bool skew_overlap_has_kernels(struct skew_trace *trace);
/* The lanes alone. 0, or a negative errno; free in any case. */
int skew_overlap_read_lanes(struct skew_trace *trace, struct skew_overlap_lanes *lanes,
                            struct skew_error *error);
void skew_overlap_lanes_free(struct skew_overlap_lanes *lanes);
/* CUPTI records that found no room. */
int skew_overlap_read_dropped(struct skew_trace *trace, uint64_t *dropped,
                              struct skew_error *error);
/* Whether kernels were recorded during start … end, which has times from `source` (table
 * time_source); then how long those of the computation ran. */
bool skew_overlap_of(const struct skew_overlap_lanes *lanes, const struct skew_member *member,
                     int source, int64_t start, int64_t end, struct skew_between *overlapped);

#endif
