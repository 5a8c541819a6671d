/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The settings of a synthetic job: one table, from which defaults, flags, the JSON file and the
 * truth file are made. See synth.h.
 */
#include "synth.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "synth_private.h"

/* clang-format off */
#define AT(key) offsetof(struct skew_synth_spec, key)
#define N(key, initial, least, most, help) {#key, "N", help, 'N', AT(key), (double)(least), (double)(most), NULL},
#define R(key, initial, least, most, help) {#key, "X", help, 'R', AT(key), least, most, NULL},
#define B(key, help)                       {#key, NULL, help, 'B', AT(key), 0, 0, NULL},
#define C(key, initial, names, help)       {#key, "NAME", help " (" names ")", 'C', AT(key), 0, 0, names},
#define T(key, argument, help)             {#key, argument, help, 'T', AT(key), 0, 0, NULL},
const struct skew_synth_option skew_synth_options[] = {SKEW_SYNTH_OPTIONS(N, R, B, C, T){0}};
#undef N
#undef R
#undef B
#undef C
#undef T
/* clang-format on */

int skew_synth_fail(struct skew_synth_error *error, int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return code;
}

void skew_synth_spec_init(struct skew_synth_spec *spec)
{
    memset(spec, 0, sizeof *spec);
#define N(key, initial, least, most, help) spec->key = initial;
#define R(key, initial, least, most, help) spec->key = initial;
#define B(key, help)
#define C(key, initial, names, help) spec->key = initial;
#define T(key, argument, help)
    SKEW_SYNTH_OPTIONS(N, R, B, C, T)
#undef N
#undef R
#undef B
#undef C
#undef T
}

void skew_synth_spec_free(struct skew_synth_spec *spec)
{
    for (const struct skew_synth_option *o = skew_synth_options; o->key; o++)
        if (o->kind == 'T')
            free(*(char **)((char *)spec + o->offset));
    free(spec->missing);
    memset(spec, 0, sizeof *spec);
}

/* ---- one value ------------------------------------------------------------------------------- */

static const struct skew_synth_option *find(const char *key)
{
    for (const struct skew_synth_option *o = skew_synth_options; o->key; o++)
        if (strcmp(o->key, key) == 0)
            return o;
    return NULL;
}

/* The number of a name in "a,b,c", or −1. */
static int choice(const char *names, const char *text)
{
    size_t length = strlen(text);
    for (int i = 0;; i++) {
        size_t here = strcspn(names, ",");
        if (here == length && strncmp(names, text, length) == 0)
            return i;
        if (!names[here])
            return -1;
        names += here + 1;
    }
}

static int set_number(struct skew_synth_spec *spec, const struct skew_synth_option *o,
                      const char *text, struct skew_synth_error *error)
{
    char *end = NULL;
    void *at = (char *)spec + o->offset;

    errno = 0;
    if (o->kind == 'N') {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end || errno || (double)value < o->least || (double)value > o->most)
            return skew_synth_fail(error, -EINVAL,
                                   "%s: '%s' is not allowed; it takes a whole number from %.0f to "
                                   "%.0f",
                                   o->key, text, o->least, o->most);
        *(int64_t *)at = value;
        return 0;
    }
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= o->least && value <= o->most))
        return skew_synth_fail(error, -EINVAL,
                               "%s: '%s' is not allowed; it takes a number from %g to %g", o->key,
                               text, o->least, o->most);
    *(double *)at = value;
    return 0;
}

/* RANK:NS[:PROBABILITY[:LAYER]] */
static int add_straggler(struct skew_synth_spec *spec, const char *text,
                         struct skew_synth_error *error)
{
    unsigned rank;
    double delay, probability = 1;
    long long layer = -1;
    int used = 0, more = 0;

    if (sscanf(text, "%u:%lf%n", &rank, &delay, &used) != 2)
        used = 0;
    if (used && sscanf(text + used, ":%lf%n", &probability, &more) == 1) {
        used += more;
        if (sscanf(text + used, ":%lld%n", &layer, &more) == 1)
            used += more;
    }
    if (!used || text[used] || rank >= 4096 || !(delay >= 0 && delay < 1e15) ||
        !(probability >= 0 && probability <= 1) || layer < -1)
        return skew_synth_fail(error, -EINVAL,
                               "straggler: '%s' is not allowed; it takes "
                               "RANK:NANOSECONDS[:PROBABILITY[:LAYER]]",
                               text);
    if (spec->straggler_count == SKEW_SYNTH_STRAGGLERS)
        return skew_synth_fail(error, -EINVAL, "straggler: more than %d", SKEW_SYNTH_STRAGGLERS);
    spec->stragglers[spec->straggler_count++] =
        (struct skew_synth_straggler){rank, delay, probability, layer};
    return 0;
}

static int add_missing(struct skew_synth_spec *spec, const char *text,
                       struct skew_synth_error *error)
{
    if (!spec->missing && !(spec->missing = calloc(4096, 1)))
        return skew_synth_fail(error, -ENOMEM, "out of memory");
    for (const char *at = text; *at;) {
        char *end;
        long rank = strtol(at, &end, 10);
        if (end == at || rank < 0 || rank >= 4096 || (*end && *end != ','))
            return skew_synth_fail(error, -EINVAL,
                                   "missing: '%s' is not allowed; it takes ranks as 3,5", text);
        spec->missing[rank] = 1;
        at = *end ? end + 1 : end;
    }
    return 0;
}

int skew_synth_spec_set(struct skew_synth_spec *spec, const char *key, const char *text,
                        struct skew_synth_error *error)
{
    const struct skew_synth_option *o = find(key);

    if (strcmp(key, "straggler") == 0)
        return add_straggler(spec, text, error);
    if (strcmp(key, "missing") == 0)
        return add_missing(spec, text, error);
    if (!o)
        return skew_synth_fail(error, -EINVAL, "there is no setting '%s'; see docs/synth.md", key);
    void *at = (char *)spec + o->offset;
    if (o->kind == 'B') {
        *(bool *)at = true;
        return 0;
    }
    if (o->kind == 'T') {
        free(*(char **)at);
        *(char **)at = strdup(text);
        return *(char **)at ? 0 : skew_synth_fail(error, -ENOMEM, "out of memory");
    }
    if (o->kind != 'C')
        return set_number(spec, o, text, error);
    int chosen = choice(o->names, text);
    if (chosen < 0)
        return skew_synth_fail(error, -EINVAL, "%s: '%s' is not allowed; it takes one of %s", key,
                               text, o->names);
    *(int *)at = chosen;
    return 0;
}

/* ---- the JSON file --------------------------------------------------------------------------- */

static int read_value(struct skew_synth_spec *spec, const char *key, json_t *value,
                      struct skew_synth_error *error)
{
    const struct skew_synth_option *o = find(key);
    char text[64];

    if (json_is_string(value))
        return skew_synth_spec_set(spec, key, json_string_value(value), error);
    if (o && o->kind == 'B' && json_is_boolean(value)) {
        *(bool *)((char *)spec + o->offset) = json_is_true(value);
        return 0;
    }
    if (json_is_integer(value))
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(text, sizeof text, "%.17g", json_real_value(value));
    else
        return skew_synth_fail(error, -EINVAL, "%s: this kind of value is not allowed", key);
    return skew_synth_spec_set(spec, key, text, error);
}

int skew_synth_spec_read(struct skew_synth_spec *spec, const char *file,
                         struct skew_synth_error *error)
{
    json_error_t where;
    json_t *root = json_load_file(file, JSON_REJECT_DUPLICATES, &where), *value, *one;
    const char *key;
    size_t i;
    int result = 0;

    if (!root)
        return skew_synth_fail(error, -EINVAL, "%s: line %d: %s", file, where.line, where.text);
    if (!json_is_object(root))
        result = skew_synth_fail(error, -EINVAL, "%s: must hold one object", file);
    json_object_foreach(root, key, value)
    {
        struct skew_synth_error inner = {""};
        if (result)
            break;
        if (json_is_array(value))
            json_array_foreach(value, i, one) result =
                result ? result : read_value(spec, key, one, &inner);
        else
            result = read_value(spec, key, value, &inner);
        if (result)
            skew_synth_fail(error, result, "%.120s: %.250s", file, inner.text);
    }
    json_decref(root);
    return result;
}

/* ---- together -------------------------------------------------------------------------------- */

int skew_synth_spec_check(const struct skew_synth_spec *s, struct skew_synth_error *error)
{
    if (s->experts % s->ranks)
        return skew_synth_fail(error, -EINVAL,
                               "experts: %lld is no multiple of %lld ranks: every rank holds as "
                               "many",
                               (long long)s->experts, (long long)s->ranks);
    if (s->topk > s->experts)
        return skew_synth_fail(error, -EINVAL, "topk: %lld of %lld experts", (long long)s->topk,
                               (long long)s->experts);
    if (s->hot_expert >= s->experts)
        return skew_synth_fail(error, -EINVAL, "hot_expert: there are only %lld experts",
                               (long long)s->experts);
    if (s->ranks_per_node && s->ranks % s->ranks_per_node)
        return skew_synth_fail(error, -EINVAL, "ranks_per_node: %lld does not divide %lld ranks",
                               (long long)s->ranks_per_node, (long long)s->ranks);
    if (s->routing == SYNTH_SHARES && !s->shares)
        return skew_synth_fail(error, -EINVAL, "shares: which file? routing=shares reads one");
    if (s->edges && s->ranks > 1024)
        return skew_synth_fail(error, -EINVAL, "edges: only for up to 1024 ranks");
    if (s->correlation == SYNTH_REQUESTS && s->requests > s->tokens)
        return skew_synth_fail(error, -EINVAL, "requests: more than tokens a rank");
    if (s->sampling == SYNTH_COUNTS &&
        (s->correlation == SYNTH_BURSTS || s->correlation == SYNTH_REQUESTS))
        return skew_synth_fail(error, -EINVAL,
                               "sampling: bursts and requests are drawn token by token");
    for (size_t i = 0; i < s->straggler_count; i++)
        if (s->stragglers[i].rank >= s->ranks || s->stragglers[i].layer >= s->layers)
            return skew_synth_fail(error, -EINVAL, "straggler: there is no rank %u or layer %lld",
                                   s->stragglers[i].rank, (long long)s->stragglers[i].layer);
    return 0;
}
