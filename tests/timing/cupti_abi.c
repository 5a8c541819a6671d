/* SPDX-License-Identifier: Apache-2.0 */
/* interpose/cupti_abi.h against the real headers: built where there are some. */
#include <stddef.h>
#include <stdio.h>

#include <cuda.h>
#include <cupti.h>

#include "cupti_abi.h"

static int failed;

static void same(const char *what, unsigned long ours, unsigned long real)
{
    if (ours != real) {
        printf("%s is %lu here, not %lu\n", what, real, ours);
        failed = 1;
    }
}

#define LAYOUT(name, type, ours)                                                                   \
    do {                                                                                           \
        const struct skew_cupti_layout at = ours;                                                  \
        same(name ".start", at.start, offsetof(type, start));                                      \
        same(name ".end", at.end, offsetof(type, end));                                            \
        same(name ".deviceId", at.device, offsetof(type, deviceId));                               \
        same(name ".streamId", at.stream, offsetof(type, streamId));                               \
        same(name ".correlationId", at.correlation, offsetof(type, correlationId));                \
        same(name ".graphNodeId", at.graph_node, offsetof(type, graphNodeId));                     \
        same(name ".graphId", at.graph, offsetof(type, graphId));                                  \
        same(name ".kind", 0, offsetof(type, kind));                                               \
    } while (0)

/* Records only grow at their ends: the latest ones of these headers, and the oldest that we read.
 */
#if CUPTI_API_VERSION >= 130000
typedef CUpti_ActivityKernel10 kernel_latest;
typedef CUpti_ActivityMemcpy6 memcpy_latest;
typedef CUpti_ActivityMemcpyPtoP4 memcpy2_latest;
#elif CUPTI_API_VERSION >= 18
typedef CUpti_ActivityKernel8 kernel_latest;
typedef CUpti_ActivityMemcpy5 memcpy_latest;
typedef CUpti_ActivityMemcpyPtoP4 memcpy2_latest;
#else
typedef CUpti_ActivityKernel6 kernel_latest;
typedef CUpti_ActivityMemcpy4 memcpy_latest;
typedef CUpti_ActivityMemcpyPtoP3 memcpy2_latest;
#endif

int main(void)
{
    const struct skew_cupti_layout kernel = SKEW_CUPTI_KERNEL;
    const unsigned driver[] = SKEW_CUPTI_DRIVER_CALLS, runtime[] = SKEW_CUPTI_RUNTIME_CALLS;
    LAYOUT("Kernel", kernel_latest, SKEW_CUPTI_KERNEL);
    same("Kernel.name", kernel.name, offsetof(kernel_latest, name));
    LAYOUT("Memcpy", memcpy_latest, SKEW_CUPTI_MEMCPY);
    LAYOUT("MemcpyPtoP", memcpy2_latest, SKEW_CUPTI_MEMCPY2);
    same("ExternalCorrelation.externalKind", SKEW_CUPTI_EXTERNAL_KIND,
         offsetof(CUpti_ActivityExternalCorrelation, externalKind));
    same("ExternalCorrelation.externalId", SKEW_CUPTI_EXTERNAL_ID,
         offsetof(CUpti_ActivityExternalCorrelation, externalId));
    same("ExternalCorrelation.correlationId", SKEW_CUPTI_EXTERNAL_CORRELATION,
         offsetof(CUpti_ActivityExternalCorrelation, correlationId));
    same("CUSTOM2", SKEW_CUPTI_CUSTOM2, CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2);
    same("FLUSH_FORCED", SKEW_CUPTI_FORCED, CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    same("kind MEMCPY", SKEW_CUPTI_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMCPY);
    same("kind DRIVER", SKEW_CUPTI_KIND_DRIVER, CUPTI_ACTIVITY_KIND_DRIVER);
    same("kind RUNTIME", SKEW_CUPTI_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_RUNTIME);
    same("kind KERNEL", SKEW_CUPTI_KIND_KERNEL, CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    same("kind MEMCPY2", SKEW_CUPTI_KIND_MEMCPY2, CUPTI_ACTIVITY_KIND_MEMCPY2);
    same("kind EXTERNAL", SKEW_CUPTI_KIND_EXTERNAL, CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION);
    same("cuLaunchKernel", driver[0], CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel);
    same("cuMemcpyAsync_v2", driver[4], CUPTI_DRIVER_TRACE_CBID_cuMemcpyAsync);
    same("cuMemcpyDtoDAsync_v2", driver[6], CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoDAsync_v2);
    same("cuMemcpyPeerAsync", driver[8], CUPTI_DRIVER_TRACE_CBID_cuMemcpyPeerAsync);
    same("cuGraphLaunch", driver[14], CUPTI_DRIVER_TRACE_CBID_cuGraphLaunch);
    same("cudaLaunchKernel", runtime[0], CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_v7000);
    same("cudaMemcpyAsync", runtime[4], CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyAsync_v3020);
    same("cudaGraphLaunch", runtime[10], CUPTI_RUNTIME_TRACE_CBID_cudaGraphLaunch_v10000);
#if CUPTI_API_VERSION >= 130000
    same("cuLaunchKernelEx", driver[2], CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx);
    same("cuMemcpyBatchAsync", driver[10], CUPTI_DRIVER_TRACE_CBID_cuMemcpyBatchAsync);
    same("cudaLaunchKernelExC", runtime[2], CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernelExC_v11060);
#endif
    return failed;
}
