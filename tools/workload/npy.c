/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads .npy files (format 1.0 to 3.0: magic, version, length, a Python dictionary as text, data).
 * The file is untrusted: every length is checked against the file's size before it is used.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "npy.h"

static int complain(char *error, size_t size, const char *path, const char *what)
{
    snprintf(error, size, "%s: %s", path, what);
    return -EINVAL;
}

/* The text after 'key': in the header's dictionary, or NULL. */
static const char *value_of(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *at = strstr(header, quoted);
    if (!at)
        return NULL;
    at += strlen(quoted);
    while (*at == ' ')
        at++;
    return at;
}

static const char *parse_type(struct skew_npy *npy, const char *text)
{
    /* '|u1', '<u2', '<i4', …: byte order, kind, width */
    if (!text || text[0] != '\'' || !strchr("|<=", text[1]) || !text[1])
        return "the element type is not little endian; store uint8, int16, int32 or int64";
    if ((text[2] != 'u' && text[2] != 'i') || !strchr("1248", text[3]) || !text[3] ||
        text[4] != '\'')
        return "the elements are not integers; store uint8, int16, int32 or int64";
    npy->is_signed = text[2] == 'i';
    npy->width = (unsigned)(text[3] - '0');
    return NULL;
}

static const char *parse_shape(struct skew_npy *npy, const char *text)
{
    if (!text || *text++ != '(')
        return "the header has no shape";
    npy->elements = 1;
    while (*text && *text != ')') {
        char *end;
        unsigned long long n = strtoull(text, &end, 10);
        if (end == text || npy->ndim == SKEW_NPY_AXES)
            return "the shape cannot be read, or has more than five axes";
        if (n == 0 || n > SIZE_MAX / 8 / npy->elements)
            return "the shape has an empty or an enormous axis";
        npy->shape[npy->ndim++] = n;
        npy->elements *= n;
        text = end + strspn(end, ", ");
    }
    return npy->ndim ? NULL : "the array has no axes";
}

static const char *parse_header(struct skew_npy *npy, const char *header)
{
    const char *order = value_of(header, "fortran_order");
    if (!order || strncmp(order, "False", 5) != 0)
        return "the array is not in C order; save numpy.ascontiguousarray(a)";
    const char *wrong = parse_type(npy, value_of(header, "descr"));
    return wrong ? wrong : parse_shape(npy, value_of(header, "shape"));
}

static const char *read_header(FILE *f, char **header)
{
    unsigned char head[12];
    if (fread(head, 1, 10, f) != 10 || memcmp(head, "\x93NUMPY", 6) != 0)
        return "not an .npy file";
    size_t len = head[8] | (size_t)head[9] << 8;
    if (head[6] > 3)
        return "an .npy format newer than 3.0";
    if (head[6] >= 2) {
        if (fread(head + 10, 1, 2, f) != 2)
            return "cut short";
        len |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
    }
    if (len > 1 << 20)
        return "the header is longer than a megabyte";
    *header = calloc(1, len + 1);
    if (!*header || fread(*header, 1, len, f) != len)
        return "cut short";
    return NULL;
}

static const char *read_data(FILE *f, struct skew_npy *npy)
{
    struct stat st;
    size_t bytes = npy->elements * npy->width;
    if (fstat(fileno(f), &st) || st.st_size - ftell(f) < (off_t)bytes)
        return "the file is shorter than its shape says";
    npy->data = malloc(bytes);
    if (!npy->data)
        return "does not fit into memory";
    return fread(npy->data, 1, bytes, f) == bytes ? NULL : "cut short";
}

int skew_npy_read(struct skew_npy **out, const char *path, char *error, size_t error_size)
{
    char *header = NULL;
    FILE *f = fopen(path, "rb");
    if (!f) {
        int err = errno;
        snprintf(error, error_size, "%s: %s", path, strerror(err));
        return -err;
    }
    struct skew_npy *npy = calloc(1, sizeof *npy);
    const char *wrong = npy ? read_header(f, &header) : "out of memory";
    if (!wrong)
        wrong = parse_header(npy, header);
    if (!wrong)
        wrong = read_data(f, npy);
    fclose(f);
    free(header);
    if (wrong) {
        skew_npy_close(&npy);
        return complain(error, error_size, path, wrong);
    }
    *out = npy;
    return 0;
}

void skew_npy_close(struct skew_npy **npy)
{
    if (*npy) {
        free((*npy)->data);
        free(*npy);
        *npy = NULL;
    }
}

int64_t skew_npy_at(const struct skew_npy *npy, size_t index)
{
    const uint8_t *p = npy->data + index * npy->width;
    uint64_t v = 0;
    for (unsigned i = 0; i < npy->width; i++)
        v |= (uint64_t)p[i] << (8 * i);
    if (npy->is_signed && npy->width < 8 && v >> (8 * npy->width - 1))
        v |= ~0ULL << (8 * npy->width);
    return (int64_t)v;
}
