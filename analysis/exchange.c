/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exchanges, one at a time, from one statement. Filters on communicator and operation are applied
 * here rather than in SQL where that spares a join: a pass over millions of rows is the normal
 * case.
 */
#include "label.h"
#include "trace_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct skew_exchange_iter {
    struct skew_trace *trace;
    sqlite3_stmt *select;
    struct skew_filter filter;
    char *comm_key; /* owned copies of the filter's strings */
    char *role;
};

static bool wants_labels(const struct skew_filter *filter)
{
    return filter->role || ((filter->by_layer || filter->by_step) && filter->count_layers == 0);
}

/* The statement, whose parameters are ?1 seq_from, ?2 seq_to, ?3 layer, ?4 step, ?5 role. */
static void write_sql(char *sql, size_t size, const struct skew_filter *filter,
                      enum skew_order order, bool attached)
{
    bool labels = wants_labels(filter) && !attached, counted = filter->count_layers != 0;

    snprintf(
        sql, size,
        "SELECT e.exchange_id, e.member_id, e.seq, e.op, e.start_ns, e.enqueue_ns,"
        " e.send_vector, e.recv_vector, e.send_unit, e.recv_unit, e.flags, e.capture_id, e.site_id"
        " FROM exchange e%s%s%s%s%s%s%s%s",
        order == SKEW_ORDER_SEQ ? " JOIN member m USING (member_id)" : "",
        labels ? " JOIN exchange_label b USING (exchange_id)" : "",
        filter->by_seq || labels ? " WHERE 1" : "",
        filter->by_seq ? " AND e.seq BETWEEN ?1 AND ?2" : "",
        labels && filter->by_layer && !counted ? " AND b.layer = ?3" : "",
        labels && filter->by_step && !counted ? " AND b.step = ?4" : "",
        labels && filter->role ? " AND b.role = ?5" : "",
        order == SKEW_ORDER_SEQ ? " ORDER BY m.comm_id, e.seq, m.rank, e.exchange_id"
                                : " ORDER BY e.exchange_id");
}

static int bind(struct skew_exchange_iter *it, struct skew_error *error)
{
    const struct skew_filter *f = &it->filter;
    const int64_t numbers[] = {f->seq_from, f->seq_to, f->layer, f->step};
    int count = sqlite3_bind_parameter_count(it->select);
    int code = SQLITE_OK;

    for (int i = 1; i <= count && i <= 4 && code == SQLITE_OK; i++)
        code = sqlite3_bind_int64(it->select, i, numbers[i - 1]);
    if (count >= 5 && code == SQLITE_OK)
        code = sqlite3_bind_text(it->select, 5, it->role, -1, SQLITE_STATIC);
    return code == SQLITE_OK ? 0 : skew_trace_sql_error(it->trace, error);
}

int skew_exchange_iter_open(struct skew_exchange_iter **out, struct skew_trace *trace,
                            const struct skew_filter *filter, enum skew_order order,
                            struct skew_error *error)
{
    const struct skew_filter none = {0};
    const struct skew_member *members;
    size_t count;
    char sql[1024];
    struct skew_exchange_iter *it;
    int result = skew_trace_members(trace, &members, &count, error);

    *out = NULL;
    if (result < 0)
        return result;
    it = calloc(1, sizeof *it);
    if (!it)
        goto no_memory;
    it->trace = trace;
    it->filter = filter ? *filter : none;
    if (it->filter.comm_key && !(it->comm_key = strdup(it->filter.comm_key)))
        goto no_memory;
    if (it->filter.role && !(it->role = strdup(it->filter.role)))
        goto no_memory;
    if (it->filter.count_layers && it->filter.count_calls == 0)
        it->filter.count_calls = 1;
    write_sql(sql, sizeof sql, &it->filter, order, trace->labels != NULL);
    result = skew_sql_prepare(trace, &it->select, sql, error);
    if (result == 0)
        result = bind(it, error);
    if (result < 0)
        skew_exchange_iter_close(&it);
    *out = it;
    return result;

no_memory:
    skew_exchange_iter_close(&it);
    skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
    return -ENOMEM;
}

void skew_exchange_iter_close(struct skew_exchange_iter **iter)
{
    struct skew_exchange_iter *it = *iter;

    *iter = NULL;
    if (!it)
        return;
    sqlite3_finalize(it->select);
    free(it->comm_key);
    free(it->role);
    free(it);
}

/* Labels that are attached to the trace instead of saved in it. */
static bool label_passes(const struct skew_exchange_iter *it, const struct skew_exchange *e)
{
    const struct skew_filter *f = &it->filter;
    const struct skew_label *l = skew_labels_exchange(it->trace->labels, e->id);
    const char *role = l ? skew_label_role_name(l->role) : NULL;

    if (!l || (f->role && !(role && strcmp(role, f->role) == 0)))
        return false;
    if (f->count_layers)
        return true;
    return (!f->by_layer || l->layer == f->layer) && (!f->by_step || l->step == f->step);
}

/* The filters that the statement does not apply. */
static bool passes(const struct skew_exchange_iter *it, const struct skew_exchange *e)
{
    const struct skew_filter *f = &it->filter;

    if (it->comm_key && strcmp(e->member->comm->key, it->comm_key) != 0)
        return false;
    if (f->ops && !((uint32_t)e->op < 32 && (f->ops >> e->op & 1)))
        return false;
    if (it->trace->labels && wants_labels(f) && !label_passes(it, e))
        return false;
    if (f->count_layers) {
        int64_t in_step = (int64_t)f->count_layers * f->count_calls;
        if (f->by_step && e->seq / in_step != f->step)
            return false;
        if (f->by_layer && e->seq % in_step / f->count_calls != f->layer)
            return false;
    }
    return true;
}

static int bad_row(const struct skew_exchange_iter *it, struct skew_error *error)
{
    skew_error_set(error, "%s: is damaged: exchange %lld makes no sense", it->trace->path,
                   (long long)sqlite3_column_int64(it->select, 0));
    return -EBADMSG;
}

/* Everything but the vectors. */
static bool read_row(struct skew_exchange_iter *it, struct skew_exchange *e)
{
    sqlite3_stmt *s = it->select;
    int64_t op, send_unit, recv_unit;

    *e = (struct skew_exchange){.id = sqlite3_column_int64(s, 0),
                                .start_ns = sqlite3_column_int64(s, 4),
                                .enqueue_ns = sqlite3_column_int64(s, 5),
                                .flags = (uint32_t)sqlite3_column_int(s, 10),
                                .capture = sqlite3_column_int64(s, 11),
                                .site = sqlite3_column_int64(s, 12)};
    e->member = skew_trace_member(it->trace, sqlite3_column_int64(s, 1));
    if (!e->member || !skew_sql_between(s, 2, 0, INT64_MAX, &e->seq) ||
        !skew_sql_between(s, 3, 0, INT32_MAX, &op) ||
        !skew_sql_between(s, 8, 0, INT64_MAX, &send_unit) ||
        !skew_sql_between(s, 9, 0, INT64_MAX, &recv_unit))
        return false;
    e->op = (int32_t)op;
    e->send_unit = send_unit ? (uint64_t)send_unit : 1;
    e->recv_unit = recv_unit ? (uint64_t)recv_unit : 1;
    return true;
}

/* Attaches the vector of one side and checks that its bytes fit into 64 bits. */
static int read_side(struct skew_exchange_iter *it, int column, uint64_t unit,
                     const struct skew_vector **vector, struct skew_error *error)
{
    uint64_t bytes;

    if (sqlite3_column_type(it->select, column) == SQLITE_NULL)
        return 0;
    int result =
        skew_vector_get(it->trace, sqlite3_column_int64(it->select, column), vector, error);
    if (result == 0 && __builtin_mul_overflow((*vector)->total, unit, &bytes))
        result = bad_row(it, error);
    return result;
}

int skew_exchange_iter_next(struct skew_exchange_iter *it, struct skew_exchange *exchange,
                            struct skew_error *error)
{
    int step;

    while ((step = sqlite3_step(it->select)) == SQLITE_ROW) {
        if (!read_row(it, exchange))
            return bad_row(it, error);
        if (!passes(it, exchange))
            continue;
        int result = read_side(it, 6, exchange->send_unit, &exchange->send, error);
        if (result == 0)
            result = read_side(it, 7, exchange->recv_unit, &exchange->recv, error);
        return result < 0 ? result : 1;
    }
    return step == SQLITE_DONE ? 0 : skew_trace_sql_error(it->trace, error);
}

int skew_trace_each(struct skew_trace *trace, const struct skew_filter *filter,
                    enum skew_order order, skew_exchange_fn *take, void *accumulator,
                    struct skew_error *error)
{
    struct skew_exchange_iter *it;
    struct skew_exchange exchange;
    int result = skew_exchange_iter_open(&it, trace, filter, order, error);

    if (result < 0)
        return result;
    while ((result = skew_exchange_iter_next(it, &exchange, error)) == 1) {
        result = take(accumulator, &exchange);
        if (result != 0)
            break;
    }
    if (result == -ENOMEM)
        skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
    skew_exchange_iter_close(&it);
    return result;
}
