/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks by weak references what its NCCL can do, as programs do that must run on several releases.
 * Prints "NAME 0|1" for each way in which a compiler writes the question.
 */
#include <stdio.h>

#pragma weak ncclSend
#pragma weak ncclAlltoAll
#pragma weak ncclCommShrink
#pragma weak cudaGraphLaunch
#include "nccl_decls.h"

int cudaGraphLaunch(void *exec, void *stream);

typedef ncclResult_t (*alltoall)(const void *, void *, size_t, ncclDataType_t, ncclComm_t,
                                 cudaStream_t);

alltoall from_data = ncclAlltoAll;               /* a relocation in writable data */
static alltoall const from_relro = ncclAlltoAll; /* … and in data that becomes read-only */

int main(void)
{
    const alltoall *volatile relro = &from_relro;
    printf("ncclSend %d\n", ncclSend != NULL);
    printf("ncclAlltoAll %d\n", ncclAlltoAll != NULL);
    printf("ncclAlltoAll in data %d\n", from_data != NULL);
    printf("ncclAlltoAll in read-only data %d\n", *relro != NULL);
    printf("ncclCommShrink %d\n", ncclCommShrink != NULL);
    printf("cudaGraphLaunch %d\n", cudaGraphLaunch != NULL);
    if (ncclAlltoAll)
        ncclAlltoAll(NULL, NULL, 1, ncclInt8, NULL, NULL);
    return 0;
}
