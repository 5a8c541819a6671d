/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators and their members: few rows, loaded once and kept ordered by id.
 */
#include "trace_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int grow(void **array, size_t count, size_t size)
{
    if (count & (count - 1)) /* full only at powers of two, and at 0 */
        return 0;
    void *bigger = realloc(*array, (count ? count * 2 : 1) * size);
    if (!bigger)
        return -ENOMEM;
    *array = bigger;
    return 0;
}

static char *copy_text(sqlite3_stmt *statement, int column)
{
    const unsigned char *text = sqlite3_column_text(statement, column);
    return strdup(text ? (const char *)text : "");
}

static struct skew_comm *find_comm(const struct skew_trace *trace, int64_t id)
{
    size_t low = 0, high = trace->comm_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (trace->comms[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < trace->comm_count && trace->comms[low].id == id ? &trace->comms[low] : NULL;
}

const struct skew_member *skew_trace_member(const struct skew_trace *trace, int64_t id)
{
    size_t low = 0, high = trace->member_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (trace->members[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < trace->member_count && trace->members[low].id == id ? &trace->members[low] : NULL;
}

static int bad_row(const struct skew_trace *trace, const char *what, int64_t id,
                   struct skew_error *error)
{
    skew_error_set(error, "%s: is damaged: %s %lld makes no sense", trace->path, what,
                   (long long)id);
    return -EBADMSG;
}

static int load_comms(struct skew_trace *trace, struct skew_error *error)
{
    sqlite3_stmt *s;
    int step, result = skew_sql_prepare(
                  trace, &s,
                  "SELECT comm_id, key, kind, ranks, parent_id FROM communicator ORDER BY comm_id",
                  error);

    if (result < 0)
        return result;
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t ranks = 0;
        bool known = sqlite3_column_type(s, 3) != SQLITE_NULL;

        if (grow((void **)&trace->comms, trace->comm_count, sizeof *trace->comms) < 0) {
            result = -ENOMEM;
            break;
        }
        if (known && !skew_sql_between(s, 3, 1, SKEW_RANKS_MAX, &ranks)) {
            result = bad_row(trace, "communicator", sqlite3_column_int64(s, 0), error);
            break;
        }
        struct skew_comm *comm = &trace->comms[trace->comm_count++];
        *comm = (struct skew_comm){.id = sqlite3_column_int64(s, 0),
                                   .key = copy_text(s, 1),
                                   .kind = copy_text(s, 2),
                                   .ranks = (uint32_t)ranks,
                                   .ranks_known = known,
                                   .parent = sqlite3_column_int64(s, 4)};
        if (!comm->key || !comm->kind)
            result = -ENOMEM;
    }
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

static int32_t small_or_unknown(sqlite3_stmt *s, int column)
{
    int64_t value;
    return skew_sql_between(s, column, 0, INT32_MAX, &value) ? (int32_t)value : -1;
}

static int load_members(struct skew_trace *trace, struct skew_error *error)
{
    sqlite3_stmt *s;
    int step, result = skew_sql_prepare(
                  trace, &s,
                  "SELECT m.member_id, m.comm_id, m.rank, p.world_rank, m.device, m.process_id"
                  " FROM member m LEFT JOIN process p USING (process_id) ORDER BY m.member_id",
                  error);

    if (result < 0)
        return result;
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
        struct skew_comm *comm = find_comm(trace, sqlite3_column_int64(s, 1));
        int32_t rank = small_or_unknown(s, 2);

        if (!comm || rank >= (int32_t)SKEW_RANKS_MAX ||
            (comm->ranks_known && rank >= (int32_t)comm->ranks)) {
            result = bad_row(trace, "member", sqlite3_column_int64(s, 0), error);
            break;
        }
        if (grow((void **)&trace->members, trace->member_count, sizeof *trace->members) < 0) {
            result = -ENOMEM;
            break;
        }
        comm->members++;
        if (!comm->ranks_known && rank >= (int32_t)comm->ranks)
            comm->ranks = (uint32_t)rank + 1;
        trace->members[trace->member_count++] =
            (struct skew_member){.id = sqlite3_column_int64(s, 0),
                                 .comm = comm,
                                 .rank = rank,
                                 .world_rank = small_or_unknown(s, 3),
                                 .device = small_or_unknown(s, 4),
                                 .process = sqlite3_column_int64(s, 5)};
    }
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

static int load(struct skew_trace *trace, struct skew_error *error)
{
    int result;

    if (trace->loaded)
        return 0;
    result = load_comms(trace, error);
    if (result == 0)
        result = load_members(trace, error);
    if (result == -ENOMEM)
        skew_error_set(error, "%s: out of memory", trace->path);
    if (result == 0) {
        trace->loaded = true;
        return 0;
    }
    for (size_t i = 0; i < trace->comm_count; i++) {
        free((char *)trace->comms[i].key);
        free((char *)trace->comms[i].kind);
    }
    trace->comm_count = trace->member_count = 0;
    free(trace->comms);
    free(trace->members);
    trace->comms = NULL;
    trace->members = NULL;
    return result;
}

int skew_trace_comms(struct skew_trace *trace, const struct skew_comm **comms, size_t *count,
                     struct skew_error *error)
{
    int result = load(trace, error);
    *comms = trace->comms;
    *count = trace->comm_count;
    return result;
}

int skew_trace_members(struct skew_trace *trace, const struct skew_member **members, size_t *count,
                       struct skew_error *error)
{
    int result = load(trace, error);
    *members = trace->members;
    *count = trace->member_count;
    return result;
}

int skew_sql_number(struct skew_trace *trace, const char *sql, int64_t *value,
                    struct skew_error *error)
{
    sqlite3_stmt *s;
    int result = skew_sql_prepare(trace, &s, sql, error);

    if (result < 0)
        return result;
    if (sqlite3_step(s) == SQLITE_ROW)
        *value = sqlite3_column_int64(s, 0);
    else
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

int skew_trace_has_labels(struct skew_trace *trace, bool *labels, struct skew_error *error)
{
    int64_t found;
    int result =
        skew_sql_number(trace, "SELECT EXISTS (SELECT 1 FROM exchange_label)", &found, error);

    if (result == 0)
        *labels = found != 0;
    return result;
}
