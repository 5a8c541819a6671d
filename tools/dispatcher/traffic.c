/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See dispatcher.h: dispatches and combines that went through NCCL, by label; their bytes, their
 * device time, and their share of a step.
 */
#include "dispatcher.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "label.h"
#include "term.h"

static const char *family(int role)
{
    switch (role) {
    case SKEW_LABEL_DISPATCH:
    case SKEW_LABEL_COMBINE_BWD:
    case SKEW_LABEL_DISPATCH_RECOMPUTE:
        return "to_experts";
    case SKEW_LABEL_COMBINE:
    case SKEW_LABEL_DISPATCH_BWD:
    case SKEW_LABEL_COMBINE_RECOMPUTE:
        return "from_experts";
    default:
        return NULL;
    }
}

/* One call of one process in one step. */
struct step_call {
    int64_t process, step, start, ns;
};

struct traffic {
    json_t *facts;
    const struct skew_labels *labels;
    int64_t ranks;
    struct step_call *calls; /* of which the step is known and the device time was measured */
    size_t count, room;
};

/* A row of either query: what both have in the same columns. */
enum { C_ID, C_BYTES, C_NS, C_RANKS, C_PROCESS, C_START, C_MEMBER, C_THREAD, C_GROUP };

static int keep_call(struct traffic *t, const struct step_call *call)
{
    if (t->count == t->room) {
        size_t room = t->room ? 2 * t->room : 1024;
        struct step_call *more = realloc(t->calls, room * sizeof *more);
        if (!more)
            return -ENOMEM;
        t->calls = more;
        t->room = room;
    }
    t->calls[t->count++] = *call;
    return 0;
}

/* What one exchange, or operation, adds: counts, bytes, and time where it was measured (ns < 0:
 * not). */
static int add_call(struct traffic *t, sqlite3_stmt *s, const struct skew_label *label,
                    const char *what, int64_t ns)
{
    json_t *to = skew_member(skew_member(skew_member(t->facts, "nccl"), what), family(label->role));
    int64_t ranks = sqlite3_column_int64(s, C_RANKS);

    skew_add_int(to, "calls", 1);
    skew_add_int(to, "bytes", sqlite3_column_int64(s, C_BYTES));
    t->ranks = ranks > t->ranks ? ranks : t->ranks;
    if (ns < 0)
        return 0;
    skew_add_int(to, "timed", 1);
    skew_add_int(to, "ns", ns);
    if (label->step < 0)
        return 0;
    return keep_call(t, &(struct step_call){sqlite3_column_int64(s, C_PROCESS), label->step,
                                            sqlite3_column_int64(s, C_START), ns});
}

#define TIMES                                                                                      \
    "LEFT JOIN (SELECT member_id, thread, group_seq, sum(end_ns - start_ns) AS ns FROM "           \
    "device_time GROUP BY 1, 2, 3) d USING (member_id, thread, group_seq) "

static int add_exchanges(struct traffic *t, struct skew_trace *trace)
{
    sqlite3_stmt *s = NULL;
    int result = 0;
    int rc = sqlite3_prepare_v2(
        skew_trace_db(trace),
        "SELECT e.exchange_id, coalesce(e.send_unit * v.total, 0), d.ns, c.ranks, m.process_id, "
        "e.start_ns FROM exchange e JOIN member m USING (member_id) JOIN communicator c USING "
        "(comm_id) LEFT JOIN vector v ON v.vector_id = e.send_vector " TIMES,
        -1, &s, NULL);
    while (rc == SQLITE_OK && result == 0 && sqlite3_step(s) == SQLITE_ROW) {
        const struct skew_label *label =
            skew_labels_exchange(t->labels, sqlite3_column_int64(s, C_ID));
        if (!label || label->role == SKEW_LABEL_UNKNOWN)
            skew_add_int(t->facts, "untold", 1);
        else if (family(label->role))
            result = add_call(
                t, s, label, "exchanges",
                sqlite3_column_type(s, C_NS) == SQLITE_NULL ? -1 : sqlite3_column_int64(s, C_NS));
    }
    sqlite3_finalize(s);
    return rc == SQLITE_OK ? result : -EIO;
}

/* The time is that of a group, in which several operations may be: the first one gets it. */
static int add_operations(struct traffic *t, struct skew_trace *trace)
{
    sqlite3_stmt *s = NULL;
    int64_t last[3] = {-1, -1, -1};
    int result = 0;
    int rc = sqlite3_prepare_v2(
        skew_trace_db(trace),
        "SELECT o.operation_id, o.bytes, d.ns, c.ranks, m.process_id, o.start_ns, o.member_id, "
        "o.thread, o.group_seq FROM operation o JOIN member m USING (member_id) JOIN communicator "
        "c USING (comm_id) " TIMES "ORDER BY o.member_id, o.thread, o.group_seq, o.operation_id",
        -1, &s, NULL);
    while (rc == SQLITE_OK && result == 0 && sqlite3_step(s) == SQLITE_ROW) {
        const struct skew_label *label =
            skew_labels_operation(t->labels, sqlite3_column_int64(s, C_ID));
        int64_t group[3] = {sqlite3_column_int64(s, C_MEMBER), sqlite3_column_int64(s, C_THREAD),
                            sqlite3_column_int64(s, C_GROUP)};
        if (!label || !family(label->role))
            continue;
        bool first = memcmp(group, last, sizeof last) != 0;
        memcpy(last, group, sizeof last);
        result = add_call(t, s, label, "operations",
                          sqlite3_column_type(s, C_NS) == SQLITE_NULL ? -1
                          : first ? sqlite3_column_int64(s, C_NS)
                                  : 0);
    }
    sqlite3_finalize(s);
    return rc == SQLITE_OK ? result : -EIO;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int by_step(const void *one, const void *other)
{
    const struct step_call *a = one, *b = other;

    if (a->process != b->process)
        return a->process < b->process ? -1 : 1;
    if (a->step != b->step)
        return a->step < b->step ? -1 : 1;
    return a->start < b->start ? -1 : a->start > b->start;
}

static int by_value(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return a < b ? -1 : a > b;
}

/*
 * Of each process and step: device time of its dispatches and combines over the time from its first
 * one to the first one of the next step. The last step has no end.
 */
static int add_shares(struct traffic *t)
{
    json_t *shares = json_object_get(t->facts, "step_shares");
    size_t at = 0;

    if (t->count)
        qsort(t->calls, t->count, sizeof *t->calls, by_step);
    while (at < t->count) {
        const struct step_call *first = &t->calls[at];
        int64_t ns = 0;
        for (; at < t->count && t->calls[at].process == first->process &&
               t->calls[at].step == first->step;
             at++)
            ns += t->calls[at].ns;
        if (at == t->count || t->calls[at].process != first->process ||
            t->calls[at].step != first->step + 1 || t->calls[at].start <= first->start)
            continue;
        if (json_array_append_new(
                shares, json_real((double)ns / (double)(t->calls[at].start - first->start))) < 0)
            return -ENOMEM;
    }
    return 0;
}

int skew_dispatcher_shares(json_t *facts)
{
    json_t *shares = json_object_get(facts, "step_shares");
    size_t n = json_array_size(shares);
    double *values = malloc((n + 1) * sizeof *values);
    int error = values ? 0 : -ENOMEM;

    for (size_t i = 0; i < n && !error; i++)
        values[i] = json_real_value(json_array_get(shares, i));
    if (!error && n) {
        qsort(values, n, sizeof *values, by_value);
        error = json_object_set_new(
            facts, "step_share",
            json_pack("{s:f, s:f, s:f, s:I}", "median",
                      n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2, "least",
                      values[0], "largest", values[n - 1], "steps", (json_int_t)n));
    }
    json_object_del(facts, "step_shares");
    free(values);
    return error ? -ENOMEM : 0;
}

int skew_dispatcher_traffic(json_t *facts, struct skew_trace *trace)
{
    struct traffic t = {.facts = facts};
    struct skew_labels *labels = NULL;
    struct skew_error error;

    if (skew_labels_get(trace, NULL, &labels, &error) < 0) {
        skew_tell("%s", error.text);
        return -EIO;
    }
    t.labels = labels;
    int result = add_exchanges(&t, trace);
    if (!result)
        result = add_operations(&t, trace);
    if (!result)
        result = add_shares(&t);
    if (result == -ENOMEM)
        skew_tell("out of memory");
    else if (result)
        skew_tell("%s: %s", skew_trace_path(trace), sqlite3_errmsg(skew_trace_db(trace)));
    free(t.calls);
    skew_labels_free(&labels);
    if (t.ranks > json_integer_value(json_object_get(facts, "ep")))
        json_object_set_new(facts, "ep", json_integer(t.ranks));
    return result;
}
