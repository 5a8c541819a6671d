/* SPDX-License-Identifier: Apache-2.0 */
/* See spool_gen.h. */
#include "spool_gen.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
    perror(what);
    exit(70);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t inode_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

void gen_defaults(struct gen_options *options)
{
    char text[1024] = "";
    *options = (struct gen_options){
        .seg_bytes = 64 << 10, .seg_cap = 64, .pid = (uint32_t)getpid(), .run_id = ""};
    options->pid_ns = inode_of("/proc/self/ns/pid");
    options->mnt_ns = inode_of("/proc/self/ns/mnt");
    options->created_ns = clock_ns(CLOCK_MONOTONIC);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f && fgets(text, sizeof text, f)) {
        unsigned digits = 0;
        for (char *at = text; *at && digits < 32; at++) {
            if (!isxdigit((unsigned char)*at))
                continue;
            unsigned value =
                isdigit((unsigned char)*at) ? *at - '0' : tolower((unsigned char)*at) - 'a' + 10;
            options->boot_id[digits / 2] = (uint8_t)(options->boot_id[digits / 2] << 4 | value);
            digits++;
        }
    }
    if (f)
        fclose(f);
    f = fopen("/proc/self/stat", "r");
    if (f && fgets(text, sizeof text, f)) {
        char *at = strrchr(text, ')');
        for (int i = 0; at && i < 20; i++)
            at = strchr(at + 1, ' ');
        options->start_ticks = at ? strtoull(at, NULL, 10) : 0;
    }
    if (f)
        fclose(f);
}

void gen_open(struct gen *g, const char *dir, const struct gen_options *o)
{
    char name[256];
    int length = 0;
    memset(g, 0, sizeof *g);
    for (int i = 0; i < 4; i++)
        length += sprintf(name + length, "%02x", o->boot_id[i]);
    sprintf(name + length, "-%" PRIu64 "-%u-%" PRIu64 "-%" PRIu64 SKEW_SPOOL_SUFFIX, o->pid_ns,
            o->pid, o->start_ticks, o->created_ns);
    snprintf(g->tmp, sizeof g->tmp, "%s/.tmp-%s", dir, name);
    snprintf(g->path, sizeof g->path, "%s/%s", dir, name);
    g->fd = open(g->tmp, O_RDWR | O_CREAT | O_EXCL, 0600);
    g->map_bytes = SKEW_SPOOL_HEAD_BYTES + (size_t)o->seg_cap * o->seg_bytes;
    if (g->fd < 0 || ftruncate(g->fd, (off_t)g->map_bytes) < 0)
        die(g->tmp);
    g->map = mmap(NULL, g->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
    if (g->map == MAP_FAILED)
        die("mmap");
    struct skew_spool_head *head = g->head = (void *)g->map;
    memcpy(head->magic, SKEW_SPOOL_MAGIC, sizeof head->magic);
    head->version = SKEW_SPOOL_VERSION;
    head->byte_order = SKEW_SPOOL_BYTE_ORDER;
    head->head_bytes = SKEW_SPOOL_HEAD_BYTES;
    head->seg_bytes = o->seg_bytes;
    head->seg_cap = head->seg_allocated = o->seg_cap;
    memcpy(head->boot_id, o->boot_id, sizeof head->boot_id);
    head->pid_ns = o->pid_ns;
    head->mnt_ns = o->mnt_ns;
    head->start_ticks = o->start_ticks;
    head->pid = o->pid;
    head->uid = geteuid();
    snprintf(head->run_id, sizeof head->run_id, "%s", o->run_id);
    head->created_ns = o->created_ns;
    head->created_real_ns = clock_ns(CLOCK_REALTIME);
    head->state = SKEW_SPOOL_LIVE;
    for (uint32_t i = 0; i < o->seg_cap; i++)
        head->seg[i].state = SKEW_SEG_FREE;
    if (rename(g->tmp, g->path) < 0)
        die(g->path);
}

static struct skew_seg_head *seg_of(const struct gen *g, uint32_t index)
{
    return (void *)(g->map + g->head->head_bytes + (size_t)index * g->head->seg_bytes);
}

void gen_seal(struct gen *g, uint32_t stream)
{
    struct gen_stream *s = &g->stream[stream];
    if (s->segment)
        __atomic_store_n(&g->head->seg[s->segment - 1].state, SKEW_SEG_FULL, __ATOMIC_RELEASE);
    s->segment = 0;
}

static bool open_segment(struct gen *g, uint32_t stream)
{
    for (uint32_t i = 0; i < g->head->seg_cap; i++) {
        struct skew_seg_entry *entry = &g->head->seg[i];
        if (__atomic_load_n(&entry->state, __ATOMIC_ACQUIRE) != SKEW_SEG_FREE)
            continue;
        entry->state = SKEW_SEG_CLAIMED;
        struct skew_seg_head *seg = seg_of(g, i);
        seg->magic = SKEW_SEG_MAGIC;
        seg->stream = stream;
        seg->seq = g->stream[stream].seq++;
        seg->committed = sizeof *seg;
        seg->opened_ns = clock_ns(CLOCK_MONOTONIC);
        seg->opened_real_ns = clock_ns(CLOCK_REALTIME);
        entry->stream = stream;
        __atomic_store_n(&entry->state, SKEW_SEG_ACTIVE, __ATOMIC_RELEASE);
        g->stream[stream].segment = i + 1;
        if (stream + 1 > g->head->streams)
            g->head->streams = stream + 1;
        return true;
    }
    return false;
}

void *gen_reserve(struct gen *g, uint32_t stream, uint32_t bytes, uint16_t type)
{
    struct gen_stream *s = &g->stream[stream];
    if (s->segment && seg_of(g, s->segment - 1)->committed + bytes > g->head->seg_bytes)
        gen_seal(g, stream);
    if (!s->segment && !open_segment(g, stream))
        return NULL;
    struct skew_seg_head *seg = seg_of(g, s->segment - 1);
    struct skew_rec *rec = (void *)((uint8_t *)seg + seg->committed);
    memset(rec, 0, bytes);
    rec->bytes = bytes;
    rec->type = type;
    return rec;
}

void gen_commit(struct gen *g, uint32_t stream, uint32_t bytes)
{
    struct skew_seg_head *seg = seg_of(g, g->stream[stream].segment - 1);
    __atomic_store_n(&seg->committed, seg->committed + bytes, __ATOMIC_RELEASE);
}

bool gen_put(struct gen *g, uint32_t stream, const void *record, size_t bytes, const void *extra,
             size_t extra_bytes)
{
    uint32_t total = (uint32_t)SKEW_ROUND8(bytes + extra_bytes);
    struct skew_rec *rec = gen_reserve(g, stream, total, ((const struct skew_rec *)record)->type);
    if (!rec)
        return false;
    memcpy(rec, record, bytes);
    rec->bytes = total;
    if (extra_bytes)
        memcpy((uint8_t *)rec + bytes, extra, extra_bytes);
    gen_commit(g, stream, total);
    return true;
}

void gen_text(struct gen *g, uint16_t type, uint32_t what, uint64_t ns, const char *text,
              size_t length)
{
    struct skew_rec_text rec = {
        .head.type = type, .what = what, .length = (uint32_t)length, .ns = ns};
    gen_put(g, SKEW_STREAM_DEFS, &rec, sizeof rec, text, length);
}

void gen_comm(struct gen *g, uint32_t comm, uint64_t key, int32_t ranks, int32_t rank)
{
    struct skew_rec_comm rec = {.head.type = SKEW_REC_COMM,
                                .comm = comm,
                                .key = key,
                                .handle = 0x1000 + comm,
                                .created_ns = 1,
                                .ranks = ranks,
                                .rank = rank,
                                .device = rank,
                                .kind = SKEW_COMM_INIT_RANK};
    gen_put(g, SKEW_STREAM_DEFS, &rec, sizeof rec, NULL, 0);
}

void gen_exit(struct gen *g, uint64_t ns)
{
    g->head->exit_ns = ns;
    g->head->state = SKEW_SPOOL_EXITED;
}

void gen_close(struct gen *g)
{
    munmap(g->map, g->map_bytes);
    close(g->fd);
    memset(g, 0, sizeof *g);
}
