/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device memory and streams of one rank, through the CUDA runtime only: the host never touches
 * device memory but by copies. Any failure ends the rank.
 */
#ifndef SKEW_WORKLOAD_DEVICE_H
#define SKEW_WORKLOAD_DEVICE_H

#include "workload.h"

#define SKEW_POISON 0xC5

/** Ends the rank unless `error` is cudaSuccess. */
void skew_cuda_check(const struct skew_rank *rank, int error, const char *call);

/** Chooses the GPU by the rank on this node and makes the stream. */
void skew_device_open(struct skew_rank *rank, unsigned local_rank);
void skew_device_close(struct skew_rank *rank);

/** A device buffer of at least `size` bytes, grown by a new allocation; contents are not kept. */
void skew_device_reserve(const struct skew_rank *rank, void **buffer, size_t *room, size_t size);
void skew_device_free(const struct skew_rank *rank, void **buffer, size_t *room);

void skew_device_upload(const struct skew_rank *rank, void *to, const void *from, size_t size);
void skew_device_download(const struct skew_rank *rank, void *to, const void *from, size_t size);
/** Fills a buffer with SKEW_POISON, so that what was never written shows. */
void skew_device_poison(const struct skew_rank *rank, void *buffer, size_t size);
void skew_device_wait(const struct skew_rank *rank);

#endif
