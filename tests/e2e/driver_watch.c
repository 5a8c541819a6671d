/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded in front of the CUDA driver: counts what is called through the driver's own symbols, as
 * the tap does (the runtime has pointers of its own), and writes the totals at exit behind the file
 * named by WATCH_FILE. With WATCH_NO_WRITE set, the driver looks like one that cannot write words
 * from a stream.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned long waits, copies, writes, queries;

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

#define WAIT(name, params, args)                                                                   \
    int name params;                                                                               \
    int name params                                                                                \
    {                                                                                              \
        __atomic_fetch_add(&waits, 1, __ATOMIC_RELAXED);                                           \
        return REAL(#name, int(*) params) args;                                                    \
    }
WAIT(cuCtxSynchronize, (void), ())
WAIT(cuStreamSynchronize, (void *stream), (stream))
WAIT(cuEventSynchronize, (void *event), (event))
WAIT(cuMemcpy, (uint64_t to, uint64_t from, size_t bytes), (to, from, bytes))
WAIT(cuMemcpyDtoH_v2, (void *to, uint64_t from, size_t bytes), (to, from, bytes))
WAIT(cuMemFreeHost, (void *at), (at))

int cuMemcpyAsync(uint64_t to, uint64_t from, size_t bytes, void *stream);
int cuMemcpyAsync(uint64_t to, uint64_t from, size_t bytes, void *stream)
{
    __atomic_fetch_add(&copies, 1, __ATOMIC_RELAXED);
    return REAL("cuMemcpyAsync", int (*)(uint64_t, uint64_t, size_t, void *))(to, from, bytes,
                                                                              stream);
}

int cuStreamWriteValue32_v2(void *stream, uint64_t at, uint32_t value, unsigned flags);
int cuStreamWriteValue32_v2(void *stream, uint64_t at, uint32_t value, unsigned flags)
{
    if (getenv("WATCH_NO_WRITE"))
        return 801; /* CUDA_ERROR_NOT_SUPPORTED */
    __atomic_fetch_add(&writes, 1, __ATOMIC_RELAXED);
    return REAL("cuStreamWriteValue32_v2",
                int (*)(void *, uint64_t, uint32_t, unsigned))(stream, at, value, flags);
}

int cuEventQuery(void *event);
int cuEventQuery(void *event)
{
    __atomic_fetch_add(&queries, 1, __ATOMIC_RELAXED);
    return REAL("cuEventQuery", int (*)(void *))(event);
}

static __attribute__((destructor)) void tell(void)
{
    const char *path = getenv("WATCH_FILE");
    char line[128];
    int fd =
        path && copies + waits + queries ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (fd < 0)
        return;
    int n = snprintf(line, sizeof line, "%lu %lu %lu %lu\n", waits, copies, writes, queries);
    if (write(fd, line, (size_t)n) != n)
        abort();
    close(fd);
}
