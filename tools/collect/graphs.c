/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which captures does a launched executable graph run? Follows what happened to graphs, in the
 * order in which the target wrote it: a capture ends in a graph; graphs are cloned, and added to
 * others as children; an executable takes what its graph holds at that moment. Handles are reused
 * by the driver, so an executable has a history, and a launch finds its entry by time.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proc.h"

#define HISTORY_NS (60ull * 1000000000ull) /* a launch is stored within a minute of its call */

/* How many launches are remembered until their times have come. */
#define LAUNCHES      4096
#define STRINGIFY_(x) #x
#define STRINGIFY(x)  STRINGIFY_(x)

struct launch {
    uint64_t ns, exec;
    int64_t id;
    bool stub; /* its time came before its own record */
};

struct skew_launches {
    size_t count, stubs;
    struct launch of[LAUNCHES];
};

/* Captures, and how often each runs in one launch. */
struct set {
    size_t count;
    struct {
        uint64_t capture, times;
    } * item;
};

struct entry {
    uint64_t ns;
    struct set set;
};

struct exec {
    struct entry *entries; /* by time */
    size_t count;
};

struct skew_graphs {
    struct skew_map graphs; /* handle → struct set * */
    struct skew_map inner; /* capture → struct set *: of executables that were launched into it */
    struct skew_map execs; /* handle → struct exec * */
    uint64_t newest_ns;
};

static const char *const event_names[] = {"",
#define X(id, name) name,
                                          SKEW_GRAPH_EVENT_LIST(X)
#undef X
};

static int set_add(struct set *set, uint64_t capture, uint64_t times)
{
    for (size_t i = 0; i < set->count; i++) {
        if (set->item[i].capture != capture)
            continue;
        if (__builtin_add_overflow(set->item[i].times, times, &set->item[i].times) ||
            set->item[i].times > INT32_MAX)
            set->item[i].times = INT32_MAX; /* no real graph runs one capture so often */
        return 0;
    }
    void *more = realloc(set->item, (set->count + 1) * sizeof *set->item);
    if (!more)
        return -ENOMEM;
    set->item = more;
    set->item[set->count].capture = capture;
    set->item[set->count++].times = times;
    return 0;
}

static int set_add_all(struct set *to, const struct set *from)
{
    int error = 0;
    size_t count = from->count; /* a graph may be added to itself */
    for (size_t i = 0; !error && i < count; i++)
        error = set_add(to, from->item[i].capture, from->item[i].times);
    return error;
}

static bool set_equal(const struct set *a, const struct set *b)
{
    return a->count == b->count &&
           (!a->count || memcmp(a->item, b->item, a->count * sizeof *a->item) == 0);
}

static void *lookup(struct skew_map *map, uint64_t handle, size_t size)
{
    uint64_t known;
    if (skew_map_get(map, handle, &known))
        return (void *)(uintptr_t)known;
    void *made = calloc(1, size);
    if (made && skew_map_put(map, handle, (uintptr_t)made)) {
        free(made);
        made = NULL;
    }
    return made;
}

static int exec_becomes(struct skew_graphs *graphs, uint64_t handle, uint64_t ns,
                        const struct set *set)
{
    struct exec *exec = lookup(&graphs->execs, handle, sizeof *exec);
    if (!exec)
        return -ENOMEM;
    if (exec->count && set_equal(&exec->entries[exec->count - 1].set, set))
        return 0;
    struct entry *more = realloc(exec->entries, (exec->count + 1) * sizeof *more);
    if (!more)
        return -ENOMEM;
    exec->entries = more;
    more[exec->count] = (struct entry){.ns = ns};
    int error = set_add_all(&more[exec->count].set, set);
    exec->count++;
    return error;
}

/* What the executable ran at that time. */
static const struct set *exec_at(struct skew_graphs *graphs, uint64_t handle, uint64_t ns)
{
    uint64_t known;
    if (!graphs || !skew_map_get(&graphs->execs, handle, &known))
        return NULL;
    const struct exec *exec = (const void *)(uintptr_t)known;
    size_t i = exec->count;
    while (i > 1 && exec->entries[i - 1].ns > ns)
        i--;
    return i ? &exec->entries[i - 1].set : NULL;
}

/* A launch into a capture, or (`graph`) the end of that capture. */
static int inner(struct skew_graphs *graphs, uint64_t capture, struct set *graph, uint64_t exec,
                 uint64_t ns)
{
    uint64_t known;
    if (graph)
        return skew_map_get(&graphs->inner, capture, &known)
                   ? set_add_all(graph, (const struct set *)(uintptr_t)known)
                   : 0;
    const struct set *launched = exec_at(graphs, exec, ns);
    struct set *of_capture = lookup(&graphs->inner, capture, sizeof *of_capture);
    if (!of_capture)
        return -ENOMEM;
    return launched ? set_add_all(of_capture, launched) : 0;
}

static int apply(struct skew_graphs *graphs, unsigned event, uint64_t ns, uint64_t capture,
                 uint64_t graph, uint64_t source, uint64_t exec)
{
    int error;
    static const struct set nothing;
    struct set *of_graph = lookup(&graphs->graphs, graph, sizeof *of_graph);
    struct set *of_source = lookup(&graphs->graphs, source, sizeof *of_source);
    if (!of_graph || !of_source)
        return -ENOMEM;
    graphs->newest_ns = ns > graphs->newest_ns ? ns : graphs->newest_ns;
    switch (event) {
    case SKEW_GRAPH_CAPTURED:
        error = set_add(of_graph, capture, 1);
        return error ? error : inner(graphs, capture, of_graph, 0, ns);
    case SKEW_GRAPH_LAUNCH_CAPTURED:
        return inner(graphs, capture, NULL, exec, ns);
    case SKEW_GRAPH_INSTANTIATED:
    case SKEW_GRAPH_UPDATED:
        return exec_becomes(graphs, exec, ns, of_graph);
    case SKEW_GRAPH_CLONED:
        if (of_graph == of_source)
            return 0;
        of_graph->count = 0;
        return set_add_all(of_graph, of_source);
    case SKEW_GRAPH_CHILD:
        return set_add_all(of_graph, of_source);
    case SKEW_GRAPH_GRAPH_DESTROYED:
        of_graph->count = 0;
        return 0;
    case SKEW_GRAPH_EXEC_DESTROYED:
        return exec_becomes(graphs, exec, ns, &nothing);
    default:
        return 0;
    }
}

static int model(struct skew_proc *proc)
{
    if (!proc->graphs)
        proc->graphs = calloc(1, sizeof *proc->graphs);
    return proc->graphs ? 0 : -ENOMEM;
}

int skew_capture_id(struct skew_proc *proc, uint64_t driver_id, int64_t *id)
{
    uint64_t known;
    if (skew_map_get(&proc->captures, driver_id, &known)) {
        *id = (int64_t)known;
        return 0;
    }
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_CAPTURE];
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, (int64_t)driver_id);
    int error = skew_db_run(proc->db, stmt);
    if (error)
        return error;
    *id = sqlite3_last_insert_rowid(proc->db->sql);
    return skew_map_put(&proc->captures, driver_id, (uint64_t)*id);
}

static void bind_handle(sqlite3_stmt *stmt, int column, uint64_t handle)
{
    if (handle)
        sqlite3_bind_int64(stmt, column, (int64_t)handle);
    else
        sqlite3_bind_null(stmt, column);
}

int skew_graph_record(struct skew_proc *proc, const struct skew_rec *head)
{
    const struct skew_rec_graph *rec = (const void *)head;
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_GRAPH_EVENT];
    int64_t capture;
    if (rec->event == SKEW_GRAPH_NONE || rec->event >= SKEW_GRAPH_EVENT_COUNT) {
        proc->unknown_records++;
        return 0;
    }
    int error = model(proc);
    bool of_capture = rec->event == SKEW_GRAPH_CAPTURED || rec->event == SKEW_GRAPH_LAUNCH_CAPTURED;
    if (!error && of_capture)
        error = skew_capture_id(proc, rec->capture, &capture);
    if (error)
        return error;
    sqlite3_bind_int64(stmt, 1, proc->id);
    sqlite3_bind_int64(stmt, 2, (int64_t)rec->ns);
    sqlite3_bind_text(stmt, 3, event_names[rec->event], -1, SQLITE_STATIC);
    bind_handle(stmt, 4, of_capture ? rec->capture : 0);
    bind_handle(stmt, 5, rec->graph);
    bind_handle(stmt, 6, rec->source);
    bind_handle(stmt, 7, rec->exec);
    error = skew_db_run(proc->db, stmt);
    return error ? error
                 : apply(proc->graphs, rec->event, rec->ns, rec->capture, rec->graph, rec->source,
                         rec->exec);
}

/* What was captured, read from the database once a capture: it does not change any more when it is
 * replayed. */
struct capture_list {
    size_t count;
    struct skew_captured of[];
};

static int captured_list(struct skew_proc *proc, uint64_t driver_id, struct capture_list **out)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_CAPTURED];
    struct capture_list *list = calloc(1, sizeof *list);
    uint64_t known;
    int64_t capture;
    int row = -ENOMEM, error = skew_capture_id(proc, driver_id, &capture);
    if (skew_map_get(&proc->captured, driver_id, &known)) {
        free(list);
        *out = (void *)(uintptr_t)known;
        return 0;
    }
    sqlite3_bind_int64(stmt, 1, capture);
    while (!error && list && (row = skew_db_row(proc->db, stmt)) == 1) {
        void *more = realloc(list, sizeof *list + (list->count + 1) * sizeof list->of[0]);
        if (!more) {
            row = -ENOMEM;
            break;
        }
        list = more;
        list->of[list->count++] =
            (struct skew_captured){.member = sqlite3_column_int64(stmt, 0),
                                   .thread = sqlite3_column_int64(stmt, 1),
                                   .group = sqlite3_column_int64(stmt, 2),
                                   .may_copy = sqlite3_column_int64(stmt, 4) != 0};
    }
    sqlite3_reset(stmt);
    error = error ? error : row < 0 ? row : 0;
    if (!error)
        error = skew_map_put(&proc->captured, driver_id, (uintptr_t)list);
    if (error)
        free(list);
    *out = list;
    return error;
}

int skew_graph_captured(struct skew_proc *proc, uint64_t exec, uint64_t ns, uint32_t ordinal,
                        uint32_t count, struct skew_captured *out, uint64_t *launches)
{
    const struct set *set = exec_at(proc->graphs, exec, ns);
    uint64_t total = 0;
    bool found = false, may_copy = false;
    for (size_t i = 0; set && i < set->count; i++) {
        struct capture_list *list;
        int error = captured_list(proc, set->item[i].capture, &list);
        if (error)
            return error;
        for (size_t k = 0; k < list->count; k++)
            may_copy |= list->of[k].may_copy;
        for (uint64_t times = 0; times < set->item[i].times; times++) {
            if (ordinal >= total && ordinal - total < list->count) {
                *out = list->of[ordinal - total];
                out->place = (int64_t)times;
                found = true;
            }
            total += list->count;
        }
    }
    *launches = total;
    return found && total == count && !may_copy;
}

static int launch_remember(struct skew_proc *proc, uint64_t ns, uint64_t exec, int64_t id,
                           bool stub)
{
    if (!proc->launches)
        proc->launches = calloc(1, sizeof *proc->launches);
    if (!proc->launches)
        return -ENOMEM;
    proc->launches->of[proc->launches->count++ % LAUNCHES] =
        (struct launch){.ns = ns, .exec = exec, .id = id, .stub = stub};
    return 0;
}

/* Its time comes soon after a launch: the newest first. */
static struct launch *launch_find(struct skew_launches *launches, uint64_t ns, uint64_t exec)
{
    size_t count = !launches ? 0 : launches->count < LAUNCHES ? launches->count : LAUNCHES;
    for (size_t i = 1; i <= count; i++) {
        struct launch *launch = &launches->of[(launches->count - i) % LAUNCHES];
        if (launch->ns == ns && launch->exec == exec)
            return launch;
    }
    return NULL;
}

int skew_launch_id(struct skew_proc *proc, uint64_t ns, uint64_t exec, int64_t stream, int64_t *id)
{
    sqlite3_stmt *add = proc->db->stmt[SKEW_STMT_LAUNCH],
                 *know = proc->db->stmt[SKEW_STMT_LAUNCH_KNOW];
    bool look = !stream || (proc->launches && proc->launches->stubs);
    struct launch *known = look ? launch_find(proc->launches, ns, exec) : NULL;
    if (known && (!stream || known->stub)) {
        *id = known->id;
        if (!stream)
            return 0;
        known->stub = false;
        proc->launches->stubs--;
        sqlite3_bind_int64(know, 1, *id);
        sqlite3_bind_int64(know, 2, stream);
        return skew_db_run(proc->db, know);
    }
    sqlite3_bind_int64(add, 1, proc->id);
    sqlite3_bind_int64(add, 2, (int64_t)ns);
    sqlite3_bind_int64(add, 3, (int64_t)exec);
    skew_bind_known(add, 4, stream, stream != 0);
    int error = skew_db_run(proc->db, add);
    *id = sqlite3_last_insert_rowid(proc->db->sql);
    if (!error)
        error = launch_remember(proc, ns, exec, *id, !stream);
    if (!error && !stream)
        proc->launches->stubs++;
    return error;
}

int skew_launch_record(struct skew_proc *proc, const struct skew_rec *head)
{
    const struct skew_rec_launch *rec = (const void *)head;
    sqlite3_stmt *sum = proc->db->stmt[SKEW_STMT_LAUNCHES];
    int64_t stream, capture, launch;
    if (head->bytes < sizeof *rec)
        return -EBADMSG;
    int error = skew_stream_id(proc, rec->stream, &stream);
    if (error)
        return error;
    error = skew_launch_id(proc, rec->call_ns, rec->exec, stream, &launch);
    const struct set *set = exec_at(proc->graphs, rec->exec, rec->call_ns);
    for (size_t i = 0; !error && set && i < set->count; i++) {
        error = skew_capture_id(proc, set->item[i].capture, &capture);
        sqlite3_bind_int64(sum, 1, capture);
        sqlite3_bind_int64(sum, 2, (int64_t)set->item[i].times);
        if (!error)
            error = skew_db_run(proc->db, sum);
    }
    return error;
}

static int load_launch(struct skew_proc *proc, sqlite3_stmt *stmt)
{
    bool stub = sqlite3_column_type(stmt, 3) == SQLITE_NULL;
    int error = launch_remember(proc, (uint64_t)sqlite3_column_int64(stmt, 1),
                                (uint64_t)sqlite3_column_int64(stmt, 2),
                                sqlite3_column_int64(stmt, 0), stub);
    if (!error && stub)
        proc->launches->stubs++;
    return error;
}

int skew_graph_load(struct skew_proc *proc)
{
    sqlite3_stmt *stmt;
    int found = 0;
    int error = skew_proc_load(
        proc,
        "SELECT * FROM (SELECT launch_id, ns, exec, stream_id FROM graph_launch WHERE "
        "process_id = ? ORDER BY launch_id DESC LIMIT " STRINGIFY(LAUNCHES) ") ORDER BY launch_id",
        load_launch);
    if (error)
        return error;
    if (sqlite3_prepare_v2(proc->db->sql,
                           "SELECT event, ns, driver_id, graph, source, exec FROM "
                           "graph_event WHERE process_id = ? ORDER BY rowid",
                           -1, &stmt, NULL) != SQLITE_OK)
        return skew_db_fail(proc->db, "the database");
    sqlite3_bind_int64(stmt, 1, proc->id);
    while (!error && (found = skew_db_row(proc->db, stmt)) == 1) {
        const char *name = (const char *)sqlite3_column_text(stmt, 0);
        unsigned event = 0;
        for (unsigned i = 1; i < SKEW_GRAPH_EVENT_COUNT; i++)
            if (name && strcmp(name, event_names[i]) == 0)
                event = i;
        error = model(proc);
        if (!error)
            error = apply(
                proc->graphs, event, (uint64_t)sqlite3_column_int64(stmt, 1),
                (uint64_t)sqlite3_column_int64(stmt, 2), (uint64_t)sqlite3_column_int64(stmt, 3),
                (uint64_t)sqlite3_column_int64(stmt, 4), (uint64_t)sqlite3_column_int64(stmt, 5));
    }
    sqlite3_finalize(stmt);
    return error ? error : found;
}

void skew_graph_forget_old(struct skew_proc *proc)
{
    struct skew_graphs *graphs = proc->graphs;
    for (size_t i = 0; graphs && i < graphs->execs.slots; i++) {
        if (!graphs->execs.used[i])
            continue;
        struct exec *exec = (void *)(uintptr_t)graphs->execs.values[i];
        size_t old = 0;
        while (old + 1 < exec->count && exec->entries[old + 1].ns + HISTORY_NS < graphs->newest_ns)
            free(exec->entries[old++].set.item);
        exec->count -= old;
        if (old)
            memmove(exec->entries, exec->entries + old, exec->count * sizeof *exec->entries);
    }
}

static void sets_free(struct skew_map *map)
{
    for (size_t i = 0; i < map->slots; i++) {
        struct set *set = map->used[i] ? (void *)(uintptr_t)map->values[i] : NULL;
        if (set)
            free(set->item);
        free(set);
    }
    skew_map_free(map);
}

void skew_graph_free(struct skew_proc *proc)
{
    struct skew_graphs *graphs = proc->graphs;
    free(proc->launches);
    proc->launches = NULL;
    for (size_t i = 0; i < proc->captured.slots; i++)
        if (proc->captured.used[i])
            free((void *)(uintptr_t)proc->captured.values[i]);
    skew_map_free(&proc->captured);
    if (!graphs)
        return;
    sets_free(&graphs->graphs);
    sets_free(&graphs->inner);
    for (size_t i = 0; i < graphs->execs.slots; i++) {
        if (!graphs->execs.used[i])
            continue;
        struct exec *exec = (void *)(uintptr_t)graphs->execs.values[i];
        for (size_t j = 0; j < exec->count; j++)
            free(exec->entries[j].set.item);
        free(exec->entries);
        free(exec);
    }
    skew_map_free(&graphs->execs);
    free(graphs);
    proc->graphs = NULL;
}
