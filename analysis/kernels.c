/* SPDX-License-Identifier: Apache-2.0 */
/* See kernels.h. */
#include "kernels.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

struct known {
    const char *backend;
    enum skew_kernel_does does;
    bool bytes_seen;
    const char *const *names;
    uint8_t position[SKEW_KERNEL_ARGUMENTS]; /* of a template argument, plus 1; 0: not there */
};

#include "kernels_table.h"

#ifdef SKEW_HAVE_DEMANGLE
/* The C++ run-time library's, with C linkage. */
extern char *__cxa_demangle(const char *mangled, char *buffer, size_t *length, int *status);
#endif

static bool is_mangled(const char *name)
{
    return strncmp(name, "_Z", 2) == 0;
}

char *skew_kernel_demangle(const char *name)
{
#ifdef SKEW_HAVE_DEMANGLE
    int status = 0;
    char *plain = is_mangled(name) ? __cxa_demangle(name, NULL, NULL, &status) : NULL;
    if (plain)
        return plain;
#endif
    return strdup(name);
}

/* The first `open` outside of "(anonymous namespace)" and of what operators are called. */
static char *find_open(char *from, char open)
{
    static const char anonymous[] = "(anonymous namespace)";
    for (char *at = from; *at; at++) {
        if (strncmp(at, anonymous, sizeof(anonymous) - 1) == 0)
            at += sizeof(anonymous) - 2;
        else if (*at == open)
            return at;
    }
    return NULL;
}

/* Reads argument `index` of a template argument list: "<a, b<c, d>, 8>". */
static int64_t argument_at(const char *list, unsigned index)
{
    int depth = 0;
    for (const char *at = list; *at; at++) {
        if (*at == '<' || *at == '(')
            depth++;
        else if (*at == '>' || *at == ')')
            depth--;
        if (depth == 0)
            break;
        if (depth == 1 && (*at == '<' || *at == ',') && index-- == 0) {
            char *end;
            long long value = strtoll(at + 1, &end, 10);
            return end != at + 1 && value > 0 ? value : 0;
        }
    }
    return 0;
}

/* Cuts "void ns::f<1, 2>(int)" down to "ns::f"; *list gets "<1, 2>…", kept apart, or NULL. */
static char *qualified(char *plain, char **list)
{
    char *open = find_open(plain, '('), *angle = find_open(plain, '<');
    *list = NULL;
    if (open)
        *open = '\0';
    if (angle && (!open || angle < open)) {
        *list = strdup(angle);
        *angle = '\0';
    }
    /* A template's name comes with its return type in front. */
    char *start = plain;
    for (char *at = plain; *at; at++) {
        if (strncmp(at, "(anonymous namespace)", 21) == 0)
            at += 20;
        else if (*at == ' ')
            start = at + 1;
    }
    return start;
}

static bool is_suspicious(const char *name)
{
    char low[512];
    size_t n = strlen(name) < sizeof(low) - 1 ? strlen(name) : sizeof(low) - 1;
    for (size_t i = 0; i < n; i++)
        low[i] = (char)tolower((unsigned char)name[i]);
    low[n] = '\0';
    for (const char *const *word = suspicious; *word; word++)
        if (strstr(low, *word))
            return true;
    return false;
}

static const struct known *find(const char *name)
{
    for (size_t i = 0; i < sizeof(kernels) / sizeof(*kernels); i++)
        for (const char *const *pattern = kernels[i].names; *pattern; pattern++)
            if (fnmatch(*pattern, name, 0) == 0)
                return &kernels[i];
    return NULL;
}

bool skew_kernel_classify(const char *name, struct skew_kernel *out)
{
    char *plain = skew_kernel_demangle(name), *list = NULL;
    *out = (struct skew_kernel){.does = SKEW_KERNEL_OTHER, .bytes_seen = true};
    if (!plain)
        return false;
    bool readable = !is_mangled(plain);
    char *function = readable ? qualified(plain, &list) : plain;
    const struct known *known = readable ? find(function) : NULL;
    if (known) {
        out->does = known->does;
        out->backend = known->backend;
        out->bytes_seen = known->bytes_seen;
        for (unsigned i = 0; list && i < SKEW_KERNEL_ARGUMENTS; i++)
            if (known->position[i])
                out->argument[i] = argument_at(list, known->position[i] - 1u);
    } else if (is_suspicious(function)) {
        out->does = SKEW_KERNEL_UNKNOWN;
        out->bytes_seen = false;
    }
    free(list);
    free(plain);
    return readable;
}

const char *skew_kernel_does_name(enum skew_kernel_does does)
{
    static const char *const names[] = {"other",   "dispatch",   "combine", "fused",
                                        "count",   "barrier",    "permute", "transfer",
                                        "experts", "collective", "unknown"};
    return names[does];
}
