/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators: which one a pointer means now, and what makes it the same communicator in another
 * process. Off the hot path but for skew_comm_find(), which reads the table without a lock.
 *
 * A pointer is looked up in an open-addressing table; NCCL reuses pointers after Destroy and Abort,
 * so an entry is taken out before the real call can free it. Split, Shrink and Grow may store the
 * new pointer later, from another thread: such constructors wait in `pending` until the pointer
 * shows up.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bind.h"
#include "handlers.h"

#define DELETED ((ncclComm_t)1)

typedef ncclResult_t (*int_getter)(const ncclComm_t, int *);

static uint64_t mix(uint64_t hash, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        hash = (hash ^ (uint8_t)(value >> (8 * i))) * 0x100000001b3u;
    return hash;
}

static uint64_t hash_bytes(const void *data, size_t bytes)
{
    const uint8_t *p = data;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

static uint32_t slot_of(ncclComm_t handle)
{
    return (uint32_t)(((uintptr_t)handle >> 4) * 0x9e3779b1u) & (SKEW_COMM_SLOTS - 1);
}

struct skew_comm *skew_comm_find(struct skew_process *proc, ncclComm_t handle)
{
    for (uint32_t i = slot_of(handle), n = 0; n < SKEW_COMM_SLOTS;
         i = (i + 1) & (SKEW_COMM_SLOTS - 1), n++) {
        ncclComm_t at = __atomic_load_n(&proc->table[i].handle, __ATOMIC_ACQUIRE);
        if (at == handle)
            return proc->table[i].comm;
        if (!at)
            return NULL;
    }
    return NULL;
}

static void table_put(struct skew_process *proc, ncclComm_t handle, struct skew_comm *comm)
{
    uint32_t i = slot_of(handle);
    while (proc->table[i].handle && proc->table[i].handle != DELETED &&
           proc->table[i].handle != handle)
        i = (i + 1) & (SKEW_COMM_SLOTS - 1);
    proc->table[i].comm = comm;
    __atomic_store_n(&proc->table[i].handle, handle, __ATOMIC_RELEASE);
    __atomic_add_fetch(&skew_hot.comms_changed, 1, __ATOMIC_RELEASE);
}

static void table_take(struct skew_process *proc, ncclComm_t handle)
{
    for (uint32_t i = slot_of(handle), n = 0; proc->table[i].handle && n < SKEW_COMM_SLOTS;
         i = (i + 1) & (SKEW_COMM_SLOTS - 1), n++)
        if (proc->table[i].handle == handle)
            __atomic_store_n(&proc->table[i].handle, DELETED, __ATOMIC_RELEASE);
    __atomic_add_fetch(&skew_hot.comms_changed, 1, __ATOMIC_RELEASE);
}

/* Hold the lock. NULL: more live communicators than there is room for. */
static struct skew_comm *comm_new(struct skew_process *proc)
{
    struct skew_comm *comm = proc->free_comms;
    if (comm)
        proc->free_comms = comm->next_free;
    else if (proc->comms_used < SKEW_COMMS_MAX)
        comm = &proc->comms[proc->comms_used++];
    if (!comm)
        return NULL;
    memset(comm, 0, sizeof(*comm));
    comm->id = ++proc->comm_ids;
    comm->ranks = comm->rank = comm->device = -1;
    comm->created_ns = skew_now();
    return comm;
}

/* Hold the lock. */
static void comm_free(struct skew_process *proc, struct skew_comm *comm)
{
    if (comm->lost)
        munmap(comm->lost, skew_lost_bytes(comm->lost_peers));
    comm->lost = NULL;
    comm->next_free = proc->free_comms;
    proc->free_comms = comm;
}

/* Writes the COMM record if the spool does not hold it yet. Hold the lock. */
static bool announce(struct skew_process *proc, struct skew_comm *comm)
{
    struct skew_rec_comm rec = {
        .head = {.type = SKEW_REC_COMM},
        .comm = comm->id,
        .parent = comm->parent,
        .key = comm->key,
        .handle = (uintptr_t)comm->handle,
        .created_ns = comm->created_ns,
        .ranks = comm->ranks,
        .rank = comm->rank,
        .device = comm->device,
        .color = comm->color,
        .split_key = comm->split_key,
        .ordinal = comm->ordinal,
        .kind = comm->kind,
        .flags = comm->flags,
    };
    if (!comm->announced && skew_spool_ensure(proc, skew_now()) == 0)
        comm->announced = skew_defs_put(proc, &rec.head, sizeof(rec), NULL, 0) == 0;
    return comm->announced;
}

bool skew_comm_announce(struct skew_process *proc, struct skew_comm *comm)
{
    skew_lock(proc);
    bool done = announce(proc, comm);
    skew_unlock(proc);
    return done;
}

/* Removes a constructor that will never get its pointer, or has got it. Hold the lock. */
static void pending_take(struct skew_process *proc, uint32_t index, bool came_to_nothing)
{
    if (came_to_nothing)
        comm_free(proc, proc->pending[index].comm);
    proc->pending[index] = proc->pending[--proc->pendings];
    __atomic_store_n(&skew_hot.pendings, proc->pendings, __ATOMIC_RELAXED);
}

/* After the first communicator there is something to tell and somebody to collect it. */
static void after_first(struct skew_process *proc)
{
    if (!proc->head || __atomic_exchange_n(&proc->collector_tried, 1, __ATOMIC_ACQ_REL))
        return;
    skew_capture_bind();
    skew_options_tell(proc);
    skew_spool_tell(proc);
    skew_modules_update(proc);
    skew_collector_start(proc);
}

static bool is_nonblocking(const ncclConfig_t *config)
{
    const struct skew_nccl_config_head *head = (const struct skew_nccl_config_head *)config;
    return head && head->magic == NCCL_CONFIG_MAGIC && head->size >= sizeof(*head) &&
           head->blocking == 0;
}

/* Whether it may go without CTAs: by its configuration, or by what NCCL reads instead of that. */
static uint32_t zero_ctas(const ncclConfig_t *config, uint32_t otherwise)
{
    const struct skew_nccl_config_policy *policy = (const struct skew_nccl_config_policy *)config;
    const char *asked = secure_getenv("NCCL_CTA_POLICY");
    if (asked && *asked)
        return SKEW_COMM_ZERO_CTAS;
    if (!policy || policy->magic != NCCL_CONFIG_MAGIC || policy->size < sizeof(*policy))
        return otherwise & SKEW_COMM_ZERO_CTAS;
    return policy->cta_policy > 0 && policy->cta_policy & NCCL_CTA_POLICY_ZERO ? SKEW_COMM_ZERO_CTAS
                                                                               : 0;
}

/* Registers a communicator. `where` may hold its pointer already, or only later. */
static void comm_add(struct skew_comm *filled, ncclComm_t *where, bool pointer_now)
{
    struct skew_process *proc = skew_process_get();
    if (!proc)
        return;
    int saved = errno;
    skew_lock(proc);
    struct skew_comm *comm = comm_new(proc);
    if (comm) {
        uint32_t id = comm->id;
        uint64_t created_ns = comm->created_ns;
        *comm = *filled;
        comm->id = id;
        comm->created_ns = created_ns;
        comm->handle = pointer_now ? *where : NULL;
        for (uint32_t i = proc->pendings; i-- > 0;)
            if (proc->pending[i].where == where)
                pending_take(
                    proc, i,
                    true); /* whatever was to be stored there, now it is this one's place */
        if (pointer_now) {
            table_put(proc, comm->handle, comm);
            announce(proc, comm);
        } else if (proc->pendings < SKEW_PENDING_MAX) {
            proc->pending[proc->pendings++] =
                (struct skew_pending_ctor){where, comm, skew_self->depth ? skew_self->tid : 0};
            __atomic_store_n(&skew_hot.pendings, proc->pendings, __ATOMIC_RELAXED);
        } else {
            comm_free(proc, comm);
        }
    }
    skew_unlock(proc);
    after_first(proc);
    errno = saved;
}

/* InitRank stores the pointer before it returns, even when the rest happens later. */
void skew_comm_on_init(uint32_t slot, ncclResult_t result, ncclComm_t *where, int ranks, int rank,
                       const ncclUniqueId *ids, int id_count, const ncclConfig_t *config,
                       enum skew_comm_kind kind)
{
    if ((result != ncclSuccess && result != ncclInProgress) || !where || !ids || id_count < 1)
        return;
    struct skew_comm comm = {
        .key = hash_bytes(ids, sizeof(*ids) * (size_t)id_count),
        .ranks = ranks,
        .rank = rank,
        .device = -1,
        .kind = (uint16_t)kind,
        .slot = slot,
        .flags = is_nonblocking(config) ? SKEW_COMM_NONBLOCKING : 0,
        .copies = zero_ctas(config, 0),
    };
    comm_add(&comm, where, *where != NULL);
}

/* All members are in this process: its identity and the ordinal of the call name the communicator.
 */
void skew_comm_on_init_all(uint32_t slot, ncclResult_t result, ncclComm_t *comms, int count,
                           const int *devices)
{
    struct skew_process *proc = skew_process_get();
    if (result != ncclSuccess || !comms || count < 1 || !proc)
        return;
    struct skew_spool_head id;
    int saved = errno;
    memset(&id, 0, sizeof(id));
    skew_describe_identity(&id);
    errno = saved;
    uint64_t key = hash_bytes(id.boot_id, sizeof(id.boot_id));
    key = mix(mix(mix(key, id.pid_ns), id.start_ticks), id.pid);
    key = mix(key, __atomic_add_fetch(&proc->init_all_ordinal, 1, __ATOMIC_RELAXED));
    for (int i = 0; i < count; i++) {
        struct skew_comm comm = {
            .key = key,
            .ranks = count,
            .rank = i,
            .device = devices ? devices[i] : i,
            .kind = SKEW_COMM_INIT_ALL,
            .slot = slot,
        };
        comm_add(&comm, &comms[i], true);
    }
}

/* Before the real call. Excluded ranks do not call Shrink: so an ordinal a kind of constructor. */
struct skew_derive skew_comm_derive(uint32_t slot, ncclComm_t parent, enum skew_comm_kind kind,
                                    int color, int split_key)
{
    struct skew_derive derive = {
        .slot = slot, .kind = kind, .color = color, .split_key = split_key};
    struct skew_process *proc = skew_process_get();
    if (!proc || !parent)
        return derive;
    skew_comm_settle();
    derive.parent = skew_comm_find(proc, parent);
    if (derive.parent)
        derive.ordinal = __atomic_fetch_add(&derive.parent->children[kind - SKEW_COMM_SPLIT], 1,
                                            __ATOMIC_RELAXED);
    return derive;
}

static void derive_add(const struct skew_derive *derive, ncclResult_t result, ncclComm_t *where,
                       const ncclConfig_t *config, uint64_t key, bool identified, int ranks,
                       int rank)
{
    const struct skew_comm *parent = derive->parent;
    bool nonblocking =
        config ? is_nonblocking(config) : parent && (parent->flags & SKEW_COMM_NONBLOCKING);
    struct skew_comm comm = {
        .key = key,
        .parent = parent ? parent->id : 0,
        .ranks = ranks,
        .rank = rank,
        .device = parent ? parent->device : -1,
        .color = derive->color,
        .split_key = derive->split_key,
        .ordinal = derive->ordinal,
        .kind = (uint16_t)derive->kind,
        .slot = derive->slot,
        .flags = (uint16_t)((nonblocking ? SKEW_COMM_NONBLOCKING : 0) |
                            (identified ? 0 : SKEW_COMM_UNIDENTIFIED)),
        .copies = zero_ctas(config, parent ? parent->copies : 0),
    };
    /* Inside a group, or without blocking, NCCL stores the pointer only when it is done. */
    bool now = result == ncclSuccess && !nonblocking && skew_self->depth == 0 && *where;
    comm_add(&comm, where, now);
}

static bool is_identified(const struct skew_comm *comm)
{
    return comm && !(comm->flags & SKEW_COMM_UNIDENTIFIED);
}

/* A call that NCCL refused for its arguments, before it asked the other members, is no call to
 * them: when it is repeated, it is what they count as this one. */
static bool derive_failed(const struct skew_derive *derive, ncclResult_t result)
{
    if (derive->parent && (result == ncclInvalidArgument || result == ncclInvalidUsage))
        __atomic_fetch_sub(&derive->parent->children[derive->kind - SKEW_COMM_SPLIT], 1,
                           __ATOMIC_RELAXED);
    return result != ncclSuccess && result != ncclInProgress;
}

void skew_comm_on_derive(const struct skew_derive *derive, ncclResult_t result, ncclComm_t *where,
                         const ncclConfig_t *config, bool excluded)
{
    if (derive_failed(derive, result) || !where || excluded)
        return;
    const struct skew_comm *parent = derive->parent;
    uint64_t key = parent ? parent->key : (uintptr_t)where;
    key = mix(mix(mix(key, derive->kind), derive->ordinal), (uint32_t)derive->color);
    derive_add(derive, result, where, config, key, is_identified(parent), -1, -1);
}

/* Members that stay are told only the parent, new ones only the id: both know the new size, and the
 * parent's root knows both. The id names the communicator where there is one; the others are tied
 * to it by the root's record, which carries the parent too (docs/schema.md, table communicator). */
void skew_comm_on_grow(const struct skew_derive *derive, ncclResult_t result, ncclComm_t *where,
                       const ncclConfig_t *config, int ranks, const ncclUniqueId *id, int rank)
{
    if (derive_failed(derive, result) || !where)
        return;
    const struct skew_comm *parent = derive->parent;
    uint64_t key =
        id ? hash_bytes(id, sizeof(*id))
           : mix(mix(parent ? parent->key : (uintptr_t)where, SKEW_COMM_GROW), derive->ordinal);
    derive_add(derive, result, where, config, key, id || is_identified(parent), ranks, rank);
}

/* Reads another place of our own memory that may no longer be mapped, without a fault. */
static ncclComm_t read_safely(ncclComm_t *where)
{
    ncclComm_t value = NULL;
    struct iovec local = {&value, sizeof(value)}, remote = {where, sizeof(value)};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)sizeof(value))
        return value;
    if (errno == EFAULT)
        return NULL;
    /* A sandbox forbids that call. This one fails where nothing is mapped. */
    uintptr_t page = (uintptr_t)where & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    if (msync((void *)page, (uintptr_t)(where + 1) - page, MS_ASYNC) != 0)
        return NULL;
    return __atomic_load_n(where, __ATOMIC_ACQUIRE);
}

/* Looks whether pending constructors have got their pointer. `only`: settle no other one. Hold the
 * lock. */
static struct skew_comm *settle(struct skew_process *proc, ncclComm_t only)
{
    struct skew_comm *found = NULL;
    for (uint32_t i = 0; i < proc->pendings;) {
        struct skew_comm *comm = proc->pending[i].comm;
        ncclComm_t handle = read_safely(proc->pending[i].where);
        if (!handle || (only && handle != only)) {
            i++;
            continue;
        }
        /* A pointer that means another one already: the place serves another purpose by now. */
        bool taken = skew_comm_find(proc, handle) != NULL;
        pending_take(proc, i, taken);
        if (taken)
            continue;
        comm->handle = handle;
        table_put(proc, handle, comm);
        announce(proc, comm);
        found = comm;
    }
    return found;
}

void skew_comm_settle(void)
{
    struct skew_process *proc = __atomic_load_n(&skew_proc, __ATOMIC_ACQUIRE);
    if (!proc || !__atomic_load_n(&proc->pendings, __ATOMIC_RELAXED))
        return;
    int saved = errno;
    skew_lock(proc);
    settle(proc, NULL);
    skew_unlock(proc);
    after_first(proc);
    errno = saved;
}

/** At the end of a thread's outermost group: the constructors inside it are done, or came to
 * nothing. */
void skew_comm_group_ended(const struct skew_thread *thread, bool succeeded)
{
    struct skew_process *proc = skew_proc;
    skew_lock(proc);
    __atomic_store_n(&skew_hot.pendings, proc->pendings,
                     __ATOMIC_RELAXED); /* a fork may have left the parent's */
    for (uint32_t i = proc->pendings; i-- > 0;) {
        if (proc->pending[i].tid != thread->tid)
            continue;
        proc->pending[i].tid = 0;
        if (!succeeded)
            pending_take(proc, i, true);
    }
    skew_unlock(proc);
    if (succeeded)
        skew_comm_settle();
}

static int ask(const struct skew_comm *comm, enum skew_api getter)
{
    int value = -1;
    if (skew_api_absent(comm->slot, getter))
        return -1;
    if (((int_getter)skew_real[comm->slot][getter])(comm->handle, &value) != ncclSuccess)
        return -1;
    return value;
}

/* A communicator that is still at work must not be asked: NCCL fails, and says so aloud. */
static bool is_idle(const struct skew_comm *comm)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t (*get)(ncclComm_t, ncclResult_t *) = (ncclResult_t(*)(
        ncclComm_t, ncclResult_t *))skew_real[comm->slot][SKEW_API_ncclCommGetAsyncError];
    return get(comm->handle, &state) == ncclSuccess && state == ncclSuccess;
}

/* No constructor was seen: the communicator is older than us, or came by a route we do not have. */
static struct skew_comm *adopt(struct skew_process *proc, ncclComm_t handle)
{
    struct skew_comm *comm = comm_new(proc);
    if (!comm)
        return NULL;
    comm->handle = handle;
    comm->key =
        mix(mix(hash_bytes(&proc, sizeof(proc)), (uint64_t)getpid()), comm->id + skew_now());
    comm->flags = SKEW_COMM_UNIDENTIFIED;
    table_put(proc, handle, comm);
    return comm;
}

/**
 * The communicator of a pointer on which a data call has just succeeded: so it may be asked for its
 * rank and size, which must never be tried on one that is still in the making.
 * @return NULL when it cannot be told, or its definition not be stored.
 */
struct skew_comm *skew_comm_need(struct skew_process *proc, ncclComm_t handle)
{
    struct skew_comm *comm = skew_comm_find(proc, handle);
    if (skew_likely(comm && comm->announced && comm->rank >= 0 && comm->device != -1))
        return comm;
    bool adopted = false;
    skew_lock(proc);
    comm = skew_comm_find(proc, handle);
    if (!comm)
        comm = settle(proc, handle);
    if (!comm) {
        comm = adopt(proc, handle);
        adopted = comm != NULL;
    }
    skew_unlock(proc);
    if (!comm)
        return NULL;
    /* With two NCCLs nobody knows whose an adopted one is: asking the wrong one could crash. */
    bool may_ask =
        comm->kind != SKEW_COMM_UNKNOWN || !__atomic_load_n(&skew_bound[1], __ATOMIC_ACQUIRE);
    if (may_ask && (comm->rank < 0 || comm->ranks < 0 || comm->device == -1) && is_idle(comm)) {
        int ranks = ask(comm, SKEW_API_ncclCommCount), rank = ask(comm, SKEW_API_ncclCommUserRank);
        int device = ask(comm, SKEW_API_ncclCommCuDevice);
        skew_lock(proc);
        comm->ranks = ranks >= 0 ? ranks : comm->ranks;
        comm->rank = rank >= 0 ? rank : comm->rank;
        comm->device = device >= 0 ? device : -2; /* −2: do not ask again */
        comm->announced = 0;
        skew_unlock(proc);
    }
    bool announced = skew_comm_announce(proc, comm);
    after_first(proc);
    if (adopted)
        skew_diag_once(
            SKEW_DIAG_UNIDENTIFIED_COMM,
            "a communicator was used whose creation was not seen; its exchanges are stored, but "
            "cannot be joined with the other ranks' (was NCCL loaded by two different routes?)");
    return announced ? comm : NULL;
}

/* Before the real call: from the moment it returns, the pointer may mean another communicator. */
struct skew_comm *skew_comm_leaving(ncclComm_t handle, enum skew_comm_end how)
{
    struct skew_process *proc = __atomic_load_n(&skew_proc, __ATOMIC_ACQUIRE);
    if (!proc || !handle)
        return NULL;
    int saved = errno;
    if (__atomic_load_n(&skew_hot.tap_waiting, __ATOMIC_RELAXED))
        skew_tap_harvest();
    skew_lock(proc);
    struct skew_comm *comm = skew_comm_find(proc, handle);
    if (!comm)
        comm = settle(proc, handle);
    if (comm && (how == SKEW_END_DESTROY || how == SKEW_END_ABORT))
        table_take(proc, handle);
    skew_unlock(proc);
    errno = saved;
    return comm;
}

void skew_comm_left(struct skew_comm *comm, enum skew_comm_end how, ncclResult_t result)
{
    struct skew_process *proc = skew_proc;
    if (!comm)
        return;
    int saved = errno;
    bool gone = how == SKEW_END_DESTROY || how == SKEW_END_ABORT;
    struct skew_rec_comm_end rec = {
        .head = {.type = SKEW_REC_COMM_END},
        .comm = comm->id,
        .how = how,
        .ns = skew_now(),
        .result = result,
    };
    skew_lock(proc);
    if (result != ncclSuccess && result != ncclInProgress) {
        if (gone)
            table_put(proc, comm->handle, comm); /* it still lives */
    } else {
        if (comm->announced)
            skew_defs_put(proc, &rec.head, sizeof(rec), NULL, 0);
        if (gone)
            comm_free(proc, comm);
    }
    skew_unlock(proc);
    errno = saved;
}

/* Kernels of the application can now move bytes by themselves: no host call will tell. */
void skew_comm_device_api(ncclResult_t result, const char *function, ncclComm_t handle,
                          int window_flags)
{
    static const char devcomm[] = "ncclDevCommCreate was called: kernels of the application can "
                                  "exchange data on this communicator "
                                  "without any NCCL call; such traffic is not in this trace";
    static const char window[] = "ncclCommWindowRegister registered a window: one-sided transfers "
                                 "by kernels into it are not in this trace";
    if (result != ncclSuccess && result != ncclInProgress)
        return;
    int saved = errno;
    struct skew_comm *comm =
        window_flags & NCCL_WIN_COLL_SYMMETRIC ? skew_comm_find(skew_proc, handle) : NULL;
    if (comm)
        __atomic_fetch_or(&comm->copies, SKEW_COMM_SYMMETRIC, __ATOMIC_RELAXED);
    skew_diag_once(SKEW_DIAG_DEVICE_API,
                   strcmp(function, "ncclDevCommCreate") == 0 ? devcomm : window);
    errno = saved;
}
