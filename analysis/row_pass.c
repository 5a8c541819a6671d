/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pass over millions of rows: the rows go to an aggregate function instead of being stepped
 * through. SQLite then hands all columns of a row over in one call, where each column asked of a
 * statement is a call of its own with checks of its own: a fifth of the time that such a pass
 * takes.
 */
#include "trace_private.h"

#include <errno.h>

struct pass {
    skew_row_fn *take;
    void *context;
    int result;
};

static void take_row(sqlite3_context *context, int count, sqlite3_value **row)
{
    struct pass *p = sqlite3_user_data(context);

    (void)count;
    p->result = p->take(p->context, row);
    if (p->result != 0)
        sqlite3_result_error_code(context, SQLITE_ABORT); /* ends the statement */
}

static void end_rows(sqlite3_context *context)
{
    sqlite3_result_null(context);
}

static int run(struct skew_trace *trace, const char *sql, int64_t from, int64_t to, struct pass *p,
               struct skew_error *error)
{
    sqlite3_stmt *s;
    int step, result = skew_sql_prepare(trace, &s, sql, error);

    if (result < 0)
        return result;
    if (sqlite3_bind_parameter_count(s) >= 2) {
        sqlite3_bind_int64(s, 1, from);
        sqlite3_bind_int64(s, 2, to);
    }
    do
        step = sqlite3_step(s); /* one row: of nothing, once all have been taken */
    while (step == SQLITE_ROW);
    if (step != SQLITE_DONE)
        result = p->result ? p->result : skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

int skew_sql_rows(struct skew_trace *trace, const char *sql, int64_t from, int64_t to,
                  skew_row_fn *take, void *context, struct skew_error *error)
{
    struct pass p = {.take = take, .context = context};
    int flags = SQLITE_UTF8 | SQLITE_DIRECTONLY; /* nothing that a schema may call */

    if (sqlite3_create_function_v2(trace->db, "skew_take", -1, flags, &p, NULL, take_row, end_rows,
                                   NULL) != SQLITE_OK)
        return skew_trace_sql_error(trace, error);
    int result = run(trace, sql, from, to, &p, error);
    sqlite3_create_function_v2(trace->db, "skew_take", -1, SQLITE_UTF8, NULL, NULL, NULL, NULL,
                               NULL);
    if (result == -ENOMEM)
        skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
    return result;
}
