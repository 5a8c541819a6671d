/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can be asked of a real NCCL without a GPU: its error codes, its group rules, its calls to
 * itself. Prints each answer; real_nccl.py compares them with and without the library.
 */
#include <stdio.h>
#include <string.h>

#include "nccl_decls.h"

#define SAY(call) printf("%s: %d\n", #call, (int)(call))

int main(void)
{
    int version = 0, count = -1;
    ncclUniqueId id;
    ncclComm_t comm = (ncclComm_t)0x1234;
    ncclResult_t result;
    memset(&id, 0, sizeof(id));
    SAY(ncclGetVersion(&version));
    printf("version %d\n", version);
    printf("%s\n", ncclGetErrorString(ncclInvalidArgument));
    SAY(ncclGroupStart());
    SAY(ncclGroupEnd());
    SAY(ncclGroupEnd()); /* one too many */
    SAY(ncclGroupStart());
    SAY(ncclSend(NULL, 1, ncclInt8, 0, NULL, NULL));
    SAY(ncclRecv(NULL, 1, ncclInt8, 0, NULL, NULL));
    SAY(ncclGroupEnd()); /* the failing call has poisoned the group: nothing of it may be recorded
                          */
    SAY(ncclGroupStart());
    SAY(ncclGroupStart());
    SAY(ncclGroupEnd());
    SAY(ncclGroupEnd());
    SAY(ncclSend(NULL, 1, ncclInt8, 0, NULL, NULL));
    SAY(ncclBcast(NULL, 1, ncclInt8, 0, NULL, NULL)); /* calls ncclBroadcast by its exported name */
    SAY(ncclAllReduce(NULL, NULL, 1, ncclInt8, ncclSum, NULL, NULL));
    SAY(ncclAllGather(NULL, NULL, 1, ncclInt8, NULL, NULL));
    SAY(ncclCommCount(NULL, &count));
    SAY(ncclCommGetAsyncError(NULL, &result));
    SAY(ncclCommFinalize(NULL));
    SAY(ncclCommDestroy(NULL));
    SAY(ncclCommAbort(NULL));
    SAY(ncclCommInitRank(&comm, 0, id, 0));
    printf("the pointer is %s\n", comm == (ncclComm_t)0x1234 ? "as it was" : "changed");
    SAY(ncclCommSplit(NULL, 0, 0, &comm, NULL));
    SAY(ncclCommInitAll(NULL, 1, NULL));
    SAY(ncclGetUniqueId(NULL));
    return 0;
}
