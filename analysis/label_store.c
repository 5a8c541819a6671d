/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Labels at rest: looking them up, reading saved ones, their summary, and what a step marker names.
 */
#include "label_store.h"
#include "trace_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "spool.h"

/* ---- looking up --------------------------------------------------------------------------------
 */

static const struct skew_label *find(const struct skew_label *labels, size_t count, int64_t id)
{
    size_t low = 0, high = count;

    if (id >= 1 && (uint64_t)id <= count && labels[id - 1].id == id)
        return &labels[id - 1]; /* as the collector numbers them */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (labels[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && labels[low].id == id ? &labels[low] : NULL;
}

const struct skew_label *skew_labels_exchange(const struct skew_labels *labels, int64_t exchange_id)
{
    return find(labels->exchanges, labels->exchange_count, exchange_id);
}

const struct skew_label *skew_labels_operation(const struct skew_labels *labels,
                                               int64_t operation_id)
{
    return find(labels->operations, labels->operation_count, operation_id);
}

const struct skew_label *skew_labels_exchanges(const struct skew_labels *labels, size_t *count)
{
    *count = labels->exchange_count;
    return labels->exchanges;
}

const struct skew_label *skew_labels_operations(const struct skew_labels *labels, size_t *count)
{
    *count = labels->operation_count;
    return labels->operations;
}

const struct skew_label_comm *skew_labels_comms(const struct skew_labels *labels, size_t *count)
{
    *count = labels->comm_count;
    return labels->comms;
}

void skew_labels_free(struct skew_labels **labels)
{
    if (*labels) {
        free((*labels)->exchanges);
        free((*labels)->operations);
        free((*labels)->comms);
    }
    free(*labels);
    *labels = NULL;
}

void skew_trace_attach_labels(struct skew_trace *trace, const struct skew_labels *labels)
{
    trace->labels = labels;
}

/* ---- summary -----------------------------------------------------------------------------------
 */

static bool of_layer(int role)
{
    return role >= SKEW_LABEL_DISPATCH && role <= SKEW_LABEL_COUNT;
}

void skew_label_comm_add(struct skew_label_comm *comm, const struct skew_label *l, bool operation)
{
    uint64_t *roles = operation ? comm->operation_roles : comm->roles;

    comm->operations += operation;
    comm->exchanges += !operation;
    roles[l->role]++;
    if (!l->role)
        return;
    comm->confidence += l->confidence;
    comm->uniform |= (l->flags & SKEW_LABEL_UNIFORM) != 0;
    if (!of_layer(l->role))
        return;
    comm->stages[l->stage]++;
    if (!operation) {
        comm->without_step += l->step < 0;
        comm->without_layer += l->layer < 0;
        comm->without_microbatch += l->microbatch < 0;
    }
    comm->layers = l->layer >= comm->layers ? l->layer + 1 : comm->layers;
    comm->steps = l->step >= comm->steps ? l->step + 1 : comm->steps;
    comm->microbatches =
        l->microbatch >= comm->microbatches ? l->microbatch + 1 : comm->microbatches;
    if (l->role == SKEW_LABEL_DISPATCH && l->token_bytes && comm->token_bytes != UINT64_MAX)
        comm->token_bytes =
            comm->token_bytes && comm->token_bytes != l->token_bytes ? UINT64_MAX : l->token_bytes;
}

void skew_label_comm_finish(struct skew_label_comm *comm)
{
    uint64_t labelled =
        comm->exchanges + comm->operations - comm->roles[0] - comm->operation_roles[0];

    comm->confidence = labelled ? comm->confidence / (float)labelled : 0;
    if (comm->token_bytes == UINT64_MAX)
        comm->token_bytes = 0;
}

/* ---- saved ones --------------------------------------------------------------------------------
 */

static int32_t ordinal(sqlite3_stmt *s, int column)
{
    int64_t value;
    return skew_sql_between(s, column, 0, INT32_MAX, &value) ? (int32_t)value : -1;
}

static int stage_of(const char *name)
{
    for (int i = 1; i <= SKEW_STAGE_DECODE; i++)
        if (name && strcmp(name, skew_label_stage_name(i)) == 0)
            return i;
    return SKEW_STAGE_UNKNOWN;
}

/* id, role, step, layer, microbatch, stage, token_bytes, pair_id, confidence, comm_id, pass, flags
 * of all exchanges or operations, in the order of id. */
static int load_side(struct skew_labels *labels, struct skew_trace *trace, const char *sql,
                     bool operation, struct skew_error *error)
{
    struct skew_label **list = operation ? &labels->operations : &labels->exchanges;
    size_t *count = operation ? &labels->operation_count : &labels->exchange_count, room = 0;
    sqlite3_stmt *s;
    int step = SQLITE_DONE, result = skew_sql_prepare(trace, &s, sql, error);

    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
        if (*count == room) {
            room = room ? room * 2 : 256;
            struct skew_label *more = realloc(*list, room * sizeof *more);
            if (!more) {
                skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
                result = -ENOMEM;
                break;
            }
            *list = more;
        }
        struct skew_label *l = &(*list)[(*count)++];
        int role = skew_label_role_of((const char *)sqlite3_column_text(s, 1));
        *l =
            (struct skew_label){.id = sqlite3_column_int64(s, 0),
                                .role = (uint8_t)(role > 0 ? role : 0),
                                .step = ordinal(s, 2),
                                .layer = ordinal(s, 3),
                                .microbatch = ordinal(s, 4),
                                .stage = (uint8_t)stage_of((const char *)sqlite3_column_text(s, 5)),
                                .token_bytes = (uint64_t)sqlite3_column_int64(s, 6),
                                .pair = sqlite3_column_int64(s, 7),
                                .confidence = (float)sqlite3_column_double(s, 8),
                                .pass = ordinal(s, 10),
                                .expert = -1,
                                .flags = (uint8_t)sqlite3_column_int(s, 11)};
        for (size_t c = 0; c < labels->comm_count; c++)
            if (labels->comms[c].comm->id == sqlite3_column_int64(s, 9))
                skew_label_comm_add(&labels->comms[c], l, operation);
    }
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

int skew_labels_load(struct skew_trace *trace, struct skew_labels **out, struct skew_error *error)
{
    bool any = false;
    const struct skew_comm *comms;
    size_t count;
    int result = skew_trace_has_labels(trace, &any, error);

    *out = NULL;
    if (result == 0)
        result = skew_trace_comms(trace, &comms, &count, error);
    if (result < 0)
        return result;
    if (!any) {
        skew_error_set(error, "%s: no labels are saved in it", skew_trace_path(trace));
        return -ENOENT;
    }
    struct skew_labels *labels = calloc(1, sizeof *labels);
    if (labels)
        labels->comms = calloc(count + 1, sizeof *labels->comms);
    if (!labels || !labels->comms) {
        skew_labels_free(&labels);
        skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
        return -ENOMEM;
    }
    labels->comm_count = count;
    for (size_t i = 0; i < count; i++)
        labels->comms[i].comm = &comms[i];
    bool wide = skew_trace_has(trace, "exchange_label", "pass");
    result = load_side(
        labels, trace,
        wide ? "SELECT e.exchange_id, role, step, layer, microbatch, stage, token_bytes, pair_id,"
               " confidence, comm_id, pass, l.flags FROM exchange e JOIN member USING (member_id)"
               " LEFT JOIN exchange_label l USING (exchange_id) ORDER BY e.exchange_id"
             : "SELECT e.exchange_id, role, step, layer, microbatch, stage, token_bytes, pair_id,"
               " confidence, comm_id, NULL, 0 FROM exchange e JOIN member USING (member_id)"
               " LEFT JOIN exchange_label l USING (exchange_id) ORDER BY e.exchange_id",
        false, error);
    if (result == 0 && skew_trace_has(trace, "operation_label", "role"))
        result = load_side(
            labels, trace,
            "SELECT o.operation_id, role, step, layer, microbatch, stage, token_bytes, pair_id,"
            " confidence, comm_id, pass, l.flags FROM operation o JOIN member USING (member_id)"
            " LEFT JOIN operation_label l USING (operation_id) ORDER BY o.operation_id",
            true, error);
    if (result == 0)
        for (size_t i = 0; i < labels->comm_count; i++)
            skew_label_comm_finish(&labels->comms[i]);
    else
        skew_labels_free(&labels);
    *out = labels;
    return result;
}

int skew_labels_get(struct skew_trace *trace, const struct skew_label_options *options,
                    struct skew_labels **out, struct skew_error *error)
{
    int result = -ENOENT;

    if (!options || (!options->layers && !options->microbatches && !options->step_marker &&
                     !options->layer_marker && !options->prefill_marker &&
                     !options->decode_marker && !options->stage))
        result = skew_labels_load(trace, out, error);
    return result == -ENOENT ? skew_label_trace(trace, options, out, error) : result;
}

/* ---- step markers ------------------------------------------------------------------------------
 */

static int op_called(const char *text, size_t length)
{
#define X(id, name) name,
    static const char *const names[] = {SKEW_OP_LIST(X)};
#undef X
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && strncasecmp(text, names[i], length) == 0)
            return (int)i;
    return -1;
}

/* OP, OP>=BYTES, OP@KEY or OP>=BYTES@KEY. */
static bool find_operation(struct skew_label_marker *m, const char *text)
{
    const char *name = strncasecmp(text, "nccl", 4) == 0 ? text + 4 : text;
    size_t length = strcspn(name, ">@");
    const char *rest = name + length;
    int op = op_called(name, length);

    if (op < 0)
        return false;
    if (strncmp(rest, ">=", 2) == 0) {
        char *end;
        errno = 0;
        m->least_bytes = strtoll(rest + 2, &end, 10);
        if (errno || end == rest + 2 || m->least_bytes < 0)
            return false;
        rest = end;
    }
    if (*rest == '@' && rest[1])
        m->key = rest + 1;
    else if (*rest)
        return false;
    m->ops = 1u << op;
    return true;
}

int skew_label_marker_find(struct skew_label_marker *m, struct skew_trace *trace, const char *text,
                           bool ranges, struct skew_error *error)
{
    sqlite3_stmt *s;
    int step, result;

    if (!text || find_operation(m, text))
        return 0;
    m->ranges = ranges;
    if (ranges)
        return 0;
    result = skew_sql_prepare(
        trace, &s, "SELECT site_id FROM callsite_text WHERE instr(stack, ?) ORDER BY site_id",
        error);
    if (result < 0)
        return result;
    sqlite3_bind_text(s, 1, text, -1, SQLITE_STATIC);
    while ((step = sqlite3_step(s)) == SQLITE_ROW && result == 0) {
        int64_t *more = realloc(m->sites, (m->site_count + 1) * sizeof *more);
        if (!more) {
            skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
            result = -ENOMEM;
            break;
        }
        m->sites = more;
        m->sites[m->site_count++] = sqlite3_column_int64(s, 0);
    }
    if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    if (result == 0 && !m->site_count) {
        skew_error_set(
            error,
            "%s: --step-marker: '%s' is neither an operation (allreduce, reducescatter>=BYTES, …) "
            "nor "
            "how an NVTX range begins nor part of a function's name in any call site of this trace",
            skew_trace_path(trace), text);
        result = -ENOENT;
    }
    return result;
}

void skew_label_marker_free(struct skew_label_marker *marker)
{
    free(marker->sites);
    *marker = (struct skew_label_marker){0};
}

bool skew_label_marks(const struct skew_label_marker *m, int32_t op, int64_t bytes, const char *key,
                      int64_t site)
{
    if (op >= 0 && op < 32 && (m->ops >> op & 1))
        return bytes >= m->least_bytes && (!m->key || strncmp(key, m->key, strlen(m->key)) == 0);
    for (size_t i = 0; i < m->site_count; i++)
        if (m->sites[i] == site)
            return true;
    return false;
}
