/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool: what libskewscope.so writes inside the target and the collector reads from outside.
 *
 * One file a process. A head page block (identity, loss counters, segment table) is followed by
 * segments of one fixed size. Each segment belongs to one stream of one process at a time: stream 0
 * holds definitions (written under a lock, off the hot path), streams 1, 2, … one thread's records
 * each (written by that thread alone, without a lock). A writer stores a record and then publishes
 * it by a release store of `committed`; what lies behind `committed` does not exist. Nothing is
 * ever shrunk or truncated, so a mapping of this file cannot fault.
 *
 * Reading order that is always consistent: read the `committed` of all data segments, then that of
 * the definition segments, then interpret definitions first. A definition is committed before the
 * first record that needs it.
 *
 * All integers are in the byte order of the machine that wrote them; `byte_order` tells. Times are
 * CLOCK_MONOTONIC nanoseconds unless the name says `real`. Record sizes are multiples of 8.
 *
 * Here: the file, its head and its segments. The records: spool_records.h, which comes along.
 */
#ifndef SKEW_SPOOL_H
#define SKEW_SPOOL_H

#include <stdint.h>

#define SKEW_SPOOL_MAGIC      "SKWSPOOL" /* 8 bytes, no terminator */
#define SKEW_SPOOL_VERSION    1u
#define SKEW_SPOOL_BYTE_ORDER 0x01020304u
#define SKEW_SPOOL_SUFFIX     ".spool"
#define SKEW_SEG_MAGIC        0x47455353u /* "SSEG" */
#define SKEW_SPOOL_SEGMENTS   4096u       /* entries of the segment table: the largest cap */
#define SKEW_SPOOL_SEG_MIN    (16u << 10)
#define SKEW_SPOOL_HEAD_BYTES (64u << 10)
#define SKEW_STREAM_DEFS      0u /* the stream of definitions */
#define SKEW_RUN_ID_BYTES     40u

/* Why something was not captured. Stored as numbers: append only, never renumber. */
#define SKEW_LOSS_LIST(X)                                                                          \
    X(SPOOL_FULL, "spool_full", "the spool's cap was reached before the collector caught up")      \
    X(NO_SPACE, "no_space",                                                                        \
      "the file system that holds the spool had no room for another segment")                      \
    X(IO_ERROR, "io_error", "a spool segment could not be opened or mapped")                       \
    X(TOO_LARGE, "too_large", "one group used more communicators and streams than a record holds") \
    X(UNKNOWN_COMM, "unknown_comm", "rank and size of the communicator could not be learned")      \
    X(NO_MEMORY, "no_memory",                                                                      \
      "there was no memory for the state of a thread; only calls are counted")

enum skew_loss {
#define X(id, name, text) SKEW_LOSS_##id,
    SKEW_LOSS_LIST(X)
#undef X
        SKEW_LOSS_COUNT
};
/* What became of buffers that looked like count exchanges (the tap). Append only. */
#define SKEW_TAP_COUNT_LIST(X)                                                                     \
    X(QUEUED, "queued", "copies that were put on a stream")                                        \
    X(STORED, "stored", "copies that arrived and were stored")                                     \
    X(IMPLAUSIBLE, "implausible",                                                                  \
      "copies that held no counts: dropped by the target, never stored")                           \
    X(CAPTURED, "captured", "not copied: the call was captured into a CUDA graph")                 \
    X(TOO_LARGE, "too_large", "not copied: larger than SKEWSCOPE_TAP_KB or a spool segment")       \
    X(POOL_FULL, "pool_full", "not copied: SKEWSCOPE_TAP_POOL_KB of copies were on their way")     \
    X(BUDGET, "budget", "not copied: SKEWSCOPE_TAP_TOTAL_MB were copied before")                   \
    X(UNREACHED, "unreached",                                                                      \
      "not copied: a non-blocking communicator, another device, or no driver function to copy "    \
      "with")                                                                                      \
    X(GIVEN_UP, "given_up",                                                                        \
      "not copied: earlier ones of this shape on this communicator were implausible")              \
    X(UNSTORED, "unstored", "copies that arrived but found no room in the spool")

enum skew_tap_count_what {
#define X(id, name, text) SKEW_TAP_COUNT_##id,
    SKEW_TAP_COUNT_LIST(X)
#undef X
        SKEW_TAP_COUNTS
};
#define SKEW_TAP_COUNT_SLOTS 24u /* room in the head; SKEW_TAP_COUNTS stays below it */

/* Buffers and their bytes; each only grows. Written by any thread of the target (atomic add). */
struct skew_tap_count {
    uint64_t buffers;
    uint64_t bytes;
};

#define SKEW_LOSS_SLOTS 16u /* room in the head; SKEW_LOSS_COUNT stays below it */

/* One reason's counters; each only grows. Written by any thread of the target (atomic add). */
struct skew_loss_count {
    uint64_t groups;    /* outermost NCCL groups, or calls outside a group */
    uint64_t exchanges; /* all-to-all exchanges among them (see schema/trace.sql, table exchange) */
    uint64_t ops;       /* other collectives among them */
    uint64_t cells;     /* single calls: sends, receives, collectives */
};

/* Where a time comes from, or how times are taken. Stored as numbers: append only. */
enum skew_time_source { SKEW_TIME_EVENTS = 1, SKEW_TIME_CUPTI = 2 };

#define SKEW_TIER_LIST(X)                                                                          \
    X(HOST, "host")     /* the host's clock around the call only */                                \
    X(EVENTS, "events") /* a pair of CUDA events around each launch */                             \
    X(CUPTI, "cupti")   /* activity records of kernels and copies */

enum skew_tier {
#define X(id, name) SKEW_TIER_##id,
    SKEW_TIER_LIST(X)
#undef X
        SKEW_TIER_COUNT
};

/* Why a tier is used from then on. Append only. */
#define SKEW_TIER_WHY_LIST(X)                                                                      \
    X(ASKED, "asked", "SKEWSCOPE_TIMING says so")                                                  \
    X(AUTO, "auto", "nothing speaks against it")                                                   \
    X(MAX_CONNECTIONS, "max_connections",                                                          \
      "CUDA_DEVICE_MAX_CONNECTIONS=1: timed events would take away overlap")                       \
    X(NO_DRIVER, "no_driver", "no CUDA driver with the functions that are needed is loaded")       \
    X(NO_CUPTI, "no_cupti", "no CUPTI library could be opened, or it refused")                     \
    X(FOREIGN_CUPTI, "foreign_cupti", "another tool uses CUPTI in this process")                   \
    X(HANDED_OVER, "handed_over", "another tool asked for CUPTI, and got it from us")              \
    X(GIVEN_BACK, "given_back", "the other tool is done with CUPTI")

enum skew_tier_why {
#define X(id, name, text) SKEW_TIER_WHY_##id,
    SKEW_TIER_WHY_LIST(X)
#undef X
        SKEW_TIER_WHY_COUNT
};

/* Why a launch (one communicator's part of one NCCL group) has no time on the device. Append only.
 */
#define SKEW_UNTIMED_LIST(X)                                                                       \
    X(SAMPLED_OUT, "sampled_out", "SKEWSCOPE_TIMING_EVERY left it out")                            \
    X(CAPTURED, "captured", "captured into a CUDA graph, which events cannot time")                \
    X(NONBLOCKING, "nonblocking",                                                                  \
      "of a non-blocking communicator, and nobody asked when it was launched")                     \
    X(SHARED_STREAM, "shared_stream", "several communicators of one group on one stream")          \
    X(MANY_STREAMS, "many_streams", "more communicators or streams in one group than are timed")   \
    X(OTHER_DEVICE, "other_device", "on the default stream of a device that was not current")      \
    X(NO_EVENT, "no_event", "no more CUDA events: too many launches are under way")                \
    X(NO_CLOCK, "no_clock", "the device's clock could not be related to the host's")               \
    X(DRIVER_ERROR, "driver_error", "the CUDA driver refused, or the context is gone")             \
    X(UNFINISHED, "unfinished", "not finished on the device when the process ended")               \
    X(NO_ROOM, "no_room", "the spool had no room for the time")                                    \
    X(NO_RECORD, "no_record", "CUPTI has reported no kernel or copy of it")                        \
    X(DROPPED, "dropped", "CUPTI's records did not fit into the bounded buffers")                  \
    X(COPIES, "copies", "done by copy engines: CUPTI does not tell when it began to wait")         \
    X(REPLAY, "replay",                                                                            \
      "in a replayed graph whose NCCL kernels do not tell which launch is which: copies, or "      \
      "another number of kernels")

enum skew_untimed {
#define X(id, name, text) SKEW_UNTIMED_##id,
    SKEW_UNTIMED_LIST(X)
#undef X
        SKEW_UNTIMED_COUNT
};
#define SKEW_UNTIMED_SLOTS 24u

/* What taking times did and cost. In the spool's head; each only grows. Atomic adds by any thread.
 */
struct skew_time_totals {
    uint64_t timed[4];                    /* launches and replays, by enum skew_time_source */
    uint64_t untimed[SKEW_UNTIMED_SLOTS]; /* by enum skew_untimed */
    uint64_t cost_groups; /* groups whose end was measured: what the library itself took there … */
    uint64_t cost_ns;     /* … on the host, real calls left out */
    uint64_t setup_ns;    /* making events, opening CUPTI, a thread's first group: once each, not in
                             cost_ns */
    uint64_t events;      /* CUDA events recorded on streams of the application */
    uint64_t
        event_ns; /* device time of one, at most: the least seen between two in a row; 0: unknown */
    uint64_t records; /* CUPTI activity records read */
    uint64_t dropped; /* CUPTI activity records that found no room */
};

/* Calls of libraries that move tokens from inside kernels (interpose/ep.api): id, function, backend
 * as in schema/kernels.json, what it does. Stored as numbers: append only. */
#define SKEW_BACKEND_CALL_LIST(X)                                                                  \
    X(CREATE_GROUP, "ncclEpCreateGroup", "NCCL EP", "setup")                                       \
    X(GROUP_DESTROY, "ncclEpGroupDestroy", "NCCL EP", "end")                                       \
    X(CREATE_HANDLE, "ncclEpCreateHandle", "NCCL EP", "routing")                                   \
    X(INIT_HANDLE, "ncclEpInitHandle", "NCCL EP", "setup")                                         \
    X(UPDATE_HANDLE, "ncclEpUpdateHandle", "NCCL EP", "routing")                                   \
    X(HANDLE_DESTROY, "ncclEpHandleDestroy", "NCCL EP", "end")                                     \
    X(DISPATCH, "ncclEpDispatch", "NCCL EP", "dispatch")                                           \
    X(COMBINE, "ncclEpCombine", "NCCL EP", "combine")                                              \
    X(COMPLETE, "ncclEpComplete", "NCCL EP", "complete")

enum skew_backend_call {
    SKEW_BACKEND_CALL_NONE,
#define X(id, function, backend, does) SKEW_BACKEND_CALL_##id,
    SKEW_BACKEND_CALL_LIST(X)
#undef X
        SKEW_BACKEND_CALLS
};
#define SKEW_BACKEND_CALL_SLOTS 16u /* room in the head; SKEW_BACKEND_CALLS stays below it */

enum skew_spool_state {
    SKEW_SPOOL_LIVE = 1,  /* the process runs, or died without a chance to say so */
    SKEW_SPOOL_EXITED = 2 /* the process ran its exit handlers; nothing more will come */
};

enum skew_seg_state {
    SKEW_SEG_ABSENT = 0, /* not allocated yet */
    SKEW_SEG_FREE = 1,   /* allocated and prefaulted, owned by nobody */
    SKEW_SEG_ACTIVE = 2, /* its stream's writer is filling it */
    SKEW_SEG_FULL = 3,   /* sealed by its writer; the collector makes it FREE once all is stored */
    SKEW_SEG_CLAIMED =
        4 /* between FREE and ACTIVE: its new owner is preparing the head; holds nothing */
};

/* Entry of the segment table. The target moves ABSENT → FREE → CLAIMED → ACTIVE → FULL, the
 * collector alone FULL → FREE (after its transaction is durable), by a 4-byte store that nobody
 * else races with. ACTIVE is stored after the segment's head and `stream`; a segment is FULL before
 * the first record of its stream's next one is committed. Its writer may be killed before that: an
 * ACTIVE segment beside a later one of its stream is as complete as a FULL one, but not to be made
 * FREE while the process lives. */
struct skew_seg_entry {
    uint32_t state;
    uint32_t stream;
};

struct skew_spool_head {
    char magic[8];
    uint32_t version;
    uint32_t byte_order;
    uint32_t head_bytes; /* segments start here; entry i lies at head_bytes + i * seg_bytes */
    uint32_t seg_bytes;
    uint32_t seg_cap;       /* segments that may ever be allocated */
    uint32_t seg_allocated; /* written by the target after the file has grown */

    /* Who: together these never repeat on a node. */
    uint8_t boot_id[16];
    uint64_t pid_ns; /* inode of /proc/self/ns/pid */
    uint64_t mnt_ns;
    uint64_t start_ticks; /* field 22 of /proc/self/stat */
    uint32_t pid;         /* as the process itself sees it */
    uint32_t uid;
    char run_id[SKEW_RUN_ID_BYTES]; /* SKEWSCOPE_RUN_ID, "" when nobody ran `skewscope run` */
    uint64_t created_ns;
    uint64_t created_real_ns; /* CLOCK_REALTIME at created_ns */

    /* Written by the target while it runs. */
    uint32_t state;   /* enum skew_spool_state */
    uint32_t streams; /* stream numbers given out so far, definitions included */
    uint64_t exit_ns;
    uint64_t returned_groups; /* groups stored or lost: "captured N of M" without reading a record.
                                 Those that struct skew_seg_head.returned counts come on top. */
    struct skew_loss_count loss[SKEW_LOSS_SLOTS];

    struct skew_tap_count tap[SKEW_TAP_COUNT_SLOTS]; /* zeros from a library that had no tap */
    struct skew_time_totals time;                    /* likewise */
    uint64_t backend_calls[SKEW_BACKEND_CALL_SLOTS]; /* calls, by enum skew_backend_call; stored or
                                                        not. Atomic adds */

    uint8_t reserved[1024 - SKEW_TAP_COUNT_SLOTS * sizeof(struct skew_tap_count) -
                     sizeof(struct skew_time_totals) - SKEW_BACKEND_CALL_SLOTS * sizeof(uint64_t)];
    struct skew_seg_entry seg[SKEW_SPOOL_SEGMENTS];
};
_Static_assert(sizeof(struct skew_spool_head) <= SKEW_SPOOL_HEAD_BYTES, "head block too small");

struct skew_seg_head {
    uint32_t magic;
    uint32_t stream;
    uint64_t seq;       /* 0, 1, 2, … within the stream */
    uint64_t returned;  /* groups stored here by all its owners so far, unless the spool's head
                           counts them. Goes on  counting when the segment is given to another stream;
                           moves after `committed`. Here and  not in the spool's head, since each page
                           costs a cold exchange a walk of its own. */
    uint64_t committed; /* bytes of this segment that exist, this head included; release store */
    uint64_t opened_ns;
    uint64_t opened_real_ns; /* a clock anchor for free */
};

#include "spool_records.h"

#endif
