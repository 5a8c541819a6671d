/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The caller's side of NVTX 3, as its headers put it into every program: a table of functions that
 * do nothing until the library that NVTX_INJECTION64_PATH names has replaced them. In our own words
 * and as far as ranges and marks need it (the ABI: interpose/nvtx_abi.h, docs/interception.md). Any
 * thread, once skew_nvtx_open() has returned.
 */
#ifndef SKEW_WORKLOAD_NVTX_H
#define SKEW_WORKLOAD_NVTX_H

#include <stdbool.h>

typedef void (*skew_nvtx_function)(void);

enum { SKEW_NVTX_CLIENT_FUNCTIONS = 16 }; /* of a module */

/* By the numbers that NVTX gives its functions; those that no tool wants are NULL. */
extern skew_nvtx_function skew_nvtx_core[SKEW_NVTX_CLIENT_FUNCTIONS],
    skew_nvtx_core2[SKEW_NVTX_CLIENT_FUNCTIONS];

/** Looks for a tool. @return whether one wants to hear. */
bool skew_nvtx_open(void);

/** As nvtxRangePushA, with a text made as by printf; nvtxRangePop; nvtxMarkA. */
void skew_nvtx_begin(const char *format, ...) __attribute__((format(printf, 1, 2)));
void skew_nvtx_end(void);
void skew_nvtx_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
