/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chance floor: see floor.h.
 */
#include "floor.h"
#include "stats.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS_MAX 20000 /* a trial, of tokens drawn one by one */
#define TRIALS    2000  /* of cached floors: p95 to about 1 % */

static bool sensible(const struct skew_floor_case *c)
{
    return c->experts > 0 && c->topk > 0 && c->topk <= c->experts && c->tokens > 0 &&
           c->ranks > 0 && c->experts % c->ranks == 0;
}

double skew_floor_cv2(const struct skew_floor_case *c)
{
    if (!sensible(c))
        return NAN;
    if (c->experts == 1)
        return 0;
    return (c->ranks - 1.0) * (double)(c->experts - c->topk) /
           ((c->experts - 1.0) * c->topk * (double)c->tokens);
}

void skew_floor_formula(const struct skew_floor_case *c, struct skew_floor *floor)
{
    double cv2 = skew_floor_cv2(c), cv = sqrt(cv2), n = c->ranks;
    double z = n > 1 ? skew_normal_quantile((n - 0.375) / (n + 0.25)) : 0;

    floor->mean[SKEW_METRIC_GINI] = cv / sqrt(M_PI) * sqrt((n - 1) / n);
    floor->mean[SKEW_METRIC_MAX_MEAN] = 1 + cv * z;
    floor->mean[SKEW_METRIC_CV] = cv;
    floor->mean[SKEW_METRIC_ENTROPY] = n > 1 ? 1 - cv2 / (2 * log(n)) : 1;
    for (int m = 0; m < SKEW_METRIC_COUNT; m++)
        floor->p95[m] = NAN;
}

/* ---- simulation ------------------------------------------------------------------------------ */

struct trial {
    const struct skew_floor_case *which;
    struct skew_rng rng;
    double *loads;  /* [ranks] */
    uint64_t *seen; /* [experts]: the last token that went there */
    uint64_t token;
};

/* Every token by itself: k distinct experts by drawing again, or the E − k that it does not go to.
 */
static void draw_tokens(struct trial *t)
{
    const struct skew_floor_case *c = t->which;
    uint32_t g = c->experts / c->ranks;
    bool inverted = c->topk > c->experts / 2;
    uint32_t draws = inverted ? c->experts - c->topk : c->topk;
    double start = inverted ? (double)c->tokens * g : 0, step = inverted ? -1 : 1;

    for (uint32_t r = 0; r < c->ranks; r++)
        t->loads[r] = start;
    for (uint64_t i = 0; i < c->tokens; i++) {
        t->token++;
        for (uint32_t k = 0; k < draws; k++) {
            uint32_t e;
            do
                e = skew_rng_below(&t->rng, c->experts);
            while (t->seen[e] == t->token);
            t->seen[e] = t->token;
            t->loads[e / g] += step;
        }
    }
}

/*
 * The limit for many tokens: a rank's load is a sum over tokens of how many of its k experts are
 * among the rank's g (hypergeometric), and the loads add up to kN. Marginals with the skewness of a
 * binomial of the same share by the first Cornish–Fisher term.
 */
static void draw_normal(struct trial *t)
{
    const struct skew_floor_case *c = t->which;
    double n = c->ranks, mean = (double)c->tokens * c->topk / n, sum = 0;
    double sd = sqrt(skew_floor_cv2(c)) * mean * sqrt(n / (n - 1)), p = 1 / n;
    double skewness = (1 - 2 * p) / sqrt(mean * (1 - p));

    for (uint32_t r = 0; r < c->ranks; r++) {
        double z = skew_rng_normal(&t->rng);
        t->loads[r] = z + skewness * (z * z - 1) / 6;
        sum += t->loads[r];
    }
    for (uint32_t r = 0; r < c->ranks; r++)
        t->loads[r] = fmax(0, round(mean + sd * (t->loads[r] - sum / n)));
}

int skew_floor_simulate(const struct skew_floor_case *c, uint32_t trials, uint64_t seed,
                        struct skew_floor *floor)
{
    if (!sensible(c) || trials == 0)
        return -EINVAL;
    struct trial t = {.which = c,
                      .loads = malloc(c->ranks * sizeof(double)),
                      .seen = calloc(c->experts, sizeof(uint64_t))};
    double *scratch = malloc(c->ranks * sizeof *scratch);
    double *values = malloc((size_t)trials * SKEW_METRIC_COUNT * sizeof *values);
    bool exact = c->ranks == 1 || c->topk == c->experts || (double)c->tokens * c->topk <= DRAWS_MAX;
    int result = t.loads && t.seen && scratch && values ? 0 : -ENOMEM;

    skew_rng_seed(&t.rng, seed);
    for (uint32_t i = 0; i < trials && result == 0; i++) {
        struct skew_metrics m;
        if (c->ranks == 1 || c->topk == c->experts) /* nothing is left to chance */
            for (uint32_t r = 0; r < c->ranks; r++)
                t.loads[r] = 1;
        else if (exact)
            draw_tokens(&t);
        else
            draw_normal(&t);
        skew_metrics_of(&m, t.loads, c->ranks, scratch);
        for (int k = 0; k < SKEW_METRIC_COUNT; k++)
            values[(size_t)k * trials + i] = m.value[k];
    }
    for (int k = 0; k < SKEW_METRIC_COUNT && result == 0; k++) {
        double *of = values + (size_t)k * trials, sum = 0;
        for (uint32_t i = 0; i < trials; i++)
            sum += of[i];
        skew_sort(of, trials);
        floor->mean[k] = sum / trials;
        floor->p95[k] = skew_quantile(of, trials, k == SKEW_METRIC_ENTROPY ? 0.05 : 0.95);
    }
    free(t.loads);
    free(t.seen);
    free(scratch);
    free(values);
    return result;
}

/* ---- cache ----------------------------------------------------------------------------------- */

struct known {
    struct skew_floor_case which;
    struct skew_floor floor;
};

struct skew_floors {
    pthread_mutex_t lock;
    struct known *known; /* under the lock */
    size_t count;
};

int skew_floors_create(struct skew_floors **out)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return -ENOMEM;
    pthread_mutex_init(&(*out)->lock, NULL);
    return 0;
}

void skew_floors_free(struct skew_floors **floors)
{
    if (*floors) {
        pthread_mutex_destroy(&(*floors)->lock);
        free((*floors)->known);
    }
    free(*floors);
    *floors = NULL;
}

static bool same(const struct skew_floor_case *a, const struct skew_floor_case *b)
{
    return a->experts == b->experts && a->topk == b->topk && a->tokens == b->tokens &&
           a->ranks == b->ranks;
}

static bool look_up(struct skew_floors *f, const struct skew_floor_case *c,
                    struct skew_floor *floor)
{
    bool found = false;

    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < f->count && !found; i++) {
        found = same(&f->known[i].which, c);
        if (found)
            *floor = f->known[i].floor;
    }
    pthread_mutex_unlock(&f->lock);
    return found;
}

static uint64_t seed_of(const struct skew_floor_case *c)
{
    return (uint64_t)c->experts << 40 ^ (uint64_t)c->topk << 32 ^ (uint64_t)c->ranks << 16 ^
           c->tokens * 0x9e3779b97f4a7c15u;
}

static int known_floor(struct skew_floors *f, const struct skew_floor_case *c,
                       struct skew_floor *floor)
{
    if (look_up(f, c, floor))
        return 0;
    /* Two threads may simulate the same case; they get the same result. */
    int result = skew_floor_simulate(c, TRIALS, seed_of(c), floor);
    if (result < 0)
        return result;
    pthread_mutex_lock(&f->lock);
    if ((f->count & (f->count - 1)) == 0) {
        struct known *bigger = realloc(f->known, (f->count ? f->count * 2 : 1) * sizeof *bigger);
        if (!bigger)
            result = -ENOMEM;
        else
            f->known = bigger;
    }
    if (result == 0)
        f->known[f->count++] = (struct known){*c, *floor};
    pthread_mutex_unlock(&f->lock);
    return result;
}

/* How far a metric is from balance, which is what goes as a power of N, and back. */
static double distance(int metric, double value)
{
    return metric == SKEW_METRIC_MAX_MEAN  ? value - 1
           : metric == SKEW_METRIC_ENTROPY ? 1 - value
                                           : value;
}

static double from_distance(int metric, double value)
{
    return metric == SKEW_METRIC_MAX_MEAN  ? 1 + value
           : metric == SKEW_METRIC_ENTROPY ? 1 - value
                                           : value;
}

static double between(int metric, double low, double high, double share)
{
    double a = distance(metric, low), b = distance(metric, high);

    if (!(a > 0) || !(b > 0))
        return from_distance(metric, a + share * (b - a));
    return from_distance(metric, exp(log(a) + share * (log(b) - log(a))));
}

int skew_floors_get(struct skew_floors *f, const struct skew_floor_case *c,
                    struct skew_floor *floor)
{
    if (!sensible(c))
        return -EINVAL;
    double position = 2 * log2((double)c->tokens);
    struct skew_floor_case low = *c, high = *c;
    struct skew_floor below, above;

    low.tokens = (uint64_t)llround(exp2(trunc(position) / 2));
    high.tokens = (uint64_t)llround(exp2((trunc(position) + 1) / 2));
    if (c->tokens <= 16 || low.tokens == c->tokens) /* small ones are cheap, and no straight line */
        return known_floor(f, c, floor);
    int result = known_floor(f, &low, &below);
    if (result == 0)
        result = known_floor(f, &high, &above);
    if (result < 0)
        return result;
    double share =
        log((double)c->tokens / (double)low.tokens) / log((double)high.tokens / (double)low.tokens);
    for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
        floor->mean[m] = between(m, below.mean[m], above.mean[m], share);
        floor->p95[m] = between(m, below.p95[m], above.p95[m], share);
    }
    return 0;
}
