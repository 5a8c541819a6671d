/* SPDX-License-Identifier: Apache-2.0 */
/* The part of `skewscope info` about time: how much was timed, by what, why not the rest, and what
 * it cost. */
#include "info_timing.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "rows.h"
#include "spool.h"
#include "term.h"

const char skew_info_timing_sql[] =
    "SELECT (SELECT CAST(total(launches) AS INTEGER) FROM time_coverage) AS launches,"
    " (SELECT CAST(total(timed) AS INTEGER) FROM time_coverage) AS timed,"
    " (SELECT CAST(total(events) AS INTEGER) FROM time_coverage) AS events,"
    " (SELECT CAST(total(cupti) AS INTEGER) FROM time_coverage) AS cupti,"
    " (SELECT CAST(avg(error_ns) AS INTEGER) FROM device_time) AS mean_error_ns,"
    " (SELECT count(*) FROM device_time WHERE start_slack_ns > 0 OR end_slack_ns > 0) AS "
    "with_slack";

const char skew_info_tiers_sql[] =
    "SELECT tier, why, count(DISTINCT process_id) AS processes FROM timing GROUP BY tier, why "
    "ORDER BY min(ns)";

const char skew_info_untimed_sql[] =
    "SELECT reason, sum(launches) AS launches FROM untimed GROUP BY reason ORDER BY 2 DESC, 1";

const char skew_info_backends_sql[] =
    "SELECT backend, does, sum(kernels) AS kernels, sum(duration_ns) AS duration_ns,"
    " count(DISTINCT process_id) AS processes FROM backend_time GROUP BY backend, does"
    " ORDER BY backend, does";

const char skew_info_backend_calls_sql[] =
    "SELECT backend, does, function, sum(calls) AS calls, sum(rows) AS recorded,"
    " min(first_ns) AS first_ns, max(last_ns) AS last_ns, count(*) AS processes"
    " FROM backend_call_total GROUP BY backend, does, function"
    " ORDER BY backend, does NOT IN ('dispatch', 'combine'), does, function";

static const char *why_text(const char *why)
{
#define X(id, name, text)                                                                          \
    if (strcmp(why, name) == 0)                                                                    \
        return text;
    SKEW_TIER_WHY_LIST(X)
#undef X
    return why;
}

static const char *untimed_text(const char *reason)
{
#define X(id, name, text)                                                                          \
    if (strcmp(reason, name) == 0)                                                                 \
        return text;
    SKEW_UNTIMED_LIST(X)
#undef X
    return "";
}

static void print_untimed(const json_t *info, int64_t rest)
{
    char count[SKEW_COUNT_TEXT];
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(info, "untimed"), i, row)
    {
        printf("  untimed %s: %s, %s\n",
               skew_count_text(count, (uint64_t)skew_row_int(row, "launches")),
               skew_row_text(row, "reason"), untimed_text(skew_row_text(row, "reason")));
        rest -= skew_row_int(row, "launches");
    }
    if (rest > 0)
        printf("  untimed %s: by the host's clock only, or the process was killed before it was "
               "asked about them\n",
               skew_count_text(count, (uint64_t)rest));
}

void skew_info_timing_print(const json_t *info)
{
    const json_t *all = json_array_get(json_object_get(info, "timing"), 0);
    char a[SKEW_COUNT_TEXT], b[SKEW_COUNT_TEXT];
    int64_t launches = skew_row_int(all, "launches"), timed = skew_row_int(all, "timed");
    size_t i;
    json_t *row;
    if (launches == 0)
        return;
    printf("timed %s of %s launches on the device", skew_count_text(a, (uint64_t)timed),
           skew_count_text(b, (uint64_t)launches));
    if (skew_row_int(all, "events"))
        printf(", %s by CUDA events", skew_count_text(a, (uint64_t)skew_row_int(all, "events")));
    if (skew_row_int(all, "cupti"))
        printf(", %s by CUPTI", skew_count_text(a, (uint64_t)skew_row_int(all, "cupti")));
    if (timed)
        printf("; ± %.1f µs on the host's clock", (double)skew_row_int(all, "mean_error_ns") / 1e3);
    putchar('\n');
    json_array_foreach(json_object_get(info, "tiers"), i, row)
        printf("  tier %s in %" PRId64 " process%s: %s\n", skew_row_text(row, "tier"),
               skew_row_int(row, "processes"), skew_row_int(row, "processes") == 1 ? "" : "es",
               why_text(skew_row_text(row, "why")));
    print_untimed(info, launches - timed);
}

/* A line a backend: how often it was called, and for what. */
static void print_backend_calls(const json_t *calls)
{
    char count[SKEW_COUNT_TEXT];
    for (size_t i = 0, next; i < json_array_size(calls); i = next) {
        const char *backend = skew_row_text(json_array_get(calls, i), "backend");
        int64_t total = 0, lost = 0;
        for (next = i; next < json_array_size(calls); next++) {
            const json_t *row = json_array_get(calls, next);
            if (strcmp(skew_row_text(row, "backend"), backend) != 0)
                break;
            total += skew_row_int(row, "calls");
            lost += skew_row_int(row, "calls") - skew_row_int(row, "recorded");
        }
        printf("%s was called %s times (bytes not observable):", backend,
               skew_count_text(count, (uint64_t)total));
        for (size_t k = i; k < next; k++) {
            const json_t *row = json_array_get(calls, k);
            printf("%s %s %s", k > i ? "," : "",
                   skew_count_text(count, (uint64_t)skew_row_int(row, "calls")),
                   skew_row_text(row, "function"));
        }
        if (lost)
            printf("; %s of them without a row of their own",
                   skew_count_text(count, (uint64_t)lost));
        putchar('\n');
    }
}

void skew_info_backends_print(const json_t *info)
{
    const char *before = "";
    char count[SKEW_COUNT_TEXT];
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(info, "device_backends"), i, row)
    {
        const char *backend = skew_row_text(row, "backend");
        if (strcmp(backend, before) != 0)
            printf("%s%s moved tokens from inside its kernels (bytes not observable):",
                   i ? "\n" : "", backend);
        printf("%s %s %s in %.3f ms", strcmp(backend, before) != 0 ? "" : ",",
               skew_count_text(count, (uint64_t)skew_row_int(row, "kernels")),
               skew_row_text(row, "does"), (double)skew_row_int(row, "duration_ns") / 1e6);
        before = backend;
    }
    if (*before)
        puts("; see skewscope overlap");
    print_backend_calls(json_object_get(info, "backend_calls"));
}
