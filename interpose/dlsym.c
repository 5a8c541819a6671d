/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interposed dlsym(). Its entry is in dlsym_entry.S: where we have no answer it must leave by a
 * true jump, because the real dlsym takes its caller's return address to decide what RTLD_NEXT
 * means. Here: which dlsym is the real one, and our own look-ups. Any thread.
 */
#include <dlfcn.h>

#include "bind.h"

typedef void *(*dlsym_function)(void *, const char *);

/* Two of them. For applications, the next one after us in load order, so that other interposers of
 * dlsym stay in the chain. For ourselves, the C library's: for the others' sake it must see that we
 * are asking. Each is written by whoever comes first; everyone finds the same. */
static void *chain_dlsym SKEW_EARLY, *libc_dlsym SKEW_EARLY;

static SKEW_START dlsym_function chain(void)
{
    void *found = __atomic_load_n(&chain_dlsym, __ATOMIC_ACQUIRE);
    if (skew_unlikely(!found)) {
        found = skew_elf_next_dlsym();
        __atomic_store_n(&chain_dlsym, found, __ATOMIC_RELEASE);
    }
    return (dlsym_function)found;
}

SKEW_START void skew_dlsym_at_load(void)
{
    chain();
}

static dlsym_function libc(void)
{
    static const char *const names[] = {"dlsym", "dlvsym", "dlerror", NULL};
    void *found = __atomic_load_n(&libc_dlsym, __ATOMIC_ACQUIRE);
    if (skew_unlikely(!found)) {
        found = skew_elf_first_of(names, false, NULL);
        __atomic_store_n(&libc_dlsym, found, __ATOMIC_RELEASE);
    }
    return found ? (dlsym_function)found : chain();
}

/* May leave a message for dlerror(): end with skew_dlerror_clear() before the application goes on.
 */
void *skew_dlsym(void *handle, const char *name)
{
    dlsym_function find = libc();
    return find ? find(handle, name) : NULL;
}

/** The application asks dlerror() after its own calls: a look-up of ours that failed must not show
 * there. */
void skew_dlerror_clear(void)
{
    char *(*get)(void) = (char *(*)(void))skew_dlsym_in("dlerror");
    if (get)
        get();
}

void *skew_dlsym_in(const char *name)
{
    return skew_elf_first(name, false);
}

bool skew_dlsym_wanted(void)
{
    struct skew_process *proc = skew_process_get();
    return proc && skew_option_on(proc, SKEW_OPT_DLSYM);
}

/* Leaves what a failed dlsym() leaves: NULL and, for dlerror(), a message that names the symbol. */
static void *absent(const char *name)
{
    void *(*open_library)(const char *, int) =
        (void *(*)(const char *, int))skew_dlsym_in("dlopen");
    void *library = open_library ? open_library("libc.so.6", RTLD_LAZY | RTLD_NOLOAD) : NULL;
    return library ? skew_dlsym(library, name) : NULL;
}

/** What the object that holds `address` sees by itself and by its dependencies. */
void *skew_dlsym_by(const void *address, const char *name)
{
    void *(*open_library)(const char *, int) =
        (void *(*)(const char *, int))skew_dlsym_in("dlopen");
    int (*close_library)(void *) = (int (*)(void *))skew_dlsym_in("dlclose");
    struct dl_phdr_info module;
    if (!open_library || !close_library || !skew_elf_module_of(address, &module) ||
        !module.dlpi_name)
        return NULL;
    void *handle =
        *module.dlpi_name ? open_library(module.dlpi_name, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    void *found = handle ? skew_dlsym(handle, name) : NULL;
    if (handle)
        close_library(handle);
    return found;
}

/**
 * Called by the entry. @param out where the answer goes. @param caller the return address of the
 * call
 * @return the function to jump to, or NULL when *out holds the answer.
 */
void *skew_dlsym_decide(void *handle, const char *name, void **out, const void *caller);
void *skew_dlsym_decide(void *handle, const char *name, void **out, const void *caller)
{
    /* RTLD_NEXT is for interposers, and relative to its caller: only the real dlsym can tell. */
    if (skew_likely(!name || handle == RTLD_NEXT || !skew_name_may_be_ours(name)))
        return (void *)chain();
    int function = skew_api_find(name);
    void *answer = function < 0 ? NULL : skew_dlsym_answer(function, handle, caller);
    if (!answer)
        return (void *)chain();
    skew_dlerror_clear();
    *out = answer == SKEW_DLSYM_ABSENT ? absent(name) : answer;
    return NULL;
}
