/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interval_coverage [PART…]: tables of the parts that are named, else of all. Fails when a row is
 * not as coverage.h says.
 */
#include "coverage.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(void);
} parts[] = {{"series", cover_series},
             {"router", cover_router},
             {"observe", cover_observe},
             {"placement", cover_placement},
             {"time", cover_time}};

int main(int argc, char **argv)
{
    int failures = 0, done = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        bool wanted = argc == 1;
        for (int a = 1; a < argc; a++)
            wanted |= strcmp(argv[a], parts[i].name) == 0;
        if (!wanted)
            continue;
        failures += parts[i].run();
        done++;
    }
    if (done != (argc == 1 ? (int)(sizeof parts / sizeof *parts) : argc - 1)) {
        fprintf(stderr,
                "usage: interval_coverage [series] [router] [observe] [placement] [time]\n");
        return 2;
    }
    return failures != 0;
}
