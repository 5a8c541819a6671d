/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts and signals. A put travels through a ring like everything else, so the target's own process
 * copies it into the window: while one of its operations with one-sided calls runs, in practice
 * WaitSignal. A put that does not fit into the ring therefore lasts until its target waits. Within
 * an operation, one-sided calls go in order.
 */
#include <stdlib.h>
#include <string.h>

#include "export.h"
#include "standin.h"

struct wait_desc { /* ncclWaitSignalDesc_t */
    int count, peer, index, context;
};

struct sn_rma_run {
    struct sn_op *op;
    int index;
    bool begun;
    struct sn_message message;
};

struct sn_rma_run *sn_rma_begin(struct sn_op *op)
{
    struct sn_rma_run *run = calloc(1, sizeof(*run));

    if (!run)
        return NULL;
    run->op = op;
    if (op->nrma && !op->comm->arriving)
        op->comm->arriving = calloc((size_t)op->comm->nranks, sizeof(*op->comm->arriving));
    if (op->nrma && !op->comm->arriving) {
        free(run);
        return NULL;
    }
    return run;
}

void sn_rma_end(struct sn_rma_run *run)
{
    free(run);
}

/* ---- what others put here ---- */

static char *window_at(struct ncclComm *comm, uint32_t id, uint64_t offset, uint64_t bytes)
{
    char *at = NULL;

    pthread_mutex_lock(&comm->lock);
    for (struct sn_window *w = comm->windows; w; w = w->next)
        if (w->id == id && offset <= w->bytes && bytes <= w->bytes - offset)
            at = w->base + offset;
    pthread_mutex_unlock(&comm->lock);
    return at;
}

static void arrive_from(struct ncclComm *comm, int peer, struct sn_pass *pass)
{
    struct sn_message *m = &comm->arriving[peer];
    struct sn_ring *ring = sn_ring_of(&comm->seg, SN_RING_RMA, peer, comm->rank, false);
    size_t size = sn_ring_size(&comm->seg);
    struct sn_header header;

    while (ring && !pass->error) {
        if (!m->header_done) {
            if (sn_ring_used(ring) < sizeof(header))
                return;
            sn_ring_read(ring, size, &header, sizeof(header));
            if (sn_options()->couple)
                sn_link_heard(pass, header.arrival_ns);
            *m = (struct sn_message){.peer = peer, .header_done = true, .bytes = header.bytes};
            m->buf =
                header.bytes ? window_at(comm, header.ordinal, header.offset, header.bytes) : NULL;
            if (header.bytes && !m->buf)
                pass->error = sn_fail(ncclInvalidUsage,
                                      "rank %d puts %llu bytes outside of every window of rank %d",
                                      peer, (unsigned long long)header.bytes, comm->rank);
        }
        if (pass->error)
            return;
        m->at += sn_ring_read(ring, size, m->buf ? m->buf + m->at : NULL, m->bytes - m->at);
        pass->moved = true;
        pass->touched[peer] = 1;
        if (m->at < m->bytes)
            return;
        m->header_done = false;
        comm->signals[peer]++;
    }
}

/* ---- what this rank does ---- */

static bool send_one(struct sn_rma_run *run, const struct sn_task *t, struct sn_pass *pass)
{
    struct ncclComm *comm = run->op->comm;

    if (!run->begun) {
        run->message = (struct sn_message){
            .peer = t->root,
            .is_send = true,
            .buf = (char *)(uintptr_t)t->send,
            .bytes = t->count * skew_nccl_type_size((int)t->type),
            .what = (uint32_t)t->func,
            .ordinal = t->window,
            .offset = t->offset,
        };
        run->begun = true;
    }
    if (t->root != comm->rank) {
        sn_message_progress(&run->message, SN_RING_RMA, pass);
        return run->message.done;
    }
    char *to = window_at(comm, t->window, t->offset, run->message.bytes);
    if (run->message.bytes && !to)
        pass->error = sn_fail(ncclInvalidUsage, "rank %d puts outside of its windows", comm->rank);
    else if (run->message.bytes)
        memmove(to, t->send, run->message.bytes);
    comm->signals[comm->rank]++;
    return true;
}

static bool task_done(struct sn_rma_run *run, struct sn_pass *pass)
{
    struct ncclComm *comm = run->op->comm;
    const struct sn_task *t = &run->op->tasks[run->op->rma_first + run->index];

    if (t->func != SN_WAITSIGNAL)
        return send_one(run, t, pass);
    if (comm->signals[t->root] - comm->signals_taken[t->root] < t->count)
        return false;
    comm->signals_taken[t->root] += t->count;
    return true;
}

bool sn_rma_progress(struct sn_rma_run *run, struct sn_pass *pass)
{
    struct ncclComm *comm = run->op->comm;

    if (!run->op->nrma)
        return true;
    for (int r = 0; r < comm->nranks; r++)
        if (r != comm->rank)
            arrive_from(comm, r, pass);
    while (run->index < run->op->nrma && !pass->error && task_done(run, pass)) {
        run->begun = false;
        run->index++;
    }
    return run->index == run->op->nrma;
}

void sn_rma_waits_on(const struct sn_rma_run *run, uint8_t *peers)
{
    if (run->index < run->op->nrma)
        peers[run->op->tasks[run->op->rma_first + run->index].root] = 1;
}

/* ---- the calls ---- */

static ncclResult_t check_context(const char *call, int index, int context, unsigned flags)
{
    if (index == 0 && context == 0 && flags == 0)
        return ncclSuccess;
    return sn_fail(ncclInvalidArgument, "%s : sigIdx, ctx and flags must be 0", call);
}

SN_EXPORT(ncclResult_t, ncclPutSignal,
          (const void *localbuff, size_t count, ncclDataType_t datatype, int peer,
           ncclWindow_t peerWin, size_t peerWinOffset, int sigIdx, int ctx, unsigned int flags,
           ncclComm_t comm, cudaStream_t stream))
{
    struct sn_task task = {.func = SN_PUT,
                           .send = localbuff,
                           .count = count,
                           .type = datatype,
                           .root = peer,
                           .offset = peerWinOffset};
    ncclResult_t result = check_context("PutSignal", sigIdx, ctx, flags);

    if (!result && !peerWin)
        result = sn_fail(ncclInvalidArgument, "PutSignal : peerWin argument is NULL");
    if (result)
        return sn_group_error(result);
    task.window = ((struct sn_window *)peerWin)->id;
    return sn_enqueue("PutSignal", &task, NULL, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclSignal,
          (int peer, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm, cudaStream_t stream))
{
    struct sn_task task = {.func = SN_SIGNAL, .root = peer};
    ncclResult_t result = check_context("Signal", sigIdx, ctx, flags);

    return result ? sn_group_error(result) : sn_enqueue("Signal", &task, NULL, comm, stream);
}

SN_EXPORT(ncclResult_t, ncclWaitSignal,
          (int nDesc, ncclWaitSignalDesc_t *signalDescs, ncclComm_t comm, cudaStream_t stream))
{
    const struct wait_desc *desc = (const struct wait_desc *)signalDescs;
    ncclResult_t result = ncclSuccess;

    if (nDesc < 0 || (nDesc && !desc))
        return sn_group_error(sn_fail(ncclInvalidArgument, "WaitSignal : no descriptors"));
    sn_group_start(); /* all descriptors are one operation */
    for (int i = 0; !result && i < nDesc; i++) {
        struct sn_task task = {
            .func = SN_WAITSIGNAL, .count = (size_t)desc[i].count, .root = desc[i].peer};
        result = check_context("WaitSignal", desc[i].index, desc[i].context, 0);
        if (!result)
            result = sn_enqueue("WaitSignal", &task, NULL, comm, stream);
        sn_group_error(result);
    }
    ncclResult_t end = sn_group_end(NULL);
    return end ? end : result;
}
