/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope hang: which rank never came, which sizes disagree, and where both sides called.
 */
#include "command.h"
#include "coverage.h"
#include "hang.h"
#include "reading.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *path;
    bool json;
};

static const struct argp_option options[] = {
    {"json", 'j', NULL, 0, "as JSON, for machines (docs/labels.md)", 0}, {0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case 'j':
        a->json = true;
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

const struct argp *skew_argp_hang(void)
{
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR",
        "Says why a job stands still, from what its ranks called last: a rank that did not come to "
        "an "
        "exchange or collective that others wait in, sizes on which sender and receiver disagree, "
        "ranks "
        "that were killed; with the call sites of both sides."
        "\vA trace of a job that still runs shows what was called until now. Exit status: 0 when "
        "everything "
        "met, 1 when something did not or the trace cannot be read, 2 for a wrong command line.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* ---- words -------------------------------------------------------------------------------------
 */

/* The call site as text, in memory that the caller frees; NULL: none. */
static char *stack_of(const struct skew_reading *reading, const struct skew_hang_call *call)
{
    sqlite3_stmt *s = NULL;
    char *text = NULL;

    if (!call->site || call->op < 0)
        return NULL;
    if (sqlite3_prepare_v2(skew_trace_db(reading->traces[call->trace]),
                           "SELECT stack FROM callsite_text WHERE site_id = ?", -1, &s,
                           NULL) == SQLITE_OK) {
        sqlite3_bind_int64(s, 1, call->site);
        if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_text(s, 0)) {
            text = strdup((const char *)sqlite3_column_text(s, 0));
            if (text)
                skew_term_clean(text);
        }
    }
    sqlite3_finalize(s);
    return text;
}

static char *op_name(const struct skew_reading *reading, const struct skew_hang_call *call)
{
    sqlite3_stmt *s = NULL;
    char *text = NULL;

    if (call->op < 0)
        return NULL;
    if (sqlite3_prepare_v2(skew_trace_db(reading->traces[call->trace]),
                           "SELECT name FROM op_name WHERE op = ?", -1, &s, NULL) == SQLITE_OK) {
        sqlite3_bind_int(s, 1, call->op);
        if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_text(s, 0))
            text = strdup((const char *)sqlite3_column_text(s, 0));
    }
    sqlite3_finalize(s);
    if (text)
        skew_term_clean(text);
    return text;
}

/* "exchange 7 (sendrecv)", "collective 3 (allreduce of 96 elements)" */
static void print_call(const struct skew_reading *reading, const struct skew_hang_call *call)
{
    char *name = op_name(reading, call);
    bool exchange = call->op >= 0 && call->op <= 4; /* enum skew_op: send … alltoallv */

    if (call->op < 0)
        printf("nothing");
    else if (exchange)
        printf("exchange %" PRId64 " (%s)", call->seq, name ? name : "?");
    else
        printf("collective %" PRId64 " (%s of %" PRId64 " elements)", call->seq, name ? name : "?",
               call->count);
    free(name);
}

static void print_site(const struct skew_reading *reading, const char *title,
                       const struct skew_hang_call *call)
{
    char *stack = stack_of(reading, call);

    if (call->op >= 0)
        printf("  %s: %s\n", title, stack ? stack : "call site not known");
    free(stack);
}

static void print_rank(const struct skew_member *m)
{
    printf("rank %d", m->rank);
    if (m->world_rank >= 0 && m->world_rank != m->rank)
        printf(" (world rank %d)", m->world_rank);
}

static void print_end(const struct skew_hang_finding *f, const struct skew_reading *reading)
{
    printf("  ");
    print_rank(f->suspect);
    if (f->suspect_ended && strcmp(f->suspect_ended, "killed") == 0)
        printf(": its process was killed, or ended without its exit handlers");
    else if (f->suspect_ended && strcmp(f->suspect_ended, "exited") == 0)
        printf(": its process has exited");
    else if (f->suspect_ended && strcmp(f->suspect_ended, "running") == 0)
        printf(": its process was running when last looked");
    printf("%s its last call anywhere was ", f->suspect_ended ? ";" : ":");
    print_call(reading, &f->suspect_last);
    if (f->suspect_last_comm)
        printf(" on communicator %" PRId64, f->suspect_last_comm);
    putchar('\n');
}

static void print_size(const struct skew_hang_finding *f, const struct skew_reading *reading)
{
    print_rank(f->witness);
    printf(" sends %" PRIu64 " bytes to ", f->sent_bytes);
    print_rank(f->suspect);
    printf(", which expects %" PRIu64 ": send %" PRIu64 " of this pair\n", f->expected_bytes,
           f->nth);
    printf("  sender in ");
    print_call(reading, &f->witness_call);
    printf(", receiver in ");
    print_call(reading, &f->suspect_call);
    putchar('\n');
    print_site(reading, "sender", &f->witness_call);
    print_site(reading, "receiver", &f->suspect_call);
}

static void print_absent(const struct skew_hang_finding *f, const struct skew_reading *reading)
{
    print_rank(f->suspect);
    printf(" never came: %" PRIu64 " rank%s wait%s for it, ", f->waiting,
           f->waiting == 1 ? "" : "s", f->waiting == 1 ? "s" : "");
    print_rank(f->witness);
    printf(" in ");
    print_call(reading, &f->witness_call);
    putchar('\n');
    if (f->kind == SKEW_HANG_ABSENT)
        printf("  pair: rank %d sends it %" PRIu64 " bytes and expects %" PRIu64 " from it\n",
               f->witness->rank, f->sent_bytes, f->expected_bytes);
    print_site(reading, "waiting", &f->witness_call);
    printf("  its last call on this communicator was ");
    print_call(reading, &f->suspect_call);
    putchar('\n');
    print_site(reading, "missing", &f->suspect_call);
    print_end(f, reading);
}

static void print_differs(const struct skew_hang_finding *f, const struct skew_reading *reading)
{
    print_rank(f->suspect);
    printf(" called ");
    print_call(reading, &f->suspect_call);
    printf(" where ");
    print_rank(f->witness);
    printf(" called ");
    print_call(reading, &f->witness_call);
    putchar('\n');
    print_site(reading, "one", &f->suspect_call);
    print_site(reading, "other", &f->witness_call);
}

static void print_finding(const struct skew_hang_finding *f, const struct skew_reading *reading)
{
    printf("communicator %" PRId64 " (key %s), %u ranks: ", f->comm->id, f->comm->key,
           f->comm->ranks);
    if (f->kind == SKEW_HANG_SIZE)
        print_size(f, reading);
    else if (f->kind == SKEW_HANG_DIFFERS)
        print_differs(f, reading);
    else
        print_absent(f, reading);
}

/* ---- JSON --------------------------------------------------------------------------------------
 */

static json_t *text_json(char *text)
{
    json_t *j = text ? json_string(text) : NULL;
    free(text);
    return j ? j : json_null();
}

static json_t *call_json(const struct skew_reading *reading, const struct skew_hang_call *call)
{
    if (call->op < 0)
        return json_null();
    return json_pack("{s:o, s:I, s:I, s:o}", "op", text_json(op_name(reading, call)), "seq",
                     (json_int_t)call->seq, "count", (json_int_t)call->count, "call_site",
                     text_json(stack_of(reading, call)));
}

static int print_json(const struct skew_hang *h, const struct skew_reading *reading,
                      const struct skew_coverage *coverage)
{
    static const char *const kinds[] = {"size", "absent", "behind", "differs"};
    json_t *all = json_array();

    for (size_t i = 0; i < h->count; i++) {
        const struct skew_hang_finding *f = &h->findings[i];
        json_array_append_new(
            all,
            json_pack("{s:s, s:I, s:s, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:o, s:o, s:o, s:o}",
                      "kind", kinds[f->kind], "comm_id", (json_int_t)f->comm->id, "comm_key",
                      f->comm->key, "rank", f->suspect->rank, "world_rank", f->suspect->world_rank,
                      "other_rank", f->witness->rank, "other_world_rank", f->witness->world_rank,
                      "waiting", (json_int_t)f->waiting, "sent_bytes", (json_int_t)f->sent_bytes,
                      "expected_bytes", (json_int_t)f->expected_bytes, "call",
                      call_json(reading, &f->suspect_call), "other_call",
                      call_json(reading, &f->witness_call), "last_call",
                      call_json(reading, &f->suspect_last), "process",
                      f->suspect_ended ? json_string(f->suspect_ended) : json_null()));
    }
    json_t *root = json_pack("{s:o, s:I}", "findings", all, "mismatched_edges",
                             (json_int_t)h->mismatched_edges);
    skew_json_with_coverage(root, coverage);
    int result = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
    putchar('\n');
    json_decref(root);
    return result < 0 ? -ENOMEM : 0;
}

/* ---- the command -------------------------------------------------------------------------------
 */

int skew_cmd_hang(int argc, char **argv)
{
    struct arguments a = {0};
    struct skew_reading reading;
    struct skew_error error;
    struct skew_hang hang;
    struct skew_coverage coverage = {0};

    argp_parse(skew_argp_hang(), argc, argv, 0, NULL, &a);
    if (skew_reading_open(&reading, a.path) < 0)
        return SKEW_EXIT_FAILURE;
    int result = skew_hang_find(&hang, reading.traces, reading.count, &error);
    if (result < 0) {
        skew_tell("%s", error.text);
        skew_reading_close(&reading);
        return SKEW_EXIT_FAILURE;
    }
    result = skew_coverage_read(&coverage, &reading);
    if (result == 0 && a.json) {
        result = print_json(&hang, &reading, &coverage);
    } else if (result == 0) {
        for (size_t i = 0; i < hang.count; i++)
            print_finding(&hang.findings[i], &reading);
        if (!skew_reading_any(&reading, "SELECT 1 FROM exchange UNION ALL SELECT 1 FROM operation"))
            puts("nothing was captured that could meet or not");
        else if (!hang.count)
            puts("every send met its receive, and every rank came to every collective that was "
                 "called");
        skew_coverage_print(&coverage);
    }
    bool clean = result == 0 && hang.count == 0;
    skew_hang_free(&hang);
    skew_reading_close(&reading);
    return clean ? SKEW_EXIT_OK : SKEW_EXIT_FAILURE;
}
