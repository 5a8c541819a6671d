/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options as the target sees them: environment variables only, read once, from schema/options.h. A
 * wrong value falls back to the default and is told in the trace; the tools check before the job
 * starts. Runs on the thread that starts the process state, before other threads can see it.
 *
 * Many programs clean their environment, overwrite it with a title, or change directory before they
 * make a communicator: what the process was started with is kept by the constructor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "internal.h"

extern char **environ;

static const struct option {
    const char *name; /* with the prefix */
    enum skew_option_type type;
    const char *def, *values;
} options[SKEW_OPT_COUNT] = {
#define X(id, name, type, def, values, unit, scope, help)                                          \
    [SKEW_OPT_##id] = {SKEW_ENV_PREFIX name, SKEW_OPT_##type, def, values},
    SKEW_OPTION_LIST(X)
#undef X
};

/* Index of `text` in "a|b|c"; −1: not there. */
static int64_t enum_index(const char *values, const char *text)
{
    size_t length = strlen(text);
    for (int64_t index = 0;; index++) {
        const char *end = strchr(values, '|');
        size_t n = end ? (size_t)(end - values) : strlen(values);
        if (n == length && memcmp(values, text, n) == 0)
            return index;
        if (!end)
            return -1;
        values = end + 1;
    }
}

int64_t skew_parse_int(const char *text)
{
    int64_t value = 0;
    if (!*text)
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || value > INT64_MAX / 10 - 9)
            return -1;
        value = value * 10 + (*text - '0');
    }
    return value;
}

/* "min..max" */
static bool int_in_range(const char *values, int64_t value)
{
    const char *dots = strstr(values, "..");
    char low[24] = "";
    if (!dots || (size_t)(dots - values) >= sizeof(low))
        return false;
    memcpy(low, values, (size_t)(dots - values));
    return value >= skew_parse_int(low) && value <= skew_parse_int(dots + 2);
}

static int64_t parse(const struct option *option, const char *text)
{
    if (option->type == SKEW_OPT_ENUM)
        return enum_index(option->values, text);
    int64_t value = skew_parse_int(text);
    return int_in_range(option->values, value) ? value : -1;
}

/* NAME=value, one behind the other, ended by an empty one; and the working directory, "" when there
 * is none. Written by the constructor alone. */
static char kept[8192], short_cwd[256] SKEW_EARLY, long_cwd[SKEW_PATH_BYTES];
static const char *kept_cwd SKEW_EARLY = short_cwd;

/** In the constructor: keeps our part of the environment, and where relative paths begin. */
SKEW_START void skew_options_keep(void)
{
    const size_t prefix = sizeof(SKEW_ENV_PREFIX) - 1;
    size_t at = 0;
    for (char **e = environ; e && *e; e++) {
        if ((*e)[0] != SKEW_ENV_PREFIX[0] || strncmp(*e, SKEW_ENV_PREFIX, prefix) != 0)
            continue;
        size_t bytes = strlen(*e) + 1;
        if (at + bytes < sizeof(kept))
            memcpy(kept + at, *e, bytes);
        at += at + bytes < sizeof(kept) ? bytes : 0;
    }
    if (!getcwd(short_cwd, sizeof(short_cwd)))
        kept_cwd = errno == ERANGE && getcwd(long_cwd, sizeof(long_cwd)) ? long_cwd : "";
    if (kept_cwd[0] != '/')
        kept_cwd = "";
}

const char *skew_start_directory(void)
{
    return kept_cwd;
}

const char *skew_option_text(enum skew_option option)
{
    const char *name = options[option].name;
    const char *text = secure_getenv(name);
    size_t length = strlen(name);
    if (text || getauxval(AT_SECURE))
        return text ? text : "";
    for (text = kept; *text; text += strlen(text) + 1)
        if (strncmp(text, name, length) == 0 && text[length] == '=')
            return text + length + 1;
    return "";
}

void skew_options_read(struct skew_process *proc)
{
    for (unsigned i = 0; i < SKEW_OPT_COUNT; i++) {
        if (options[i].type == SKEW_OPT_STRING)
            continue;
        const char *text = skew_option_text((enum skew_option)i);
        int64_t value = *text ? parse(&options[i], text) : parse(&options[i], options[i].def);
        if (value < 0) {
            proc->bad_options |= 1u << i;
            value = parse(&options[i], options[i].def);
        }
        proc->option_int[i] = value;
    }
    proc->options_read = 1;
}

/** For "on|off" options, where on is the first. */
bool skew_option_on(const struct skew_process *proc, enum skew_option option)
{
    return proc->option_int[option] == 0;
}

/** Says which variables were not understood, now that there is a trace to say it in. */
void skew_options_tell(struct skew_process *proc)
{
    for (unsigned i = 0; i < SKEW_OPT_COUNT; i++) {
        char text[512];
        size_t at = 0;
        if (!(proc->bad_options & (1u << i)))
            continue;
        at = skew_text_add(text, sizeof(text), at, options[i].name);
        at = skew_text_add(text, sizeof(text), at, "='");
        at = skew_text_add(text, sizeof(text), at, skew_option_text((enum skew_option)i));
        at = skew_text_add(text, sizeof(text), at, "' is not one of ");
        at = skew_text_add(text, sizeof(text), at, options[i].values);
        at = skew_text_add(text, sizeof(text), at, "; the default, ");
        at = skew_text_add(text, sizeof(text), at, options[i].def);
        skew_text_add(text, sizeof(text), at, ", was used");
        skew_diag(SKEW_DIAG_BAD_OPTION, text);
    }
}
