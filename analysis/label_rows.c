/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads a whole database into arrays and puts it into the order in which each rank issued it: see
 * label_private.h. Nothing read here is believed; what makes no sense is refused by one sentence.
 */
#include "label_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables into arrays ------------------------------------------------------------------------
 */

struct array {
    void *items;
    size_t count, room, size;
};

static void *append(struct array *a)
{
    if (a->count == a->room) {
        size_t room = a->room ? a->room * 2 : 256;
        void *items = realloc(a->items, room * a->size);
        if (!items)
            return NULL;
        a->items = items;
        a->room = room;
    }
    void *item = (char *)a->items + a->count++ * a->size;
    memset(item, 0, a->size);
    return item;
}

typedef bool take_row(struct skew_rows *rows, sqlite3_stmt *s, void *item);

/* Every row of `sql` into a new array of items of `size` bytes. */
static int load(struct skew_rows *rows, const char *sql, size_t size, take_row *take, void **items,
                size_t *count, struct skew_error *error)
{
    struct array a = {.size = size};
    sqlite3_stmt *s;
    int step = SQLITE_DONE, result = skew_sql_prepare(rows->trace, &s, sql, error);

    if (result < 0)
        return result;
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
        void *item = append(&a);
        if (!item) {
            skew_error_set(error, "%s: out of memory", skew_trace_path(rows->trace));
            result = -ENOMEM;
        } else if (!take(rows, s, item)) {
            skew_error_set(error, "%s: is damaged: %s %lld makes no sense",
                           skew_trace_path(rows->trace), sqlite3_column_name(s, 0),
                           (long long)sqlite3_column_int64(s, 0));
            result = -EBADMSG;
        }
    }
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(rows->trace, error);
    sqlite3_finalize(s);
    *items = a.items;
    *count = a.count;
    return result;
}

static bool take_vector(struct skew_rows *rows, sqlite3_stmt *s, void *item)
{
    struct skew_rows_vector *v = item;
    int64_t cells, total, largest;

    (void)rows;
    v->id = sqlite3_column_int64(s, 0);
    if (!skew_sql_between(s, 1, 0, SKEW_CELLS_MAX, &cells) ||
        !skew_sql_between(s, 2, 0, INT64_MAX, &total) ||
        !skew_sql_between(s, 3, 0, INT64_MAX, &largest))
        return false;
    v->cells = (uint32_t)cells;
    v->total = (uint64_t)total;
    v->largest = (uint64_t)largest;
    v->listed = sqlite3_column_int(s, 4);
    v->peers = v->listed ? 0 : v->cells;
    v->uniform = cells == 0 || (total / cells == largest && total % cells == 0);
    return true;
}

/* Index + 1 of a vector, 0 for none or a missing one. */
static uint32_t vector_index(const struct skew_rows *rows, sqlite3_stmt *s, int column)
{
    size_t low = 0, high = rows->vector_count;
    int64_t id = sqlite3_column_int64(s, column);

    if (sqlite3_column_type(s, column) == SQLITE_NULL)
        return 0;
    if (id >= 1 && (uint64_t)id <= high && rows->vectors[id - 1].id == id)
        return (uint32_t)id; /* as the collector numbers them */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (rows->vectors[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < rows->vector_count && rows->vectors[low].id == id ? (uint32_t)low + 1 : 0;
}

static bool member_index(const struct skew_rows *rows, int64_t id, uint32_t *index)
{
    const struct skew_member *m = skew_trace_member(rows->trace, id);

    if (m)
        *index = (uint32_t)(m - rows->members[0].member);
    return m;
}

static bool take_exchange(struct skew_rows *rows, sqlite3_stmt *s, void *item)
{
    struct skew_rows_exchange *x = item;
    int64_t send_unit, recv_unit, op;

    x->id = sqlite3_column_int64(s, 0);
    if (!member_index(rows, sqlite3_column_int64(s, 1), &x->member) ||
        !skew_sql_between(s, 2, 0, INT64_MAX, &x->seq) || !skew_sql_between(s, 3, 0, 64, &op) ||
        !skew_sql_between(s, 8, 0, INT64_MAX, &send_unit) ||
        !skew_sql_between(s, 9, 0, INT64_MAX, &recv_unit))
        return false;
    x->op = (int32_t)op;
    x->start_ns = sqlite3_column_int64(s, 4);
    x->dtype = sqlite3_column_int(s, 5);
    x->send = vector_index(rows, s, 6);
    x->recv = vector_index(rows, s, 7);
    x->send_unit = send_unit ? (uint64_t)send_unit : 1;
    x->recv_unit = recv_unit ? (uint64_t)recv_unit : 1;
    x->flags = (uint32_t)sqlite3_column_int(s, 10);
    x->capture = sqlite3_column_int64(s, 11);
    x->site = sqlite3_column_int64(s, 12);
    x->thread = sqlite3_column_int(s, 13);
    x->group_seq = sqlite3_column_int64(s, 14);
    return !(x->send && __builtin_mul_overflow(rows->vectors[x->send - 1].total, x->send_unit,
                                               &x->send_bytes)) &&
           !(x->recv && __builtin_mul_overflow(rows->vectors[x->recv - 1].total, x->recv_unit,
                                               &x->recv_bytes));
}

static bool take_operation(struct skew_rows *rows, sqlite3_stmt *s, void *item)
{
    struct skew_rows_operation *o = item;
    int64_t op;

    o->id = sqlite3_column_int64(s, 0);
    if (!member_index(rows, sqlite3_column_int64(s, 1), &o->member) ||
        !skew_sql_between(s, 2, 0, INT64_MAX, &o->seq) || !skew_sql_between(s, 3, 0, 64, &op) ||
        !skew_sql_between(s, 6, 0, INT64_MAX, &o->count) ||
        !skew_sql_between(s, 7, 0, INT64_MAX, &o->bytes))
        return false;
    o->op = (int32_t)op;
    o->start_ns = sqlite3_column_int64(s, 4);
    o->dtype = sqlite3_column_int(s, 5);
    o->root = sqlite3_column_type(s, 8) == SQLITE_NULL ? -1 : sqlite3_column_int(s, 8);
    o->flags = (uint32_t)sqlite3_column_int(s, 9);
    o->capture = sqlite3_column_int64(s, 10);
    o->site = sqlite3_column_int64(s, 11);
    o->thread = sqlite3_column_int(s, 12);
    o->group_seq = sqlite3_column_int64(s, 13);
    return true;
}

/* ---- lanes -------------------------------------------------------------------------------------
 */

/* The thread that used a member first. */
static void first_threads(const struct skew_rows *rows, int32_t *threads)
{
    for (size_t i = 0; i < rows->member_count; i++)
        threads[i] = -1;
    for (size_t i = 0; i < rows->operation_count; i++)
        if (threads[rows->operations[i].member] < 0)
            threads[rows->operations[i].member] = rows->operations[i].thread;
    for (size_t i = 0; i < rows->exchange_count; i++)
        if (threads[rows->exchanges[i].member] < 0)
            threads[rows->exchanges[i].member] = rows->exchanges[i].thread;
}

/* How one process' members are told apart when it holds several ranks. */
enum split { SPLIT_NOT, SPLIT_DEVICE, SPLIT_THREAD };

static enum split how_split(const struct skew_rows *rows, int64_t process)
{
    enum split split = SPLIT_NOT;

    for (size_t i = 0; i < rows->member_count; i++) {
        const struct skew_member *a = rows->members[i].member;
        for (size_t j = i + 1; a->process == process && j < rows->member_count; j++) {
            const struct skew_member *b = rows->members[j].member;
            if (b->process != process || b->comm != a->comm)
                continue;
            if (a->device < 0 || a->device == b->device)
                return SPLIT_THREAD;
            split = SPLIT_DEVICE;
        }
    }
    return split;
}

static int make_lanes(struct skew_rows *rows)
{
    size_t n = rows->member_count;
    int32_t *threads = calloc(n + 1, sizeof *threads);
    enum split *split = calloc(n + 1, sizeof *split);

    rows->lanes = calloc(n + 1, sizeof *rows->lanes);
    if (!threads || !split || !rows->lanes) {
        free(threads);
        free(split);
        return -ENOMEM;
    }
    first_threads(rows, threads);
    for (size_t i = 0; i < n; i++) {
        const struct skew_member *m = rows->members[i].member;
        size_t j = 0;
        while (j < i && rows->members[j].member->process != m->process)
            j++;
        split[i] = j < i ? split[j] : how_split(rows, m->process);
        for (j = 0; j < i; j++) {
            const struct skew_member *o = rows->members[j].member;
            if (o->process == m->process &&
                (split[i] == SPLIT_NOT || (split[i] == SPLIT_DEVICE && o->device == m->device) ||
                 (split[i] == SPLIT_THREAD && threads[j] == threads[i])))
                break;
        }
        rows->members[i].lane = j < i ? rows->members[j].lane : (uint32_t)rows->lane_count;
        if (j == i)
            rows->lanes[rows->lane_count++].process = m->process;
    }
    free(threads);
    free(split);
    return 0;
}

/* ---- events ------------------------------------------------------------------------------------
 */

struct sortable {
    struct skew_rows_event event;
    uint32_t lane;
    int32_t thread;
    int64_t group_seq, seq;
};

static int by_order(const void *a, const void *b)
{
    const struct sortable *x = a, *y = b;

#define COMPARE(what)                                                                              \
    if (x->what != y->what)                                                                        \
        return x->what < y->what ? -1 : 1;
    COMPARE(lane)
    COMPARE(event.start_ns)
    COMPARE(thread)
    COMPARE(group_seq)
    COMPARE(seq)
    COMPARE(event.first)
#undef COMPARE
    return 0;
}

static bool same_group(const struct skew_rows_operation *a, const struct skew_rows_operation *b)
{
    return a->member == b->member && a->thread == b->thread && a->group_seq == b->group_seq;
}

static int make_events(struct skew_rows *rows)
{
    size_t room = rows->exchange_count + rows->operation_count, n = 0;
    struct sortable *all = calloc(room + 1, sizeof *all);

    rows->events = calloc(room + 1, sizeof *rows->events);
    if (!all || !rows->events) {
        free(all);
        return -ENOMEM;
    }
    for (size_t i = 0; i < rows->exchange_count; i++) {
        const struct skew_rows_exchange *x = &rows->exchanges[i];
        all[n++] = (struct sortable){{x->start_ns, (uint32_t)i, 0},
                                     rows->members[x->member].lane,
                                     x->thread,
                                     x->group_seq,
                                     x->seq};
    }
    for (size_t i = 0; i < rows->operation_count;) {
        const struct skew_rows_operation *o = &rows->operations[i];
        size_t j = i + 1;
        while (j < rows->operation_count && same_group(o, &rows->operations[j]))
            j++;
        all[n++] = (struct sortable){{o->start_ns, (uint32_t)i, (uint32_t)(j - i)},
                                     rows->members[o->member].lane,
                                     o->thread,
                                     o->group_seq,
                                     o->seq};
        i = j;
    }
    qsort(all, n, sizeof *all, by_order);
    for (size_t i = 0; i < n; i++) {
        rows->events[i] = all[i].event;
        struct skew_rows_lane *lane = &rows->lanes[all[i].lane];
        if (lane->count++ == 0)
            lane->first = i;
    }
    rows->event_count = n;
    free(all);
    return 0;
}

/* ---- all ---------------------------------------------------------------------------------------
 */

static int load_members(struct skew_rows *rows, struct skew_error *error)
{
    const struct skew_member *members;
    const struct skew_comm *comms;
    int result = skew_trace_members(rows->trace, &members, &rows->member_count, error);

    if (result == 0)
        result = skew_trace_comms(rows->trace, &comms, &rows->comm_count, error);
    if (result < 0)
        return result;
    rows->members = calloc(rows->member_count + 1, sizeof *rows->members);
    rows->comms = calloc(rows->comm_count + 1, sizeof *rows->comms);
    if (!rows->members || !rows->comms) {
        skew_error_set(error, "%s: out of memory", skew_trace_path(rows->trace));
        return -ENOMEM;
    }
    for (size_t i = 0; i < rows->comm_count; i++)
        rows->comms[i].comm = &comms[i];
    for (size_t i = 0; i < rows->member_count; i++) {
        rows->members[i].member = &members[i];
        rows->members[i].comm = (uint32_t)(members[i].comm - comms);
    }
    return 0;
}

int skew_rows_load(struct skew_rows *rows, struct skew_trace *trace, struct skew_error *error)
{
    *rows = (struct skew_rows){.trace = trace};
    int result = load_members(rows, error);

    if (result == 0)
        result = load(rows,
                      "SELECT vector_id, cells, total, largest, peers IS NOT NULL FROM vector"
                      " ORDER BY vector_id",
                      sizeof *rows->vectors, take_vector, (void **)&rows->vectors,
                      &rows->vector_count, error);
    if (result == 0)
        result = load(rows,
                      "SELECT exchange_id, member_id, seq, op, start_ns, dtype, send_vector,"
                      " recv_vector, send_unit, recv_unit, flags, capture_id, site_id, thread,"
                      " group_seq FROM exchange ORDER BY exchange_id",
                      sizeof *rows->exchanges, take_exchange, (void **)&rows->exchanges,
                      &rows->exchange_count, error);
    if (result == 0)
        result =
            load(rows,
                 "SELECT operation_id, member_id, seq, op, start_ns, dtype, count, bytes, root,"
                 " flags, capture_id, site_id, thread, group_seq FROM operation"
                 " ORDER BY operation_id",
                 sizeof *rows->operations, take_operation, (void **)&rows->operations,
                 &rows->operation_count, error);
    if (result == 0 && (make_lanes(rows) < 0 || make_events(rows) < 0)) {
        skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
        result = -ENOMEM;
    }
    if (result == 0)
        result = skew_rows_classify(rows, error);
    if (result < 0)
        skew_rows_free(rows);
    return result;
}

void skew_rows_free(struct skew_rows *rows)
{
    free(rows->exchanges);
    free(rows->operations);
    free(rows->vectors);
    free(rows->members);
    free(rows->comms);
    free(rows->events);
    free(rows->lanes);
    skew_rows_free_ranges(rows);
    *rows = (struct skew_rows){0};
}
