/* SPDX-License-Identifier: Apache-2.0 */
/* See dispatcher.h: what a trace says, before anything is made of it. */
#include "dispatcher.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "collect/backends.h"
#include "kernels.h"
#include "label.h"
#include "rows.h"
#include "term.h"

/* Adds the rows of one query of one database to an array. */
static int add_rows(json_t *to, struct skew_trace *trace, const char *sql)
{
    struct skew_error error;
    json_t *rows = skew_rows(trace, sql, &error);
    if (!rows) {
        skew_tell("%s", error.text);
        return -EIO;
    }
    json_array_extend(to, rows);
    json_decref(rows);
    return 0;
}

static void add_int(json_t *object, const char *key, json_int_t value)
{
    json_object_set_new(object, key,
                        json_integer(json_integer_value(json_object_get(object, key)) + value));
}

static json_t *member(json_t *object, const char *key)
{
    json_t *found = json_object_get(object, key);
    if (!found && json_object_set_new(object, key, json_object()) == 0)
        found = json_object_get(object, key);
    return found;
}

/* ---- device backends ------------------------------------------------------------------------- */

static int add_libraries(json_t *facts, struct skew_trace *trace)
{
    json_t *rows = json_array(), *loaded = member(facts, "libraries"), *row;
    size_t i;
    int error =
        add_rows(rows, trace, "SELECT DISTINCT path FROM module WHERE role = 'device_backend'");
    json_array_foreach(rows, i, row)
    {
        const struct skew_backend *backend = skew_backend_of(skew_row_text(row, "path"));
        if (backend)
            json_object_set_new(loaded, backend->name, json_string(skew_row_text(row, "path")));
    }
    json_decref(rows);
    return error;
}

static void add_kernel(json_t *facts, const json_t *row, json_t *unknown)
{
    static const char *const arguments[] = {"ranks",  "experts",      "topk",
                                            "hidden", "hidden_bytes", "max_tokens"};
    struct skew_kernel kernel;
    skew_kernel_classify(skew_row_text(row, "name"), &kernel);
    if (kernel.does == SKEW_KERNEL_UNKNOWN) {
        char *plain = skew_kernel_demangle(skew_row_text(row, "name"));
        json_array_append_new(unknown, json_string(plain ? plain : skew_row_text(row, "name")));
        free(plain);
    }
    if (!kernel.backend || kernel.does == SKEW_KERNEL_OTHER)
        return;
    json_t *backend = member(member(facts, "kernels"), kernel.backend);
    json_t *what = member(backend, skew_kernel_does_name(kernel.does));
    add_int(what, "kernels", skew_row_int(row, "kernels"));
    add_int(what, "busy_ns", skew_row_int(row, "busy_ns"));
    json_object_set_new(backend, "bytes_seen", json_boolean(kernel.bytes_seen));
    for (unsigned i = 0; i < SKEW_KERNEL_ARGUMENTS; i++)
        if (kernel.argument[i])
            json_object_set_new(backend, arguments[i], json_integer(kernel.argument[i]));
}

static int add_kernels(json_t *facts, struct skew_trace *trace)
{
    json_t *rows = json_array(), *row, *unknown = json_object_get(facts, "unknown_kernels");
    size_t i;
    int error = add_rows(
        rows, trace,
        "SELECT n.name, coalesce(sum(k.kernels), 0) AS kernels, coalesce(sum(k.busy_ns), 0) AS "
        "busy_ns "
        "FROM kernel_name n LEFT JOIN kernel k USING (process_id, name_id) GROUP BY n.name");
    json_array_foreach(rows, i, row) add_kernel(facts, row, unknown);
    json_decref(rows);
    return error;
}

/* Calls that were noted: they prove that a backend was at work where nobody looked at its kernels.
 */
static int add_calls(json_t *facts, struct skew_trace *trace)
{
    json_t *rows = json_array(), *row;
    size_t i;
    bool there = sqlite3_table_column_metadata(skew_trace_db(trace), NULL, "backend_call_count",
                                               "calls", NULL, NULL, NULL, NULL, NULL) == SQLITE_OK;
    int error = there ? add_rows(rows, trace,
                                 "SELECT backend, function, does, sum(calls) AS calls "
                                 "FROM backend_call_count GROUP BY 1, 2, 3")
                      : 0;
    json_array_foreach(rows, i, row)
    {
        json_t *function = member(member(member(facts, "calls"), skew_row_text(row, "backend")),
                                  skew_row_text(row, "function"));
        add_int(function, "calls", skew_row_int(row, "calls"));
        json_object_set(function, "does", json_object_get(row, "does"));
    }
    json_decref(rows);
    return error;
}

/* ---- what went through NCCL ------------------------------------------------------------------ */

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

struct traffic {
    json_t *facts;
    const struct skew_labels *labels;
    sqlite3_stmt *time;
    int64_t ranks;
};

/* What one exchange, or operation, adds: counts, bytes, and time where it was measured. */
static void add_call(struct traffic *t, const char *way, const char *what, int64_t bytes,
                     int64_t ns)
{
    json_t *to = member(member(member(t->facts, "nccl"), what), way);
    add_int(to, "calls", 1);
    add_int(to, "bytes", bytes);
    if (ns >= 0) {
        add_int(to, "timed", 1);
        add_int(to, "ns", ns);
    }
}

static int add_exchanges(struct traffic *t, struct skew_trace *trace)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(
        skew_trace_db(trace),
        "SELECT e.exchange_id, coalesce(e.send_unit * v.total, 0), d.ns, c.ranks FROM exchange e "
        "JOIN member m USING (member_id) JOIN communicator c USING (comm_id) "
        "LEFT JOIN vector v ON v.vector_id = e.send_vector LEFT JOIN "
        "(SELECT member_id, thread, group_seq, sum(end_ns - start_ns) AS ns FROM device_time GROUP "
        "BY 1, 2, 3) d "
        "ON d.member_id = e.member_id AND d.thread = e.thread AND d.group_seq = e.group_seq",
        -1, &s, NULL);
    while (rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW) {
        const struct skew_label *label =
            skew_labels_exchange(t->labels, sqlite3_column_int64(s, 0));
        const char *way = label ? family(label->role) : NULL;
        if (!way && (!label || label->role == SKEW_LABEL_UNKNOWN))
            add_int(t->facts, "untold", 1);
        if (!way)
            continue;
        add_call(t, way, "exchanges", sqlite3_column_int64(s, 1),
                 sqlite3_column_type(s, 2) == SQLITE_NULL ? -1 : sqlite3_column_int64(s, 2));
        t->ranks = sqlite3_column_int64(s, 3) > t->ranks ? sqlite3_column_int64(s, 3) : t->ranks;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_OK ? 0 : -EIO;
}

static int add_operations(struct traffic *t, struct skew_trace *trace)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(
        skew_trace_db(trace),
        "SELECT o.operation_id, o.bytes, c.ranks FROM operation o JOIN member m USING (member_id) "
        "JOIN communicator c USING (comm_id)",
        -1, &s, NULL);
    while (rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW) {
        const struct skew_label *label =
            skew_labels_operation(t->labels, sqlite3_column_int64(s, 0));
        const char *way = label ? family(label->role) : NULL;
        if (!way)
            continue;
        add_call(t, way, "operations", sqlite3_column_int64(s, 1), -1);
        t->ranks = sqlite3_column_int64(s, 2) > t->ranks ? sqlite3_column_int64(s, 2) : t->ranks;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_OK ? 0 : -EIO;
}

static int add_traffic(json_t *facts, struct skew_trace *trace)
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
    if (result)
        skew_tell("%s: %s", skew_trace_path(trace), sqlite3_errmsg(skew_trace_db(trace)));
    skew_labels_free(&labels);
    if (t.ranks > json_integer_value(json_object_get(facts, "ep")))
        json_object_set_new(facts, "ep", json_integer(t.ranks));
    return result;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int add_trace(json_t *facts, struct skew_trace *trace)
{
    static const struct {
        const char *key, *sql;
    } tables[] = {
        {"runs", "SELECT run_id, command, exit_status, exit_signal, version FROM run"},
        {"labels", "SELECT key, value FROM run_label"},
        {"env", "SELECT DISTINCT name, value FROM run_env UNION SELECT DISTINCT name, value FROM "
                "process_env"},
        {"packages", "SELECT DISTINCT name, version, path FROM run_package"},
        {"commands", "SELECT DISTINCT cmdline FROM process WHERE cmdline IS NOT NULL"},
        {"nccl_paths", "SELECT DISTINCT nccl_path FROM process WHERE nccl_path IS NOT NULL"},
        {"nccl_paths", "SELECT DISTINCT nccl_path FROM process WHERE nccl_path IS NOT NULL"},
        {"hosts", "SELECT DISTINCT host FROM process WHERE host IS NOT NULL"},
        {"notes",
         "SELECT DISTINCT code, text FROM diagnostic WHERE code IN ('static_nccl', 'no_nccl_call', "
         "'device_backend', 'device_api')"},
    };
    int error = 0;
    for (size_t i = 0; !error && i < sizeof tables / sizeof *tables; i++)
        error = add_rows(json_object_get(facts, tables[i].key), trace, tables[i].sql);
    json_t *rows = json_array(), *row;
    size_t n;
    if (!error)
        error = add_rows(rows, trace,
                         "SELECT (SELECT count(*) FROM process) AS processes, (SELECT count(*) "
                         "FROM communicator) AS comms, "
                         "(SELECT coalesce(sum(hi - lo), 0) FROM (SELECT max(e.start_ns) AS hi, "
                         "min(e.start_ns) AS lo FROM exchange e "
                         "JOIN member m USING (member_id) GROUP BY m.process_id)) AS span_ns, "
                         "(SELECT coalesce(sum(measured_ns), 0) FROM overhead) AS own_ns, "
                         "(SELECT coalesce(sum(measured_groups), 0) FROM overhead) AS own_groups, "
                         "(SELECT coalesce(sum(enqueue_ns), 0) FROM exchange) AS enqueue_ns, "
                         "(SELECT count(*) FROM exchange) AS exchanges");
    json_array_foreach(rows, n, row)
    {
        const char *key;
        json_t *value;
        json_object_foreach(row, key, value) add_int(facts, key, json_integer_value(value));
    }
    json_decref(rows);
    if (!error)
        error = add_libraries(facts, trace);
    if (!error)
        error = add_kernels(facts, trace);
    if (!error)
        error = add_calls(facts, trace);
    /* What was imported has processes and exchanges that nobody ran. */
    if (!error && json_is_true(json_object_get(facts, "imported"))) {
        static const char *const made_up[] = {"processes", "exchanges", "enqueue_ns", "span_ns"};
        for (size_t i = 0; i < sizeof made_up / sizeof *made_up; i++)
            json_object_set_new(facts, made_up[i], json_integer(0));
        json_array_clear(json_object_get(facts, "hosts"));
        return 0;
    }
    return error ? error : add_traffic(facts, trace);
}

json_t *skew_dispatcher_facts(const struct skew_reading *reading)
{
    static const char *const arrays[] = {"runs",     "labels",          "env",
                                         "packages", "commands",        "hosts",
                                         "notes",    "unknown_kernels", "nccl_paths"};
    json_t *facts = json_object();
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        json_object_set_new(facts, arrays[i], json_array());
    json_object_set_new(facts, "kernels", json_object());
    json_object_set_new(facts, "libraries", json_object());
    json_object_set_new(facts, "calls", json_object());
    json_object_set_new(facts, "nccl", json_object());
    json_object_set_new(facts, "trace", json_string(skew_trace_path(reading->traces[0])));
    json_object_set_new(facts, "imported", json_boolean(skew_reading_imported(reading)));
    json_object_set_new(facts, "standin", json_boolean(skew_reading_standin(reading)));
    for (size_t i = 0; i < reading->count; i++)
        if (add_trace(facts, reading->traces[i])) {
            json_decref(facts);
            return NULL;
        }
    return facts;
}
