/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the collector with spools. An input is a row of steps: the top bit of a step's first byte
 * says that a byte of the file is overwritten (4 bytes where, 1 what), otherwise a record is
 * appended (2 bits stream, 5 bits type, 2 bytes length, body). That way an input stays small and
 * reaches deep; a file of any bytes at all is reached by overwriting the head.
 *
 * With libFuzzer (clang): LLVMFuzzerTestOneInput. Without an engine, main() runs every file named
 * and as many mutations of each as asked for.
 *
 * usage: fuzz_spool [-n MUTATIONS] FILE…        fuzz_spool --from SPOOL > FILE    (makes a seed)
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "collect/proc.h"
#include "spool_gen.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BODY_MAX 4096u

static const uint16_t types[32] = {1, 2, 3, 4, 5, 6, 7, 8, 32, 33, 34, 35, 900, 18, 36};

static char directory[64];
static struct skew_db *db;

static void clean_up(void)
{
    skew_db_close(&db);
    rmdir(directory);
}

static const uint8_t *current; /* the input being run */
static size_t current_size;

static void stop(const char *what, const char *why)
{
    const char *path = getenv("SKEW_FUZZ_FAILED");
    FILE *f = path && current ? fopen(path, "wb") : NULL;
    if (f) {
        fwrite(current, 1, current_size, f);
        fclose(f);
    }
    fprintf(stderr, "fuzz_spool: %s: %s%s\n", what, why,
            f ? "" : " ($SKEW_FUZZ_FAILED names a file for the input)");
    abort();
}

static uint32_t number(const uint8_t **at, const uint8_t *end, int bytes)
{
    uint32_t value = 0;
    for (int i = 0; i < bytes && *at < end; i++)
        value |= (uint32_t) * (*at)++ << (8 * i);
    return value;
}

/* The file that the input stands for. What is overwritten is so at the end: the writer itself is
 * sane. */
static void write_spool(struct gen *g, const uint8_t *data, const uint8_t *end)
{
    for (const uint8_t *at = data; at < end;) {
        uint8_t step = *at++;
        if (step & 0x80) {
            at += end - at < 5 ? end - at : 5;
            continue;
        }
        uint32_t length = number(&at, end, 2) % BODY_MAX, stream = step >> 5;
        uint32_t bytes = (uint32_t)SKEW_ROUND8(sizeof(struct skew_rec) + length);
        uint32_t given = (uint32_t)(end - at) < length ? (uint32_t)(end - at) : length;
        struct skew_rec *rec = gen_reserve(g, stream, bytes, types[step & 31]);
        if (rec) {
            memcpy(rec + 1, at, given);
            gen_commit(g, stream, bytes);
        }
        at += given;
    }
    for (const uint8_t *at = data; at < end;) {
        uint8_t step = *at++;
        if (step & 0x80) {
            uint32_t where = number(&at, end, 4);
            g->map[where % g->map_bytes] = (uint8_t)number(&at, end, 1);
        } else {
            uint32_t length = number(&at, end, 2) % BODY_MAX;
            at += (uint32_t)(end - at) < length ? (uint32_t)(end - at) : length;
        }
    }
}

/* Rows of which each stands for one record. */
static int64_t stored(void)
{
    sqlite3_stmt *stmt;
    int64_t count = -1;
    if (sqlite3_prepare_v2(
            db->sql,
            "SELECT (SELECT count(*) FROM exchange) + (SELECT count(*) FROM operation) + "
            "(SELECT count(*) FROM loss_edge) + (SELECT count(*) FROM graph_launch) + "
            "(SELECT count(*) FROM graph_event)",
            -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_step(stmt) == SQLITE_ROW)
        count = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return count;
}

/* Two collectors in turn, as if the first had died after its commit. */
static void collect(const char *name)
{
    char why[256];
    int dir = open(directory, O_RDONLY | O_DIRECTORY);
    int64_t rows = 0;
    for (int turn = 0; turn < 2; turn++) {
        struct skew_spool_file *file;
        struct skew_proc *proc;
        if (skew_spool_file_open(&file, dir, name, why, sizeof why))
            break;
        if (skew_proc_open(&proc, db, file, dir, name))
            stop("open", db->error);
        proc->gone = true; /* nobody writes it any more: one look decides */
        int64_t first = skew_proc_drain(proc), second = first < 0 ? 0 : skew_proc_drain(proc);
        if (first < 0 || second < 0 || skew_proc_end(proc, "killed") || skew_comm_settle(proc) ||
            skew_db_commit(db))
            stop("drain", db->error);
        if (second != 0)
            stop("drain", "the same records were read twice");
        if (turn && stored() != rows)
            stop("drain", "a later collector stored the same records again");
        rows = stored();
        skew_proc_close(&proc);
    }
    close(dir);
}

/* Whatever came in, the views must be able to read it. */
static void look_at_views(void)
{
    static const char *const queries[] = {
        "SELECT sum(bytes) FROM (SELECT bytes & 0xffffffff AS bytes FROM edges LIMIT 10000)",
        "SELECT count(*) FROM (SELECT * FROM exchange_info LIMIT 10000)",
        "SELECT count(*) FROM coverage",
        "SELECT count(*) FROM callsite_text",
    };
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++)
        if (sqlite3_exec(db->sql, queries[i], NULL, NULL, NULL) != SQLITE_OK)
            stop(queries[i], sqlite3_errmsg(db->sql));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t runs;
    char why[256];
    struct gen_options options;
    struct gen g;
    current = data;
    current_size = size;
    if (!directory[0]) {
        snprintf(directory, sizeof directory, "/dev/shm/skew-fuzz-XXXXXX");
        if (!mkdtemp(directory))
            stop(directory, strerror(errno));
        atexit(clean_up);
    }
    if (runs++ % 256 == 0) {
        skew_db_close(&db);
        if (skew_db_open(&db, ":memory:", why, sizeof why))
            stop("database", why);
    }
    gen_defaults(&options);
    options.seg_bytes = SKEW_SPOOL_SEG_MIN;
    options.seg_cap = 6;
    options.created_ns = runs;
    gen_open(&g, directory, &options);
    write_spool(&g, data, data + size);
    collect(strrchr(g.path, '/') + 1);
    unlink(g.path);
    gen_close(&g);
    if (runs % 64 == 0)
        look_at_views();
    return 0;
}

#ifndef SKEW_FUZZ_ENGINE
static uint64_t random64(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Records of a spool as steps. */
static int make_seed(const char *path)
{
    static uint8_t file[8 << 20];
    FILE *f = fopen(path, "rb");
    size_t size = f ? fread(file, 1, sizeof file, f) : 0;
    const struct skew_spool_head *head = (const void *)file;
    if (f)
        fclose(f);
    for (uint32_t i = 0; size && i < head->seg_cap; i++) {
        const struct skew_seg_head *seg =
            (const void *)(file + head->head_bytes + (size_t)i * head->seg_bytes);
        if (head->seg[i].state < SKEW_SEG_ACTIVE)
            continue;
        for (uint64_t at = sizeof *seg; at < seg->committed;) {
            const struct skew_rec *rec = (const void *)((const uint8_t *)seg + at);
            uint32_t length = rec->bytes - (uint32_t)sizeof *rec;
            uint8_t type = 0;
            while (types[type] != rec->type && type < 12)
                type++;
            uint8_t step[3] = {(uint8_t)((seg->stream & 3) << 5 | type), (uint8_t)length,
                               (uint8_t)(length >> 8)};
            fwrite(step, 1, sizeof step, stdout);
            fwrite(rec + 1, 1, length, stdout);
            at += rec->bytes;
        }
    }
    return size ? 0 : 1;
}

static void mutate(uint8_t *data, size_t *size, size_t room)
{
    for (uint64_t times = 1 + random64() % 6; times; times--) {
        uint64_t r = random64(), where = *size ? random64() % *size : 0;
        switch (r % 7) {
        case 0:
            data[where] = (uint8_t)(r >> 8);
            break;
        case 1:
            data[where] ^= (uint8_t)(1u << ((r >> 8) % 8));
            break;
        case 2: /* an interesting number */
            if (where + 8 <= *size)
                memcpy(data + where,
                       (uint64_t[]){0, ~0ull, 1ull << 31, 1ull << 63, 0x7fffffff, 1 << 20} +
                           (r >> 8) % 6,
                       8);
            break;
        case 3: /* cut off */
            *size -= *size / 4 ? (r >> 8) % (*size / 4) : 0;
            break;
        case 4: /* again */
            if (*size < room / 2 && *size) {
                uint64_t length = (r >> 8) % (*size - where) + 1;
                memmove(data + *size, data + where, length);
                *size += length;
            }
            break;
        case 5: /* overwrite in the head or the table */
            if (*size + 6 < room) {
                uint32_t at =
                    (uint32_t)((r >> 16) %
                               (r & 256 ? 200 : SKEW_SPOOL_HEAD_BYTES + 6 * SKEW_SPOOL_SEG_MIN));
                data[*size] = 0x80;
                memcpy(data + *size + 1, &at, 4);
                data[*size + 5] = (uint8_t)(r >> 8);
                *size += 6;
            }
            break;
        default: /* … or in what the segments hold */
            if (*size + 6 < room) {
                uint32_t at = (uint32_t)(SKEW_SPOOL_HEAD_BYTES +
                                         ((r >> 16) % 6) * SKEW_SPOOL_SEG_MIN + (r >> 40) % 600);
                data[*size] = 0x80;
                memcpy(data + *size + 1, &at, 4);
                data[*size + 5] = (uint8_t)(r >> 8);
                *size += 6;
            }
        }
    }
}

int main(int argc, char **argv)
{
    static uint8_t seed[1 << 20], input[1 << 20];
    long mutations = 0, total = 0;
    if (argc == 3 && strcmp(argv[1], "--from") == 0)
        return make_seed(argv[2]);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
            mutations = strtol(argv[++i], NULL, 10);
            continue;
        }
        FILE *f = fopen(argv[i], "rb");
        if (!f)
            stop(argv[i], strerror(errno));
        size_t size = fread(seed, 1, sizeof seed / 4, f);
        fclose(f);
        LLVMFuzzerTestOneInput(seed, size);
        for (long n = 0; n < mutations; n++) {
            size_t mutated = size;
            memcpy(input, seed, size);
            mutate(input, &mutated, sizeof input);
            LLVMFuzzerTestOneInput(input, mutated);
        }
        total += mutations + 1;
    }
    printf("%ld inputs, no failure\n", total);
    return 0;
}
#endif
