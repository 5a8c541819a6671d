/* SPDX-License-Identifier: Apache-2.0 */
/* The self-check of tapped counts (analysis/tap.h), which needs no trace. */
#include <stdio.h>
#include <string.h>

#include "tap.h"

static int failures;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static bool explains(const uint64_t *counts, uint32_t ranks, uint32_t width, const uint64_t *bytes,
                     uint64_t in, uint64_t out)
{
    uint64_t unit = in;
    return skew_tap_explains(counts, ranks, width, bytes, &unit) && unit == out;
}

static void check_explains(void)
{
    /* Two peers with three experts each; peer sums 6 and 9. */
    const uint64_t counts[] = {1, 2, 3, 4, 0, 5}, exact[] = {600, 900}, off[] = {600, 901},
                   unequal[] = {600, 1800};
    const uint64_t swapped[] = {900, 600}, none[] = {600, 0}, zeros[6] = {0}, nothing[2] = {0},
                   small[] = {3, 4};
    CHECK(explains(counts, 2, 3, exact, 0, 100));
    CHECK(explains(counts, 2, 3, exact, 100, 100));
    CHECK(!explains(counts, 2, 3, exact, 50, 50));
    CHECK(!explains(counts, 2, 3, off, 0, 100));
    CHECK(!explains(counts, 2, 3, unequal, 0, 100));
    CHECK(!explains(counts, 2, 3, swapped, 0, 150));
    CHECK(!explains(counts, 2, 3, none, 0, 100));
    CHECK(!explains(counts, 2, 3, small, 0, 0));
    CHECK(explains(zeros, 2, 3, nothing, 0, 0));
    CHECK(!explains(zeros, 2, 3, exact, 0, 0));
    CHECK(!explains(counts, 2, 3, nothing, 0, 0));
    /* Sums beyond 64 bits are no counts. */
    const uint64_t huge[] = {UINT64_MAX, 2}, one[] = {1};
    CHECK(!explains(huge, 1, 2, one, 0, 1));
}

static void check_ids(void)
{
    const uint64_t ids[] = {0, 3, 1, 3, 2, 3}, repeated[] = {5, 5, 1, 2};
    const uint64_t expected[] = {1, 1, 1, 3};
    uint64_t counts[4];
    CHECK(skew_tap_count_ids(ids, 6, counts, 4) && memcmp(counts, expected, sizeof counts) == 0);
    CHECK(!skew_tap_count_ids(ids, 6, counts, 3));
    CHECK(skew_tap_guess_topk(ids, 6) == 2);
    CHECK(skew_tap_guess_topk(repeated, 4) == 1);
    CHECK(skew_tap_guess_topk(ids, 0) == 0);
}

int main(void)
{
    check_explains();
    check_ids();
    return failures != 0;
}
