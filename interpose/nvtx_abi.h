/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little of NVTX's ABI that we meet (NVTX 3, nvtxDetail/nvtxTypes.h and nvToolsExt.h; unchanged
 * since 2017). tests/preload/nvtx_abi.c holds it against the real headers.
 */
#ifndef SKEW_INTERPOSE_NVTX_ABI_H
#define SKEW_INTERPOSE_NVTX_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { SKEW_NVTX_ASCII = 1, SKEW_NVTX_UNICODE = 2, SKEW_NVTX_REGISTERED = 3 };

/* nvtxEventAttributes_t */
struct skew_nvtx_event {
    uint16_t version, size;
    uint32_t category;
    int32_t color_type;
    uint32_t color;
    int32_t payload_type, reserved;
    uint64_t payload;
    int32_t message_type;
    const void *message; /* text, or a handle of a registered one */
};

enum { SKEW_NVTX_CORE = 1, SKEW_NVTX_CORE2 = 5 }; /* modules */

enum { /* of CORE */
       SKEW_NVTX_MARK_EVENT = 1,
       SKEW_NVTX_MARK_TEXT = 2,
       SKEW_NVTX_MARK_WIDE = 3,
       SKEW_NVTX_PUSH_EVENT = 8,
       SKEW_NVTX_PUSH_TEXT = 9,
       SKEW_NVTX_PUSH_WIDE = 10,
       SKEW_NVTX_POP = 11
};

enum { /* of CORE2 */
       SKEW_NVTX_DOMAIN_MARK_EVENT = 1,
       SKEW_NVTX_DOMAIN_PUSH_EVENT = 4,
       SKEW_NVTX_DOMAIN_POP = 5,
       SKEW_NVTX_DOMAIN_REGISTER_TEXT = 10,
       SKEW_NVTX_DOMAIN_REGISTER_WIDE = 11,
       SKEW_NVTX_DOMAIN_CREATE_TEXT = 12,
       SKEW_NVTX_DOMAIN_CREATE_WIDE = 13
};

enum { SKEW_NVTX_CALLBACKS = 1 }; /* export table */

/* NvtxExportTableCallbacks: a module's functions, as places where their pointers are kept. */
struct skew_nvtx_callbacks {
    size_t size;
    int (*get_module)(int module, void ****functions, unsigned *count);
};

/* Handles that we give out for domains and registered strings: the number of a name, and what no
 * address has in front. */
#define SKEW_NVTX_DOMAIN      ((uintptr_t)0x534b000000000000u)
#define SKEW_NVTX_STRING      ((uintptr_t)0x534c000000000000u)
#define SKEW_NVTX_HANDLE_KIND ((uintptr_t)0xffff000000000000u)

typedef const void *(*skew_nvtx_export)(uint32_t table);

#endif
