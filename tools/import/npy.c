/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NumPy's .npy files, format versions 1 to 3: a header that is a Python dictionary literal, then
 * the elements. Only numbers; objects (pickles) are refused, never loaded.
 */
#include "import.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../term.h"

int skew_import_slurp(char **text, size_t *size, const char *file)
{
    FILE *in = fopen(file, "re");
    struct stat facts;
    int result = 0;

    *text = NULL;
    *size = 0;
    if (!in || fstat(fileno(in), &facts) < 0 || S_ISDIR(facts.st_mode)) {
        result = in && S_ISDIR(facts.st_mode) ? -EISDIR : -errno;
        skew_tell("%s: cannot be read: %s", file, strerror(-result));
    }
    for (size_t room = 0; result == 0;) {
        if (*size + 1 >= room) {
            room = room ? 2 * room : (size_t)(facts.st_size > 0 ? facts.st_size : 4096) + 2;
            char *bigger = realloc(*text, room);
            if (!bigger) {
                skew_tell("%s: out of memory", file);
                result = -ENOMEM;
                break;
            }
            *text = bigger;
        }
        size_t got = fread(*text + *size, 1, room - *size - 1, in);
        *size += got;
        if (got == 0)
            break;
    }
    if (result == 0 && ferror(in)) {
        skew_tell("%s: cannot be read: %s", file, strerror(errno));
        result = -EIO;
    }
    if (in)
        fclose(in);
    if (result < 0) {
        free(*text);
        *text = NULL;
    } else {
        (*text)[*size] = '\0';
    }
    return result;
}

/* What follows 'key': in the header. */
static const char *header_value(const char *header, const char *key)
{
    char quoted[32];

    for (const char *quote = "'\""; *quote; quote++) {
        snprintf(quoted, sizeof quoted, "%c%s%c", *quote, key, *quote);
        const char *found = strstr(header, quoted);
        if (found) {
            found += strlen(quoted);
            found += strspn(found, " :");
            return found;
        }
    }
    return NULL;
}

static int bad(const char *file, const char *what)
{
    skew_tell("%s: not a usable .npy file: %s; save it with numpy.save(file, array) as integers",
              file, what);
    return -EINVAL;
}

static int parse_type(struct skew_npy *npy, const char *descr, const char *file)
{
    char order = descr ? descr[0] : 0, kind = 0;
    unsigned width = 0;

    if (order != '\'' && order != '"')
        return bad(file, "its header names no single data type");
    order = descr[1];
    if (order == '|' || order == '<' || order == '>' || order == '=')
        descr++;
    else
        order = '<';
    if (sscanf(descr + 1, "%c%u", &kind, &width) != 2 || !strchr("uifb", kind) || width == 0 ||
        (kind == 'f' ? width != 4 && width != 8
                     : width != 1 && width != 2 && width != 4 && width != 8)) {
        char what[96];
        snprintf(what, sizeof what,
                 "data type '%.*s', where whole numbers of 1 to 8 bytes are read",
                 (int)strcspn(descr + 1, "'\"") % 16, descr + 1);
        return bad(file, what);
    }
    npy->kind = kind;
    npy->width = width;
    npy->big = order == '>';
    return 0;
}

static int parse_shape(struct skew_npy *npy, const char *shape, bool fortran, const char *file)
{
    npy->count = 1;
    if (!shape || *shape != '(')
        return bad(file, "its header has no shape");
    for (shape++; *shape && *shape != ')';) {
        char *end;
        errno = 0;
        unsigned long long size = strtoull(shape, &end, 10);
        if (end == shape || errno || npy->dims == SKEW_NPY_DIMS)
            return bad(file, "its shape cannot be read or has more than 8 dimensions");
        if (size && npy->count > SIZE_MAX / 16 / size)
            return bad(file, "its shape is larger than any file");
        npy->shape[npy->dims++] = (size_t)size;
        npy->count *= (size_t)size;
        shape = end + strspn(end, " ,L");
    }
    size_t stride = 1;
    for (uint32_t i = 0; i < npy->dims; i++) {
        uint32_t d = fortran ? i : npy->dims - 1 - i;
        npy->stride[d] = stride;
        stride *= npy->shape[d];
    }
    return 0;
}

int skew_npy_read(struct skew_npy *npy, const char *file)
{
    char *text;
    size_t size, length, start;

    memset(npy, 0, sizeof *npy);
    int result = skew_import_slurp(&text, &size, file);
    if (result < 0)
        return result;
    npy->memory = text;
    const unsigned char *b = (const unsigned char *)text;
    if (size < 10 || memcmp(b, "\x93NUMPY", 6) != 0) {
        result = bad(file, "it does not begin as one");
    } else {
        bool one = b[6] == 1;
        start = one ? 10 : 12;
        length = size < 12 ? size : (size_t)b[8] | (size_t)b[9] << 8;
        if (!one && size >= 12)
            length |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
        if (length > size || start + length > size)
            result = bad(file, "it is truncated within the header");
    }
    if (result == 0) {
        char kept = text[start + length];
        text[start + length] = '\0';
        const char *header = text + start, *order = header_value(header, "fortran_order");
        result = parse_type(npy, header_value(header, "descr"), file);
        if (result == 0)
            result = parse_shape(npy, header_value(header, "shape"),
                                 order && strncmp(order, "True", 4) == 0, file);
        text[start + length] = kept;
        npy->data = (unsigned char *)text + start + length;
    }
    if (result == 0 && size - start - length < npy->count * npy->width) {
        char shape[160];
        skew_tell("%s: truncated: its shape %s needs %zu bytes of data, %zu are there; copy it "
                  "again",
                  file, skew_npy_shape(npy, shape), npy->count * npy->width, size - start - length);
        result = -EINVAL;
    }
    if (result < 0)
        skew_npy_free(npy);
    return result;
}

void skew_npy_free(struct skew_npy *npy)
{
    free(npy->memory);
    npy->memory = NULL;
}

char *skew_npy_shape(const struct skew_npy *npy, char text[160])
{
    size_t used = (size_t)snprintf(text, 160, "[");

    for (uint32_t d = 0; d < npy->dims && used < 130; d++)
        used += (size_t)snprintf(text + used, 160 - used, "%s%zu", d ? ", " : "", npy->shape[d]);
    snprintf(text + used, 160 - used, "]");
    return text;
}

bool skew_npy_at(const struct skew_npy *npy, size_t at, uint64_t *value)
{
    const unsigned char *b = npy->data + at * npy->width;
    uint64_t bits = 0;
    double real;

    for (uint32_t i = 0; i < npy->width; i++)
        bits = bits << 8 | b[npy->big ? i : npy->width - 1 - i];
    if (npy->kind == 'f') {
        if (npy->width == 4) {
            uint32_t low = (uint32_t)bits;
            float single;
            memcpy(&single, &low, sizeof single);
            real = (double)single;
        } else {
            memcpy(&real, &bits, sizeof real);
        }
        if (!(real >= 0 && real < 9e15) || real != floor(real))
            return false;
        bits = (uint64_t)real;
    } else if (npy->kind == 'i' && bits >> (8 * npy->width - 1)) {
        return false; /* negative */
    }
    *value = bits;
    return true;
}

int skew_import_axis(const char *axes, const char *name)
{
    size_t length = strlen(name);

    for (int axis = 0; *axes; axis++) {
        size_t size = strcspn(axes, ",");
        if (size == length && strncmp(axes, name, size) == 0)
            return axis;
        axes += size + (axes[size] == ',');
    }
    return -1;
}
