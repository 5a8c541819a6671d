/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a matrix from text: see matrix_file.h.
 */
#include "matrix_file.h"
#include "term.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RANKS_MAX 65536u

struct numbers {
    uint64_t *all;
    size_t count, room;
};

static int append(struct numbers *n, uint64_t value)
{
    if (n->count == n->room) {
        size_t more = n->room ? 2 * n->room : 256;
        void *bigger = realloc(n->all, more * sizeof *n->all);
        if (!bigger) {
            skew_tell("out of memory");
            return -ENOMEM;
        }
        n->all = bigger;
        n->room = more;
    }
    n->all[n->count++] = value;
    return 0;
}

/* The numbers of one line; how many, or a negative errno. */
static long read_line(struct numbers *n, const char *text, const char *path, size_t line)
{
    long count = 0;

    for (;;) {
        char *end = NULL;
        while (isspace((unsigned char)*text))
            text++;
        if (*text == '\0' || (*text == '#' && count == 0))
            return count;
        errno = 0;
        unsigned long long value = isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : 0;
        if (!end || errno || (*end && !isspace((unsigned char)*end))) {
            skew_tell("%s, line %zu, column %ld: not a whole number of bytes; a matrix file has "
                      "one row a "
                      "line, numbers between spaces",
                      path, line, count + 1);
            return -EINVAL;
        }
        if (append(n, value) < 0)
            return -ENOMEM;
        count++;
        text = end;
    }
}

/* All rows as long as the first, and as many. */
static int read_rows(struct numbers *n, FILE *file, const char *path, uint32_t *ranks)
{
    char *text = NULL;
    size_t size = 0, line = 0, rows = 0;
    long width = 0, result = 0;

    while (result >= 0 && getline(&text, &size, file) >= 0) {
        result = read_line(n, text, path, ++line);
        if (result <= 0)
            continue;
        width = width ? width : result;
        rows++;
        if (result != width || (size_t)width > RANKS_MAX) {
            skew_tell(
                "%s, line %zu: %ld numbers where the first row has %ld; the matrix must be square",
                path, line, result, width);
            result = -EINVAL;
        }
    }
    free(text);
    if (result < 0)
        return (int)result;
    if (ferror(file) || rows == 0 || rows != (size_t)width) {
        if (ferror(file))
            skew_tell("%s: cannot be read: %s", path, strerror(errno));
        else
            skew_tell("%s: %zu rows of %ld numbers; the matrix must be square and not empty", path,
                      rows, width);
        return -EINVAL;
    }
    *ranks = (uint32_t)width;
    return 0;
}

int skew_matrix_file_read(struct skew_matrix **out, const char *path)
{
    struct numbers n = {0};
    uint32_t ranks = 0;
    FILE *file = fopen(path, "re");

    *out = NULL;
    if (!file) {
        int result = -errno;
        skew_tell("%s: cannot be opened: %s", path, strerror(errno));
        return result;
    }
    int result = read_rows(&n, file, path, &ranks);
    fclose(file);
    if (result == 0) {
        result = skew_matrix_create(out, ranks);
        if (result < 0)
            skew_tell("%s: %u ranks: out of memory", path, ranks);
        else
            memcpy((*out)->bytes, n.all, n.count * sizeof *n.all);
    }
    free(n.all);
    return result;
}
