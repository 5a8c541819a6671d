/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool's records: what stands in its segments. Part of spool.h, which says how they are
 * written and read; include that.
 */
#ifndef SKEW_SPOOL_RECORDS_H
#define SKEW_SPOOL_RECORDS_H

#include <stdint.h>

enum skew_rec_type {
    /* stream 0 */
    SKEW_REC_PROCESS = 1,      /* struct skew_rec_text: what = enum skew_process_text */
    SKEW_REC_THREAD = 2,       /* struct skew_rec_thread */
    SKEW_REC_COMM = 3,         /* struct skew_rec_comm */
    SKEW_REC_COMM_END = 4,     /* struct skew_rec_comm_end */
    SKEW_REC_SITE = 5,         /* struct skew_rec_site */
    SKEW_REC_MODULE = 6,       /* struct skew_rec_module */
    SKEW_REC_GRAPH = 7,        /* struct skew_rec_graph */
    SKEW_REC_DIAG = 8,         /* struct skew_rec_text: what = enum skew_diag */
    SKEW_REC_TAP = 9,          /* struct skew_rec_tap */
    SKEW_REC_TIER = 16,        /* struct skew_rec_tier */
    SKEW_REC_KERNEL_NAME = 17, /* struct skew_rec_text: what = number of the name, from 1 */
    SKEW_REC_RANGE_NAME = 18,  /* struct skew_rec_range_name */
    /* streams 1, 2, … */
    SKEW_REC_GROUP = 32, /* struct skew_rec_group */
    SKEW_REC_GROUP_PART =
        33,             /* struct skew_rec_group, lanes 0: earlier cells of a GROUP that follows */
    SKEW_REC_LOSS = 34, /* struct skew_rec_loss */
    SKEW_REC_LAUNCH = 35, /* struct skew_rec_launch */
    SKEW_REC_RANGES = 36, /* struct skew_rec_ranges */
    /* streams 0, 1, 2, … */
    SKEW_REC_TIME = 48,        /* struct skew_rec_time */
    SKEW_REC_CLOCK = 49,       /* struct skew_rec_clock */
    SKEW_REC_KERNEL = 50,      /* struct skew_rec_kernel */
    SKEW_REC_REPLAY = 51,      /* struct skew_rec_replay */
    SKEW_REC_BACKEND_CALL = 52 /* struct skew_rec_backend_call */
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
    SKEW_LANE_CAPTURED = 1, /* the stream was being captured into a CUDA graph: not executed now */
    SKEW_LANE_CAPTURE_UNKNOWN = 2, /* no driver function to ask was found, or it failed */
    SKEW_LANE_MAY_COPY =
        4 /* holds collectives that NCCL may do by copy engines, without a kernel */
};

/* One distinct (communicator, stream) of a group, in order of first use. */
struct skew_lane {
    uint32_t comm;  /* struct skew_rec_comm.comm */
    uint32_t flags; /* enum skew_lane_flags */
    uint64_t stream;
    uint64_t exchange_seq; /* ordinal, on this communicator, of the group's first exchange; lost
                              ones count */
    uint64_t op_seq;       /* ordinal of its first other collective, likewise */
    uint64_t capture;      /* the driver's capture id when CAPTURED, else 0 */
};

/* A whole outermost group, or one call outside a group. GROUP_PART has the same shape, with cells
 * but no lanes: its cells come before those of the GROUP record with the same `group` and use that
 * record's lanes. Parts whose `group` is not that of the next GROUP record belong to a group that
 * came to nothing: drop them. Followed by `cells` struct skew_cell and then `lanes` struct
 * skew_lane. Only groups whose outermost End returned Success or InProgress exist. Cells keep the
 * order of the calls.
 *
 * The exchanges of one group on one communicator take ordinals in this order: one for all SEND and
 * RECV cells (if there is any), then one for each ALLTOALL cell, then one for each all-to-all-v
 * call (its ALLTOALLV_SEND cells, then its ALLTOALLV_RECV cells). */
struct skew_rec_group {
    struct skew_rec head;
    uint64_t call_ns;   /* before the real outermost GroupEnd, or the real call */
    uint64_t return_ns; /* after it returned */
    uint64_t group; /* ordinal within this stream, which names the group; gaps are lost or failed
                       groups */
    uint32_t cells;
    uint32_t site; /* struct skew_rec_site.site; 0: none */
    uint16_t lanes;
    int16_t result; /* ncclResult_t: 0, or 7 for non-blocking communicators */
    uint32_t reserved;
};

/* Exchanges of one communicator that were lost before its exchange `before_seq`, which the GROUP
 * record just before this one holds, so that the n-th send still meets the n-th receive. Followed
 * by `peers` struct skew_loss_peer. The totals are in the head's counters already. */
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

/* When a launch occupied the device: the part of group (`stream`, `group`) that is on communicator
 * `comm`. Comes some time after its GROUP record, from whichever thread found that it was over. */
struct skew_rec_time {
    struct skew_rec head;
    uint32_t comm;
    uint32_t stream; /* spool stream of the GROUP record */
    uint64_t group;
    uint64_t start_ns; /* CLOCK_MONOTONIC */
    uint64_t end_ns;
    uint64_t error_ns; /* both are within ± this of the truth, but for: */
    uint64_t
        start_slack_ns; /* the start may be earlier by this, since the host was still launching */
    uint64_t end_slack_ns; /* the end may be earlier by this: it was over before the host could mark
                              it */
    uint64_t launch_ns;    /* replay of a CUDA graph: call_ns of the LAUNCH record; else 0 */
    uint64_t exec;         /* … and its exec */
    uint32_t source;       /* enum skew_time_source */
    uint32_t reserved;
};

/* When one NCCL kernel of a replayed graph occupied the device. Which of the captured launches it
 * is follows from its place among the graph's NCCL kernels, by start. */
struct skew_rec_replay {
    struct skew_rec head;
    uint64_t launch_ns; /* call_ns of the LAUNCH record … */
    uint64_t exec;      /* … and its exec */
    uint64_t start_ns;
    uint64_t end_ns;
    uint64_t error_ns;
    uint32_t ordinal; /* 0, 1, … */
    uint32_t count;   /* NCCL kernels of this replay; 0: it had none, and the times are 0 */
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

/* Device against host: at `device_ns` on the device's own clock, counted from the first CLOCK
 * record of this `clock`, CLOCK_MONOTONIC showed something between low_ns and high_ns. */
struct skew_rec_clock {
    struct skew_rec head;
    uint32_t clock;  /* 1, 2, … within the process: one a CUDA context, or CUPTI's */
    uint32_t source; /* enum skew_time_source */
    uint64_t device_ns;
    uint64_t low_ns;
    uint64_t high_ns;
};

/* Device work that is no launch of a recorded group, from CUPTI. Kernels of one stream that follow
 * each other closely, with no NCCL work between, are merged into one record (docs/time-tiers.md).
 */
struct skew_rec_kernel {
    struct skew_rec head;
    uint32_t name;     /* of the first, SKEW_REC_KERNEL_NAME; 0: a copy */
    uint32_t kernels;  /* merged into this one */
    uint32_t device;   /* CUDA ordinal */
    uint32_t stream;   /* CUPTI's number of the stream */
    uint64_t start_ns; /* CLOCK_MONOTONIC */
    uint64_t end_ns;
    uint64_t busy_ns; /* time that kernels ran within start … end */
};

/* A call that is noted and not understood: when it was made, and no more. */
struct skew_rec_backend_call {
    struct skew_rec head;
    uint64_t ns;     /* before the real call */
    uint64_t object; /* the first argument as it came: a handle, or where the call stores one */
    uint32_t call;   /* enum skew_backend_call */
    uint32_t site;   /* struct skew_rec_site.site; 0: none */
    int32_t tid;
    uint32_t reserved;
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
    SKEW_TEXT_CMDLINE = 2, /* arguments joined by NUL */
    SKEW_TEXT_HOST = 3,
    SKEW_TEXT_ENV = 4,  /* NAME=value; one record a variable (a fixed list, see docs/schema.md) */
    SKEW_TEXT_OUT = 5,  /* absolute output directory */
    SKEW_TEXT_NCCL = 6, /* "version path route": 22809 /…/libnccl.so.2 next|handle|named */
    SKEW_TEXT_VERSION = 7, /* skewscope's own version */
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
    X(TAP_OFF, "tap_off", "info")                                                                  \
    X(TIMING, "timing", "info")                                                                    \
    X(GRAPH_UNSEEN, "graph_unseen", "warning")                                                     \
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

enum skew_comm_end {
    SKEW_END_FINALIZE = 1,
    SKEW_END_DESTROY = 2,
    SKEW_END_ABORT = 3,
    SKEW_END_REVOKE = 4
};

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
    X(CAPTURED, "captured")         /* capture → graph */                                        \
    X(INSTANTIATED, "instantiated") /* graph → exec */                                           \
    X(UPDATED, "updated")           /* exec now does what graph says */                            \
    X(CLONED, "cloned")             /* source → graph */                                         \
    X(CHILD, "child")               /* source was added to graph as a child */                     \
    X(GRAPH_DESTROYED, "graph_destroyed")                                                          \
    X(EXEC_DESTROYED, "exec_destroyed")                                                            \
    X(LAUNCH_CAPTURED, "launch_captured") /* exec was launched on a stream that is captured: part  \
                                             of that capture */

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
    uint64_t capture; /* the driver's capture id, CAPTURED and LAUNCH_CAPTURED only */
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
    X(OWN, "own")       /* [count]: what this rank contributed */                                  \
    X(WHOLE, "whole")   /* [ranks][count]: what every rank contributed */                          \
    X(SENT, "sent")     /* [ranks][count]: what this rank told each peer */                        \
    X(HEARD, "heard")   /* [ranks][count]: what each peer told this rank */                        \
    X(RESULT, "result") /* [count]: of a reduction */

enum skew_tap_side {
    SKEW_TAP_SIDE_NONE,
#define X(id, name) SKEW_TAP_SIDE_##id,
    SKEW_TAP_SIDE_LIST(X)
#undef X
        SKEW_TAP_SIDES
};

/* The integers of one small buffer, copied behind its call on the call's own stream. Which call:
 * the group `group` of the spool stream `thread`, and in it on `comm` the operation (sendrecv: the
 * exchange of all sends and receives; alltoall: the all-to-all) number `place`. Comes after the
 * call's own record, in time but not always in reading order, and not at all when the call's record
 * was lost. Followed by `elements` values of `dtype`. */
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

/* The text of NVTX messages, its whole numbers taken out ("step \1"): however many steps there are,
 * they have one name. Or the name of a domain. `length` bytes follow, padded with zeros. From the
 * application: any bytes. */
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

/* In which NVTX ranges the thread is: true of its groups from ordinal `group` on, until the next
 * record of this kind in its stream. Without one: in none. Followed by `depth` struct skew_range,
 * outermost first, and then `marks` that came since the record before. */
struct skew_rec_ranges {
    struct skew_rec head;
    uint64_t group;
    uint16_t depth, marks;
    uint16_t deeper;     /* open ranges further in, for which there was no room */
    uint16_t more_marks; /* marks before the first of these, likewise */
};

#define SKEW_ROUND8(n) (((n) + 7u) & ~7u)

#endif
