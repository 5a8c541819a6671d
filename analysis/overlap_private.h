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

#endif
