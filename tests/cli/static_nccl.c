/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an object with NCCL linked into it looks like from outside: device code, and the names of
 * NCCL's kernels among the constants.
 */
extern const char fake_kernel_name[];
extern const char fake_device_code[];

const char fake_kernel_name[] = "_Z23ncclDevKernel_SendRecvP13ncclDevKernelArgs";
__attribute__((section(".nv_fatbin"))) const char fake_device_code[64] = "device code";
