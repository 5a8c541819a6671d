/* SPDX-License-Identifier: Apache-2.0 */
/* skewscope collect: takes what is left in spools into the trace, once or as the node's collector. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "collect/collect.h"
#include "collect/follow.h"
#include "command.h"
#include "paths.h"
#include "layout.h"

struct arguments {
    const char *out, *run_id;
    bool follow, until_idle, quiet;
};

enum { KEY_IDLE = 256, KEY_RUN_ID };

/* clang-format off */
static const struct argp_option options[] = {
    {"out", 'o', "DIR", 0,
     "the output directory of the run, literally (default $SKEWSCOPE_OUT, else "
     "skewscope-$SLURM_JOB_ID, else skewscope-trace)", 0},
    {"follow", 'f', NULL, 0,
     "stay and collect while processes run; SIGTERM drains, publishes and ends", 0},
    {"exit-when-idle", KEY_IDLE, NULL, 0,
     "with --follow: end when no process with a spool is left", 0},
    {"run-id", KEY_RUN_ID, "ID", 0,
     "make sure that this run is in the trace, even if it recorded nothing", 0},
    {"quiet", 'q', NULL, 0, "say nothing but errors", 0},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *args = state->input;

    switch (key) {
    case 'f':
        args->follow = true;
        return 0;
    case KEY_IDLE:
        args->until_idle = true;
        return 0;
    case KEY_RUN_ID:
        args->run_id = text;
        return 0;
    case 'q':
        args->quiet = true;
        return 0;
    case 'o':
    case ARGP_KEY_ARG:
        if (args->out)
            argp_error(state, "one directory only, and %s is too many", text);
        args->out = text;
        return 0;
    case ARGP_KEY_END:
        if (args->until_idle && !args->follow)
            argp_error(state, "--exit-when-idle needs --follow");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_collect(void)
{
    static const struct argp argp = {
        options,
        parse,
        "[DIR]",
        "Takes what processes left in their spools into DIR/trace.db, exactly once, also after a "
        "crash. DIR is the output directory of the run."
        "\vskewscope run does this by itself, and every command that reads a directory does it first. "
        "Exit status: 0 done, 1 something could not be stored or published, 2 wrong usage.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* Nothing of the job may be held open by its collector. */
static void close_inherited(void)
{
    DIR *list = opendir("/proc/self/fd");
    struct dirent *entry;
    while (list && (entry = readdir(list))) {
        int fd = atoi(entry->d_name);
        if (fd > 2 && fd != dirfd(list))
            close(fd);
    }
    if (list)
        closedir(list);
}

static void into_background(bool silent)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    /* 0, 1 and 2 must be something: a database opened as descriptor 2 would be written to by perror(). */
    for (int fd = 0; null >= 0 && fd <= 2; fd++)
        if (silent || fd == 0 || fcntl(fd, F_GETFD) < 0)
            dup2(null, fd);
    if (null > 2)
        close(null);
    close_inherited();
    if (chdir("/") < 0)
        return; /* only keeps a directory in use */
}

static int follow(const struct arguments *args)
{
    struct skew_node c;
    int error = skew_node_init(&c, args->out);
    if (error) {
        fprintf(stderr, "skewscope collect: %s: %s\n", args->out, strerror(-error));
        return 1;
    }
    into_background(args->until_idle);
    if (args->run_id)
        snprintf(c.run_id, sizeof c.run_id, "%s", args->run_id);
    c.messages = stderr;
    int status = skew_node_follow(&c, args->until_idle);
    skew_node_free(&c);
    return status;
}

static int once(const struct arguments *args)
{
    struct skew_collect_result result;
    struct stat st;
    if (stat(args->out, &st) == 0 && !S_ISDIR(st.st_mode)) {
        fprintf(stderr, "skewscope collect: %s is not a directory; name the output directory of a run\n", args->out);
        return 2;
    }
    int done = skew_collect_left(args->out, stderr, !args->quiet && isatty(STDERR_FILENO), &result);
    if (done < 0)
        return 1;
    if (args->quiet)
        return 0;
    if (!done)
        printf("nothing is left to collect for %s\n", args->out);
    else if (result.trace[0])
        printf("%u processes (%u still running), %.1f MiB of spool read; %u spools left out\n%s\n", result.processes,
               result.live, (double)result.bytes / (1 << 20), result.left, result.trace);
    else
        printf("the trace of %s is up to date\n", args->out);
    return 0;
}

int skew_cmd_collect(int argc, char **argv)
{
    struct arguments args = {0};
    char *out = NULL;

    argp_parse(skew_argp_collect(), argc, argv, 0, NULL, &args);
    if (!args.out) {
        const char *variable = getenv("SKEWSCOPE_OUT");
        if (skew_path_out(variable ? variable : "", &out) < 0)
            return SKEW_EXIT_USAGE;
        args.out = out;
    }
    umask(077);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error of write(), not our end */
    skew_db_one_thread();
    unsetenv("DEBUGINFOD_URLS"); /* symbols come from this machine only */
    int status = args.follow ? follow(&args) : once(&args);
    free(out);
    return status;
}
