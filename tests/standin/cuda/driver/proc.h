/* SPDX-License-Identifier: Apache-2.0 */
/* The table behind cuGetProcAddress, generated from driver.api and sorted by name and version. */
#ifndef STANDIN_PROC_H
#define STANDIN_PROC_H

struct si_proc {
    const char *name; /* without a version suffix */
    int since;        /* CUDA version, as 1000 * major + 10 * minor */
    void *function;
    void *per_thread; /* its _ptsz or _ptds spelling, or NULL */
};

extern const struct si_proc si_procs[];
extern const unsigned si_proc_count;

#endif
