/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ops: one execution of a piece of work, and what others wait for. The state word is a futex; a
 * waiter first marks it AWAITED, so that completing an op nobody waits for costs no system call.
 */
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call.h"

struct si_op *si_op_new(struct si_work *work)
{
    struct si_op *op = calloc(1, sizeof(*op));
    if (op == NULL) {
        si_work_unref(work);
        return NULL;
    }
    atomic_init(&op->refs, 1);
    op->work = work;
    op->deps = op->few_deps;
    op->dep_room = sizeof(op->few_deps) / sizeof(op->few_deps[0]);
    return op;
}

struct si_op *si_op_ref(struct si_op *op)
{
    atomic_fetch_add_explicit(&op->refs, 1, memory_order_relaxed);
    return op;
}

static void release_deps(struct si_op *op)
{
    for (unsigned i = 0; i < op->dep_count; i++)
        si_op_unref(op->deps[i]);
    if (op->deps != op->few_deps)
        free(op->deps);
    op->deps = op->few_deps;
    op->dep_count = 0;
}

void si_op_unref(struct si_op *op)
{
    if (op == NULL || atomic_fetch_sub_explicit(&op->refs, 1, memory_order_acq_rel) != 1)
        return;
    release_deps(op);
    si_work_unref(op->work);
    free(op);
}

int si_op_add_dep(struct si_op *op, struct si_op *dep)
{
    if (dep == NULL)
        return 0;
    if (op->dep_count == op->dep_room) {
        unsigned room = op->dep_room * 2;
        struct si_op **more = malloc(room * sizeof(*more));
        if (more == NULL)
            return -ENOMEM;
        memcpy(more, op->deps, op->dep_count * sizeof(*more));
        if (op->deps != op->few_deps)
            free(op->deps);
        op->deps = more;
        op->dep_room = room;
    }
    op->deps[op->dep_count++] = si_op_ref(dep);
    return 0;
}

bool si_op_is_done(const struct si_op *op)
{
    return atomic_load_explicit(&op->state, memory_order_acquire) == SI_OP_DONE;
}

void si_op_wait(struct si_op *op)
{
    for (;;) {
        unsigned state = SI_OP_PENDING;
        atomic_compare_exchange_strong(&op->state, &state, SI_OP_AWAITED);
        if (state == SI_OP_DONE)
            return;
        syscall(SYS_futex, &op->state, FUTEX_WAIT_PRIVATE, SI_OP_AWAITED, NULL, NULL, 0);
    }
}

int si_op_wait_host(struct si_op *op)
{
    si_op_wait(op);
    if (op->end_ns > si_thread.host_ns)
        si_thread.host_ns = op->end_ns;
    return op->error;
}

/* The op's payload goes here, not with its last reference: an event may hold the op for long. */
void si_op_complete(struct si_op *op, uint64_t end_ns, int error)
{
    struct si_work *work = op->work;
    op->work = NULL;
    release_deps(op);
    si_work_unref(work);
    op->end_ns = end_ns;
    op->error = error;
    si_clock_saw(end_ns);
    if (atomic_exchange(&op->state, SI_OP_DONE) == SI_OP_AWAITED)
        syscall(SYS_futex, &op->state, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
