/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace_make: what is made reads back as it was given, through analysis/ and through the views; a
 * file that is there stays as it is; what was not finished leaves nothing behind.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sqlite3.h>

#include "trace.h"
#include "trace_make.h"

enum { RANKS = 3, EXCHANGES = 500 };

static const struct skew_make_about about = {.origin = "synth"};
static char directory[] = "/tmp/skew-make-XXXXXX";
static char path[64];

static uint64_t bytes_of(int seq, int from, int to)
{
    return (uint64_t)(seq * 7 + from * 3 + to) % 50 * 4096;
}

static void ok(struct skew_make *make, int error)
{
    if (error)
        fprintf(stderr, "%s\n", skew_make_why(make));
    assert(error == 0);
}

static void add_exchange(struct skew_make *make, int64_t member, int rank, int seq)
{
    uint64_t send[RANKS], recv[RANKS];
    struct skew_make_exchange e = {.member_id = member,
                                   .seq = seq,
                                   .dtype = 9,
                                   .start_ns = 1000 * seq + rank,
                                   .enqueue_ns = 10,
                                   .thread = 1,
                                   .group_seq = seq};
    int64_t id;

    for (int peer = 0; peer < RANKS; peer++) {
        send[peer] = bytes_of(seq, rank, peer);
        recv[peer] = bytes_of(seq, peer, rank);
    }
    ok(make, skew_make_vector(make, RANKS, send, NULL, &e.send_vector, &e.send_unit));
    ok(make, skew_make_vector(make, RANKS, recv, NULL, &e.recv_vector, &e.recv_unit));
    ok(make, skew_make_exchange(make, &e, &id));
    ok(make, skew_make_device_time(make, member, 1, seq, 3, 2000 * seq, 2000 * seq + 500, 5));
    ok(make, skew_make_label(make, &(struct skew_make_label){.exchange_id = id,
                                                             .role = "dispatch",
                                                             .step = seq / 2,
                                                             .layer = seq % 2,
                                                             .microbatch = SKEW_MAKE_NONE,
                                                             .token_bytes = 4096,
                                                             .pair_id = SKEW_MAKE_NONE,
                                                             .confidence = 1,
                                                             .source = "synth"}));
    if (rank == 0) {
        const uint64_t counts[4] = {8, 0, 16, 24};
        ok(make, skew_make_routing(make, &(struct skew_make_routing){.exchange_id = id,
                                                                     .step = seq,
                                                                     .layer = 0,
                                                                     .source_rank = 0,
                                                                     .microbatch = SKEW_MAKE_NONE,
                                                                     .request = SKEW_MAKE_NONE,
                                                                     .experts = 4,
                                                                     .topk = 2,
                                                                     .tokens = 24,
                                                                     .counts = counts,
                                                                     .source = "synth"}));
    }
}

static void make_one(void)
{
    const char *argv[] = {"a", "b \"c\""};
    struct skew_make *make;
    char why[700];
    int64_t run, process, comm, member[RANKS];

    assert(skew_make_open(&make, path, &about, why, sizeof why) == 0);
    ok(make, skew_make_run(make, &(struct skew_make_run){.argc = 2, .argv = argv}, &run));
    ok(make, skew_make_run_label(make, run, "model", "m"));
    ok(make, skew_make_comm(make, "00000000000000aa", "init_rank", RANKS, &comm));
    for (int r = 0; r < RANKS; r++) {
        char key[32];
        snprintf(key, sizeof key, "p%d", r);
        ok(make, skew_make_process(make,
                                   &(struct skew_make_process){.run_id = run,
                                                               .key = key,
                                                               .pid = r + 1,
                                                               .world_rank = r,
                                                               .local_rank = r,
                                                               .world_size = RANKS},
                                   &process));
        ok(make, skew_make_process_groups(make, process, EXCHANGES, EXCHANGES, 1));
        ok(make, skew_make_member(make, comm, r, process, r, 0, &member[r]));
        ok(make, skew_make_placement(make, comm, -1, r, r, RANKS - 1 - r));
    }
    for (int seq = 0; seq < EXCHANGES; seq++)
        for (int r = 0; r < RANKS; r++)
            add_exchange(make, member[r], r, seq);
    ok(make, skew_make_loss(make, process, "spool_full", 1, 1, 3));
    ok(make, skew_make_loss_edge(make, member[2], 3, 1, 1, 1));
    ok(make, skew_make_diagnostic(make, run, 0, "info", "synthetic", "made by a test"));
    assert(access(path, F_OK) < 0); /* no name before the end */
    ok(make, skew_make_finish(make));
    skew_make_abandon(&make);
    assert(!make && access(path, F_OK) == 0);
}

static int check_edges(void *seen, const struct skew_exchange *e)
{
    for (uint32_t i = 0; i < e->send->cells; i++)
        assert(e->send->sizes[i] * e->send_unit ==
               bytes_of((int)e->seq, e->member->rank, (int)skew_vector_peer(e->send, i)));
    for (uint32_t i = 0; i < e->recv->cells; i++)
        assert(e->recv->sizes[i] * e->recv_unit ==
               bytes_of((int)e->seq, (int)skew_vector_peer(e->recv, i), e->member->rank));
    ++*(int *)seen;
    return 0;
}

static void expect(sqlite3 *db, const char *sql, const char *value)
{
    sqlite3_stmt *s;
    assert(sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK);
    assert(sqlite3_step(s) == SQLITE_ROW);
    const char *got = (const char *)sqlite3_column_text(s, 0);
    if (!got || strcmp(got, value) != 0)
        fprintf(stderr, "%s: %s instead of %s\n", sql, got ? got : "NULL", value);
    assert(got && strcmp(got, value) == 0);
    sqlite3_finalize(s);
}

static void check_one(void)
{
    struct skew_trace *trace;
    struct skew_error error;
    int seen = 0;

    assert(skew_trace_open(&trace, path, &error) == 0);
    assert(skew_trace_each(trace, NULL, SKEW_ORDER_SEQ, check_edges, &seen, &error) == 0);
    assert(seen == RANKS * EXCHANGES);
    sqlite3 *db = skew_trace_db(trace);
    expect(db, "SELECT value FROM meta WHERE key = 'origin'", "synth");
    expect(db, "SELECT command FROM run", "[\"a\",\"b \\\"c\\\"\"]");
    expect(db, "SELECT bytes FROM edges WHERE seq = 9 AND src_rank = 1 AND dst_rank = 2",
           "73728"); /* (63 + 3 + 2) % 50 = 18 */
    expect(db, "SELECT count(*) FROM exchange_device_time WHERE duration_ns = 500", "1500");
    expect(db, "SELECT tokens FROM routing_cell WHERE expert = 3 LIMIT 1", "24");
    expect(db, "SELECT expert FROM placement WHERE slot = 0", "2");
    expect(db, "SELECT count(*) FROM sqlite_schema WHERE name = 'exchange_by_member'", "1");
    expect(db, "SELECT count(*) FROM exchange_label WHERE microbatch IS NULL AND layer = 1", "750");
    expect(db, "SELECT lost_groups || ' ' || missing_groups FROM coverage WHERE process_id = 3",
           "1 -1");
    expect(db, "SELECT code FROM diagnostic", "synthetic");
    expect(db, "PRAGMA integrity_check", "ok");
    skew_trace_close(&trace);
}

static int files_in_directory(void)
{
    DIR *d = opendir(directory);
    int count = 0;
    for (struct dirent *e; (e = readdir(d));)
        count += e->d_name[0] != '.';
    closedir(d);
    return count;
}

static void refuse(void)
{
    struct skew_make *make;
    char why[700], other[80];

    assert(skew_make_open(&make, path, &about, why, sizeof why) == -EEXIST && !make);
    assert(strstr(why, path) && strstr(why, "is there already"));
    assert(files_in_directory() == 1);
    snprintf(other, sizeof other, "%s/other.db", directory);
    assert(skew_make_open(&make, other, &about, why, sizeof why) == 0);
    skew_make_abandon(&make);
    assert(files_in_directory() == 1);
    /* Somebody takes the name while ours is being made. */
    assert(skew_make_open(&make, other, &about, why, sizeof why) == 0);
    FILE *f = fopen(other, "wx");
    assert(f);
    fclose(f);
    assert(skew_make_finish(make) == -EEXIST);
    skew_make_abandon(&make);
    assert(files_in_directory() == 2);
    unlink(other);
    assert(skew_make_open(&make, "/nonexistent/x.db", &about, why, sizeof why) < 0 && why[0]);
}

int main(void)
{
    assert(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/trace.db", directory);
    make_one();
    check_one();
    refuse();
    unlink(path);
    assert(rmdir(directory) == 0);
    return 0;
}
