/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers of the synthetic jobs: xoshiro256** (Blackman and Vigna 2018), seeded by
 * splitmix64 from a key, so that every purpose, step, layer and rank has its own stream and none
 * depends on how much another one drew.
 */
#ifndef SKEW_SYNTH_RANDOM_H
#define SKEW_SYNTH_RANDOM_H

#include "arithmetic.h"

#include <math.h>
#include <stdint.h>

struct rng {
    uint64_t s[4];
};

static inline struct rng rng_keyed(uint64_t seed, uint64_t purpose, uint64_t a, uint64_t b,
                                   uint64_t c)
{
    const uint64_t parts[] = {seed, purpose, a, b, c};
    struct rng r;
    uint64_t state = 0;
    for (int i = 0; i < 5; i++) {
        state ^= parts[i];
        state = skew_splitmix(&state);
    }
    for (int i = 0; i < 4; i++)
        r.s[i] = skew_splitmix(&state);
    return r;
}

static inline uint64_t rng_next(struct rng *r)
{
    uint64_t *s = r->s, x = s[1] * 5, result = (x << 7 | x >> 57) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3] << 45 | s[3] >> 19;
    return result;
}

/** In (0, 1). */
static inline double rng_unit(struct rng *r)
{
    return ((double)(rng_next(r) >> 11) + 0.5) * 0x1p-53;
}

/** 0 … n − 1; bias below 2⁻³² for the sizes used here. */
static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

static inline double rng_normal(struct rng *r)
{
    double u = rng_unit(r), v = rng_unit(r); /* Box and Muller */
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

/** Gamma of this shape, scale 1 (Marsaglia and Tsang 2000). */
static inline double rng_gamma(struct rng *r, double shape)
{
    if (shape < 1) {
        double u = rng_unit(r);
        return rng_gamma(r, shape + 1) * pow(u, 1 / shape);
    }
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = rng_normal(r), v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        if (log(rng_unit(r)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v;
    }
}

/** Binomial: by inversion where the mean is small, else a rounded normal of its mean and variance.
 */
static inline uint32_t rng_binomial(struct rng *r, uint32_t n, double p)
{
    if (p > 0.5)
        return n - rng_binomial(r, n, 1 - p);
    double mean = n * p;
    if (mean > 16) {
        double x = floor(mean + sqrt(mean * (1 - p)) * rng_normal(r) + 0.5);
        return x < 0 ? 0 : x > n ? n : (uint32_t)x;
    }
    double q = pow(1 - p, n), odds = p / (1 - p), u = rng_unit(r);
    uint32_t x = 0;
    while (u > q && x < n) {
        u -= q;
        x++;
        q *= odds * (n - x + 1) / x;
    }
    return x;
}

#endif
