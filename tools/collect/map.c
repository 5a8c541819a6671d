/* SPDX-License-Identifier: Apache-2.0 */
/* See map.h. */
#include "map.h"

#include <errno.h>
#include <stdlib.h>

static size_t slot_of(const struct skew_map *map, uint64_t key)
{
    uint64_t mixed = key * 0x9e3779b97f4a7c15u;
    mixed ^= mixed >> 29;
    size_t slot = (size_t)mixed & (map->slots - 1);
    while (map->used[slot] && map->keys[slot] != key)
        slot = (slot + 1) & (map->slots - 1);
    return slot;
}

bool skew_map_get(const struct skew_map *map, uint64_t key, uint64_t *value)
{
    if (!map->slots)
        return false;
    size_t slot = slot_of(map, key);
    if (!map->used[slot])
        return false;
    *value = map->values[slot];
    return true;
}

static int grow(struct skew_map *map)
{
    struct skew_map larger = {.slots = map->slots ? map->slots * 2 : 16};
    larger.keys = malloc(larger.slots * sizeof *larger.keys);
    larger.values = malloc(larger.slots * sizeof *larger.values);
    larger.used = calloc(larger.slots, 1);
    if (!larger.keys || !larger.values || !larger.used) {
        skew_map_free(&larger);
        return -ENOMEM;
    }
    for (size_t i = 0; i < map->slots; i++) {
        if (!map->used[i])
            continue;
        size_t slot = slot_of(&larger, map->keys[i]);
        larger.used[slot] = 1;
        larger.keys[slot] = map->keys[i];
        larger.values[slot] = map->values[i];
    }
    larger.count = map->count;
    skew_map_free(map);
    *map = larger;
    return 0;
}

int skew_map_put(struct skew_map *map, uint64_t key, uint64_t value)
{
    if (map->count * 2 >= map->slots) {
        int error = grow(map);
        if (error)
            return error;
    }
    size_t slot = slot_of(map, key);
    if (!map->used[slot]) {
        map->used[slot] = 1;
        map->keys[slot] = key;
        map->count++;
    }
    map->values[slot] = value;
    return 0;
}

void skew_map_free(struct skew_map *map)
{
    free(map->keys);
    free(map->values);
    free(map->used);
    *map = (struct skew_map){0};
}
