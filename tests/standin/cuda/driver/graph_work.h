/* SPDX-License-Identifier: Apache-2.0 */
/* From node parameters to work. All return NULL and set *err on failure; *err is set always. */
#ifndef STANDIN_GRAPH_WORK_H
#define STANDIN_GRAPH_WORK_H

#include "engine.h"

struct si_work *si_kernel_work(const CUDA_KERNEL_NODE_PARAMS_v2 *p, CUresult *err);
struct si_work *si_copy_work(const CUDA_MEMCPY3D *p, CUcontext context, CUresult *err);
struct si_work *si_fill_work(const CUDA_MEMSET_NODE_PARAMS_v1 *p, CUcontext context, CUresult *err);
struct si_work *si_host_work(const CUDA_HOST_NODE_PARAMS_v1 *p, CUresult *err);
struct si_work *si_event_work(enum si_work_type type, CUevent event, CUresult *err);
struct si_work *si_alloc_work(CUDA_MEM_ALLOC_NODE_PARAMS_v1 *p, CUresult *err); /* sets p->dptr */
struct si_work *si_free_work(CUdeviceptr dptr, CUresult *err);
struct si_work *si_work_of(CUgraphNodeParams *p, CUresult *err);
void si_widen_kernel(const CUDA_KERNEL_NODE_PARAMS_v1 *from, CUDA_KERNEL_NODE_PARAMS_v2 *to);

#endif
