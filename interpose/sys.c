/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small substitutes for libc functions whose symbol versions are newer than GLIBC_2.28 (stat, the
 * strtol family on new headers), that allocate or take locks (printf), or at which a thread can be
 * cancelled (open, read, write): it would take our locks with it. Any thread; no state.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

int32_t skew_sys_tid(void)
{
    return (int32_t)syscall(SYS_gettid);
}

/* Descriptors 0 to 2 are the application's, even while it has them closed: another thread may write
 * there. */
static int above_standard(int fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    long moved = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
    int err = errno;
    syscall(SYS_close, fd);
    errno = err;
    return (int)moved;
}

int skew_sys_open(const char *path, int flags, unsigned mode)
{
    long fd;
    do {
        fd = syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    fd = above_standard((int)fd);
    if (fd < 0)
        return -errno;
    if (flags & O_CREAT)
        syscall(SYS_fchmod, fd, mode); /* whatever the umask says: we have to open it again */
    return (int)fd;
}

void skew_sys_close(int fd)
{
    syscall(SYS_close, fd);
}

ssize_t skew_sys_write(int fd, const void *data, size_t bytes)
{
    long wrote;
    do {
        wrote = syscall(SYS_write, fd, data, bytes);
    } while (wrote < 0 && errno == EINTR);
    return wrote;
}

/** File space for a range, never sparse. A host with timers interrupts this, which is no failure.
 */
int skew_sys_allocate(int fd, uint64_t from, uint64_t bytes)
{
    long err;
    do {
        err = syscall(SYS_fallocate, fd, 0, from, bytes);
    } while (err < 0 && errno == EINTR);
    if (err < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
        return -posix_fallocate(fd, (off_t)from, (off_t)bytes);
    return err < 0 ? -errno : 0;
}

int skew_sys_mkdir(const char *path)
{
    struct statx info;
    if (mkdir(path, 0700) != 0)
        return -errno;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_MODE, &info) == 0 &&
        (info.stx_mode & 0700) != 0700)
        chmod(path, 0700); /* the umask may take it from ourselves */
    return 0;
}

int skew_sys_read_file(const char *path, char *buffer, size_t bytes)
{
    int fd = skew_sys_open(path, O_RDONLY, 0);
    if (fd < 0)
        return fd;
    size_t at = 0;
    while (at + 1 < bytes) {
        long got = syscall(SYS_read, fd, buffer + at, bytes - 1 - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        at += (size_t)got;
    }
    buffer[at] = '\0';
    skew_sys_close(fd);
    return (int)at;
}

uint64_t skew_sys_inode(const char *path)
{
    struct statx info;
    if (statx(AT_FDCWD, path, 0, STATX_INO, &info) != 0)
        return 0;
    return info.stx_ino;
}

/* Appends text at `at` and terminates; what does not fit is cut. Returns the new length. */
size_t skew_text_add(char *buffer, size_t bytes, size_t at, const char *text)
{
    while (*text && at + 1 < bytes)
        buffer[at++] = *text++;
    if (at < bytes)
        buffer[at] = '\0';
    return at;
}

size_t skew_text_add_number(char *buffer, size_t bytes, size_t at, uint64_t value, unsigned base,
                            unsigned digits)
{
    char text[32];
    unsigned n = 0;
    do {
        text[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while ((value || n < digits) && n < sizeof(text));
    while (n && at + 1 < bytes)
        buffer[at++] = text[--n];
    if (at < bytes)
        buffer[at] = '\0';
    return at;
}
