/* SPDX-License-Identifier: Apache-2.0 */
/* Definition records become rows: here the process itself, its threads and what it had to say;
 * comms.c, sites.c and graphs.c do the rest. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proc.h"
#include "utf8.h"

static int set_column(struct skew_proc *proc, const char *column, const char *text, size_t length)
{
    sqlite3_stmt *stmt;
    char sql[96];
    snprintf(sql, sizeof sql, "UPDATE process SET %s = ?2 WHERE process_id = ?1", column);
    if (sqlite3_prepare_v2(proc->db->sql, sql, -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(proc->db, "the database");
    sqlite3_bind_int64(stmt, 1, proc->id);
    skew_db_bind_text(stmt, 2, text, length);
    int error = skew_db_run(proc->db, stmt);
    sqlite3_finalize(stmt);
    return error;
}

/* Ranks as launchers tell them; the first of a list that is set wins, whatever the order of
 * records. */
static int set_rank(struct skew_proc *proc, const char *name, size_t name_length, const char *value)
{
    static const struct {
        const char *column, *name;
    } sources[] = {
        {"world_rank", "PMI_RANK"},        {"world_rank", "OMPI_COMM_WORLD_RANK"},
        {"world_rank", "SLURM_PROCID"},    {"world_rank", "RANK"},
        {"local_rank", "MPI_LOCALRANKID"}, {"local_rank", "OMPI_COMM_WORLD_LOCAL_RANK"},
        {"local_rank", "SLURM_LOCALID"},   {"local_rank", "LOCAL_RANK"},
        {"world_size", "PMI_SIZE"},        {"world_size", "OMPI_COMM_WORLD_SIZE"},
        {"world_size", "SLURM_NTASKS"},    {"world_size", "WORLD_SIZE"},
    };
    char sql[512], *end;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        if (strlen(sources[i].name) != name_length ||
            memcmp(sources[i].name, name, name_length) != 0)
            continue;
        errno = 0;
        long number = strtol(value, &end, 10);
        if (errno || end == value || *end || number < 0)
            return 0;
        /* A stronger source has a higher index among those of its column. */
        int written =
            snprintf(sql, sizeof sql,
                     "UPDATE process SET %s = %ld WHERE process_id = %" PRId64
                     " AND NOT EXISTS (SELECT 1 FROM process_env e WHERE e.process_id = "
                     "process.process_id AND e.value NOT GLOB '*[^0-9]*' AND e.value <> '' AND "
                     "e.name IN (''",
                     sources[i].column, number, proc->id);
        for (size_t j = i + 1; j < sizeof sources / sizeof *sources; j++)
            if (strcmp(sources[j].column, sources[i].column) == 0)
                written +=
                    snprintf(sql + written, sizeof sql - (size_t)written, ",'%s'", sources[j].name);
        snprintf(sql + written, sizeof sql - (size_t)written, "))");
        return skew_db_exec(proc->db, sql);
    }
    return 0;
}

static int set_env(struct skew_proc *proc, const char *text, size_t length)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_ENV];
    const char *equals = memchr(text, '=', length);
    char value[32] = "";
    if (!equals)
        return 0;
    size_t name_length = (size_t)(equals - text), value_length = length - name_length - 1;
    sqlite3_bind_int64(stmt, 1, proc->id);
    skew_db_bind_text(stmt, 2, text, name_length);
    skew_db_bind_text(stmt, 3, equals + 1, value_length);
    int error = skew_db_run(proc->db, stmt);
    if (error || value_length >= sizeof value)
        return error;
    memcpy(value, equals + 1, value_length);
    return set_rank(proc, text, name_length, value);
}

/* "version path route"; the path may hold spaces. */
static int set_nccl(struct skew_proc *proc, const char *text, size_t length)
{
    char *copy = skew_utf8_clean(text, length), *path, *route;
    int error = 0;
    if (!copy)
        return -ENOMEM;
    path = strchr(copy, ' ');
    route = strrchr(copy, ' ');
    if (path && route > path) {
        *path++ = *route++ = 0;
        error = set_column(proc, "nccl_version", copy, strlen(copy));
        if (!error)
            error = set_column(proc, "nccl_path", path, strlen(path));
        if (!error)
            error = set_column(proc, "nccl_route", route, strlen(route));
    }
    free(copy);
    return error;
}

static int process_record(struct skew_proc *proc, const struct skew_rec_text *rec)
{
    const char *text = (const char *)(rec + 1);
    char *json;
    int error;
    switch (rec->what) {
    case SKEW_TEXT_EXE:
        free(proc->exe);
        proc->exe = skew_utf8_clean(text, rec->length);
        return set_column(proc, "exe", text, rec->length);
    case SKEW_TEXT_HOST:
        return set_column(proc, "host", text, rec->length);
    case SKEW_TEXT_CWD:
        return set_column(proc, "cwd", text, rec->length);
    case SKEW_TEXT_VERSION:
        return set_column(proc, "version", text, rec->length);
    case SKEW_TEXT_NCCL:
        return set_nccl(proc, text, rec->length);
    case SKEW_TEXT_ENV:
        return set_env(proc, text, rec->length);
    case SKEW_TEXT_CMDLINE:
        json = skew_utf8_json_array(text, rec->length);
        error = json ? set_column(proc, "cmdline", json, strlen(json)) : -ENOMEM;
        free(json);
        return error;
    default:
        return 0;
    }
}

static int diag_record(struct skew_proc *proc, const struct skew_rec_text *rec)
{
    static const struct {
        const char *code, *severity;
    } known[] = {{"unknown", "info"},
#define X(id, name, severity) {name, severity},
                 SKEW_DIAG_LIST(X)
#undef X
    };
    unsigned what = rec->what < SKEW_DIAG_COUNT ? rec->what : 0;
    char *text = skew_utf8_clean((const char *)(rec + 1), rec->length);
    if (!text)
        return -ENOMEM;
    int error = skew_db_diag(proc->db, 0, proc->id, known[what].severity, known[what].code,
                             (int64_t)rec->ns, text);
    free(text);
    return error;
}

static int thread_record(struct skew_proc *proc, const struct skew_rec_thread *rec)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_THREAD];
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, rec->stream);
    sqlite3_bind_int64(stmt, 3, rec->tid);
    skew_db_bind_text(stmt, 4, rec->name, strnlen(rec->name, sizeof rec->name));
    return skew_db_run(proc->db, stmt);
}

/* ---- all of them ----------------------------------------------------------------------------- */

int skew_defs_record(struct skew_proc *proc, const struct skew_rec *rec)
{
    static const struct {
        uint16_t type;
        uint32_t bytes;
    } sizes[] = {
        {SKEW_REC_PROCESS, sizeof(struct skew_rec_text)},
        {SKEW_REC_DIAG, sizeof(struct skew_rec_text)},
        {SKEW_REC_THREAD, sizeof(struct skew_rec_thread)},
        {SKEW_REC_COMM, sizeof(struct skew_rec_comm)},
        {SKEW_REC_COMM_END, sizeof(struct skew_rec_comm_end)},
        {SKEW_REC_SITE, sizeof(struct skew_rec_site)},
        {SKEW_REC_MODULE, sizeof(struct skew_rec_module)},
        {SKEW_REC_GRAPH, sizeof(struct skew_rec_graph)},
        {SKEW_REC_TAP, sizeof(struct skew_rec_tap)},
        {SKEW_REC_RANGE_NAME, sizeof(struct skew_rec_range_name)},
    };
    const void *any = rec;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].type == rec->type && rec->bytes < sizes[i].bytes)
            return -EBADMSG;
    switch (rec->type) {
    case SKEW_REC_PROCESS:
    case SKEW_REC_DIAG:
        if (((const struct skew_rec_text *)any)->length > rec->bytes - sizeof(struct skew_rec_text))
            return -EBADMSG;
        return rec->type == SKEW_REC_DIAG ? diag_record(proc, any) : process_record(proc, any);
    case SKEW_REC_THREAD:
        return thread_record(proc, any);
    case SKEW_REC_COMM:
        return skew_comm_record(proc, any);
    case SKEW_REC_COMM_END:
        return skew_comm_end_record(proc, any);
    case SKEW_REC_SITE:
        if ((rec->bytes - sizeof(struct skew_rec_site)) / 8 <
            ((const struct skew_rec_site *)any)->frames)
            return -EBADMSG;
        return skew_site_record(proc, any);
    case SKEW_REC_MODULE:
        if (((const struct skew_rec_module *)any)->length >
            rec->bytes - sizeof(struct skew_rec_module))
            return -EBADMSG;
        return skew_module_record(proc, any);
    case SKEW_REC_GRAPH:
        return skew_graph_record(proc, rec);
    case SKEW_REC_LAUNCH:
        return skew_launch_record(proc, rec);
    case SKEW_REC_BACKEND_CALL:
        return skew_backend_call_record(proc, rec);
    case SKEW_REC_TAP:
        return skew_tap_record(proc, rec);
    case SKEW_REC_RANGE_NAME:
        return skew_range_name_record(proc, rec);
    default:
        return skew_time_record(proc, rec);
    }
}

static int load_stream(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    return skew_map_put(&proc->cuda_streams, (uint64_t)sqlite3_column_int64(stmt, 0),
                        (uint64_t)sqlite3_column_int64(stmt, 1));
}

static int load_capture(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    return skew_map_put(&proc->captures, (uint64_t)sqlite3_column_int64(stmt, 0),
                        (uint64_t)sqlite3_column_int64(stmt, 1));
}

static int load_exe(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    const char *exe = (const char *)sqlite3_column_text(stmt, 0);
    proc->exe = exe ? strdup(exe) : NULL;
    return 0;
}

int skew_defs_load(struct skew_proc *proc)
{
    int error = skew_comm_load(proc);
    if (!error)
        error = skew_site_load(proc);
    if (!error)
        error = skew_ranges_load(proc);
    if (!error)
        error = skew_proc_load(proc, "SELECT handle, stream_id FROM stream WHERE process_id = ?",
                               load_stream);
    if (!error)
        error = skew_proc_load(
            proc, "SELECT driver_id, capture_id FROM graph_capture WHERE process_id = ?",
            load_capture);
    if (!error)
        error = skew_proc_load(proc, "SELECT exe FROM process WHERE process_id = ?", load_exe);
    return error ? error : skew_graph_load(proc);
}

void skew_defs_free(struct skew_proc *proc)
{
    skew_comm_free(proc);
    skew_site_free(proc);
    skew_ranges_free(proc);
    free(proc->exe);
    skew_map_free(&proc->cuda_streams);
    skew_map_free(&proc->captures);
}
