/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a CUDA kernel does, by its name (schema/kernels.json). Backends that move tokens from inside
 * kernels are recognised so; what they move cannot be seen from the host, when they do it can. Pure
 * functions; nothing is shared between threads.
 */
#ifndef SKEW_KERNELS_H
#define SKEW_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

enum skew_kernel_does {
    SKEW_KERNEL_OTHER, /* computation, or copies of the application's own */
    SKEW_KERNEL_DISPATCH,
    SKEW_KERNEL_COMBINE,
    SKEW_KERNEL_FUSED, /* dispatch, experts and combine in one */
    SKEW_KERNEL_COUNT, /* layouts, notifications, prefix sums */
    SKEW_KERNEL_BARRIER,
    SKEW_KERNEL_PERMUTE,
    SKEW_KERNEL_TRANSFER, /* an all-to-all; its name does not tell which way */
    SKEW_KERNEL_EXPERTS,
    SKEW_KERNEL_COLLECTIVE,
    SKEW_KERNEL_UNKNOWN /* sounds like communication, but nobody has said what it is */
};

/** Template arguments that some kernels carry; 0: not told by this one. */
enum skew_kernel_argument {
    SKEW_KERNEL_RANKS,
    SKEW_KERNEL_EXPERT_COUNT,
    SKEW_KERNEL_TOPK,
    SKEW_KERNEL_HIDDEN, /* elements */
    SKEW_KERNEL_HIDDEN_BYTES,
    SKEW_KERNEL_MAX_TOKENS, /* a rank */
    SKEW_KERNEL_ARGUMENTS
};

struct skew_kernel {
    enum skew_kernel_does does;
    const char *backend; /* static; NULL: none, or any */
    bool bytes_seen;     /* what it moves is known from recorded calls, or it moves nothing */
    int64_t argument[SKEW_KERNEL_ARGUMENTS];
};

/**
 * Classifies a kernel by its name as CUPTI gives it (mangled) or as people write it (demangled).
 * @return false when the name is mangled and this build cannot demangle: then `out` says OTHER or
 *         UNKNOWN by the words in it
 */
bool skew_kernel_classify(const char *name, struct skew_kernel *out);

/** "dispatch", … for messages and JSON. */
const char *skew_kernel_does_name(enum skew_kernel_does does);

/** The demangled form, or a copy of the name where it is not mangled. free() it. NULL: no memory.
 */
char *skew_kernel_demangle(const char *name);

#endif
