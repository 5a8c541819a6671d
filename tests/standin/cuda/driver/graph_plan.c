/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan of an executable graph: its child graphs flattened into steps, in an order that respects
 * all dependencies, and the steps dealt out to lanes, so that branches that do not depend on each
 * other never wait for each other (two branches may hold two collectives that the peers run in the
 * other order). All under the graph lock.
 */
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "graph.h"

/* Indices of steps that something depends on. */
struct step_set {
    unsigned *items;
    unsigned count;
    unsigned room;
};

struct plan {
    struct si_step *steps;
    struct step_set *deps; /* of each step: all of them, before lanes are dealt out */
    unsigned count;
    unsigned room;
};

static int set_add(struct step_set *set, unsigned item)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (set->items[i] == item)
            return 0;
    }
    if (set->count == set->room) {
        unsigned room = set->room == 0 ? 4 : set->room * 2;
        unsigned *more = realloc(set->items, room * sizeof(*more));
        if (more == NULL)
            return -1;
        set->items = more;
        set->room = room;
    }
    set->items[set->count++] = item;
    return 0;
}

static int plan_step(struct plan *plan, CUgraphNode node)
{
    if (plan->count == plan->room) {
        unsigned room = plan->room == 0 ? 16 : plan->room * 2;
        void *steps = realloc(plan->steps, room * sizeof(*plan->steps));
        if (steps == NULL)
            return -1;
        plan->steps = steps;
        void *deps = realloc(plan->deps, room * sizeof(*plan->deps));
        if (deps == NULL)
            return -1;
        plan->deps = deps;
        plan->room = room;
    }
    plan->steps[plan->count] = (struct si_step){.node = node};
    plan->deps[plan->count] = (struct step_set){.items = NULL};
    return (int)plan->count++;
}

/* Nodes in dependency order, of equals the one made first; NULL also for a cycle (*cycle set). */
static CUgraphNode *sorted_nodes(CUgraph graph, bool *cycle)
{
    size_t count = graph->nodes.count, done = 0;
    CUgraphNode *order = malloc((count + 1) * sizeof(*order));
    if (order == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        CUgraphNode node = graph->nodes.items[i];
        node->mark = node->deps.count;
        if (node->mark == 0)
            order[done++] = node;
    }
    for (size_t i = 0; i < done; i++) {
        for (size_t j = 0; j < order[i]->dependents.count; j++) {
            CUgraphNode next = order[i]->dependents.items[j];
            if (--next->mark == 0)
                order[done++] = next;
        }
    }
    if (done == count)
        return order;
    *cycle = true;
    free(order);
    return NULL;
}

static int flatten(struct plan *plan, CUgraph graph, int entry, struct step_set *leaves,
                   bool *cycle);

/* The steps of one node; returns the one that its dependents wait for, or -1. */
static int flatten_node(struct plan *plan, CUgraphNode node, int entry, bool *cycle)
{
    int at = plan_step(plan, node);
    if (at < 0)
        return -1;
    for (size_t i = 0; i < node->deps.count; i++) {
        if (set_add(&plan->deps[at], (unsigned)node->deps.items[i]->mark) < 0)
            return -1;
    }
    if (node->deps.count == 0 && entry >= 0 && set_add(&plan->deps[at], (unsigned)entry) < 0)
        return -1;
    if (node->child == NULL)
        return at;
    /* `at` opens the child graph; another step of the same node closes it. */
    struct step_set leaves = {.items = NULL};
    if (flatten(plan, node->child, at, &leaves, cycle) < 0 || set_add(&leaves, (unsigned)at) < 0) {
        free(leaves.items);
        return -1;
    }
    int close = plan_step(plan, node);
    if (close < 0) {
        free(leaves.items);
        return -1;
    }
    plan->deps[close] = leaves;
    return close;
}

static int flatten(struct plan *plan, CUgraph graph, int entry, struct step_set *leaves,
                   bool *cycle)
{
    CUgraphNode *order = sorted_nodes(graph, cycle);
    int err = order == NULL ? -1 : 0;
    for (size_t i = 0; err == 0 && i < graph->nodes.count; i++) {
        int step = flatten_node(plan, order[i], entry, cycle);
        if (step < 0) {
            err = -1;
            break;
        }
        order[i]->mark = (size_t)step;
        if (order[i]->dependents.count == 0 && leaves != NULL)
            err = set_add(leaves, (unsigned)step);
    }
    free(order);
    return err;
}

/* ---- Lanes ---- */

struct lanes {
    unsigned *last; /* latest step of each lane */
    unsigned count;
    uint64_t *before; /* bit j of row i: step j comes before step i; NULL for huge graphs */
    size_t row;
};

static bool comes_before(const struct lanes *lanes, unsigned early, unsigned late)
{
    return lanes->before != NULL &&
           (lanes->before[late * lanes->row + early / 64] >> (early % 64) & 1) != 0;
}

static void note_before(struct lanes *lanes, unsigned step, const struct step_set *deps)
{
    if (lanes->before == NULL)
        return;
    uint64_t *mine = &lanes->before[step * lanes->row];
    for (unsigned i = 0; i < deps->count; i++) {
        unsigned dep = deps->items[i];
        for (size_t w = 0; w < lanes->row; w++)
            mine[w] |= lanes->before[dep * lanes->row + w];
        mine[dep / 64] |= UINT64_C(1) << (dep % 64);
    }
}

/* A lane whose latest step is a dependency, else one whose latest step comes before, else a new. */
static unsigned choose_lane(struct lanes *lanes, unsigned step, const struct step_set *deps)
{
    for (unsigned i = 0; i < deps->count; i++) {
        for (unsigned lane = 0; lane < lanes->count; lane++) {
            if (lanes->last[lane] == deps->items[i])
                return lane;
        }
    }
    for (unsigned lane = 0; lane < lanes->count; lane++) {
        if (comes_before(lanes, lanes->last[lane], step))
            return lane;
    }
    return lanes->count++;
}

/* Keeps of a step's dependencies those that its lane's order does not already give. */
static int deal(struct plan *plan, struct lanes *lanes, unsigned at)
{
    struct si_step *step = &plan->steps[at];
    struct step_set *deps = &plan->deps[at];
    note_before(lanes, at, deps);
    unsigned known = lanes->count;
    step->lane = choose_lane(lanes, at, deps);
    step->first_in_lane = step->lane == known;
    lanes->last[step->lane] = at;
    step->leaf = true;
    step->deps = malloc((deps->count + 1) * sizeof(*step->deps));
    if (step->deps == NULL)
        return -1;
    for (unsigned i = 0; i < deps->count; i++) {
        struct si_step *dep = &plan->steps[deps->items[i]];
        dep->leaf = false;
        if (dep->lane != step->lane)
            step->deps[step->dep_count++] = deps->items[i];
    }
    return 0;
}

static int deal_all(struct plan *plan, unsigned *lane_count)
{
    struct lanes lanes = {.row = plan->count / 64 + 1};
    int err = 0;
    lanes.last = malloc((plan->count + 1) * sizeof(*lanes.last));
    if (lanes.last == NULL)
        return -1;
    if (plan->count <= 16384) /* at most 32 MiB */
        lanes.before = calloc((size_t)plan->count * lanes.row + 1, sizeof(*lanes.before));
    for (unsigned i = 0; i < plan->count && err == 0; i++)
        err = deal(plan, &lanes, i);
    *lane_count = lanes.count > 0 ? lanes.count : 1;
    free(lanes.last);
    free(lanes.before);
    return err;
}

static void plan_free(struct plan *plan, bool steps_too)
{
    for (unsigned i = 0; i < plan->count; i++) {
        free(plan->deps[i].items);
        if (steps_too)
            free(plan->steps[i].deps);
    }
    free(plan->deps);
    if (steps_too)
        free(plan->steps);
}

CUresult si_exec_plan(CUgraphExec exec)
{
    struct plan plan = {.steps = NULL};
    bool cycle = false;
    unsigned lane_count;
    if (flatten(&plan, exec->graph, -1, NULL, &cycle) < 0 || deal_all(&plan, &lane_count) < 0) {
        plan_free(&plan, true);
        return cycle ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    }
    plan_free(&plan, false);
    exec->steps = plan.steps;
    exec->step_count = plan.count;
    exec->lane_count = lane_count;
    return CUDA_SUCCESS;
}
