/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts in CSV: a header with `expert` and `count`, and any of layer, step, rank, request, stage
 * and microbatch. Other columns must be fixed to one value with --where.
 */
#include "import.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../term.h"

enum column { LAYER, EXPERT, COUNT, STEP, RANK, REQUEST, MICROBATCH, STAGE, COLUMNS };

static const char *const names[COLUMNS] = {"layer", "expert",  "count",      "step",
                                           "rank",  "request", "microbatch", "stage"};
enum { FIELDS = 64 };

struct csv {
    struct skew_import *import;
    const char *file;
    size_t line;
    int column[COLUMNS]; /* field, −1: not there */
    int where[8];        /* field of each --where */
    const char *header[FIELDS];
    char *first[FIELDS]; /* of columns that nothing is known of: value seen first */
    uint32_t fields;
    size_t taken;
};

/* Splits a line at commas, in place; quotes around a field are taken off. */
static uint32_t split(char *line, const char *fields[FIELDS])
{
    uint32_t count = 0;

    line[strcspn(line, "\r\n")] = '\0';
    while (count < FIELDS) {
        char *end = NULL;
        if (*line == '"' && (end = strchr(line + 1, '"')) != NULL) {
            *end++ = '\0';
            line++;
        } else {
            end = line + strcspn(line, ",");
        }
        fields[count++] = line;
        bool more = *end == ',';
        *end = '\0';
        if (!more)
            break;
        line = end + 1;
    }
    return count;
}

static int begin(struct csv *c, char *line)
{
    const struct skew_import_options *o = &c->import->options;

    c->fields = split(line, c->header);
    for (int i = 0; i < COLUMNS; i++)
        c->column[i] = -1;
    for (uint32_t f = 0; f < c->fields; f++)
        for (int i = 0; i < COLUMNS; i++)
            if (strcmp(c->header[f], names[i]) == 0)
                c->column[i] = (int)f;
    if (c->column[EXPERT] < 0 || c->column[COUNT] < 0) {
        skew_tell("%s, line 1: no column '%s'; the first line must name the columns, among them "
                  "expert and count",
                  c->file, names[c->column[EXPERT] < 0 ? EXPERT : COUNT]);
        return -EINVAL;
    }
    for (size_t w = 0; w < o->wheres; w++) {
        c->where[w] = -1;
        for (uint32_t f = 0; f < c->fields; f++)
            if (strcmp(c->header[f], o->where[w].column) == 0)
                c->where[w] = (int)f;
        if (c->where[w] < 0) {
            skew_tell("%s: --where: there is no column '%s'", c->file, o->where[w].column);
            return -EINVAL;
        }
    }
    return 0;
}

static int number(const struct csv *c, const char *const *fields, enum column which, int64_t most,
                  int64_t *value)
{
    const char *text = fields[c->column[which]];

    if (skew_parse_int(text, 0, most, value))
        return 0;
    skew_tell("%s, line %zu: %s '%.40s' is not a whole number from 0 to %lld", c->file, c->line,
              names[which], text, (long long)most);
    return -EINVAL;
}

/* Whether the line passes --where; 1: yes. Columns that nothing is known of must not vary. */
static int passes(struct csv *c, const char *const *fields)
{
    const struct skew_import_options *o = &c->import->options;

    for (size_t w = 0; w < o->wheres; w++)
        if (strcmp(fields[c->where[w]], o->where[w].value) != 0)
            return 0;
    for (uint32_t f = 0; f < c->fields; f++) {
        bool known = false;
        for (int i = 0; i < COLUMNS; i++)
            known |= c->column[i] == (int)f;
        if (known)
            continue;
        if (!c->first[f])
            c->first[f] = strdup(fields[f]);
        if (!c->first[f])
            return -ENOMEM;
        if (strcmp(c->first[f], fields[f]) != 0) {
            skew_tell("%s, line %zu: column '%s' has several values ('%.40s', '%.40s'), whose "
                      "counts must not be mixed; choose with --where %s=VALUE",
                      c->file, c->line, c->header[f], c->first[f], fields[f], c->header[f]);
            return -EINVAL;
        }
    }
    return 1;
}

static const char *stage_of(const struct csv *c, const char *const *fields)
{
    static const char *const stages[] = {"prefill", "decode", "train", NULL};
    const char *text = c->column[STAGE] >= 0 ? fields[c->column[STAGE]] : "";

    for (int i = 0; stages[i]; i++)
        if (strcmp(text, stages[i]) == 0)
            return stages[i];
    return c->import->options.stage;
}

static int take(struct csv *c, const char *const *fields)
{
    struct skew_import *import = c->import;
    struct skew_import_key key = {.layer = import->options.layer_base,
                                  .step = -1,
                                  .microbatch = -1,
                                  .request = -1,
                                  .source = -1,
                                  .stage = stage_of(c, fields)};
    int64_t expert, count, rank = -1;
    int result = number(c, fields, EXPERT, SKEW_IMPORT_EXPERTS_MAX - 1, &expert);
    size_t index;

    if (result == 0)
        result = number(c, fields, COUNT, INT64_MAX / 65536, &count);
    if (result == 0 && c->column[LAYER] >= 0)
        result = number(c, fields, LAYER, 1000000, &key.layer);
    if (result == 0 && c->column[STEP] >= 0)
        result = number(c, fields, STEP, INT64_MAX / 2, &key.step);
    if (result == 0 && c->column[REQUEST] >= 0)
        result = number(c, fields, REQUEST, INT32_MAX, &key.request);
    if (result == 0 && c->column[MICROBATCH] >= 0)
        result = number(c, fields, MICROBATCH, INT32_MAX, &key.microbatch);
    if (result == 0 && c->column[RANK] >= 0)
        result = number(c, fields, RANK, SKEW_IMPORT_RANKS_MAX - 1, &rank);
    if (result < 0 || (key.step >= 0 && key.step < import->options.skip_steps))
        return result;
    if (import->options.experts && expert >= import->options.experts) {
        skew_tell("%s, line %zu: expert %lld, where --experts says %u", c->file, c->line,
                  (long long)expert, import->options.experts);
        return -EINVAL;
    }
    key.source = (int32_t)rank;
    c->taken++;
    result = skew_import_row(&import->rows, &key, &index);
    return result < 0 ? result
                      : skew_import_add(&import->rows, index, (uint32_t)expert, (uint64_t)count);
}

static int read_lines(struct csv *c, FILE *in, char **header)
{
    char *line = NULL;
    size_t size = 0;
    int result = 0;

    while (result >= 0 && getline(&line, &size, in) >= 0) {
        const char *fields[FIELDS];
        if (++c->line == 1) {
            *header = strdup(line);
            result = *header ? begin(c, *header) : -ENOMEM;
            continue;
        }
        if (line[strspn(line, " \t\r\n")] == '\0')
            continue;
        uint32_t count = split(line, fields);
        if (count != c->fields) {
            skew_tell("%s, line %zu: %u fields where the header has %u; is the file truncated?",
                      c->file, c->line, count, c->fields);
            result = -EINVAL;
            break;
        }
        result = passes(c, fields);
        if (result == 1)
            result = take(c, fields);
    }
    free(line);
    return result < 0 ? result : 0;
}

int skew_import_counts_csv(struct skew_import *import, const char *file)
{
    struct csv c = {.import = import, .file = file};
    FILE *in = fopen(file, "re");
    char *header = NULL;

    if (!in) {
        int result = -errno;
        skew_tell("%s: cannot be opened: %s", file, strerror(errno));
        return result;
    }
    int result = read_lines(&c, in, &header);
    if (result == 0 && c.taken == 0) {
        skew_tell("%s: no counts in it%s", file,
                  import->options.wheres ? " that pass --where" : "");
        result = -EINVAL;
    }
    for (uint32_t f = 0; f < FIELDS; f++)
        free(c.first[f]);
    free(header);
    fclose(in);
    return result;
}
