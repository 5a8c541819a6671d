/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the stand-in driver (our libcuda.so.1) exports beyond the CUDA driver API.
 *
 * Used by the stand-in NCCL and by tests, never by the library under test. Needs no CUDA header.
 * Link against nothing: look the functions up with dlsym() in the libcuda.so.1 that is loaded, and
 * a real driver will simply lack them.
 */
#ifndef STANDIN_CUDA_H
#define STANDIN_CUDA_H

#include <stdint.h>

struct CUstream_st; /* CUstream and cudaStream_t are pointers to this */

/*
 * The body of a device operation. It runs on the worker thread of its stream, after everything that
 * the stream (and its waits on events, and the default-stream rules) puts before it. It may block,
 * for example on another process: only its own stream, and what waits for that stream, is held up.
 * It must not call the CUDA API, nor wait for work that stands behind it on the same stream.
 *
 * On entry *start_ns is the device time at which the operation could start and *end_ns is 0.
 * Under SKEWSCOPE_STANDIN_CLOCK=real, what it leaves there is ignored: the operation lasted as long
 * as the call took. Under `virtual` and `paced`, the operation occupied the device from *start_ns
 * to *end_ns; an end before the start is taken as a duration of zero.
 *
 * Returns 0, or a CUresult (for example 719, launch failed) that every later call in the context
 * then reports, as a real device fault does.
 */
typedef int (*standin_run_fn)(void *user, uint64_t *start_ns, uint64_t *end_ns);

/*
 * Puts an operation on `stream` (a real handle, NULL for the legacy default stream, 1 or 2 as in
 * CUDA) that looks like a kernel of the given (mangled) name to CUPTI, to graphs and to events.
 * The name is copied. The device is that of the stream's context.
 *
 * Under stream capture it becomes a kernel node instead, and `run` is called once a replay of each
 * executable graph made from it; replays of two executable graphs may overlap.
 *
 * Returns 0 or a CUresult. On success the driver owns `user` and calls `destroy` (which may be
 * NULL) exactly once, from any thread: after `run` has returned, or, when captured, after the last
 * graph and executable graph that holds the node is gone. On failure `user` stays the caller's.
 */
int standin_device_op(struct CUstream_st *stream, const char *kernel_name, standin_run_fn run,
                      void *user, void (*destroy)(void *user));

/*
 * The same for what copy engines do: to CUPTI it is one batch of `copies` copies between devices,
 * of `bytes` in all, from where `run` leaves *start_ns: what the operation waited for before has no
 * record, as a wait on memory has none. In replays of a graph it shows as so many copies, one after
 * another. (To who lists a graph's nodes it is one kernel node.)
 */
int standin_device_copies(struct CUstream_st *stream, uint32_t copies, uint64_t bytes,
                          standin_run_fn run, void *user, void (*destroy)(void *user));

/*
 * The same for a kernel that does nothing but last `duration_ns` of device time. Under
 * SKEWSCOPE_STANDIN_CLOCK=real and `paced` the stream really is busy for that long.
 */
int standin_device_work(struct CUstream_st *stream, const char *kernel_name, uint64_t duration_ns);

/* 0 real, 1 virtual, 2 paced: what SKEWSCOPE_STANDIN_CLOCK selected. */
int standin_clock_mode(void);

/*
 * Device time now, in ns. Real and paced: CLOCK_MONOTONIC. Virtual: the latest end of anything that
 * has completed in this process, or what the calling thread has synchronised with if that is later.
 */
uint64_t standin_clock_now(int device);

#endif
