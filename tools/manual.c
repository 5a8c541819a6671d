/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes skewscope.1 from the same tables that parse the command line: the subcommands of
 * command.h, their argp parsers and schema/options.h. Run at build time (`skewscope help --man`).
 */
#include "command.h"
#include "settings.h"

#include <stdio.h>
#include <string.h>

/* One character of UTF-8 beyond ASCII, as troff writes it; returns its last byte. */
static const char *beyond_ascii(const char *from)
{
    unsigned char first = (unsigned char)*from;
    int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    unsigned code = first & (0x3fu >> more);

    for (; more > 0 && (from[1] & 0xc0) == 0x80; more--)
        code = code << 6 | (*++from & 0x3f);
    printf("\\[u%04X]", code);
    return from;
}

/* Text for troff: backslashes and hyphens escaped, no line that begins with a control character. */
static void text(const char *from)
{
    bool line_start = true;

    for (; *from; from++) {
        if (line_start && (*from == '.' || *from == '\''))
            fputs("\\&", stdout);
        line_start = *from == '\n';
        if (*from == '\\')
            fputs("\\e", stdout);
        else if (*from == '-')
            fputs("\\-", stdout);
        else if (*from & 0x80)
            from = beyond_ascii(from);
        else
            putchar(*from);
    }
}

static void option_line(const struct argp_option *o)
{
    bool short_name = o->key > ' ' && o->key < 127;

    fputs(".TP\n", stdout);
    if (short_name)
        printf("\\fB\\-%c\\fR", o->key);
    if (short_name && o->name)
        fputs(", ", stdout);
    if (o->name) {
        fputs("\\fB\\-\\-", stdout);
        text(o->name);
        fputs("\\fR", stdout);
    }
    if (o->arg) {
        fputs(o->flags & OPTION_ARG_OPTIONAL ? "[=\\fI" : "=\\fI", stdout);
        text(o->arg);
        fputs(o->flags & OPTION_ARG_OPTIONAL ? "\\fR]" : "\\fR", stdout);
    }
    putchar('\n');
    text(o->doc ? o->doc : "");
    putchar('\n');
}

static void options_of(const struct argp *argp)
{
    for (const struct argp_option *o = argp->options; o && (o->name || o->key || o->doc); o++) {
        if (o->flags & OPTION_HIDDEN)
            continue;
        if (!o->name && !o->key) {
            fputs(".P\n", stdout);
            text(o->doc);
            putchar('\n');
        } else {
            option_line(o);
        }
    }
    for (const struct argp_child *child = argp->children; child && child->argp; child++) {
        if (child->header && *child->header) {
            fputs(".P\n", stdout);
            text(child->header);
            putchar('\n');
        }
        options_of(child->argp);
    }
}

static void paragraphs(const char *doc, bool after)
{
    const char *split = strchr(doc, '\v');
    char part[8192];

    if (after && !split)
        return;
    const char *from = after ? split + 1 : doc;
    size_t length = after || !split ? strlen(from) : (size_t)(split - doc);
    if (length >= sizeof part)
        length = sizeof part - 1;
    memcpy(part, from, length);
    part[length] = '\0';
    fputs(".P\n", stdout);
    text(part);
    putchar('\n');
}

static void command_section(const struct skew_command *command)
{
    const struct argp *argp = command->argp();

    printf(".SS skewscope %s [OPTION...] ", command->name);
    text(argp->args_doc ? argp->args_doc : "");
    fputs("\n", stdout);
    paragraphs(argp->doc, false);
    options_of(argp);
    paragraphs(argp->doc, true);
}

static void environment_section(void)
{
    fputs(".SH ENVIRONMENT\n"
          "Every option of \\fBrun\\fR that concerns the recording is also a variable, and a key "
          "of the JSON file that \\fB\\-\\-config\\fR names. A flag overrides the variable, the "
          "variable overrides the file.\n",
          stdout);
    for (int o = 0; o < SKEW_OPT_COUNT; o++) {
        const struct skew_option_info *info = skew_option_info(o);
        printf(".TP\n.B SKEWSCOPE_%s\n", info->name);
        text(info->help);
        if (info->type != SKEW_OPT_STRING) {
            fputs(" (", stdout);
            text(info->values);
            printf("%s%s, default ", *info->unit ? " " : "", info->unit);
            text(info->def);
            fputs(")", stdout);
        }
        if (info->scope == SKEW_SCOPE_INTERNAL)
            fputs("; set by \\fBrun\\fR, not by you", stdout);
        fputs(".\n", stdout);
    }
    fputs(".TP\n.B SKEWSCOPE_LIB\nThe path of libskewscope.so, when it is not where "
          "\\fBskewscope\\fR was built or installed.\n"
          ".TP\n.B NO_COLOR\nNo colour, even on a terminal.\n",
          stdout);
}

/* clang-format off */
static const char head[] =
    ".TH SKEWSCOPE 1 \"\" \"skewscope " SKEW_VERSION "\" \"User Commands\"\n"
    ".SH NAME\n"
    "skewscope \\- who sends how much to whom in the all\\-to\\-alls of a Mixture\\-of\\-Experts job\n"
    ".SH SYNOPSIS\n"
    ".B skewscope\n"
    ".I COMMAND\n"
    "[\\fIOPTION\\fR...]\n"
    ".SH DESCRIPTION\n"
    "Runs an unmodified job, records every NCCL all\\-to\\-all of every rank with the exact bytes to\n"
    "each peer, and stores them in an SQLite database (one a node) that plain \\fBsqlite3\\fR can\n"
    "query.\n"
    ".SH COMMANDS\n";

static const char foot[] =
    ".SH EXIT STATUS\n"
    ".TP\n.B 0\nall went well\n"
    ".TP\n.B 1\nit did not, and standard error says why\n"
    ".TP\n.B 2\nthe command line, a variable or the configuration file is wrong\n"
    ".P\n"
    "\\fBrun\\fR ends as its command ended: with the same status, or by the same signal; with 126 when\n"
    "the command could not be executed and 127 when it was not found.\n"
    ".SH FILES\n"
    ".TP\n.I DIR/trace.db\nthe trace (DIR/trace\\-HOST.db on further nodes)\n"
    ".TP\n.I DIR/.skewscope/\nwhat is still to be collected\n";
/* clang-format on */

void skew_manual_write(void)
{
    fputs(head, stdout);
    for (const struct skew_command *c = skew_commands; c->name; c++)
        command_section(c);
    environment_section();
    fputs(foot, stdout);
}
