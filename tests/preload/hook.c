/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another tool's preload. HOOK_SEND: wraps ncclSend and ncclCommInitRank and tells at exit how
 * often each came by. HOOK_DLSYM: interposes dlsym, as GPU virtualisers do. HOOK_MALLOC: wraps
 * malloc, and HOOK_PHDR dl_iterate_phdr (as programs do that throw many exceptions), both found by
 * dlsym(RTLD_NEXT).
 */
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nccl_decls.h"

static unsigned sends, inits, lookups, allocations;

#ifdef HOOK_SEND
ncclResult_t ncclSend(const void *sendbuff, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    static __typeof__(ncclSend) *next;
    if (!next)
        next = (__typeof__(ncclSend) *)dlsym(RTLD_NEXT, "ncclSend");
    sends++;
    if (!next)
        abort();
    return next(sendbuff, count, datatype, peer, comm, stream);
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId commId, int rank)
{
    __typeof__(ncclCommInitRank) *next =
        (__typeof__(ncclCommInitRank) *)dlsym(RTLD_NEXT, "ncclCommInitRank");
    inits++;
    if (!next)
        abort();
    return next(comm, nranks, commId, rank);
}
#endif

#ifdef HOOK_DLSYM
/* The usual way to the real one. Compiled without optimisation this is a call, so that RTLD_NEXT of
 * whoever comes through here is relative to this library: that is the hook's own doing. */
void *dlsym(void *restrict handle, const char *restrict name)
{
    static void *(*real)(void *, const char *);
    if (!real)
        real = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", HOOK_DLSYM_VERSION);
    if (!real)
        abort();
    lookups += strncmp(name, "nccl", 4) == 0;
    return real(handle, name);
}
#endif

#ifdef HOOK_MALLOC
void *malloc(size_t bytes)
{
    static void *(*next)(size_t);
    if (!next)
        next = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    allocations++;
    if (!next)
        abort();
    return next(bytes);
}
#endif

#ifdef HOOK_PHDR
int dl_iterate_phdr(int (*callback)(struct dl_phdr_info *, size_t, void *), void *data)
{
    static __typeof__(dl_iterate_phdr) *next;
    if (!next)
        next = (__typeof__(dl_iterate_phdr) *)dlsym(RTLD_NEXT, "dl_iterate_phdr");
    allocations++;
    if (!next)
        abort();
    return next(callback, data);
}
#endif

static __attribute__((destructor)) void tell(void)
{
    char line[128];
    int n =
        snprintf(line, sizeof(line), HOOK_NAME ": sends %u, inits %u, lookups %s, allocations %s\n",
                 sends, inits, lookups ? "some" : "none", allocations ? "some" : "none");
    if (write(1, line, (size_t)n) != n)
        abort();
}
