/* SPDX-License-Identifier: Apache-2.0 */
/* skewscope collect: takes what is left in spools into the trace, once or as the node's collector. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "collect/collect.h"
#include "collect/follow.h"
#include "layout.h"

static const char usage[] =
    "usage: skewscope collect [--follow [--exit-when-idle]] [--run-id ID] [--out DIR | DIR]\n"
    "\n"
    "Takes what processes left in their spools into DIR/trace.db, exactly once, also after a crash.\n"
    "DIR is the output directory of the run; default $SKEWSCOPE_OUT, else skewscope-$SLURM_JOB_ID,\n"
    "else " SKEW_DEFAULT_OUT ".\n"
    "\n"
    "  -o, --out DIR       the output directory\n"
    "  -f, --follow        stay and collect while processes run; SIGTERM drains, publishes and ends\n"
    "      --exit-when-idle  with --follow: end when no process with a spool is left\n"
    "      --run-id ID     make sure that this run is in the trace, even if it recorded nothing\n"
    "  -q, --quiet         say nothing but errors\n"
    "  -h, --help          show this\n"
    "\n"
    "Exit status: 0 done, 1 something could not be stored or published, 2 wrong usage.\n";

enum { OPTION_IDLE = 256, OPTION_RUN_ID };

struct arguments {
    const char *out, *run_id;
    bool follow, until_idle, quiet;
};

static int parse(int argc, char **argv, struct arguments *args)
{
    static const struct option options[] = {
        {"out", required_argument, NULL, 'o'},       {"follow", no_argument, NULL, 'f'},
        {"exit-when-idle", no_argument, NULL, OPTION_IDLE}, {"run-id", required_argument, NULL, OPTION_RUN_ID},
        {"quiet", no_argument, NULL, 'q'},           {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option;
    optind = 1;
    while ((option = getopt_long(argc, argv, "o:fqh", options, NULL)) != -1) {
        switch (option) {
        case 'o':
            args->out = optarg;
            break;
        case 'f':
            args->follow = true;
            break;
        case OPTION_IDLE:
            args->until_idle = true;
            break;
        case OPTION_RUN_ID:
            args->run_id = optarg;
            break;
        case 'q':
            args->quiet = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 1;
        default:
            fputs("skewscope collect: see `skewscope collect --help`\n", stderr);
            return -1;
        }
    }
    if (optind < argc && !args->out)
        args->out = argv[optind++];
    if (optind < argc || (args->until_idle && !args->follow)) {
        fprintf(stderr, optind < argc ? "skewscope collect: one directory only, and %s is too many\n"
                                      : "skewscope collect: --exit-when-idle needs --follow%s\n",
                optind < argc ? argv[optind] : "");
        return -1;
    }
    return 0;
}

static const char *default_out(char *buffer, size_t size)
{
    const char *out = getenv("SKEWSCOPE_OUT"), *job = getenv("SLURM_JOB_ID");
    if (out && *out)
        return out;
    if (!job || !*job)
        return SKEW_DEFAULT_OUT;
    snprintf(buffer, size, "skewscope-%s", job);
    return buffer;
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
    char buffer[128];
    int bad = parse(argc, argv, &args);
    if (bad)
        return bad < 0 ? 2 : 0;
    if (!args.out)
        args.out = default_out(buffer, sizeof buffer);
    umask(077);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error of write(), not our end */
    skew_db_one_thread();
    unsetenv("DEBUGINFOD_URLS"); /* symbols come from this machine only */
    return args.follow ? follow(&args) : once(&args);
}
