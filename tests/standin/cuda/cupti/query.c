/* SPDX-License-Identifier: Apache-2.0 */
/* What CUPTI answers without any state: version, texts, identities, attributes. */
#include <string.h>

#include "cupti/cupti.h"
#include "cupti/api.h"

CUptiResult cuptiGetVersion(uint32_t *version)
{
    if (version == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    *version = CUPTI_API_VERSION;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiGetResultString(CUptiResult result, const char **str)
{
    static const struct {
        CUptiResult result;
        const char *name;
    } names[] = {
        {CUPTI_SUCCESS, "CUPTI_SUCCESS"},
        {CUPTI_ERROR_INVALID_PARAMETER, "CUPTI_ERROR_INVALID_PARAMETER"},
        {CUPTI_ERROR_INVALID_CONTEXT, "CUPTI_ERROR_INVALID_CONTEXT"},
        {CUPTI_ERROR_INVALID_OPERATION, "CUPTI_ERROR_INVALID_OPERATION"},
        {CUPTI_ERROR_OUT_OF_MEMORY, "CUPTI_ERROR_OUT_OF_MEMORY"},
        {CUPTI_ERROR_PARAMETER_SIZE_NOT_SUFFICIENT, "CUPTI_ERROR_PARAMETER_SIZE_NOT_SUFFICIENT"},
        {CUPTI_ERROR_MAX_LIMIT_REACHED, "CUPTI_ERROR_MAX_LIMIT_REACHED"},
        {CUPTI_ERROR_NOT_INITIALIZED, "CUPTI_ERROR_NOT_INITIALIZED"},
        {CUPTI_ERROR_QUEUE_EMPTY, "CUPTI_ERROR_QUEUE_EMPTY"},
        {CUPTI_ERROR_INVALID_STREAM, "CUPTI_ERROR_INVALID_STREAM"},
        {CUPTI_ERROR_INVALID_KIND, "CUPTI_ERROR_INVALID_KIND"},
        {CUPTI_ERROR_NOT_SUPPORTED, "CUPTI_ERROR_NOT_SUPPORTED"},
        {CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED,
         "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED"},
        {CUPTI_ERROR_UNKNOWN, "CUPTI_ERROR_UNKNOWN"},
    };
    if (str == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].result == result) {
            *str = names[i].name;
            return CUPTI_SUCCESS;
        }
    }
    return CUPTI_ERROR_INVALID_PARAMETER;
}

CUptiResult cuptiGetErrorMessage(CUptiResult result, const char **str)
{
    return cuptiGetResultString(result, str);
}

CUptiResult cuptiGetLastError(void)
{
    return CUPTI_SUCCESS;
}

/* Driver errors about a handle become CUPTI's invalid parameter. */
static CUptiResult identity(CUresult err)
{
    return err == CUDA_SUCCESS ? CUPTI_SUCCESS : CUPTI_ERROR_INVALID_PARAMETER;
}

CUptiResult cuptiGetContextId(CUcontext context, uint32_t *contextId)
{
    if (ct_load() != CUPTI_SUCCESS)
        return CUPTI_ERROR_UNKNOWN;
    if (context == NULL)
        return CUPTI_ERROR_INVALID_CONTEXT;
    return identity(contextId != NULL ? ct_driver.context_id(context, contextId) : 1);
}

CUptiResult cuptiGetDeviceId(CUcontext context, uint32_t *deviceId)
{
    if (ct_load() != CUPTI_SUCCESS)
        return CUPTI_ERROR_UNKNOWN;
    return identity(deviceId != NULL ? ct_driver.context_device(context, deviceId) : 1);
}

CUptiResult cuptiGetStreamIdEx(CUcontext context, CUstream stream, uint8_t perThreadStream,
                               uint32_t *streamId)
{
    if (ct_load() != CUPTI_SUCCESS)
        return CUPTI_ERROR_UNKNOWN;
    if (streamId == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    return ct_driver.stream_id(context, stream, perThreadStream, streamId) == CUDA_SUCCESS
               ? CUPTI_SUCCESS
               : CUPTI_ERROR_INVALID_STREAM;
}

CUptiResult cuptiGetStreamId(CUcontext context, CUstream stream, uint32_t *streamId)
{
    return cuptiGetStreamIdEx(context, stream, 0, streamId);
}

CUptiResult cuptiGetGraphNodeId(CUgraphNode node, uint64_t *nodeId)
{
    if (ct_load() != CUPTI_SUCCESS)
        return CUPTI_ERROR_UNKNOWN;
    return identity(nodeId != NULL ? ct_driver.graph_node_id(node, nodeId) : 1);
}

CUptiResult cuptiGetGraphId(CUgraph graph, uint32_t *pId)
{
    if (ct_load() != CUPTI_SUCCESS)
        return CUPTI_ERROR_UNKNOWN;
    return identity(pId != NULL ? ct_driver.graph_id(graph, pId) : 1);
}

CUptiResult cuptiGetGraphExecId(CUgraphExec graphExec, uint32_t *pId)
{
    if (ct_load() != CUPTI_SUCCESS)
        return CUPTI_ERROR_UNKNOWN;
    return identity(pId != NULL ? ct_driver.graph_exec_id(graphExec, pId) : 1);
}

CUptiResult cuptiSupportedDomains(size_t *domainCount, CUpti_DomainTable *domainTable)
{
    static CUpti_CallbackDomain domains[] = {CUPTI_CB_DOMAIN_DRIVER_API,
                                             CUPTI_CB_DOMAIN_RUNTIME_API, CUPTI_CB_DOMAIN_RESOURCE};
    if (domainCount == NULL || domainTable == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    *domainCount = sizeof(domains) / sizeof(domains[0]);
    *domainTable = domains;
    return CUPTI_SUCCESS;
}

/* Buffer sizes and pools of the device side: accepted, and answered with zero. */
static CUptiResult attribute(size_t *valueSize, void *value, bool get)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (valueSize == NULL || value == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    if (get)
        memset(value, 0, *valueSize);
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityGetAttribute(CUpti_ActivityAttribute attr, size_t *valueSize, void *value)
{
    (void)attr;
    return attribute(valueSize, value, true);
}

CUptiResult cuptiActivitySetAttribute(CUpti_ActivityAttribute attr, size_t *valueSize, void *value)
{
    (void)attr;
    return attribute(valueSize, value, false);
}

CUptiResult cuptiActivityEnableLatencyTimestamps(uint8_t enable)
{
    (void)enable;
    return ct_load();
}

CUptiResult cuptiActivityEnableLaunchAttributes(uint8_t enable)
{
    (void)enable;
    return ct_load();
}

CUptiResult cuptiActivityEnableAllSyncRecords(uint8_t enable)
{
    (void)enable;
    return ct_load();
}

/* Hardware tracing is for Blackwell; the stand-in says that it is older. */
CUptiResult cuptiActivityEnableHWTrace(uint8_t enable)
{
    (void)enable;
    return ct_load() == CUPTI_SUCCESS ? CUPTI_ERROR_NOT_SUPPORTED : CUPTI_ERROR_UNKNOWN;
}

CUptiResult cuptiDeviceSupported(CUdevice dev, int *support)
{
    (void)dev;
    if (support == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    *support = 1;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiComputeCapabilitySupported(int major, int minor, int *support)
{
    (void)minor;
    if (support == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    *support = major >= 7;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiDeviceVirtualizationMode(CUdevice dev, CUpti_DeviceVirtualizationMode *mode)
{
    (void)dev;
    if (mode == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    *mode = 0;
    return CUPTI_SUCCESS;
}
