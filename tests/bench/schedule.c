/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a whole greedy schedule takes, beside the promises (64 ranks: 3 ms; 256: 250 ms; one
 * core), and beside a rival in the same run: the plain Hungarian method, O(n³) a matching, that
 * starts anew each time. Processor time of this thread, the best of several turns. Prints; never
 * fails on a number.
 */
#include "schedule.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- the rival: shortest augmenting paths row by row, potentials from zero ------------------- */

struct rival {
    uint32_t n;
    double *cost, *u, *v, *least; /* [n + 1] each, columns and rows from 1 */
    uint32_t *row_of, *from;
    unsigned char *used;
};

static void rival_row(struct rival *r, uint32_t row)
{
    uint32_t j0 = 0;

    r->row_of[0] = row;
    for (uint32_t j = 0; j <= r->n; j++) {
        r->least[j] = DBL_MAX;
        r->used[j] = 0;
    }
    do {
        uint32_t i0 = r->row_of[j0], j1 = 0;
        double delta = DBL_MAX;
        r->used[j0] = 1;
        for (uint32_t j = 1; j <= r->n; j++) {
            if (r->used[j])
                continue;
            double reduced = r->cost[(size_t)(i0 - 1) * r->n + j - 1] - r->u[i0] - r->v[j];
            if (reduced < r->least[j]) {
                r->least[j] = reduced;
                r->from[j] = j0;
            }
            if (r->least[j] < delta) {
                delta = r->least[j];
                j1 = j;
            }
        }
        for (uint32_t j = 0; j <= r->n; j++) {
            if (r->used[j]) {
                r->u[r->row_of[j]] += delta;
                r->v[j] -= delta;
            } else {
                r->least[j] -= delta;
            }
        }
        j0 = j1;
    } while (r->row_of[j0]);
    for (; j0; j0 = r->from[j0])
        r->row_of[j0] = r->row_of[r->from[j0]];
}

/* A whole schedule; returns the sum of bottlenecks. */
static uint64_t rival_schedule(struct rival *r, const uint64_t *bytes)
{
    uint32_t n = r->n;
    double moved = 1, sum = 0;

    for (size_t i = 0; i < (size_t)n * n; i++)
        r->cost[i] = i / n == i % n ? 0 : -(double)bytes[i];
    while (moved > 0) {
        double most = 0;
        moved = 0;
        memset(r->u, 0, (n + 1) * sizeof *r->u);
        memset(r->v, 0, (n + 1) * sizeof *r->v);
        memset(r->row_of, 0, (n + 1) * sizeof *r->row_of);
        for (uint32_t i = 1; i <= n; i++)
            rival_row(r, i);
        for (uint32_t j = 1; j <= n; j++) {
            double *cell = &r->cost[(size_t)(r->row_of[j] - 1) * n + j - 1];
            most = -*cell > most ? -*cell : most;
            moved -= *cell;
            *cell = 0;
        }
        sum += most;
    }
    return (uint64_t)sum;
}

static double time_rival(const uint64_t *bytes, uint32_t n, uint64_t *bottlenecks)
{
    struct rival r = {.n = n};

    r.cost = malloc((size_t)n * n * sizeof *r.cost);
    r.u = malloc(3 * (n + 1) * sizeof *r.u);
    r.row_of = malloc(2 * (n + 1) * sizeof *r.row_of);
    r.used = malloc(n + 1);
    if (!r.cost || !r.u || !r.row_of || !r.used)
        exit(1);
    r.v = r.u + n + 1;
    r.least = r.v + n + 1;
    r.from = r.row_of + n + 1;
    double start = now();
    *bottlenecks = rival_schedule(&r, bytes);
    double took = now() - start;
    free(r.cost);
    free(r.u);
    free(r.row_of);
    free(r.used);
    return took;
}

/* ---- ours ------------------------------------------------------------------------------------ */

static double time_ours(const uint64_t *bytes, uint32_t n, uint64_t *bottlenecks, size_t *matchings)
{
    struct skew_schedule_options options = {0};
    struct skew_schedule *s;

    double start = now();
    if (skew_schedule_make(&s, SKEW_SCHEDULE_GREEDY, bytes, n, &options) < 0)
        exit(1);
    double took = now() - start;
    *bottlenecks = s->bottlenecks;
    *matchings = s->matchings;
    skew_schedule_free(&s);
    return took;
}

enum { UNIFORM, HOT, EQUAL, SPARSE, SPARSER, KINDS };

static const char *const kinds[KINDS] = {[UNIFORM] = "uniform",
                                         [HOT] = "hot",
                                         [EQUAL] = "all equal",
                                         [SPARSE] = "1/4 zero",
                                         [SPARSER] = "9/10 zero"};

/* Tokens of 4096 bytes. Hot: a few large pairs (1/x). All equal: padded to capacity, nothing but
 * ties. */
static void fill(uint64_t *bytes, uint32_t n, int kind)
{
    uint64_t state = 88172645463325252u;

    for (size_t i = 0; i < (size_t)n * n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        double u = (double)(state >> 11) / 9007199254740992.0;
        double tokens = u * u * 8192;
        if (kind == UNIFORM)
            tokens = u * 8192;
        else if (kind == HOT)
            tokens = 100 / (u + 0.001);
        else if (kind == EQUAL)
            tokens = 512;
        else if (u < (kind == SPARSE ? 0.25 : 0.9))
            tokens = 0;
        bytes[i] = (uint64_t)tokens * 4096;
    }
}

int main(void)
{
    static const struct {
        uint32_t n;
        double promise;
        int turns, rival_turns;
    } sizes[] = {{64, 3e-3, 20, 3}, {256, 250e-3, 5, 1}};

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
        uint32_t n = sizes[z].n;
        uint64_t *bytes = malloc((size_t)n * n * sizeof *bytes), ours_sum = 0, rival_sum = 0;
        size_t matchings = 0;
        if (!bytes)
            return 1;
        for (int kind = 0; kind < KINDS; kind++) {
            double best = DBL_MAX, rival = DBL_MAX;
            fill(bytes, n, kind);
            for (int t = 0; t < sizes[z].turns; t++) {
                double took = time_ours(bytes, n, &ours_sum, &matchings);
                best = took < best ? took : best;
                took = t < sizes[z].rival_turns ? time_rival(bytes, n, &rival_sum) : DBL_MAX;
                rival = took < rival ? took : rival;
            }
            printf("%3u ranks, %-9s %8.3f ms for %zu matchings (promise %3.0f ms: %.2f of it); "
                   "rival, Hungarian "
                   "from scratch: %9.3f ms, ratio %.1f; sums of bottlenecks %.4f of the rival's\n",
                   n, kinds[kind], best * 1e3, matchings, sizes[z].promise * 1e3,
                   best / sizes[z].promise, rival * 1e3, rival / best,
                   (double)ours_sum / (double)rival_sum);
        }
        free(bytes);
    }
    return 0;
}
