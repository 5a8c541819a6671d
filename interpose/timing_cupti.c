/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Talking to CUPTI: only when it was asked for, and only while nobody else does. The library is
 * opened locally, its buffers are ours and bounded, and an external id is pushed around each
 * launch. As soon as another tool subscribes or registers buffers of its own, everything is
 * switched off and it goes ahead. Application threads; buffers come back on CUPTI's own thread.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hot.h"
#include "record.h"
#include "timing_cupti.h"

/* Written once, by whoever decides the tier, before skew_time.tier says CUPTI. CUPTI's callbacks
 * have no argument. */
static struct skew_cupti *the_cupti;

static void *open_library(const char *path, int mode)
{
    void *(*loader_open)(const char *, int) = (void *(*)(const char *, int))skew_dlsym_in("dlopen");
    return loader_open ? loader_open(path, mode) : NULL;
}

/* The one that is loaded already, else the newest that the driver is not too old for. */
static void *find_library(void)
{
    static const struct {
        const char *name;
        int since; /* cuDriverGetVersion() */
    } libraries[] = {
        {"libcupti.so.13", 13000},   {"libcupti.so.12", 12000},   {"libcupti.so.11.8", 11080},
        {"libcupti.so.11.7", 11070}, {"libcupti.so.11.6", 11060}, {"libcupti.so.11.4", 11040},
        {"libcupti.so.11.3", 11030}, {"libcupti.so.11.1", 11010}, {"libcupti.so.11", 11010}};
    int (*driver_version)(int *) = (int (*)(int *))skew_elf_first("cuDriverGetVersion", false);
    void *library = NULL;
    int version = 0;
    for (unsigned i = 0; i < sizeof(libraries) / sizeof(libraries[0]) && !library; i++)
        library = open_library(libraries[i].name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (library || !driver_version || driver_version(&version) != 0)
        return library;
    for (unsigned i = 0; i < sizeof(libraries) / sizeof(libraries[0]) && !library; i++)
        if (version >= libraries[i].since)
            library = open_library(libraries[i].name, RTLD_NOW | RTLD_LOCAL);
    return library;
}

static bool bind_library(struct skew_cupti *cupti, void *library)
{
    bool all = true;
#define X(field, name, arguments)                                                                  \
    all &= (cupti->field = (int(*) arguments)skew_dlsym(library, name)) != NULL;
    SKEW_CUPTI_LIST(X)
#undef X
    cupti->enable_driver_call =
        (int (*)(uint32_t, uint8_t))skew_dlsym(library, "cuptiActivityEnableDriverApi");
    cupti->enable_runtime_call =
        (int (*)(uint32_t, uint8_t))skew_dlsym(library, "cuptiActivityEnableRuntimeApi");
    return all;
}

/* ---- buffers ------------------------------------------------------------------------------- */

static void buffer_wanted(uint8_t **buffer, size_t *bytes, size_t *records)
{
    struct skew_cupti *cupti = the_cupti;
    *buffer = NULL; /* CUPTI drops, and counts what it drops */
    *bytes = 0;
    *records = 0;
    skew_time_lock(&cupti->buffer_lock);
    if (cupti->free_count) {
        *buffer =
            cupti->buffers + (size_t)cupti->free[--cupti->free_count] * SKEW_CUPTI_BUFFER_BYTES;
        *bytes = SKEW_CUPTI_BUFFER_BYTES;
    }
    skew_time_unlock(&cupti->buffer_lock);
}

static void buffer_give(struct skew_cupti *cupti, const uint8_t *buffer)
{
    size_t number = (size_t)(buffer - cupti->buffers) / SKEW_CUPTI_BUFFER_BYTES;
    if (buffer < cupti->buffers || number >= SKEW_CUPTI_BUFFERS)
        return;
    skew_time_lock(&cupti->buffer_lock);
    cupti->free[cupti->free_count++] = (uint8_t)number;
    skew_time_unlock(&cupti->buffer_lock);
}

static void read_activity(struct skew_cupti *cupti, const void *record,
                          const struct skew_cupti_layout *at)
{
    const struct skew_activity a = {
        .start = skew_cupti_u64(record, at->start),
        .end = skew_cupti_u64(record, at->end),
        .device = skew_cupti_u32(record, at->device),
        .stream = skew_cupti_u32(record, at->stream),
        .correlation = skew_cupti_u32(record, at->correlation),
        .name = at->name ? (const char *)(uintptr_t)skew_cupti_u64(record, at->name) : NULL,
    };
    skew_cupti_activity(cupti, &a);
}

/* Two passes: a kernel's external id may stand behind it. */
static void read_buffer(struct skew_cupti *cupti, uint8_t *buffer, size_t bytes)
{
    static const struct skew_cupti_layout kernel = SKEW_CUPTI_KERNEL, memcpy_ = SKEW_CUPTI_MEMCPY,
                                          memcpy2 = SKEW_CUPTI_MEMCPY2;
    uint64_t records = 0;
    void *record = NULL;
    while (bytes && cupti->next_record(buffer, bytes, &record) == SKEW_CUPTI_SUCCESS) {
        records++;
        if (skew_cupti_u32(record, 0) == SKEW_CUPTI_KIND_EXTERNAL &&
            skew_cupti_u32(record, SKEW_CUPTI_EXTERNAL_KIND) == SKEW_CUPTI_CUSTOM2)
            skew_cupti_external(cupti, skew_cupti_u32(record, SKEW_CUPTI_EXTERNAL_CORRELATION),
                                skew_cupti_u64(record, SKEW_CUPTI_EXTERNAL_ID));
    }
    skew_cupti_retry(cupti, false);
    record = NULL;
    while (bytes && cupti->next_record(buffer, bytes, &record) == SKEW_CUPTI_SUCCESS) {
        uint32_t kind = skew_cupti_u32(record, 0);
        if (kind == SKEW_CUPTI_KIND_KERNEL)
            read_activity(cupti, record, &kernel);
        else if (kind == SKEW_CUPTI_KIND_MEMCPY)
            read_activity(cupti, record, &memcpy_);
        else if (kind == SKEW_CUPTI_KIND_MEMCPY2)
            read_activity(cupti, record, &memcpy2);
    }
    __atomic_fetch_add(&skew_proc->head->time.records, records, __ATOMIC_RELAXED);
}

/* What CUPTI's clock shows now. Hold the lock. */
static void anchor(struct skew_cupti *cupti)
{
    uint64_t best_low = 0, best_high = UINT64_MAX, best = 0, now;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t low = skew_now();
        if (cupti->get_timestamp(&now) != SKEW_CUPTI_SUCCESS)
            return;
        uint64_t high = skew_now();
        if (high - low < best_high - best_low) {
            best_low = low;
            best_high = high;
            best = now;
        }
    }
    if (!cupti->first_timestamp)
        cupti->first_timestamp = best;
    skew_clock_anchor(&cupti->clock, (double)(int64_t)(best - cupti->first_timestamp), best_low,
                      best_high);
}

static void buffer_complete(void *context, uint32_t stream, uint8_t *buffer, size_t bytes,
                            size_t valid)
{
    struct skew_cupti *cupti = the_cupti;
    struct skew_process *proc = skew_proc;
    size_t dropped = 0;
    int saved = errno;
    (void)bytes;
    if (proc && proc->head && buffer) {
        skew_time_lock(&cupti->lock);
        anchor(cupti);
        read_buffer(cupti, buffer, valid);
        skew_cupti_emit(cupti, false);
        if (cupti->dropped(context, stream, &dropped) == SKEW_CUPTI_SUCCESS && dropped)
            __atomic_fetch_add(&proc->head->time.dropped, dropped, __ATOMIC_RELAXED);
        skew_time_unlock(&cupti->lock);
    }
    if (buffer)
        buffer_give(cupti, buffer);
    errno = saved;
}

/* ---- on and off ---------------------------------------------------------------------------- */

static const uint32_t driver_calls[] = SKEW_CUPTI_DRIVER_CALLS,
                      runtime_calls[] = SKEW_CUPTI_RUNTIME_CALLS;
static const int kinds[] = {SKEW_CUPTI_KIND_KERNEL, SKEW_CUPTI_KIND_MEMCPY, SKEW_CUPTI_KIND_MEMCPY2,
                            SKEW_CUPTI_KIND_EXTERNAL};

/* CUPTI gives correlation ids only to calls whose records it makes: those that launch. */
static void switch_calls(struct skew_cupti *cupti, bool on)
{
    if (!cupti->enable_driver_call ||
        !cupti->enable_runtime_call) { /* CUPTI before 11.? cannot choose */
        (on ? cupti->enable : cupti->disable)(SKEW_CUPTI_KIND_DRIVER);
        (on ? cupti->enable : cupti->disable)(SKEW_CUPTI_KIND_RUNTIME);
        return;
    }
    for (unsigned i = 0; i < sizeof(driver_calls) / sizeof(driver_calls[0]); i++)
        cupti->enable_driver_call(driver_calls[i], on);
    for (unsigned i = 0; i < sizeof(runtime_calls) / sizeof(runtime_calls[0]); i++)
        cupti->enable_runtime_call(runtime_calls[i], on);
}

static bool switch_on(struct skew_cupti *cupti)
{
    bool all = cupti->register_callbacks((void *)buffer_wanted, (void *)buffer_complete) ==
               SKEW_CUPTI_SUCCESS;
    for (unsigned i = 0; all && i < sizeof(kinds) / sizeof(kinds[0]); i++)
        all = cupti->enable(kinds[i]) == SKEW_CUPTI_SUCCESS || kinds[i] == SKEW_CUPTI_KIND_MEMCPY2;
    if (all)
        switch_calls(cupti, true);
    return all;
}

static void switch_off(struct skew_cupti *cupti)
{
    switch_calls(cupti, false);
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        cupti->disable(kinds[i]);
    cupti->flush(0);
}

/* Tools that come by their own ways: their presence is known from what they put into the
 * environment. */
static bool tool_announced(void)
{
    static const char *const names[] = {"NSYS_PROFILING_SESSION_ID", "CUDA_INJECTION64_PATH",
                                        "KINETO_USE_DAEMON", "NV_COMPUTE_PROFILER_PERFWORKS_DIR",
                                        NULL};
    for (const char *const *name = names; *name; name++) {
        const char *value = secure_getenv(*name);
        if (value && *value && strcmp(value, "0") != 0)
            return true;
    }
    return false;
}

/* A subscription says whether somebody else has one; it is given back at once. */
static bool is_free(struct skew_cupti *cupti)
{
    void *subscriber = NULL;
    if (cupti->subscribe(&subscriber, NULL, NULL) != SKEW_CUPTI_SUCCESS)
        return false;
    cupti->unsubscribe(subscriber);
    return true;
}

/**
 * Starts CUPTI. @return 0; else *why says why not.
 */
int skew_cupti_start(struct skew_time *time, enum skew_tier_why *why)
{
    struct skew_cupti *cupti = skew_time_map(sizeof(*cupti));
    uint64_t from = skew_now();
    uint32_t version = 0;
    *why = tool_announced() ? SKEW_TIER_WHY_FOREIGN_CUPTI : SKEW_TIER_WHY_NO_CUPTI;
    void *library = !cupti || tool_announced() ? NULL : find_library();
    if (!library || !bind_library(cupti, library) ||
        cupti->get_version(&version) != SKEW_CUPTI_SUCCESS || version < SKEW_CUPTI_OLDEST)
        return -ENOENT;
    if (!is_free(cupti)) {
        *why = SKEW_TIER_WHY_FOREIGN_CUPTI;
        return -EBUSY;
    }
    cupti->buffers = skew_time_map((size_t)SKEW_CUPTI_BUFFERS * SKEW_CUPTI_BUFFER_BYTES);
    cupti->writer = skew_time_map(sizeof(*cupti->writer));
    if (!cupti->buffers || !cupti->writer)
        return -ENOMEM;
    cupti->writer->cell = SKEW_NO_CELL;
    for (; cupti->free_count < SKEW_CUPTI_BUFFERS; cupti->free_count++)
        cupti->free[cupti->free_count] = cupti->free_count;
    cupti->clock.number = ++time->clocks;
    cupti->clock.source = SKEW_TIME_CUPTI;
    the_cupti = cupti;
    skew_time_lock(&cupti->lock);
    anchor(cupti);
    skew_time_unlock(&cupti->lock);
    if (!switch_on(cupti)) {
        switch_off(cupti);
        return -ENOTSUP;
    }
    __atomic_store_n(&cupti->active, 1, __ATOMIC_RELEASE);
    time->cupti = cupti;
    __atomic_fetch_add(&skew_proc->head->time.setup_ns, skew_now() - from, __ATOMIC_RELAXED);
    return 0;
}

static void end(struct skew_cupti *cupti)
{
    skew_time_lock(&cupti->lock);
    anchor(cupti);
    skew_cupti_retry(cupti, true);
    skew_cupti_emit(cupti, true);
    skew_time_unlock(&cupti->lock);
}

/** At the end of the process: all that CUPTI has, complete or not. */
void skew_cupti_end(struct skew_cupti *cupti)
{
    if (!__atomic_exchange_n(&cupti->active, 0, __ATOMIC_ACQ_REL))
        return;
    cupti->flush(SKEW_CUPTI_FORCED);
    end(cupti);
    if (cupti->writer->seg)
        skew_segment_seal(skew_proc, cupti->writer->seg_index);
    cupti->writer->seg = NULL;
    cupti->writer->next = cupti->writer->end = 0;
}

/** Another tool wants CUPTI: it gets it. @return false: it was not ours (any more). */
bool skew_cupti_hand_over(struct skew_time *time)
{
    struct skew_cupti *cupti = time->cupti;
    if (!cupti || !__atomic_exchange_n(&cupti->active, 0, __ATOMIC_ACQ_REL))
        return false;
    switch_off(cupti);
    end(cupti);
    return true;
}

/* ---- around launches ----------------------------------------------------------------------- */

/* An entry with an id of its own, pushed for this thread. NULL: CUPTI refuses. */
static struct skew_entry *push(struct skew_cupti *cupti, struct skew_timer *timer)
{
    skew_time_lock(&cupti->lock);
    uint64_t id = ++cupti->next_id;
    struct skew_entry *entry = &cupti->entry[id % SKEW_CUPTI_ENTRIES];
    if (entry->id && entry->state == SKEW_ENTRY_LAUNCHED)
        skew_untimed_add(SKEW_UNTIMED_DROPPED, entry->launch_ns ? 1 : entry->comms);
    *entry = (struct skew_entry){.id = id, .state = SKEW_ENTRY_OPEN};
    skew_time_unlock(&cupti->lock);
    if (cupti->push(SKEW_CUPTI_CUSTOM2, id) != SKEW_CUPTI_SUCCESS)
        return NULL;
    timer->pushed = id;
    return entry;
}

static struct skew_entry *pop(struct skew_cupti *cupti, struct skew_timer *timer)
{
    struct skew_entry *entry = &cupti->entry[timer->pushed % SKEW_CUPTI_ENTRIES];
    uint64_t id = timer->pushed, last;
    if (!id)
        return NULL;
    timer->pushed = 0;
    cupti->pop(SKEW_CUPTI_CUSTOM2, &last);
    return entry->id == id ? entry : NULL;
}

/* The last stream of the lane's communicator, as CUPTI numbers it: where its kernel goes. */
static uint32_t stream_number(struct skew_cupti *cupti, const struct skew_thread *t, uint32_t lane)
{
    cudaStream_t stream = t->lane[lane].stream;
    uint32_t number = 0;
    for (uint32_t i = lane; i < t->lanes; i++)
        if (t->lane[i].handle == t->lane[lane].handle)
            stream = t->lane[i].stream;
    return cupti->stream_id(NULL, stream, 0, &number) == SKEW_CUPTI_SUCCESS ? number : 0;
}

/** Before the real launch. @return false: it is captured, or CUPTI refuses: nothing to do behind
 * it. */
bool skew_cupti_before(struct skew_cupti *cupti, struct skew_timer *timer,
                       const struct skew_thread *t, ncclComm_t handle)
{
    struct skew_entry *entry = push(cupti, timer);
    if (!entry)
        return false;
    for (uint32_t i = 0; !handle && i < t->lanes; i++) {
        if (!skew_lane_first(t, i))
            continue;
        if (entry->comms == SKEW_TIME_LAUNCHES) {
            skew_untimed_add(SKEW_UNTIMED_MANY_STREAMS, 1);
            continue;
        }
        entry->of[entry->comms++].comm = i; /* the lane, for skew_cupti_after() */
    }
    for (uint32_t i = 0; !handle && entry->comms > 1 && i < entry->comms; i++)
        entry->of[i].cuda_stream = stream_number(cupti, t, entry->of[i].comm);
    if (handle)
        entry->comms = 1;
    return true;
}

/** Behind the launch. `stored`: the group has a record. */
void skew_cupti_after(struct skew_cupti *cupti, struct skew_timer *timer,
                      const struct skew_thread *t, bool stored)
{
    struct skew_entry *entry = pop(cupti, timer);
    if (!entry)
        return;
    skew_time_lock(&cupti->lock);
    entry->stream = t->stream;
    entry->group = t->groups;
    uint32_t comms = entry->comms, kept = 0;
    for (uint32_t i = 0; i < comms; i++) {
        bool shared = false;
        for (uint32_t j = 0; comms > 1 && j < comms; j++)
            shared |= j != i && entry->of[j].cuda_stream == entry->of[i].cuda_stream;
        if (shared)
            skew_untimed_add(SKEW_UNTIMED_SHARED_STREAM, stored);
        else
            entry->of[kept++] = entry->of[i];
    }
    entry->comms = kept;
    for (uint32_t i = 0; i < kept; i++) {
        const struct skew_comm *comm = t->lane[entry->of[i].comm].comm;
        entry->of[i].comm = comm->id;
        entry->of[i].alone = comm->ranks == 1;
    }
    entry->state = stored ? SKEW_ENTRY_LAUNCHED : SKEW_ENTRY_FREE;
    skew_time_unlock(&cupti->lock);
}

/** Around the launch of an executable graph. */
void skew_cupti_graph_before(struct skew_cupti *cupti, struct skew_timer *timer, uint64_t call_ns,
                             void *exec)
{
    struct skew_entry *entry = push(cupti, timer);
    if (!entry)
        return;
    entry->launch_ns = call_ns;
    entry->exec = (uintptr_t)exec;
}

void skew_cupti_graph_after(struct skew_cupti *cupti, struct skew_timer *timer, bool launched)
{
    struct skew_entry *entry = pop(cupti, timer);
    if (entry)
        entry->state = launched ? SKEW_ENTRY_LAUNCHED : SKEW_ENTRY_FREE;
}
