/* SPDX-License-Identifier: Apache-2.0 */
/* NVTX ranges: names that come once, stacks that come when they have changed. All of it is text of
 * an application. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proc.h"
#include "utf8.h"

#define NAME_MOST (1u << 16) /* no library gives out more */

static int remember(struct skew_proc *proc, uint64_t name, const char *text)
{
    char *copy = strdup(text);
    uint64_t old = 0;
    if (!copy)
        return -ENOMEM;
    if (skew_map_get(&proc->range_names, name, &old))
        free((char *)(uintptr_t)old);
    int error = skew_map_put(&proc->range_names, name, (uintptr_t)copy);
    if (error)
        free(copy);
    return error;
}

int skew_range_name_record(struct skew_proc *proc, const struct skew_rec *head)
{
    const struct skew_rec_range_name *rec = (const void *)head;
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_RANGE_NAME];
    if (rec->length > head->bytes - sizeof *rec || !rec->name || rec->name > NAME_MOST)
        return -EBADMSG;
    char *text = skew_utf8_clean((const char *)(rec + 1), rec->length);
    if (!text)
        return -ENOMEM;
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, rec->name);
    sqlite3_bind_text(stmt, 3, text, -1, SQLITE_STATIC);
    int error = skew_db_run(proc->db, stmt);
    if (!error)
        error = remember(proc, rec->name, text);
    free(text);
    return error;
}

static const char *name_of(const struct skew_proc *proc, uint32_t name)
{
    uint64_t text;
    return skew_map_get(&proc->range_names, name, &text) ? (const char *)(uintptr_t)text : NULL;
}

/* The message as it was, its numbers back in their places. */
static int message(const struct skew_proc *proc, const struct skew_range *range, char **out)
{
    const char *text = name_of(proc, range->name);
    size_t size = text ? strlen(text) + SKEW_RANGE_NUMBERS * 24 + 1 : 0, at = 0;
    uint32_t next = 0;
    *out = NULL;
    if (!text)
        return 0;
    *out = malloc(size);
    if (!*out)
        return -ENOMEM;
    for (; *text; text++) {
        if (*text == SKEW_RANGE_HOLE && next < range->numbers && next < SKEW_RANGE_NUMBERS)
            at += (size_t)snprintf(*out + at, size - at, "%" PRId64, range->number[next++]);
        else
            (*out)[at++] = *text;
    }
    (*out)[at] = 0;
    return 0;
}

/* The row of one range, added unless an earlier stack had it too. */
static int range_id(struct skew_proc *proc, uint32_t stream, const struct skew_rec_ranges *rec,
                    const struct skew_range *range, uint32_t depth, int64_t parent, int64_t *id)
{
    sqlite3_stmt *find = proc->db->stmt[SKEW_STMT_RANGE_FIND],
                 *add = proc->db->stmt[SKEW_STMT_RANGE];
    const char *domain = range->domain ? name_of(proc, range->domain) : NULL;
    char *text;
    sqlite3_bind_int64(find, 1, proc->id);
    sqlite3_bind_int64(find, 2, stream);
    sqlite3_bind_int64(find, 3, (int64_t)range->serial);
    int found = skew_db_row(proc->db, find);
    if (found == 1) {
        *id = sqlite3_column_int64(find, 0);
        sqlite3_reset(find);
    }
    if (found)
        return found < 0 ? found : 0;
    int error = message(proc, range, &text);
    if (error)
        return error;
    sqlite3_bind_int64(add, 1, proc->id);
    sqlite3_bind_int64(add, 2, stream);
    sqlite3_bind_int64(add, 3, (int64_t)range->serial);
    sqlite3_bind_text(add, 4, range->kind == SKEW_RANGE_MARK ? "mark" : "range", -1, SQLITE_STATIC);
    sqlite3_bind_int64(add, 5, depth);
    skew_bind_known(add, 6, parent, parent != 0);
    sqlite3_bind_text(add, 7, domain, -1, SQLITE_STATIC);
    sqlite3_bind_text(add, 8, text, -1, SQLITE_STATIC);
    sqlite3_bind_int64(add, 9, (int64_t)rec->group);
    error = skew_db_run(proc->db, add);
    *id = sqlite3_last_insert_rowid(proc->db->sql);
    free(text);
    return error;
}

int skew_ranges_record(struct skew_proc *proc, struct skew_stream *stream,
                       const struct skew_rec *head)
{
    const struct skew_rec_ranges *rec = (const void *)head;
    const struct skew_range *range = (const void *)(rec + 1);
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_RANGE_CHANGE];
    int64_t innermost = 0, id = 0;
    int error = 0;
    if (head->bytes < sizeof *rec || rec->group > INT64_MAX ||
        (head->bytes - sizeof *rec) / sizeof *range < (size_t)rec->depth + rec->marks)
        return -EBADMSG;
    for (uint32_t i = 0; i < (uint32_t)rec->depth + rec->marks; i++)
        if (range[i].serial > INT64_MAX || !range[i].serial)
            return -EBADMSG;
    for (uint32_t i = 0; !error && i < rec->depth; i++) {
        error = range_id(proc, stream->stream, rec, &range[i], i, innermost, &id);
        innermost = id;
    }
    for (uint32_t i = rec->depth; !error && i < (uint32_t)rec->depth + rec->marks; i++)
        error = range_id(proc, stream->stream, rec, &range[i], rec->depth, innermost, &id);
    if (error)
        return error;
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, stream->stream);
    sqlite3_bind_int64(stmt, 3, (int64_t)rec->group);
    skew_bind_known(stmt, 4, innermost, innermost != 0);
    sqlite3_bind_int64(stmt, 5, rec->deeper);
    sqlite3_bind_int64(stmt, 6, rec->more_marks);
    return skew_db_run(proc->db, stmt);
}

static int load_name(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    const char *text = (const char *)sqlite3_column_text(stmt, 1);
    return remember(proc, (uint64_t)sqlite3_column_int64(stmt, 0), text ? text : "");
}

int skew_ranges_load(struct skew_proc *proc)
{
    return skew_proc_load(proc, "SELECT local_name, text FROM nvtx_name WHERE process_id = ?",
                          load_name);
}

void skew_ranges_free(struct skew_proc *proc)
{
    for (size_t i = 0; i < proc->range_names.slots; i++)
        if (proc->range_names.used[i])
            free((char *)(uintptr_t)proc->range_names.values[i]);
    skew_map_free(&proc->range_names);
}
