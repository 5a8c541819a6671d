/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See dispatcher.h: what the job itself printed, read from a file that its output went to. Only
 * after the run, and only a copy: nothing stands between a job and its terminal.
 */
#include "dispatcher.h"

#include <errno.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "term.h"

/* A rule of the table: a line that says one quantity, and what its lines came to. */
struct rule {
    const json_t *source;
    regex_t pattern;
    size_t lines;
    double scale, first, last, sum, largest; /* in the rule's unit; sum: without the first */
};

/* Colours, and bytes that a line cannot have: patterns are of what people see. */
static void plain_line(char *text, ssize_t length)
{
    char *to = text;

    for (ssize_t i = 0; i < length; i++) {
        if (text[i] == '\033' && i + 1 < length && text[i + 1] == '[') {
            for (i += 2; i < length && (text[i] < '@' || text[i] > '~');)
                i++;
            continue;
        }
        if (text[i] != '\0' && text[i] != '\n' && text[i] != '\r')
            *to++ = text[i];
    }
    *to = '\0';
}

/* The first group of the match, thousands' commas left out. False: no number. */
static bool number_at(const char *line, const regmatch_t *match, double *value)
{
    char digits[64], *end;
    size_t length = 0;

    for (regoff_t i = match->rm_so; i < match->rm_eo && length < sizeof digits - 1; i++)
        if (line[i] != ',')
            digits[length++] = line[i];
    digits[length] = '\0';
    *value = strtod(digits, &end);
    return length > 0 && *end == '\0';
}

static void read_line(struct rule *rules, size_t count, const char *line)
{
    for (size_t r = 0; r < count; r++) {
        regmatch_t match[2];
        double value;
        if (regexec(&rules[r].pattern, line, 2, match, 0) != 0 || match[1].rm_so < 0 ||
            !number_at(line, &match[1], &value))
            continue;
        value *= rules[r].scale;
        if (rules[r].lines++ == 0)
            rules[r].first = rules[r].largest = value;
        else
            rules[r].sum += value;
        rules[r].last = value;
        rules[r].largest = value > rules[r].largest ? value : rules[r].largest;
    }
}

/* The first step of a run warms up: a mean is one without it. */
static double taken(const struct rule *rule)
{
    const char *take = json_string_value(json_object_get(rule->source, "take"));

    if (strcmp(take, "largest") == 0)
        return rule->largest;
    if (strcmp(take, "last") == 0)
        return rule->last;
    return rule->lines > 1 ? rule->sum / (double)(rule->lines - 1) : rule->first;
}

static json_t *values_of(const struct rule *rules, size_t count, const json_t *table)
{
    json_t *values = json_object(), *sources = json_object_get(table, "sources");

    for (size_t r = 0; r < count; r++) {
        const json_t *rule = rules[r].source;
        const char *what = json_string_value(json_object_get(rule, "what"));
        const char *source = json_string_value(json_object_get(rule, "source"));
        if (!rules[r].lines || json_object_get(values, what)) /* the first that fits counts */
            continue;
        json_object_set_new(
            values, what,
            json_pack("{s:f, s:O, s:O, s:I, s:f, s:f, s:O, s:O}", "value", taken(&rules[r]), "unit",
                      json_object_get(rule, "unit"), "take", json_object_get(rule, "take"), "lines",
                      (json_int_t)rules[r].lines, "first", rules[r].first, "last", rules[r].last,
                      "framework", json_object_get(rule, "framework"), "source",
                      json_object_get(sources, source)));
    }
    return values;
}

static size_t compile(struct rule *rules, const json_t *list)
{
    const json_t *one;
    size_t i, count = 0;

    json_array_foreach(list, i, one)
    {
        const char *pattern = json_string_value(json_object_get(one, "pattern"));
        if (regcomp(&rules[count].pattern, pattern, REG_EXTENDED) != 0)
            continue;
        rules[count].source = one;
        rules[count++].scale = json_number_value(json_object_get(one, "scale"));
    }
    return count;
}

json_t *skew_dispatcher_log(const char *path, const json_t *table)
{
    const json_t *list = json_object_get(table, "logs");
    struct rule *rules = calloc(json_array_size(list) + 1, sizeof *rules);
    FILE *file = rules ? fopen(path, "re") : NULL;
    char *line = NULL;
    size_t room = 0, count, lines = 0;
    json_t *log = NULL;

    if (!file) {
        skew_tell("%s: cannot read what the job printed: %s", path,
                  strerror(rules ? errno : ENOMEM));
        free(rules);
        return NULL;
    }
    count = compile(rules, list);
    errno = 0;
    for (ssize_t length; (length = getline(&line, &room, file)) >= 0; lines++) {
        plain_line(line, length);
        read_line(rules, count, line);
    }
    if (ferror(file))
        skew_tell("%s: cannot read what the job printed: %s", path, strerror(errno));
    else
        log = json_pack("{s:s, s:I, s:o}", "path", path, "lines", (json_int_t)lines, "values",
                        values_of(rules, count, table));
    for (size_t r = 0; r < count; r++)
        regfree(&rules[r].pattern);
    fclose(file);
    free(line);
    free(rules);
    return log;
}
