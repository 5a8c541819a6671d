/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The measured loop of capture.py: exchanges of 64 peers (64 sends, 64 receives, one group), each
 * timed by itself, with other work between them as a job has it. Linked to the do-nothing NCCL;
 * capture.py runs it with and without the library preloaded, and once more built with
 * SKEW_BENCH_RIVAL, where an LTTng-UST tracepoint with the same payload stands before each call. It
 * prints nothing on its own.
 *
 * usage: hotpath WHAT HOW EXCHANGES OUTPUT
 *   WHAT  calls     time the 128 calls inside the group only
 *         exchange  time everything from before ncclGroupStart to after ncclGroupEnd
 *   HOW   flood     nothing between two exchanges
 *         warm      50 us of computing in between that leaves the caches alone
 *         cold      in between, what the wrappers use is driven out of the caches of this core and
 * out of its TLBs: stores to every line of 8 MiB (or 8 times the L2 cache) in 4 KiB pages, and 256
 * KiB of code with a jump in each line coldest   as cold, and out of the shared cache: stores to
 * twice as much as that holds OUTPUT  EXCHANGES native 64-bit floats: nanoseconds, the first one
 * (which makes the spool) included
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "nccl_decls.h"
#ifdef SKEW_BENCH_RIVAL
#include "rival_tp.h"
#define RIVAL(which, count, peer, comm)                                                            \
    lttng_ust_tracepoint(skew_rival, which, peer, count, ncclBfloat16, comm, NULL)
#else
#define RIVAL(which, count, peer, comm) ((void)0)
#endif

#define PEERS   64
#define PACE_NS 50000

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The stamps around what is timed. Not clock_gettime() where there is something else: it would warm
 * the very code and data that the library's own clock reads use. */
static uint64_t stamp(void)
{
#if defined(__x86_64__)
    _mm_lfence();
    uint64_t ticks = __rdtsc();
    _mm_lfence();
    return ticks;
#else
    return now_ns();
#endif
}

/* One taken jump in each 64-byte line of 256 KiB of code. */
static __attribute__((noinline)) void disturb_code(void)
{
#if defined(__x86_64__)
    __asm__ volatile(".rept 4096\n jmp 1f\n .p2align 6\n 1:\n .endr\n");
#elif defined(__aarch64__)
    __asm__ volatile(".rept 4096\n b 1f\n .p2align 6\n 1:\n .endr\n");
#endif
}

static void disturb_data(volatile uint8_t *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        memory[i]++;
}

/* Small pages, all of them there. */
static uint8_t *memory_make(size_t bytes)
{
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    madvise(at, bytes, MADV_NOHUGEPAGE);
    memset(at, 1, bytes);
    return at;
}

static size_t disturbed_bytes(const char *how)
{
    long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t bytes = (size_t)(l2 > 1 << 20 ? l2 : 1 << 20) * 8;
    if (strcmp(how, "coldest") == 0)
        bytes = (size_t)(l3 > 32 << 20 ? l3 : 32 << 20) * 2;
    return bytes;
}

static __attribute__((noinline)) void calls(ncclComm_t comm, uint8_t *buffer)
{
    for (int p = 0; p < PEERS; p++) {
        RIVAL(send, 4096 + (size_t)p, p, comm);
        ncclSend(buffer, 4096 + (size_t)p, ncclBfloat16, p, comm, NULL);
        RIVAL(recv, 4096, p, comm);
        ncclRecv(buffer, 4096, ncclBfloat16, p, comm, NULL);
    }
}

static uint64_t one(int inner, ncclComm_t comm, uint8_t *buffer)
{
    uint64_t outer_start = stamp();
    ncclGroupStart();
    uint64_t start = inner ? stamp() : 0;
    calls(comm, buffer);
    uint64_t end = inner ? stamp() : 0;
    ncclGroupEnd();
    uint64_t outer_end = stamp();
    return inner ? end - start : outer_end - outer_start;
}

static int write_out(const char *path, const uint64_t *ticks, size_t n, double ns_per_tick)
{
    FILE *out = fopen(path, "w");
    for (size_t i = 0; out && i < n; i++) {
        double ns = (double)ticks[i] * ns_per_tick;
        if (fwrite(&ns, sizeof(ns), 1, out) != 1)
            return -1;
    }
    return out ? fclose(out) : -1;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: hotpath calls|exchange flood|warm|cold|coldest EXCHANGES OUTPUT\n");
        return 2;
    }
    int inner = strcmp(argv[1], "calls") == 0, warm = strcmp(argv[2], "warm") == 0;
    int cold = strncmp(argv[2], "cold", 4) == 0;
    size_t exchanges = strtoull(argv[3], NULL, 10), bytes = disturbed_bytes(argv[2]);
    uint64_t *ticks = (uint64_t *)memory_make((exchanges + 1) * sizeof(*ticks));
    uint8_t *memory = memory_make(bytes);
    ncclUniqueId id;
    ncclComm_t comm;
    if (!ticks || !memory || ncclGetUniqueId(&id) || ncclCommInitRank(&comm, PEERS, id, 0))
        return 1;
#ifdef SKEW_BENCH_RIVAL
    if (!lttng_ust_tracepoint_enabled(skew_rival, send) ||
        !lttng_ust_tracepoint_enabled(skew_rival, recv)) {
        fprintf(stderr, "hotpath: the rival's tracepoints are not enabled in any session\n");
        return 3;
    }
#endif
    uint64_t begin_ns = now_ns(), begin = stamp();
    for (size_t i = 0; i < exchanges; i++) {
        if (cold) {
            disturb_data(memory, bytes);
            disturb_code();
        } else if (warm) {
            for (uint64_t until = now_ns() + PACE_NS; now_ns() < until;)
                ;
        }
        ticks[i] = one(inner, comm, memory);
    }
    uint64_t end_ns = now_ns(), end = stamp();
    if (write_out(argv[4], ticks, exchanges, (double)(end_ns - begin_ns) / (double)(end - begin)) !=
        0)
        return 1;
    ncclCommDestroy(comm);
    return 0;
}
