/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files about device time share: how it is taken (timing.c), pairs of CUDA events
 * (timing_events.c), the device's clock against the host's (timing_clock.c). Nothing here ever
 * waits for the device, and every row of driver calls stands between skew_driver_enter() and
 * skew_driver_leave().
 */
#ifndef SKEW_INTERPOSE_TIMING_H
#define SKEW_INTERPOSE_TIMING_H

#include "internal.h"

#define SKEW_TIME_CONTEXTS 16u   /* CUDA contexts of a process whose launches are timed */
#define SKEW_TIME_LAUNCHES 8u    /* communicators of one group … */
#define SKEW_TIME_STREAMS  4u    /* … and streams of one of them; more are not timed */
#define SKEW_TIME_FLIGHTS  1024u /* launches of one thread under way; a power of two */
#define SKEW_TIME_POOL     4096u /* events of one context */
#define SKEW_CLOCK_ANCHORS 16u

/* CUDA's, as in cuda.h */
#define CU_NOT_READY           600
#define CU_STREAM_NON_BLOCKING 1u
#define CU_CAPTURE_RELAXED     2

/* The driver's functions that we call. None of them waits for the device. */
#define SKEW_DRIVER_LIST(X)                                                                        \
    X(exchange_capture_mode, "cuThreadExchangeStreamCaptureMode", (int *mode))                     \
    X(context_current, "cuCtxGetCurrent", (void **context))                                        \
    X(context_push, "cuCtxPushCurrent_v2", (void *context))                                        \
    X(context_pop, "cuCtxPopCurrent_v2", (void **context))                                         \
    X(context_device, "cuCtxGetDevice", (int *device))                                             \
    X(primary_state, "cuDevicePrimaryCtxGetState", (int device, unsigned *flags, int *active))     \
    X(stream_context, "cuStreamGetCtx", (void *stream, void **context))                            \
    X(stream_create, "cuStreamCreate", (void **stream, unsigned flags))                            \
    X(event_create, "cuEventCreate", (void **event, unsigned flags))                               \
    X(event_record, "cuEventRecord", (void *event, void *stream))                                  \
    X(event_query, "cuEventQuery", (void *event))                                                  \
    X(event_elapsed, "cuEventElapsedTime", (float *ms, void *from, void *to))

struct skew_driver {
#define X(field, name, arguments) int(*field) arguments;
    SKEW_DRIVER_LIST(X)
#undef X
    int (*context_id)(void *context, unsigned long long *id); /* CUDA 12; NULL: not there */
};

/* The host's clock at one moment of the device's: between low and high. */
struct skew_anchor {
    double device_ns; /* since the first anchor */
    double low, high; /* CLOCK_MONOTONIC, ns after skew_clock.origin_ns */
};

/* A device's clock. Guarded by `lock`. */
struct skew_clock {
    uint32_t lock;
    uint32_t number; /* in CLOCK records */
    uint32_t source; /* enum skew_time_source */
    uint32_t anchors;
    uint64_t origin_ns;
    struct skew_anchor raw[SKEW_CLOCK_ANCHORS]; /* the latest, as measured */
    struct skew_anchor best;                    /* the newest, narrowed by those before */
    double lag;              /* anchors contradict the first one by this, ns: a simulated clock */
    double rate, rate_error; /* host ns gained a device ns */
};

struct skew_context {
    void *context;
    unsigned long long id;
    int device;
    uint32_t gone; /* never to be touched again */
    uint32_t lock; /* guards the next three */
    uint32_t made, free;
    void *event[SKEW_TIME_POOL];
    struct skew_clock clock;
    void *stream; /* ours, for anchors; NULL: it could not be made */
    void *anchor; /* event of clock.best */
    void *try_event[4];
    void *pair[2]; /* two events in a row: what one costs */
    uint32_t pair_pending,
        waiting; /* 1: try_event[0] was recorded at waiting_ns and is not over yet */
    uint64_t waiting_ns, due_ns, interval_ns;
};

/* One communicator's part of one group, from its launch to the end on the device. */
struct skew_flight {
    uint32_t comm, stream; /* as in struct skew_rec_time */
    uint64_t group;
    struct skew_context *context;
    void *start[SKEW_TIME_STREAMS]; /* on every stream: the last one to be over is the start */
    void *end;
    void *cuda_stream;           /* where the kernel goes */
    uint64_t call_ns, return_ns; /* it was launched between these … */
    uint64_t marked_ns;          /* … and its end marked before this */
    uint32_t starts;
    uint32_t lane; /* of the open group: the first one with this communicator */
    ncclComm_t handle;
    int32_t untimed; /* enum skew_untimed; −1: it is timed */
};

/* A thread's launches under way. Kept when the thread ends: the next new thread, or the end of the
 * process, looks after what is left. */
struct skew_timer {
    uint32_t lock;  /* guards the ring */
    uint32_t owned; /* 1: by a live thread */
    struct skew_timer *next;
    /* The open group, or the latest one while its communicator is not ready yet (`awaiting`). Owner
     * only. */
    struct skew_flight open[SKEW_TIME_LAUNCHES];
    uint32_t opens, awaiting;
    uint64_t pushed; /* external id around the open launch; 0: none (timing_cupti.c) */
    bool sampled_out;
    int32_t
        why; /* enum skew_untimed, should events not time the open launch either; −1: CUPTI does */
    uint64_t stored;   /* groups of the thread, before the open one */
    uint32_t measured; /* groups until our own cost is measured again */
    void *last_stream; /* cuStreamGetCtx(last_stream) is last_context */
    struct skew_context *last_context;
    uint32_t comms_changed;
    struct {
        uint32_t comm;
        void *cuda_stream;
        uint64_t end_ns;
    } last[16]; /* by comm: its latest launch that was timed */
    uint32_t head, tail;
    struct skew_flight ring[SKEW_TIME_FLIGHTS];
};

/* Of the process; made once by whoever comes first. */
struct skew_time {
    uint32_t tier; /* enum skew_tier */
    uint32_t every;
    uint32_t lock; /* guards lists */
    uint32_t clocks;
    uint32_t exiting;
    struct skew_timer *timers;
    struct skew_driver driver;
    struct skew_cupti *cupti; /* NULL: never used */
    bool events_too;          /* what CUPTI cannot time may be timed by events */
    uint32_t contexts;
    struct skew_context context[SKEW_TIME_CONTEXTS];
};

#pragma GCC visibility push(hidden)

/* ---- timing.c ---- */
void skew_time_lock(uint32_t *lock);
bool skew_time_try(uint32_t *lock);
void skew_time_unlock(uint32_t *lock);
void skew_untimed_add(enum skew_untimed reason, uint64_t launches);
struct skew_timer *skew_timer_get(struct skew_time *time, struct skew_thread *thread);
void *skew_time_map(size_t bytes); /* zeroed, or NULL */

/* ---- timing_events.c ---- */
bool skew_driver_bind(struct skew_driver *driver);
int skew_driver_enter(const struct skew_driver *driver); /* what skew_driver_leave() needs */
void skew_driver_leave(const struct skew_driver *driver, int mode);
void skew_events_before(struct skew_time *time, struct skew_timer *timer,
                        struct skew_thread *thread, ncclComm_t handle, cudaStream_t stream);
void skew_events_launched(struct skew_time *time, struct skew_timer *timer,
                          struct skew_flight *flight);
bool skew_stream_captured(cudaStream_t stream);
void skew_events_drop(struct skew_flight *flight);
void skew_events_harvest(struct skew_time *time, struct skew_timer *timer, uint32_t most);
void skew_events_end(struct skew_time *time);

/* ---- timing_cupti.c ---- */
int skew_cupti_start(struct skew_time *time, enum skew_tier_why *why);
void skew_cupti_end(struct skew_cupti *cupti);
bool skew_cupti_hand_over(struct skew_time *time);
bool skew_cupti_before(struct skew_cupti *cupti, struct skew_timer *timer,
                       const struct skew_thread *thread, ncclComm_t handle);
void skew_cupti_after(struct skew_cupti *cupti, struct skew_timer *timer,
                      const struct skew_thread *thread, bool stored);
void skew_cupti_graph_before(struct skew_cupti *cupti, struct skew_timer *timer, uint64_t call_ns,
                             void *exec);
void skew_cupti_graph_after(struct skew_cupti *cupti, struct skew_timer *timer, bool launched);

/* ---- timing_clock.c ---- */
bool skew_clock_anchor(struct skew_clock *clock, double device_ns, uint64_t low_ns,
                       uint64_t high_ns);
bool skew_clock_convert(const struct skew_clock *clock, double device_ns, double *host_ns,
                        double *error_ns);
void skew_clock_refresh(const struct skew_driver *driver, struct skew_context *context,
                        uint64_t now);

#pragma GCC visibility pop

#endif
