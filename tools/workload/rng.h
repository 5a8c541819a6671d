/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workload's random numbers: SplitMix64, integers only, so that any program can recompute them
 * exactly (docs/workload.md). No state is shared; every draw follows from its key.
 */
#ifndef SKEW_WORKLOAD_RNG_H
#define SKEW_WORKLOAD_RNG_H

#include <stddef.h>
#include <stdint.h>

#define SKEW_GOLDEN 0x9E3779B97F4A7C15ULL

struct skew_rng {
    uint64_t state;
};

static inline uint64_t skew_mix64(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

/** The stream of one key: a seed and any number of coordinates, whose order counts. */
static inline struct skew_rng skew_rng_of(uint64_t seed, const uint64_t *key, size_t n)
{
    struct skew_rng rng = {skew_mix64(seed + SKEW_GOLDEN)};
    for (size_t i = 0; i < n; i++)
        rng.state = skew_mix64(rng.state ^ (key[i] + SKEW_GOLDEN));
    return rng;
}

static inline uint64_t skew_rng_next(struct skew_rng *rng)
{
    rng->state += SKEW_GOLDEN;
    return skew_mix64(rng->state);
}

/** A whole number in [0, n): the high word of next * n. */
static inline uint64_t skew_rng_below(struct skew_rng *rng, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)skew_rng_next(rng) * n) >> 64);
}

#endif
