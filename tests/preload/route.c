/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reaches NCCL in every way that the loader has, as a list of commands says; it is linked to none.
 *
 *   open NAME PATH MODE    dlopen; MODE is local, global, or "noload"; PATH "-": the program itself
 *   use NAME COUNT         an exchange (exchange_once.h) through dlsym(NAME); NAME default:
 * RTLD_DEFAULT call NAME COUNT        the function exchange(COUNT) that the library NAME has ask
 * NAME SYMBOL        the function sees(SYMBOL) of the library NAME, which asks dlsym(RTLD_DEFAULT)
 *   has NAME SYMBOL        prints "SYMBOL yes" or "SYMBOL no: what dlerror() says"
 *   close NAME
 */
#include <dlfcn.h>

#include "exchange_once.h"

static struct {
    const char *name;
    void *handle;
} libraries[16];

static void *current;

static void fail(const char *what, const char *text)
{
    fprintf(stderr, "route: %s: %s\n", what, text ? text : "(no message)");
    exit(1);
}

static void **library(const char *name)
{
    unsigned i = 0;
    while (libraries[i].name && strcmp(libraries[i].name, name) != 0)
        i++;
    libraries[i].name = name;
    return &libraries[i].handle;
}

static void *handle_of(const char *name)
{
    return strcmp(name, "default") == 0 ? RTLD_DEFAULT : *library(name);
}

/* As the manual of dlsym() has it: the error state decides, not the address. */
static void *find(const char *name)
{
    dlerror();
    void *found = dlsym(current, name);
    const char *error = dlerror();
    if (error || !found)
        fail(name, error);
    return found;
}

static void has(const char *name, const char *symbol)
{
    dlerror();
    void *found = dlsym(handle_of(name), symbol);
    const char *error = dlerror();
    if ((found == NULL) != (error != NULL))
        fail(symbol, found ? error : "absent, and no message");
    if (found)
        printf("%s yes\n", symbol);
    else
        printf("%s no: %s\n", symbol, strstr(error, symbol) ? "the message names it" : error);
}

static void open_one(const char *name, const char *path, const char *mode)
{
    int flags = RTLD_NOW | (strcmp(mode, "global") == 0 ? RTLD_GLOBAL : RTLD_LOCAL);
    if (strcmp(mode, "noload") == 0)
        flags |= RTLD_NOLOAD;
    *library(name) = dlopen(strcmp(path, "-") == 0 ? NULL : path, flags);
    if (!*library(name))
        fail(path, dlerror());
}

int main(int argc, char **argv)
{
    const char *before = dlerror();
    if (before)
        fail("before anything was done", before);
    for (int i = 1; i < argc;) {
        const char *command = argv[i++];
        int left = argc - i;
        if (strcmp(command, "open") == 0 && left >= 3) {
            open_one(argv[i], argv[i + 1], argv[i + 2]);
            i += 3;
        } else if (strcmp(command, "use") == 0 && left >= 2) {
            current = handle_of(argv[i]);
            struct nccl_functions nccl = NCCL_FUNCTIONS(find);
            if (exchange_once(&nccl, strtoul(argv[i + 1], NULL, 10)))
                fail(argv[i], "the exchange failed");
            i += 2;
        } else if (strcmp(command, "call") == 0 && left >= 2) {
            current = handle_of(argv[i]);
            int (*exchange)(size_t) = (int (*)(size_t))find("exchange");
            if (exchange(strtoul(argv[i + 1], NULL, 10)))
                fail(argv[i], "the exchange failed");
            i += 2;
        } else if (strcmp(command, "ask") == 0 && left >= 2) {
            current = handle_of(argv[i]);
            int (*sees)(const char *) = (int (*)(const char *))find("sees");
            printf("%s seen by a library %d\n", argv[i + 1], sees(argv[i + 1]));
            i += 2;
        } else if (strcmp(command, "has") == 0 && left >= 2) {
            has(argv[i], argv[i + 1]);
            i += 2;
        } else if (strcmp(command, "close") == 0 && left >= 1) {
            if (dlclose(handle_of(argv[i])))
                fail(argv[i], dlerror());
            i++;
        } else {
            fail(command, "is no command, or lacks arguments");
        }
    }
    return 0;
}
