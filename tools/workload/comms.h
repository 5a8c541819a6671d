/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The communicators of one rank. Frameworks give every process group its own, so several may hold
 * the same ranks.
 */
#ifndef SKEW_WORKLOAD_COMMS_H
#define SKEW_WORKLOAD_COMMS_H

#include "workload.h"

/** Makes the communicators in `mask` (1 << enum skew_comm_role), in that order on every rank. */
void skew_comms_open(struct skew_rank *rank, unsigned mask);
void skew_comms_close(struct skew_rank *rank);

/** Waits until a non-blocking communicator has done what it was asked; free for a blocking one. */
void skew_comm_settle(const struct skew_rank *rank, ncclComm_t comm, const char *call);

/** Ends the rank unless the call succeeded, or goes on in the background of a non-blocking one. */
void skew_nccl_check(const struct skew_rank *rank, ncclResult_t result, const char *call);

const char *skew_comm_name(enum skew_comm_role role);

#endif
