/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values and layouts of the NCCL ABI that this project relies on. Compiled twice: behind our own
 * declarations, and behind the real <nccl.h> where there is one.
 */
#ifndef ABI_VALUES_H
#define ABI_VALUES_H

#include <stddef.h>

#define SAME(name, value) _Static_assert((long long)(name) == (value), #name " differs from NCCL's")

SAME(sizeof(ncclUniqueId), 128);
SAME(sizeof(ncclComm_t), 8);
SAME(ncclSuccess, 0);
SAME(ncclUnhandledCudaError, 1);
SAME(ncclSystemError, 2);
SAME(ncclInternalError, 3);
SAME(ncclInvalidArgument, 4);
SAME(ncclInvalidUsage, 5);
SAME(ncclRemoteError, 6);
SAME(ncclInProgress, 7);
SAME(ncclSum, 0);
SAME(ncclProd, 1);
SAME(ncclMax, 2);
SAME(ncclMin, 3);
SAME(ncclAvg, 4);
SAME(ncclNumOps, 5);
SAME(sizeof(ncclRedOp_t), 4);
SAME(ncclInt8, 0);
SAME(ncclUint8, 1);
SAME(ncclInt32, 2);
SAME(ncclUint32, 3);
SAME(ncclInt64, 4);
SAME(ncclUint64, 5);
SAME(ncclFloat16, 6);
SAME(ncclFloat32, 7);
SAME(ncclFloat64, 8);
SAME(ncclBfloat16, 9);
#if ABI_HAS_FP8
SAME(ncclFloat8e4m3, 10);
SAME(ncclFloat8e5m2, 11);
#endif
SAME(sizeof(ncclDataType_t), 4);
SAME(ncclScalarDevice, 0);
SAME(ncclScalarHostImmediate, 1);
SAME(NCCL_CONFIG_UNDEF_INT, -2147483648LL);
SAME(NCCL_SPLIT_NOCOLOR, -1);
SAME(offsetof(ABI_CONFIG, size), 0);
SAME(offsetof(ABI_CONFIG, magic), 8);
SAME(offsetof(ABI_CONFIG, version), 12);
SAME(offsetof(ABI_CONFIG, blocking), 16);
#ifdef ABI_CTA_POLICY
SAME(offsetof(ABI_POLICY, ABI_CTA_POLICY), 60);
#endif

#endif
