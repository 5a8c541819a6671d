/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that are noted and not understood (NCCL EP): a row each, and how many there were in all.
 */
#include <errno.h>
#include <string.h>

#include "proc.h"

static const struct {
    const char *function, *backend, *does;
} known[SKEW_BACKEND_CALLS] = {{NULL, NULL, NULL},
#define X(id, function, backend, does) {function, backend, does},
                               SKEW_BACKEND_CALL_LIST(X)
#undef X
};

int skew_backend_call_record(struct skew_proc *proc, const struct skew_rec *head)
{
    const struct skew_rec_backend_call *rec = (const void *)head;
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_BACKEND_CALL];
    uint64_t site = 0;
    if (head->bytes < sizeof *rec || rec->ns > INT64_MAX)
        return -EBADMSG;
    if (rec->call == SKEW_BACKEND_CALL_NONE || rec->call >= SKEW_BACKEND_CALLS) {
        proc->unknown_records++; /* of a newer library */
        return 0;
    }
    bool has_site = rec->site && skew_map_get(&proc->sites, rec->site, &site);
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, (int64_t)rec->ns);
    sqlite3_bind_text(stmt, 3, known[rec->call].backend, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 4, known[rec->call].does, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 5, known[rec->call].function, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 6, (int64_t)rec->object);
    sqlite3_bind_int64(stmt, 7, rec->tid);
    skew_bind_known(stmt, 8, (int64_t)site, has_site);
    return skew_db_run(proc->db, stmt);
}

int skew_backend_call_counters(struct skew_proc *proc)
{
    const uint64_t *now = proc->file->head.backend_calls;
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_BACKEND_CALL_COUNT];
    int error = 0;
    for (unsigned i = 1; !error && i < SKEW_BACKEND_CALLS; i++) {
        if (now[i] == proc->backend_calls[i])
            continue;
        error = skew_db_begin(proc->db);
        if (error)
            break;
        sqlite3_bind_int64(stmt, 1, proc->id);
        sqlite3_bind_text(stmt, 2, known[i].function, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 3, known[i].backend, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 4, known[i].does, -1, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 5, (int64_t)(now[i] & INT64_MAX));
        error = skew_db_run(proc->db, stmt);
        proc->backend_calls[i] = now[i];
    }
    return error;
}
