/* SPDX-License-Identifier: Apache-2.0 */
/* See dispatcher.h: two runs beside each other. Only the same work on the same ground is compared.
 */
#include "dispatcher.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "rows.h"

/* Labels that must be equal, where they say anything: another dispatcher's run is another
 * experiment otherwise. */
static const char *const ground[] = {
    "model", "data",      "tokens",  "batch", "seq",   "ep",     "tp",        "pp", "hardware",
    "gpu",   "precision", "routing", "nodes", "graph", "fusion", "container", NULL};

static void differ(json_t *list, const char *what, const char *a, const char *b)
{
    json_array_append_new(list, json_pack("{s:s, s:s?, s:s?}", "what", what, "a", a, "b", b));
}

/* Variables that differ between any two runs, or between the ranks of one. */
static bool is_of_one_run(const char *name)
{
    static const char *const names[] = {"RANK",
                                        "LOCAL_RANK",
                                        "GROUP_RANK",
                                        "ROLE_RANK",
                                        "MASTER_PORT",
                                        "TORCHELASTIC_RUN_ID",
                                        "SKEWSCOPE_OUT",
                                        "SKEWSCOPE_RUN_ID",
                                        "SKEWSCOPE_HOME",
                                        "OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_LOCAL_RANK",
                                        "PMI_RANK",
                                        "SLURM_PROCID",
                                        "SLURM_LOCALID",
                                        "SLURM_JOB_ID",
                                        "SLURM_JOBID",
                                        "PWD",
                                        "OLDPWD",
                                        "SHLVL",
                                        "_",
                                        NULL};
    for (const char *const *known = names; *known; known++)
        if (strcmp(*known, name) == 0)
            return true;
    return false;
}

/* Names in `rows` of one whose value is another's, or is not there. */
static void differ_rows(json_t *list, const char *kind, const json_t *a, const json_t *b,
                        const char *key, const char *value, bool swapped)
{
    const json_t *row, *other;
    size_t i, k;
    json_array_foreach(a, i, row)
    {
        const char *its = NULL, *name = skew_row_text(row, key);
        char what[256];
        json_array_foreach(b, k, other) if (strcmp(skew_row_text(other, key), name) == 0) its =
            skew_row_text(other, value);
        if (strcmp(kind, "variable") == 0 && is_of_one_run(name))
            continue;
        if (swapped ? its != NULL : its && strcmp(its, skew_row_text(row, value)) == 0)
            continue;
        snprintf(what, sizeof what, "%s %s", kind, name);
        differ(list, what, swapped ? NULL : skew_row_text(row, value),
               swapped ? skew_row_text(row, value) : its);
    }
}

/* {option: value} of a command's words, and the others: "--name value", "--name=value",
 * "name=value". */
static json_t *options_of(const json_t *words, json_t *others)
{
    json_t *options = json_object();
    for (size_t i = 0; i < json_array_size(words); i++) {
        const char *word = json_string_value(json_array_get(words, i));
        const char *next = json_string_value(json_array_get(words, i + 1));
        char name[128];
        if (!word)
            continue;
        size_t length = strcspn(word, "=");
        bool option = word[0] == '-' && word[1];
        if ((!option && !word[length]) || length >= sizeof name) {
            json_array_append_new(others, json_string(word));
            continue;
        }
        memcpy(name, word, length);
        name[length] = '\0';
        /* A negative number is a value too. */
        bool value = option && !word[length] && next &&
                     (next[0] != '-' || (next[1] >= '0' && next[1] <= '9'));
        json_object_set_new(options, name,
                            json_string(word[length] ? word + length + 1
                                        : value      ? next
                                                     : ""));
        i += value;
    }
    return options;
}

/* Options one by one; the whole command where other words differ. */
static void differ_commands(json_t *list, const char *a, const char *b)
{
    json_t *words_a = json_loads(a, 0, NULL), *words_b = json_loads(b, 0, NULL), *value;
    json_t *others_a = json_array(), *others_b = json_array();
    json_t *x = options_of(words_a, others_a), *y = options_of(words_b, others_b);
    const char *name;
    char what[160];
    if (!json_equal(others_a, others_b))
        differ(list, "command", a, b);
    json_object_foreach(x, name, value)
    {
        const json_t *its = json_object_get(y, name);
        snprintf(what, sizeof what, "option %s", name);
        if (!its || !json_equal(value, its))
            differ(list, what, json_string_value(value), json_string_value(its));
    }
    json_object_foreach(y, name, value)
    {
        snprintf(what, sizeof what, "option %s", name);
        if (!json_object_get(x, name))
            differ(list, what, NULL, json_string_value(value));
    }
    json_decref(words_a);
    json_decref(words_b);
    json_decref(others_a);
    json_decref(others_b);
    json_decref(x);
    json_decref(y);
}

static void differences(json_t *list, const json_t *a, const json_t *b)
{
    static const char *const tables[][4] = {{"labels", "label", "key", "value"},
                                            {"packages", "package", "name", "version"},
                                            {"env", "variable", "name", "value"}};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const json_t *x = json_object_get(a, tables[i][0]), *y = json_object_get(b, tables[i][0]);
        differ_rows(list, tables[i][1], x, y, tables[i][2], tables[i][3], false);
        differ_rows(list, tables[i][1], y, x, tables[i][2], tables[i][3], true);
    }
    differ_commands(list, skew_row_text(json_array_get(json_object_get(a, "runs"), 0), "command"),
                    skew_row_text(json_array_get(json_object_get(b, "runs"), 0), "command"));
}

static const json_t *way_of(const json_t *facts, const char *way)
{
    const json_t *nccl = json_object_get(facts, "nccl");
    const json_t *exchanges = json_object_get(json_object_get(nccl, "exchanges"), way);
    return exchanges ? exchanges : json_object_get(json_object_get(nccl, "operations"), way);
}

static void refuse(json_t *reasons, const char *format, const char *a, const char *b)
{
    char text[512];
    snprintf(text, sizeof text, format, a, b);
    json_array_append_new(reasons, json_string(text));
}

static void check_ground(json_t *reasons, const json_t *a, const json_t *b)
{
    char text[512];
    bool said = false;
    for (const char *const *key = ground; *key; key++) {
        const char *x = skew_dispatcher_label(a, *key), *y = skew_dispatcher_label(b, *key);
        said |= x && y && strcmp(*key, "model") == 0;
        if (!x == !y && (!x || strcmp(x, y) == 0))
            continue;
        snprintf(text, sizeof text, "label %s differs: %s and %s", *key, x ? x : "not given",
                 y ? y : "not given");
        json_array_append_new(reasons, json_string(text));
    }
    const json_t *x = way_of(a, "to_experts"), *y = way_of(b, "to_experts");
    json_int_t bytes_x = json_integer_value(json_object_get(x, "bytes")),
               bytes_y = json_integer_value(json_object_get(y, "bytes"));
    if (x && y && bytes_x != bytes_y) {
        snprintf(text, sizeof text, "they moved different bytes to the experts: %lld and %lld",
                 (long long)bytes_x, (long long)bytes_y);
        json_array_append_new(reasons, json_string(text));
    }
    if ((!x || !y) && !said)
        refuse(reasons, "%s%s",
               "the bytes of at least one of them cannot be seen, and no label model= says that "
               "the work is "
               "the same",
               "");
    if (json_integer_value(json_object_get(a, "ep")) &&
        json_integer_value(json_object_get(b, "ep")) &&
        json_integer_value(json_object_get(a, "ep")) !=
            json_integer_value(json_object_get(b, "ep")))
        refuse(reasons, "%s%s", "the EP degrees differ", "");
}

static void check_worked(json_t *reasons, const json_t *facts, const char *which)
{
    const json_t *gate = json_object_get(facts, "gate");
    if (strcmp(skew_row_text(gate, "verdict"), "worked") != 0)
        refuse(reasons, "the %s run: %s", which, skew_row_text(gate, "text"));
}

/* Device time of dispatch and combine, ms in all ranks together; NaN: not measured for all calls.
 */
static double busy_ms(const json_t *facts)
{
    const json_t *kernels = json_object_get(facts, "kernels"), *backend;
    const char *name;
    double ns = 0;
    json_object_foreach((json_t *)kernels, name,
                        backend) for (const char *const *does =
                                          (const char *const[]){"dispatch", "combine", NULL};
                                      *does; does++) ns +=
        (double)json_integer_value(json_object_get(json_object_get(backend, *does), "busy_ns"));
    for (const char *const *way = (const char *const[]){"to_experts", "from_experts", NULL}; *way;
         way++) {
        const json_t *one = way_of(facts, *way);
        if (json_integer_value(json_object_get(one, "calls")) !=
            json_integer_value(json_object_get(one, "timed")))
            return NAN;
        ns += (double)json_integer_value(json_object_get(one, "ns"));
    }
    return ns > 0 ? ns / 1e6 : NAN;
}

#define WORSE                                                                                      \
    0.05 /* a change for the worse by more than this is named: one run a side is no sample */

/* What both runs say of themselves, and whether the second is worse. Loss is neither. */
static json_t *reported(const json_t *a, const json_t *b, bool *regressed)
{
    static const struct {
        const char *what;
        int better; /* −1: less is better, 1: more, 0: neither */
    } all[] = {{"step_time", -1}, {"tflops", 1}, {"throughput", 1}, {"memory", -1}, {"loss", 0}};
    json_t *list = json_array();

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        double x = skew_dispatcher_reported(a, all[i].what);
        double y = skew_dispatcher_reported(b, all[i].what);
        if (!isfinite(x) || !isfinite(y) || x == 0)
            continue;
        bool worse = all[i].better * (y / x - 1) < -WORSE;
        *regressed |= worse;
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f, s:b}", "what", all[i].what, "a",
                                              x, "b", y, "b_over_a", y / x, "worse", worse));
    }
    return list;
}

json_t *skew_dispatcher_compare(const json_t *a, const json_t *b)
{
    bool regressed = false;
    json_t *reasons = json_array(), *list = json_array(), *measured = json_object();
    double x = busy_ms(a), y = busy_ms(b);
    check_worked(reasons, a, "first");
    check_worked(reasons, b, "second");
    check_ground(reasons, a, b);
    differences(list, a, b);
    if (json_array_size(reasons) == 0 && isfinite(x) && isfinite(y)) {
        json_object_set_new(measured, "a_ms", json_real(x));
        json_object_set_new(measured, "b_ms", json_real(y));
        json_object_set_new(measured, "b_over_a", json_real(y / x));
    }
    json_t *words = reported(a, b, &regressed);
    return json_pack("{s:b, s:o, s:o, s:o, s:o, s:b}", "comparable", json_array_size(reasons) == 0,
                     "why_not", reasons, "differs", list, "measured", measured, "reported", words,
                     "regressed", regressed);
}
