/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Symbol look-up in loaded objects, by reading their dynamic symbol tables. It finds what dlsym
 * cannot give us: dlsym itself (its symbol version differs between glibc releases, and ours stands
 * in front of it), and NCCL where it was loaded RTLD_LOCAL. And the two ways to look absent: taking
 * exports of ours out of our table, and weak references back. Any thread; no state but what the
 * loader has.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

extern ElfW(Dyn) _DYNAMIC[] __attribute__((visibility("hidden")));

struct tables {
    const ElfW(Dyn) * dynamic;
    const ElfW(Sym) * symbols;
    const char *strings;
    const uint32_t *gnu_hash;
    const uint32_t *sysv_hash;
};

/* Not strcmp(): a sanitizer's own one is not ready when it makes its first look-up. */
static SKEW_START bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* glibc stores relocated pointers in d_ptr, musl and the vDSO unrelocated ones. */
static SKEW_START const void *table_at(ElfW(Addr) base, ElfW(Addr) address)
{
    return (const void *)(address < base ? base + address : address);
}

static SKEW_START bool tables_at(ElfW(Addr) base, const ElfW(Dyn) * dyn, struct tables *out)
{
    *out = (struct tables){0};
    out->dynamic = dyn;
    for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
        const void *at = table_at(base, dyn->d_un.d_ptr);
        switch (dyn->d_tag) {
        case DT_SYMTAB:
            out->symbols = at;
            break;
        case DT_STRTAB:
            out->strings = at;
            break;
        case DT_GNU_HASH:
            out->gnu_hash = at;
            break;
        case DT_HASH:
            out->sysv_hash = at;
            break;
        default:
            break;
        }
    }
    return out->symbols && out->strings && (out->gnu_hash || out->sysv_hash);
}

static bool tables_of(const struct dl_phdr_info *info, struct tables *out)
{
    const ElfW(Dyn) *dyn = NULL;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
            dyn = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    return tables_at(info->dlpi_addr, dyn, out);
}

static SKEW_START bool defines(const struct tables *t, uint32_t index, const char *name)
{
    const ElfW(Sym) *sym = &t->symbols[index];
    unsigned type = sym->st_info & 0xf;
    return sym->st_shndx != SHN_UNDEF && (type == STT_FUNC || type == STT_NOTYPE) &&
           same(t->strings + sym->st_name, name);
}

static SKEW_START uint32_t find_gnu(const struct tables *t, const char *name)
{
    uint32_t hash = 5381;
    for (const char *p = name; *p; p++)
        hash = hash * 33 + (uint8_t)*p;
    uint32_t buckets = t->gnu_hash[0], first = t->gnu_hash[1], bloom_words = t->gnu_hash[2];
    const ElfW(Addr) *bloom = (const ElfW(Addr) *)(t->gnu_hash + 4);
    const unsigned bits = 8 * sizeof(ElfW(Addr));
    if (!buckets || !bloom_words)
        return 0;
    ElfW(Addr) word = bloom[(hash / bits) % bloom_words];
    if (!((word >> (hash % bits)) & (word >> ((hash >> t->gnu_hash[3]) % bits)) & 1))
        return 0;
    const uint32_t *bucket = (const uint32_t *)(bloom + bloom_words);
    const uint32_t *chain = bucket + buckets;
    uint32_t i = bucket[hash % buckets];
    if (i < first)
        return 0;
    for (;; i++) {
        uint32_t h = chain[i - first];
        if ((h | 1) == (hash | 1) && defines(t, i, name))
            return i;
        if (h & 1)
            return 0;
    }
}

static SKEW_START uint32_t find_sysv(const struct tables *t, const char *name)
{
    uint32_t hash = 0;
    for (const char *p = name; *p; p++) {
        hash = (hash << 4) + (uint8_t)*p;
        hash ^= (hash >> 24) & 0xf0;
    }
    hash &= 0x0fffffff;
    uint32_t buckets = t->sysv_hash[0];
    const uint32_t *bucket = t->sysv_hash + 2, *chain = bucket + buckets;
    if (!buckets)
        return 0;
    for (uint32_t i = bucket[hash % buckets]; i; i = chain[i])
        if (defines(t, i, name))
            return i;
    return 0;
}

static SKEW_START uint32_t find(const struct tables *t, const char *name)
{
    return t->gnu_hash ? find_gnu(t, name) : find_sysv(t, name);
}

/** Address of a function that this object defines and exports, whatever its version; or NULL. */
void *skew_elf_lookup(const struct dl_phdr_info *info, const char *name)
{
    struct tables t;
    if (!tables_of(info, &t))
        return NULL;
    uint32_t index = find(&t, name);
    return index ? (void *)(info->dlpi_addr + t.symbols[index].st_value) : NULL;
}

static bool contains(const struct dl_phdr_info *info, const void *address)
{
    uintptr_t at = (uintptr_t)address;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + ph->p_vaddr;
        if (ph->p_type == PT_LOAD && at >= start && at < start + ph->p_memsz)
            return true;
    }
    return false;
}

struct search {
    const char *const *names; /* all of these must be defined; ended by NULL */
    const void *address;
    bool after_self, seen_self;
    void *result; /* of the first name */
    struct dl_phdr_info *found;
};

static int visit_symbols(struct dl_phdr_info *info, size_t size, void *user)
{
    struct search *s = user;
    struct tables t;
    (void)size;
    if (contains(info, (void *)skew_elf_first)) {
        s->seen_self = true;
        return 0;
    }
    if ((s->after_self && !s->seen_self) || !tables_of(info, &t))
        return 0;
    for (const char *const *name = s->names; *name; name++)
        if (!find(&t, *name))
            return 0;
    s->result = (void *)(info->dlpi_addr + t.symbols[find(&t, s->names[0])].st_value);
    if (s->found)
        *s->found = *info;
    return 1;
}

/** The first object in load order, this library left out, that defines all `names` (ended by NULL).
 * `after_self`: that comes after this library. @return the address of the first name. */
void *skew_elf_first_of(const char *const names[], bool after_self, struct dl_phdr_info *found)
{
    struct search s = {.names = names, .after_self = after_self, .found = found};
    skew_loader_iterate(visit_symbols, &s);
    return s.result;
}

void *skew_elf_first(const char *name, bool after_self)
{
    const char *const names[] = {name, NULL};
    return skew_elf_first_of(names, after_self, NULL);
}

/**
 * The next dlsym() after ours, or the first one when there is none. By the loader's own list and
 * not by dl_iterate_phdr(): hosts and tools interpose that too, and look up the real one by
 * dlsym(). Called at start, by the constructor at the latest.
 */
SKEW_START void *skew_elf_next_dlsym(void)
{
    void *first = NULL;
    bool seen_self = false;
    for (const struct link_map *map = _r_debug.r_map; map; map = map->l_next) {
        struct tables t;
        if (map->l_ld == _DYNAMIC) {
            seen_self = true;
            continue;
        }
        uint32_t index = tables_at(map->l_addr, map->l_ld, &t) ? find(&t, "dlsym") : 0;
        if (!index)
            continue;
        void *at = (void *)(map->l_addr + t.symbols[index].st_value);
        if (seen_self)
            return at;
        first = first ? first : at;
    }
    return first;
}

bool skew_elf_contains(const struct dl_phdr_info *info, const void *address)
{
    return contains(info, address);
}

/* Every process that we are preloaded into comes by here, and hardly one has a weak reference to
 * us: look at the list of undefined symbols, which is short, before the relocations. They come
 * first in the symbol table where there is a GNU hash; one without entries does not tell where they
 * end. */
static SKEW_START bool may_have_weak(const struct tables *t)
{
    uint32_t end = t->gnu_hash ? t->gnu_hash[1] : t->sysv_hash[1];
    if (end <= 1)
        return true;
    for (uint32_t i = 1; i < end; i++) {
        const ElfW(Sym) *sym = &t->symbols[i];
        if (sym->st_shndx == SHN_UNDEF && sym->st_info >> 4 == STB_WEAK &&
            skew_name_may_be_ours(t->strings + sym->st_name))
            return true;
    }
    return false;
}

enum start { START_UNKNOWN, START_LATER, START_WITH_PROCESS };
static uint32_t start SKEW_EARLY = START_UNKNOWN;

/**
 * In the constructor, all that every process pays for: one walk over the loader's list, whose lock
 * our caller holds.
 * @param witness a function that every NCCL defines
 */
SKEW_START struct skew_elf_look skew_elf_look(const char *witness)
{
    struct skew_elf_look look = {0};
    bool seen_self = false;
    for (const struct link_map *map = _r_debug.r_map; map; map = map->l_next) {
        struct tables t;
        if (map->l_ld == _DYNAMIC)
            seen_self = true;
        if (map->l_ld == _DYNAMIC || !tables_at(map->l_addr, map->l_ld, &t))
            continue;
        look.libc_after |= seen_self && find(&t, "__libc_start_main");
        look.nccl |= find(&t, witness) != 0;
        look.weak |= may_have_weak(&t);
    }
    start = look.libc_after ? START_WITH_PROCESS : START_LATER;
    return look;
}

/** Whether the loader itself brought this library at the start of the process: then libc comes
 * after it. */
bool skew_elf_at_start(void)
{
    if (start == START_UNKNOWN) /* before the constructor */
        return skew_elf_first("__libc_start_main", true) != NULL;
    return start == START_WITH_PROCESS;
}

static int visit_address(struct dl_phdr_info *info, size_t size, void *user)
{
    struct search *s = user;
    (void)size;
    if (!contains(info, s->address))
        return 0;
    *s->found = *info;
    return 1;
}

/** The loaded object that an address lies in. */
bool skew_elf_module_of(const void *address, struct dl_phdr_info *found)
{
    struct search s = {.address = address, .found = found};
    return skew_loader_iterate(visit_address, &s) != 0;
}

/* What the memory at an address may be used for, as its object says and the loader has made it. */
static int protection(const struct dl_phdr_info *info, uintptr_t address)
{
    int may = PROT_READ;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + ph->p_vaddr;
        if (address < start || address >= start + ph->p_memsz)
            continue;
        if (ph->p_type == PT_GNU_RELRO)
            return PROT_READ;
        if (ph->p_type == PT_LOAD)
            may = ((ph->p_flags & PF_R) ? PROT_READ : 0) | ((ph->p_flags & PF_W) ? PROT_WRITE : 0) |
                  ((ph->p_flags & PF_X) ? PROT_EXEC : 0);
    }
    return may;
}

/* Makes a range of one segment writable, or (`done`) what it was. */
static int writable(const struct dl_phdr_info *info, uintptr_t first, uintptr_t end, bool done)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = first & ~(page - 1);
    int may = protection(info, first);
    if (may & PROT_WRITE)
        return 0;
    return mprotect((void *)start, end - start, done ? may : may | PROT_WRITE) == 0 ? 0 : -errno;
}

/**
 * Takes some of this library's own exports out of its symbol table, so that look-ups no longer see
 * them: what the real NCCL lacks has to look absent. The table is a private mapping of ours.
 * @return 0 or -errno; names that are no exports are passed over.
 */
int skew_elf_hide(const char *const names[], unsigned count)
{
    struct dl_phdr_info self;
    struct tables t;
    uintptr_t first = UINTPTR_MAX, end = 0;
    if (!count || !skew_elf_module_of((void *)skew_elf_hide, &self) || !tables_of(&self, &t))
        return count ? -ENOENT : 0;
    for (unsigned i = 0; i < count; i++) {
        uint32_t index = find(&t, names[i]);
        uintptr_t at = (uintptr_t)&t.symbols[index];
        first = index && at < first ? at : first;
        end = index && at + sizeof(*t.symbols) > end ? at + sizeof(*t.symbols) : end;
    }
    int err = end ? writable(&self, first, end, false) : 0;
    if (err || !end)
        return err;
    for (unsigned i = 0; i < count; i++) {
        uint32_t index = find(&t, names[i]);
        ElfW(Sym) *sym = (ElfW(Sym) *)&t.symbols[index];
        if (!index)
            continue;
        __atomic_store_n(&sym->st_value, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&sym->st_shndx, SHN_UNDEF, __ATOMIC_RELEASE);
    }
    return writable(&self, first, end, true);
}

/* ---- weak references ----------------------------------------------------------------------- */

struct weak_walk {
    void *(*unwanted)(const char *name);
};

/* Where one table of relocations says that a weak reference was bound to us, it becomes NULL again.
 */
static void drop_weak_in(const struct dl_phdr_info *info, const struct tables *t,
                         const ElfW(Rela) * rela, size_t count, void *(*unwanted)(const char *))
{
    for (; count; count--, rela++) {
        const ElfW(Sym) *sym = &t->symbols[ELF64_R_SYM(rela->r_info)];
        if (sym->st_shndx != SHN_UNDEF || sym->st_info >> 4 != STB_WEAK)
            continue;
        void *ours = unwanted(t->strings + sym->st_name);
        void **place = (void **)(info->dlpi_addr + rela->r_offset);
        if (!ours || *place != ours)
            continue;
        if (writable(info, (uintptr_t)place, (uintptr_t)(place + 1), false) == 0) {
            *place = NULL;
            writable(info, (uintptr_t)place, (uintptr_t)(place + 1), true);
        }
    }
}

static int visit_weak(struct dl_phdr_info *info, size_t size, void *user)
{
    const struct weak_walk *walk = user;
    const ElfW(Rela) *rela = NULL, *plt = NULL;
    size_t rela_bytes = 0, plt_bytes = 0, relative = 0;
    struct tables t;
    (void)size;
    const ElfW(Dyn) *dyn = tables_of(info, &t) && may_have_weak(&t) ? t.dynamic : NULL;
    for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
        switch (dyn->d_tag) {
        case DT_RELA:
            rela = table_at(info->dlpi_addr, dyn->d_un.d_ptr);
            break;
        case DT_RELASZ:
            rela_bytes = dyn->d_un.d_val;
            break;
        case DT_RELACOUNT:
            relative = dyn->d_un.d_val;
            break;
        case DT_JMPREL:
            plt = table_at(info->dlpi_addr, dyn->d_un.d_ptr);
            break;
        case DT_PLTRELSZ:
            plt_bytes = dyn->d_un.d_val;
            break;
        default:
            break;
        }
    }
    if (rela && rela_bytes / sizeof(*rela) > relative)
        drop_weak_in(info, &t, rela + relative, rela_bytes / sizeof(*rela) - relative,
                     walk->unwanted);
    if (plt)
        drop_weak_in(info, &t, plt, plt_bytes / sizeof(*plt), walk->unwanted);
    return 0;
}

/**
 * Undoes what the loader has done with weak references to us before our constructor could run:
 * where nobody else defines the function, the reference is NULL without us, and applications test
 * that.
 * @param unwanted which of our functions a name must not lead to; NULL: not concerned
 */
void skew_elf_drop_weak(void *(*unwanted)(const char *name))
{
    struct weak_walk walk = {unwanted};
    skew_loader_iterate(visit_weak, &walk);
}
