/* SPDX-License-Identifier: Apache-2.0 */
/* Collects activity records into one array, in the order in which CUPTI hands them over. */
#ifndef STANDIN_TEST_CUPTI_SETUP_H
#define STANDIN_TEST_CUPTI_SETUP_H

#include "cupti/api.h"
#include "driver_setup.h"

enum { RECORDS = 4096, BUFFER_BYTES = 1 << 16 };

union record {
    CUpti_Activity any;
    CUpti_ActivityKernel10 kernel;
    CUpti_ActivityMemcpy6 copy;
    CUpti_ActivityMemcpyPtoP4 peer;
    CUpti_ActivityMemset4 fill;
    CUpti_ActivityExternalCorrelation external;
    CUpti_ActivityAPI api;
};

static union record records[RECORDS];
static int record_count; /* written in the completion callback, read after a flush */
static size_t lend_bytes = BUFFER_BYTES;

static size_t record_bytes(CUpti_ActivityKind kind)
{
    switch (kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
        return sizeof(CUpti_ActivityKernel10);
    case CUPTI_ACTIVITY_KIND_MEMCPY:
        return sizeof(CUpti_ActivityMemcpy6);
    case CUPTI_ACTIVITY_KIND_MEMCPY2:
        return sizeof(CUpti_ActivityMemcpyPtoP4);
    case CUPTI_ACTIVITY_KIND_MEMSET:
        return sizeof(CUpti_ActivityMemset4);
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION:
        return sizeof(CUpti_ActivityExternalCorrelation);
    default:
        return sizeof(CUpti_ActivityAPI);
    }
}

static void lend_buffer(uint8_t **buffer, size_t *size, size_t *max_records)
{
    *size = lend_bytes;
    *buffer = lend_bytes > 0 ? aligned_alloc(8, lend_bytes) : NULL;
    *max_records = 0;
}

static void take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size,
                        size_t valid)
{
    CUpti_Activity *record = NULL;
    (void)context;
    (void)stream;
    (void)size;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record_count < RECORDS)
            memcpy(&records[record_count++], record, record_bytes(record->kind));
    }
    free(buffer);
}

static inline union record *find_record(CUpti_ActivityKind kind, int which)
{
    for (int i = 0; i < record_count; i++) {
        if (records[i].any.kind == kind && which-- == 0)
            return &records[i];
    }
    return NULL;
}

static inline int count_records(CUpti_ActivityKind kind)
{
    int count = 0;
    for (int i = 0; i < record_count; i++)
        count += records[i].any.kind == kind;
    return count;
}

static inline void flush(void)
{
    record_count = 0;
    OK(cuCtxSynchronize());
    OK(cuptiActivityFlushAll(0));
}

#endif
