/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the driver may be used: cuInit, fork (a child of a process that called cuInit gets
 * errors, as with the real driver; a child of one that did not may call cuInit itself) and process
 * exit (workers may still be blocked in a peer that is gone, so nothing is joined).
 */
#include <stdlib.h>

#include "call.h"
#include "drv_impl.h"
#include "device.h"
#include "trace.h"

enum { STATE_NEW, STATE_READY, STATE_FORKED, STATE_DOWN };

__thread struct si_thread si_thread;
atomic_int si_state;

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_ullong next_token = 1;

uint64_t si_thread_token(void)
{
    if (si_thread.token == 0)
        si_thread.token = atomic_fetch_add(&next_token, 1);
    return si_thread.token;
}

CUresult si_state_error(void)
{
    return atomic_load(&si_state) == STATE_DOWN ? CUDA_ERROR_DEINITIALIZED
                                                : CUDA_ERROR_NOT_INITIALIZED;
}

static void after_fork_in_child(void)
{
    atomic_store(&si_state, STATE_FORKED);
    si_thread = (struct si_thread){.depth = 0};
    atomic_store(&si_tracer, NULL);
}

static void at_exit(void)
{
    atomic_store(&si_state, STATE_DOWN);
}

CUresult drv_cuInit(unsigned int flags)
{
    CUresult err = CUDA_SUCCESS;
    if (flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (atomic_load(&si_state) == STATE_READY)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&init_lock);
    if (atomic_load(&si_state) == STATE_NEW) {
        if (si_options_read() < 0) {
            err = CUDA_ERROR_INVALID_VALUE;
        } else if (si_options.devices == 0) {
            err = CUDA_ERROR_NO_DEVICE;
        } else if (si_devices_init() < 0) {
            err = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            si_clock_begin();
            pthread_atfork(NULL, NULL, after_fork_in_child);
            atexit(at_exit);
            atomic_store(&si_state, STATE_READY);
            struct standin_resource up = {.cbid = 5}; /* CU_INIT_FINISHED */
            si_trace_resource(&up);
        }
    } else if (atomic_load(&si_state) != STATE_READY) {
        err = si_state_error();
    }
    pthread_mutex_unlock(&init_lock);
    return err;
}
