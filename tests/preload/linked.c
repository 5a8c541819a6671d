/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linked to NCCL in the usual way. With LINKED_LIBRARY it is a library with DT_NEEDED libnccl.so.2
 * and an RPATH, as libtorch_cuda.so is; else a program: linked [COUNT].
 */
#include <dlfcn.h>

#include "exchange_once.h"

int exchange(size_t count);
int exchange(size_t count)
{
    struct nccl_functions nccl = NCCL_LINKED;
    return exchange_once(&nccl, count);
}

#ifdef LINKED_LIBRARY
int sees(const char *symbol);
int sees(const char *symbol)
{
    void *found = dlsym(RTLD_DEFAULT, symbol);
    return found != NULL; /* not by a tail call: the caller is who asks */
}
#else
int main(int argc, char **argv)
{
    return exchange(argc > 1 ? strtoul(argv[1], NULL, 10) : 1);
}
#endif
