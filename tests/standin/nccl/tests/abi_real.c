/* SPDX-License-Identifier: Apache-2.0 */
/* The values of abi_values.h, in the real header. */
#include <nccl.h>
#define ABI_CONFIG ncclConfig_t
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
#define ABI_POLICY     ncclConfig_t
#define ABI_CTA_POLICY CTAPolicy
#endif
#define ABI_HAS_FP8 (NCCL_VERSION_CODE >= NCCL_VERSION(2, 24, 0))
#include "abi_values.h"

static const ncclConfig_t initial = NCCL_CONFIG_INITIALIZER;

int abi_real(void)
{
    return initial.magic != 0xcafebeef;
}
