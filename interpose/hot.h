/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot path: what every wrapped data call runs, on the application's thread. It stores a few
 * words and returns; it takes no lock, makes no system call, allocates and formats nothing.
 * Whatever is rare stands in …_slow functions. Keep it on one screen.
 */
#ifndef SKEW_INTERPOSE_HOT_H
#define SKEW_INTERPOSE_HOT_H

#include <string.h>

#include "internal.h"

/* The depth guard. NCCL's own functions call exported ones (ncclBcast calls ncclBroadcast; before
 * 2.24 ncclSend calls ncclGroupStart): these inner calls must not be recorded.
 * @return this thread's state, now BUSY; NULL: call the real function and nothing else. */
static inline struct skew_thread *skew_enter(void)
{
    struct skew_thread *thread = skew_self;
    if (skew_likely(thread->gate == SKEW_GATE_OPEN)) {
        thread->gate = SKEW_GATE_BUSY;
        thread->fast_limit = NULL;
        return thread;
    }
    return skew_enter_slow(thread);
}

static inline void skew_leave(struct skew_thread *thread)
{
    thread->gate = SKEW_GATE_OPEN;
    thread->fast_limit = thread->limit;
}

/* Only the call that launches something needs the time: one outside a group, or the outermost End.
 */
static inline uint64_t skew_call_ns(const struct skew_thread *thread, uint32_t launching_depth)
{
    return thread->depth == launching_depth ? skew_now() : 0;
}

static inline bool skew_result_ok(ncclResult_t result)
{
    return result == ncclSuccess || result == ncclInProgress;
}

/* Makes room for one cell on the lane of (handle, stream): in the spool or in scratch. */
static inline void skew_cell_room(struct skew_thread *thread, ncclComm_t handle,
                                  cudaStream_t stream)
{
    if (skew_unlikely(thread->cell >= thread->limit || thread->last_handle != handle ||
                      thread->last_stream != stream))
        skew_cell_slow(thread, handle, stream);
}

/* Fetches a line that will soon be written. Never faults. */
static inline void skew_fetch_write(const void *at)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)at)); /* a nop where there is none */
#else
    __builtin_prefetch(at, 1, 3);
#endif
}

#define SKEW_FETCH_AHEAD 512u /* bytes of cells */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ &&
                   offsetof(struct skew_cell, op) % 4 == 0 &&
                   offsetof(struct skew_cell, lane) == offsetof(struct skew_cell, op) + 2,
               "skew_cell_put() stores three fields at once");

/* A cell of last_type. */
static inline void skew_cell_put_like_last(struct skew_thread *thread, uint32_t op, uint64_t count,
                                           uint32_t peer)
{
    struct skew_cell *cell = thread->cell;
    uint32_t rest = thread->last_lane_bits | op;
    cell->count = count;
    cell->peer = peer;
    memcpy(&cell->op, &rest, sizeof(rest));
    skew_fetch_write((uint8_t *)cell + SKEW_FETCH_AHEAD);
    thread->cell = cell + 1;
}

/* A call of another data type than the one before. Types of count exchanges always come this way,
 * so that the tap sees where their buffers lie. */
static inline void skew_cell_put(struct skew_thread *thread, uint32_t op, uint64_t count,
                                 int datatype, uint32_t peer)
{
    uint32_t type = (unsigned)datatype < 255 ? (unsigned)datatype : 255;
    uint32_t watch = __atomic_load_n(&skew_hot.tap_types, __ATOMIC_RELAXED) & SKEW_TAP_INTEGERS;
    bool watched = type < 32 && (watch >> type & 1);
    thread->last_lane_bits = (thread->last_lane_bits & 0xffff0000u) | type << 8;
    thread->last_type = type == 255 || watched ? SKEW_NO_TYPE : datatype;
    skew_cell_put_like_last(thread, op, count, peer);
}

/* The usual send or receive: inside a group, on the same communicator and stream and of the same
 * data type as the one before. It is recorded before the real call and left by a tail jump. That is
 * safe because nothing of a group exists before its outermost End succeeds, and because a failing
 * call makes that End fail (NCCL's ncclGroupErrCheck; tests/preload/groups.c,
 * tests/preload/real_nccl.py). Re-entry of ncclGroupStart and End from the real ncclSend, before
 * NCCL 2.24, only moves the depth up and down. */
static inline bool skew_cell_fast(const struct skew_thread *thread, ncclComm_t handle,
                                  cudaStream_t stream, int datatype)
{
    return skew_mostly(thread->last_handle == handle) &&
           skew_mostly(thread->last_stream == stream) &&
           skew_mostly(thread->cell < thread->fast_limit) &&
           skew_mostly(thread->last_type == datatype);
}

/* After the real call returned: remember what it asked for. Outside a group this is the whole
 * group. */
static inline __attribute__((always_inline)) void
skew_record(struct skew_thread *thread, ncclResult_t result, uint64_t call_ns, uint32_t op,
            uint64_t count, int datatype, uint32_t peer, ncclComm_t handle, cudaStream_t stream)
{
    if (skew_unlikely(!skew_result_ok(result)))
        return;
    skew_cell_room(thread, handle, stream);
    skew_cell_put(thread, op, count, datatype, peer);
    thread->others += op > SKEW_OP_RECV;
    if (thread->depth == 0)
        skew_group_commit(thread, call_ns, (uintptr_t)__builtin_return_address(0),
                          (uintptr_t)__builtin_frame_address(0), result);
}

/* After skew_record(): a call that may be a count exchange, by its data type. `types`: those that
 * the tap looks at in calls of this kind. `arg`: peer, root or reduction. */
static inline void skew_tap(struct skew_thread *thread, uint32_t types, ncclResult_t result,
                            uint32_t op, const void *send, const void *recv, uint64_t count,
                            int datatype, uint32_t arg, ncclComm_t handle, cudaStream_t stream)
{
    uint32_t watched = __atomic_load_n(&skew_hot.tap_types, __ATOMIC_RELAXED) & types;
    if (skew_unlikely(watched & 1u << (datatype & 31)))
        skew_tap_call(thread, result, op, send, recv, count, datatype, arg, handle, stream);
}

static inline void skew_fetch_code(const void *from, const void *to)
{
    for (const char *at = from; at < (const char *)to; at += 64)
        __builtin_prefetch(at, 0, 2);
}

/* Before the outermost GroupStart. Between two exchanges the application has used the caches for
 * itself. What this one will need is asked for ahead, all at once: one after another, at the time
 * of use, each line would cost a trip to memory. Here, what the first sends need. */
static inline void skew_group_fetch(const struct skew_thread *thread)
{
    for (unsigned i = 0; i < 4; i++)
        skew_fetch_write((const char *)thread->rec + 64 * i);
    skew_fetch_write(&thread->seg);
}

/* After the outermost GroupStart: begins a record on the communicator and stream of the one before,
 * so that already the first send takes the fast way. Of no consequence if there is none. */
static inline void skew_group_open(struct skew_thread *thread)
{
    extern const char __start_skew_hot_text[] __attribute__((visibility("hidden")));
    extern const char __stop_skew_hot_text[] __attribute__((visibility("hidden")));
    struct skew_cell *first = (struct skew_cell *)(thread->rec + 1);
    if (skew_unlikely((uintptr_t)first + SKEW_LEAST_CELLS * sizeof(*first) >
                      (uintptr_t)thread->limit))
        return; /* needs another segment: in skew_cell_slow() */
    thread->cell = first;
    thread->lanes = 1;
    if (skew_unlikely(thread->lane_seen !=
                      __atomic_load_n(&skew_hot.comms_changed, __ATOMIC_ACQUIRE))) {
        thread->last_handle = NULL;
        thread->lanes = 0;
    }
    /* And what the end of the group needs comes during the sends. */
    for (unsigned i = 4; i < SKEW_FETCH_AHEAD / 64; i++)
        skew_fetch_write((const char *)thread->rec + 64 * i);
    skew_fetch_write(thread->seg);
    skew_fetch_write(thread->comm);
    skew_fetch_code(__start_skew_hot_text, __stop_skew_hot_text);
    skew_fetch_code((const char *)skew_hot.clock, (const char *)skew_hot.clock + 256);
}

#endif
