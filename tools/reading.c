/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a trace for a command: see reading.h.
 */
#include "reading.h"
#include "paths.h"
#include "term.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "layout.h"

extern char **environ;

bool skew_reading_leftovers(const char *dir)
{
    char *state = NULL;
    bool found = false;
    struct dirent *entry;

    if (asprintf(&state, "%s/%s", dir, SKEW_STATE_DIR) < 0)
        return false;
    DIR *open = opendir(state);
    free(state);
    while (open && !found && (entry = readdir(open)))
        found = strncmp(entry->d_name, "spool-", 6) == 0 || strncmp(entry->d_name, "work-", 5) == 0 ||
                strncmp(entry->d_name, "run-", 4) == 0;
    if (open)
        closedir(open);
    return found;
}

void skew_reading_drain(const char *path)
{
    struct stat info;
    pid_t child;
    int status, error;
    const char *self = skew_path_self();

    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode) || !skew_reading_leftovers(path) || !self)
        return;
    char *arguments[] = {(char *)self, (char *)"collect", (char *)"--out", (char *)path, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    error = posix_spawn(&child, self, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error == 0) {
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            return;
    }
    skew_tell("%s: what is left in spools could not be collected; what follows is without it", path);
}

int skew_reading_open(struct skew_reading *reading, const char *path)
{
    struct skew_trace_list list;
    struct skew_error error;
    int result;

    *reading = (struct skew_reading){0};
    skew_reading_drain(path);
    result = skew_trace_list(&list, path, &error);
    if (result < 0) {
        skew_tell("%s", error.text);
        return result;
    }
    reading->traces = calloc(list.count, sizeof *reading->traces);
    if (!reading->traces) {
        result = -ENOMEM;
        skew_tell("out of memory");
    }
    for (size_t i = 0; i < list.count && result == 0; i++) {
        result = skew_trace_open(&reading->traces[i], list.files[i], &error);
        if (result < 0)
            skew_tell("%s", error.text);
        else
            reading->count++;
    }
    skew_trace_list_free(&list);
    if (result < 0)
        skew_reading_close(reading);
    return result;
}

void skew_reading_close(struct skew_reading *reading)
{
    for (size_t i = 0; i < reading->count; i++)
        skew_trace_close(&reading->traces[i]);
    free(reading->traces);
    *reading = (struct skew_reading){0};
}
