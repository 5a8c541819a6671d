/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrices of an exchange, row the sender: one file each in bytes as nccl-tests reads them, or a
 * series of token counts, [dispatch][src][dst] in .npy or as text with blank lines between.
 */
#include "import.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../matrix_file.h"
#include "../term.h"

int skew_import_nccl_tests(struct skew_import *import, const char *file)
{
    struct skew_matrix *matrix;
    int result = skew_matrix_file_read(&matrix, file);

    if (result < 0)
        return result;
    uint64_t *bytes = malloc((size_t)matrix->ranks * matrix->ranks * sizeof *bytes);
    if (bytes && matrix->ranks <= SKEW_IMPORT_RANKS_MAX) {
        memcpy(bytes, matrix->bytes, (size_t)matrix->ranks * matrix->ranks * sizeof *bytes);
        result = skew_import_matrix_add(import, matrix->ranks, (int64_t)import->matrix_count,
                                        import->options.layer_base, bytes, file);
    } else {
        skew_tell("%s: %u ranks are more than %u, or too many for the memory", file, matrix->ranks,
                  SKEW_IMPORT_RANKS_MAX);
        free(bytes);
        result = -EINVAL;
    }
    skew_matrix_free(&matrix);
    return result;
}

/* ---- .npy -------------------------------------------------------------------------------------
 */

static int take_npy(struct skew_import *import, const struct skew_npy *npy, const size_t *stride,
                    const size_t *size, const char *file)
{
    size_t ranks = size[2];

    for (size_t s = 0; s < size[0]; s++)
        for (size_t l = 0; l < size[1]; l++) {
            uint64_t *bytes = malloc(ranks * ranks * sizeof *bytes);
            if (!bytes) {
                skew_tell("%s: out of memory", file);
                return -ENOMEM;
            }
            for (size_t i = 0; i < ranks * ranks; i++) {
                size_t at =
                    s * stride[0] + l * stride[1] + i / ranks * stride[2] + i % ranks * stride[3];
                if (skew_npy_at(npy, at, &bytes[i]) && bytes[i] < (uint64_t)1 << 40) {
                    bytes[i] *= (uint64_t)import->options.token_bytes;
                    continue;
                }
                skew_tell("%s: dispatch %zu, layer %zu, from rank %zu to %zu: not a whole number "
                          "of tokens",
                          file, s, l, i / ranks, i % ranks);
                free(bytes);
                return -EINVAL;
            }
            int result =
                skew_import_matrix_add(import, (uint32_t)ranks, (int64_t)s,
                                       import->options.layer_base + (int64_t)l, bytes, file);
            if (result < 0)
                return result;
        }
    return 0;
}

static int from_npy(struct skew_import *import, const char *file)
{
    static const char *const names[4] = {"step", "layer", "src", "dst"};
    static const char *const usual[] = {NULL, NULL, "src,dst", "step,src,dst",
                                        "step,layer,src,dst"};
    size_t size[4], stride[4];
    uint32_t named = 0;
    struct skew_npy npy;
    char shape[160];
    int result = skew_npy_read(&npy, file);

    if (result < 0)
        return result;
    const char *axes = import->options.axes;
    if (!axes)
        axes = npy.dims >= 2 && npy.dims <= 4 ? usual[npy.dims] : "";
    for (int i = 0; i < 4; i++) {
        int axis = skew_import_axis(axes, names[i]);
        bool here = axis >= 0 && (uint32_t)axis < npy.dims;
        size[i] = here ? npy.shape[axis] : 1;
        stride[i] = here ? npy.stride[axis] : 0;
        named += here;
    }
    if (named != npy.dims || size[2] != size[3] || size[2] < 2 || npy.count == 0 ||
        size[2] > SKEW_IMPORT_RANKS_MAX) {
        skew_tell("%s: shape %s is no series of square matrices; its axes are [step, src, dst], "
                  "or say with --axes, of step, layer, src and dst",
                  file, skew_npy_shape(&npy, shape));
        result = -EINVAL;
    }
    if (result == 0)
        result = take_npy(import, &npy, stride, size, file);
    skew_npy_free(&npy);
    return result;
}

/* ---- text -------------------------------------------------------------------------------------
 */

struct block {
    uint64_t *cell;
    size_t count, room, width, rows;
};

/* A row of numbers between white space or commas; how many. −EINVAL is told. */
static long read_row(struct block *b, const char *text, const char *file, size_t line)
{
    long count = 0;

    for (;;) {
        text += strspn(text, " \t\r\n,;");
        if (*text == '\0' || (*text == '#' && count == 0))
            return count;
        char *end = NULL;
        errno = 0;
        unsigned long long value = isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : 0;
        if (!end || errno || (*end && !strchr(" \t\r\n,;", *end)) || value >> 40) {
            skew_tell("%s, line %zu, number %ld: not a whole number of tokens", file, line,
                      count + 1);
            return -EINVAL;
        }
        if (b->count == b->room) {
            size_t room = b->room ? 2 * b->room : 256;
            void *bigger = realloc(b->cell, room * sizeof *b->cell);
            if (!bigger) {
                skew_tell("%s: out of memory", file);
                return -ENOMEM;
            }
            b->cell = bigger;
            b->room = room;
        }
        b->cell[b->count++] = value;
        count++;
        text = end;
    }
}

/* A block is complete: rows × width numbers become a matrix. */
static int end_block(struct skew_import *import, struct block *b, const char *file, size_t line)
{
    size_t ranks = b->width;

    if (b->rows == 0)
        return 0;
    if (b->rows != ranks || ranks > SKEW_IMPORT_RANKS_MAX) {
        skew_tell("%s, line %zu: a matrix of %zu rows and %zu columns ends here; each must be "
                  "square, with a blank line behind it (is the file truncated?)",
                  file, line, b->rows, ranks);
        return -EINVAL;
    }
    uint64_t *bytes = malloc(ranks * ranks * sizeof *bytes);
    if (!bytes) {
        skew_tell("%s: out of memory", file);
        return -ENOMEM;
    }
    for (size_t i = 0; i < ranks * ranks; i++)
        bytes[i] = b->cell[i] * (uint64_t)import->options.token_bytes;
    b->count = b->rows = b->width = 0;
    return skew_import_matrix_add(import, (uint32_t)ranks, (int64_t)import->matrix_count,
                                  import->options.layer_base, bytes, file);
}

static int from_text(struct skew_import *import, const char *file)
{
    FILE *in = fopen(file, "re");
    struct block b = {0};
    char *text = NULL;
    size_t size = 0, line = 0, before = import->matrix_count;
    int result = 0;

    if (!in) {
        result = -errno;
        skew_tell("%s: cannot be opened: %s", file, strerror(errno));
        return result;
    }
    while (result == 0 && getline(&text, &size, in) >= 0) {
        long count = read_row(&b, text, file, ++line);
        if (count < 0) {
            result = (int)count;
        } else if (count == 0) {
            result = *text == '#' ? 0 : end_block(import, &b, file, line);
        } else {
            b.width = b.rows ? b.width : (size_t)count;
            b.rows++;
            if ((size_t)count != b.width) {
                skew_tell("%s, line %zu: %ld numbers where the rows before have %zu", file, line,
                          count, b.width);
                result = -EINVAL;
            } else if (b.rows == b.width) {
                result = end_block(import, &b, file, line);
            }
        }
    }
    if (result == 0)
        result = end_block(import, &b, file, line);
    if (result == 0 && import->matrix_count == before) {
        skew_tell("%s: no matrix in it", file);
        result = -EINVAL;
    }
    free(b.cell);
    free(text);
    fclose(in);
    return result;
}

int skew_import_matrices(struct skew_import *import, const char *file)
{
    size_t length = strlen(file);

    return length > 4 && strcmp(file + length - 4, ".npy") == 0 ? from_npy(import, file)
                                                                : from_text(import, file);
}
