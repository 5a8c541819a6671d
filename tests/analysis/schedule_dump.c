/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints a schedule of a small matrix file for tests: a line for each phase, "from,to,bytes" for
 * each transfer.
 */
#include "schedule.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int dump(enum skew_schedule_method method, const uint64_t *bytes, uint32_t n)
{
    struct skew_schedule_options options = {.domain_ranks = 1};
    struct skew_schedule *s;

    if (skew_schedule_make(&s, method, bytes, n, &options) < 0)
        return 1;
    for (size_t p = 0; p < s->phase_count; p++) {
        for (size_t i = 0; i < s->phases[p].count; i++) {
            const struct skew_transfer *t = &s->transfers[s->phases[p].first + i];
            printf("%u,%u,%" PRIu64 " ", t->from, t->to, t->bytes);
        }
        putchar('\n');
    }
    skew_schedule_free(&s);
    return 0;
}

int main(int argc, char **argv)
{
    static uint64_t bytes[64 * 64];
    uint32_t count = 0, n = 0;
    FILE *file = argc == 3 ? fopen(argv[2], "r") : NULL;

    if (!file)
        return 2;
    while (count < 64 * 64 && fscanf(file, "%" SCNu64, &bytes[count]) == 1)
        count++;
    fclose(file);
    while (n * n < count)
        n++;
    for (int m = 0; n * n == count && m < SKEW_SCHEDULE_METHOD_COUNT; m++)
        if (strcmp(argv[1], skew_schedule_name((enum skew_schedule_method)m)) == 0)
            return dump((enum skew_schedule_method)m, bytes, n);
    return 2;
}
