/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timestamps of records. CUPTI gives CLOCK_REALTIME unless the application registered a clock of
 * its own; the engine's time line is CLOCK_MONOTONIC, so a difference is taken once. Under the
 * virtual clock, records and cuptiGetTimestamp show virtual time as it is.
 */
#include <time.h>

#include "cupti/cupti.h"
#include "cupti/api.h"

static _Atomic(CUpti_TimestampCallbackFunc) own_clock;
static _Atomic(int64_t) shift; /* from CLOCK_MONOTONIC to what is shown */
static pthread_once_t shift_once = PTHREAD_ONCE_INIT;

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Of some tries, the one whose two readings of CLOCK_MONOTONIC lie closest together. */
static int64_t measure(CUpti_TimestampCallbackFunc clock)
{
    int64_t best = INT64_MAX, difference = 0;
    for (int i = 0; i < 16; i++) {
        int64_t before = read_clock(CLOCK_MONOTONIC);
        int64_t shown = clock != NULL ? (int64_t)clock() : read_clock(CLOCK_REALTIME);
        int64_t after = read_clock(CLOCK_MONOTONIC);
        if (after - before < best) {
            best = after - before;
            difference = shown - (before + after) / 2;
        }
    }
    return difference;
}

static void measure_realtime(void)
{
    if (atomic_load(&own_clock) == NULL)
        atomic_store(&shift, measure(NULL));
}

uint64_t ct_clock_record(uint64_t device_ns)
{
    if (ct_driver.clock_mode() == 1)
        return device_ns;
    pthread_once(&shift_once, measure_realtime);
    return device_ns + (uint64_t)atomic_load_explicit(&shift, memory_order_relaxed);
}

uint64_t ct_clock_now(void)
{
    return ct_clock_record(ct_driver.clock_now(0));
}

CUptiResult cuptiActivityRegisterTimestampCallback(CUpti_TimestampCallbackFunc funcTimestamp)
{
    CUptiResult err = ct_load();
    if (err != CUPTI_SUCCESS)
        return err;
    if (funcTimestamp == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    atomic_store(&own_clock, funcTimestamp);
    atomic_store(&shift, measure(funcTimestamp));
    return CUPTI_SUCCESS;
}

CUptiResult cuptiGetTimestamp(uint64_t *timestamp)
{
    if (timestamp == NULL)
        return CUPTI_ERROR_INVALID_PARAMETER;
    if (ct_load() == CUPTI_SUCCESS)
        *timestamp = ct_clock_now();
    else
        *timestamp = (uint64_t)read_clock(CLOCK_REALTIME); /* works without a driver, too */
    return CUPTI_SUCCESS;
}
