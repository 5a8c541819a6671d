/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Table kernel: what is computation goes to the lanes; what device-initiated backends do is summed
 * up, and their dispatches are joined with the combines behind them.
 */
#include "overlap_private.h"
#include "trace_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct name {
    int64_t process, id;
    struct skew_kernel kernel;
};

struct reader {
    struct skew_trace *trace;
    struct skew_overlap_lanes *lanes;
    struct skew_overlap *out;
    struct name *names; /* by process and id */
    size_t name_count, name_room;
    size_t backend_room, round_room, unknown_room;
    size_t first_round; /* of this lane */
};

void *skew_overlap_grow(void *array, size_t *count, size_t *room, size_t size)
{
    char **at = array;
    if (*count == *room) {
        size_t more = *room ? *room * 2 : 16;
        char *bigger = realloc(*at, more * size);
        if (!bigger)
            return NULL;
        *at = bigger;
        *room = more;
    }
    return memset(*at + (*count)++ * size, 0, size);
}

/* Communication is not what hides communication. */
static bool computes(enum skew_kernel_does does)
{
    return does == SKEW_KERNEL_OTHER || does == SKEW_KERNEL_PERMUTE || does == SKEW_KERNEL_EXPERTS;
}

static int add_unknown(struct reader *r, const char *name)
{
    char *plain = skew_kernel_demangle(name);
    if (!plain)
        return -ENOMEM;
    for (size_t i = 0; i < r->out->unknown_count; i++)
        if (strcmp(r->out->unknown[i], plain) == 0) {
            free(plain);
            return 0;
        }
    char **unknown = skew_overlap_grow(&r->out->unknown, &r->out->unknown_count, &r->unknown_room,
                                       sizeof(char *));
    if (!unknown) {
        free(plain);
        return -ENOMEM;
    }
    *unknown = plain;
    return 0;
}

static int read_names(struct reader *r, struct skew_error *error)
{
    sqlite3_stmt *s;
    int step = SQLITE_DONE, result = skew_sql_prepare(r->trace, &s,
                                                      "SELECT process_id, name_id, name FROM"
                                                      " kernel_name ORDER BY process_id, name_id",
                                                      error);
    if (result < 0)
        return result;
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(s, 2);
        struct name *name =
            skew_overlap_grow(&r->names, &r->name_count, &r->name_room, sizeof *name);
        if (!name) {
            result = -ENOMEM;
            break;
        }
        name->process = sqlite3_column_int64(s, 0);
        name->id = sqlite3_column_int64(s, 1);
        skew_kernel_classify(text ? text : "", &name->kernel);
        if (name->kernel.does == SKEW_KERNEL_UNKNOWN)
            result = add_unknown(r, text);
    }
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(r->trace, error);
    sqlite3_finalize(s);
    return result;
}

static int by_process_and_id(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    return x->process != y->process ? (x->process > y->process) - (x->process < y->process)
                                    : (x->id > y->id) - (x->id < y->id);
}

static int32_t world_rank_of(const struct skew_trace *trace, int64_t process)
{
    for (size_t i = 0; i < trace->member_count; i++)
        if (trace->members[i].process == process)
            return trace->members[i].world_rank;
    return -1;
}

static int add_backend(struct reader *r, const struct skew_overlap_lane *lane,
                       const struct skew_kernel *kernel, const struct skew_overlap_row *row,
                       int64_t kernels)
{
    int64_t busy = row->busy < 0 ? 0 : row->busy;
    struct skew_overlap_backend *b = NULL;
    for (size_t i = r->out->backend_count; i-- && !b;) {
        struct skew_overlap_backend *one = &r->out->backends[i];
        if (one->process != lane->process || one->device != lane->device)
            break;
        if (one->does == kernel->does && strcmp(one->backend, kernel->backend) == 0)
            b = one;
    }
    if (!b) {
        b = skew_overlap_grow(&r->out->backends, &r->out->backend_count, &r->backend_room,
                              sizeof *b);
        if (!b)
            return -ENOMEM;
        b->backend = kernel->backend;
        b->does = kernel->does;
        b->process = lane->process;
        b->device = (int32_t)lane->device;
        b->world_rank = lane->world_rank;
        b->least = INT64_MAX;
    }
    b->kernels += (uint64_t)kernels;
    if (__builtin_add_overflow(b->total, busy, &b->total))
        b->total = INT64_MAX;
    if (kernels > 1)
        b->least = b->most = -1;
    if (b->most >= 0) {
        b->least = busy < b->least ? busy : b->least;
        b->most = busy > b->most ? busy : b->most;
    }
    for (unsigned i = 0; i < SKEW_KERNEL_ARGUMENTS; i++)
        if (kernel->argument[i])
            b->argument[i] =
                !b->argument[i] || b->argument[i] == kernel->argument[i] ? kernel->argument[i] : -1;
    return 0;
}

/* A dispatch opens a round or joins one without a combine; a combine joins the latest. */
static int add_round(struct reader *r, const struct skew_overlap_lane *lane,
                     const struct skew_kernel *kernel, const struct skew_overlap_row *row)
{
    struct skew_overlap_round *round = NULL;
    for (size_t i = r->out->round_count; i-- > r->first_round && !round;)
        if (strcmp(r->out->rounds[i].backend, kernel->backend) == 0)
            round = &r->out->rounds[i];
    if (kernel->does == SKEW_KERNEL_COMBINE) {
        if (!round)
            return 0; /* of a dispatch of before the recording began */
        if (!round->combines++)
            round->combine_start = row->start;
        round->combine_end = row->end > round->combine_end ? row->end : round->combine_end;
        return 0;
    }
    if (!round || round->combines) {
        round =
            skew_overlap_grow(&r->out->rounds, &r->out->round_count, &r->round_room, sizeof *round);
        if (!round)
            return -ENOMEM;
        round->backend = kernel->backend;
        round->process = lane->process;
        round->device = (int32_t)lane->device;
        round->world_rank = lane->world_rank;
        round->dispatch_start = row->start;
    }
    round->dispatches++;
    round->dispatch_end = row->end > round->dispatch_end ? row->end : round->dispatch_end;
    return 0;
}

/* The lane is complete: its rounds know what was computed in between; those that never came to a
 * combine are dropped. */
static int end_lane(struct reader *r)
{
    struct skew_overlap_lane *lane = &r->lanes->lane[r->lanes->count - 1];
    int result = skew_overlap_rows_index(&lane->computation);
    if (result < 0)
        return result;
    size_t kept = r->first_round;
    for (size_t i = r->first_round; i < r->out->round_count; i++) {
        struct skew_overlap_round *round = &r->out->rounds[i];
        if (!round->combines)
            continue;
        round->experts =
            skew_overlap_covered(&lane->computation, round->dispatch_end, round->combine_start);
        r->out->rounds[kept++] = *round;
    }
    r->out->round_count = r->first_round = kept;
    return 0;
}

static int add_row(struct reader *r, sqlite3_stmt *s)
{
    struct skew_overlap_lane *lane = r->lanes->count ? &r->lanes->lane[r->lanes->count - 1] : NULL;
    struct skew_overlap_row row = {sqlite3_column_int64(s, 2), sqlite3_column_int64(s, 3),
                                   sqlite3_column_int64(s, 4)};
    struct name key = {.process = sqlite3_column_int64(s, 0), .id = sqlite3_column_int64(s, 6)};
    int64_t device = sqlite3_column_int64(s, 1), kernels = sqlite3_column_int64(s, 5);
    const struct name *name =
        sqlite3_column_type(s, 6) == SQLITE_NULL || !r->names
            ? NULL
            : bsearch(&key, r->names, r->name_count, sizeof key, by_process_and_id);
    int result = 0;

    if (row.end < row.start || row.start < 0 || kernels < 1 || device < 0 || device > INT32_MAX)
        return 0;
    if (!lane || lane->process != key.process || lane->device != device) {
        if (lane && (result = end_lane(r)) < 0)
            return result;
        lane = skew_overlap_grow(&r->lanes->lane, &r->lanes->count, &r->lanes->room, sizeof *lane);
        if (!lane)
            return -ENOMEM;
        lane->process = key.process;
        lane->device = device;
        lane->world_rank = world_rank_of(r->trace, key.process);
        lane->first = row.start;
    }
    r->out->rows++;
    lane->last = row.end > lane->last ? row.end : lane->last;
    if (!name || computes(name->kernel.does))
        return skew_overlap_rows_add(&lane->computation, row);
    if (!name->kernel.backend || name->kernel.bytes_seen)
        return 0;
    result = add_backend(r, lane, &name->kernel, &row, kernels);
    if (result == 0 &&
        (name->kernel.does == SKEW_KERNEL_DISPATCH || name->kernel.does == SKEW_KERNEL_COMBINE))
        result = add_round(r, lane, &name->kernel, &row);
    return result;
}

int skew_overlap_read_kernels(struct skew_trace *trace, struct skew_overlap_lanes *lanes,
                              struct skew_overlap *out, struct skew_error *error)
{
    struct reader r = {.trace = trace, .lanes = lanes, .out = out};
    sqlite3_stmt *s = NULL;
    int step = SQLITE_DONE;
    int result = read_names(&r, error);
    if (result == 0)
        result = skew_sql_prepare(trace, &s,
                                  "SELECT process_id, device, start_ns, end_ns, busy_ns, kernels,"
                                  " name_id FROM kernel ORDER BY process_id, device, start_ns",
                                  error);
    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW)
        result = add_row(&r, s);
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    if (result == 0 && lanes->count)
        result = end_lane(&r);
    sqlite3_finalize(s);
    free(r.names);
    return result;
}
