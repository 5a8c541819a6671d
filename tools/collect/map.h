/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A map from 64-bit numbers to 64-bit numbers, for the little tables of a process (streams, call
 * sites, communicators). Open addressing, grows by itself, single-threaded. Keys may come from an
 * untrusted spool, so they are mixed before use.
 */
#ifndef SKEW_COLLECT_MAP_H
#define SKEW_COLLECT_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct skew_map {
    uint64_t *keys;
    uint64_t *values;
    uint8_t *used;
    size_t slots; /* a power of two, or 0 */
    size_t count;
};

/** @return whether `key` is there; its value in `*value`, which stays untouched otherwise. */
bool skew_map_get(const struct skew_map *map, uint64_t key, uint64_t *value);

/** Stores or replaces. @return 0 or −ENOMEM. */
int skew_map_put(struct skew_map *map, uint64_t key, uint64_t value);

void skew_map_free(struct skew_map *map);

#endif
