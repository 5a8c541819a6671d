/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Graphs, executable graphs and captures of the stand-in driver. All of it is guarded by one lock,
 * si_graph_lock(): graphs are built rarely, and a launch holds it only while it enqueues.
 */
#ifndef STANDIN_GRAPH_H
#define STANDIN_GRAPH_H

#include "engine.h"

/* Work and user objects that go away are released by the unlock, outside of the lock, since their
 * destructors are the application's. */
void si_graph_lock(void);
void si_graph_unlock(void);

struct si_node_list {
    CUgraphNode *items;
    size_t count;
    size_t room;
};

struct CUgraphNode_st {
    uint32_t magic;
    CUgraphNodeType type;
    uint64_t id;
    CUgraph graph;
    struct si_work *work; /* NULL for child graphs; empty nodes have empty work */
    CUgraph child;        /* owned; child graph nodes */
    struct si_node_list deps;
    struct si_node_list dependents;
    CUgraphNode original; /* what this was cloned from; may dangle, only compared */
    bool disabled;
    CUkernelNodeAttrValue priority;
    size_t mark; /* scratch of whoever walks the graph under the lock */
};

struct si_user_ref {
    CUuserObject object;
    unsigned count;
};

struct CUgraph_st {
    uint32_t magic;
    uint32_t id;
    struct si_node_list nodes; /* in order of creation */
    struct si_user_ref *users;
    size_t user_count;
    CUgraphNode parent; /* the child graph node that owns it, or NULL */
    CUgraph original;
    bool capturing; /* owned by a capture that has not ended */
};

/* One step of an executable graph: a node of its flattened copy. */
struct si_step {
    CUgraphNode node;
    unsigned lane;  /* which stream runs it; 0 is the launching one */
    unsigned *deps; /* earlier steps on other lanes */
    unsigned dep_count;
    bool first_in_lane; /* must wait for the launch itself */
    bool leaf;          /* the launch ends only after it */
};

struct CUgraphExec_st {
    uint32_t magic;
    uint32_t id;
    CUgraph graph;  /* private copy with its child graphs */
    CUgraph source; /* what it was made from; only compared */
    unsigned long long flags;
    struct si_step *steps;
    unsigned step_count;
    unsigned lane_count;
    CUstream *lanes;    /* lane_count, [0] unused; made at the first launch */
    struct si_op *last; /* end of the latest launch, holds a reference */
};

struct CUuserObject_st {
    uint32_t magic;
    atomic_int refs;
    void *ptr;
    CUhostFn destroy;
};

/* A capture under way. Lives from BeginCapture to EndCapture. */
struct si_capture {
    uint64_t id;
    CUgraph graph;
    int mode;
    CUstream origin;
    uint64_t thread;
    bool invalid;
    bool own_graph; /* false: BeginCaptureToGraph */
    struct si_capture *next;
    CUstream *members; /* streams that take part, origin first */
    size_t member_count;
};

/* graph.c; all under the lock */
int si_node_list_add(struct si_node_list *list, CUgraphNode node);
bool si_node_list_remove(struct si_node_list *list, CUgraphNode node);
CUgraph si_graph_new(void);
void si_graph_free(CUgraph graph);
CUgraph si_graph_clone(CUgraph graph);
/* The node of `clone` that stands for `original`, which is a node of what it was cloned from. */
CUgraphNode si_graph_find_clone(CUgraph clone, CUgraphNode original);
CUgraphNode si_node_new(CUgraph graph, CUgraphNodeType type, const CUgraphNode *deps, size_t count);
CUresult si_node_link(CUgraphNode from, CUgraphNode to);
void si_node_free(CUgraphNode node);
CUresult si_graph_check(CUgraph graph);
CUresult si_node_check(CUgraphNode node);
CUresult si_exec_check(CUgraphExec exec);
CUgraphNodeType si_work_node_type(const struct si_work *work);
/* Takes over the reference to work, also on failure. */
CUresult si_graph_add_work(CUgraph graph, const CUgraphNode *deps, size_t count,
                           struct si_work *work, CUgraphNode *node);
CUgraphNode si_graph_add_child(CUgraph graph, const CUgraphNode *deps, size_t count, CUgraph child);

/* graph_plan.c */
CUresult si_exec_plan(CUgraphExec exec);

void si_graph_drop_work(struct si_work *work); /* instead of si_work_unref, under the lock */
void si_graph_drop_user(CUuserObject object, unsigned count);

/* capture.c: is the stream being captured? Then work becomes a node. */
bool si_capture_active(CUstream stream);
/* CUDA_ERROR_NOT_READY: the stream is not being captured (work untouched). Else work is consumed.
 */
CUresult si_capture_work(CUstream stream, struct si_work *work);
/* The same for the launch of an executable graph, which becomes a child graph node. */
CUresult si_capture_launch(CUstream stream, CUgraphExec exec);
CUresult si_capture_record(CUstream stream, CUevent event, bool external);
CUresult si_capture_wait(CUstream stream, CUevent event, bool external);
CUresult si_capture_forbid_stream(CUstream stream);
CUresult si_capture_forbid_context(CUcontext context);
CUresult si_capture_forbid_event(CUevent event);
CUresult si_capture_forbid_legacy(CUstream stream);
void si_capture_stream_closed(CUstream stream);
/* `error` if a stream of the context takes part in a capture, which it may invalidate. */
CUresult si_capture_forbid_members(CUcontext context, bool blocking_only, CUresult error,
                                   bool invalidate);
/* Under the lock; 0 or -ENOMEM. */
int si_capture_set_deps(CUgraphNode **to, size_t *to_count, const CUgraphNode *from, size_t count);
int si_capture_merge_deps(CUstream stream, const CUgraphNode *more, size_t count);

#endif
