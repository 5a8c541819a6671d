/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device clock. The engine keeps one time line: CLOCK_MONOTONIC under `real` and `paced`, model
 * time from SI_VIRTUAL_EPOCH under `virtual`. What a device's own clock shows is that line, shifted
 * and stretched by SKEWSCOPE_STANDIN_CLOCK_OFFSET_NS and _DRIFT_PPB; only event differences and
 * CUPTI see it. Called from any thread.
 */
#include <time.h>

#include "call.h"

/* Not 0, which CUPTI uses for "unknown"; the same in every process, so that ranks can be compared.
 */
#define SI_VIRTUAL_EPOCH INT64_C(1000000000)

/* Where on the time line the drift is still nothing: the beginning. Written once, by cuInit. */
static int64_t drift_from;

static _Atomic(uint64_t) latest = SI_VIRTUAL_EPOCH;

uint64_t si_clock_monotonic(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void si_clock_sleep_until(uint64_t monotonic_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(monotonic_ns / 1000000000u),
                          .tv_nsec = (long)(monotonic_ns % 1000000000u)};
    if (monotonic_ns <= si_clock_monotonic())
        return;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) != 0)
        ;
}

void si_clock_begin(void)
{
    drift_from =
        si_options.clock == SI_CLOCK_VIRTUAL ? SI_VIRTUAL_EPOCH : (int64_t)si_clock_monotonic();
}

uint64_t si_clock_device(uint64_t engine_ns)
{
    __int128 gone = (__int128)(int64_t)engine_ns - drift_from;
    int64_t gained = (int64_t)(gone * si_options.drift_ppb / 1000000000);
    return engine_ns + (uint64_t)gained + (uint64_t)si_options.offset_ns;
}

void si_clock_saw(uint64_t engine_ns)
{
    uint64_t seen = atomic_load_explicit(&latest, memory_order_relaxed);
    while (seen < engine_ns && !atomic_compare_exchange_weak(&latest, &seen, engine_ns))
        ;
}

uint64_t si_clock_host(void)
{
    if (si_options.clock != SI_CLOCK_VIRTUAL)
        return si_clock_monotonic();
    return si_thread.host_ns > SI_VIRTUAL_EPOCH ? si_thread.host_ns : (uint64_t)SI_VIRTUAL_EPOCH;
}

uint64_t si_clock_latest(void)
{
    if (si_options.clock != SI_CLOCK_VIRTUAL)
        return si_clock_monotonic();
    uint64_t seen = atomic_load(&latest);
    return si_thread.host_ns > seen ? si_thread.host_ns : seen;
}

SI_EXPORT int standin_clock_mode(void)
{
    return (int)si_options.clock;
}

SI_EXPORT uint64_t standin_clock_now(int device)
{
    (void)device;
    return si_clock_device(si_clock_latest());
}
