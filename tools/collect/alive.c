/* SPDX-License-Identifier: Apache-2.0 */
/* See alive.h. */
#include "alive.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t skew_namespace_of(uint32_t pid, const char *kind)
{
    char path[64];
    struct stat st;
    if (pid)
        snprintf(path, sizeof path, "/proc/%u/ns/%s", pid, kind);
    else
        snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* State and start time of a process as /proc shows it. @return 0, or −ENOENT when there is none. */
static int read_stat(uint32_t pid, char *state, uint64_t *start)
{
    char path[64], text[1024], *at;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0)
        return -ENOENT; /* it went away in between */
    text[got] = 0;
    at = strrchr(text, ')'); /* the name before it may hold anything */
    if (!at || sscanf(at + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
                      state, start) != 2)
        return -EIO;
    return 0;
}

/* A process whose first thread has ended looks like a zombie while its other threads go on. */
static bool has_threads(uint32_t pid)
{
    char path[64], text[1024];
    bool found = false;
    struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%u/task", pid);
    DIR *list = opendir(path);
    while (list && !found && (entry = readdir(list))) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%u/task/%.12s/stat", pid, entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        if (fd >= 0)
            close(fd);
        text[got > 0 ? got : 0] = 0;
        const char *state = strrchr(text, ')');
        found = state && state[1] == ' ' && state[2] != 'Z' && state[2] != 'X';
    }
    if (list)
        closedir(list);
    return found;
}

/* Whether the process that /proc calls `pid` is the one that started then. */
static enum skew_alive same_start(uint32_t pid, uint64_t start_ticks)
{
    char state;
    uint64_t start;
    int error = read_stat(pid, &state, &start);
    if (error == -ENOENT || error == -ESRCH)
        return SKEW_GONE;
    if (error)
        return SKEW_UNKNOWN;
    if (start != start_ticks || state == 'X' || (state == 'Z' && !has_threads(pid)))
        return SKEW_GONE;
    return SKEW_ALIVE;
}

/* The number of a process in its innermost pid namespace, 0 when it cannot be told. */
static uint32_t inner_pid(uint32_t pid)
{
    char path[64], line[256];
    uint32_t inner = 0;
    snprintf(path, sizeof path, "/proc/%u/status", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "NSpid:", 6) != 0)
            continue;
        char *last = strrchr(line, '\t');
        inner = last ? (uint32_t)strtoul(last, NULL, 10) : 0;
        break;
    }
    fclose(f);
    return inner;
}

/* Looks through all processes for one namespace. Only an answer of its own members counts. */
static enum skew_alive search_namespace(uint64_t pid_ns, uint32_t pid, uint64_t start_ticks)
{
    enum skew_alive found = SKEW_UNKNOWN;
    struct dirent *entry;
    DIR *proc = opendir("/proc");
    while (proc && found != SKEW_ALIVE && (entry = readdir(proc))) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        uint32_t outer = (uint32_t)strtoul(entry->d_name, NULL, 10);
        if (skew_namespace_of(outer, "pid") != pid_ns)
            continue;
        if (inner_pid(outer) != pid)
            found = SKEW_GONE; /* unless another one is it */
        else
            found = same_start(outer, start_ticks);
        if (found == SKEW_UNKNOWN)
            break;
    }
    if (proc)
        closedir(proc);
    return found;
}

/* /proc may belong to another pid namespace than ours, when only one of the two was unshared. */
static bool proc_is_ours(void)
{
    char self[32] = "";
    ssize_t got = readlink("/proc/self", self, sizeof self - 1);
    return got > 0 && strtol(self, NULL, 10) == getpid();
}

enum skew_alive skew_pid_alive(uint64_t pid_ns, uint32_t pid, uint64_t start_ticks)
{
    if (!proc_is_ours())
        return SKEW_UNKNOWN;
    if (pid_ns == skew_namespace_of(0, "pid"))
        return same_start(pid, start_ticks);
    return search_namespace(pid_ns, pid, start_ticks);
}

/* A mapping holds the file open for writing as long as it lives, whatever became of the descriptor. */
static enum skew_alive ask_lease(int dir, const char *name)
{
    enum skew_alive answer = SKEW_UNKNOWN;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return SKEW_UNKNOWN;
    /* Whoever opens it for writing in the next microsecond breaks the lease; that must not kill us. */
    fcntl(fd, F_SETSIG, SIGURG);
    if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
        answer = SKEW_GONE;
        fcntl(fd, F_SETLEASE, F_UNLCK);
    } else if (errno == EAGAIN) {
        answer = SKEW_ALIVE;
    }
    close(fd);
    return answer;
}

enum skew_alive skew_process_alive(const struct skew_spool_head *head, int dir, const char *name)
{
    enum skew_alive answer = skew_pid_alive(head->pid_ns, head->pid, head->start_ticks);
    if (answer == SKEW_GONE)
        return SKEW_GONE;
    /* exec() keeps pid and start time, but not the mapping. */
    enum skew_alive mapped = ask_lease(dir, name);
    return mapped == SKEW_UNKNOWN ? answer : mapped;
}
