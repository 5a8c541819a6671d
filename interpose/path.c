/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the output and the spool lie (schema/layout.h). Nothing here follows a link that somebody
 * else could have planted: directories of ours are 0700, owned by us, and no symbolic links. Runs
 * once, when the spool is created, under the process lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "internal.h"
#include "layout.h"

/* Appends the value of the first variable of the list that is set; `none` when there is none. */
static size_t add_env(char *out, size_t bytes, size_t at, const char *const names[],
                      const char *none)
{
    for (; *names; names++) {
        const char *value = secure_getenv(*names);
        if (value && *value)
            return skew_text_add(out, bytes, at, value);
    }
    return skew_text_add(out, bytes, at, none);
}

static size_t add_template(char *out, size_t bytes, size_t at, const char *text)
{
    static const char *const rank[] = {"RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK",
                                       NULL};
    char host[256];
    for (; *text; text++) {
        char one[2] = {*text, '\0'};
        if (text[0] != '%' || !text[1]) {
            at = skew_text_add(out, bytes, at, one);
            continue;
        }
        text++;
        if (*text == 'h' && gethostname(host, sizeof(host)) == 0) {
            host[sizeof(host) - 1] = '\0';
            at = skew_text_add(out, bytes, at, host);
        } else if (*text == 'p') {
            at = skew_text_add_number(out, bytes, at, (uint64_t)getpid(), 10, 1);
        } else if (*text == 'r') {
            at = add_env(out, bytes, at, rank, "0");
        } else {
            one[0] = *text;
            at = skew_text_add(out, bytes, at, one);
        }
    }
    return at;
}

/** The absolute output directory; a relative one begins where the process was started. @return 0 or
 * −errno (no working directory, too long). */
int skew_path_out(char *out, size_t bytes)
{
    static const char *const job[] = {"SLURM_JOB_ID", NULL};
    const char *option = skew_option_text(SKEW_OPT_OUT);
    size_t at = 0;
    if (option[0] != '/') {
        if (!*skew_start_directory())
            return -ENOENT;
        at = skew_text_add(out, bytes, 0, skew_start_directory());
        at = skew_text_add(out, bytes, at, "/");
    }
    if (*option) {
        at = add_template(out, bytes, at, option);
    } else {
        size_t start = skew_text_add(out, bytes, at, "skewscope-");
        at = add_env(out, bytes, start, job, "trace");
    }
    while (at > 1 && out[at - 1] == '/')
        out[--at] = '\0';
    return at + 1 >= bytes ? -ENAMETOOLONG : 0;
}

/* Makes a directory of ours, or accepts one that is. */
static int own_dir(const char *path)
{
    struct statx info;
    int err = skew_sys_mkdir(path);
    if (err && err != -EEXIST)
        return err;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE | STATX_MODE | STATX_UID, &info) != 0)
        return -errno;
    if (!S_ISDIR(info.stx_mode))
        return -ENOTDIR;
    if (info.stx_uid != geteuid() || (info.stx_mode & 077))
        return -EPERM;
    return 0;
}

/* Makes the output directory with its parents; these may be anybody's. */
static int make_out(char *path)
{
    int err = 0; /* of a parent: it says more than that the parent is missing */
    int made;
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        made = skew_sys_mkdir(path);
        if (made && made != -EEXIST && made != -ENOENT)
            err = made;
        *slash = '/';
    }
    made = skew_sys_mkdir(path);
    if (made == -EEXIST)
        return 0;
    return made == -ENOENT && err ? err : made;
}

static int state_dir(struct skew_process *proc, char *dir, size_t bytes)
{
    int err = make_out(proc->out_dir);
    if (err)
        return err;
    size_t at = skew_text_add(dir, bytes, 0, proc->out_dir);
    at = skew_text_add(dir, bytes, at, "/" SKEW_STATE_DIR);
    return at + 1 >= bytes ? -ENAMETOOLONG : own_dir(dir);
}

/* The candidates for ROOT, best first. NULL: no more; "": this one does not apply. */
static const char *root_candidate(unsigned attempt)
{
    const char *option = skew_option_text(SKEW_OPT_SPOOL);
    const char *tmp = secure_getenv("TMPDIR");
    switch (attempt) {
    case 0:
        return option;
    case 1:
        return SKEW_SHM_ROOT;
    case 2:
        return tmp && tmp[0] == '/' ? tmp : "";
    case 3:
        return "/tmp";
    default:
        return NULL;
    }
}

/**
 * The attempt-th candidate for a spool directory, made if it was not there.
 * @return 0; −ENOENT: there are no more candidates; another −errno: this one cannot be used.
 */
int skew_path_spool_dir(struct skew_process *proc, unsigned attempt, char *dir, size_t bytes)
{
    const char *root = root_candidate(attempt);
    size_t at;
    int err;
    if (attempt > 4)
        return -ENOENT;
    if (root) {
        if (root[0] != '/')
            return -EINVAL;
        at = skew_text_add(dir, bytes, 0, root);
        at = skew_text_add(dir, bytes, at, "/skewscope-");
        at = skew_text_add_number(dir, bytes, at, geteuid(), 10, 1);
        err = own_dir(dir);
    } else {
        err = state_dir(proc, dir, bytes);
        at = strlen(dir);
    }
    if (err)
        return err == -ENOENT ? -ENOTDIR : err;
    at = skew_text_add(dir, bytes, at, "/");
    at = skew_text_add_number(dir, bytes, at, skew_hash_string(proc->out_dir), 16, 16);
    if (at + 1 >= bytes)
        return -ENAMETOOLONG;
    err = own_dir(dir);
    return err == -ENOENT ? -ENOTDIR : err;
}

/** Whether a file lies on a network or user-space file system: no place for a mapping of ours. */
bool skew_path_is_network(int fd)
{
    static const uint32_t network[] = {
        0x6969,     /* NFS */
        0x0bd00bd0, /* Lustre */
        0x47504653, /* GPFS */
        0xff534d42, /* CIFS */
        0xfe534d42, /* SMB2 */
        0x517b,     /* SMB */
        0x65735546, /* FUSE */
        0x00c36400, /* Ceph */
        0x01021997, /* 9P */
        0x5346414f, /* OpenAFS */
        0x6b414653, /* kAFS */
        0x19830326, /* BeeGFS */
        0xaad7aaea, /* PanFS */
        0x73757245, /* Coda */
    };
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0)
        return true;
    for (size_t i = 0; i < sizeof(network) / sizeof(network[0]); i++)
        if ((uint32_t)fs.f_type == network[i])
            return true;
    return false;
}

/**
 * Leaves a pointer to the spool directory in OUT/.skewscope, for collectors that see another
 * /dev/shm. Without it the spool is still found by its hash.
 * @return 0; −errno: the output directory cannot be written, so nobody will find a trace there
 */
int skew_path_point(struct skew_process *proc, const char *spool_dir)
{
    char path[SKEW_PATH_BYTES], line[SKEW_PATH_BYTES];
    const struct skew_spool_head *head = proc->head;
    int err = state_dir(proc, path, sizeof(path));
    if (err)
        return err;
    size_t at = skew_text_add(path, sizeof(path), strlen(path), "/spool-");
    for (unsigned i = 0; i < 4; i++)
        at = skew_text_add_number(path, sizeof(path), at, head->boot_id[i], 16, 2);
    at = skew_text_add(path, sizeof(path), at, "-");
    at = skew_text_add_number(path, sizeof(path), at, head->mnt_ns, 10, 1);
    at = skew_text_add(path, sizeof(path), at, "-");
    skew_text_add_number(path, sizeof(path), at, skew_hash_string(spool_dir), 16, 16);
    int fd = skew_sys_open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd == -EEXIST ? 0 : fd;
    size_t n = skew_text_add(line, sizeof(line) - 1, 0, spool_dir);
    line[n++] = '\n';
    /* The spool is larger than this, so the file size limit, which would raise a signal, is not in
     * the way. */
    ssize_t wrote = skew_sys_write(fd, line, n);
    err = wrote == (ssize_t)n ? 0 : wrote < 0 ? -errno : -ENOSPC;
    if (err)
        unlink(path);
    skew_sys_close(fd);
    return err;
}
