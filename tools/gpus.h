/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which GPUs a machine has, as NVIDIA's driver tells in /proc: nothing is loaded, no device is
 * opened.
 */
#ifndef SKEW_GPUS_H
#define SKEW_GPUS_H

#define SKEW_GPUS_ROOT "/proc/driver/nvidia"

/** `driver` may be NULL. The strings are borrowed for the call. */
typedef void skew_gpu_fn(void *user, const char *bus, const char *model, const char *driver);

/** Tells each GPU below `root`, in the order of their PCI addresses. None: there is no such driver.
 */
void skew_gpus_find(const char *root, skew_gpu_fn *take, void *user);

#endif
