/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The callback API: one subscriber, told of API calls on the calling thread and of resources. A
 * second subscriber is refused with 39, as by CUPTI before 13.2.
 */
#include <string.h>

#include "cupti/cupti.h"
#include "cupti/api.h"

struct CUpti_Subscriber_st {
    CUpti_CallbackFunc callback;
    void *user;
    char name[64];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct CUpti_Subscriber_st the_subscriber; /* guarded by lock while nobody is subscribed */
static _Atomic(struct CUpti_Subscriber_st *) subscriber;
static atomic_bool enabled[CUPTI_CB_DOMAIN_SIZE][CT_MAX_CBID];
static atomic_int enabled_count;

bool ct_subscribed(void)
{
    return atomic_load_explicit(&subscriber, memory_order_acquire) != NULL;
}

bool ct_any_callback(void)
{
    return atomic_load_explicit(&enabled_count, memory_order_relaxed) > 0;
}

bool ct_callback_wanted(int domain, uint32_t cbid)
{
    return cbid < CT_MAX_CBID && atomic_load_explicit(&enabled[domain][cbid], memory_order_relaxed);
}

static CUptiResult subscribe(CUpti_SubscriberHandle *handle, CUpti_CallbackFunc callback,
                             void *userdata, CUpti_SubscriberParams *params)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (handle == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    pthread_mutex_lock(&lock);
    if (ct_subscribed()) {
        err = CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED;
        if (params != NULL && params->oldSubscriberName != NULL && params->oldSubscriberSize > 0) {
            size_t room = params->oldSubscriberSize - 1;
            size_t length = strnlen(the_subscriber.name, sizeof(the_subscriber.name));
            memcpy(params->oldSubscriberName, the_subscriber.name, length < room ? length : room);
            params->oldSubscriberName[length < room ? length : room] = '\0';
        }
    } else {
        the_subscriber.callback = callback;
        the_subscriber.user = userdata;
        the_subscriber.name[0] = '\0';
        if (params != NULL && params->subscriberName != NULL)
            strncpy(the_subscriber.name, params->subscriberName, sizeof(the_subscriber.name) - 1);
        atomic_store(&subscriber, &the_subscriber);
        *handle = &the_subscriber;
    }
    pthread_mutex_unlock(&lock);
    ct_update_tracer();
    return err;
}

CUptiResult cuptiSubscribe(CUpti_SubscriberHandle *subscriber_out, CUpti_CallbackFunc callback,
                           void *userdata)
{
    return subscribe(subscriber_out, callback, userdata, NULL);
}

CUptiResult cuptiSubscribe_v2(CUpti_SubscriberHandle *subscriber_out, CUpti_CallbackFunc callback,
                              void *userdata, CUpti_SubscriberParams *pParams)
{
    return subscribe(subscriber_out, callback, userdata, pParams);
}

void ct_callbacks_reset(void)
{
    for (int domain = 0; domain < CUPTI_CB_DOMAIN_SIZE; domain++) {
        for (uint32_t cbid = 0; cbid < CT_MAX_CBID; cbid++)
            atomic_store(&enabled[domain][cbid], false);
    }
    atomic_store(&enabled_count, 0);
    atomic_store(&subscriber, NULL);
}

CUptiResult cuptiUnsubscribe(CUpti_SubscriberHandle handle)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (handle == NULL || handle != atomic_load(&subscriber))
        return CUPTI_ERROR_INVALID_PARAMETER;
    ct_callbacks_reset();
    ct_update_tracer();
    return CUPTI_SUCCESS;
}

static void set(int domain, uint32_t cbid, bool on)
{
    if (atomic_exchange(&enabled[domain][cbid], on) != on)
        atomic_fetch_add(&enabled_count, on ? 1 : -1);
}

static CUptiResult check(CUpti_SubscriberHandle handle, int domain)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (handle == NULL || handle != atomic_load(&subscriber) || domain <= CUPTI_CB_DOMAIN_INVALID ||
        domain >= CUPTI_CB_DOMAIN_SIZE)
        return CUPTI_ERROR_INVALID_PARAMETER;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiEnableCallback(uint32_t enable, CUpti_SubscriberHandle handle,
                                CUpti_CallbackDomain domain, CUpti_CallbackId cbid)
{
    CUptiResult err = check(handle, domain);
    if (err != CUPTI_SUCCESS)
        return err;
    if (cbid == 0 || cbid >= CT_MAX_CBID)
        return CUPTI_ERROR_INVALID_PARAMETER;
    set(domain, cbid, enable != 0);
    return CUPTI_SUCCESS;
}

CUptiResult cuptiEnableDomain(uint32_t enable, CUpti_SubscriberHandle handle,
                              CUpti_CallbackDomain domain)
{
    CUptiResult err = check(handle, domain);
    for (uint32_t cbid = 1; err == CUPTI_SUCCESS && cbid < CT_MAX_CBID; cbid++)
        set(domain, cbid, enable != 0);
    return err;
}

CUptiResult cuptiEnableAllDomains(uint32_t enable, CUpti_SubscriberHandle handle)
{
    CUptiResult err = CUPTI_SUCCESS;
    for (int domain = 1; domain < CUPTI_CB_DOMAIN_SIZE && err == CUPTI_SUCCESS; domain++)
        err = cuptiEnableDomain(enable, handle, domain);
    return err;
}

CUptiResult cuptiGetCallbackState(uint32_t *enable, CUpti_SubscriberHandle handle,
                                  CUpti_CallbackDomain domain, CUpti_CallbackId cbid)
{
    CUptiResult err = check(handle, domain);
    if (err == CUPTI_SUCCESS && enable == NULL)
        err = CUPTI_ERROR_INVALID_PARAMETER;
    if (err == CUPTI_SUCCESS)
        *enable = ct_callback_wanted(domain, cbid);
    return err;
}

/* The kernel that a launch through the driver is about: the function is in its parameters. */
static const char *launched_kernel(const struct standin_api_call *call)
{
    const char *name = NULL;
    CUfunction function = NULL;
    if (call->domain != STANDIN_DOMAIN_DRIVER)
        return NULL;
    if (call->cbid == 307 || call->cbid == 442) /* cuLaunchKernel: the first parameter */
        function = *(CUfunction const *)call->params;
    else if (call->cbid == 652 || call->cbid == 653) /* cuLaunchKernelEx: the second */
        function = ((CUfunction const *)call->params)[1];
    if (function != NULL && ct_driver.function_name(&name, function) != CUDA_SUCCESS)
        return NULL;
    return name;
}

void ct_callback_api(struct standin_api_call *call, CUpti_ApiCallbackSite site)
{
    static __thread bool inside; /* calls that the callback makes are not reported */
    struct CUpti_Subscriber_st *to = atomic_load_explicit(&subscriber, memory_order_acquire);
    if (inside || to == NULL || to->callback == NULL ||
        !ct_callback_wanted(call->domain, call->cbid))
        return;
    inside = true;
    CUpti_CallbackData data = {.callbackSite = site,
                               .functionName = call->name,
                               .functionParams = call->params,
                               .functionReturnValue = (void *)(uintptr_t)call->result,
                               .symbolName = launched_kernel(call),
                               .correlationData = &call->user_data,
                               .correlationId = call->correlation};
    ct_driver.context_current(&data.context);
    if (data.context != NULL)
        ct_driver.context_id(data.context, &data.contextUid);
    to->callback(to->user, call->domain, call->cbid, &data);
    inside = false;
}

void ct_callback_resource(const struct standin_resource *resource)
{
    struct CUpti_Subscriber_st *to = atomic_load_explicit(&subscriber, memory_order_acquire);
    if (to == NULL || to->callback == NULL ||
        !ct_callback_wanted(CUPTI_CB_DOMAIN_RESOURCE, resource->cbid))
        return;
    CUpti_GraphData graph = {.graph = resource->graph,
                             .originalGraph = resource->original_graph,
                             .node = resource->node,
                             .originalNode = resource->original_node,
                             .nodeType = resource->node_type,
                             .dependency = resource->dependency,
                             .graphExec = resource->graph_exec};
    CUpti_ResourceData data = {.context = resource->context,
                               .resourceHandle.stream = resource->stream};
    if (resource->graph != NULL || resource->graph_exec != NULL)
        data.resourceDescriptor = &graph;
    to->callback(to->user, CUPTI_CB_DOMAIN_RESOURCE, resource->cbid, &data);
}
