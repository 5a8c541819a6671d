/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope info: what is in a trace, how much of what happened it holds, and why not all.
 * Everything is gathered as JSON first; the text is a rendering of that.
 */
#include "command.h"
#include "coverage.h"
#include "info_timing.h"
#include "reading.h"
#include "rows.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "spool.h"

struct arguments {
    const char *path;
    bool json;
    bool all;
};

/* clang-format off */
static const struct argp_option options[] = {
    {"json", 'j', NULL, 0, "as JSON, complete, for machines", 0},
    {"all", 'a', NULL, 0, "do not shorten lists of processes and communicators", 0},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case 'j':
        a->json = true;
        return 0;
    case 'a':
        a->all = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            argp_error(state, "one trace at a time: '%s' and '%s' are two", a->path, text);
        a->path = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->path)
            argp_error(state, "which trace? Give its file or directory");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_info(void)
{
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR",
        "Shows what is in a trace: runs and their labels, processes and their NCCL, communicators "
        "with exchanges and bytes, how much was captured of what happened and what was lost for "
        "which reason, CUDA graphs, and what went differently than planned."
        "\vWhat is still in the "
        "spools of a directory is collected first. Exit status: 0, or 1 when there is no trace or "
        "it cannot be read, or 2 for a wrong command line.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* ---- gathering ----------------------------------------------------------------------------- */

static const struct {
    const char *key;
    const char *sql;
    const char
        *needs; /* a table or view that older traces lack: no rows then; NULL: they have all */
} sections[] = {
    {"meta", "SELECT key, value FROM meta ORDER BY key", NULL},
    {"runs",
     "SELECT run_id, key, command, cwd, version, incarnation, started_real_ns, ended_real_ns,"
     " exit_status, exit_signal FROM run ORDER BY run_id",
     NULL},
    {"labels", "SELECT run_id, key, value FROM run_label ORDER BY run_id, key", NULL},
    {"packages", "SELECT run_id, name, version, path FROM run_package ORDER BY run_id, name, path",
     NULL},
    {"gpus", "SELECT run_id, bus, model, driver FROM run_gpu ORDER BY run_id, bus", "run_gpu"},
    {"processes",
     "SELECT p.process_id, p.run_id, p.pid, p.host, p.exe, p.world_rank, p.local_rank, "
     "p.world_size, p.nccl_version, p.nccl_path, p.nccl_route, p.ended, p.returned_groups, "
     "p.stored_groups, coalesce(l.groups, 0) AS lost_groups FROM process p LEFT JOIN (SELECT "
     "process_id, sum(groups) AS groups FROM loss GROUP BY process_id) l USING (process_id) "
     "ORDER BY p.world_rank IS NULL, p.world_rank, p.process_id",
     NULL},
    {"communicators",
     "SELECT c.comm_id, c.key, c.kind, c.ranks, c.parent_id, c.color, "
     "count(m.member_id) AS ranks_here"
     " FROM communicator c LEFT JOIN member m USING (comm_id) GROUP BY c.comm_id "
     "ORDER BY c.comm_id",
     NULL},
    {"exchanges",
     "SELECT m.comm_id, o.name AS op, count(*) AS exchanges, CAST(total(e.send_unit * s.total) AS "
     "INTEGER) AS send_bytes, CAST(total(e.recv_unit * r.total) AS INTEGER) AS recv_bytes, "
     "sum(e.flags & 1) AS captured, sum(CASE WHEN e.flags & 1 THEN coalesce(l.launches, 0) ELSE "
     "1 END) AS runs, min(e.seq) AS first_seq, max(e.seq) AS last_seq FROM exchange e JOIN "
     "member m USING (member_id) LEFT JOIN op_name o ON o.op = e.op LEFT JOIN vector s ON "
     "s.vector_id = e.send_vector LEFT JOIN vector r ON r.vector_id = e.recv_vector LEFT JOIN "
     "capture_launches l ON l.capture_id = e.capture_id GROUP BY m.comm_id, e.op ORDER BY "
     "m.comm_id, e.op",
     NULL},
    {"operations",
     "SELECT m.comm_id, o.name AS op, count(*) AS calls, CAST(total(p.bytes) AS INTEGER) AS bytes"
     " FROM operation p JOIN member m USING (member_id) LEFT JOIN op_name o ON o.op = p.op"
     " GROUP BY m.comm_id, p.op ORDER BY m.comm_id, p.op",
     NULL},
    {"losses",
     "SELECT reason, sum(groups) AS groups, sum(exchanges) AS exchanges,"
     " sum(operations) AS operations, sum(cells) AS calls, count(*) AS processes"
     " FROM loss GROUP BY reason ORDER BY sum(groups) DESC",
     NULL},
    {"graphs",
     "SELECT (SELECT count(*) FROM graph_capture) AS captures,"
     " (SELECT count(*) FROM graph_launch) AS launches",
     NULL},
    {"diagnostics",
     "SELECT severity, code, text, count(*) AS times FROM diagnostic GROUP BY severity, code, text"
     " ORDER BY CASE severity WHEN 'error' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END, "
     "min(diagnostic_id)",
     NULL},
    {"sizes",
     "SELECT (SELECT count(*) FROM exchange) AS exchanges,"
     " (SELECT count(*) FROM operation) AS operations, (SELECT count(*) FROM vector) AS vectors,"
     " (SELECT count(*) FROM callsite) AS callsites,"
     " (SELECT count(*) FROM exchange_label) AS labelled",
     NULL},
    {"timing", skew_info_timing_sql, "time_coverage"},
    {"tiers", skew_info_tiers_sql, "timing"},
    {"untimed", skew_info_untimed_sql, "untimed"},
    {"overhead", skew_own_cost_sql, "overhead"},
    {"device_backends", skew_info_backends_sql, "backend_time"},
    {"backend_calls", skew_info_backend_calls_sql, "backend_call_total"},
};

static bool has(struct skew_trace *trace, const char *name)
{
    char sql[160];
    struct skew_error error;
    snprintf(sql, sizeof sql, "SELECT 1 FROM sqlite_schema WHERE name = '%s'", name);
    json_t *rows = skew_rows(trace, sql, &error);
    bool found = json_array_size(rows) > 0;
    json_decref(rows);
    return found;
}

static json_t *gather(struct skew_trace *trace, const struct skew_coverage *coverage,
                      struct skew_error *error)
{
    json_t *info = json_object();
    struct stat file;

    json_object_set_new(info, "file", json_string_nocheck(skew_trace_path(trace)));
    if (stat(skew_trace_path(trace), &file) == 0)
        json_object_set_new(info, "file_bytes", json_integer(file.st_size));
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        bool there = !sections[i].needs || has(trace, sections[i].needs);
        json_t *rows = there ? skew_rows(trace, sections[i].sql, error) : json_array();
        if (!rows) {
            json_decref(info);
            return NULL;
        }
        json_object_set_new(info, sections[i].key, rows);
    }
    return skew_json_with_coverage(info, coverage);
}

static int64_t sum_of(const json_t *rows, const char *key)
{
    int64_t sum = 0;
    size_t i;
    json_t *row;

    json_array_foreach(rows, i, row) sum += skew_row_int(row, key);
    return sum;
}

/* ---- text ---------------------------------------------------------------------------------- */

static const char *meta_of(const json_t *info, const char *key)
{
    size_t i;
    json_t *row;

    json_array_foreach(json_object_get(info, "meta"), i,
                       row) if (strcmp(skew_row_text(row, "key"), key) ==
                                0) return skew_row_text(row, "value");
    return "unknown";
}

static void print_command(const char *command)
{
    json_t *arguments = json_loads(command, 0, NULL);
    size_t i;
    json_t *one;

    if (json_array_size(arguments) == 0)
        printf(" no command known (LD_PRELOAD without skewscope run)");
    json_array_foreach(arguments, i, one)
    {
        const char *text = json_string_value(one);
        bool quote = text && (!*text || strpbrk(text, " \t\n'\"\\$*?;&|<>()"));
        char *copy = strdup(text ? text : "?");
        if (!copy)
            break;
        skew_term_clean(copy);
        printf(quote ? " '%s'" : " %s", copy);
        free(copy);
    }
    json_decref(arguments);
}

static void print_run(const json_t *info, const json_t *run)
{
    int64_t id = skew_row_int(run, "run_id");
    int64_t start = skew_row_int(run, "started_real_ns"), end = skew_row_int(run, "ended_real_ns");
    size_t i;
    json_t *row;

    printf("\nrun %s:", *skew_row_text(run, "key") ? skew_row_text(run, "key") : "(none)");
    print_command(skew_row_text(run, "command"));
    putchar('\n');
    if (!skew_row_null(run, "exit_signal"))
        printf("  ended by signal %" PRId64, skew_row_int(run, "exit_signal"));
    else if (!skew_row_null(run, "exit_status"))
        printf("  exit status %" PRId64, skew_row_int(run, "exit_status"));
    else
        printf("  no end known: it still runs, or was killed, or was not started by skewscope run");
    if (start && end > start)
        printf(", after %.1f s", (double)(end - start) / 1e9);
    if (skew_row_int(run, "incarnation") > 0)
        printf(", incarnation %" PRId64, skew_row_int(run, "incarnation"));
    putchar('\n');
    const char *lead = "  labels:";
    json_array_foreach(json_object_get(info, "labels"), i, row)
    {
        if (skew_row_int(row, "run_id") != id)
            continue;
        printf("%s %s=%s", lead, skew_row_text(row, "key"), skew_row_text(row, "value"));
        lead = "";
    }
    if (!*lead)
        putchar('\n');
    json_array_foreach(json_object_get(info, "gpus"), i, row) if (skew_row_int(row, "run_id") == id)
        printf("  GPU %s: %s, driver %s\n", skew_row_text(row, "bus"), skew_row_text(row, "model"),
               skew_row_text(row, "driver"));
    json_array_foreach(json_object_get(info, "packages"), i,
                       row) if (skew_row_int(row, "run_id") == id)
        printf("  package %s %s: %s\n", skew_row_text(row, "name"), skew_row_text(row, "version"),
               skew_row_text(row, "path"));
}

static void format_version(int64_t version, char *text, size_t size)
{
    if (version <= 0)
        snprintf(text, size, "?");
    else if (version < 10000) /* before 2.9 */
        snprintf(text, size, "%d.%d.%d", (int)(version / 1000), (int)(version / 100 % 10),
                 (int)(version % 100));
    else
        snprintf(text, size, "%d.%d.%d", (int)(version / 10000), (int)(version / 100 % 100),
                 (int)(version % 100));
}

static void print_processes(const json_t *info, bool all)
{
    const json_t *processes = json_object_get(info, "processes");
    size_t i, most = all ? SIZE_MAX : 32;
    json_t *row;
    char version[24];

    if (json_array_size(processes) == 0)
        return;
    printf("\n%5s %8s %-10s %-8s %-7s %12s %12s %10s  %s\n", "rank", "pid", "NCCL", "route",
           "ended", "groups", "captured", "lost", "executable");
    json_array_foreach(processes, i, row)
    {
        char rank[24] = "-";
        if (i == most) {
            printf("      … %zu more (--all)\n", json_array_size(processes) - most);
            break;
        }
        if (!skew_row_null(row, "world_rank"))
            snprintf(rank, sizeof rank, "%" PRId64, skew_row_int(row, "world_rank"));
        format_version(skew_row_int(row, "nccl_version"), version, sizeof version);
        printf("%5s %8" PRId64 " %-10s %-8s %-7s %12" PRId64 " %12" PRId64 " %10" PRId64 "  %s\n",
               rank, skew_row_int(row, "pid"), version, skew_row_text(row, "nccl_route"),
               skew_row_text(row, "ended"), skew_row_int(row, "returned_groups"),
               skew_row_int(row, "stored_groups"), skew_row_int(row, "lost_groups"),
               skew_row_text(row, "exe"));
    }
}

/* Lines of one communicator: its exchanges by operation, then everything else it did. */
static void print_traffic(const json_t *info, int64_t comm)
{
    char count[SKEW_COUNT_TEXT], bytes[SKEW_BYTES_TEXT];
    size_t i;
    json_t *row;

    json_array_foreach(json_object_get(info, "exchanges"), i, row)
    {
        if (skew_row_int(row, "comm_id") != comm)
            continue;
        const char *op = skew_row_text(row, "op");
        printf("      %-14s %12s exchanges, %s sent", strcmp(op, "send") == 0 ? "sendrecv" : op,
               skew_count_text(count, (uint64_t)skew_row_int(row, "exchanges")),
               skew_bytes_text(bytes, (uint64_t)skew_row_int(row, "send_bytes")));
        if (skew_row_int(row, "captured"))
            printf("; %" PRId64 " of them in CUDA graphs: %" PRId64 " runs in all",
                   skew_row_int(row, "captured"), skew_row_int(row, "runs"));
        printf(" (seq %" PRId64 "..%" PRId64 ")\n", skew_row_int(row, "first_seq"),
               skew_row_int(row, "last_seq"));
    }
    json_array_foreach(json_object_get(info, "operations"), i,
                       row) if (skew_row_int(row, "comm_id") == comm)
        printf("      %-14s %12s calls, %s\n", skew_row_text(row, "op"),
               skew_count_text(count, (uint64_t)skew_row_int(row, "calls")),
               skew_bytes_text(bytes, (uint64_t)skew_row_int(row, "bytes")));
}

static void print_communicators(const json_t *info, bool all)
{
    const json_t *comms = json_object_get(info, "communicators");
    size_t i, most = all ? SIZE_MAX : 32;
    json_t *row;

    if (json_array_size(comms))
        putchar('\n');
    json_array_foreach(comms, i, row)
    {
        char ranks[24] = "?", parent[48] = "";
        if (i == most) {
            printf("… %zu more communicators (--all)\n", json_array_size(comms) - most);
            break;
        }
        if (!skew_row_null(row, "ranks"))
            snprintf(ranks, sizeof ranks, "%" PRId64, skew_row_int(row, "ranks"));
        if (!skew_row_null(row, "parent_id"))
            snprintf(parent, sizeof parent, " of communicator %" PRId64,
                     skew_row_int(row, "parent_id"));
        printf("communicator %-3" PRId64 " key %s, %s ranks (%" PRId64 " here), %s%s\n",
               skew_row_int(row, "comm_id"), skew_row_text(row, "key"), ranks,
               skew_row_int(row, "ranks_here"), skew_row_text(row, "kind"), parent);
        print_traffic(info, skew_row_int(row, "comm_id"));
    }
}

static const char *reason_text(const char *reason)
{
#define X(id, name, text)                                                                          \
    if (strcmp(reason, name) == 0)                                                                 \
        return text;
    SKEW_LOSS_LIST(X)
#undef X
    return "";
}

static void print_coverage(const json_t *info, bool colour)
{
    const json_t *processes = json_object_get(info, "processes");
    uint64_t returned = (uint64_t)sum_of(processes, "returned_groups");
    uint64_t stored = (uint64_t)sum_of(processes, "stored_groups");
    uint64_t lost = (uint64_t)sum_of(processes, "lost_groups");
    char a[SKEW_COUNT_TEXT], b[SKEW_COUNT_TEXT];
    bool whole = stored >= returned && returned > 0;
    size_t i;
    json_t *row;

    if (colour)
        fputs(whole ? "\033[32m" : "\033[31m", stdout);
    printf("\ncaptured %s of %s NCCL groups in %zu process%s", skew_count_text(a, stored),
           skew_count_text(b, returned), json_array_size(processes),
           json_array_size(processes) == 1 ? "" : "es");
    puts(colour ? "\033[0m" : "");
    json_array_foreach(json_object_get(info, "losses"), i, row)
        printf("  lost %s groups (%s exchanges): %s, %s\n",
               skew_count_text(a, (uint64_t)skew_row_int(row, "groups")),
               skew_count_text(b, (uint64_t)skew_row_int(row, "exchanges")),
               skew_row_text(row, "reason"), reason_text(skew_row_text(row, "reason")));
    if (returned > stored + lost)
        printf("  missing %s groups: still in a spool, or gone with it\n",
               skew_count_text(a, returned - stored - lost));
}

static void print_diagnostics(const json_t *info, bool colour)
{
    size_t i;
    json_t *row;

    if (json_array_size(json_object_get(info, "diagnostics")))
        putchar('\n');
    json_array_foreach(json_object_get(info, "diagnostics"), i, row)
    {
        const char *severity = skew_row_text(row, "severity");
        const char *paint = strcmp(severity, "error") == 0     ? "\033[31m"
                            : strcmp(severity, "warning") == 0 ? "\033[33m"
                                                               : "";
        printf("%s%s%s [%s] %s", colour ? paint : "", severity, colour && *paint ? "\033[0m" : "",
               skew_row_text(row, "code"), skew_row_text(row, "text"));
        if (skew_row_int(row, "times") > 1)
            printf(" (%" PRId64 " times)", skew_row_int(row, "times"));
        putchar('\n');
    }
}

static void print_text(const json_t *info, const struct skew_coverage *coverage,
                       const struct arguments *a, bool colour)
{
    char bytes[SKEW_BYTES_TEXT], count[SKEW_COUNT_TEXT];
    const json_t *graphs = json_array_get(json_object_get(info, "graphs"), 0);
    const json_t *sizes = json_array_get(json_object_get(info, "sizes"), 0);
    uint64_t file_bytes = (uint64_t)json_integer_value(json_object_get(info, "file_bytes"));
    uint64_t exchanges = (uint64_t)skew_row_int(sizes, "exchanges");
    size_t i;
    json_t *row;

    printf("%s: %s, host %s, skewscope %s\n", json_string_value(json_object_get(info, "file")),
           skew_bytes_text(bytes, file_bytes), meta_of(info, "host"), meta_of(info, "version"));
    json_array_foreach(json_object_get(info, "runs"), i, row) print_run(info, row);
    print_processes(info, a->all);
    print_communicators(info, a->all);
    if (skew_row_int(graphs, "captures"))
        printf("\nCUDA graphs: %" PRId64 " captures, %" PRId64 " launches\n",
               skew_row_int(graphs, "captures"), skew_row_int(graphs, "launches"));
    printf("\n%s exchanges, %" PRId64 " distinct size vectors, %" PRId64 " call sites",
           skew_count_text(count, exchanges), skew_row_int(sizes, "vectors"),
           skew_row_int(sizes, "callsites"));
    if (exchanges)
        printf("; %.1f bytes of file an exchange", (double)file_bytes / (double)exchanges);
    putchar('\n');
    print_coverage(info, colour);
    skew_info_timing_print(info);
    if (coverage->returned) {
        skew_own_cost_print(coverage);
        putchar('\n');
    }
    skew_info_backends_print(info);
    print_diagnostics(info, colour);
}

static int show(struct arguments *a, const struct skew_reading *reading)
{
    bool colour = skew_colour(stdout, SKEW_COLOUR_AUTO);
    struct skew_coverage *coverage = calloc(reading->count, sizeof *coverage);
    json_t *all = json_array();
    int result = coverage ? 0 : -ENOMEM;

    if (!coverage)
        skew_tell("out of memory");
    for (size_t t = 0; t < reading->count && result == 0; t++) {
        struct skew_error error;
        json_t *info = NULL;
        result = skew_coverage_read(&coverage[t], &(struct skew_reading){&reading->traces[t], 1});
        if (result == 0 && !(info = gather(reading->traces[t], &coverage[t], &error))) {
            skew_tell("%s", error.text);
            result = -EBADMSG;
        }
        json_array_append_new(all, info);
    }
    if (result < 0) {
        json_decref(all);
        free(coverage);
        return result;
    }
    if (a->json) {
        json_dumpf(all, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        putchar('\n');
    }
    for (size_t i = 0; i < json_array_size(all) && !a->json; i++) {
        if (i)
            putchar('\n');
        print_text(json_array_get(all, i), &coverage[i], a, colour);
    }
    json_decref(all);
    free(coverage);
    return 0;
}

int skew_cmd_info(int argc, char **argv)
{
    struct arguments arguments = {0};
    struct skew_reading reading;

    argp_parse(skew_argp_info(), argc, argv, 0, NULL, &arguments);
    if (skew_reading_open(&reading, arguments.path) < 0)
        return SKEW_EXIT_FAILURE;
    int result = show(&arguments, &reading);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
