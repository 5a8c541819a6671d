/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One device operation: everything that one communicator does in one group. It is built when the
 * group closes and never changes after that, so that a CUDA graph can run it again; each run has
 * its own state. Runs on the stream's worker thread of the stand-in driver, moves all its messages
 * in one loop, so that no order of sends and receives can deadlock, and sleeps when nothing moves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

#define SLICE_NS 100000000u /* the longest sleep: then look whether the peers live */

struct channel_run {
    int index; /* of the current task in the channel */
    struct sn_message message;
    bool begun;
};

struct op_run {
    struct sn_op *op;
    struct sn_pass pass;
    struct channel_run *channels;
    struct sn_coll_run *coll;
    struct sn_rma_run *rma;
    uint8_t *waits_on;
};

/* ---- building ---- */

static int task_place(const struct ncclComm *comm, const struct sn_task *t)
{
    if (t->func == SN_SEND || t->func == SN_RECV)
        return t->root * 2 + (t->func == SN_RECV);
    return t->func < SN_PUT ? 2 * comm->nranks : 2 * comm->nranks + 1;
}

/* Counting sort, stable: channel by channel, then collectives, then the one-sided ones. */
static int sort_tasks(struct sn_op *op, const struct sn_task *tasks, int ntasks)
{
    const struct ncclComm *comm = op->comm;
    int places = 2 * comm->nranks + 2, nchannels = 0;
    int *start = calloc((size_t)places + 1, sizeof(*start));

    if (!start)
        return -ENOMEM;
    for (int i = 0; i < ntasks; i++)
        start[task_place(comm, &tasks[i]) + 1]++;
    for (int p = 0; p < 2 * comm->nranks; p++)
        nchannels += start[p + 1] > 0;
    op->channels = calloc((size_t)nchannels + 1, sizeof(*op->channels));
    if (!op->channels) {
        free(start);
        return -ENOMEM;
    }
    for (int p = 0; p < places; p++) {
        int count = start[p + 1];
        start[p + 1] += start[p];
        if (count && p < 2 * comm->nranks)
            op->channels[op->nchannels++] = (struct sn_channel){p / 2, p % 2 == 0, start[p], count};
    }
    op->coll_first = start[places - 2];
    op->rma_first = start[places - 1];
    op->ncoll = op->rma_first - op->coll_first;
    op->nrma = ntasks - op->rma_first;
    for (int i = 0; i < ntasks; i++)
        op->tasks[start[task_place(comm, &tasks[i])]++] = tasks[i];
    op->ntasks = ntasks;
    free(start);
    return 0;
}

static ncclResult_t check_self(const struct sn_op *op)
{
    int sends = 0, recvs = 0;

    for (int c = 0; c < op->nchannels; c++)
        if (op->channels[c].peer == op->comm->rank)
            *(op->channels[c].is_send ? &sends : &recvs) = op->channels[c].count;
    if (sends > recvs)
        return sn_fail(ncclInvalidUsage, "Trying to send to self without a matching recv");
    if (recvs > sends)
        return sn_fail(ncclInvalidUsage, "Trying to recv to self without a matching send");
    return ncclSuccess;
}

static const char *const type_names[ncclNumTypes] = {
    "i8", "u8", "u32", "u32", "u64", "u64", "f16", "f32", "f64", "bf16", "f8e4m3", "f8e5m2"};
static const char *const op_names[] = {"Sum", "Prod", "MinMax", "MinMax", "SumPostDiv"};

/* The names that a trace of real NCCL shows, mangled; see also README.md. */
static void name_kernel(struct sn_op *op)
{
    static const char *const funcs[] = {[SN_ALLGATHER] = "AllGather",
                                        [SN_REDUCESCATTER] = "ReduceScatter",
                                        [SN_ALLREDUCE] = "AllReduce",
                                        [SN_BROADCAST] = "Broadcast",
                                        [SN_REDUCE] = "Reduce"};
    bool old = sn_options()->version < 21900;
    const char *prefix = old ? "ncclKernel_" : "ncclDevKernel_";
    char name[120];

    if (op->ncoll) {
        const struct sn_task *t = &op->tasks[op->coll_first];
        bool reduces = t->func != SN_ALLGATHER && t->func != SN_BROADCAST;
        snprintf(name, sizeof(name), "%s%s%s%s%s%s_RING_LL", prefix, funcs[t->func],
                 reduces ? "_" : "", reduces ? op_names[t->op] : "", reduces ? "_" : "",
                 reduces ? type_names[t->type] : "");
    } else {
        snprintf(name, sizeof(name), "%sSendRecv%s", prefix, old ? "_RING_SIMPLE_Sum_int8_t" : "");
    }
    snprintf(op->kernel, sizeof(op->kernel), "_Z%zu%s%s", strlen(name), name,
             old ? "P11ncclDevCommmP8ncclWork" : "24ncclDevKernelArgsStorageILm4096EE");
}

ncclResult_t sn_op_build(struct sn_op **out, struct ncclComm *comm, const struct sn_task *tasks,
                         int ntasks, bool copies)
{
    struct sn_op *op;

    *out = NULL;
    if (ntasks == 0)
        return ncclSuccess;
    op = calloc(1, sizeof(*op));
    if (!op)
        return sn_fail(ncclSystemError, "out of memory");
    op->comm = comm;
    op->generation = comm->generation;
    op->tasks = malloc((size_t)ntasks * sizeof(*op->tasks));
    if (!op->tasks || sort_tasks(op, tasks, ntasks) != 0) {
        sn_op_destroy(op);
        return sn_fail(ncclSystemError, "out of memory");
    }
    ncclResult_t result = check_self(op);
    if (result) {
        sn_op_destroy(op);
        return result;
    }
    op->copies = copies;
    if (!copies)
        name_kernel(op);
    *out = op;
    return ncclSuccess;
}

uint64_t sn_op_bytes(const struct sn_op *op)
{
    uint64_t bytes = 0;

    for (int i = 0; i < op->ntasks; i++)
        if (op->tasks[i].func == SN_SEND)
            bytes += op->tasks[i].count * skew_nccl_type_size((int)op->tasks[i].type);
    return bytes;
}

void sn_op_count(struct sn_op *op)
{
    op->counted = true;
    sn_comm_pending(op->comm, +1);
}

void sn_op_destroy(void *user)
{
    struct sn_op *op = user;

    if (op->counted)
        sn_comm_pending(op->comm, -1);
    free(op->tasks);
    free(op->channels);
    free(op);
}

/* ---- messages ---- */

static void send_progress(struct sn_message *m, enum sn_ring_kind kind, struct sn_pass *pass)
{
    struct sn_segment *seg = &pass->comm->seg;
    size_t size = sn_ring_size(seg);
    struct sn_ring *ring = sn_ring_of(seg, kind, seg->rank, m->peer, true);

    if (!ring) {
        pass->error =
            sn_fail(ncclSystemError, "no memory for a ring in %s: %s", seg->path, strerror(errno));
        return;
    }
    if (!m->header_done) {
        struct sn_header header = {m->bytes, SN_WHAT | m->what, m->ordinal, m->offset,
                                   sn_link_told(pass)};
        if (size - sn_ring_used(ring) < sizeof(header))
            return;
        m->number = ++ring->sent;
        sn_ring_write(ring, size, &header, sizeof(header));
        m->header_done = pass->moved = true;
        pass->touched[m->peer] = 1;
    }
    size_t n = sn_ring_write(ring, size, m->buf + m->at, m->bytes - m->at);
    if (n) {
        m->at += n;
        pass->moved = true;
        pass->touched[m->peer] = 1;
    }
    if (m->at < m->bytes)
        return;
    if (!sn_options()->couple || kind == SN_RING_RMA) {
        m->done = true;
    } else if (atomic_load_explicit(&ring->answered, memory_order_acquire) >= m->number) {
        sn_link_heard(pass, atomic_load_explicit(&ring->arrival_ns, memory_order_relaxed));
        m->done = true;
    }
}

static void check_header(struct sn_message *m, enum sn_ring_kind kind,
                         const struct sn_header *header, struct sn_pass *pass)
{
    struct ncclComm *comm = pass->comm;

    m->wire_bytes = header->bytes;
    if (header->what != (SN_WHAT | m->what) || header->ordinal != m->ordinal) {
        pass->error = sn_fail(ncclInvalidUsage,
                              "rank %d and rank %d call different collectives, or in another order",
                              m->peer, comm->rank);
    } else if (header->bytes != m->bytes) {
        ncclResult_t result = sn_fail(
            ncclInvalidUsage, "rank %d sent %llu bytes where rank %d receives %llu", m->peer,
            (unsigned long long)header->bytes, comm->rank, (unsigned long long)m->bytes);
        if (kind == SN_RING_COLL)
            pass->error = result;
        else /* real NCCL hangs or writes wrong data; here the shorter size counts and it shows */
            sn_comm_set_async(comm, result);
    }
}

bool sn_message_header(struct sn_message *m, enum sn_ring_kind kind, struct sn_pass *pass)
{
    struct sn_segment *seg = &pass->comm->seg;
    struct sn_ring *ring = sn_ring_of(seg, kind, m->peer, seg->rank, false);
    struct sn_header header;

    if (m->header_done)
        return true;
    if (!ring || sn_ring_used(ring) < sizeof(header))
        return false;
    sn_ring_read(ring, sn_ring_size(seg), &header, sizeof(header));
    m->header_done = pass->moved = true;
    pass->touched[m->peer] = 1;
    if (sn_options()->couple) {
        sn_link_heard(pass, header.arrival_ns);
        atomic_store_explicit(&ring->arrival_ns, sn_link_told(pass), memory_order_relaxed);
        atomic_fetch_add_explicit(&ring->answered, 1, memory_order_release);
    }
    check_header(m, kind, &header, pass);
    return !pass->error;
}

static void recv_progress(struct sn_message *m, enum sn_ring_kind kind, struct sn_pass *pass)
{
    struct sn_segment *seg = &pass->comm->seg;
    size_t size = sn_ring_size(seg), n = 0;

    if (!sn_message_header(m, kind, pass))
        return;
    struct sn_ring *ring = sn_ring_of(seg, kind, m->peer, seg->rank, false);
    uint64_t wanted = m->wire_bytes < m->bytes ? m->wire_bytes : m->bytes;
    if (m->at < wanted)
        n = sn_ring_read(ring, size, m->buf + m->at, wanted - m->at);
    else if (m->at < m->wire_bytes)
        n = sn_ring_read(ring, size, NULL, m->wire_bytes - m->at);
    if (n) {
        m->at += n;
        pass->moved = true;
        pass->touched[m->peer] = 1;
    }
    m->done = m->at == m->wire_bytes;
}

void sn_message_progress(struct sn_message *m, enum sn_ring_kind kind, struct sn_pass *pass)
{
    if (m->is_send)
        send_progress(m, kind, pass);
    else
        recv_progress(m, kind, pass);
}

/* ---- running ---- */

static void begin_message(struct channel_run *c, const struct sn_channel *channel,
                          const struct sn_task *t)
{
    c->message = (struct sn_message){
        .peer = channel->peer,
        .is_send = channel->is_send,
        .buf = channel->is_send ? (char *)(uintptr_t)t->send : t->recv,
        .bytes = t->count * skew_nccl_type_size((int)t->type),
        .what = SN_SEND,
    };
    c->begun = true;
}

static bool channels_progress(struct op_run *run)
{
    struct sn_op *op = run->op;
    bool done = true;

    for (int i = 0; i < op->nchannels && !run->pass.error; i++) {
        const struct sn_channel *channel = &op->channels[i];
        struct channel_run *c = &run->channels[i];
        if (channel->peer == op->comm->rank)
            continue;
        while (c->index < channel->count && !run->pass.error) {
            if (!c->begun)
                begin_message(c, channel, &op->tasks[channel->first + c->index]);
            sn_message_progress(&c->message, SN_RING_P2P, &run->pass);
            if (!c->message.done)
                break;
            c->begun = false;
            c->index++;
        }
        done = done && c->index == channel->count;
    }
    return done;
}

/* The n-th send to self meets the n-th receive from self. */
static void copy_self(const struct sn_op *op)
{
    const struct sn_channel *send = NULL, *recv = NULL;

    for (int c = 0; c < op->nchannels; c++)
        if (op->channels[c].peer == op->comm->rank)
            *(op->channels[c].is_send ? &send : &recv) = &op->channels[c];
    for (int i = 0; send && recv && i < send->count; i++) {
        const struct sn_task *s = &op->tasks[send->first + i], *r = &op->tasks[recv->first + i];
        size_t from = s->count * skew_nccl_type_size((int)s->type);
        size_t to = r->count * skew_nccl_type_size((int)r->type);
        memmove(r->recv, s->send, from < to ? from : to);
        if (from != to)
            sn_comm_set_async(op->comm, sn_fail(ncclInvalidUsage,
                                                "rank %d sends itself %zu bytes and receives %zu",
                                                op->comm->rank, from, to));
    }
}

static void flush_bells(struct sn_pass *pass)
{
    for (int r = 0; r < pass->comm->nranks; r++)
        if (pass->touched[r]) {
            pass->touched[r] = 0;
            sn_bell_ring(&pass->comm->seg, r);
        }
}

/* A peer that this run still needs and that is gone, or -1. */
static int missing_peer(struct op_run *run)
{
    struct sn_op *op = run->op;

    memset(run->waits_on, 0, (size_t)op->comm->nranks);
    for (int i = 0; i < op->nchannels; i++)
        if (run->channels[i].index < op->channels[i].count)
            run->waits_on[op->channels[i].peer] = 1;
    sn_coll_waits_on(run->coll, run->waits_on);
    sn_rma_waits_on(run->rma, run->waits_on);
    for (int r = 0; r < op->comm->nranks; r++)
        if (run->waits_on[r] && r != op->comm->rank && !sn_rank_alive(&op->comm->seg, r))
            return r;
    return -1;
}

/*
 * Nothing moved. Sleeps until a peer rings; after a long silence (*quiet) finds out whether there
 * is still hope.
 */
static ncclResult_t wait_for_peers(struct op_run *run, uint32_t seen, uint64_t since, bool *quiet)
{
    struct ncclComm *comm = run->op->comm;
    struct sn_slot *mine = &comm->seg.head->slot[comm->rank];
    uint64_t timeout = sn_options()->timeout_ns;
    int missing = *quiet ? missing_peer(run) : -1;

    *quiet = false;
    atomic_store(&mine->sleeping, 1);
    if (atomic_load(&mine->bell) == seen) {
        /* The peer had gone before we last looked into the rings and found nothing. */
        if (missing >= 0)
            return sn_fail(ncclRemoteError, "rank %d waits for rank %d, which has gone", comm->rank,
                           missing);
        *quiet = sn_futex_wait(&mine->bell, seen, timeout < SLICE_NS ? timeout : SLICE_NS);
    }
    atomic_store(&mine->sleeping, 0);
    if (timeout != UINT64_MAX && sn_now_ns() - since > timeout)
        return sn_fail(ncclSystemError,
                       "rank %d: nothing moved for %.0f s (SKEWSCOPE_STANDIN_TIMEOUT)", comm->rank,
                       (double)timeout / 1e9);
    return ncclSuccess;
}

static ncclResult_t run_to_end(struct op_run *run)
{
    struct ncclComm *comm = run->op->comm;
    struct sn_slot *mine = &comm->seg.head->slot[comm->rank];
    struct sn_pass *pass = &run->pass;
    uint64_t since = 0;
    bool quiet = false;

    copy_self(run->op);
    while (!atomic_load(&comm->abort) && !atomic_load(&comm->revoked)) {
        uint32_t seen = atomic_load(&mine->bell);
        pass->moved = false;
        bool done = channels_progress(run);
        done = sn_coll_progress(run->coll, pass) && done;
        done = sn_rma_progress(run->rma, pass) && done;
        flush_bells(pass);
        if (pass->error)
            return pass->error;
        if (done)
            return ncclSuccess;
        if (pass->moved) {
            since = 0;
            quiet = false;
            continue;
        }
        since = since ? since : sn_now_ns();
        ncclResult_t result = wait_for_peers(run, seen, since, &quiet);
        if (result)
            return result;
    }
    return ncclSuccess;
}

static ncclResult_t run_op(struct sn_op *op, uint64_t *start_ns, uint64_t *end_ns)
{
    struct op_run run = {
        .op = op, .pass = {.comm = op->comm, .arrival_ns = *start_ns, .latest_ns = *start_ns}};
    size_t n = (size_t)op->comm->nranks;
    ncclResult_t result = ncclSystemError;

    run.pass.touched = calloc(n, 1);
    run.waits_on = calloc(n, 1);
    run.channels = calloc((size_t)op->nchannels + 1, sizeof(*run.channels));
    run.coll = sn_coll_begin(op);
    run.rma = sn_rma_begin(op);
    if (run.pass.touched && run.waits_on && run.channels && run.coll && run.rma)
        result = run_to_end(&run);
    sn_link_finish(op, &run.pass, end_ns);
    if (op->copies) /* the waiting before is done by operations on memory, which leave no record */
        *start_ns = run.pass.latest_ns;
    sn_rma_end(run.rma);
    sn_coll_end(run.coll);
    free(run.channels);
    free(run.waits_on);
    free(run.pass.touched);
    return result;
}

int sn_op_run(void *user, uint64_t *start_ns, uint64_t *end_ns)
{
    struct sn_op *op = user;
    struct ncclComm *comm = op->comm;

    pthread_mutex_lock(&comm->run_lock);
    /* An operation whose communicator has gone or broken ends at once, as NCCL's kernels do. */
    if (op->generation == comm->generation && comm->seg_open && !atomic_load(&comm->failed)) {
        ncclResult_t result = run_op(op, start_ns, end_ns);
        if (result)
            sn_comm_break(comm, result);
        comm->op_ordinal++;
    }
    pthread_mutex_unlock(&comm->run_lock);
    return 0;
}
