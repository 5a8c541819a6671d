/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Labels for commands: see labelling.h. The only code that writes labels into a trace; it adds rows
 * to tables that are there for it and never touches what was captured.
 */
#include "labelling.h"
#include "option_values.h"
#include "term.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

/* ---- options -----------------------------------------------------------------------------------
 */

enum {
    KEY_LAYERS = 0x2000,
    KEY_MICROBATCHES,
    KEY_MARKER,
    KEY_LAYER_MARKER,
    KEY_PREFILL_MARKER,
    KEY_DECODE_MARKER,
    KEY_STAGE
};

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "What you know better:", 1},
    {"layers", KEY_LAYERS, "N", 0, "each rank has N MoE layers (default: find out)", 1},
    {"microbatches", KEY_MICROBATCHES, "M", 0,
     "a step has M forward passes (default: find out; with overlapping passes this is never "
     "needed)",
     1},
    {"step-marker", KEY_MARKER, "TEXT", 0,
     "what marks a step: an operation that ends one (allreduce, reducescatter>=BYTES, "
     "allreduce>=BYTES@KEY of a communicator), NVTX ranges or marks that begin so (or are like it, "
     "with a *), or part of the name of a function in a call site that ends one",
     1},
    {"layer-marker", KEY_LAYER_MARKER, "TEXT", 0,
     "NVTX ranges that begin so, with the layer's number behind it", 1},
    {"prefill-marker", KEY_PREFILL_MARKER, "TEXT", 0, "NVTX ranges or marks of prefill", 1},
    {"decode-marker", KEY_DECODE_MARKER, "TEXT", 0, "NVTX ranges or marks of decode", 1},
    {"stage-is", KEY_STAGE, "STAGE", 0, "all forward passes of inference are prefill, or decode",
     1},
    {0}};

static const char *range_text(struct argp_state *state, const char *option, const char *text)
{
    if (!*text)
        argp_error(state, "--%s: '' is not allowed; it takes how the text of an NVTX range begins",
                   option);
    return text;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct skew_label_options *o = state->input;

    switch (key) {
    case KEY_LAYERS:
        o->layers = (uint32_t)skew_option_integer(state, "layers", text, 1, 100000);
        return 0;
    case KEY_MICROBATCHES:
        o->microbatches = (uint32_t)skew_option_integer(state, "microbatches", text, 1, 100000);
        return 0;
    case KEY_MARKER:
        if (!*text)
            argp_error(state,
                       "--step-marker: '' is not allowed; it takes an operation or part of a "
                       "function's name");
        o->step_marker = text;
        return 0;
    case KEY_LAYER_MARKER:
        o->layer_marker = range_text(state, "layer-marker", text);
        return 0;
    case KEY_PREFILL_MARKER:
        o->prefill_marker = range_text(state, "prefill-marker", text);
        return 0;
    case KEY_DECODE_MARKER:
        o->decode_marker = range_text(state, "decode-marker", text);
        return 0;
    case KEY_STAGE:
        if (strcmp(text, "prefill") != 0 && strcmp(text, "decode") != 0)
            argp_error(state, "--stage-is: '%s' is neither prefill nor decode", text);
        o->stage = strcmp(text, "prefill") == 0 ? SKEW_STAGE_PREFILL : SKEW_STAGE_DECODE;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp skew_label_options_argp = {option_table, parse, NULL, NULL, NULL, NULL, NULL};

/* ---- of all databases --------------------------------------------------------------------------
 */

int skew_labelling_open(struct skew_labelling *l, const struct skew_reading *reading,
                        const struct skew_label_options *options)
{
    struct skew_error error = {"out of memory"};
    int result = 0;

    *l = (struct skew_labelling){.labels = calloc(reading->count + 1, sizeof *l->labels)};
    if (!l->labels)
        result = -ENOMEM;
    for (size_t i = 0; i < reading->count && result == 0; i++) {
        result = skew_labels_get(reading->traces[i], options, &l->labels[i], &error);
        if (result == 0) {
            skew_trace_attach_labels(reading->traces[i], l->labels[i]);
            l->count++;
        }
    }
    if (result < 0) {
        skew_tell("%s", error.text);
        skew_labelling_close(l, reading);
    }
    return result;
}

void skew_labelling_close(struct skew_labelling *l, const struct skew_reading *reading)
{
    for (size_t i = 0; i < l->count; i++) {
        skew_trace_attach_labels(reading->traces[i], NULL);
        skew_labels_free(&l->labels[i]);
    }
    free(l->labels);
    *l = (struct skew_labelling){0};
}

/* ---- saving ------------------------------------------------------------------------------------
 */

/* Traces of before these columns and tables: additions only (CONTRIBUTING.md). */
static const char *const additions[] = {
    "ALTER TABLE exchange_label ADD COLUMN pass INTEGER",
    "ALTER TABLE exchange_label ADD COLUMN flags INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE IF NOT EXISTS operation_label (operation_id INTEGER PRIMARY KEY REFERENCES "
    "operation, role TEXT,"
    " step INTEGER, layer INTEGER, microbatch INTEGER, stage TEXT, token_bytes INTEGER, pair_id "
    "INTEGER,"
    " confidence REAL NOT NULL, source TEXT NOT NULL, pass INTEGER, flags INTEGER NOT NULL DEFAULT "
    "0)",
};

static bool has_column(sqlite3 *db, const char *table, const char *column)
{
    return sqlite3_table_column_metadata(db, "main", table, column, NULL, NULL, NULL, NULL, NULL) ==
           SQLITE_OK;
}

static int prepare_tables(sqlite3 *db)
{
    bool wide = has_column(db, "exchange_label", "pass");
    int code = SQLITE_OK;

    for (size_t i = wide ? 2 : 0; i < sizeof additions / sizeof *additions && code == SQLITE_OK;
         i++)
        code = sqlite3_exec(db, additions[i], NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_exec(db,
                            "DELETE FROM exchange_label WHERE source = 'label';"
                            "DELETE FROM operation_label WHERE source = 'label'",
                            NULL, NULL, NULL);
    return code;
}

static void bind_ordinal(sqlite3_stmt *s, int at, int64_t value, bool told)
{
    if (told)
        sqlite3_bind_int64(s, at, value);
    else
        sqlite3_bind_null(s, at);
}

/* What an analysis or a person has put there by another way stays. */
static int insert(sqlite3 *db, const char *table, const char *key, const struct skew_label *labels,
                  size_t count)
{
    char sql[320];
    sqlite3_stmt *s = NULL;

    snprintf(
        sql, sizeof sql,
        "INSERT OR IGNORE INTO %s (%s, role, step, layer, microbatch, stage, token_bytes, pair_id,"
        " confidence, pass, flags, source) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'label')",
        table, key);
    int code = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    for (size_t i = 0; i < count && code == SQLITE_OK; i++) {
        const struct skew_label *l = &labels[i];
        if (!l->role && !l->flags && !l->pair)
            continue; /* nothing was told */
        sqlite3_bind_int64(s, 1, l->id);
        sqlite3_bind_text(s, 2, skew_label_role_name(l->role), -1, SQLITE_STATIC);
        bind_ordinal(s, 3, l->step, l->step >= 0);
        bind_ordinal(s, 4, l->layer, l->layer >= 0);
        bind_ordinal(s, 5, l->microbatch, l->microbatch >= 0);
        sqlite3_bind_text(s, 6, skew_label_stage_name(l->stage), -1, SQLITE_STATIC);
        bind_ordinal(s, 7, (int64_t)l->token_bytes, l->token_bytes != 0);
        bind_ordinal(s, 8, l->pair, l->pair != 0);
        sqlite3_bind_double(s, 9, (double)l->confidence);
        bind_ordinal(s, 10, l->pass, l->pass >= 0);
        sqlite3_bind_int(s, 11, l->flags);
        code = sqlite3_step(s);
        code = code == SQLITE_DONE ? sqlite3_reset(s) : code;
    }
    sqlite3_finalize(s);
    return code;
}

int skew_labels_save(const char *path, const struct skew_labels *labels)
{
    size_t exchanges, operations;
    const struct skew_label *e = skew_labels_exchanges(labels, &exchanges);
    const struct skew_label *o = skew_labels_operations(labels, &operations);
    sqlite3 *db = NULL;
    int code = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(db, 5000);
        sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
        sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
        code = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    }
    if (code == SQLITE_OK)
        code = prepare_tables(db);
    if (code == SQLITE_OK)
        code = insert(db, "exchange_label", "exchange_id", e, exchanges);
    if (code == SQLITE_OK)
        code = insert(db, "operation_label", "operation_id", o, operations);
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (code != SQLITE_OK)
        skew_tell("%s: labels could not be saved: %s; nothing was changed", path,
                  db ? sqlite3_errmsg(db) : "out of memory");
    sqlite3_close(db); /* rolls back what was not committed */
    return code == SQLITE_OK ? 0 : -EIO;
}
