/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a closed group does: its jobs, each in a thread of its own when there are several, then one
 * device operation for each communicator. In the caller's thread, or in a background thread for
 * non-blocking communicators.
 */
#include <stdlib.h>

#include "group.h"

void sn_work_free(struct sn_work *work)
{
    for (struct sn_plan *p = work->plans, *next; p; p = next) {
        next = p->next;
        if (p->op)
            sn_op_destroy(p->op);
        free(p->tasks);
        free(p->streams);
        free(p);
    }
    for (struct sn_job *j = work->jobs, *next; j; j = next) {
        next = j->next;
        if (!j->ran && j->newcomm && j->child)
            sn_comm_free(j->child); /* a split that an error in the group prevented */
        free(j->exclude);
        free(j);
    }
}

/* ---- jobs ---- */

static void *job_main(void *arg)
{
    struct sn_job *job = arg;

    job->ran = true;
    job->result = job->run(job);
    return NULL;
}

ncclResult_t sn_jobs_run(struct sn_job *jobs)
{
    ncclResult_t result = ncclSuccess;
    bool alone = jobs && !jobs->next;

    for (struct sn_job *j = jobs; j; j = j->next) {
        if (!alone && pthread_create(&j->thread, NULL, job_main, j) == 0)
            continue;
        j->thread = 0;
        job_main(j);
    }
    for (struct sn_job *j = jobs; j; j = j->next) {
        if (j->thread)
            pthread_join(j->thread, NULL);
        if (j->result && !result)
            result = j->result;
    }
    return result;
}

/* ---- operations ---- */

/* The operations of one communicator follow each other, whatever streams they were given. */
static ncclResult_t follow_last(struct sn_plan *p, cudaStream_t stream)
{
    struct ncclComm *comm = p->comm;

    if (p->capture) {
        if (comm->capture_id != p->capture || comm->capture_stream == stream)
            return ncclSuccess;
        return sn_cu_stream_wait(stream, comm->capture_event);
    }
    if (!comm->has_last || comm->last_stream == stream)
        return ncclSuccess;
    return sn_cu_stream_wait(stream, comm->event);
}

static void remember_last(struct sn_plan *p, cudaStream_t stream)
{
    struct ncclComm *comm = p->comm;

    if (p->capture) {
        comm->capture_id = p->capture;
        comm->capture_stream = stream;
    } else {
        comm->has_last = true;
        comm->last_stream = stream;
    }
}

static ncclResult_t launch_plan(struct sn_plan *p)
{
    struct ncclComm *comm = p->comm;
    cudaStream_t stream = p->streams[p->nstreams - 1];
    sn_event event = p->capture ? comm->capture_event : comm->event;
    ncclResult_t result = follow_last(p, stream);

    for (int i = 0; !result && i < p->nstreams - 1; i++) {
        result = sn_cu_event_record(event, p->streams[i]);
        if (!result)
            result = sn_cu_stream_wait(stream, event);
    }
    if (result)
        return result;
    if (!p->capture)
        sn_op_count(p->op);
    if (p->copies)
        result = sn_cu_launch_copies(stream, (uint32_t)comm->nranks, sn_op_bytes(p->op), sn_op_run,
                                     p->op, sn_op_destroy);
    else
        result = sn_cu_launch(stream, p->op->kernel, sn_op_run, p->op, sn_op_destroy);
    if (result)
        return result;
    p->op = NULL; /* the driver's now */
    result = sn_cu_event_record(event, stream);
    for (int i = 0; !result && i < p->nstreams - 1; i++)
        result = sn_cu_stream_wait(p->streams[i], event);
    remember_last(p, stream);
    return result;
}

/* In the order of the communicators' ids, which is the same on every rank. */
static struct sn_plan *sort_plans(struct sn_plan *plans)
{
    struct sn_plan *sorted = NULL;

    for (struct sn_plan *p = plans, *next; p; p = next) {
        struct sn_plan **at = &sorted;
        next = p->next;
        while (*at && ((*at)->comm->id.a < p->comm->id.a ||
                       ((*at)->comm->id.a == p->comm->id.a && (*at)->comm->id.b <= p->comm->id.b)))
            at = &(*at)->next;
        p->next = *at;
        *at = p;
    }
    return sorted;
}

static ncclResult_t check_captures(const struct sn_plan *plans)
{
    for (const struct sn_plan *p = plans; p; p = p->next)
        if ((p->capture != 0) != (plans->capture != 0))
            return sn_fail(ncclInvalidUsage,
                           "Either none or all communicators in a ncclGroup() can "
                           "be CUDA graph captured.");
    return ncclSuccess;
}

ncclResult_t sn_work_launch(struct sn_work *work, bool simulate)
{
    ncclResult_t result = sn_jobs_run(work->jobs);

    work->plans = sort_plans(work->plans);
    if (!result)
        result = check_captures(work->plans);
    for (struct sn_plan *p = work->plans; p && !result; p = p->next)
        result = sn_op_build(&p->op, p->comm, p->tasks, p->ntasks, p->copies);
    for (struct sn_plan *p = work->plans; p && !result && !simulate; p = p->next) {
        if (!p->op)
            continue; /* nothing but sends to self in place */
        sn_ctx before = sn_cu_push(p->comm->ctx);
        result = launch_plan(p);
        sn_cu_pop(before);
    }
    return result;
}

static void *launch_in_background(void *arg)
{
    struct sn_work *work = arg;
    /* NCCL ignores simInfo here and launches. */
    ncclResult_t result = sn_work_launch(work, false);

    for (struct sn_plan *p = work->plans; p; p = p->next) {
        sn_comm_set_async(p->comm, result);
        sn_comm_busy(p->comm, -1);
    }
    for (struct sn_job *j = work->jobs; j; j = j->next) {
        sn_comm_set_async(j->comm, result);
        sn_comm_busy(j->comm, -1);
    }
    sn_work_free(work);
    free(work);
    return NULL;
}

ncclResult_t sn_work_background(struct sn_work *work)
{
    struct sn_work *copy = malloc(sizeof(*copy));
    pthread_attr_t attr;
    pthread_t thread;

    if (!copy)
        return sn_fail(ncclSystemError, "out of memory");
    *copy = *work;
    for (struct sn_plan *p = work->plans; p; p = p->next) {
        sn_comm_set_async(p->comm, ncclInProgress);
        sn_comm_busy(p->comm, +1);
    }
    for (struct sn_job *j = work->jobs; j; j = j->next) {
        sn_comm_set_async(j->comm, ncclInProgress);
        sn_comm_busy(j->comm, +1);
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &attr, launch_in_background, copy);
    pthread_attr_destroy(&attr);
    if (error)
        launch_in_background(copy);
    return ncclInProgress;
}
