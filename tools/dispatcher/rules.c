/* SPDX-License-Identifier: Apache-2.0 */
/* See dispatcher.h: which dispatcher was selected, which one was seen at work, and what is advised.
 */
#include "dispatcher.h"

#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dispatcher_table.h"
#include "rows.h"

json_t *skew_dispatcher_table(void)
{
    return json_loads(dispatcher_table, 0, NULL);
}

const char *skew_dispatcher_label(const json_t *facts, const char *key)
{
    const json_t *labels = json_object_get(facts, "labels"), *row;
    size_t i;
    json_array_foreach(labels, i, row) if (strcmp(skew_row_text(row, "key"), key) ==
                                           0) return skew_row_text(row, "value");
    /* The machine itself, where nobody said it: of several models, the most frequent one. */
    row = json_array_get(json_object_get(facts, "gpus"), 0);
    return row && strcmp(key, "hardware") == 0 ? skew_row_text(row, "model") : NULL;
}

double skew_dispatcher_reported(const json_t *facts, const char *what)
{
    const json_t *printed =
        json_object_get(json_object_get(json_object_get(facts, "printed"), "values"), what);
    const char *label = skew_dispatcher_label(facts, what);
    char *end = NULL;
    double value = label ? strtod(label, &end) : NAN;

    if (printed)
        return json_number_value(json_object_get(printed, "value"));
    return end && end != label ? value : NAN;
}

/* ---- what was selected ----------------------------------------------------------------------- */

/* The value of an option in one list of words: "--name value", "--name=value", "key=value" for
 * hydra-like overrides, "" for a switch; NULL: not there. */
static const char *option_in(const json_t *words, const char *option)
{
    size_t i, length = strlen(option);
    const json_t *word;
    const char *found = NULL;
    json_array_foreach(words, i, word)
    {
        const char *text = json_string_value(word);
        if (!text || strncmp(text, option, length) != 0)
            continue;
        const char *next = json_string_value(json_array_get(words, i + 1));
        if (text[length] == '=')
            found = text + length + 1;
        else if (!text[length] && option[0] == '-')
            found = next && next[0] != '-' ? next : "";
    }
    return found; /* the last one counts, as it does for argument parsers */
}

/* In the command of `run` and in those of the processes. The words stay alive in `keep`. */
static const char *option_value(const json_t *facts, const char *option, json_t *keep)
{
    static const char *const where[][2] = {{"runs", "command"}, {"commands", "cmdline"}};
    for (size_t w = 0; w < 2; w++) {
        const json_t *rows = json_object_get(facts, where[w][0]), *row;
        size_t i;
        json_array_foreach(rows, i, row)
        {
            json_t *words = json_loads(skew_row_text(row, where[w][1]), 0, NULL);
            const char *value = words ? option_in(words, option) : NULL;
            json_array_append_new(keep, words ? words : json_null());
            if (value)
                return value;
        }
    }
    return NULL;
}

static const char *variable_value(const json_t *facts, const char *name)
{
    const json_t *env = json_object_get(facts, "env"), *row;
    size_t i;
    json_array_foreach(env, i, row) if (strcmp(skew_row_text(row, "name"), name) ==
                                        0) return skew_row_text(row, "value");
    return NULL;
}

static json_t *selected(const json_t *facts, const json_t *table)
{
    json_t *list = json_array(), *keep = json_array();
    const json_t *rules = json_object_get(table, "selection"), *rule;
    size_t i;
    json_array_foreach(rules, i, rule)
    {
        const char *option = json_string_value(json_object_get(rule, "option")), *pattern;
        bool variable = option[0] >= 'A' && option[0] <= 'Z';
        const char *value =
            variable ? variable_value(facts, option) : option_value(facts, option, keep);
        json_t *backend;
        if (!value)
            continue;
        json_object_foreach(json_object_get(rule, "values"), pattern,
                            backend) if (fnmatch(pattern, value, 0) == 0)
        {
            json_array_append_new(
                list, json_pack("{s:s, s:s, s:s, s:s}", "backend", json_string_value(backend),
                                "framework", json_string_value(json_object_get(rule, "framework")),
                                "option", option, "value", value));
            break;
        }
    }
    const char *label = skew_dispatcher_label(facts, "dispatcher");
    if (label)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:s}", "backend", label, "framework",
                                        "label", "option", "--label dispatcher", "value", label));
    json_decref(keep);
    return list;
}

/* The first that names a backend; "flex" alone names none. */
static const char *first_selected(const json_t *list)
{
    const json_t *one;
    size_t i;
    json_array_foreach(list, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "backend"));
        if (name && name[0] != '?')
            return name;
    }
    return NULL;
}

/* ---- what was at work, and what is installed --------------------------------------------------
 */

static bool any_package(const json_t *facts, const json_t *patterns, json_t *found)
{
    const json_t *packages = json_object_get(facts, "packages"), *row, *pattern;
    size_t i, k;
    json_array_foreach(packages, i, row) json_array_foreach(
        patterns, k, pattern) if (fnmatch(json_string_value(pattern), skew_row_text(row, "name"),
                                          FNM_CASEFOLD) == 0)
        json_array_append(found, (json_t *)row);
    return json_array_size(found) > 0;
}

static json_int_t calls_of(const json_t *facts, const char *what, const char *way)
{
    const json_t *nccl = json_object_get(json_object_get(facts, "nccl"), what);
    return json_integer_value(json_object_get(json_object_get(nccl, way), "calls"));
}

/* Calls of a backend that were noted on the host: dispatches and combines prove that it works. */
static bool add_noted(const json_t *facts, const char *name, json_t *evidence)
{
    json_t *calls = json_object_get(json_object_get(facts, "calls"), name), *call;
    const char *function;
    bool working = false;
    char text[256];
    json_object_foreach(calls, function, call)
    {
        const char *does = skew_row_text(call, "does");
        if (strcmp(does, "dispatch") != 0 && strcmp(does, "combine") != 0)
            continue;
        working = true;
        snprintf(text, sizeof text, "%lld calls of %s (bytes not observable)",
                 (long long)skew_row_int(call, "calls"), function);
        json_array_append_new(evidence, json_string(text));
    }
    return working;
}

/* {backend, installed, loaded, working, evidence} for one dispatcher. */
static json_t *state_of(const json_t *facts, const json_t *backend)
{
    json_t *found = json_array(), *evidence = json_array();
    const json_t *needs = json_object_get(backend, "needs"), *name;
    bool installed = json_array_size(needs) == 0 || any_package(facts, needs, found),
         loaded = false, working = false;
    size_t i;
    char text[256];
    json_array_foreach(json_object_get(backend, "libraries"), i, name) loaded |=
        json_object_get(json_object_get(facts, "libraries"), json_string_value(name)) != NULL;
    json_array_foreach(json_object_get(backend, "kernels"), i, name)
    {
        const json_t *kernels =
            json_object_get(json_object_get(facts, "kernels"), json_string_value(name));
        const json_t *does;
        const char *what;
        json_object_foreach((json_t *)kernels, what, does)
        {
            json_int_t n = json_integer_value(json_object_get(does, "kernels"));
            if (strcmp(what, "dispatch") != 0 && strcmp(what, "combine") != 0 &&
                strcmp(what, "transfer") != 0)
                continue;
            working = true;
            snprintf(text, sizeof text, "%lld %s kernels of %s", (long long)n, what,
                     json_string_value(name));
            json_array_append_new(evidence, json_string(text));
        }
        working |= add_noted(facts, json_string_value(name), evidence);
    }
    const char *nccl = json_string_value(json_object_get(backend, "nccl"));
    if (nccl) {
        json_int_t to = calls_of(facts, nccl, "to_experts"),
                   from = calls_of(facts, nccl, "from_experts");
        working |= to + from > 0;
        if (to + from > 0) {
            snprintf(text, sizeof text, "%lld %s to experts and %lld back through NCCL",
                     (long long)to, nccl, (long long)from);
            json_array_append_new(evidence, json_string(text));
        }
    }
    return json_pack("{s:O, s:b, s:b, s:b, s:o, s:o}", "backend", json_object_get(backend, "name"),
                     "installed", installed, "loaded", loaded, "working", working, "packages",
                     found, "evidence", evidence);
}

/* ---- the verdict ------------------------------------------------------------------------------
 */

static json_t *gate(const char *verdict, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static json_t *gate(const char *verdict, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return json_pack("{s:s, s:s}", "verdict", verdict, "text", text);
}

static void describe_end(const json_t *facts, char *text, size_t size)
{
    const json_t *run = json_array_get(json_object_get(facts, "runs"), 0);
    if (!run)
        snprintf(text, size, "how it ended is not known");
    else if (!skew_row_null(run, "exit_signal"))
        snprintf(text, size, "the run was ended by signal %lld",
                 (long long)skew_row_int(run, "exit_signal"));
    else if (!skew_row_null(run, "exit_status"))
        snprintf(text, size, "the run ended with status %lld",
                 (long long)skew_row_int(run, "exit_status"));
    else
        snprintf(text, size, "how the run ended is not recorded");
}

static json_t *judge_one(const json_t *facts, const char *name, const json_t *state,
                         const char *working)
{
    char end[128];
    bool installed = json_is_true(json_object_get(state, "installed"));
    bool comms = json_integer_value(json_object_get(facts, "comms")) > 0;
    size_t packages = json_array_size(json_object_get(facts, "packages"));
    describe_end(facts, end, sizeof end);
    if (!state)
        return gate(
            "unknown_backend",
            "%s was selected, which this version does not know: nothing can be said about it",
            name);
    if (json_is_true(json_object_get(state, "working")))
        return gate("worked", "%s was selected and was seen at work", name);
    if (!installed)
        return gate("missing",
                    "%s was selected, but none of its packages was found (of %zu that were), "
                    "and %s%s: a "
                    "limit of the environment, not a result about %s%s%s",
                    name, packages, end, comms ? "" : " before any communicator was made", name,
                    working ? "; what was measured is " : "", working ? working : "");
    if (!comms)
        return gate(
            "failed_early",
            "%s was selected and is installed, but %s before any communicator was made: nothing "
            "was measured",
            name, end);
    return gate("not_seen",
                "%s was selected and is installed, but nothing of it was seen at work%s%s. Its "
                "kernels can be "
                "seen only with SKEWSCOPE_TIMING=cupti",
                name, working ? "; what was measured is " : "", working ? working : "");
}

static json_t *judge(const json_t *facts, const json_t *states, const char *name)
{
    const json_t *state, *mine = NULL;
    const char *working = NULL;
    size_t i;
    json_array_foreach(states, i, state)
    {
        const char *its = json_string_value(json_object_get(state, "backend"));
        if (json_is_true(json_object_get(state, "working")))
            working = its;
        if (name && strcmp(its, name) == 0)
            mine = state;
    }
    if (name)
        return judge_one(facts, name, mine, working);
    if (working)
        return gate("worked", "nothing says which dispatcher was selected; %s was seen at work",
                    working);
    json_int_t untold = json_integer_value(json_object_get(facts, "untold"));
    if (untold)
        return gate("untold",
                    "nothing says which dispatcher was selected; %lld exchanges went through NCCL "
                    "of which it cannot be told "
                    "whether they move tokens: dispatch padded to capacity looks so (skewscope "
                    "label --layers)",
                    (long long)untold);
    return gate("nothing", "nothing says which dispatcher was selected, and none was seen at work");
}

/* ---- advice of others -------------------------------------------------------------------------
 */

/* A rule without the key fits all; "" fits where nothing is known. */
static bool fits(const json_t *rule, const char *key, const char *value)
{
    const json_t *patterns = json_object_get(rule, key), *pattern;
    size_t i;
    if (!patterns)
        return true;
    if (json_is_string(patterns))
        return value ? fnmatch(json_string_value(patterns), value, FNM_CASEFOLD) == 0
                     : !*json_string_value(patterns);
    json_array_foreach(patterns, i, pattern) if (value && fnmatch(json_string_value(pattern), value,
                                                                  FNM_CASEFOLD) == 0) return true;
    return false;
}

/* Where the work with this dispatcher stands: what the label says, or by whether it worked. */
static const char *stage_of(const json_t *facts)
{
    const json_t *gate = json_object_get(facts, "gate");
    const char *label = skew_dispatcher_label(facts, "stage");

    if (label)
        return label;
    return strcmp(skew_row_text(gate, "verdict"), "worked") == 0 ? "tuning" : "bring-up";
}

static json_t *guidance(const json_t *facts, const json_t *table, const char *backend)
{
    json_t *list = json_array();
    const json_t *rule;
    const char *hardware = skew_dispatcher_label(facts, "hardware");
    size_t i;
    hardware = hardware ? hardware : skew_dispatcher_label(facts, "gpu");
    json_array_foreach(json_object_get(table, "guidance"), i, rule)
    {
        const char *source = json_string_value(json_object_get(rule, "source"));
        if (!fits(rule, "hardware", hardware) ||
            !fits(rule, "model", skew_dispatcher_label(facts, "model")) ||
            !fits(rule, "backend", backend) || !fits(rule, "stage", stage_of(facts)))
            continue;
        json_array_append_new(
            list, json_pack("{s:O, s:O}", "text", json_object_get(rule, "text"), "source",
                            json_object_get(json_object_get(table, "sources"), source)));
    }
    return list;
}

int skew_dispatcher_judge(json_t *facts, const json_t *table)
{
    json_t *list = selected(facts, table), *states = json_array();
    const json_t *backend;
    size_t i;
    json_array_foreach(json_object_get(table, "backends"), i, backend)
        json_array_append_new(states, state_of(facts, backend));
    const char *name = first_selected(list);
    int error = json_object_set_new(facts, "gate", judge(facts, states, name));
    error |= json_object_set_new(facts, "stage", json_string(stage_of(facts)));
    error |= json_object_set_new(facts, "guidance", guidance(facts, table, name));
    error |= json_object_set_new(facts, "selected", list);
    error |= json_object_set_new(facts, "backends", states);
    return error ? -ENOMEM : 0;
}
