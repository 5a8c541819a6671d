/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traces become layers of calls: counts of experts, by source where all sources are known, and the
 * ids of single tokens where an import kept them.
 */
#include "whatif_placement.h"
#include "counts.h"
#include "term.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqlite3.h>

static int told(const char *path, const struct skew_error *error, int result)
{
    skew_tell("%s: %s", path, error->text[0] ? error->text : strerror(-result));
    return result;
}

/* ---- names ------------------------------------------------------------------------------------
 */

static void name_trace(struct skew_wp_trace *t, const char *label)
{
    size_t length = strlen(t->path);
    const char *end = t->path + length, *base;

    while (end > t->path && end[-1] == '/')
        end--;
    for (base = end; base > t->path && base[-1] != '/'; base--)
        ;
    if (end - base > 3 && strncmp(end - 3, ".db", 3) == 0)
        end -= 3;
    snprintf(t->name, sizeof t->name, "%.*s", (int)(end - base), base);
    for (size_t i = 0; label && i < t->reading.count; i++) {
        sqlite3_stmt *stmt = NULL;
        if (sqlite3_prepare_v2(skew_trace_db(t->reading.traces[i]),
                               "SELECT value FROM run_label WHERE key = ?", -1, &stmt,
                               NULL) == SQLITE_OK &&
            sqlite3_bind_text(stmt, 1, label, -1, SQLITE_STATIC) == SQLITE_OK &&
            sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_text(stmt, 0))
            snprintf(t->name, sizeof t->name, "%s", (const char *)sqlite3_column_text(stmt, 0));
        sqlite3_finalize(stmt);
    }
    skew_term_clean(t->name);
}

/* Whether `name` is one of "a,b,c"; NULL names all. */
static bool listed(const char *list, const char *name)
{
    size_t length = strlen(name);

    if (!list)
        return true;
    for (const char *at = list; *at;) {
        size_t size = strcspn(at, ",");
        if (size == length && strncmp(at, name, size) == 0)
            return true;
        at += size + (at[size] == ',');
    }
    return false;
}

/* ---- layers -----------------------------------------------------------------------------------
 */

/* The table placement as slots by rank, when every rank has as many. */
static int take_current(struct skew_wp_layer *l)
{
    const struct skew_routing_layer *of = l->of;
    uint32_t ranks = 0, at = 0;

    for (size_t s = 0; s < of->slots; s++)
        ranks = of->slot[s].rank >= ranks ? of->slot[s].rank + 1 : ranks;
    if (of->physical || ranks == 0 || of->slots % ranks != 0 ||
        of->slots > SKEW_PLACEMENT_EXPERTS_MAX)
        return 0;
    l->current = calloc(of->slots, sizeof *l->current);
    if (!l->current)
        return -ENOMEM;
    for (uint32_t r = 0; r < ranks; r++) {
        for (size_t s = 0; s < of->slots; s++)
            if (of->slot[s].rank == r)
                l->current[at++] = of->slot[s].expert;
        if (at != (r + 1) * (of->slots / ranks)) {
            free(l->current);
            l->current = NULL;
            return 0;
        }
    }
    l->current_slots = (uint32_t)of->slots;
    l->current_ranks = ranks;
    return 0;
}

/* Complete calls alone: others would look like imbalance. */
static int take_calls(struct skew_wp_layer *l, size_t *kept)
{
    const struct skew_routing_layer *of = l->of;
    size_t e = of->experts, cells = (size_t)of->sources * e, n = 0;

    l->counts = calloc(of->calls * e + 1, sizeof *l->counts);
    if (of->cube)
        l->by_source = calloc(of->calls * cells + 1, sizeof *l->by_source);
    if (!l->counts || (of->cube && !l->by_source))
        return -ENOMEM;
    for (size_t c = 0; c < of->calls; c++) {
        if (!of->call[c].complete) {
            l->incomplete++;
            continue;
        }
        kept[n] = c;
        for (size_t i = 0; i < e; i++)
            l->counts[n * e + i] = (double)of->counts[c * e + i];
        if (l->by_source)
            memcpy(l->by_source + n * cells, of->cube + c * cells, cells * sizeof *l->by_source);
        n++;
    }
    l->calls = (struct skew_calls){.calls = n,
                                   .experts = of->experts,
                                   .topk = of->topk,
                                   .counts = l->counts,
                                   .by_source = of->sources ? l->by_source : NULL,
                                   .sources = of->sources};
    for (size_t i = 0; i < n; i++)
        if (of->call[kept[i]].whole) /* the sources of that call are not known */
            l->calls.by_source = NULL;
    return 0;
}

/* Every other request into one half. */
static int take_halves(struct skew_wp_layer *l)
{
    const struct skew_routing_layer *of = l->of;
    size_t e = of->experts;

    if (l->calls.calls >= 2 || of->requests < 2)
        return 0;
    l->half_counts = calloc(2 * e, sizeof *l->half_counts);
    if (!l->half_counts)
        return -ENOMEM;
    for (size_t r = 0; r < of->requests; r++)
        for (size_t i = 0; i < e; i++)
            l->half_counts[(r & 1) * e + i] += (double)of->request_counts[r * e + i];
    l->halves = (struct skew_calls){
        .calls = 2, .experts = of->experts, .topk = of->topk, .counts = l->half_counts};
    return 0;
}

/* ---- ids --------------------------------------------------------------------------------------
 */

/* All ids of one layer in the order of its calls: the first pass counts, the second fills. */
static int read_ids(struct skew_wp_layer *l, sqlite3 *db, const size_t *kept, bool fill,
                    size_t *next)
{
    static const char sql[] =
        "SELECT r.step, r.microbatch, r.source_rank, i.width, i.ids, r.stage FROM routing r "
        "JOIN routing_ids i USING (routing_id) WHERE r.layer = ? AND r.topk = ?";
    const struct skew_routing_layer *of = l->of;
    sqlite3_stmt *stmt = NULL;
    uint32_t k = of->topk;

    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        return 0; /* an older trace has no such table */
    sqlite3_bind_int64(stmt, 1, l->layer);
    sqlite3_bind_int64(stmt, 2, k);
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        int64_t step =
            sqlite3_column_type(stmt, 0) == SQLITE_NULL ? -1 : sqlite3_column_int64(stmt, 0);
        int64_t micro =
            sqlite3_column_type(stmt, 1) == SQLITE_NULL ? -1 : sqlite3_column_int64(stmt, 1);
        int source = sqlite3_column_type(stmt, 2) == SQLITE_NULL ? -1 : sqlite3_column_int(stmt, 2);
        int width = sqlite3_column_int(stmt, 3);
        const unsigned char *bytes = sqlite3_column_blob(stmt, 4);
        const char *stage = (const char *)sqlite3_column_text(stmt, 5);
        size_t tokens = width == 1 || width == 2
                            ? (size_t)sqlite3_column_bytes(stmt, 4) / (size_t)width / k
                            : 0;
        for (size_t c = 0; c < l->calls.calls; c++) {
            const struct skew_routing_call *call = &of->call[kept[c]];
            if (call->step != step || call->microbatch != micro ||
                strcmp(call->stage, stage ? stage : "") != 0)
                continue;
            for (size_t i = 0; fill && i < tokens * k; i++) {
                unsigned id = width == 1 ? bytes[i] : bytes[2 * i] * 256u + bytes[2 * i + 1];
                if (id >= of->experts)
                    id = 0; /* a damaged trace: counts and ids disagree anyway */
                l->ids[next[c] * k + i] = (uint16_t)id;
            }
            for (size_t t = 0; fill && t < tokens; t++)
                l->source[next[c] + t] = source;
            next[c] += tokens;
            break;
        }
    }
    return sqlite3_finalize(stmt) == SQLITE_OK ? 0 : -EBADMSG;
}

/* Ids are used only when they are all there: their number must be that of the counts. */
static int take_ids(struct skew_wp_layer *l, const struct skew_reading *reading, const size_t *kept)
{
    size_t calls = l->calls.calls, all = 0;
    uint32_t k = l->of->topk;
    double copies = 0;
    size_t *next = calloc(calls + 1, sizeof *next);
    int result = next ? 0 : -ENOMEM;

    for (size_t i = 0; i < reading->count && k && result == 0; i++)
        result = read_ids(l, skew_trace_db(reading->traces[i]), kept, false, next);
    for (size_t c = 0; c < calls && result == 0; c++)
        all += next[c];
    for (size_t i = 0; i < calls * l->of->experts; i++)
        copies += l->counts[i];
    if (result == 0 && all && (double)all * k == copies) {
        l->token_at = calloc(calls + 1, sizeof *l->token_at);
        l->ids = calloc(all * k, sizeof *l->ids);
        l->source = calloc(all, sizeof *l->source);
        if (!l->token_at || !l->ids || !l->source)
            result = -ENOMEM;
        for (size_t c = 0; c < calls && result == 0; c++) {
            l->token_at[c + 1] = l->token_at[c] + next[c];
            next[c] = l->token_at[c];
        }
        for (size_t i = 0; i < reading->count && result == 0; i++)
            result = read_ids(l, skew_trace_db(reading->traces[i]), kept, true, next);
        l->calls.ids = l->ids;
        l->calls.source = l->source;
        l->calls.token_at = l->token_at;
    }
    free(next);
    return result;
}

static int take_layer(struct skew_wp_layer *l, const struct skew_routing_layer *of,
                      const struct skew_reading *reading)
{
    size_t *kept = calloc(of->calls + 1, sizeof *kept);
    int result = kept ? 0 : -ENOMEM;

    *l = (struct skew_wp_layer){.of = of, .layer = of->layer};
    if (result == 0)
        result = take_calls(l, kept);
    if (result == 0)
        result = take_halves(l);
    if (result == 0)
        result = take_current(l);
    if (result == 0)
        result = take_ids(l, reading, kept);
    free(kept);
    return result;
}

/* ---- traces -----------------------------------------------------------------------------------
 */

static int read_routing(struct skew_wp *wp, struct skew_wp_trace *t)
{
    const struct skew_counts_options options = {.filter = {.stage = wp->stage,
                                                           .comm_key = wp->comm,
                                                           .by_layer = wp->by_layer,
                                                           .layer = wp->layer},
                                                .keep = SKEW_ROUTING_CUBE};

    return skew_counts_read(&t->routing, &t->reading, &options);
}

static int load_one(struct skew_wp *wp, struct skew_wp_trace *t)
{
    int result = skew_reading_open(&t->reading, t->path);
    size_t count = 0;

    if (result < 0)
        return result;
    name_trace(t, wp->label);
    result = read_routing(wp, t);
    if (result < 0)
        return result;
    const struct skew_routing_layer *const *layers = skew_routing_layers(t->routing, &count);
    if (count == 0) {
        skew_tell("%s: no routing in it%s: per-expert counts come from the tap (skewscope run), "
                  "or from skewscope import",
                  t->path, wp->stage || wp->by_layer || wp->comm ? " that is selected" : "");
        return -ENOENT;
    }
    t->layer = calloc(count, sizeof *t->layer);
    if (!t->layer)
        return told(t->path, &(struct skew_error){""}, -ENOMEM);
    for (size_t i = 0; i < count && result == 0; i++) {
        if (strcmp(layers[i]->comm_key, layers[0]->comm_key) != 0) {
            skew_tell("%s: routing of several EP groups (communicators %s and %s): choose one with "
                      "--comm",
                      t->path, layers[0]->comm_key, layers[i]->comm_key);
            return -EINVAL;
        }
        result = take_layer(&t->layer[t->layers++], layers[i], &t->reading);
    }
    return result < 0 ? told(t->path, &(struct skew_error){""}, result) : 0;
}

static int check_lists(const struct skew_wp *wp)
{
    size_t train = 0, test = 0;

    for (size_t i = 0; i < wp->traces; i++) {
        train += wp->trace[i].train;
        test += wp->trace[i].test;
        for (size_t j = 0; j < i; j++)
            if (strcmp(wp->trace[i].name, wp->trace[j].name) == 0) {
                skew_tell("%s and %s are both called '%s'; tell them apart with --label KEY, a run "
                          "label that differs",
                          wp->trace[j].path, wp->trace[i].path, wp->trace[i].name);
                return -EINVAL;
            }
    }
    if (train && test)
        return 0;
    skew_tell("--%s: none of the traces has such a name; the first is called '%s'",
              train ? "test" : "train", wp->trace[0].name);
    return -EINVAL;
}

int skew_wp_load(struct skew_wp *wp)
{
    int result = 0;

    wp->trace = calloc(wp->path_count, sizeof *wp->trace);
    if (!wp->trace)
        return -ENOMEM;
    for (size_t i = 0; i < wp->path_count && result == 0; i++) {
        struct skew_wp_trace *t = &wp->trace[wp->traces++];
        t->path = wp->paths[i];
        result = load_one(wp, t);
        t->train = listed(wp->train, t->name);
        t->test = listed(wp->test, t->name);
    }
    return result == 0 ? check_lists(wp) : result;
}

void skew_wp_unload(struct skew_wp *wp)
{
    for (size_t i = 0; i < wp->traces; i++) {
        struct skew_wp_trace *t = &wp->trace[i];
        for (size_t l = 0; l < t->layers; l++) {
            struct skew_wp_layer *one = &t->layer[l];
            free(one->counts);
            free(one->half_counts);
            free(one->by_source);
            free(one->token_at);
            free(one->ids);
            free(one->source);
            free(one->current);
        }
        free(t->layer);
        skew_routing_free(&t->routing);
        skew_reading_close(&t->reading);
    }
    skew_measured_free(&wp->model.measured);
    free(wp->trace);
    wp->trace = NULL;
    wp->traces = 0;
}

const struct skew_wp_layer *skew_wp_find(const struct skew_wp_trace *trace, int64_t layer,
                                         uint32_t experts)
{
    for (size_t l = 0; l < trace->layers; l++)
        if (trace->layer[l].layer == layer && trace->layer[l].calls.experts == experts)
            return &trace->layer[l];
    return NULL;
}
