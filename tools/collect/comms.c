/* SPDX-License-Identifier: Apache-2.0 */
/* Communicators and this process's place in them. More becomes known of one while it is used. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proc.h"

static const char *const comm_kinds[] = {
#define X(id, name) name,
    SKEW_COMM_KIND_LIST(X)
#undef X
};

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
static int member_row(struct skew_proc *proc, struct skew_local_comm *local,
                      const struct skew_rec_comm *rec)
{
    struct skew_db *db = proc->db;
    sqlite3_stmt *stmt = db->stmt[local->member ? SKEW_STMT_MEMBER_KNOW : SKEW_STMT_MEMBER_ADD];
    int column = 1;
    if (local->member)
        sqlite3_bind_int64(stmt, column++, local->member);
    sqlite3_bind_int64(stmt, column++, local->comm);
    skew_bind_known(stmt, column++, local->rank, local->rank >= 0);
    if (!local->member) {
        sqlite3_bind_int64(stmt, column++, proc->id);
        sqlite3_bind_int64(stmt, column++, local->local);
    }
    skew_bind_known(stmt, column++, rec->device, rec->device >= 0);
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
    skew_bind_known(stmt, 3, local->ranks, local->ranks >= 0);
    skew_bind_known(stmt, 4, has_parent ? ((struct skew_local_comm *)(uintptr_t)parent)->comm : 0,
                    has_parent);
    skew_bind_known(stmt, 5, rec->color, rec->kind == SKEW_COMM_SPLIT);
    return skew_db_run(proc->db, stmt);
}

int skew_comm_record(struct skew_proc *proc, const struct skew_rec_comm *rec)
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

int skew_comm_find(struct skew_proc *proc, uint32_t number, struct skew_local_comm **out)
{
    uint64_t known;
    if (!skew_map_get(&proc->comms, number, &known)) {
        struct skew_rec_comm made_up = {
            .comm = number, .ranks = -1, .rank = -1, .device = -1, .flags = SKEW_COMM_UNIDENTIFIED};
        int error = skew_comm_record(proc, &made_up);
        if (!error)
            error = skew_proc_damage(proc, "a communicator is used that was never defined");
        if (error)
            return error;
        skew_map_get(&proc->comms, number, &known);
    }
    *out = (struct skew_local_comm *)(uintptr_t)known;
    return 0;
}

int skew_comm_settle(struct skew_proc *proc)
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

int skew_comm_end_record(struct skew_proc *proc, const struct skew_rec_comm_end *rec)
{
    static const char *const how[] = {"", "finalize", "destroy", "abort", "revoke"};
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_MEMBER_END];
    struct skew_local_comm *comm;
    /* A call that failed ended nothing; 7 is InProgress. */
    if (rec->how < SKEW_END_FINALIZE || rec->how > SKEW_END_REVOKE ||
        (rec->result && rec->result != 7))
        return 0;
    int error = skew_comm_find(proc, rec->comm, &comm);
    if (error)
        return error;
    sqlite3_bind_int64(stmt, 1, comm->member);
    sqlite3_bind_int64(stmt, 2, (int64_t)rec->ns);
    sqlite3_bind_text(stmt, 3, how[rec->how], -1, SQLITE_STATIC);
    return skew_db_run(proc->db, stmt);
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

int skew_comm_load(struct skew_proc *proc)
{
    return skew_proc_load(
        proc,
        "SELECT local_comm, member_id, comm_id, rank, ranks, nonblocking FROM member "
        "JOIN communicator USING (comm_id) WHERE process_id = ?",
        load_member);
}

void skew_comm_free(struct skew_proc *proc)
{
    for (size_t i = 0; i < proc->comms.slots; i++)
        if (proc->comms.used[i])
            free((void *)(uintptr_t)proc->comms.values[i]);
    skew_map_free(&proc->comms);
}
