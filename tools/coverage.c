/* SPDX-License-Identifier: Apache-2.0 */
/* How much was captured, and what that has cost: see coverage.h. */
#include "coverage.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>

#include "rows.h"
#include "term.h"

const char skew_own_cost_sql[] =
    "SELECT sum(measured_groups) AS measured_groups, sum(measured_ns) AS measured_ns,"
    " CAST(round(1.0 * sum(measured_ns) / nullif(sum(measured_groups), 0)) AS INTEGER) AS group_ns,"
    " sum(setup_ns) AS setup_ns, sum(events) AS events, max(event_ns) AS event_ns,"
    " sum(cupti_records) AS cupti_records, sum(cupti_dropped) AS cupti_dropped,"
    " max(1.0 * measured_ns / nullif(measured_groups, 0) * p.returned_groups /"
    " nullif(p.ended_ns - p.started_ns, 0)) AS share_of_wall"
    " FROM overhead JOIN process p USING (process_id)";

static const char groups_sql[] =
    "SELECT sum(returned_groups) AS returned, sum(stored_groups) AS stored,"
    " (SELECT sum(groups) FROM loss) AS lost FROM process";

/* What a trace may hold: it comes from anybody. */
static uint64_t number(const json_t *row, const char *key)
{
    int64_t value = skew_row_int(row, key);
    return value > 0 ? (uint64_t)value : 0;
}

static void add_cost(struct skew_coverage *c, const json_t *row)
{
    double share = json_number_value(json_object_get(row, "share_of_wall"));

    c->measured_groups += number(row, "measured_groups");
    c->measured_ns += number(row, "measured_ns");
    c->setup_ns += number(row, "setup_ns");
    c->events += number(row, "events");
    c->cupti_records += number(row, "cupti_records");
    c->cupti_dropped += number(row, "cupti_dropped");
    if (!skew_row_null(row, "event_ns")) {
        c->event_ns = number(row, "event_ns") > c->event_ns ? number(row, "event_ns") : c->event_ns;
        c->event_known = true;
    }
    if (!skew_row_null(row, "share_of_wall") && share > c->share_of_wall)
        c->share_of_wall = share;
}

int skew_coverage_read(struct skew_coverage *c, const struct skew_reading *reading)
{
    struct skew_error error;

    if (c->measured_groups == 0)
        c->share_of_wall = -1;
    for (size_t t = 0; t < reading->count; t++) {
        json_t *rows = skew_rows(reading->traces[t], groups_sql, &error);
        const json_t *row = json_array_get(rows, 0);
        if (!row) {
            skew_tell("%s", error.text);
            json_decref(rows);
            return -EBADMSG;
        }
        c->returned += number(row, "returned");
        c->stored += number(row, "stored");
        c->lost += number(row, "lost");
        json_decref(rows);
        /* A trace of before that table existed lacks it: not measured. */
        rows = skew_rows(reading->traces[t], skew_own_cost_sql, &error);
        if (rows)
            add_cost(c, json_array_get(rows, 0));
        json_decref(rows);
    }
    return 0;
}

static double group_ns(const struct skew_coverage *c)
{
    return (double)c->measured_ns / (double)c->measured_groups;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

json_t *skew_json_coverage(const struct skew_coverage *c)
{
    return json_pack("{s:I, s:I, s:I}", "captured", (json_int_t)c->stored, "of",
                     (json_int_t)c->returned, "lost", (json_int_t)c->lost);
}

json_t *skew_json_own_cost(const struct skew_coverage *c)
{
    bool measured = c->measured_groups > 0;

    return json_pack(
        "{s:b, s:I, s:o, s:o, s:I, s:I, s:o, s:I, s:I}", "measured", measured, "measured_groups",
        (json_int_t)c->measured_groups, "host_ns_per_group",
        measured ? json_real(group_ns(c)) : json_null(), "share_of_wall",
        measured && c->share_of_wall >= 0 ? json_real(c->share_of_wall) : json_null(), "setup_ns",
        (json_int_t)c->setup_ns, "device_events", (json_int_t)c->events, "device_ns_per_pair",
        c->event_known ? json_integer((json_int_t)(2 * c->event_ns)) : json_null(), "cupti_records",
        (json_int_t)c->cupti_records, "cupti_dropped", (json_int_t)c->cupti_dropped);
}

json_t *skew_json_with_coverage(json_t *root, const struct skew_coverage *c)
{
    if (root) {
        json_object_set_new(root, "groups", skew_json_coverage(c));
        json_object_set_new(root, "own_cost", skew_json_own_cost(c));
    }
    return root;
}

/* ---- text ------------------------------------------------------------------------------------ */

void skew_own_cost_print(const struct skew_coverage *c)
{
    char count[SKEW_COUNT_TEXT];

    printf("own cost: ");
    if (c->measured_groups == 0)
        printf("not measured");
    else
        printf("%.0f ns of the host an exchange, at the end of its group (%s measured)",
               group_ns(c), skew_count_text(count, c->measured_groups));
    if (c->measured_groups && c->share_of_wall >= 0)
        printf(", %.4f %% of wall time", 100 * c->share_of_wall);
    else if (c->measured_groups)
        printf(", share of wall time not known");
    if (c->setup_ns)
        printf("; %.1f ms once", (double)c->setup_ns / 1e6);
    if (c->events)
        printf("; %s CUDA events", skew_count_text(count, c->events));
    if (c->events && c->event_known)
        printf(", at most %" PRIu64 " ns of the device a pair", 2 * c->event_ns);
    if (c->cupti_records)
        printf("; %s CUPTI records, %" PRIu64 " dropped", skew_count_text(count, c->cupti_records),
               c->cupti_dropped);
}

void skew_coverage_print(const struct skew_coverage *c)
{
    char stored[SKEW_COUNT_TEXT], returned[SKEW_COUNT_TEXT];

    if (c->returned == 0) {
        printf("no capture stands behind this trace: it is imported or synthetic, or nothing was captured\n");
        return;
    }
    printf("captured %s of %s groups%s; ", skew_count_text(stored, c->stored),
           skew_count_text(returned, c->returned),
           c->stored < c->returned ? ": what is missing can look like imbalance" : "");
    skew_own_cost_print(c);
    putchar('\n');
}
