/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a spool from a script, for tests in Python.
 *
 * usage: spool_script DIR < script       a command a line, NAME key=value …, numbers in C notation
 *
 *   head run= pid= start= pid_ns= mnt_ns= boot=HEX seg_bytes= cap= created=    first, if at all
 *   text WHAT the text …        diag WHAT the text …      (escapes: \0 \n \\ \xHH)
 *   thread stream= tid= name=   comm id= key= ranks= rank= parent= device= kind= flags= color= handle= ns=
 *   comm_end id= how= ns= result=   site id= frames=A,B   module base= start= end= build=HEX path=
 *   graph event= ns= capture= graph= source= exec=
 *   group stream= call= return= group= site= result= lanes=COMM:STREAM:XSEQ:OPSEQ[:FLAGS:CAPTURE],…
 *         cells=OP:PEER:COUNT:DTYPE[:LANE],…         part stream= group= cells=
 *   launch stream= call= exec= cuda=   loss stream= comm= reason= before= exchanges= ops= peers=P:S:R,…
 *   raw stream= type= body=HEX  a record of any type
 *   many stream= comm= from= to= peers= group=    exchanges with seq from … to−1: peer p gets (seq*7+p+1)%1000 int8
 *   counters reason= groups= exchanges= ops= cells=   returned N   seal STREAM   exited NS
 *   poke AT HEX   truncate N    sync (prints "ok")   path (prints it)
 */
#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "spool_gen.h"

#define WORDS 32

static struct gen gen;
static struct gen_options options;
static const char *directory;
static char *word[WORDS];
static int words;

static const char *get(const char *key, const char *otherwise)
{
    size_t length = strlen(key);
    for (int i = 1; i < words; i++)
        if (strncmp(word[i], key, length) == 0 && word[i][length] == '=')
            return word[i] + length + 1;
    return otherwise;
}

static uint64_t num(const char *key, uint64_t otherwise)
{
    const char *text = get(key, NULL);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static size_t hex(const char *text, uint8_t *out, size_t room)
{
    size_t count = 0;
    for (; text && isxdigit((unsigned char)text[0]) && isxdigit((unsigned char)text[1]) && count < room; text += 2) {
        char pair[3] = {text[0], text[1], 0};
        out[count++] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return count;
}

static void started(void)
{
    if (!gen.map)
        gen_open(&gen, directory, &options);
}

static void put(uint32_t stream, const void *record, size_t bytes, const void *extra, size_t extra_bytes)
{
    if (gen_put(&gen, stream, record, bytes, extra, extra_bytes))
        return;
    fprintf(stderr, "spool_script: no segment is left\n");
    exit(3);
}

/* "a:b:c,d:e:f" → numbers, `width` a group, missing ones 0. */
static size_t table(const char *text, uint64_t *out, size_t room, size_t width)
{
    size_t rows = 0;
    while (text && *text && (rows + 1) * width <= room) {
        for (size_t i = 0; i < width; i++)
            out[rows * width + i] = 0;
        for (size_t i = 0; i < width; i++) {
            char *end;
            out[rows * width + i] = strtoull(text, &end, 0);
            text = end;
            if (*text != ':')
                break;
            text++;
        }
        rows++;
        if (*text == ',')
            text++;
    }
    return rows;
}

static void put_group(uint16_t type)
{
    static uint64_t numbers[5 * 300000];
    static struct skew_cell cells[300000];
    static uint8_t extra[sizeof cells + 64 * sizeof(struct skew_lane)];
    struct skew_lane lanes[64] = {0};
    size_t lane_count = table(get("lanes", NULL), numbers, 64 * 6, 6);
    for (size_t i = 0; i < lane_count; i++) {
        uint64_t *n = numbers + i * 6;
        lanes[i] = (struct skew_lane){.comm = (uint32_t)n[0], .stream = n[1], .exchange_seq = n[2], .op_seq = n[3],
                                      .flags = (uint32_t)n[4], .capture = n[5]};
    }
    size_t count = table(get("cells", NULL), numbers, sizeof numbers / sizeof *numbers, 5);
    for (size_t i = 0; i < count; i++) {
        uint64_t *n = numbers + i * 5;
        cells[i] = (struct skew_cell){.op = (uint8_t)n[0], .peer = (uint32_t)n[1], .count = n[2],
                                      .dtype = (uint8_t)n[3], .lane = (uint16_t)n[4]};
    }
    struct skew_rec_group rec = {.head.type = type, .call_ns = num("call", 1000), .return_ns = num("return", 1001),
                                 .group = num("group", 0), .cells = (uint32_t)count, .site = (uint32_t)num("site", 0),
                                 .lanes = (uint16_t)lane_count, .result = (int16_t)num("result", 0)};
    memcpy(extra, cells, count * sizeof *cells);
    memcpy(extra + count * sizeof *cells, lanes, lane_count * sizeof *lanes);
    put((uint32_t)num("stream", 1), &rec, sizeof rec, extra,
        count * sizeof *cells + lane_count * sizeof *lanes);
    if (type == SKEW_REC_GROUP)
        gen.head->returned_groups++;
}

static void put_many(void)
{
    uint32_t stream = (uint32_t)num("stream", 1), peers = (uint32_t)num("peers", 4);
    uint64_t group = num("group", 0);
    for (uint64_t seq = num("from", 0); seq < num("to", 1); seq++) {
        uint32_t bytes = (uint32_t)(sizeof(struct skew_rec_group) + 2 * peers * sizeof(struct skew_cell) +
                                    sizeof(struct skew_lane));
        struct skew_rec_group *rec;
        /* Until a collector gives segments back. */
        for (int i = 0; !(rec = gen_reserve(&gen, stream, bytes, SKEW_REC_GROUP)); i++) {
            if (i > 120 * 1000) {
                fprintf(stderr, "spool_script: the spool stays full\n");
                exit(5);
            }
            usleep(1000);
        }
        struct skew_cell *cell = (void *)(rec + 1);
        for (uint32_t i = 0; i < 2 * peers; i++)
            cell[i] = (struct skew_cell){.op = i & 1 ? SKEW_OP_RECV : SKEW_OP_SEND, .peer = i / 2,
                                         .count = (seq * 7 + i / 2 + 1) % 1000};
        *(struct skew_lane *)(void *)(cell + 2 * peers) =
            (struct skew_lane){.comm = (uint32_t)num("comm", 1), .stream = 7, .exchange_seq = seq};
        rec->call_ns = 1000 * seq;
        rec->return_ns = 1000 * seq + 5;
        rec->group = group++;
        rec->cells = 2 * peers;
        rec->lanes = 1;
        gen_commit(&gen, stream, bytes);
        __atomic_fetch_add(&gen.head->returned_groups, 1, __ATOMIC_RELAXED);
    }
}

static void put_comm(void)
{
    struct skew_rec_comm rec = {
        .head.type = SKEW_REC_COMM, .comm = (uint32_t)num("id", 1), .parent = (uint32_t)num("parent", 0),
        .key = num("key", 0), .handle = num("handle", 0x1000), .created_ns = num("ns", 10),
        .ranks = (int32_t)num("ranks", (uint64_t)-1), .rank = (int32_t)num("rank", (uint64_t)-1),
        .device = (int32_t)num("device", (uint64_t)-1), .color = (int32_t)num("color", 0),
        .kind = (uint16_t)num("kind", 1), .flags = (uint16_t)num("flags", 0)};
    put(SKEW_STREAM_DEFS, &rec, sizeof rec, NULL, 0);
}

static void put_module(void)
{
    const char *path = get("path", "");
    struct skew_rec_module rec = {.head.type = SKEW_REC_MODULE, .base = num("base", 0), .start = num("start", 0),
                                  .end = num("end", 0), .length = (uint32_t)strlen(path)};
    rec.build_id_bytes = (uint32_t)hex(get("build", ""), rec.build_id, sizeof rec.build_id);
    put(SKEW_STREAM_DEFS, &rec, sizeof rec, path, strlen(path));
}

static void put_site(void)
{
    uint64_t frames[256];
    size_t count = table(get("frames", NULL), frames, 256, 1);
    struct skew_rec_site rec = {.head.type = SKEW_REC_SITE, .site = (uint32_t)num("id", 1), .frames = (uint32_t)count};
    put(SKEW_STREAM_DEFS, &rec, sizeof rec, frames, count * sizeof *frames);
}

static void put_loss(void)
{
    uint64_t numbers[3 * 256];
    struct skew_loss_peer peers[256] = {0};
    size_t count = table(get("peers", NULL), numbers, 3 * 256, 3);
    for (size_t i = 0; i < count; i++)
        peers[i] = (struct skew_loss_peer){.peer = (uint32_t)numbers[3 * i], .sends = numbers[3 * i + 1],
                                           .recvs = numbers[3 * i + 2]};
    struct skew_rec_loss rec = {.head.type = SKEW_REC_LOSS, .comm = (uint32_t)num("comm", 1),
                                .reason = (uint32_t)num("reason", 0), .before_seq = num("before", 0),
                                .exchanges = num("exchanges", 1), .ops = num("ops", 0), .peers = (uint32_t)count};
    put((uint32_t)num("stream", 1), &rec, sizeof rec, peers, count * sizeof *peers);
}

static void put_raw(void)
{
    uint8_t body[8192];
    size_t count = hex(get("body", ""), body, sizeof body);
    struct skew_rec rec = {.type = (uint16_t)num("type", 99)};
    put((uint32_t)num("stream", 1), &rec, sizeof rec, body, count);
}

/* What follows the number, with its escapes resolved. */
static void put_text(uint16_t type, char *line)
{
    char *end, *to;
    unsigned long what = strtoul(line, &end, 0);
    char *text = end + (*end == ' ');
    to = text;
    for (char *at = text; *at; at++) {
        if (*at != '\\') {
            *to++ = *at;
        } else if (at[1] == 'x') {
            hex(at + 2, (uint8_t *)to++, 1);
            at += 3;
        } else {
            at++;
            *to++ = *at == '0' ? 0 : *at == 'n' ? '\n' : *at;
        }
    }
    gen_text(&gen, type, (uint32_t)what, 20, text, (size_t)(to - text));
}

static void set_head(void)
{
    options.run_id = strdup(get("run", ""));
    options.pid = (uint32_t)num("pid", options.pid);
    options.start_ticks = num("start", options.start_ticks);
    options.pid_ns = num("pid_ns", options.pid_ns);
    options.mnt_ns = num("mnt_ns", options.mnt_ns);
    options.seg_bytes = (uint32_t)num("seg_bytes", options.seg_bytes);
    options.seg_cap = (uint32_t)num("cap", options.seg_cap);
    options.created_ns = num("created", options.created_ns);
    if (get("boot", NULL))
        hex(get("boot", NULL), options.boot_id, sizeof options.boot_id);
}

static void poke(void)
{
    uint8_t bytes[4096];
    size_t count = hex(word[2], bytes, sizeof bytes);
    if (pwrite(gen.fd, bytes, count, (off_t)strtoull(word[1], NULL, 0)) != (ssize_t)count)
        exit(4);
}

static void record(const char *name)
{
    if (strcmp(name, "thread") == 0) {
        struct skew_rec_thread rec = {.head.type = SKEW_REC_THREAD, .stream = (uint32_t)num("stream", 1),
                                      .tid = (uint32_t)num("tid", 1)};
        snprintf(rec.name, sizeof rec.name, "%s", get("name", ""));
        put(SKEW_STREAM_DEFS, &rec, sizeof rec, NULL, 0);
    } else if (strcmp(name, "comm_end") == 0) {
        struct skew_rec_comm_end rec = {.head.type = SKEW_REC_COMM_END, .comm = (uint32_t)num("id", 1),
                                        .how = (uint32_t)num("how", 2), .ns = num("ns", 99),
                                        .result = (int32_t)num("result", 0)};
        put(SKEW_STREAM_DEFS, &rec, sizeof rec, NULL, 0);
    } else if (strcmp(name, "graph") == 0) {
        struct skew_rec_graph rec = {.head.type = SKEW_REC_GRAPH, .event = (uint32_t)num("event", 1), .ns = num("ns", 1),
                                     .capture = num("capture", 0), .graph = num("graph", 0),
                                     .source = num("source", 0), .exec = num("exec", 0)};
        put(SKEW_STREAM_DEFS, &rec, sizeof rec, NULL, 0);
    } else if (strcmp(name, "launch") == 0) {
        struct skew_rec_launch rec = {.head.type = SKEW_REC_LAUNCH, .call_ns = num("call", 1), .exec = num("exec", 0),
                                      .stream = num("cuda", 0)};
        put((uint32_t)num("stream", 1), &rec, sizeof rec, NULL, 0);
    } else if (strcmp(name, "counters") == 0) {
        gen.head->loss[num("reason", 0)] = (struct skew_loss_count){num("groups", 0), num("exchanges", 0),
                                                                    num("ops", 0), num("cells", 0)};
        gen.head->returned_groups += num("groups", 0);
    } else {
        fprintf(stderr, "spool_script: unknown command %s\n", name);
        exit(2);
    }
}

static void run_line(char *line)
{
    char *rest = strchr(line, ' ');
    if (strncmp(line, "text ", 5) == 0 || strncmp(line, "diag ", 5) == 0) {
        started();
        put_text(line[0] == 't' ? SKEW_REC_PROCESS : SKEW_REC_DIAG, rest + 1);
        return;
    }
    words = 0;
    for (char *save, *w = strtok_r(line, " ", &save); w && words < WORDS; w = strtok_r(NULL, " ", &save))
        word[words++] = w;
    if (!words || word[0][0] == '#')
        return;
    const char *name = word[0];
    if (strcmp(name, "head") == 0) {
        set_head();
        return;
    }
    started();
    if (strcmp(name, "group") == 0 || strcmp(name, "part") == 0)
        put_group(name[0] == 'g' ? SKEW_REC_GROUP : SKEW_REC_GROUP_PART);
    else if (strcmp(name, "many") == 0)
        put_many();
    else if (strcmp(name, "comm") == 0)
        put_comm();
    else if (strcmp(name, "module") == 0)
        put_module();
    else if (strcmp(name, "site") == 0)
        put_site();
    else if (strcmp(name, "loss") == 0)
        put_loss();
    else if (strcmp(name, "raw") == 0)
        put_raw();
    else if (strcmp(name, "returned") == 0)
        gen.head->returned_groups = strtoull(word[1], NULL, 0);
    else if (strcmp(name, "seal") == 0)
        gen_seal(&gen, (uint32_t)strtoul(word[1], NULL, 0));
    else if (strcmp(name, "exited") == 0)
        gen_exit(&gen, strtoull(word[1], NULL, 0));
    else if (strcmp(name, "poke") == 0)
        poke();
    else if (strcmp(name, "truncate") == 0) {
        if (ftruncate(gen.fd, (off_t)strtoull(word[1], NULL, 0)) < 0)
            exit(4);
    } else if (strcmp(name, "sync") == 0)
        puts("ok");
    else if (strcmp(name, "path") == 0)
        puts(gen.path);
    else
        record(name);
}

int main(int argc, char **argv)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    if (argc != 2) {
        fprintf(stderr, "usage: spool_script DIR < script\n");
        return 2;
    }
    directory = argv[1];
    gen_defaults(&options);
    setvbuf(stdout, NULL, _IOLBF, 0);
    while ((length = getline(&line, &room, stdin)) > 0) {
        if (line[length - 1] == '\n')
            line[length - 1] = 0;
        run_line(line);
    }
    started();
    free(line);
    return 0;
}
