/* SPDX-License-Identifier: Apache-2.0 */
/* The check of these tests: ends the program where something is not so. */
#ifndef SKEW_TESTS_MUST_H
#define SKEW_TESTS_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#endif
