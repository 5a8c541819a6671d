/* SPDX-License-Identifier: Apache-2.0 */
/* What NVIDIA's driver tells of a machine's GPUs in /proc, from files written as it writes them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gpus.h"

static char told[1024];

static void take(void *user, const char *bus, const char *model, const char *driver)
{
    size_t used = strlen(told);
    (void)user;
    snprintf(told + used, sizeof told - used, "%s|%s|%s;", bus, model, driver ? driver : "-");
}

static void expect(const char *root, const char *wanted)
{
    *told = '\0';
    skew_gpus_find(root, take, NULL);
    if (strcmp(told, wanted) != 0) {
        fprintf(stderr, "found \"%s\", expected \"%s\"\n", told, wanted);
        exit(1);
    }
}

/* A file below `root`, with the directories that it needs. */
static void put(const char *root, const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

int main(void)
{
    char root[] = "/tmp/skewscope-gpus-XXXXXX", command[64];

    if (!mkdtemp(root))
        return 1;
    expect("/nowhere/at/all", "");
    expect(root, "");
    put(root, "gpus/0000:1c:00.0/information",
        "Model: \t\t NVIDIA H200\nIRQ:   \t\t 151\nGPU UUID: \t GPU-1\n");
    put(root, "gpus/0000:1b:00.0/information", "Model: \t\t NVIDIA H200\n");
    put(root, "gpus/0000:1d:00.0/information", "IRQ: 1\n");
    put(root, "gpus/0000:1e:00.0/registry", "Binary: \"\"\n");
    expect(root, "0000:1b:00.0|NVIDIA H200|-;0000:1c:00.0|NVIDIA H200|-;");
    put(root, "version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        "GCC version:  gcc version 12.3.0\n");
    expect(root, "0000:1b:00.0|NVIDIA H200|580.65.06;0000:1c:00.0|NVIDIA H200|580.65.06;");
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) != 0;
}
