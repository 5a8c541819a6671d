/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes spools for tests, as a process with libskewscope.so would (schema/spool.h), but with known
 * content. One thread writes all streams. Errors end the program: this is test code.
 */
#ifndef SKEW_SPOOL_GEN_H
#define SKEW_SPOOL_GEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spool.h"

#define GEN_STREAMS 64

struct gen_stream {
    uint32_t segment; /* index + 1; 0: none */
    uint64_t seq;     /* of the next segment */
};

struct gen {
    char path[4096], tmp[4096];
    int fd;
    uint8_t *map;
    size_t map_bytes;
    struct skew_spool_head *head;
    struct gen_stream stream[GEN_STREAMS];
};

struct gen_options {
    uint32_t seg_bytes, seg_cap, pid;
    uint64_t pid_ns, mnt_ns, start_ticks, created_ns;
    uint8_t boot_id[16];
    const char *run_id;
};

/** What a spool of this very process says. */
void gen_defaults(struct gen_options *options);

/** Makes the file in an existing directory and gives it its name. */
void gen_open(struct gen *g, const char *dir, const struct gen_options *options);

/** Appends a record with `extra` bytes behind its structure; pads and fills in head.bytes.
 * @return false when no segment is left */
bool gen_put(struct gen *g, uint32_t stream, const void *record, size_t bytes, const void *extra,
             size_t extra_bytes);

/** Room for a record, zeroed, to be filled in before gen_commit(). NULL: no segment is left. */
void *gen_reserve(struct gen *g, uint32_t stream, uint32_t bytes, uint16_t type);
void gen_commit(struct gen *g, uint32_t stream, uint32_t bytes);

/** Seals a stream's open segment, as an ending thread does. */
void gen_seal(struct gen *g, uint32_t stream);

void gen_text(struct gen *g, uint16_t type, uint32_t what, uint64_t ns, const char *text,
              size_t length);
void gen_comm(struct gen *g, uint32_t comm, uint64_t key, int32_t ranks, int32_t rank);
void gen_exit(struct gen *g, uint64_t ns);
void gen_close(struct gen *g);

#endif
