/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of analysis/ share among themselves and nobody else includes.
 */
#ifndef SKEW_TRACE_PRIVATE_H
#define SKEW_TRACE_PRIVATE_H

#include "arithmetic.h"
#include "trace.h"

#include <sqlite3.h>

#define SKEW_RANKS_MAX                                                                             \
    (1u << 16) /* more than any communicator has: guards against corrupt input                     \
                */
#define SKEW_CELLS_MAX (1u << 24)

struct skew_vector_cache;
struct skew_labels;

struct skew_trace {
    sqlite3 *db;
    char *path;
    struct skew_comm *comms; /* loaded at the first call, ordered by id */
    size_t comm_count;
    struct skew_member *members; /* likewise */
    size_t member_count;
    bool loaded;
    struct skew_vector_cache *vectors;
    const struct skew_labels *labels; /* attached, borrowed; NULL: the table's */
};

__attribute__((format(printf, 2, 3))) void skew_error_set(struct skew_error *error,
                                                          const char *format, ...);

/* Prepares, or explains with `error` why not. */
int skew_sql_prepare(struct skew_trace *trace, sqlite3_stmt **out, const char *sql,
                     struct skew_error *error);

/* The first column of the first row of a statement; there must be one. */
int skew_sql_number(struct skew_trace *trace, const char *sql, int64_t *value,
                    struct skew_error *error);

/* A value that must not be NULL and must lie between `least` and `most`. */
static inline bool skew_value_between(sqlite3_value *cell, int64_t least, int64_t most,
                                      int64_t *value)
{
    *value = sqlite3_value_int64(cell);
    return sqlite3_value_type(cell) == SQLITE_INTEGER && *value >= least && *value <= most;
}

/* The same of a column. It is looked up once, for its type and for itself; that the value is
 * unprotected is no matter, since a connection belongs to one thread at a time. */
static inline bool skew_sql_between(sqlite3_stmt *statement, int column, int64_t least,
                                    int64_t most, int64_t *value)
{
    return skew_value_between(sqlite3_column_value(statement, column), least, most, value);
}

/* Takes one row: its values, in the order of the columns. Anything but 0 ends the pass, and is
 * returned from it. */
typedef int skew_row_fn(void *context, sqlite3_value **row);

/* All rows of "SELECT skew_take(column, …) FROM …", of which ?1 and ?2, if there, are `from` and
 * `to`. For tables of millions; the order is that of the scan. One such pass at a time on a
 * connection.
 * @return 0, what `take` returned, or a negative errno; -ENOMEM is told in `error` whoever returned
 * it. */
int skew_sql_rows(struct skew_trace *trace, const char *sql, int64_t from, int64_t to,
                  skew_row_fn *take, void *context, struct skew_error *error);

const struct skew_member *skew_trace_member(const struct skew_trace *trace, int64_t id);

/* The decoded vector `id`. Borrowed until the next call with another id but the one before: two
 * vectors, the send and the receive side of one exchange, are always valid together. */
int skew_vector_get(struct skew_trace *trace, int64_t id, const struct skew_vector **out,
                    struct skew_error *error);
void skew_vector_cache_free(struct skew_vector_cache **cache);

#endif
