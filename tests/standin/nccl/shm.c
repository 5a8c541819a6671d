/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The segment that the ranks of one communicator share: slots, doorbells, and a ring for each
 * (kind, sender, receiver), whose pages are allocated when the sender first uses it. A ring has one
 * writer and one reader, so positions are plain counters. A rank's liveness is an OFD lock on one
 * byte of the file: the kernel drops it with the process, also for one killed and not yet reaped.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "standin.h"

#define MAGIC  0x6c63636e2d776b73ULL
#define LAYOUT 1
#define PAGE   4096

#define STALE_SECONDS 300

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static size_t default_stride(int nranks)
{
    size_t wanted = sn_options()->ring_bytes;

    if (!wanted) {
        /* 64 KiB for few ranks; many ranks have more rings and get smaller ones */
        wanted = (size_t)32 * 1024 * 1024 / ((size_t)nranks * (size_t)nranks);
        wanted = wanted > 65536 ? 65536 : wanted;
    }
    return round_up(wanted < 2 * PAGE ? 2 * PAGE : wanted, PAGE);
}

static void segment_path(char *path, size_t size, const char *dir, struct sn_id id)
{
    snprintf(path, size, "%s/skewscope-standin-nccl.%u.%016llx%016llx", dir, (unsigned)getuid(),
             (unsigned long long)id.a, (unsigned long long)id.b);
}

static int map(struct sn_segment *seg, size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, seg->fd, 0);

    if (base == MAP_FAILED)
        return -errno;
    seg->head = base;
    return 0;
}

/* Creates the file in one directory, with room for its head and, if all goes well, its rings. */
static int create_in(struct sn_segment *seg, const char *dir, struct sn_id id, size_t head_bytes,
                     size_t total_bytes)
{
    struct statvfs fs;

    if (statvfs(dir, &fs) != 0)
        return -errno;
    if ((double)fs.f_bavail * (double)fs.f_frsize < (double)total_bytes)
        return -ENOSPC;
    segment_path(seg->path, sizeof(seg->path), dir, id);
    seg->fd = open(seg->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (seg->fd < 0)
        return -errno;
    int error = posix_fallocate(seg->fd, 0, (off_t)head_bytes);
    if (!error && ftruncate(seg->fd, (off_t)total_bytes) != 0)
        error = errno;
    if (error) {
        unlink(seg->path);
        close(seg->fd);
        seg->fd = -1;
    }
    return -error;
}

/*
 * Removes what killed jobs left: files of ours that nobody has locked and that are older than any
 * rank needs to lock its file after making it.
 */
static void sweep(void)
{
    const char *dir = sn_options()->shm_dir;
    char prefix[64], path[512];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat st;
    DIR *d = opendir(dir);

    snprintf(prefix, sizeof(prefix), "skewscope-standin-nccl.%u.", (unsigned)getuid());
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strncmp(e->d_name, prefix, strlen(prefix)) != 0 ||
            snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) >= (int)sizeof(path))
            continue;
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            continue;
        if (fstat(fd, &st) == 0 && time(NULL) - st.st_ctime > STALE_SECONDS &&
            fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK)
            unlink(path);
        lock.l_type = F_WRLCK;
        close(fd);
    }
    if (d)
        closedir(d);
}

int sn_segment_create(struct sn_segment *seg, struct sn_id id, int nranks)
{
    size_t n = (size_t)nranks, stride = default_stride(nranks);
    size_t ready_at = sizeof(struct sn_segment_head) + n * sizeof(struct sn_slot);
    size_t rings_at = round_up(ready_at + SN_RING_KINDS * n * n, PAGE);
    size_t total = rings_at + SN_RING_KINDS * n * n * stride;
    static pthread_once_t swept = PTHREAD_ONCE_INIT;

    pthread_once(&swept, sweep);
    int error = create_in(seg, sn_options()->shm_dir, id, rings_at, total);
    if (error && error != -EEXIST)
        error = create_in(seg, sn_options()->tmp_dir, id, rings_at, total);
    if (error)
        return error;
    error = map(seg, total);
    if (error) {
        unlink(seg->path);
        close(seg->fd);
        return error;
    }
    struct sn_segment_head *head = seg->head;
    head->layout = LAYOUT;
    head->nranks = (uint32_t)nranks;
    head->ring_stride = stride;
    head->rings_at = rings_at;
    head->ready_at = ready_at;
    head->total_bytes = total;
    seg->nranks = nranks;
    seg->ready = (_Atomic uint8_t *)((char *)head + ready_at);
    atomic_store_explicit(&head->magic, MAGIC, memory_order_release);
    return 0;
}

static int open_in(struct sn_segment *seg, const char *dir, struct sn_id id, int nranks)
{
    struct stat st;

    segment_path(seg->path, sizeof(seg->path), dir, id);
    seg->fd = open(seg->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (seg->fd < 0)
        return -errno;
    int error = fstat(seg->fd, &st) == 0 ? 0 : -errno;
    if (!error && (size_t)st.st_size < sizeof(struct sn_segment_head))
        error = -ENOENT; /* rank 0 is still making it */
    if (!error)
        error = map(seg, (size_t)st.st_size);
    if (!error) {
        struct sn_segment_head *head = seg->head;
        if (atomic_load_explicit(&head->magic, memory_order_acquire) != MAGIC)
            error = -ENOENT;
        else if (head->layout != LAYOUT)
            error = -EPROTO;
        else if (head->total_bytes != (uint64_t)st.st_size)
            error = -ENOENT; /* it grew since fstat() */
        else if (head->nranks != (uint32_t)nranks)
            error = -EINVAL;
        if (error)
            munmap(head, (size_t)st.st_size);
    }
    if (error)
        close(seg->fd);
    return error;
}

int sn_segment_open(struct sn_segment *seg, struct sn_id id, int nranks)
{
    int error = open_in(seg, sn_options()->shm_dir, id, nranks);

    if (error == -ENOENT)
        error = open_in(seg, sn_options()->tmp_dir, id, nranks);
    if (error)
        return error;
    seg->nranks = nranks;
    seg->ready = (_Atomic uint8_t *)((char *)seg->head + seg->head->ready_at);
    return 0;
}

int sn_segment_join(struct sn_segment *seg, int rank)
{
    struct sn_slot *slot = &seg->head->slot[rank];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = rank, .l_len = 1};
    uint32_t empty = SN_SLOT_EMPTY;

    if (fcntl(seg->fd, F_OFD_SETLK, &lock) != 0)
        return errno == EAGAIN || errno == EACCES ? -EEXIST : -errno;
    seg->rank = rank;
    slot->pid = (uint32_t)getpid();
    if (!atomic_compare_exchange_strong(&slot->state, &empty, SN_SLOT_JOINED))
        return -EEXIST;
    if (atomic_fetch_add(&seg->head->joined, 1) + 1 == seg->head->nranks)
        unlink(seg->path);
    for (int r = 0; r < seg->nranks; r++) {
        atomic_fetch_add(&seg->head->slot[r].boot_bell, 1);
        sn_futex_wake(&seg->head->slot[r].boot_bell);
    }
    return 0;
}

void sn_segment_close(struct sn_segment *seg, enum sn_slot_state state)
{
    struct sn_segment_head *head = seg->head;

    if (atomic_load(&head->joined) < head->nranks && seg->rank == 0)
        unlink(seg->path); /* nobody can meet here any more */
    atomic_store(&head->slot[seg->rank].state, state);
    for (int r = 0; r < seg->nranks; r++) {
        sn_bell_ring(seg, r);
        atomic_fetch_add(&head->slot[r].boot_bell, 1);
        sn_futex_wake(&head->slot[r].boot_bell);
    }
    munmap(head, head->total_bytes);
    close(seg->fd); /* and with it goes the lock that says we live */
    seg->head = NULL;
    seg->fd = -1;
}

bool sn_rank_alive(struct sn_segment *seg, int rank)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = rank, .l_len = 1};

    if (rank == seg->rank)
        return true;
    if (atomic_load(&seg->head->slot[rank].state) > SN_SLOT_JOINED)
        return false;
    return fcntl(seg->fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

struct sn_ring *sn_ring_of(struct sn_segment *seg, enum sn_ring_kind kind, int src, int dst,
                           bool create)
{
    size_t n = (size_t)seg->nranks;
    size_t index = ((size_t)kind * n + (size_t)src) * n + (size_t)dst;
    size_t at = seg->head->rings_at + index * seg->head->ring_stride;

    if (!atomic_load_explicit(&seg->ready[index], memory_order_acquire)) {
        if (!create)
            return NULL;
        /* A write to a hole of a full file system is SIGBUS: take the pages first. */
        int error = posix_fallocate(seg->fd, (off_t)at, (off_t)seg->head->ring_stride);
        if (error) {
            errno = error;
            return NULL;
        }
        atomic_store_explicit(&seg->ready[index], 1, memory_order_release);
    }
    return (struct sn_ring *)((char *)seg->head + at);
}

size_t sn_ring_size(const struct sn_segment *seg)
{
    return seg->head->ring_stride - offsetof(struct sn_ring, data);
}

size_t sn_ring_used(struct sn_ring *ring)
{
    return (size_t)(atomic_load_explicit(&ring->head, memory_order_acquire) -
                    atomic_load_explicit(&ring->tail, memory_order_relaxed));
}

size_t sn_ring_write(struct sn_ring *ring, size_t size, const void *from, size_t bytes)
{
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    size_t room = size - (size_t)(head - atomic_load_explicit(&ring->tail, memory_order_acquire));
    size_t n = bytes < room ? bytes : room, at = (size_t)(head % size);
    size_t first = n < size - at ? n : size - at;

    if (n == 0) /* also when there is no room, and of empty messages, whose buffer may be NULL */
        return 0;
    memcpy(ring->data + at, from, first);
    memcpy(ring->data, (const char *)from + first, n - first);
    atomic_store_explicit(&ring->head, head + n, memory_order_release);
    return n;
}

/* to == NULL: throws the bytes away. */
size_t sn_ring_read(struct sn_ring *ring, size_t size, void *to, size_t bytes)
{
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    size_t used = (size_t)(atomic_load_explicit(&ring->head, memory_order_acquire) - tail);
    size_t n = bytes < used ? bytes : used, at = (size_t)(tail % size);
    size_t first = n < size - at ? n : size - at;

    if (to && n) {
        memcpy(to, ring->data + at, first);
        memcpy((char *)to + first, ring->data, n - first);
    }
    atomic_store_explicit(&ring->tail, tail + n, memory_order_release);
    return n;
}

bool sn_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u),
                          .tv_nsec = (long)(ns % 1000000000u)};

    return syscall(SYS_futex, word, FUTEX_WAIT, seen, &ts, NULL, 0) != 0 && errno == ETIMEDOUT;
}

void sn_futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void sn_bell_ring(struct sn_segment *seg, int rank)
{
    struct sn_slot *slot = &seg->head->slot[rank];

    /* Both are sequentially consistent: the sleeper stores `sleeping`, then looks at `bell` again.
     */
    atomic_fetch_add(&slot->bell, 1);
    if (atomic_load(&slot->sleeping))
        sn_futex_wake(&slot->bell);
}
