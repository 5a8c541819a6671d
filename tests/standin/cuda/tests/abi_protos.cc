/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Declares every function of the stand-ins again after the real headers, which must agree. The
 * first macro makes cuda.h declare old spellings beside the new ones instead of renaming them.
 */
#define __CUDA_API_VERSION_INTERNAL 1
#include <cuda.h>
#include <cudaProfiler.h>
#include <cuda_profiler_api.h>
#include <cuda_runtime_api.h>

#include "driver_protos.h"
#include "runtime_protos.h"
