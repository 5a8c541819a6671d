/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which communication libraries and MoE frameworks a job could use: found by names of files,
 * nothing is loaded or run.
 */
#ifndef SKEW_PACKAGES_H
#define SKEW_PACKAGES_H

/** `version` may be NULL. The strings are borrowed for the call. */
typedef void skew_package_fn(void *user, const char *name, const char *version, const char *path);

/**
 * Searches LD_LIBRARY_PATH, the loader's cache, and the site-packages of PYTHONPATH, VIRTUAL_ENV,
 * CONDA_PREFIX and of the python that PATH finds first. Each path is told once.
 */
void skew_packages_find(skew_package_fn *take, void *user);

#endif
