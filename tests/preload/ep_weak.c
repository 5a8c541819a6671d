/* SPDX-License-Identifier: Apache-2.0 */
/* Asks by weak references whether NCCL EP is there: a program, or (EP_LIBRARY) a library. */
#include <stdio.h>

#include "nccl_decls.h"

extern ncclResult_t ncclEpDispatch(void) __attribute__((weak));
extern ncclResult_t ncclEpUpdateHandle(void) __attribute__((weak));

#ifdef EP_LIBRARY
int weak_dispatch(void);
int weak_dispatch(void)
{
    return ncclEpDispatch ? (int)ncclEpDispatch() : -1;
}
#else
int main(void)
{
    printf("ncclEpDispatch %d\nncclEpUpdateHandle %d\n", ncclEpDispatch != NULL,
           ncclEpUpdateHandle != NULL);
    return 0;
}
#endif
