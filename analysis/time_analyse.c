/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Time analyses in their order, and what can be said without times on the device: who enqueues
 * last, of ranks whose clocks are one.
 */
#include "time_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The host's times tell the order of arrival at best: the device may be far behind. */
static int look_at_host(struct skew_time_work *w)
{
    const struct skew_times *t = w->times;
    struct skew_time_result *out = w->result;
    double *lag = malloc(((size_t)t->ranks * t->count + 1) * sizeof *lag);
    double *scratch = malloc((t->ranks + 1) * sizeof *scratch);

    out->host_last = calloc(t->ranks, sizeof *out->host_last);
    out->host_lag_ns = calloc(t->ranks, sizeof *out->host_lag_ns);
    if (!lag || !scratch || !out->host_last || !out->host_lag_ns) {
        free(lag);
        free(scratch);
        return -ENOMEM;
    }
    for (size_t s = 0; s < t->count; s++) {
        const int64_t *host = t->host + s * t->ranks;
        uint32_t last = 0, first = UINT32_MAX;
        if (!skew_time_whole(t, s, false) || !skew_time_of_tokens(t->slots[s].role) ||
            t->slots[s].occurrence)
            continue;
        for (uint32_t r = 0; r < t->ranks; r++) {
            if (host[r] == SKEW_TIME_ABSENT)
                continue;
            first = first == UINT32_MAX ? r : first;
            if (host[last] == SKEW_TIME_ABSENT || host[r] > host[last])
                last = r;
        }
        size_t count = 0;
        for (uint32_t r = first; r < t->ranks; r++)
            if (host[r] != SKEW_TIME_ABSENT)
                scratch[count++] = (double)(host[r] - host[first]);
        double median = skew_time_median(scratch, count);
        for (uint32_t r = 0; r < t->ranks; r++)
            lag[(size_t)r * t->count + out->host_exchanges] =
                host[r] == SKEW_TIME_ABSENT ? NAN : (double)(host[r] - host[first]) - median;
        out->host_last[last]++;
        out->host_exchanges++;
    }
    for (uint32_t r = 0; r < t->ranks && out->host_exchanges; r++) {
        double *of_rank = lag + (size_t)r * t->count;
        size_t count = 0;
        for (size_t i = 0; i < out->host_exchanges; i++)
            if (!isnan(of_rank[i]))
                of_rank[count++] = of_rank[i];
        out->host_last[r] /= (double)out->host_exchanges;
        out->host_lag_ns[r] = skew_time_median(of_rank, count);
    }
    free(lag);
    free(scratch);
    return 0;
}

int skew_times_analyse(struct skew_times *times, const struct skew_time_router *router,
                       struct skew_time_result *out)
{
    struct skew_time_work w = {.times = times, .result = out};
    int result;

    *out = (struct skew_time_result){.ranks = times->ranks};
    if (times->count == 0)
        return -ENODATA;
    result = skew_time_derive(&w);
    if (!result)
        result = skew_time_fits(&w);
    if (!result)
        result = skew_time_late(&w);
    if (!result)
        result = skew_time_ledger(&w);
    if (!result)
        result = skew_time_headline(&w, router);
    if (!result && out->timed_rows == 0 && out->clocks == SKEW_TIME_ONE_CLOCK)
        result = look_at_host(&w);
    free(w.slot);
    free(w.arrival);
    free(w.gap);
    free(w.gap_load);
    free(w.residual);
    free(w.late);
    if (result)
        skew_time_result_free(out);
    return result;
}

void skew_time_result_free(struct skew_time_result *out)
{
    free(out->exchanges);
    free(out->steps);
    free(out->stragglers);
    free(out->events);
    free(out->host_last);
    free(out->host_lag_ns);
    *out = (struct skew_time_result){0};
}
