/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies behind the call: pinned memory, the copy on the call's own stream, and a word that the
 * stream writes behind it. Whoever comes by later looks at that word in memory: nothing asks the
 * driver, waits, or synchronises. Where the driver cannot write words, an event is asked instead
 * (cuEventQuery, in relaxed capture mode).
 *
 * Application threads. `lock` guards the ring; a copy is put on its stream outside it. Driver
 * functions are found in whatever libcuda the process has loaded. The ring's order is that of
 * submission; a place is free again once all before it have arrived.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hot.h"
#include "tap_private.h"

#define SLOTS       512u
#define FLAG_STRIDE 64u /* a cache line each */
#define GIVE_UP     4u  /* implausible ones of a shape in a row */
#define SHAPES      64u

enum { CAPTURE_MODE_RELAXED = 2, HOST_PORTABLE_MAPPED = 3, EVENT_NO_TIMING = 2 };

/* CUDA's driver API, as much as is used. */
struct driver {
    int (*host_alloc)(void **at, size_t bytes, unsigned flags);
    int (*device_pointer)(uint64_t *device, void *host, unsigned flags);
    int (*copy)(uint64_t to, uint64_t from, size_t bytes, void *stream);
    int (*capture_mode)(int *mode);
    int (*current_device)(int *device);
    int (*stream_context)(void *stream, void **context);
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*write_value)(void *stream, uint64_t at, uint32_t value, unsigned flags); /* may be NULL */
    int (*event_create)(void **event, unsigned flags);
    int (*event_record)(void *event, void *stream);
    int (*event_query)(void *event);
};

enum slot_state { FREE, TAKEN, WAITING, DONE, LOST };

struct slot {
    uint32_t state; /* enum slot_state; TAKEN → WAITING by the copying thread (release) */
    uint32_t flag;  /* what the stream writes behind the copy */
    uint32_t offset, bytes;
    void *event; /* NULL: the flag tells */
    struct skew_rec_tap rec;
    uint32_t op;
};

struct shape {
    uint64_t key;
    uint32_t implausible; /* in a row */
};

struct skew_tap {
    uint32_t lock;
    uint32_t usable; /* 0: pinned memory or functions are not to be had, or have gone */
    struct driver driver;
    uint8_t *data;
    uint64_t flags_device;
    uint32_t *flags;
    uint32_t data_bytes;
    uint32_t first, used;   /* slots of the ring */
    uint32_t begin, filled; /* bytes of the ring */
    uint32_t next_flag;
    uint64_t total;
    bool by_event;
    struct shape shape[SHAPES];
    struct slot slot[SLOTS];
};

static void lock(struct skew_tap *tap)
{
    while (__atomic_exchange_n(&tap->lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void unlock(struct skew_tap *tap)
{
    __atomic_store_n(&tap->lock, 0, __ATOMIC_RELEASE);
}

void skew_tap_count(struct skew_process *proc, enum skew_tap_count_what what, uint64_t bytes)
{
    if (!proc->head)
        return;
    __atomic_fetch_add(&proc->head->tap[what].buffers, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&proc->head->tap[what].bytes, bytes, __ATOMIC_RELAXED);
}

/* ---- setting up ---------------------------------------------------------------------------- */

static bool find_driver(struct driver *d)
{
    *(void **)&d->host_alloc = skew_elf_first("cuMemHostAlloc", false);
    *(void **)&d->device_pointer = skew_elf_first("cuMemHostGetDevicePointer_v2", false);
    *(void **)&d->copy = skew_elf_first("cuMemcpyAsync", false);
    *(void **)&d->capture_mode = skew_elf_first("cuThreadExchangeStreamCaptureMode", false);
    *(void **)&d->current_device = skew_elf_first("cuCtxGetDevice", false);
    *(void **)&d->stream_context = skew_elf_first("cuStreamGetCtx", false);
    *(void **)&d->push = skew_elf_first("cuCtxPushCurrent_v2", false);
    *(void **)&d->pop = skew_elf_first("cuCtxPopCurrent_v2", false);
    *(void **)&d->write_value = skew_elf_first("cuStreamWriteValue32_v2", false);
    if (!d->write_value)
        *(void **)&d->write_value = skew_elf_first("cuStreamWriteValue32", false);
    *(void **)&d->event_create = skew_elf_first("cuEventCreate", false);
    *(void **)&d->event_record = skew_elf_first("cuEventRecord", false);
    *(void **)&d->event_query = skew_elf_first("cuEventQuery", false);
    return d->host_alloc && d->device_pointer && d->copy && d->capture_mode && d->current_device &&
           d->stream_context && d->push && d->pop && d->event_create && d->event_record &&
           d->event_query;
}

/* Runs before CUDA's own end, whose memory the pool is: what arrived until now is stored, the rest
 * is counted by its absence. */
static void at_exit(void)
{
    struct skew_process *proc = skew_proc;
    struct skew_tap *tap = proc ? __atomic_load_n(&proc->tap, __ATOMIC_ACQUIRE) : NULL;
    if (!tap)
        return;
    skew_tap_harvest();
    __atomic_store_n(&tap->usable, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&skew_hot.tap_types, 0, __ATOMIC_RELAXED);
}

static bool pool_make(struct skew_process *proc, struct skew_tap *tap)
{
    size_t flag_bytes = SLOTS * FLAG_STRIDE;
    void *at = NULL;
    tap->data_bytes = (uint32_t)proc->option_int[SKEW_OPT_TAP_POOL_KB] << 10;
    if (tap->driver.host_alloc(&at, flag_bytes + tap->data_bytes, HOST_PORTABLE_MAPPED) != 0 || !at)
        return false;
    if (tap->driver.device_pointer(&tap->flags_device, at, 0) != 0)
        return false; /* the memory stays: to free it would synchronise */
    memset(at, 0, flag_bytes);
    tap->flags = at;
    tap->data = (uint8_t *)at + flag_bytes;
    tap->by_event = !tap->driver.write_value;
    return atexit(at_exit) == 0;
}

/* Another thread's, or a new one. At the first candidate, behind the application's call: allocating
 * pinned memory may take a millisecond, once. */
static struct skew_tap *tap_need(struct skew_process *proc)
{
    static uint32_t making;
    struct skew_tap *tap = __atomic_load_n(&proc->tap, __ATOMIC_ACQUIRE);
    if (skew_likely(tap != NULL))
        return tap;
    if (__atomic_exchange_n(&making, 1, __ATOMIC_ACQ_REL))
        return NULL; /* this one candidate goes without */
    tap = mmap(NULL, sizeof(*tap), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (tap != MAP_FAILED) {
        int mode = CAPTURE_MODE_RELAXED;
        if (find_driver(&tap->driver) && tap->driver.capture_mode(&mode) == 0) {
            tap->usable = pool_make(proc, tap);
            tap->driver.capture_mode(&mode);
        }
        __atomic_store_n(&proc->tap, tap, __ATOMIC_RELEASE);
        if (!tap->usable) {
            __atomic_store_n(&skew_hot.tap_types, 0, __ATOMIC_RELAXED);
            skew_diag_once(SKEW_DIAG_TAP_OFF,
                           "the CUDA driver's functions to copy with, or pinned memory, could not "
                           "be had: count "
                           "exchanges are not copied, so tokens of single experts are not known");
        }
    }
    __atomic_store_n(&making, 0, __ATOMIC_RELEASE);
    return tap == MAP_FAILED ? NULL : tap;
}

/* ---- shapes that turned out to be something else ------------------------------------------- */

static struct shape *shape_at(struct skew_tap *tap, const struct skew_rec_tap *rec, uint32_t op)
{
    uint64_t key =
        ((uint64_t)rec->comm << 40 ^ (uint64_t)rec->count << 8 ^ (uint64_t)op << 4 ^ rec->dtype) *
            0x9e3779b97f4a7c15u |
        1;
    struct shape *shape = &tap->shape[key >> 58];
    if (shape->key != key)
        *shape = (struct shape){.key = key};
    return shape;
}

/* ---- copying ------------------------------------------------------------------------------- */

/* Room in both rings. Hold the lock. NULL: there is none now. */
static struct slot *slot_take(struct skew_tap *tap, uint32_t bytes)
{
    uint32_t room = SKEW_ROUND8(bytes), end = (tap->begin + tap->filled) % tap->data_bytes;
    uint32_t skipped = end + room > tap->data_bytes ? tap->data_bytes - end : 0;
    if (tap->used == SLOTS || tap->filled + skipped + room > tap->data_bytes)
        return NULL;
    struct slot *slot = &tap->slot[(tap->first + tap->used++) % SLOTS];
    slot->offset = skipped ? 0 : end;
    slot->bytes = room + skipped;
    tap->filled += slot->bytes;
    slot->flag = ++tap->next_flag ? tap->next_flag : ++tap->next_flag;
    slot->state = TAKEN;
    return slot;
}

/* The copy, and behind it the word or the event. @return 0, or a CUresult. */
static int submit_here(struct skew_tap *tap, struct slot *slot, const struct skew_tap_request *r,
                       uint32_t bytes)
{
    const struct driver *d = &tap->driver;
    uint64_t index = (uint64_t)(slot - tap->slot);
    int err =
        d->copy((uintptr_t)(tap->data + slot->offset), (uintptr_t)r->source, bytes, r->stream);
    if (err)
        return err;
    if (!__atomic_load_n(&tap->by_event, __ATOMIC_RELAXED)) {
        if (d->write_value(r->stream, tap->flags_device + index * FLAG_STRIDE, slot->flag, 0) == 0)
            return 0;
        __atomic_store_n(&tap->by_event, true, __ATOMIC_RELAXED); /* not on this device */
    }
    err = slot->event ? 0 : d->event_create(&slot->event, EVENT_NO_TIMING);
    if (!err)
        err = d->event_record(slot->event, r->stream);
    if (err)
        __atomic_store_n(&tap->usable, 0,
                         __ATOMIC_RELEASE); /* data will come, and nobody will know when */
    return err;
}

/* On the communicator's device: one thread may drive several, and stand on another one after the
 * group. */
static int submit(struct skew_tap *tap, struct slot *slot, const struct skew_tap_request *r,
                  uint32_t bytes)
{
    const struct driver *d = &tap->driver;
    int mode = CAPTURE_MODE_RELAXED, device = -1, err = d->capture_mode(&mode);
    void *context = NULL;
    if (err)
        return err;
    err = d->current_device(&device);
    if (!err && r->device >= 0 && device != r->device) {
        /* The default streams belong to whatever device is current. */
        err = (uintptr_t)r->stream > 2 ? d->stream_context(r->stream, &context) : -1;
        if (!err)
            err = d->push(context);
        if (err)
            context = NULL;
    }
    if (!err)
        err = submit_here(tap, slot, r, bytes);
    if (context)
        d->pop(&context);
    d->capture_mode(&mode);
    return err;
}

/** Copies one buffer behind what its stream has been given so far, or counts why not. */
void skew_tap_copy(struct skew_process *proc, const struct skew_tap_request *r)
{
    uint32_t bytes = r->rec.elements * skew_tap_element(r->rec.dtype), flags;
    uint64_t most = (uint64_t)proc->option_int[SKEW_OPT_TAP_TOTAL_MB] << 20, id;
    enum skew_tap_count_what why = SKEW_TAP_COUNT_QUEUED;
    struct slot *slot = NULL;
    skew_capture_query(r->stream, &flags, &id);
    if (flags & SKEW_LANE_CAPTURED) {
        skew_tap_count(proc, SKEW_TAP_COUNT_CAPTURED, bytes);
        return;
    }
    struct skew_tap *tap = tap_need(proc);
    if (!tap || !__atomic_load_n(&tap->usable, __ATOMIC_ACQUIRE)) {
        skew_tap_count(proc, SKEW_TAP_COUNT_UNREACHED, bytes);
        return;
    }
    lock(tap);
    if (shape_at(tap, &r->rec, r->op)->implausible >= GIVE_UP)
        why = SKEW_TAP_COUNT_GIVEN_UP;
    else if (tap->total + bytes > most)
        why = SKEW_TAP_COUNT_BUDGET;
    else if (!(slot = slot_take(tap, bytes)))
        why = SKEW_TAP_COUNT_POOL_FULL;
    else
        tap->total += bytes;
    unlock(tap);
    if (slot) {
        slot->rec = r->rec;
        slot->op = r->op;
        int err = submit(tap, slot, r, bytes);
        if (err)
            why = SKEW_TAP_COUNT_UNREACHED;
        __atomic_fetch_add(&skew_hot.tap_waiting, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&slot->state, err ? LOST : WAITING, __ATOMIC_RELEASE);
    }
    skew_tap_count(proc, why, bytes);
}

/* ---- arrival ------------------------------------------------------------------------------- */

static bool has_arrived(struct skew_tap *tap, struct slot *slot)
{
    uint64_t index = (uint64_t)(slot - tap->slot);
    if (__atomic_load_n((uint32_t *)((uint8_t *)tap->flags + index * FLAG_STRIDE),
                        __ATOMIC_ACQUIRE) == slot->flag)
        return true;
    if (!slot->event)
        return false;
    int mode = CAPTURE_MODE_RELAXED;
    if (tap->driver.capture_mode(&mode) != 0)
        return false;
    int err = tap->driver.event_query(slot->event);
    tap->driver.capture_mode(&mode);
    return err == 0;
}

static void store(struct skew_process *proc, struct skew_tap *tap, struct slot *slot)
{
    const void *values = tap->data + slot->offset;
    uint32_t bytes = slot->rec.elements * skew_tap_element(slot->rec.dtype);
    struct shape *shape = shape_at(tap, &slot->rec, slot->op);
    if (!skew_tap_plausible((enum skew_tap_shape)slot->rec.shape, slot->rec.dtype, values,
                            slot->rec.elements)) {
        shape->implausible++;
        skew_tap_count(proc, SKEW_TAP_COUNT_IMPLAUSIBLE, bytes);
        return;
    }
    shape->implausible = 0;
    skew_lock(proc);
    int err = skew_defs_put(proc, &slot->rec.head, sizeof(slot->rec), values, bytes);
    skew_unlock(proc);
    skew_tap_count(proc, err ? SKEW_TAP_COUNT_UNSTORED : SKEW_TAP_COUNT_STORED, bytes);
}

/** Stores what has arrived. Returns at once when another thread is at it. */
SKEW_COLD void skew_tap_harvest(void)
{
    struct skew_process *proc = skew_proc;
    struct skew_tap *tap = proc ? __atomic_load_n(&proc->tap, __ATOMIC_ACQUIRE) : NULL;
    if (!tap || !__atomic_load_n(&tap->usable, __ATOMIC_ACQUIRE)) {
        __atomic_store_n(&skew_hot.tap_waiting, 0,
                         __ATOMIC_RELAXED); /* a fork left the parent's, or it is over */
        return;
    }
    if (__atomic_exchange_n(&tap->lock, 1, __ATOMIC_ACQUIRE))
        return;
    int saved = errno;
    for (uint32_t i = 0; i < tap->used; i++) {
        struct slot *slot = &tap->slot[(tap->first + i) % SLOTS];
        if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) != WAITING || !has_arrived(tap, slot))
            continue;
        store(proc, tap, slot);
        slot->state = DONE;
    }
    while (tap->used && __atomic_load_n(&tap->slot[tap->first].state, __ATOMIC_ACQUIRE) >= DONE) {
        struct slot *slot = &tap->slot[tap->first];
        slot->state = FREE;
        tap->begin = (tap->begin + slot->bytes) % tap->data_bytes;
        tap->filled -= slot->bytes;
        tap->first = (tap->first + 1) % SLOTS;
        tap->used--;
        __atomic_fetch_sub(&skew_hot.tap_waiting, 1, __ATOMIC_RELAXED);
    }
    errno = saved;
    unlock(tap);
}
