/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command that lasts until `skewscope run` has looked at it: the record of its run names the
 * packages only after the first look. The test puts one where it is found. usage: until_looked
 * [RECORD_DIR]
 */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int named(const char *path)
{
    static char text[1 << 16];
    FILE *file = fopen(path, "r");
    size_t got = file ? fread(text, 1, sizeof text - 1, file) : 0;

    if (file)
        fclose(file);
    text[got] = '\0';
    const char *packages = strstr(text, "\"packages\"");
    return packages && strstr(packages, "librccl");
}

int main(int argc, char **argv)
{
    char pattern[4096];
    const char *out = getenv("SKEWSCOPE_OUT");

    if (argc > 1)
        out = argv[1];
    if (!out)
        return 2;
    snprintf(pattern, sizeof pattern, "%s/.skewscope/run-*.json", out);
    for (;;) {
        glob_t found;
        int all = 0;
        if (glob(pattern, 0, NULL, &found) == 0)
            for (size_t i = 0; i < found.gl_pathc; i++)
                all |= named(found.gl_pathv[i]);
        globfree(&found);
        if (all)
            return 0;
        usleep(20000);
    }
}
