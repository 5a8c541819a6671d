/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast the collector stores, and how many bytes it needs.
 *
 * Speed: a spool on tmpfs, filled beforehand, all vectors unique, to committed rows on disk with
 * durability on, on one core; against a bare loop of prepared inserts that stores the same content
 * expanded, a row a cell, with the same pragmas, on the same core right after. Size: the published
 * database, an edge being one send cell.
 *
 * usage: bench_collector [EXCHANGES_OF_8_RANKS [speed8|speed64|training|worst]]     prints numbers
 * and ratios, judges nothing
 */
#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

#include "collect/follow.h"
#include "layout.h"
#include "spool_gen.h"

static char top[256], shm[256];

static uint64_t random64(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void must(int failed, const char *what)
{
    if (!failed)
        return;
    perror(what);
    exit(1);
}

static void remove_tree(const char *path)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    must(system(command), "rm");
}

/* An empty output directory, and the directory in which the collector looks for its spools. */
static void place(const char *name, char *out, size_t out_size, char *spools, size_t spools_size)
{
    snprintf(out, out_size, "%s/%s", top, name);
    must(mkdir(out, 0700), out);
    snprintf(spools, spools_size, "%s/skewscope-%u", shm, (unsigned)geteuid());
    mkdir(spools, 0700);
    size_t length = strlen(spools);
    snprintf(spools + length, spools_size - length, "/%016llx",
             (unsigned long long)skew_hash_string(out));
    must(mkdir(spools, 0700), spools);
}

static void begin_spool(struct gen *g, const char *spools, uint64_t bytes, int ranks, int rank)
{
    struct gen_options options;
    gen_defaults(&options);
    options.seg_bytes = 256 << 10;
    options.seg_cap = (uint32_t)(bytes / (options.seg_bytes - 4096) + 3);
    must(options.seg_cap > SKEW_SPOOL_SEGMENTS, "too many exchanges for one spool");
    gen_open(g, spools, &options);
    gen_comm(g, 1, 0xabc, ranks, rank);
}

static uint32_t group_bytes(int sends, int recvs)
{
    return (uint32_t)(sizeof(struct skew_rec_group) +
                      (size_t)(sends + recvs) * sizeof(struct skew_cell) +
                      sizeof(struct skew_lane));
}

/* One exchange: what is sent to and received from each rank, in elements. */
static void put_exchange(struct gen *g, uint64_t seq, int ranks, const uint64_t *send,
                         const uint64_t *recv, uint64_t scale, uint8_t dtype)
{
    uint32_t bytes = group_bytes(ranks, ranks);
    struct skew_rec_group *rec = gen_reserve(g, 1, bytes, SKEW_REC_GROUP);
    must(!rec, "spool full");
    struct skew_cell *cell = (void *)(rec + 1);
    for (int i = 0; i < ranks; i++) {
        *cell++ = (struct skew_cell){
            .op = SKEW_OP_SEND, .peer = (uint32_t)i, .count = send[i] * scale, .dtype = dtype};
        *cell++ = (struct skew_cell){
            .op = SKEW_OP_RECV, .peer = (uint32_t)i, .count = recv[i] * scale, .dtype = dtype};
    }
    *(struct skew_lane *)(void *)cell =
        (struct skew_lane){.comm = 1, .stream = 7, .exchange_seq = seq, .op_seq = seq};
    rec->call_ns = 100000000000000u + seq * 30000;
    rec->return_ns = rec->call_ns + 15000 + random64() % 10000;
    rec->group = seq;
    rec->cells = 2 * (uint32_t)ranks;
    rec->lanes = 1;
    gen_commit(g, 1, bytes);
    g->head->returned_groups++;
}

static void put_count_exchange(struct gen *g, uint64_t seq, uint64_t count)
{
    uint32_t bytes = group_bytes(1, 0);
    struct skew_rec_group *rec = gen_reserve(g, 1, bytes, SKEW_REC_GROUP);
    must(!rec, "spool full");
    *(struct skew_cell *)(void *)(rec + 1) =
        (struct skew_cell){.op = SKEW_OP_ALLGATHER, .count = count, .dtype = 4};
    *(struct skew_lane *)(void *)((char *)(rec + 1) + sizeof(struct skew_cell)) =
        (struct skew_lane){.comm = 1, .stream = 7, .exchange_seq = seq, .op_seq = seq};
    rec->call_ns = 100000000000000u + seq * 30000;
    rec->return_ns = rec->call_ns + 9000;
    rec->group = seq;
    rec->cells = rec->lanes = 1;
    gen_commit(g, 1, bytes);
    g->head->returned_groups++;
}

static void random_vector(uint64_t *sizes, int ranks, uint64_t below)
{
    for (int i = 0; i < ranks; i++)
        sizes[i] = random64() % below;
}

/* What a clock says on the wall, and what the processor did: on a busy machine only the second is
 * ours. */
struct took {
    double wall, cpu;
};

static struct took now(void)
{
    struct timespec wall, cpu;
    clock_gettime(CLOCK_MONOTONIC, &wall);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (struct took){(double)wall.tv_sec + (double)wall.tv_nsec * 1e-9,
                         (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9};
}

static struct took since(struct took start)
{
    struct took end = now();
    return (struct took){end.wall - start.wall, end.cpu - start.cpu};
}

/* Drains and commits. */
static struct took drain(struct skew_node *c, const char *out)
{
    must(skew_node_init(c, out), out);
    c->messages = stderr;
    must(skew_node_lock(c), "lock");
    c->last_round = true;
    struct took start = now();
    must(skew_node_round(c), "round");
    return since(start);
}

static void exec(sqlite3 *sql, const char *text)
{
    if (sqlite3_exec(sql, text, NULL, NULL, NULL) == SQLITE_OK)
        return;
    fprintf(stderr, "%s: %s\n", text, sqlite3_errmsg(sql));
    exit(1);
}

/* The same exchanges, a row a cell. Values come from the spool itself. */
static struct took bare_loop(const char *path, const struct gen *g, uint32_t batch)
{
    sqlite3 *sql;
    sqlite3_stmt *stmt;
    must(sqlite3_open(path, &sql) != SQLITE_OK, path);
    exec(
        sql,
        "PRAGMA page_size = 8192; PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = TRUNCATE;"
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;"
        "CREATE TABLE cell(exchange_id INTEGER, seq INTEGER, start_ns INTEGER, enqueue_ns INTEGER, "
        "ordinal INTEGER, direction INTEGER, peer INTEGER, bytes INTEGER)");
    must(sqlite3_prepare_v2(sql, "INSERT INTO cell VALUES(?,?,?,?,?,?,?,?)", -1, &stmt, NULL) !=
             SQLITE_OK,
         "prepare");
    struct took start = now();
    uint64_t stored = 0;
    exec(sql, "BEGIN");
    for (uint32_t i = 0; i < g->head->seg_cap; i++) {
        const uint8_t *segment = g->map + g->head->head_bytes + (size_t)i * g->head->seg_bytes;
        const struct skew_seg_head *head = (const void *)segment;
        if (head->magic != SKEW_SEG_MAGIC || head->stream != 1)
            continue;
        for (uint64_t at = sizeof *head; at < head->committed;) {
            const struct skew_rec_group *rec = (const void *)(segment + at);
            const struct skew_cell *cell = (const void *)(rec + 1);
            for (uint32_t j = 0; j < rec->cells; j++) {
                sqlite3_bind_int64(stmt, 1, (int64_t)stored);
                sqlite3_bind_int64(stmt, 2, (int64_t)rec->group);
                sqlite3_bind_int64(stmt, 3, (int64_t)rec->call_ns);
                sqlite3_bind_int64(stmt, 4, (int64_t)(rec->return_ns - rec->call_ns));
                sqlite3_bind_int64(stmt, 5, j);
                sqlite3_bind_int64(stmt, 6, cell[j].op);
                sqlite3_bind_int64(stmt, 7, cell[j].peer);
                sqlite3_bind_int64(stmt, 8, (int64_t)cell[j].count);
                must(sqlite3_step(stmt) != SQLITE_DONE, "insert");
                sqlite3_reset(stmt);
            }
            at += rec->head.bytes;
            if (++stored % batch == 0)
                exec(sql, "COMMIT; BEGIN");
        }
    }
    exec(sql, "COMMIT");
    struct took took = since(start);
    sqlite3_finalize(stmt);
    sqlite3_close(sql);
    return took;
}

static void bench_speed(int ranks, uint64_t exchanges)
{
    char out[320], spools[400], path[400], name[32];
    uint64_t send[64], recv[64];
    struct skew_node c;
    struct gen g;
    snprintf(name, sizeof name, "speed%d", ranks);
    place(name, out, sizeof out, spools, sizeof spools);
    begin_spool(&g, spools, exchanges * group_bytes(ranks, ranks), ranks, 0);
    for (uint64_t i = 0; i < exchanges; i++) {
        random_vector(send, ranks, 4096);
        random_vector(recv, ranks, 4096);
        put_exchange(&g, i, ranks, send, recv, 2880, 9);
    }
    struct took ours = drain(&c, out);
    skew_node_free(&c);
    snprintf(path, sizeof path, "%s/bare.db", out);
    struct took bare = bare_loop(path, &g, (8 << 20) / group_bytes(ranks, ranks));
    double count = (double)exchanges, edges = count * ranks * 1e-6;
    printf("R=%-2d  collector, wall time: %7.0f exchanges/s, %5.2f M edges/s; bare loop: %7.0f, "
           "%5.2f; ratio %.2f\n"
           "      processor time alone: %7.0f exchanges/s, %5.2f M edges/s; bare loop: %7.0f, "
           "%5.2f; ratio %.2f\n",
           ranks, count / ours.wall, edges / ours.wall, count / bare.wall, edges / bare.wall,
           bare.wall / ours.wall, count / ours.cpu, edges / ours.cpu, count / bare.cpu,
           edges / bare.cpu, bare.cpu / ours.cpu);
    fflush(stdout);
    gen_close(&g);
    remove_tree(out);
    remove_tree(spools);
}

/* Publishes and measures the file. */
static uint64_t published(struct skew_node *c)
{
    struct stat st;
    must(skew_node_publish(c), "publish");
    must(stat(c->trace, &st), c->trace);
    skew_node_finish(c);
    skew_node_free(c);
    return (uint64_t)st.st_size;
}

/* Tokens to 64 ranks by a router that prefers some: T tokens, top-k of them. */
static void routed(uint64_t *sizes, int ranks, int tokens)
{
    static double weight[64];
    double sum = 0;
    for (int i = 0; i < ranks; i++)
        sum += weight[i] = 0.3 + (double)(random64() % 1000) / 1000;
    for (int i = 0; i < ranks; i++)
        sizes[i] = (uint64_t)(tokens * weight[i] / sum) + random64() % 16;
}

/* A training step of one rank: per layer and micro-batch a count all-gather, dispatch (tokens,
 * probabilities), combine, and their backward twins, 1F1B-like: a micro-batch's backward comes some
 * others later. */
static void bench_training(void)
{
    enum { RANKS = 64, LAYERS = 24, BATCHES = 16, STEPS = 8 };
    static uint64_t out_tokens[BATCHES][LAYERS][RANKS], in_tokens[BATCHES][LAYERS][RANKS];
    char out[320], spools[400];
    struct skew_node c;
    struct gen g;
    uint64_t seq = 0, edges = 0;
    place("training", out, sizeof out, spools, sizeof spools);
    begin_spool(&g, spools,
                (uint64_t)STEPS * BATCHES * LAYERS * 6 * group_bytes(RANKS, RANKS) + (8 << 20),
                RANKS, 5);
    for (int step = 0; step < STEPS; step++) {
        for (int turn = 0; turn < BATCHES + 4; turn++) {
            for (int layer = 0; turn < BATCHES && layer < LAYERS; layer++) {
                uint64_t *send = out_tokens[turn][layer], *recv = in_tokens[turn][layer];
                routed(send, RANKS, 32768);
                routed(recv, RANKS, 32768);
                put_count_exchange(&g, seq, 256);
                put_exchange(&g, seq++, RANKS, send, recv, 2880, 9);
                put_exchange(&g, seq++, RANKS, send, recv, 1, 7);
                put_exchange(&g, seq++, RANKS, recv, send, 2880, 9);
            }
            for (int layer = LAYERS; turn >= 4 && layer-- > 0;) {
                uint64_t *send = out_tokens[turn - 4][layer], *recv = in_tokens[turn - 4][layer];
                put_exchange(&g, seq++, RANKS, send, recv, 2880, 9);
                put_exchange(&g, seq++, RANKS, recv, send, 1, 7);
                put_exchange(&g, seq++, RANKS, recv, send, 2880, 9);
            }
        }
    }
    edges = seq * RANKS;
    drain(&c, out);
    uint64_t size = published(&c);
    printf("disk  training pattern, 64 ranks: %.2f bytes an edge (%llu exchanges, %.1f MB)   "
           "promised: at most 3\n",
           (double)size / (double)edges, (unsigned long long)seq, (double)size * 1e-6);
    gen_close(&g);
}

static void bench_worst(int ranks, uint64_t exchanges)
{
    char out[320], spools[400], name[32];
    uint64_t send[64], recv[64];
    struct skew_node c;
    struct gen g;
    snprintf(name, sizeof name, "worst%d", ranks);
    place(name, out, sizeof out, spools, sizeof spools);
    begin_spool(&g, spools, exchanges * group_bytes(ranks, ranks), ranks, 0);
    for (uint64_t i = 0; i < exchanges; i++) {
        random_vector(send, ranks, (1ull << 40) + 1);
        random_vector(recv, ranks, (1ull << 40) + 1);
        put_exchange(&g, i, ranks, send, recv, 1, 0);
    }
    drain(&c, out);
    uint64_t size = published(&c);
    double allowed = 16.0 * ranks + 100, each = (double)size / (double)exchanges;
    printf("disk  worst case, %2d ranks: %.1f bytes an exchange, %.2f an edge   promised: at most "
           "%.0f   ratio %.2f\n",
           ranks, each, each / ranks, allowed, each / allowed);
    gen_close(&g);
}

int main(int argc, char **argv)
{
    uint64_t exchanges = argc > 1 ? strtoull(argv[1], NULL, 10) : 400000;
    cpu_set_t one;
    skew_db_one_thread(); /* as the command does */
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    snprintf(top, sizeof top, "%s/skew-bench-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    snprintf(shm, sizeof shm, "/dev/shm/skew-bench-XXXXXX");
    must(!mkdtemp(top), top);
    must(!mkdtemp(shm), shm);
    setenv("SKEWSCOPE_SPOOL", shm, 1);
    const char *only = argc > 2 ? argv[2] : "speed8 speed64 training worst";
    if (strstr(only, "speed8"))
        bench_speed(8, exchanges);
    if (strstr(only, "speed64"))
        bench_speed(64, exchanges / 6);
    if (strstr(only, "training"))
        bench_training();
    if (strstr(only, "worst")) {
        bench_worst(8, exchanges / 4);
        bench_worst(64, exchanges / 16);
    }
    remove_tree(top);
    remove_tree(shm);
    return 0;
}
