/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the wrappers add to a 64-peer exchange (64 sends, 64 receives, group and record) and to a single
 * send inside a group. Linked to the do-nothing NCCL; the driver (hotpath.py) runs it with and
 * without the library preloaded and subtracts. Every exchange is timed by itself, and before each one
 * the caches are filled with something else when COLD is 1, as an application between two exchanges does.
 *
 * usage: hotpath EXCHANGES COLD OUTPUT      writes EXCHANGES times in TSC-free nanoseconds, one a line
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nccl_decls.h"

#define PEERS 64

static uint64_t now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* More than the private caches hold: what the wrappers use has to come from further away again. */
static void disturb(volatile uint8_t *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        memory[i]++;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: hotpath EXCHANGES COLD OUTPUT\n");
        return 2;
    }
    size_t exchanges = strtoull(argv[1], NULL, 10), memory_bytes = (size_t)4 << 20;
    int cold = atoi(argv[2]);
    uint64_t *ns = calloc(exchanges, sizeof(*ns));
    uint8_t *memory = calloc(1, memory_bytes);
    ncclUniqueId id;
    ncclComm_t comm;
    if (!ns || !memory || ncclGetUniqueId(&id) || ncclCommInitRank(&comm, PEERS, id, 0))
        return 1;
    for (size_t i = 0; i < exchanges; i++) {
        if (cold)
            disturb(memory, memory_bytes);
        uint64_t start = now();
        ncclGroupStart();
        for (int p = 0; p < PEERS; p++) {
            ncclSend(memory, 4096 + (size_t)p, ncclBfloat16, p, comm, NULL);
            ncclRecv(memory, 4096, ncclBfloat16, p, comm, NULL);
        }
        ncclGroupEnd();
        ns[i] = now() - start;
    }
    FILE *out = fopen(argv[3], "w");
    if (!out)
        return 1;
    for (size_t i = 0; i < exchanges; i++)
        fprintf(out, "%llu\n", (unsigned long long)ns[i]);
    fclose(out);
    ncclCommDestroy(comm);
    return 0;
}
