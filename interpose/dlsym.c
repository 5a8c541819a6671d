/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interposed dlsym(). Its entry is in dlsym_entry.S: where we have no answer it must leave by a true
 * jump, because the real dlsym takes its caller's return address to decide what RTLD_NEXT means.
 * Here: which dlsym is the real one, and our own look-ups. Any thread.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "bind.h"

typedef void *(*dlsym_function)(void *, const char *);

/* Written by whoever comes first; everyone finds the same. Read by dlsym_entry.S. */
void *skew_real_dlsym __attribute__((visibility("hidden")));

/* The next one after us in load order, so that other interposers of dlsym stay in the chain. */
static dlsym_function real(void)
{
    void *found = __atomic_load_n(&skew_real_dlsym, __ATOMIC_ACQUIRE);
    if (skew_unlikely(!found)) {
        found = skew_elf_first("dlsym", true, NULL);
        if (!found)
            found = skew_elf_first("dlsym", false, NULL);
        __atomic_store_n(&skew_real_dlsym, found, __ATOMIC_RELEASE);
    }
    return (dlsym_function)found;
}

/* May leave a message for dlerror(): end with skew_dlerror_clear() before the application goes on. */
void *skew_dlsym(void *handle, const char *name)
{
    dlsym_function find = real();
    return find ? find(handle, name) : NULL;
}

/** The application asks dlerror() after its own calls: a look-up of ours that failed must not show there. */
void skew_dlerror_clear(void)
{
    char *(*get)(void) = (char *(*)(void))skew_dlsym_in("dlerror");
    if (get)
        get();
}

void *skew_dlsym_in(const char *name)
{
    return skew_elf_first(name, false, NULL);
}

bool skew_dlsym_wanted(void)
{
    struct skew_process *proc = skew_process_get();
    return proc && skew_option_on(proc, SKEW_OPT_DLSYM);
}

/**
 * Called by the entry. @param out where the answer goes.
 * @return the function to jump to, or NULL when *out holds the answer.
 */
void *skew_dlsym_decide(void *handle, const char *name, void **out);
void *skew_dlsym_decide(void *handle, const char *name, void **out)
{
    void *answer = skew_dlsym_answer(handle, name);
    if (!answer)
        return (void *)real();
    *out = answer;
    skew_dlerror_clear();
    if (answer == SKEW_DLSYM_ABSENT) {
        /* Leaves NULL and, for dlerror(), a message that names the symbol. */
        void *(*open_library)(const char *, int) = (void *(*)(const char *, int))skew_dlsym_in("dlopen");
        void *libc = open_library ? open_library("libc.so.6", RTLD_LAZY | RTLD_NOLOAD) : NULL;
        *out = libc ? skew_dlsym(libc, name) : NULL;
    }
    return NULL;
}
