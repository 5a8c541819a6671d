/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which rank of an EP group holds which expert. Every rank holds E/R of them. Frameworks number the
 * experts physically: rank by rank, and within a rank here by ascending logical id. Read-only.
 */
#ifndef SKEW_WORKLOAD_PLACEMENT_H
#define SKEW_WORKLOAD_PLACEMENT_H

#include <stddef.h>
#include <stdint.h>

struct skew_placement {
    unsigned layers, experts, ranks, per_rank;
    uint16_t
        *physical;     /* [layers][experts]: logical id -> physical id; its rank is id / per_rank */
    uint16_t *logical; /* [layers][experts]: the inverse */
};

/**
 * Reads a placement file, or makes the contiguous placement when path is NULL. On failure *out is
 * untouched and `error` holds one sentence.
 */
int skew_placement_open(struct skew_placement **out, const char *path, unsigned layers,
                        unsigned experts, unsigned ranks, char *error, size_t error_size);
void skew_placement_close(struct skew_placement **p);

static inline const uint16_t *skew_placement_physical(const struct skew_placement *p,
                                                      unsigned layer)
{
    return p->physical + (size_t)layer * p->experts;
}

static inline const uint16_t *skew_placement_logical(const struct skew_placement *p, unsigned layer)
{
    return p->logical + (size_t)layer * p->experts;
}

#endif
