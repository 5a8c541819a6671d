/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the parts of skewscope lie, found from where this executable lies: in the build tree or
 * after `meson install`, wherever that was moved to.
 */
#ifndef SKEW_PATHS_H
#define SKEW_PATHS_H

#include <stdbool.h>

/** This executable, absolute. Borrowed; NULL (and errno) when /proc does not say. */
const char *skew_path_self(void);

/**
 * libskewscope.so: $SKEWSCOPE_LIB, else beside this executable. Explains itself on standard error
 * when there is none, or when it lies where it would not work.
 * @return 0 with *path owned by the caller, or a negative errno.
 */
int skew_path_library(char **path);

/** The directory of the stand-in libraries; likewise. */
int skew_path_standin(char **path);

/**
 * DIR made absolute, its %h %p %r replaced by host, process id and rank.
 * @return 0, -EINVAL after one sentence, or another negative errno.
 */
int skew_path_expand(const char *dir, char **path);

/** The directory given by `out`, or the default: skewscope-$SLURM_JOB_ID, else skewscope-trace. */
int skew_path_out(const char *out, char **path);

/** Makes a directory and its parents, 0700 where made; 0 or a negative errno. */
int skew_path_make(const char *dir);

/** Rank of this process by RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK or PMI_RANK; NULL: unknown. */
const char *skew_path_rank(void);

#endif
