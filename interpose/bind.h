/* SPDX-License-Identifier: Apache-2.0 */
/* The tables between the generated wrappers and the resolver: real functions, and our wrappers. */
#ifndef SKEW_INTERPOSE_BIND_H
#define SKEW_INTERPOSE_BIND_H

#include "api_table.h"
#include "internal.h"

#pragma GCC visibility push(hidden)
/* Written once a slot, before skew_bound[slot] becomes 1 (release); never NULL from then on: what the
 * real library lacks is a function that returns ncclInvalidUsage. */
extern void *skew_real[SKEW_SLOTS][SKEW_API_COUNT];
extern void *const skew_wrapper[SKEW_SLOTS][SKEW_API_COUNT];
bool skew_api_absent(uint32_t slot, enum skew_api api);
int skew_api_find(const char *name); /* −1: not ours */
const char *skew_api_name(enum skew_api api);
void skew_bind_function(enum skew_api function, void *otherwise); /* of no NCCL, reached without dlsym() */
bool skew_bind_is_nccl(const void *address);                      /* whether the object that holds it is an NCCL */
#pragma GCC visibility pop

#endif
