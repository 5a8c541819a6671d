/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Symbol look-up in loaded objects, by reading their dynamic symbol tables. It finds what dlsym
 * cannot give us: dlsym itself (its symbol version differs between glibc releases, and ours stands in
 * front of it), and NCCL where it was loaded RTLD_LOCAL. Any thread; no state but what the loader has.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

struct tables {
    const ElfW(Sym) *symbols;
    const char *strings;
    const uint32_t *gnu_hash;
    const uint32_t *sysv_hash;
};

/* glibc stores relocated pointers in d_ptr, musl and the vDSO unrelocated ones. */
static const void *table_at(const struct dl_phdr_info *info, ElfW(Addr) address)
{
    return (const void *)(address < info->dlpi_addr ? info->dlpi_addr + address : address);
}

static bool tables_of(const struct dl_phdr_info *info, struct tables *out)
{
    const ElfW(Dyn) *dyn = NULL;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
            dyn = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    memset(out, 0, sizeof(*out));
    for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
        const void *at = table_at(info, dyn->d_un.d_ptr);
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

static bool defines(const struct tables *t, uint32_t index, const char *name)
{
    const ElfW(Sym) *sym = &t->symbols[index];
    unsigned type = sym->st_info & 0xf;
    return sym->st_shndx != SHN_UNDEF && (type == STT_FUNC || type == STT_NOTYPE) &&
           strcmp(t->strings + sym->st_name, name) == 0;
}

static uint32_t find_gnu(const struct tables *t, const char *name)
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

static uint32_t find_sysv(const struct tables *t, const char *name)
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

static uint32_t find(const struct tables *t, const char *name)
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
    const char *name;
    const void *address;
    bool after_self, seen_self;
    void *result;
    struct dl_phdr_info *found;
};

static int visit_symbol(struct dl_phdr_info *info, size_t size, void *user)
{
    struct search *s = user;
    (void)size;
    if (contains(info, (void *)skew_elf_first)) {
        s->seen_self = true;
        return 0;
    }
    if (s->after_self && !s->seen_self)
        return 0;
    s->result = skew_elf_lookup(info, s->name);
    if (s->result && s->found)
        *s->found = *info;
    return s->result != NULL;
}

/** The first object in load order that defines `name`, this library left out. @return its address. */
void *skew_elf_first(const char *name, bool after_self, struct dl_phdr_info *found)
{
    struct search s = {.name = name, .after_self = after_self, .found = found};
    dl_iterate_phdr(visit_symbol, &s);
    return s.result;
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
    return dl_iterate_phdr(visit_address, &s) != 0;
}

/**
 * Takes one of this library's own exports out of its symbol table, so that look-ups no longer see it:
 * what the real NCCL lacks has to look absent. The table is a private mapping of ours.
 * @return 0, -ENOENT when there is no such export, or -errno.
 */
int skew_elf_hide(const char *name)
{
    struct dl_phdr_info self;
    struct tables t;
    if (!skew_elf_module_of((void *)skew_elf_hide, &self) || !tables_of(&self, &t))
        return -ENOENT;
    uint32_t index = find(&t, name);
    if (!index)
        return -ENOENT;
    ElfW(Sym) *sym = (ElfW(Sym) *)&t.symbols[index];
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)sym & ~(page - 1);
    size_t bytes = (uintptr_t)(sym + 1) - start;
    if (mprotect((void *)start, bytes, PROT_READ | PROT_WRITE) != 0)
        return -errno;
    __atomic_store_n(&sym->st_value, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&sym->st_shndx, SHN_UNDEF, __ATOMIC_RELEASE);
    mprotect((void *)start, bytes, PROT_READ);
    return 0;
}
