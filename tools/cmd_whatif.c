/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope whatif: finds the question and calls it. What a question does is in its own file.
 */
#include "command.h"
#include "term.h"
#include "whatif.h"

#include <stdio.h>
#include <string.h>

struct question {
    const char *name, *summary;
    int (*main)(int argc, char **argv);
    const struct argp *(*argp)(void);
};

#define X(name, summary) {#name, summary, skew_whatif_##name, skew_whatif_argp_##name},
static const struct question questions[] = {SKEW_WHATIF_LIST(X){NULL, NULL, NULL, NULL}};
#undef X
enum { QUESTIONS = sizeof questions / sizeof *questions - 1 };

/* Only for the manual: the questions' options under a heading each. Never parsed with. */
const struct argp *skew_argp_whatif(void)
{
    static struct argp_child children[QUESTIONS + 1];
    static char headings[QUESTIONS][80];
    static struct argp argp = {
        NULL,
        NULL,
        "QUESTION",
        "Computes what the captured traffic would cost if something were different. "
        "All of it is a model over measured bytes, and says so.",
        children,
        NULL,
        NULL};

    for (size_t i = 0; i < QUESTIONS; i++) {
        const struct argp *one = questions[i].argp();
        snprintf(headings[i], sizeof headings[i], "skewscope whatif %s [OPTION...] %s",
                 questions[i].name, one->args_doc ? one->args_doc : "");
        children[i] = (struct argp_child){one, 0, headings[i], 0};
    }
    return &argp;
}

static void print_help(FILE *to)
{
    fputs("usage: skewscope whatif QUESTION [OPTION...]\n\n", to);
    for (const struct question *q = questions; q->name; q++)
        fprintf(to, "  %-9s %s\n", q->name, q->summary);
    fputs("\nskewscope whatif QUESTION --help tells more.\n", to);
}

static int unknown(const char *name)
{
    const char *names[QUESTIONS + 1] = {NULL};

    for (size_t i = 0; i < QUESTIONS; i++)
        names[i] = questions[i].name;
    const char *nearest = skew_nearest(name, names);
    if (nearest)
        skew_tell("whatif: there is no question '%s'; did you mean '%s'?", name, nearest);
    else
        skew_tell("whatif: there is no question '%s'; see skewscope whatif --help", name);
    return SKEW_EXIT_USAGE;
}

int skew_cmd_whatif(int argc, char **argv)
{
    static char title[64];

    if (argc < 2) {
        print_help(stderr);
        return SKEW_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0) {
        print_help(stdout);
        return SKEW_EXIT_OK;
    }
    for (const struct question *q = questions; q->name; q++) {
        if (strcmp(argv[1], q->name) != 0)
            continue;
        snprintf(title, sizeof title, "skewscope whatif %s", q->name);
        argv[1] = title;
        return q->main(argc - 1, argv + 1);
    }
    return unknown(argv[1]);
}
