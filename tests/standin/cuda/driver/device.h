/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STANDIN_DEVICE_H
#define STANDIN_DEVICE_H

#include "engine.h"

int si_devices_init(void); /* once, from cuInit; 0 or -ENOMEM */
int si_device_attribute(int device, CUdevice_attribute attribute);

struct CUmemPoolHandle_st {
    uint32_t magic;
    int device;
    bool owned_by_device;
    CUmemPoolProps props;
    uint64_t attributes[CU_MEMPOOL_ATTR_USED_MEM_HIGH + 1];
    atomic_size_t used_bytes;
    atomic_size_t high_bytes;
};

#endif
