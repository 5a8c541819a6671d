/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command `skewscope`: finds the subcommand and calls it. What a subcommand does is in its own
 * file; what all of them are is in command.h.
 */
#include "command.h"
#include "term.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define X(name, summary) {#name, summary, skew_cmd_##name, skew_argp_##name},
const struct skew_command skew_commands[] = {SKEW_COMMAND_LIST(X){NULL, NULL, NULL, NULL}};
#undef X

static void print_help(FILE *to)
{
    fputs("skewscope: who sends how much to whom in the all-to-alls of a Mixture-of-Experts job\n\n"
          "usage: skewscope COMMAND [OPTION...]\n\n",
          to);
    for (const struct skew_command *c = skew_commands; c->name; c++)
        fprintf(to, "  %-10s %s\n", c->name, c->summary);
    fputs("\nskewscope help COMMAND tells more; skewscope --version tells the version.\n"
          "First steps: skewscope run -o trace/ -- torchrun train.py; skewscope info trace/\n",
          to);
}

static const struct skew_command *find(const char *name)
{
    for (const struct skew_command *c = skew_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static int unknown(const char *name)
{
    const char *names[sizeof skew_commands / sizeof *skew_commands];
    size_t count = 0;

    for (const struct skew_command *c = skew_commands; c->name; c++)
        names[count++] = c->name;
    names[count] = NULL;
    const char *nearest = skew_nearest(name, names);
    if (nearest)
        skew_tell("there is no command '%s'; did you mean '%s'?", name, nearest);
    else
        skew_tell("there is no command '%s'; see skewscope --help", name);
    return SKEW_EXIT_USAGE;
}

/* argv[0] becomes "skewscope NAME", which is how argp's messages and usage lines then begin. */
static int call(const struct skew_command *command, int argc, char **argv)
{
    static char title[64];

    snprintf(title, sizeof title, "skewscope %s", command->name);
    argv[0] = title;
    argp_err_exit_status = SKEW_EXIT_USAGE;
    int status = command->main(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        skew_tell("cannot write to standard output");
        return status ? status : SKEW_EXIT_FAILURE;
    }
    return status;
}

static int help_on(const char *name)
{
    const struct skew_command *command = find(name);
    char *arguments[] = {NULL, (char *)"--help", NULL};

    if (!command)
        return unknown(name);
    return call(command, 2, arguments);
}

/* ---- skewscope help ------------------------------------------------------------------------ */

struct help_arguments {
    const char *command;
    bool manual;
};

static error_t help_parse(int key, char *argument, struct argp_state *state)
{
    struct help_arguments *a = state->input;

    switch (key) {
    case 'm':
        a->manual = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->command)
            argp_error(state, "one command at a time");
        a->command = argument;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_help(void)
{
    /* clang-format off */
static const struct argp_option options[] = {
        {"man", 'm', NULL, OPTION_HIDDEN, "write the manual page skewscope.1", 0}, {0}};
    /* clang-format on */
    static const struct argp argp = {options, help_parse, "[COMMAND]", "Shows help on a command.",
                                     NULL,    NULL,       NULL};
    return &argp;
}

int skew_cmd_help(int argc, char **argv)
{
    struct help_arguments arguments = {0};

    argp_parse(skew_argp_help(), argc, argv, 0, NULL, &arguments);
    if (arguments.manual)
        skew_manual_write();
    else if (arguments.command)
        return help_on(arguments.command);
    else
        print_help(stdout);
    return SKEW_EXIT_OK;
}

/* Descriptors 0, 1 and 2 must be something, or the next file that is opened becomes one of them.
 * What is closed stays closed for a command that is run. */
static void fill_streams(void)
{
    int fd;

    while ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0 && fd <= STDERR_FILENO)
        ;
    if (fd > STDERR_FILENO)
        close(fd);
}

int main(int argc, char **argv)
{
    fill_streams();
    if (argc < 2) {
        print_help(stderr);
        return SKEW_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "-?") == 0) {
        print_help(stdout);
        return fflush(stdout) ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        puts("skewscope " SKEW_VERSION);
        return fflush(stdout) ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
    }
    const struct skew_command *command = find(argv[1]);
    if (!command)
        return unknown(argv[1]);
    return call(command, argc - 1, argv + 1);
}
