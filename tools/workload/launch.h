/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts the ranks: processes of ours, threads, or the one rank that a launcher made of this
 * process.
 */
#ifndef SKEW_WORKLOAD_LAUNCH_H
#define SKEW_WORKLOAD_LAUNCH_H

#include "workload.h"

/** What RANK, WORLD_SIZE and their like say; false when no launcher started us. */
struct skew_launcher {
    unsigned rank, local_rank, world_size;
    char
        rendezvous[256]; /* default path prefix, the same in all ranks of one launch on this node */
};
bool skew_launcher_find(struct skew_launcher *launcher);

/** Says in this process's environment which rank it is, as launchers do. Threads share theirs. */
void skew_launch_announce(const struct skew_job *job, unsigned rank, unsigned local_rank);
/** Has NCCL accept several ranks on a GPU. Before any rank starts. */
void skew_launch_share_gpu(void);

/** Runs all ranks and waits. 0 when all succeeded, else 1; what failed has been told. */
int skew_launch_processes(struct skew_job *job);
int skew_launch_threads(struct skew_job *job);

#endif
