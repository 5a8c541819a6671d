/* SPDX-License-Identifier: Apache-2.0 */
/* Symbol look-up by hand (interpose/elf.c), against what the loader itself says. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "must.h"

/* Exported by the program, to be hidden. */
__attribute__((visibility("default"))) int shown_one(void);
__attribute__((visibility("default"))) int shown_two(void);
__attribute__((visibility("default"))) int shown_three(void);

int shown_one(void)
{
    return 1;
}

int shown_two(void)
{
    return 2;
}

int shown_three(void)
{
    return 3;
}

/* Functions with one version and no IFUNC: the loader's answer is the symbol's address. A sanitizer
 * has its own of some: so libc is asked and not everybody. */
static const char *const plain[] = {
    "getpid",    "qsort",   "printf",      "opendir",           "setenv",
    "sigaction", "tmpfile", "getopt_long", "__libc_start_main", NULL};

static void look_up(void)
{
    struct dl_phdr_info libc;
    void *handle = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    MUST(handle && skew_elf_module_of(dlsym(handle, "getpid"), &libc));
    MUST(strstr(libc.dlpi_name, "libc"));
    for (const char *const *name = plain; *name; name++) {
        void *loader = dlsym(handle, *name);
        MUST(loader && skew_elf_lookup(&libc, *name) == loader);
        MUST(skew_elf_contains(&libc, loader));
    }
    MUST(skew_elf_first("getpid", false) == dlsym(handle, "getpid"));
    MUST(skew_elf_first("getopt_long", true) == dlsym(handle, "getopt_long"));
    MUST(skew_elf_next_dlsym() == (void *)dlsym || skew_elf_next_dlsym() == dlsym(handle, "dlsym"));
    MUST(!skew_elf_lookup(&libc, "no_such_function_anywhere") && !skew_elf_lookup(&libc, ""));
    MUST(!skew_elf_first("no_such_function_anywhere", false));
    MUST(!skew_elf_module_of((void *)16, &libc));
    /* All of a list, or nothing. */
    static const char *const all[] = {"getpid", "getppid", NULL}, *const some[] = {
                                                                      "getpid", "no_such_function",
                                                                      NULL};
    MUST(skew_elf_first_of(all, false, &libc) != NULL);
    MUST(!skew_elf_first_of(some, false, NULL));
    /* This program stands for the library: what it defines itself does not count. */
    MUST(!skew_elf_first("shown_one", false));
    MUST(skew_elf_at_start());
}

/* Libraries with one kind of hash table each, as old and new linkers make them. */
static void hash_styles(int count, char **paths)
{
    for (int i = 0; i < count; i++) {
        struct dl_phdr_info module;
        void *handle = dlopen(paths[i], RTLD_NOW | RTLD_LOCAL);
        MUST(handle);
        void *expected = dlsym(handle, "styled_function");
        MUST(expected && skew_elf_first("styled_function", false) == expected);
        MUST(skew_elf_module_of(expected, &module));
        MUST(skew_elf_lookup(&module, "styled_function") == expected);
        MUST(skew_elf_lookup(&module, "another_function") == dlsym(handle, "another_function"));
        MUST(!skew_elf_lookup(&module, "getpid")); /* used there, not defined */
        MUST(!skew_elf_lookup(&module, "styled_data"));
        MUST(dlclose(handle) == 0);
        MUST(!skew_elf_first("styled_function", false));
    }
}

static void hide(void)
{
    static const char *const names[] = {"shown_one", "no_such_function", "shown_two"};
    void *self = dlopen(NULL, RTLD_NOW);
    MUST(dlsym(self, "shown_one") == (void *)shown_one);
    MUST(skew_elf_hide(names, 0) == 0 && dlsym(self, "shown_one"));
    MUST(skew_elf_hide(names, 3) == 0);
    MUST(!dlsym(self, "shown_one") && !dlsym(self, "shown_two"));
    MUST(dlsym(self, "shown_three") == (void *)shown_three);
    MUST(shown_one() + shown_two() + shown_three() == 6); /* code on that page can still run */
}

int main(int argc, char **argv)
{
    look_up();
    hash_styles(argc - 1, argv + 1);
    hide();
    return 0;
}
