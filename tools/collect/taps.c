/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of count exchanges become rows of `tap`, packed into as few bytes an element as the
 * largest needs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_abi.h"
#include "proc.h"

static const char *const shape_names[SKEW_TAP_SHAPES] = {NULL,
#define X(id, name) name,
                                                         SKEW_TAP_SHAPE_LIST(X)
#undef X
};
static const char *const side_names[SKEW_TAP_SIDES] = {NULL,
#define X(id, name) name,
                                                       SKEW_TAP_SIDE_LIST(X)
#undef X
};
static const char *const count_names[SKEW_TAP_COUNTS] = {
#define X(id, name, text) name,
    SKEW_TAP_COUNT_LIST(X)
#undef X
};

/* An element as a whole number; negative: it is none. */
static int64_t value_at(const void *values, uint32_t index, int dtype)
{
    float value;
    switch (dtype) {
    case ncclUint8:
        return ((const uint8_t *)values)[index];
    case ncclInt32:
        return ((const int32_t *)values)[index];
    case ncclInt64:
        return ((const int64_t *)values)[index];
    default:
        value = ((const float *)values)[index];
        return value >= 0 && value < 0x1p62f ? (int64_t)value : -1;
    }
}

static unsigned width_of(uint64_t largest)
{
    return largest < 1u << 8 ? 1 : largest < 1u << 16 ? 2 : largest < 1ull << 32 ? 4 : 8;
}

/* Packs the elements into *packed, which the caller frees. @return the width, or negative errno. */
static int pack(const struct skew_rec_tap *rec, uint8_t **packed)
{
    const void *values = rec + 1;
    uint64_t largest = 0;
    for (uint32_t i = 0; i < rec->elements; i++) {
        int64_t value = value_at(values, i, rec->dtype);
        if (value < 0)
            return -EBADMSG;
        largest |= (uint64_t)value;
    }
    unsigned width = width_of(largest);
    *packed = malloc((size_t)width * rec->elements);
    if (!*packed)
        return -ENOMEM;
    for (uint32_t i = 0; i < rec->elements; i++) {
        uint64_t value = (uint64_t)value_at(values, i, rec->dtype);
        for (unsigned b = 0; b < width; b++)
            (*packed)[(size_t)i * width + b] = (uint8_t)(value >> 8 * b);
    }
    return (int)width;
}

static int insert(struct skew_proc *proc, const struct skew_rec_tap *rec, int64_t member,
                  const uint8_t *packed, int width)
{
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_TAP];
    sqlite3_bind_int64(stmt, 1, member);
    sqlite3_bind_int64(stmt, 2, rec->thread);
    sqlite3_bind_int64(stmt, 3, (int64_t)rec->group);
    sqlite3_bind_int64(stmt, 4, rec->place);
    sqlite3_bind_text(stmt, 5, shape_names[rec->shape], -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 6, side_names[rec->side], -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 7, rec->dtype);
    sqlite3_bind_int64(stmt, 8, rec->count);
    sqlite3_bind_int64(stmt, 9, rec->elements);
    sqlite3_bind_int64(stmt, 10, width);
    sqlite3_bind_blob64(stmt, 11, packed, (sqlite3_uint64)width * rec->elements, SQLITE_STATIC);
    return skew_db_run(proc->db, stmt);
}

int skew_tap_record(struct skew_proc *proc, const struct skew_rec *head)
{
    const struct skew_rec_tap *rec = (const void *)head;
    struct skew_local_comm *comm;
    uint8_t *packed = NULL;
    uint64_t size = skew_nccl_type_size(rec->dtype);
    bool known = rec->dtype == ncclUint8 || rec->dtype == ncclInt32 || rec->dtype == ncclInt64 ||
                 rec->dtype == ncclFloat32;
    if (!rec->shape || rec->shape >= SKEW_TAP_SHAPES || !rec->side || rec->side >= SKEW_TAP_SIDES) {
        proc->unknown_records++; /* of a newer library */
        return 0;
    }
    if (!known || !rec->elements || rec->elements * size > head->bytes - sizeof *rec ||
        rec->group > INT64_MAX)
        return -EBADMSG;
    int width = pack(rec, &packed);
    if (width < 0)
        return width;
    int error = skew_comm_find(proc, rec->comm, &comm);
    if (!error)
        error = insert(proc, rec, comm->member, packed, width);
    free(packed);
    return error;
}

int skew_tap_counters(struct skew_proc *proc)
{
    const struct skew_tap_count *now = proc->file->head.tap;
    sqlite3_stmt *stmt = proc->db->stmt[SKEW_STMT_TAP_COUNT];
    int error = 0;
    for (unsigned i = 0; !error && i < SKEW_TAP_COUNTS; i++) {
        if (memcmp(&proc->taps[i], &now[i], sizeof now[i]) == 0)
            continue;
        error = skew_db_begin(proc->db);
        if (error)
            break;
        sqlite3_bind_int64(stmt, 1, proc->id);
        sqlite3_bind_text(stmt, 2, count_names[i], -1, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 3, (int64_t)now[i].buffers);
        sqlite3_bind_int64(stmt, 4, (int64_t)now[i].bytes);
        error = skew_db_run(proc->db, stmt);
        proc->taps[i] = now[i];
    }
    return error;
}
