/* SPDX-License-Identifier: Apache-2.0 */
/* Call sites, and the loaded objects that explain them and tell what else could move bytes. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "proc.h"
#include "utf8.h"

static int64_t module_of(const struct skew_proc *proc, uint64_t address)
{
    for (size_t i = proc->module_count; i-- > 0;)
        if (address >= proc->modules[i].start && address < proc->modules[i].end)
            return proc->modules[i].id;
    return 0;
}

int skew_site_record(struct skew_proc *proc, const struct skew_rec_site *rec)
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
        int64_t module =
            module_of(proc, address[i] - 1); /* a return address may be the next function's */
        sqlite3_bind_int64(frame, 1, id);
        sqlite3_bind_int64(frame, 2, i);
        sqlite3_bind_int64(frame, 3, (int64_t)address[i]);
        skew_bind_known(frame, 4, module, module != 0);
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
             "UPDATE frame SET module_id = %" PRId64
             " WHERE module_id IS NULL AND address > %" PRId64 " AND address <= %" PRId64
             " AND site_id IN (SELECT site_id FROM callsite WHERE process_id = "
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

int skew_module_record(struct skew_proc *proc, const struct skew_rec_module *rec)
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
        error = remember_module(proc, sqlite3_last_insert_rowid(proc->db->sql), rec->start,
                                rec->end, path);
    if (!error)
        error = adopt_frames(proc, &proc->modules[proc->module_count - 1]);
    if (!error && backend && backend->unseen)
        error = say_backend(proc, backend, path);
out:
    free(path);
    return error;
}

static int load_site(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    return skew_map_put(&proc->sites, (uint64_t)sqlite3_column_int64(stmt, 0),
                        (uint64_t)sqlite3_column_int64(stmt, 1));
}

static int load_module(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    const char *path = (const char *)sqlite3_column_text(stmt, 3);
    return remember_module(proc, sqlite3_column_int64(stmt, 0),
                           (uint64_t)sqlite3_column_int64(stmt, 1),
                           (uint64_t)sqlite3_column_int64(stmt, 2), path ? path : "");
}

int skew_site_load(struct skew_proc *proc)
{
    int error = skew_proc_load(
        proc, "SELECT local_site, site_id FROM callsite WHERE process_id = ?", load_site);
    if (!error)
        error = skew_proc_load(
            proc, "SELECT module_id, start, end, path FROM module WHERE process_id = ?",
            load_module);
    proc->orphans = proc->sites.count != 0;
    return error;
}

void skew_site_free(struct skew_proc *proc)
{
    for (size_t i = 0; i < proc->module_count; i++)
        free(proc->modules[i].path);
    free(proc->modules);
    skew_map_free(&proc->sites);
}
