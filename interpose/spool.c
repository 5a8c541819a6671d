/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writing side of the spool (layout: schema/spool.h): one file a process, mapped as a whole
 * into a reserved address range, its segments allocated and prefaulted before anyone writes into
 * them.
 *
 * Runs on application threads, off the hot path: when the first communicator is made, and when a
 * thread's segment is full. Recycled segments cost no system call. Nothing here can raise a signal
 * in the host: space is allocated, never sparse (SIGBUS), the file-size limit is asked first
 * (SIGXFSZ), and the file is never truncated.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "internal.h"

#ifndef MADV_DONTFORK
#define MADV_DONTFORK 10
#endif

#define SEGMENTS_AT_START 8u
#define RETRY_NS          1000000000ull
#define NO_SEGMENT        UINT32_MAX

static uint8_t *segment_at(const struct skew_process *proc, uint32_t index)
{
    return proc->base + proc->head->head_bytes + (size_t)index * proc->head->seg_bytes;
}

/* Whether the file may grow to `bytes`: the size limit, and a quarter of what is free or ours
 * already. */
static bool may_grow(int fd, uint64_t have, uint64_t bytes)
{
    struct rlimit limit;
    struct statfs fs;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        bytes > limit.rlim_cur)
        return false;
    if (fstatfs(fd, &fs) != 0)
        return false;
    uint64_t free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    return bytes - have <= free_bytes && bytes <= (free_bytes + have) / 4;
}

/* Allocates file space, maps it at its fixed place and touches each page, so that no later store
 * faults into the file system. @return 0 or −errno; −ENOSPC when there is no room. */
static int map_range(struct skew_process *proc, int fd, uint64_t from, uint64_t bytes)
{
    if (!may_grow(fd, from, from + bytes))
        return -ENOSPC;
    int err = skew_sys_allocate(fd, from, bytes);
    if (err)
        return err == -EFBIG ? -ENOSPC : err;
    /* Other processes grow at the same time and saw the same room: who finds that it was not enough
     * for all gives back what nobody has mapped yet. */
    if (!may_grow(fd, from + bytes, from + bytes) && ftruncate(fd, (off_t)from) == 0)
        return -ENOSPC;
    uint8_t *at = mmap(proc->base + from, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                       (off_t)from);
    if (at == MAP_FAILED) {
        err = -errno;
        /* The reservation must stay whole: put the hole back. */
        mmap(proc->base + from, bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        return err;
    }
    madvise(at, bytes, MADV_DONTFORK);
    for (uint64_t i = 0; i < bytes; i += 4096)
        __atomic_store_n(at + i, 0, __ATOMIC_RELAXED);
    return 0;
}

/* Grows the spool by up to `count` segments, one thread at a time. @return how many were added, or
 * −errno. */
static int grow(struct skew_process *proc, struct skew_spool_head *head, int fd, uint32_t count)
{
    uint32_t have = head->seg_allocated, added = 0;
    int err = 0;
    while (added < count && have + added < head->seg_cap) {
        uint64_t from = head->head_bytes + (uint64_t)(have + added) * head->seg_bytes;
        err = map_range(proc, fd, from, head->seg_bytes);
        if (err)
            break;
        __atomic_store_n(&head->seg[have + added].state, SKEW_SEG_FREE, __ATOMIC_RELEASE);
        added++;
    }
    __atomic_store_n(&head->seg_allocated, have + added, __ATOMIC_RELEASE);
    return added ? (int)added : err;
}

static int grow_by_path(struct skew_process *proc, uint32_t count)
{
    if (__atomic_load_n(&proc->head->seg_allocated, __ATOMIC_RELAXED) >= proc->head->seg_cap)
        return -ENOBUFS;
    if (__atomic_exchange_n(&proc->grow_lock, 1, __ATOMIC_ACQUIRE))
        return -EAGAIN; /* another thread is at it */
    /* O_APPEND: should the application write into a descriptor that it believes closed, then not
     * over the head. */
    int fd = skew_sys_open(proc->spool_path, O_RDWR | O_APPEND | O_NOFOLLOW, 0);
    int added = fd < 0 ? fd : grow(proc, proc->head, fd, count);
    if (fd >= 0)
        skew_sys_close(fd);
    __atomic_store_n(&proc->grow_lock, 0, __ATOMIC_RELEASE);
    return added;
}

static uint32_t loss_of(int err)
{
    switch (-err) {
    case ENOBUFS:
        return SKEW_LOSS_SPOOL_FULL + 1;
    case ENOSPC:
    case EDQUOT:
        return SKEW_LOSS_NO_SPACE + 1;
    default:
        return SKEW_LOSS_IO_ERROR + 1;
    }
}

static size_t file_name(const struct skew_spool_head *id, char *name, size_t bytes)
{
    size_t at = 0;
    for (unsigned i = 0; i < 4; i++)
        at = skew_text_add_number(name, bytes, at, id->boot_id[i], 16, 2);
    at = skew_text_add(name, bytes, at, "-");
    at = skew_text_add_number(name, bytes, at, id->pid_ns, 10, 1);
    at = skew_text_add(name, bytes, at, "-");
    at = skew_text_add_number(name, bytes, at, id->pid, 10, 1);
    at = skew_text_add(name, bytes, at, "-");
    at = skew_text_add_number(name, bytes, at, id->start_ticks, 10, 1);
    at = skew_text_add(name, bytes, at, "-");
    at = skew_text_add_number(name, bytes, at, id->created_ns, 10, 1);
    return skew_text_add(name, bytes, at, SKEW_SPOOL_SUFFIX);
}

static bool is_memory(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == 0x01021994; /* tmpfs */
}

/* Creates and maps the spool in one directory. The head comes before everything else, and the name
 * last, so that a reader never meets half a file. */
static int create_in(struct skew_process *proc, const char *dir, struct skew_spool_head *id)
{
    char name[128], temporary[SKEW_PATH_BYTES];
    file_name(id, name, sizeof(name));
    size_t at = skew_text_add(proc->spool_path, SKEW_PATH_BYTES, 0, dir);
    at = skew_text_add(proc->spool_path, SKEW_PATH_BYTES, at, "/");
    skew_text_add(proc->spool_path, SKEW_PATH_BYTES, at, name);
    at = skew_text_add(temporary, sizeof(temporary), 0, dir);
    at = skew_text_add(temporary, sizeof(temporary), at, "/.tmp-");
    if (skew_text_add(temporary, sizeof(temporary), at, name) + 1 >= sizeof(temporary))
        return -ENAMETOOLONG;

    unlink(temporary); /* ours alone by its name: left by an attempt that failed */
    int fd = skew_sys_open(temporary, O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd;
    int err = skew_path_is_network(fd) ? -EXDEV : 0;
    if (!err)
        err = map_range(proc, fd, 0, id->head_bytes);
    if (!err) {
        *(struct skew_spool_head *)proc->base = *id;
        err = grow(proc, (struct skew_spool_head *)proc->base, fd, SEGMENTS_AT_START);
        proc->spool_small = err < (int)SEGMENTS_AT_START && err < (int)id->seg_cap;
        proc->spool_disk = !is_memory(fd) && !*skew_option_text(SKEW_OPT_SPOOL); /* not by choice */
        /* One for definitions and one for a thread, or it is of no use. */
        if (err >= 0 && err < 2)
            err = -ENOSPC;
        else if (err > 0)
            err = 0;
    }
    if (!err && rename(temporary, proc->spool_path) != 0)
        err = -errno;
    skew_sys_close(fd);
    if (err) {
        unlink(temporary);
        mmap(proc->base, proc->reserved_bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    } else {
        /* Only now: other threads look at it without the lock. */
        __atomic_store_n(&proc->head, (struct skew_spool_head *)proc->base, __ATOMIC_RELEASE);
    }
    return err;
}

static void head_fill(struct skew_process *proc, struct skew_spool_head *id)
{
    memset(id, 0, sizeof(*id));
    memcpy(id->magic, SKEW_SPOOL_MAGIC, sizeof(id->magic));
    id->version = SKEW_SPOOL_VERSION;
    id->byte_order = SKEW_SPOOL_BYTE_ORDER;
    id->head_bytes = SKEW_SPOOL_HEAD_BYTES;
    /* Each segment is mapped by itself: whole pages, which are 64 KiB on some aarch64 hosts. */
    uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
    id->seg_bytes = (uint32_t)proc->option_int[SKEW_OPT_SEGMENT_KB] << 10 & ~(page - 1);
    if (!id->seg_bytes)
        id->seg_bytes = page;
    uint64_t cap = ((uint64_t)proc->option_int[SKEW_OPT_SPOOL_MB] << 20) / id->seg_bytes;
    /* The definitions' segment stands outside the cap: without it nothing can be read. */
    id->seg_cap = (uint32_t)(cap < 1                         ? 2
                             : cap + 1 > SKEW_SPOOL_SEGMENTS ? SKEW_SPOOL_SEGMENTS
                                                             : cap + 1);
    id->state = SKEW_SPOOL_LIVE;
    id->streams = 1;
    skew_describe_identity(id);
}

/* Reserves addresses for the whole spool; for a smaller one where `ulimit -v` leaves less. */
static int reserve(struct skew_process *proc, struct skew_spool_head *id)
{
    while (!proc->base) {
        size_t bytes = id->head_bytes + (size_t)id->seg_cap * id->seg_bytes;
        void *base =
            mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED && (errno != ENOMEM || id->seg_cap <= 2))
            return -errno;
        if (base == MAP_FAILED) {
            id->seg_cap = id->seg_cap < 4 ? 2 : id->seg_cap / 2;
            continue;
        }
        madvise(base, bytes, MADV_DONTFORK);
        proc->base = base;
        proc->reserved_bytes = bytes;
    }
    id->seg_cap = (uint32_t)((proc->reserved_bytes - id->head_bytes) / id->seg_bytes);
    return 0;
}

/* Recording works, but no collector can publish a trace: nothing else could say so. */
static void tell_if_hidden(struct skew_process *proc, int err)
{
    char what[SKEW_PATH_BYTES + 128];
    if (!err || *skew_option_text(SKEW_OPT_RUN_ID))
        return; /* `skewscope run` has tried it too, and says it */
    size_t at = skew_text_add(what, sizeof(what), 0, "the output directory ");
    at = skew_text_add(what, sizeof(what), at, proc->out_dir);
    skew_text_add(what, sizeof(what), at, " cannot be written");
    skew_stderr_line(what, -err,
                     "; what is recorded waits in the spool: make it writable and run `skewscope "
                     "collect` on it");
}

/* Tries the candidate directories in order. @return 0 or the last −errno. */
static int create(struct skew_process *proc)
{
    struct skew_spool_head id;
    char dir[SKEW_PATH_BYTES];
    head_fill(proc, &id);
    int err = reserve(proc, &id);
    if (err)
        return err;
    err = skew_path_out(proc->out_dir, sizeof(proc->out_dir));
    for (unsigned attempt = 0; !err || attempt; attempt++) {
        int found = skew_path_spool_dir(proc, attempt, dir, sizeof(dir));
        if (found == -ENOENT)
            break; /* no more candidates */
        err = found ? found : create_in(proc, dir, &id);
        /* A collector may have removed the empty directory in between: make it again. */
        for (unsigned again = 0; err == -ENOENT && again < 3; again++)
            if (skew_path_spool_dir(proc, attempt, dir, sizeof(dir)) == 0)
                err = create_in(proc, dir, &id);
        if (!err) {
            tell_if_hidden(proc, skew_path_point(proc, dir));
            return 0;
        }
    }
    return err ? err : -ENOENT;
}

/** What is special about the spool, for the trace. Not under the lock. */
void skew_spool_tell(struct skew_process *proc)
{
    char text[SKEW_PATH_BYTES + 256];
    if (proc->spool_disk) {
        size_t at = skew_text_add(text, sizeof(text), 0, "the spool lies on a disk (");
        at = skew_text_add(text, sizeof(text), at, proc->spool_path);
        skew_text_add(text, sizeof(text), at,
                      "), because /dev/shm could not be used: now and then a call takes "
                      "milliseconds longer there");
        skew_diag_once(SKEW_DIAG_SPOOL_DISK, text);
    }
    if (proc->spool_small) {
        size_t at = skew_text_add(text, sizeof(text), 0, "the file system of the spool (");
        at = skew_text_add(text, sizeof(text), at, proc->spool_path);
        skew_text_add(
            text, sizeof(text), at,
            ") has little room, of which a quarter at most is used: exchanges are lost when the "
            "collector is "
            "not fast enough; enlarge /dev/shm (docker run --shm-size), or name another place by "
            "SKEWSCOPE_SPOOL");
        skew_diag_once(SKEW_DIAG_SPOOL_SMALL, text);
    }
}

static void loss_move(struct skew_process *proc)
{
    for (unsigned i = 0; i < SKEW_LOSS_SLOTS; i++) {
        struct skew_loss_count add = proc->unstored[i];
        memset(&proc->unstored[i], 0, sizeof(add));
        if (add.cells)
            skew_loss_add(proc, i, &add);
    }
    __atomic_fetch_add(&proc->head->returned_groups, proc->unstored_returned, __ATOMIC_RELAXED);
    proc->unstored_returned = 0;
}

/**
 * Makes the spool when there is none yet. Hold the lock.
 * @return 0, or the enum skew_loss + 1 by which to count what cannot be stored.
 */
int skew_spool_ensure(struct skew_process *proc, uint64_t now)
{
    if (skew_likely(proc->head != NULL))
        return 0;
    if (now < proc->retry_ns)
        return (int)proc->spool_failures;
    int err = create(proc);
    if (err) {
        proc->retry_ns = now + RETRY_NS;
        proc->spool_failures = loss_of(err);
        skew_stderr_line("no spool can be created, so this process is not recorded", -err,
                         " (set SKEWSCOPE_SPOOL to a writable local directory)");
        return (int)proc->spool_failures;
    }
    loss_move(proc);
    skew_describe_process(proc);
    skew_diag_flush(proc);
    return 0;
}

/* Claims a free segment. @return its index, or NO_SEGMENT. *spare: whether another one is free. */
static uint32_t claim_segment(struct skew_spool_head *head, bool *spare)
{
    uint32_t allocated = __atomic_load_n(&head->seg_allocated, __ATOMIC_ACQUIRE), got = NO_SEGMENT;
    *spare = false;
    for (uint32_t i = 0; i < allocated && !*spare; i++) {
        uint32_t expected = SKEW_SEG_FREE;
        if (__atomic_load_n(&head->seg[i].state, __ATOMIC_ACQUIRE) != SKEW_SEG_FREE)
            continue;
        if (got != NO_SEGMENT)
            *spare = true;
        else if (__atomic_compare_exchange_n(&head->seg[i].state, &expected, SKEW_SEG_CLAIMED,
                                             false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            got = i;
    }
    return got;
}

/* Grows the spool, but not again right after it could not be done. @return segments added, or
 * −errno. */
static int grow_if_due(struct skew_process *proc, uint32_t count)
{
    uint64_t now = skew_now();
    if (now < __atomic_load_n(&proc->retry_ns, __ATOMIC_ACQUIRE))
        return -(int)__atomic_load_n(&proc->grow_failed, __ATOMIC_RELAXED);
    int err = grow_by_path(proc, count);
    if (err < 0 && err != -EAGAIN) {
        __atomic_store_n(&proc->grow_failed, (uint32_t)-err, __ATOMIC_RELAXED);
        __atomic_store_n(&proc->retry_ns, err == -ENOBUFS ? 0 : now + RETRY_NS / 10,
                         __ATOMIC_RELEASE);
    }
    return err;
}

/**
 * A free segment for a stream: a recycled one, or a new one. Keeps one more allocated ahead. Hold
 * no lock. @return 0, or the enum skew_loss + 1 by which to count what cannot be stored.
 */
int skew_segment_acquire(struct skew_process *proc, uint32_t stream, uint64_t seq, uint32_t *index,
                         struct skew_seg_head **seg)
{
    struct skew_spool_head *head = proc->head;
    bool spare;
    uint32_t got = claim_segment(head, &spare);
    while (!spare) {
        int err = grow_if_due(proc, got == NO_SEGMENT ? 2 : 1);
        if (got != NO_SEGMENT)
            break;
        if (err == -EAGAIN)
            sched_yield(); /* another thread grows it */
        else if (err <= 0)
            return (int)loss_of(err);
        got = claim_segment(head, &spare);
        if (got != NO_SEGMENT)
            break;
    }
    struct skew_seg_head *at = (struct skew_seg_head *)segment_at(proc, got);
    head->seg[got].stream = stream;
    at->magic = SKEW_SEG_MAGIC;
    at->stream = stream;
    at->seq = seq;
    at->opened_ns = skew_now();
    at->opened_real_ns = skew_now_real();
    at->committed = sizeof(*at);
    __atomic_store_n(&head->seg[got].state, SKEW_SEG_ACTIVE, __ATOMIC_RELEASE);
    *index = got;
    *seg = at;
    return 0;
}

void skew_segment_seal(struct skew_process *proc, uint32_t index)
{
    __atomic_store_n(&proc->head->seg[index].state, SKEW_SEG_FULL, __ATOMIC_RELEASE);
}

int skew_defs_put(struct skew_process *proc, const struct skew_rec *rec, size_t fixed_bytes,
                  const void *tail, size_t tail_bytes)
{
    size_t bytes = SKEW_ROUND8(fixed_bytes + tail_bytes);
    if (!proc->head || bytes + sizeof(struct skew_seg_head) > proc->head->seg_bytes)
        return -EFBIG;
    if (!proc->defs || proc->defs->committed + bytes > proc->head->seg_bytes) {
        struct skew_seg_head *next;
        uint32_t index;
        int loss = skew_segment_acquire(proc, SKEW_STREAM_DEFS, proc->defs_seq, &index, &next);
        proc->defs_loss = (uint32_t)loss;
        if (loss)
            return -ENOSPC;
        if (proc->defs)
            skew_segment_seal(proc, proc->defs_index);
        proc->defs = next;
        proc->defs_index = index;
        proc->defs_seq++;
    }
    uint8_t *at = (uint8_t *)proc->defs + proc->defs->committed;
    memset(at + bytes - 8, 0, 8);
    memcpy(at, rec, fixed_bytes);
    if (tail_bytes)
        memcpy(at + fixed_bytes, tail, tail_bytes);
    ((struct skew_rec *)at)->bytes = (uint32_t)bytes;
    __atomic_store_n(&proc->defs->committed, proc->defs->committed + bytes, __ATOMIC_RELEASE);
    return 0;
}

void skew_loss_add(struct skew_process *proc, uint32_t reason, const struct skew_loss_count *add)
{
    struct skew_loss_count *to = proc->head ? &proc->head->loss[reason] : &proc->unstored[reason];
    __atomic_fetch_add(&to->groups, add->groups, __ATOMIC_RELAXED);
    __atomic_fetch_add(&to->exchanges, add->exchanges, __ATOMIC_RELAXED);
    __atomic_fetch_add(&to->ops, add->ops, __ATOMIC_RELAXED);
    __atomic_fetch_add(&to->cells, add->cells, __ATOMIC_RELAXED);
}

void skew_returned_add(struct skew_process *proc)
{
    uint64_t *to = proc->head ? &proc->head->returned_groups : &proc->unstored_returned;
    __atomic_fetch_add(to, 1, __ATOMIC_RELAXED);
}
