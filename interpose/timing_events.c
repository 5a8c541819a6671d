/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times by pairs of CUDA events: one on each stream of a communicator before the real launch, one
 * behind it on the stream that its kernel goes to (the last one added, as in NCCL). Events come
 * from a pool a context, are asked about later, and are never waited for. Application threads;
 * nothing during a capture.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "hot.h"
#include "record.h"
#include "timing.h"

#define EVENTS_AT_ONCE  64u
#define UNTIMED(reason) ((int32_t)SKEW_UNTIMED_##reason)
#define DEFAULT_STREAMS                                                                            \
    2u /* handles up to this one are default streams: of the current context                       \
        */

/* ---- the driver ---------------------------------------------------------------------------- */

/** Finds the driver among the loaded libraries. @return false: it is not there, or lacks something.
 */
bool skew_driver_bind(struct skew_driver *driver)
{
    static const char *const names[] = {
#define X(field, name, arguments) name,
        SKEW_DRIVER_LIST(X)
#undef X
            NULL};
    struct dl_phdr_info module;
    if (!skew_elf_first_of(names, false, &module))
        return false;
    unsigned i = 0;
#define X(field, name, arguments)                                                                  \
    driver->field = (int(*) arguments)skew_elf_lookup(&module, names[i++]);
    SKEW_DRIVER_LIST(X)
#undef X
    driver->context_id =
        (int (*)(void *, unsigned long long *))skew_elf_lookup(&module, "cuCtxGetId");
    return true;
}

/** From here on no call of ours can end a capture, of whichever thread: this one is in relaxed
 * mode. */
int skew_driver_enter(const struct skew_driver *driver)
{
    int mode = CU_CAPTURE_RELAXED;
    return driver->exchange_capture_mode(&mode) == 0 ? mode : -1;
}

void skew_driver_leave(const struct skew_driver *driver, int mode)
{
    if (mode >= 0)
        driver->exchange_capture_mode(&mode);
}

/* ---- contexts and their events ------------------------------------------------------------- */

/* More events, with the context current. Hold c->lock. */
static void make_events(const struct skew_driver *driver, struct skew_context *c)
{
    for (unsigned i = 0; i < EVENTS_AT_ONCE && c->made < SKEW_TIME_POOL; i++) {
        if (driver->event_create(&c->event[c->free], 0) != 0)
            return;
        c->free++;
        c->made++;
    }
}

static void make_more(const struct skew_driver *driver, struct skew_context *c)
{
    void *same;
    uint64_t from = skew_now();
    if (driver->context_push(c->context) != 0)
        return;
    make_events(driver, c);
    driver->context_pop(&same);
    __atomic_fetch_add(&skew_proc->head->time.setup_ns, skew_now() - from, __ATOMIC_RELAXED);
}

static void *event_take(const struct skew_driver *driver, struct skew_context *c)
{
    void *event = NULL;
    skew_time_lock(&c->lock);
    if (!c->free && c->made < SKEW_TIME_POOL)
        make_more(driver, c);
    if (c->free)
        event = c->event[--c->free];
    skew_time_unlock(&c->lock);
    return event;
}

static void event_give(struct skew_context *c, void *event)
{
    if (!event)
        return;
    skew_time_lock(&c->lock);
    c->event[c->free++] = event;
    skew_time_unlock(&c->lock);
}

/** Gives the events of a flight back, whatever has been recorded on them. */
void skew_events_drop(struct skew_flight *f)
{
    for (uint32_t i = 0; i < f->starts; i++)
        event_give(f->context, f->start[i]);
    if (f->context)
        event_give(f->context, f->end);
    f->starts = 0;
    f->end = NULL;
}

/* A context that was not seen before. Hold time->lock. NULL: there is no room, or the driver
 * refuses. */
static struct skew_context *context_make(struct skew_time *time, void *handle,
                                         unsigned long long id)
{
    const struct skew_driver *driver = &time->driver;
    uint64_t from = skew_now();
    void *same;
    if (time->contexts == SKEW_TIME_CONTEXTS || driver->context_push(handle) != 0)
        return NULL;
    struct skew_context *c = &time->context[time->contexts];
    c->context = handle;
    c->id = id;
    if (driver->context_device(&c->device) != 0)
        c->device = -1;
    if (driver->stream_create(&c->stream, CU_STREAM_NON_BLOCKING) != 0)
        c->stream = NULL;
    for (unsigned i = 0; i < 4; i++)
        if (driver->event_create(&c->try_event[i], 0) != 0)
            c->try_event[i] = NULL;
    for (unsigned i = 0; i < 2; i++)
        if (driver->event_create(&c->pair[i], 0) != 0)
            c->pair[i] = NULL;
    make_events(driver, c);
    driver->context_pop(&same);
    c->clock.number = ++time->clocks;
    c->clock.source = SKEW_TIME_EVENTS;
    __atomic_store_n(&time->contexts, time->contexts + 1, __ATOMIC_RELEASE);
    __atomic_fetch_add(&skew_proc->head->time.setup_ns, skew_now() - from, __ATOMIC_RELAXED);
    return c;
}

static struct skew_context *context_find(struct skew_time *time, void *handle,
                                         unsigned long long id)
{
    uint32_t count = __atomic_load_n(&time->contexts, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < count; i++) {
        struct skew_context *c = &time->context[i];
        if (c->context != handle || __atomic_load_n(&c->gone, __ATOMIC_RELAXED))
            continue;
        if (c->id == id)
            return c;
        __atomic_store_n(&c->gone, 1, __ATOMIC_RELAXED); /* another one at its address now */
    }
    return NULL;
}

static struct skew_context *context_get(struct skew_time *time, void *handle)
{
    unsigned long long id = 0;
    if (!handle || (time->driver.context_id && time->driver.context_id(handle, &id) != 0))
        return NULL;
    struct skew_context *found = context_find(time, handle, id);
    if (found)
        return found;
    skew_time_lock(&time->lock);
    found = context_find(time, handle, id);
    if (!found)
        found = context_make(time, handle, id);
    skew_time_unlock(&time->lock);
    return found;
}

/* The context of a stream; *reason when there is none to be had. */
static struct skew_context *context_of(struct skew_time *time, struct skew_timer *timer,
                                       void *stream, const struct skew_comm *comm, int32_t *reason)
{
    uint32_t changed = __atomic_load_n(&skew_hot.comms_changed, __ATOMIC_ACQUIRE);
    bool is_default = (uintptr_t)stream <= DEFAULT_STREAMS;
    void *handle = NULL;
    if (!is_default && timer->last_stream == stream && timer->comms_changed == changed)
        return timer->last_context;
    *reason = UNTIMED(DRIVER_ERROR);
    if ((is_default ? time->driver.context_current(&handle)
                    : time->driver.stream_context(stream, &handle)) != 0)
        return NULL;
    struct skew_context *c = context_get(time, handle);
    if (c && is_default && comm && comm->device >= 0 && c->device != comm->device) {
        *reason = UNTIMED(OTHER_DEVICE);
        return NULL;
    }
    if (c && !is_default) {
        timer->last_stream = stream;
        timer->last_context = c;
        timer->comms_changed = changed;
    }
    return c;
}

/* ---- before the launch --------------------------------------------------------------------- */

bool skew_stream_captured(cudaStream_t stream)
{
    int status = 0;
    uint64_t id;
    skew_capture_info ask = __atomic_load_n(&skew_hot.ask_driver, __ATOMIC_ACQUIRE);
    /* An error on the default stream means that some other stream is captured: recording there
     * would end that. */
    return !ask || ask(stream, &status, &id, NULL, NULL, NULL, NULL) != 0 || status != 0;
}

static void untime(struct skew_flight *f, int32_t reason)
{
    skew_events_drop(f);
    f->untimed = reason;
}

/* Takes events, and records those of the start. `streams`: the last one is where the kernel goes.
 */
static void begin(struct skew_time *time, struct skew_timer *timer, struct skew_flight *f,
                  const struct skew_comm *comm, cudaStream_t const *streams, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (skew_stream_captured(streams[i])) {
            f->untimed = UNTIMED(CAPTURED);
            return;
        }
    f->cuda_stream = streams[count - 1];
    f->context = context_of(time, timer, f->cuda_stream, comm, &f->untimed);
    if (!f->context)
        return;
    f->untimed = -1;
    f->end = event_take(&time->driver, f->context);
    for (uint32_t i = 0; i < count && f->end; i++) {
        void *event = event_take(&time->driver, f->context);
        if (!event)
            break;
        f->start[f->starts++] = event;
    }
    if (f->starts < count) {
        untime(f, UNTIMED(NO_EVENT));
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        if (time->driver.event_record(f->start[i], streams[i]) != 0) {
            timer->last_stream = NULL;
            untime(f, UNTIMED(DRIVER_ERROR));
            return;
        }
}

/* The streams of the lane's communicator, in order of first use. @return how many, or more than
 * there is room. */
static uint32_t streams_of(const struct skew_thread *t, uint32_t lane, cudaStream_t *streams)
{
    uint32_t count = 0;
    for (uint32_t i = lane; i < t->lanes; i++) {
        if (t->lane[i].handle != t->lane[lane].handle)
            continue;
        if (count < SKEW_TIME_STREAMS)
            streams[count] = t->lane[i].stream;
        count++;
    }
    return count;
}

/* Kernels of several communicators follow each other on one stream: events around all of them tell
 * of none. */
static bool shares_stream(const struct skew_thread *t, uint32_t lane)
{
    for (uint32_t i = 0; i < t->lanes; i++)
        for (uint32_t j = 0; j < t->lanes; j++)
            if (t->lane[i].handle == t->lane[lane].handle &&
                t->lane[j].handle != t->lane[i].handle && t->lane[j].stream == t->lane[i].stream)
                return true;
    return false;
}

static bool first_of_comm(const struct skew_thread *t, uint32_t lane)
{
    for (uint32_t i = 0; i < lane; i++)
        if (t->lane[i].handle == t->lane[lane].handle)
            return false;
    return true;
}

static void begin_lanes(struct skew_time *time, struct skew_timer *timer, struct skew_thread *t)
{
    cudaStream_t streams[SKEW_TIME_STREAMS];
    for (uint32_t i = 0; i < t->lanes; i++) {
        if (!first_of_comm(t, i))
            continue;
        if (timer->opens == SKEW_TIME_LAUNCHES) {
            skew_untimed_add(SKEW_UNTIMED_MANY_STREAMS, 1);
            continue;
        }
        struct skew_flight *f = &timer->open[timer->opens++];
        *f = (struct skew_flight){.lane = i, .handle = t->lane[i].handle, .untimed = -1};
        uint32_t count = streams_of(t, i, streams);
        if (count > SKEW_TIME_STREAMS)
            f->untimed = UNTIMED(MANY_STREAMS);
        else if (t->lanes > 1 && shares_stream(t, i))
            f->untimed = UNTIMED(SHARED_STREAM);
        else
            begin(time, timer, f, t->lane[i].comm, streams, count);
    }
}

/** Before the real launch of the open group, or (`handle` not NULL) of one call outside a group. */
void skew_events_before(struct skew_time *time, struct skew_timer *timer, struct skew_thread *t,
                        ncclComm_t handle, cudaStream_t stream)
{
    int mode = skew_driver_enter(&time->driver);
    if (handle) {
        timer->opens = 1;
        timer->open[0] = (struct skew_flight){.handle = handle, .untimed = -1};
        begin(time, timer, &timer->open[0], skew_comm_find(skew_proc, handle), &stream, 1);
    } else {
        begin_lanes(time, timer, t);
    }
    skew_driver_leave(&time->driver, mode);
    uint64_t now = skew_now();
    for (uint32_t i = 0; i < timer->opens; i++)
        timer->open[i].call_ns = now;
}

/* ---- behind it, and later ------------------------------------------------------------------ */

/** The launch is on its stream: records the end and puts the flight under way. */
void skew_events_launched(struct skew_time *time, struct skew_timer *timer, struct skew_flight *f)
{
    f->return_ns = skew_now();
    if (f->untimed >= 0) {
        skew_untimed_add((enum skew_untimed)f->untimed, 1);
        return;
    }
    int mode = skew_driver_enter(&time->driver);
    int error = skew_stream_captured(f->cuda_stream)
                    ? -1
                    : time->driver.event_record(f->end, f->cuda_stream);
    skew_driver_leave(&time->driver, mode);
    f->marked_ns = skew_now();
    skew_time_lock(&timer->lock);
    bool room = timer->head - timer->tail < SKEW_TIME_FLIGHTS;
    if (!error && room)
        timer->ring[timer->head++ % SKEW_TIME_FLIGHTS] = *f;
    skew_time_unlock(&timer->lock);
    __atomic_fetch_add(&skew_proc->head->time.events, f->starts + 1, __ATOMIC_RELAXED);
    if (error || !room) {
        skew_untimed_add(error < 0 ? SKEW_UNTIMED_CAPTURED
                         : error   ? SKEW_UNTIMED_DRIVER_ERROR
                                   : SKEW_UNTIMED_NO_EVENT,
                         1);
        skew_events_drop(f);
    }
}

/* An operation begins no sooner than the one before it on its communicator is over: NCCL sees to
 * that also where they are on different streams. */
static uint64_t not_before_last(struct skew_timer *timer, const struct skew_flight *f,
                                uint64_t start, uint64_t end)
{
    uint32_t i = f->comm % (sizeof(timer->last) / sizeof(timer->last[0]));
    if (timer->last[i].comm == f->comm && timer->last[i].cuda_stream != f->cuda_stream &&
        timer->last[i].end_ns > start && timer->last[i].end_ns <= end)
        start = timer->last[i].end_ns;
    timer->last[i].comm = f->comm;
    timer->last[i].cuda_stream = f->cuda_stream;
    timer->last[i].end_ns = end;
    return start;
}

/* Events mark when a stream was free, not when a kernel began. Where the device stood idle before,
 * it began with the launch, which is the last thing that the real call does; and where it was over
 * before the host could put an event behind it, that event's time says only that. */
static void add_slack(const struct skew_flight *f, struct skew_rec_time *rec)
{
    uint64_t earliest = rec->start_ns > f->call_ns ? rec->start_ns : f->call_ns;
    earliest = earliest < rec->end_ns ? earliest : rec->end_ns;
    uint64_t start = rec->start_ns > f->return_ns ? rec->start_ns : f->return_ns;
    start = start < rec->end_ns ? start : rec->end_ns;
    rec->start_ns = start;
    rec->start_slack_ns = start - earliest;
    if (rec->end_ns <= f->marked_ns + rec->error_ns)
        rec->end_slack_ns = rec->end_ns - earliest;
}

/* The times of a flight that is over. @return −1, or why there are none (enum skew_untimed). */
static int32_t times_of(struct skew_time *time, const struct skew_flight *f,
                        struct skew_rec_time *rec)
{
    const struct skew_driver *driver = &time->driver;
    struct skew_context *c = f->context;
    float least = -1, ms, since = 0;
    double host, off;
    for (uint32_t i = 0; i < f->starts; i++) {
        if (driver->event_elapsed(&ms, f->start[i], f->end) != 0)
            return UNTIMED(DRIVER_ERROR);
        least = least < 0 || ms < least ? ms : least;
    }
    least = least > 0 ? least : 0;
    skew_time_lock(&c->clock.lock);
    bool known =
        c->anchor && driver->event_elapsed(&since, c->anchor, f->end) == 0 &&
        skew_clock_convert(&c->clock, c->clock.best.device_ns + (double)since * 1e6, &host, &off);
    double rate = c->clock.rate, rate_error = c->clock.rate_error;
    skew_time_unlock(&c->clock.lock);
    if (!known)
        return UNTIMED(NO_CLOCK);
    double lasted = (double)least * 1e6 * (1 + rate), far = (double)since * 1e6;
    rec->end_ns = (uint64_t)host;
    rec->start_ns = rec->end_ns - (uint64_t)(lasted + 0.5);
    /* Two events of half a microsecond, floats of milliseconds, and what is not known of the drift.
     */
    off += 1000 + ((far < 0 ? -far : far) + lasted) * 6e-8 + lasted * rate_error;
    rec->error_ns = (uint64_t)off + 1;
    return -1;
}

static void finish(struct skew_time *time, struct skew_timer *timer, struct skew_flight *f)
{
    struct skew_rec_time rec = {
        .head = {.bytes = sizeof(rec), .type = SKEW_REC_TIME},
        .comm = f->comm,
        .stream = f->stream,
        .group = f->group,
        .source = SKEW_TIME_EVENTS,
    };
    int32_t untimed = times_of(time, f, &rec);
    if (untimed < 0) {
        rec.start_ns = not_before_last(timer, f, rec.start_ns, rec.end_ns);
        add_slack(f, &rec);
        if (skew_put(skew_self, &rec.head) == 0)
            __atomic_fetch_add(&skew_proc->head->time.timed[SKEW_TIME_EVENTS], 1, __ATOMIC_RELAXED);
        else
            untimed = UNTIMED(NO_ROOM);
    }
    if (untimed >= 0)
        skew_untimed_add((enum skew_untimed)untimed, 1);
    skew_events_drop(f);
}

/** Asks about the oldest flights, `most` of them, until one is still under way. Holds no lock of
 * ours but the timer's; gives up at once when another thread has that. */
void skew_events_harvest(struct skew_time *time, struct skew_timer *timer, uint32_t most)
{
    if (timer->tail == __atomic_load_n(&timer->head, __ATOMIC_RELAXED) ||
        !skew_time_try(&timer->lock))
        return;
    int mode = skew_driver_enter(&time->driver);
    for (; most && timer->tail != timer->head; most--) {
        struct skew_flight *f = &timer->ring[timer->tail % SKEW_TIME_FLIGHTS];
        bool gone = __atomic_load_n(&f->context->gone, __ATOMIC_RELAXED);
        int result = gone ? -1 : time->driver.event_query(f->end);
        if (result == CU_NOT_READY)
            break;
        timer->tail++;
        if (result == 0)
            finish(time, timer, f);
        else
            skew_untimed_add(SKEW_UNTIMED_DRIVER_ERROR, 1); /* its events are not used again */
    }
    skew_driver_leave(&time->driver, mode);
    skew_time_unlock(&timer->lock);
}

/** At the end of the process, before the driver goes: what is over by now, and how many are not. */
void skew_events_end(struct skew_time *time)
{
    const struct skew_driver *driver = &time->driver;
    for (uint32_t i = 0; i < time->contexts; i++) {
        unsigned flags;
        int active = 0, device = time->context[i].device;
        /* cudaDeviceReset() has taken all handles with it. */
        if (device < 0 || driver->primary_state(device, &flags, &active) != 0 || !active)
            time->context[i].gone = 1;
    }
    for (struct skew_timer *timer = time->timers; timer; timer = timer->next) {
        skew_events_harvest(time, timer, SKEW_TIME_FLIGHTS);
        skew_untimed_add(SKEW_UNTIMED_UNFINISHED, timer->head - timer->tail);
        skew_untimed_add(SKEW_UNTIMED_NONBLOCKING, timer->awaiting);
    }
}
