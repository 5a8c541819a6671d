/* SPDX-License-Identifier: Apache-2.0 */
/* See dispatcher.h: what a trace says, before anything is made of it. */
#include "dispatcher.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "collect/backends.h"
#include "kernels.h"
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

void skew_add_int(json_t *object, const char *key, json_int_t value)
{
    json_object_set_new(object, key,
                        json_integer(json_integer_value(json_object_get(object, key)) + value));
}

json_t *skew_member(json_t *object, const char *key)
{
    json_t *found = json_object_get(object, key);
    if (!found && json_object_set_new(object, key, json_object()) == 0)
        found = json_object_get(object, key);
    return found;
}

/* ---- device backends ------------------------------------------------------------------------- */

static int add_libraries(json_t *facts, struct skew_trace *trace)
{
    json_t *rows = json_array(), *loaded = skew_member(facts, "libraries"), *row;
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
    json_t *backend = skew_member(skew_member(facts, "kernels"), kernel.backend);
    json_t *what = skew_member(backend, skew_kernel_does_name(kernel.does));
    skew_add_int(what, "kernels", skew_row_int(row, "kernels"));
    skew_add_int(what, "busy_ns", skew_row_int(row, "busy_ns"));
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
    bool there = skew_trace_has(trace, "backend_call_count", NULL);
    int error = there ? add_rows(rows, trace,
                                 "SELECT backend, function, does, sum(calls) AS calls "
                                 "FROM backend_call_count GROUP BY 1, 2, 3")
                      : 0;
    json_array_foreach(rows, i, row)
    {
        json_t *function =
            skew_member(skew_member(skew_member(facts, "calls"), skew_row_text(row, "backend")),
                        skew_row_text(row, "function"));
        skew_add_int(function, "calls", skew_row_int(row, "calls"));
        json_object_set(function, "does", json_object_get(row, "does"));
    }
    json_decref(rows);
    return error;
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
        {"hosts", "SELECT DISTINCT host FROM process WHERE host IS NOT NULL"},
        {"notes",
         "SELECT DISTINCT code, text FROM diagnostic WHERE code IN ('static_nccl', 'no_nccl_call', "
         "'device_backend', 'device_api')"},
    };
    int error = 0;
    for (size_t i = 0; !error && i < sizeof tables / sizeof *tables; i++)
        error = add_rows(json_object_get(facts, tables[i].key), trace, tables[i].sql);
    if (!error && skew_trace_has(trace, "run_gpu", NULL))
        error = add_rows(json_object_get(facts, "gpus"), trace,
                         "SELECT model, driver, count(DISTINCT bus) AS gpus FROM run_gpu "
                         "GROUP BY model, driver ORDER BY gpus DESC, model");
    json_t *rows = json_array(), *row;
    size_t n;
    if (!error)
        error = add_rows(rows, trace,
                         "SELECT (SELECT count(*) FROM process) AS processes, (SELECT count(*) "
                         "FROM communicator) AS comms, "
                         "(SELECT coalesce(sum(hi - lo), 0) FROM (SELECT max(start_ns) AS hi, "
                         "min(start_ns) AS lo FROM (SELECT member_id, start_ns FROM exchange UNION "
                         "ALL SELECT member_id, start_ns FROM operation) JOIN member m USING "
                         "(member_id) GROUP BY m.process_id)) AS span_ns, "
                         "(SELECT coalesce(sum(measured_ns), 0) FROM overhead) AS own_ns, "
                         "(SELECT coalesce(sum(measured_groups), 0) FROM overhead) AS own_groups, "
                         "(SELECT coalesce(sum(enqueue_ns), 0) FROM exchange) + (SELECT "
                         "coalesce(sum(enqueue_ns), 0) FROM operation) AS enqueue_ns, "
                         "(SELECT count(*) FROM exchange) AS exchanges, "
                         "(SELECT count(*) FROM operation) AS operations");
    json_array_foreach(rows, n, row)
    {
        const char *key;
        json_t *value;
        json_object_foreach(row, key, value) skew_add_int(facts, key, json_integer_value(value));
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
    return error ? error : skew_dispatcher_traffic(facts, trace);
}

json_t *skew_dispatcher_facts(const struct skew_reading *reading)
{
    static const char *const arrays[] = {
        "runs",     "labels", "env",   "packages",        "gpus",
        "commands", "hosts",  "notes", "unknown_kernels", "nccl_paths"};
    json_t *facts = json_object();
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        json_object_set_new(facts, arrays[i], json_array());
    json_object_set_new(facts, "kernels", json_object());
    json_object_set_new(facts, "libraries", json_object());
    json_object_set_new(facts, "calls", json_object());
    json_object_set_new(facts, "nccl", json_object());
    json_object_set_new(facts, "step_shares", json_array());
    json_object_set_new(facts, "trace", json_string(skew_trace_path(reading->traces[0])));
    json_object_set_new(facts, "imported", json_boolean(skew_reading_imported(reading)));
    json_object_set_new(facts, "standin", json_boolean(skew_reading_standin(reading)));
    for (size_t i = 0; i < reading->count; i++)
        if (add_trace(facts, reading->traces[i])) {
            json_decref(facts);
            return NULL;
        }
    if (skew_dispatcher_shares(facts) < 0) {
        skew_tell("out of memory");
        json_decref(facts);
        return NULL;
    }
    return facts;
}
