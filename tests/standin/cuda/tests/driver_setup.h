/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STANDIN_TEST_DRIVER_SETUP_H
#define STANDIN_TEST_DRIVER_SETUP_H

#include "check.h"
#include "cu_decl.h"

/* Makes the primary context of the device current. */
static inline CUcontext use_device(int device)
{
    CUcontext context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, device));
    OK(cuCtxSetCurrent(context));
    return context;
}

static inline CUstream new_stream(unsigned flags)
{
    CUstream stream;
    OK(cuStreamCreate(&stream, flags));
    return stream;
}

static inline CUevent new_event(unsigned flags)
{
    CUevent event;
    OK(cuEventCreate(&event, flags));
    return event;
}

/* A log of numbers in the order in which work wrote them. */
struct order {
    pthread_mutex_t lock;
    int items[4096];
    int count;
};

struct note {
    struct order *order;
    int number;
};

static inline void write_note(void *arg)
{
    struct note *note = arg;
    pthread_mutex_lock(&note->order->lock);
    note->order->items[note->order->count++] = note->number;
    pthread_mutex_unlock(&note->order->lock);
}

#endif
