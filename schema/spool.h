/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool: what libskewscope.so writes inside the target and the collector reads from outside.
 *
 * One file a process. A head page block (identity, loss counters, segment table) is followed by
 * segments of one fixed size. Each segment belongs to one stream of one process at a time: stream 0
 * holds definitions (written under a lock, off the hot path), streams 1, 2, … one thread's records
 * each (written by that thread alone, without a lock). A writer stores a record and then publishes it
 * by a release store of `committed`; what lies behind `committed` does not exist. Nothing is ever
 * shrunk or truncated, so a mapping of this file cannot fault.
 *
 * Reading order that is always consistent: read the `committed` of all data segments, then that of
 * the definition segments, then interpret definitions first. A definition is committed before the
 * first record that needs it.
 *
 * All integers are in the byte order of the machine that wrote them; `byte_order` tells. Times are
 * CLOCK_MONOTONIC nanoseconds unless the name says `real`. Record sizes are multiples of 8.
 */
#ifndef SKEW_SPOOL_H
#define SKEW_SPOOL_H

#include <stdint.h>

#define SKEW_SPOOL_MAGIC       "SKWSPOOL" /* 8 bytes, no terminator */
#define SKEW_SPOOL_VERSION     1u
#define SKEW_SPOOL_BYTE_ORDER  0x01020304u
#define SKEW_SPOOL_SUFFIX      ".spool"
#define SKEW_SEG_MAGIC         0x47455353u /* "SSEG" */
#define SKEW_SPOOL_SEGMENTS    4096u       /* entries of the segment table: the largest cap */
#define SKEW_SPOOL_SEG_MIN     (16u << 10)
#define SKEW_SPOOL_HEAD_BYTES  (64u << 10)
#define SKEW_STREAM_DEFS       0u          /* the stream of definitions */
#define SKEW_RUN_ID_BYTES      40u

/* Why something was not captured. Stored as numbers: append only, never renumber. */
#define SKEW_LOSS_LIST(X)                                                                          \
    X(SPOOL_FULL, "spool_full", "the spool's cap was reached before the collector caught up")      \
    X(NO_SPACE, "no_space", "the file system that holds the spool had no room for another segment") \
    X(IO_ERROR, "io_error", "a spool segment could not be opened or mapped")                       \
    X(TOO_LARGE, "too_large", "one group used more communicators and streams than a record holds") \
    X(UNKNOWN_COMM, "unknown_comm", "rank and size of the communicator could not be learned")      \
    X(NO_MEMORY, "no_memory", "there was no memory for the state of a thread; only calls are counted")

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
    X(IMPLAUSIBLE, "implausible", "copies that held no counts: dropped by the target, never stored") \
    X(CAPTURED, "captured", "not copied: the call was captured into a CUDA graph")                 \
    X(TOO_LARGE, "too_large", "not copied: larger than SKEWSCOPE_TAP_KB or a spool segment")       \
    X(POOL_FULL, "pool_full", "not copied: SKEWSCOPE_TAP_POOL_KB of copies were on their way")     \
    X(BUDGET, "budget", "not copied: SKEWSCOPE_TAP_TOTAL_MB were copied before")                   \
    X(UNREACHED, "unreached",                                                                      \
      "not copied: a non-blocking communicator, another device, or no driver function to copy with") \
    X(GIVEN_UP, "given_up", "not copied: earlier ones of this shape on this communicator were implausible") \
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

/* Why a launch (one communicator's part of one NCCL group) has no time on the device. Append only. */
#define SKEW_UNTIMED_LIST(X)                                                                       \
    X(SAMPLED_OUT, "sampled_out", "SKEWSCOPE_TIMING_EVERY left it out")                            \
    X(CAPTURED, "captured", "captured into a CUDA graph, which events cannot time")                \
    X(NONBLOCKING, "nonblocking", "of a non-blocking communicator, and nobody asked when it was launched") \
    X(SHARED_STREAM, "shared_stream", "several communicators of one group on one stream")          \
    X(MANY_STREAMS, "many_streams", "more communicators or streams in one group than are timed")   \
    X(OTHER_DEVICE, "other_device", "on the default stream of a device that was not current")      \
    X(NO_EVENT, "no_event", "no more CUDA events: too many launches are under way")                \
    X(NO_CLOCK, "no_clock", "the device's clock could not be related to the host's")               \
    X(DRIVER_ERROR, "driver_error", "the CUDA driver refused, or the context is gone")             \
    X(UNFINISHED, "unfinished", "not finished on the device when the process ended")               \
    X(NO_ROOM, "no_room", "the spool had no room for the time")                                    \
    X(NO_RECORD, "no_record", "CUPTI has reported no kernel or copy of it")                        \
    X(DROPPED, "dropped", "CUPTI's records did not fit into the bounded buffers")

enum skew_untimed {
#define X(id, name, text) SKEW_UNTIMED_##id,
    SKEW_UNTIMED_LIST(X)
#undef X
        SKEW_UNTIMED_COUNT
};
#define SKEW_UNTIMED_SLOTS 24u

/* What taking times did and cost. In the spool's head; each only grows. Atomic adds by any thread. */
struct skew_time_totals {
    uint64_t timed[4];                    /* launches and replays, by enum skew_time_source */
    uint64_t untimed[SKEW_UNTIMED_SLOTS]; /* by enum skew_untimed */
    uint64_t cost_groups;                 /* groups whose end was measured: what the library itself took there … */
    uint64_t cost_ns;                     /* … on the host, real calls left out */
    uint64_t setup_ns;                    /* making events, opening CUPTI: once each, not in cost_ns */
    uint64_t events;                      /* CUDA events recorded on streams of the application */
    uint64_t event_ns;                    /* device time of one, at most: the least seen between two in a row; 0: unknown */
    uint64_t records;                     /* CUPTI activity records read */
    uint64_t dropped;                     /* CUPTI activity records that found no room */
};

enum skew_spool_state {
    SKEW_SPOOL_LIVE = 1,  /* the process runs, or died without a chance to say so */
    SKEW_SPOOL_EXITED = 2 /* the process ran its exit handlers; nothing more will come */
};

enum skew_seg_state {
    SKEW_SEG_ABSENT = 0, /* not allocated yet */
    SKEW_SEG_FREE = 1,   /* allocated and prefaulted, owned by nobody */
    SKEW_SEG_ACTIVE = 2, /* its stream's writer is filling it */
    SKEW_SEG_FULL = 3,   /* sealed by its writer; the collector makes it FREE once all is stored */
    SKEW_SEG_CLAIMED = 4 /* between FREE and ACTIVE: its new owner is preparing the head; holds nothing */
};

/* Entry of the segment table. The target moves ABSENT → FREE → CLAIMED → ACTIVE → FULL, the collector alone
 * FULL → FREE (after its transaction is durable), by a 4-byte store that nobody else races with.
 * ACTIVE is stored after the segment's head and `stream`; a segment is FULL before the first record of
 * its stream's next one is committed. Its writer may be killed before that: an ACTIVE segment beside a later
 * one of its stream is as complete as a FULL one, but not to be made FREE while the process lives. */
struct skew_seg_entry {
    uint32_t state;
    uint32_t stream;
};

struct skew_spool_head {
    char magic[8];
    uint32_t version;
    uint32_t byte_order;
    uint32_t head_bytes;    /* segments start here; entry i lies at head_bytes + i * seg_bytes */
    uint32_t seg_bytes;
    uint32_t seg_cap;       /* segments that may ever be allocated */
    uint32_t seg_allocated; /* written by the target after the file has grown */

    /* Who: together these never repeat on a node. */
    uint8_t boot_id[16];
    uint64_t pid_ns;        /* inode of /proc/self/ns/pid */
    uint64_t mnt_ns;
    uint64_t start_ticks;   /* field 22 of /proc/self/stat */
    uint32_t pid;           /* as the process itself sees it */
    uint32_t uid;
    char run_id[SKEW_RUN_ID_BYTES]; /* SKEWSCOPE_RUN_ID, "" when nobody ran `skewscope run` */
    uint64_t created_ns;
    uint64_t created_real_ns; /* CLOCK_REALTIME at created_ns */

    /* Written by the target while it runs. */
    uint32_t state;   /* enum skew_spool_state */
    uint32_t streams; /* stream numbers given out so far, definitions included */
    uint64_t exit_ns;
    uint64_t returned_groups; /* groups stored or lost: "captured N of M" without reading a record. Those that
                                 struct skew_seg_head.returned counts come on top. */
    struct skew_loss_count loss[SKEW_LOSS_SLOTS];

    struct skew_tap_count tap[SKEW_TAP_COUNT_SLOTS]; /* zeros from a library that had no tap */
    struct skew_time_totals time;                    /* likewise */

    uint8_t reserved[1024 - SKEW_TAP_COUNT_SLOTS * sizeof(struct skew_tap_count) - sizeof(struct skew_time_totals)];
    struct skew_seg_entry seg[SKEW_SPOOL_SEGMENTS];
};
_Static_assert(sizeof(struct skew_spool_head) <= SKEW_SPOOL_HEAD_BYTES, "head block too small");

struct skew_seg_head {
    uint32_t magic;
    uint32_t stream;
    uint64_t seq;       /* 0, 1, 2, … within the stream */
    uint64_t returned;  /* groups stored here by all its owners so far, unless the spool's head counts them. Goes on
                           counting when the segment is given to another stream; moves after `committed`. Here and
                           not in the spool's head, since each page costs a cold exchange a walk of its own. */
    uint64_t committed; /* bytes of this segment that exist, this head included; release store */
    uint64_t opened_ns;
    uint64_t opened_real_ns; /* a clock anchor for free */
};

/* ---- records ------------------------------------------------------------------------------- */

enum skew_rec_type {
    /* stream 0 */
    SKEW_REC_PROCESS = 1,  /* struct skew_rec_text: what = enum skew_process_text */
    SKEW_REC_THREAD = 2,   /* struct skew_rec_thread */
    SKEW_REC_COMM = 3,     /* struct skew_rec_comm */
    SKEW_REC_COMM_END = 4, /* struct skew_rec_comm_end */
    SKEW_REC_SITE = 5,     /* struct skew_rec_site */
    SKEW_REC_MODULE = 6,   /* struct skew_rec_module */
    SKEW_REC_GRAPH = 7,    /* struct skew_rec_graph */
    SKEW_REC_DIAG = 8,     /* struct skew_rec_text: what = enum skew_diag */
    SKEW_REC_TAP = 9,      /* struct skew_rec_tap */
    SKEW_REC_TIER = 16,        /* struct skew_rec_tier */
    SKEW_REC_KERNEL_NAME = 17, /* struct skew_rec_text: what = number of the name, from 1 */
    SKEW_REC_RANGE_NAME = 18,  /* struct skew_rec_range_name */
    /* streams 1, 2, … */
    SKEW_REC_GROUP = 32,      /* struct skew_rec_group */
    SKEW_REC_GROUP_PART = 33, /* struct skew_rec_group, lanes 0: earlier cells of a GROUP that follows */
    SKEW_REC_LOSS = 34,       /* struct skew_rec_loss */
    SKEW_REC_LAUNCH = 35,     /* struct skew_rec_launch */
    SKEW_REC_RANGES = 36,     /* struct skew_rec_ranges */
    /* streams 0, 1, 2, … */
    SKEW_REC_TIME = 48,  /* struct skew_rec_time */
    SKEW_REC_CLOCK = 49, /* struct skew_rec_clock */
    SKEW_REC_KERNEL = 50, /* struct skew_rec_kernel */
    SKEW_REC_REPLAY = 51 /* struct skew_rec_replay */
};

struct skew_rec {
    uint32_t bytes; /* whole record, this head included; a multiple of 8 */
    uint16_t type;  /* enum skew_rec_type; unknown types are skipped and counted by readers */
    uint16_t flags;
};

/* What one call asked for. Append only. */
#define SKEW_OP_LIST(X)                                                                            \
    X(SEND, "send")                                                                                \
    X(RECV, "recv")                                                                                \
    X(ALLTOALL, "alltoall")                                                                        \
    X(ALLTOALLV_SEND, "alltoallv_send")                                                            \
    X(ALLTOALLV_RECV, "alltoallv_recv")                                                            \
    X(ALLGATHER, "allgather")                                                                      \
    X(REDUCESCATTER, "reducescatter")                                                              \
    X(ALLREDUCE, "allreduce")                                                                      \
    X(BROADCAST, "broadcast")                                                                      \
    X(REDUCE, "reduce")                                                                            \
    X(GATHER, "gather")                                                                            \
    X(SCATTER, "scatter")                                                                          \
    X(PUT, "put")                                                                                  \
    X(SIGNAL, "signal")                                                                            \
    X(WAITSIGNAL, "waitsignal")

enum skew_op {
#define X(id, name) SKEW_OP_##id,
    SKEW_OP_LIST(X)
#undef X
        SKEW_OP_COUNT
};

/* One NCCL call inside a group. A wrapper stores one and returns. */
struct skew_cell {
    uint64_t count; /* elements, as given to NCCL (per peer for ALLTOALL) */
    uint32_t peer;  /* peer of SEND, RECV, ALLTOALLV_*, PUT; root of rooted collectives; else 0 */
    uint8_t op;     /* enum skew_op */
    uint8_t dtype;  /* ncclDataType_t as given; 255 when it does not fit */
    uint16_t lane;  /* index into the record's lanes */
};

enum skew_lane_flags {
    SKEW_LANE_CAPTURED = 1,    /* the stream was being captured into a CUDA graph: not executed now */
    SKEW_LANE_CAPTURE_UNKNOWN = 2 /* no driver function to ask was found, or it failed */
};

/* One distinct (communicator, stream) of a group, in order of first use. */
struct skew_lane {
    uint32_t comm;  /* struct skew_rec_comm.comm */
    uint32_t flags; /* enum skew_lane_flags */
    uint64_t stream;
    uint64_t exchange_seq; /* ordinal, on this communicator, of the group's first exchange; lost ones count */
    uint64_t op_seq;       /* ordinal of its first other collective, likewise */
    uint64_t capture;      /* the driver's capture id when CAPTURED, else 0 */
};

/* A whole outermost group, or one call outside a group. GROUP_PART has the same shape, with cells but
 * no lanes: its cells come before those of the GROUP record with the same `group` and use that record's
 * lanes. Parts whose `group` is not that of the next GROUP record belong to a group that came to nothing:
 * drop them. Followed by `cells` struct skew_cell and then `lanes` struct skew_lane. Only groups whose
 * outermost End returned Success or InProgress exist. Cells keep the order of the calls.
 *
 * The exchanges of one group on one communicator take ordinals in this order: one for all SEND and RECV
 * cells (if there is any), then one for each ALLTOALL cell, then one for each all-to-all-v call (its
 * ALLTOALLV_SEND cells, then its ALLTOALLV_RECV cells). */
struct skew_rec_group {
    struct skew_rec head;
    uint64_t call_ns;   /* before the real outermost GroupEnd, or the real call */
    uint64_t return_ns; /* after it returned */
    uint64_t group;     /* ordinal within this stream, which names the group; gaps are lost or failed groups */
    uint32_t cells;
    uint32_t site; /* struct skew_rec_site.site; 0: none */
    uint16_t lanes;
    int16_t result; /* ncclResult_t: 0, or 7 for non-blocking communicators */
    uint32_t reserved;
};

/* Exchanges of one communicator that were lost before its exchange `before_seq`, which the GROUP record
 * just before this one holds, so that the n-th send still meets the n-th receive. Followed by `peers`
 * struct skew_loss_peer. The totals are in the head's counters already. */
struct skew_rec_loss {
    struct skew_rec head;
    uint32_t comm;
    uint32_t reason; /* enum skew_loss: the latest, when there were several */
    uint64_t before_seq;
    uint64_t exchanges;
    uint64_t ops;
    uint32_t peers;
    uint32_t reserved;
};
struct skew_loss_peer {
    uint32_t peer;
    uint32_t reserved;
    uint64_t sends;
    uint64_t recvs;
};

struct skew_rec_launch {
    struct skew_rec head;
    uint64_t call_ns;
    uint64_t exec; /* CUgraphExec */
    uint64_t stream;
};

/* When a launch occupied the device: the part of group (`stream`, `group`) that is on communicator `comm`. Comes
 * some time after its GROUP record, from whichever thread found that it was over. */
struct skew_rec_time {
    struct skew_rec head;
    uint32_t comm;
    uint32_t stream; /* spool stream of the GROUP record */
    uint64_t group;
    uint64_t start_ns; /* CLOCK_MONOTONIC */
    uint64_t end_ns;
    uint64_t error_ns;  /* both are within ± this of the truth, but for: */
    uint64_t start_slack_ns; /* the start may be earlier by this, since the host was still launching */
    uint64_t end_slack_ns;   /* the end may be earlier by this: it was over before the host could mark it */
    uint64_t launch_ns; /* replay of a CUDA graph: call_ns of the LAUNCH record; else 0 */
    uint64_t exec;      /* … and its exec */
    uint32_t source;    /* enum skew_time_source */
    uint32_t reserved;
};

/* When one NCCL kernel of a replayed graph occupied the device. Which of the captured launches it is follows from
 * its place among the graph's NCCL kernels, by start. */
struct skew_rec_replay {
    struct skew_rec head;
    uint64_t launch_ns; /* call_ns of the LAUNCH record … */
    uint64_t exec;      /* … and its exec */
    uint64_t start_ns;
    uint64_t end_ns;
    uint64_t error_ns;
    uint32_t ordinal; /* 0, 1, … */
    uint32_t count;   /* NCCL kernels of this replay */
    uint32_t source;  /* enum skew_time_source */
    uint32_t reserved;
};

/* From then on times are taken in this way. */
struct skew_rec_tier {
    struct skew_rec head;
    uint64_t ns;
    uint32_t tier; /* enum skew_tier */
    uint32_t why;  /* enum skew_tier_why */
};

/* Device against host: at `device_ns` on the device's own clock, counted from the first CLOCK record of this
 * `clock`, CLOCK_MONOTONIC showed something between low_ns and high_ns. */
struct skew_rec_clock {
    struct skew_rec head;
    uint32_t clock; /* 1, 2, … within the process: one a CUDA context, or CUPTI's */
    uint32_t source; /* enum skew_time_source */
    uint64_t device_ns;
    uint64_t low_ns;
    uint64_t high_ns;
};

/* Device work that is no launch of a recorded group, from CUPTI. Kernels of one stream that follow each other
 * closely, with no NCCL work between, are merged into one record (docs/time-tiers.md). */
struct skew_rec_kernel {
    struct skew_rec head;
    uint32_t name;      /* of the first, SKEW_REC_KERNEL_NAME; 0: a copy */
    uint32_t kernels;   /* merged into this one */
    uint32_t device;    /* CUDA ordinal */
    uint32_t stream;    /* CUPTI's number of the stream */
    uint64_t start_ns;  /* CLOCK_MONOTONIC */
    uint64_t end_ns;
    uint64_t busy_ns;   /* time that kernels ran within start … end */
};

/* Text of `length` bytes follows (not terminated), padded with zeros to a multiple of 8. */
struct skew_rec_text {
    struct skew_rec head;
    uint32_t what;
    uint32_t length;
    uint64_t ns;
};

enum skew_process_text {
    SKEW_TEXT_EXE = 1,
    SKEW_TEXT_CMDLINE = 2,  /* arguments joined by NUL */
    SKEW_TEXT_HOST = 3,
    SKEW_TEXT_ENV = 4,      /* NAME=value; one record a variable (a fixed list, see docs/schema.md) */
    SKEW_TEXT_OUT = 5,      /* absolute output directory */
    SKEW_TEXT_NCCL = 6,     /* "version path route": 22809 /…/libnccl.so.2 next|handle|named */
    SKEW_TEXT_VERSION = 7,  /* skewscope's own version */
    SKEW_TEXT_CWD = 8
};

/* What went differently than planned; the text says it in words. Append only. */
#define SKEW_DIAG_LIST(X)                                                                          \
    X(BAD_OPTION, "bad_option", "warning")                                                         \
    X(SECOND_NCCL, "second_nccl", "warning")                                                       \
    X(SYMBOL_MISSING, "symbol_missing", "info")                                                    \
    X(NO_UNWIND, "no_unwind", "info")                                                              \
    X(NO_COLLECTOR, "no_collector", "info")                                                        \
    X(SPOOL_DISK, "spool_disk", "info")                                                            \
    X(SPOOL_SMALL, "spool_small", "warning")                                                       \
    X(DEVICE_API, "device_api", "warning")                                                         \
    X(UNKNOWN_TYPE, "unknown_type", "warning")                                                     \
    X(NO_CAPTURE_QUERY, "no_capture_query", "info")                                                \
    X(UNIDENTIFIED_COMM, "unidentified_comm", "warning")                                           \
    X(UNBALANCED_GROUP, "unbalanced_group", "warning")                                             \
    X(STATIC_NCCL, "static_nccl", "error")                                                         \
    X(NO_NCCL_CALL, "no_nccl_call", "error")                                                       \
    X(DEVICE_BACKEND, "device_backend", "warning")                                                 \
    X(CORRUPT_SPOOL, "corrupt_spool", "error")                                                     \
    X(SPOOL_UNREACHABLE, "spool_unreachable", "error")                                             \
    X(COLLECTOR_RESTART, "collector_restart", "info")                                              \
    X(RUN_NOTE, "run_note", "info")                                                                \
    X(TAP_OFF, "tap_off", "info")                                                                   \
    X(TIMING, "timing", "info")                                                                     \
    X(NVTX, "nvtx", "info")

enum skew_diag {
    SKEW_DIAG_NONE,
#define X(id, name, severity) SKEW_DIAG_##id,
    SKEW_DIAG_LIST(X)
#undef X
        SKEW_DIAG_COUNT
};

struct skew_rec_thread {
    struct skew_rec head;
    uint32_t stream; /* the stream this thread writes */
    uint32_t tid;
    char name[16];
};

#define SKEW_COMM_KIND_LIST(X)                                                                     \
    X(UNKNOWN, "unknown")                                                                          \
    X(INIT_RANK, "init_rank")                                                                      \
    X(INIT_ALL, "init_all")                                                                        \
    X(INIT_SCALABLE, "init_rank_scalable")                                                         \
    X(SPLIT, "split")                                                                              \
    X(SHRINK, "shrink")                                                                            \
    X(GROW, "grow")

enum skew_comm_kind {
#define X(id, name) SKEW_COMM_##id,
    SKEW_COMM_KIND_LIST(X)
#undef X
        SKEW_COMM_KIND_COUNT
};

enum skew_comm_flags {
    SKEW_COMM_NONBLOCKING = 1,
    SKEW_COMM_UNIDENTIFIED = 2 /* no constructor was seen: `key` is this process's own */
};

/* A communicator handle of this process. Repeated with the same `comm` when more becomes known (the
 * later record wins). A pointer that NCCL reuses gets a new `comm`. */
struct skew_rec_comm {
    struct skew_rec head;
    uint32_t comm;   /* 1, 2, … within the process */
    uint32_t parent; /* comm of the parent of Split, Shrink, Grow; 0: none */
    uint64_t key;    /* equal on all members of one communicator: hash of the unique id, or of the
                        parent's key, the ordinal of this kind of constructor on it, and the colour */
    uint64_t handle; /* the ncclComm_t */
    uint64_t created_ns;
    int32_t ranks;  /* −1: not known yet */
    int32_t rank;   /* −1: not known yet */
    int32_t device; /* CUDA ordinal; −1: not known */
    int32_t color;
    int32_t split_key;
    uint32_t ordinal; /* of this kind of constructor on the parent, from 0 */
    uint16_t kind;    /* enum skew_comm_kind */
    uint16_t flags;   /* enum skew_comm_flags */
    uint32_t reserved;
};

enum skew_comm_end { SKEW_END_FINALIZE = 1, SKEW_END_DESTROY = 2, SKEW_END_ABORT = 3, SKEW_END_REVOKE = 4 };

struct skew_rec_comm_end {
    struct skew_rec head;
    uint32_t comm;
    uint32_t how; /* enum skew_comm_end */
    uint64_t ns;
    int32_t result;
    uint32_t reserved;
};

/* A call site, innermost frame first: `frames` uint64_t return addresses follow. One frame when the
 * stack could not be walked. */
struct skew_rec_site {
    struct skew_rec head;
    uint32_t site; /* 1, 2, … within the process */
    uint32_t frames;
};

/* A loaded object: path of `length` bytes follows, padded to a multiple of 8. */
struct skew_rec_module {
    struct skew_rec head;
    uint64_t base; /* difference between addresses in memory and in the file's symbol table */
    uint64_t start;
    uint64_t end;
    uint8_t build_id[20];
    uint32_t build_id_bytes;
    uint32_t length;
    uint32_t reserved;
};

#define SKEW_GRAPH_EVENT_LIST(X)                                                                   \
    X(CAPTURED, "captured")         /* capture → graph */                                          \
    X(INSTANTIATED, "instantiated") /* graph → exec */                                             \
    X(UPDATED, "updated")           /* exec now does what graph says */                            \
    X(CLONED, "cloned")             /* source → graph */                                           \
    X(CHILD, "child")               /* source was added to graph as a child */                     \
    X(GRAPH_DESTROYED, "graph_destroyed")                                                          \
    X(EXEC_DESTROYED, "exec_destroyed")

enum skew_graph_event {
    SKEW_GRAPH_NONE,
#define X(id, name) SKEW_GRAPH_##id,
    SKEW_GRAPH_EVENT_LIST(X)
#undef X
        SKEW_GRAPH_EVENT_COUNT
};

struct skew_rec_graph {
    struct skew_rec head;
    uint32_t event; /* enum skew_graph_event */
    uint32_t reserved;
    uint64_t ns;
    uint64_t capture; /* the driver's capture id, CAPTURED only */
    uint64_t graph;   /* handles are reused by the driver: `ns` decides which one is meant */
    uint64_t source;
    uint64_t exec;
};

/* Shapes of calls that may be count exchanges. Append only. */
#define SKEW_TAP_SHAPE_LIST(X)                                                                     \
    X(ALLGATHER, "allgather") /* int32 or int64 of each rank: counts[E], or top-k ids */           \
    X(SENDRECV, "sendrecv")   /* a send to and a receive from each peer, all alike: counts[E/R] */ \
    X(ALLTOALL, "alltoall")   /* counts[E/R], or one count, for each peer */                       \
    X(MAP, "map")             /* all-gather of uint8: routing map [T][E] of zeros and ones */      \
    X(BROADCAST, "broadcast") /* top-k ids of the root, beside its tokens */                       \
    X(SUM, "sum")             /* all-reduce: tokens [layers][E] of one step */                     \
    X(MAX, "max")             /* all-reduce of one integer: the largest capacity */

enum skew_tap_shape {
    SKEW_TAP_NONE,
#define X(id, name) SKEW_TAP_##id,
    SKEW_TAP_SHAPE_LIST(X)
#undef X
        SKEW_TAP_SHAPES
};

/* Whose values a tap holds. Append only. */
#define SKEW_TAP_SIDE_LIST(X)                                                                      \
    X(OWN, "own")     /* [count]: what this rank contributed */                                    \
    X(WHOLE, "whole") /* [ranks][count]: what every rank contributed */                            \
    X(SENT, "sent")   /* [ranks][count]: what this rank told each peer */                          \
    X(HEARD, "heard") /* [ranks][count]: what each peer told this rank */                          \
    X(RESULT, "result") /* [count]: of a reduction */

enum skew_tap_side {
    SKEW_TAP_SIDE_NONE,
#define X(id, name) SKEW_TAP_SIDE_##id,
    SKEW_TAP_SIDE_LIST(X)
#undef X
        SKEW_TAP_SIDES
};

/* The integers of one small buffer, copied behind its call on the call's own stream. Which call: the group
 * `group` of the spool stream `thread`, and in it on `comm` the operation (sendrecv: the exchange of all sends and
 * receives; alltoall: the all-to-all) number `place`. Comes after the call's own record, in time but not always in
 * reading order, and not at all when the call's record was lost. Followed by `elements` values of `dtype`. */
struct skew_rec_tap {
    struct skew_rec head;
    uint64_t group;
    uint32_t thread;
    uint32_t comm;
    uint32_t place;
    uint8_t shape; /* enum skew_tap_shape */
    uint8_t side;  /* enum skew_tap_side */
    uint8_t dtype; /* ncclDataType_t: int32, int64, uint8, float32 */
    uint8_t reserved;
    uint32_t count; /* elements of one rank or peer */
    uint32_t elements;
    uint32_t root; /* of a broadcast, else 0 */
    uint32_t reserved2;
};

#define SKEW_RANGE_NUMBERS 3u   /* whole numbers of a message that are kept apart from its text */
#define SKEW_RANGE_HOLE    '\1' /* stands in the text where such a number was */
#define SKEW_RANGE_TEXT    126u /* bytes of a text; what is longer was cut */

/* The text of NVTX messages, its whole numbers taken out ("step \1"): however many steps there are, they have one
 * name. Or the name of a domain. `length` bytes follow, padded with zeros. From the application: any bytes. */
struct skew_rec_range_name {
    struct skew_rec head;
    uint32_t name; /* 1, 2, … within the process */
    uint32_t length;
};

enum skew_range_kind { SKEW_RANGE_PUSHED = 0, SKEW_RANGE_MARK = 1 };

struct skew_range {
    uint32_t name;   /* SKEW_REC_RANGE_NAME; 0: there was no room for it */
    uint32_t domain; /* likewise; 0: the default domain, or one whose name is not known */
    uint16_t kind;   /* enum skew_range_kind */
    uint16_t numbers;
    uint32_t reserved;
    uint64_t serial; /* 1, 2, …: ordinal among the ranges and marks of this thread */
    int64_t number[SKEW_RANGE_NUMBERS];
};

/* In which NVTX ranges the thread is: true of its groups from ordinal `group` on, until the next record of this kind
 * in its stream. Without one: in none. Followed by `depth` struct skew_range, outermost first, and then `marks`
 * that came since the record before. */
struct skew_rec_ranges {
    struct skew_rec head;
    uint64_t group;
    uint16_t depth, marks;
    uint16_t deeper;    /* open ranges further in, for which there was no room */
    uint16_t more_marks; /* marks before the first of these, likewise */
};

#define SKEW_ROUND8(n) (((n) + 7u) & ~7u)

#endif
