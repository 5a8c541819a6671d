/* SPDX-License-Identifier: Apache-2.0 */
/* See backends.h. */
#include "backends.h"

#include <fnmatch.h>
#include <stddef.h>
#include <string.h>

#include "backends_table.h"

const struct skew_backend *skew_backend_of(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        for (const char *const *pattern = backends[i].patterns; *pattern; pattern++)
            if (fnmatch(*pattern, name, 0) == 0)
                return &backends[i];
    return NULL;
}
