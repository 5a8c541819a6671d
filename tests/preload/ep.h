/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NCCL EP's functions as three revisions of it might declare them: EP_OLD and EP_NEW after
 * contrib/nccl_ep of NVIDIA/nccl, EP_ODD with everything that a calling convention has. For the
 * stand-in library and the programs that call it.
 */
#ifndef TEST_EP_H
#define TEST_EP_H

#include <stdarg.h>
#include <stddef.h>

#include "nccl_decls.h"

#if defined(EP_ODD)
/* Returned, and passed, in memory. */
struct ep_large {
    long part[7];
};
/* In two vector registers. */
struct ep_pair {
    double first, second;
};
#if defined(__x86_64__)
typedef double ep_wide __attribute__((vector_size(32)));
#define EP_WIDE __attribute__((target("avx")))
#endif
struct ep_large ncclEpDispatch(void *handle, int a, long b, short c, unsigned d, char e, size_t f,
                               int g, long h, double p, float q, double r, float s, double t,
                               double u, double v, double w, double x, float y,
                               struct ep_large large, long double z);
double ncclEpCombine(void *handle, struct ep_pair pair, const char *kinds, ...);
#ifdef EP_WIDE
EP_WIDE ep_wide ncclEpComplete(void *handle, ep_wide a, ep_wide b);
#else
double ncclEpComplete(void *handle, double a, double b);
#endif
#elif defined(EP_NEW)
struct ep_named {
    unsigned size, magic;
    void *tokens, *weights;
};
ncclResult_t ncclEpDispatch(void *handle, const struct ep_named *inputs,
                            const struct ep_named *outputs, const void *layout_info,
                            const void *config, cudaStream_t stream);
ncclResult_t ncclEpCombine(void *handle, const struct ep_named *inputs,
                           const struct ep_named *outputs, const void *config, cudaStream_t stream);
ncclResult_t ncclEpComplete(void *handle, const void *config, cudaStream_t stream);
ncclResult_t ncclEpInitHandle(void **handle, void *group, int layout, const void *config, int topk,
                              void *memory);
ncclResult_t ncclEpUpdateHandle(void *handle, const void *topk_idx, const void *layout_info,
                                cudaStream_t stream);
#else
ncclResult_t ncclEpDispatch(void *handle, void *const *inputs, unsigned inputs_count,
                            void *const *outputs, unsigned outputs_count, void *const *locals,
                            unsigned locals_count, unsigned send_only, const void *config,
                            cudaStream_t stream);
ncclResult_t ncclEpCombine(void *handle, void *const *inputs, unsigned inputs_count,
                           void *const *outputs, unsigned outputs_count, void *const *locals,
                           unsigned locals_count, unsigned send_only, const void *config,
                           cudaStream_t stream);
ncclResult_t ncclEpComplete(void *handle, const void *config, cudaStream_t stream);
#endif

ncclResult_t ncclEpCreateGroup(void **group, ncclComm_t comm, const void *config,
                               cudaStream_t stream, void *allocate, void *release);
ncclResult_t ncclEpGroupDestroy(void *group);
ncclResult_t ncclEpCreateHandle(void **handle, void *group, const void *topk_idx,
                                const void *config, cudaStream_t stream);
ncclResult_t ncclEpHandleDestroy(void *handle);
const char *ep_said(void); /* what all calls so far have been given */

#endif
