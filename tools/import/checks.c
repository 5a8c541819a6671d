/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known to go wrong in routing data that others recorded: layers that are copies of each
 * other, layers that send everything to a few experts, first steps that are a warm-up. Noted, never
 * removed: the user decides.
 */
#include "import.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../term.h"

struct layer {
    int64_t layer;
    int32_t group;
    uint64_t hash, total, top, rows;
    uint32_t topk;
    uint64_t *counts; /* [experts] */
};

struct layers {
    struct layer *layer;
    size_t count;
};

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15;
    return hash ^ (hash >> 31);
}

static struct layer *find(struct layers *l, const struct skew_import_row *row, uint32_t experts)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->layer[i].layer == row->key.layer && l->layer[i].group == row->key.group)
            return &l->layer[i];
    struct layer *bigger = realloc(l->layer, (l->count + 1) * sizeof *bigger);
    if (!bigger)
        return NULL;
    l->layer = bigger;
    struct layer *one = &l->layer[l->count];
    *one = (struct layer){.layer = row->key.layer, .group = row->key.group, .topk = row->topk};
    one->counts = calloc(experts ? experts : 1, sizeof *one->counts);
    if (!one->counts)
        return NULL;
    l->count++;
    return one;
}

/* The hash of a layer is the sum over its rows, so that their order does not matter. */
static int gather(const struct skew_import_rows *rows, struct layers *l)
{
    for (size_t i = 0; i < rows->count; i++) {
        const struct skew_import_row *row = &rows->row[i];
        const uint64_t *counts = skew_import_counts(rows, i);
        struct layer *one = find(l, row, rows->experts);
        if (!one)
            return -ENOMEM;
        uint64_t hash = mix(mix(mix(3, (uint64_t)row->key.step), (uint64_t)row->key.request),
                            (uint64_t)(uint32_t)row->key.source);
        hash = mix(mix(hash, (uint64_t)row->key.microbatch), row->key.stage ? *row->key.stage : 0);
        for (uint32_t e = 0; e < rows->experts && e < rows->width; e++) {
            hash = mix(hash, counts[e]);
            one->counts[e] += counts[e];
            one->total += counts[e];
        }
        one->hash += hash;
        one->rows++;
    }
    return 0;
}

static int descending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return (a < b) - (a > b);
}

/* Almost all tokens to as few experts as one token needs. */
static int note_degenerate(struct skew_import *import, struct layer *l, uint32_t experts)
{
    uint32_t k = l->topk ? l->topk : 1;
    uint64_t top = 0;

    if (experts < 4 * k || l->total == 0)
        return 0;
    qsort(l->counts, experts, sizeof *l->counts, descending);
    for (uint32_t e = 0; e < k; e++)
        top += l->counts[e];
    if ((double)top < 0.9 * (double)l->total)
        return 0;
    return skew_import_note(import, "warning", "import_degenerate_layer",
                            "layer %lld is degenerate: %.1f %% of its tokens go to %u of %u "
                            "experts; leave it out of averages over layers",
                            (long long)l->layer, 100 * (double)top / (double)l->total, k, experts);
}

static int note_copies(struct skew_import *import, const struct layers *l)
{
    for (size_t i = 0; i < l->count; i++) {
        const struct layer *a = &l->layer[i];
        size_t copies = 0;
        bool first = a->total > 0;
        for (size_t j = 0; j < l->count; j++) {
            const struct layer *b = &l->layer[j];
            bool same = a->group == b->group && a->hash == b->hash && a->total == b->total &&
                        a->rows == b->rows;
            first = first && !(same && j < i);
            copies += same && j > i;
        }
        if (!first || copies == 0)
            continue;
        int result = skew_import_note(
            import, "warning", "import_copied_layer",
            "layer %lld and %zu other%s hold exactly the same counts in every row: copies, not "
            "measurements; use one of them",
            (long long)a->layer, copies, copies > 1 ? "s" : "");
        if (result < 0)
            return result;
    }
    return 0;
}

/* ---- warm-up ----------------------------------------------------------------------------------
 */

enum { STEPS_MAX = 4096, STEPS_MIN = 8 };

/* share[step][layer × experts], of rows with a step below `steps`. */
static double *shares(const struct skew_import_rows *rows, const struct layers *l, int64_t first,
                      size_t steps, size_t width)
{
    double *share = calloc(steps * width, sizeof *share);

    for (size_t i = 0; share && i < rows->count; i++) {
        const struct skew_import_key *key = &rows->row[i].key;
        const uint64_t *counts = skew_import_counts(rows, i);
        size_t layer = 0;
        if (key->step < first || key->step - first >= (int64_t)steps)
            continue;
        while (l->layer[layer].layer != key->layer || l->layer[layer].group != key->group)
            layer++;
        for (uint32_t e = 0; e < rows->experts; e++)
            share[(size_t)(key->step - first) * width + layer * rows->experts + e] +=
                (double)counts[e];
    }
    for (size_t s = 0; share && s < steps; s++) {
        double sum = 0;
        for (size_t i = 0; i < width; i++)
            sum += share[s * width + i];
        for (size_t i = 0; sum > 0 && i < width; i++)
            share[s * width + i] /= sum;
    }
    return share;
}

static double distance(const double *a, const double *b, size_t width)
{
    double sum = 0;

    for (size_t i = 0; i < width; i++)
        sum += fabs(a[i] - b[i]);
    return sum / 2;
}

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

/**
 * Leading steps whose distribution over layers and experts is farther (total variation) from the
 * mean of the second half than three times the median of that half's own steps.
 */
static int note_warm_up(struct skew_import *import, const struct layers *l)
{
    const struct skew_import_rows *rows = &import->rows;
    size_t width = l->count * rows->experts, steps = 0, warm = 0;
    int64_t first = INT64_MAX, last = -1;

    for (size_t i = 0; i < rows->count; i++) {
        int64_t step = rows->row[i].key.step;
        first = step >= 0 && step < first ? step : first;
        last = step > last ? step : last;
    }
    if (last < first || last - first + 1 < STEPS_MIN || last - first >= STEPS_MAX ||
        width > (size_t)1 << 22)
        return 0;
    steps = (size_t)(last - first + 1);
    double *share = shares(rows, l, first, steps, width);
    double *mean = calloc(width + steps, sizeof *mean), *far = mean ? mean + width : NULL;
    if (!share || !mean) {
        free(share);
        free(mean);
        return -ENOMEM;
    }
    size_t half = steps / 2;
    for (size_t s = half; s < steps; s++)
        for (size_t i = 0; i < width; i++)
            mean[i] += share[s * width + i] / (double)(steps - half);
    for (size_t s = half; s < steps; s++)
        far[s - half] = distance(share + s * width, mean, width);
    qsort(far, steps - half, sizeof *far, ascending);
    double usual = far[(steps - half) / 2];
    while (warm < half / 2 && distance(share + warm * width, mean, width) > 3 * usual &&
           distance(share + warm * width, mean, width) > 0.05)
        warm++;
    free(share);
    free(mean);
    if (warm == 0)
        return 0;
    return skew_import_note(import, "warning", "import_warm_up",
                            "the first %zu steps are routed unlike all later ones (total variation "
                            "more than 3 times the usual %.3f): a warm-up, or how requests begin; "
                            "--skip-steps %lld leaves them out",
                            warm, usual, (long long)first + (long long)warm);
}

int skew_import_check(struct skew_import *import)
{
    struct layers l = {0};
    int result = gather(&import->rows, &l);

    if (result == 0)
        result = note_copies(import, &l);
    if (result == 0)
        result = note_warm_up(import, &l);
    for (size_t i = 0; i < l.count && result == 0; i++)
        result = note_degenerate(import, &l.layer[i], import->rows.experts);
    for (size_t i = 0; i < l.count; i++)
        free(l.layer[i].counts);
    free(l.layer);
    if (result == -ENOMEM)
        skew_tell("out of memory");
    return result;
}
