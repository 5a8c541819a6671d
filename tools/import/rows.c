/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of routing while files are read: found by key, counts in one array. All of it is in memory:
 * 8 bytes an expert and row.
 */
#include "import.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../term.h"

static int no_memory(void)
{
    skew_tell("out of memory: import fewer files at a time, or without --keep-ids");
    return -ENOMEM;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15;
    return hash ^ (hash >> 29);
}

static uint64_t hash_of(const struct skew_import_key *k)
{
    uint64_t hash = mix(mix(mix(1, (uint64_t)k->step), (uint64_t)k->layer), (uint64_t)k->request);

    hash = mix(mix(hash, (uint64_t)k->microbatch), (uint64_t)(uint32_t)k->source);
    hash = mix(hash, (uint64_t)(uint32_t)k->group);
    for (const char *c = k->stage ? k->stage : ""; *c; c++)
        hash = mix(hash, (unsigned char)*c);
    return hash;
}

static bool equal(const struct skew_import_key *a, const struct skew_import_key *b)
{
    return a->step == b->step && a->layer == b->layer && a->request == b->request &&
           a->microbatch == b->microbatch && a->source == b->source && a->group == b->group &&
           strcmp(a->stage ? a->stage : "", b->stage ? b->stage : "") == 0;
}

/* Where the key is, or the free place where it belongs. The table is never full. */
static size_t *place(const struct skew_import_rows *rows, const struct skew_import_key *key)
{
    size_t at = hash_of(key) & (rows->table_size - 1);

    while (rows->table[at] && !equal(&rows->row[rows->table[at] - 1].key, key))
        at = (at + 1) & (rows->table_size - 1);
    return &rows->table[at];
}

static int grow_table(struct skew_import_rows *rows)
{
    size_t size = rows->table_size ? 2 * rows->table_size : 1024;
    size_t *table = calloc(size, sizeof *table);

    if (!table)
        return no_memory();
    free(rows->table);
    rows->table = table;
    rows->table_size = size;
    for (size_t i = 0; i < rows->count; i++)
        *place(rows, &rows->row[i].key) = i + 1;
    return 0;
}

static int grow_rows(struct skew_import_rows *rows)
{
    size_t room = rows->room ? 2 * rows->room : 256;
    struct skew_import_row *row = realloc(rows->row, room * sizeof *row);

    if (!row)
        return no_memory();
    rows->row = row;
    uint64_t *counts = realloc(rows->counts, room * (rows->width ? rows->width : 1) * 8);
    if (!counts)
        return no_memory();
    rows->counts = counts;
    rows->room = room;
    return 0;
}

/* Room for that many experts in every row. */
static int widen(struct skew_import_rows *rows, uint32_t experts)
{
    uint32_t width = rows->width ? rows->width : 8;

    while (width < experts)
        width *= 2;
    uint64_t *counts = calloc(rows->room ? rows->room : 1, (size_t)width * sizeof *counts);
    if (!counts)
        return no_memory();
    for (size_t i = 0; i < rows->count; i++)
        memcpy(counts + i * width, rows->counts + i * rows->width, rows->width * sizeof *counts);
    free(rows->counts);
    rows->counts = counts;
    rows->width = width;
    return 0;
}

bool skew_import_row_exists(const struct skew_import_rows *rows, const struct skew_import_key *key)
{
    return rows->table_size && *place(rows, key) != 0;
}

int skew_import_row(struct skew_import_rows *rows, const struct skew_import_key *key, size_t *index)
{
    int result = 2 * (rows->count + 1) > rows->table_size ? grow_table(rows) : 0;

    if (result < 0)
        return result;
    size_t *found = place(rows, key);
    if (*found == 0) {
        if (rows->count == rows->room && (result = grow_rows(rows)) < 0)
            return result;
        rows->row[rows->count] = (struct skew_import_row){.key = *key, .tokens = -1};
        memset(rows->counts + rows->count * rows->width, 0, rows->width * sizeof *rows->counts);
        *found = ++rows->count;
        if (key->source >= 0 && (uint32_t)key->source >= rows->ranks)
            rows->ranks = (uint32_t)key->source + 1;
        if ((uint32_t)key->group >= rows->groups)
            rows->groups = (uint32_t)key->group + 1;
    }
    *index = *found - 1;
    return 0;
}

int skew_import_add(struct skew_import_rows *rows, size_t index, uint32_t expert, uint64_t tokens)
{
    if (expert >= rows->width) {
        int result = widen(rows, expert + 1);
        if (result < 0)
            return result;
    }
    if (expert >= rows->experts)
        rows->experts = expert + 1;
    rows->counts[index * rows->width + expert] += tokens;
    return 0;
}

int skew_import_token(struct skew_import_rows *rows, size_t index, const uint32_t *ids, uint32_t k)
{
    struct skew_import_row *row = &rows->row[index];
    int result = 0;

    for (uint32_t i = 0; i < k && result == 0; i++)
        result = skew_import_add(rows, index, ids[i], 1);
    row->tokens = row->tokens < 0 ? 1 : row->tokens + 1;
    row->topk = k;
    if (result < 0 || !rows->keep_ids)
        return result;
    if (row->id_count + k > row->id_room) {
        size_t room = row->id_room ? 2 * row->id_room + k : 16 * (size_t)k;
        uint16_t *bigger = realloc(row->ids, room * sizeof *bigger);
        if (!bigger)
            return no_memory();
        row->ids = bigger;
        row->id_room = room;
    }
    for (uint32_t i = 0; i < k; i++)
        row->ids[row->id_count++] = (uint16_t)ids[i];
    return 0;
}

int skew_import_fill(struct skew_import *import)
{
    struct skew_import_rows *rows = &import->rows;
    size_t count = rows->count;

    if (rows->ranks == 0 || import->options.ranks == 0)
        return 0;
    for (size_t i = 0; i < count; i++) {
        struct skew_import_key key = rows->row[i].key;
        if (key.source < 0 || key.request >= 0)
            continue;
        for (uint32_t r = 0; r < import->options.ranks; r++) {
            size_t index;
            key.source = (int32_t)r;
            if (skew_import_row_exists(rows, &key))
                continue;
            int result = skew_import_row(rows, &key, &index);
            if (result < 0)
                return result;
            rows->row[index].tokens = 0;
            rows->row[index].topk = rows->row[i].topk;
        }
    }
    return 0;
}

int skew_import_matrix_add(struct skew_import *import, uint32_t ranks, int64_t step, int64_t layer,
                           uint64_t *bytes, const char *file)
{
    if (import->matrix_ranks && import->matrix_ranks != ranks) {
        skew_tell("%s: a matrix of %u ranks, where those before have %u; import them separately",
                  file, ranks, import->matrix_ranks);
        free(bytes);
        return -EINVAL;
    }
    import->matrix_ranks = ranks;
    if (import->matrix_count == import->matrix_room) {
        size_t room = import->matrix_room ? 2 * import->matrix_room : 64;
        void *bigger = realloc(import->matrices, room * sizeof *import->matrices);
        if (!bigger) {
            free(bytes);
            return no_memory();
        }
        import->matrices = bigger;
        import->matrix_room = room;
    }
    import->matrices[import->matrix_count++] =
        (struct skew_import_matrix){.step = step, .layer = layer, .bytes = bytes};
    return 0;
}

int skew_import_note(struct skew_import *import, const char *severity, const char *code,
                     const char *format, ...)
{
    struct skew_import_note *notes =
        realloc(import->notes, (import->note_count + 1) * sizeof *notes);
    char *text = NULL;
    va_list arguments;

    if (!notes)
        return no_memory();
    import->notes = notes;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0)
        return no_memory();
    notes[import->note_count++] =
        (struct skew_import_note){.severity = severity, .code = code, .text = text};
    return 0;
}

void skew_import_free(struct skew_import *import)
{
    for (size_t i = 0; i < import->rows.count; i++)
        free(import->rows.row[i].ids);
    for (size_t i = 0; i < import->matrix_count; i++)
        free(import->matrices[i].bytes);
    for (size_t i = 0; i < import->note_count; i++)
        free(import->notes[i].text);
    free(import->rows.row);
    free(import->rows.counts);
    free(import->rows.table);
    free(import->matrices);
    free(import->notes);
    memset(import, 0, sizeof *import);
}
