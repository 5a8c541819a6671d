/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Call sites. The cheap key is the return address of the NCCL call and its frame; only a key that
 * this thread's cache does not hold comes here, and only a new stack is written. Application
 * thread, under no lock but those taken here.
 */
#include <errno.h>
#include <string.h>

#include "hot.h"

/* Frames from the caller of NCCL outwards. At least the caller itself. @return false: try again
 * next time. */
static bool walk(struct skew_process *proc, uintptr_t address, void **frames, int *count)
{
    void *all[SKEW_FRAMES_MAX + 8];
    int n = skew_unwind(proc, all, SKEW_FRAMES_MAX + 8);
    int from = 0;
    while (from < n && (uintptr_t)all[from] != address)
        from++;
    *count = 0;
    for (; from < n && *count < SKEW_FRAMES_MAX; from++)
        frames[(*count)++] = all[from];
    if (!*count)
        frames[(*count)++] = (void *)address;
    return n >= 0;
}

/* The number of this stack; written to the trace if it is a new one. Hold the lock. */
static uint32_t intern(struct skew_process *proc, void **frames, int count)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (int i = 0; i < count; i++)
        hash = (hash ^ (uintptr_t)frames[i]) * 0x100000001b3u;
    hash |= 1;
    uint32_t i = (uint32_t)(hash >> 32) % (2 * SKEW_SITES_MAX);
    while (proc->site_hash[i] && proc->site_hash[i] != hash)
        i = (i + 1) % (2 * SKEW_SITES_MAX);
    if (proc->site_hash[i])
        return proc->site_id[i];
    struct skew_rec_site rec = {
        .head = {.type = SKEW_REC_SITE}, .site = proc->sites + 1, .frames = (uint32_t)count};
    if (proc->sites >= SKEW_SITES_MAX ||
        skew_defs_put(proc, &rec.head, sizeof(rec), frames, (size_t)count * sizeof(*frames)) != 0)
        return 0;
    proc->site_hash[i] = hash;
    proc->site_id[i] = ++proc->sites;
    return proc->sites;
}

SKEW_COLD uint32_t skew_site_slow(struct skew_thread *thread, struct skew_site_key *entry,
                                  uintptr_t address, uintptr_t frame)
{
    struct skew_process *proc = skew_proc;
    void *frames[SKEW_FRAMES_MAX];
    (void)thread;
    int saved = errno, count;
    bool final = walk(proc, address, frames, &count);
    skew_modules_update(proc);
    skew_lock(proc);
    uint32_t site = intern(proc, frames, count);
    skew_unlock(proc);
    if (final)
        *entry = (struct skew_site_key){address, frame, site};
    errno = saved;
    return site;
}

/* ---- loaded objects ------------------------------------------------------------------------ */

static uint32_t read_build_id(const struct dl_phdr_info *info, uint8_t id[20])
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_NOTE)
            continue;
        const uint8_t *at = (const uint8_t *)(info->dlpi_addr + ph->p_vaddr),
                      *end = at + ph->p_memsz;
        while (at + sizeof(ElfW(Nhdr)) <= end) {
            const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)at;
            const uint8_t *name = at + sizeof(*note), *desc = name + ((note->n_namesz + 3u) & ~3u);
            if (desc + note->n_descsz > end)
                break;
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
                memcmp(name, "GNU", 4) == 0) {
                uint32_t bytes = note->n_descsz < 20 ? note->n_descsz : 20;
                memcpy(id, desc, bytes);
                return bytes;
            }
            at = desc + ((note->n_descsz + 3u) & ~3u);
        }
    }
    return 0;
}

struct module_walk {
    struct skew_process *proc;
    unsigned long long added; /* objects loaded so far, as the loader counts */
    bool failed;
};

static int put_module(struct dl_phdr_info *info, size_t size, void *user)
{
    struct module_walk *walk = user;
    const char *path = info->dlpi_name && *info->dlpi_name ? info->dlpi_name : "/proc/self/exe";
    struct skew_rec_module rec = {.head = {.type = SKEW_REC_MODULE}, .base = info->dlpi_addr};
    if (size < offsetof(struct dl_phdr_info, dlpi_subs) ||
        walk->proc->modules_added == info->dlpi_adds)
        return 1; /* nothing new since the last time */
    walk->added = info->dlpi_adds;
    rec.start = UINT64_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_LOAD)
            continue;
        uint64_t start = info->dlpi_addr + ph->p_vaddr;
        rec.start = start < rec.start ? start : rec.start;
        rec.end = start + ph->p_memsz > rec.end ? start + ph->p_memsz : rec.end;
    }
    rec.build_id_bytes = read_build_id(info, rec.build_id);
    rec.length = (uint32_t)strlen(path);
    walk->failed |= skew_defs_put(walk->proc, &rec.head, sizeof(rec), path, rec.length) != 0;
    return 0;
}

/** Writes all loaded objects if some were loaded since the last time. The reader drops repeats. */
void skew_modules_update(struct skew_process *proc)
{
    struct module_walk walk = {.proc = proc};
    skew_lock(proc);
    skew_loader_iterate(put_module, &walk);
    if (walk.added && !walk.failed)
        proc->modules_added = walk.added;
    skew_unlock(proc);
}
