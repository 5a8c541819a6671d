/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way into the loader. fork() leaves one of its locks, that of dl_iterate_phdr(), as it is: a
 * child that is forked while another thread is in there would wait for that thread for ever, in its
 * own next look-up, dlopen() or C++ exception. So no thread of the application is in there for us
 * while another one forks; and a child that was made all the same (by a raw clone(), or because
 * waiting would have taken too long) never goes there for us: it reads the loader's list by itself.
 *
 * Nothing here waits without limit: whoever forks, or wants to go in, may hold locks of the
 * application that the other one needs. Any thread.
 */
#include <sched.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define PATIENCE_NS 200000000ull

/* glibc's own, older than every version we may depend on. */
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                             void *dso);
extern void *__dso_handle __attribute__((visibility("hidden")));

/*
 * One word, so that a child never finds it half written: threads in there, threads in fork(),
 * whether this process has inherited a lock that nobody will let go of, and the process that all
 * this is said of. Not wiped in a child: what its parent's threads did is what it has to know.
 */
#define INSIDE_ONE  UINT64_C(1)
#define INSIDE      UINT64_C(0xffff)
#define FORKING_ONE (UINT64_C(1) << 16)
#define FORKING     (UINT64_C(0x7fff) << 16)
#define STUCK       (UINT64_C(1) << 31)

static uint64_t state;

/* Not skew_now(): that may not be set up yet. */
static bool is_late(uint64_t *start)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    if (!*start)
        *start = now;
    return now - *start > PATIENCE_NS;
}

/* In a new process: what its parent left. */
static void take_over(bool is_child)
{
    uint64_t before = __atomic_load_n(&state, __ATOMIC_SEQ_CST), after;
    uint64_t self = (uint64_t)(uint32_t)getpid() << 32;
    do {
        if (!is_child && before >> 32 == self >> 32)
            return;
        bool inherited = is_child || before >> 32;
        after = self | (inherited && (before & (INSIDE | STUCK)) ? STUCK : 0);
    } while (!__atomic_compare_exchange_n(&state, &before, after, false, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST));
}

void skew_loader_leave(void)
{
    uint64_t before = __atomic_load_n(&state, __ATOMIC_SEQ_CST);
    /* A signal handler may have forked in there, and the child come back from it. */
    while ((before & INSIDE) &&
           !__atomic_compare_exchange_n(&state, &before, before - INSIDE_ONE, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
}

/**
 * Before anything that takes the locks of the loader's list, or libunwind's. Not twice by one
 * thread.
 * @return false: not in this process; else skew_loader_leave() must follow
 */
bool skew_loader_enter(void)
{
    uint64_t start = 0;
    take_over(false);
    for (;;) {
        uint64_t before = __atomic_fetch_add(&state, INSIDE_ONE, __ATOMIC_SEQ_CST);
        if (!(before & (FORKING | STUCK)) || (!(before & STUCK) && is_late(&start)))
            return true;
        skew_loader_leave();
        if (before & STUCK)
            return false;
        sched_yield();
    }
}

/* ---- around fork() --------------------------------------------------------------------------- */

static void before_fork(void)
{
    uint64_t start = 0;
    take_over(false);
    uint64_t before = __atomic_fetch_add(&state, FORKING_ONE, __ATOMIC_SEQ_CST);
    while ((before & INSIDE) && !is_late(&start)) {
        sched_yield();
        before = __atomic_load_n(&state, __ATOMIC_SEQ_CST);
    }
}

static void after_fork(void)
{
    __atomic_fetch_sub(&state, FORKING_ONE, __ATOMIC_SEQ_CST);
}

static void in_child(void)
{
    take_over(true);
}

/** From now on nobody forks while one of our look-ups is under way. Once a process image. */
void skew_loader_guard(void)
{
    static uint32_t done;
    if (!__atomic_exchange_n(&done, 1, __ATOMIC_ACQ_REL))
        __register_atfork(before_fork, after_fork, in_child, __dso_handle);
}

/* ---- the list -------------------------------------------------------------------------------- */

static bool is_mapped(uintptr_t address)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    unsigned char there;
    return address && mincore((void *)(address & ~(page - 1)), 1, &there) == 0;
}

/* What dl_iterate_phdr() would say of one object. */
static bool describe(const struct link_map *map, struct dl_phdr_info *info)
{
    const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)map->l_addr;
    *info = (struct dl_phdr_info){.dlpi_addr = map->l_addr,
                                  .dlpi_name = map->l_name ? map->l_name : ""};
    if (map == _r_debug.r_map) {
        info->dlpi_phdr = (const ElfW(Phdr) *)getauxval(AT_PHDR);
        info->dlpi_phnum = (ElfW(Half))getauxval(AT_PHNUM);
    } else if (is_mapped(map->l_addr) && head->e_ident[0] == ELFMAG0 &&
               head->e_ident[1] == ELFMAG1 && head->e_ident[2] == ELFMAG2 &&
               head->e_ident[3] == ELFMAG3) {
        info->dlpi_phdr = (const ElfW(Phdr) *)(map->l_addr + head->e_phoff);
        info->dlpi_phnum = head->e_phnum;
    }
    return info->dlpi_phdr != NULL;
}

/* Without a lock: right after a fork nobody changes the list, and later only who loads objects in
 * another thread of a child, after which dl_iterate_phdr() would have hung already. */
static int walk_list(int (*visit)(struct dl_phdr_info *, size_t, void *), void *user)
{
    unsigned long long objects = 0;
    int result = 0;
    for (const struct link_map *map = _r_debug.r_map; map; map = map->l_next)
        objects++;
    for (const struct link_map *map = _r_debug.r_map; map && !result; map = map->l_next) {
        struct dl_phdr_info info;
        if (!describe(map, &info))
            continue;
        info.dlpi_adds = objects;
        result = visit(&info, sizeof(info), user);
    }
    return result;
}

/** dl_iterate_phdr(), where it cannot hang. */
int skew_loader_iterate(int (*visit)(struct dl_phdr_info *, size_t, void *), void *user)
{
    if (!skew_loader_enter())
        return walk_list(visit, user);
    int result = dl_iterate_phdr(visit, user);
    skew_loader_leave();
    return result;
}
