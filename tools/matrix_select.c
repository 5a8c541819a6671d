/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which communicator `skewscope matrix` shows: see matrix_select.h.
 */
#include "matrix_select.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

/* ---- which communicator -------------------------------------------------------------------- */

static struct skew_candidate *candidate_of(struct skew_candidates *c, const struct skew_comm *comm)
{
    for (size_t i = 0; i < c->count; i++) {
        if (strcmp(c->all[i].comm.key, comm->key) == 0) {
            if (comm->ranks > c->all[i].comm.ranks)
                c->all[i].comm.ranks = comm->ranks;
            return &c->all[i];
        }
    }
    struct skew_candidate *bigger = realloc(c->all, (c->count + 1) * sizeof *bigger);
    if (!bigger)
        return NULL;
    c->all = bigger;
    c->all[c->count] = (struct skew_candidate){.comm = *comm};
    return &c->all[c->count++];
}

static int add_traffic(struct skew_candidates *c, struct skew_trace *trace,
                       const struct skew_comm *comms, size_t count, struct skew_error *error)
{
    sqlite3_stmt *s = NULL;
    int step;

    if (sqlite3_prepare_v2(skew_trace_db(trace),
                           "SELECT m.comm_id, count(*), total(e.send_unit * v.total)"
                           " FROM exchange e JOIN member m USING (member_id)"
                           " LEFT JOIN vector v ON v.vector_id = e.send_vector GROUP BY m.comm_id",
                           -1, &s, NULL) != SQLITE_OK)
        return skew_trace_sql_error(trace, error);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        for (size_t i = 0; i < count; i++) {
            if (comms[i].id != sqlite3_column_int64(s, 0))
                continue;
            struct skew_candidate *one = candidate_of(c, &comms[i]);
            one->exchanges += (uint64_t)sqlite3_column_int64(s, 1);
            one->bytes += (uint64_t)sqlite3_column_double(s, 2);
        }
    }
    int result = step == SQLITE_DONE ? 0 : skew_trace_sql_error(trace, error);
    sqlite3_finalize(s);
    return result;
}

int skew_candidates_collect(struct skew_candidates *c, const struct skew_reading *reading)
{
    struct skew_error error = {""};

    for (size_t t = 0; t < reading->count; t++) {
        const struct skew_comm *comms;
        size_t count;
        int result = skew_trace_comms(reading->traces[t], &comms, &count, &error);
        for (size_t i = 0; i < count && result == 0; i++) {
            struct skew_candidate *one = candidate_of(c, &comms[i]);
            if (!one)
                return -ENOMEM;
            one->members += comms[i].members;
        }
        if (result == 0)
            result = add_traffic(c, reading->traces[t], comms, count, &error);
        if (result < 0) {
            skew_tell("%s", error.text);
            return result;
        }
    }
    return 0;
}

/* By key, then by the beginning of a key, then, in a single database, by number. */
static const struct skew_candidate *named(const struct skew_candidates *c, const char *name,
                                          size_t databases)
{
    const struct skew_candidate *found = NULL;
    size_t length = strlen(name), matches = 0;
    int64_t id;

    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->all[i].comm.key, name) == 0)
            return &c->all[i];
    if (databases == 1 && skew_parse_int(name, 1, INT64_MAX, &id))
        for (size_t i = 0; i < c->count; i++)
            if (c->all[i].comm.id == id)
                return &c->all[i];
    for (size_t i = 0; i < c->count; i++) {
        if (length >= 4 && strncmp(c->all[i].comm.key, name, length) == 0) {
            found = &c->all[i];
            matches++;
        }
    }
    if (matches == 1)
        return found;
    if (matches)
        skew_tell("--comm: '%s' is the beginning of %zu keys; give more of it", name, matches);
    else
        skew_tell(
            "--comm: there is no communicator '%s' in this trace; skewscope info lists them%s",
            name, databases > 1 ? " (with several nodes, name it by its key)" : "");
    return NULL;
}

const struct skew_candidate *skew_candidates_choose(const struct skew_candidates *c,
                                                    const char *path, const char *name,
                                                    size_t databases, char *why, size_t size)
{
    const struct skew_candidate *best = NULL;
    size_t with_traffic = 0;
    char text[SKEW_BYTES_TEXT];

    if (name)
        return named(c, name, databases);
    for (size_t i = 0; i < c->count; i++) {
        with_traffic += c->all[i].exchanges > 0;
        if (c->all[i].exchanges && (!best || c->all[i].bytes > best->bytes))
            best = &c->all[i];
    }
    if (!best)
        skew_tell("%s: holds no all-to-all exchange; skewscope info %s tells what it holds", path,
                  path);
    else if (with_traffic > 1)
        snprintf(why, size, "%s, the most of %zu communicators with exchanges (--comm)",
                 skew_bytes_text(text, best->bytes), with_traffic);
    return best;
}

/* ---- all together -------------------------------------------------------------------------- */

/* Whether anything has the role, and whether any layer or step was told at all. */
static void look(const struct skew_labels *labels, const struct skew_filter *f, bool *role,
                 bool *layer, bool *step)
{
    size_t count;
    const struct skew_label *all = skew_labels_exchanges(labels, &count);
    int wanted = f->role ? skew_label_role_of(f->role) : 0;

    for (size_t i = 0; i < count; i++) {
        *role |= wanted > 0 && all[i].role == wanted;
        *layer |= all[i].layer >= 0;
        *step |= all[i].step >= 0;
    }
}

int skew_labels_prepare(struct skew_labelling *labelling, const struct skew_filter *f,
                        const char *path, const struct skew_reading *reading)
{
    bool role = false, layer = false, step = false;

    if (!f->role && (f->count_layers || (!f->by_layer && !f->by_step)))
        return 0;
    int result = skew_labelling_open(labelling, reading, NULL);
    for (size_t t = 0; t < labelling->count; t++)
        look(labelling->labels[t], f, &role, &layer, &step);
    if (result < 0)
        return result;
    if (f->role && !role)
        skew_tell("%s: no exchange could be told to be '%s'; skewscope label %s shows the roles",
                  path, f->role, path);
    else if (!f->count_layers && f->by_layer && !layer)
        skew_tell("%s: the layer of no exchange could be told; skewscope label %s says why. Give "
                  "--layers L "
                  "to count calls instead, or select by --seq",
                  path, path);
    else if (!f->count_layers && f->by_step && !step)
        skew_tell("%s: the step of no exchange could be told; skewscope label %s says why and what "
                  "to give "
                  "it (--save), or select by --seq",
                  path, path);
    else
        return 0;
    return -ENOENT;
}
