/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where spools lie: pointer files in the output directory, which may lead into other mount namespaces, and the
 * usual places by the hash of the directory's name (schema/layout.h). What is not ours is never entered.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "alive.h"
#include "node.h"
#include "layout.h"

#define ROOTS 4

static int open_in_root(int root, const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    while (*path == '/')
        path++;
    int fd = (int)syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof how);
    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) /* kernels before 5.6, seccomp */
        fd = openat(root, *path ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd;
}

/*
 * Opens a spool directory. The way to it may hold links (a $TMPDIR often does), but its last two parts
 * are made by skewscope and are neither links nor anybody else's.
 */
static int open_spool_dir(int root, const char *path, struct stat *st)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    char *last = strrchr(copy, '/');
    if (path[0] != '/' || !last || last == copy)
        return -EINVAL;
    *last++ = 0;
    char *middle = strrchr(copy, '/');
    *middle++ = 0;
    int top = root >= 0 ? open_in_root(root, copy)
                        : open(*copy ? copy : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (top < 0)
        return -errno;
    int parent = openat(top, middle, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int error = parent < 0 ? -errno : 0;
    int fd = parent < 0 ? -1 : openat(parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (!error && fd < 0)
        error = -errno;
    if (!error && (fstat(parent, st) < 0 || st->st_uid != geteuid() || fstat(fd, st) < 0 ||
                   st->st_uid != geteuid()))
        error = -EPERM;
    close(top);
    if (parent >= 0)
        close(parent);
    if (error && fd >= 0)
        close(fd);
    return error ? error : fd;
}

/* Takes `fd` over. */
static int add_dir(struct skew_node *c, int fd, const struct stat *st, const char *path,
                   const char *pointer)
{
    for (size_t i = 0; i < c->dir_count; i++) {
        if (c->dirs[i].dev != st->st_dev || c->dirs[i].ino != st->st_ino)
            continue;
        if (*pointer)
            snprintf(c->dirs[i].pointer, sizeof c->dirs[i].pointer, "%s", pointer);
        close(fd);
        return 0;
    }
    struct skew_spool_dir *more = realloc(c->dirs, (c->dir_count + 1) * sizeof *more);
    if (!more) {
        close(fd);
        return -ENOMEM;
    }
    c->dirs = more;
    struct skew_spool_dir *dir = &more[c->dir_count++];
    *dir = (struct skew_spool_dir){.fd = fd, .dev = st->st_dev, .ino = st->st_ino};
    snprintf(dir->path, sizeof dir->path, "%s", path);
    snprintf(dir->pointer, sizeof dir->pointer, "%s", pointer);
    return 0;
}

static int add_path(struct skew_node *c, const char *path, const char *pointer)
{
    struct stat st;
    int fd = open_spool_dir(-1, path, &st);
    if (fd == -EPERM)
        skew_node_say(c, "warning", NULL, "Spool directory %s belongs to another user and is left alone.", path);
    return fd < 0 ? fd : add_dir(c, fd, &st, path, pointer);
}

/* ---- usual places ----------------------------------------------------------------------------- */

static size_t roots(const char *root[ROOTS])
{
    size_t count = 0;
    const char *named[] = {getenv("SKEWSCOPE_SPOOL"), SKEW_SHM_ROOT, getenv("TMPDIR"), "/tmp"};
    for (size_t i = 0; i < ROOTS; i++)
        if (named[i] && named[i][0] == '/')
            root[count++] = named[i];
    return count;
}

/* The directory's hash depends on how its name was written, so both ways are tried. */
static size_t hashes(struct skew_node *c, char hash[2][20])
{
    char real[PATH_MAX];
    size_t count = 1;
    snprintf(hash[0], 20, "%016" PRIx64, skew_hash_string(c->out));
    if (realpath(c->out, real) && strcmp(real, c->out) != 0)
        snprintf(hash[count++], 20, "%016" PRIx64, skew_hash_string(real));
    return count;
}

static int each_usual_place(struct skew_node *c,
                            int (*visit)(struct skew_node *, const char *, const char *))
{
    const char *root[ROOTS];
    char hash[2][20], path[PATH_MAX];
    size_t root_count = roots(root), hash_count = hashes(c, hash);
    int found = 0;
    for (size_t h = 0; h < hash_count; h++) {
        for (size_t i = 0; i < root_count; i++) {
            snprintf(path, sizeof path, "%s/skewscope-%u/%s", root[i], (unsigned)geteuid(), hash[h]);
            found |= visit(c, path, "") == 0;
        }
        if ((size_t)snprintf(path, sizeof path, "%s/%s", c->state, hash[h]) < sizeof path)
            found |= visit(c, path, "") == 0;
    }
    return found;
}

/* ---- pointers --------------------------------------------------------------------------------- */

static bool holds_spools_of(int dir, uint64_t mnt_ns)
{
    bool found = false;
    char why[160];
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    while (list && !found && (entry = readdir(list))) {
        struct skew_spool_file *file;
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, SKEW_SPOOL_SUFFIX) != 0 || entry->d_name[0] == '.' ||
            skew_spool_file_open(&file, dir, entry->d_name, why, sizeof why))
            continue;
        found = file->head.mnt_ns == mnt_ns;
        skew_spool_file_close(&file);
    }
    if (list)
        closedir(list);
    return found;
}

/* Goes through the root directory of any process of that mount namespace. */
static int reach_namespace(struct skew_node *c, uint64_t mnt_ns, const char *path, const char *pointer)
{
    struct dirent *entry;
    struct stat st;
    int result = -ENOENT;
    DIR *proc = opendir("/proc");
    while (proc && result < 0 && (entry = readdir(proc))) {
        char name[64];
        uint32_t pid = (uint32_t)strtoul(entry->d_name, NULL, 10);
        if (!pid || skew_namespace_of(pid, "mnt") != mnt_ns)
            continue;
        snprintf(name, sizeof name, "/proc/%u/root", pid);
        int root = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
            continue;
        int fd = open_spool_dir(root, path, &st);
        close(root);
        if (fd >= 0)
            result = add_dir(c, fd, &st, path, pointer);
        else if (fd != -ENOENT)
            result = -EACCES; /* numbers of namespaces come again: not to be found is not to be refused */
    }
    if (proc)
        closedir(proc);
    if (result == 0)
        return 0;
    /* Often only /tmp is private and the spool lies in a place that both share. */
    int fd = open_spool_dir(-1, path, &st);
    if (fd >= 0 && holds_spools_of(fd, mnt_ns))
        return add_dir(c, fd, &st, path, pointer);
    if (fd >= 0)
        close(fd);
    return result;
}

static bool has_pointer(const struct skew_node *c, const char *pointer)
{
    for (size_t i = 0; i < c->dir_count; i++)
        if (strcmp(c->dirs[i].pointer, pointer) == 0)
            return true;
    return false;
}

static int follow_pointer(struct skew_node *c, int state, const char *name)
{
    char path[PATH_MAX] = "", node[9];
    uint64_t mnt_ns;
    if (sscanf(name, "spool-%8[0-9a-f]-%" SCNu64 "-", node, &mnt_ns) != 2 || has_pointer(c, name))
        return 0;
    if (strncmp(node, c->node, 8) != 0) {
        if (!c->follow)
            skew_node_say(c, "info", NULL, "Spools of another node (boot id %s…) are left for it: run `skewscope "
                     "collect` there.", node);
        return 0;
    }
    int fd = openat(state, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    ssize_t got = fd < 0 ? -1 : read(fd, path, sizeof path - 1);
    if (fd >= 0)
        close(fd);
    path[got > 0 ? got : 0] = 0;
    path[strcspn(path, "\n")] = 0;
    if (path[0] != '/')
        return 0; /* being written, or of no use */
    int error = mnt_ns == c->mnt_ns ? add_path(c, path, name) : reach_namespace(c, mnt_ns, path, name);
    if (error == -ENOENT && mnt_ns == c->mnt_ns) {
        unlinkat(state, name, 0); /* nothing is there any more */
    } else if (error) {
        skew_node_say(c, "error", "spool_unreachable",
                 "Spool directory %s on host %s lies in another mount namespace (%" PRIu64
                 ", a container) that %s: what it holds is not in this trace. Run `skewscope collect` "
                 "inside that container, or while it runs; %s/%s is kept for that, remove it when the container has gone.",
                 path, c->host, mnt_ns,
                 error == -ENOENT ? "no running process gives access to" : "cannot be entered",
                 SKEW_STATE_DIR, name);
    }
    return 0;
}

int skew_find_dirs(struct skew_node *c)
{
    struct dirent *entry;
    int state = open(c->state, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *list = state < 0 ? NULL : fdopendir(state);
    while (list && (entry = readdir(list)))
        if (strncmp(entry->d_name, "spool-", 6) == 0)
            follow_pointer(c, state, entry->d_name);
    if (list)
        closedir(list);
    each_usual_place(c, add_path);
    return 0;
}

/* ---- what is there at all --------------------------------------------------------------------- */

static int not_empty(struct skew_node *c, const char *path, const char *pointer)
{
    struct stat st;
    (void)c;
    (void)pointer;
    int fd = open_spool_dir(-1, path, &st);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    int found = -ENOENT;
    while (list && found && (entry = readdir(list)))
        if (strstr(entry->d_name, SKEW_SPOOL_SUFFIX) || strncmp(entry->d_name, "work-", 5) == 0)
            found = 0;
    if (list)
        closedir(list);
    return found;
}

bool skew_find_anything(struct skew_node *c)
{
    bool found = false;
    struct dirent *entry;
    DIR *list = opendir(c->state);
    while (list && !found && (entry = readdir(list)))
        found = strncmp(entry->d_name, "spool-", 6) == 0 || strncmp(entry->d_name, "run-", 4) == 0 ||
                strncmp(entry->d_name, "work-", 5) == 0;
    if (list)
        closedir(list);
    return found || each_usual_place(c, not_empty);
}

/* ---- places of our own ------------------------------------------------------------------------ */

bool skew_is_local(const char *path)
{
    struct statfs fs;
    if (statfs(path, &fs) < 0)
        return false;
    switch ((unsigned long)fs.f_type) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case REISERFS_SUPER_MAGIC:
    case RAMFS_MAGIC:
    case 0x2fc12fc1: /* ZFS */
    case 0xca451a4e: /* bcachefs */
    case 0x3153464a: /* JFS */
        return true;
    default: /* NFS, Lustre, GPFS, CIFS, Ceph, FUSE and whatever is not known */
        return false;
    }
}

static bool keeps_files(const char *path)
{
    struct statfs fs;
    return statfs(path, &fs) == 0 && fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC &&
           skew_is_local(path);
}

int skew_find_existing(struct skew_node *c, const char *name, char *path, size_t size)
{
    const char *root[ROOTS];
    char hash[2][20];
    struct stat st;
    size_t count = roots(root), hash_count = hashes(c, hash);
    for (size_t i = 0; i < count * hash_count; i++) {
        if ((size_t)snprintf(path, size, "%s/skewscope-%u/%s", root[i / hash_count], (unsigned)geteuid(),
                             hash[i % hash_count]) >= size)
            continue;
        int fd = open_spool_dir(-1, path, &st);
        if (fd < 0)
            continue;
        bool there = faccessat(fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
        close(fd);
        size_t length = strlen(path);
        if (there && (size_t)snprintf(path + length, size - length, "/%s", name) < size - length)
            return 0;
    }
    return -ENOENT;
}

int skew_find_local(struct skew_node *c, char *path, size_t size)
{
    const char *root[ROOTS];
    char hash[2][20];
    struct stat st;
    size_t count = roots(root);
    hashes(c, hash);
    for (size_t i = 0; i < count; i++) {
        if (!keeps_files(root[i]))
            continue;
        if ((size_t)snprintf(path, size, "%s/skewscope-%u/%s", root[i], (unsigned)geteuid(), hash[0]) >= size)
            continue;
        char *slash = strrchr(path, '/');
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
        mkdir(path, 0700);
        int fd = open_spool_dir(-1, path, &st);
        if (fd < 0)
            continue;
        close(fd);
        return 0;
    }
    return -ENOENT;
}

/* A process that was killed while it made its spool left a file of another name. */
static void drop_unfinished(const struct skew_node *c, int dir)
{
    struct dirent *entry;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    while (list && (entry = readdir(list))) {
        char node[9];
        uint64_t pid_ns, start;
        uint32_t pid;
        if (sscanf(entry->d_name, SKEW_SPOOL_TMP "%8[0-9a-f]-%" SCNu64 "-%" SCNu32 "-%" SCNu64, node, &pid_ns,
                   &pid, &start) == 4 &&
            strncmp(node, c->node, 8) == 0 && skew_pid_alive(pid_ns, pid, start) == SKEW_GONE)
            unlinkat(dir, entry->d_name, 0);
    }
    if (list)
        closedir(list);
}

/* By its own "..", since it may lie in another mount namespace. */
static bool remove_dir(const struct skew_spool_dir *dir)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", dir->path);
    char *name = strrchr(path, '/');
    *name++ = 0;
    char *above = strrchr(path, '/');
    int parent = openat(dir->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return false;
    bool removed = unlinkat(parent, name, AT_REMOVEDIR) == 0;
    int grandparent = removed ? openat(parent, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (grandparent >= 0 && above && strncmp(above, "/skewscope-", 11) == 0)
        unlinkat(grandparent, above + 1, AT_REMOVEDIR);
    if (grandparent >= 0)
        close(grandparent);
    close(parent);
    return removed;
}

void skew_find_tidy(struct skew_node *c)
{
    char pointer[PATH_MAX], aside[PATH_MAX];
    for (size_t i = 0; i < c->dir_count; i++) {
        struct skew_spool_dir *dir = &c->dirs[i];
        drop_unfinished(c, dir->fd);
        bool pointed = dir->pointer[0] &&
                       (size_t)snprintf(pointer, sizeof pointer, "%s/%s", c->state, dir->pointer) < sizeof pointer &&
                       (size_t)snprintf(aside, sizeof aside, "%s/old-%s", c->state, dir->pointer) < sizeof aside;
        if (pointed && rename(pointer, aside) < 0)
            pointed = false;
        bool removed = remove_dir(dir);
        if (pointed && removed)
            unlink(aside);
        else if (pointed)
            rename(aside, pointer);
        if (removed) {
            close(dir->fd);
            *dir = c->dirs[--c->dir_count];
            i--;
        }
    }
}
