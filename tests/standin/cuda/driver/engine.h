/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the stand-in driver. Names that cross files begin with si_, the bodies of the driver
 * API with drv_ (generated prototypes, driver.api); the exported functions are generated around
 * them.
 *
 * The model: a piece of `work` says what is to be done; an `op` is one execution of it on a stream;
 * a graph node holds work that is executed again at each launch. An op knows the ops that must end
 * before it, and each stream has one worker thread that executes its ops in order, sleeping on a
 * futex when there are none.
 *
 * Locks, outermost first: the graph lock (capture.c), a context's lock, a stream's lock. Neither is
 * held while work runs, nor while a tracer is called.
 */
#ifndef STANDIN_ENGINE_H
#define STANDIN_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../abi/driver.h"
#include "../standin_cuda.h"
#include "tracer.h"

#define SI_EXPORT      __attribute__((visibility("default")))
#define SI_LIKELY(x)   __builtin_expect(!!(x), 1)
#define SI_MAX_DEVICES 64

enum {
    SI_MAGIC_CONTEXT = 0x53434f4e,
    SI_MAGIC_STREAM = 0x53535452,
    SI_MAGIC_EVENT = 0x53455654,
    SI_MAGIC_GRAPH = 0x53475241,
    SI_MAGIC_NODE = 0x534e4f44,
    SI_MAGIC_EXEC = 0x53455845,
    SI_MAGIC_FUNC = 0x5346554e,
    SI_MAGIC_MODULE = 0x534d4f44,
    SI_MAGIC_POOL = 0x53504f4c,
    SI_MAGIC_USER_OBJECT = 0x53554f42,
};

/* ---- Options (options.c): read once in cuInit, never written afterwards. ---- */

enum si_clock { SI_CLOCK_REAL, SI_CLOCK_VIRTUAL, SI_CLOCK_PACED };

struct si_options {
    int devices;
    enum si_clock clock;
    uint64_t memory_bytes;  /* of one device */
    uint64_t kernel_ns;     /* how long a kernel lasts that no rule names */
    uint64_t copy_ns;       /* fixed part of a copy or fill in model time */
    uint64_t copy_bytes_us; /* bytes a microsecond in model time */
    int64_t offset_ns;      /* of the device clock */
    int64_t drift_ppb;      /* of the device clock */
};

extern struct si_options si_options;

int si_options_read(void);
uint64_t si_options_kernel_ns(const char *name);

/* ---- Clock (clock.c) ---- */

void si_clock_begin(void); /* once, from cuInit, after the options */
uint64_t si_clock_monotonic(void);
void si_clock_sleep_until(uint64_t monotonic_ns);
uint64_t si_clock_device(uint64_t engine_ns); /* what the device's own clock shows at that time */
void si_clock_saw(uint64_t engine_ns);        /* virtual: something ended at that time */
uint64_t si_clock_latest(void);
uint64_t si_clock_host(void); /* nothing that the calling thread submits starts earlier */

/* ---- Work and ops (work.c, op.c) ---- */

enum si_work_type {
    SI_WORK_EMPTY,
    SI_WORK_KERNEL,
    SI_WORK_DEVICE_OP, /* shown as a kernel, or as copies, but really runs */
    SI_WORK_COPY,
    SI_WORK_FILL,
    SI_WORK_HOST,
    SI_WORK_CALLBACK,
    SI_WORK_RECORD,
    SI_WORK_WAIT,
    SI_WORK_MEMOPS,
    SI_WORK_ALLOC,
    SI_WORK_FREE,
};

struct si_kernel {
    CUfunction func; /* NULL for ops that only have a name */
    const char *name;
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared_bytes;
    uint64_t duration_ns;
    void **params; /* as given to a node, to be given back: never read */
    void **extra;
    CUcontext context;
};

struct si_copy {
    CUDA_MEMCPY3D params;
    CUcontext context;
    uint32_t count; /* batch: 1 unless `batch` is set */
    struct si_copy_item {
        void *dst;
        const void *src;
        size_t bytes;
    } * batch;
    void *staged; /* copy of a pageable source; owned */
};

struct si_fill {
    CUDA_MEMSET_NODE_PARAMS_v2 params;
};

struct si_work {
    atomic_int refs;
    enum si_work_type type;
    union {
        struct si_kernel kernel;
        struct si_copy copy;
        struct si_fill fill;
        struct {
            struct si_kernel shown;
            standin_run_fn run;
            void *user;
            void (*destroy)(void *user);
            uint32_t copies; /* shown as so many copies of `bytes` in all; 0: as a kernel */
            uint64_t bytes;
        } device_op;
        struct {
            CUhostFn fn;
            void *user;
        } host;
        struct {
            CUstreamCallback fn;
            void *user;
            CUstream stream;
        } callback;
        struct {
            CUevent event; /* holds a reference */
        } event;
        struct {
            unsigned count;
            CUstreamBatchMemOpParams *ops;
        } memops;
        struct {
            CUdeviceptr ptr;   /* of a free: 0 if it is captured, see memory_api.c */
            uint64_t owned_id; /* captured: the allocation, which goes with the last graph */
            CUDA_MEM_ALLOC_NODE_PARAMS_v1 params;
        } alloc;
    };
};

struct si_work *si_work_new(enum si_work_type type);
struct si_work *si_work_ref(struct si_work *work);
void si_work_unref(struct si_work *work);
bool si_work_is_kernel(const struct si_work *work);
const struct si_kernel *si_work_kernel(const struct si_work *work);
/* Runs it; *start holds the earliest device time, *end the end to be reported. Returns a CUresult.
 */
int si_work_run(struct si_work *work, uint64_t *start_ns, uint64_t *end_ns);
/* May it be completed in the caller's thread when its stream is idle? */
bool si_work_is_instant(const struct si_work *work);

enum { SI_OP_PENDING, SI_OP_AWAITED, SI_OP_DONE };

struct si_op {
    struct si_op *next; /* in its stream; guarded by that stream's lock */
    atomic_int refs;
    atomic_uint state; /* SI_OP_*; a futex */
    struct si_work *work;
    uint64_t ready_ns; /* not before this device time */
    uint64_t end_ns;   /* written before `state` becomes DONE */
    int error;         /* likewise */
    unsigned dep_count;
    unsigned dep_room;
    struct si_op **deps; /* hold references; released when the op has run */
    struct si_op *few_deps[4];
    uint32_t correlation;
    uint32_t graph_id;
    uint64_t graph_node_id;
    bool traced;
};

struct si_op *si_op_new(struct si_work *work); /* takes over the caller's reference to work */
struct si_op *si_op_ref(struct si_op *op);
void si_op_unref(struct si_op *op);
int si_op_add_dep(struct si_op *op, struct si_op *dep); /* dep may be NULL; 0 or -ENOMEM */
bool si_op_is_done(const struct si_op *op);
void si_op_wait(struct si_op *op);     /* sleeps until done */
int si_op_wait_host(struct si_op *op); /* the same, for the application: returns the op's error */
void si_op_complete(struct si_op *op, uint64_t end_ns, int error);

/* ---- Devices and contexts (device.c, context.c) ---- */

struct CUctx_st {
    uint32_t magic;
    uint32_t id;
    int device;
    unsigned flags;
    bool primary;
    atomic_bool destroyed;
    atomic_int error; /* sticky, from a failed device operation */
    pthread_mutex_t lock;
    struct CUstream_st *streams; /* every stream of the context; guarded by lock */
    struct CUstream_st *legacy;
    struct CUstream_st *per_thread; /* chained by next_per_thread; guarded by lock */
    uint32_t next_stream_id;
    uint64_t peers; /* bit i: access to device i enabled; guarded by lock */
    size_t limits[16];
    int cache_config;
};

struct si_device {
    int ordinal;
    pthread_mutex_t lock;
    CUcontext primary;
    unsigned primary_refs;
    unsigned primary_flags;
    atomic_size_t used_bytes;
    CUmemoryPool default_pool;
    CUmemoryPool pool;
};

struct si_device *si_device_get(int ordinal); /* NULL if there is none such */
CUcontext si_context_current(void);
CUresult si_context_of_thread(CUcontext *context); /* the current one, checked */
CUresult si_context_check(CUcontext context);
struct CUctx_st *si_context_new(int device, unsigned flags, bool primary);
void si_context_close(CUcontext context);
CUresult si_context_drain(CUcontext context); /* waits for all of its streams */
CUcontext si_device_any_context(int device);  /* one that exists on the device, or NULL */

/* ---- Streams (stream.c) ---- */

struct si_capture;

struct CUstream_st {
    uint32_t magic;
    uint32_t id;
    CUcontext context;
    unsigned flags;
    int priority;
    bool hidden;              /* a lane of an executable graph: not known to the context */
    struct CUstream_st *next; /* in the context's list */
    struct CUstream_st *next_per_thread;
    uint64_t owner_thread;           /* of a per-thread default stream */
    CUstreamAttrValue attributes[4]; /* by id: 1, 2 (unused), 3, 8; guarded by lock */

    pthread_mutex_t lock;
    struct si_op *head; /* waiting to run */
    struct si_op *tail;
    struct si_op *last; /* latest submitted, holds a reference */
    bool running;       /* the worker, or a caller in its place, is inside an op */
    bool has_worker;
    bool closing;
    atomic_uint wake; /* futex of the worker */
    uint64_t tail_ns; /* device time at which what ran so far ends; by whoever has `running` */

    struct si_capture *capture; /* guarded by the graph lock, as are the two below */
    CUgraphNode *capture_deps;
    size_t capture_dep_count;
};

#define SI_STREAM_LEGACY     ((CUstream)1)
#define SI_STREAM_PER_THREAD ((CUstream)2)

/* Turns NULL, 1, 2 or a handle into a stream. */
CUresult si_stream_resolve(CUstream handle, CUstream *stream);
struct CUstream_st *si_stream_new(CUcontext context, unsigned flags, int priority, bool hidden);
void si_stream_close(CUstream stream);
/*
 * Puts op behind everything that CUDA's rules put before it; takes over one reference. Under `sync`
 * the caller will wait at once, so that copies may be done in its own thread when nothing is ahead.
 */
CUresult si_stream_put(CUstream stream, struct si_op *op, bool sync);
struct si_op *si_stream_last(CUstream stream); /* holds a reference; NULL if none */
CUresult si_stream_drain(CUstream stream);
bool si_stream_idle(CUstream stream);
/* Work on a stream, eager or captured; takes over the reference to work, also on failure. */
CUresult si_submit(CUstream stream, struct si_work *work);
CUresult si_submit_sync(CUstream stream, struct si_work *work);

/* ---- Events (event.c) ---- */

struct CUevent_st {
    uint32_t magic;
    atomic_int refs;
    unsigned flags;
    CUcontext context;
    pthread_mutex_t lock;
    struct si_op *op;    /* latest record; NULL never recorded; guarded by lock */
    uint64_t capture_id; /* of the capture it was recorded in, 0 none; guarded by the graph lock */
    CUgraphNode *capture_deps;
    size_t capture_dep_count;
};

CUresult si_event_check(CUevent event);
void si_event_ref(CUevent event);
void si_event_unref(CUevent event);
void si_event_set(CUevent event, struct si_op *op); /* takes its own reference */
struct si_op *si_event_op(CUevent event);           /* holds a reference; may be NULL */

/* ---- Memory (memory.c) ---- */

enum si_memory_kind { SI_MEMORY_DEVICE, SI_MEMORY_PINNED, SI_MEMORY_MANAGED, SI_MEMORY_REGISTERED };

struct si_allocation {
    uintptr_t start;
    size_t bytes;
    enum si_memory_kind kind;
    int device;
    unsigned flags;
    uint64_t id;
    CUcontext context;
    CUmemoryPool pool;
};

bool si_memory_find(uintptr_t address, struct si_allocation *found);
CUresult si_memory_alloc(enum si_memory_kind kind, size_t bytes, unsigned flags, CUmemoryPool pool,
                         uintptr_t *address);
CUresult si_memory_free(uintptr_t address, bool host);
uint64_t si_memory_id(uintptr_t address);

/* ---- Code (module.c) ---- */

struct CUfunc_st {
    uint32_t magic;
    const char *name; /* interned */
    CUmodule module;
    int attributes[CU_FUNC_ATTRIBUTE_MAX];
    struct CUfunc_st *next;
};

#endif
