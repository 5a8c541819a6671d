/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope clocks` shows and saves: see clocks_output.h.
 */
#include "clocks_output.h"
#include "analysis_output.h"
#include "rows.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[] = {"reference", "shared", "fitted", "no_times", "not_tied"};

/* host and key of a process, as JSON; the caller releases it. */
static json_t *process_row(const struct skew_reading *reading, const struct skew_clock *clock)
{
    char sql[128];
    struct skew_error error;

    snprintf(sql, sizeof sql, "SELECT host, key FROM process WHERE process_id = %" PRId64,
             clock->process);
    json_t *rows = skew_rows(reading->traces[clock->trace], sql, &error);
    json_t *row = json_incref(json_array_get(rows, 0));
    json_decref(rows);
    return row;
}

/* ---- text ------------------------------------------------------------------------------------ */

static void print_rank(const struct skew_clock *clock)
{
    if (clock->rank >= 0)
        printf("  %5d", clock->rank);
    else
        printf("  %5s", "-");
}

static void print_clock(const struct skew_clock *k, const struct skew_reading *reading)
{
    json_t *row = process_row(reading, k);

    print_rank(k);
    printf("  %4" PRIu32 "  %-16.16s", k->node, skew_row_text(row, "host"));
    json_decref(row);
    if (k->state == SKEW_CLOCK_REFERENCE)
        printf("  the reference\n");
    else if (k->state == SKEW_CLOCK_SHARED)
        printf("  0 by construction: shares the reference's clock\n");
    else if (k->state == SKEW_CLOCK_NO_TIMES)
        printf("  not tied: none of its exchanges that met another's has a time on the device\n");
    else if (k->state == SKEW_CLOCK_NOT_TIED)
        printf("  not tied: no traffic both ways with the reference, not even by way of others\n");
    else
        printf("  %18" PRId64 "  %+10.3f  %10.1f  %9.1f  %8" PRId64 "%s\n", k->offset_ns,
               (double)k->drift_ppb / 1e3, (double)k->residual_ns / 1e3, (double)k->spread_ns / 1e3,
               k->matches, k->bent ? "  bent" : "");
}

static void print_missing(const struct skew_clock_missing *m)
{
    printf("communicator %s: %" PRIu32 " of %" PRIu32 " ranks are in no database:", m->comm_key,
           m->count, m->ranks);
    for (uint32_t i = 0; i < m->count && i < 16; i++)
        printf(" %" PRIu32, m->which[i]);
    printf("%s\n", m->count > 16 ? " …" : "");
}

void skew_clocks_print(const struct skew_clocks *clocks, const struct skew_reading *reading)
{
    size_t count, missing;
    const struct skew_clock *all = skew_clocks_all(clocks, &count);
    const struct skew_clock_missing *lacking = skew_clocks_missing(clocks, &missing);
    bool fitted = false, bent = false;

    printf("%zu process%s, %" PRIu32 " clock%s\n", count, count == 1 ? "" : "es",
           skew_clocks_nodes(clocks), skew_clocks_nodes(clocks) == 1 ? "" : "s");
    if (skew_clocks_nodes(clocks) <= 1)
        printf("one node: all processes share its clock, every offset is 0 by construction and "
               "nothing was fitted\n");
    else
        printf("   rank  node  host                       offset, ns  drift, ppm  within, µs  "
               "spread,µs   matches\n");
    for (size_t i = 0; i < count && skew_clocks_nodes(clocks) > 1; i++) {
        print_clock(&all[i], reading);
        fitted = fitted || all[i].state == SKEW_CLOCK_FITTED;
        bent = bent || all[i].bent;
    }
    if (fitted)
        printf("time on the reference's axis = ns + offset + drift × (ns − at). `within` holds "
               "whatever the paths are like;\n`spread` is how far pairs disagree: the error to "
               "expect where paths are equally long in both directions.\n");
    if (bent)
        printf("bent: no straight line fits, the clock was slewed or stepped while the job ran; "
               "`within` is wider for it.\n");
    for (size_t i = 0; i < missing; i++)
        print_missing(&lacking[i]);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *clock_json(const struct skew_clock *k, const struct skew_reading *reading)
{
    json_t *row = process_row(reading, k);
    json_t *j =
        json_pack("{s:s, s:o, s:I, s:s, s:s, s:s}", "state", state_names[k->state], "rank",
                  k->rank < 0 ? json_null() : json_integer(k->rank), "node", (json_int_t)k->node,
                  "host", skew_row_text(row, "host"), "process", skew_row_text(row, "key"), "trace",
                  skew_trace_path(reading->traces[k->trace]));
    bool tied = skew_clock_tied(k);

    json_decref(row);
    json_object_set_new(j, "at_ns", tied ? json_integer(k->at_ns) : json_null());
    json_object_set_new(j, "offset_ns", tied ? json_integer(k->offset_ns) : json_null());
    json_object_set_new(j, "drift_ppb", tied ? json_integer(k->drift_ppb) : json_null());
    json_object_set_new(j, "residual_ns", tied ? json_integer(k->residual_ns) : json_null());
    json_object_set_new(j, "spread_ns", tied ? json_integer(k->spread_ns) : json_null());
    json_object_set_new(j, "matches", json_integer(k->matches));
    json_object_set_new(j, "bent", json_boolean(k->bent));
    return j;
}

int skew_clocks_json(const struct skew_clocks *clocks, const struct skew_reading *reading,
                     const struct skew_coverage *coverage)
{
    size_t count, missing;
    const struct skew_clock *all = skew_clocks_all(clocks, &count);
    const struct skew_clock_missing *lacking = skew_clocks_missing(clocks, &missing);
    json_t *processes = json_array(), *absent = json_array();
    int64_t worst = 0;
    json_int_t untied = 0;

    for (size_t i = 0; i < count; i++) {
        json_array_append_new(processes, clock_json(&all[i], reading));
        worst = all[i].residual_ns > worst ? all[i].residual_ns : worst;
        untied += !skew_clock_tied(&all[i]);
    }
    for (size_t i = 0; i < missing; i++) {
        json_t *ranks = json_array();
        for (uint32_t r = 0; r < lacking[i].count; r++)
            json_array_append_new(ranks, json_integer(lacking[i].which[r]));
        json_array_append_new(absent,
                              json_pack("{s:s, s:I, s:o}", "comm", lacking[i].comm_key, "of",
                                        (json_int_t)lacking[i].ranks, "ranks", ranks));
    }
    json_t *root = json_pack(
        "{s:o, s:I, s:I, s:I, s:o, s:o}", "reference",
        skew_clocks_reference(clocks) ? json_string(skew_clocks_reference(clocks)) : json_null(),
        "clocks", (json_int_t)skew_clocks_nodes(clocks), "residual_ns", (json_int_t)worst,
        "not_tied", untied, "processes", processes, "missing", absent);
    return skew_json_print(skew_json_with_coverage(root, coverage));
}

/* ---- saving ---------------------------------------------------------------------------------- */

static int save_rows(sqlite3 *db, const struct skew_clocks *clocks, uint32_t trace)
{
    size_t count;
    const struct skew_clock *all = skew_clocks_all(clocks, &count);
    sqlite3_stmt *s = NULL;
    int code =
        sqlite3_prepare_v2(db, "INSERT INTO clock_fit VALUES (?, ?, ?, ?, ?, ?, ?)", -1, &s, NULL);

    for (size_t i = 0; i < count && code == SQLITE_OK; i++) {
        if (all[i].trace != trace || !skew_clock_tied(&all[i]))
            continue;
        const int64_t values[] = {all[i].at_ns, all[i].offset_ns, all[i].drift_ppb,
                                  all[i].residual_ns, all[i].matches};
        sqlite3_bind_int64(s, 1, all[i].process);
        sqlite3_bind_text(s, 2, skew_clocks_reference(clocks), -1, SQLITE_STATIC);
        for (int v = 0; v < 5; v++)
            sqlite3_bind_int64(s, 3 + v, values[v]);
        code = sqlite3_step(s) == SQLITE_DONE ? sqlite3_reset(s) : sqlite3_errcode(db);
    }
    sqlite3_finalize(s);
    return code;
}

static int save_one(const struct skew_clocks *clocks, const char *path, uint32_t trace)
{
    /* Traces of before this table existed lack it. */
    static const char make[] =
        "CREATE TABLE IF NOT EXISTS clock_fit (process_id INTEGER PRIMARY KEY REFERENCES process,"
        " reference TEXT NOT NULL, at_ns INTEGER NOT NULL, offset_ns INTEGER NOT NULL,"
        " drift_ppb INTEGER NOT NULL, residual_ns INTEGER NOT NULL, matches INTEGER NOT NULL)";
    sqlite3 *db = NULL;
    int code = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(db, 5000);
        sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
        sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
        code = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    }
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, make, NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, "DELETE FROM clock_fit", NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = save_rows(db, clocks, trace);
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (code != SQLITE_OK)
        skew_tell("%s: clocks could not be saved: %s; this trace is as it was", path,
                  db ? sqlite3_errmsg(db) : "out of memory");
    sqlite3_close(db); /* rolls back what was not committed */
    return code == SQLITE_OK ? 0 : -EIO;
}

int skew_clocks_save(const struct skew_clocks *clocks, const struct skew_reading *reading)
{
    int result = 0;

    for (uint32_t t = 0; t < reading->count && result == 0; t++)
        result = save_one(clocks, skew_trace_path(reading->traces[t]), t);
    return result;
}
