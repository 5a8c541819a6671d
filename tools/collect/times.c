/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times on the device: rows of device_time, how they were taken, the device clocks that they rest
 * on, what kernels of other streams did meanwhile, and what taking all that has cost.
 */
#include <errno.h>
#include <string.h>

#include "kernels.h"
#include "proc.h"

static const char *const tier_names[] = {
#define X(id, name) name,
    SKEW_TIER_LIST(X)
#undef X
};

static const char *const why_names[] = {
#define X(id, name, text) name,
    SKEW_TIER_WHY_LIST(X)
#undef X
};

static const char *const untimed_names[] = {
#define X(id, name, text) name,
    SKEW_UNTIMED_LIST(X)
#undef X
};

static int64_t counter(uint64_t value)
{
    return value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

static bool fits(uint64_t a, uint64_t b)
{
    return a <= b && b <= INT64_MAX;
}

static int time_record(struct skew_proc *proc, const struct skew_rec_time *rec)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_TIME];
    struct skew_local_comm *comm;
    int64_t launch = 0;
    if (!fits(rec->start_ns, rec->end_ns) || rec->error_ns > INT64_MAX || rec->group > INT64_MAX ||
        rec->launch_ns > INT64_MAX || rec->start_slack_ns > INT64_MAX ||
        rec->end_slack_ns > INT64_MAX)
        return -EBADMSG;
    if (rec->source != SKEW_TIME_EVENTS && rec->source != SKEW_TIME_CUPTI) {
        proc->unknown_records++; /* of a newer library */
        return 0;
    }
    int error = skew_comm_find(proc, rec->comm, &comm);
    if (!error && rec->launch_ns)
        error = skew_launch_id(proc, rec->launch_ns, rec->exec, 0, &launch);
    if (error)
        return error;
    sqlite3_bind_int64(stmt, 1, comm->member);
    sqlite3_bind_int64(stmt, 2, rec->stream);
    sqlite3_bind_int64(stmt, 3, (int64_t)rec->group);
    sqlite3_bind_int64(stmt, 4, launch);
    sqlite3_bind_int64(stmt, 5, rec->source);
    sqlite3_bind_int64(stmt, 6, (int64_t)rec->start_ns);
    sqlite3_bind_int64(stmt, 7, (int64_t)rec->end_ns);
    sqlite3_bind_int64(stmt, 8, (int64_t)rec->error_ns);
    sqlite3_bind_int64(stmt, 9, (int64_t)rec->start_slack_ns);
    sqlite3_bind_int64(stmt, 10, (int64_t)rec->end_slack_ns);
    sqlite3_bind_int64(stmt, 11, 0);
    return skew_db_run(proc->db, stmt);
}

static int clock_record(struct skew_proc *proc, const struct skew_rec_clock *rec)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_CLOCK];
    if (!fits(rec->low_ns, rec->high_ns) || rec->device_ns > INT64_MAX)
        return -EBADMSG;
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, rec->clock);
    sqlite3_bind_int64(stmt, 3, rec->source);
    sqlite3_bind_int64(stmt, 4, (int64_t)rec->device_ns);
    sqlite3_bind_int64(stmt, 5, (int64_t)rec->low_ns);
    sqlite3_bind_int64(stmt, 6, (int64_t)rec->high_ns);
    return skew_db_run(proc->db, stmt);
}

static int tier_record(struct skew_proc *proc, const struct skew_rec_tier *rec)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_TIER];
    if (rec->tier >= SKEW_TIER_COUNT || rec->why >= SKEW_TIER_WHY_COUNT || rec->ns > INT64_MAX) {
        proc->unknown_records++;
        return 0;
    }
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, (int64_t)rec->ns);
    sqlite3_bind_text(stmt, 3, tier_names[rec->tier], -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 4, why_names[rec->why], -1, SQLITE_STATIC);
    return skew_db_run(proc->db, stmt);
}

static int name_record(struct skew_proc *proc, const struct skew_rec_text *rec)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_KERNEL_NAME];
    char name[2001] = ""; /* the library cuts at 2000 */
    struct skew_kernel kernel;
    size_t length = rec->length < sizeof name - 1 ? rec->length : sizeof name - 1;
    if (rec->length > rec->head.bytes - sizeof *rec)
        return -EBADMSG;
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, rec->what);
    skew_db_bind_text(stmt, 3, (const char *)(rec + 1),
                      strnlen((const char *)(rec + 1), rec->length));
    memcpy(name, rec + 1, strnlen((const char *)(rec + 1), length));
    skew_kernel_classify(name, &kernel);
    sqlite3_bind_text(stmt, 4, skew_kernel_does_name(kernel.does), -1, SQLITE_STATIC);
    if (kernel.backend)
        sqlite3_bind_text(stmt, 5, kernel.backend, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(stmt, 5);
    return skew_db_run(proc->db, stmt);
}

static int kernel_record(struct skew_proc *proc, const struct skew_rec_kernel *rec)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_KERNEL];
    if (!fits(rec->start_ns, rec->end_ns) || rec->busy_ns > INT64_MAX)
        return -EBADMSG;
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, rec->device);
    sqlite3_bind_int64(stmt, 3, rec->stream);
    sqlite3_bind_int64(stmt, 4, (int64_t)rec->start_ns);
    sqlite3_bind_int64(stmt, 5, (int64_t)rec->end_ns);
    sqlite3_bind_int64(stmt, 6, (int64_t)rec->busy_ns);
    sqlite3_bind_int64(stmt, 7, rec->kernels);
    skew_bind_known(stmt, 8, rec->name, rec->name != 0);
    return skew_db_run(proc->db, stmt);
}

/* Which kernel is which launch cannot be told: one is a copy, or there are more, or some were lost.
 */
static int replay_untimed(struct skew_proc *proc, uint64_t launches)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_UNTIMED_ADD];
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_text(stmt, 2, untimed_names[SKEW_UNTIMED_REPLAY], -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 3, counter(launches));
    int error = launches ? skew_db_run(proc->db, stmt) : 0;
    return error ? error
                 : skew_db_diag(proc->db, 0, proc->id, "info", "timing", 0,
                                "Replays of a CUDA graph have another number of NCCL kernels than "
                                "calls were captured into it, or some of these are done by copy "
                                "engines: their times are left out.");
}

/* The ordinal-th of the launches that a replayed graph holds. */
static int replay_record(struct skew_proc *proc, const struct skew_rec_replay *rec)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_TIME];
    struct skew_captured captured;
    int64_t launch;
    uint64_t launches;
    if (!fits(rec->start_ns, rec->end_ns) || rec->error_ns > INT64_MAX ||
        rec->launch_ns > INT64_MAX || (rec->ordinal >= rec->count && rec->ordinal) ||
        rec->source != SKEW_TIME_CUPTI)
        return -EBADMSG;
    int found = skew_graph_captured(proc, rec->exec, rec->launch_ns, rec->ordinal, rec->count,
                                    &captured, &launches);
    if (found < 0)
        return found;
    if (!found) /* said once a replay; one without NCCL is nothing to say */
        return rec->ordinal || (!launches && !rec->count) ? 0 : replay_untimed(proc, launches);
    int error = skew_launch_id(proc, rec->launch_ns, rec->exec, 0, &launch);
    if (error)
        return error;
    sqlite3_bind_int64(stmt, 1, captured.member);
    sqlite3_bind_int64(stmt, 2, captured.thread);
    sqlite3_bind_int64(stmt, 3, captured.group);
    sqlite3_bind_int64(stmt, 4, launch);
    sqlite3_bind_int64(stmt, 5, rec->source);
    sqlite3_bind_int64(stmt, 6, (int64_t)rec->start_ns);
    sqlite3_bind_int64(stmt, 7, (int64_t)rec->end_ns);
    sqlite3_bind_int64(stmt, 8, (int64_t)rec->error_ns);
    sqlite3_bind_int64(stmt, 9, 0);
    sqlite3_bind_int64(stmt, 10, 0);
    sqlite3_bind_int64(stmt, 11, captured.place);
    return skew_db_run(proc->db, stmt);
}

int skew_time_record(struct skew_proc *proc, const struct skew_rec *rec)
{
    static const struct {
        uint16_t type;
        uint32_t bytes;
    } sizes[] = {
        {SKEW_REC_TIME, sizeof(struct skew_rec_time)},
        {SKEW_REC_CLOCK, sizeof(struct skew_rec_clock)},
        {SKEW_REC_KERNEL, sizeof(struct skew_rec_kernel)},
        {SKEW_REC_TIER, sizeof(struct skew_rec_tier)},
        {SKEW_REC_KERNEL_NAME, sizeof(struct skew_rec_text)},
        {SKEW_REC_REPLAY, sizeof(struct skew_rec_replay)},
    };
    const void *any = rec;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].type == rec->type && rec->bytes < sizes[i].bytes)
            return -EBADMSG;
    switch (rec->type) {
    case SKEW_REC_TIME:
        return time_record(proc, any);
    case SKEW_REC_CLOCK:
        return clock_record(proc, any);
    case SKEW_REC_KERNEL:
        return kernel_record(proc, any);
    case SKEW_REC_TIER:
        return tier_record(proc, any);
    case SKEW_REC_REPLAY:
        return replay_record(proc, any);
    case SKEW_REC_KERNEL_NAME:
        return name_record(proc, any);
    default:
        proc->unknown_records++;
        return 0;
    }
}

static int store_untimed(struct skew_proc *proc, const struct skew_time_totals *now)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_UNTIMED];
    int error = 0;
    for (unsigned i = 0; !error && i < SKEW_UNTIMED_COUNT; i++) {
        if (now->untimed[i] == proc->time.untimed[i])
            continue;
        sqlite3_bind_int64(stmt, 1, proc->id);
        sqlite3_bind_text(stmt, 2, untimed_names[i], -1, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 3, counter(now->untimed[i]));
        error = skew_db_run(proc->db, stmt);
    }
    return error;
}

int skew_time_store(struct skew_proc *proc)
{
    const struct skew_time_totals *now = &proc->file->head.time;
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_OVERHEAD];
    if (memcmp(now, &proc->time, sizeof *now) == 0)
        return 0;
    int error = skew_db_begin(proc->db);
    if (!error)
        error = store_untimed(proc, now);
    if (error)
        return error;
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, counter(now->cost_groups));
    sqlite3_bind_int64(stmt, 3, counter(now->cost_ns));
    sqlite3_bind_int64(stmt, 4, counter(now->setup_ns));
    sqlite3_bind_int64(stmt, 5, counter(now->events));
    skew_bind_known(stmt, 6, counter(now->event_ns), now->event_ns != 0);
    sqlite3_bind_int64(stmt, 7, counter(now->records));
    sqlite3_bind_int64(stmt, 8, counter(now->dropped));
    error = skew_db_run(proc->db, stmt);
    if (!error)
        proc->time = *now;
    return error;
}
