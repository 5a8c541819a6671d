/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of tap.h that need no trace. */
#include "tap.h"

#include <string.h>

bool skew_tap_explains(const uint64_t *counts, uint32_t ranks, uint32_t width,
                       const uint64_t *bytes, uint64_t *unit)
{
    uint64_t found = *unit;

    for (uint32_t p = 0; p < ranks; p++) {
        uint64_t tokens = 0, product;
        for (uint32_t i = 0; i < width; i++)
            if (__builtin_add_overflow(tokens, counts[(size_t)p * width + i], &tokens))
                return false;
        if (tokens == 0 && bytes[p] == 0)
            continue;
        if (tokens == 0 || bytes[p] == 0)
            return false;
        if (found == 0)
            found = bytes[p] / tokens;
        if (__builtin_mul_overflow(found, tokens, &product) || product != bytes[p])
            return false;
    }
    *unit = found;
    return true;
}

bool skew_tap_count_ids(const uint64_t *ids, uint32_t count, uint64_t *counts, uint32_t experts)
{
    memset(counts, 0, experts * sizeof *counts);
    for (uint32_t i = 0; i < count; i++) {
        if (ids[i] >= experts)
            return false;
        counts[ids[i]]++;
    }
    return true;
}

static bool distinct(const uint64_t *ids, uint32_t count, uint32_t k)
{
    for (uint32_t at = 0; at < count; at += k)
        for (uint32_t i = 1; i < k; i++)
            for (uint32_t j = 0; j < i; j++)
                if (ids[at + i] == ids[at + j])
                    return false;
    return true;
}

uint32_t skew_tap_guess_topk(const uint64_t *ids, uint32_t count)
{
    for (uint32_t k = count < 64 ? count : 64; k > 1; k--)
        if (count % k == 0 && distinct(ids, count, k))
            return k;
    return count ? 1 : 0;
}
