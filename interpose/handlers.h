/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the generated wrappers of everything but data calls hand over: groups, constructors,
 * destructors, graphs. Each runs on the application's thread, after (…_on_, …_left, …_ended) or
 * before (…_derive, …_leaving) the real call, and never changes its outcome.
 */
#ifndef SKEW_INTERPOSE_HANDLERS_H
#define SKEW_INTERPOSE_HANDLERS_H

#include <wchar.h>

#include "internal.h"

/* What is known of a Split, Shrink or Grow before the real call: taken then, because every member
 * of the parent counts the same calls in the same order. */
struct skew_derive {
    struct skew_comm *parent; /* NULL: unknown, or Grow by a new rank */
    uint32_t slot, kind, ordinal;
    int32_t color, split_key;
};

void skew_group_ended(struct skew_thread *thread, bool simulated, uint64_t call_ns,
                      uintptr_t address, uintptr_t frame, ncclResult_t result);

void skew_comm_on_init(uint32_t slot, ncclResult_t result, ncclComm_t *where, int ranks, int rank,
                       const ncclUniqueId *ids, int id_count, const ncclConfig_t *config,
                       enum skew_comm_kind kind);
void skew_comm_on_init_all(uint32_t slot, ncclResult_t result, ncclComm_t *comms, int count,
                           const int *devices);
struct skew_derive skew_comm_derive(uint32_t slot, ncclComm_t parent, enum skew_comm_kind kind,
                                    int color, int split_key);
void skew_comm_on_derive(const struct skew_derive *derive, ncclResult_t result, ncclComm_t *where,
                         const ncclConfig_t *config, bool excluded);
void skew_comm_on_grow(const struct skew_derive *derive, ncclResult_t result, ncclComm_t *where,
                       const ncclConfig_t *config, int ranks, const ncclUniqueId *id, int rank);
struct skew_comm *skew_comm_leaving(ncclComm_t handle, enum skew_comm_end how);
void skew_comm_left(struct skew_comm *comm, enum skew_comm_end how, ncclResult_t result);
void skew_comm_device_api(ncclResult_t result, const char *function, ncclComm_t handle,
                          int window_flags);

struct skew_thread *skew_graph_enter(uint32_t slot, int function); /* enum skew_api */
uint64_t skew_graph_capture_id(void *stream);
void skew_graph_event(enum skew_graph_event event, void *graph, void *source, void *exec,
                      uint64_t capture);
void skew_graph_node(void *graph, const void *params);
void *skew_proc_answer(const char *name, void *real, int version, uint64_t flags);

/* NVTX: who is asked, and what was said (nvtx.c). `event` is an nvtxEventAttributes_t. */
struct skew_thread *skew_nvtx_enter(int function); /* enum skew_api; NULL: pass through */
void skew_nvtx_push(struct skew_thread *thread, const char *message);
void skew_nvtx_push_wide(struct skew_thread *thread, const wchar_t *message);
void skew_nvtx_push_event(struct skew_thread *thread, const void *event);
void skew_nvtx_pop(struct skew_thread *thread);
void skew_nvtx_mark(struct skew_thread *thread, const char *message);
void skew_nvtx_mark_wide(struct skew_thread *thread, const wchar_t *message);
void skew_nvtx_mark_event(struct skew_thread *thread, const void *event);
void skew_nvtx_push_domain(struct skew_thread *thread, void *domain, const void *event);
void skew_nvtx_pop_domain(struct skew_thread *thread, void *domain);
void skew_nvtx_mark_domain(struct skew_thread *thread, void *domain, const void *event);

#endif
