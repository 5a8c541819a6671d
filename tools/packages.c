/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which communication libraries and MoE frameworks a job could use: see packages.h.
 */
#include "packages.h"
#include "elf_file.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Shared objects, by the beginning of their names. */
static const char *const libraries[] = {
    "libnccl.so", "libnccl_ep",  "libnccl-net", "libnccl-profiler", "librccl.so",
    "libnvshmem", "libuccl",     "libnixl",     "libmori",          "libmscclpp",
    "libucc.so",  "librocshmem", NULL};

/* Python distributions, by name with '-' and '.' as '_', in lower case; a trailing '*' is open. */
static const char *const distributions[] = {"nvidia_nccl*",
                                            "nvidia_nvshmem*",
                                            "nccl4py",
                                            "deep_ep*",
                                            "hybrid_ep*",
                                            "uccl*",
                                            "pplx*",
                                            "flashinfer*",
                                            "nixl*",
                                            "mori*",
                                            "mscclpp*",
                                            "torch",
                                            "torchtitan",
                                            "megatron_core",
                                            "transformer_engine*",
                                            "deepspeed*",
                                            "tutel",
                                            "fastmoe",
                                            "colossalai",
                                            "vllm",
                                            "sglang*",
                                            "sgl_kernel",
                                            "tensorrt_llm",
                                            "jax",
                                            "jaxlib",
                                            "jax_cuda*",
                                            "cupy*",
                                            "deep_gemm",
                                            NULL};

struct search {
    skew_package_fn *take;
    void *user;
    char **told; /* paths */
    size_t count;
};

static bool told_before(struct search *s, const char *path)
{
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->told[i], path) == 0)
            return true;
    char **bigger = realloc(s->told, (s->count + 1) * sizeof *bigger);
    if (!bigger)
        return true;
    s->told = bigger;
    s->told[s->count] = strdup(path);
    return s->told[s->count] ? s->count++, false : true;
}

/* ---- shared objects ------------------------------------------------------------------------ */

static bool is_library(const char *name)
{
    const char *so = strstr(name, ".so");

    if (!so || so[3 + strspn(so + 3, ".0123456789")] != '\0')
        return false;
    for (int i = 0; libraries[i]; i++)
        if (strncmp(name, libraries[i], strlen(libraries[i])) == 0)
            return true;
    return false;
}

/* libnccl.so.2 → libnccl; the version is what follows .so. in the name of the real file. */
static void tell_library(struct search *s, const char *path)
{
    char real[PATH_MAX], name[NAME_MAX + 1];
    struct stat info;

    if (!realpath(path, real) || stat(real, &info) != 0 || !S_ISREG(info.st_mode) ||
        told_before(s, real))
        return;
    const char *base = strrchr(real, '/') + 1;
    const char *so = strstr(base, ".so");
    size_t length = so ? (size_t)(so - base) : strlen(base);
    memcpy(name, base, length);
    name[length] = '\0';
    const char *version = so && so[3] == '.' && so[4] ? so + 4 : NULL;
    char inside[32];
    if ((!version || !strchr(version, '.')) &&
        (strcmp(name, "libnccl") == 0 || strcmp(name, "librccl") == 0)) {
        skew_elf_nccl_version(real, inside);
        version = *inside ? inside : version;
    }
    s->take(s->user, name, version, real);
}

static void search_directory(struct search *s, const char *directory)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *open = opendir(directory);

    while (open && (entry = readdir(open))) {
        if (is_library(entry->d_name) &&
            snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) < (int)sizeof path)
            tell_library(s, path);
    }
    if (open)
        closedir(open);
}

static void each_of_path(struct search *s, const char *list,
                         void (*visit)(struct search *, const char *))
{
    char *copy = list && *list ? strdup(list) : NULL, *rest = copy, *one;

    while (copy && (one = strsep(&rest, ":")))
        if (*one)
            visit(s, one);
    free(copy);
}

/* /etc/ld.so.cache: a header, entries, and strings at offsets from the header (glibc, dl-cache.h).
 */
static void search_loader_cache(struct search *s)
{
    static const char magic[] = "glibc-ld.so.cache1.1";
    struct header {
        char magic[20];
        uint32_t count, string_bytes;
        uint32_t unused[5];
    };
    struct entry {
        int32_t flags;
        uint32_t key, value, os;
        uint64_t hwcap;
    };
    struct stat info;
    int fd = open("/etc/ld.so.cache", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    char *cache =
        fstat(fd, &info) == 0 && info.st_size > 0 ? malloc((size_t)info.st_size + 1) : NULL;
    size_t size = cache ? (size_t)info.st_size : 0;
    if (cache && read(fd, cache, size) != (ssize_t)size)
        size = 0;
    close(fd);
    /* An old format may stand before the one that we know. */
    char *start = size ? memmem(cache, size, magic, sizeof magic - 1) : NULL;
    struct header head;
    if (start && (size_t)(cache + size - start) > sizeof head) {
        size_t room = (size_t)(cache + size - start);
        cache[size] = '\0';
        memcpy(&head, start, sizeof head);
        for (size_t i = 0; i < head.count && sizeof head + (i + 1) * sizeof(struct entry) <= room;
             i++) {
            struct entry entry;
            memcpy(&entry, start + sizeof head + i * sizeof entry, sizeof entry);
            if (entry.key < room && entry.value < room && is_library(start + entry.key))
                tell_library(s, start + entry.value);
        }
    }
    free(cache);
}

/* ---- Python -------------------------------------------------------------------------------- */

static bool is_distribution(const char *name)
{
    for (int i = 0; distributions[i]; i++) {
        size_t length = strlen(distributions[i]);
        bool open = distributions[i][length - 1] == '*';
        if (open ? strncasecmp(name, distributions[i], length - 1) == 0
                 : strcasecmp(name, distributions[i]) == 0)
            return true;
    }
    return false;
}

/* deep_ep-1.2.1.dist-info (or .egg-info) → deep_ep, 1.2.1 */
static void take_distribution(struct search *s, const char *site, const char *entry)
{
    char path[PATH_MAX], name[NAME_MAX + 1];
    const char *suffix = strstr(entry, ".dist-info");

    suffix = suffix ? suffix : strstr(entry, ".egg-info");
    if (!suffix || strlen(entry) > NAME_MAX)
        return;
    strcpy(name, entry);
    name[suffix - entry] = '\0';
    char *dash = strchr(name, '-');
    if (dash)
        *dash = '\0';
    for (char *c = name; *c; c++)
        *c = *c == '.' ? '_' : *c;
    if (is_distribution(name) &&
        snprintf(path, sizeof path, "%s/%s", site, entry) < (int)sizeof path &&
        !told_before(s, path))
        s->take(s->user, name, dash ? dash + 1 : NULL, path);
}

static void search_site(struct search *s, const char *site)
{
    static const char *const below[] = {"nvidia/nccl/lib", "nvidia/nvshmem/lib", "nvidia/cu13/lib",
                                        "torch/lib", "rocm/lib"};
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *open = opendir(site);

    if (!open)
        return;
    while ((entry = readdir(open)))
        take_distribution(s, site, entry->d_name);
    closedir(open);
    for (size_t i = 0; i < sizeof below / sizeof *below; i++)
        if (snprintf(path, sizeof path, "%s/%s", site, below[i]) < (int)sizeof path)
            search_directory(s, path);
}

/* The site-packages and dist-packages of every python3 under a prefix. */
static void search_prefix(struct search *s, const char *prefix)
{
    static const char *const libs[] = {"lib", "lib64", "local/lib"};
    static const char *const kinds[] = {"site-packages", "dist-packages"};
    char path[PATH_MAX], site[PATH_MAX];

    for (size_t l = 0; l < sizeof libs / sizeof *libs; l++) {
        struct dirent *entry;
        snprintf(path, sizeof path, "%s/%s", prefix, libs[l]);
        DIR *open = opendir(path);
        while (open && (entry = readdir(open))) {
            if (strncmp(entry->d_name, "python3", 7) != 0)
                continue;
            for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
                if (snprintf(site, sizeof site, "%s/%s/%s", path, entry->d_name, kinds[k]) <
                    (int)sizeof site)
                    search_site(s, site);
        }
        if (open)
            closedir(open);
    }
}

/* The prefix of the first `python` or `python3` in PATH: a virtual environment is one by itself. */
static void search_python_in_path(struct search *s)
{
    static const char *const names[] = {"python", "python3"};
    char *copy = getenv("PATH") ? strdup(getenv("PATH")) : NULL, *rest = copy, *one;
    char path[PATH_MAX], real[PATH_MAX];

    while (copy && (one = strsep(&rest, ":"))) {
        for (size_t i = 0; i < 2; i++) {
            if (snprintf(path, sizeof path, "%s/%s", one, names[i]) >= (int)sizeof path ||
                access(path, X_OK) != 0)
                continue;
            char *slash = strrchr(path, '/');
            *slash = '\0';
            if ((slash = strrchr(path, '/')))
                *slash = '\0';
            search_prefix(s, path);
            snprintf(path, sizeof path, "%s/%s", one, names[i]);
            if (realpath(path, real) && (slash = strrchr(real, '/'))) {
                *slash = '\0';
                if ((slash = strrchr(real, '/')))
                    *slash = '\0';
                search_prefix(s, real);
            }
            rest = NULL;
            break;
        }
    }
    free(copy);
}

void skew_packages_find(skew_package_fn *take, void *user)
{
    struct search search = {.take = take, .user = user};
    char local[PATH_MAX];

    each_of_path(&search, getenv("LD_LIBRARY_PATH"), search_directory);
    search_loader_cache(&search);
    each_of_path(&search, getenv("PYTHONPATH"), search_site);
    each_of_path(&search, getenv("VIRTUAL_ENV"), search_prefix);
    each_of_path(&search, getenv("CONDA_PREFIX"), search_prefix);
    search_python_in_path(&search);
    if (getenv("HOME") &&
        snprintf(local, sizeof local, "%s/.local", getenv("HOME")) < (int)sizeof local)
        search_prefix(&search, local);
    for (size_t i = 0; i < search.count; i++)
        free(search.told[i]);
    free(search.told);
}
