/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routing from counts: a CSV says how many tokens each expert of each layer got, and tokens are
 * given experts so that exactly these counts come out once all tokens have been used.
 *
 * With N tokens and K experts each there are N*K places; the experts fill them one after the other,
 * each as many as its count, and token t owns places t, t+N, t+2N, …. No count exceeds N, so no
 * token gets an expert twice. Which token is t-th is a seeded permutation of each layer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rng.h"
#include "routing.h"

#define KEY_EXPERTS 0x65787074ULL /* "expt" */
#define KEY_TOKENS  0x746f6b6eULL /* "tokn" */
#define COLUMNS     32
#define MAX_LAYERS  65536

struct counts {
    unsigned layers, experts;
    size_t tokens;      /* N */
    int64_t *count;     /* [layers][experts], -1: no row yet */
    uint16_t *order;    /* [layers][experts] */
    uint64_t *place;    /* [layers][experts + 1]: first place of the i-th expert in order */
    uint32_t *permuted; /* [layers][tokens] */
};

struct row {
    long layer, expert;
    int64_t count;
};

struct rows {
    struct row *row;
    size_t n, room;
};

static void counts_close(struct skew_routing *r)
{
    struct counts *s = r->state;
    free(s->count);
    free(s->order);
    free(s->place);
    free(s->permuted);
    free(s);
}

static unsigned split(char *line, char **cell)
{
    unsigned n = 0;
    line[strcspn(line, "\r\n")] = 0;
    for (char *p = line; p && n < COLUMNS; n++) {
        cell[n] = p;
        p = strchr(p, ',');
        if (p)
            *p++ = 0;
    }
    return n;
}

static int column(char **names, unsigned n, const char *name, size_t len)
{
    for (unsigned i = 0; i < n; i++)
        if (strlen(names[i]) == len && !strncmp(names[i], name, len))
            return (int)i;
    return -1;
}

/* 1 when the row has every COL=VALUE of --counts-select, 0 when not, -1 for a column that is not
 * there. */
static int selected(const char *select, char **names, char **cell, unsigned n)
{
    for (const char *p = select; p && *p;) {
        size_t name = strcspn(p, "="), all = strcspn(p, ",");
        int c = name < all ? column(names, n, p, name) : -1;
        if (c < 0)
            return -1;
        if (strlen(cell[c]) != all - name - 1 ||
            strncmp(cell[c], p + name + 1, all - name - 1) != 0)
            return 0;
        p += all + (p[all] == ',');
    }
    return 1;
}

static int add_row(struct rows *rows, const char *layer, const char *expert, const char *count)
{
    char *end[3];
    struct row row = {strtol(layer, &end[0], 10), strtol(expert, &end[1], 10),
                      strtoll(count, &end[2], 10)};
    if (*end[0] || *end[1] || *end[2] || row.layer < 0 || row.layer >= MAX_LAYERS ||
        row.expert < 0 || row.expert >= 65535 || row.count < 0)
        return -EINVAL;
    if (rows->n == rows->room) {
        rows->room = rows->room ? 2 * rows->room : 1024;
        struct row *more = realloc(rows->row, rows->room * sizeof *more);
        if (!more)
            return -ENOMEM;
        rows->row = more;
    }
    rows->row[rows->n++] = row;
    return 0;
}

static int read_rows(FILE *f, const char *path, const char *select, struct rows *rows, char *error,
                     size_t size)
{
    char head[4096], line[4096], *names[COLUMNS], *cell[COLUMNS];
    unsigned n = fgets(head, sizeof head, f) ? split(head, names) : 0;
    int l = column(names, n, "layer", 5), e = column(names, n, "expert", 6),
        c = column(names, n, "count", 5);
    if (l < 0 || e < 0 || c < 0) {
        snprintf(error, size, "%s: the first line must name the columns layer, expert and count",
                 path);
        return -EINVAL;
    }
    for (unsigned number = 2; fgets(line, sizeof line, f); number++) {
        if (split(line, cell) != n) {
            snprintf(error, size, "%s:%u: needs %u columns", path, number, n);
            return -EINVAL;
        }
        int use = selected(select, names, cell, n);
        if (use < 0) {
            snprintf(error, size, "--counts-select: '%s' is not COLUMN=VALUE,… of %s", select,
                     path);
            return -EINVAL;
        }
        if (use && add_row(rows, cell[l], cell[e], cell[c])) {
            snprintf(error, size, "%s:%u: layer, expert and count must be whole numbers", path,
                     number);
            return -EINVAL;
        }
    }
    if (rows->n)
        return 0;
    snprintf(error, size, "%s: no rows%s%s", path, select ? " match --counts-select " : "",
             select ? select : "");
    return -EINVAL;
}

/* Layers of the file, ascending and without repetition, become the workload's 0, 1, 2, …. */
static unsigned number_layers(const struct rows *rows, long *index_of)
{
    unsigned n = 0;
    for (size_t i = 0; i < rows->n; i++)
        index_of[rows->row[i].layer] = 0;
    for (long l = 0; l < MAX_LAYERS; l++)
        if (index_of[l] == 0)
            index_of[l] = n++;
    return n;
}

static int tabulate(struct counts *s, const struct rows *rows, const char *path, char *error,
                    size_t size)
{
    long *index_of = malloc(MAX_LAYERS * sizeof *index_of);
    if (!index_of)
        return -ENOMEM;
    memset(index_of, 0xff, MAX_LAYERS * sizeof *index_of);
    s->layers = number_layers(rows, index_of);
    for (size_t i = 0; i < rows->n; i++)
        if (rows->row[i].expert >= s->experts)
            s->experts = (unsigned)rows->row[i].expert + 1;
    s->count = malloc(sizeof *s->count * s->layers * s->experts);
    int rc = s->count ? 0 : -ENOMEM;
    for (size_t i = 0; !rc && i < (size_t)s->layers * s->experts; i++)
        s->count[i] = -1;
    for (size_t i = 0; !rc && i < rows->n; i++) {
        const struct row *row = &rows->row[i];
        int64_t *cell = &s->count[(size_t)index_of[row->layer] * s->experts + (size_t)row->expert];
        if (*cell >= 0) {
            snprintf(error, size,
                     "%s: several rows for layer %ld, expert %ld; choose with --counts-select",
                     path, row->layer, row->expert);
            rc = -EINVAL;
        }
        *cell = row->count;
    }
    free(index_of);
    return rc;
}

static int check_counts(struct counts *s, const struct skew_options *opt, const char *path,
                        char *error, size_t size)
{
    for (unsigned l = 0; l < s->layers; l++) {
        uint64_t sum = 0, most = 0;
        for (unsigned e = 0; e < s->experts; e++) {
            int64_t c = s->count[(size_t)l * s->experts + e];
            if (c < 0) {
                snprintf(error, size, "%s: no row for expert %u of the %u-th layer", path, e,
                         l + 1);
                return -EINVAL;
            }
            sum += (uint64_t)c;
            most = (uint64_t)c > most ? (uint64_t)c : most;
        }
        size_t tokens = sum / opt->topk;
        if (sum % opt->topk || most > tokens || !tokens || tokens > UINT32_MAX) {
            snprintf(
                error, size,
                "%s: the %u-th layer's counts sum to %llu with a largest of %llu: no number of "
                "tokens gives that with --topk %u",
                path, l + 1, (unsigned long long)sum, (unsigned long long)most, opt->topk);
            return -EINVAL;
        }
        if (l && tokens != s->tokens) {
            snprintf(error, size, "%s: the layers' counts add up to different numbers of tokens",
                     path);
            return -EINVAL;
        }
        s->tokens = tokens;
    }
    return 0;
}

static int arrange(struct counts *s, const struct skew_options *opt)
{
    s->order = malloc(sizeof *s->order * s->layers * s->experts);
    s->place = malloc(sizeof *s->place * s->layers * (s->experts + 1));
    s->permuted = malloc(sizeof *s->permuted * s->layers * s->tokens);
    if (!s->order || !s->place || !s->permuted)
        return -ENOMEM;
    for (unsigned l = 0; l < s->layers; l++) {
        uint16_t *order = s->order + (size_t)l * s->experts;
        uint64_t *place = s->place + (size_t)l * (s->experts + 1);
        uint32_t *permuted = s->permuted + l * s->tokens;
        const uint64_t expert_key[] = {KEY_EXPERTS, l}, token_key[] = {KEY_TOKENS, l};
        struct skew_rng rng = skew_rng_of(opt->seed, expert_key, 2);
        for (unsigned i = 0; i < s->experts;
             i++) { /* the inside-out shuffle: order[i] = i, swapped */
            unsigned j = (unsigned)skew_rng_below(&rng, i + 1);
            order[i] = order[j];
            order[j] = (uint16_t)i;
        }
        place[0] = 0;
        for (unsigned i = 0; i < s->experts; i++)
            place[i + 1] = place[i] + (uint64_t)s->count[(size_t)l * s->experts + order[i]];
        rng = skew_rng_of(opt->seed, token_key, 2);
        for (size_t i = 0; i < s->tokens; i++) {
            size_t j = skew_rng_below(&rng, i + 1);
            permuted[i] = permuted[j];
            permuted[j] = (uint32_t)i;
        }
    }
    return 0;
}

static int counts_open(struct skew_routing *r, struct skew_options *opt, const char *path,
                       char *error, size_t size)
{
    struct counts *s = r->state = calloc(1, sizeof *s);
    struct rows rows = {NULL, 0, 0};
    FILE *f = path && *path ? fopen(path, "r") : NULL;
    if (!s || !f) {
        snprintf(error, size, "--routing: cannot read the counts file '%s': %s", path ? path : "",
                 path && *path ? strerror(errno) : "name one, as in counts:file.csv");
        return -EINVAL;
    }
    opt->topk = opt->topk ? opt->topk : 2;
    snprintf(error, size, "%s: out of memory", path);
    int rc = read_rows(f, path, opt->counts_select, &rows, error, size);
    fclose(f);
    if (!rc)
        rc = tabulate(s, &rows, path, error, size);
    free(rows.row);
    if (!rc)
        rc = check_counts(s, opt, path, error, size);
    if (!rc && ((opt->experts && opt->experts != s->experts) || opt->layers > s->layers)) {
        snprintf(error, size, "%s lists %u experts and %u layers; --experts or --layers differ",
                 path, s->experts, s->layers);
        rc = -EINVAL;
    }
    if (!rc)
        rc = arrange(s, opt);
    if (rc)
        return rc;
    opt->experts = s->experts;
    opt->layers = opt->layers ? opt->layers : s->layers;
    size_t largest_share = (s->tokens + opt->ranks - 1) / opt->ranks;
    r->max_blocks = (unsigned)((largest_share + opt->tokens - 1) / opt->tokens);
    r->ragged_end = 1;
    return 0;
}

/* A rank's tokens of a micro-batch: [first, first + returned count) of all tokens. */
static unsigned span(const struct skew_routing *r, unsigned block, unsigned rank, size_t *first)
{
    const struct counts *s = r->state;
    const struct skew_options *opt = r->opt;
    size_t low = s->tokens * rank / opt->ranks, high = s->tokens * (rank + 1) / opt->ranks;
    *first = low + (size_t)block * opt->tokens;
    if (*first >= high)
        return 0;
    return high - *first < opt->tokens ? (unsigned)(high - *first) : opt->tokens;
}

static unsigned counts_tokens(const struct skew_routing *r, unsigned block, unsigned rank)
{
    size_t first;
    return span(r, block, rank, &first);
}

static uint16_t expert_at(const struct counts *s, unsigned layer, uint64_t place)
{
    const uint64_t *start = s->place + (size_t)layer * (s->experts + 1);
    unsigned low = 0, high = s->experts - 1; /* the i with start[i] <= place < start[i + 1] */
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (place < start[mid + 1])
            high = mid;
        else
            low = mid + 1;
    }
    return s->order[(size_t)layer * s->experts + low];
}

static void counts_fill(const struct skew_routing *r, unsigned block, unsigned layer, unsigned rank,
                        uint16_t *ids)
{
    const struct counts *s = r->state;
    size_t first;
    unsigned n = span(r, block, rank, &first);
    for (unsigned t = 0; t < n; t++) {
        uint64_t at = s->permuted[layer * s->tokens + first + t];
        for (unsigned k = 0; k < r->opt->topk; k++)
            *ids++ = expert_at(s, layer, at + k * s->tokens);
    }
}

const struct skew_routing_kind skew_routing_counts = {
    "counts", 1, counts_open, counts_close, counts_tokens, counts_fill};
