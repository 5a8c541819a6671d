/* SPDX-License-Identifier: Apache-2.0 */
/* Definition records become rows; what later records refer to is kept in maps. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "proc.h"
#include "utf8.h"

static const char *const comm_kinds[] = {
#define X(id, name) name,
    SKEW_COMM_KIND_LIST(X)
#undef X
};

static void bind_known(sqlite3_stmt *stmt, int column, int64_t value, bool known)
{
    if (known)
        sqlite3_bind_int64(stmt, column, value);
    else
        sqlite3_bind_null(stmt, column);
}

/* ---- process ---------------------------------------------------------------------------------- */

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

/* Ranks as launchers tell them; the first of a list that is set wins, whatever the order of records. */
static int set_rank(struct skew_proc *proc, const char *name, size_t name_length, const char *value)
{
    static const struct {
        const char *column, *name;
    } sources[] = {
        {"world_rank", "PMI_RANK"},      {"world_rank", "OMPI_COMM_WORLD_RANK"},
        {"world_rank", "SLURM_PROCID"},  {"world_rank", "RANK"},
        {"local_rank", "MPI_LOCALRANKID"}, {"local_rank", "OMPI_COMM_WORLD_LOCAL_RANK"},
        {"local_rank", "SLURM_LOCALID"}, {"local_rank", "LOCAL_RANK"},
        {"world_size", "PMI_SIZE"},      {"world_size", "OMPI_COMM_WORLD_SIZE"},
        {"world_size", "SLURM_NTASKS"},  {"world_size", "WORLD_SIZE"},
    };
    char sql[512], *end;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        if (strlen(sources[i].name) != name_length || memcmp(sources[i].name, name, name_length) != 0)
            continue;
        errno = 0;
        long number = strtol(value, &end, 10);
        if (errno || end == value || *end || number < 0)
            return 0;
        /* A stronger source has a higher index among those of its column. */
        int written = snprintf(sql, sizeof sql,
                               "UPDATE process SET %s = %ld WHERE process_id = %" PRId64
                               " AND NOT EXISTS (SELECT 1 FROM process_env e WHERE e.process_id = "
                               "process.process_id AND e.value NOT GLOB '*[^0-9]*' AND e.value <> '' AND "
                               "e.name IN (''",
                               sources[i].column, number, proc->id);
        for (size_t j = i + 1; j < sizeof sources / sizeof *sources; j++)
            if (strcmp(sources[j].column, sources[i].column) == 0)
                written += snprintf(sql + written, sizeof sql - (size_t)written, ",'%s'", sources[j].name);
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

/* ---- communicators ---------------------------------------------------------------------------- */

static int comm_row(struct skew_proc *proc, const char *key, const char *kind, int64_t *id)
{
    struct skew_db *db = proc->db;
    sqlite3_stmt *find = db->stmt[SKEW_STMT_COMM_FIND], *add = db->stmt[SKEW_STMT_COMM_ADD];
    sqlite3_bind_text(find, 1, key, -1, SQLITE_TRANSIENT);
    int found = skew_db_row(db, find);
    if (found == 1) {
        *id = sqlite3_column_int64(find, 0);
        sqlite3_reset(find);
    }
    if (found)
        return found < 0 ? found : 0;
    sqlite3_bind_text(add, 1, key, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(add, 2, kind, -1, SQLITE_STATIC);
    int error = skew_db_run(db, add);
    *id = sqlite3_last_insert_rowid(db->sql);
    return error;
}

/* Adds or updates the member; `local` has its final comm, rank and ranks. */
static int member_row(struct skew_proc *proc, struct skew_local_comm *local, const struct skew_rec_comm *rec)
{
    struct skew_db *db = proc->db;
    sqlite3_stmt *stmt = db->stmt[local->member ? SKEW_STMT_MEMBER_KNOW : SKEW_STMT_MEMBER_ADD];
    int column = 1;
    if (local->member)
        sqlite3_bind_int64(stmt, column++, local->member);
    sqlite3_bind_int64(stmt, column++, local->comm);
    bind_known(stmt, column++, local->rank, local->rank >= 0);
    if (!local->member) {
        sqlite3_bind_int64(stmt, column++, proc->id);
        sqlite3_bind_int64(stmt, column++, local->local);
    }
    bind_known(stmt, column++, rec->device, rec->device >= 0);
    sqlite3_bind_int64(stmt, column++, (int64_t)rec->handle);
    sqlite3_bind_int(stmt, column++, local->nonblocking);
    sqlite3_bind_int64(stmt, column++, (int64_t)rec->created_ns);
    int error = skew_db_run(db, stmt);
    if (!error && !local->member)
        local->member = sqlite3_last_insert_rowid(db->sql);
    return error;
}

static int comm_know(struct skew_proc *proc, const struct skew_local_comm *local,
                     const struct skew_rec_comm *rec, const char *kind)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_COMM_KNOW];
    uint64_t parent = 0;
    bool has_parent = rec->parent && skew_map_get(&proc->comms, rec->parent, &parent);
    sqlite3_bind_int64(stmt, 1, local->comm);
    sqlite3_bind_text(stmt, 2, kind, -1, SQLITE_STATIC);
    bind_known(stmt, 3, local->ranks, local->ranks >= 0);
    bind_known(stmt, 4, has_parent ? ((struct skew_local_comm *)(uintptr_t)parent)->comm : 0, has_parent);
    bind_known(stmt, 5, rec->color, rec->kind == SKEW_COMM_SPLIT);
    return skew_db_run(proc->db, stmt);
}

static int comm_record(struct skew_proc *proc, const struct skew_rec_comm *rec)
{
    const char *kind = rec->kind < SKEW_COMM_KIND_COUNT ? comm_kinds[rec->kind] : "unknown";
    char key[160];
    uint64_t known = 0;
    if (rec->ranks > SKEW_RANKS_MAX || (rec->ranks >= 0 && rec->rank >= rec->ranks))
        return -EBADMSG;
    /* Nobody else can have an unidentified communicator's key, here or after a merge. */
    if (rec->flags & SKEW_COMM_UNIDENTIFIED)
        snprintf(key, sizeof key, "?%s-%u", proc->key, rec->comm);
    else
        snprintf(key, sizeof key, "%016" PRIx64, rec->key);
    struct skew_local_comm *local = NULL;
    if (skew_map_get(&proc->comms, rec->comm, &known))
        local = (struct skew_local_comm *)(uintptr_t)known;
    int64_t before = local ? local->comm : 0;
    if (!local) {
        local = calloc(1, sizeof *local);
        if (!local || skew_map_put(&proc->comms, rec->comm, (uintptr_t)local)) {
            free(local);
            return -ENOMEM;
        }
        local->local = rec->comm;
    }
    local->ranks = rec->ranks < 0 ? -1 : rec->ranks;
    local->rank = rec->rank < 0 ? -1 : rec->rank;
    local->nonblocking = rec->flags & SKEW_COMM_NONBLOCKING;
    int error = comm_row(proc, key, kind, &local->comm);
    if (!error)
        error = comm_know(proc, local, rec, kind);
    if (!error)
        error = member_row(proc, local, rec);
    if (!error && before && before != local->comm) {
        sqlite3_bind_int64(proc->db->stmt[SKEW_STMT_COMM_DROP], 1, before);
        error = skew_db_run(proc->db, proc->db->stmt[SKEW_STMT_COMM_DROP]);
    }
    return error ? error : skew_group_settle(proc, local);
}

int skew_defs_comm(struct skew_proc *proc, uint32_t number, struct skew_local_comm **out)
{
    uint64_t known;
    if (!skew_map_get(&proc->comms, number, &known)) {
        struct skew_rec_comm made_up = {.comm = number, .ranks = -1, .rank = -1, .device = -1,
                                        .flags = SKEW_COMM_UNIDENTIFIED};
        int error = comm_record(proc, &made_up);
        if (!error)
            error = skew_proc_damage(proc, "a communicator is used that was never defined");
        if (error)
            return error;
        skew_map_get(&proc->comms, number, &known);
    }
    *out = (struct skew_local_comm *)(uintptr_t)known;
    return 0;
}

int skew_defs_settle(struct skew_proc *proc)
{
    int error = 0;
    for (size_t i = 0; !error && i < proc->comms.slots; i++) {
        if (!proc->comms.used[i])
            continue;
        struct skew_local_comm *local = (void *)(uintptr_t)proc->comms.values[i];
        sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_COMM_RANKS];
        if (!local->pending)
            continue;
        sqlite3_bind_int64(stmt, 1, local->comm);
        error = skew_db_row(proc->db, stmt);
        if (error == 1) {
            local->ranks = sqlite3_column_int(stmt, 0);
            sqlite3_reset(stmt);
            error = skew_db_begin(proc->db);
        }
        if (!error)
            error = skew_group_settle(proc, local);
    }
    return error;
}

static int comm_end_record(struct skew_proc *proc, const struct skew_rec_comm_end *rec)
{
    static const char *const how[] = {"", "finalize", "destroy", "abort", "revoke"};
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_MEMBER_END];
    struct skew_local_comm *comm;
    /* A call that failed ended nothing; 7 is InProgress. */
    if (rec->how < SKEW_END_FINALIZE || rec->how > SKEW_END_REVOKE || (rec->result && rec->result != 7))
        return 0;
    int error = skew_defs_comm(proc, rec->comm, &comm);
    if (error)
        return error;
    sqlite3_bind_int64(stmt, 1, comm->member);
    sqlite3_bind_int64(stmt, 2, (int64_t)rec->ns);
    sqlite3_bind_text(stmt, 3, how[rec->how], -1, SQLITE_STATIC);
    return skew_db_run(proc->db, stmt);
}

/* ---- call sites and modules ------------------------------------------------------------------- */

static int64_t module_of(const struct skew_proc *proc, uint64_t address)
{
    for (size_t i = proc->module_count; i-- > 0;)
        if (address >= proc->modules[i].start && address < proc->modules[i].end)
            return proc->modules[i].id;
    return 0;
}

static int site_record(struct skew_proc *proc, const struct skew_rec_site *rec)
{
    struct skew_db *db = proc->db;
    sqlite3_stmt *site = db->stmt[SKEW_STMT_SITE], *frame = db->stmt[SKEW_STMT_FRAME];
    const uint64_t *address = (const void *)(rec + 1);
    uint64_t known;
    if (skew_map_get(&proc->sites, rec->site, &known))
        return 0;
    sqlite3_bind_int64(site, 1, proc->id);
    sqlite3_bind_int64(site, 2, rec->site);
    int error = skew_db_run(db, site);
    int64_t id = sqlite3_last_insert_rowid(db->sql);
    for (uint32_t i = 0; !error && i < rec->frames; i++) {
        int64_t module = module_of(proc, address[i] - 1); /* a return address may be the next function's */
        sqlite3_bind_int64(frame, 1, id);
        sqlite3_bind_int64(frame, 2, i);
        sqlite3_bind_int64(frame, 3, (int64_t)address[i]);
        bind_known(frame, 4, module, module != 0);
        proc->orphans += !module;
        error = skew_db_run(db, frame);
    }
    return error ? error : skew_map_put(&proc->sites, rec->site, (uint64_t)id);
}

static int remember_module(struct skew_proc *proc, int64_t id, uint64_t start, uint64_t end,
                           const char *path)
{
    struct skew_module *more = realloc(proc->modules, (proc->module_count + 1) * sizeof *more);
    if (!more)
        return -ENOMEM;
    proc->modules = more;
    more[proc->module_count] = (struct skew_module){id, start, end, strdup(path)};
    if (!more[proc->module_count].path)
        return -ENOMEM;
    proc->module_count++;
    return 0;
}

/* Sites may come before the modules that explain them. */
static int adopt_frames(struct skew_proc *proc, const struct skew_module *module)
{
    char sql[320];
    if (!proc->orphans)
        return 0;
    snprintf(sql, sizeof sql,
             "UPDATE frame SET module_id = %" PRId64 " WHERE module_id IS NULL AND address > %" PRId64
             " AND address <= %" PRId64 " AND site_id IN (SELECT site_id FROM callsite WHERE process_id = "
             "%" PRId64 ")",
             module->id, (int64_t)module->start, (int64_t)module->end, proc->id);
    return skew_db_exec(proc->db, sql);
}

static int say_backend(struct skew_proc *proc, const struct skew_backend *backend, const char *path)
{
    char text[1024];
    snprintf(text, sizeof text, "%s is loaded (%.600s): %s", backend->name, path, backend->unseen);
    return skew_db_diag(proc->db, 0, proc->id, "warning", "device_backend", 0, text);
}

static int module_record(struct skew_proc *proc, const struct skew_rec_module *rec)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_MODULE];
    char build_id[2 * sizeof rec->build_id + 1] = "";
    char *path = skew_utf8_clean((const char *)(rec + 1), rec->length);
    if (path && proc->exe && strcmp(path, "/proc/self/exe") == 0) { /* true in the target only */
        free(path);
        path = strdup(proc->exe);
    }
    if (!path)
        return -ENOMEM;
    int error = 0;
    for (size_t i = 0; i < proc->module_count; i++)
        if (proc->modules[i].start == rec->start && strcmp(proc->modules[i].path, path) == 0)
            goto out;
    for (uint32_t i = 0; i < rec->build_id_bytes && i < sizeof rec->build_id; i++)
        sprintf(build_id + 2 * i, "%02x", rec->build_id[i]);
    const struct skew_backend *backend = skew_backend_of(path);
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_text(stmt, 2, path, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, build_id[0] ? build_id : NULL, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 4, (int64_t)rec->base);
    sqlite3_bind_int64(stmt, 5, (int64_t)rec->start);
    sqlite3_bind_int64(stmt, 6, (int64_t)rec->end);
    sqlite3_bind_text(stmt, 7, backend ? backend->role : NULL, -1, SQLITE_STATIC);
    error = skew_db_run(proc->db, stmt);
    if (!error)
        error = remember_module(proc, sqlite3_last_insert_rowid(proc->db->sql), rec->start, rec->end, path);
    if (!error)
        error = adopt_frames(proc, &proc->modules[proc->module_count - 1]);
    if (!error && backend && backend->unseen)
        error = say_backend(proc, backend, path);
out:
    free(path);
    return error;
}

/* ---- all of them ------------------------------------------------------------------------------ */

int skew_defs_record(struct skew_proc *proc, const struct skew_rec *rec)
{
    static const struct {
        uint16_t type;
        uint32_t bytes;
    } sizes[] = {
        {SKEW_REC_PROCESS, sizeof(struct skew_rec_text)},   {SKEW_REC_DIAG, sizeof(struct skew_rec_text)},
        {SKEW_REC_THREAD, sizeof(struct skew_rec_thread)},  {SKEW_REC_COMM, sizeof(struct skew_rec_comm)},
        {SKEW_REC_COMM_END, sizeof(struct skew_rec_comm_end)}, {SKEW_REC_SITE, sizeof(struct skew_rec_site)},
        {SKEW_REC_MODULE, sizeof(struct skew_rec_module)},  {SKEW_REC_GRAPH, sizeof(struct skew_rec_graph)},
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
        return comm_record(proc, any);
    case SKEW_REC_COMM_END:
        return comm_end_record(proc, any);
    case SKEW_REC_SITE:
        if ((rec->bytes - sizeof(struct skew_rec_site)) / 8 < ((const struct skew_rec_site *)any)->frames)
            return -EBADMSG;
        return site_record(proc, any);
    case SKEW_REC_MODULE:
        if (((const struct skew_rec_module *)any)->length > rec->bytes - sizeof(struct skew_rec_module))
            return -EBADMSG;
        return module_record(proc, any);
    case SKEW_REC_GRAPH:
        return skew_graph_record(proc, rec);
    default:
        proc->unknown_records++;
        return 0;
    }
}

/* One query whose rows go to `row`. */
static int load(struct skew_proc *proc, const char *sql, int (*row)(struct skew_proc *, sqlite3_stmt *))
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

static int load_member(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    struct skew_local_comm *local = calloc(1, sizeof *local);
    if (!local)
        return -ENOMEM;
    local->local = (uint32_t)sqlite3_column_int64(stmt, 0);
    local->member = sqlite3_column_int64(stmt, 1);
    local->comm = sqlite3_column_int64(stmt, 2);
    local->rank = sqlite3_column_type(stmt, 3) == SQLITE_NULL ? -1 : sqlite3_column_int(stmt, 3);
    local->ranks = sqlite3_column_type(stmt, 4) == SQLITE_NULL ? -1 : sqlite3_column_int(stmt, 4);
    local->nonblocking = sqlite3_column_int(stmt, 5);
    local->pending = local->ranks < 0; /* some may wait: look from the first exchange on */
    int error = skew_map_put(&proc->comms, local->local, (uintptr_t)local);
    if (error)
        free(local);
    return error;
}

static int load_site(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    return skew_map_put(&proc->sites, (uint64_t)sqlite3_column_int64(stmt, 0),
                        (uint64_t)sqlite3_column_int64(stmt, 1));
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

static int load_module(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    const char *path = (const char *)sqlite3_column_text(stmt, 3);
    return remember_module(proc, sqlite3_column_int64(stmt, 0), (uint64_t)sqlite3_column_int64(stmt, 1),
                           (uint64_t)sqlite3_column_int64(stmt, 2), path ? path : "");
}

int skew_defs_load(struct skew_proc *proc)
{
    int error = load(proc, "SELECT local_comm, member_id, comm_id, rank, ranks, nonblocking FROM member "
                           "JOIN communicator USING (comm_id) WHERE process_id = ?", load_member);
    if (!error)
        error = load(proc, "SELECT local_site, site_id FROM callsite WHERE process_id = ?", load_site);
    if (!error)
        error = load(proc, "SELECT handle, stream_id FROM stream WHERE process_id = ?", load_stream);
    if (!error)
        error = load(proc, "SELECT driver_id, capture_id FROM graph_capture WHERE process_id = ?",
                     load_capture);
    if (!error)
        error = load(proc, "SELECT module_id, start, end, path FROM module WHERE process_id = ?",
                     load_module);
    if (!error)
        error = load(proc, "SELECT exe FROM process WHERE process_id = ?", load_exe);
    proc->orphans = proc->sites.count != 0;
    return error ? error : skew_graph_load(proc);
}

void skew_defs_free(struct skew_proc *proc)
{
    for (size_t i = 0; i < proc->comms.slots; i++)
        if (proc->comms.used[i])
            free((void *)(uintptr_t)proc->comms.values[i]);
    for (size_t i = 0; i < proc->module_count; i++)
        free(proc->modules[i].path);
    free(proc->modules);
    free(proc->exe);
    skew_map_free(&proc->comms);
    skew_map_free(&proc->sites);
    skew_map_free(&proc->cuda_streams);
    skew_map_free(&proc->captures);
}
