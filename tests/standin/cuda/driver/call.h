/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every exported driver function does around its body: is the driver initialised, may the call
 * be made while streams are being captured, does CUPTI want to know. Included by the generated
 * wrappers (gen_cuda.py) and by the files that need the calling thread's state.
 */
#ifndef STANDIN_CALL_H
#define STANDIN_CALL_H

#include "engine.h"

/* Traits of an API function, from its line in driver.api. */
enum {
    DRV_NOINIT = 1,     /* may be called before cuInit */
    DRV_UNSAFE = 2,     /* prohibited while a capture that cares is under way */
    DRV_PER_THREAD = 4, /* the _ptsz or _ptds spelling: stream 0 is the calling thread's own */
};

enum { SI_CONTEXT_DEPTH = 32 };

/* The calling thread's state; only that thread touches it. */
struct si_thread {
    uint64_t token;   /* names the thread; 0 not yet given */
    uint64_t host_ns; /* device time up to which this thread has synchronised (virtual clock) */
    CUcontext contexts[SI_CONTEXT_DEPTH];
    int depth;
    int capture_mode;
    bool per_thread_default;
    bool in_host_work; /* in a host function or device operation, which may not call CUDA */
    struct standin_api_call *call; /* innermost traced call */
};

extern __thread struct si_thread si_thread;

uint64_t si_thread_token(void);

/* 0 never initialised, 1 ready, 2 forked after cuInit, 3 shut down. Written by cuInit and atfork.
 */
extern atomic_int si_state;
extern _Atomic(const struct standin_tracer *) si_tracer;

struct drv_call {
    struct standin_api_call api;
    CUresult result;
    bool traced;
    bool outer_per_thread;
};

CUresult si_state_error(void);
CUresult si_capture_forbid_unsafe(void);
void si_call_trace_enter(struct drv_call *call);
void si_call_trace_exit(struct drv_call *call);

static inline CUresult drv_enter(struct drv_call *call, uint32_t cbid, const char *name,
                                 const void *params, unsigned traits)
{
    call->traced = false;
    call->outer_per_thread = si_thread.per_thread_default;
    si_thread.per_thread_default = (traits & DRV_PER_THREAD) != 0;
    if (!(traits & DRV_NOINIT) &&
        !SI_LIKELY(atomic_load_explicit(&si_state, memory_order_relaxed) == 1))
        return si_state_error();
    if (!SI_LIKELY(!si_thread.in_host_work) && !(traits & DRV_NOINIT))
        return CUDA_ERROR_NOT_PERMITTED;
    if (!SI_LIKELY(atomic_load_explicit(&si_tracer, memory_order_relaxed) == NULL)) {
        call->api.cbid = cbid;
        call->api.name = name;
        call->api.params = params;
        si_call_trace_enter(call);
    }
    if ((traits & DRV_UNSAFE) != 0)
        return si_capture_forbid_unsafe();
    return CUDA_SUCCESS;
}

static inline CUresult drv_leave(struct drv_call *call, CUresult result)
{
    call->result = result;
    if (call->traced)
        si_call_trace_exit(call);
    si_thread.per_thread_default = call->outer_per_thread;
    return result;
}

#endif
