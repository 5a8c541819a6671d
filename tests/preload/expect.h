/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For programs that print the records they expect, one a line, in the words of spool.py:
 *
 *   comm C1 init_rank 0/4                          communicators are numbered in order of creation
 *   group C1/0x10:3:0 | send 5 int32 1, …          lane (communicator/stream:exchange:op), then
 * cells end C1 destroy 0 loss too_large groups 1 exchanges 1 ops 0 cells 65 diag unbalanced_group
 * by name only
 */
#ifndef EXPECT_H
#define EXPECT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_decls.h"
#include "null_control.h"

#define STREAM(n) ((cudaStream_t)(uintptr_t)(n))

/* Ends the program with a failure that names the line. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            exit(3);                                                                               \
        }                                                                                          \
    } while (0)

#define OK(call) MUST((call) == ncclSuccess)

static inline __attribute__((format(printf, 1, 2))) void expect(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

/* One group line that is put together in a loop. */
struct line {
    char *text;
    size_t length, room;
    bool cells;
};

static inline __attribute__((format(printf, 2, 3))) void line_add(struct line *line,
                                                                  const char *format, ...)
{
    va_list args;
    if (line->room - line->length < 256) {
        line->room = line->room * 2 + 4096;
        line->text = realloc(line->text, line->room);
        MUST(line->text);
    }
    va_start(args, format);
    line->length +=
        (size_t)vsnprintf(line->text + line->length, line->room - line->length, format, args);
    va_end(args);
}

static inline void line_print(struct line *line)
{
    puts(line->text);
    free(line->text);
    *line = (struct line){0};
}

/* A communicator of `ranks`, this process being its rank `rank`; the id is the same for equal
 * seeds. */
static inline ncclComm_t make_comm(int ranks, int rank, int seed)
{
    ncclUniqueId id;
    ncclComm_t comm = NULL;
    memset(&id, 0, sizeof(id));
    memcpy(id.internal, &seed, sizeof(seed));
    OK(ncclCommInitRank(&comm, ranks, id, rank));
    return comm;
}

static inline unsigned null_times(const char *name)
{
    const struct null_nccl *null = null_nccl_control();
    for (unsigned i = 0; i < NULL_NAMES_MAX && null->calls[i].name; i++)
        if (strcmp(null->calls[i].name, name) == 0)
            return null->calls[i].times;
    return 0;
}

#endif
