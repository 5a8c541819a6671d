/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drains the spool of one process, exactly once: how far each stream is stored changes in the
 * transaction that stores its rows, and a segment is given back only after that transaction is
 * durable.
 */
#include "proc.h"
#include "utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES                                                                                \
    (8u << 20) /* of spool in one transaction: the sooner a fast writer gets room again */

static const char *const loss_names[] = {
#define X(id, name, text) name,
    SKEW_LOSS_LIST(X)
#undef X
};

/* ---- opening --------------------------------------------------------------------------------- */

static void make_key(const struct skew_spool_head *head, char *key, size_t size)
{
    char boot[2 * sizeof head->boot_id + 1];
    for (size_t i = 0; i < sizeof head->boot_id; i++)
        sprintf(boot + 2 * i, "%02x", head->boot_id[i]);
    snprintf(key, size, "%s-%" PRIu64 "-%u-%" PRIu64 "-%" PRIu64, boot, head->pid_ns, head->pid,
             head->start_ticks, head->created_ns);
}

static struct skew_stream *stream_of(struct skew_proc *proc, uint32_t number)
{
    uint64_t known;
    if (skew_map_get(&proc->streams, number, &known))
        return (void *)(uintptr_t)known;
    struct skew_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return NULL;
    stream->stream = number;
    stream->offset = sizeof(struct skew_seg_head);
    if (skew_map_put(&proc->streams, number, (uintptr_t)stream)) {
        free(stream);
        return NULL;
    }
    return stream;
}

static int load_progress(struct skew_proc *proc)
{
    sqlite3_stmt *stmt;
    int error = 0, found = 0;
    if (sqlite3_prepare_v2(
            proc->db->sql,
            "SELECT stream, seq, offset, parts_seq, parts_offset FROM spool_progress "
            "WHERE process_id = ?",
            -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(proc->db, "the database");
    sqlite3_bind_int64(stmt, 1, proc->id);
    while (!error && (found = skew_db_row(proc->db, stmt)) == 1) {
        struct skew_stream *stream = stream_of(proc, (uint32_t)sqlite3_column_int64(stmt, 0));
        if (!stream) {
            error = -ENOMEM;
            break;
        }
        stream->seq = (uint64_t)sqlite3_column_int64(stmt, 1);
        stream->offset = (uint64_t)sqlite3_column_int64(stmt, 2);
        if (sqlite3_column_type(stmt, 3) == SQLITE_NULL)
            continue;
        stream->replay = stream->parts_wait = true;
        stream->replay_seq = stream->seq;
        stream->replay_offset = stream->offset;
        stream->seq = stream->parts_seq = (uint64_t)sqlite3_column_int64(stmt, 3);
        stream->offset = stream->parts_offset = (uint64_t)sqlite3_column_int64(stmt, 4);
    }
    sqlite3_finalize(stmt);
    return error ? error : found;
}

static int add_process(struct skew_proc *proc)
{
    const struct skew_spool_head *head = &proc->file->head;
    sqlite3_stmt *stmt;
    char *run = skew_utf8_clean(head->run_id, sizeof head->run_id);
    int error = run ? skew_db_begin(proc->db) : -ENOMEM;
    if (!error)
        error = skew_db_run_id(proc->db, run, &proc->run);
    free(run);
    if (error)
        return error;
    if (sqlite3_prepare_v2(proc->db->sql,
                           "INSERT INTO process(run_id, key, pid, started_ns, started_real_ns) "
                           "VALUES(?,?,?,?,?)",
                           -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(proc->db, "the database");
    sqlite3_bind_int64(stmt, 1, proc->run);
    sqlite3_bind_text(stmt, 2, proc->key, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 3, head->pid);
    sqlite3_bind_int64(stmt, 4, (int64_t)head->created_ns);
    sqlite3_bind_int64(stmt, 5, (int64_t)head->created_real_ns);
    error = skew_db_run(proc->db, stmt);
    sqlite3_finalize(stmt);
    proc->id = sqlite3_last_insert_rowid(proc->db->sql);
    return error;
}

static int find_process(struct skew_proc *proc)
{
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(
            proc->db->sql,
            "SELECT process_id, run_id, returned_groups, EXISTS "
            "(SELECT 1 FROM diagnostic d WHERE d.process_id = process.process_id AND "
            "code = 'corrupt_spool') FROM process WHERE key = ?",
            -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(proc->db, "the database");
    sqlite3_bind_text(stmt, 1, proc->key, -1, SQLITE_STATIC);
    int found = skew_db_row(proc->db, stmt);
    if (found == 1) {
        proc->id = sqlite3_column_int64(stmt, 0);
        proc->run = sqlite3_column_int64(stmt, 1);
        proc->returned = (uint64_t)sqlite3_column_int64(stmt, 2);
        proc->damaged = sqlite3_column_int(stmt, 3);
    }
    sqlite3_finalize(stmt);
    if (found < 0)
        return found;
    if (!found)
        return add_process(proc);
    int error = load_progress(proc);
    return error ? error : skew_defs_load(proc);
}

int skew_proc_open(struct skew_proc **out, struct skew_db *db, struct skew_spool_file *file,
                   int dir, const char *name)
{
    struct skew_proc *proc = calloc(1, sizeof *proc);
    int error = -ENOMEM;
    *out = NULL;
    if (!proc) {
        skew_spool_file_close(&file);
        return error;
    }
    proc->db = db;
    proc->file = file;
    proc->dir = dir;
    snprintf(proc->name, sizeof proc->name, "%s", name);
    make_key(&file->head, proc->key, sizeof proc->key);
    proc->buffer = malloc(file->head.seg_bytes);
    if (proc->buffer)
        error = find_process(proc);
    if (error)
        skew_proc_close(&proc);
    *out = proc;
    return error;
}

void skew_proc_close(struct skew_proc **out)
{
    struct skew_proc *proc = *out;
    if (!proc)
        return;
    for (size_t i = 0; i < proc->streams.slots; i++) {
        if (!proc->streams.used[i])
            continue;
        struct skew_stream *stream = (void *)(uintptr_t)proc->streams.values[i];
        free(stream->parts);
        free(stream);
    }
    skew_map_free(&proc->streams);
    skew_graph_free(proc);
    skew_defs_free(proc);
    skew_spool_file_close(&proc->file);
    free(proc->buffer);
    free(proc);
    *out = NULL;
}

int skew_proc_load(struct skew_proc *proc, const char *sql,
                   int (*row)(struct skew_proc *, sqlite3_stmt *))
{
    sqlite3_stmt *stmt;
    int error = 0, found = 0;
    if (sqlite3_prepare_v2(proc->db->sql, sql, -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(proc->db, "the database");
    sqlite3_bind_int64(stmt, 1, proc->id);
    while (!error && (found = skew_db_row(proc->db, stmt)) == 1)
        error = row(proc, stmt);
    sqlite3_finalize(stmt);
    return error ? error : found;
}

void skew_bind_known(sqlite3_stmt *stmt, int column, int64_t value, bool known)
{
    if (known)
        sqlite3_bind_int64(stmt, column, value);
    else
        sqlite3_bind_null(stmt, column);
}

/* ---- reading --------------------------------------------------------------------------------- */

int skew_proc_damage(struct skew_proc *proc, const char *text)
{
    char sentence[640];
    proc->damaged = true;
    snprintf(sentence, sizeof sentence,
             "Spool %s is damaged (%s): what could be read is stored, the file is kept as it is; "
             "look at "
             "it or remove it.",
             proc->name, text);
    return skew_db_diag(proc->db, 0, proc->id, "error", "corrupt_spool", 0, sentence);
}

static int record(struct skew_proc *proc, struct skew_stream *stream, const struct skew_rec *rec)
{
    if (stream->stream == SKEW_STREAM_DEFS)
        return skew_defs_record(proc, rec);
    switch (rec->type) {
    case SKEW_REC_GROUP:
    case SKEW_REC_GROUP_PART:
        return skew_group_record(proc, stream, rec);
    case SKEW_REC_LOSS:
        return skew_loss_record(proc, rec);
    case SKEW_REC_LAUNCH:
        return skew_launch_record(proc, rec);
    case SKEW_REC_BACKEND_CALL:
        return skew_backend_call_record(proc, rec);
    case SKEW_REC_RANGES:
        return skew_ranges_record(proc, stream, rec);
    default:
        return skew_time_record(proc, rec);
    }
}

/* Notes what cannot be read at one place of a segment. */
static int damage_at(struct skew_proc *proc, const struct skew_seg_view *view, uint64_t at,
                     const char *what)
{
    char text[160];
    snprintf(text, sizeof text, "%s at byte %" PRIu64 " of segment %u, stream %u", what, at,
             view->index, view->stream);
    return skew_proc_damage(proc, text);
}

/* Moves on to a position, and sees whether everything before it may be forgotten. `at`: where the
 * record just read began. */
static void advance(struct skew_stream *stream, uint64_t at, uint64_t seq, uint64_t offset,
                    bool had_parts)
{
    if (stream->part_count && (!had_parts || !stream->parts_wait)) {
        stream->parts_seq = stream->seq;
        stream->parts_offset = at;
    }
    stream->parts_wait = stream->part_count || stream->replay;
    stream->seq = seq;
    stream->offset = offset;
    if (stream->replay && (seq > stream->replay_seq ||
                           (seq == stream->replay_seq && offset >= stream->replay_offset))) {
        stream->replay = false;
        stream->parts_wait = stream->part_count != 0;
    }
    stream->dirty = true;
}

/* Records of one segment that are not read yet. A record whose length cannot be right ends the
 * reading of the segment, one whose content cannot be right is left out. @return bytes, or negative
 * errno. */
static int64_t read_segment(struct skew_proc *proc, struct skew_stream *stream,
                            const struct skew_seg_view *view)
{
    uint64_t from = stream->offset, at = from, end = view->committed;
    int error = skew_spool_file_read(proc->file, view, from, end, proc->buffer);
    if (error) {
        stream->stuck = true;
        error = damage_at(proc, view, at, strerror(-error));
        return error;
    }
    while (!error && at < end) {
        const struct skew_rec *rec = (const void *)(proc->buffer + (at - from));
        if (end - at < sizeof *rec || rec->bytes < sizeof *rec || rec->bytes % 8 ||
            rec->bytes > end - at) {
            stream->stuck = true;
            error = damage_at(proc, view, at, "a record of impossible length");
            break;
        }
        size_t parts = stream->part_count;
        uint64_t group = stream->part_group;
        if (!stream->replay || rec->type == SKEW_REC_GROUP_PART)
            error = record(proc, stream, rec);
        if (error == -EBADMSG)
            error = damage_at(proc, view, at, "a record of impossible content");
        advance(stream, at, view->seq, at + rec->bytes, parts && group == stream->part_group);
        at += rec->bytes;
    }
    return error ? error : (int64_t)(at - from);
}

static bool has_news(const struct skew_stream *stream, const struct skew_seg_view *view)
{
    if (view->seq != stream->seq)
        return view->seq > stream->seq;
    return view->complete || (!stream->stuck && view->committed > stream->offset);
}

/*
 * Whether a segment that is not in this snapshot is really not there. The table is not read at one
 * moment: of a live process the later of two segments can be seen and the earlier one not yet.
 */
static bool is_missing(struct skew_proc *proc, struct skew_stream *stream)
{
    if (proc->gone)
        return true;
    if (stream->gap_snapshot && stream->gap_seq == stream->seq)
        return proc->snapshots > stream->gap_snapshot;
    stream->gap_seq = stream->seq;
    stream->gap_snapshot = proc->snapshots;
    proc->in_doubt = true;
    return false;
}

/* Reads a segment from where its stream is. @return bytes read, or negative errno. */
static int64_t take_segment(struct skew_proc *proc, struct skew_stream *stream,
                            const struct skew_seg_view *view)
{
    if (view->seq > stream->seq) {
        char text[128];
        snprintf(text, sizeof text, "segments %" PRIu64 " to %" PRIu64 " of stream %u are missing",
                 stream->seq, view->seq - 1, view->stream);
        int error = skew_proc_damage(proc, text);
        if (error)
            return error;
        stream->seq = view->seq;
        stream->offset = sizeof(struct skew_seg_head);
        stream->part_count = 0;
        stream->replay = stream->replay && view->seq <= stream->replay_seq;
        stream->stuck = false;
    }
    if (stream->offset == sizeof(struct skew_seg_head) && view->committed > stream->offset &&
        !stream->stuck && !stream->replay) {
        sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_ANCHOR];
        sqlite3_bind_int64(stmt, 1, proc->id);
        sqlite3_bind_int64(stmt, 2, (int64_t)view->opened_ns);
        sqlite3_bind_int64(stmt, 3, (int64_t)view->opened_real_ns);
        int error = skew_db_run(proc->db, stmt);
        if (error)
            return error;
    }
    int64_t bytes = 0;
    if (!stream->stuck && stream->offset < view->committed)
        bytes = read_segment(proc, stream, view);
    if (bytes < 0 || !view->complete)
        return bytes;
    if (stream->stuck)
        stream->part_count = 0;
    stream->stuck = false;
    advance(stream, stream->offset, view->seq + 1, sizeof(struct skew_seg_head), true);
    return bytes;
}

/* ---- storing --------------------------------------------------------------------------------- */

static int store_counters(struct skew_proc *proc)
{
    const struct skew_spool_head *head = &proc->file->head;
    struct skew_db *db = proc->db;
    int error = 0;
    for (unsigned i = 0; !error && i < SKEW_LOSS_COUNT; i++) {
        sqlite3_stmt *stmt = db->stmt[SKEW_STMT_LOSS];
        if (memcmp(&proc->loss[i], &head->loss[i], sizeof proc->loss[i]) == 0)
            continue;
        error = skew_db_begin(db);
        if (error)
            break;
        sqlite3_bind_int64(stmt, 1, proc->id);
        sqlite3_bind_text(stmt, 2, loss_names[i], -1, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 3, (int64_t)head->loss[i].groups);
        sqlite3_bind_int64(stmt, 4, (int64_t)head->loss[i].exchanges);
        sqlite3_bind_int64(stmt, 5, (int64_t)head->loss[i].ops);
        sqlite3_bind_int64(stmt, 6, (int64_t)head->loss[i].cells);
        error = skew_db_run(db, stmt);
        proc->loss[i] = head->loss[i];
    }
    if (!error)
        error = skew_tap_counters(proc);
    if (!error)
        error = skew_backend_call_counters(proc);
    if (error || (!proc->stored && proc->returned == proc->file->returned))
        return error;
    error = skew_db_begin(db);
    sqlite3_stmt *stmt = db->stmt[SKEW_STMT_STORED];
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, (int64_t)proc->stored);
    sqlite3_bind_int64(stmt, 3, (int64_t)proc->file->returned);
    if (!error)
        error = skew_db_run(db, stmt);
    proc->stored = 0;
    proc->returned = proc->file->returned;
    return error;
}

static int store_progress(struct skew_proc *proc)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_PROGRESS];
    int error = 0;
    for (size_t i = 0; !error && i < proc->streams.slots; i++) {
        if (!proc->streams.used[i])
            continue;
        struct skew_stream *stream = (void *)(uintptr_t)proc->streams.values[i];
        if (!stream->dirty || stream->replay)
            continue;
        stream->dirty = false;
        sqlite3_bind_int64(stmt, 1, proc->id);
        sqlite3_bind_int64(stmt, 2, stream->stream);
        sqlite3_bind_int64(stmt, 3, (int64_t)stream->seq);
        sqlite3_bind_int64(stmt, 4, (int64_t)stream->offset);
        if (stream->parts_wait) {
            sqlite3_bind_int64(stmt, 5, (int64_t)stream->parts_seq);
            sqlite3_bind_int64(stmt, 6, (int64_t)stream->parts_offset);
        } else {
            sqlite3_bind_null(stmt, 5);
            sqlite3_bind_null(stmt, 6);
        }
        error = skew_db_run(proc->db, stmt);
    }
    return error;
}

/* Commits, then gives back the segments whose content is now on the disk. */
static int commit(struct skew_proc *proc)
{
    int error = store_progress(proc);
    if (!error)
        error = store_counters(proc);
    if (!error)
        error = skew_time_store(proc);
    proc->touched |= proc->db->in_transaction;
    if (!error)
        error = skew_db_commit(proc->db);
    for (size_t i = 0; !error && !proc->damaged && !proc->in_doubt && i < proc->file->views; i++) {
        struct skew_seg_view *view = &proc->file->view[i];
        struct skew_stream *stream = stream_of(proc, view->stream);
        if (!stream || view->state != SKEW_SEG_FULL ||
            view->seq >= (stream->parts_wait ? stream->parts_seq : stream->seq))
            continue;
        if (skew_spool_file_release(proc->file, view) == 0)
            view->state = SKEW_SEG_FREE;
    }
    skew_spool_file_released(proc->file);
    return error;
}

/* Segments that cannot be read at all. A head that looks wrong twice is no race. */
static int check_segments(struct skew_proc *proc)
{
    const struct skew_spool_file *file = proc->file;
    char text[128];
    int error = 0;
    if (file->cut_off) {
        snprintf(text, sizeof text, "the last %u of its segments are cut off", file->cut_off);
        error = skew_proc_damage(proc, text);
    }
    if (!error && file->bad_heads && (proc->bad_heads || proc->gone)) {
        snprintf(text, sizeof text, "%u of its segments have a head that cannot be right",
                 file->bad_heads);
        error = skew_proc_damage(proc, text);
    }
    proc->bad_heads = file->bad_heads;
    return error;
}

/* Commits what came since the last time. */
static int end_batch(struct skew_proc *proc, int64_t bytes)
{
    int error = commit(proc);
    if (!error && bytes && proc->on_batch)
        proc->on_batch(proc->user, bytes);
    return error;
}

int64_t skew_proc_drain(struct skew_proc *proc)
{
    int64_t total = 0, batch = 0;
    int error = proc->unreadable ? 0 : skew_spool_file_snapshot(proc->file);
    proc->snapshots++;
    proc->in_doubt = false;
    if (error == -ENOMEM)
        return error;
    if (error) {
        proc->unreadable = true;
        error = skew_proc_damage(proc, strerror(-error));
    }
    if (proc->unreadable)
        return error;
    error = check_segments(proc);
    for (size_t i = 0; !error && i < proc->file->views; i++) {
        const struct skew_seg_view *view = &proc->file->view[i];
        struct skew_stream *stream = stream_of(proc, view->stream);
        if (!stream)
            return -ENOMEM;
        if (!has_news(stream, view))
            continue;
        if (view->seq > stream->seq && !is_missing(proc, stream)) {
            if (view->stream == SKEW_STREAM_DEFS)
                break; /* what comes behind may need what is missing */
            continue;
        }
        error = skew_db_begin(proc->db);
        int64_t bytes = error ? error : take_segment(proc, stream, view);
        if (bytes < 0)
            return bytes;
        batch += bytes;
        if (batch < BATCH_BYTES)
            continue;
        error = end_batch(proc, batch);
        total += batch;
        batch = 0;
    }
    if (!error)
        error = end_batch(proc, batch);
    return error ? error : total + batch;
}

int skew_proc_end(struct skew_proc *proc, const char *how)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_ENDED];
    int error = skew_db_begin(proc->db);
    if (error)
        return error;
    if (!error && proc->unknown_records) {
        char text[200];
        snprintf(text, sizeof text,
                 "%" PRIu64 " records of a type that this version does not know were skipped.",
                 proc->unknown_records);
        error = skew_db_diag(proc->db, 0, proc->id, "warning", "unknown_record", 0, text);
    }
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_text(stmt, 2, how, -1, SQLITE_STATIC);
    if (proc->file->head.exit_ns)
        sqlite3_bind_int64(stmt, 3, (int64_t)proc->file->head.exit_ns);
    else
        sqlite3_bind_null(stmt, 3);
    if (!error)
        error = skew_db_run(proc->db, stmt);
    if (!error)
        error = skew_db_commit(proc->db);
    proc->ended = !error;
    return error;
}
