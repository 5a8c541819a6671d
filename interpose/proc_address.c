/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What cuGetProcAddress() answers. A CUDA runtime that is linked statically calls the driver by
 * such pointers only, and so do programs that ask for driver entry points: for the graph functions
 * they get a wrapper of ours instead, that calls the very function which the driver meant (its
 * version, and its kind of default stream). Everything else passes as it is. Any thread; nothing is
 * recorded here.
 */
#include <string.h>

#include "bind.h"
#include "handlers.h"

#define NAME_BYTES 64

/* Asked for with per-thread default streams, the driver answers with another function where there
 * is one. */
#define PER_THREAD_STREAMS 2u /* CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM */

/* The driver answers with the newest version up to the one that is asked for, and a runtime asks
 * for several. They differ in the number of their arguments, so each has a wrapper of its own
 * (cudaTypedefs.h says from when on). */
static const struct {
    const char *name;
    int since;
    const char *symbol;
} later[] = {
    {"cuGetProcAddress", 12000, "cuGetProcAddress_v2"},
    {"cuGraphAddNode", 12030, "cuGraphAddNode_v2"},
    {"cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2"},
    {"cuGraphInstantiate", 11000, "cuGraphInstantiate_v2"},
};

static int find(const char *name, int version, uint64_t flags)
{
    char per_thread[NAME_BYTES];
    int function = -1;
    for (unsigned i = 0; i < sizeof(later) / sizeof(later[0]); i++)
        if (version >= later[i].since && strcmp(name, later[i].name) == 0)
            name = later[i].symbol;
    if (flags & PER_THREAD_STREAMS && strnlen(name, NAME_BYTES) < NAME_BYTES - sizeof("_ptsz")) {
        skew_text_add(per_thread, sizeof(per_thread),
                      skew_text_add(per_thread, sizeof(per_thread), 0, name), "_ptsz");
        function = skew_api_find(per_thread);
    }
    return function < 0 ? skew_api_find(name) : function;
}

/**
 * @param real what the driver has answered for `name`
 * @return what the caller gets: our wrapper for it, or `real` itself
 */
void *skew_proc_answer(const char *name, void *real, int version, uint64_t flags)
{
    if (!name || !real || !skew_name_may_be_ours(name))
        return real;
    int function = find(name, version, flags);
    /* Only the driver's functions have a wrapper of their own in slot 1 that is no NCCL's. */
    if (function < 0 || name[0] != 'c' || skew_wrapper[1][function] == skew_wrapper[0][function])
        return real;
    if (real == skew_wrapper[0][function] || real == skew_wrapper[1][function] ||
        !skew_dlsym_wanted())
        return real;
    void *bound = NULL;
    if (__atomic_compare_exchange_n(&skew_real[1][function], &bound, real, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE) ||
        bound == real)
        return skew_wrapper[1][function];
    skew_diag_once(SKEW_DIAG_GRAPH_UNSEEN,
                   "two CUDA runtimes of one process use different versions of the driver's graph "
                   "functions: those of the second are passed through, and replays of its graphs "
                   "are not counted");
    return real;
}
