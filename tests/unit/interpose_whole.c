/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole library on any machine, under qemu-user too: linked in front of an NCCL that does
 * nothing and of libc, as if it had been preloaded. Calls by the loader's binding, by dlsym() of a
 * handle (so the assembly entry), by RTLD_NEXT; then reads its own spool and looks for what it has
 * done.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nccl_decls.h"
#include "spool.h"
#include "must.h"

static char top[] = "/tmp/skewscope-unit-XXXXXX";

static void exchange(ncclComm_t comm, __typeof__(ncclSend) *send, size_t count)
{
    MUST(ncclGroupStart() == ncclSuccess);
    MUST(send(NULL, count, ncclBfloat16, 1, comm, NULL) == ncclSuccess);
    MUST(send(NULL, count + 1, ncclBfloat16, 2, comm, NULL) == ncclSuccess);
    MUST(ncclRecv(NULL, count, ncclFloat8e4m3, 3, comm, (cudaStream_t)64) == ncclSuccess);
    MUST(ncclGroupEnd() == ncclSuccess);
}

static void find_spool(char *path, size_t bytes)
{
    for (int depth = 0; depth < 3; depth++) {
        DIR *dir = opendir(path);
        MUST(dir);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir))
            if (strncmp(e->d_name, "skewscope-", 10) == 0 || strlen(e->d_name) == 16 ||
                strstr(e->d_name, ".spool")) {
                size_t at = strlen(path);
                snprintf(path + at, bytes - at, "/%s", e->d_name);
                break;
            }
        closedir(dir);
    }
    MUST(strstr(path, SKEW_SPOOL_SUFFIX));
}

/* The groups of stream 1, whose cells are sends of `first`, `first` + 1 and a receive, and so on.
 */
static void check_groups(const uint8_t *data, size_t groups, size_t first)
{
    const struct skew_spool_head *head = (const struct skew_spool_head *)data;
    MUST(memcmp(head->magic, SKEW_SPOOL_MAGIC, 8) == 0 && head->version == SKEW_SPOOL_VERSION);
    MUST(head->pid == (uint32_t)getpid());
    size_t found = 0;
    uint64_t returned = 0;
    for (uint32_t i = 0; i < head->seg_allocated; i++) {
        const struct skew_seg_head *seg =
            (const struct skew_seg_head *)(data + head->head_bytes + (size_t)i * head->seg_bytes);
        returned += seg->returned;
        if (head->seg[i].state != SKEW_SEG_ACTIVE || head->seg[i].stream != 1)
            continue;
        for (uint64_t at = sizeof(*seg); at < seg->committed;) {
            const struct skew_rec_group *rec =
                (const struct skew_rec_group *)((const uint8_t *)seg + at);
            const struct skew_cell *cell = (const struct skew_cell *)(rec + 1);
            const struct skew_lane *lane = (const struct skew_lane *)(cell + rec->cells);
            MUST(rec->head.type == SKEW_REC_GROUP && rec->cells == 3 && rec->lanes == 2 &&
                 rec->site);
            MUST(cell[0].count == first + found && cell[0].peer == 1 && cell[0].op == SKEW_OP_SEND);
            MUST(cell[1].count == first + found + 1 && cell[1].peer == 2 &&
                 cell[1].dtype == ncclBfloat16);
            MUST(cell[2].op == SKEW_OP_RECV && cell[2].dtype == ncclFloat8e4m3 &&
                 cell[2].lane == 1);
            MUST(lane[0].exchange_seq == found && lane[1].stream == 64 && lane[0].comm == 1);
            MUST(rec->call_ns && rec->return_ns >= rec->call_ns);
            at += rec->head.bytes;
            found++;
        }
    }
    MUST(found == groups && head->returned_groups + returned == groups);
}

static void check_spool(size_t groups, size_t first)
{
    char path[1024];
    struct stat info;
    snprintf(path, sizeof(path), "%s", top);
    find_spool(path, sizeof(path));
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0 && fstat(fd, &info) == 0);
    const uint8_t *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    MUST(data != MAP_FAILED);
    check_groups(data, groups, first);
    close(fd);
}

int main(int argc, char **argv)
{
    char command[128];
    ncclUniqueId id;
    ncclComm_t comm;
    MUST(argc == 2 && mkdtemp(top));
    setenv("SKEWSCOPE_SPOOL", top, 1);
    setenv("SKEWSCOPE_COLLECTOR", "off", 1);
    snprintf(command, sizeof(command), "%s/out", top);
    setenv("SKEWSCOPE_OUT", command, 1);
    MUST(ncclGetUniqueId(&id) == ncclSuccess);
    MUST(ncclCommInitRank(&comm, 4, id, 0) == ncclSuccess);
    exchange(comm, ncclSend, 100);
    /* A handle: our wrapper, through the entry of dlsym. */
    void *nccl = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    MUST(nccl);
    __typeof__(ncclSend) *send = (__typeof__(ncclSend) *)dlsym(nccl, "ncclSend");
    MUST(send && send == ncclSend && !dlerror());
    exchange(comm, send, 101);
    MUST(!dlsym(nccl, "ncclAllToAllv") && dlerror());
    MUST(!dlsym(RTLD_DEFAULT, "ncclAllToAllv") && strstr(dlerror(), "ncclAllToAllv"));
    /* Everything else goes to the C library with our caller's address: RTLD_NEXT is relative to
     * this program. */
    MUST(dlsym(RTLD_NEXT, "getpid") == dlsym(RTLD_DEFAULT, "getpid"));
    MUST(dlsym(RTLD_NEXT, "ncclSend") == (void *)ncclSend);
    MUST(!dlsym(RTLD_NEXT, "main"));
    for (size_t i = 2; i < 50; i++)
        exchange(comm, ncclSend, 100 + i);
    check_spool(50, 100);
    MUST(ncclCommDestroy(comm) == ncclSuccess);
    snprintf(command, sizeof(command), "rm -rf %s", top);
    return system(command);
}
