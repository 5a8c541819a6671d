/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device's clock against CLOCK_MONOTONIC. An anchor is an event on a stream of our own: the
 * device passed it after the host had recorded it and before the host saw that it was over. Of some
 * tries the tightest counts; what anchors before it allow narrows it further; and from many the
 * drift follows.
 *
 * Asking whether an anchor is over is bounded (TRY_NS, four times a second at most, once things
 * have settled) and happens on the application's thread, outside of captures. Nothing waits.
 */
#include "timing.h"

#define TRIES   4u
#define TRY_NS  25000u
#define GOOD_NS 4000u
#define FIRST_NS                                                                                   \
    2000000ull /* until the second anchor; each interval is four times the one before … */
#define INTERVAL_NS 1000000000ull /* … up to this */
#define UNKNOWN_RATE                                                                               \
    200e-6 /* two clocks of computers differ by less (crystals: 100 ppm at most, each) */
#define MOST_RATE                                                                                  \
    700e-6 /* the host's may be slewed by 500 ppm besides; beyond it one of them has jumped */
#define EVENT_QUANTUM 500.0 /* resolution of cuEventElapsedTime, ns (CUDA driver API) */
#define FLOAT_ERROR   6e-8  /* it returns a float */

static double middle(const struct skew_anchor *a)
{
    return (a->low + a->high) / 2;
}

static double half(const struct skew_anchor *a)
{
    return (a->high - a->low) / 2;
}

static double at_least(double a, double b)
{
    return a > b ? a : b;
}

static double magnitude(double a)
{
    return a < 0 ? -a : a;
}

/** Where `device_ns` (since the first anchor) was on CLOCK_MONOTONIC, and how far that can be off.
 * @return false: there is no anchor yet. Hold the clock's lock. */
bool skew_clock_convert(const struct skew_clock *clock, double device_ns, double *host_ns,
                        double *error_ns)
{
    double gone = device_ns - clock->best.device_ns;
    if (!clock->anchors)
        return false;
    *host_ns = (double)clock->origin_ns + middle(&clock->best) + gone + gone * clock->rate;
    *error_ns = half(&clock->best) + magnitude(gone) * clock->rate_error + clock->lag;
    return true;
}

/* The drift, from the oldest anchor that is kept to the newest. @return false: one of the clocks
 * has jumped. */
static bool follow_rate(struct skew_clock *clock, uint32_t count)
{
    const struct skew_anchor *to = &clock->raw[(clock->anchors - 1) % SKEW_CLOCK_ANCHORS];
    const struct skew_anchor *from = &clock->raw[(clock->anchors - count) % SKEW_CLOCK_ANCHORS];
    double device = to->device_ns - from->device_ns;
    if (device <= 0)
        return false;
    double rate = (middle(to) - middle(from) - device) / device;
    double error = (half(to) + half(from) + EVENT_QUANTUM * count) / device;
    if (magnitude(rate) > MOST_RATE + error)
        return false;
    if (error < clock->rate_error || count == SKEW_CLOCK_ANCHORS) {
        clock->rate = rate;
        clock->rate_error = error;
    }
    return true;
}

static void start_over(struct skew_clock *clock, const struct skew_anchor *anchor)
{
    clock->anchors = 1;
    clock->raw[0] = clock->best = *anchor;
    clock->rate = 0;
    clock->rate_error = UNKNOWN_RATE;
}

/** Adds an anchor; hold the clock's lock. Where it contradicts what the earlier ones allow, one of
 * the clocks has jumped. A device that is ahead (the host's clock stops while a machine sleeps) is
 * followed from the new anchor on. One that lags is a simulated one, whose time goes on with its
 * work alone: the first anchor stays, and errors grow by what the others contradict it.
 * @return whether device_ns is the newest anchor now */
bool skew_clock_anchor(struct skew_clock *clock, double device_ns, uint64_t low_ns,
                       uint64_t high_ns)
{
    double host = 0, error = 0;
    if (!clock->anchors)
        clock->origin_ns = low_ns;
    struct skew_anchor new = {
        .device_ns = device_ns,
        .low = (double)(int64_t)(low_ns - clock->origin_ns),
        .high = (double)(int64_t)(high_ns - clock->origin_ns),
    };
    struct skew_rec_clock rec = {
        .head = {.bytes = sizeof(rec), .type = SKEW_REC_CLOCK},
        .clock = clock->number,
        .source = clock->source,
        .device_ns = device_ns > 0 ? (uint64_t)device_ns : 0,
        .low_ns = low_ns,
        .high_ns = high_ns,
    };
    skew_put(skew_self, &rec.head);
    if (!skew_clock_convert(clock, device_ns, &host, &error)) {
        start_over(clock, &new);
        return true;
    }
    host -= (double)clock->origin_ns;
    error += EVENT_QUANTUM + FLOAT_ERROR * magnitude(device_ns - clock->best.device_ns);
    if (new.low > host + error) {
        clock->lag = at_least(clock->lag, new.low - host);
        return false;
    }
    clock->raw[clock->anchors++ % SKEW_CLOCK_ANCHORS] = new;
    clock->best = new;
    clock->best.low = at_least(new.low, host - error);
    clock->best.high = -at_least(-new.high, -(host + error));
    uint32_t count = clock->anchors < SKEW_CLOCK_ANCHORS ? clock->anchors : SKEW_CLOCK_ANCHORS;
    if (clock->best.low > clock->best.high || !follow_rate(clock, count))
        start_over(clock, &new);
    return true;
}

/* `event` is over, between the two times: it becomes the anchor, and the one before is free. */
static void accept(const struct skew_driver *driver, struct skew_context *c, uint32_t which,
                   uint64_t low, uint64_t high)
{
    float ms = 0;
    if (c->anchor && driver->event_elapsed(&ms, c->anchor, c->try_event[which]) != 0)
        return;
    void *before = c->anchor;
    if (!skew_clock_anchor(&c->clock, c->clock.best.device_ns + (double)ms * 1e6, low, high))
        return;
    c->anchor = c->try_event[which];
    c->try_event[which] = before;
    if (!before && driver->event_create(&c->try_event[which], 0) != 0)
        c->try_event[which] = NULL;
}

/* Two events in a row, looked at the next time: the device time of one, at most. */
static void measure_pair(const struct skew_driver *driver, struct skew_context *c)
{
    struct skew_time_totals *totals = &skew_proc->head->time;
    float ms;
    if (c->pair_pending && driver->event_query(c->pair[1]) == 0 &&
        driver->event_elapsed(&ms, c->pair[0], c->pair[1]) == 0) {
        uint64_t ns = ms > 1e-6f ? (uint64_t)(ms * 1e6f) : 1;
        if (!totals->event_ns || ns < totals->event_ns)
            __atomic_store_n(&totals->event_ns, ns, __ATOMIC_RELAXED);
    }
    c->pair_pending = c->pair[0] && c->pair[1] &&
                      driver->event_record(c->pair[0], c->stream) == 0 &&
                      driver->event_record(c->pair[1], c->stream) == 0;
}

/* Records an event and asks for a while whether it is over. @return the width of the bracket;
 * UINT64_MAX: it is not over yet. */
static uint64_t try_once(const struct skew_driver *driver, struct skew_context *c, uint32_t which,
                         uint64_t *low, uint64_t *high)
{
    *low = *high = skew_now();
    if (!c->try_event[which] || driver->event_record(c->try_event[which], c->stream) != 0)
        return UINT64_MAX;
    do {
        int result = driver->event_query(c->try_event[which]);
        *high = skew_now();
        if (result == 0)
            return *high - *low;
        if (result != CU_NOT_READY)
            return UINT64_MAX;
    } while (*high - *low < TRY_NS);
    return UINT64_MAX;
}

/* An anchor that took its time is better than none. */
static void look_again(const struct skew_driver *driver, struct skew_context *c)
{
    if (driver->event_query(c->try_event[0]) == CU_NOT_READY)
        return;
    c->waiting = 0;
    accept(driver, c, 0, c->waiting_ns, skew_now());
}

/** Makes a new anchor when it is time for one. Between skew_driver_enter() and leave; any thread.
 */
void skew_clock_refresh(const struct skew_driver *driver, struct skew_context *c, uint64_t now)
{
    uint64_t low[TRIES], high[TRIES], width[TRIES];
    uint32_t best = 0, tries = 0;
    if (now < __atomic_load_n(&c->due_ns, __ATOMIC_RELAXED) || !c->stream ||
        !skew_time_try(&c->clock.lock))
        return;
    c->interval_ns = !c->interval_ns                    ? FIRST_NS
                     : c->interval_ns < INTERVAL_NS / 4 ? 4 * c->interval_ns
                                                        : INTERVAL_NS;
    __atomic_store_n(&c->due_ns, now + c->interval_ns, __ATOMIC_RELAXED);
    if (c->waiting) {
        look_again(driver, c);
    } else {
        for (; tries < TRIES; tries++) {
            width[tries] = try_once(driver, c, tries, &low[tries], &high[tries]);
            best = width[tries] < width[best] ? tries : best;
            if (width[tries] < GOOD_NS || width[tries] == UINT64_MAX)
                break;
        }
        if (width[best] != UINT64_MAX)
            accept(driver, c, best, low[best], high[best]);
        else if (!c->clock.anchors && c->try_event[0]) {
            c->waiting = 1;
            c->waiting_ns = low[0];
        }
        measure_pair(driver, c);
    }
    if (c->waiting)
        __atomic_store_n(&c->due_ns, 0, __ATOMIC_RELAXED);
    skew_time_unlock(&c->clock.lock);
}
