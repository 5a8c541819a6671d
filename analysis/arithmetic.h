/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small pure arithmetic that analyses and the collector share.
 */
#ifndef SKEW_ARITHMETIC_H
#define SKEW_ARITHMETIC_H

#include <stdint.h>

/** Greatest common divisor; gcd(a, 0) = a. Without divisions: the collector asks for each cell. */
static inline uint64_t skew_gcd(uint64_t a, uint64_t b)
{
    if (!a || !b)
        return a | b;
    unsigned shift = (unsigned)__builtin_ctzll(a | b);
    a >>= __builtin_ctzll(a);
    while (b) {
        b >>= __builtin_ctzll(b);
        if (a > b) {
            uint64_t swap = a;
            a = b;
            b = swap;
        }
        b -= a;
    }
    return a << shift;
}

/** The integer in `width` bytes, at most 8, the highest first: as traces pack them. */
static inline uint64_t skew_big_endian(const uint8_t *bytes, uint32_t width)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < width; i++)
        value = value << 8 | bytes[i];
    return value;
}

/** The next number of splitmix64 (Steele, Lea and Flood 2014); for seeds, and draws that need no
 * better. */
static inline uint64_t skew_splitmix(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

#endif
