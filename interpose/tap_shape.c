/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The recogniser: which calls may be count exchanges, by what a call alone can tell. Whether one
 * is, is decided later, outside the target, by whether it explains the payload that follows
 * (analysis/tap.h). No state, any thread.
 */
#include "tap_private.h"

#define LEAST_MAP 16u /* elements: fewer are flags of something else */
#define LEAST_SUM 8u
#define MOST      ((int64_t)1 << 40) /* no count of tokens and no id is larger */

unsigned skew_tap_element(int dtype)
{
    switch (dtype) {
    case ncclUint8:
        return 1;
    case ncclInt32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
        return 8;
    default:
        return 0;
    }
}

static bool is_integer(int dtype)
{
    return dtype == ncclInt32 || dtype == ncclInt64;
}

enum skew_tap_shape skew_tap_shape_of(uint32_t op, int dtype, uint64_t count, uint32_t arg,
                                      int ranks)
{
    if (ranks < 2 || count < 1 || count > UINT32_MAX)
        return SKEW_TAP_NONE;
    switch (op) {
    case SKEW_OP_ALLGATHER:
        if (dtype == ncclUint8)
            return count >= LEAST_MAP ? SKEW_TAP_MAP : SKEW_TAP_NONE;
        return is_integer(dtype) && count > 1 ? SKEW_TAP_ALLGATHER : SKEW_TAP_NONE;
    case SKEW_OP_ALLTOALL:
        return is_integer(dtype) ? SKEW_TAP_ALLTOALL : SKEW_TAP_NONE;
    case SKEW_OP_BROADCAST:
        return is_integer(dtype) ? SKEW_TAP_BROADCAST : SKEW_TAP_NONE;
    case SKEW_OP_ALLREDUCE:
        if (arg == ncclSum && (is_integer(dtype) || dtype == ncclFloat32) && count >= LEAST_SUM)
            return SKEW_TAP_SUM;
        return arg == ncclMax && is_integer(dtype) && count == 1 ? SKEW_TAP_MAX : SKEW_TAP_NONE;
    default:
        return SKEW_TAP_NONE;
    }
}

void skew_tap_pairs_add(struct skew_tap_pairs *pairs, bool send, const void *buffer, uint64_t count,
                        int dtype, uint32_t peer, ncclComm_t handle, cudaStream_t stream)
{
    uint32_t *calls = send ? &pairs->sends : &pairs->recvs;
    const uint8_t **first = send ? &pairs->send : &pairs->recv;
    if (!pairs->sends && !pairs->recvs) {
        pairs->handle = handle;
        pairs->stream = stream;
        pairs->count = count;
        pairs->dtype = dtype;
    }
    if (*calls == 0)
        *first = buffer;
    /* Buffers may well be NULL where there is nothing, but not where there are counts. */
    uint64_t at = (uintptr_t)*first + (uint64_t)*calls * count * skew_tap_element(dtype);
    if (handle != pairs->handle || stream != pairs->stream || dtype != pairs->dtype ||
        count != pairs->count || count == 0 || count > UINT32_MAX || peer != *calls || !buffer ||
        at != (uintptr_t)buffer)
        pairs->broken = true;
    (*calls)++;
}

bool skew_tap_pairs_whole(const struct skew_tap_pairs *pairs, int ranks)
{
    return !pairs->broken && ranks > 1 && pairs->sends == (uint32_t)ranks &&
           pairs->recvs == (uint32_t)ranks;
}

static bool plausible_floats(const float *values, uint32_t elements)
{
    bool any = false;
    for (uint32_t i = 0; i < elements; i++) {
        if (!(values[i] >= 0 && values[i] <= (float)MOST) || values[i] != (float)(int64_t)values[i])
            return false;
        any |= values[i] > 0;
    }
    return any; /* gradients are all zero now and then */
}

bool skew_tap_plausible(enum skew_tap_shape shape, int dtype, const void *values, uint32_t elements)
{
    if (dtype == ncclFloat32)
        return plausible_floats(values, elements);
    for (uint32_t i = 0; i < elements; i++) {
        int64_t value = dtype == ncclInt64   ? ((const int64_t *)values)[i]
                        : dtype == ncclInt32 ? ((const int32_t *)values)[i]
                                             : ((const uint8_t *)values)[i];
        if (value < 0 || value > (shape == SKEW_TAP_MAP ? 1 : MOST))
            return false;
    }
    return true;
}
