/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads one spool file (schema/spool.h) as untrusted input: with pread only, since mapping a
 * foreign file means SIGBUS when it is truncated, and with every number checked before it is used.
 * Knows nothing of SQL. Writes only the 4-byte state FREE of a segment whose content is stored.
 */
#ifndef SKEW_COLLECT_SPOOLFILE_H
#define SKEW_COLLECT_SPOOLFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spool.h"

/* The fixed part of the head, without the segment table. */
#define SKEW_HEAD_FIXED offsetof(struct skew_spool_head, seg)

/* One segment in use, as of the latest snapshot. */
struct skew_seg_view {
    uint32_t index; /* in the segment table */
    uint32_t state; /* SKEW_SEG_ACTIVE or SKEW_SEG_FULL */
    bool complete;  /* nothing more will be committed to it: FULL, or its stream has a later one */
    uint32_t stream;
    uint64_t seq;
    uint64_t committed;
    uint64_t opened_ns;
    uint64_t opened_real_ns;
};

struct skew_spool_file {
    int fd;                      /* read-only: an open for writing would refuse our own lease */
    int write_fd;                /* only while segments are given back, else −1 */
    uint64_t size;               /* of the file */
    uint32_t segments;           /* that may be read: allocated and inside the file */
    struct skew_spool_head head; /* the fixed part is kept up to date; the table is not */
    uint64_t returned;           /* groups that returned in the process */
    struct skew_seg_view *view;  /* sorted by stream, then seq; definitions come first */
    size_t views;
    uint32_t bad_heads; /* segments in use whose head cannot be right */
    uint32_t cut_off;   /* segments behind the end of the file */
};

/**
 * Opens and checks NAME in a directory. Follows no link, refuses a file of another user.
 * @param why  a clause that says what is wrong, on failure
 * @return 0 with the caller owning *out; −EINVAL not a (whole) spool, −ENOTSUP a newer version,
 *         −EXDEV another byte order, −EPERM another owner, or what the system said
 */
int skew_spool_file_open(struct skew_spool_file **out, int dir, const char *name, char *why,
                         size_t why_size);
void skew_spool_file_close(struct skew_spool_file **file);

/** Reads counters, table and `committed` in the order that schema/spool.h asks for. */
int skew_spool_file_snapshot(struct skew_spool_file *file);

/** Reads bytes [from, to) of a segment. @return 0, −EIO when the file is shorter than it was. */
int skew_spool_file_read(struct skew_spool_file *file, const struct skew_seg_view *view,
                         uint64_t from, uint64_t to, void *buffer);

/** Gives a FULL segment back to its process. Only after its content is durable. */
int skew_spool_file_release(struct skew_spool_file *file, const struct skew_seg_view *view);

/** To be called after a row of releases. */
void skew_spool_file_released(struct skew_spool_file *file);

#endif
