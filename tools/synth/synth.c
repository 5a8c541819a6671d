/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a synthetic job is before its first step: placement, clocks, slow edges. Its course is
 * timing.c's.
 */
#include "synth_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int synth_csv(const char *file, int (*take)(void *context, const double value[3]), void *context,
              struct skew_synth_error *error)
{
    char line[256];
    FILE *f = fopen(file, "re");
    int number = 0, result = 0;

    if (!f)
        return skew_synth_fail(error, -errno, "%s: %s", file, strerror(errno));
    while (!result && fgets(line, sizeof line, f)) {
        double value[3];
        char end;
        number++;
        if ((line[0] >= 'A' && line[0] <= 'z') || line[0] == '#' || line[0] == '\n')
            continue;
        int got = sscanf(line, " %lf , %lf , %lf %c", &value[0], &value[1], &value[2], &end);
        result = got == 3 ? take(context, value) : -EINVAL;
        if (result)
            skew_synth_fail(error, result, "%s: line %d: not three numbers that fit", file, number);
    }
    fclose(f);
    return result;
}

/* ---- placement ------------------------------------------------------------------------------- */

static int take_place(void *context, const double value[3])
{
    struct skew_synth *synth = context;
    const struct skew_synth_spec *s = &synth->spec;
    int64_t layer = (int64_t)value[0], expert = (int64_t)value[1], rank = (int64_t)value[2];

    if (layer < -1 || expert < 0 || expert >= s->experts || rank < 0 || rank >= s->ranks)
        return -EINVAL;
    for (int64_t l = 0; l < s->layers; l++)
        if (layer == -1 || l == layer)
            synth->rank_of[l * s->experts + expert] = (uint32_t)rank;
    return 0;
}

static int check_places(const struct skew_synth *synth, struct skew_synth_error *error)
{
    const struct skew_synth_spec *s = &synth->spec;
    uint32_t *held = calloc((size_t)s->ranks, sizeof *held);
    int result = held ? 0 : skew_synth_fail(error, -ENOMEM, "out of memory");

    for (int64_t l = 0; l < s->layers && !result; l++) {
        memset(held, 0, (size_t)s->ranks * sizeof *held);
        for (int64_t e = 0; e < s->experts; e++)
            held[synth->rank_of[l * s->experts + e]]++;
        for (int64_t i = 0; i < s->ranks && !result; i++)
            if (held[i] != s->experts / s->ranks)
                result = skew_synth_fail(error, -EINVAL,
                                         "%s: layer %lld gives rank %lld %u experts instead of "
                                         "%lld",
                                         s->placement, (long long)l, (long long)i, held[i],
                                         (long long)(s->experts / s->ranks));
    }
    free(held);
    return result;
}

static void permute(struct skew_synth *synth, int64_t layer)
{
    const struct skew_synth_spec *s = &synth->spec;
    struct rng rng = rng_keyed((uint64_t)s->seed, SYNTH_RNG_PLACEMENT, (uint64_t)layer, 0, 0);
    uint32_t *rank_of = synth->rank_of + layer * s->experts;

    for (uint32_t e = (uint32_t)s->experts - 1; e > 0; e--) {
        uint32_t other = rng_below(&rng, e + 1), swap = rank_of[e];
        rank_of[e] = rank_of[other];
        rank_of[other] = swap;
    }
}

static int place(struct skew_synth *synth, struct skew_synth_error *error)
{
    const struct skew_synth_spec *s = &synth->spec;
    bool table = s->placement && strcmp(s->placement, "contiguous") != 0 &&
                 strcmp(s->placement, "permuted") != 0;
    int result = 0;

    for (int64_t l = 0; l < s->layers; l++) {
        for (int64_t e = 0; e < s->experts; e++)
            synth->rank_of[l * s->experts + e] = (uint32_t)(e / (s->experts / s->ranks));
        if (s->placement && strcmp(s->placement, "permuted") == 0)
            permute(synth, l);
    }
    if (table)
        result = synth_csv(s->placement, take_place, synth, error);
    return result || !table ? result : check_places(synth, error);
}

/* ---- edges and clocks ------------------------------------------------------------------------ */

static int take_edge(void *context, const double value[3])
{
    struct skew_synth *synth = context;
    int64_t ranks = synth->spec.ranks, from = (int64_t)value[0], to = (int64_t)value[1];

    if (from < 0 || from >= ranks || to < 0 || to >= ranks || !(value[2] > 0))
        return -EINVAL;
    synth->factor[from * ranks + to] = value[2];
    return 0;
}

static int make_edges(struct skew_synth *synth, struct skew_synth_error *error)
{
    size_t cells = (size_t)synth->spec.ranks * (size_t)synth->spec.ranks;

    if (!synth->spec.edges)
        return 0;
    synth->factor = malloc(cells * sizeof *synth->factor);
    if (!synth->factor)
        return skew_synth_fail(error, -ENOMEM, "out of memory");
    for (size_t i = 0; i < cells; i++)
        synth->factor[i] = 1;
    return synth_csv(synth->spec.edges, take_edge, synth, error);
}

static void make_clocks(struct skew_synth *synth)
{
    const struct skew_synth_spec *s = &synth->spec;
    int64_t per = s->clock_per == SYNTH_PER_PROCESS ? 1
                  : s->ranks_per_node               ? s->ranks_per_node
                                                    : s->ranks;

    for (int64_t i = 0; i < s->ranks; i++) { /* the first one is the true time */
        struct rng rng = rng_keyed((uint64_t)s->seed, SYNTH_RNG_CLOCK, (uint64_t)(i / per), 0, 0);
        synth->clock_offset[i] = i < per ? 0 : s->clock_offset_ns * rng_normal(&rng);
        synth->clock_drift[i] = i < per ? 0 : s->clock_drift_ppb * rng_normal(&rng);
    }
}

int64_t skew_synth_clock(const struct skew_synth *synth, uint32_t rank, int64_t ns)
{
    return ns + (int64_t)llround(synth->clock_offset[rank] +
                                 synth->clock_drift[rank] * 1e-9 * (double)ns);
}

void skew_synth_clock_truth(const struct skew_synth *synth, uint32_t rank, double *offset_ns,
                            double *drift_ppb)
{
    *offset_ns = synth->clock_offset[rank];
    *drift_ppb = synth->clock_drift[rank];
}

/* ---- truth in closed form -------------------------------------------------------------------- */

const uint32_t *skew_synth_rank_of(const struct skew_synth *synth, int64_t layer)
{
    return synth->rank_of + layer * synth->spec.experts;
}

const double *skew_synth_popularity(const struct skew_synth *synth, int64_t layer)
{
    return synth->router.base + layer * synth->spec.experts;
}

/* Intraclass correlation of "chooses expert e" within a topic, over all experts of layer 0. */
static double topic_correlation(const struct skew_synth *synth)
{
    const struct skew_synth_spec *s = &synth->spec;
    size_t experts = (size_t)s->experts, topics = (size_t)s->topics;
    double *inclusion = malloc(topics * experts * sizeof *inclusion), between = 0, all = 0;

    if (!inclusion)
        return NAN;
    for (size_t g = 0; g < topics; g++)
        synth_inclusion(synth->router.topic + g * experts, (uint32_t)experts, (uint32_t)s->topk,
                        inclusion + g * experts);
    for (size_t e = 0; e < experts; e++) {
        double sum = 0, squares = 0;
        for (size_t g = 0; g < topics; g++) {
            double q = inclusion[g * experts + e];
            sum += q / (double)topics;
            squares += q * q / (double)topics;
        }
        between += squares - sum * sum;
        all += sum * (1 - sum);
    }
    free(inclusion);
    return all > 0 ? between / all : 0;
}

/* Kish (1965): 1 + (m − 1) ρ for clusters of m; docs/synth.md. */
void skew_synth_design_effects(const struct skew_synth *synth, double *step, double *mean)
{
    const struct skew_synth_spec *s = &synth->spec;
    *step = *mean = 1;
    if (s->correlation == SYNTH_BURSTS)
        *step = *mean = s->design_effect;
    if (s->correlation == SYNTH_REQUESTS) {
        double rho = topic_correlation(synth);
        double m = (double)s->tokens / (double)s->requests;
        *step = 1 + (m - 1) * rho;
        *mean = 1 + (m * (2 * (double)s->request_steps - 1) - 1) * rho; /* E[n²]/E[n], geometric */
    }
    if (s->correlation == SYNTH_AR1)
        *step = *mean = NAN; /* popularity itself moves; the truth file gives phi and sd */
}

/* ---- making one ------------------------------------------------------------------------------ */

int skew_synth_create(struct skew_synth **out, const struct skew_synth_spec *spec,
                      struct skew_synth_error *error)
{
    struct skew_synth *synth = calloc(1, sizeof *synth);
    size_t ranks = (size_t)spec->ranks;
    int result = skew_synth_spec_check(spec, error);

    *out = NULL;
    if (result || !synth) {
        free(synth);
        return result ? result : skew_synth_fail(error, -ENOMEM, "out of memory");
    }
    synth->spec = *spec;
    synth->rank_of = calloc((size_t)spec->layers * (size_t)spec->experts, sizeof *synth->rank_of);
    synth->clock_offset = calloc(ranks, sizeof *synth->clock_offset);
    synth->clock_drift = calloc(ranks, sizeof *synth->clock_drift);
    if (!synth->rank_of || !synth->clock_offset || !synth->clock_drift)
        result = skew_synth_fail(error, -ENOMEM, "out of memory");
    if (!result)
        result = synth_router_create(&synth->router, &synth->spec, error);
    if (!result)
        result = place(synth, error);
    if (!result)
        result = make_edges(synth, error);
    if (result)
        skew_synth_free(&synth);
    else
        make_clocks(synth);
    *out = synth;
    return result;
}

void skew_synth_free(struct skew_synth **synth)
{
    struct skew_synth *s = *synth;

    *synth = NULL;
    if (!s)
        return;
    if (s->router.spec)
        synth_router_free(&s->router);
    free(s->rank_of);
    free(s->factor);
    free(s->clock_offset);
    free(s->clock_drift);
    free(s);
}
