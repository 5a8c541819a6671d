/* SPDX-License-Identifier: Apache-2.0 */
/* What the cases of the job share: device work, and exchanges with sizes of their own. */
#ifndef TIMING_JOB_H
#define TIMING_JOB_H

#include "rig.h"

extern _Thread_local char
    *job_buffer; /* 4 MiB of device memory: sends from its first quarter, receives behind it */
extern _Thread_local unsigned job_unique; /* the latest exchange of this rank */

void job_work(const char *kernel, uint64_t ns, cudaStream_t stream);
void job_busy(uint64_t ns, cudaStream_t stream); /* expert computation */
void job_ahead(
    cudaStream_t stream); /* keeps the device busy while the host issues what is to come */
uint64_t job_late(const struct rig *rig, unsigned exchange);
void job_put(const struct rig *rig, unsigned exchange, int peer, ncclComm_t comm,
             cudaStream_t stream);
ncclResult_t job_exchange(const struct rig *rig, ncclComm_t comm, cudaStream_t stream);
unsigned job_rounds(unsigned usual);

/* job_graphs.c */
void job_graphs(struct rig *rig);
void job_graph_streams(struct rig *rig);

/* job_engines.c */
void job_engines(struct rig *rig);
void job_engine_graphs(struct rig *rig);

#endif
