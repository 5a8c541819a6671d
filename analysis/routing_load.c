/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables routing and placement of a whole database into an accumulator, by several threads with
 * a connection each. See routing.h.
 */
#include "routing_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a whole database, by several threads ---------------------------------------------------- */

struct part {
    pthread_t thread;
    struct skew_trace *trace;
    struct skew_routing *routing;
    struct skew_routing_filter filter;
    struct skew_error error;
    uint32_t database;
    int result;
    bool started;
};

static int take_packed(void *context, const struct skew_packed_row *row)
{
    struct part *part = context;
    return skew_routing_add_packed(part->routing, row, part->database);
}

static void *read_part(void *context)
{
    struct part *p = context;

    p->result = skew_routing_each_packed(p->trace, &p->filter, take_packed, p, &p->error);
    return NULL;
}

/* Opens a connection and an accumulator for every part but the first, which has the caller's. */
static int start_part(struct part *p, struct skew_routing *routing, struct skew_trace *trace,
                      bool first)
{
    p->database = routing->databases;
    if (first) {
        p->trace = trace;
        p->routing = routing;
        return 0;
    }
    int result = skew_trace_open(&p->trace, skew_trace_path(trace), &p->error);
    if (result == 0)
        p->trace->labels = trace->labels; /* read only, by all threads */
    if (result == 0)
        result = skew_routing_create(&p->routing, routing->keep);
    if (result == 0 && pthread_create(&p->thread, NULL, read_part, p) != 0)
        result = -EAGAIN;
    p->started = result == 0;
    return result;
}

static int read_parts(struct part *parts, unsigned count, struct skew_routing *routing,
                      struct skew_trace *trace, struct skew_error *error)
{
    int result = 0;

    for (unsigned i = 1; i < count && result == 0; i++) {
        result = start_part(&parts[i], routing, trace, false);
        if (result < 0)
            *error = parts[i].error;
    }
    if (result == 0) {
        start_part(&parts[0], routing, trace, true);
        read_part(&parts[0]);
        *error = parts[0].error;
        result = parts[0].result;
    }
    for (unsigned i = 1; i < count; i++) {
        if (parts[i].started)
            pthread_join(parts[i].thread, NULL);
        if (result == 0 && parts[i].result < 0) {
            *error = parts[i].error;
            result = parts[i].result;
        }
        if (result == 0) {
            result = skew_routing_join(routing, parts[i].routing);
            if (result < 0)
                skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
        }
        skew_routing_free(&parts[i].routing);
        skew_trace_close(&parts[i].trace);
    }
    return result;
}

int skew_routing_read(struct skew_routing *routing, struct skew_trace *trace,
                      const struct skew_routing_filter *filter, unsigned threads,
                      struct skew_error *error)
{
    enum { ROWS_A_THREAD = 20000, THREADS_MAX = 16 };
    struct part parts[THREADS_MAX] = {0};
    int64_t first, last;
    int result = skew_routing_number(trace, "SELECT coalesce(min(routing_id), 0) FROM routing",
                                     &first, error);

    if (result == 0)
        result = skew_routing_number(trace, "SELECT coalesce(max(routing_id), -1) FROM routing",
                                     &last, error);
    if (result < 0)
        return result;
    if (threads == 0)
        threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    int64_t rows = last - first + 1, parts_wanted = rows / ROWS_A_THREAD;
    unsigned count = threads < THREADS_MAX ? threads : THREADS_MAX;
    if (parts_wanted < (int64_t)count)
        count = parts_wanted > 1 ? (unsigned)parts_wanted : 1;
    if (filter && (filter->id_from || filter->id_to))
        count = 1;
    for (unsigned i = 0; i < count; i++) {
        parts[i].filter = filter ? *filter : (struct skew_routing_filter){0};
        if (count > 1) {
            parts[i].filter.id_from = first + (int64_t)((__int128)rows * i / count);
            parts[i].filter.id_to = first + (int64_t)((__int128)rows * (i + 1) / count) - 1;
        }
    }
    result = read_parts(parts, count, routing, trace, error);
    if (result == 0)
        result = skew_routing_placement(routing, trace, error);
    routing->databases++;
    return result;
}

int skew_routing_placement(struct skew_routing *routing, struct skew_trace *trace,
                           struct skew_error *error)
{
    sqlite3_stmt *s;
    int step, result = skew_routing_has_table(trace, "placement", error);

    if (result <= 0)
        return result;
    result = skew_sql_prepare(trace, &s,
                              "SELECT c.key, p.layer, p.slot, p.rank, p.expert FROM placement p"
                              " JOIN communicator c USING (comm_id) ORDER BY 1, 2, 3",
                              error);
    while (result == 0 && (step = sqlite3_step(s)) != SQLITE_DONE) {
        int64_t layer, slot, rank, expert;
        if (step != SQLITE_ROW) {
            result = skew_trace_sql_error(trace, error);
        } else if (!skew_sql_between(s, 1, -1, INT64_MAX, &layer) ||
                   !skew_sql_between(s, 2, 0, SKEW_EXPERTS_MAX - 1, &slot) ||
                   !skew_sql_between(s, 3, 0, SKEW_RANKS_MAX - 1, &rank) ||
                   !skew_sql_between(s, 4, 0, SKEW_EXPERTS_MAX - 1, &expert)) {
            skew_error_set(error, "%s: is damaged: a row of placement makes no sense",
                           skew_trace_path(trace));
            result = -EBADMSG;
        } else {
            size_t count = routing->placed_count;
            struct placed_slot *bigger =
                count & (count - 1)
                    ? routing->placed
                    : realloc(routing->placed, (count ? count * 2 : 1) * sizeof *routing->placed);
            const unsigned char *text = sqlite3_column_text(s, 0);
            char *key = strdup(text ? (const char *)text : "");
            if (bigger)
                routing->placed = bigger;
            if (!bigger || !key) {
                free(key);
                skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
                result = -ENOMEM;
                break;
            }
            routing->placed[routing->placed_count++] = (struct placed_slot){
                key, layer, (uint32_t)slot, {(uint32_t)expert, (uint32_t)rank}};
        }
    }
    sqlite3_finalize(s);
    return result;
}
