/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run left in the trace: see run_summary.h.
 */
#include "run_summary.h"
#include "trace.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>

static const char sql[] =
    "WITH r AS (SELECT run_id FROM run WHERE key = ?1),"
    " p AS (SELECT process_id, returned_groups, stored_groups FROM process"
    "       WHERE run_id = (SELECT run_id FROM r)),"
    " m AS (SELECT member_id FROM member WHERE process_id IN (SELECT process_id FROM p))"
    " SELECT (SELECT count(*) FROM r), (SELECT count(*) FROM p),"
    " (SELECT count(*) FROM exchange WHERE member_id IN (SELECT member_id FROM m)),"
    " (SELECT count(*) FROM operation WHERE member_id IN (SELECT member_id FROM m)),"
    " (SELECT sum(exchanges) FROM loss WHERE process_id IN (SELECT process_id FROM p)),"
    " (SELECT sum(returned_groups) FROM p), (SELECT sum(stored_groups) FROM p),"
    " (SELECT sum(groups) FROM loss WHERE process_id IN (SELECT process_id FROM p))";

static int look(struct skew_run_found *found, const char *file, const char *id)
{
    struct skew_trace *trace;
    struct skew_error error;
    sqlite3_stmt *s = NULL;
    int result = skew_trace_open(&trace, file, &error);

    if (result < 0)
        return result;
    if (sqlite3_prepare_v2(skew_trace_db(trace), sql, -1, &s, NULL) != SQLITE_OK ||
        sqlite3_bind_text(s, 1, id, -1, SQLITE_STATIC) != SQLITE_OK ||
        sqlite3_step(s) != SQLITE_ROW) {
        result = skew_trace_sql_error(trace, &error);
    } else if (sqlite3_column_int(s, 0) > 0) {
        found->in_trace = true;
        snprintf(found->path, sizeof found->path, "%s", file);
        found->processes += (uint64_t)sqlite3_column_int64(s, 1);
        found->exchanges += (uint64_t)sqlite3_column_int64(s, 2);
        found->operations += (uint64_t)sqlite3_column_int64(s, 3);
        found->lost_exchanges += (uint64_t)sqlite3_column_int64(s, 4);
        found->returned_groups += (uint64_t)sqlite3_column_int64(s, 5);
        found->stored_groups += (uint64_t)sqlite3_column_int64(s, 6);
        found->lost_groups += (uint64_t)sqlite3_column_int64(s, 7);
    }
    sqlite3_finalize(s);
    skew_trace_close(&trace);
    return result;
}

int skew_run_find(struct skew_run_found *found, const char *out, const char *id)
{
    struct skew_trace_list list;
    struct skew_error error;
    int result = skew_trace_list(&list, out, &error);

    *found = (struct skew_run_found){0};
    snprintf(found->path, sizeof found->path, "%s", out);
    for (size_t i = 0; i < list.count && result == 0; i++)
        result = look(found, list.files[i], id);
    skew_trace_list_free(&list);
    return result;
}
