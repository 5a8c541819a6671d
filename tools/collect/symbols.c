/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names for call sites, from the files that the target had loaded. A child process does it: such a file may
 * be damaged, huge, on a file system that hangs, or replaced while it is mapped, and none of that may
 * cost the trace. What has no name in time keeps its module and address, which are enough to find it later.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <elfutils/libdwfl.h>

#include "node.h"
#include "utf8.h"

/* A sanitizer's shadow alone is larger than the limit below. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

#define SECONDS      10
#define ANSWER_BYTES (16u << 20)

struct frame {
    int64_t site, depth;
    uint64_t address, base;
    const char *path, *build_id; /* into `texts` of the list */
};

struct frames {
    struct frame *frame;
    size_t count;
    char **texts;
    size_t text_count;
};

/* ---- what to look up -------------------------------------------------------------------------- */

static const char *keep_text(struct frames *list, const char *text)
{
    if (list->text_count && text && strcmp(list->texts[list->text_count - 1], text) == 0)
        return list->texts[list->text_count - 1];
    char **more = realloc(list->texts, (list->text_count + 1) * sizeof *more);
    if (!more)
        return NULL;
    list->texts = more;
    more[list->text_count] = strdup(text ? text : "");
    return more[list->text_count] ? more[list->text_count++] : NULL;
}

static void free_frames(struct frames *list)
{
    for (size_t i = 0; i < list->text_count; i++)
        free(list->texts[i]);
    free(list->texts);
    free(list->frame);
}

/* Sorted, so that frames at the same place of the same file stand together. */
static int load_frames(struct skew_node *c, struct frames *list)
{
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(c->db->sql,
                           "SELECT f.site_id, f.depth, f.address, m.base, m.build_id, m.path FROM frame f "
                           "JOIN module m USING (module_id) WHERE f.symbol IS NULL AND f.site_id > ? "
                           "ORDER BY m.path, m.build_id, f.address - m.base",
                           -1, &stmt, NULL) != SQLITE_OK)
        return -EIO;
    sqlite3_bind_int64(stmt, 1, c->symbolised);
    int error = 0;
    while (!error && sqlite3_step(stmt) == SQLITE_ROW) {
        struct frame *more = realloc(list->frame, (list->count + 1) * sizeof *more);
        if (!more) {
            error = -ENOMEM;
            break;
        }
        list->frame = more;
        more[list->count] = (struct frame){
            .site = sqlite3_column_int64(stmt, 0),
            .depth = sqlite3_column_int64(stmt, 1),
            .address = (uint64_t)sqlite3_column_int64(stmt, 2),
            .base = (uint64_t)sqlite3_column_int64(stmt, 3),
            .build_id = keep_text(list, (const char *)sqlite3_column_text(stmt, 4)),
            .path = keep_text(list, (const char *)sqlite3_column_text(stmt, 5)),
        };
        if (!more[list->count].path || !more[list->count].build_id)
            error = -ENOMEM;
        list->count++;
    }
    sqlite3_finalize(stmt);
    return error;
}

static bool same_file(const struct frame *a, const struct frame *b)
{
    return strcmp(a->path, b->path) == 0 && strcmp(a->build_id, b->build_id) == 0;
}

static bool same_place(const struct frame *a, const struct frame *b)
{
    return a->address - a->base == b->address - b->base && same_file(a, b);
}

/* ---- the child -------------------------------------------------------------------------------- */

static bool same_build(Dwfl_Module *module, const char *build_id)
{
    const unsigned char *bits;
    GElf_Addr where;
    int count = dwfl_module_build_id(module, &bits, &where);
    if (!*build_id)
        return true;
    if (count <= 0 || strlen(build_id) != (size_t)count * 2)
        return false;
    for (int i = 0; i < count; i++) {
        char pair[3];
        snprintf(pair, sizeof pair, "%02x", bits[i]);
        if (memcmp(pair, build_id + 2 * i, 2) != 0)
            return false;
    }
    return true;
}

static void answer(FILE *out, Dwfl_Module *module, const struct frame *frame, size_t number)
{
    GElf_Addr bias;
    GElf_Off offset = 0;
    GElf_Sym symbol;
    Dwarf_Addr at;
    int line = 0;
    const char *file = NULL;
    if (!dwfl_module_getelf(module, &bias))
        return;
    /* The frame is a return address: its call may be the last instruction of a function. */
    at = frame->address - 1 - frame->base + bias;
    const char *name = dwfl_module_addrinfo(module, at, &offset, &symbol, NULL, NULL, NULL);
    Dwfl_Line *source = dwfl_module_getsrc(module, at);
    if (source)
        file = dwfl_lineinfo(source, NULL, &line, NULL, NULL, NULL);
    if (name)
        fprintf(out, "%zu\t%s\t%" PRIu64 "\t%s\t%d\n", number, name, (uint64_t)offset + 1,
                file ? file : "", line);
}

static void look_up(const struct frames *list, int to)
{
    static char *search_path; /* NULL: the usual places for separate debug files */
    static const Dwfl_Callbacks callbacks = {
        .find_elf = dwfl_build_id_find_elf,
        .find_debuginfo = dwfl_standard_find_debuginfo,
        .section_address = dwfl_offline_section_address,
        .debuginfo_path = &search_path,
    };
    struct rlimit memory = {16ull << 30, 16ull << 30}, no_core = {0, 0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!SANITIZED)
        setrlimit(RLIMIT_AS, &memory);
    setrlimit(RLIMIT_CORE, &no_core);
    unsetenv("DEBUGINFOD_URLS"); /* nothing is fetched from a network */
    FILE *out = fdopen(to, "w");
    for (size_t i = 0; out && i < list->count;) {
        const struct frame *first = &list->frame[i];
        struct stat st;
        Dwfl *dwfl = NULL;
        Dwfl_Module *module = NULL;
        if (strncmp(first->path, "/proc/", 6) != 0 && stat(first->path, &st) == 0 && S_ISREG(st.st_mode)) {
            dwfl = dwfl_begin(&callbacks);
            module = dwfl ? dwfl_report_offline(dwfl, "", first->path, -1) : NULL;
            if (module && (dwfl_report_end(dwfl, NULL, NULL) || !same_build(module, first->build_id)))
                module = NULL;
        }
        for (size_t start = i; i < list->count && same_file(&list->frame[i], first); i++)
            if (module && (i == start || !same_place(&list->frame[i], &list->frame[i - 1])))
                answer(out, module, &list->frame[i], i);
        fflush(out); /* what is known so far counts if time runs out */
        if (dwfl)
            dwfl_end(dwfl);
    }
    if (out)
        fclose(out);
}

/* ---- the parent ------------------------------------------------------------------------------- */

/* All that comes before the end or the time limit. @return malloc'd text or NULL */
static char *listen_to(int from)
{
    char *text = NULL;
    size_t used = 0, room = 0;
    uint64_t end = skew_node_now_ns() + SECONDS * 1000000000ull;
    for (;;) {
        uint64_t now = skew_node_now_ns();
        struct pollfd ready = {from, POLLIN, 0};
        if (now >= end || used > ANSWER_BYTES)
            break;
        int event = poll(&ready, 1, (int)((end - now) / 1000000) + 1);
        if (event < 0 && errno == EINTR)
            continue;
        if (event <= 0)
            break;
        if (room - used < 4096) {
            char *more = realloc(text, room = room * 2 + 65536);
            if (!more)
                break;
            text = more;
        }
        ssize_t got = read(from, text + used, room - used - 1);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    if (text)
        text[used] = 0;
    return text;
}

/* Fields of one answer: number, symbol, offset, file, line. @return whether it is whole */
static bool split(char *row, char *field[5])
{
    int count = 1;
    field[0] = row;
    for (char *at = row; *at && count < 5; at++) {
        if (*at != '\t')
            continue;
        *at = 0;
        field[count++] = at + 1;
    }
    return count == 5;
}

/* Every frame at the same place of the same file gets the answer. */
static int fill(struct skew_node *c, const struct frames *list, char *text)
{
    sqlite3_stmt *stmt = c->db->stmt[SKEW_STMT_SYMBOL];
    int error = 0;
    char *save = NULL, *field[5];
    for (char *row = strtok_r(text, "\n", &save); row && !error; row = strtok_r(NULL, "\n", &save)) {
        size_t number = strtoul(row, NULL, 10);
        if (!split(row, field) || number >= list->count)
            continue; /* cut off by the time limit */
        for (size_t i = number; !error && i < list->count && same_place(&list->frame[i], &list->frame[number]); i++) {
            sqlite3_bind_int64(stmt, 1, list->frame[i].site);
            sqlite3_bind_int64(stmt, 2, list->frame[i].depth);
            skew_db_bind_text(stmt, 3, field[1], strlen(field[1]));
            sqlite3_bind_int64(stmt, 4, strtoll(field[2], NULL, 10));
            if (*field[3])
                skew_db_bind_text(stmt, 5, field[3], strlen(field[3]));
            else
                sqlite3_bind_null(stmt, 5);
            if (atoi(field[4]))
                sqlite3_bind_int(stmt, 6, atoi(field[4]));
            else
                sqlite3_bind_null(stmt, 6);
            error = skew_db_run(c->db, stmt);
        }
    }
    return error;
}

static char *ask_child(struct skew_node *c, const struct frames *list)
{
    int ends[2];
    char *text = NULL;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return NULL;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        if (c->lock >= 0)
            close(c->lock); /* the lock must not outlive the collector */
        look_up(list, ends[1]);
        _exit(0);
    }
    close(ends[1]);
    if (child > 0) {
        text = listen_to(ends[0]);
        kill(child, SIGKILL);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    close(ends[0]);
    return text;
}

void skew_symbolise(struct skew_node *c)
{
    struct frames list = {0};
    sqlite3_stmt *stmt;
    int64_t last = c->symbolised;
    char *text = NULL;
    if (sqlite3_prepare_v2(c->db->sql, "SELECT max(site_id) FROM callsite", -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_step(stmt) == SQLITE_ROW)
        last = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    if (last > c->symbolised && !load_frames(c, &list) && list.count)
        text = ask_child(c, &list);
    if (text && !skew_db_begin(c->db)) {
        if (fill(c, &list, text))
            skew_node_say(c, "info", NULL, "Symbols could not be stored: %s.", c->db->error);
        skew_db_commit(c->db);
    }
    c->symbolised = last; /* files do not get better by asking again */
    free(text);
    free_frames(&list);
}
