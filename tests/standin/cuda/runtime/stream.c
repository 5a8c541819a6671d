/* SPDX-License-Identifier: Apache-2.0 */
/* Streams and events: what does not simply forward (see runtime.api for what does). */
#include "runtime/rt.h"

cudaError_t rt_cudaStreamCreate(cudaStream_t *pStream)
{
    return rt_driver.cuStreamCreateWithPriority(pStream, CU_STREAM_DEFAULT, 0);
}

cudaError_t rt_cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags)
{
    return rt_driver.cuStreamCreateWithPriority(pStream, flags, 0);
}

cudaError_t rt_cudaStreamAttachMemAsync(cudaStream_t stream, void *devPtr, size_t length,
                                        unsigned int flags)
{
    return rt_driver.cuStreamAttachMemAsync(rt_stream(stream), (CUdeviceptr)(uintptr_t)devPtr,
                                            length, flags);
}

cudaError_t rt_cudaStreamGetCaptureInfo(cudaStream_t stream,
                                        cudaStreamCaptureStatus *captureStatus_out,
                                        unsigned long long *id_out, cudaGraph_t *graph_out,
                                        const cudaGraphNode_t **dependencies_out,
                                        const cudaGraphEdgeData **edgeData_out,
                                        size_t *numDependencies_out)
{
    cuuint64_t id = 0;
    cudaError_t err =
        rt_driver.cuStreamGetCaptureInfo_v3(rt_stream(stream), captureStatus_out, &id, graph_out,
                                            dependencies_out, edgeData_out, numDependencies_out);
    if (err == cudaSuccess && id_out != NULL && id != 0)
        *id_out = id;
    return err;
}

cudaError_t rt_cudaEventCreate(cudaEvent_t *event)
{
    return rt_driver.cuEventCreate(event, CU_EVENT_DEFAULT);
}

cudaError_t rt_cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return rt_driver.cuEventRecordWithFlags(event, rt_stream(stream), 0);
}
