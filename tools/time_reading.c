/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Time analyses over all databases of a trace: rows, clocks and routing are handed to
 * analysis/time_analysis.h.
 */
#include "time_reading.h"
#include "analysis_output.h"
#include "clock.h"
#include "match.h"
#include "rows.h"
#include "term.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- reading --------------------------------------------------------------------------------- */

struct all_traces {
    const struct skew_reading *reading;
    const char *comm_key;
    struct skew_error *error;
};

static int each_routing(void *context, skew_time_routing_fn *take, void *taker)
{
    const struct all_traces *all = context;
    int result = 0;

    for (size_t i = 0; i < all->reading->count && result == 0; i++)
        result =
            skew_time_routing_each(all->reading->traces[i], all->comm_key, take, taker, all->error);
    return result;
}

/* Whether clocks of several databases were related before, and saved. */
static bool has_clocks(const struct skew_reading *reading)
{
    struct skew_error error;
    bool all = true;
    for (size_t i = 0; i < reading->count && all; i++) {
        json_t *rows = skew_rows(reading->traces[i],
                                 "SELECT 1 FROM process LEFT JOIN clock_fit f USING (process_id)"
                                 " WHERE f.process_id IS NULL LIMIT 1",
                                 &error);
        all = rows && json_array_size(rows) == 0;
        json_decref(rows);
    }
    return all;
}

/* Relates the clocks of several databases, where no `skewscope clocks --save` has. */
static int relate_clocks(struct skew_times *times, const struct skew_reading *reading,
                         const char *comm_key, struct skew_error *error)
{
    struct skew_clocks *clocks = NULL;
    int result = 0;

    if (reading->count < 2 || has_clocks(reading))
        return 0;
    result = skew_clocks_fit(reading->traces, reading->count, NULL, &clocks, error);
    for (uint32_t t = 0; t < reading->count && result == 0; t++) {
        const struct skew_member *members;
        size_t count;
        result = skew_trace_members(reading->traces[t], &members, &count, error);
        for (size_t i = 0; i < count && result == 0; i++) {
            const struct skew_clock *k = skew_clocks_of(clocks, t, members[i].process);
            if (k && skew_clock_tied(k) && members[i].rank >= 0 &&
                strcmp(members[i].comm->key, comm_key) == 0)
                skew_times_clock_fit(times, (uint32_t)members[i].rank, k->at_ns, k->offset_ns,
                                     (double)k->drift_ppb, k->residual_ns);
        }
    }
    skew_clocks_free(&clocks);
    return result;
}

int skew_time_of_reading(struct skew_time_result *out, const struct skew_reading *reading,
                         const char *comm_key, uint32_t ranks,
                         const struct skew_label_options *options, bool with_routing,
                         struct skew_error *error)
{
    struct skew_labelling labelling;
    struct skew_times *times = NULL;
    struct skew_matches *matches = NULL;
    struct all_traces all = {reading, comm_key, error};
    struct skew_time_router router = {each_routing, &all};

    int result = skew_labelling_if_needed(&labelling, reading, options);
    if (result < 0)
        return result;
    *error = (struct skew_error){"out of memory"};
    result = skew_times_create(&times, ranks);
    if (result == 0)
        result = skew_matches_find(reading->traces, reading->count, &matches, error);
    for (uint32_t i = 0; i < reading->count && result == 0; i++)
        result = skew_times_read(times, reading->traces[i], matches, i, comm_key, error);
    skew_matches_free(&matches);
    skew_labelling_close(&labelling, reading);
    if (result == 0)
        result = relate_clocks(times, reading, comm_key, error);
    if (result == 0)
        result = skew_times_analyse(
            times,
            with_routing && skew_reading_any(reading, "SELECT 1 FROM routing LIMIT 1") ? &router
                                                                                       : NULL,
            out);
    skew_times_free(&times);
    if (result == -ENODATA)
        snprintf(error->text, sizeof error->text, "there are no exchanges in this trace");
    return result;
}
