/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process's calls for the reducer (tap.h): exchanges, operations and taps, in order of time,
 * and which communicators have the same ranks. Nothing read here is believed.
 */
#include "tap_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "spool.h"

int skew_tap_no_memory(struct skew_tap_pass *pass)
{
    skew_error_set(pass->error, "%s: out of memory", pass->trace->path);
    return -ENOMEM;
}

/* ---- communicators with the same ranks ------------------------------------------------------ */

/* Frameworks exchange counts on one communicator and tokens on another: the same processes of this
 * trace hold the same ranks of both. */
static bool same_ranks(const struct skew_tap_pass *pass, const struct skew_comm *a,
                       const struct skew_comm *b)
{
    if (a->ranks != b->ranks || a->members != b->members || !a->members)
        return false;
    for (size_t i = 0; i < pass->member_count; i++) {
        const struct skew_member *m = &pass->members[i];
        bool found = false;
        if (m->comm != a)
            continue;
        for (size_t j = 0; j < pass->member_count && !found; j++)
            found = pass->members[j].comm == b && pass->members[j].rank == m->rank &&
                    pass->members[j].process == m->process;
        if (!found)
            return false;
    }
    return true;
}

int skew_tap_sets(struct skew_tap_pass *pass)
{
    int result = skew_trace_comms(pass->trace, &pass->comms, &pass->comm_count, pass->error);
    if (result == 0)
        result = skew_trace_members(pass->trace, &pass->members, &pass->member_count, pass->error);
    if (result < 0)
        return result;
    pass->set_of = calloc(pass->comm_count + 1, sizeof *pass->set_of);
    pass->counted = calloc(pass->comm_count + 1, sizeof *pass->counted);
    pass->calls_of = calloc(pass->member_count + 1, sizeof *pass->calls_of);
    if (!pass->set_of || !pass->counted || !pass->calls_of)
        return skew_tap_no_memory(pass);
    for (size_t i = 0; i < pass->comm_count; i++) {
        size_t j = 0;
        while (j < i &&
               (pass->set_of[j] != j || !same_ranks(pass, &pass->comms[j], &pass->comms[i])))
            j++;
        pass->set_of[i] = (uint32_t)j;
    }
    return 0;
}

static uint32_t set_of(const struct skew_tap_pass *pass, const struct skew_member *member)
{
    return pass->set_of[member->comm - pass->comms];
}

/* ---- exchanges and operations --------------------------------------------------------------- */

static int event_add(struct skew_tap_pass *pass, sqlite3_stmt *s, bool exchange)
{
    const struct skew_member *member = skew_trace_member(pass->trace, sqlite3_column_int64(s, 1));
    if (!member)
        return 0;
    if (pass->events == pass->event_room) {
        size_t room = pass->event_room ? 2 * pass->event_room : 1024;
        void *more = realloc(pass->event, room * sizeof *pass->event);
        if (!more)
            return skew_tap_no_memory(pass);
        pass->event = more;
        pass->event_room = room;
    }
    struct skew_tap_event *e = &pass->event[pass->events++];
    *e = (struct skew_tap_event){.id = sqlite3_column_int64(s, 0),
                                 .member = member,
                                 .set = set_of(pass, member),
                                 .start_ns = sqlite3_column_int64(s, 2),
                                 .thread = sqlite3_column_int64(s, 3),
                                 .group = sqlite3_column_int64(s, 4),
                                 .op = sqlite3_column_int(s, 5),
                                 .dtype = sqlite3_column_int(s, 6),
                                 .exchange = exchange};
    if (exchange) {
        int64_t send_unit = sqlite3_column_int64(s, 9), recv_unit = sqlite3_column_int64(s, 10);
        e->send = sqlite3_column_int64(s, 7);
        e->recv = sqlite3_column_int64(s, 8);
        e->send_unit = send_unit > 0 ? (uint64_t)send_unit : 1;
        e->recv_unit = recv_unit > 0 ? (uint64_t)recv_unit : 1;
    } else {
        e->count = (uint64_t)sqlite3_column_int64(s, 7);
        e->root = sqlite3_column_int(s, 8);
    }
    return 0;
}

static int each(struct skew_tap_pass *pass, const char *sql, int64_t process,
                int (*take)(struct skew_tap_pass *, sqlite3_stmt *))
{
    sqlite3_stmt *s;
    int step, result = skew_sql_prepare(pass->trace, &s, sql, pass->error);
    if (result < 0)
        return result;
    sqlite3_bind_int64(s, 1, process);
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW)
        result = take(pass, s);
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(pass->trace, pass->error);
    sqlite3_finalize(s);
    return result;
}

static int take_exchange(struct skew_tap_pass *pass, sqlite3_stmt *s)
{
    return event_add(pass, s, true);
}

static int take_operation(struct skew_tap_pass *pass, sqlite3_stmt *s)
{
    return event_add(pass, s, false);
}

static int by_time(const void *x, const void *y)
{
    const struct skew_tap_event *a = x, *b = y;
    if (a->start_ns != b->start_ns)
        return a->start_ns < b->start_ns ? -1 : 1;
    if (a->exchange != b->exchange)
        return a->exchange ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* ---- taps ----------------------------------------------------------------------------------- */

static int number_of(const char *const *names, int count, const char *name)
{
    for (int i = 1; name && i < count; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return 0;
}

static const char *const shapes[SKEW_TAP_SHAPES] = {NULL,
#define X(id, name) name,
                                                    SKEW_TAP_SHAPE_LIST(X)
#undef X
};
static const char *const sides[SKEW_TAP_SIDES] = {NULL,
#define X(id, name) name,
                                                  SKEW_TAP_SIDE_LIST(X)
#undef X
};

static struct skew_tap_buffer *buffer_of(struct skew_tap_call *call, int side)
{
    switch (side) {
    case SKEW_TAP_SIDE_OWN:
        return &call->own;
    case SKEW_TAP_SIDE_WHOLE:
        return &call->whole;
    case SKEW_TAP_SIDE_SENT:
        return &call->sent;
    case SKEW_TAP_SIDE_HEARD:
        return &call->heard;
    case SKEW_TAP_SIDE_RESULT:
        return &call->result;
    default:
        return NULL;
    }
}

static int decode(struct skew_tap_pass *pass, sqlite3_stmt *s, struct skew_tap_buffer *buffer)
{
    int64_t elements, width;
    const uint8_t *data = sqlite3_column_blob(s, 9);
    if (!skew_sql_between(s, 7, 1, SKEW_CELLS_MAX, &elements) ||
        !skew_sql_between(s, 8, 1, 8, &width) || !data ||
        sqlite3_column_bytes(s, 9) != elements * width || buffer->values) {
        skew_error_set(pass->error, "%s: is damaged: a row of table tap makes no sense",
                       pass->trace->path);
        return -EBADMSG;
    }
    buffer->values = calloc((size_t)elements, sizeof *buffer->values);
    if (!buffer->values)
        return skew_tap_no_memory(pass);
    buffer->elements = (uint32_t)elements;
    for (int64_t i = 0; i < elements; i++)
        for (int64_t b = width; b-- > 0;)
            buffer->values[i] = buffer->values[i] << 8 | data[i * width + b];
    return 0;
}

static struct skew_tap_call *call_add(struct skew_tap_pass *pass)
{
    if (pass->calls == pass->call_room) {
        size_t room = pass->call_room ? 2 * pass->call_room : 256;
        void *more = realloc(pass->call, room * sizeof *pass->call);
        if (!more)
            return NULL;
        pass->call = more;
        pass->call_room = room;
    }
    struct skew_tap_call *call = &pass->call[pass->calls++];
    *call = (struct skew_tap_call){.event = UINT32_MAX};
    return call;
}

/* Columns: member_id, thread, group_seq, place, shape, side, dtype, elements, width, data, count.
 * The buffers of one call come one after the other. */
static int take_tap(struct skew_tap_pass *pass, sqlite3_stmt *s)
{
    const struct skew_member *member = skew_trace_member(pass->trace, sqlite3_column_int64(s, 0));
    int shape = number_of(shapes, SKEW_TAP_SHAPES, (const char *)sqlite3_column_text(s, 4));
    int side = number_of(sides, SKEW_TAP_SIDES, (const char *)sqlite3_column_text(s, 5));
    int64_t thread = sqlite3_column_int64(s, 1), group = sqlite3_column_int64(s, 2);
    int64_t place = sqlite3_column_int64(s, 3), count;
    if (!member || !shape || !side || member->rank < 0 || member->comm->ranks < 2 ||
        !skew_sql_between(s, 10, 1, SKEW_CELLS_MAX, &count))
        return 0;
    struct skew_tap_call *call = pass->calls ? &pass->call[pass->calls - 1] : NULL;
    if (!call || call->member != member || call->thread != thread || call->group != group ||
        call->place != place || call->shape != shape) {
        if (!(call = call_add(pass)))
            return skew_tap_no_memory(pass);
        call->member = member;
        call->set = set_of(pass, member);
        call->thread = thread;
        call->group = group;
        call->place = place;
        call->shape = shape;
        call->dtype = sqlite3_column_int(s, 6);
        call->count = (uint32_t)count;
    }
    return decode(pass, s, buffer_of(call, side));
}

static int by_call(const void *x, const void *y)
{
    const struct skew_tap_call *a = x, *b = y;
    if (a->start_ns != b->start_ns)
        return a->start_ns < b->start_ns ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

/* An event by its group, for the time of a tap. */
struct place {
    int64_t thread, group;
    uint32_t event;
};

static int by_group(const void *x, const void *y)
{
    const struct place *a = x, *b = y;
    if (a->thread != b->thread)
        return a->thread < b->thread ? -1 : 1;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    return a->event < b->event ? -1 : a->event > b->event;
}

/* Finds when each tapped call was made, and marks count exchanges among the events. */
static int place_calls(struct skew_tap_pass *pass)
{
    struct place *places = malloc((pass->events + 1) * sizeof *places);
    if (!places)
        return skew_tap_no_memory(pass);
    for (size_t i = 0; i < pass->events; i++)
        places[i] = (struct place){pass->event[i].thread, pass->event[i].group, (uint32_t)i};
    qsort(places, pass->events, sizeof *places, by_group);
    for (size_t i = 0; i < pass->calls; i++) {
        struct skew_tap_call *call = &pass->call[i];
        size_t low = 0, high = pass->events;
        while (low < high) {
            size_t middle = (low + high) / 2;
            const struct place *p = &places[middle];
            if (p->thread < call->thread || (p->thread == call->thread && p->group < call->group))
                low = middle + 1;
            else
                high = middle;
        }
        for (; low < pass->events && places[low].thread == call->thread &&
               places[low].group == call->group;
             low++) {
            struct skew_tap_event *e = &pass->event[places[low].event];
            if (call->event == UINT32_MAX) {
                call->event = places[low].event;
                call->start_ns = e->start_ns;
            }
            e->count_exchange |= e->exchange && e->member == call->member;
        }
    }
    free(places);
    qsort(pass->call, pass->calls, sizeof *pass->call, by_call);
    return 0;
}

int skew_tap_load(struct skew_tap_pass *pass, int64_t process)
{
    int result =
        each(pass,
             "SELECT e.exchange_id, e.member_id, e.start_ns, e.thread, e.group_seq, e.op, e.dtype, "
             "coalesce(e.send_vector, 0), coalesce(e.recv_vector, 0), e.send_unit, e.recv_unit "
             "FROM exchange e JOIN member m USING (member_id) WHERE m.process_id = ?",
             process, take_exchange);
    if (result == 0)
        result = each(
            pass,
            "SELECT o.operation_id, o.member_id, o.start_ns, o.thread, o.group_seq, o.op, o.dtype, "
            "o.count, coalesce(o.root, -1) FROM operation o JOIN member m USING (member_id) "
            "WHERE m.process_id = ?",
            process, take_operation);
    if (result == 0 && pass->events)
        qsort(pass->event, pass->events, sizeof *pass->event, by_time);
    if (result == 0)
        result = each(pass,
                      "SELECT t.member_id, t.thread, t.group_seq, t.place, t.shape, t.side, "
                      "t.dtype, t.elements, "
                      "t.width, t.data, t.count FROM tap t JOIN member m USING (member_id) "
                      "WHERE m.process_id = ? "
                      "ORDER BY t.member_id, t.thread, t.group_seq, t.place, t.shape, t.tap_id",
                      process, take_tap);
    return result == 0 && pass->calls ? place_calls(pass) : result;
}

void skew_tap_unload(struct skew_tap_pass *pass)
{
    for (size_t i = 0; i < pass->calls; i++) {
        free(pass->call[i].own.values);
        free(pass->call[i].whole.values);
        free(pass->call[i].sent.values);
        free(pass->call[i].heard.values);
        free(pass->call[i].result.values);
    }
    pass->calls = pass->events = 0;
}
