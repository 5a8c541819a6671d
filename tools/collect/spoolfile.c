/* SPDX-License-Identifier: Apache-2.0 */
/* See spoolfile.h. */
#include "spoolfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEG_MAX  (64u << 20)
#define HEAD_MAX (1u << 20)

static int read_at(int fd, void *buffer, size_t size, uint64_t offset)
{
    char *to = buffer;
    while (size) {
        ssize_t got = pread(fd, to, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return -EIO;
        to += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return 0;
}

static int complain(char *why, size_t size, int error, const char *text)
{
    snprintf(why, size, "%s", text);
    return error;
}

/* Everything of the head that readers rely on, and that never changes. */
static int check_head(const struct skew_spool_head *head, uint64_t size, char *why, size_t why_size)
{
    if (memcmp(head->magic, SKEW_SPOOL_MAGIC, sizeof head->magic) != 0)
        return complain(why, why_size, -EINVAL, "it is not a spool file");
    if (head->byte_order != SKEW_SPOOL_BYTE_ORDER)
        return complain(why, why_size, -EXDEV,
                        "it was written by a machine of another byte order; collect it there");
    if (head->version != SKEW_SPOOL_VERSION) {
        snprintf(why, why_size,
                 "it has format version %u and this skewscope reads %u; collect it with the "
                 "skewscope that wrote it",
                 head->version, SKEW_SPOOL_VERSION);
        return -ENOTSUP;
    }
    if (head->head_bytes < sizeof *head || head->head_bytes > HEAD_MAX ||
        head->seg_bytes < SKEW_SPOOL_SEG_MIN || head->seg_bytes > SEG_MAX || head->seg_bytes % 8 ||
        head->head_bytes % 8 || head->seg_cap > SKEW_SPOOL_SEGMENTS)
        return complain(why, why_size, -EINVAL, "its head has impossible sizes, it is corrupt");
    if (!memchr(head->run_id, 0, sizeof head->run_id))
        return complain(why, why_size, -EINVAL, "its head has no valid run id, it is corrupt");
    if (size < head->head_bytes)
        return complain(why, why_size, -EINVAL, "it ends within its head, it was truncated");
    return 0;
}

int skew_spool_file_open(struct skew_spool_file **out, int dir, const char *name, char *why,
                         size_t why_size)
{
    int error = 0;
    struct stat st;
    struct skew_spool_file *file = calloc(1, sizeof *file);
    if (!file)
        return complain(why, why_size, -ENOMEM, "there is no memory");
    file->write_fd = -1;
    file->fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file->fd < 0 || fstat(file->fd, &st) < 0) {
        error = complain(why, why_size, -errno,
                         errno == ELOOP ? "it is a symbolic link" : strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        error = complain(why, why_size, -EINVAL, "it is not a regular file");
        goto out;
    }
    if (st.st_uid != geteuid()) {
        snprintf(why, why_size, "it belongs to user %u; collect it as that user",
                 (unsigned)st.st_uid);
        error = -EPERM;
        goto out;
    }
    file->size = (uint64_t)st.st_size;
    if (file->size < sizeof file->head.magic ||
        read_at(file->fd, &file->head, file->size < SKEW_HEAD_FIXED ? file->size : SKEW_HEAD_FIXED,
                0)) {
        error = complain(why, why_size, -EINVAL, "it is too short to be a spool file");
        goto out;
    }
    error = check_head(&file->head, file->size, why, why_size);
out:
    if (error)
        skew_spool_file_close(&file);
    *out = file;
    return error;
}

void skew_spool_file_close(struct skew_spool_file **file)
{
    if (!*file)
        return;
    skew_spool_file_released(*file);
    if ((*file)->fd >= 0)
        close((*file)->fd);
    free((*file)->view);
    free(*file);
    *file = NULL;
}

static int by_stream_and_seq(const void *left, const void *right)
{
    const struct skew_seg_view *a = left, *b = right;
    if (a->stream != b->stream)
        return a->stream < b->stream ? -1 : 1;
    if (a->seq != b->seq)
        return a->seq < b->seq ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Adds the used segments of data streams, or of the stream of definitions, as they are now. */
static int add_views(struct skew_spool_file *file, bool definitions)
{
    const struct skew_spool_head *head = &file->head;
    int error = read_at(file->fd, (char *)&file->head + SKEW_HEAD_FIXED,
                        file->segments * sizeof head->seg[0], SKEW_HEAD_FIXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* ACTIVE was stored after the segment's head */
    for (uint32_t i = 0; !error && i < file->segments; i++) {
        struct skew_seg_entry entry = head->seg[i];
        if (entry.state != SKEW_SEG_ACTIVE && entry.state != SKEW_SEG_FULL)
            continue;
        if ((entry.stream == SKEW_STREAM_DEFS) != definitions)
            continue;
        struct skew_seg_head seg;
        error =
            read_at(file->fd, &seg, sizeof seg, head->head_bytes + (uint64_t)i * head->seg_bytes);
        if (error)
            break;
        /* A writer fills the head before it says ACTIVE, so this is damage, not a race. */
        if (seg.magic != SKEW_SEG_MAGIC || seg.stream != entry.stream ||
            seg.committed > head->seg_bytes || seg.committed < sizeof seg || seg.committed % 8 ||
            seg.seq > INT64_MAX - 1) {
            file->bad_heads++;
            continue;
        }
        file->view[file->views++] = (struct skew_seg_view){.index = i,
                                                           .state = entry.state,
                                                           .complete = entry.state == SKEW_SEG_FULL,
                                                           .stream = entry.stream,
                                                           .seq = seg.seq,
                                                           .committed = seg.committed,
                                                           .opened_ns = seg.opened_ns,
                                                           .opened_real_ns = seg.opened_real_ns};
    }
    return error;
}

/* Groups counted in the segments, those of earlier owners included: FREE ones have counts too.
 * Before anything else is read, so that what is counted is also there. */
static int add_returned(struct skew_spool_file *file)
{
    const struct skew_spool_head *head = &file->head;
    int error = 0;
    file->returned = head->returned_groups;
    for (uint32_t i = 0; !error && i < file->segments; i++) {
        struct skew_seg_head seg;
        error =
            read_at(file->fd, &seg, sizeof seg, head->head_bytes + (uint64_t)i * head->seg_bytes);
        if (!error && seg.magic == SKEW_SEG_MAGIC)
            file->returned += seg.returned;
    }
    return error;
}

/*
 * A writer takes its next segment before it seals the one before, and may be killed or looked at in
 * between. It commits nothing more to the earlier one then, and the table, which says so, was read
 * before `committed` was.
 */
static void complete_superseded(struct skew_spool_file *file)
{
    for (size_t i = 0; i + 1 < file->views; i++)
        if (file->view[i].stream == file->view[i + 1].stream &&
            file->view[i].seq < file->view[i + 1].seq)
            file->view[i].complete = true;
}

int skew_spool_file_snapshot(struct skew_spool_file *file)
{
    struct stat st;
    struct skew_spool_head *head = &file->head;
    uint64_t fixed = offsetof(struct skew_spool_head, seg_allocated);
    /* What identifies the process was checked at the start and is not read again. The size comes
     * after the number: a file that grows in between must not look cut off. */
    int error = read_at(file->fd, &head->seg_allocated, sizeof head->seg_allocated, fixed);
    if (!error && fstat(file->fd, &st) < 0)
        error = -errno;
    if (!error)
        error = read_at(file->fd, &head->state,
                        SKEW_HEAD_FIXED - offsetof(struct skew_spool_head, state),
                        offsetof(struct skew_spool_head, state));
    if (error)
        return error;
    file->size = (uint64_t)st.st_size;
    uint64_t fit =
        file->size > head->head_bytes ? (file->size - head->head_bytes) / head->seg_bytes : 0;
    uint32_t allocated = head->seg_allocated < head->seg_cap ? head->seg_allocated : head->seg_cap;
    file->segments = fit < allocated ? (uint32_t)fit : allocated;
    file->views = 0;
    file->cut_off = allocated - file->segments;
    file->bad_heads = 0;
    if (file->segments) {
        free(file->view);
        file->view = malloc(file->segments * 2 * sizeof *file->view);
        if (!file->view)
            return -ENOMEM;
    }
    error = add_returned(file);
    if (!error)
        error = add_views(file, false);
    if (!error)
        error = add_views(file, true);
    if (!error && file->views)
        qsort(file->view, file->views, sizeof *file->view, by_stream_and_seq);
    if (!error)
        complete_superseded(file);
    return error;
}

int skew_spool_file_read(struct skew_spool_file *file, const struct skew_seg_view *view,
                         uint64_t from, uint64_t to, void *buffer)
{
    if (from > to || to > file->head.seg_bytes)
        return -EINVAL;
    return read_at(file->fd, buffer, to - from,
                   file->head.head_bytes + (uint64_t)view->index * file->head.seg_bytes + from);
}

int skew_spool_file_release(struct skew_spool_file *file, const struct skew_seg_view *view)
{
    uint32_t state = SKEW_SEG_FREE;
    char path[64];
    off_t at = (off_t)(SKEW_HEAD_FIXED + view->index * sizeof(struct skew_seg_entry) +
                       offsetof(struct skew_seg_entry, state));
    if (file->write_fd < 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d",
                 file->fd); /* the very file that was checked */
        file->write_fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (file->write_fd < 0)
            return -errno;
    }
    return pwrite(file->write_fd, &state, sizeof state, at) == sizeof state ? 0 : -EIO;
}

void skew_spool_file_released(struct skew_spool_file *file)
{
    if (file->write_fd >= 0)
        close(file->write_fd);
    file->write_fd = -1;
}
