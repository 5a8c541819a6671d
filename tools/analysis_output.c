/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What commands on analyses share: see analysis_output.h.
 */
#include "analysis_output.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

int skew_readings_open(struct skew_reading *all, char *const *paths, size_t count)
{
    *all = (struct skew_reading){0};
    for (size_t i = 0; i < count; i++) {
        struct skew_reading one;
        int result = skew_reading_open(&one, paths[i]);
        struct skew_trace **traces =
            result == 0 ? realloc(all->traces, (all->count + one.count) * sizeof *traces) : NULL;
        if (result == 0 && !traces) {
            skew_tell("out of memory");
            skew_reading_close(&one);
            result = -ENOMEM;
        }
        if (result < 0) {
            skew_reading_close(all);
            return result;
        }
        all->traces = traces;
        memcpy(all->traces + all->count, one.traces, one.count * sizeof *traces);
        all->count += one.count;
        free(one.traces);
    }
    return 0;
}

int skew_labelling_if_needed(struct skew_labelling *labelling, const struct skew_reading *reading,
                             const struct skew_label_options *options)
{
    bool saved = !options->layers && !options->microbatches && !options->step_marker;
    struct skew_error error;

    *labelling = (struct skew_labelling){0};
    for (size_t i = 0; i < reading->count && saved; i++)
        if (skew_trace_has_labels(reading->traces[i], &saved, &error) < 0) {
            skew_tell("%s", error.text);
            return -EIO;
        }
    return saved ? 0 : skew_labelling_open(labelling, reading, options);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

json_t *skew_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static void put_if(json_t *object, const char *key, double value)
{
    if (isfinite(value))
        json_object_set_new(object, key, json_real(value));
}

json_t *skew_json_estimate(const struct skew_estimate *e)
{
    json_t *object = json_pack("{s:o}", "value", skew_json_real(e->value));

    put_if(object, "low", e->low);
    put_if(object, "high", e->high);
    if (e->level > 0 && isfinite(e->low))
        put_if(object, "level", e->level);
    put_if(object, "se", e->se);
    if (e->effective > 0)
        put_if(object, "effective_n", e->effective);
    if (e->why)
        json_object_set_new(object, "why", json_string(e->why));
    return object;
}

static json_t *metric_json(const struct skew_level_metric *m)
{
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "call", skew_json_estimate(&m->call), "median",
        skew_json_real(m->median), "p95", skew_json_real(m->p95), "max", skew_json_real(m->max),
        "pooled", skew_json_estimate(&m->pooled), "chance", skew_json_real(m->chance), "chance_p95",
        skew_json_real(m->chance_p95), "persistent", skew_json_estimate(&m->persistent));
}

json_t *skew_json_level(const struct skew_level *l)
{
    json_t *object = json_pack("{s:i, s:I}", "items", (int)l->items, "calls", (json_int_t)l->rows);
    json_t *hot = json_array();

    for (int m = 0; m < SKEW_METRIC_COUNT; m++)
        json_object_set_new(object, skew_metric_name((enum skew_metric)m),
                            metric_json(&l->metric[m]));
    json_object_set_new(
        object, "cv2",
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:I}", "call", skew_json_real(l->cv2_call), "chance",
                  skew_json_real(l->cv2_chance), "beyond", skew_json_estimate(&l->cv2_beyond),
                  "persistent", skew_json_estimate(&l->cv2_persistent), "burst",
                  skew_json_real(l->cv2_burst), "gap", (json_int_t)l->gap));
    json_object_set_new(object, "p_beyond", skew_json_real(l->p_beyond));
    json_object_set_new(object, "p_persistent", skew_json_real(l->p_persistent));
    for (size_t i = 0; i < l->hot_count; i++)
        json_array_append_new(hot, json_pack("{s:i, s:f, s:f, s:I}", "item", (int)l->hot[i].item,
                                             "share", l->hot[i].share, "hottest", l->hot[i].hottest,
                                             "longest_run", (json_int_t)l->hot[i].longest_run));
    json_object_set_new(object, "hot", hot);
    json_object_set_new(object, "hottest_run", skew_json_real(l->hottest_run));
    json_object_set_new(object, "persistent_by",
                        json_string(l->persistent_by ? l->persistent_by : ""));
    json_object_set_new(object, "pooled_by", json_string(l->clustered_by ? l->clustered_by : ""));
    return object;
}

int skew_json_print(json_t *root)
{
    if (!root) {
        skew_tell("out of memory");
        return -ENOMEM;
    }
    json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(root);
    return 0;
}

/* ---- saving ---------------------------------------------------------------------------------- */

struct saving {
    sqlite3_stmt *insert;
    int code;
};

static void bind_real(sqlite3_stmt *s, int at, const json_t *value)
{
    if (json_is_number(value))
        sqlite3_bind_double(s, at, json_number_value(value));
    else
        sqlite3_bind_null(s, at);
}

static void insert_row(struct saving *s, const char *name, const json_t *value,
                       const json_t *estimate)
{
    const char *why = json_string_value(json_object_get(estimate, "why"));

    if (s->code != SQLITE_OK)
        return;
    sqlite3_bind_text(s->insert, 5, name, -1, SQLITE_TRANSIENT);
    bind_real(s->insert, 6, value);
    bind_real(s->insert, 7, json_object_get(estimate, "low"));
    bind_real(s->insert, 8, json_object_get(estimate, "high"));
    bind_real(s->insert, 9, json_object_get(estimate, "level"));
    sqlite3_bind_text(s->insert, 10, why, -1, SQLITE_TRANSIENT);
    int step = sqlite3_step(s->insert);
    s->code = step == SQLITE_DONE ? sqlite3_reset(s->insert) : step;
}

static void save_value(struct saving *s, const char *name, const json_t *value)
{
    const char *key;
    json_t *member;
    size_t index;

    if (json_is_number(value) || json_is_null(value))
        insert_row(s, name, value, NULL);
    else if (json_is_boolean(value)) {
        json_t *number = json_integer(json_is_true(value));
        insert_row(s, name, number, NULL);
        json_decref(number);
    } else if (json_is_object(value) && json_object_get(value, "value"))
        insert_row(s, name, json_object_get(value, "value"), value);
    else if (json_is_object(value)) {
        json_object_foreach((json_t *)value, key, member)
        {
            char longer[256];
            snprintf(longer, sizeof longer, "%s%s%s", name, *name ? "." : "", key);
            save_value(s, longer, member);
        }
    } else if (json_is_array(value)) {
        json_array_foreach(value, index, member)
        {
            char longer[256];
            snprintf(longer, sizeof longer, "%s.%zu", name, index);
            save_value(s, longer, member);
        }
    }
}

static void save_object(struct saving *s, const char *analysis, const json_t *object)
{
    const json_t *layer = json_object_get(object, "layer");
    const char *key;
    json_t *member;

    sqlite3_bind_text(s->insert, 1, analysis, -1, SQLITE_STATIC);
    sqlite3_bind_text(s->insert, 2, json_string_value(json_object_get(object, "comm")), -1,
                      SQLITE_TRANSIENT);
    sqlite3_bind_text(s->insert, 3, json_string_value(json_object_get(object, "role")), -1,
                      SQLITE_TRANSIENT);
    if (json_is_integer(layer))
        sqlite3_bind_int64(s->insert, 4, json_integer_value(layer));
    else
        sqlite3_bind_null(s->insert, 4);
    json_object_foreach((json_t *)object, key,
                        member) if (strcmp(key, "layer") != 0 && strcmp(key, "matrix") != 0)
        save_value(s, key, member);
}

static int delete_earlier(sqlite3 *db, const char *analysis)
{
    sqlite3_stmt *s = NULL;
    int code = sqlite3_prepare_v2(db, "DELETE FROM metric WHERE analysis = ?", -1, &s, NULL);

    if (code == SQLITE_OK) {
        sqlite3_bind_text(s, 1, analysis, -1, SQLITE_STATIC);
        code = sqlite3_step(s);
        code = code == SQLITE_DONE ? SQLITE_OK : code;
    }
    sqlite3_finalize(s);
    return code;
}

int skew_metric_save(const char *path, const char *analysis, const json_t *objects)
{
    static const char make[] =
        "CREATE TABLE IF NOT EXISTS metric (analysis TEXT NOT NULL, comm_key TEXT, role TEXT, step "
        "INTEGER, layer INTEGER, rank INTEGER, expert INTEGER, name TEXT NOT NULL, value REAL, low "
        "REAL, high REAL, level REAL, unit TEXT, note TEXT)";
    static const char insert[] =
        "INSERT INTO metric (analysis, comm_key, role, layer, name, value, low, high, level, note)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    struct saving s = {.code = SQLITE_OK};
    sqlite3 *db = NULL;
    size_t index;
    json_t *object;

    s.code = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (s.code == SQLITE_OK) {
        sqlite3_busy_timeout(db, 5000);
        sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
        sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
        s.code = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    }
    if (s.code == SQLITE_OK)
        s.code = sqlite3_exec(db, make, NULL, NULL, NULL);
    if (s.code == SQLITE_OK)
        s.code = delete_earlier(db, analysis);
    if (s.code == SQLITE_OK)
        s.code = sqlite3_prepare_v2(db, insert, -1, &s.insert, NULL);
    if (s.code == SQLITE_OK)
        json_array_foreach(objects, index, object) save_object(&s, analysis, object);
    sqlite3_finalize(s.insert);
    if (s.code == SQLITE_OK)
        s.code = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (s.code != SQLITE_OK)
        skew_tell("%s: results could not be saved: %s; nothing was changed", path,
                  db ? sqlite3_errmsg(db) : "out of memory");
    sqlite3_close(db); /* rolls back what was not committed */
    return s.code == SQLITE_OK ? 0 : -EIO;
}

/* ---- text ------------------------------------------------------------------------------------ */

char *skew_number_text(char text[SKEW_ESTIMATE_TEXT], double value, int digits)
{
    if (isfinite(value))
        snprintf(text, SKEW_ESTIMATE_TEXT, "%.*f", digits, value);
    else
        snprintf(text, SKEW_ESTIMATE_TEXT, "-");
    return text;
}

char *skew_estimate_text(char text[SKEW_ESTIMATE_TEXT], const struct skew_estimate *e, int digits)
{
    if (!isfinite(e->low) || !isfinite(e->high))
        return skew_number_text(text, e->value, digits);
    snprintf(text, SKEW_ESTIMATE_TEXT, "%.*f [%.*f, %.*f]", digits, e->value, digits, e->low,
             digits, e->high);
    return text;
}

void skew_note_print(struct skew_notes *notes, const char *text)
{
    size_t i = 0;

    if (!text)
        return;
    while (i < notes->count && strcmp(notes->text[i], text) != 0)
        i++;
    if (i == notes->count && i < SKEW_NOTES_MAX)
        notes->text[notes->count++] = text;
    if (i < SKEW_NOTES_MAX)
        printf("  %c", (char)('a' + i));
    else
        printf("  %s", text);
}

void skew_notes_explain(const struct skew_notes *notes)
{
    for (size_t i = 0; i < notes->count; i++)
        printf("%c: %s\n", (char)('a' + i), notes->text[i]);
}
