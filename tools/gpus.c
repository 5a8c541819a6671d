/* SPDX-License-Identifier: Apache-2.0 */
/* See gpus.h. */
#include "gpus.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 512

/* The first line of a file that begins with `key`, behind it and the blanks. false: there is none.
 */
static bool line_after(const char *path, const char *key, char value[LINE_BYTES])
{
    char line[LINE_BYTES];
    bool found = false;
    FILE *file = fopen(path, "re");

    while (file && !found && fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) != 0)
            continue;
        const char *text = line + length + strspn(line + length, " \t");
        snprintf(value, LINE_BYTES, "%.*s", (int)strcspn(text, "\n"), text);
        found = *value != '\0';
    }
    if (file)
        fclose(file);
    return found;
}

/* "NVRM version: NVIDIA UNIX … Kernel Module for x86_64  580.65.06  Release Build …": its first
 * word that is a version. */
static const char *driver_version(const char *root, char text[LINE_BYTES])
{
    char path[PATH_MAX], *rest, *word;

    snprintf(path, sizeof path, "%s/version", root);
    if (!line_after(path, "NVRM version:", text))
        return NULL;
    for (word = strtok_r(text, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest))
        if (strspn(word, "0123456789.") == strlen(word) && strchr(word, '.'))
            return word;
    return NULL;
}

void skew_gpus_find(const char *root, skew_gpu_fn *take, void *user)
{
    char path[PATH_MAX], model[LINE_BYTES], text[LINE_BYTES];
    struct dirent **buses = NULL;

    snprintf(path, sizeof path, "%s/gpus", root);
    int count = scandir(path, &buses, NULL, alphasort);
    const char *driver = count > 0 ? driver_version(root, text) : NULL;
    for (int i = 0; i < count; i++) {
        int length = snprintf(path, sizeof path, "%s/gpus/%s/information", root, buses[i]->d_name);
        if (*buses[i]->d_name != '.' && length < (int)sizeof path &&
            line_after(path, "Model:", model))
            take(user, buses[i]->d_name, model, driver);
        free(buses[i]);
    }
    free(buses);
}
