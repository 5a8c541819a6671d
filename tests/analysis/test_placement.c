/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placements: the worked example that EPLB publishes, bounds that no placement may undercut
 * (against all placements of small cases), and what LPT with swaps must keep.
 */
#include "check.h"
#include "placement.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* deepseek-ai/EPLB README, 12 experts in 4 groups, 16 slots, 2 nodes, 8 GPUs. */
static void test_eplb_example(void)
{
    static const double weight[2][12] = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                         {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
    static const uint32_t published[2][16] = {{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
                                              {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};
    static const double loads[2][8] = {{121.5, 86.5, 125, 113, 147.5, 131.5, 156, 152},
                                       {173, 179.5, 120.5, 172, 123, 152, 118.5, 117.5}};
    static const double max_mean[2] = {1.2081316553727008, 1.2422145328719723};
    struct skew_placement *p;

    CHECK(skew_placement_create(&p, 12, 8, 16) == 0, "create");
    for (int layer = 0; layer < 2; layer++) {
        double got[8];
        CHECK(skew_placement_eplb(p, weight[layer], 4, 2) == 0, "layer %d", layer);
        CHECK(memcmp(p->expert, published[layer], sizeof published[layer]) == 0, "layer %d", layer);
        skew_placement_rank_loads(p, weight[layer], got);
        CHECK(memcmp(got, loads[layer], sizeof got) == 0, "layer %d", layer);
        CHECK(fabs(skew_placement_max_mean(p, weight[layer]) - max_mean[layer]) < 1e-12, "layer %d",
              layer);
        CHECK(skew_placement_bound(p, weight[layer]) <= max_mean[layer] + 1e-12, "layer %d", layer);
        CHECK(skew_placement_eplb(p, weight[layer], 3, 2) == 0, "global: 2 nodes, 3 groups");
    }
    CHECK(skew_placement_eplb(p, weight[0], 5, 5) == -EINVAL, "5 groups of 12 experts");
    CHECK(skew_placement_eplb(p, weight[0], 12, 3) == -EINVAL, "8 ranks on 3 nodes");
    skew_placement_free(&p);
}

/* ---- against all placements -------------------------------------------------------------------
 */

struct search {
    struct skew_placement *p;
    const double *load;
    double best;
};

/* Puts experts at, at + 1, … on every rank that has room. */
static void place_all(struct search *s, uint32_t at, double *rank, uint32_t *fill)
{
    if (at == s->p->experts) {
        double max = 0;
        for (uint32_t r = 0; r < s->p->ranks; r++)
            max = fmax(max, rank[r]);
        s->best = fmin(s->best, max);
        return;
    }
    for (uint32_t r = 0; r < s->p->ranks; r++) {
        if (fill[r] == s->p->per_rank)
            continue;
        fill[r]++;
        rank[r] += s->load[at];
        place_all(s, at + 1, rank, fill);
        rank[r] -= s->load[at];
        fill[r]--;
        if (fill[r] == 0)
            break; /* empty ranks are alike */
    }
}

static void test_all_placements(void)
{
    static const uint32_t shapes[][2] = {{6, 3}, {8, 2}, {8, 4}, {9, 3}, {10, 5}, {4, 4}, {8, 1}};
    double worst = 0;

    for (unsigned trial = 0; trial < 140; trial++) {
        uint32_t e = shapes[trial % 7][0], ranks = shapes[trial % 7][1], fill[8] = {0};
        double load[16], rank[8] = {0}, sum = 0;
        struct search s = {.load = load, .best = INFINITY};
        CHECK(skew_placement_create(&s.p, e, ranks, e) == 0, "create");
        for (uint32_t i = 0; i < e; i++) {
            load[i] = trial % 3 ? random_below(100) : random_below(10) * random_below(10) * 7;
            sum += load[i];
        }
        load[0] += sum == 0;
        sum += sum == 0;
        place_all(&s, 0, rank, fill);
        double best = s.best * ranks / sum, bound = skew_placement_bound(s.p, load);
        CHECK(skew_placement_lpt(s.p, load) >= 0, "trial %u", trial);
        double lpt = skew_placement_max_mean(s.p, load);
        CHECK(bound <= best * (1 + 1e-9), "trial %u: bound %g, best %g", trial, bound, best);
        CHECK(lpt >= best * (1 - 1e-9), "trial %u: lpt %g, best %g", trial, lpt, best);
        if (s.p->per_rank <= 2)
            CHECK(fabs(lpt - best) < 1e-9 && fabs(bound - best) < 1e-9, "trial %u: %g %g %g", trial,
                  lpt, best, bound);
        worst = fmax(worst, lpt / best);
        skew_placement_free(&s.p);
    }
    CHECK(worst < 4.0 / 3, "LPT with swaps %g above the optimum", worst);
}

/* ---- what placements are ----------------------------------------------------------------------
 */

static bool permutation(const struct skew_placement *p)
{
    uint32_t seen[512] = {0};

    for (uint32_t s = 0; s < p->slots; s++)
        if (seen[p->expert[s]]++)
            return false;
    return true;
}

static void test_shapes(void)
{
    struct skew_placement *p, *q;
    uint32_t bad[4] = {0, 1, 2, 2};

    CHECK(skew_placement_create(&p, 0, 1, 1) == -EINVAL && !p, "no experts");
    CHECK(skew_placement_create(&p, 8, 3, 8) == -EINVAL, "3 ranks of 8");
    CHECK(skew_placement_create(&p, 8, 4, 4) == -EINVAL, "fewer slots");
    CHECK(skew_placement_create(&p, 4, 2, 4) == 0, "create");
    CHECK(skew_placement_set(p, bad) == -EINVAL && p->expert[3] == 3, "an expert is missing");
    CHECK(isnan(skew_placement_max_mean(p, (double[4]){0})), "no load");
    CHECK(isnan(skew_placement_bound(p, (double[4]){0})), "no load");
    CHECK(skew_placement_max_mean(p, (double[4]){3, 1, 0, 0}) == 2, "contiguous");
    CHECK(skew_placement_create(&q, 4, 2, 6) == 0, "create");
    CHECK(skew_placement_copy(p, q) == -EINVAL, "other shapes");
    CHECK(skew_placement_lpt(q, (double[4]){1, 1, 1, 1}) == -EINVAL, "LPT has no replicas");
    skew_placement_free(&p);
    skew_placement_free(&q);
    skew_placement_free(&q);
}

static void test_random_and_lpt(void)
{
    struct skew_placement *p;
    uint64_t seed = 1, again = 1;
    double load[256], first[32];
    uint32_t once[256];

    CHECK(skew_placement_create(&p, 256, 32, 256) == 0, "create");
    skew_placement_random(p, &seed);
    CHECK(permutation(p), "random");
    memcpy(once, p->expert, sizeof once);
    skew_placement_contiguous(p);
    skew_placement_random(p, &again);
    CHECK(memcmp(once, p->expert, sizeof once) == 0, "the same seed, the same placement");
    for (int trial = 0; trial < 50; trial++) {
        for (uint32_t e = 0; e < 256; e++)
            load[e] = pow(1 + random_below(1000), trial % 4);
        double bound = skew_placement_bound(p, load);
        CHECK(skew_placement_lpt(p, load) >= 0 && permutation(p), "trial %d", trial);
        double lpt = skew_placement_max_mean(p, load);
        CHECK(lpt >= bound - 1e-9, "trial %d: %g below %g", trial, lpt, bound);
        if (trial % 4 == 0)
            CHECK(lpt == 1, "equal loads: %g", lpt);
        CHECK(lpt < 1.02, "trial %d: %g", trial, lpt);
        skew_placement_rank_loads(p, load, first);
        CHECK(skew_placement_improve(p, load) == 0, "nothing is left to swap");
    }
    skew_placement_free(&p);
}

int main(void)
{
    test_eplb_example();
    test_all_placements();
    test_shapes();
    test_random_and_lpt();
    if (failures)
        fprintf(stderr, "%d checks failed\n", failures);
    return failures != 0;
}
