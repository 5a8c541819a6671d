/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little of the NCCL and CUDA ABI that skewscope relies on, declared here so that nothing needs
 * NVIDIA's headers to build. Names and values are NCCL's own (nccl.h 2.18 to 2.32). The functions
 * come from one list, interpose/nccl.api, through the generated nccl_decls.h; the test `abi-check`
 * compiles that list against the real headers wherever these exist.
 */
#ifndef SKEW_NCCL_ABI_H
#define SKEW_NCCL_ABI_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

typedef struct CUstream_st *cudaStream_t;
typedef struct ncclComm *ncclComm_t;
typedef struct ncclWindow_vidmem *ncclWindow_t;
typedef struct ncclParamHandle *ncclParamHandle_t;

#define NCCL_UNIQUE_ID_BYTES 128
typedef struct {
    char internal[NCCL_UNIQUE_ID_BYTES];
} ncclUniqueId;

typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
    ncclInProgress = 7,
    ncclTimeout = 8,
    ncclNumResults = 9
} ncclResult_t;

typedef enum {
    ncclSum = 0,
    ncclProd = 1,
    ncclMax = 2,
    ncclMin = 3,
    ncclAvg = 4,
    ncclNumOps = 5,
    ncclMaxRedOp = 0x7fffffff
} ncclRedOp_t;

typedef enum {
    ncclInt8 = 0,
    ncclUint8 = 1,
    ncclInt32 = 2,
    ncclUint32 = 3,
    ncclInt64 = 4,
    ncclUint64 = 5,
    ncclFloat16 = 6,
    ncclFloat32 = 7,
    ncclFloat64 = 8,
    ncclBfloat16 = 9,
    ncclFloat8e4m3 = 10,
    ncclFloat8e5m2 = 11,
    ncclNumTypes = 12
} ncclDataType_t;

typedef enum { ncclScalarDevice = 0, ncclScalarHostImmediate = 1 } ncclScalarResidence_t;

/* Structures whose layout we never look into, or only their common head. */
typedef struct skew_nccl_config
    ncclConfig_t; /* {size_t size; unsigned magic, version; int blocking; …} */
typedef struct skew_nccl_sim_info ncclSimInfo_t;
typedef struct skew_nccl_coll_config ncclCollConfig_t;
typedef struct skew_nccl_wait_desc ncclWaitSignalDesc_t;
typedef int ncclCommMemStat_t; /* an enum in NCCL: same size */

struct skew_nccl_config_head {
    size_t size;
    unsigned int magic;
    unsigned int version;
    int blocking; /* 0: non-blocking; 1 or NCCL_CONFIG_UNDEF_INT: blocking */
};

/* The same up to the field that says whether collectives may go without a kernel: since 2.27, and
 * unmoved up to 2.32. */
struct skew_nccl_config_policy {
    size_t size;
    unsigned int magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share, traffic_class;
    const char *comm_name;
    int collnet_enable;
    int cta_policy; /* NCCL_CTA_POLICY_…, or NCCL_CONFIG_UNDEF_INT */
};

#define NCCL_CTA_POLICY_ZERO    2
#define NCCL_WIN_COLL_SYMMETRIC 1

#define NCCL_CONFIG_MAGIC     0xcafebeefU
#define NCCL_CONFIG_UNDEF_INT INT_MIN
#define NCCL_SPLIT_NOCOLOR    (-1)

/**
 * Bytes of one element.
 * @return 1, 2, 4 or 8; 0 for a type that this version does not know (flag it, never guess).
 */
static inline unsigned skew_nccl_type_size(int datatype)
{
    static const uint8_t size[ncclNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return datatype >= 0 && datatype < ncclNumTypes ? size[datatype] : 0;
}

#endif
