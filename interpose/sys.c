/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small substitutes for libc functions whose symbol versions are newer than GLIBC_2.28 (stat, the
 * strtol family on new headers), or that allocate or take locks (printf). Any thread; no state.
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

int skew_sys_read_file(const char *path, char *buffer, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t at = 0;
    while (at + 1 < bytes) {
        ssize_t got = read(fd, buffer + at, bytes - 1 - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        at += (size_t)got;
    }
    buffer[at] = '\0';
    close(fd);
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
