/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer of traces, for join.c, which writes one that it then copies from.
 */
#ifndef SKEW_IMPORT_WRITE_H
#define SKEW_IMPORT_WRITE_H

#include "import.h"

int skew_import_write_file(const struct skew_import *import,
                           const struct skew_import_output *output, const char *path);

#endif
