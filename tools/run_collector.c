/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The collector as a child of `run`: see run_collector.h.
 */
#include "run_collector.h"
#include "paths.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_RESTARTS 5
#define RESTART_NS    1000000000u

extern char **environ;

void skew_run_collector_init(struct skew_run_collector *collector, const char *out,
                             const char *run_id, const sigset_t *mask)
{
    *collector = (struct skew_run_collector){.out = out, .run_id = run_id, .mask = mask, .pid = -1};
    collector->messages = memfd_create("skewscope-collector", MFD_CLOEXEC);
}

/* Inside another run our own environment has LD_PRELOAD; the collector is not to be profiled. */
static char **own_environment(void)
{
    size_t count = 0, kept = 0;

    while (environ[count])
        count++;
    char **copy = malloc((count + 1) * sizeof *copy);
    for (size_t i = 0; copy && i < count; i++)
        if (strncmp(environ[i], "LD_PRELOAD=", 11) != 0)
            copy[kept++] = environ[i];
    if (copy)
        copy[kept] = NULL;
    return copy;
}

int skew_run_collector_start(struct skew_run_collector *collector, bool follow)
{
    const char *self = skew_path_self();
    char *arguments[] = {(char *)self,
                         (char *)"collect",
                         (char *)"--out",
                         (char *)collector->out,
                         (char *)"--run-id",
                         (char *)collector->run_id,
                         follow ? (char *)"--follow" : NULL,
                         NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t mask = *collector->mask;

    if (!self)
        return -ENOENT;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (collector->messages >= 0)
        posix_spawn_file_actions_adddup2(&actions, collector->messages, STDERR_FILENO);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
    /* Told to end before it can hear that, it would die of it and leave all to the next one. */
    if (follow) {
        sigaddset(&mask, SIGTERM);
        sigaddset(&mask, SIGINT);
    }
    posix_spawnattr_setsigmask(&attributes, &mask);
    char **environment = own_environment();
    int error = environment ? posix_spawn(&collector->pid, self, &actions, &attributes, arguments,
                                          environment)
                            : ENOMEM;
    free(environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    collector->started_ns = skew_clock_ns();
    collector->ended_well = false;
    if (error)
        collector->pid = -1;
    return -error;
}

bool skew_run_collector_ended(struct skew_run_collector *collector, pid_t pid, int status)
{
    if (pid != collector->pid)
        return false;
    collector->pid = -1;
    collector->ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return true;
}

void skew_run_collector_revive(struct skew_run_collector *collector)
{
    if (collector->pid > 0 || collector->ended_well || collector->restarts >= MOST_RESTARTS ||
        skew_clock_ns() - collector->started_ns < RESTART_NS)
        return;
    collector->restarts++;
    skew_run_collector_start(collector, true);
}

void skew_run_collector_message(const struct skew_run_collector *collector, char *text, size_t size)
{
    off_t length = collector->messages >= 0 ? lseek(collector->messages, 0, SEEK_END) : 0;
    off_t from = length > (off_t)size - 1 ? length - (off_t)size + 1 : 0;
    ssize_t got = length > 0 ? pread(collector->messages, text, size - 1, from) : 0;

    if (got < 0)
        got = 0;
    while (got > 0 && text[got - 1] == '\n')
        got--;
    text[got] = '\0';
    char *last = strrchr(text, '\n'); /* the last line says how it ended */
    if (last)
        memmove(text, last + 1, strlen(last + 1) + 1);
    static const char prefix[] = "skewscope: ";
    if (strncmp(text, prefix, sizeof prefix - 1) == 0)
        memmove(text, text + sizeof prefix - 1, strlen(text) - sizeof prefix + 2);
    skew_term_clean(text);
}

void skew_run_collector_free(struct skew_run_collector *collector)
{
    if (collector->messages >= 0)
        close(collector->messages);
    collector->messages = -1;
}
