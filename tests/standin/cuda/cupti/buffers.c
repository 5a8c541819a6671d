/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Activity buffers. The application lends them; records go to one current buffer under a lock. Full
 * ones are handed back by a delivery thread, as by CUPTI's own, so the application's threads and
 * the stream workers never run its callback; a flush hands back, on the caller's thread, all that
 * there is. A record that finds no buffer is dropped and counted.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cupti/cupti.h"
#include "cupti/api.h"

struct buffer {
    struct buffer *next;
    uint8_t *data;
    size_t size;
    size_t used;
    size_t records;
    size_t max_records; /* 0: as many as fit */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t delivery_lock = PTHREAD_MUTEX_INITIALIZER; /* one delivery at a time */
static pthread_cond_t wake;
static CUpti_BuffersCallbackRequestFunc request; /* guarded by lock, as is all below */
static CUpti_BuffersCallbackCompleteFunc complete;
static struct buffer *current;
static struct buffer *full, **full_end = &full;
static size_t dropped;
static uint32_t period_ms;
static bool thread_running;

size_t ct_record_size(CUpti_ActivityKind kind)
{
    switch (kind) {
    case CUPTI_ACTIVITY_KIND_KERNEL:
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
        return sizeof(CUpti_ActivityKernel10);
    case CUPTI_ACTIVITY_KIND_MEMCPY:
        return sizeof(CUpti_ActivityMemcpy6);
    case CUPTI_ACTIVITY_KIND_MEMCPY2:
        return sizeof(CUpti_ActivityMemcpyPtoP4);
    case CUPTI_ACTIVITY_KIND_MEMSET:
        return sizeof(CUpti_ActivityMemset4);
    case CUPTI_ACTIVITY_KIND_DRIVER:
    case CUPTI_ACTIVITY_KIND_RUNTIME:
        return sizeof(CUpti_ActivityAPI);
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION:
        return sizeof(CUpti_ActivityExternalCorrelation);
    default:
        return 0;
    }
}

static struct buffer *take_full(void)
{
    struct buffer *list = full;
    full = NULL;
    full_end = &full;
    return list;
}

/* Without the lock: the application's callback may take its time. */
static void deliver(struct buffer *list)
{
    while (list != NULL) {
        struct buffer *next = list->next;
        complete(NULL, 0, list->data, list->size, list->used);
        free(list);
        list = next;
    }
}

static void *delivery_main(void *arg)
{
    (void)arg;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (full == NULL)
            pthread_cond_wait(&wake, &lock);
        if (period_ms != 0) {
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_sec += period_ms / 1000;
            until.tv_nsec += (long)(period_ms % 1000) * 1000000;
            until.tv_sec += until.tv_nsec / 1000000000;
            until.tv_nsec %= 1000000000;
            while (pthread_cond_timedwait(&wake, &lock, &until) != ETIMEDOUT)
                ;
        }
        pthread_mutex_unlock(&lock);
        ct_buffers_flush(false);
    }
    return NULL;
}

/* The lock is held. */
static void start_thread(void)
{
    pthread_t thread;
    pthread_condattr_t attr;
    sigset_t all, before;
    if (thread_running)
        return;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&wake, &attr);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_running = pthread_create(&thread, NULL, delivery_main, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (thread_running) {
        pthread_detach(thread);
        pthread_setname_np(thread, "standin-cupti");
    }
}

static void retire_current(void)
{
    *full_end = current;
    full_end = &current->next;
    current = NULL;
    start_thread();
    pthread_cond_signal(&wake);
}

static struct buffer *borrow(void)
{
    struct buffer *b = calloc(1, sizeof(*b));
    if (b == NULL || request == NULL) {
        free(b);
        return NULL;
    }
    request(&b->data, &b->size, &b->max_records);
    if (b->data == NULL || b->size == 0) {
        free(b);
        return NULL;
    }
    return b;
}

void *ct_buffer_take(size_t bytes)
{
    pthread_mutex_lock(&lock);
    if (current != NULL &&
        (current->size - current->used < bytes ||
         (current->max_records != 0 && current->records == current->max_records)))
        retire_current();
    if (current == NULL)
        current = borrow();
    if (current == NULL || current->size < bytes) {
        dropped++;
        pthread_mutex_unlock(&lock);
        return NULL;
    }
    void *room = current->data + current->used;
    current->used += bytes;
    current->records++;
    return room;
}

void ct_buffer_give(void)
{
    pthread_mutex_unlock(&lock);
}

void ct_buffers_flush(bool partial)
{
    pthread_mutex_lock(&delivery_lock);
    pthread_mutex_lock(&lock);
    struct buffer *list = take_full(), **end = &list;
    while (*end != NULL)
        end = &(*end)->next;
    if (partial && current != NULL) {
        *end = current;
        current = NULL;
    }
    pthread_mutex_unlock(&lock);
    deliver(list);
    pthread_mutex_unlock(&delivery_lock);
}

CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc funcBufferRequested,
                                           CUpti_BuffersCallbackCompleteFunc funcBufferCompleted)
{
    if (funcBufferRequested == NULL || funcBufferCompleted == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    pthread_mutex_lock(&lock);
    request = funcBufferRequested;
    complete = funcBufferCompleted;
    pthread_mutex_unlock(&lock);
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityFlushAll(uint32_t flag)
{
    (void)flag; /* every record here is complete, so forcing changes nothing */
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    ct_buffers_flush(true);
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityFlush(CUcontext context, uint32_t streamId, uint32_t flag)
{
    (void)context;
    (void)streamId;
    return cuptiActivityFlushAll(flag);
}

CUptiResult cuptiActivityFlushPeriod(uint32_t time)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    pthread_mutex_lock(&lock);
    period_ms = time;
    pthread_mutex_unlock(&lock);
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityGetNextRecord(uint8_t *buffer, size_t validBufferSizeBytes,
                                       CUpti_Activity **record)
{
    if (buffer == NULL || record == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    uint8_t *next = buffer;
    if (*record != NULL) {
        size_t size = ct_record_size((*record)->kind);
        if (size == 0)
            return CUPTI_ERROR_INVALID_KIND;
        next = (uint8_t *)*record + size;
    }
    if (next >= buffer + validBufferSizeBytes)
        return CUPTI_ERROR_MAX_LIMIT_REACHED;
    *record = (CUpti_Activity *)next;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext context, uint32_t streamId, size_t *count)
{
    (void)context;
    (void)streamId;
    if (count == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    pthread_mutex_lock(&lock);
    *count = dropped;
    dropped = 0;
    pthread_mutex_unlock(&lock);
    return CUPTI_SUCCESS;
}
