/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --into: imported counts join a copy of a trace, so that times that were captured meet counts that
 * could not be (a device-initiated backend), or dispatches meet the experts behind them. The rows
 * are written to a trace of their own first and copied from there by SQL, ids shifted.
 *
 * Alignment is by rank, layer and step. A dispatch whose payload is not the counts' sum per rank by
 * one constant unit, with experts placed contiguously, is joined but not `verified`. Where layers
 * or steps do not agree nothing is guessed: it is refused, with the reason.
 */
#include "import.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sqlite3.h>

#include "../term.h"
#include "write.h"

struct joining {
    sqlite3 *db;
    const char *into;
    int64_t comm;
    uint32_t ranks;
    bool exchanges; /* the trace has labelled dispatches */
};

/* One whole number, or `none`. */
static int64_t ask(sqlite3 *db, const char *sql, int64_t none)
{
    sqlite3_stmt *stmt = NULL;
    int64_t value = none;

    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_type(stmt, 0) != SQLITE_NULL)
        value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return value;
}

static int run(struct joining *j, const char *sql)
{
    if (sqlite3_exec(j->db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    skew_tell("%s: cannot be joined: %s", j->into, sqlite3_errmsg(j->db));
    return -EIO;
}

static int copy_file(const char *from, const char *to)
{
    char buffer[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ssize_t got = -1;

    while (out >= 0 && (got = read(in, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, (size_t)got) != got) {
            got = -1;
            break;
        }
    int result = in < 0 || out < 0 || got < 0 ? -(errno ? errno : EIO) : 0;
    if (result < 0)
        skew_tell("%s: cannot be copied to %s: %s", from, to, strerror(-result));
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return result;
}

static int refuse(const struct joining *j, const char *reason)
{
    skew_tell("%s: the counts cannot be joined: %s; import them into a trace of their own without "
              "--into, or correct the labels",
              j->into, reason);
    return -EINVAL;
}

/* The communicator of the trace that the imported ranks mean: the only one of that many ranks, or
 * of those the one with labelled dispatches. */
static int choose_comm(struct joining *j)
{
    char reason[200];
    int64_t same, labelled;
    char sql[512];

    snprintf(sql, sizeof sql, "SELECT count(*) FROM main.communicator WHERE ranks = %u", j->ranks);
    same = ask(j->db, sql, 0);
    snprintf(sql, sizeof sql,
             "SELECT count(DISTINCT m.comm_id) FROM main.exchange_label l JOIN main.exchange e "
             "USING (exchange_id) JOIN main.member m USING (member_id) JOIN main.communicator c "
             "USING (comm_id) WHERE l.role = 'dispatch' AND c.ranks = %u",
             j->ranks);
    labelled = ask(j->db, sql, 0);
    if (same == 0 || labelled > 1 || (labelled == 0 && same > 1)) {
        snprintf(reason, sizeof reason,
                 same == 0 ? "it has no communicator of %u ranks"
                           : "it has several communicators of %u ranks that could be meant",
                 j->ranks);
        return refuse(j, reason);
    }
    j->exchanges = labelled == 1;
    if (labelled == 1)
        snprintf(sql, sizeof sql,
                 "SELECT DISTINCT m.comm_id FROM main.exchange_label l JOIN main.exchange e USING "
                 "(exchange_id) JOIN main.member m USING (member_id) JOIN main.communicator c "
                 "USING (comm_id) WHERE l.role = 'dispatch' AND c.ranks = %u",
                 j->ranks);
    else
        snprintf(sql, sizeof sql, "SELECT comm_id FROM main.communicator WHERE ranks = %u",
                 j->ranks);
    j->comm = ask(j->db, sql, 0);
    return 0;
}

/* The n-th imported layer is the n-th layer of the trace, and steps likewise count from the first;
 * both sets must be of the same size. */
static int align(struct joining *j)
{
    char reason[200], sql[900];
    int64_t layers = ask(j->db, "SELECT count(DISTINCT layer) FROM imported.routing", 0);
    int64_t steps = ask(j->db, "SELECT count(DISTINCT step) FROM imported.routing", 0);

    if (!j->exchanges)
        return ask(j->db, "SELECT count(*) FROM main.exchange", 0)
                   ? refuse(j, "it has exchanges, but none is labelled as a dispatch with layer "
                               "and step (run skewscope label --save on it first)")
                   : 0;
    snprintf(sql, sizeof sql,
             "CREATE TEMP TABLE dispatch AS SELECT l.exchange_id, l.step, l.layer, l.microbatch, "
             "m.rank FROM main.exchange_label l JOIN main.exchange e USING (exchange_id) JOIN "
             "main.member m USING (member_id) WHERE l.role = 'dispatch' AND m.comm_id = %lld",
             (long long)j->comm);
    int result = run(j, sql);
    if (result < 0)
        return result;
    int64_t have = ask(j->db, "SELECT count(DISTINCT layer) FROM dispatch", 0);
    if (have != layers) {
        snprintf(reason, sizeof reason, "its dispatches have %lld layers, the counts %lld",
                 (long long)have, (long long)layers);
        return refuse(j, reason);
    }
    have = ask(j->db, "SELECT count(DISTINCT step) FROM dispatch", 0);
    if (have != steps) {
        snprintf(reason, sizeof reason, "its dispatches have %lld steps, the counts %lld",
                 (long long)have, (long long)steps);
        return refuse(j, reason);
    }
    if (ask(j->db, "SELECT count(*) FROM imported.routing WHERE source_rank IS NULL", 0))
        return refuse(j, "the counts do not say which rank their tokens come from (--ranks)");
    if (ask(j->db,
            "SELECT max(n) FROM (SELECT count(*) AS n FROM dispatch GROUP BY step, layer, "
            "coalesce(microbatch, 0), rank)",
            0) > 1)
        return refuse(j, "a rank has several dispatches of one layer in one step and microbatch");
    return run(j, "CREATE TEMP TABLE layers AS SELECT i.layer AS counted, d.layer AS labelled FROM "
                  "(SELECT layer, row_number() OVER (ORDER BY layer) AS n FROM (SELECT DISTINCT "
                  "layer FROM imported.routing)) i JOIN (SELECT layer, row_number() OVER (ORDER BY "
                  "layer) AS n FROM (SELECT DISTINCT layer FROM dispatch)) d USING (n);"
                  "CREATE TEMP TABLE steps AS SELECT i.step AS counted, d.step AS labelled FROM "
                  "(SELECT step, row_number() OVER (ORDER BY step) AS n FROM (SELECT DISTINCT step "
                  "FROM imported.routing)) i JOIN (SELECT step, row_number() OVER (ORDER BY step) "
                  "AS n FROM (SELECT DISTINCT step FROM dispatch)) d USING (n);");
}

static int copy_rows(struct joining *j)
{
    char sql[1800];
    int64_t vectors = ask(j->db, "SELECT max(vector_id) FROM main.vector", 0);
    int64_t rows = ask(j->db, "SELECT max(routing_id) FROM main.routing", 0);

    snprintf(sql, sizeof sql,
             "INSERT INTO main.vector SELECT vector_id + %lld, cells, total, largest, size_width, "
             "size_stride, peer_width, peer_stride, sizes, peers FROM imported.vector;"
             "INSERT INTO main.ordinal SELECT n FROM imported.ordinal WHERE n NOT IN "
             "(SELECT n FROM main.ordinal);"
             "INSERT INTO main.diagnostic(severity, code, text) SELECT severity, code, text FROM "
             "imported.diagnostic;"
             "INSERT INTO main.routing_ids SELECT routing_id + %lld, width, ids FROM "
             "imported.routing_ids;",
             (long long)vectors, (long long)rows);
    int result = run(j, sql);
    if (result < 0)
        return result;
    snprintf(sql, sizeof sql,
             "INSERT INTO main.routing(routing_id, exchange_id, comm_id, source_rank, step, layer, "
             "microbatch, stage, request, experts, topk, tokens, counts, unit, verified, source) "
             "SELECT r.routing_id + %lld, %s, %lld, r.source_rank, %s, "
             "%s, r.microbatch, r.stage, r.request, r.experts, r.topk, r.tokens, r.counts + %lld, "
             "r.unit, 0, r.source FROM imported.routing r%s",
             (long long)rows, j->exchanges ? "d.exchange_id" : "NULL", (long long)j->comm,
             j->exchanges ? "s.labelled" : "r.step", j->exchanges ? "l.labelled" : "r.layer",
             (long long)vectors,
             j->exchanges
                 ? " JOIN layers l ON l.counted = r.layer JOIN steps s ON s.counted = r.step LEFT "
                   "JOIN dispatch d ON d.step = s.labelled AND d.layer = l.labelled AND d.rank = "
                   "r.source_rank AND coalesce(d.microbatch, 0) = coalesce(r.microbatch, 0)"
                 : "");
    return run(j, sql);
}

/* verified: with contiguous experts, bytes to each rank = tokens for its experts × one constant. */
static int verify(struct joining *j)
{
    char sql[1400];

    if (!j->exchanges)
        return 0;
    snprintf(
        sql, sizeof sql,
        "UPDATE main.routing SET verified = 1 WHERE source LIKE 'import %%' AND exchange_id IN "
        "(SELECT exchange_id FROM (SELECT t.exchange_id, t.dst, t.tokens, sum(x.bytes) AS "
        "bytes FROM (SELECT exchange_id, expert / (experts / %u) AS dst, sum(tokens) AS "
        "tokens FROM (SELECT c.exchange_id, c.expert, c.tokens, r.experts FROM "
        "main.routing_cell c JOIN main.routing r USING (routing_id) WHERE r.exchange_id IS "
        "NOT NULL AND r.source LIKE 'import %%' AND r.experts %% %u = 0) GROUP BY 1, 2) t "
        "JOIN main.edges x ON x.exchange_id = t.exchange_id AND x.dst_rank = t.dst GROUP BY "
        "1, 2) GROUP BY exchange_id HAVING count(*) = %u AND sum((bytes = 0) <> (tokens = 0)) "
        "= 0 AND sum(tokens) > 0 AND min(CASE WHEN tokens THEN bytes %% tokens ELSE 0 END) = "
        "0 AND max(CASE WHEN tokens THEN bytes %% tokens ELSE 0 END) = 0 AND min(bytes / "
        "nullif(tokens, 0)) = max(bytes / nullif(tokens, 0)))",
        j->ranks, j->ranks, j->ranks);
    return run(j, sql);
}

static int join(struct joining *j, const char *imported)
{
    char sql[4400];

    sqlite3_snprintf((int)sizeof sql, sql, "ATTACH %Q AS imported", imported);
    int result = run(j, sql);
    if (result == 0)
        result = run(j, "BEGIN");
    if (result == 0)
        result = choose_comm(j);
    if (result == 0)
        result = align(j);
    if (result == 0 && ask(j->db,
                           "SELECT count(*) FROM main.sqlite_schema WHERE name = "
                           "'routing_ids'",
                           0) == 0)
        result = run(j, "CREATE TABLE main.routing_ids (routing_id INTEGER PRIMARY KEY REFERENCES "
                        "routing, width INTEGER NOT NULL, ids BLOB NOT NULL)");
    if (result == 0)
        result = copy_rows(j);
    if (result == 0)
        result = verify(j);
    if (result == 0)
        result = run(j, "COMMIT");
    return result;
}

int skew_import_join(struct skew_import *import, const struct skew_import_output *output,
                     const char *into)
{
    struct joining j = {
        .into = into, .ranks = import->options.ranks ? import->options.ranks : import->rows.ranks};
    char rows[4200], copy[4200];

    if (import->matrix_count)
        return refuse(&j, "matrices are exchanges, not counts");
    if (j.ranks == 0)
        return refuse(&j, "the counts name no ranks (--ranks)");
    if (access(output->path, F_OK) == 0) {
        skew_tell("%s: is there already; choose another name", output->path);
        return -EEXIST;
    }
    snprintf(rows, sizeof rows, "%.4000s.rows.%d", output->path, (int)getpid());
    snprintf(copy, sizeof copy, "%.4000s.copy.%d", output->path, (int)getpid());
    int result = skew_import_write_file(import, output, rows);
    if (result == 0)
        result = copy_file(into, copy);
    if (result == 0 && sqlite3_open_v2(copy, &j.db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        result = run(&j, "SELECT 1");
    if (result == 0)
        result = join(&j, rows);
    if (sqlite3_close(j.db) != SQLITE_OK && result == 0)
        result = -EIO;
    if (result == 0 && (link(copy, output->path) < 0)) {
        result = -errno;
        skew_tell("%s: cannot be made: %s", output->path, strerror(errno));
    }
    unlink(rows);
    unlink(copy);
    return result;
}
