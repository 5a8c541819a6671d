/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options from flags, environment, JSON file and defaults: see settings.h.
 */
#include "settings.h"
#include "term.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

#define FLAG_KEY 0x1000 /* argp keys of the flags: FLAG_KEY + enum skew_option */

static struct skew_option_info infos[SKEW_OPT_COUNT] = {
#define X(id, name_, type_, def_, values_, unit_, scope_, help_)                                   \
    {name_, NULL, NULL, SKEW_OPT_##type_, def_, values_, unit_, SKEW_SCOPE_##scope_, help_},
    SKEW_OPTION_LIST(X)
#undef X
};

static char *lower(const char *name, char underscore)
{
    char *copy = strdup(name);

    if (!copy)
        abort(); /* a few bytes at start-up: nothing else would work either */
    for (char *c = copy; *c; c++)
        *c = *c == '_' ? underscore : (char)tolower((unsigned char)*c);
    return copy;
}

const struct skew_option_info *skew_option_info(enum skew_option option)
{
    if (!infos[option].flag) {
        infos[option].flag = lower(infos[option].name, '-');
        infos[option].key = lower(infos[option].name, '_');
    }
    return &infos[option];
}

/* on|off with default off reads as a switch: --quiet is enough. */
static bool is_switch(const struct skew_option_info *info)
{
    return info->type == SKEW_OPT_ENUM && strcmp(info->values, "on|off") == 0 &&
           strcmp(info->def, "off") == 0;
}

/* ---- values -------------------------------------------------------------------------------- */

static bool allowed(const struct skew_option_info *info, const char *value)
{
    if (info->type == SKEW_OPT_INT) {
        int64_t least, most, number;
        if (sscanf(info->values, "%" SCNd64 "..%" SCNd64, &least, &most) != 2)
            return false;
        return skew_parse_int(value, least, most, &number);
    }
    if (info->type == SKEW_OPT_ENUM) {
        size_t length = strlen(value);
        for (const char *at = info->values; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
            if (length && strncmp(at, value, length) == 0 && (at[length] == '|' || !at[length]))
                return true;
        return false;
    }
    return true;
}

/* "on or off", "a number from 1 to 1024 (MiB)". */
static void describe_values(const struct skew_option_info *info, char *text, size_t size)
{
    int64_t least, most;

    if (info->type == SKEW_OPT_INT &&
        sscanf(info->values, "%" SCNd64 "..%" SCNd64, &least, &most) == 2) {
        snprintf(text, size, "a whole number from %" PRId64 " to %" PRId64 "%s%s%s", least, most,
                 *info->unit ? " (" : "", info->unit, *info->unit ? ")" : "");
        return;
    }
    size_t used = 0;
    for (const char *c = info->values; *c && used + 8 < size; c++)
        used += (size_t)snprintf(text + used, size - used, *c == '|' ? " or " : "%c", *c);
    text[used] = '\0';
}

static int set(struct skew_settings *settings, enum skew_option option, const char *value,
               enum skew_source source)
{
    char *copy = strdup(value);

    if (!copy)
        return -ENOMEM;
    free(settings->of[option].value);
    settings->of[option] = (struct skew_setting){copy, source};
    return 0;
}

int skew_settings_set(struct skew_settings *settings, enum skew_option option, const char *value)
{
    return set(settings, option, value, SKEW_FROM_FLAG);
}

/* ---- the JSON file ------------------------------------------------------------------------- */

static int unknown_key(const char *file, const char *key)
{
    const char *keys[SKEW_OPT_COUNT + 1];
    size_t count = 0;

    for (int o = 0; o < SKEW_OPT_COUNT; o++)
        if (skew_option_info(o)->scope != SKEW_SCOPE_INTERNAL && o != SKEW_OPT_CONFIG)
            keys[count++] = infos[o].key;
    keys[count] = NULL;
    const char *nearest = skew_nearest(key, keys);
    if (nearest)
        skew_tell("%s: there is no option \"%s\"; did you mean \"%s\"?", file, key, nearest);
    else
        skew_tell("%s: there is no option \"%s\"; skewscope run --help lists them", file, key);
    return -EINVAL;
}

/* The value of one key as text; NULL when it is of a type that no option has. */
static char *value_text(const struct skew_option_info *info, const json_t *value)
{
    char *text = NULL;

    if (json_is_string(value))
        return strdup(json_string_value(value));
    if (json_is_integer(value) && info->type == SKEW_OPT_INT)
        return asprintf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(value)) < 0 ? NULL
                                                                                       : text;
    if (json_is_boolean(value) && info->type == SKEW_OPT_ENUM)
        return strdup(json_is_true(value) ? "on" : "off");
    return NULL;
}

static int take_key(struct skew_settings *settings, const char *file, const char *key,
                    const json_t *value)
{
    enum skew_option option = SKEW_OPT_COUNT;
    char values[160];

    for (int o = 0; o < SKEW_OPT_COUNT; o++)
        if (skew_option_info(o)->scope != SKEW_SCOPE_INTERNAL && o != SKEW_OPT_CONFIG &&
            strcmp(infos[o].key, key) == 0)
            option = (enum skew_option)o;
    if (option == SKEW_OPT_COUNT)
        return unknown_key(file, key);
    const struct skew_option_info *info = &infos[option];
    char *text = value_text(info, value);
    if (!text || (*text && !allowed(info, text))) {
        if (info->type == SKEW_OPT_STRING)
            snprintf(values, sizeof values, "a text");
        else
            describe_values(info, values, sizeof values);
        char *shown = json_dumps(value, JSON_ENCODE_ANY);
        skew_tell("%s: \"%s\": %s is not allowed; it takes %s", file, key, shown ? shown : "this",
                  values);
        free(shown);
        free(text);
        return -EINVAL;
    }
    int result = settings->of[option].value ? 0 : set(settings, option, text, SKEW_FROM_FILE);
    free(text);
    return result;
}

static int read_file(struct skew_settings *settings, const char *file)
{
    json_error_t error;
    const char *key;
    json_t *value;
    int result = 0;
    json_t *root = json_load_file(file, JSON_REJECT_DUPLICATES, &error);

    if (!root) {
        if (error.line > 0)
            skew_tell("%s:%d: %s", file, error.line, error.text);
        else
            skew_tell("%s: cannot be read: %s", file, strerror(errno));
        return -EINVAL;
    }
    if (!json_is_object(root)) {
        skew_tell("%s: must hold one JSON object, such as {\"spool_mb\": 128}", file);
        result = -EINVAL;
    } else {
        json_object_foreach(root, key, value)
        {
            result = take_key(settings, file, key, value);
            if (result < 0)
                break;
        }
    }
    json_decref(root);
    return result;
}

/* ---- all together -------------------------------------------------------------------------- */

static const char *from_environment(enum skew_option option)
{
    char name[64];

    snprintf(name, sizeof name, SKEW_ENV_PREFIX "%s", skew_option_info(option)->name);
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static int check(const struct skew_settings *settings, enum skew_option option)
{
    const struct skew_option_info *info = skew_option_info(option);
    const struct skew_setting *setting = &settings->of[option];
    char values[160];

    if (!*setting->value || allowed(info, setting->value))
        return 0;
    describe_values(info, values, sizeof values);
    if (setting->source == SKEW_FROM_FLAG)
        skew_tell("--%s: '%s' is not allowed; it takes %s", info->flag, setting->value, values);
    else
        skew_tell(SKEW_ENV_PREFIX "%s: '%s' is not allowed; it takes %s", info->name,
                  setting->value, values);
    return -EINVAL;
}

/* A variable with our prefix that means nothing, but nearly something: its owner believes it works.
 */
static void warn_of_misspelt(void)
{
    const char *names[SKEW_OPT_COUNT + 1];
    const size_t prefix = strlen(SKEW_ENV_PREFIX);

    for (int o = 0; o < SKEW_OPT_COUNT; o++)
        names[o] = skew_option_info(o)->name;
    names[SKEW_OPT_COUNT] = NULL;
    for (char **variable = environ; *variable; variable++) {
        char name[64];
        size_t length = strcspn(*variable, "=");
        if (strncmp(*variable, SKEW_ENV_PREFIX, prefix) != 0 || length - prefix >= sizeof name)
            continue;
        memcpy(name, *variable + prefix, length - prefix);
        name[length - prefix] = '\0';
        const char *nearest = strcmp(name, "LIB") == 0 ? NULL : skew_nearest(name, names);
        if (nearest && strcmp(nearest, name) != 0)
            skew_tell("warning: " SKEW_ENV_PREFIX "%s means nothing; did you mean " SKEW_ENV_PREFIX
                      "%s?",
                      name, nearest);
    }
}

int skew_settings_resolve(struct skew_settings *settings)
{
    int result = 0;

    if (!from_environment(SKEW_OPT_RUN_ID)) /* else an outer run has said it */
        warn_of_misspelt();

    /* An empty flag means the default, as an empty variable does. */
    for (int o = 0; o < SKEW_OPT_COUNT && result == 0; o++) {
        const char *value = from_environment(o);
        if (!settings->of[o].value && value)
            result = set(settings, o, value, SKEW_FROM_ENVIRONMENT);
    }
    const char *file = settings->of[SKEW_OPT_CONFIG].value;
    if (result == 0 && file && *file)
        result = read_file(settings, file);
    for (int o = 0; o < SKEW_OPT_COUNT && result == 0; o++) {
        if (!settings->of[o].value || (!*settings->of[o].value && *skew_option_info(o)->def))
            result = set(settings, o, skew_option_info(o)->def, SKEW_FROM_DEFAULT);
        if (result == 0)
            result = check(settings, o);
    }
    if (result == -ENOMEM)
        skew_tell("out of memory");
    return result;
}

int skew_settings_export(const struct skew_settings *settings)
{
    for (int o = 0; o < SKEW_OPT_COUNT; o++) {
        const struct skew_setting *setting = &settings->of[o];
        char name[64];

        if (setting->source == SKEW_FROM_DEFAULT || skew_option_info(o)->scope == SKEW_SCOPE_TOOL)
            continue;
        snprintf(name, sizeof name, SKEW_ENV_PREFIX "%s", infos[o].name);
        if (setenv(name, setting->value, 1) != 0)
            return -ENOMEM;
    }
    /* All of the file is exported now, and its path may mean nothing in another directory. */
    unsetenv(SKEW_ENV_PREFIX "CONFIG");
    return 0;
}

void skew_settings_free(struct skew_settings *settings)
{
    for (int o = 0; o < SKEW_OPT_COUNT; o++)
        free(settings->of[o].value);
    *settings = (struct skew_settings){0};
}

bool skew_setting_on(const struct skew_settings *settings, enum skew_option option)
{
    return strcmp(skew_setting(settings, option), "on") == 0;
}

/* ---- flags --------------------------------------------------------------------------------- */

static error_t parse_flag(int key, char *argument, struct argp_state *state)
{
    struct skew_settings *settings = state->input;
    int option = key == 'o' ? SKEW_OPT_OUT : key == 'q' ? SKEW_OPT_QUIET : key - FLAG_KEY;

    if (option < 0 || option >= SKEW_OPT_COUNT)
        return ARGP_ERR_UNKNOWN;
    return skew_settings_set(settings, option, argument ? argument : "on") < 0 ? ENOMEM : 0;
}

/* "what it does (1..1024 MiB, default 64) [SKEWSCOPE_SPOOL_MB]" */
static char *flag_help(const struct skew_option_info *info)
{
    char *text = NULL, remark[200] = "";

    if (info->type == SKEW_OPT_INT)
        snprintf(remark, sizeof remark, " (%s %s, default %s)", info->values, info->unit,
                 info->def);
    else if (*info->def)
        snprintf(remark, sizeof remark, " (default %s)", info->def);
    if (asprintf(&text, "%s%s [" SKEW_ENV_PREFIX "%s]", info->help, remark, info->name) < 0)
        abort();
    return text;
}

static const char *flag_argument(const struct skew_option_info *info)
{
    if (info->type == SKEW_OPT_ENUM)
        return info->values;
    if (info->type == SKEW_OPT_INT)
        return info->unit;
    return strcmp(info->unit, "directory") == 0 ? "DIR" : "PATH";
}

const struct argp *skew_options_argp(void)
{
    static struct argp_option options[SKEW_OPT_COUNT + 1];
    static const struct argp argp = {options, parse_flag, NULL, NULL, NULL, NULL, NULL};
    int count = 0;

    if (options[0].name)
        return &argp;
    for (int o = 0; o < SKEW_OPT_COUNT; o++) {
        const struct skew_option_info *info = skew_option_info(o);
        if (info->scope == SKEW_SCOPE_INTERNAL)
            continue;
        options[count++] = (struct argp_option){.name = info->flag,
                                                .key = o == SKEW_OPT_OUT     ? 'o'
                                                       : o == SKEW_OPT_QUIET ? 'q'
                                                                             : FLAG_KEY + o,
                                                .arg = flag_argument(info),
                                                .flags = is_switch(info) ? OPTION_ARG_OPTIONAL : 0,
                                                .doc = flag_help(info)};
    }
    return &argp;
}
