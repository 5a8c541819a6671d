/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an ELF file says about itself: see elf_file.h. Little-endian 64-bit files are read in full;
 * of any other only what kind it is. Runs on the watching thread of `run` as well: keeps no state.
 */
#include "elf_file.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MOST_SECTIONS 4096
#define MOST_TABLE    (16u << 20)
#define CHUNK         (1u << 20)

static bool read_at(int fd, void *to, size_t bytes, uint64_t from)
{
    return pread(fd, to, bytes, (off_t)from) == (ssize_t)bytes;
}

/* A piece of the file, with a NUL behind it. Caller frees. */
static char *read_piece(int fd, uint64_t from, uint64_t bytes)
{
    char *piece = bytes <= MOST_TABLE ? malloc(bytes + 1) : NULL;

    if (piece && !read_at(fd, piece, bytes, from)) {
        free(piece);
        piece = NULL;
    }
    if (piece)
        piece[bytes] = '\0';
    return piece;
}

/* Calls `visit` for each section until it returns false. */
static void each_section(int fd, const Elf64_Ehdr *head,
                         bool (*visit)(void *user, int fd, const char *name, const Elf64_Shdr *),
                         void *user)
{
    Elf64_Shdr *table = NULL;
    char *names = NULL;
    size_t count = head->e_shnum;

    if (count == 0 || count > MOST_SECTIONS || head->e_shentsize != sizeof *table ||
        head->e_shstrndx >= count)
        return;
    table = (Elf64_Shdr *)read_piece(fd, head->e_shoff, count * sizeof *table);
    if (table)
        names = read_piece(fd, table[head->e_shstrndx].sh_offset, table[head->e_shstrndx].sh_size);
    for (size_t i = 0; names && i < count; i++)
        if (table[i].sh_name < table[head->e_shstrndx].sh_size &&
            !visit(user, fd, names + table[i].sh_name, &table[i]))
            break;
    free(names);
    free(table);
}

/* ---- headers ------------------------------------------------------------------------------- */

static void take_needed(struct skew_elf *elf, const char *name)
{
    elf->needs_nccl |= strncmp(name, "libnccl.so", 10) == 0 || strncmp(name, "librccl.so", 10) == 0;
    elf->needs_cuda |= strncmp(name, "libcudart", 9) == 0 || strncmp(name, "libcuda.so", 10) == 0;
}

/* Offset in the file of an address in memory; 0 when no segment holds it. */
static uint64_t file_offset(const Elf64_Phdr *segments, size_t count, uint64_t address)
{
    for (size_t i = 0; i < count; i++)
        if (segments[i].p_type == PT_LOAD && address >= segments[i].p_vaddr &&
            address - segments[i].p_vaddr < segments[i].p_filesz)
            return segments[i].p_offset + (address - segments[i].p_vaddr);
    return 0;
}

static void read_dynamic(struct skew_elf *elf, int fd, const Elf64_Phdr *segments, size_t count,
                         const Elf64_Phdr *dynamic)
{
    uint64_t strings = 0, size = 0;
    Elf64_Dyn *table = (Elf64_Dyn *)read_piece(fd, dynamic->p_offset, dynamic->p_filesz);
    size_t entries = table ? dynamic->p_filesz / sizeof *table : 0;

    for (size_t i = 0; i < entries && table[i].d_tag != DT_NULL; i++) {
        strings = table[i].d_tag == DT_STRTAB ? table[i].d_un.d_ptr : strings;
        size = table[i].d_tag == DT_STRSZ ? table[i].d_un.d_val : size;
    }
    char *names = read_piece(fd, file_offset(segments, count, strings), size);
    for (size_t i = 0; names && i < entries && table[i].d_tag != DT_NULL; i++)
        if (table[i].d_tag == DT_NEEDED && table[i].d_un.d_val < size)
            take_needed(elf, names + table[i].d_un.d_val);
    free(names);
    free(table);
}

static bool take_section(void *user, int fd, const char *name, const Elf64_Shdr *section)
{
    struct skew_elf *elf = user;

    (void)fd;
    (void)section;
    elf->device_code |=
        strncmp(name, ".nv_fatbin", 10) == 0 || strncmp(name, ".hip_fatbin", 11) == 0;
    return !elf->device_code;
}

static void read_64(struct skew_elf *elf, int fd, const Elf64_Ehdr *head)
{
    size_t count = head->e_phnum;
    Elf64_Phdr *segments = NULL;

    if (count && count < 1024 && head->e_phentsize == sizeof *segments)
        segments = (Elf64_Phdr *)read_piece(fd, head->e_phoff, count * sizeof *segments);
    for (size_t i = 0; segments && i < count; i++) {
        if (segments[i].p_type == PT_INTERP && segments[i].p_filesz < sizeof elf->interp) {
            elf->loader = read_at(fd, elf->interp, segments[i].p_filesz, segments[i].p_offset);
            elf->interp[segments[i].p_filesz] = '\0';
        }
        if (segments[i].p_type == PT_DYNAMIC)
            read_dynamic(elf, fd, segments, count, &segments[i]);
    }
    free(segments);
    each_section(fd, head, take_section, elf);
}

static void read_script(struct skew_elf *elf, const char *start, ssize_t got)
{
    size_t length = 0;

    while (2 + (ssize_t)length < got && start[2 + length] != '\n')
        length++;
    while (length && *(start + 2) == ' ') {
        start++;
        length--;
    }
    snprintf(elf->script, sizeof elf->script, "%.*s", (int)length, start + 2);
}

int skew_elf_read(struct skew_elf *elf, const char *path)
{
    char start[256];
    Elf64_Ehdr head;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    *elf = (struct skew_elf){0};
    if (fd < 0)
        return -errno;
    ssize_t got = pread(fd, start, sizeof start, 0);
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode))
        elf->set_id = (info.st_mode & (S_ISUID | S_ISGID)) ||
                      fgetxattr(fd, "security.capability", NULL, 0) > 0;
    if (got >= (ssize_t)sizeof head && memcmp(start, ELFMAG, SELFMAG) == 0) {
        memcpy(&head, start, sizeof head);
        elf->elf = true;
        elf->bits = head.e_ident[EI_CLASS] == ELFCLASS64 ? 64 : 32;
        elf->machine = head.e_machine;
        elf->program = head.e_type == ET_EXEC || (head.e_type == ET_DYN && head.e_entry != 0);
        if (elf->bits == 64 && head.e_ident[EI_DATA] == ELFDATA2LSB)
            read_64(elf, fd, &head);
    } else if (got > 2 && start[0] == '#' && start[1] == '!') {
        read_script(elf, start, got);
    }
    close(fd);
    return got < 0 ? -EIO : 0;
}

/* ---- what is inside ------------------------------------------------------------------------ */

struct hunt {
    const char *const *words; /* ends with NULL; the longest is far below OVERLAP */
    const bool *stop;
    char *found; /* what stands there from the word on, up to 63 characters */
    bool done;
};

#define OVERLAP 128u

static bool hunt_section(void *user, int fd, const char *name, const Elf64_Shdr *section)
{
    struct hunt *hunt = user;
    char *chunk;

    if (strncmp(name, ".rodata", 7) != 0 || section->sh_type == SHT_NOBITS)
        return true;
    chunk = malloc(CHUNK + OVERLAP);
    for (uint64_t at = 0; chunk && at < section->sh_size && !hunt->done; at += CHUNK) {
        uint64_t want =
            section->sh_size - at < CHUNK + OVERLAP ? section->sh_size - at : CHUNK + OVERLAP;
        ssize_t got = pread(fd, chunk, want, (off_t)(section->sh_offset + at));
        if (got <= 0 || (hunt->stop && __atomic_load_n(hunt->stop, __ATOMIC_RELAXED)))
            break;
        for (int i = 0; hunt->words[i] && !hunt->done; i++) {
            char *hit = memmem(chunk, (size_t)got, hunt->words[i], strlen(hunt->words[i]));
            hunt->done = hit != NULL;
            if (hit && hunt->found)
                snprintf(hunt->found, 64, "%.*s",
                         (int)(chunk + got - hit < 63 ? chunk + got - hit : 63), hit);
        }
    }
    free(chunk);
    return !hunt->done;
}

static bool hunt_file(const char *path, struct hunt *hunt)
{
    Elf64_Ehdr head;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return false;
    if (read_at(fd, &head, sizeof head, 0) && memcmp(head.e_ident, ELFMAG, SELFMAG) == 0 &&
        head.e_ident[EI_CLASS] == ELFCLASS64)
        each_section(fd, &head, hunt_section, hunt);
    close(fd);
    return hunt->done;
}

bool skew_elf_static_nccl(const char *path, const struct skew_elf *elf, const bool *stop)
{
    /* Whole names of kernels: profilers hold the beginnings. The first since NCCL 2.19, then
     * before. */
    static const char *const kernels[] = {"ncclDevKernel_SendRecv",
                                          "ncclKernel_SendRecv_RING_SIMPLE", NULL};
    struct hunt hunt = {.words = kernels, .stop = stop};

    return elf->device_code && !elf->needs_nccl && hunt_file(path, &hunt);
}

void skew_elf_nccl_version(const char *path, char version[32])
{
    static const char *const words[] = {"NCCL version 2.", "RCCL version 2.", NULL};
    char found[64] = "";
    struct hunt hunt = {.words = words, .found = found};

    version[0] = '\0';
    if (hunt_file(path, &hunt)) {
        const char *number = found + strlen("NCCL version ");
        snprintf(version, 32, "%.*s", (int)strspn(number, "0123456789."), number);
    }
}
