/* SPDX-License-Identifier: Apache-2.0 */
/* A group between its start (group.c) and its launch (launch.c). */
#ifndef STANDIN_GROUP_H
#define STANDIN_GROUP_H

#include "standin.h"

struct sn_plan { /* what one communicator has to do in this group */
    struct sn_plan *next;
    struct ncclComm *comm;
    struct sn_task *tasks;
    int ntasks, room;
    cudaStream_t *streams; /* distinct; the one that came last at the end */
    int nstreams;
    uint64_t capture;
    int calls;   /* of the application, so far */
    bool copies; /* the only one is an all-to-all that copy engines can do */
    struct sn_op *op;
};

struct sn_work { /* a closed group on its way */
    struct sn_plan *plans;
    struct sn_job *jobs;
};

/** Runs jobs, side by side if there are several; the first error. */
ncclResult_t sn_jobs_run(struct sn_job *jobs);
/** Jobs, then operations; or only plans these, for a simulation. */
ncclResult_t sn_work_launch(struct sn_work *work, bool simulate);
/** The same in a new thread, which takes the work: ncclInProgress, or an error. */
ncclResult_t sn_work_background(struct sn_work *work);
void sn_work_free(struct sn_work *work); /* what it points to */

#endif
