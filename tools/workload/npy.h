/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small reader of NumPy's .npy files: integers, C order, little endian, up to five axes.
 */
#ifndef SKEW_WORKLOAD_NPY_H
#define SKEW_WORKLOAD_NPY_H

#include <stddef.h>
#include <stdint.h>

#define SKEW_NPY_AXES 5

struct skew_npy {
    unsigned ndim;
    size_t shape[SKEW_NPY_AXES];
    size_t elements;
    unsigned width; /* bytes of an element: 1, 2, 4 or 8 */
    int is_signed;
    uint8_t *data; /* owned */
};

/**
 * Reads a whole file. On failure *out is untouched and `error` holds one sentence.
 * @return 0 or a negative errno (-EINVAL: not such a file).
 */
int skew_npy_read(struct skew_npy **out, const char *path, char *error, size_t error_size);
void skew_npy_close(struct skew_npy **npy);

/** Element `index` of the flat array. */
int64_t skew_npy_at(const struct skew_npy *npy, size_t index);

#endif
