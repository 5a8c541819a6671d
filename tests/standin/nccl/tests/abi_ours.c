/* SPDX-License-Identifier: Apache-2.0 */
/* The values of abi_values.h, in our own declarations. */
#include "nccl_abi.h"
#define ABI_CONFIG     struct skew_nccl_config_head
#define ABI_POLICY     struct skew_nccl_config_policy
#define ABI_CTA_POLICY cta_policy
#define ABI_HAS_FP8    1
#include "abi_values.h"

int main(void)
{
    return 0;
}
