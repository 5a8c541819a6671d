/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two files of the CUPTI tier share: timing_cupti.c talks to CUPTI, timing_records.c makes
 * sense of its records. All of it is guarded by skew_cupti.lock, but for what says otherwise.
 */
#ifndef SKEW_INTERPOSE_TIMING_CUPTI_H
#define SKEW_INTERPOSE_TIMING_CUPTI_H

#include "cupti_abi.h"
#include "timing.h"

#define SKEW_CUPTI_BUFFERS 32u
#define SKEW_CUPTI_BUFFER_BYTES                                                                    \
    (256u << 10) /* lent to CUPTI: 8 MiB in all; what finds no room is dropped and counted */
#define SKEW_CUPTI_ENTRIES      8192u  /* launches whose records may still come; a power of two */
#define SKEW_CUPTI_WINDOW       2048u  /* … and after so many more, they are taken to have come */
#define SKEW_CUPTI_CORRELATIONS 32768u /* a power of two */
#define SKEW_CUPTI_WAITING      2048u  /* records whose external id has not come yet */
#define SKEW_CUPTI_PATIENCE     16u    /* buffers that such a record waits for */
#define SKEW_CUPTI_NODES        8192u /* kernels of replays that are put together; a power of two */
#define SKEW_CUPTI_NAMES        4096u
#define SKEW_CUPTI_STREAMS      256u /* on which kernels are merged; a power of two */

#define SKEW_CUPTI_LIST(X)                                                                         \
    X(get_version, "cuptiGetVersion", (uint32_t * version))                                        \
    X(get_timestamp, "cuptiGetTimestamp", (uint64_t * timestamp))                                  \
    X(subscribe, "cuptiSubscribe", (void **subscriber, void *callback, void *user))                \
    X(unsubscribe, "cuptiUnsubscribe", (void *subscriber))                                         \
    X(register_callbacks, "cuptiActivityRegisterCallbacks", (void *request, void *complete))       \
    X(enable, "cuptiActivityEnable", (int kind))                                                   \
    X(disable, "cuptiActivityDisable", (int kind))                                                 \
    X(flush, "cuptiActivityFlushAll", (uint32_t flag))                                             \
    X(next_record, "cuptiActivityGetNextRecord", (uint8_t * buffer, size_t bytes, void **record))  \
    X(dropped, "cuptiActivityGetNumDroppedRecords",                                                \
      (void *context, uint32_t stream, size_t *count))                                             \
    X(push, "cuptiActivityPushExternalCorrelationId", (int kind, uint64_t id))                     \
    X(pop, "cuptiActivityPopExternalCorrelationId", (int kind, uint64_t *id))                      \
    X(stream_id, "cuptiGetStreamIdEx",                                                             \
      (void *context, void *stream, uint8_t per_thread, uint32_t *id))

/* One activity record, whatever its kind. */
struct skew_activity {
    uint64_t start, end; /* CUPTI's clock */
    uint32_t device, stream, correlation;
    uint32_t buffers; /* for how many it has waited for its external id */
    const char *name; /* NULL: a copy. CUPTI keeps it for good */
};

enum skew_entry_state { SKEW_ENTRY_FREE, SKEW_ENTRY_OPEN, SKEW_ENTRY_LAUNCHED };

/* What was launched under one external id: a group, or an executable graph. */
struct skew_entry {
    uint64_t id;
    uint32_t state;  /* enum skew_entry_state */
    uint32_t stream; /* spool stream of the group */
    uint64_t group;
    uint64_t launch_ns, exec; /* of a graph; 0: a group */
    uint32_t comms;
    uint32_t nodes, first_node; /* of a graph */
    struct {
        uint32_t comm, cuda_stream; /* CUPTI's number; 0: any */
        uint32_t records, kernels;
        bool alone; /* the communicator's only rank: nothing to wait for */
        uint64_t start, end;
    } of[SKEW_TIME_LAUNCHES];
};

struct skew_merged {
    uint32_t used, device, stream, name, kernels;
    uint64_t start, end, busy; /* host clock */
};

/* A kernel's name; `at` NULL: free. */
struct skew_kernel_name {
    const char *at;  /* as CUPTI gave it */
    uint32_t number; /* in the spool; 0: not there */
    bool put;        /* was put there, with or without success */
    bool apart;      /* communication by its words: never merged */
};

struct skew_cupti {
    uint32_t lock;
    uint32_t active; /* read without the lock */
    uint64_t next_id, seen,
        emitted; /* ids: given out, the newest with a record, the newest that is written */
    struct skew_entry entry[SKEW_CUPTI_ENTRIES];
    struct {
        uint32_t correlation;
        uint64_t id;
    } known[SKEW_CUPTI_CORRELATIONS];
    struct skew_activity waiting[SKEW_CUPTI_WAITING];
    uint32_t waitings;
    struct {
        uint64_t start, end;
        uint32_t next; /* + 1; 0: the last */
    } node[SKEW_CUPTI_NODES];
    uint32_t nodes; /* taken so far */
    struct skew_kernel_name name[SKEW_CUPTI_NAMES];
    uint32_t names;
    struct skew_merged merged[SKEW_CUPTI_STREAMS];
    struct skew_clock clock;
    uint64_t first_timestamp;
    struct skew_thread
        *writer; /* a spool stream of its own, so that its records come after the threads' */

    uint32_t buffer_lock; /* guards `free` */
    uint8_t *buffers;
    uint8_t free[SKEW_CUPTI_BUFFERS], free_count;

#define X(field, name, arguments) int(*field) arguments;
    SKEW_CUPTI_LIST(X)
#undef X
    int (*enable_driver_call)(uint32_t call, uint8_t enable);
    int (*enable_runtime_call)(uint32_t call, uint8_t enable);
};

#pragma GCC visibility push(hidden)
void skew_cupti_external(struct skew_cupti *cupti, uint32_t correlation, uint64_t id);
void skew_cupti_activity(struct skew_cupti *cupti, const struct skew_activity *activity);
void skew_cupti_retry(struct skew_cupti *cupti, bool all);
void skew_cupti_emit(struct skew_cupti *cupti, bool all);
#pragma GCC visibility pop

#endif
