/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups: what a thread asks for between GroupStart and GroupEnd is kept here, and nothing reaches
 * a stream before the outermost end. Communicators are made and ended by jobs, each in a thread of
 * its own when there are several; then every communicator of the group gets one device operation,
 * on the stream that was named last, joined with its other streams by events, as in NCCL.
 */
#include <stdlib.h>
#include <string.h>

#include "group.h"

static __thread struct {
    int depth;
    ncclResult_t error;
    int blocking; /* 0: not known; 1: blocking; 2: not */
    struct sn_plan *plans, **last_plan;
    struct sn_job *jobs, **last_job;
} group;

struct sim_info { /* ncclSimInfo_t */
    size_t size;
    unsigned int magic, version;
    float estimated_us;
};

ncclResult_t sn_group_error(ncclResult_t result)
{
    if (group.depth > 0 && result != ncclSuccess && result != ncclInProgress)
        group.error = result;
    return result;
}

ncclResult_t sn_group_start(void)
{
    group.depth++;
    return ncclSuccess;
}

static ncclResult_t join_blocking(const struct ncclComm *comm, bool ends)
{
    int mine = ends || comm->blocking ? 1 : 2;

    if (ends || group.blocking == 0)
        group.blocking = mine;
    else if (group.blocking != mine)
        return sn_fail(ncclInvalidArgument, "Blocking and nonblocking communicators are not "
                                            "allowed in the same group.");
    return ncclSuccess;
}

ncclResult_t sn_group_job(struct sn_job *job)
{
    struct sn_work alone = {.jobs = job};
    ncclResult_t result;

    job->next = NULL;
    if (group.depth > 0) {
        result = join_blocking(job->comm, job->ends_comm);
        if (!result) {
            *(group.jobs ? group.last_job : &group.jobs) = job;
            group.last_job = &job->next;
            return ncclSuccess;
        }
    } else {
        result = sn_jobs_run(job);
    }
    sn_work_free(&alone);
    return result;
}

/* ---- appending ---- */

static struct sn_plan *plan_of(struct ncclComm *comm)
{
    struct sn_plan *p;

    for (p = group.plans; p; p = p->next)
        if (p->comm == comm)
            return p;
    p = calloc(1, sizeof(*p));
    if (p) {
        p->comm = comm;
        *(group.plans ? group.last_plan : &group.plans) = p;
        group.last_plan = &p->next;
    }
    return p;
}

static ncclResult_t add_stream(struct sn_plan *p, cudaStream_t stream)
{
    uint64_t capture;

    for (int i = 0; i < p->nstreams; i++)
        if (p->streams[i] == stream)
            return ncclSuccess;
    sn_ctx before = sn_cu_push(p->comm->ctx);
    ncclResult_t result = sn_cu_capture_id(stream, &capture);
    sn_cu_pop(before);
    if (result)
        return result;
    if (p->nstreams && capture != p->capture)
        return sn_fail(ncclInvalidUsage, "Streams given to a communicator within a NCCL group must "
                                         "either be all uncaptured or all captured by the same "
                                         "graph.");
    void *grown = realloc(p->streams, (size_t)(p->nstreams + 1) * sizeof(*p->streams));
    if (!grown)
        return sn_fail(ncclSystemError, "out of memory");
    p->streams = grown;
    p->streams[p->nstreams++] = stream;
    p->capture = capture;
    return ncclSuccess;
}

static ncclResult_t add_task(struct sn_plan *p, const struct sn_task *task)
{
    if (p->ntasks == p->room) {
        int room = p->room ? p->room * 2 : 16;
        void *grown = realloc(p->tasks, (size_t)room * sizeof(*p->tasks));
        if (!grown)
            return sn_fail(ncclSystemError, "out of memory");
        p->tasks = grown;
        p->room = room;
    }
    p->tasks[p->ntasks++] = *task;
    return ncclSuccess;
}

/* All-to-all, gather and scatter are sends and receives, as in NCCL. */
static ncclResult_t add_p2p(struct sn_plan *p, const struct sn_task *call,
                            const struct sn_vectors *v)
{
    size_t size = skew_nccl_type_size(call->type), bytes = call->count * size;
    int n = p->comm->nranks, rank = p->comm->rank;
    bool all = call->func == SN_ALLTOALL || call->func == SN_ALLTOALLV;
    ncclResult_t result = ncclSuccess;

    for (int r = 0; !result && r < n; r++) {
        struct sn_task send = *call, recv = *call;
        size_t at = (size_t)r * bytes;
        bool sends = all || (call->func == SN_GATHER ? r == call->root : rank == call->root);
        bool recvs = all || (call->func == SN_SCATTER ? r == call->root : rank == call->root);

        send.func = SN_SEND;
        recv.func = SN_RECV;
        send.root = recv.root = r;
        if (v) {
            send.send = (const char *)call->send + v->sdispls[r] * size;
            send.count = v->sendcounts[r];
            recv.recv = (char *)call->recv + v->rdispls[r] * size;
            recv.count = v->recvcounts[r];
        } else {
            if (call->func != SN_GATHER)
                send.send = (const char *)call->send + at;
            if (call->func != SN_SCATTER)
                recv.recv = (char *)call->recv + at;
        }
        if (sends)
            result = add_task(p, &send);
        if (!result && recvs)
            result = add_task(p, &recv);
    }
    return result;
}

/* As NCCL since 2.28 decides whether copy engines do a collective (ceImplemented, ncclCeAvailable):
 * no CTAs are wanted, and both buffers lie in symmetric windows. */
static bool can_be_copies(struct ncclComm *comm, const struct sn_task *task)
{
    size_t bytes = task->count * skew_nccl_type_size(task->type) * (size_t)comm->nranks;

    return task->func == SN_ALLTOALL && comm->zero_ctas && sn_options()->version >= 22800 &&
           sn_in_symmetric_window(comm, task->send, bytes) &&
           sn_in_symmetric_window(comm, task->recv, bytes);
}

static bool is_one_sided_or_p2p(enum sn_func func)
{
    return func == SN_SEND || func == SN_RECV || func >= SN_PUT;
}

static ncclResult_t append(const struct sn_task *task, const struct sn_vectors *v,
                           struct ncclComm *comm, cudaStream_t stream)
{
    size_t size = skew_nccl_type_size(task->type);
    ncclResult_t result;

    if (!is_one_sided_or_p2p(task->func)) {
        if (task->count == 0 && !v)
            return ncclSuccess; /* NCCL drops empty collectives, but not empty sends */
        if (comm->nranks == 1 && !task->premul.used) {
            size_t at = v ? v->sdispls[0] * size : 0, to = v ? v->rdispls[0] * size : 0;
            const char *from = (const char *)task->send + at;
            char *into = (char *)task->recv + to;
            /* As in NCCL, this goes to the stream at once, also inside a group. */
            if (from == into || (v && v->sendcounts[0] == 0))
                return ncclSuccess;
            sn_ctx before = sn_cu_push(comm->ctx);
            result = sn_cu_copy(into, from, (v ? v->sendcounts[0] : task->count) * size, stream);
            sn_cu_pop(before);
            return result;
        }
    }
    result = join_blocking(comm, false);
    if (result)
        return result;
    struct sn_plan *p = plan_of(comm);
    if (!p)
        return sn_fail(ncclSystemError, "out of memory");
    result = add_stream(p, stream);
    if (result)
        return result;
    p->copies = p->calls++ == 0 && can_be_copies(comm, task);
    if (task->func >= SN_ALLTOALL && task->func <= SN_SCATTER)
        return add_p2p(p, task, v);
    return add_task(p, task);
}

static ncclResult_t check_task(const char *name, struct sn_task *task, const struct ncclComm *comm)
{
    if (task->root < 0 || task->root >= comm->nranks)
        return sn_fail(ncclInvalidArgument,
                       "%s : invalid root %d (root should be in the 0..%d "
                       "range)",
                       name, task->root, comm->nranks);
    if (skew_nccl_type_size((int)task->type) == 0)
        return sn_fail(ncclInvalidArgument, "%s : invalid type %d", name, (int)task->type);
    if (task->op < 0)
        return sn_fail(ncclInvalidArgument, "%s : invalid reduction operation %d", name, task->op);
    if (task->op >= ncclNumOps) {
        int i = task->op - ncclNumOps;
        if (i >= comm->redop_capacity || !comm->redops[i].used)
            return sn_fail(ncclInvalidArgument,
                           "%s : reduction operation %d unknown to this communicator", name,
                           task->op);
        task->premul = comm->redops[i]; /* the user may destroy the handle before the group ends */
        if (task->premul.type != task->type)
            return sn_fail(ncclInvalidArgument, "Data type supplied to user-created ncclRedOp_t "
                                                "does not match type given to reduction operation");
        task->op = ncclSum;
    }
    return ncclSuccess;
}

ncclResult_t sn_enqueue(const char *name, struct sn_task *task, const struct sn_vectors *vectors,
                        struct ncclComm *comm, cudaStream_t stream)
{
    ncclResult_t result = sn_comm_check(comm, name, "comm");

    if (result)
        return sn_group_error(result);
    if (atomic_load(&comm->revoked))
        return sn_group_error(sn_fail(ncclInvalidUsage, "%s: communicator was revoked", name));
    sn_group_start();
    result = sn_comm_ready(comm);
    if (!result)
        result = check_task(name, task, comm);
    if (!result)
        result = append(task, vectors, comm, stream);
    if (result && !comm->blocking)
        sn_comm_set_async(comm, result);
    sn_group_error(result);
    ncclResult_t end = sn_group_end(NULL);
    if (end != ncclSuccess && end != ncclInProgress)
        return end;
    if (!comm->blocking) {
        end = ncclCommGetAsyncError(comm, &result);
        if (end)
            return end;
    }
    return result;
}

/* An estimate must only be plausible: 20 us and 10 GB/s. */
static void fill_sim_info(ncclSimInfo_t *sim, const struct sn_work *work)
{
    struct sim_info info;
    double us = 20;

    for (const struct sn_plan *p = work->plans; p; p = p->next)
        for (int i = 0; i < p->ntasks; i++)
            us += (double)(p->tasks[i].count * skew_nccl_type_size(p->tasks[i].type)) / 1e4;
    memcpy(&info, sim, sizeof(info));
    info.estimated_us = (float)us;
    memcpy(sim, &info, info.size < sizeof(info) ? info.size : sizeof(info));
}

static ncclResult_t close_group(ncclSimInfo_t *sim)
{
    struct sn_work work = {group.plans, group.jobs};
    ncclResult_t result = group.error;
    struct sim_info info = {0};
    bool blocking = group.blocking != 2;

    memset(&group, 0, sizeof(group));
    if (!result && sim) {
        memcpy(&info, sim, sizeof(info.size) + 2 * sizeof(int));
        if (info.magic != 0x74685283)
            result =
                sn_fail(ncclInvalidArgument,
                        "ncclSimInfo_t argument not initialized via NCCL_SIM_INFO_INITIALIZER");
    }
    if (!result && (work.plans || work.jobs)) {
        if (!blocking) {
            result = sn_work_background(&work);
            if (result == ncclInProgress)
                return result;
        } else {
            result = sn_work_launch(&work, sim != NULL);
            if (!result && sim)
                fill_sim_info(sim, &work);
        }
    }
    sn_work_free(&work);
    return result;
}

ncclResult_t sn_group_end(ncclSimInfo_t *sim)
{
    if (group.depth == 0)
        return sn_fail(ncclInvalidUsage, "ncclGroupEnd: not in a group call.");
    if (--group.depth > 0)
        return ncclSuccess;
    return close_group(sim);
}

ncclResult_t sn_group_end_with(ncclResult_t result)
{
    sn_group_error(result);
    ncclResult_t end = sn_group_end(NULL);
    /* Real NCCL returns Success here even when the work went to the background. */
    return end && end != ncclInProgress ? end : result;
}
