/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When launches occupied the device: which way it is found out (the tier), what the end of a group
 * does for it, and what all of that costs. Runs on application threads around the real launch, only
 * where thread->watch says so. Results go to the spool later, as TIME records. Nothing here waits,
 * and no failure shows.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hot.h"
#include "record.h"
#include "timing.h"

#define MEASURE_EVERY                                                                              \
    64u /* groups whose cost is measured, where times are taken; else one a segment */
#define HARVEST_FROM                                                                               \
    8u /* flights under way before anybody asks about them, so that most are over */
#define HARVEST_MOST 4u            /* at the end of one group */
#define COST_MOST_NS 1000000000ull /* more is no cost but a thread that was put to sleep */

extern int __cxa_atexit(void (*function)(void *), void *argument, void *dso);
extern void *__dso_handle __attribute__((visibility("hidden")));

enum timing_option { TIMING_AUTO, TIMING_OFF, TIMING_HOST, TIMING_EVENTS, TIMING_CUPTI };

void skew_time_lock(uint32_t *lock)
{
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

bool skew_time_try(uint32_t *lock)
{
    return !__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE);
}

void skew_time_unlock(uint32_t *lock)
{
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

void skew_untimed_add(enum skew_untimed reason, uint64_t launches)
{
    if (launches)
        __atomic_fetch_add(&skew_proc->head->time.untimed[reason], launches, __ATOMIC_RELAXED);
}

void *skew_time_map(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* ---- the tier ------------------------------------------------------------------------------ */

static void tell_tier(struct skew_process *proc, enum skew_tier tier, enum skew_tier_why why)
{
    struct skew_rec_tier rec = {
        .head = {.bytes = sizeof(rec), .type = SKEW_REC_TIER},
        .ns = skew_now(),
        .tier = tier,
        .why = why,
    };
    skew_lock(proc);
    skew_defs_put(proc, &rec.head, sizeof(rec), NULL, 0);
    skew_unlock(proc);
}

static bool one_connection(void)
{
    const char *value = secure_getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    return value && strcmp(value, "1") == 0;
}

static const char foreign_text[] =
    "another tool uses CUPTI in this process (torch.profiler, Nsight Systems, …): it keeps "
    "it, and times of exchanges are taken without CUPTI from here on";

/* Which way, and why. Asks nothing of the device. */
static enum skew_tier choose(const struct skew_process *proc, struct skew_time *time,
                             enum skew_tier_why *why)
{
    enum skew_tier_why no_cupti = SKEW_TIER_WHY_ASKED;
    int64_t asked = proc->option_int[SKEW_OPT_TIMING];
    *why = SKEW_TIER_WHY_ASKED;
    if (asked == TIMING_OFF || asked == TIMING_HOST)
        return SKEW_TIER_HOST;
    time->events_too = !one_connection() && skew_driver_bind(&time->driver);
    if (asked == TIMING_CUPTI && skew_cupti_start(time, &no_cupti) == 0)
        return SKEW_TIER_CUPTI;
    if (asked == TIMING_CUPTI)
        skew_diag_once(
            SKEW_DIAG_TIMING,
            no_cupti == SKEW_TIER_WHY_FOREIGN_CUPTI
                ? foreign_text
                : "CUPTI was asked for, but no usable libcupti.so of CUDA 11 to 13 could "
                  "be opened: CUDA events are used instead");
    if (one_connection()) {
        *why = SKEW_TIER_WHY_MAX_CONNECTIONS;
        skew_diag_once(SKEW_DIAG_TIMING, "CUDA_DEVICE_MAX_CONNECTIONS=1 is set, with which timed "
                                         "CUDA events take away overlap: only the "
                                         "host's times of exchanges are recorded "
                                         "(SKEWSCOPE_TIMING=cupti does not have that effect)");
        return SKEW_TIER_HOST;
    }
    if (!time->events_too) {
        *why = SKEW_TIER_WHY_NO_DRIVER;
        return SKEW_TIER_HOST;
    }
    *why = asked == TIMING_AUTO ? SKEW_TIER_WHY_AUTO : no_cupti;
    return SKEW_TIER_EVENTS;
}

static void process_ends(void *user);

static SKEW_COLD struct skew_time *decide(struct skew_process *proc)
{
    enum skew_tier_why why;
    skew_time_lock(&proc->time_lock);
    struct skew_time *time = __atomic_load_n(&proc->time, __ATOMIC_ACQUIRE);
    if (!time && (time = skew_time_map(sizeof(*time)))) {
        if (!__atomic_load_n(&skew_hot.ask_driver, __ATOMIC_ACQUIRE))
            skew_capture_bind(); /* the thread that makes the first communicator may be about to */
        time->tier = choose(proc, time, &why);
        time->every = (uint32_t)proc->option_int[SKEW_OPT_TIMING_EVERY];
        tell_tier(proc, (enum skew_tier)time->tier, why);
        /* Registered after the CUDA runtime was used: so it runs before the runtime's own. */
        if (time->tier != SKEW_TIER_HOST)
            __cxa_atexit(process_ends, time, __dso_handle);
        __atomic_store_n(&proc->time, time, __ATOMIC_RELEASE);
    }
    skew_time_unlock(&proc->time_lock);
    return time;
}

/* ---- threads ------------------------------------------------------------------------------- */

/** The thread's timer: one that an ended thread has left, or a new one. NULL: there is no memory.
 */
struct skew_timer *skew_timer_get(struct skew_time *time, struct skew_thread *t)
{
    if (skew_likely(t->timer != NULL))
        return t->timer;
    skew_time_lock(&time->lock);
    struct skew_timer *timer = time->timers;
    while (timer && timer->owned)
        timer = timer->next;
    if (!timer && (timer = skew_time_map(sizeof(*timer)))) {
        timer->next = time->timers;
        __atomic_store_n(&time->timers, timer, __ATOMIC_RELEASE);
    }
    if (timer)
        timer->owned = 1;
    skew_time_unlock(&time->lock);
    t->timer = timer;
    return timer;
}

/* What the group before has left: its communicator never became ready where we could see it. */
static void forget_open(struct skew_timer *timer)
{
    for (uint32_t i = 0; i < timer->opens; i++)
        if (timer->open[i].untimed < 0)
            skew_events_drop(&timer->open[i]);
    skew_untimed_add(SKEW_UNTIMED_NONBLOCKING, timer->awaiting);
    timer->opens = timer->awaiting = 0;
}

void skew_time_thread_end(struct skew_thread *t)
{
    struct skew_timer *timer = t->timer;
    struct skew_time *time = skew_proc ? skew_proc->time : NULL;
    t->timer = NULL;
    if (!timer || !time || __atomic_load_n(&time->exiting, __ATOMIC_ACQUIRE))
        return;
    int saved = errno;
    forget_open(timer);
    skew_events_harvest(time, timer, SKEW_TIME_FLIGHTS);
    timer->last_stream = NULL;
    skew_time_lock(&time->lock);
    timer->owned = 0;
    skew_time_unlock(&time->lock);
    errno = saved;
}

/* An exit handler: the driver still works. */
static void process_ends(void *user)
{
    struct skew_process *proc = skew_proc;
    struct skew_time *time = user;
    if (!proc || proc->time != time || __atomic_exchange_n(&time->exiting, 1, __ATOMIC_ACQ_REL))
        return; /* a forked child's exit, for example */
    if (time->cupti)
        skew_cupti_end(time->cupti);
    skew_events_end(time);
}

/* ---- around the launch --------------------------------------------------------------------- */

/* One in `every`, by the communicator's own ordinals: these agree between its ranks. */
static bool sampled_out(const struct skew_time *time, const struct skew_thread *t,
                        ncclComm_t handle)
{
    const struct skew_comm *comm = handle ? skew_comm_find(skew_proc, handle) : t->lane[0].comm;
    if (time->every <= 1 || !comm)
        return false;
    uint64_t ordinal = __atomic_load_n(&comm->exchange_seq, __ATOMIC_RELAXED) +
                       __atomic_load_n(&comm->op_seq, __ATOMIC_RELAXED);
    return ordinal % time->every != 0;
}

/* Why CUPTI cannot tell when a launch on this communicator occupied the device, so that events are
 * used: another thread launches it, which has no external id; or copy engines do it, and what they
 * wait for has no record. −1: it can. */
static int beyond_cupti(const struct skew_comm *comm)
{
    if (!comm)
        return -1;
    return comm->flags & SKEW_COMM_NONBLOCKING ? SKEW_UNTIMED_NONBLOCKING
           : skew_comm_may_copy(comm)          ? SKEW_UNTIMED_COPIES
                                               : -1;
}

static int beyond_cupti_any(const struct skew_thread *t, ncclComm_t handle)
{
    int why = handle ? beyond_cupti(skew_comm_find(skew_proc, handle)) : -1;
    for (uint32_t i = 0; !handle && why < 0 && i < t->lanes; i++)
        why = beyond_cupti(t->lane[i].comm);
    return why;
}

static uint32_t launches_of(const struct skew_thread *t, ncclComm_t handle)
{
    uint32_t count = 0;
    for (uint32_t i = 0; !handle && i < t->lanes; i++)
        count += skew_lane_first(t, i);
    return handle ? 1 : count;
}

static void before(struct skew_thread *t, ncclComm_t handle, cudaStream_t stream)
{
    struct skew_process *proc = skew_proc;
    struct skew_time *time = __atomic_load_n(&proc->time, __ATOMIC_ACQUIRE);
    if (!time && __atomic_load_n(&proc->head, __ATOMIC_ACQUIRE) &&
        __atomic_load_n(&proc->collector_tried, __ATOMIC_ACQUIRE))
        time = decide(proc);
    if (!time)
        return; /* not yet: the first record will make the spool */
    uint32_t tier = __atomic_load_n(&time->tier, __ATOMIC_ACQUIRE);
    if (tier == SKEW_TIER_HOST) {
        t->watch &= ~(uint32_t)SKEW_WATCH_TIME;
        return;
    }
    struct skew_timer *timer = skew_timer_get(time, t);
    if (!timer || __atomic_load_n(&time->exiting, __ATOMIC_RELAXED))
        return;
    forget_open(timer);
    timer->stored = t->groups - t->unstored;
    if (!handle && (!skew_record_is_open(t) || skew_record_is_empty(t) || t->loss))
        return;
    t->time_open = launches_of(t, handle);
    timer->sampled_out = sampled_out(time, t, handle);
    if (timer->sampled_out)
        return;
    /* What is captured has its times in the replays. */
    if (tier == SKEW_TIER_CUPTI && skew_stream_captured(handle ? stream : t->lane[0].stream)) {
        t->time_open = 0;
        return;
    }
    timer->why = tier == SKEW_TIER_CUPTI ? beyond_cupti_any(t, handle) : SKEW_UNTIMED_NO_RECORD;
    if (timer->why < 0) {
        skew_cupti_before(time->cupti, timer, t, handle);
    } else if (time->events_too) {
        skew_events_before(time, timer, t, handle, stream);
    }
}

/** Before the real call that launches: the outermost End of the open group (`handle` NULL), or a
 * call outside a group. Calls inside a group come here too, and pass. */
void skew_time_before(struct skew_thread *t, ncclComm_t handle, cudaStream_t stream)
{
    int saved = errno;
    uint64_t from = 0;
    t->time_open = 0;
    t->cost_ns = 0;
    if (t->depth != (handle ? 0 : 1))
        return;
    struct skew_timer *timer = t->timer;
    bool measure = t->watch & SKEW_WATCH_MEASURE;
    if (timer && !measure)
        measure = timer->measured-- == 0;
    if (measure && !handle && skew_record_is_open(t)) {
        from = skew_now();
        t->cost_setup = __atomic_load_n(&skew_proc->head->time.setup_ns, __ATOMIC_RELAXED);
    }
    if (t->watch & SKEW_WATCH_TIME)
        before(t, handle, stream);
    if (timer && measure)
        timer->measured = MEASURE_EVERY;
    if (from) {
        t->cost_rec = t->rec;
        t->cost_stored = t->groups - t->unstored;
        t->cost_ns = skew_now() - from + 1;
    }
    errno = saved;
}

/* What this group's end cost the host: before the real call, and since it returned; without what
 * was set up in it, which is counted as that. A thread's first group is all setting up: its pages,
 * its call sites and our code are cold, and a mean that is multiplied by all groups must not have
 * it. */
static void add_cost(struct skew_thread *t)
{
    struct skew_time_totals *totals = &skew_proc->head->time;
    if (t->groups - t->unstored != t->cost_stored + 1)
        return;
    uint64_t cost = t->cost_ns + skew_now() - t->cost_rec->return_ns;
    uint64_t setup = __atomic_load_n(&totals->setup_ns, __ATOMIC_RELAXED) - t->cost_setup;
    cost -= setup < cost ? setup : cost; /* other threads set up, too */
    if (cost > COST_MOST_NS) {
        t->watch &= ~(uint32_t)SKEW_WATCH_MEASURE;
        return;
    }
    if (t->cost_stored == 0) { /* the next one is measured */
        __atomic_fetch_add(&totals->setup_ns, cost, __ATOMIC_RELAXED);
        return;
    }
    t->watch &= ~(uint32_t)SKEW_WATCH_MEASURE;
    __atomic_fetch_add(&totals->cost_ns, cost, __ATOMIC_RELAXED);
    __atomic_fetch_add(&totals->cost_groups, 1, __ATOMIC_RELAXED);
}

static void after(struct skew_thread *t, ncclResult_t result)
{
    struct skew_time *time = skew_proc->time;
    struct skew_timer *timer = t->timer;
    bool stored = t->groups - t->unstored == timer->stored + 1;
    if (timer->pushed) {
        skew_cupti_after(time->cupti, timer, t, stored);
        return;
    }
    if (!stored) {
        for (uint32_t i = 0; i < timer->opens; i++) /* nothing was launched, or it was lost */
            skew_events_drop(&timer->open[i]);
        timer->opens = 0;
        return;
    }
    if (!timer->opens) {
        skew_untimed_add(timer->sampled_out ? SKEW_UNTIMED_SAMPLED_OUT
                         : timer->why < 0   ? SKEW_UNTIMED_NO_RECORD
                                            : (enum skew_untimed)timer->why,
                         t->time_open);
        return;
    }
    for (uint32_t i = 0; i < timer->opens; i++) {
        struct skew_flight *f = &timer->open[i];
        f->comm = t->lane[f->lane].comm->id;
        f->stream = t->stream;
        f->group = t->groups;
        if (result == ncclInProgress && f->untimed < 0)
            timer->awaiting++; /* another thread launches it: skew_time_launched() will tell */
        else
            skew_events_launched(time, timer, f);
    }
    if (!timer->awaiting)
        timer->opens = 0;
    if (timer->head - timer->tail >= HARVEST_FROM)
        skew_events_harvest(time, timer, HARVEST_MOST);
}

static void refresh_clock(struct skew_context *context)
{
    struct skew_time *time = skew_proc->time;
    uint64_t now = skew_now();
    if (!context || now < __atomic_load_n(&context->due_ns, __ATOMIC_RELAXED) || context->gone)
        return;
    int mode = skew_driver_enter(&time->driver);
    skew_clock_refresh(&time->driver, context, now);
    skew_driver_leave(&time->driver, mode);
}

/** Behind it, when the group has been recorded. */
void skew_time_after(struct skew_thread *t, ncclResult_t result)
{
    int saved = errno;
    if (t->time_open) {
        struct skew_context *context = t->timer->opens ? t->timer->open[0].context : NULL;
        after(t, result);
        refresh_clock(context);
    }
    t->time_open = 0;
    if (t->cost_ns && skew_proc->head)
        add_cost(t);
    t->cost_ns = 0;
    errno = saved;
}

/** A communicator says that it is ready. What it was given before is on its stream by now, and
 * nothing of the application's can stand behind that yet. */
void skew_time_launched(ncclComm_t handle)
{
    struct skew_timer *timer = skew_self->timer;
    struct skew_time *time = skew_proc ? skew_proc->time : NULL;
    if (!timer->awaiting || !time || __atomic_load_n(&time->exiting, __ATOMIC_RELAXED))
        return;
    int saved = errno;
    for (uint32_t i = 0; i < timer->opens; i++) {
        struct skew_flight *f = &timer->open[i];
        if (f->handle != handle || f->untimed >= 0 || !f->comm)
            continue;
        skew_events_launched(time, timer, f);
        f->handle = NULL;
        f->starts = 0;
        f->end = NULL;
        timer->awaiting--;
    }
    if (!timer->awaiting)
        timer->opens = 0;
    errno = saved;
}

/* ---- graphs, and other tools --------------------------------------------------------------- */

/** Around the launch of an executable graph, whose kernels CUPTI will tell of. */
void skew_time_graph_before(struct skew_thread *t, uint64_t call_ns, void *exec)
{
    struct skew_time *time = __atomic_load_n(&skew_proc->time, __ATOMIC_ACQUIRE);
    if (!time || __atomic_load_n(&time->tier, __ATOMIC_ACQUIRE) != SKEW_TIER_CUPTI)
        return;
    int saved = errno;
    struct skew_timer *timer = skew_timer_get(time, t);
    if (timer && !timer->pushed && !__atomic_load_n(&time->exiting, __ATOMIC_RELAXED))
        skew_cupti_graph_before(time->cupti, timer, call_ns, exec);
    errno = saved;
}

void skew_time_graph_after(struct skew_thread *t, bool launched)
{
    int saved = errno;
    if (t->timer && t->timer->pushed)
        skew_cupti_graph_after(skew_proc->time->cupti, t->timer, launched);
    errno = saved;
}

/** Another tool is about to use CUPTI, which serves one at a time: it gets it. */
void skew_time_hand_over(void)
{
    struct skew_process *proc = skew_proc;
    struct skew_time *time = proc ? __atomic_load_n(&proc->time, __ATOMIC_ACQUIRE) : NULL;
    int saved = errno;
    if (time && time->cupti && skew_cupti_hand_over(time)) {
        enum skew_tier tier = time->events_too ? SKEW_TIER_EVENTS : SKEW_TIER_HOST;
        __atomic_store_n(&time->tier, tier, __ATOMIC_RELEASE);
        tell_tier(proc, tier, SKEW_TIER_WHY_HANDED_OVER);
        skew_diag_once(SKEW_DIAG_TIMING, foreign_text);
    }
    errno = saved;
}
