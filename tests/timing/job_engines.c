/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All-to-alls that copy engines do, without a kernel: on a communicator that shall use no CTAs,
 * with both buffers in symmetric windows. Between them such as have a kernel.
 */
#include "job.h"

static ncclComm_t engine_comm(struct rig *rig)
{
    ncclComm_t comm = rig_comm_zero_ctas(rig, 0);
    ncclWindow_t window;
    OK(ncclCommWindowRegister(comm, job_buffer, 2 << 20, &window, NCCL_WIN_COLL_SYMMETRIC));
    return comm;
}

/* @param at in the buffer: its first half is in the window, what lies in the second is not */
static void all_to_all(ncclComm_t comm, size_t at, cudaStream_t stream)
{
    OK(ncclAlltoAll(job_buffer + at, job_buffer + at + (1 << 20), 1000 * ++job_unique, ncclInt8,
                    comm, stream));
}

void job_engines(struct rig *rig)
{
    ncclComm_t comm = engine_comm(rig);
    job_ahead(rig->stream);
    for (unsigned i = 0; i < job_rounds(18) * 2 / 3; i++) { /* some are two: see job_rounds() */
        job_busy(job_late(rig, i), rig->stream);
        all_to_all(comm, 0, rig->stream);
        if (i % 3 == 1) {
            job_busy(job_late(rig, i + 1), rig->stream);
            all_to_all(comm, 2 << 20, rig->stream);
        }
        if (i % 3 == 2)
            OK(job_exchange(rig, comm, rig->stream));
    }
    rig_sync(rig->stream);
    OK(ncclCommDestroy(comm));
}

/* One graph with both kinds, one with copies only, one with kernels only, and exchanges outside of
 * graphs. */
void job_engine_graphs(struct rig *rig)
{
    ncclComm_t comm = engine_comm(rig), other = rig_comm(rig, 1);
    rig_graph exec[3];
    job_ahead(rig->stream);
    all_to_all(comm, 0, rig->stream);
    for (unsigned kind = 0; kind < 3; kind++) {
        rig_capture_begin(rig->stream);
        job_busy(job_late(rig, kind), rig->stream);
        if (kind < 2)
            all_to_all(comm, 0, rig->stream);
        job_busy(10000, rig->stream);
        if (kind != 1)
            OK(job_exchange(rig, other, rig->stream));
        exec[kind] = rig_capture_end(rig->stream);
    }
    for (unsigned i = 0; i < 3; i++)
        for (unsigned kind = 0; kind < 3; kind++)
            rig_graph_launch(exec[kind], rig->stream);
    all_to_all(comm, 0, rig->stream);
    rig_sync(rig->stream);
    for (unsigned kind = 0; kind < 3; kind++)
        rig_graph_destroy(exec[kind]);
    OK(ncclCommDestroy(other));
    OK(ncclCommDestroy(comm));
}
