/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Per-expert counts of all databases of a trace, for commands: see counts.h.
 */
#include "counts.h"
#include "analysis_output.h"
#include "tap.h"
#include "term.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

/* Rows that the trace's taps give, for a trace into which nobody has saved them. */
struct tapping {
    struct skew_routing *routing;
    const struct skew_labels *labels;
    const struct skew_routing_filter *filter;
    const struct skew_comm *comms;
    size_t comm_count;
    struct sqlite3_stmt *ordinal; /* of an exchange on its communicator */
};

static int take_tap(void *context, const struct skew_tap_row *tap)
{
    const struct tapping *t = context;
    const struct skew_label *l =
        tap->exchange && t->labels ? skew_labels_exchange(t->labels, tap->exchange) : NULL;
    struct skew_routing_row row = {.exchange = tap->exchange,
                                   .source = tap->source,
                                   .step = tap->step,
                                   .layer = tap->layer,
                                   .microbatch = tap->microbatch,
                                   .request = -1,
                                   .ordinal = tap->ordinal,
                                   .stage = tap->stage,
                                   .experts = tap->experts,
                                   .topk = tap->topk,
                                   .tokens = tap->tokens,
                                   .verified = tap->verified,
                                   .how = tap->how,
                                   .counts = tap->counts};

    sqlite3_bind_int64(t->ordinal, 1, tap->exchange);
    if (row.exchange && sqlite3_step(t->ordinal) == SQLITE_ROW)
        row.ordinal = sqlite3_column_int64(t->ordinal, 0);
    sqlite3_reset(t->ordinal);
    if (l && row.step < 0)
        row.step = l->step >= 0 ? l->step : l->pass;
    if (l && row.layer < 0)
        row.layer = l->layer;
    for (size_t i = 0; i < t->comm_count; i++)
        if (t->comms[i].id == tap->comm)
            row.comm = &t->comms[i];
    if ((t->filter->comm_key && (!row.comm || strcmp(row.comm->key, t->filter->comm_key) != 0)) ||
        (t->filter->by_layer && row.layer != t->filter->layer) ||
        (t->filter->stage && (!row.stage || strcmp(row.stage, t->filter->stage) != 0)) ||
        (t->filter->verified && !row.verified))
        return 0;
    return skew_routing_add(t->routing, &row);
}

static int read_one(const struct skew_counts_options *a, struct skew_trace *trace,
                    const struct skew_labels *labels, struct skew_routing *one,
                    struct skew_error *error)
{
    struct tapping t = {.routing = one, .labels = labels, .filter = &a->filter};
    struct skew_tap_summary summary;
    int64_t rows;
    int result = skew_routing_count(trace, &rows, error);

    if (result < 0 || rows > 0)
        return result < 0 ? result : skew_routing_read(one, trace, &a->filter, 0, error);
    result = skew_trace_comms(trace, &t.comms, &t.comm_count, error);
    if (result == 0 &&
        sqlite3_prepare_v2(skew_trace_db(trace), "SELECT seq FROM exchange WHERE exchange_id = ?",
                           -1, &t.ordinal, NULL) != SQLITE_OK)
        result = skew_trace_sql_error(trace, error);
    if (result == 0)
        result = skew_tap_reduce(
            trace, &(struct skew_tap_options){.experts = a->experts, .labels = labels}, take_tap,
            &t, &summary, error);
    sqlite3_finalize(t.ordinal);
    return result;
}

/* Labels are needed where rows do not say their layer and step themselves. */
static int label_rows(const struct skew_counts_options *a, const struct skew_reading *reading,
                      struct skew_labelling *labelling)
{
    struct skew_error error;
    bool tapped = false, unlabelled = false;

    *labelling = (struct skew_labelling){0};
    for (size_t i = 0; i < reading->count; i++) {
        int64_t rows, without;
        if (skew_routing_count(reading->traces[i], &rows, &error) < 0 ||
            skew_routing_unlabelled(reading->traces[i], &without, &error) < 0) {
            skew_tell("%s", error.text);
            return -EIO;
        }
        tapped |= rows == 0;
        unlabelled |= without > 0;
    }
    if (tapped)
        return skew_labelling_open(labelling, reading, &a->labels);
    return unlabelled ? skew_labelling_if_needed(labelling, reading, &a->labels) : 0;
}

uint32_t skew_counts_topk(const struct skew_reading *reading)
{
    uint32_t topk = 0;

    for (size_t i = 0; i < reading->count; i++) {
        struct sqlite3_stmt *s = NULL;
        if (sqlite3_prepare_v2(skew_trace_db(reading->traces[i]),
                               "SELECT value FROM run_label WHERE key = 'topk'", -1, &s,
                               NULL) != SQLITE_OK)
            return 0;
        while (sqlite3_step(s) == SQLITE_ROW) {
            const char *text = (const char *)sqlite3_column_text(s, 0);
            unsigned long k = text ? strtoul(text, NULL, 10) : 0;
            if (k < 1 || k > SKEW_EXPERTS_MAX || (topk && k != topk)) {
                sqlite3_finalize(s);
                return 0;
            }
            topk = (uint32_t)k;
        }
        sqlite3_finalize(s);
    }
    return topk;
}

int skew_counts_read(struct skew_routing **out, const struct skew_reading *reading,
                     const struct skew_counts_options *a)
{
    struct skew_error error = {"out of memory"};
    struct skew_labelling labelling;
    int result = label_rows(a, reading, &labelling);

    if (result < 0)
        return result;
    result = skew_routing_create(out, a->keep);
    for (size_t i = 0; i < reading->count && result == 0; i++) {
        struct skew_routing *one;
        result = skew_routing_create(&one, a->keep);
        if (result == 0)
            result = read_one(a, reading->traces[i], labelling.count ? labelling.labels[i] : NULL,
                              one, &error);
        if (result == 0)
            result = skew_routing_merge(*out, one);
        skew_routing_free(&one);
    }
    if (result == 0)
        result = skew_routing_finish(*out);
    if (result < 0) {
        skew_tell("%s", result == -EOVERFLOW ? "counts add up beyond 64 bits" : error.text);
        skew_routing_free(out);
    }
    skew_labelling_close(&labelling, reading);
    return result;
}
