/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small rig for tests of the stand-in NCCL: starts ranks as processes (or threads), gives them a
 * stream and buffers on the stand-in driver, and reports the first failure of each.
 */
#ifndef STANDIN_RIG_H
#define STANDIN_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_decls.h"

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x))                                                                                  \
            rig_fail(__FILE__, __LINE__, #x);                                                      \
    } while (0)
#define CHECK_EQ(got, wanted)                                                                      \
    do {                                                                                           \
        long long got_ = (long long)(got), wanted_ = (long long)(wanted);                          \
        if (got_ != wanted_)                                                                       \
            rig_fail_eq(__FILE__, __LINE__, #got, got_, wanted_);                                  \
    } while (0)
#define OK(call) CHECK_EQ((call), ncclSuccess)

typedef struct CUgraphExec_st *rig_graph;

struct rig {
    int rank, nranks;
    ncclUniqueId *ids; /* some, the same for all ranks */
    cudaStream_t stream;
    _Atomic uint32_t *shared; /* 64 words, zero, for the test's own use between the ranks */
};

_Noreturn void rig_fail(const char *file, int line, const char *what);
_Noreturn void rig_fail_eq(const char *file, int line, const char *what, long long got,
                           long long wanted);

/** Runs body(rig) in n processes; returns how many failed. `killed`: that rank may die by signal.
 */
int rig_processes(const char *name, int n, void (*body)(struct rig *), int killed);
/** The same in n threads of one new process, thread r on device r. */
int rig_threads(const char *name, int n, void (*body)(struct rig *));

void *rig_driver(const char *name); /* a function of libcuda.so.1 */
void rig_device(int device);        /* makes its primary context current */
cudaStream_t rig_stream(void);
void rig_sync(cudaStream_t stream);
bool rig_idle(cudaStream_t stream);
void *rig_alloc(size_t bytes);
void rig_free(void *p);
void rig_capture_begin(cudaStream_t stream);
rig_graph rig_capture_end(cudaStream_t stream);
void rig_graph_launch(rig_graph graph, cudaStream_t stream);
void rig_graph_destroy(rig_graph graph);
/* An event recorded on `from`, waited for on `to`. */
void rig_stream_join(cudaStream_t from, cudaStream_t to);
ncclComm_t rig_comm(struct rig *rig, int id);
/* One whose collectives shall use no CTAs: copy engines do them where the buffers lie in symmetric
 * windows. */
ncclComm_t rig_comm_zero_ctas(struct rig *rig, int id);
/* Waits for a non-blocking communicator; its final state. */
ncclResult_t rig_settle(ncclComm_t comm);
/* A value that tells where it comes from. */
static inline uint32_t rig_mark(int src, int dst, size_t i)
{
    return (uint32_t)src * 1000003u + (uint32_t)dst * 10007u + (uint32_t)i;
}

#endif
