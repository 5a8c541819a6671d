/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives inside an operation, one after the other in the order of the calls. Each is one or
 * two phases of messages between all pairs, on rings of their own. Sums are taken in the order of
 * the ranks, whatever arrives first, so that results do not depend on timing; every element is
 * summed by one rank only, so that all ranks get the same bits.
 */
#include <stdlib.h>
#include <string.h>

#include "standin.h"

#define BOUNCE 4096

struct sn_coll_run {
    struct sn_op *op;
    int index, phase;
    bool begun;
    struct sn_message *sends, *recvs; /* [nranks]; done from the start where there is nothing */
    /* While a phase reduces: */
    bool reduces;
    int next;           /* the rank whose contribution is due */
    char *sum;          /* the result in the making */
    const char *own;    /* this rank's contribution */
    size_t sum_count;   /* elements */
    const char *source; /* send buffer, or its scaled copy */
    char *scaled;
};

struct sn_coll_run *sn_coll_begin(struct sn_op *op)
{
    struct sn_coll_run *run = calloc(1, sizeof(*run));
    size_t n = (size_t)op->comm->nranks;

    if (!run)
        return NULL;
    run->op = op;
    run->sends = calloc(n, sizeof(*run->sends));
    run->recvs = calloc(n, sizeof(*run->recvs));
    if (!run->sends || !run->recvs) {
        sn_coll_end(run);
        return NULL;
    }
    return run;
}

void sn_coll_end(struct sn_coll_run *run)
{
    if (!run)
        return;
    free(run->sends);
    free(run->recvs);
    free(run->sum);
    free(run->scaled);
    free(run);
}

static void put_message(struct sn_coll_run *run, bool is_send, int peer, const void *buf,
                        size_t bytes)
{
    const struct sn_task *t = &run->op->tasks[run->op->coll_first + run->index];
    struct sn_message *m = is_send ? &run->sends[peer] : &run->recvs[peer];

    *m = (struct sn_message){
        .peer = peer,
        .is_send = is_send,
        .buf = (char *)(uintptr_t)buf,
        .bytes = bytes,
        .what = (uint32_t)t->func,
        .ordinal = (uint32_t)(run->index * 2 + run->phase),
    };
}

/* Block b of `count` elements dealt out to n ranks. */
static size_t block_at(size_t count, int b, int n)
{
    return (size_t)((unsigned __int128)count * (unsigned)b / (unsigned)n);
}

static bool start_sum(struct sn_coll_run *run, const char *own, size_t count, size_t size)
{
    free(run->sum);
    run->sum = malloc(count * size + 1);
    run->own = own;
    run->sum_count = count;
    run->next = 0;
    run->reduces = true;
    return run->sum != NULL;
}

static bool scale_source(struct sn_coll_run *run, const struct sn_task *t, size_t bytes)
{
    run->source = t->send;
    if (!t->premul.used)
        return true;
    free(run->scaled);
    run->scaled = malloc(bytes + 1);
    if (!run->scaled)
        return false;
    sn_reduce_scale(run->scaled, t->send, bytes / skew_nccl_type_size((int)t->type), t->type,
                    t->premul.by_pointer ? t->premul.pointer : (const void *)&t->premul.scalar);
    run->source = run->scaled;
    return true;
}

static bool begin_scatter_sum(struct sn_coll_run *run, const struct sn_task *t, size_t total)
{
    int n = run->op->comm->nranks, me = run->op->comm->rank;
    size_t size = skew_nccl_type_size((int)t->type);
    size_t mine = block_at(total, me, n), mine_end = block_at(total, me + 1, n);

    if (!scale_source(run, t, total * size))
        return false;
    for (int r = 0; r < n; r++) {
        size_t from = block_at(total, r, n), to = block_at(total, r + 1, n);
        if (r == me)
            continue;
        put_message(run, true, r, run->source + from * size, (to - from) * size);
        put_message(run, false, r, NULL, (mine_end - mine) * size);
    }
    return start_sum(run, run->source + mine * size, mine_end - mine, size);
}

static void begin_spread(struct sn_coll_run *run, const struct sn_task *t)
{
    int n = run->op->comm->nranks, me = run->op->comm->rank;
    size_t size = skew_nccl_type_size((int)t->type);
    size_t mine = block_at(t->count, me, n), mine_end = block_at(t->count, me + 1, n);
    char *out = t->recv;

    for (int r = 0; r < n; r++) {
        size_t from = block_at(t->count, r, n), to = block_at(t->count, r + 1, n);
        if (r == me)
            continue;
        put_message(run, true, r, out + mine * size, (mine_end - mine) * size);
        put_message(run, false, r, out + from * size, (to - from) * size);
    }
}

static void begin_allgather(struct sn_coll_run *run, const struct sn_task *t)
{
    int n = run->op->comm->nranks, me = run->op->comm->rank;
    size_t bytes = t->count * skew_nccl_type_size((int)t->type);
    char *out = t->recv;

    memmove(out + (size_t)me * bytes, t->send, bytes);
    for (int r = 0; r < n; r++) {
        if (r == me)
            continue;
        put_message(run, true, r, out + (size_t)me * bytes, bytes);
        put_message(run, false, r, out + (size_t)r * bytes, bytes);
    }
}

static void begin_broadcast(struct sn_coll_run *run, const struct sn_task *t)
{
    int n = run->op->comm->nranks, me = run->op->comm->rank;
    size_t bytes = t->count * skew_nccl_type_size((int)t->type);

    if (me != t->root) {
        put_message(run, false, t->root, t->recv, bytes);
        return;
    }
    if (t->recv != t->send)
        memmove(t->recv, t->send, bytes);
    for (int r = 0; r < n; r++)
        if (r != me)
            put_message(run, true, r, t->send, bytes);
}

static bool begin_reduce(struct sn_coll_run *run, const struct sn_task *t)
{
    int n = run->op->comm->nranks, me = run->op->comm->rank;
    size_t size = skew_nccl_type_size((int)t->type), bytes = t->count * size;

    if (!scale_source(run, t, bytes))
        return false;
    if (me != t->root) {
        put_message(run, true, t->root, run->source, bytes);
        return true;
    }
    for (int r = 0; r < n; r++)
        if (r != me)
            put_message(run, false, r, NULL, bytes);
    return start_sum(run, run->source, t->count, size);
}

/* false: out of memory. */
static bool begin_phase(struct sn_coll_run *run, const struct sn_task *t)
{
    int n = run->op->comm->nranks;

    for (int r = 0; r < n; r++)
        run->sends[r].done = run->recvs[r].done = true;
    run->begun = true;
    run->reduces = false;
    switch (t->func) {
    case SN_ALLGATHER:
        begin_allgather(run, t);
        return true;
    case SN_BROADCAST:
        begin_broadcast(run, t);
        return true;
    case SN_REDUCE:
        return begin_reduce(run, t);
    case SN_REDUCESCATTER:
        return begin_scatter_sum(run, t, t->count * (size_t)n);
    default: /* SN_ALLREDUCE */
        if (run->phase == 0)
            return begin_scatter_sum(run, t, t->count);
        begin_spread(run, t);
        return true;
    }
}

/* Takes what has arrived of one rank's contribution into the sum. */
static void recv_into_sum(struct sn_coll_run *run, const struct sn_task *t, struct sn_message *m,
                          struct sn_pass *pass)
{
    char bounce[BOUNCE] __attribute__((aligned(16)));
    struct sn_segment *seg = &pass->comm->seg;
    size_t size = skew_nccl_type_size((int)t->type);

    if (m->done || !sn_message_header(m, SN_RING_COLL, pass))
        return;
    struct sn_ring *ring = sn_ring_of(seg, SN_RING_COLL, m->peer, seg->rank, false);
    while (m->at < m->bytes) {
        /* Whole elements only: a piece of one waits in the ring for its rest. */
        size_t n = sn_ring_used(ring), left = m->bytes - m->at;
        n = n < left ? n : left;
        n = (n < BOUNCE ? n : BOUNCE) / size * size;
        if (n == 0)
            return;
        sn_ring_read(ring, sn_ring_size(seg), bounce, n);
        pass->moved = true;
        pass->touched[m->peer] = 1;
        if (m->peer == 0)
            memcpy(run->sum + m->at, bounce, n);
        else
            sn_reduce(run->sum + m->at, bounce, n / size, t->type, t->op);
        m->at += n;
    }
    m->done = true;
}

static bool sum_progress(struct sn_coll_run *run, const struct sn_task *t, struct sn_pass *pass)
{
    int n = run->op->comm->nranks, me = run->op->comm->rank;
    size_t size = skew_nccl_type_size((int)t->type);

    for (; run->next < n && !pass->error; run->next++) {
        if (run->next == me) {
            if (me == 0)
                memcpy(run->sum, run->own, run->sum_count * size);
            else
                sn_reduce(run->sum, run->own, run->sum_count, t->type, t->op);
            continue;
        }
        recv_into_sum(run, t, &run->recvs[run->next], pass);
        if (!run->recvs[run->next].done)
            return false;
    }
    return !pass->error;
}

static void finish_sum(struct sn_coll_run *run, const struct sn_task *t)
{
    int n = run->op->comm->nranks, me = run->op->comm->rank;
    size_t size = skew_nccl_type_size((int)t->type);
    size_t at = t->func == SN_ALLREDUCE ? block_at(t->count, me, n) * size : 0;

    if (t->op == ncclAvg)
        sn_reduce_divide(run->sum, run->sum_count, t->type, n);
    memcpy((char *)t->recv + at, run->sum, run->sum_count * size);
}

static bool phase_progress(struct sn_coll_run *run, const struct sn_task *t, struct sn_pass *pass)
{
    int n = run->op->comm->nranks;
    bool done = true;

    for (int r = 0; r < n && !pass->error; r++) {
        if (!run->sends[r].done)
            sn_message_progress(&run->sends[r], SN_RING_COLL, pass);
        if (!run->recvs[r].done && !run->reduces)
            sn_message_progress(&run->recvs[r], SN_RING_COLL, pass);
        done = done && run->sends[r].done && (run->recvs[r].done || run->reduces);
    }
    if (run->reduces && !pass->error && run->next < n)
        sum_progress(run, t, pass);
    return done && !pass->error && (!run->reduces || run->next == n);
}

bool sn_coll_progress(struct sn_coll_run *run, struct sn_pass *pass)
{
    while (run->index < run->op->ncoll) {
        const struct sn_task *t = &run->op->tasks[run->op->coll_first + run->index];
        if (!run->begun && !begin_phase(run, t)) {
            pass->error = sn_fail(ncclSystemError, "out of memory");
            return false;
        }
        if (pass->error || !phase_progress(run, t, pass))
            return false;
        if (run->reduces)
            finish_sum(run, t);
        run->begun = false;
        if (t->func == SN_ALLREDUCE && run->phase == 0) {
            run->phase = 1;
            continue;
        }
        run->phase = 0;
        run->index++;
    }
    return true;
}

void sn_coll_waits_on(const struct sn_coll_run *run, uint8_t *peers)
{
    if (run->index >= run->op->ncoll)
        return;
    for (int r = 0; r < run->op->comm->nranks; r++)
        if (!run->sends[r].done || !run->recvs[r].done)
            peers[r] = 1;
}
