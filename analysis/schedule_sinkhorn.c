/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The baseline of [MW]: Sinkhorn makes the matrix doubly stochastic, Birkhoff–von Neumann takes it
 * apart, and each pair's demand is spread over the permutations that hold the pair, in proportion
 * to their coefficients. Sinkhorn moves demand between pairs, so slots are longer than some pairs
 * need: that is the baseline's loss.
 *
 * The paper does not say what it does where no doubly stochastic matrix has the same zeros. Here
 * every zero first gets a millionth of the mean entry, and the result is put on a grid of integers
 * and stuffed there (by less than a millionth), so that the decomposition is exact and always ends.
 * What carries no real demand is dropped.
 */
#include "schedule_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define GRID       1073741824.0 /* 2^30 steps of a row */
#define ITERATIONS 2000
#define TOLERANCE  1e-7

struct sinkhorn {
    struct skew_builder *b;
    uint64_t *demand; /* [n][n] at the start */
    uint64_t *share;  /* [n][n] the grid: of each pair, in all permutations */
    uint64_t *passed; /* [n][n] of that, in permutations so far */
};

/* Scales rows and columns in turn until row sums are 1 while column sums are. */
static void normalise(double *p, uint32_t n, double *column)
{
    for (int k = 0; k < ITERATIONS; k++) {
        double worst = 0;
        for (uint32_t j = 0; j < n; j++)
            column[j] = 0;
        for (uint32_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint32_t j = 0; j < n; j++)
                sum += p[(size_t)i * n + j];
            worst = fmax(worst, fabs(sum - 1));
            for (uint32_t j = 0; j < n; j++)
                column[j] += p[(size_t)i * n + j] /= sum;
        }
        for (size_t i = 0; i < (size_t)n * n; i++)
            p[i] /= column[i % n];
        if (worst < TOLERANCE)
            return;
    }
}

/* The doubly stochastic matrix on the grid, before stuffing; a real pair has one step at least. */
static int make_share(struct sinkhorn *s)
{
    uint32_t n = s->b->n;
    size_t cells = (size_t)n * n;
    double *p = malloc((cells + n) * sizeof *p);
    double little = 1e-6 * (double)s->b->demand->total / (double)cells;

    if (!p)
        return -ENOMEM;
    for (size_t i = 0; i < cells; i++)
        p[i] = s->demand[i] ? (double)s->demand[i] : little;
    normalise(p, n, p + cells);
    for (size_t i = 0; i < cells; i++) {
        s->share[i] = (uint64_t)(p[i] * GRID);
        if (s->demand[i] && s->share[i] == 0)
            s->share[i] = 1;
    }
    free(p);
    return 0;
}

/* Of `demand`, the part that belongs to the first `passed` of `share` steps. */
static uint64_t part(uint64_t demand, uint64_t passed, uint64_t share)
{
    return (uint64_t)((unsigned __int128)demand * passed / share);
}

static int send_share(void *context, const uint32_t *column, uint64_t coefficient)
{
    struct sinkhorn *s = context;
    struct skew_builder *b = s->b;

    if (skew_build_full(b))
        return 1;
    skew_build_begin(b);
    for (uint32_t i = 0; i < b->n; i++) {
        size_t cell = (size_t)i * b->n + column[i];
        uint64_t before = s->demand[cell] - b->left[cell];
        s->passed[cell] += coefficient;
        skew_build_send(b, i, column[i],
                        part(s->demand[cell], s->passed[cell], s->share[cell]) - before);
    }
    skew_build_end(b);
    return b->failed;
}

static int decompose(struct sinkhorn *s, uint64_t *work)
{
    struct skew_builder *b = s->b;
    size_t cells = (size_t)b->n * b->n;

    int result = make_share(s);
    if (result < 0)
        return result;
    uint64_t sum = skew_birkhoff_stuff(s->share, b->n);
    if (sum == 0)
        return -ENOMEM;
    for (size_t i = 0; i < cells; i++)
        work[i] = s->share[i];
    return skew_birkhoff(work, b->n, sum, b->options->pick, send_share, s);
}

int skew_build_sinkhorn(struct skew_builder *b)
{
    size_t cells = (size_t)b->n * b->n;
    struct sinkhorn s = {.b = b};
    int result = -ENOMEM;

    if (b->demand->total == 0)
        return 0;
    s.demand = calloc(4 * cells, sizeof *s.demand);
    if (s.demand) {
        s.share = s.demand + cells;
        s.passed = s.share + cells;
        for (size_t i = 0; i < cells; i++)
            s.demand[i] = b->left[i];
        result = decompose(&s, s.passed + cells);
    }
    free(s.demand);
    return result < 0 ? result : b->failed;
}
