/* SPDX-License-Identifier: Apache-2.0 */
/* What a loaded object is, by its file name (schema/backends.json, compiled in). */
#ifndef SKEW_COLLECT_BACKENDS_H
#define SKEW_COLLECT_BACKENDS_H

struct skew_backend {
    const char *role;   /* module.role */
    const char *name;   /* for people */
    const char *unseen; /* which traffic no NCCL call shows; NULL: none */
    const char *const *patterns;
};

/** The first entry that matches the last part of `path`, or NULL. */
const struct skew_backend *skew_backend_of(const char *path);

#endif
