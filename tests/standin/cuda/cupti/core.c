/* SPDX-License-Identifier: Apache-2.0 */
/* Attaching to the driver, and switching kinds of activity on and off. */
#include <dlfcn.h>
#include <string.h>

#include "cupti/cupti.h"
#include "cupti/api.h"

struct ct_driver ct_driver;
struct ct_enabled ct_enabled;

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static CUptiResult load_error;
static pthread_mutex_t tracer_lock = PTHREAD_MUTEX_INITIALIZER;
static bool attached; /* guarded by tracer_lock */

static void load(void)
{
    static const struct {
        void **where;
        const char *symbol;
    } wanted[] = {
        {(void **)&ct_driver.tracer_set, "standin_tracer_set"},
        {(void **)&ct_driver.stream_id, "standin_stream_id"},
        {(void **)&ct_driver.context_id, "standin_context_id"},
        {(void **)&ct_driver.context_device, "standin_context_device"},
        {(void **)&ct_driver.graph_id, "standin_graph_id"},
        {(void **)&ct_driver.graph_exec_id, "standin_graph_exec_id"},
        {(void **)&ct_driver.graph_node_id, "standin_graph_node_id"},
        {(void **)&ct_driver.clock_mode, "standin_clock_mode"},
        {(void **)&ct_driver.clock_now, "standin_clock_now"},
        {(void **)&ct_driver.context_current, "cuCtxGetCurrent"},
        {(void **)&ct_driver.function_name, "cuFuncGetName"},
    };
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    load_error = library != NULL ? CUPTI_SUCCESS : CUPTI_ERROR_UNKNOWN;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]) && library != NULL; i++) {
        *wanted[i].where = dlsym(library, wanted[i].symbol);
        if (*wanted[i].where == NULL)
            load_error = CUPTI_ERROR_UNKNOWN;
    }
}

CUptiResult ct_load(void)
{
    pthread_once(&load_once, load);
    return load_error;
}

bool ct_kind(CUpti_ActivityKind kind)
{
    return atomic_load_explicit(&ct_enabled.kinds[kind], memory_order_relaxed);
}

/*
 * One correlation id for a call of the runtime and the driver calls inside it, so that records of
 * either kind lead to the kernel.
 */
static void api_enter(struct standin_api_call *call)
{
    if (call->outer != NULL && call->outer->correlation != 0)
        call->correlation = call->outer->correlation;
    else if (ct_wants_correlation())
        call->correlation = ct_new_correlation();
    call->user_data = 0;
    ct_callback_api(call, CUPTI_API_ENTER);
}

static void api_exit(struct standin_api_call *call)
{
    ct_callback_api(call, CUPTI_API_EXIT);
    ct_record_api(call);
}

static const struct standin_tracer tracer = {
    .api_enter = api_enter,
    .api_exit = api_exit,
    .activity = ct_record_activity,
    .resource = ct_callback_resource,
};

void ct_update_tracer(void)
{
    bool wanted = ct_subscribed() || atomic_load(&ct_enabled.api_record_count) > 0;
    for (int kind = 0; kind < CUPTI_ACTIVITY_KIND_COUNT; kind++)
        wanted = wanted || ct_kind(kind);
    pthread_mutex_lock(&tracer_lock);
    if (wanted != attached)
        ct_driver.tracer_set(wanted ? &tracer : NULL);
    attached = wanted;
    pthread_mutex_unlock(&tracer_lock);
}

static CUptiResult set_kind(CUpti_ActivityKind kind, bool on)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (kind <= CUPTI_ACTIVITY_KIND_INVALID || kind >= CUPTI_ACTIVITY_KIND_COUNT)
        return CUPTI_ERROR_INVALID_KIND;
    atomic_store(&ct_enabled.kinds[kind], on);
    ct_update_tracer();
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityEnable(CUpti_ActivityKind kind)
{
    return set_kind(kind, true);
}

CUptiResult cuptiActivityDisable(CUpti_ActivityKind kind)
{
    return set_kind(kind, false);
}

/* There is one set of kinds for all contexts. */
CUptiResult cuptiActivityEnableContext(CUcontext context, CUpti_ActivityKind kind)
{
    return context == NULL ? CUPTI_ERROR_INVALID_CONTEXT : set_kind(kind, true);
}

CUptiResult cuptiActivityDisableContext(CUcontext context, CUpti_ActivityKind kind)
{
    return context == NULL ? CUPTI_ERROR_INVALID_CONTEXT : set_kind(kind, false);
}

static CUptiResult set_api(int domain, CUpti_CallbackId cbid, bool on)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (cbid == 0 || cbid >= CT_MAX_CBID)
        return CUPTI_ERROR_INVALID_PARAMETER;
    bool before = atomic_exchange(&ct_enabled.api_records[domain][cbid], on);
    if (before != on)
        atomic_fetch_add(&ct_enabled.api_record_count, on ? 1 : -1);
    ct_update_tracer();
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityEnableDriverApi(CUpti_CallbackId cbid, uint8_t enable)
{
    return set_api(STANDIN_DOMAIN_DRIVER, cbid, enable != 0);
}

CUptiResult cuptiActivityEnableRuntimeApi(CUpti_CallbackId cbid, uint8_t enable)
{
    return set_api(STANDIN_DOMAIN_RUNTIME, cbid, enable != 0);
}

CUptiResult cuptiFinalize(void)
{
    if (ct_load() != CUPTI_SUCCESS)
        return CUPTI_SUCCESS; /* nothing to take down: what the real one says without a driver */
    for (int kind = 0; kind < CUPTI_ACTIVITY_KIND_COUNT; kind++)
        atomic_store(&ct_enabled.kinds[kind], false);
    for (int domain = 1; domain <= 2; domain++) {
        for (uint32_t cbid = 0; cbid < CT_MAX_CBID; cbid++)
            atomic_store(&ct_enabled.api_records[domain][cbid], false);
    }
    atomic_store(&ct_enabled.api_record_count, 0);
    ct_callbacks_reset();
    ct_update_tracer();
    ct_buffers_flush(true);
    return CUPTI_SUCCESS;
}
