/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the stand-in CUPTI. It loads libcuda.so.1 when it is first needed, as the real one
 * does, and becomes the tracer of the stand-in driver while anything is enabled or subscribed. Over
 * no driver, or a driver that is not ours, its calls fail with CUPTI_ERROR_UNKNOWN, as the real
 * ones do without a driver.
 */
#ifndef STANDIN_CUPTI_H
#define STANDIN_CUPTI_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "abi/cupti.h"
#include "driver/tracer.h"

#define SI_EXPORT __attribute__((visibility("default")))

enum { CT_MAX_CBID = 1024 };

/* From libcuda.so.1; filled once by ct_load. */
struct ct_driver {
    __typeof__(standin_tracer_set) *tracer_set;
    __typeof__(standin_stream_id) *stream_id;
    __typeof__(standin_context_id) *context_id;
    __typeof__(standin_context_device) *context_device;
    __typeof__(standin_graph_id) *graph_id;
    __typeof__(standin_graph_exec_id) *graph_exec_id;
    __typeof__(standin_graph_node_id) *graph_node_id;
    int (*clock_mode)(void);
    uint64_t (*clock_now)(int device);
    CUresult (*context_current)(CUcontext *context);
    CUresult (*function_name)(const char **name, CUfunction function);
};

extern struct ct_driver ct_driver;

CUptiResult ct_load(void);
void ct_update_tracer(void); /* after anything was enabled, disabled, subscribed */

/* What is enabled. Written by API calls, read by every traced call; relaxed order is enough. */
struct ct_enabled {
    atomic_bool kinds[CUPTI_ACTIVITY_KIND_COUNT];
    atomic_bool api_records[3][CT_MAX_CBID]; /* by domain: 1 driver, 2 runtime */
    atomic_int api_record_count;             /* how many of these are set */
};

extern struct ct_enabled ct_enabled;

bool ct_kind(CUpti_ActivityKind kind);

/* callbacks.c */
bool ct_subscribed(void);
void ct_callback_api(struct standin_api_call *call, CUpti_ApiCallbackSite site);
void ct_callback_resource(const struct standin_resource *resource);
bool ct_callback_wanted(int domain, uint32_t cbid);
bool ct_any_callback(void);
void ct_callbacks_reset(void);

/* records.c */
void ct_record_activity(const struct standin_activity *activity);
void ct_record_api(const struct standin_api_call *call);
bool ct_wants_correlation(void);
uint32_t ct_new_correlation(void);

/* buffers.c */
void *ct_buffer_take(size_t bytes); /* room for a record, lock held until ct_buffer_give; or NULL */
void ct_buffer_give(void);
size_t ct_record_size(CUpti_ActivityKind kind);
void ct_buffers_flush(bool partial);

/* clock.c: from the engine's time to what records show */
uint64_t ct_clock_record(uint64_t device_ns);
uint64_t ct_clock_now(void);
void ct_clock_callback(CUpti_TimestampCallbackFunc callback);

#endif
