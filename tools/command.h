/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The subcommands of `skewscope`. A subcommand is one file, cmd_<name>.c, and one line here; its
 * help and its part of the manual come from its own argp.
 *
 *   X(name, "one line for --help")
 */
#ifndef SKEW_COMMAND_H
#define SKEW_COMMAND_H

#include <argp.h>

#define SKEW_COMMAND_LIST(X)                                                                       \
    X(run, "run a command and trace its all-to-all traffic")                                       \
    X(doctor, "check that a command can be traced, and say what will not be seen")                 \
    X(info, "show what is in a trace and how much of it was captured")                             \
    X(matrix, "show the bytes from each rank to each rank")                                        \
    X(label, "find what each exchange is for: role, step, layer, micro-batch")                     \
    X(hang, "say which rank never came, which sizes disagree, and where they called")              \
    X(routing, "tell tokens by expert, as tapped count exchanges say")                             \
    X(router, "tell the router's imbalance: chance, what persists, what placement could fix")      \
    X(skew, "tell how the bytes of each exchange are spread over ranks")                           \
    X(observe, "compare traces by model, data, batch and EP degree, chance taken out")             \
    X(time, "tell where the time of exchanges goes, who is late, and what skew costs")             \
    X(overlap, "tell what kernels hide of exchanges, and how long experts computed")               \
    X(clocks, "relate the clocks of several nodes, from exchanges that met")                       \
    X(whatif, "compute what another placement, schedule or EP degree would mean")                  \
    X(dispatcher,                                                                                  \
      "say which MoE dispatcher was selected, which one worked, and what others advise")           \
    X(synth, "write a synthetic trace with known truth")                                           \
    X(import, "make a trace of routing that others recorded")                                      \
    X(collect, "bring what processes left in their spools into the trace")                         \
    X(help, "show help on a command")

/* Exit statuses of every subcommand; `run` otherwise ends as its command did. */
enum { SKEW_EXIT_OK = 0, SKEW_EXIT_FAILURE = 1, SKEW_EXIT_USAGE = 2 };

struct skew_command {
    const char *name;
    const char *summary;
    int (*main)(int argc, char **argv); /* argv[0] is "skewscope <name>" */
    const struct argp *(*argp)(void);
};

extern const struct skew_command skew_commands[]; /* ends with a NULL name */

/* One subcommand: its main and its parser, which --help and the manual come from. */
#define X(name, summary)                                                                           \
    int skew_cmd_##name(int argc, char **argv);                                                    \
    const struct argp *skew_argp_##name(void);
SKEW_COMMAND_LIST(X)
#undef X

/** Writes skewscope.1 to standard output, from the tables. */
void skew_manual_write(void);

#endif
