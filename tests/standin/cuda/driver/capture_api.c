/* SPDX-License-Identifier: Apache-2.0 */
/* What programs ask about captures, and what they change in one by hand. */
#include "call.h"
#include "drv_impl.h"
#include "graph.h"

CUresult drv_cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    if (mode == NULL || *mode < 0 || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    int before = si_thread.capture_mode;
    si_thread.capture_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}

/* Asking is allowed always, but for the legacy stream while it could not be used. */
static CUresult ask(CUstream handle, CUstream *stream)
{
    CUresult err = si_stream_resolve(handle, stream);
    if (err != CUDA_SUCCESS || *stream != (*stream)->context->legacy)
        return err;
    return si_capture_forbid_members((*stream)->context, true, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                                     false);
}

CUresult drv_cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                       cuuint64_t *id_out, CUgraph *graph_out,
                                       const CUgraphNode **dependencies_out,
                                       const CUgraphEdgeData **edgeData_out,
                                       size_t *numDependencies_out)
{
    static const CUgraphEdgeData plain_edges[1024]; /* all of ours are full dependencies */
    CUstream stream;
    CUresult err = ask(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    if (captureStatus_out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    si_graph_lock();
    struct si_capture *c = stream->capture;
    *captureStatus_out = c == NULL     ? CU_STREAM_CAPTURE_STATUS_NONE
                         : !c->invalid ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                                       : CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    if (c != NULL && !c->invalid) {
        if (id_out != NULL)
            *id_out = c->id;
        if (graph_out != NULL)
            *graph_out = c->graph;
        if (dependencies_out != NULL)
            *dependencies_out = stream->capture_deps;
        if (edgeData_out != NULL)
            *edgeData_out = stream->capture_dep_count <= 1024 ? plain_edges : NULL;
        if (numDependencies_out != NULL)
            *numDependencies_out = stream->capture_dep_count;
    }
    si_graph_unlock();
    return CUDA_SUCCESS;
}

CUresult drv_cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                       cuuint64_t *id_out, CUgraph *graph_out,
                                       const CUgraphNode **dependencies_out,
                                       size_t *numDependencies_out)
{
    return drv_cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, graph_out,
                                         dependencies_out, NULL, numDependencies_out);
}

CUresult drv_cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                    cuuint64_t *id_out)
{
    return drv_cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, NULL, NULL, NULL,
                                         NULL);
}

CUresult drv_cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
    return drv_cuStreamGetCaptureInfo(hStream, captureStatus, NULL);
}

CUresult drv_cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode *dependencies,
                                               size_t numDependencies, unsigned int flags)
{
    CUstream stream;
    CUresult err = si_stream_resolve(hStream, &stream);
    if (err != CUDA_SUCCESS)
        return err;
    if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES || (dependencies == NULL && numDependencies > 0))
        return CUDA_ERROR_INVALID_VALUE;
    si_graph_lock();
    int failed = 0;
    if (stream->capture == NULL)
        err = CUDA_ERROR_ILLEGAL_STATE;
    else if (stream->capture->invalid)
        err = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
        failed = si_capture_set_deps(&stream->capture_deps, &stream->capture_dep_count,
                                     dependencies, numDependencies);
    else
        failed = si_capture_merge_deps(stream, dependencies, numDependencies);
    si_graph_unlock();
    return failed < 0 ? CUDA_ERROR_OUT_OF_MEMORY : err;
}

CUresult drv_cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode *dependencies,
                                                  const CUgraphEdgeData *dependencyData,
                                                  size_t numDependencies, unsigned int flags)
{
    (void)dependencyData;
    return drv_cuStreamUpdateCaptureDependencies(hStream, dependencies, numDependencies, flags);
}
