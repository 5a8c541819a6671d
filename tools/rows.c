/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Query results as JSON: see rows.h.
 */
#include "rows.h"
#include "term.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

static json_t *text_value(const char *text)
{
    char *copy = strdup(text ? text : "");
    json_t *value = NULL;

    if (!copy)
        return NULL;
    skew_term_clean(copy);
    value = json_string(copy);
    if (!value) { /* not UTF-8 */
        for (char *c = copy; *c; c++)
            if ((unsigned char)*c > 126)
                *c = '?';
        value = json_string(copy);
    }
    free(copy);
    return value;
}

static json_t *column_value(sqlite3_stmt *s, int column)
{
    switch (sqlite3_column_type(s, column)) {
    case SQLITE_INTEGER:
        return json_integer(sqlite3_column_int64(s, column));
    case SQLITE_FLOAT:
        return json_real(sqlite3_column_double(s, column));
    case SQLITE_NULL:
        return json_null();
    default:
        return text_value((const char *)sqlite3_column_text(s, column));
    }
}

json_t *skew_rows(struct skew_trace *trace, const char *sql, struct skew_error *error)
{
    sqlite3_stmt *s = NULL;
    json_t *rows = json_array();
    int step = SQLITE_ERROR;

    if (sqlite3_prepare_v2(skew_trace_db(trace), sql, -1, &s, NULL) == SQLITE_OK) {
        while ((step = sqlite3_step(s)) == SQLITE_ROW) {
            json_t *row = json_object();
            for (int column = 0; column < sqlite3_column_count(s); column++)
                json_object_set_new(row, sqlite3_column_name(s, column), column_value(s, column));
            json_array_append_new(rows, row);
        }
    }
    if (step != SQLITE_DONE) {
        skew_trace_sql_error(trace, error);
        json_decref(rows);
        rows = NULL;
    }
    sqlite3_finalize(s);
    return rows;
}

const char *skew_row_text(const json_t *row, const char *key)
{
    const char *text = json_string_value(json_object_get(row, key));
    return text ? text : "";
}

int64_t skew_row_int(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return json_is_real(value) ? (int64_t)json_real_value(value) : json_integer_value(value);
}

bool skew_row_null(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return !value || json_is_null(value);
}
