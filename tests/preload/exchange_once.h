/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One exchange of `count` int32 with rank 1 of a new communicator of two ranks, through functions
 * that `resolve` finds. The count tells the exchanges of a program apart.
 */
#ifndef EXCHANGE_ONCE_H
#define EXCHANGE_ONCE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_decls.h"

struct nccl_functions {
    __typeof__(ncclGetUniqueId) *get_unique_id;
    __typeof__(ncclCommInitRank) *init_rank;
    __typeof__(ncclGroupStart) *group_start;
    __typeof__(ncclGroupEnd) *group_end;
    __typeof__(ncclSend) *send;
    __typeof__(ncclRecv) *recv;
    __typeof__(ncclCommDestroy) *destroy;
};

static inline int exchange_once(const struct nccl_functions *nccl, size_t count)
{
    ncclUniqueId id;
    ncclComm_t comm;
    if (nccl->get_unique_id(&id) || nccl->init_rank(&comm, 2, id, 0))
        return 1;
    nccl->group_start();
    nccl->send(NULL, count, ncclInt32, 1, comm, NULL);
    nccl->recv(NULL, count, ncclInt32, 1, comm, NULL);
    if (nccl->group_end())
        return 2;
    return nccl->destroy(comm) ? 3 : 0;
}

/* By name, from anything that finds a function. */
#define NCCL_FUNCTIONS(find)                                                                       \
    {                                                                                              \
        (__typeof__(ncclGetUniqueId) *)(find)("ncclGetUniqueId"),                                  \
            (__typeof__(ncclCommInitRank) *)(find)("ncclCommInitRank"),                            \
            (__typeof__(ncclGroupStart) *)(find)("ncclGroupStart"),                                \
            (__typeof__(ncclGroupEnd) *)(find)("ncclGroupEnd"),                                    \
            (__typeof__(ncclSend) *)(find)("ncclSend"),                                            \
            (__typeof__(ncclRecv) *)(find)("ncclRecv"),                                            \
            (__typeof__(ncclCommDestroy) *)(find)("ncclCommDestroy")                               \
    }

/* As the linker binds them. */
#define NCCL_LINKED                                                                                \
    {                                                                                              \
        ncclGetUniqueId, ncclCommInitRank, ncclGroupStart, ncclGroupEnd, ncclSend, ncclRecv,       \
            ncclCommDestroy                                                                        \
    }

#endif
