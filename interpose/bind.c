/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the real functions. Slot 0 is the NCCL that calls through the loader's symbol binding
 * reach; further slots are NCCLs that an application opened by itself and asks by dlsym(). What a
 * real library lacks is hidden from our exports, so that feature tests see it as absent.
 *
 * A slot's table is complete before skew_bound[slot] is set and never changes after that; its
 * library is kept from being unloaded. No lock of ours is held while the loader is asked: it has
 * locks too, and its callers may hold them when they come to us. Any thread.
 */
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "bind.h"

/* What makes a library an NCCL: single functions may be wrapped by another tool as well. */
static const char *const nccl_names[] = {"ncclCommInitRank", "ncclCommDestroy", "ncclGroupStart",
                                         "ncclAllReduce",    "ncclGetVersion",  NULL};
#define WITNESS nccl_names[0]

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

/* The same for CUDA: cudaErrorNotSupported. */
static int absent_cuda(void)
{
    return 801;
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

/* What is going to be a slot. */
struct binding {
    struct dl_phdr_info module;
    const char *route;
    void *real[SKEW_API_COUNT];
};

static bool is_nccl(const struct dl_phdr_info *module)
{
    for (const char *const *name = nccl_names; *name; name++)
        if (!skew_elf_lookup(module, *name))
            return false;
    return true;
}

bool skew_bind_is_nccl(const void *address)
{
    struct dl_phdr_info owner;
    return skew_elf_module_of(address, &owner) && is_nccl(&owner);
}

/* The next definition in the global scope, unless it is another NCCL's: another tool's wrapper,
 * which stays in the chain. */
static void *next_wrapper(const struct binding *binding, const char *name)
{
    struct dl_phdr_info owner;
    void *next = skew_dlsym(RTLD_NEXT, name);
    if (!next || skew_elf_contains(&binding->module, next))
        return NULL;
    return skew_elf_module_of(next, &owner) && is_nccl(&owner) ? NULL : next;
}

static void fill(struct binding *binding, bool with_wrappers)
{
    for (unsigned i = 0; i < SKEW_API_COUNT; i++) {
        void *next = api[i].is_nccl && with_wrappers ? next_wrapper(binding, api[i].name) : NULL;
        binding->real[i] = next             ? next
                           : api[i].is_nccl ? skew_elf_lookup(&binding->module, api[i].name)
                                            : NULL;
    }
}

static void *open_library(const char *path, int mode)
{
    void *(*loader_open)(const char *, int) = (void *(*)(const char *, int))skew_dlsym_in("dlopen");
    return loader_open ? loader_open(path, mode) : NULL;
}

/* We were named as the NCCL library itself (VLLM_NCCL_SO_PATH): the real one is ours to open, once.
 */
static void *named_library(void)
{
    static void *handle;
    void *found = __atomic_load_n(&handle, __ATOMIC_ACQUIRE);
    if (!found) {
        const char *path = skew_option_text(SKEW_OPT_NCCL);
        found = open_library(*path ? path : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
        __atomic_store_n(&handle, found, __ATOMIC_RELEASE);
    }
    return found;
}

static bool find_named(struct binding *binding)
{
    void *handle = named_library();
    void *witness = handle ? skew_dlsym(handle, WITNESS) : NULL;
    binding->route = "named";
    if (witness && skew_elf_module_of(witness, &binding->module))
        return true;
    skew_stderr_line(
        "this library was loaded as if it were NCCL, but the real one cannot be opened", ELIBACC,
        " (set SKEWSCOPE_NCCL to the path of libnccl.so.2)");
    return false;
}

/* The NCCL that the loader would have bound callers to without us; else any that is loaded, if only
 * RTLD_LOCAL: Python opens extension modules, and with them torch's NCCL, that way. */
static bool find_loaded(struct binding *binding)
{
    void *next = skew_dlsym(RTLD_NEXT, WITNESS);
    binding->route = "next";
    if (next && skew_elf_module_of(next, &binding->module) && is_nccl(&binding->module))
        return true;
    binding->route = "handle";
    return skew_elf_first_of(nccl_names, false, &binding->module) != NULL;
}

/* Who named us as their NCCL has the word; who preloaded us has an NCCL of their own. */
static bool find_first(struct binding *binding, bool open_it)
{
    if (!skew_elf_at_start() && *skew_option_text(SKEW_OPT_NCCL))
        return find_named(binding);
    return find_loaded(binding) || (open_it && find_named(binding));
}

/* The holder's process id: a lock that a fork has left behind is nobody's. */
static void bind_lock_take(void)
{
    uint32_t self = (uint32_t)getpid(), holder = 0;
    while (!__atomic_compare_exchange_n(&bind_lock, &holder, self, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) {
        if (holder == self) {
            sched_yield();
            holder = 0;
        }
    }
}

/* Publishes a slot, unless somebody was faster. What the library lacks gets its stand-in. */
static void publish(uint32_t slot, const struct binding *binding)
{
    const char *missing[SKEW_API_COUNT];
    const char *path = binding->module.dlpi_name;
    unsigned n = 0;
    for (unsigned i = 0; i < SKEW_API_COUNT; i++)
        if (api[i].is_nccl && !binding->real[i])
            missing[n++] = api[i].name;
    bind_lock_take();
    bool first = !skew_bound[slot];
    for (unsigned i = 0; i < SKEW_API_COUNT && first; i++) {
        if (!api[i].is_nccl)
            continue;
        skew_real[slot][i] = binding->real[i];
        if (binding->real[i])
            continue;
        absent[slot][i / 64] |= 1ull << (i % 64);
        skew_real[slot][i] = api[i].returns_text ? (void *)absent_text : (void *)absent_function;
    }
    if (first) {
        skew_hot.real[slot][SKEW_HOT_SEND] = skew_real[slot][SKEW_API_ncclSend];
        skew_hot.real[slot][SKEW_HOT_RECV] = skew_real[slot][SKEW_API_ncclRecv];
        skew_hot.real[slot][SKEW_HOT_START] = skew_real[slot][SKEW_API_ncclGroupStart];
        skew_hot.real[slot][SKEW_HOT_END] = skew_real[slot][SKEW_API_ncclGroupEnd];
        module_base[slot] = binding->module.dlpi_addr;
        if (slot == 0) {
            route = binding->route;
            skew_text_add(module_path, sizeof(module_path), 0,
                          path && *path ? path : "the executable itself");
        }
        __atomic_store_n(&skew_bound[slot], 1, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&bind_lock, 0, __ATOMIC_RELEASE);
    if (first && slot == 0)
        skew_elf_hide(missing, n);
    if (first && path && *path)
        open_library(path,
                     RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE); /* never to be unloaded under us */
}

static void bind(bool open_it)
{
    struct binding binding = {.route = "none"};
    int saved = errno;
    bool found = find_first(&binding, open_it);
    if (found)
        fill(&binding, skew_elf_at_start());
    else
        binding = (struct binding){.route = "none"};
    /* When nothing is found, nobody can have called us through NCCL's own names, and yet somebody
     * did. */
    if (found || open_it)
        publish(0, &binding);
    skew_dlerror_clear();
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

/**
 * The real function of a wrapper that serves one library, bound if need be: the loader has bound
 * somebody to us. Never NULL: where it exists nowhere, `otherwise`, or (NULL) a function that says
 * so.
 */
void *skew_single_bind(enum skew_api function, void *otherwise)
{
    void *real = __atomic_load_n(&skew_real[0][function], __ATOMIC_ACQUIRE);
    if (skew_likely(real != NULL))
        return real;
    int saved = errno;
    void *found = skew_dlsym(RTLD_NEXT, api[function].name);
    if (!found)
        found = skew_elf_first(api[function].name, false);
    if (!found)
        found = otherwise;
    if (!found)
        found = skew_backend_call_of[function] ? (void *)absent_function : (void *)absent_cuda;
    skew_dlerror_clear();
    if (__atomic_compare_exchange_n(&skew_real[0][function], &real, found, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        real = found;
    errno = saved;
    return real;
}

/* Which of our functions nobody may see under this name, since nobody else defines it. */
static void *unwanted(const char *name)
{
    if (!skew_name_may_be_ours(name))
        return NULL;
    int function = skew_api_find(name);
    return function < 0 || skew_elf_first(name, false) ? NULL : skew_wrapper[0][function];
}

/* In the constructor. A preloaded library stands in the global scope; one that was opened as if it
 * were NCCL does not, and has to know now what it must not seem to have. */
SKEW_START void skew_bind_at_load(void)
{
    struct skew_elf_look look = skew_elf_look(WITNESS);
    if (!look.libc_after) {
        bind(true);
        return;
    }
    if (look.nccl && skew_elf_first_of(nccl_names, false, NULL))
        bind_if_loaded();
    if (look.weak)
        skew_elf_drop_weak(unwanted);
}

/**
 * Which slot answers for the NCCL that holds `address`; a free one is bound to it.
 * @return the slot; SKEW_SLOTS when there is none left: that NCCL is passed through.
 */
static uint32_t bind_module(const struct dl_phdr_info *module)
{
    uint32_t slot = 0;
    bind_if_loaded();
    for (; slot < SKEW_SLOTS; slot++) {
        if (!__atomic_load_n(&skew_bound[slot], __ATOMIC_ACQUIRE)) {
            struct binding binding = {.module = *module, .route = "handle"};
            int saved = errno;
            fill(&binding, false);
            publish(slot, &binding);
            errno = saved;
        }
        if (module_base[slot] == module->dlpi_addr)
            break;
    }
    return slot;
}

/* ---- what dlsym() answers ------------------------------------------------------------------ */

/* Our wrapper, or what stands before it: where another tool's preload comes first, the loader would
 * have bound the caller to that one, and it calls us. */
static void *outermost(uint32_t slot, int function)
{
    struct dl_phdr_info owner;
    void *first =
        slot == 0 && skew_elf_at_start() ? skew_dlsym(RTLD_DEFAULT, api[function].name) : NULL;
    bool other = first && first != skew_wrapper[0][function] && skew_elf_module_of(first, &owner) &&
                 !is_nccl(&owner);
    return other ? first : skew_wrapper[slot][function];
}

/* A name of CUDA's, CUPTI's or NCCL EP's: one library a process, found when first needed. */
static void *answer_single(int function, void *real)
{
    void *bound = NULL;
    if (__atomic_compare_exchange_n(&skew_real[0][function], &bound, real, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        bound = real;
    return bound == real ? outermost(0, function) : real;
}

/* A function of some NCCL: our wrapper for that one. NULL: of none that is wrapped. */
static void *answer_nccl(int function, void *real)
{
    struct dl_phdr_info module;
    if (!skew_elf_module_of(real, &module)) {
        skew_diag_once(SKEW_DIAG_SECOND_NCCL,
                       "an NCCL in another namespace of the loader (dlmopen) is passed "
                       "through and not recorded");
        return NULL;
    }
    if (!is_nccl(&module))
        return NULL;
    uint32_t slot = bind_module(&module);
    if (slot == SKEW_SLOTS)
        skew_diag_once(
            SKEW_DIAG_SECOND_NCCL,
            "more NCCL libraries are loaded in one process than can be told apart; calls to "
            "the last one are passed through and not recorded");
    return slot == SKEW_SLOTS ? NULL : outermost(slot, function);
}

/* Whether the application asks us by name, as if we were its NCCL. A handle is the loader's link
 * map. */
static bool is_own_handle(void *handle)
{
    struct dl_phdr_info self;
    return handle != RTLD_DEFAULT && skew_elf_module_of((void *)bind, &self) &&
           ((const struct link_map *)handle)->l_addr == self.dlpi_addr;
}

/* Ours was found first, in the global scope or by our own handle: it stands for the one that would
 * have been found without us, or must look absent. That may be visible to the caller only
 * (RTLD_LOCAL). */
static void *answer_own(int function, void *handle, const void *caller)
{
    const char *name = api[function].name;
    bool named = is_own_handle(handle);
    void *library = named ? named_library() : NULL;
    void *real = library ? skew_dlsym(library, name) : named ? NULL : skew_dlsym(RTLD_NEXT, name);
    if (!real && handle == RTLD_DEFAULT)
        real = skew_dlsym_by(caller, name);
    if (!real)
        return SKEW_DLSYM_ABSENT;
    if (!api[function].is_nccl)
        return answer_single(function, real);
    void *answer = answer_nccl(function, real);
    /* Another tool's wrapper is called by ours. */
    if (!answer && !named && bind_if_loaded() && skew_real[0][function] == real)
        answer = outermost(0, function);
    return answer ? answer : real;
}

/**
 * The answer to dlsym(handle, name) of an application, for the names that we wrap.
 * @return our wrapper; NULL: whatever the real dlsym says.
 */
void *skew_dlsym_answer(int function, void *handle, const void *caller)
{
    void *real = skew_dlsym(handle, api[function].name);
    if (!real)
        return NULL;
    if (real == skew_wrapper[0][function])
        return answer_own(function, handle, caller);
    if (!skew_dlsym_wanted())
        return NULL;
    return api[function].is_nccl ? answer_nccl(function, real) : answer_single(function, real);
}
