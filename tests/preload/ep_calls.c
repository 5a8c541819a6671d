/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Uses NCCL EP as a dispatcher does, and prints what the library was given and what came back.
 *
 *   ep_calls linked|handle|default [PATH]   linked: by the loader; handle: dlopen and dlsym of
 * PATH; default: the same with RTLD_GLOBAL and RTLD_DEFAULT
 *
 * Which revision of the functions it was compiled for: EP_OLD, EP_NEW or EP_ODD. EP_LINKED: it is
 * linked to the library.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ep.h"

#define FUNCTIONS(X)                                                                               \
    X(ncclEpCreateGroup)                                                                           \
    X(ncclEpGroupDestroy)                                                                          \
    X(ncclEpCreateHandle)                                                                          \
    X(ncclEpHandleDestroy)                                                                         \
    X(ncclEpDispatch)                                                                              \
    X(ncclEpCombine)                                                                               \
    X(ncclEpComplete)                                                                              \
    X(ep_said)

static struct {
#define X(name) __typeof__(name) *name;
    FUNCTIONS(X)
#undef X
} ep;

static void resolve(const char *how, const char *path)
{
    void *library =
        path ? dlopen(path, RTLD_NOW | (strcmp(how, "default") == 0 ? RTLD_GLOBAL : RTLD_LOCAL))
             : NULL;
#ifdef EP_LINKED
    (void)library;
#define X(name) ep.name = name;
    FUNCTIONS(X)
#undef X
#else
    if (!library) {
        fprintf(stderr, "ep_calls: %s\n", dlerror());
        exit(1);
    }
#define X(name)                                                                                    \
    ep.name =                                                                                      \
        (__typeof__(name) *)dlsym(strcmp(how, "default") == 0 ? RTLD_DEFAULT : library, #name);
    FUNCTIONS(X)
#undef X
#endif
}

#if defined(EP_ODD)
#ifdef EP_WIDE
EP_WIDE static void complete(void *handle, unsigned i)
{
    volatile ep_wide a = {1.5 + i, 2.5, 3.5, 4.5}, b = {2, 3, 4, 5};
    ep_wide product = ep.ncclEpComplete(handle, a, b);
    printf("complete returned %g %g %g %g\n", product[0], product[1], product[2], product[3]);
}
#else
static void complete(void *handle, unsigned i)
{
    printf("complete returned %g\n", ep.ncclEpComplete(handle, 1.5 + i, 2));
}
#endif

static __attribute__((noinline)) void round_trip(void *handle, unsigned i)
{
    struct ep_large large = {{11 + (long)i, 12, 13, 14, 15, 16, 17}};
    struct ep_pair pair = {0.25, 0.5};
    errno = 70;
    large = ep.ncclEpDispatch(handle, -1, -2, -3, 4, 'e', 6, 7, -8, 1.5, 2.5f, 3.5, 4.5f, 5.5, 6.5,
                              7.5, 8.5, 9.5, 10.5f, large, 12345.5L);
    printf("dispatch returned %ld %ld, errno %d\n", large.part[0], large.part[6], errno);
    printf("combine returned %g\n",
           ep.ncclEpCombine(handle, pair, "dlldddldddddddl", 1.0, 2L, 3L, 4.0, 5.0, 6.0, 7L, 8.0,
                            9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15L));
#ifdef EP_WIDE
    if (__builtin_cpu_supports("avx"))
        complete(handle, i);
#else
    complete(handle, i);
#endif
}
#else
static __attribute__((noinline)) void round_trip(void *handle, unsigned i)
{
    char *at = (char *)0x10000 + i;
#ifdef EP_NEW
    struct ep_named in = {sizeof(in), 0, at, NULL}, out = {sizeof(out), 0, at + 16, NULL};
    errno = 70;
    ncclResult_t dispatched =
        ep.ncclEpDispatch(handle, &in, &out, at + 32, at + 48, (cudaStream_t)0x51);
    printf("dispatch returned %d, errno %d\n", dispatched, errno);
    printf("combine returned %d\n",
           ep.ncclEpCombine(handle, &out, &in, at + 64, (cudaStream_t)0x52));
#else
    void *in = at, *out = at + 16, *local = at + 32;
    errno = 70;
    ncclResult_t dispatched =
        ep.ncclEpDispatch(handle, &in, 1, &out, 2, &local, 3, 4, at + 48, (cudaStream_t)0x51);
    printf("dispatch returned %d, errno %d\n", dispatched, errno);
    printf("combine returned %d\n",
           ep.ncclEpCombine(handle, &out, 5, &in, 6, &local, 7, 8, at + 64, (cudaStream_t)0x52));
#endif
    printf("complete returned %d\n", ep.ncclEpComplete(handle, at + 80, (cudaStream_t)0x53));
}
#endif

int main(int argc, char **argv)
{
    ncclUniqueId id;
    ncclComm_t comm;
    void *group = NULL, *handle = NULL;
    if (argc < 2)
        return 2;
    resolve(argv[1], argv[2]);
    if (ncclGetUniqueId(&id) || ncclCommInitRank(&comm, 2, id, 0))
        return 1;
    errno = 71;
    printf("group %d %p\n",
           ep.ncclEpCreateGroup(&group, comm, (void *)0x11, (cudaStream_t)0x12, (void *)0x13,
                                (void *)0x14),
           group);
    printf("handle %d %p\n",
           ep.ncclEpCreateHandle(&handle, group, (void *)0x21, (void *)0x22, (cudaStream_t)0x23),
           handle);
    for (volatile unsigned i = 0; i < 3;
         i++) /* one call site, whatever the compiler would make of it */
        round_trip(handle, i);
    printf("destroyed %d %d\n", ep.ncclEpHandleDestroy(handle), ep.ncclEpGroupDestroy(group));
    printf("%s", ep.ep_said());
    return ncclCommDestroy(comm) != ncclSuccess;
}
