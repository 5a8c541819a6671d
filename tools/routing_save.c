/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See routing_save.h. A connection of its own, with the dirty pages kept in memory until the end:
 * the trace can be read meanwhile.
 */
#include "routing_save.h"
#include "collect/db.h"
#include "collect/vector.h"
#include "term.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct skew_routing_saver {
    sqlite3 *sql;
    sqlite3_stmt *vector, *row, *ordinal;
    struct skew_vector_set vectors; /* of this saving */
    struct skew_vector packed;
    struct skew_cells cells;
    uint32_t ordinals; /* known to be there */
    char *file;
};

static int fail(struct skew_routing_saver *s)
{
    int code = sqlite3_errcode(s->sql);
    skew_tell("%s: cannot be written: %s", s->file, sqlite3_errmsg(s->sql));
    return code == SQLITE_BUSY       ? -EBUSY
           : code == SQLITE_READONLY ? -EROFS
           : code == SQLITE_NOMEM    ? -ENOMEM
                                     : -EIO;
}

static void saver_free(struct skew_routing_saver **saver)
{
    struct skew_routing_saver *s = *saver;
    *saver = NULL;
    if (!s)
        return;
    sqlite3_finalize(s->vector);
    sqlite3_finalize(s->row);
    sqlite3_finalize(s->ordinal);
    sqlite3_close(s->sql);
    skew_vector_set_free(&s->vectors);
    skew_vector_free(&s->packed);
    skew_cells_free(&s->cells);
    free(s->file);
    free(s);
}

static int prepare(struct skew_routing_saver *s)
{
    static const char begin[] =
        "PRAGMA trusted_schema = OFF; PRAGMA cache_spill = OFF; BEGIN IMMEDIATE;"
        "DELETE FROM routing WHERE source LIKE 'tap %' OR source = 'sizes'";
    static const char vector[] =
        "INSERT INTO vector(cells, total, largest, size_width, size_stride, peer_width, "
        "peer_stride, sizes, peers) VALUES(?,?,?,?,?,0,0,?,NULL)";
    static const char row[] =
        "INSERT INTO routing(exchange_id, comm_id, source_rank, step, layer, experts, topk, "
        "tokens, counts, unit, verified, source, microbatch, stage, ordinal) "
        "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
    sqlite3_db_config(s->sql, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_busy_timeout(s->sql, 2000);
    if (sqlite3_exec(s->sql, begin, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(s->sql, vector, -1, &s->vector, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(s->sql, row, -1, &s->row, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(s->sql, "INSERT OR IGNORE INTO ordinal(n) VALUES(?)", -1, &s->ordinal,
                           NULL) != SQLITE_OK)
        return fail(s);
    return 0;
}

int skew_routing_save_begin(struct skew_routing_saver **out, const char *file)
{
    struct skew_routing_saver *s = calloc(1, sizeof *s);
    int result = -ENOMEM;
    *out = NULL;
    if (!s || !(s->file = strdup(file)) || skew_vector_set_init(&s->vectors, 1u << 18) != 0) {
        skew_tell("out of memory");
    } else if (skew_db_raw_open(&s->sql, file, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        skew_tell("%s: cannot be opened for writing: %s", file, sqlite3_errmsg(s->sql));
        result = -EACCES;
    } else {
        result = prepare(s);
    }
    if (result < 0)
        saver_free(&s);
    *out = s;
    return result;
}

static int step(struct skew_routing_saver *s, sqlite3_stmt *stmt)
{
    int code = sqlite3_step(stmt);
    int result = code == SQLITE_DONE ? 0 : fail(s);
    sqlite3_reset(stmt);
    return result;
}

static void bind(sqlite3_stmt *stmt, int column, int64_t value, bool known)
{
    if (known)
        sqlite3_bind_int64(stmt, column, value);
    else
        sqlite3_bind_null(stmt, column);
}

/* Stores the packed vector unless this saving has stored an equal one. */
static int save_vector(struct skew_routing_saver *s, int64_t *id)
{
    const struct skew_vector *v = &s->packed;
    *id = skew_vector_set_find(&s->vectors, v, 0);
    if (*id)
        return 0;
    sqlite3_bind_int64(s->vector, 1, (int64_t)v->cells);
    sqlite3_bind_int64(s->vector, 2, (int64_t)v->total);
    sqlite3_bind_int64(s->vector, 3, (int64_t)v->largest);
    sqlite3_bind_int64(s->vector, 4, v->size_width);
    sqlite3_bind_int64(s->vector, 5, v->size_stride);
    sqlite3_bind_blob64(s->vector, 6, v->sizes, v->sizes_bytes, SQLITE_STATIC);
    int result = step(s, s->vector);
    *id = sqlite3_last_insert_rowid(s->sql);
    if (result == 0)
        skew_vector_set_find(&s->vectors, v, *id);
    for (; result == 0 && s->ordinals < v->cells; s->ordinals++) {
        sqlite3_bind_int64(s->ordinal, 1, s->ordinals);
        result = step(s, s->ordinal);
    }
    return result;
}

int skew_routing_save(struct skew_routing_saver *s, const struct skew_routing_saved *row)
{
    int64_t vector;
    if (skew_cells_reserve(&s->cells, row->experts) != 0)
        return -ENOMEM;
    s->cells.count = 0;
    for (uint32_t e = 0; e < row->experts; e++)
        skew_cells_add(&s->cells, row->counts[e], e);
    if (skew_vector_encode(&s->packed, &s->cells) != 0)
        return -ENOMEM;
    int result = save_vector(s, &vector);
    if (result < 0)
        return result;
    bind(s->row, 1, row->exchange, row->exchange != 0);
    bind(s->row, 2, row->comm, row->comm != 0);
    bind(s->row, 3, row->source, row->source >= 0);
    bind(s->row, 4, row->step, row->step >= 0);
    bind(s->row, 5, row->layer, row->layer >= 0);
    bind(s->row, 6, row->experts, true);
    bind(s->row, 7, row->topk, row->topk != 0);
    bind(s->row, 8, row->tokens, row->tokens >= 0);
    bind(s->row, 9, vector, true);
    bind(s->row, 10, (int64_t)s->packed.unit, true);
    bind(s->row, 11, row->verified, true);
    sqlite3_bind_text(s->row, 12, row->how, -1, SQLITE_STATIC);
    bind(s->row, 13, row->microbatch, row->microbatch >= 0);
    sqlite3_bind_text(s->row, 14, row->stage, -1, SQLITE_STATIC);
    bind(s->row, 15, row->ordinal, row->ordinal >= 0);
    return step(s, s->row);
}

int skew_routing_save_end(struct skew_routing_saver **saver, bool keep)
{
    struct skew_routing_saver *s = *saver;
    int result = 0;
    if (s && keep && sqlite3_exec(s->sql, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        result = fail(s);
    saver_free(saver);
    return result;
}
