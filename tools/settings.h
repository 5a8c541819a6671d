/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of schema/options.h as the tools see them: flags before SKEWSCOPE_* variables before
 * the JSON file before the default, checked once, with errors that name where the value came from.
 */
#ifndef SKEW_SETTINGS_H
#define SKEW_SETTINGS_H

#include <argp.h>
#include <stdbool.h>

#include "options.h"

enum skew_source { SKEW_FROM_DEFAULT, SKEW_FROM_FILE, SKEW_FROM_ENVIRONMENT, SKEW_FROM_FLAG };

struct skew_setting {
    char *value; /* owned; "" when nobody set it and the default is empty */
    enum skew_source source;
};

struct skew_settings {
    struct skew_setting of[SKEW_OPT_COUNT];
};

/** One line of the table. */
struct skew_option_info {
    const char *name; /* SPOOL_MB */
    const char *flag; /* spool-mb */
    const char *key;  /* spool_mb */
    enum skew_option_type type;
    const char *def;
    const char *values;
    const char *unit;
    enum skew_option_scope scope;
    const char *help;
};
const struct skew_option_info *skew_option_info(enum skew_option option);

/** A parser of all flags for use as a child of a subcommand's; its input is a struct skew_settings.
 */
const struct argp *skew_options_argp(void);

/**
 * Completes what the flags have set from the environment, the JSON file and the defaults, and
 * checks everything. @return 0, or -EINVAL after one sentence on standard error that names flag,
 * variable or key.
 */
int skew_settings_resolve(struct skew_settings *settings);

/** Puts what is not a default into the environment, for the job. */
int skew_settings_export(const struct skew_settings *settings);

void skew_settings_free(struct skew_settings *settings);

/** Sets a value as if by a flag. */
int skew_settings_set(struct skew_settings *settings, enum skew_option option, const char *value);

static inline const char *skew_setting(const struct skew_settings *settings,
                                       enum skew_option option)
{
    return settings->of[option].value;
}

bool skew_setting_on(const struct skew_settings *settings, enum skew_option option);

#endif
