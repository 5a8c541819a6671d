/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot path: what every wrapped data call runs, on the application's thread. It stores a few words
 * and returns; it takes no lock, makes no system call, allocates and formats nothing. Whatever is rare
 * stands in …_slow functions. Keep it on one screen.
 */
#ifndef SKEW_INTERPOSE_HOT_H
#define SKEW_INTERPOSE_HOT_H

#include "internal.h"

/* The depth guard. NCCL's own functions call exported ones (ncclBcast calls ncclBroadcast; before
 * 2.24 ncclSend calls ncclGroupStart): these inner calls must not be recorded.
 * @return this thread's state, now BUSY; NULL: call the real function and nothing else. */
static inline struct skew_thread *skew_enter(void)
{
    struct skew_thread *thread = skew_self;
    if (skew_likely(thread->gate == SKEW_GATE_OPEN)) {
        thread->gate = SKEW_GATE_BUSY;
        return thread;
    }
    return skew_enter_slow(thread);
}

static inline void skew_leave(struct skew_thread *thread)
{
    thread->gate = SKEW_GATE_OPEN;
}

/* Only the call that launches something needs the time: one outside a group, or the outermost End. */
static inline uint64_t skew_call_ns(const struct skew_thread *thread, uint32_t launching_depth)
{
    return thread->depth == launching_depth ? skew_now() : 0;
}

static inline bool skew_result_ok(ncclResult_t result)
{
    return result == ncclSuccess || result == ncclInProgress;
}

/* Room for one cell on the lane of (handle, stream); in scratch, when it will be counted as lost. */
static inline void skew_cell_room(struct skew_thread *thread, ncclComm_t handle, cudaStream_t stream)
{
    if (skew_unlikely(thread->cell >= thread->limit || thread->last_handle != handle ||
                      thread->last_stream != stream))
        skew_cell_slow(thread, handle, stream);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "skew_cell_put() packs two fields in one store");

static inline void skew_cell_put(struct skew_thread *thread, uint32_t op, uint64_t count,
                                 int datatype, uint32_t peer)
{
    uint64_t type = (unsigned)datatype < 255 ? (unsigned)datatype : 255;
    uint64_t *cell = (uint64_t *)thread->cell;
    cell[0] = count;
    cell[1] = thread->last_lane_bits | type << 40 | (uint64_t)op << 32 | peer;
    thread->cell++;
}

/* The usual send or receive: inside a group, on the same communicator and stream as the one before. It is
 * recorded before the real call and left by a tail jump. That is safe because nothing of a group exists
 * before its outermost End succeeds, and because a failing call makes that End fail (NCCL's
 * ncclGroupErrCheck; tests/preload/groups.c, tests/preload/real_nccl.py). Re-entry of ncclGroupStart and
 * End from the real ncclSend, before NCCL 2.24, only moves the depth up and down. */
static inline bool skew_cell_fast(const struct skew_thread *thread, ncclComm_t handle,
                                  cudaStream_t stream)
{
    return skew_likely(thread->last_handle == handle) && skew_likely(thread->last_stream == stream) &&
           skew_likely(thread->cell < thread->limit) && skew_likely(thread->gate == SKEW_GATE_OPEN);
}

/* After the real call returned: remember what it asked for. Outside a group this is the whole group. */
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

#endif
