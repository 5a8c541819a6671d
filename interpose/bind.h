/* SPDX-License-Identifier: Apache-2.0 */
/* The tables between the generated wrappers and the resolver: real functions, and our wrappers. */
#ifndef SKEW_INTERPOSE_BIND_H
#define SKEW_INTERPOSE_BIND_H

#include "api_table.h"
#include "internal.h"

#pragma GCC visibility push(hidden)
/* Written once a slot, before skew_bound[slot] becomes 1 (release); never NULL from then on: what
 * the real library lacks is a function that returns ncclInvalidUsage. */
extern void *skew_real[SKEW_SLOTS][SKEW_API_COUNT];
extern void *const skew_wrapper[SKEW_SLOTS][SKEW_API_COUNT];
bool skew_api_absent(uint32_t slot, enum skew_api api);
int skew_api_find(const char *name); /* −1: not ours */
/* Functions of CUDA, CUPTI and NCCL EP: one library a process. Slot 1 of the driver's holds what
 * cuGetProcAddress answered. */
void *skew_single_bind(enum skew_api function,
                       void *otherwise);                   /* NULL: what says so in its own way */
extern const uint8_t skew_backend_call_of[SKEW_API_COUNT]; /* enum skew_backend_call; 0: none */
const char *skew_api_name(enum skew_api api);
bool skew_bind_is_nccl(const void *address); /* whether the object that holds it is an NCCL */
#pragma GCC visibility pop

#endif
