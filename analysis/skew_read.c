/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One database into the accumulator of volumes: one pass over exchanges and labels, one over
 * vectors, each on several threads with connections of their own. See skew.h.
 */
#include "skew_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- exchanges ------------------------------------------------------------------------------- */

enum {
    C_ID,
    C_MEMBER,
    C_SEQ,
    C_SEND,
    C_RECV,
    C_SEND_UNIT,
    C_RECV_UNIT,
    C_ROLE,
    C_STEP,
    C_LAYER,
    C_MICRO,
    C_TOKEN,
    C_CONFIDENCE,
    C_PASS,
    C_FLAGS
};

#define EXCHANGE_COLUMNS                                                                           \
    "SELECT skew_take(e.exchange_id, e.member_id, e.seq, e.send_vector, e.recv_vector,"            \
    " e.send_unit, e.recv_unit"
#define RANGE         " WHERE e.exchange_id BETWEEN ?1 AND ?2"
#define LABEL_COLUMNS ", b.role, b.step, b.layer, b.microbatch, b.token_bytes, b.confidence"
#define LABELS        " FROM exchange e NOT INDEXED LEFT JOIN exchange_label b USING (exchange_id)"

static const char select_bare[] = EXCHANGE_COLUMNS ") FROM exchange e NOT INDEXED" RANGE;
static const char select_labelled[] =
    EXCHANGE_COLUMNS LABEL_COLUMNS ", b.pass, b.flags)" LABELS RANGE;
/* Traces of before these two columns. */
static const char select_labelled_old[] = EXCHANGE_COLUMNS LABEL_COLUMNS ", NULL, 0)" LABELS RANGE;

static int64_t known(sqlite3_value **row, int column)
{
    int64_t value;
    return skew_value_between(row[column], 0, INT64_MAX, &value) ? value : -1;
}

/* From what is attached to the caller's trace. */
static void take_label(struct seen *x, const struct skew_label *l)
{
    if (!l)
        return;
    x->role = l->role;
    x->step = l->step >= 0 ? l->step : l->pass;
    x->by_pass = l->step < 0 && l->pass >= 0;
    x->layer = l->layer;
    x->microbatch = l->microbatch;
    x->token_bytes = (int64_t)l->token_bytes;
    x->confidence = l->confidence;
    x->partial = (l->flags & SKEW_LABEL_PARTIAL) != 0;
}

/* Negative: there is no such role. Asking for text would copy it, for the zero behind it; bytes are
 * as they lie. */
static int read_role(struct part *p, sqlite3_value **row)
{
    const char *last = skew_label_role_name(p->last_role);
    const char *bytes = sqlite3_value_blob(row[C_ROLE]);
    size_t size = (size_t)sqlite3_value_bytes(row[C_ROLE]);

    if (last && bytes && strlen(last) == size && memcmp(last, bytes, size) == 0)
        return p->last_role;
    if (sqlite3_value_type(row[C_ROLE]) == SQLITE_NULL)
        return SKEW_LABEL_UNKNOWN;
    int role = skew_label_role_of((const char *)sqlite3_value_text(row[C_ROLE]));
    p->last_role = role < 0 ? 0 : (uint8_t)role;
    return role;
}

/* From the table. False: it names a role that there is not. */
static bool read_label(struct part *p, struct seen *x, sqlite3_value **row)
{
    int role = read_role(p, row);
    int64_t pass = known(row, C_PASS);

    x->role = role < 0 ? 0 : (uint8_t)role;
    x->step = known(row, C_STEP);
    x->by_pass = x->step < 0 && pass >= 0;
    if (x->by_pass)
        x->step = pass;
    x->layer = (int32_t)known(row, C_LAYER);
    x->microbatch = (int32_t)known(row, C_MICRO);
    x->token_bytes = known(row, C_TOKEN);
    if (sqlite3_value_type(row[C_CONFIDENCE]) != SQLITE_NULL)
        x->confidence = (float)sqlite3_value_double(row[C_CONFIDENCE]);
    x->partial = (sqlite3_value_int(row[C_FLAGS]) & SKEW_LABEL_PARTIAL) != 0;
    return role >= 0;
}

static bool role_is(int role, const char *wanted)
{
    const char *name = skew_label_role_name(role);
    return strcmp(name ? name : "", wanted) == 0;
}

static bool wanted(const struct skew_volume_options *o, const struct skew_member *m,
                   const struct seen *x)
{
    return (!o->comm_key || strcmp(m->comm->key, o->comm_key) == 0) &&
           (!o->role || role_is(x->role, o->role)) && (!o->by_layer || x->layer == o->layer);
}

static int bad(const struct part *p, sqlite3_value **row, struct skew_error *error)
{
    skew_error_set(error, "%s: is damaged: exchange %lld makes no sense", skew_trace_path(p->trace),
                   (long long)sqlite3_value_int64(row[C_ID]));
    return -EBADMSG;
}

/* Ranks of this node mostly take turns: the one after the last, or the first again. */
static const struct skew_member *member_of(struct part *p, int64_t id)
{
    if (p->next_member >= p->member_count || p->members[p->next_member].id != id) {
        const struct skew_member *m = skew_trace_member(p->trace, id);
        if (!m)
            return NULL;
        p->next_member = (size_t)(m - p->members);
    }
    return &p->members[p->next_member++];
}

static int more_seen(struct part *p)
{
    size_t blocks = p->capacity / SEEN_BLOCK;
    struct seen **bigger = realloc(p->seen, (blocks + 1) * sizeof *bigger);

    if (!bigger)
        return -ENOMEM;
    p->seen = bigger;
    p->seen[blocks] = malloc(SEEN_BLOCK * sizeof **p->seen);
    if (!p->seen[blocks])
        return -ENOMEM;
    p->capacity += SEEN_BLOCK;
    return 0;
}

static int take_exchange(void *context, sqlite3_value **row)
{
    struct part *p = context;
    const struct skew_member *m = member_of(p, sqlite3_value_int64(row[C_MEMBER]));
    struct seen x = {
        .step = -1, .layer = -1, .microbatch = -1, .token_bytes = -1, .confidence = -1};
    int64_t send_unit, recv_unit;

    if (!m || !skew_value_between(row[C_SEQ], 0, INT64_MAX, &x.seq) ||
        !skew_value_between(row[C_SEND_UNIT], 0, INT64_MAX, &send_unit) ||
        !skew_value_between(row[C_RECV_UNIT], 0, INT64_MAX, &recv_unit))
        return bad(p, row, &p->error);
    x.member = (uint32_t)(m - p->members);
    if (p->labels)
        take_label(&x, skew_labels_exchange(p->labels, sqlite3_value_int64(row[C_ID])));
    else if (!read_label(p, &x, row))
        return bad(p, row, &p->error);
    x.send = known(row, C_SEND);
    x.recv = known(row, C_RECV);
    x.send_unit = send_unit ? (uint64_t)send_unit : 1;
    x.recv_unit = recv_unit ? (uint64_t)recv_unit : 1;
    if (m->rank < 0 || !wanted(p->options, m, &x))
        return 0;
    if (x.send > p->last_vector || x.recv > p->last_vector)
        return bad(p, row, &p->error);
    if (p->count == p->capacity && more_seen(p) < 0)
        return -ENOMEM;
    *seen_at(p, p->count++) = x;
    return 0;
}

static void *read_exchanges(void *context)
{
    struct part *p = context;

    p->result = skew_trace_members(p->trace, &p->members, &p->member_count, &p->error);
    bool wide = sqlite3_table_column_metadata(skew_trace_db(p->trace), "main", "exchange_label",
                                              "pass", NULL, NULL, NULL, NULL, NULL) == SQLITE_OK;
    const char *sql = p->labels ? select_bare : wide ? select_labelled : select_labelled_old;
    if (p->result == 0)
        p->result = skew_sql_rows(p->trace, sql, p->from, p->to, take_exchange, p, &p->error);
    return NULL;
}

/* ---- vectors --------------------------------------------------------------------------------- */

enum {
    V_ID,
    V_CELLS,
    V_TOTAL,
    V_LARGEST,
    V_WIDTH,
    V_STRIDE,
    V_SIZES,
    V_PEER_WIDTH,
    V_PEER_STRIDE,
    V_PEERS
};

static const char select_totals[] = "SELECT skew_take(vector_id, cells, total, largest) FROM vector"
                                    " WHERE vector_id BETWEEN ?1 AND ?2";
static const char select_cells[] =
    "SELECT skew_take(vector_id, cells, total, largest, size_width, size_stride, sizes, peer_width,"
    " peer_stride, peers) FROM vector WHERE vector_id BETWEEN ?1 AND ?2";

static int bad_vector(struct part *p, sqlite3_value **row, const char *why)
{
    skew_error_set(&p->error, "%s: is damaged: vector %lld %s", skew_trace_path(p->trace),
                   (long long)sqlite3_value_int64(row[V_ID]), why);
    return -EBADMSG;
}

struct packed_cells {
    const uint8_t *sizes, *peers; /* peers NULL: 0, 1, 2, … */
    uint32_t cells, width, stride, peer_width, peer_stride;
};

static void add_row(const struct use *use, const struct packed_cells *c)
{
    uint32_t plain = c->cells < use->ranks ? c->cells : use->ranks;
    uint64_t *restrict row = use->row, unit = use->unit;
    bool narrow = !c->peers && c->stride == c->width && unit <= UINT32_MAX;

    /* What nearly all vectors are, in loops that become vectors themselves: 32 × 32 bits are what
     * every processor multiplies several of at once. */
    if (narrow && c->width == 1) {
        for (uint32_t i = 0; i < plain; i++)
            row[i] += (uint64_t)(uint32_t)unit * (uint32_t)c->sizes[i];
        return;
    }
    if (narrow && c->width == 2) {
        for (uint32_t i = 0; i < plain; i++)
            row[i] += (uint64_t)(uint32_t)unit *
                      ((uint32_t)c->sizes[2 * i] << 8 | (uint32_t)c->sizes[2 * i + 1]);
        return;
    }
    for (uint32_t i = 0; i < c->cells; i++) {
        uint64_t peer =
            c->peers ? skew_big_endian(c->peers + i * (size_t)c->peer_stride, c->peer_width) : i;
        if (peer < use->ranks)
            row[peer] += unit * skew_big_endian(c->sizes + i * (size_t)c->stride, c->width);
    }
}

/* A row of a matrix, from the side that sends. Another thread may be adding to the same row. */
static int add_cells(struct part *p, sqlite3_value **row, const struct use *use, uint32_t cells)
{
    int64_t width, stride, peer_width = 1, peer_stride = 0;
    bool named = sqlite3_value_type(row[V_PEERS]) != SQLITE_NULL;

    if (!skew_value_between(row[V_WIDTH], 1, 8, &width) ||
        !skew_value_between(row[V_STRIDE], 0, 8, &stride) || (stride && stride != width) ||
        (named && (!skew_value_between(row[V_PEER_WIDTH], 1, 8, &peer_width) ||
                   !skew_value_between(row[V_PEER_STRIDE], 0, 8, &peer_stride) ||
                   (peer_stride && peer_stride != peer_width))))
        return bad_vector(p, row, "has numbers out of range");
    const uint8_t *sizes = sqlite3_value_blob(row[V_SIZES]);
    const uint8_t *peers = named ? sqlite3_value_blob(row[V_PEERS]) : NULL;
    uint64_t last = cells ? cells - 1 : 0;
    if (cells == 0)
        return 0;
    if ((uint64_t)sqlite3_value_bytes(row[V_SIZES]) < last * (uint64_t)stride + (uint64_t)width ||
        (named && (uint64_t)sqlite3_value_bytes(row[V_PEERS]) <
                      last * (uint64_t)peer_stride + (uint64_t)peer_width))
        return bad_vector(p, row, "is shorter than it says");
    for (; use; use = use->next) {
        struct packed_cells c = {sizes,
                                 peers,
                                 cells,
                                 (uint32_t)width,
                                 (uint32_t)stride,
                                 (uint32_t)peer_width,
                                 (uint32_t)peer_stride};
        pthread_mutex_t *lock = &p->locks[(uintptr_t)use->row / 512 % SKEW_LOCKS];
        pthread_mutex_lock(lock);
        add_row(use, &c);
        pthread_mutex_unlock(lock);
    }
    return 0;
}

static int take_vector(void *context, sqlite3_value **row)
{
    struct part *p = context;
    int64_t id = sqlite3_value_int64(row[V_ID]), cells, total, largest;

    if (id < 0 || id > p->last_vector ||
        !skew_value_between(row[V_CELLS], 0, SKEW_CELLS_MAX, &cells) ||
        !skew_value_between(row[V_TOTAL], 0, INT64_MAX, &total) ||
        !skew_value_between(row[V_LARGEST], 0, INT64_MAX, &largest))
        return bad_vector(p, row, "has numbers out of range");
    uint64_t flat = 0;
    p->totals[id].total = (uint64_t)total;
    p->totals[id].known = 1;
    p->totals[id].uniform = total > 0 && cells > 0 &&
                            !__builtin_mul_overflow((uint64_t)largest, (uint64_t)cells, &flat) &&
                            flat == (uint64_t)total;
    if (p->uses && p->uses[id])
        return add_cells(p, row, p->uses[id], (uint32_t)cells);
    return 0;
}

static void *read_vectors(void *context)
{
    struct part *p = context;

    p->result = skew_sql_rows(p->trace, p->uses ? select_cells : select_totals, p->from, p->to,
                              take_vector, p, &p->error);
    return NULL;
}

/* ---- both passes on threads ------------------------------------------------------------------ */

/* Runs `work` over 1 … last, cut into `count` ranges; the first on this thread. */
static int run_parts(struct part *parts, unsigned count, int64_t last, void *(*work)(void *),
                     struct skew_error *error)
{
    pthread_t threads[SKEW_PARTS_MAX];
    bool started[SKEW_PARTS_MAX] = {false};
    int result = 0;

    for (unsigned i = 0; i < count; i++) {
        parts[i].from = i == 0 ? INT64_MIN : (int64_t)((__int128)last * i / count) + 1;
        parts[i].to = i + 1 == count ? INT64_MAX : (int64_t)((__int128)last * (i + 1) / count);
        parts[i].result = 0;
    }
    for (unsigned i = 1; i < count; i++)
        started[i] = pthread_create(&threads[i], NULL, work, &parts[i]) == 0;
    for (unsigned i = 0; i < count; i++)
        if (!started[i])
            work(&parts[i]);
    for (unsigned i = 1; i < count; i++)
        if (started[i])
            pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < count && result == 0; i++) {
        result = parts[i].result;
        if (result < 0)
            *error = parts[i].error;
    }
    return result;
}

static unsigned thread_count(unsigned wanted, int64_t rows)
{
    enum { ROWS_A_THREAD = 50000 };
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int64_t count = wanted ? wanted : processors > 0 ? processors : 1;

    if (count > SKEW_PARTS_MAX)
        count = SKEW_PARTS_MAX;
    if (count > rows / ROWS_A_THREAD)
        count = rows / ROWS_A_THREAD;
    return count < 1 ? 1 : (unsigned)count;
}

static int read_both(struct skew_volume *v, struct part *parts, unsigned count, int64_t exchanges,
                     int64_t vectors, struct skew_error *error)
{
    pthread_mutex_t locks[SKEW_LOCKS];
    struct vector_total *totals;
    int result = run_parts(parts, count, exchanges, read_exchanges, error);

    if (result < 0)
        return result;
    if (vectors < 0 || vectors > INT32_MAX) {
        skew_error_set(error, "%s: is damaged: vector numbers make no sense",
                       skew_trace_path(parts[0].trace));
        return -EBADMSG;
    }
    for (int i = 0; i < SKEW_LOCKS; i++)
        pthread_mutex_init(&locks[i], NULL);
    totals = calloc((size_t)vectors + 1, sizeof *totals);
    result = totals ? skew_volume_file(v, parts, count, (size_t)vectors) : -ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        parts[i].totals = totals;
        parts[i].uses = v->uses;
        parts[i].locks = locks;
    }
    if (result == 0)
        result = run_parts(parts, count, vectors, read_vectors, error);
    if (result == 0)
        result = skew_volume_fill(v, parts, count, totals, error);
    if (result == -ENOMEM)
        skew_error_set(error, "%s: out of memory", skew_trace_path(parts[0].trace));
    for (int i = 0; i < SKEW_LOCKS; i++)
        pthread_mutex_destroy(&locks[i]);
    skew_volume_uses_free(v);
    free(totals);
    return result;
}

int skew_volume_read(struct skew_volume *v, struct skew_trace *trace, struct skew_error *error)
{
    struct part parts[SKEW_PARTS_MAX] = {0};
    int64_t exchanges = 0, vectors = 0;
    int result = skew_sql_number(trace, "SELECT coalesce(max(exchange_id), 0) FROM exchange",
                                 &exchanges, error);

    if (result == 0)
        result = skew_sql_number(trace, "SELECT coalesce(max(vector_id), 0) FROM vector", &vectors,
                                 error);
    if (result < 0)
        return result;
    unsigned count = thread_count(v->options.threads, exchanges);
    for (unsigned i = 0; i < count && result == 0; i++) {
        parts[i].options = &v->options;
        parts[i].last_vector = vectors;
        parts[i].trace = trace;
        parts[i].labels = trace->labels;
        if (i > 0)
            result = skew_trace_open(&parts[i].trace, skew_trace_path(trace), error);
    }
    if (result == 0)
        result = read_both(v, parts, count, exchanges, vectors, error);
    for (unsigned i = 0; i < count; i++) {
        for (size_t k = 0; k < parts[i].capacity / SEEN_BLOCK; k++)
            free(parts[i].seen[k]);
        free(parts[i].seen);
        if (i > 0)
            skew_trace_close(&parts[i].trace);
    }
    v->databases++;
    return result;
}
