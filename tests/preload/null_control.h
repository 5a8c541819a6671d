/* SPDX-License-Identifier: Apache-2.0 */
/* How a test steers and reads the do-nothing NCCL; each loaded copy has its own. */
#ifndef NULL_CONTROL_H
#define NULL_CONTROL_H

#include "nccl_abi.h"

#define NULL_NAMES_MAX 128

struct null_nccl {
    int version; /* major * 100 + minor */
    /* Read: how often each function was called. */
    struct {
        const char *name;
        unsigned times;
    } calls[NULL_NAMES_MAX];
    /* Written: */
    const char *fail_name; /* this function fails once, after fail_skip good calls … */
    int fail_skip;
    int fail_with;    /* … with this result */
    int data_result;  /* what all data calls return; ncclInProgress also makes communicators busy */
    int group_result; /* what outermost group ends return */
    int set_errno;    /* errno after every call, if not 0 */
    void (*hook)(const char *name); /* called by every function, inside NCCL */
    void (*finish)(void);           /* stores all late pointers, from a thread of NCCL's own */
    void (*forget)(void);           /* such pointers will never be stored */
    ncclComm_t (*make)(int ranks, int rank,
                       int device); /* a communicator that no constructor has made */
};

struct null_nccl *null_nccl_control(void);

#endif
