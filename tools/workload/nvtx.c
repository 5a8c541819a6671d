/* SPDX-License-Identifier: Apache-2.0 */
/* See nvtx.h. */
#include "nvtx.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

skew_nvtx_function skew_nvtx_core[SKEW_NVTX_CLIENT_FUNCTIONS],
    skew_nvtx_core2[SKEW_NVTX_CLIENT_FUNCTIONS];

/* Numbers of NVTX: the modules, the functions that are called here, the table of callbacks. */
enum { CORE = 1, CORE2 = 5, MARK = 2, PUSH = 9, POP = 11, CALLBACKS = 1 };

static int get_module(int module, skew_nvtx_function ***functions, unsigned *count)
{
    static skew_nvtx_function *places[2][SKEW_NVTX_CLIENT_FUNCTIONS];
    skew_nvtx_function *all = module == CORE    ? skew_nvtx_core
                              : module == CORE2 ? skew_nvtx_core2
                                                : NULL;
    if (!all)
        return 0;
    skew_nvtx_function **list = places[module == CORE2];
    for (int i = 1; i < SKEW_NVTX_CLIENT_FUNCTIONS; i++)
        list[i] = &all[i];
    *functions = list;
    *count = SKEW_NVTX_CLIENT_FUNCTIONS;
    return 1;
}

static const void *export_table(uint32_t table)
{
    static const struct {
        size_t size;
        int (*get_module)(int module, skew_nvtx_function ***functions, unsigned *count);
    } callbacks = {sizeof callbacks, get_module};

    return table == CALLBACKS ? &callbacks : NULL;
}

bool skew_nvtx_open(void)
{
    const char *path = getenv("NVTX_INJECTION64_PATH");
    void *library = path ? dlopen(path, RTLD_LAZY) : NULL;
    int (*start)(const void *(*)(uint32_t)) = NULL;

    if (library)
        start = (int (*)(const void *(*)(uint32_t)))dlsym(library, "InitializeInjectionNvtx2");
    if (start && start(export_table))
        return true;
    if (library)
        dlclose(library);
    return false;
}

static void say(int function, const char *format, va_list args)
{
    char text[256];

    if (!skew_nvtx_core[function])
        return;
    vsnprintf(text, sizeof text, format, args);
    ((int (*)(const char *))skew_nvtx_core[function])(text);
}

void skew_nvtx_begin(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(PUSH, format, args);
    va_end(args);
}

void skew_nvtx_note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(MARK, format, args);
    va_end(args);
}

void skew_nvtx_end(void)
{
    if (skew_nvtx_core[POP])
        ((int (*)(void))skew_nvtx_core[POP])();
}
