/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STANDIN_MODULE_H
#define STANDIN_MODULE_H

#include "engine.h"

/* A module or a library (one thing here); it hands out functions by name. */
struct CUmod_st {
    uint32_t magic;
    pthread_mutex_t lock;
    struct CUfunc_st *functions; /* guarded by lock */
};

CUresult si_function_check(CUfunction function);
CUfunction si_function_named(const char *name); /* of no module that anyone loaded */
const char *si_name_intern(const char *name);   /* lives for ever; NULL out of memory */

#endif
