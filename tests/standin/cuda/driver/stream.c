/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams: the queue, its worker thread, and CUDA's ordering rules (a stream is in order; the
 * legacy default stream waits for, and is waited for by, every blocking stream of its context).
 * Workers start with the first op that cannot be done at once, sleep on a futex while there is
 * nothing to do, and take no signals of the application's.
 */
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call.h"
#include "graph.h"
#include "trace.h"

struct CUstream_st *si_stream_new(CUcontext context, unsigned flags, int priority, bool hidden)
{
    struct CUstream_st *stream = calloc(1, sizeof(*stream));
    if (stream == NULL)
        return NULL;
    stream->magic = SI_MAGIC_STREAM;
    stream->context = context;
    stream->flags = flags;
    stream->priority = priority;
    stream->hidden = hidden;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_mutex_lock(&context->lock);
    stream->id = context->next_stream_id++;
    if (!hidden) {
        stream->next = context->streams;
        context->streams = stream;
    }
    pthread_mutex_unlock(&context->lock);
    return stream;
}

static void stream_free(struct CUstream_st *stream)
{
    si_op_unref(stream->last);
    pthread_mutex_destroy(&stream->lock);
    stream->magic = 0;
    free(stream->capture_deps);
    free(stream);
}

static void stream_wake(struct CUstream_st *stream)
{
    atomic_fetch_add(&stream->wake, 1);
    syscall(SYS_futex, &stream->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void si_stream_close(CUstream stream)
{
    CUcontext context = stream->context;
    si_capture_stream_closed(stream);
    pthread_mutex_lock(&context->lock);
    for (struct CUstream_st **at = &context->streams; *at != NULL; at = &(*at)->next) {
        if (*at == stream) {
            *at = stream->next;
            break;
        }
    }
    pthread_mutex_unlock(&context->lock);
    pthread_mutex_lock(&stream->lock);
    stream->closing = true;
    bool has_worker = stream->has_worker;
    if (has_worker)
        stream_wake(stream);
    pthread_mutex_unlock(&stream->lock);
    if (!has_worker)
        stream_free(stream);
}

static struct CUstream_st *per_thread_stream(CUcontext context)
{
    uint64_t token = si_thread_token();
    struct CUstream_st *stream;
    pthread_mutex_lock(&context->lock);
    for (stream = context->per_thread; stream != NULL; stream = stream->next_per_thread) {
        if (stream->owner_thread == token)
            break;
    }
    pthread_mutex_unlock(&context->lock);
    if (stream != NULL)
        return stream;
    stream = si_stream_new(context, CU_STREAM_DEFAULT, 0, false);
    if (stream == NULL)
        return NULL;
    stream->owner_thread = token;
    pthread_mutex_lock(&context->lock);
    stream->next_per_thread = context->per_thread;
    context->per_thread = stream;
    pthread_mutex_unlock(&context->lock);
    return stream;
}

CUresult si_stream_resolve(CUstream handle, CUstream *stream)
{
    CUcontext context;
    if (handle != NULL && handle != SI_STREAM_LEGACY && handle != SI_STREAM_PER_THREAD) {
        if (handle->magic != SI_MAGIC_STREAM)
            return CUDA_ERROR_INVALID_HANDLE;
        *stream = handle;
        return si_context_check(handle->context);
    }
    CUresult err = si_context_of_thread(&context);
    if (err != CUDA_SUCCESS)
        return err;
    if (handle == SI_STREAM_PER_THREAD || (handle == NULL && si_thread.per_thread_default))
        *stream = per_thread_stream(context);
    else
        *stream = context->legacy;
    return *stream != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* Runs with `running` set, in the worker or in a caller that found the stream idle. */
static void execute(struct CUstream_st *stream, struct si_op *op)
{
    CUcontext context = stream->context;
    uint64_t start = stream->tail_ns, end;
    int error = 0;
    for (unsigned i = 0; i < op->dep_count; i++) {
        si_op_wait(op->deps[i]);
        if (op->deps[i]->end_ns > start)
            start = op->deps[i]->end_ns;
    }
    if (op->ready_ns > start)
        start = op->ready_ns;
    if (si_options.clock == SI_CLOCK_REAL)
        start = si_clock_monotonic();
    end = start;
    uint64_t began = start;
    if (atomic_load_explicit(&context->error, memory_order_relaxed) == 0)
        error = si_work_run(op->work, &start, &end);
    if (si_options.clock == SI_CLOCK_REAL) {
        start = began;
        end = si_clock_monotonic();
    } else if (si_options.clock == SI_CLOCK_PACED) {
        si_clock_sleep_until(end);
    }
    if (error != 0)
        atomic_store(&context->error, error);
    stream->tail_ns = end;
    if (op->traced)
        si_trace_op(stream, op, start, end);
    si_op_complete(op, end, error);
    si_op_unref(op);
}

static void *worker_main(void *arg)
{
    struct CUstream_st *stream = arg;
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        struct si_op *op = stream->head;
        if (op != NULL && !stream->running) {
            stream->head = op->next;
            if (stream->head == NULL)
                stream->tail = NULL;
            stream->running = true;
            pthread_mutex_unlock(&stream->lock);
            execute(stream, op);
            pthread_mutex_lock(&stream->lock);
            stream->running = false;
            continue;
        }
        if (op == NULL && !stream->running && stream->closing)
            break;
        unsigned seen = atomic_load(&stream->wake);
        pthread_mutex_unlock(&stream->lock);
        syscall(SYS_futex, &stream->wake, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
        pthread_mutex_lock(&stream->lock);
    }
    pthread_mutex_unlock(&stream->lock);
    stream_free(stream);
    return NULL;
}

static int worker_start(struct CUstream_st *stream)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&thread, &attr, worker_main, stream);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (err != 0)
        return -err;
    pthread_setname_np(thread, "standin-stream");
    stream->has_worker = true;
    return 0;
}

static bool deps_done(const struct si_op *op)
{
    for (unsigned i = 0; i < op->dep_count; i++) {
        if (!si_op_is_done(op->deps[i]))
            return false;
    }
    return true;
}

static bool may_run_here(struct CUstream_st *stream, struct si_op *op, bool sync)
{
    enum si_work_type type = op->work->type;
    if (stream->head != NULL || stream->running || !deps_done(op))
        return false;
    if (op->traced && type != SI_WORK_RECORD && type != SI_WORK_WAIT)
        return false; /* the context's lock may be held: see si_stream_put */
    if (sync && (type == SI_WORK_COPY || type == SI_WORK_FILL))
        return true;
    return si_work_is_instant(op->work);
}

/* Returns with the stream's lock released. */
static CUresult append_or_run(struct CUstream_st *stream, struct si_op *op, bool sync)
{
    pthread_mutex_lock(&stream->lock);
    bool here = may_run_here(stream, op, sync);
    if (!here && !stream->has_worker && worker_start(stream) < 0) {
        pthread_mutex_unlock(&stream->lock);
        si_op_unref(op);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    si_op_unref(stream->last);
    stream->last = si_op_ref(op);
    if (here) {
        stream->running = true;
        pthread_mutex_unlock(&stream->lock);
        execute(stream, op);
        pthread_mutex_lock(&stream->lock);
        stream->running = false;
        if (stream->head != NULL)
            stream_wake(stream);
        pthread_mutex_unlock(&stream->lock);
        return CUDA_SUCCESS;
    }
    bool wake = stream->head == NULL && !stream->running;
    if (stream->tail != NULL)
        stream->tail->next = op;
    else
        stream->head = op;
    stream->tail = op;
    if (wake)
        stream_wake(stream);
    pthread_mutex_unlock(&stream->lock);
    return CUDA_SUCCESS;
}

struct si_op *si_stream_last(CUstream stream)
{
    pthread_mutex_lock(&stream->lock);
    struct si_op *last = stream->last != NULL ? si_op_ref(stream->last) : NULL;
    pthread_mutex_unlock(&stream->lock);
    return last;
}

static int add_last(struct si_op *op, CUstream stream)
{
    struct si_op *last = si_stream_last(stream);
    int err = si_op_add_dep(op, last);
    si_op_unref(last);
    return err;
}

/* The default-stream rules; the context's lock is held. */
static int add_legacy_deps(struct CUstream_st *stream, struct si_op *op)
{
    CUcontext context = stream->context;
    int err = 0;
    if (stream != context->legacy)
        return add_last(op, context->legacy);
    for (struct CUstream_st *s = context->streams; s != NULL && err == 0; s = s->next) {
        if (s != stream && !(s->flags & CU_STREAM_NON_BLOCKING))
            err = add_last(op, s);
    }
    return err;
}

CUresult si_stream_put(CUstream stream, struct si_op *op, bool sync)
{
    CUcontext context = stream->context;
    CUresult err = atomic_load_explicit(&context->error, memory_order_relaxed);
    if (err != CUDA_SUCCESS) {
        si_op_unref(op);
        return err;
    }
    op->ready_ns = si_clock_host();
    op->traced = atomic_load_explicit(&si_tracer, memory_order_relaxed) != NULL;
    if (op->traced && op->correlation == 0)
        op->correlation = si_trace_correlation();
    if (stream->hidden || (stream->flags & CU_STREAM_NON_BLOCKING))
        return append_or_run(stream, op, sync);
    pthread_mutex_lock(&context->lock);
    if (add_legacy_deps(stream, op) < 0) {
        pthread_mutex_unlock(&context->lock);
        si_op_unref(op);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    /* The order of the legacy stream against the others is fixed here, so the lock is kept: what
     * runs at once under it calls nobody. */
    err = append_or_run(stream, op, sync);
    pthread_mutex_unlock(&context->lock);
    return err;
}

CUresult si_stream_drain(CUstream stream)
{
    struct si_op *last = si_stream_last(stream);
    CUresult err = CUDA_SUCCESS;
    if (last != NULL) {
        err = si_op_wait_host(last);
        si_op_unref(last);
    }
    int sticky = atomic_load(&stream->context->error);
    return sticky != 0 ? sticky : err;
}

bool si_stream_idle(CUstream stream)
{
    struct si_op *last = si_stream_last(stream);
    bool idle = last == NULL || si_op_is_done(last);
    if (idle && last != NULL)
        si_op_wait_host(last);
    si_op_unref(last);
    return idle;
}

static CUresult submit(CUstream handle, struct si_work *work, bool sync)
{
    CUstream stream;
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult err = si_stream_resolve(handle, &stream);
    if (err == CUDA_SUCCESS)
        err = si_capture_forbid_legacy(stream);
    if (err != CUDA_SUCCESS) {
        si_work_unref(work);
        return err;
    }
    if (!sync) {
        err = si_capture_work(stream, work);
        if (err != CUDA_ERROR_NOT_READY)
            return err;
    }
    struct si_op *op = si_op_new(work);
    if (op == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!sync)
        return si_stream_put(stream, op, false);
    si_op_ref(op);
    err = si_stream_put(stream, op, true);
    if (err == CUDA_SUCCESS)
        err = si_op_wait_host(op);
    si_op_unref(op);
    return err;
}

CUresult si_submit(CUstream stream, struct si_work *work)
{
    return submit(stream, work, false);
}

CUresult si_submit_sync(CUstream stream, struct si_work *work)
{
    return submit(stream, work, true);
}
