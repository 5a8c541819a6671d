/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table routing, row after row: see routing.h. Nothing read here is believed.
 */
#include "label.h"
#include "routing_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    C_ID,
    C_EXCHANGE,
    C_COMM,
    C_SOURCE,
    C_STEP,
    C_LAYER,
    C_MICROBATCH,
    C_STAGE,
    C_REQUEST,
    C_EXPERTS,
    C_TOPK,
    C_TOKENS,
    C_UNIT,
    C_VERIFIED,
    C_HOW,
    C_CELLS,
    C_WIDTH,
    C_STRIDE,
    C_SIZES,
    C_PEER_WIDTH,
    C_PEER_STRIDE,
    C_PEERS,
    C_ORDINAL
};

#define COLUMNS(step, layer, microbatch, stage, ordinal)                                           \
    "SELECT skew_take(r.routing_id, r.exchange_id, r.comm_id, r.source_rank, " step ", " layer     \
    ", " microbatch ", " stage ", r.request, r.experts, r.topk, r.tokens, r.unit, r.verified, "    \
    "r.source, v.cells, v.size_width, v.size_stride, v.sizes, v.peer_width, v.peer_stride, "       \
    "v.peers, CASE WHEN r.step IS NULL THEN coalesce((SELECT x.seq FROM exchange x WHERE "         \
    "x.exchange_id = r.exchange_id), " ordinal                                                     \
    ") END) FROM routing r NOT INDEXED LEFT JOIN vector v ON "                                     \
    "v.vector_id = r.counts "
#define OWN(ordinal) COLUMNS("r.step", "r.layer", "r.microbatch", "r.stage", ordinal)
#define LABELLED(ordinal)                                                                          \
    COLUMNS("coalesce(r.step, b.step)", "coalesce(r.layer, b.layer)",                              \
            "coalesce(r.microbatch, b.microbatch)", "coalesce(r.stage, b.stage)", ordinal)         \
    "LEFT JOIN exchange_label b ON b.exchange_id = r.exchange_id "

/* [labels are attached][column ordinal is there]: traces of before it have none. */
static const char *const columns[2][2] = {{LABELLED("NULL"), LABELLED("r.ordinal")},
                                          {OWN("NULL"), OWN("r.ordinal")}};

bool skew_packed_add(const struct skew_packed *p, uint64_t *into)
{
    uint32_t n = p->cells;
    const uint8_t *b = p->bytes;

    /* The loops that nearly all cells go through; sums of sizes this narrow stay within 64 bits for
     * as long as the caller's sums of totals, which it checks, do. */
    if (p->stride && p->width == 1 && p->unit == 1) {
        for (uint32_t i = 0; i < n; i++)
            into[i] += b[i];
        return true;
    }
    if (p->stride && p->width == 2 && p->unit == 1) {
        for (uint32_t i = 0; i < n; i++)
            into[i] += (uint32_t)b[2 * i] << 8 | b[2 * i + 1];
        return true;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t size = skew_big_endian(b + (size_t)i * p->stride, p->width);
        if (__builtin_mul_overflow(size, p->unit, &size) ||
            __builtin_add_overflow(into[i], size, &into[i]))
            return false;
    }
    return true;
}

/* ---- one row --------------------------------------------------------------------------------- */

struct pass {
    struct skew_trace *trace;
    sqlite3_value **values; /* of the row at hand */
    struct skew_error *error;
    uint8_t *scattered; /* sizes in order of the experts, where the vector names its peers */
    size_t scattered_size;
    const struct skew_comm *comms;
    size_t comm_count;
    const struct skew_routing_filter *filter;
    skew_packed_fn *take;
    void *accumulator;
};

static int damaged(const struct pass *p, const char *why)
{
    skew_error_set(p->error, "%s: is damaged: routing %lld %s", skew_trace_path(p->trace),
                   (long long)sqlite3_value_int64(p->values[C_ID]), why);
    return -EBADMSG;
}

static int64_t or_unknown(sqlite3_value **s, int column)
{
    int64_t value;
    return skew_value_between(s[column], 0, INT64_MAX, &value) ? value : -1;
}

/* A vector that names its peers: brought into the order of the experts, 8 bytes each. */
static int scatter(struct pass *p, struct skew_packed *sizes, uint32_t experts)
{
    sqlite3_value **s = p->values;
    int64_t width, stride;
    size_t need = (size_t)experts * 8;

    if (!skew_value_between(s[C_PEER_WIDTH], 1, 8, &width) ||
        !skew_value_between(s[C_PEER_STRIDE], 0, 8, &stride) || (stride && stride != width) ||
        (uint64_t)sqlite3_value_bytes(s[C_PEERS]) <
            (sizes->cells ? (uint64_t)(sizes->cells - 1) * (uint64_t)stride + (uint64_t)width : 0))
        return damaged(p, "names its experts in a way that makes no sense");
    const uint8_t *peers = sqlite3_value_blob(s[C_PEERS]);
    if (p->scattered_size < need) {
        free(p->scattered);
        p->scattered = malloc(need);
        p->scattered_size = p->scattered ? need : 0;
        if (!p->scattered)
            return -ENOMEM;
    }
    memset(p->scattered, 0, need);
    for (uint32_t i = 0; i < sizes->cells; i++) {
        uint64_t expert = skew_big_endian(peers + (size_t)i * (size_t)stride, (uint32_t)width);
        if (expert >= experts)
            return damaged(p, "names an expert that does not exist");
        uint8_t *cell = p->scattered + expert * 8;
        uint64_t size = skew_big_endian(sizes->bytes + (size_t)i * sizes->stride, sizes->width);
        if (__builtin_add_overflow(size, skew_big_endian(cell, 8), &size))
            return damaged(p, "holds counts beyond 64 bits");
        for (int k = 7; k >= 0; k--, size >>= 8)
            cell[k] = (uint8_t)size;
    }
    *sizes = (struct skew_packed){p->scattered, experts, 8, 8, sizes->unit};
    return 0;
}

static int read_sizes(struct pass *p, struct skew_packed *sizes, uint32_t experts)
{
    sqlite3_value **s = p->values;
    int64_t cells, width, stride, unit;

    if (sqlite3_value_type(s[C_CELLS]) == SQLITE_NULL)
        return damaged(p, "has counts that are missing");
    if (!skew_value_between(s[C_CELLS], 0, SKEW_CELLS_MAX, &cells) ||
        !skew_value_between(s[C_WIDTH], 1, 8, &width) ||
        !skew_value_between(s[C_STRIDE], 0, 8, &stride) || (stride && stride != width) ||
        !skew_value_between(s[C_UNIT], 1, INT64_MAX, &unit))
        return damaged(p, "has counts that make no sense");
    uint64_t need = cells ? (uint64_t)(cells - 1) * (uint64_t)stride + (uint64_t)width : 0;
    const void *bytes = sqlite3_value_blob(s[C_SIZES]);
    if ((uint64_t)sqlite3_value_bytes(s[C_SIZES]) < need)
        return damaged(p, "has counts that are shorter than they say");
    *sizes = (struct skew_packed){bytes ? bytes : (const uint8_t *)"", (uint32_t)cells,
                                  (uint32_t)width, (uint32_t)stride, (uint64_t)unit};
    if (sqlite3_value_type(s[C_PEERS]) != SQLITE_NULL)
        return scatter(p, sizes, experts);
    return sizes->cells == experts ? 0 : damaged(p, "has another number of counts than experts");
}

static const struct skew_comm *comm_of(const struct pass *p, int64_t id)
{
    size_t low = 0, high = p->comm_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (p->comms[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->comm_count && p->comms[low].id == id ? &p->comms[low] : NULL;
}

static int read_row(struct pass *p, struct skew_packed_row *out)
{
    sqlite3_value **s = p->values;
    struct skew_routing_row *row = &out->row;
    int64_t experts, topk, source;

    if (!skew_value_between(s[C_EXPERTS], 1, SKEW_EXPERTS_MAX, &experts))
        return damaged(p, "has no sensible number of experts");
    *row = (struct skew_routing_row){
        .id = sqlite3_value_int64(s[C_ID]),
        .exchange = sqlite3_value_int64(s[C_EXCHANGE]),
        .source = -1,
        .step = or_unknown(s, C_STEP),
        .layer = or_unknown(s, C_LAYER),
        .microbatch = or_unknown(s, C_MICROBATCH),
        .request = or_unknown(s, C_REQUEST),
        .ordinal = or_unknown(s, C_ORDINAL),
        .stage = (const char *)sqlite3_value_text(s[C_STAGE]),
        .experts = (uint32_t)experts,
        .topk = skew_value_between(s[C_TOPK], 1, experts, &topk) ? (uint32_t)topk : 0,
        .tokens = or_unknown(s, C_TOKENS),
        .verified = sqlite3_value_int(s[C_VERIFIED]) != 0,
        .how = (const char *)sqlite3_value_text(s[C_HOW])};
    if (!row->how)
        row->how = "";
    row->physical = strstr(row->how, "physical") != NULL;
    if (sqlite3_value_type(s[C_COMM]) != SQLITE_NULL) {
        row->comm = comm_of(p, sqlite3_value_int64(s[C_COMM]));
        if (!row->comm)
            return damaged(p, "belongs to a communicator that is not there");
    }
    if (sqlite3_value_type(s[C_SOURCE]) != SQLITE_NULL) {
        int64_t most = row->comm && row->comm->ranks ? row->comm->ranks : SKEW_RANKS_MAX;
        if (!skew_value_between(s[C_SOURCE], 0, most - 1, &source))
            return damaged(p, "comes from a rank that does not exist");
        row->source = (int32_t)source;
    }
    return read_sizes(p, &out->sizes, row->experts);
}

/* ---- all rows -------------------------------------------------------------------------------- */

int skew_routing_has_table(struct skew_trace *trace, const char *name, struct skew_error *error)
{
    sqlite3_stmt *s;
    int result = skew_sql_prepare(
        trace, &s, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?", error);

    if (result < 0)
        return result;
    sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    if (sqlite3_step(s) == SQLITE_ROW)
        result = sqlite3_column_int(s, 0);
    else
        result = skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

static void take_label(const struct pass *p, struct skew_routing_row *row)
{
    const struct skew_label *l =
        row->exchange ? skew_labels_exchange(p->trace->labels, row->exchange) : NULL;

    if (!l)
        return;
    if (row->step < 0)
        row->step = l->step >= 0 ? l->step : l->pass;
    if (row->layer < 0)
        row->layer = l->layer;
    if (row->microbatch < 0)
        row->microbatch = l->microbatch;
    if (!row->stage)
        row->stage = skew_label_stage_name(l->stage);
}

static bool passes(const struct skew_routing_filter *f, const struct skew_routing_row *row)
{
    if (f->comm_key && (!row->comm || strcmp(row->comm->key, f->comm_key) != 0))
        return false;
    if (f->stage && (!row->stage || strcmp(row->stage, f->stage) != 0))
        return false;
    if (f->by_layer && row->layer != f->layer)
        return false;
    return !f->by_step || (row->step >= 0 && row->step >= f->step_from && row->step <= f->step_to);
}

static int take_values(void *context, sqlite3_value **values)
{
    struct pass *p = context;
    struct skew_packed_row row;

    p->values = values;
    int result = read_row(p, &row);
    if (result < 0)
        return result;
    if (p->trace->labels)
        take_label(p, &row.row);
    if (!passes(p->filter, &row.row))
        return 0;
    result = p->take(p->accumulator, &row);
    return result == -EOVERFLOW ? damaged(p, "holds counts beyond 64 bits") : result;
}

int skew_routing_each_packed(struct skew_trace *trace, const struct skew_routing_filter *filter,
                             skew_packed_fn *take, void *accumulator, struct skew_error *error)
{
    const struct skew_routing_filter none = {0}, *f = filter ? filter : &none;
    struct pass p = {
        .trace = trace, .error = error, .filter = f, .take = take, .accumulator = accumulator};
    char sql[1024];
    int result = skew_routing_has_table(trace, "routing", error);

    if (result <= 0)
        return result;
    bool ordinal =
        sqlite3_table_column_metadata(skew_trace_db(p.trace), "main", "routing", "ordinal", NULL,
                                      NULL, NULL, NULL, NULL) == SQLITE_OK;
    snprintf(sql, sizeof sql, "%s WHERE 1%s%s", columns[trace->labels != NULL][ordinal],
             f->id_from || f->id_to ? " AND r.routing_id BETWEEN ?1 AND ?2" : "",
             f->verified ? " AND r.verified <> 0" : "");
    result = skew_trace_comms(trace, &p.comms, &p.comm_count, error);
    if (result == 0)
        result = skew_sql_rows(trace, sql, f->id_from, f->id_to, take_values, &p, error);
    free(p.scattered);
    return result;
}

struct decoding {
    skew_routing_fn *take;
    void *accumulator;
    uint64_t *counts;
    uint32_t capacity;
};

static int decode(void *context, const struct skew_packed_row *packed)
{
    struct decoding *d = context;
    struct skew_routing_row row = packed->row;

    if (row.experts > d->capacity) {
        free(d->counts);
        d->counts = malloc(row.experts * sizeof *d->counts);
        d->capacity = d->counts ? row.experts : 0;
        if (!d->counts)
            return -ENOMEM;
    }
    memset(d->counts, 0, row.experts * sizeof *d->counts);
    if (!skew_packed_add(&packed->sizes, d->counts))
        return -EOVERFLOW;
    for (uint32_t e = 0; e < row.experts; e++)
        if (__builtin_add_overflow(row.total, d->counts[e], &row.total))
            return -EOVERFLOW;
    row.counts = d->counts;
    return d->take(d->accumulator, &row);
}

int skew_routing_each(struct skew_trace *trace, const struct skew_routing_filter *filter,
                      skew_routing_fn *take, void *accumulator, struct skew_error *error)
{
    struct decoding d = {.take = take, .accumulator = accumulator};
    int result = skew_routing_each_packed(trace, filter, decode, &d, error);

    free(d.counts);
    return result;
}

int skew_routing_number(struct skew_trace *trace, const char *sql, int64_t *value,
                        struct skew_error *error)
{
    int result = skew_routing_has_table(trace, "routing", error);

    *value = 0;
    return result <= 0 ? result : skew_sql_number(trace, sql, value, error);
}

int skew_routing_count(struct skew_trace *trace, int64_t *rows, struct skew_error *error)
{
    return skew_routing_number(trace, "SELECT count(*) FROM routing", rows, error);
}

int skew_routing_unlabelled(struct skew_trace *trace, int64_t *rows, struct skew_error *error)
{
    return skew_routing_number(trace,
                               "SELECT count(*) FROM routing WHERE exchange_id IS NOT NULL"
                               " AND (layer IS NULL OR step IS NULL)",
                               rows, error);
}
