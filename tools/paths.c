/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the parts of skewscope lie: see paths.h.
 */
#include "paths.h"
#include "term.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "layout.h"

#define LIBRARY "libskewscope.so"

const char *skew_path_self(void)
{
    static char path[PATH_MAX];

    if (!*path) {
        ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
        if (length < 0)
            return NULL;
        path[length] = '\0';
    }
    return path;
}

static bool exists(const char *path)
{
    return access(path, R_OK) == 0;
}

/* The directory of this executable, without a trailing slash. Caller frees. */
static char *self_directory(void)
{
    const char *self = skew_path_self();
    const char *slash = self ? strrchr(self, '/') : NULL;
    return slash ? strndup(self, (size_t)(slash - self)) : NULL;
}

/* PREFIX/LIBDIR of the installation that `directory` (its BINDIR) belongs to. Caller frees. */
static char *installed_libdir(const char *directory)
{
    char *libdir = NULL;
    size_t length = strlen(directory), bin = strlen(SKEW_BINDIR);

    if (SKEW_LIBDIR[0] == '/')
        return strdup(SKEW_LIBDIR);
    if (length <= bin || strcmp(directory + length - bin, SKEW_BINDIR) != 0)
        return NULL;
    if (asprintf(&libdir, "%.*s%s", (int)(length - bin), directory, SKEW_LIBDIR) < 0)
        return NULL;
    return libdir;
}

/* The first of DIRECTORY/relative, LIBDIR/skewscope/name and LIBDIR/name that exists. */
static char *find_part(const char *relative, const char *name)
{
    static const char *const installed[] = {"%s/skewscope/%s", "%s/%s"};
    char *directory = self_directory(), *found = NULL, *candidate = NULL;
    char *libdir = directory ? installed_libdir(directory) : NULL;

    if (directory && asprintf(&candidate, "%s/%s", directory, relative) >= 0) {
        if (exists(candidate))
            found = realpath(candidate, NULL);
        free(candidate);
    }
    for (size_t i = 0; i < 2 && libdir && !found; i++) {
        if (asprintf(&candidate, installed[i], libdir, name) < 0)
            break;
        if (exists(candidate))
            found = realpath(candidate, NULL);
        free(candidate);
    }
    free(directory);
    free(libdir);
    return found;
}

static int check_library(const char *path)
{
    if (strstr(path, "libnccl")) {
        skew_tell(
            "%s: the path of %s must not contain \"libnccl\": DeepEP refuses to start when such a "
            "file is loaded; move or rename the directory",
            path, LIBRARY);
        return -EINVAL;
    }
    if (strpbrk(path, " \t:")) {
        skew_tell(
            "%s: the path of %s must not contain blanks or colons: LD_PRELOAD cannot express it; "
            "move or rename the directory",
            path, LIBRARY);
        return -EINVAL;
    }
    return 0;
}

int skew_path_library(char **path)
{
    const char *given = getenv("SKEWSCOPE_LIB");

    if (given && *given) {
        *path = realpath(given, NULL);
        if (!*path)
            skew_tell("SKEWSCOPE_LIB: %s: %s", given, strerror(errno));
    } else {
        *path = find_part("../interpose/" LIBRARY, LIBRARY);
        if (!*path)
            skew_tell("%s was not found beside %s; set SKEWSCOPE_LIB to its path", LIBRARY,
                      skew_path_self() ? skew_path_self() : "skewscope");
    }
    if (!*path)
        return -ENOENT;
    int result = check_library(*path);
    if (result < 0) {
        free(*path);
        *path = NULL;
    }
    return result;
}

int skew_path_standin(char **path)
{
    *path = find_part("../tests/standin/lib", "standin");
    if (*path)
        return 0;
    skew_tell(
        "the stand-in libraries were not found beside %s; build them (ninja -C build) or install "
        "them",
        skew_path_self() ? skew_path_self() : "skewscope");
    return -ENOENT;
}

const char *skew_path_rank(void)
{
    static const char *const names[] = {"RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && *value && !strpbrk(value, "/%"))
            return value;
    }
    return NULL;
}

/* What %`which` stands for, in `text`; false after explaining why there is nothing. */
static bool expand_one(char which, const char *dir, char *text, size_t size)
{
    const char *rank;

    switch (which) {
    case '%':
        snprintf(text, size, "%%");
        return true;
    case 'h':
        if (gethostname(text, size) != 0)
            snprintf(text, size, "localhost");
        text[size - 1] = '\0';
        return true;
    case 'p':
        snprintf(text, size, "%d", (int)getpid());
        return true;
    case 'r':
        rank = skew_path_rank();
        if (rank) {
            snprintf(text, size, "%s", rank);
            return true;
        }
        skew_tell(
            "--out: '%s': the rank (%%r) is not known here, since ranks start below this command; "
            "leave %%r out: one trace holds all ranks of a node",
            dir);
        return false;
    default:
        skew_tell(
            "--out: '%s': %%%c means nothing; there are %%h (host), %%p (process id), %%r (rank) "
            "and %%%%",
            dir, which ? which : ' ');
        return false;
    }
}

int skew_path_expand(const char *dir, char **path)
{
    char out[PATH_MAX], one[256];
    size_t used = 0;

    *path = NULL;
    if (*dir != '/') {
        if (!getcwd(out, sizeof out - 1))
            return -errno;
        used = strlen(out);
        if (used > 1)
            out[used++] = '/';
    }
    for (const char *c = dir; *c; c++) {
        one[0] = *c;
        one[1] = '\0';
        if (*c == '%' && !expand_one(*++c, dir, one, sizeof one))
            return -EINVAL;
        size_t length = strlen(one);
        if (used + length + 1 > sizeof out)
            return -ENAMETOOLONG;
        memcpy(out + used, one, length);
        used += length;
    }
    while (used > 1 && out[used - 1] == '/') /* one directory, one name: it is hashed */
        used--;
    *path = strndup(out, used);
    return *path ? 0 : -ENOMEM;
}

int skew_path_out(const char *out, char **path)
{
    const char *job = getenv("SLURM_JOB_ID");
    char text[128];

    if (*out)
        return skew_path_expand(out, path);
    if (job && *job && !strpbrk(job, "/%"))
        snprintf(text, sizeof text, "skewscope-%s", job);
    else
        snprintf(text, sizeof text, SKEW_DEFAULT_OUT);
    return skew_path_expand(text, path);
}

int skew_path_make(const char *dir)
{
    char path[PATH_MAX];
    struct stat info;

    if (strlen(dir) >= sizeof path)
        return -ENAMETOOLONG;
    strcpy(path, dir);
    for (char *slash = path + 1; slash;) {
        slash = strchr(slash, '/');
        if (slash)
            *slash = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return -errno;
        if (slash)
            *slash++ = '/';
    }
    if (stat(dir, &info) != 0)
        return -errno;
    return S_ISDIR(info.st_mode) ? 0 : -ENOTDIR;
}
