/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linked to NVIDIA's static CUDA runtime: prints which functions it asks the driver for, in which
 * version, with which flags, and in which object the answer lies. The runtime's own dlsym() comes
 * here first (--wrap).
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int cudaGetDeviceCount(int *count);
void *__real_dlsym(void *handle, const char *name);
void *__wrap_dlsym(void *handle, const char *name);

typedef int (*lookup)(const char *, void **, int, uint64_t, int *);

static lookup first, second;

static const char *owner(const void *address)
{
    Dl_info info;
    if (!address || !dladdr(address, &info) || !info.dli_fname)
        return "nowhere";
    const char *slash = strrchr(info.dli_fname, '/');
    return slash ? slash + 1 : info.dli_fname;
}

static int ask(lookup get, const char *name, void **pfn, int version, uint64_t flags, int *status)
{
    int result = get(name, pfn, version, flags, status);
    printf("%s %d %llu %s\n", name, version, (unsigned long long)flags,
           result == 0 ? owner(*pfn) : "nowhere");
    return result;
}

static int by_second(const char *name, void **pfn, int version, uint64_t flags, int *status)
{
    return ask(second, name, pfn, version, flags, status);
}

static int by_first(const char *name, void **pfn, int version, uint64_t flags, int *status)
{
    int result = ask(first, name, pfn, version, flags, status);
    if (result == 0 && strcmp(name, "cuGetProcAddress") == 0 && version >= 12000) {
        second = (lookup)*pfn;
        *pfn = (void *)by_second;
    }
    return result;
}

void *__wrap_dlsym(void *handle, const char *name)
{
    void *found = __real_dlsym(handle, name);
    if (strcmp(name, "cuGetProcAddress_v2") != 0)
        return found;
    printf("%s 0 0 %s\n", name, owner(found));
    first = (lookup)found;
    return found ? (void *)by_first : NULL;
}

int main(void)
{
    int count = -1, result = cudaGetDeviceCount(&count);
    printf("result %d %d\n", result, count);
    return 0;
}
