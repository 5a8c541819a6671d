/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which exported functions the library calls through its PLT, and so through an interposer: the
 * same as NCCL, no more and no less. This program is the interposer: its own definitions come
 * first.
 */
#include <dlfcn.h>

#include "rig.h"

static struct {
    int broadcast, bcast, send, recv, alltoall, start, end, unique_id, version, async, reg, dereg,
        count, alloc, release;
} seen;

static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);

    CHECK(f != NULL);
    return f;
}
#define EXPORT __attribute__((visibility("default")))
#define WRAP(counter, name, args, ...)                                                             \
    EXPORT ncclResult_t name args                                                                  \
    {                                                                                              \
        __atomic_add_fetch(&seen.counter, 1, __ATOMIC_RELAXED);                                    \
        return ((ncclResult_t(*) args)real(#name))(__VA_ARGS__);                                   \
    }

WRAP(broadcast, ncclBroadcast,
     (const void *a, void *b, size_t n, ncclDataType_t t, int r, ncclComm_t c, cudaStream_t s), a,
     b, n, t, r, c, s)
WRAP(bcast, ncclBcast, (void *a, size_t n, ncclDataType_t t, int r, ncclComm_t c, cudaStream_t s),
     a, n, t, r, c, s)
WRAP(send, ncclSend,
     (const void *a, size_t n, ncclDataType_t t, int r, ncclComm_t c, cudaStream_t s), a, n, t, r,
     c, s)
WRAP(recv, ncclRecv, (void *a, size_t n, ncclDataType_t t, int r, ncclComm_t c, cudaStream_t s), a,
     n, t, r, c, s)
WRAP(start, ncclGroupStart, (void))
WRAP(end, ncclGroupEnd, (void))
WRAP(unique_id, ncclGetUniqueId, (ncclUniqueId * id), id)
WRAP(version, ncclGetVersion, (int *v), v)
WRAP(async, ncclCommGetAsyncError, (ncclComm_t c, ncclResult_t *r), c, r)
WRAP(count, ncclCommCount, (const ncclComm_t c, int *n), c, n)
#ifndef OLD /* the library of 2.18 has none of these */
WRAP(alltoall, ncclAlltoAll,
     (const void *a, void *b, size_t n, ncclDataType_t t, ncclComm_t c, cudaStream_t s), a, b, n, t,
     c, s)
WRAP(reg, ncclCommRegister, (const ncclComm_t c, void *p, size_t n, void **h), c, p, n, h)
WRAP(dereg, ncclCommDeregister, (const ncclComm_t c, void *h), c, h)
WRAP(alloc, ncclMemAlloc, (void **p, size_t n), p, n)
WRAP(release, ncclMemFree, (void *p), p)
#endif

#define EXPECT(counter, n)                                                                         \
    do {                                                                                           \
        CHECK_EQ(seen.counter, n);                                                                 \
        seen.counter = 0;                                                                          \
    } while (0)

static void clear(void)
{
    memset(&seen, 0, sizeof(seen));
}

#ifndef OLD
static void newer_calls(ncclComm_t *comms, cudaStream_t *streams, char *p)
{
    void *handle;
    ncclWindow_t window;

    clear();
    OK(ncclGroupStart());
    for (int r = 0; r < 2; r++)
        OK(ncclAlltoAll(p + 32 * r, p + 64 + 32 * r, 8, ncclInt8, comms[r], streams[r]));
    OK(ncclGroupEnd());
    EXPECT(alltoall, 2);
    EXPECT(send, 0);
    EXPECT(recv, 0);
    EXPECT(start, 1);
    OK(ncclCommRegister(comms[0], p, 64, &handle));
    OK(ncclCommDeregister(comms[0], handle));
    EXPECT(reg, 1);
    EXPECT(dereg, 1);
    OK(ncclCommWindowRegister(comms[0], p, 64, &window, 1));
    OK(ncclCommWindowDeregister(comms[0], window));
    EXPECT(reg, 2); /* the first symmetric window brings one of the library's own */
    EXPECT(dereg, 1);
    EXPECT(alloc, 1);
}
#endif

static void body(struct rig *rig)
{
    ncclComm_t comms[2];
    cudaStream_t streams[2] = {rig->stream}; /* with one for both ranks, NCCL would deadlock */
    char *p = rig_alloc(128);
    int count, version;

    OK(((ncclResult_t(*)(int *))real("ncclGetVersion"))(&version));
    rig_device(1);
    streams[1] = rig_stream();
    rig_device(0);
    bool old_send = version < 22400, old_init = version < 22500;

    clear();
    OK(ncclCommInitAll(comms, 2, NULL));
    EXPECT(unique_id, 1);
    EXPECT(start, old_init);
    EXPECT(end, old_init);
    EXPECT(version, 2); /* ranks compare their versions */

    clear();
    OK(ncclCommCount(comms[0], &count));
    EXPECT(count, 1);
    EXPECT(async, 1); /* is it ready? */

    clear();
    OK(ncclGroupStart());
    for (int r = 0; r < 2; r++)
        OK(ncclBcast(p + 8 * r, 8, ncclInt8, 0, comms[r], streams[r]));
    OK(ncclGroupEnd());
    EXPECT(bcast, 2);
    EXPECT(broadcast, 2);
    EXPECT(start, 1);
    EXPECT(end, 1);

    clear();
    OK(ncclGroupStart());
    for (int r = 0; r < 2; r++) {
        OK(ncclSend(p + 8 * r, 8, ncclInt8, !r, comms[r], streams[r]));
        OK(ncclRecv(p + 16 + 8 * r, 8, ncclInt8, !r, comms[r], streams[r]));
    }
    OK(ncclGroupEnd());
    EXPECT(send, 2);
    EXPECT(recv, 2);
    EXPECT(start, old_send ? 5 : 1);
    EXPECT(end, old_send ? 5 : 1);
#ifndef OLD
    newer_calls(comms, streams, p);
#endif
    clear();
    rig_sync(streams[0]);
    rig_sync(streams[1]);
    OK(ncclGroupStart());
    for (int r = 0; r < 2; r++)
        OK(ncclCommDestroy(comms[r]));
    OK(ncclGroupEnd());
    EXPECT(start, 1);
    EXPECT(end, 1);
#ifndef OLD
    EXPECT(release, 1);
    EXPECT(dereg, 1);
#endif
}

int main(void)
{
    return rig_threads("re-entry", 1, body) != 0;
}
