/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CUDA graphs: whether a call is being captured, and what becomes of captured graphs. All questions
 * go to the driver's own functions, which are allowed during a capture and cannot break one.
 * Application threads; processes without communicators are passed through untouched.
 */
#include <errno.h>

#include "bind.h"
#include "handlers.h"
#include "hot.h"

void skew_capture_bind(void)
{
    static const char *const names[] = {"cuStreamGetCaptureInfo_v3", "cuStreamGetCaptureInfo_v2",
                                        "cuStreamGetCaptureInfo", NULL};
    void *found = NULL;
    for (unsigned i = 0; names[i] && !found; i++)
        found = skew_elf_first(names[i], false);
    __atomic_store_n(&skew_hot.ask_driver, (skew_capture_info)found, __ATOMIC_RELEASE);
    if (!found)
        skew_diag_once(
            SKEW_DIAG_NO_CAPTURE_QUERY,
            "the CUDA driver library is not loaded or too old to say whether a stream is "
            "being captured; captured calls cannot be told from executed ones");
}

SKEW_HOT void skew_capture_query(cudaStream_t stream, uint32_t *flags, uint64_t *id)
{
    skew_capture_info ask = __atomic_load_n(&skew_hot.ask_driver, __ATOMIC_ACQUIRE);
    int status = 0;
    *flags = 0;
    *id = 0;
    if (skew_unlikely(!ask)) {
        *flags = SKEW_LANE_CAPTURE_UNKNOWN;
        return;
    }
    /* An error on the legacy stream means that some other stream is captured: this one is not. */
    if (ask(stream, &status, id, NULL, NULL, NULL, NULL) != 0 || status == 0)
        *id = 0;
    else
        *flags = SKEW_LANE_CAPTURED;
}

/* Guard and enable test of the graph functions. NULL: pass through. Slot 1 was bound before anybody
 * could come. */
struct skew_thread *skew_graph_enter(uint32_t slot, int function)
{
    struct skew_process *proc = __atomic_load_n(&skew_proc, __ATOMIC_ACQUIRE);
    if (slot == 0)
        skew_single_bind((enum skew_api)function, NULL);
    if (!proc || __atomic_load_n(&proc->phase, __ATOMIC_ACQUIRE) != SKEW_PHASE_READY || !proc->head)
        return NULL;
    return skew_enter();
}

uint64_t skew_graph_capture_id(void *stream)
{
    uint32_t flags;
    uint64_t id;
    skew_capture_query(stream, &flags, &id);
    return id;
}

void skew_graph_event(enum skew_graph_event event, void *graph, void *source, void *exec,
                      uint64_t capture)
{
    struct skew_process *proc = skew_proc;
    struct skew_rec_graph rec = {
        .head = {.type = SKEW_REC_GRAPH},
        .event = event,
        .ns = skew_now(),
        .capture = capture,
        .graph = (uintptr_t)graph,
        .source = (uintptr_t)source,
        .exec = (uintptr_t)exec,
    };
    int saved = errno;
    skew_lock(proc);
    skew_defs_put(proc, &rec.head, sizeof(rec), NULL, 0);
    skew_unlock(proc);
    errno = saved;
}

/* A node of any kind was added, CUgraphNodeParams: the kind stands first, and its own parameters 16
 * bytes behind. */
void skew_graph_node(void *graph, const void *params)
{
    const struct {
        int type, reserved[3];
        void *child;
    } *node = params;
    if (node && node->type == 4 /* CU_GRAPH_NODE_TYPE_GRAPH */)
        skew_graph_event(SKEW_GRAPH_CHILD, graph, node->child, NULL, 0);
}
