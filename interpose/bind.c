/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the real functions. Slot 0 is the NCCL that calls through the loader's symbol binding reach;
 * further slots are NCCLs that an application opened by itself and asks by dlsym(). What a real
 * library lacks is hidden from our exports, so that feature tests see it as absent.
 *
 * A slot's table is complete before skew_bound[slot] is set and never changes after that. Any thread.
 */
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "bind.h"

/* Any function of every NCCL: where it is, NCCL is. */
#define WITNESS "ncclCommInitRank"

void *skew_real[SKEW_SLOTS][SKEW_API_COUNT];
uint32_t skew_bound[SKEW_SLOTS];

static uint64_t absent[SKEW_SLOTS][(SKEW_API_COUNT + 63) / 64];
static ElfW(Addr) module_base[SKEW_SLOTS];
static char module_path[SKEW_PATH_BYTES];
static const char *route = "none";
static uint32_t bind_lock;

static const struct {
    const char *name;
    uint8_t is_nccl, returns_text;
} api[SKEW_API_COUNT] = {
#define X(name, is_nccl, returns_text) {#name, is_nccl, returns_text},
    SKEW_API_LIST(X)
#undef X
};

/* Stand for what the real library lacks: somebody called it all the same. */
static ncclResult_t absent_function(void)
{
    return ncclInvalidUsage;
}

static const char *absent_text(void)
{
    return "the loaded NCCL does not have this function";
}

int skew_api_find(const char *name)
{
    int low = 0, high = SKEW_API_COUNT - 1;
    while (low <= high) {
        int middle = (low + high) / 2, order = strcmp(name, api[middle].name);
        if (order == 0)
            return middle;
        if (order < 0)
            high = middle - 1;
        else
            low = middle + 1;
    }
    return -1;
}

const char *skew_api_name(enum skew_api function)
{
    return api[function].name;
}

bool skew_api_absent(uint32_t slot, enum skew_api function)
{
    return absent[slot][function / 64] >> (function % 64) & 1;
}

const char *skew_bind_route(void)
{
    return route;
}

const char *skew_bind_path(void)
{
    return module_path;
}

uint32_t skew_bind_version(void)
{
    int version = 0;
    if (skew_bound[0] && !skew_api_absent(0, SKEW_API_ncclGetVersion))
        ((ncclResult_t(*)(int *))skew_real[0][SKEW_API_ncclGetVersion])(&version);
    return (uint32_t)version;
}

/* Publishes a slot whose NCCL entries are filled in; the absent ones get their stand-ins. */
static void slot_finish(uint32_t slot)
{
    for (unsigned i = 0; i < SKEW_API_COUNT; i++) {
        if (!api[i].is_nccl || skew_real[slot][i])
            continue;
        absent[slot][i / 64] |= 1ull << (i % 64);
        skew_real[slot][i] = api[i].returns_text ? (void *)absent_text : (void *)absent_function;
        if (slot == 0)
            skew_elf_hide(api[i].name);
    }
    skew_hot.real[slot][SKEW_HOT_SEND] = skew_real[slot][SKEW_API_ncclSend];
    skew_hot.real[slot][SKEW_HOT_RECV] = skew_real[slot][SKEW_API_ncclRecv];
    skew_hot.real[slot][SKEW_HOT_START] = skew_real[slot][SKEW_API_ncclGroupStart];
    skew_hot.real[slot][SKEW_HOT_END] = skew_real[slot][SKEW_API_ncclGroupEnd];
    __atomic_store_n(&skew_bound[slot], 1, __ATOMIC_RELEASE);
}

static void slot_from_module(uint32_t slot, const struct dl_phdr_info *module)
{
    for (unsigned i = 0; i < SKEW_API_COUNT; i++)
        if (api[i].is_nccl)
            skew_real[slot][i] = skew_elf_lookup(module, api[i].name);
    module_base[slot] = module->dlpi_addr;
    slot_finish(slot);
}

/* Notes where slot 0 comes from, by the address of one of its functions. */
static void describe(void *address, const char *how)
{
    struct dl_phdr_info module;
    route = how;
    if (!skew_elf_module_of(address, &module))
        return;
    module_base[0] = module.dlpi_addr;
    skew_text_add(module_path, sizeof(module_path), 0,
                  module.dlpi_name && *module.dlpi_name ? module.dlpi_name : "the executable itself");
}

/* The next definition in the global scope: keeps other preloaded NCCL wrappers in the chain. */
static bool bind_next(void)
{
    void *witness = skew_dlsym(RTLD_NEXT, WITNESS);
    if (!witness)
        return false;
    for (unsigned i = 0; i < SKEW_API_COUNT; i++)
        if (api[i].is_nccl)
            skew_real[0][i] = skew_dlsym(RTLD_NEXT, api[i].name);
    describe(witness, "next");
    slot_finish(0);
    return true;
}

/* Loaded, but RTLD_LOCAL: Python opens extension modules, and with them torch's NCCL, that way. */
static bool bind_loaded(void)
{
    struct dl_phdr_info module;
    void *witness = skew_elf_first(WITNESS, false, &module);
    if (!witness)
        return false;
    describe(witness, "handle");
    slot_from_module(0, &module);
    return true;
}

/* We were named as the NCCL library itself (VLLM_NCCL_SO_PATH): the real one is ours to open. */
static bool bind_named(void)
{
    void *(*open_library)(const char *, int) = (void *(*)(const char *, int))skew_dlsym_in("dlopen");
    const char *path = skew_option_text(SKEW_OPT_NCCL);
    void *handle = open_library ? open_library(*path ? path : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL) : NULL;
    void *witness = handle ? skew_dlsym(handle, WITNESS) : NULL;
    struct dl_phdr_info module;
    if (!witness || !skew_elf_module_of(witness, &module))
        return false;
    describe(witness, "named");
    slot_from_module(0, &module);
    return true;
}

static void bind(bool open_it)
{
    int saved = errno;
    while (__atomic_exchange_n(&bind_lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
    if (!skew_bound[0] && !bind_next() && !bind_loaded() && open_it && !bind_named()) {
        /* Nobody can have called us through NCCL's own names, and yet somebody did. */
        describe(NULL, "none");
        slot_finish(0);
    }
    skew_dlerror_clear();
    __atomic_store_n(&bind_lock, 0, __ATOMIC_RELEASE);
    errno = saved;
}

void skew_bind(void)
{
    if (skew_unlikely(!__atomic_load_n(&skew_bound[0], __ATOMIC_ACQUIRE)))
        bind(true);
}

/** Binds slot 0 if a real NCCL is in the process by now. */
static bool bind_if_loaded(void)
{
    if (!__atomic_load_n(&skew_bound[0], __ATOMIC_ACQUIRE))
        bind(false);
    return __atomic_load_n(&skew_bound[0], __ATOMIC_ACQUIRE);
}

/* In the constructor. A preloaded library stands in the global scope; one that was opened as if it were
 * NCCL does not, and has to know now what it must not seem to have. */
void skew_bind_at_load(void)
{
    void *global = skew_dlsym(RTLD_DEFAULT, WITNESS);
    skew_dlerror_clear();
    if (global == skew_wrapper[0][SKEW_API_ncclCommInitRank]) {
        if (skew_elf_first(WITNESS, false, NULL))
            bind_if_loaded();
    } else {
        bind(true);
    }
}

/**
 * Which slot answers for the NCCL that holds `address`; a free one is bound to it.
 * @return the slot; SKEW_SLOTS when there is none left: that NCCL is passed through.
 */
uint32_t skew_bind_module(void *address)
{
    struct dl_phdr_info module;
    uint32_t slot = 0;
    if (!skew_elf_module_of(address, &module) || !skew_elf_lookup(&module, WITNESS))
        return SKEW_SLOTS;
    bind_if_loaded();
    int saved = errno;
    while (__atomic_exchange_n(&bind_lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
    while (slot < SKEW_SLOTS && skew_bound[slot] && module_base[slot] != module.dlpi_addr)
        slot++;
    if (slot < SKEW_SLOTS && !skew_bound[slot])
        slot_from_module(slot, &module);
    __atomic_store_n(&bind_lock, 0, __ATOMIC_RELEASE);
    errno = saved;
    return slot;
}

/* ---- what dlsym() answers ------------------------------------------------------------------ */

/* A name of CUDA's graph API: one library a process, found when first needed. */
static void *answer_cuda(int function, void *real)
{
    if (!skew_real[0][function])
        __atomic_store_n(&skew_real[0][function], real, __ATOMIC_RELEASE);
    return skew_real[0][function] == real ? skew_wrapper[0][function] : real;
}

/**
 * The answer to dlsym(handle, name) of an application, for names that we wrap.
 * @return our wrapper; NULL: whatever the real dlsym says.
 */
void *skew_dlsym_answer(void *handle, const char *name)
{
    if (!name || (strncmp(name, "nccl", 4) != 0 && strncmp(name, "cu", 2) != 0))
        return NULL;
    int function = skew_api_find(name);
    /* RTLD_NEXT is for interposers, and relative to its caller: only the real dlsym can tell. */
    if (function < 0 || handle == RTLD_NEXT || !skew_dlsym_wanted())
        return NULL;
    void *ours = skew_wrapper[0][function];
    void *real = skew_dlsym(handle, name);
    if (!real)
        return NULL;
    if (real == ours) {
        /* Ours was found first, in the global scope: it stands for a real one or must look absent. */
        bool there = api[function].is_nccl ? bind_if_loaded() && !skew_api_absent(0, (enum skew_api)function)
                                           : skew_elf_first(name, false, NULL) != NULL;
        return there ? ours : SKEW_DLSYM_ABSENT;
    }
    if (!api[function].is_nccl)
        return answer_cuda(function, real);
    uint32_t slot = skew_bind_module(real);
    if (slot == SKEW_SLOTS) {
        skew_diag_once(SKEW_DIAG_SECOND_NCCL,
                       "more NCCL libraries are loaded in one process than can be told apart; calls to "
                       "the last one are passed through and not recorded");
        return NULL;
    }
    return skew_wrapper[slot][function];
}
