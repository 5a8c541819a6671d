/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tap: which calls of a group may be count exchanges, and where their integers lie. Runs on the
 * application's threads, behind the real call and never on the path of a usual send; what it wants
 * copied goes to tap_copy.c once the group was launched and recorded. docs/tap.md tells what is
 * read and what never.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "handlers.h"
#include "hot.h"
#include "record.h"
#include "tap_private.h"

#define WHOLE_BYTES                                                                                \
    (64u << 10) /* of a gathered matrix, which rank 0 keeps; the others keep their own row */

void skew_tap_start(const struct skew_process *proc)
{
    uint32_t types = SKEW_TAP_INTEGERS | SKEW_TAP_BYTES | SKEW_TAP_FLOAT;
    __atomic_store_n(&skew_hot.tap_types, skew_option_on(proc, SKEW_OPT_TAP) ? types : 0,
                     __ATOMIC_RELAXED);
}

void skew_tap_thread_end(struct skew_thread *t)
{
    if (t->tap)
        munmap(t->tap, sizeof(*t->tap));
    t->tap = NULL;
}

/* What the group holds so far. A forked child must not find its parent's. */
static struct skew_tap_group *group_of(struct skew_thread *t)
{
    if (!t->tap) {
        void *at =
            mmap(NULL, sizeof(*t->tap), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        t->tap = at == MAP_FAILED ? NULL : at;
    }
    if (t->tap && !t->tap_calls) {
        t->tap->calls = 0;
        t->tap->pairs = (struct skew_tap_pairs){0};
    }
    return t->tap;
}

/* Which operation of its communicator in this group the latest cell is, or which all-to-all. −1:
 * cannot be told, because the group's earlier cells have left the record. */
static int64_t place_of(const struct skew_thread *t, uint32_t op)
{
    const struct skew_cell *last = t->cell - 1;
    int64_t place = 0;
    if (t->part_cells || t->loss || last < skew_cells_of(t->rec))
        return -1;
    for (const struct skew_cell *cell = skew_cells_of(t->rec); cell < last; cell++) {
        if (t->lane[cell->lane].handle != t->lane[last->lane].handle)
            continue;
        place += op == SKEW_OP_ALLTOALL ? cell->op == op : cell->op > SKEW_OP_ALLTOALLV_RECV;
    }
    return place;
}

/* ---- what to copy -------------------------------------------------------------------------- */

static void request(struct skew_process *proc, struct skew_tap_request *r, enum skew_tap_side side,
                    const void *source, uint64_t elements)
{
    uint64_t bytes = elements * skew_tap_element(r->rec.dtype);
    uint64_t most = (uint64_t)proc->option_int[SKEW_OPT_TAP_KB] << 10;
    uint64_t segment = proc->head ? proc->head->seg_bytes : 0;
    if (bytes > most || bytes + sizeof(r->rec) + sizeof(struct skew_seg_head) + 8 > segment) {
        /* Gradients and tokens have these shapes too, and are none of ours: only integers are
         * counted. */
        if (r->rec.dtype == ncclInt32 || r->rec.dtype == ncclInt64)
            skew_tap_count(proc, SKEW_TAP_COUNT_TOO_LARGE, bytes);
        return;
    }
    r->rec.side = (uint8_t)side;
    r->rec.elements = (uint32_t)elements;
    r->source = source;
    if (source)
        skew_tap_copy(proc, r);
}

static const void *element_at(const void *base, uint64_t index, int dtype)
{
    return base ? (const uint8_t *)base + index * skew_tap_element(dtype) : NULL;
}

static void request_call(struct skew_process *proc, struct skew_tap_request *r,
                         const struct skew_tap_call *call, const struct skew_comm *comm)
{
    uint64_t ranks = (uint64_t)comm->ranks, rank = (uint64_t)comm->rank, all = ranks * call->count;
    switch (r->rec.shape) {
    case SKEW_TAP_ALLGATHER:
        if (rank == 0 && all * skew_tap_element(call->dtype) <= WHOLE_BYTES) {
            request(proc, r, SKEW_TAP_SIDE_WHOLE, call->recv, all);
            break;
        }
        /* fall through */
    case SKEW_TAP_MAP:
        request(proc, r, SKEW_TAP_SIDE_OWN, element_at(call->recv, rank * call->count, call->dtype),
                call->count);
        break;
    case SKEW_TAP_BROADCAST:
        r->rec.root = call->arg;
        request(proc, r, SKEW_TAP_SIDE_OWN, call->send ? call->send : call->recv, call->count);
        break;
    case SKEW_TAP_SENDRECV:
    case SKEW_TAP_ALLTOALL:
        request(proc, r, SKEW_TAP_SIDE_SENT, call->send, all);
        request(proc, r, SKEW_TAP_SIDE_HEARD, call->recv, all);
        break;
    default:
        request(proc, r, SKEW_TAP_SIDE_RESULT, call->recv, call->count);
        break;
    }
}

/* A call whose group is launched and recorded. `group`: its ordinal. */
static void tap_one(struct skew_process *proc, struct skew_thread *t,
                    const struct skew_tap_call *call, bool grouped)
{
    const struct skew_comm *comm = skew_comm_find(proc, call->handle);
    if (!comm || comm->ranks < 2 || comm->rank < 0 || !t->stream)
        return;
    bool pairs = call->op == SKEW_OP_SEND;
    enum skew_tap_shape shape =
        pairs ? SKEW_TAP_SENDRECV
              : skew_tap_shape_of(call->op, call->dtype, call->count, call->arg, comm->ranks);
    /* A broadcast by itself is data that somebody read; ids go beside tokens. */
    if (shape == SKEW_TAP_NONE ||
        (shape == SKEW_TAP_BROADCAST && (!grouped || call->arg != (uint32_t)comm->rank)))
        return;
    struct skew_tap_request r = {
        .rec = {.head = {.type = SKEW_REC_TAP},
                .group = t->groups,
                .thread = t->stream,
                .comm = comm->id,
                .place = call->place,
                .shape = (uint8_t)shape,
                .dtype = (uint8_t)call->dtype,
                .count = (uint32_t)call->count},
        .stream = call->stream,
        .op = call->op,
        .device = comm->device,
    };
    request_call(proc, &r, call, comm);
}

/* ---- the calls ----------------------------------------------------------------------------- */

static void hold_call(struct skew_thread *t, const struct skew_tap_call *call)
{
    struct skew_tap_group *group = group_of(t);
    if (!group)
        return;
    if (call->op <= SKEW_OP_RECV)
        skew_tap_pairs_add(&group->pairs, call->op == SKEW_OP_SEND, call->send, call->count,
                           call->dtype, call->arg, call->handle, call->stream);
    else if (call->place != UINT32_MAX && group->calls < SKEW_TAP_CALLS_MAX)
        group->call[group->calls++] = *call;
    t->tap_calls = 1;
}

/**
 * After a successful call was recorded: outside a group it is launched already.
 * @param arg  peer, root or ncclRedOp_t
 */
SKEW_COLD void skew_tap_call(struct skew_thread *t, ncclResult_t result, uint32_t op,
                             const void *send, const void *recv, uint64_t count, int datatype,
                             uint32_t arg, ncclComm_t handle, cudaStream_t stream)
{
    struct skew_process *proc = skew_proc;
    struct skew_tap_call call = {.handle = handle,
                                 .stream = stream,
                                 .send = op == SKEW_OP_RECV ? recv : send,
                                 .recv = recv,
                                 .count = count,
                                 .op = op,
                                 .arg = arg,
                                 .dtype = datatype};
    int saved = errno;
    if (!skew_result_ok(result))
        return;
    if (t->depth) {
        const struct skew_comm *comm =
            op == SKEW_OP_BROADCAST ? skew_comm_find(proc, handle) : NULL;
        if (comm && comm->rank != (int32_t)arg)
            return; /* another rank's ids: it keeps them itself */
        int64_t place = op <= SKEW_OP_RECV ? 0 : place_of(t, op);
        call.place = place < 0 ? UINT32_MAX : (uint32_t)place;
        hold_call(t, &call);
    } else if (op > SKEW_OP_RECV) {
        if (result == ncclSuccess)
            tap_one(proc, t, &call, false);
        else
            skew_tap_count(proc, SKEW_TAP_COUNT_UNREACHED, 0);
        if (__atomic_load_n(&skew_hot.tap_waiting, __ATOMIC_RELAXED))
            skew_tap_harvest();
    }
    errno = saved;
}

/**
 * At the end of the outermost group.
 * @param launched     its work is on the streams now
 * @param in_progress  it will be, by a thread of NCCL's: too late for a copy behind it
 */
SKEW_COLD void skew_tap_group_ended(struct skew_thread *t, bool launched, bool in_progress)
{
    struct skew_process *proc = skew_proc;
    struct skew_tap_group *group = t->tap;
    int saved = errno;
    t->tap_calls = 0;
    if (!group)
        return;
    if (!launched) {
        if (in_progress)
            skew_tap_count(proc, SKEW_TAP_COUNT_UNREACHED, 0);
        return;
    }
    for (uint32_t i = 0; i < group->calls; i++)
        tap_one(proc, t, &group->call[i], true);
    const struct skew_tap_pairs *pairs = &group->pairs;
    const struct skew_comm *comm = pairs->handle ? skew_comm_find(proc, pairs->handle) : NULL;
    if (comm && skew_tap_pairs_whole(pairs, comm->ranks)) {
        struct skew_tap_call call = {.handle = pairs->handle,
                                     .stream = pairs->stream,
                                     .send = pairs->send,
                                     .recv = pairs->recv,
                                     .count = pairs->count,
                                     .op = SKEW_OP_SEND,
                                     .dtype = pairs->dtype};
        tap_one(proc, t, &call, true);
    }
    if (__atomic_load_n(&skew_hot.tap_waiting, __ATOMIC_RELAXED))
        skew_tap_harvest();
    errno = saved;
}
