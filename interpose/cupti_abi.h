/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little of CUPTI's ABI that is used: numbers, and where the fields lie in its records. Records
 * have only grown at their ends between CUPTI 11.1 and 13: these places are the same in
 * ActivityKernel5 to Kernel10 and Memcpy4 to Memcpy6. tests/timing/cupti_abi.c compares with real
 * headers, where there are some.
 */
#ifndef SKEW_INTERPOSE_CUPTI_ABI_H
#define SKEW_INTERPOSE_CUPTI_ABI_H

#include <stdint.h>
#include <string.h>

#define SKEW_CUPTI_SUCCESS 0
#define SKEW_CUPTI_OLDEST                                                                          \
    14u /* cuptiGetVersion() of CUPTI 11.1: before it records lack graphId                         \
         */
#define SKEW_CUPTI_CUSTOM2       5 /* kind of external ids; torch.profiler uses others */
#define SKEW_CUPTI_FORCED        1u
#define SKEW_CUPTI_KIND_MEMCPY   1
#define SKEW_CUPTI_KIND_DRIVER   4
#define SKEW_CUPTI_KIND_RUNTIME  5
#define SKEW_CUPTI_KIND_KERNEL   10 /* CONCURRENT_KERNEL */
#define SKEW_CUPTI_KIND_MEMCPY2  22
#define SKEW_CUPTI_KIND_EXTERNAL 39

/* Calls that put work on a stream, of which CUPTI tells the external ids: cuLaunchKernel, …Ex,
 * cuMemcpy…Async, cuMemcpyBatchAsync (both), cuGraphLaunch; and in the runtime. With and without
 * _ptsz. */
#define SKEW_CUPTI_DRIVER_CALLS                                                                    \
    {                                                                                              \
        307, 442, 652, 653, 306, 418, 281, 423, 319, 426, 776, 777, 796, 797, 514, 515             \
    }
#define SKEW_CUPTI_RUNTIME_CALLS                                                                   \
    {                                                                                              \
        211, 214, 430, 431, 41, 225, 482, 483, 509, 510, 311, 312                                  \
    }

/* Places in a record, bytes from its start. 0: not there. */
struct skew_cupti_layout {
    uint8_t start, end, device, stream, correlation, name, graph_node, graph;
};

#define SKEW_CUPTI_KERNEL                                                                          \
    {                                                                                              \
        16, 24, 40, 48, 92, 104, 144, 156                                                          \
    }
#define SKEW_CUPTI_MEMCPY                                                                          \
    {                                                                                              \
        16, 24, 32, 40, 44, 0, 64, 72                                                              \
    }
#define SKEW_CUPTI_MEMCPY2                                                                         \
    {                                                                                              \
        16, 24, 32, 40, 60, 0, 72, 80                                                              \
    }
/* CUpti_ActivityExternalCorrelation */
#define SKEW_CUPTI_EXTERNAL_KIND        4
#define SKEW_CUPTI_EXTERNAL_ID          8
#define SKEW_CUPTI_EXTERNAL_CORRELATION 16

static inline uint64_t skew_cupti_u64(const void *record, unsigned place)
{
    uint64_t value;
    memcpy(&value, (const char *)record + place, sizeof(value));
    return value;
}

static inline uint32_t skew_cupti_u32(const void *record, unsigned place)
{
    uint32_t value;
    memcpy(&value, (const char *)record + place, sizeof(value));
    return value;
}

#endif
