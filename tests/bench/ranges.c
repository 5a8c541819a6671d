/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What NVTX ranges cost: pushing and popping two ("step N", "layer N"), and a 64-peer exchange in
 * ranges of its own beside one in ranges that stay. Run with the library preloaded and named as
 * NVTX's tool; prints medians of rounds that take turns. usage: ranges [ROUNDS]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nccl_decls.h"
#include "nvtx.h"

#define PEERS     64
#define EXCHANGES 200 /* of all rounds together they fit into the spool */
#define PAIRS     200000

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void push(const char *what, unsigned number)
{
    char text[32];
    size_t n = strlen(what), digits = 1;
    memcpy(text, what, n);
    for (unsigned rest = number; rest > 9; rest /= 10)
        digits++;
    text[n + digits] = '\0';
    for (; digits; digits--, number /= 10)
        text[n + digits - 1] = (char)('0' + number % 10);
    ((int (*)(const char *))skew_nvtx_core[9])(text);
}

static void pop(void)
{
    ((int (*)(void))skew_nvtx_core[11])();
}

static void exchange(ncclComm_t comm)
{
    ncclGroupStart();
    for (int p = 0; p < PEERS; p++) {
        ncclSend(NULL, 1000, ncclBfloat16, p, comm, NULL);
        ncclRecv(NULL, 1000, ncclBfloat16, p, comm, NULL);
    }
    ncclGroupEnd();
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 15;
    static double pair[1000], still[1000], moving[1000];
    ncclUniqueId id = {{1}};
    ncclComm_t comm;

    if (rounds < 1 || rounds > 1000 || !skew_nvtx_open() ||
        ncclCommInitRank(&comm, PEERS, id, 0) != ncclSuccess) {
        fprintf(
            stderr,
            "ranges: run it with LD_PRELOAD and NVTX_INJECTION64_PATH naming libskewscope.so\n");
        return 1;
    }
    for (int r = 0; r < rounds; r++) {
        double begin = now();
        for (unsigned i = 0; i < PAIRS; i++) {
            push("step ", i);
            push("layer ", i % 58);
            pop();
            pop();
        }
        pair[r] = (now() - begin) / (2 * PAIRS);
        push("step ", (unsigned)r);
        begin = now();
        for (unsigned i = 0; i < EXCHANGES; i++)
            exchange(comm);
        still[r] = (now() - begin) / EXCHANGES;
        begin = now();
        for (unsigned i = 0; i < EXCHANGES; i++) {
            push("layer ", i % 58);
            exchange(comm);
            pop();
        }
        moving[r] = (now() - begin) / EXCHANGES;
        pop();
    }
    double each = median(pair, rounds), quiet = median(still, rounds),
           changing = median(moving, rounds);
    printf("one push and pop: %.0f ns\n64-peer exchange, ranges as they were: %.0f ns; in a range "
           "of its own: %.0f ns "
           "(%.2f times)\n",
           each, quiet, changing, changing / quiet);
    return 0;
}
